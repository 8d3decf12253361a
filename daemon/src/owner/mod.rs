//! The owner's tables as they stand in this file, and reading and writing single rows of them.
//!
//! Another program may have made them: columns may be missing or more than the contract names. Every column of
//! `messages` travels; what has no field of its own goes in `metadata` under its name. A row is read in the form in which
//! it is sent; `forms` tells what that means for rows that come back.

mod cells;
mod forms;
mod message;
mod task;

use std::collections::BTreeSet;

use coditect_shared::ContentHash;
use coditect_shared::check::Refusal;
use rusqlite::{Connection, OptionalExtension as _};

pub use message::LocalMessage;
use task::TASK_COLUMNS;
pub use task::{LocalTask, version_of as task_version_of};

/// Shape of the owner's tables at one `schema_version`.
#[derive(Debug)]
pub struct Owner {
    schema_version: i64,
    /// The integer primary key of `messages`, nearly always `id`.
    message_key: String,
    message_columns: Vec<String>,
    /// Of these, what may not be NULL.
    message_not_null: BTreeSet<String>,
    /// `messages` is declared as the contract has it, so that a value that fits one such file fits the other.
    message_as_contracted: bool,
    task_columns: BTreeSet<String>,
    /// The owner has triggers of its own on these tables: what we write may not be what stands there afterwards.
    has_triggers: bool,
    select_message: String,
    select_task: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    #[error("table {table} lacks {missing}; the sync needs at least {keys}")]
    Missing {
        table: &'static str,
        missing: String,
        keys: &'static str,
    },
    #[error("{0} is a view, not a table; triggers cannot capture changes of it")]
    View(String),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// A local row as it was found.
#[derive(Debug)]
pub enum Found<T> {
    Gone,
    /// It cannot travel as it is.
    Unfit(Unfit),
    Row(T),
}

/// Why a row cannot travel, and a fingerprint of its content: another content is tried anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub refusal: Refusal,
    pub fingerprint: ContentHash,
}

impl Owner {
    /// A shape that equals none, until the first reading.
    pub fn unread() -> Self {
        Self {
            schema_version: -1,
            message_key: String::new(),
            message_columns: Vec::new(),
            message_not_null: BTreeSet::new(),
            message_as_contracted: false,
            task_columns: BTreeSet::new(),
            has_triggers: false,
            select_message: String::new(),
            select_task: String::new(),
        }
    }

    /// Tables that are there already must be usable; those that are not will be made.
    pub fn check_before_adoption(conn: &Connection) -> Result<(), ShapeError> {
        for name in ["messages", "task_tracking", "task_messages"] {
            let kind: Option<String> = conn
                .query_row(
                    "SELECT type FROM sqlite_master WHERE lower(name) = ?1 AND type IN ('table', 'view')",
                    [name],
                    |row| row.get(0),
                )
                .optional()?;
            match kind.as_deref() {
                Some("view") => return Err(ShapeError::View(name.into())),
                Some(_) if name == "messages" => drop(message_columns(conn)?),
                Some(_) if name == "task_tracking" => drop(task_columns(conn)?),
                Some(_) => link_columns(conn)?,
                None => {}
            }
        }
        Ok(())
    }

    pub fn read(conn: &Connection, schema_version: i64) -> Result<Self, ShapeError> {
        let (message_key, columns) = message_columns(conn)?;
        let message_not_null = columns
            .iter()
            .filter(|column| column.not_null)
            .map(|column| column.name.clone())
            .collect();
        let message_as_contracted = columns.iter().all(Column::is_as_contracted);
        let message_columns: Vec<String> = columns.into_iter().map(|column| column.name).collect();
        let task_columns = task_columns(conn)?;
        link_columns(conn)?;
        let has_triggers = conn
            .prepare(
                "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name NOT LIKE 'sync\\_%' ESCAPE '\\'
                 AND lower(tbl_name) IN ('messages', 'task_tracking', 'task_messages')",
            )?
            .exists([])?;
        let listed = message_columns
            .iter()
            .map(|name| quoted(name))
            .collect::<Vec<_>>()
            .join(", ");
        let select_message = format!(
            "SELECT {listed} FROM messages WHERE {} = ?1",
            quoted(&message_key)
        );
        let listed = TASK_COLUMNS
            .map(|name| if task_columns.contains(name) { name } else { "NULL" })
            .join(", ");
        let select_task = format!("SELECT {listed} FROM task_tracking WHERE id IS ?1");
        Ok(Self {
            schema_version,
            message_key,
            message_columns,
            message_not_null,
            message_as_contracted,
            task_columns,
            has_triggers,
            select_message,
            select_task,
        })
    }

