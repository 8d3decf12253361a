//! Pulled rows into the file: a page and the cursor behind it in one transaction (PROTOCOL 4).
//!
//! Applying queues nothing: our triggers look for a flag that stands only inside this transaction (P5). Where the
//! owner has triggers of its own on these tables, what we write may not be what stands there afterwards; then
//! the flag stays down, and what was queued is taken back row by row where it equals what was pulled.

mod applier;
mod link;
mod message;
mod plan;
mod stub;
mod task;

use coditect_shared::wire::PullPage;
use coditect_shared::{DeviceId, LinkRecord, MessageRecord, Stamp, TaskRecord};
use rusqlite::{Connection, OptionalExtension as _};

use applier::Applier;
use stub::foreign_stub;

use crate::identity::{self, Acked};
use crate::key::{RowKey, Table};
use crate::outbox::{Batch, Context};
use crate::owner::Owner;
use crate::quarantine;
use crate::rules::{Rule, holds};
use crate::store::{self, set_value, value};

pub use link::{LinkIdentity, link_identity, set_link_acked};

/// What came of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Rows that came with a body, and where the cursor stands now.
    Page { rows: usize },
    /// More is queued than this transaction may give identities to: `identity::identify_queued` comes first.
    IdentitiesFirst,
    /// This file is a copy, or went back: nothing was written. The text says by what it was noticed.
    Parted(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("context.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the server's answer makes no sense: {0}")]
    Protocol(String),
}

/// Applies a page. `sent` are the batches that may have arrived under the next push_seq; `identities_max` bounds the
/// outbox rows that get identities inside this transaction.
pub fn apply_page(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    page: &PullPage,
    sent: &[Batch],
    identities_max: usize,
) -> Result<Applied, ApplyError> {
    let (epoch, cursor): (i64, i64) = (
        value(tx, "epoch")?.unwrap_or(0),
        value(tx, "cursor")?.unwrap_or(0),
    );
    let push_seq: i64 = value(tx, "push_seq")?.unwrap_or(0);
    let own_seq = sent.iter().map(|batch| batch.push_seq).fold(push_seq, i64::max);
    if page.device_push_seq > own_seq {
        return Ok(Applied::Parted(format!(
            "the server has push {} of this device, this file only {own_seq}",
            page.device_push_seq
        )));
    }
    if page.epoch == epoch && page.cursor < cursor {
        return Err(ApplyError::Protocol(format!(
            "a page ends at cursor {}, before {cursor}",
            page.cursor
        )));
    }
    if page.has_more && (page.epoch, page.cursor) == (epoch, cursor) {
        return Err(ApplyError::Protocol(format!(
            "there is more than this page, which ends where it began, at cursor {cursor}"
        )));
    }
    if holds(Rule::IdentitiesFirst) && !identity::identify_queued(tx, owner, context, identities_max)? {
        return Ok(Applied::IdentitiesFirst);
    }
    if let Some(reason) = foreign_stub(tx, page, sent)? {
        return Ok(Applied::Parted(reason));
    }
    let mut applier = Applier::begin(tx, owner, context)?;
    let stamp = |cursor: Option<i64>| Stamp {
        epoch: page.epoch,
        cursor: cursor.unwrap_or(page.cursor),
    };
    for record in &page.messages {
        applier.message(record, stamp(record.sync_cursor))?;
    }
    for record in &page.tasks {
        applier.task(record, stamp(record.sync_cursor))?;
    }
    for record in &page.task_messages {
        applier.link(record, stamp(record.sync_cursor))?;
    }
    for stub in &page.own {
        applier.stub(stub, stamp(Some(stub.sync_cursor())), sent)?;
    }
    applier.drain_waiting()?;
    applier.finish()?;
    set_value(tx, "epoch", page.epoch)?;
    set_value(tx, "cursor", page.cursor)?;
    set_value(tx, "mark", page.mark.as_deref())?;
    note_witness(tx, page)?;
    if !page.has_more {
        set_value(tx, "recovering", rusqlite::types::Null)?;
    }
    Ok(Applied::Page {
        rows: page.messages.len() + page.tasks.len() + page.task_messages.len(),
    })
}

/// A local change has ended: what is held for its row is applied, or dropped if the change was acknowledged above it.
/// `force`: the change was superseded.
pub fn end_of_change(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    key: &RowKey,
    ident: i64,
    force: bool,
) -> Result<(), ApplyError> {
    let table = key.table;
    let held: Option<(String, Stamp)> = tx
        .prepare_cached("SELECT body, epoch, cursor FROM sync_held WHERE table_name = ?1 AND ident = ?2")?
        .query_row(rusqlite::params![table.name(), ident], |row| {
            Ok((
                row.get(0)?,
                Stamp {
                    epoch: row.get(1)?,
                    cursor: row.get(2)?,
                },
            ))
        })
        .optional()?;
    let Some((body, held)) = held else { return Ok(()) };
    if key.is_pending(tx)? {
        return Ok(());
    }
    tx.prepare_cached("DELETE FROM sync_held WHERE table_name = ?1 AND ident = ?2")?
        .execute(rusqlite::params![table.name(), ident])?;
    if plan::held_applies(acked_stamp(tx, table, ident)?, held, force) {
        apply_body(tx, owner, context, table, &body, held)?;
    }
    Ok(())
}

