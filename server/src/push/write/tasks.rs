//! Tasks, every version of them, and their links to messages.

use std::time::SystemTime;

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Writer, all_rows};
use crate::error::ApiError;
use crate::instant;

impl Writer<'_> {
    pub(super) async fn upsert_tasks(&self) -> Result<(), ApiError> {
        let writes = &self.plan.tasks;
        if writes.is_empty() {
            return Ok(());
        }
        let rows = self.task_rows(writes.iter().map(|write| write.claim));
        let sizes: Vec<i32> = writes.iter().map(|write| self.task_size(write.claim)).collect();
        let cursors: Vec<i64> = writes.iter().map(|write| write.cursor).collect();
        let stamp_epochs: Vec<i64> = writes.iter().map(|write| write.stamp.epoch).collect();
        let stamp_cursors: Vec<i64> = writes.iter().map(|write| write.stamp.cursor).collect();
        let mut params = rows.params(self);
        params.extend([
            (&sizes as &(dyn ToSql + Sync), Type::INT4_ARRAY),
            (&cursors, Type::INT8_ARRAY),
            (&stamp_epochs, Type::INT8_ARRAY),
            (&stamp_cursors, Type::INT8_ARRAY),
        ]);
        let written = self
            .scope
            .tx
            .execute_typed(include_str!("upsert_tasks.sql"), &params)
            .await?;
        all_rows(writes.len(), written, "writing tasks")
    }

    /// Every version that is or ever was current, and those that came too late (P6), once each.
    pub(super) async fn add_task_events(&self) -> Result<(), ApiError> {
        let events = &self.plan.task_events;
        if events.is_empty() {
            return Ok(());
        }
        let rows = self.task_rows(events.iter().map(|event| event.claim));
        let cursors: Vec<Option<i64>> = events.iter().map(|event| event.cursor).collect();
        let mut params = rows.params(self);
        params.push((&cursors, Type::INT8_ARRAY));
        self.scope
            .tx
            .execute_typed(include_str!("add_task_events.sql"), &params)
            .await?;
        Ok(())
    }

    pub(super) async fn upsert_links(&self) -> Result<(), ApiError> {
        let writes = &self.plan.links;
        if writes.is_empty() {
            return Ok(());
        }
        let claim = |index: usize| &self.intake.batch.links[index];
        let tasks: Vec<Uuid> = writes.iter().map(|write| claim(write.claim).task).collect();
        let messages: Vec<Uuid> = writes.iter().map(|write| write.message).collect();
        let sequences: Vec<Option<i64>> = writes.iter().map(|write| claim(write.claim).sequence).collect();
        let cursors: Vec<i64> = writes.iter().map(|write| write.cursor).collect();
        let stamp_epochs: Vec<i64> = writes.iter().map(|write| write.stamp.epoch).collect();
        let stamp_cursors: Vec<i64> = writes.iter().map(|write| write.stamp.cursor).collect();
        let written = self.scope.tx.execute_typed(
            "INSERT INTO context_task_messages
                    (tenant_id, user_id, synced_at, device_id, task_id, message_id, sequence, sync_cursor, stamp_epoch,
                     stamp_cursor)
             SELECT $1, $2, $3, $4, new.*
               FROM unnest($5::uuid[], $6::uuid[], $7::int8[], $8::int8[], $9::int8[], $10::int8[]) AS new
             ON CONFLICT (tenant_id, user_id, task_id, message_id) DO UPDATE
                SET synced_at = excluded.synced_at, device_id = excluded.device_id, sequence = excluded.sequence,
                    sync_cursor = excluded.sync_cursor, stamp_epoch = excluded.stamp_epoch,
                    stamp_cursor = excluded.stamp_cursor",
            &[
                (&self.tenant(), Type::UUID),
                (&self.user, Type::TEXT),
                (&self.head.synced_at, Type::TIMESTAMPTZ),
                (&self.sender.device.0, Type::UUID),
                (&tasks, Type::UUID_ARRAY),
                (&messages, Type::UUID_ARRAY),
                (&sequences, Type::INT8_ARRAY),
                (&cursors, Type::INT8_ARRAY),
                (&stamp_epochs, Type::INT8_ARRAY),
                (&stamp_cursors, Type::INT8_ARRAY),
            ],
        ).await?;
        all_rows(writes.len(), written, "writing links")
    }

    pub(super) fn task_size(&self, claim: usize) -> i32 {
        i32::try_from(self.intake.tasks[claim].json.len()).unwrap_or(i32::MAX)
    }

    fn task_rows(&self, claims: impl Iterator<Item = usize>) -> TaskRows<'_> {
        let count = |value: Option<i64>| value.and_then(|value| i32::try_from(value).ok());
        let time = |value: &Option<String>| value.as_deref().and_then(instant::from_text);
        let mut rows = TaskRows::default();
        for index in claims {
            let claim = &self.intake.batch.tasks[index];
            let task = &self.intake.tasks[index];
            let record = &task.record;
            rows.ids.push(claim.id);
            rows.task_ids.push(&record.task_id);
            rows.descriptions.push(&record.description);
            rows.active_forms.push(record.active_form.as_deref());
            rows.sessions.push(record.session_id.as_deref());
            rows.projects.push(record.project_id.as_deref());
            rows.statuses.push(&record.status);
            rows.outcomes.push(record.outcome.as_deref());
            rows.scores.push(record.outcome_score);
            rows.successes.push(count(record.tool_success_count));
            rows.errors.push(count(record.tool_error_count));
            rows.corrections.push(count(record.user_corrections));
            rows.started.push(time(&record.started_at));
            rows.completed.push(time(&record.completed_at));
            rows.updated.push(time(&record.updated_at));
            rows.client_versions.push(record.client_version.as_deref());
            rows.hardware_ids.push(record.hardware_id.as_deref());
            rows.hashes.push(claim.hash.to_string());
            rows.records.push(&task.json);
        }
        rows
    }
}

