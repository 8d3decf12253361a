//! A pulled link into the file. One whose ends are not here yet waits for them.

use coditect_shared::{LinkRecord, Origin, Stamp};
use rusqlite::{Connection, OptionalExtension as _};

use super::ApplyError;
use super::applier::Applier;
use super::message::origin_name;
use super::plan::{Decision, Known, LocalRow, decide};
use crate::identity::{self, Acked};
use crate::key::{RowKey, Table};
use crate::quarantine;
use crate::rules::{Rule, holds};
use crate::store;

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

/// The local key of a link, if both its ends have one.
pub(super) fn link_key(conn: &Connection, ident: i64) -> rusqlite::Result<Option<RowKey>> {
    let Some(link) = link_by_ident(conn, ident)? else {
        return Ok(None);
    };
    let (task, message) = (
        identity::task_by_ident(conn, link.task)?,
        identity::message_by_ident(conn, link.message)?.and_then(|message| message.row_id),
    );
    Ok(task
        .zip(message)
        .map(|(task, row_id)| RowKey::link(&task.local_id, row_id)))
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
                        quarantine::lift_down(self.tx, Table::TaskMessages, &link_name(record))?;
                        quarantine::lift(self.tx, &key)?;
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

    /// Links whose second end came in this transaction.
    pub(super) fn drain_waiting(&mut self) -> Result<(), ApplyError> {
        if store::value::<i64>(self.tx, "waiting_ready")?.is_none() {
            return Ok(());
        }
        store::set_value(self.tx, "waiting_ready", rusqlite::types::Null)?;
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
