//! Bodies of requests and answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::digest::TableDigest;
use crate::{ContentHash, LinkRecord, MessageRecord, Origin, RecordRef, TaskRecord, TenantId, UserId};

/// Header that names the device of a request: a UUID.
pub const DEVICE_HEADER: &str = "x-device-id";

/// Body of `POST /api/v1/context/push`.
///
/// The batch's digest is the SHA-256 of this body before compression, in the very bytes that were sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PushRequest {
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub epoch: i64,
    /// From 1, one more with each batch that the server has committed.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub push_seq: i64,
    #[serde(default)]
    pub messages: Vec<MessageRecord>,
    #[serde(default)]
    pub tasks: Vec<TaskRecord>,
    #[serde(default)]
    pub task_messages: Vec<LinkRecord>,
}

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Verdict {
    /// Written under a new cursor.
    Stored,
    /// Equals the current version.
    Duplicate,
    /// Something newer is current; this version was filed in the history. Ends the change, acknowledges nothing.
    Superseded,
    /// Refused alone; `rejected` has the code.
    Rejected,
    /// A link whose end is not there yet.
    RetryLater,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecordVerdict {
    #[serde(rename = "ref")]
    pub reference: RecordRef,
    pub verdict: Verdict,
    /// Cursor of the version that is now current; null where there is none.
    pub cursor: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rejection {
    #[serde(rename = "ref")]
    pub reference: RecordRef,
    pub code: String,
    pub message: String,
}

/// Answer to a push. Sent again word for word when the same batch comes twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PushAnswer {
    /// Records stored.
    pub synced: usize,
    /// Duplicates and superseded records.
    pub skipped: usize,
    pub rejected: Vec<Rejection>,
    /// Every record that was not plainly stored.
    pub verdicts: Vec<RecordVerdict>,
    /// The user's head once this push is committed: at or above every row of the batch.
    pub cursor: i64,
    pub mark: Option<String>,
    pub epoch: i64,
    /// `synced_at` of the rows stored: RFC 3339 with microseconds.
    pub timestamp: String,
}

/// Details of 409 `push_seq_conflict`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PushConflict {
    /// Digest of the batch that the server committed under this push_seq.
    pub digest: ContentHash,
    pub answer: PushAnswer,
}

/// Query of `GET /api/v1/context/pull`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub struct PullQuery {
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(minimum = 0, default = 0))]
    pub cursor: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 5000, default = 100))]
    pub limit: Option<u32>,
    /// Mark that came with `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// The newest cursor and mark of any answer ever seen, as `CURSOR:MARK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(pattern = "^([0-9]{1,18}:.*)?$"))]
    pub witness: Option<String>,
    /// A replica serves only if it has reached this cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(minimum = 0))]
    pub at_least: Option<i64>,
    /// Only stubs, of every row, whoever pushed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stubs: Option<bool>,
}

/// Answer to a pull: the rows above the cursor asked for, of one snapshot. The three lists and the stubs together
/// are in the order of `sync_cursor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PullPage {
    pub messages: Vec<MessageRecord>,
    pub tasks: Vec<TaskRecord>,
    pub task_messages: Vec<LinkRecord>,
    /// Stubs of the rows whose present version this device pushed.
    pub own: Vec<Stub>,
    /// Where the page ends; with `has_more` false, the head.
    pub cursor: i64,
    /// Mark of the batch that covers `cursor`; null as long as the user has none.
    pub mark: Option<String>,
    /// The user's head in this snapshot.
    pub head: i64,
    pub has_more: bool,
    /// The last push_seq that the server committed for this device; 0 for a new one.
    pub device_push_seq: i64,
    pub epoch: i64,
}

/// What proves that a row is stored, without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Stub {
    Message {
        origin: Origin,
        content_hash: ContentHash,
        sync_cursor: i64,
    },
    Task {
        id: Uuid,
        content_hash: ContentHash,
        sync_cursor: i64,
    },
    Link {
        task_id: Uuid,
        message: Origin,
        sequence: Option<i64>,
        sync_cursor: i64,
    },
}

/// Answer of `GET /api/v1/context/digest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DigestAnswer {
    pub epoch: i64,
    /// The user's head in the snapshot that was read.
    pub cursor: i64,
    pub messages: TableDigest,
    pub tasks: TableDigest,
    pub task_messages: TableDigest,
}

/// Data of a `head` event of `GET /api/v1/context/events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeadEvent {
    pub cursor: i64,
}

/// Answer of `GET /api/v1/account`: whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Account {
    /// Made with the server's database; a context.db is bound to it.
    pub instance_id: Uuid,
    pub tenant_id: TenantId,
    /// The tenant's name.
    pub tenant: String,
    pub user_id: UserId,
    /// The user's e-mail.
    pub user: String,
    pub role: String,
    pub server_version: String,
}

/// Body of every error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    pub error: ErrorDetail,
    pub meta: ErrorMeta,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDetail {
    pub code: String,
    pub message: String,
    #[serde(default)]
    pub details: Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorMeta {
    pub request_id: String,
    pub timestamp: String,
}

impl Stub {
    pub fn sync_cursor(&self) -> i64 {
        match self {
            Self::Message { sync_cursor, .. }
            | Self::Task { sync_cursor, .. }
            | Self::Link { sync_cursor, .. } => *sync_cursor,
        }
    }
}
