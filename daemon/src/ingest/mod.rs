//! Reads transcripts of Claude Code into context.db, as an ordinary writer of that file.
//!
//! What an ingest promises:
//! - Every text, thought, tool call and tool result of a transcript becomes a message, every item of a task
//!   list a task with links to the messages of its span; [`record`] says what becomes what, [`tasks`] how a
//!   task is told.
//! - The same transcript gives the same rows on every machine, but for `extracted_at`; a second ingest writes
//!   nothing, not even equal values; a file read half and later grown gives the same rows as one read at
//!   once.
//! - A damaged part is reported with its offset and never stops the rest ([`values`]).
//! - Memory is bounded whatever the size of a file, and the write lock is held for a moment at a time
//!   ([`context_db`]).
//! - A transcript that is deleted later changes nothing: its rows stay.
//!
//! A message's session is the `sessionId` of its record, else the name of its file; a subagent's file belongs
//! to the session it worked for. A session that was forked is a session of its own, although it repeats
//! records of another. Of texts that PostgreSQL cannot store one thing is replaced: U+0000 becomes U+2400
//! (␀). Bytes that are no UTF-8 and lone surrogates become U+FFFD; the former are reported as damage.

mod agent_context;
mod context_db;
mod fields;
mod find;
mod follow;
mod hints;
mod pieces;
mod record;
mod report;
mod task;
mod task_table;
mod tasks;
mod todo;
mod transcript;
mod values;

use std::path::{Path, PathBuf};

pub use agent_context::AgentContext;
pub use find::Unreadable;
pub use follow::{Follower, Told};
pub use hints::Stopper;
pub use report::{DamagedPart, Report, Stored, TaskCounts};
use transcript::session_digest;

/// What to ingest, and where to.
pub struct Options<'a> {
    pub context_db: &'a Path,
    /// Transcripts (`.jsonl`) and folders of them, at any depth.
    pub paths: &'a [PathBuf],
    /// Is told how far the ingest has come, a few times a second at most.
    pub progress: &'a mut dyn FnMut(Progress),
}

/// How far an ingest has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub files_total: u64,
    pub files_done: u64,
    pub bytes_total: u64,
    pub bytes_done: u64,
}

/// How many transcripts a file or folder holds, and how many bytes they have.
pub fn amount(path: &Path) -> anyhow::Result<(u64, u64)> {
    let (sources, _) = find::find(&[path.to_path_buf()])?;
    let sizes = sources
        .iter()
        .filter_map(|source| std::fs::metadata(&source.path).ok().map(|found| found.len()));
    Ok((sources.len() as u64, sizes.sum()))
}

/// Reads all transcripts once, to their end. Blocks; an error is a path that does not exist, or one of
/// context.db.
pub fn ingest(options: Options<'_>) -> anyhow::Result<Report> {
    let mut follower = Follower::open(options.context_db, options.paths.to_vec())?;
    follower.read_once(options.progress)
}

#[cfg(test)]
mod task_tests;
#[cfg(test)]
mod tests;
