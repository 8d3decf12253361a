//! The owner's tables as they stand in this file, and reading and writing single rows of them.
//!
//! Another program may have made them: columns may be missing or more than the contract names. Every column of
//! `messages` travels; what has no field of its own goes in `metadata` under its name.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use coditect_shared::check::{self, Refusal};
use coditect_shared::hash::sha256;
use coditect_shared::{ContentHash, MessageRecord, TaskRecord, TenantId};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::{Map, Value as Json, json};

/// Columns of `messages` that the contract names and that travel in `metadata`: absent there, they become NULL.
const METADATA_COLUMNS: [&str; 8] = [
    "source_type",
    "source_file",
    "checkpoint",
    "extracted_at",
    "content_length",
    "has_code",
    "has_markdown",
    "agent_context",
];

const TASK_COLUMNS: [&str; 15] = [
    "id",
    "task_id",
    "description",
    "active_form",
    "session_id",
    "project_id",
    "status",
    "outcome",
    "outcome_score",
    "tool_success_count",
    "tool_error_count",
    "user_corrections",
    "started_at",
    "completed_at",
    "updated_at",
];

/// Marks a blob inside `metadata`, which JSON cannot hold as it is.
const BLOB_KEY: &str = "$base64";

/// Shape of the owner's tables at one `schema_version`.
#[derive(Debug)]
pub struct Owner {
    schema_version: i64,
    /// The integer primary key of `messages`, nearly always `id`.
    message_key: String,
    message_columns: Vec<String>,
    task_columns: BTreeSet<String>,
    /// The owner has triggers of its own on these tables: what we write may not be what stands there afterwards.
    has_triggers: bool,
    select_message: String,
    select_task: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    #[error(
        "table {table} lacks {missing}; the sync needs at least an integer primary key, session_id, role and content in messages, and {keys} in {table}"
    )]
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

/// A message of this file, ready to be sent. Its record has neither `ref` nor `origin`.
#[derive(Clone, Debug)]
pub struct LocalMessage {
    pub record: MessageRecord,
    pub hash: ContentHash,
    pub version: i64,
}

/// A task of this file. Its record's `id` is the cloud's.
#[derive(Clone, Debug)]
pub struct LocalTask {
    pub record: TaskRecord,
    pub hash: ContentHash,
}

impl LocalTask {
    pub fn version(&self) -> i64 {
        i64::from_ne_bytes(self.hash.first_u64().to_ne_bytes())
    }
}

