//! Writing one pulled row: a message, a task, a link, or the stub of what this device pushed itself.

use coditect_shared::hash::{message_hash, task_hash};
use coditect_shared::wire::Stub;
use coditect_shared::{ContentHash, LinkRecord, MessageRecord, Origin, Stamp, TaskRecord};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _};
use uuid::Uuid;

use super::plan::{Decision, Known, LocalRow, decide};
use super::{Applier, ApplyError};
use crate::identity::{self, Acked, MessageIdentity, TaskIdentity};
use crate::key::{RowKey, Table};
use crate::outbox::Batch;
use crate::owner::{Found, LocalMessage};
use crate::quarantine;
use crate::rules::{Rule, holds};

/// A link between two identities, as `sync_links` holds it.
#[derive(Clone, Debug)]
pub struct LinkIdentity {
    pub ident: i64,
    pub task: i64,
    pub message: i64,
    pub gone: bool,
    pub acked: bool,
    pub acked_sequence: Option<i64>,
    pub stamp: Stamp,
}

/// The link between two identities; made if it is new.
pub fn link_identity(tx: &Connection, task: i64, message: i64) -> rusqlite::Result<LinkIdentity> {
    if let Some(link) = link_where(tx, "task = ?1 AND message = ?2", &[&task, &message])? {
        return Ok(link);
    }
    let ident = tx
        .prepare_cached("INSERT INTO sync_links (task, message) VALUES (?1, ?2)")?
        .insert([task, message])?;
    Ok(LinkIdentity {
        ident,
        task,
        message,
        gone: false,
        acked: false,
        acked_sequence: None,
        stamp: Stamp::default(),
    })
}

pub(super) fn link_by_ident(tx: &Connection, ident: i64) -> rusqlite::Result<Option<LinkIdentity>> {
    link_where(tx, "ident = ?1", &[&ident])
}

pub fn set_link_acked(
    tx: &Connection,
    ident: i64,
    sequence: Option<i64>,
    stamp: Stamp,
) -> rusqlite::Result<()> {
    let before = link_by_ident(tx, ident)?
        .map(|link| link.stamp)
        .unwrap_or_default();
    let stamp = stamp.max(before);
    tx.prepare_cached(
        "UPDATE sync_links SET acked = 1, acked_sequence = ?2, acked_epoch = ?3, acked_cursor = ?4 WHERE ident = ?1",
    )?
    .execute(rusqlite::params![ident, sequence, stamp.epoch, stamp.cursor])?;
    Ok(())
}