/// What the records say, as arrays.
#[derive(Default)]
struct TaskRows<'a> {
    ids: Vec<Uuid>,
    task_ids: Vec<&'a str>,
    descriptions: Vec<&'a str>,
    active_forms: Vec<Option<&'a str>>,
    sessions: Vec<Option<&'a str>>,
    projects: Vec<Option<&'a str>>,
    statuses: Vec<&'a str>,
    outcomes: Vec<Option<&'a str>>,
    scores: Vec<Option<f64>>,
    successes: Vec<Option<i32>>,
    errors: Vec<Option<i32>>,
    corrections: Vec<Option<i32>>,
    started: Vec<Option<SystemTime>>,
    completed: Vec<Option<SystemTime>>,
    updated: Vec<Option<SystemTime>>,
    client_versions: Vec<Option<&'a str>>,
    hardware_ids: Vec<Option<&'a str>>,
    hashes: Vec<String>,
    records: Vec<&'a str>,
}

impl TaskRows<'_> {
    /// $1 to $4: tenant, user, synced_at, device; $5 to $23: the columns in the order of the fields.
    fn params<'p>(&'p self, writer: &'p Writer<'_>) -> Vec<(&'p (dyn ToSql + Sync), Type)> {
        vec![
            (&writer.scope.caller.tenant.0, Type::UUID),
            (&writer.user, Type::TEXT),
            (&writer.head.synced_at, Type::TIMESTAMPTZ),
            (&writer.sender.device.0, Type::UUID),
            (&self.ids, Type::UUID_ARRAY),
            (&self.task_ids, Type::TEXT_ARRAY),
            (&self.descriptions, Type::TEXT_ARRAY),
            (&self.active_forms, Type::TEXT_ARRAY),
            (&self.sessions, Type::TEXT_ARRAY),
            (&self.projects, Type::TEXT_ARRAY),
            (&self.statuses, Type::TEXT_ARRAY),
            (&self.outcomes, Type::TEXT_ARRAY),
            (&self.scores, Type::FLOAT8_ARRAY),
            (&self.successes, Type::INT4_ARRAY),
            (&self.errors, Type::INT4_ARRAY),
            (&self.corrections, Type::INT4_ARRAY),
            (&self.started, Type::TIMESTAMPTZ_ARRAY),
            (&self.completed, Type::TIMESTAMPTZ_ARRAY),
            (&self.updated, Type::TIMESTAMPTZ_ARRAY),
            (&self.client_versions, Type::TEXT_ARRAY),
            (&self.hardware_ids, Type::TEXT_ARRAY),
            (&self.hashes, Type::TEXT_ARRAY),
            (&self.records, Type::TEXT_ARRAY),
        ]
    }
}