impl Owner {
    /// A shape that equals none, until the first reading.
    pub fn unread() -> Self {
        Self {
            schema_version: -1,
            message_key: String::new(),
            message_columns: Vec::new(),
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
                .query_row("SELECT type FROM sqlite_master WHERE name = ?1", [name], |row| {
                    row.get(0)
                })
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
        let (message_key, message_columns) = message_columns(conn)?;
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
        self.message_columns.iter().any(|name| name == "hash")
    }

    pub fn message_exists(&self, conn: &Connection, id: i64) -> rusqlite::Result<bool> {
        conn.prepare_cached(&format!(
            "SELECT 1 FROM messages WHERE {} = ?1",
            self.message_key()
        ))?
        .exists([id])
    }

    pub fn task_exists(&self, conn: &Connection, id: &Value) -> rusqlite::Result<bool> {
        conn.prepare_cached("SELECT 1 FROM task_tracking WHERE id IS ?1")?
            .exists([id])
    }

    pub fn read_message(
        &self,
        conn: &Connection,
        tenant: TenantId,
        id: i64,
    ) -> rusqlite::Result<Found<LocalMessage>> {
        let mut statement = conn.prepare_cached(&self.select_message)?;
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else {
            return Ok(Found::Gone);
        };
        let checked = self.message_record(row).and_then(|record| {
            let (hash, _) = check::message(tenant, &record)?;
            Ok((record, hash))
        });
        Ok(match checked {
            Ok((record, hash)) => {
                let version = record.version(hash);
                Found::Row(LocalMessage {
                    record,
                    hash,
                    version,
                })
            }
            Err(refusal) => {
                let fingerprint = fingerprint(row, self.message_columns.len());
                Found::Unfit(Unfit { refusal, fingerprint })
            }
        })
    }

    /// Reads the task with this local id; its record bears `cloud_id`.
    pub fn read_task(
        &self,
        conn: &Connection,
        tenant: TenantId,
        local_id: &Value,
        cloud_id: &str,
    ) -> rusqlite::Result<Found<LocalTask>> {
        let mut statement = conn.prepare_cached(&self.select_task)?;
        let mut rows = statement.query([local_id])?;
        let Some(row) = rows.next()? else {
            return Ok(Found::Gone);
        };
        let checked = task_record(row, cloud_id).and_then(|record| {
            let (hash, _) = check::task(tenant, &record)?;
            Ok(LocalTask { record, hash })
        });
        Ok(match checked {
            Ok(task) => Found::Row(task),
            Err(refusal) => Found::Unfit(Unfit {
                refusal,
                fingerprint: fingerprint(row, TASK_COLUMNS.len()),
            }),
        })
    }

    /// A link's sequence; the outer None: there is no such link.
    pub fn read_link(
        &self,
        conn: &Connection,
        task: &Value,
        message: i64,
    ) -> rusqlite::Result<Option<Option<i64>>> {
        conn.prepare_cached("SELECT sequence FROM task_messages WHERE task_id IS ?1 AND message_id = ?2")?
            .query_row(rusqlite::params![task, message], |row| {
                Ok(row.get_ref(0)?.as_i64().ok())
            })
            .optional()
    }

    /// Whether this file has a column for all that a record carries.
    pub fn holds_all_of(&self, record: &MessageRecord) -> bool {
        let here = |name: &str| self.message_columns.iter().any(|column| column == name);
        record.metadata.keys().all(|name| here(name)) && (record.created_at.is_none() || here("timestamp"))
    }

    /// Inserts a pulled message; gives its local id and the writer's hash that stands there, which is the one it
    /// came with if that was free.
    pub fn insert_message(
        &self,
        tx: &Connection,
        record: &MessageRecord,
        hash: ContentHash,
    ) -> rusqlite::Result<(i64, Option<String>)> {
        let mut columns = self.message_values(record, false);
        columns.push(("session_id", session_value(record)));
        let mut writer_hash = None;
        if self.has_writer_hash() {
            let free = self.free_writer_hash(tx, record, hash)?;
            writer_hash = Some(free.clone());
            columns.push(("hash", Value::Text(free)));
        }
        let names = columns
            .iter()
            .map(|(name, _)| quoted(name))
            .collect::<Vec<_>>()
            .join(", ");
        let marks = vec!["?"; columns.len()].join(", ");
        let row_id = tx
            .prepare_cached(&format!("INSERT INTO messages ({names}) VALUES ({marks})"))?
            .insert(rusqlite::params_from_iter(
                columns.into_iter().map(|(_, value)| value),
            ))?;
        Ok((row_id, writer_hash))
    }

    /// Brings a message to a pulled version. Its local id and the writer's hash stay.
    pub fn update_message(&self, tx: &Connection, id: i64, record: &MessageRecord) -> rusqlite::Result<()> {
        let columns = self.message_values(record, true);
        let sets = columns
            .iter()
            .map(|(name, _)| format!("{} = ?", quoted(name)))
            .collect::<Vec<_>>()
            .join(", ");
        let sql = format!("UPDATE messages SET {sets} WHERE {} = ?", self.message_key());
        let values = columns
            .into_iter()
            .map(|(_, value)| value)
            .chain([Value::Integer(id)]);
        tx.prepare_cached(&sql)?
            .execute(rusqlite::params_from_iter(values))?;
        Ok(())
    }

    /// Inserts or updates the task with this local id.
    pub fn write_task(&self, tx: &Connection, local_id: &Value, record: &TaskRecord) -> rusqlite::Result<()> {
        let columns: Vec<(&str, Value)> = task_values(record)
            .into_iter()
            .filter(|(name, _)| self.task_columns.contains(*name))
            .collect();
        let sets = columns
            .iter()
            .map(|(name, _)| format!("{name} = ?"))
            .collect::<Vec<_>>()
            .join(", ");
        let values = || columns.iter().map(|(_, value)| value).chain([local_id]);
        let updated = tx
            .prepare_cached(&format!("UPDATE task_tracking SET {sets} WHERE id IS ?"))?
            .execute(rusqlite::params_from_iter(values()))?;
        if updated > 0 {
            return Ok(());
        }
        let names = columns
            .iter()
            .map(|(name, _)| *name)
            .chain(["id"])
            .collect::<Vec<_>>()
            .join(", ");
        let marks = vec!["?"; columns.len() + 1].join(", ");
        tx.prepare_cached(&format!("INSERT INTO task_tracking ({names}) VALUES ({marks})"))?
            .execute(rusqlite::params_from_iter(values()))?;
        Ok(())
    }

    pub fn write_link(
        &self,
        tx: &Connection,
        task: &Value,
        message: i64,
        sequence: Option<i64>,
    ) -> rusqlite::Result<()> {
        let updated = tx
            .prepare_cached("UPDATE task_messages SET sequence = ?3 WHERE task_id IS ?1 AND message_id = ?2")?
            .execute(rusqlite::params![task, message, sequence])?;
        if updated == 0 {
            tx.prepare_cached(
                "INSERT INTO task_messages (task_id, message_id, sequence) VALUES (?1, ?2, ?3)",
            )?
            .execute(rusqlite::params![task, message, sequence])?;
        }
        Ok(())
    }

    fn message_record(&self, row: &Row<'_>) -> Result<MessageRecord, Refusal> {
        let mut record = MessageRecord::default();
        for (index, name) in self.message_columns.iter().enumerate() {
            let value = row
                .get_ref(index)
                .map_err(|error| unfit(name, &error.to_string()))?;
            match name.as_str() {
                "session_id" => match value {
                    ValueRef::Null => record.session_null = true,
                    ValueRef::Integer(number) => record.session_id = number.to_string(),
                    ValueRef::Text(_) | ValueRef::Real(_) | ValueRef::Blob(_) => {
                        record.session_id = text(name, value)?.to_owned();
                    }
                },
                "role" => record.role = text(name, value)?.to_owned(),
                "content" => record.content = text(name, value)?.to_owned(),
                "hash" => record.hash = writer_hash(value),
                "timestamp" if matches!(value, ValueRef::Text(_)) => {
                    record.created_at = Some(text(name, value)?.to_owned());
                }
                _ => {
                    if let Some(json) = to_json(name, value)? {
                        record.metadata.insert(name.clone(), json);
                    }
                }
            }
        }
        Ok(record)
    }

    /// Values of all columns of this file that a record speaks of, but key, session and writer's hash. An update
    /// also clears the contract's columns that the record leaves out; an insert leaves those to their defaults.
    fn message_values<'a>(&self, record: &'a MessageRecord, clearing: bool) -> Vec<(&'a str, Value)> {
        let mut values = vec![
            ("role", Value::Text(record.role.clone())),
            ("content", Value::Text(record.content.clone())),
        ];
        let here = |name: &str| self.message_columns.iter().any(|column| column == name);
        if here("timestamp") {
            match (&record.created_at, record.metadata.get("timestamp")) {
                (Some(time), _) => values.push(("timestamp", Value::Text(time.clone()))),
                (None, Some(other)) => values.push(("timestamp", from_json(other))),
                (None, None) if clearing => values.push(("timestamp", Value::Null)),
                (None, None) => {}
            }
        }
        let own_field = ["session_id", "role", "content", "hash", "timestamp"];
        for (name, value) in &record.metadata {
            if here(name) && !own_field.contains(&name.as_str()) {
                values.push((name, from_json(value)));
            }
        }
        if clearing {
            for name in METADATA_COLUMNS {
                if here(name) && !record.metadata.contains_key(name) {
                    values.push((name, Value::Null));
                }
            }
        }
        values
    }

