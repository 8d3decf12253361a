//! context.db as people read it: sessions, tasks, transcripts. Read-only, with or without a daemon, and without any of
//! our tables.
//!
//! The owner's tables have no index by session, and get none from us. A list is one pass over the file; a transcript
//! goes by ids, in reads that end while nobody looks: a pager left open must not keep the WAL from shrinking (P9).

mod device;
mod filter;
mod sessions;
mod tasks;
mod transcript;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::owner::Owner;
use crate::projects::{self, Place};
use crate::store;

pub use device::{Device, DeviceFilter};
pub use filter::{ProjectGlob, Since, moment};
pub use sessions::{Session, SessionFilter, Sync, SyncState, TaskCounts};
pub use tasks::{Task, TaskFilter};
pub use transcript::{Chunk, Found, Message};

/// How long another program's exclusive lock is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The `schema_version` from which on our tables have all that is read here (0004_devices.sql).
const SCHEMA_WITH_DEVICES: i64 = 3;

/// An open file, for reading alone.
#[derive(Debug)]
pub struct Browser {
    conn: Connection,
    owner: Owner,
}

impl Browser {
    /// None where there is no file, or nothing in it yet.
    pub fn open(path: &Path) -> anyhow::Result<Option<Browser>> {
        if !path.exists() {
            return Ok(None);
        }
        let reading = || format!("reading {}", path.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags).with_context(reading)?;
        conn.busy_timeout(BUSY_TIMEOUT).with_context(reading)?;
        let has = |table| store::table_exists(&conn, table).with_context(reading);
        if !(has("messages")? && has("task_tracking")? && has("task_messages")?) {
            return Ok(None);
        }
        let owner = Owner::read(&conn, 0).with_context(reading)?;
        Ok(Some(Browser { conn, owner }))
    }

    /// Whether our tables are there as this program knows them. A file that only a former version has opened is shown
    /// without them, until the daemon has brought it up to date.
    fn is_synced(&self) -> rusqlite::Result<bool> {
        if !store::table_exists(&self.conn, "sync_state")? {
            return Ok(false);
        }
        let version: Option<i64> = store::value(&self.conn, "schema_version")?;
        Ok(version.is_some_and(|version| version >= SCHEMA_WITH_DEVICES))
    }

    /// The file is bound to an account: what is not waiting is in the cloud.
    fn is_bound(&self) -> rusqlite::Result<bool> {
        Ok(self.is_synced()? && store::value::<String>(&self.conn, "bound_user")?.is_some())
    }

    fn places(&self) -> rusqlite::Result<HashMap<String, Place>> {
        projects::of_sessions(&self.conn, &self.owner)
    }

    /// A column of `messages`, or NULL where this file has none of that name.
    fn message_column(&self, name: &'static str) -> &'static str {
        match self.owner.has_message_column(name) {
            true => name,
            false => "NULL",
        }
    }

    fn task_column(&self, name: &'static str) -> &'static str {
        match self.owner.has_task_column(name) {
            true => name,
            false => "NULL",
        }
    }

    /// How many rows of a table each session has for which an entry of ours stands somewhere.
    fn marked(&self, table: &str, entries: &str) -> rusqlite::Result<HashMap<String, u64>> {
        let (key, session) = match table {
            "messages" => (self.owner.message_key(), "session_id"),
            _ => ("id".into(), self.task_column("session_id")),
        };
        // `IN` looks each of the entries up once, however many a row has.
        let sql = format!(
            "SELECT {session}, count(*) FROM {table} WHERE {key} IN (SELECT row_id FROM {entries}) GROUP BY 1"
        );
        let mut statement = self.conn.prepare(&sql)?;
        let mut rows = statement.query([table])?;
        let mut marked = HashMap::new();
        while let Some(row) = rows.next()? {
            let count: i64 = row.get(1)?;
            *marked.entry(text(row.get_ref(0)?)).or_default() += count.unsigned_abs();
        }
        Ok(marked)
    }
}

/// Whatever stands in a column, as a text; NULL is empty.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn some_text(value: ValueRef<'_>) -> Option<String> {
    Some(text(value)).filter(|text| !text.is_empty())
}