impl Applier<'_> {
    pub(super) fn message(&mut self, record: &MessageRecord, stamp: Stamp) -> Result<(), ApplyError> {
        // Recomputed: what the row is called here must follow from what is written here.
        let hash = message_hash(self.context.tenant, &record.session_id, &record.content);
        let origin = record.origin_with(hash);
        let identity = self.find_message(record, &origin)?;
        let local = match &identity {
            Some(identity) => self.local_message(identity)?,
            None => None,
        };
        let version = record.version(hash);
        let known = match &identity {
            Some(identity) => Some(Known {
                row: local_row(local.as_ref(), hash, version),
                pending: match identity.row_id {
                    Some(row_id) => RowKey::message(row_id).is_pending(self.tx)?,
                    None => false,
                },
                acked: &identity.acked,
            }),
            None => None,
        };
        let pulled = Acked {
            hash: Some(hash),
            version: Some(version),
            stamp,
        };
        match (decide(known, stamp), identity) {
            (Decision::Insert, _) | (_, None) => self.insert_message(record, &origin, hash, pulled),
            (Decision::Update, Some(identity)) => self.update_message(record, &origin, identity, pulled),
            (Decision::Acknowledge, Some(identity)) => {
                let version = match local {
                    Some(Found::Row(message)) => Some(message.version),
                    Some(Found::Gone | Found::Unfit(_)) | None => pulled.version,
                };
                let acked = Acked {
                    version,
                    stamp: stamp.max(identity.acked.stamp),
                    ..pulled
                };
                self.acknowledge_message(&identity, &origin, &acked)
            }
            (Decision::Hold, Some(identity)) => {
                if !identity.acked.is_known() {
                    // The server knows the row, so that the local change is an edit of it.
                    let acked = Acked {
                        stamp: identity.acked.stamp,
                        ..pulled
                    };
                    self.acknowledge_message(&identity, &origin, &acked)?;
                }
                self.hold(Table::Messages, identity.ident, record, stamp)
            }
            (Decision::Skip, Some(_)) => Ok(()),
        }
    }

    pub(super) fn task(&mut self, record: &TaskRecord, stamp: Stamp) -> Result<(), ApplyError> {
        let id = Uuid::parse_str(&record.id)
            .map_err(|_| ApplyError::Protocol(format!("task id {:?} is no UUID", record.id)))?;
        let cloud_id = id.to_string();
        let hash = task_hash(self.context.tenant, record);
        let version = i64::from_ne_bytes(hash.first_u64().to_ne_bytes());
        let pulled = Acked {
            hash: Some(hash),
            version: Some(version),
            stamp,
        };
        let mut identity = identity::task_by_cloud_id(self.tx, &cloud_id)?;
        let local_id = Value::Text(cloud_id.clone());
        if identity.is_none() && self.owner.task_exists(self.tx, &local_id)? {
            // A row that no trigger told us of. It is looked at like any other change.
            RowKey::task(&local_id).queue(self.tx, "scan")?;
            identity = Some(identity::insert_task(self.tx, &local_id, &cloud_id)?);
        }
        let Some(identity) = identity else {
            return match self.owner.write_task(self.tx, &local_id, record) {
                Ok(()) => {
                    let identity = identity::insert_task(self.tx, &local_id, &cloud_id)?;
                    self.task_written(&identity, pulled)
                }
                Err(error) => self.refused(Table::TaskTracking, &cloud_id, record, stamp, error),
            };
        };
        let local = self
            .owner
            .read_task(self.tx, self.context.tenant, &identity.local_id, &cloud_id)?;
        let row = match &local {
            Found::Gone if holds(Rule::DeletionKept) => LocalRow::Gone,
            Found::Gone => LocalRow::Different,
            Found::Row(task) if task.hash == hash => LocalRow::Same,
            Found::Row(_) | Found::Unfit(_) => LocalRow::Different,
        };
        let pending = RowKey::task(&identity.local_id).is_pending(self.tx)?;
        match decide(
            Some(Known {
                row,
                pending,
                acked: &identity.acked,
            }),
            stamp,
        ) {
            Decision::Insert | Decision::Update => {
                match self.owner.write_task(self.tx, &identity.local_id, record) {
                    Ok(()) => self.task_written(&identity, pulled),
                    Err(error) => self.refused(Table::TaskTracking, &cloud_id, record, stamp, error),
                }
            }
            Decision::Acknowledge => {
                let acked = Acked {
                    stamp: stamp.max(identity.acked.stamp),
                    ..pulled
                };
                Ok(identity::set_task_acked(self.tx, identity.ident, &acked)?)
            }
            Decision::Hold => self.hold(Table::TaskTracking, identity.ident, record, stamp),
            Decision::Skip => Ok(()),
        }
    }

    pub(super) fn link(&mut self, record: &LinkRecord, stamp: Stamp) -> Result<(), ApplyError> {
        let task = identity::task_by_cloud_id(self.tx, &record.task_id.to_ascii_lowercase())?;
        let message = identity::message_by_origin(self.tx, &record.message)?;
        let (Some(task), Some(message)) = (task, message) else {
            return Ok(self.wait_for_ends(record, stamp)?);
        };
        let link = link_identity(self.tx, task.ident, message.ident)?;
        let row_id = match message.row_id {
            Some(row_id) if self.owner.message_exists(self.tx, row_id)? => row_id,
            Some(_) | None => return Ok(set_link_acked(self.tx, link.ident, record.sequence, stamp)?),
        };
        let local = self.owner.read_link(self.tx, &task.local_id, row_id)?;
        let key = RowKey::link(&task.local_id, row_id);
        let pending = key.is_pending(self.tx)?;
        let row = match local {
            Some(sequence) if sequence == record.sequence => LocalRow::Same,
            Some(_) => LocalRow::Different,
            // Deleted here, or on its way out, or an end of it was deleted.
            None if link.gone || pending || !self.owner.task_exists(self.tx, &task.local_id)? => {
                LocalRow::Gone
            }
            None => LocalRow::Different,
        };
        let acked = Acked {
            hash: None,
            version: link.acked_sequence,
            stamp: link.stamp,
        };
        match decide(
            Some(Known {
                row,
                pending,
                acked: &acked,
            }),
            stamp,
        ) {
            Decision::Insert | Decision::Update => {
                match self
                    .owner
                    .write_link(self.tx, &task.local_id, row_id, record.sequence)
                {
                    Ok(()) => {
                        set_link_acked(self.tx, link.ident, record.sequence, stamp)?;
                        self.note_written(key, link.ident);
                        Ok(())
                    }
                    Err(error) => self.refused(Table::TaskMessages, &link_name(record), record, stamp, error),
                }
            }
            Decision::Acknowledge => Ok(set_link_acked(self.tx, link.ident, record.sequence, stamp)?),
            Decision::Hold => self.hold(Table::TaskMessages, link.ident, record, stamp),
            Decision::Skip => Ok(()),
        }
    }

    /// What this device pushed comes back as a stub: it proves receipt, also of a push whose answer was lost.
    pub(super) fn stub(
        &mut self,
        stub: &Stub,
        stamp: Stamp,
        in_flight: Option<&Batch>,
    ) -> Result<(), ApplyError> {
        match stub {
            Stub::Message {
                origin, content_hash, ..
            } => {
                let Some(identity) = identity::message_by_origin(self.tx, origin)? else {
                    return Ok(());
                };
                if stamp <= identity.acked.stamp && identity.acked.is_known() {
                    return Ok(());
                }
                let version = sent_version(in_flight, Table::Messages, identity.ident, *content_hash);
                let acked = Acked {
                    hash: Some(*content_hash),
                    version,
                    stamp: stamp.max(identity.acked.stamp),
                };
                Ok(identity::set_message_acked(self.tx, identity.ident, &acked)?)
            }
            Stub::Task { id, content_hash, .. } => {
                let Some(identity) = identity::task_by_cloud_id(self.tx, &id.to_string())? else {
                    return Ok(());
                };
                if stamp <= identity.acked.stamp {
                    return Ok(());
                }
                let version = sent_version(in_flight, Table::TaskTracking, identity.ident, *content_hash);
                let acked = Acked {
                    hash: Some(*content_hash),
                    version,
                    stamp,
                };
                Ok(identity::set_task_acked(self.tx, identity.ident, &acked)?)
            }
            Stub::Link {
                task_id,
                message,
                sequence,
                ..
            } => {
                let task = identity::task_by_cloud_id(self.tx, &task_id.to_string())?;
                let message = identity::message_by_origin(self.tx, message)?;
                if let (Some(task), Some(message)) = (task, message) {
                    let link = link_identity(self.tx, task.ident, message.ident)?;
                    if !link.acked {
                        set_link_acked(self.tx, link.ident, *sequence, stamp)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Links whose second end came in this transaction.
    pub(super) fn drain_waiting(&mut self) -> Result<(), ApplyError> {
        let ready: Vec<(i64, LinkRecord, Stamp)> = self
            .tx
            .prepare_cached(
                "SELECT w.id, w.task_id, w.session_id, w.origin_hash, w.origin_occurrence, w.sequence, w.epoch, w.cursor
                 FROM sync_links_waiting w
                 WHERE EXISTS (SELECT 1 FROM sync_tasks t WHERE t.cloud_id = w.task_id)
                   AND EXISTS (SELECT 1 FROM sync_messages m WHERE m.origin_hash = w.origin_hash
                     AND m.origin_occurrence = w.origin_occurrence AND m.session_id = w.session_id)",
            )?
            .query_map([], |row| {
                let content_hash = identity::hash_at(row, 3)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
                let message = Origin { session_id: row.get(2)?, content_hash, occurrence: row.get(4)? };
                let record = link_record(row.get(1)?, message, row.get(5)?);
                Ok((row.get(0)?, record, Stamp { epoch: row.get(6)?, cursor: row.get(7)? }))
            })?
            .collect::<Result<_, _>>()?;
        for (id, record, stamp) in ready {
            self.tx
                .prepare_cached("DELETE FROM sync_links_waiting WHERE id = ?1")?
                .execute([id])?;
            self.link(&record, stamp)?;
        }
        Ok(())
    }

    /// Whether a row that we wrote still is what was pulled, after the owner's triggers have run.
    pub(super) fn stands_as_pulled(&self, key: &RowKey, ident: i64) -> rusqlite::Result<bool> {
        match key.table {
            Table::Messages => {
                let Some(identity) = identity::message_by_ident(self.tx, ident)? else {
                    return Ok(false);
                };
                Ok(match self.local_message(&identity)? {
                    Some(Found::Row(message)) => identity.acked.equals(message.hash, message.version),
                    Some(Found::Gone | Found::Unfit(_)) | None => false,
                })
            }
            Table::TaskTracking => {
                let Some(identity) = identity::task_by_ident(self.tx, ident)? else {
                    return Ok(false);
                };
                let tenant = self.context.tenant;
                Ok(
                    match self
                        .owner
                        .read_task(self.tx, tenant, &identity.local_id, &identity.cloud_id)?
                    {
                        Found::Row(task) => identity.acked.equals(task.hash, task.version()),
                        Found::Gone | Found::Unfit(_) => false,
                    },
                )
            }
            Table::TaskMessages => {
                let Some(link) = link_by_ident(self.tx, ident)? else {
                    return Ok(false);
                };
                let Value::Integer(message) = Value::from(key.key2.clone()) else {
                    return Ok(false);
                };
                let found = self
                    .owner
                    .read_link(self.tx, &Value::from(key.key.clone()), message)?;
                Ok(found == Some(link.acked_sequence))
            }
        }
    }

    fn find_message(
        &self,
        record: &MessageRecord,
        origin: &Origin,
    ) -> rusqlite::Result<Option<MessageIdentity>> {
        if let Some(identity) = identity::message_by_origin(self.tx, origin)? {
            return Ok(Some(identity));
        }
        match (&record.hash, record.device_id) {
            (Some(writer_hash), Some(device)) if self.former_devices.contains(&device) => {
                identity::unacknowledged_by_writer_hash(self.tx, &record.session_id, writer_hash)
            }
            (_, _) => Ok(None),
        }
    }

    fn local_message(&self, identity: &MessageIdentity) -> rusqlite::Result<Option<Found<LocalMessage>>> {
        match identity.row_id {
            Some(row_id) => self
                .owner
                .read_message(self.tx, self.context.tenant, row_id)
                .map(Some),
            None => Ok(None),
        }
    }

    fn insert_message(
        &mut self,
        record: &MessageRecord,
        origin: &Origin,
        hash: ContentHash,
        pulled: Acked,
    ) -> Result<(), ApplyError> {
        let (row_id, writer_hash) = match self.owner.insert_message(self.tx, record, hash) {
            Ok(inserted) => inserted,
            Err(error) => {
                return self.refused(Table::Messages, &origin_name(origin), record, pulled.stamp, error);
            }
        };
        let version = self.version_as_written(record, row_id, &pulled)?;
        let acked = Acked { version, ..pulled };
        let ident = identity::insert_pulled_message(self.tx, row_id, origin, writer_hash.as_deref(), &acked)?;
        quarantine::lift_down(self.tx, Table::Messages, &origin_name(origin))?;
        self.note_written(RowKey::message(row_id), ident);
        Ok(())
    }

    fn update_message(
        &mut self,
        record: &MessageRecord,
        origin: &Origin,
        identity: MessageIdentity,
        pulled: Acked,
    ) -> Result<(), ApplyError> {
        let Some(row_id) = identity.row_id else {
            return Ok(());
        };
        if let Err(error) = self.owner.update_message(self.tx, row_id, record) {
            return self.refused(Table::Messages, &origin_name(origin), record, pulled.stamp, error);
        }
        let acked = Acked {
            version: self.version_as_written(record, row_id, &pulled)?,
            ..pulled
        };
        self.acknowledge_message(&identity, origin, &acked)?;
        quarantine::lift_down(self.tx, Table::Messages, &origin_name(origin))?;
        self.note_written(RowKey::message(row_id), identity.ident);
        Ok(())
    }

    /// What a later look at the row will find: a column that this file lacks is not in it, and a trigger of the owner
    /// may have changed the fields around the content. Those are no change to send: two files with such triggers would
    /// send it back and forth for ever. A content that a trigger changed is one.
    fn version_as_written(
        &self,
        record: &MessageRecord,
        row_id: i64,
        pulled: &Acked,
    ) -> rusqlite::Result<Option<i64>> {
        if self.owner.holds_all_of(record) && !self.owner.has_triggers() {
            return Ok(pulled.version);
        }
        Ok(
            match self.owner.read_message(self.tx, self.context.tenant, row_id)? {
                Found::Row(message) if Some(message.hash) == pulled.hash => Some(message.version),
                Found::Row(_) | Found::Gone | Found::Unfit(_) => pulled.version,
            },
        )
    }

    fn acknowledge_message(
        &self,
        identity: &MessageIdentity,
        origin: &Origin,
        acked: &Acked,
    ) -> Result<(), ApplyError> {
        if identity.origin != *origin {
            self.tx
                .prepare_cached(
                    "UPDATE sync_messages SET origin_hash = ?2, origin_occurrence = ?3 WHERE ident = ?1",
                )?
                .execute(rusqlite::params![
                    identity.ident,
                    origin.content_hash.as_bytes(),
                    origin.occurrence
                ])?;
        }
        Ok(identity::set_message_acked(self.tx, identity.ident, acked)?)
    }

    fn task_written(&mut self, identity: &TaskIdentity, pulled: Acked) -> Result<(), ApplyError> {
        let tenant = self.context.tenant;
        let found = self
            .owner
            .read_task(self.tx, tenant, &identity.local_id, &identity.cloud_id)?;
        let version = match found {
            Found::Row(task) if !self.owner.has_triggers() => Some(task.version()),
            Found::Row(_) | Found::Gone | Found::Unfit(_) => pulled.version,
        };
        identity::set_task_acked(self.tx, identity.ident, &Acked { version, ..pulled })?;
        quarantine::lift_down(self.tx, Table::TaskTracking, &identity.cloud_id)?;
        self.note_written(RowKey::task(&identity.local_id), identity.ident);
        Ok(())
    }

    fn note_written(&mut self, key: RowKey, ident: i64) {
        if self.queued_before.is_some() {
            self.written.push((key, ident));
        }
    }

    fn hold(
        &self,
        table: Table,
        ident: i64,
        record: &impl serde::Serialize,
        stamp: Stamp,
    ) -> Result<(), ApplyError> {
        if !holds(Rule::Held) {
            return Ok(());
        }
        let body = rendered(record)?;
        // Of several versions the newest is the one to apply.
        self.tx
            .prepare_cached(
                "INSERT OR REPLACE INTO sync_held (table_name, ident, body, epoch, cursor)
                 SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM sync_held
                   WHERE table_name = ?1 AND ident = ?2 AND (epoch, cursor) >= (?4, ?5))",
            )?
            .execute(rusqlite::params![
                table.name(),
                ident,
                body,
                stamp.epoch,
                stamp.cursor
            ])?;
        Ok(())
    }

    fn wait_for_ends(&self, record: &LinkRecord, stamp: Stamp) -> rusqlite::Result<()> {
        if !holds(Rule::WaitingLinks) {
            return Ok(());
        }
        let (task, hash) = (
            record.task_id.to_ascii_lowercase(),
            record.message.content_hash.as_bytes(),
        );
        let (session, occurrence) = (&record.message.session_id, record.message.occurrence);
        self.tx
            .prepare_cached(
                "DELETE FROM sync_links_waiting
                 WHERE task_id = ?1 AND origin_hash = ?2 AND origin_occurrence = ?3 AND session_id = ?4",
            )?
            .execute(rusqlite::params![task, hash, occurrence, session])?;
        self.tx
            .prepare_cached(
                "INSERT INTO sync_links_waiting
                   (task_id, session_id, origin_hash, origin_occurrence, sequence, epoch, cursor)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(rusqlite::params![
                task,
                session,
                hash,
                occurrence,
                record.sequence,
                stamp.epoch,
                stamp.cursor
            ])?;
        Ok(())
    }

    /// The owner's own constraints refuse a pulled row: it is set aside with its body, and the cursor moves on. A
    /// failed statement has changed nothing, so that the transaction goes on.
    fn refused(
        &self,
        table: Table,
        cloud_key: &str,
        record: &impl serde::Serialize,
        stamp: Stamp,
        error: rusqlite::Error,
    ) -> Result<(), ApplyError> {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {}
            Some(_) | None => return Err(error.into()),
        }
        if self.tx.is_autocommit() {
            // A trigger of the owner said RAISE(ROLLBACK), which ends our transaction too.
            return Err(ApplyError::Sqlite(error));
        }
        let message = format!("context.db refuses the row: {error}");
        let refused = quarantine::Refused {
            code: "local_constraint",
            message: &message,
        };
        let body = rendered(record)?;
        Ok(quarantine::add_down(
            self.tx,
            table,
            cloud_key,
            &body,
            stamp,
            &refused,
            &self.context.now,
        )?)
    }
}

fn local_row(local: Option<&Found<LocalMessage>>, hash: ContentHash, version: i64) -> LocalRow {
    match local {
        None | Some(Found::Gone) => LocalRow::Gone,
        Some(Found::Row(message)) if message.hash == hash && message.version == version => LocalRow::Same,
        Some(Found::Row(message)) if message.hash == hash => LocalRow::SameContent,
        Some(Found::Row(_) | Found::Unfit(_)) => LocalRow::Different,
    }
}

fn sent_version(in_flight: Option<&Batch>, table: Table, ident: i64, hash: ContentHash) -> Option<i64> {
    let sent = in_flight?
        .records
        .iter()
        .find(|sent| sent.key.table == table && sent.ident == ident)?;
    if sent.hash == Some(hash) {
        sent.version
    } else {
        None
    }
}

fn rendered(record: &impl serde::Serialize) -> Result<String, ApplyError> {
    serde_json::to_string(record)
        .map_err(|error| ApplyError::Protocol(format!("cannot render a record: {error}")))
}

fn origin_name(origin: &Origin) -> String {
    format!("{}:{}", origin.content_hash, origin.occurrence)
}

fn link_name(record: &LinkRecord) -> String {
    format!("{} {}", record.task_id, origin_name(&record.message))
}

fn link_record(task_id: String, message: Origin, sequence: Option<i64>) -> LinkRecord {
    LinkRecord {
        reference: None,
        task_id,
        message,
        sequence,
        base: None,
        stamp: None,
        sync_cursor: None,
        synced_at: None,
    }
}

fn link_where(
    tx: &Connection,
    condition: &str,
    params: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<Option<LinkIdentity>> {
    tx.prepare_cached(&format!(
        "SELECT ident, task, message, gone, acked, acked_sequence, acked_epoch, acked_cursor
         FROM sync_links WHERE {condition}"
    ))?
    .query_row(params, |row| {
        Ok(LinkIdentity {
            ident: row.get(0)?,
            task: row.get(1)?,
            message: row.get(2)?,
            gone: row.get(3)?,
            acked: row.get(4)?,
            acked_sequence: row.get(5)?,
            stamp: Stamp {
                epoch: row.get(6)?,
                cursor: row.get(7)?,
            },
        })
    })
    .optional()
}