    fn free_writer_hash(
        &self,
        tx: &Connection,
        record: &MessageRecord,
        hash: ContentHash,
    ) -> rusqlite::Result<String> {
        let mut taken = tx.prepare_cached("SELECT 1 FROM messages WHERE hash = ?1")?;
        if let Some(own) = &record.hash
            && !taken.exists([own])?
        {
            return Ok(own.clone());
        }
        let origin = record.origin_with(hash);
        let made = format!("{}:{}", origin.content_hash, origin.occurrence);
        if !taken.exists([&made])? {
            return Ok(made);
        }
        Ok(format!("{made}:{}", uuid::Uuid::new_v4()))
    }
}

fn message_columns(conn: &Connection) -> Result<(String, Vec<String>), ShapeError> {
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
    let names = columns
        .into_iter()
        .map(|column| column.name)
        .filter(|name| *name != key)
        .collect();
    Ok((key, names))
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
    is_key: bool,
}

fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = conn.prepare(&format!("PRAGMA table_info({table})"))?;
    let rows = statement.query_map([], |row| {
        // Names of columns know no case in SQLite; ours are lower-case, and so they travel.
        let name = row.get::<_, String>("name")?.to_ascii_lowercase();
        Ok(Column {
            name,
            declared: row.get("type")?,
            is_key: row.get::<_, i64>("pk")? > 0,
        })
    })?;
    rows.collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn session_value(record: &MessageRecord) -> Value {
    if record.session_null {
        Value::Null
    } else {
        Value::Text(record.session_id.clone())
    }
}

