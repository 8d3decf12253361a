//! Rows that would stall the rest, set aside with the reason, to be looked at and tried again (P10).
//!
//! 'up': the server refused the row, or it cannot travel as it is. 'down': the owner's own constraints refused a
//! pulled row, whose body is kept. An entry belongs to a content, not to a row id: a changed row is tried anew.

use coditect_shared::Stamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use serde::Serialize;

use crate::key::{KeyPart, RowKey, Table};

/// One entry, for `quarantine list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub id: i64,
    /// `up` or `down`.
    pub direction: String,
    pub table: String,
    /// Local key; of a pulled row its key in the cloud.
    pub row: String,
    pub code: String,
    pub message: String,
    /// RFC 3339.
    pub at: String,
}

/// Why a row is set aside.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    pub code: &'a str,
    pub message: &'a str,
}

pub fn list(conn: &Connection) -> rusqlite::Result<Vec<Entry>> {
    newest(conn, usize::MAX)
}

/// All entries, and of these those on their way up.
pub fn count(conn: &Connection) -> rusqlite::Result<(u64, u64)> {
    conn.prepare_cached("SELECT count(*), coalesce(sum(direction = 'up'), 0) FROM sync_quarantine")?
        .query_row([], |row| {
            Ok((
                row.get::<_, i64>(0)?.unsigned_abs(),
                row.get::<_, i64>(1)?.unsigned_abs(),
            ))
        })
}

/// The newest entries, the oldest of them first.
pub fn newest(conn: &Connection, limit: usize) -> rusqlite::Result<Vec<Entry>> {
    conn.prepare_cached(
        "SELECT id, direction, table_name, row_id, row_id2, code, message, at FROM
           (SELECT * FROM sync_quarantine ORDER BY id DESC LIMIT ?1) ORDER BY id",
    )?
    .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let (key, key2): (KeyPart, KeyPart) = (row.get(3)?, row.get(4)?);
        let row_name = if key2 == KeyPart::Null {
            key.to_string()
        } else {
            format!("{key}, {key2}")
        };
        Ok(Entry {
            id: row.get(0)?,
            direction: row.get(1)?,
            table: row.get(2)?,
            row: row_name,
            code: row.get(5)?,
            message: row.get(6)?,
            at: row.get(7)?,
        })
    })?
    .collect()
}

/// Tries entries again: rows of this file go back to the outbox, pulled ones are released, and the
/// daemon applies them. None: all of them. Gives the number of entries.
pub fn retry(conn: &mut Connection, which: Option<&[i64]>) -> rusqlite::Result<usize> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let chosen: Vec<i64> = match which {
        Some(ids) => ids.to_vec(),
        None => tx
            .prepare("SELECT id FROM sync_quarantine")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?,
    };
    let mut count = 0;
    for id in chosen {
        count += usize::from(retry_one(&tx, id)?);
    }
    tx.commit()?;
    Ok(count)
}

/// Rows set aside on their way up.
pub fn add_up(
    tx: &Connection,
    key: &RowKey,
    fingerprint: &[u8],
    refused: &Refused<'_>,
    now: &str,
) -> rusqlite::Result<()> {
    lift(tx, key)?;
    tx.prepare_cached(
        "INSERT INTO sync_quarantine (direction, table_name, row_id, row_id2, fingerprint, code, message, at)
         VALUES ('up', ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(rusqlite::params![
        key.table.name(),
        key.key,
        key.key2,
        fingerprint,
        refused.code,
        refused.message,
        now
    ])?;
    Ok(())
}

/// A pulled row that the owner's constraints refuse. `cloud_key` names it; a newer version replaces the older.
pub fn add_down(
    tx: &Connection,
    table: Table,
    cloud_key: &str,
    body: &str,
    stamp: Stamp,
    refused: &Refused<'_>,
    now: &str,
) -> rusqlite::Result<()> {
    lift_down(tx, table, cloud_key)?;
    tx.prepare_cached(
        "INSERT INTO sync_quarantine (direction, table_name, row_id, code, message, body, epoch, cursor, at)
         VALUES ('down', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(rusqlite::params![
        table.name(),
        cloud_key,
        refused.code,
        refused.message,
        body,
        stamp.epoch,
        stamp.cursor,
        now
    ])?;
    Ok(())
}

/// A pulled row has been written after all.
pub fn lift_down(tx: &Connection, table: Table, cloud_key: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "DELETE FROM sync_quarantine WHERE direction = 'down' AND table_name = ?1 AND row_id = ?2",
    )?
    .execute([table.name(), cloud_key])?;
    Ok(())
}

/// Whether the row is set aside with this very content. An entry for another content is lifted.
pub fn keeps(tx: &Connection, key: &RowKey, fingerprint: &[u8]) -> rusqlite::Result<bool> {
    let entry: Option<Option<Vec<u8>>> = tx
        .prepare_cached(
            "SELECT fingerprint FROM sync_quarantine
             WHERE direction = 'up' AND table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3",
        )?
        .query_row(rusqlite::params![key.table.name(), key.key, key.key2], |row| {
            row.get(0)
        })
        .optional()?;
    match entry {
        Some(Some(kept)) if kept == fingerprint => Ok(true),
        Some(_) => {
            lift(tx, key)?;
            Ok(false)
        }
        None => Ok(false),
    }
}

/// Whether the row is set aside on its way up, with whatever content.
pub fn holds_up(tx: &Connection, key: &RowKey) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "SELECT 1 FROM sync_quarantine WHERE direction = 'up' AND table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3",
    )?
    .exists(rusqlite::params![key.table.name(), key.key, key.key2])
}

pub fn lift(tx: &Connection, key: &RowKey) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "DELETE FROM sync_quarantine WHERE direction = 'up' AND table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3",
    )?
    .execute(rusqlite::params![key.table.name(), key.key, key.key2])?;
    Ok(())
}

/// Pulled rows that `retry` has released: body, epoch and cursor. They are applied by the daemon.
pub fn take_released(tx: &Connection) -> rusqlite::Result<Vec<(Table, String, Stamp)>> {
    let mut statement = tx.prepare_cached(
        "SELECT table_name, body, epoch, cursor FROM sync_quarantine WHERE direction = 'released' ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        let stamp = Stamp {
            epoch: row.get(2)?,
            cursor: row.get(3)?,
        };
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, stamp))
    })?;
    let mut released = Vec::new();
    for row in rows {
        let (name, body, stamp) = row?;
        released.extend(Table::from_name(&name).map(|table| (table, body, stamp)));
    }
    if !released.is_empty() {
        tx.execute("DELETE FROM sync_quarantine WHERE direction = 'released'", [])?;
    }
    Ok(released)
}

fn retry_one(tx: &Transaction<'_>, id: i64) -> rusqlite::Result<bool> {
    let entry: Option<(String, String, KeyPart, KeyPart)> = tx
        .query_row(
            "SELECT direction, table_name, row_id, row_id2 FROM sync_quarantine WHERE id = ?1",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .optional()?;
    let Some((direction, name, key, key2)) = entry else {
        return Ok(false);
    };
    match (direction.as_str(), Table::from_name(&name)) {
        ("up", Some(table)) => {
            RowKey { table, key, key2 }.queue(tx, "scan")?;
            tx.execute("DELETE FROM sync_quarantine WHERE id = ?1", [id])?;
        }
        ("down", Some(_)) => {
            tx.execute(
                "UPDATE sync_quarantine SET direction = 'released' WHERE id = ?1",
                [id],
            )?;
        }
        (_, _) => return Ok(false),
    }
    Ok(true)
}
