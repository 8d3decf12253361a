//! Messages, tasks and links, and what is no longer current of them.

use std::error::Error;
use std::time::SystemTime;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::super::load::signed;
use super::super::plan::MessageWrite;
use super::{Writer, all_rows};
use crate::error::ApiError;
use crate::instant;

impl Writer<'_> {
    /// Before the updates: the rows still hold the versions that they lose.
    pub(super) async fn file_replaced_messages(&self) -> Result<(), ApiError> {
        let ids: Vec<Uuid> = self
            .plan
            .messages
            .iter()
            .filter(|write| write.replaces.is_some())
            .map(|write| write.id)
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let filed = self.scope.tx.execute_typed(
            "INSERT INTO context_message_versions
                    (tenant_id, user_id, message_id, kind, message_type, content, content_hash, version, metadata,
                     hardware_id, device_id, created_at_text, created_at, sync_cursor, synced_at)
             SELECT m.tenant_id, m.user_id, m.id, 'replaced', m.message_type, m.content, m.content_hash, m.version,
                    m.metadata, m.hardware_id, m.device_id, m.created_at_text, m.created_at, m.sync_cursor, m.synced_at
               FROM context_messages m
              WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.id = ANY ($3)",
            &[(&self.tenant(), Type::UUID), (&self.user, Type::TEXT), (&ids, Type::UUID_ARRAY)],
        ).await?;
        all_rows(ids.len(), filed, "filing replaced messages")
    }

    pub(super) async fn update_messages(&self) -> Result<(), ApiError> {
        let writes: Vec<&MessageWrite> = self
            .plan
            .messages
            .iter()
            .filter(|write| write.replaces.is_some())
            .collect();
        if writes.is_empty() {
            return Ok(());
        }
        let rows = self.message_rows(writes.iter().map(|write| (write.claim, write.id)));
        let placed = Placed::of(&writes);
        // The writer's own hash is not among the columns: it stays that of the first sending.
        let updated = self.scope.tx.execute_typed(
            "UPDATE context_messages m
                SET message_type = new.message_type, session_null = new.session_null, content = new.content,
                    content_hash = new.content_hash, occurrence = new.occurrence, version = new.version,
                    metadata = coalesce(new.metadata, '{}'), hardware_id = new.hardware_id, device_id = $4,
                    size_bytes = new.size_bytes, created_at_text = new.created_at_text, created_at = new.created_at,
                    sync_cursor = new.sync_cursor, stamp_epoch = new.stamp_epoch, stamp_cursor = new.stamp_cursor,
                    synced_at = $3
               FROM unnest($5::uuid[], $6::text[], $7::bool[], $8::text[], $9::text[], $10::int8[], $11::jsonb[],
                           $12::text[], $13::int4[], $14::text[], $15::timestamptz[], $16::int4[], $17::int8[],
                           $18::int8[], $19::int8[])
                 AS new (id, message_type, session_null, content, content_hash, version, metadata, hardware_id,
                         size_bytes, created_at_text, created_at, occurrence, sync_cursor, stamp_epoch, stamp_cursor)
              WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.id = new.id",
            &[
                (&self.tenant(), Type::UUID),
                (&self.user, Type::TEXT),
                (&self.head.synced_at, Type::TIMESTAMPTZ),
                (&self.sender.device.0, Type::UUID),
                (&rows.ids, Type::UUID_ARRAY),
                (&rows.roles, Type::TEXT_ARRAY),
                (&rows.session_nulls, Type::BOOL_ARRAY),
                (&rows.contents, Type::TEXT_ARRAY),
                (&rows.hashes, Type::TEXT_ARRAY),
                (&rows.versions, Type::INT8_ARRAY),
                (&rows.metadata, Type::JSONB_ARRAY),
                (&rows.hardware_ids, Type::TEXT_ARRAY),
                (&rows.sizes, Type::INT4_ARRAY),
                (&rows.created_texts, Type::TEXT_ARRAY),
                (&rows.created, Type::TIMESTAMPTZ_ARRAY),
                (&placed.occurrences, Type::INT4_ARRAY),
                (&placed.cursors, Type::INT8_ARRAY),
                (&placed.stamp_epochs, Type::INT8_ARRAY),
                (&placed.stamp_cursors, Type::INT8_ARRAY),
            ],
        ).await?;
        all_rows(writes.len(), updated, "updating messages")
    }

    pub(super) async fn insert_messages(&self) -> Result<(), ApiError> {
        let writes: Vec<&MessageWrite> = self
            .plan
            .messages
            .iter()
            .filter(|write| write.replaces.is_none())
            .collect();
        if writes.is_empty() {
            return Ok(());
        }
        let rows = self.message_rows(writes.iter().map(|write| (write.claim, write.id)));
        let placed = Placed::of(&writes);
        let first = |write: &&MessageWrite| &self.intake.batch.messages[write.first_claim].origin;
        let sessions: Vec<&str> = writes
            .iter()
            .map(|write| first(write).session_id.as_str())
            .collect();
        let origin_hashes: Vec<String> = writes
            .iter()
            .map(|write| first(write).content_hash.to_string())
            .collect();
        let origin_occurrences: Vec<i32> = writes
            .iter()
            .map(|write| signed(first(write).occurrence))
            .collect();
        let writer_hashes: Vec<Option<&str>> = writes
            .iter()
            .map(|write| self.intake.messages[write.first_claim].record.hash.as_deref())
            .collect();
        let inserted = self.scope.tx.execute_typed(
            "INSERT INTO context_messages
                    (tenant_id, user_id, synced_at, device_id, id, message_type, session_null, content, content_hash,
                     version, metadata, hardware_id, size_bytes, created_at_text, created_at, occurrence, sync_cursor,
                     stamp_epoch, stamp_cursor, session_id, origin_hash, origin_occurrence, writer_hash)
             SELECT $1, $2, $3, $4, new.id, new.message_type, new.session_null, new.content, new.content_hash,
                    new.version, coalesce(new.metadata, '{}'), new.hardware_id, new.size_bytes, new.created_at_text,
                    new.created_at, new.occurrence, new.sync_cursor, new.stamp_epoch, new.stamp_cursor,
                    new.session_id, new.origin_hash, new.origin_occurrence, new.writer_hash
               FROM unnest($5::uuid[], $6::text[], $7::bool[], $8::text[], $9::text[], $10::int8[], $11::jsonb[],
                           $12::text[], $13::int4[], $14::text[], $15::timestamptz[], $16::int4[], $17::int8[],
                           $18::int8[], $19::int8[], $20::text[], $21::text[], $22::int4[], $23::text[])
                 AS new (id, message_type, session_null, content, content_hash, version, metadata, hardware_id,
                         size_bytes, created_at_text, created_at, occurrence, sync_cursor, stamp_epoch, stamp_cursor,
                         session_id, origin_hash, origin_occurrence, writer_hash)",
            &[
                (&self.tenant(), Type::UUID),
                (&self.user, Type::TEXT),
                (&self.head.synced_at, Type::TIMESTAMPTZ),
                (&self.sender.device.0, Type::UUID),
                (&rows.ids, Type::UUID_ARRAY),
                (&rows.roles, Type::TEXT_ARRAY),
                (&rows.session_nulls, Type::BOOL_ARRAY),
                (&rows.contents, Type::TEXT_ARRAY),
                (&rows.hashes, Type::TEXT_ARRAY),
                (&rows.versions, Type::INT8_ARRAY),
                (&rows.metadata, Type::JSONB_ARRAY),
                (&rows.hardware_ids, Type::TEXT_ARRAY),
                (&rows.sizes, Type::INT4_ARRAY),
                (&rows.created_texts, Type::TEXT_ARRAY),
                (&rows.created, Type::TIMESTAMPTZ_ARRAY),
                (&placed.occurrences, Type::INT4_ARRAY),
                (&placed.cursors, Type::INT8_ARRAY),
                (&placed.stamp_epochs, Type::INT8_ARRAY),
                (&placed.stamp_cursors, Type::INT8_ARRAY),
                (&sessions, Type::TEXT_ARRAY),
                (&origin_hashes, Type::TEXT_ARRAY),
                (&origin_occurrences, Type::INT4_ARRAY),
                (&writer_hashes, Type::TEXT_ARRAY),
            ],
        ).await?;
        all_rows(writes.len(), inserted, "inserting messages")
    }

    /// Versions of this batch that are not current. One that was superseded before with the same content is not filed
    /// again: a second import of an edited session would otherwise file all of it once more.
    pub(super) async fn file_messages(&self) -> Result<(), ApiError> {
        let filed = &self.plan.filed_messages;
        if filed.is_empty() {
            return Ok(());
        }
        let rows = self.message_rows(filed.iter().map(|filed| (filed.claim, filed.message)));
        let cursors: Vec<Option<i64>> = filed.iter().map(|filed| filed.cursor).collect();
        self.scope
            .tx
            .execute_typed(
                "INSERT INTO context_message_versions
                        (tenant_id, user_id, message_id, kind, message_type, content, content_hash, version, metadata,
                         hardware_id, device_id, created_at_text, created_at, sync_cursor, synced_at)
                 SELECT $1, $2, new.message_id, CASE WHEN new.sync_cursor IS NULL THEN 'superseded' ELSE 'replaced' END,
                        new.message_type, new.content, new.content_hash, new.version, coalesce(new.metadata, '{}'),
                        new.hardware_id, $4, new.created_at_text, new.created_at, new.sync_cursor,
                        CASE WHEN new.sync_cursor IS NOT NULL THEN $3 END
                   FROM unnest($5::uuid[], $6::text[], $7::text[], $8::text[], $9::int8[], $10::jsonb[], $11::text[],
                               $12::text[], $13::timestamptz[], $14::int8[])
                     AS new (message_id, message_type, content, content_hash, version, metadata, hardware_id,
                             created_at_text, created_at, sync_cursor)
                  WHERE new.sync_cursor IS NOT NULL
                     OR NOT EXISTS (SELECT FROM context_message_versions v
                                     WHERE v.tenant_id = $1 AND v.message_id = new.message_id AND v.version = new.version OFFSET 0)",
                &[
                    (&self.tenant(), Type::UUID),
                    (&self.user, Type::TEXT),
                    (&self.head.synced_at, Type::TIMESTAMPTZ),
                    (&self.sender.device.0, Type::UUID),
                    (&rows.ids, Type::UUID_ARRAY),
                    (&rows.roles, Type::TEXT_ARRAY),
                    (&rows.contents, Type::TEXT_ARRAY),
                    (&rows.hashes, Type::TEXT_ARRAY),
                    (&rows.versions, Type::INT8_ARRAY),
                    (&rows.metadata, Type::JSONB_ARRAY),
                    (&rows.hardware_ids, Type::TEXT_ARRAY),
                    (&rows.created_texts, Type::TEXT_ARRAY),
                    (&rows.created, Type::TIMESTAMPTZ_ARRAY),
                    (&cursors, Type::INT8_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }

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

    pub(super) fn tenant(&self) -> Uuid {
        self.scope.caller.tenant.0
    }

    pub(super) fn task_size(&self, claim: usize) -> i32 {
        i32::try_from(self.intake.tasks[claim].json.len()).unwrap_or(i32::MAX)
    }

    fn message_rows(&self, claims: impl Iterator<Item = (usize, Uuid)>) -> MessageRows<'_> {
        let mut rows = MessageRows::default();
        for (index, id) in claims {
            let claim = &self.intake.batch.messages[index];
            let message = &self.intake.messages[index];
            let record = &message.record;
            rows.ids.push(id);
            rows.roles.push(&record.role);
            rows.session_nulls.push(record.session_null);
            rows.contents.push(&record.content);
            rows.hashes.push(claim.hash.to_string());
            rows.versions.push(claim.version);
            rows.metadata.push(message.metadata.as_deref().map(Jsonb));
            rows.hardware_ids.push(record.hardware_id.as_deref());
            rows.sizes.push(message.size_bytes);
            rows.created_texts.push(record.created_at.as_deref());
            rows.created
                .push(record.created_at.as_deref().and_then(instant::from_text));
        }
        rows
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

/// What the plan decided about rows, as arrays.
#[derive(Default)]
struct Placed {
    occurrences: Vec<i32>,
    cursors: Vec<i64>,
    stamp_epochs: Vec<i64>,
    stamp_cursors: Vec<i64>,
}

impl Placed {
    fn of(writes: &[&MessageWrite]) -> Placed {
        Placed {
            occurrences: writes.iter().map(|write| signed(write.occurrence)).collect(),
            cursors: writes.iter().map(|write| write.cursor).collect(),
            stamp_epochs: writes.iter().map(|write| write.stamp.epoch).collect(),
            stamp_cursors: writes.iter().map(|write| write.stamp.cursor).collect(),
        }
    }
}

/// What the records say, as arrays.
#[derive(Default)]
struct MessageRows<'a> {
    ids: Vec<Uuid>,
    roles: Vec<&'a str>,
    session_nulls: Vec<bool>,
    contents: Vec<&'a str>,
    hashes: Vec<String>,
    versions: Vec<i64>,
    metadata: Vec<Option<Jsonb<'a>>>,
    hardware_ids: Vec<Option<&'a str>>,
    sizes: Vec<i32>,
    created_texts: Vec<Option<&'a str>>,
    created: Vec<Option<SystemTime>>,
}

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

/// A text that is JSON already, for a jsonb parameter.
#[derive(Debug)]
struct Jsonb<'a>(&'a str);

impl ToSql for Jsonb<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        // The binary form of jsonb is a version byte before the text.
        out.extend_from_slice(&[1]);
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}
