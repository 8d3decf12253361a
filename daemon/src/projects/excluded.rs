//! `sync_excluded`: rows with a change that is not sent, since their project is excluded.

use rusqlite::{Connection, OptionalExtension as _};
use serde::Serialize;

use super::Place;
use crate::key::RowKey;

/// An entry, for `why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// As it was called when the row was judged.
    pub project: String,
    /// RFC 3339.
    pub since: String,
}

/// The row stays here. A row that was here before keeps its time.
pub fn set_aside(
    tx: &Connection,
    key: &RowKey,
    session: &str,
    place: &Place,
    now: &str,
) -> rusqlite::Result<()> {
    let known = tx
        .prepare_cached(
            "UPDATE sync_excluded SET session_id = ?3, project = ?4 WHERE table_name = ?1 AND row_id IS ?2",
        )?
        .execute(rusqlite::params![
            key.table.name(),
            key.key,
            session,
            place.name()
        ])?;
    if known == 0 {
        tx.prepare_cached(
            "INSERT INTO sync_excluded (table_name, row_id, session_id, project, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(rusqlite::params![
            key.table.name(),
            key.key,
            session,
            place.name(),
            now
        ])?;
    }
    Ok(())
}

/// The row may leave, equals what the cloud has, or is gone.
pub fn forget(tx: &Connection, key: &RowKey) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM sync_excluded WHERE table_name = ?1 AND row_id IS ?2")?
        .execute(rusqlite::params![key.table.name(), key.key])?;
    Ok(())
}

pub fn holds(conn: &Connection, key: &RowKey) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM sync_excluded WHERE table_name = ?1 AND row_id IS ?2")?
        .exists(rusqlite::params![key.table.name(), key.key])
}

pub fn count(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT count(*) FROM sync_excluded")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

pub fn entry(conn: &Connection, key: &RowKey) -> rusqlite::Result<Option<Entry>> {
    conn.prepare_cached("SELECT project, at FROM sync_excluded WHERE table_name = ?1 AND row_id IS ?2")?
        .query_row(rusqlite::params![key.table.name(), key.key], |row| {
            Ok(Entry {
                project: row.get(0)?,
                since: row.get(1)?,
            })
        })
        .optional()
}

/// Rows of a session whose project has been named only now are judged again.
pub(super) fn queue_session(tx: &Connection, session: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO sync_queue (table_name, row_id, op)
         SELECT table_name, row_id, 'scan' FROM sync_excluded WHERE session_id = ?1 ORDER BY id",
    )?
    .execute([session])?;
    Ok(())
}