    pub fn schema_version(&self) -> i64 {
        self.schema_version
    }

    /// Quoted, for SQL.
    pub fn message_key(&self) -> String {
        quoted(&self.message_key)
    }

    pub fn has_triggers(&self) -> bool {
        self.has_triggers
    }

    pub fn has_writer_hash(&self) -> bool {
        self.has_message_column("hash")
    }

    pub fn has_message_column(&self, name: &str) -> bool {
        self.message_columns.iter().any(|column| column == name)
    }

    pub fn has_task_column(&self, name: &str) -> bool {
        self.task_columns.contains(name)
    }
}

fn message_columns(conn: &Connection) -> Result<(String, Vec<Column>), ShapeError> {
    let columns = columns(conn, "messages")?;
    let keys: Vec<&Column> = columns.iter().filter(|column| column.is_key).collect();
    // Only INTEGER PRIMARY KEY is the rowid, which alone is never NULL and never moves under VACUUM.
    let key = match keys.as_slice() {
        [key] if key.declared.eq_ignore_ascii_case("integer") => key.name.clone(),
        _ => {
            return Err(ShapeError::Missing {
                table: "messages",
                missing: "an INTEGER PRIMARY KEY".into(),
                keys: "an integer primary key, session_id, role, content",
            });
        }
    };
    require(
        "messages",
        &columns,
        &["session_id", "role", "content"],
        "an integer primary key, session_id, role, content",
    )?;
    let others = columns.into_iter().filter(|column| column.name != key).collect();
    Ok((key, others))
}

fn task_columns(conn: &Connection) -> Result<BTreeSet<String>, ShapeError> {
    let columns = columns(conn, "task_tracking")?;
    require(
        "task_tracking",
        &columns,
        &["id", "task_id", "status"],
        "id, task_id, status",
    )?;
    Ok(columns.into_iter().map(|column| column.name).collect())
}

fn link_columns(conn: &Connection) -> Result<(), ShapeError> {
    let columns = columns(conn, "task_messages")?;
    require(
        "task_messages",
        &columns,
        &["task_id", "message_id", "sequence"],
        "task_id, message_id, sequence",
    )
}

fn require(
    table: &'static str,
    columns: &[Column],
    names: &[&str],
    keys: &'static str,
) -> Result<(), ShapeError> {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !columns.iter().any(|column| column.name == *name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ShapeError::Missing {
        table,
        missing: missing.join(", "),
        keys,
    })
}

struct Column {
    name: String,
    declared: String,
    not_null: bool,
    has_default: bool,
    is_key: bool,
}

impl Column {
    /// Of `messages`: of the contract's affinity, and without a value that is there before anybody wrote it.
    fn is_as_contracted(&self) -> bool {
        let affinity = match self.name.as_str() {
            "content_length" | "has_code" | "has_markdown" => "INTEGER",
            "hash" | "session_id" | "role" | "content" | "timestamp" => "TEXT",
            name if message::METADATA_COLUMNS.contains(&name) => "TEXT",
            _ => return false,
        };
        self.declared.eq_ignore_ascii_case(affinity) && !self.has_default
    }
}

fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = conn.prepare(&format!("PRAGMA table_info({table})"))?;
    let rows = statement.query_map([], |row| {
        // Names of columns know no case in SQLite; ours are lower-case, and so they travel.
        let name = row.get::<_, String>("name")?.to_ascii_lowercase();
        Ok(Column {
            name,
            declared: row.get("type")?,
            not_null: row.get("notnull")?,
            has_default: row.get_ref("dflt_value")? != rusqlite::types::ValueRef::Null,
            is_key: row.get::<_, i64>("pk")? > 0,
        })
    })?;
    rows.collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