/// Only its equality matters, so that a number or blob serves in its text form.
fn writer_hash(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        ValueRef::Blob(bytes) => Some(sha256(bytes).to_string()),
    }
}

fn text<'a>(name: &str, value: ValueRef<'a>) -> Result<&'a str, Refusal> {
    match value {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes)
            .map_err(|error| unfit(name, &format!("is no UTF-8: bad byte at {}", error.valid_up_to()))),
        ValueRef::Null => Err(unfit(name, "is NULL")),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err(unfit(name, "is a number, not a text")),
        ValueRef::Blob(_) => Err(unfit(name, "is a blob, not a text")),
    }
}

fn optional_text(name: &str, value: ValueRef<'_>) -> Result<Option<String>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Text(_) | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => {
            text(name, value).map(|text| Some(text.to_owned()))
        }
    }
}

fn optional_count(name: &str, value: ValueRef<'_>) -> Result<Option<i64>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => Ok(Some(number)),
        ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => Err(unfit(name, "is no integer")),
    }
}

fn optional_score(name: &str, value: ValueRef<'_>) -> Result<Option<f64>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Real(number) => Ok(Some(number)),
        #[expect(
            clippy::cast_precision_loss,
            reason = "scores beyond 1 are refused by the check that follows"
        )]
        ValueRef::Integer(number) => Ok(Some(number as f64)),
        ValueRef::Text(_) | ValueRef::Blob(_) => Err(unfit(name, "is no number")),
    }
}

