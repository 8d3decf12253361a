//! Limits that both ends keep. The daemon checks before it sends, the server before it writes.

/// Largest `content` of a message and largest text of any other unbounded field, in bytes of UTF-8.
///
/// A batch holds at least one row, so this bounds the memory of one request on either side.
pub const TEXT_MAX_BYTES: usize = 8 << 20;

/// Largest `metadata` of a message as JSON, in bytes.
pub const METADATA_MAX_BYTES: usize = 1 << 20;

/// Largest request body after decompression, in bytes: one row of every limit, escaped as badly as JSON can, fits.
pub const PUSH_BODY_MAX_BYTES: usize = 64 << 20;

/// Most records in one push. More would hold the tenant's head row for too long.
pub const PUSH_RECORDS_MAX: usize = 5_000;

/// Where the daemon ends a batch, in rows: about 10 ms of work under the head lock.
pub const BATCH_ROWS: usize = 1_000;

/// Where the daemon ends a batch, in bytes of text.
pub const BATCH_BYTES: usize = 2 << 20;

/// Rows of a pulled page unless the client asks for another number.
pub const PULL_LIMIT_DEFAULT: u32 = 100;

/// Most rows of a pulled page.
pub const PULL_LIMIT_MAX: u32 = 5_000;

/// Where the server ends a page, in bytes of text; a page holds at least one row.
pub const PULL_PAGE_BYTES: i64 = 4 << 20;

/// Lengths of the columns behind the fields, in characters.
pub const USER_ID_MAX_CHARS: usize = 63;
pub const SESSION_ID_MAX_CHARS: usize = 255;
pub const TASK_ID_MAX_CHARS: usize = 50;
pub const ACTIVE_FORM_MAX_CHARS: usize = 255;
pub const PROJECT_ID_MAX_CHARS: usize = 255;
pub const HARDWARE_ID_MAX_CHARS: usize = 255;
pub const ROLE_MAX_CHARS: usize = 50;
pub const WRITER_HASH_MAX_CHARS: usize = 255;
pub const CLIENT_VERSION_MAX_CHARS: usize = 50;
pub const TIMESTAMP_MAX_CHARS: usize = 100;
