//! Which local row an outbox entry speaks of.

use rusqlite::Connection;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};
use serde::{Deserialize, Serialize};

/// The three tables that are synced, in the order in which their rows are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    Messages,
    TaskTracking,
    TaskMessages,
}

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::TaskTracking => "task_tracking",
            Self::TaskMessages => "task_messages",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Messages, Self::TaskTracking, Self::TaskMessages]
            .into_iter()
            .find(|table| table.name() == name)
    }
}

/// A value of a key column. SQLite lets any type stand in it; reals are kept by their bits, to be hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeyPart {
    Int(i64),
    Text(String),
    Other {
        real_bits: Option<u64>,
        blob: Option<Vec<u8>>,
    },
    Null,
}

/// A row by its local key. Only links have a second part: the message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowKey {
    pub table: Table,
    pub key: KeyPart,
    pub key2: KeyPart,
}

impl RowKey {
    pub fn message(row_id: i64) -> Self {
        Self {
            table: Table::Messages,
            key: KeyPart::Int(row_id),
            key2: KeyPart::Null,
        }
    }

    pub fn task(local_id: &Value) -> Self {
        Self {
            table: Table::TaskTracking,
            key: local_id.clone().into(),
            key2: KeyPart::Null,
        }
    }

    pub fn link(task: &Value, message: i64) -> Self {
        Self {
            table: Table::TaskMessages,
            key: task.clone().into(),
            key2: KeyPart::Int(message),
        }
    }

    /// Whether a change of this row waits in the outbox.
    pub fn is_pending(&self, conn: &Connection) -> rusqlite::Result<bool> {
        conn.prepare_cached(
            "SELECT 1 FROM sync_queue WHERE table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3",
        )?
        .exists(rusqlite::params![self.table.name(), self.key, self.key2])
    }

    /// Takes the row's entries up to `seq` off the outbox; newer ones stay, since they speak of a newer change.
    /// Gives their number.
    pub fn unqueue(&self, tx: &Connection, seq: i64) -> rusqlite::Result<usize> {
        tx.prepare_cached(
            "DELETE FROM sync_queue WHERE table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3 AND seq <= ?4",
        )?
        .execute(rusqlite::params![self.table.name(), self.key, self.key2, seq])
    }

    pub fn queue(&self, tx: &Connection, op: &str) -> rusqlite::Result<()> {
        tx.prepare_cached(
            "INSERT INTO sync_queue (table_name, row_id, row_id2, op) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(rusqlite::params![self.table.name(), self.key, self.key2, op])?;
        Ok(())
    }

    /// The first and the newest outbox entry of this row.
    pub fn queued_range(&self, conn: &Connection) -> rusqlite::Result<(i64, i64)> {
        conn.prepare_cached(
            "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM sync_queue
             WHERE table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3",
        )?
        .query_row(rusqlite::params![self.table.name(), self.key, self.key2], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }
}

/// A key as it stands in a column: SQLite lets a text of any bytes stand there, which no record can name.
#[derive(Clone, Debug, PartialEq)]
pub enum RawKey {
    Key(Value),
    NoUtf8(Vec<u8>),
}

impl RawKey {
    pub fn into_part(self) -> Result<KeyPart, Vec<u8>> {
        match self {
            Self::Key(value) => Ok(value.into()),
            Self::NoUtf8(bytes) => Err(bytes),
        }
    }
}

impl FromSql for RawKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Text(bytes) if std::str::from_utf8(bytes).is_err() => Ok(Self::NoUtf8(bytes.to_vec())),
            ValueRef::Text(_)
            | ValueRef::Null
            | ValueRef::Integer(_)
            | ValueRef::Real(_)
            | ValueRef::Blob(_) => Value::column_result(value).map(Self::Key),
        }
    }
}

impl ToSql for RawKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Key(value) => value.into(),
            Self::NoUtf8(bytes) => ValueRef::Text(bytes),
        }))
    }
}

impl std::fmt::Display for KeyPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Other {
                real_bits: Some(bits),
                ..
            } => f64::from_bits(*bits).fmt(f),
            Self::Other { blob, .. } => write!(f, "{:?}", blob.as_deref().unwrap_or_default()),
            Self::Null => f.write_str("NULL"),
        }
    }
}

impl From<Value> for KeyPart {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(number) => Self::Int(number),
            Value::Text(text) => Self::Text(text),
            Value::Real(number) => Self::Other {
                real_bits: Some(number.to_bits()),
                blob: None,
            },
            Value::Blob(bytes) => Self::Other {
                real_bits: None,
                blob: Some(bytes),
            },
        }
    }
}

impl From<KeyPart> for Value {
    fn from(part: KeyPart) -> Self {
        match part {
            KeyPart::Null
            | KeyPart::Other {
                real_bits: None,
                blob: None,
            } => Self::Null,
            KeyPart::Int(number) => Self::Integer(number),
            KeyPart::Text(text) => Self::Text(text),
            KeyPart::Other {
                real_bits: Some(bits),
                ..
            } => Self::Real(f64::from_bits(bits)),
            KeyPart::Other {
                blob: Some(bytes), ..
            } => Self::Blob(bytes),
        }
    }
}

impl FromSql for KeyPart {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Value::column_result(value).map(Self::from)
    }
}

impl ToSql for KeyPart {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(self.clone().into()))
    }
}
