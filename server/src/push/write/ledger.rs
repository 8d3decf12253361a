//! Head, device, log, audit and totals: the record of a push beside its rows.

use serde_json::json;
use tokio_postgres::types::Type;

use super::super::plan::Fate;
use super::{Log, Writer, all_rows};
use crate::audit;
use crate::error::ApiError;

/// Below it an answer stands in its row and not beside it (PostgreSQL moves out what makes a row larger than 2 KB).
const SHORT_ANSWER_BYTES: i32 = 2_000;

impl Writer<'_> {
    /// The one update of the tenant's head. A batch of nothing but duplicates moves no head.
    pub(super) async fn advance_head(&self) -> Result<(), ApiError> {
        if self.plan.head == self.head.head {
            return Ok(());
        }
        let advanced = self
            .scope
            .tx
            .execute_typed(
                "UPDATE context_heads SET head = $2, last_synced_at = $3 WHERE tenant_id = $1",
                &[
                    (&self.tenant(), Type::UUID),
                    (&self.plan.head, Type::INT8),
                    (&self.head.synced_at, Type::TIMESTAMPTZ),
                ],
            )
            .await?;
        all_rows(1, advanced, "advancing the head")
    }

    pub(super) async fn advance_device(&self) -> Result<(), ApiError> {
        let advanced = self
            .scope
            .tx
            .execute_typed(
                "UPDATE context_sync_cursors
                SET push_seq = $4, push_digest = $5, hardware_id = coalesce($6, hardware_id),
                    last_pushed_at = clock_timestamp()
              WHERE tenant_id = $1 AND user_id = $2 AND device_id = $3",
                &[
                    (&self.tenant(), Type::UUID),
                    (&self.user, Type::TEXT),
                    (&self.sender.device.0, Type::UUID),
                    (&self.sender.push_seq, Type::INT8),
                    (&self.sender.digest.as_bytes().as_slice(), Type::BYTEA),
                    (&self.intake.hardware_id(), Type::TEXT),
                ],
            )
            .await?;
        all_rows(1, advanced, "advancing the device")
    }

    pub(super) async fn add_to_log(&self, log: &Log<'_>) -> Result<(), ApiError> {
        let counts = self.counts();
        self.scope
            .tx
            .execute_typed(
                "INSERT INTO context_push_log
                        (tenant_id, user_id, device_id, push_seq, digest, last_cursor, mark, messages, tasks, links,
                         skipped, rejected, bytes, answer)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                &[
                    (&self.tenant(), Type::UUID),
                    (&self.user, Type::TEXT),
                    (&self.sender.device.0, Type::UUID),
                    (&self.sender.push_seq, Type::INT8),
                    (&self.sender.digest.as_bytes().as_slice(), Type::BYTEA),
                    (&log.cursor, Type::INT8),
                    (&log.mark, Type::TEXT),
                    (&counts.messages, Type::INT4),
                    (&counts.tasks, Type::INT4),
                    (&counts.links, Type::INT4),
                    (&count(log.answer.skipped), Type::INT4),
                    (&count(log.answer.rejected.len()), Type::INT4),
                    (&(self.sender.bytes as i64), Type::INT8),
                    (&log.text, Type::TEXT),
                ],
            )
            .await?;
        Ok(())
    }

    /// The answer before this one cannot be asked for any more: nobody resends a batch after the next one. A short one
    /// stays, since taking it out would cost more room than it takes.
    pub(super) async fn prune_answers(&self) -> Result<(), ApiError> {
        self.scope
            .tx
            .execute_typed(
                "UPDATE context_push_log SET answer = NULL
                  WHERE tenant_id = $1 AND user_id = $2 AND device_id = $3 AND push_seq = $4
                    AND octet_length(answer) > $5",
                &[
                    (&self.tenant(), Type::UUID),
                    (&self.user, Type::TEXT),
                    (&self.sender.device.0, Type::UUID),
                    (&(self.sender.push_seq - 1), Type::INT8),
                    (&SHORT_ANSWER_BYTES, Type::INT4),
                ],
            )
            .await?;
        Ok(())
    }

    /// One entry for a push, with its counts and cursor range.
    pub(super) async fn audit(&self, log: &Log<'_>) -> Result<(), ApiError> {
        let counts = self.counts();
        let stored = self.plan.head - self.head.head;
        let entry = audit::Entry {
            action: "create",
            table: "context",
            row_id: None,
            row_count: stored,
            cursors: (stored > 0).then_some((self.head.head + 1, self.plan.head)),
            request_id: &self.sender.request_id,
            details: json!({
                "device_id": self.sender.device,
                "push_seq": self.sender.push_seq,
                "messages": counts.messages,
                "tasks": counts.tasks,
                "task_messages": counts.links,
                "skipped": log.answer.skipped,
                "rejected": log.answer.rejected.len(),
            }),
        };
        audit::record(self.scope.tx, self.scope.caller, &entry).await
    }

    pub(super) async fn add_to_totals(&self, log: &Log<'_>) -> Result<(), ApiError> {
        let plan = self.plan;
        let new_messages = plan
            .messages
            .iter()
            .filter(|write| write.replaces.is_none())
            .count();
        let new_tasks = plan.tasks.iter().filter(|write| write.replaces.is_none()).count();
        let new_links = plan.links.iter().filter(|write| !write.replaces).count();
        let grown: i64 = plan
            .messages
            .iter()
            .map(|write| (self.intake.messages[write.claim].size_bytes, write.replaces))
            .chain(
                plan.tasks
                    .iter()
                    .map(|write| (self.task_size(write.claim), write.replaces)),
            )
            .map(|(size, replaces)| i64::from(size) - i64::from(replaces.unwrap_or_default()))
            .sum();
        let stored = plan.head - self.head.head;
        let synced_at = (stored > 0).then_some(self.head.synced_at);
        self.scope
            .tx
            .execute_typed(
                "INSERT INTO context_sync_stats AS s
                        (tenant_id, user_id, messages, tasks, task_messages, bytes, pushes, records_stored,
                         records_skipped, records_rejected, bytes_received, last_synced_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10, $11)
                 ON CONFLICT (tenant_id, user_id) DO UPDATE
                    SET messages = s.messages + excluded.messages, tasks = s.tasks + excluded.tasks,
                        task_messages = s.task_messages + excluded.task_messages, bytes = s.bytes + excluded.bytes,
                        pushes = s.pushes + 1, records_stored = s.records_stored + excluded.records_stored,
                        records_skipped = s.records_skipped + excluded.records_skipped,
                        records_rejected = s.records_rejected + excluded.records_rejected,
                        bytes_received = s.bytes_received + excluded.bytes_received,
                        last_synced_at = coalesce(excluded.last_synced_at, s.last_synced_at)",
                &[
                    (&self.tenant(), Type::UUID),
                    (&self.user, Type::TEXT),
                    (&(new_messages as i64), Type::INT8),
                    (&(new_tasks as i64), Type::INT8),
                    (&(new_links as i64), Type::INT8),
                    (&grown, Type::INT8),
                    (&stored, Type::INT8),
                    (&(log.answer.skipped as i64), Type::INT8),
                    (&(log.answer.rejected.len() as i64), Type::INT8),
                    (&(self.sender.bytes as i64), Type::INT8),
                    (&synced_at, Type::TIMESTAMPTZ),
                ],
            )
            .await?;
        Ok(())
    }

    fn counts(&self) -> Counts {
        let stored = |fates: &[Fate]| {
            count(
                fates
                    .iter()
                    .filter(|fate| matches!(fate, Fate::Stored(_)))
                    .count(),
            )
        };
        Counts {
            messages: stored(&self.plan.message_fates),
            tasks: stored(&self.plan.task_fates),
            links: stored(&self.plan.link_fates),
        }
    }
}

/// Versions stored by this push, by table.
struct Counts {
    messages: i32,
    tasks: i32,
    links: i32,
}

/// A batch holds a few thousand records at most.
fn count(records: usize) -> i32 {
    i32::try_from(records).unwrap_or(i32::MAX)
}