fn to_json(name: &str, value: ValueRef<'_>) -> Result<Option<Json>, Refusal> {
    Ok(Some(match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => serde_json::Number::from_f64(number)
            .map(Json::Number)
            .ok_or_else(|| unfit(name, "is infinite, which JSON cannot hold"))?,
        ValueRef::Text(_) => text(name, value)?.into(),
        ValueRef::Blob(bytes) => json!({ BLOB_KEY: BASE64.encode(bytes) }),
    }))
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Integer(i64::from(*flag)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Integer(number),
            (None, Some(number)) => Value::Real(number),
            (None, None) => Value::Text(number.to_string()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Object(fields) => blob(fields).map_or_else(|| Value::Text(value.to_string()), Value::Blob),
        Json::Array(_) => Value::Text(value.to_string()),
    }
}

fn blob(fields: &Map<String, Json>) -> Option<Vec<u8>> {
    let encoded = fields.get(BLOB_KEY)?.as_str()?;
    BASE64.decode(encoded).ok()
}

fn task_record(row: &Row<'_>, cloud_id: &str) -> Result<TaskRecord, Refusal> {
    let at = |index: usize| {
        row.get_ref(index)
            .map_err(|error| unfit(TASK_COLUMNS[index], &error.to_string()))
    };
    let optional = |index: usize| optional_text(TASK_COLUMNS[index], at(index)?);
    let count = |index: usize| optional_count(TASK_COLUMNS[index], at(index)?);
    Ok(TaskRecord {
        id: cloud_id.to_owned(),
        task_id: text("task_id", at(1)?)?.to_owned(),
        // A file without descriptions still has tasks.
        description: optional(2)?.unwrap_or_default(),
        active_form: optional(3)?,
        session_id: optional(4)?,
        project_id: optional(5)?,
        status: text("status", at(6)?)?.to_owned(),
        outcome: optional(7)?,
        outcome_score: optional_score("outcome_score", at(8)?)?,
        tool_success_count: count(9)?,
        tool_error_count: count(10)?,
        user_corrections: count(11)?,
        started_at: optional(12)?,
        completed_at: optional(13)?,
        updated_at: optional(14)?,
        ..TaskRecord::default()
    })
}

fn task_values(record: &TaskRecord) -> Vec<(&'static str, Value)> {
    let text = |value: &Option<String>| value.clone().map_or(Value::Null, Value::Text);
    let count = |value: Option<i64>| value.map_or(Value::Null, Value::Integer);
    vec![
        ("task_id", Value::Text(record.task_id.clone())),
        ("description", Value::Text(record.description.clone())),
        ("active_form", text(&record.active_form)),
        ("session_id", text(&record.session_id)),
        ("project_id", text(&record.project_id)),
        ("status", Value::Text(record.status.clone())),
        ("outcome", text(&record.outcome)),
        (
            "outcome_score",
            record.outcome_score.map_or(Value::Null, Value::Real),
        ),
        ("tool_success_count", count(record.tool_success_count)),
        ("tool_error_count", count(record.tool_error_count)),
        ("user_corrections", count(record.user_corrections)),
        ("started_at", text(&record.started_at)),
        ("completed_at", text(&record.completed_at)),
        ("updated_at", text(&record.updated_at)),
    ]
}

fn fingerprint(row: &Row<'_>, columns: usize) -> ContentHash {
    let mut bytes = Vec::new();
    for index in 0..columns {
        match row.get_ref(index) {
            Ok(ValueRef::Null) | Err(_) => bytes.push(0),
            Ok(ValueRef::Integer(number)) => {
                bytes.push(1);
                bytes.extend(number.to_be_bytes());
            }
            Ok(ValueRef::Real(number)) => {
                bytes.push(2);
                bytes.extend(number.to_be_bytes());
            }
            Ok(ValueRef::Text(text)) => {
                bytes.push(3);
                bytes.extend(sha256(text).as_bytes());
            }
            Ok(ValueRef::Blob(blob)) => {
                bytes.push(4);
                bytes.extend(sha256(blob).as_bytes());
            }
        }
    }
    sha256(&bytes)
}

fn unfit(field: &str, reason: &str) -> Refusal {
    Refusal {
        code: "invalid_field",
        message: format!("{field} {reason}"),
    }
}
