//! Writes a planned batch, set-wise: one statement a table, whatever the number of rows, all in one go.
//!
//! The statements depend on nothing but the plan, so they are sent together and PostgreSQL runs them in this order
//! (`biased` keeps it, and lets the first error be the one that is told, not those that follow from it):
//! replaced versions into the history, updates, inserts, further history, tasks and their events, links, then the head,
//! the device, the log, the audit and the totals.

mod messages;
mod tasks;

mod ledger;

use coditect_shared::wire::PushAnswer;
use uuid::Uuid;

use super::Sender;
use super::intake::Intake;
use super::lock::{Head, Scope};
use super::plan::Plan;
use crate::error::ApiError;

/// What the push log keeps of this push.
pub(super) struct Log<'a> {
    /// The user's head after it.
    pub(super) cursor: i64,
    /// Of this push; none if it stored nothing.
    pub(super) mark: Option<String>,
    pub(super) answer: &'a PushAnswer,
    /// The answer as it is sent.
    pub(super) text: &'a str,
}

/// Writes everything that the plan says, and the record of it.
pub(super) async fn write(
    scope: &Scope<'_>,
    sender: &Sender,
    head: &Head,
    intake: &Intake,
    plan: &Plan,
    log: Log<'_>,
) -> Result<(), ApiError> {
    let writer = Writer {
        scope,
        user: scope.caller.user.as_str(),
        sender,
        head,
        intake,
        plan,
    };
    tokio::try_join!(biased;
        writer.file_replaced_messages(),
        writer.update_messages(),
        writer.insert_messages(),
        writer.file_messages(),
        writer.upsert_tasks(),
        writer.add_task_events(),
        writer.upsert_links(),
        writer.advance_head(),
        writer.advance_device(),
        writer.add_to_log(&log),
        writer.prune_answers(),
        writer.audit(&log),
        writer.add_to_totals(&log),
    )?;
    Ok(())
}

struct Writer<'a> {
    scope: &'a Scope<'a>,
    user: &'a str,
    sender: &'a Sender,
    head: &'a Head,
    intake: &'a Intake,
    plan: &'a Plan,
}

impl Writer<'_> {
    fn tenant(&self) -> Uuid {
        self.scope.caller.tenant.0
    }
}

/// A statement that touched another number of rows than planned has met something that the plan did not know of; the
/// transaction must not be committed.
fn all_rows(expected: usize, touched: u64, what: &str) -> Result<(), ApiError> {
    if touched == expected as u64 {
        return Ok(());
    }
    Err(ApiError::Internal(anyhow::anyhow!(
        "{what}: {touched} rows instead of {expected}"
    )))
}
