//! Another program that writes context.db: plain SQL on the owner's tables, ignorant of the sync.

use rusqlite::{Connection, Result, params};
use uuid::Uuid;

/// Inserts a message with a hash that no other row has; returns its id.
///
/// # Errors
/// Those of SQLite: whether the owner's write succeeds is what tests look at.
pub fn message(file: &Connection, session: &str, content: &str) -> Result<i64> {
    message_with_hash(file, &Uuid::new_v4().to_string(), session, content)
}

pub fn message_with_hash(file: &Connection, hash: &str, session: &str, content: &str) -> Result<i64> {
    file.prepare_cached(
        "INSERT INTO messages (hash, session_id, role, content, source_type, timestamp, content_length)
         VALUES (?1, ?2, 'assistant', ?3, 'assistant', '2026-11-24T06:00:00.123Z', ?4)",
    )?
    .execute(params![hash, session, content, content.chars().count() as i64])?;
    Ok(file.last_insert_rowid())
}

/// Inserts a pending task under a new UUID; returns that.
pub fn task(file: &Connection, session: &str, description: &str) -> Result<String> {
    let id = Uuid::new_v4().to_string();
    file.execute(
        "INSERT INTO task_tracking (id, task_id, description, active_form, session_id, project_id, status, updated_at)
         VALUES (?1, '1', ?2, 'doing it', ?3, 'acme/shop', 'pending', '2026-11-24T06:00:00Z')",
        params![id, description, session],
    )?;
    Ok(id)
}

/// Moves a task to another status.
pub fn set_status(file: &Connection, task: &str, status: &str) -> Result<()> {
    file.execute(
        "UPDATE task_tracking SET status = ?2 WHERE id = ?1",
        params![task, status],
    )
    .map(drop)
}

pub fn link(file: &Connection, task: &str, message: i64, sequence: i64) -> Result<()> {
    file.execute(
        "INSERT INTO task_messages (task_id, message_id, sequence) VALUES (?1, ?2, ?3)",
        params![task, message, sequence],
    )
    .map(drop)
}

/// `SELECT count(*) FROM …`.
pub fn count(file: &Connection, from: &str) -> i64 {
    file.query_row(&format!("SELECT count(*) FROM {from}"), [], |row| row.get(0))
        .expect("counting rows")
}

/// The one text that a query finds.
pub fn text(file: &Connection, query: &str) -> String {
    file.query_row(query, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{error} in {query}"))
}
