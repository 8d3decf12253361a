//! A pulled message into the file.

use std::borrow::Cow;

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
use crate::redaction::{fits, is_marked};

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
        let restored = match &local {
            Some(Found::Row(message)) => message.restored(record),
            Some(Found::Gone | Found::Unfit(_)) | None => Cow::Borrowed(record),
        };
        let here = match &restored {
            Cow::Borrowed(_) => Form { hash, version },
            Cow::Owned(restored) => self.form_of(restored),
        };
        let known = match &identity {
            Some(identity) => Some(Known {
                row: local_row(local.as_ref(), here),
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
            (Decision::Update, Some(identity)) => {
                self.update_message(&restored, here, &origin, identity, pulled)
            }
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
        let Some(writer_hash) = &record.hash else {
            return Ok(None);
        };
        let found = identity::unacknowledged_by_writer_hash(self.tx, &record.session_id, writer_hash)?;
        let Some(identity) = found else { return Ok(None) };
        let is_own = |device| self.former_devices.contains(&device);
        let is_same =
            record.device_id.is_some_and(is_own) || self.is_redacted_otherwise(record, &identity)?;
        Ok(is_same.then_some(identity))
    }

    /// Whether a pulled row and one that waits here to be sent for the first time are the same, read from the same source
    /// under different rules of redaction.
    fn is_redacted_otherwise(
        &self,
        record: &MessageRecord,
        identity: &MessageIdentity,
    ) -> rusqlite::Result<bool> {
        if identity.sent {
            // It may be in the cloud under its own origin by now.
            return Ok(false);
        }
        Ok(match self.local_message(identity)? {
            Some(Found::Row(message)) => {
                let is_redacted = !message.findings.is_empty() || is_marked(&record.content);
                is_redacted && fits(&record.content, message.content_here())
            }
            Some(Found::Gone | Found::Unfit(_)) | None => false,
        })
    }

    pub(super) fn local_message(
        &self,
        identity: &MessageIdentity,
    ) -> rusqlite::Result<Option<Found<LocalMessage>>> {
        match identity.row_id {
            Some(row_id) => self
                .owner
                .read_message(
                    self.tx,
                    self.context.tenant,
                    &self.context.policy.redactor,
                    row_id,
                )
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
        let written = Form {
            hash,
            version: record.version(hash),
        };
        let version = Some(self.version_as_written(record, row_id, written)?);
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

    /// `record` is the pulled one with the secrets that stand here, `here` its hash and version.
    fn update_message(
        &mut self,
        record: &MessageRecord,
        here: Form,
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
            version: Some(self.version_as_written(record, row_id, here)?),
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
        written: Form,
    ) -> rusqlite::Result<i64> {
        if self.owner.holds_as_it_came(record) && !self.owner.has_triggers() {
            return Ok(written.version);
        }
        let redactor = &self.context.policy.redactor;
        Ok(
            match self
                .owner
                .read_message(self.tx, self.context.tenant, redactor, row_id)?
            {
                Found::Row(message) if message.hash_here() == written.hash => message.version,
                Found::Row(_) | Found::Gone | Found::Unfit(_) => written.version,
            },
        )
    }

    fn form_of(&self, record: &MessageRecord) -> Form {
        let hash = message_hash(self.context.tenant, &record.session_id, &record.content);
        let version = record.version(hash);
        Form { hash, version }
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

/// Tells forms of a row apart: what it says, and all that stands around that.
#[derive(Clone, Copy)]
struct Form {
    hash: ContentHash,
    version: i64,
}

/// What stands here, compared with the pulled version as it would be written.
fn local_row(local: Option<&Found<LocalMessage>>, pulled: Form) -> LocalRow {
    match local {
        None | Some(Found::Gone) => LocalRow::Gone,
        Some(Found::Row(message)) if message.hash_here() == pulled.hash => {
            if message.version == pulled.version {
                LocalRow::Same
            } else {
                LocalRow::SameContent
            }
        }
        Some(Found::Row(_) | Found::Unfit(_)) => LocalRow::Different,
    }
}

pub(super) fn origin_name(origin: &Origin) -> String {
    format!("{}:{}", origin.content_hash, origin.occurrence)
}
