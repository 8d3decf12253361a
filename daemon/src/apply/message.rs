//! A pulled message into the file.

use coditect_shared::hash::message_hash;
use coditect_shared::{ContentHash, MessageRecord, Origin, Stamp};

use super::ApplyError;
use super::applier::Applier;
use super::plan::{Decision, Known, LocalRow, decide};
use crate::identity::{self, Acked, MessageIdentity};
use crate::key::{RowKey, Table};
use crate::outbox;
use crate::owner::{Found, LocalMessage};
use crate::projects::excluded;
use crate::quarantine;

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
                if let Some(row_id) = identity.row_id {
                    // The cloud has what stands here.
                    excluded::forget(self.tx, &RowKey::message(row_id))?;
                }
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

    pub(super) fn local_message(
        &self,
        identity: &MessageIdentity,
    ) -> rusqlite::Result<Option<Found<LocalMessage>>> {
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
        let ident = identity::insert_pulled_message(
            self.tx,
            row_id,
            origin,
            writer_hash.as_deref(),
            record.hardware_id.as_deref(),
            &acked,
        )?;
        quarantine::lift_down(self.tx, Table::Messages, &origin_name(origin))?;
        outbox::requeue_parked(self.tx, self.owner, &RowKey::message(row_id))?;
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
        // An entry belongs to a content, which stands here no more.
        quarantine::lift(self.tx, &RowKey::message(row_id))?;
        excluded::forget(self.tx, &RowKey::message(row_id))?;
        outbox::requeue_parked(self.tx, self.owner, &RowKey::message(row_id))?;
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
        if self.owner.holds_as_it_came(record) && !self.owner.has_triggers() {
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
            identity::message_came(self.tx, origin)?;
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
}

fn local_row(local: Option<&Found<LocalMessage>>, hash: ContentHash, version: i64) -> LocalRow {
    match local {
        None | Some(Found::Gone) => LocalRow::Gone,
        Some(Found::Row(message)) if message.hash == hash && message.version == version => LocalRow::Same,
        Some(Found::Row(message)) if message.hash == hash => LocalRow::SameContent,
        Some(Found::Row(_) | Found::Unfit(_)) => LocalRow::Different,
    }
}

pub(super) fn origin_name(origin: &Origin) -> String {
    format!("{}:{}", origin.content_hash, origin.occurrence)
}
