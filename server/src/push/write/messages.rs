//! Messages, and their versions that are not current.

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
