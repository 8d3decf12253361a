//! Stubs: what this device pushed itself comes back without its body. That proves receipt, also of a push whose answer
//! was lost, and tells of another life of this file.

use std::collections::HashSet;

use coditect_shared::wire::{PullPage, Stub};
use coditect_shared::{ContentHash, Stamp};
use rusqlite::Connection;

use super::ApplyError;
use super::applier::Applier;
use super::link::{link_identity, link_key, set_link_acked};
use crate::identity::{self, Acked};
use crate::key::{RowKey, Table};
use crate::outbox::Batch;

/// A stub of what this file can neither have sent nor had acknowledged tells that another life of it did.
pub(super) fn foreign_stub(
    tx: &Connection,
    page: &PullPage,
    sent: &[Batch],
) -> rusqlite::Result<Option<String>> {
    let sent: HashSet<(Table, i64, Option<ContentHash>)> = sent
        .iter()
        .flat_map(|batch| &batch.records)
        .map(|sent| (sent.key.table, sent.ident, sent.hash))
        .collect();
    for stub in &page.own {
        let (table, name, found, content_hash) = match stub {
            Stub::Message {
                origin, content_hash, ..
            } => {
                let found = identity::message_by_origin(tx, origin)?.map(|found| (found.ident, found.acked));
                (
                    Table::Messages,
                    origin.content_hash.to_string(),
                    found,
                    content_hash,
                )
            }
            Stub::Task { id, content_hash, .. } => {
                let found =
                    identity::task_by_cloud_id(tx, &id.to_string())?.map(|found| (found.ident, found.acked));
                (Table::TaskTracking, id.to_string(), found, content_hash)
            }
            Stub::Link { .. } => continue,
        };
        let Some((ident, acked)) = found else {
            return Ok(Some(format!(
                "this device is said to have pushed {} {name}, which is not here",
                table.name()
            )));
        };
        let stamp = Stamp {
            epoch: page.epoch,
            cursor: stub.sync_cursor(),
        };
        let is_known = acked.hash == Some(*content_hash)
            || stamp <= acked.stamp
            || sent.contains(&(table, ident, Some(*content_hash)));
        if !is_known {
            return Ok(Some(format!(
                "this device is said to have pushed a version of {} {name} that this file never sent",
                table.name()
            )));
        }
    }
    Ok(None)
}

impl Applier<'_> {
    /// What this device pushed comes back as a stub: it proves receipt, also of a push whose answer was lost.
    pub(super) fn stub(&mut self, stub: &Stub, stamp: Stamp, sent: &[Batch]) -> Result<(), ApplyError> {
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
                let version = sent_version(sent, Table::Messages, identity.ident, *content_hash);
                let acked = Acked {
                    hash: Some(*content_hash),
                    version,
                    stamp: stamp.max(identity.acked.stamp),
                };
                if let Some(row_id) = identity.row_id
                    && identity.acked.hash != Some(*content_hash)
                {
                    self.look_again(&RowKey::message(row_id))?;
                }
                Ok(identity::set_message_acked(self.tx, identity.ident, &acked)?)
            }
            Stub::Task { id, content_hash, .. } => {
                let Some(identity) = identity::task_by_cloud_id(self.tx, &id.to_string())? else {
                    return Ok(());
                };
                if stamp <= identity.acked.stamp {
                    return Ok(());
                }
                let version = sent_version(sent, Table::TaskTracking, identity.ident, *content_hash);
                let acked = Acked {
                    hash: Some(*content_hash),
                    version,
                    stamp,
                };
                if identity.acked.hash != Some(*content_hash) {
                    self.look_again(&RowKey::task(&identity.local_id))?;
                }
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
                    if !link.acked || link.stamp < stamp {
                        if (link.acked, link.acked_sequence) != (true, *sequence)
                            && let Some(key) = link_key(self.tx, link.ident)?
                        {
                            self.look_again(&key)?;
                        }
                        set_link_acked(self.tx, link.ident, *sequence, stamp)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// The change may have ended before it was known that this version had arrived: the row is compared once more.
    fn look_again(&self, key: &RowKey) -> rusqlite::Result<()> {
        match key.is_pending(self.tx)? {
            true => Ok(()),
            false => key.queue(self.tx, "scan"),
        }
    }
}

fn sent_version(sent: &[Batch], table: Table, ident: i64, hash: ContentHash) -> Option<i64> {
    let mut records = sent.iter().flat_map(|batch| &batch.records);
    records
        .find(|sent| sent.key.table == table && sent.ident == ident && sent.hash == Some(hash))?
        .version
}