/// Whether a version is held for a row that has no change pending: the change ended otherwise, as when its row made
/// way to a new one under the same id.
pub fn held_without_change(conn: &Connection) -> rusqlite::Result<bool> {
    let mut held = conn.prepare_cached("SELECT table_name, ident FROM sync_held")?;
    let mut rows = held.query([])?;
    while let Some(row) = rows.next()? {
        if !is_change_pending(conn, &row.get::<_, String>(0)?, row.get(1)?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Applies or drops what is held for rows without a pending change.
pub fn release_held(tx: &Connection, owner: &Owner, context: &Context) -> Result<(), ApplyError> {
    let held: Vec<(String, i64, String, Stamp)> = tx
        .prepare_cached("SELECT table_name, ident, body, epoch, cursor FROM sync_held")?
        .query_map([], |row| {
            let stamp = Stamp {
                epoch: row.get(3)?,
                cursor: row.get(4)?,
            };
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, stamp))
        })?
        .collect::<Result<_, _>>()?;
    for (name, ident, body, stamp) in held {
        if is_change_pending(tx, &name, ident)? {
            continue;
        }
        tx.prepare_cached("DELETE FROM sync_held WHERE table_name = ?1 AND ident = ?2")?
            .execute(rusqlite::params![name, ident])?;
        if let Some(table) = Table::from_name(&name)
            && plan::held_applies(acked_stamp(tx, table, ident)?, stamp, false)
        {
            apply_body(tx, owner, context, table, &body, stamp)?;
        }
    }
    Ok(())
}

fn is_change_pending(conn: &Connection, table: &str, ident: i64) -> rusqlite::Result<bool> {
    let key = match Table::from_name(table) {
        Some(Table::Messages) => identity::message_by_ident(conn, ident)?
            .and_then(|found| found.row_id)
            .map(RowKey::message),
        Some(Table::TaskTracking) => {
            identity::task_by_ident(conn, ident)?.map(|found| RowKey::task(&found.local_id))
        }
        Some(Table::TaskMessages) => link::link_key(conn, ident)?,
        None => None,
    };
    match key {
        Some(key) => key.is_pending(conn),
        None => Ok(false),
    }
}

/// Pulled rows that `quarantine retry` released.
pub fn apply_released(tx: &Connection, owner: &Owner, context: &Context) -> Result<usize, ApplyError> {
    let released = quarantine::take_released(tx)?;
    for (table, body, stamp) in &released {
        apply_body(tx, owner, context, *table, body, *stamp)?;
    }
    Ok(released.len())
}

/// Takes up a new device id, since this file's history has parted from what the server knows of the old one: the
/// batch in flight is void, everything is pulled anew from 0, and only then pushed (PROTOCOL 5).
pub fn take_new_device_id(tx: &Connection, new: DeviceId) -> rusqlite::Result<()> {
    let old = store::device_id(tx)?;
    let former: Option<String> = value(tx, "former_devices")?;
    let former = former.map_or_else(|| old.to_string(), |former| format!("{former} {old}"));
    set_value(tx, "former_devices", former)?;
    set_value(tx, "device_id", new.to_string())?;
    set_value(tx, "push_seq", 0)?;
    set_value(tx, "cursor", 0)?;
    for key in ["mark", "batch_nonce"] {
        set_value(tx, key, rusqlite::types::Null)?;
    }
    set_value(tx, "recovering", 1)?;
    let newest: i64 = tx.query_row("SELECT coalesce(max(seq), 0) FROM sync_queue", [], |row| {
        row.get(0)
    })?;
    set_value(tx, "recovery_seq", newest)?;
    tx.execute_batch("DELETE FROM sync_held; DELETE FROM sync_links_waiting;")
}

fn apply_body(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    table: Table,
    body: &str,
    stamp: Stamp,
) -> Result<(), ApplyError> {
    let unreadable =
        |error: serde_json::Error| ApplyError::Protocol(format!("a stored {} record: {error}", table.name()));
    let mut applier = Applier::begin(tx, owner, context)?;
    match table {
        Table::Messages => {
            let record: MessageRecord = serde_json::from_str(body).map_err(unreadable)?;
            applier.message(&record, stamp)?;
        }
        Table::TaskTracking => {
            let record: TaskRecord = serde_json::from_str(body).map_err(unreadable)?;
            applier.task(&record, stamp)?;
        }
        Table::TaskMessages => {
            let record: LinkRecord = serde_json::from_str(body).map_err(unreadable)?;
            applier.link(&record, stamp)?;
        }
    }
    applier.drain_waiting()?;
    Ok(applier.finish()?)
}

fn acked_stamp(tx: &Connection, table: Table, ident: i64) -> rusqlite::Result<Stamp> {
    let acked = |acked: Option<Acked>| acked.unwrap_or_default().stamp;
    Ok(match table {
        Table::Messages => acked(identity::message_by_ident(tx, ident)?.map(|found| found.acked)),
        Table::TaskTracking => acked(identity::task_by_ident(tx, ident)?.map(|found| found.acked)),
        Table::TaskMessages => link::link_by_ident(tx, ident)?
            .map(|link| link.stamp)
            .unwrap_or_default(),
    })
}

/// The newest (cursor, mark) ever seen proves to a restored server that it is one.
fn note_witness(tx: &Connection, page: &PullPage) -> rusqlite::Result<()> {
    let seen: i64 = value(tx, "witness_cursor")?.unwrap_or(0);
    if let Some(mark) = &page.mark
        && page.cursor >= seen
    {
        set_value(tx, "witness_cursor", page.cursor)?;
        set_value(tx, "witness_mark", mark.as_str())?;
    }
    Ok(())
}
