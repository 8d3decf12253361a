//! Messages: every column travels. What has no field of its own on the wire goes in `metadata` under its name.

use std::borrow::Cow;

use coditect_shared::check::{self, Refusal};
use coditect_shared::hash::message_hash;
use coditect_shared::{ContentHash, MessageRecord, TenantId};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use super::cells::{fingerprint, from_json, text, to_json, unfit, writer_hash};
use super::forms::{Here, redact_message, restored_message};
use super::{Found, Owner, Unfit, quoted};
use crate::redaction::{Findings, Redactor};

/// Columns of `messages` that the contract names and that travel in `metadata`: absent there, they become NULL.
pub(super) const METADATA_COLUMNS: [&str; 8] = [
    "source_type",
    "source_file",
    "checkpoint",
    "extracted_at",
    "content_length",
    "has_code",
    "has_markdown",
    "agent_context",
];

/// A message of this file, in the form in which it is sent. Its record has neither `ref` nor `origin`.
#[derive(Clone, Debug)]
pub struct LocalMessage {
    pub record: MessageRecord,
    /// Of the content that is sent.
    pub hash: ContentHash,
    /// Of the row as it stands here: what is redacted of it makes no difference.
    pub version: i64,
    /// What was redacted, by kind.
    pub findings: Findings,
    here: Option<Box<Here<MessageRecord>>>,
}

impl LocalMessage {
    /// Of what is sent, and of what stands here.
    pub fn hashes(&self) -> [ContentHash; 2] {
        [self.hash, self.hash_here()]
    }

    pub fn hash_here(&self) -> ContentHash {
        self.here.as_ref().map_or(self.hash, |here| here.hash)
    }

    pub fn content_here(&self) -> &str {
        &self.record_here().content
    }

    /// A pulled message as it is to be written over this one: it takes no secret away.
    pub fn restored<'r>(&self, pulled: &'r MessageRecord) -> Cow<'r, MessageRecord> {
        restored_message(pulled, self.record_here(), &self.record)
    }

    fn record_here(&self) -> &MessageRecord {
        self.here.as_ref().map_or(&self.record, |here| &here.record)
    }
}

impl Owner {
    pub fn message_exists(&self, conn: &Connection, id: i64) -> rusqlite::Result<bool> {
        conn.prepare_cached(&format!(
            "SELECT 1 FROM messages WHERE {} = ?1",
            self.message_key()
        ))?
        .exists([id])
    }

    pub fn read_message(
        &self,
        conn: &Connection,
        tenant: TenantId,
        redactor: &Redactor,
        id: i64,
    ) -> rusqlite::Result<Found<LocalMessage>> {
        let mut statement = conn.prepare_cached(&self.select_message)?;
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else {
            return Ok(Found::Gone);
        };
        let checked = self
            .message_record(row)
            .and_then(|record| local_message(tenant, redactor, record));
        Ok(match checked {
            Ok(message) => Found::Row(message),
            Err(refusal) => {
                let fingerprint = fingerprint(row, self.message_columns.len());
                Found::Unfit(Unfit { refusal, fingerprint })
            }
        })
    }

    /// Whether a record stands in this file exactly as it came. Else a column may be missing, may have a value of its
    /// own, or may make another type of what is written.
    pub fn holds_as_it_came(&self, record: &MessageRecord) -> bool {
        let here = |name: &str| self.message_columns.iter().any(|column| column == name);
        self.message_as_contracted
            && record.metadata.keys().all(|name| here(name))
            && (record.created_at.is_none() || here("timestamp"))
    }

    /// Inserts a pulled message; gives its local id and the writer's hash that stands there, which is the one it
    /// came with if that was free.
    ///
    /// OR ABORT, here and in the other writes: the owner's own ON CONFLICT clauses may say ROLLBACK, which would end our
    /// transaction with all of its page, or IGNORE and REPLACE, which would lose a row without a word.
    pub fn insert_message(
        &self,
        tx: &Connection,
        record: &MessageRecord,
        hash: ContentHash,
    ) -> rusqlite::Result<(i64, Option<String>)> {
        let mut columns = self.message_values(record);
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
            .prepare_cached(&format!(
                "INSERT OR ABORT INTO messages ({names}) VALUES ({marks})"
            ))?
            .insert(rusqlite::params_from_iter(
                columns.into_iter().map(|(_, value)| value),
            ))?;
        Ok((row_id, writer_hash))
    }

    /// Brings a message to a pulled version. Its local id and the writer's hash stay.
    pub fn update_message(&self, tx: &Connection, id: i64, record: &MessageRecord) -> rusqlite::Result<()> {
        let columns = self.message_values(record);
        let sets = columns
            .iter()
            .map(|(name, _)| format!("{} = ?", quoted(name)))
            .collect::<Vec<_>>()
            .join(", ");
        let sql = format!(
            "UPDATE OR ABORT messages SET {sets} WHERE {} = ?",
            self.message_key()
        );
        let values = columns
            .into_iter()
            .map(|(_, value)| value)
            .chain([Value::Integer(id)]);
        tx.prepare_cached(&sql)?
            .execute(rusqlite::params_from_iter(values))?;
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
                _ => match to_json(name, value)? {
                    Some(json) => drop(record.metadata.insert(name.clone(), json)),
                    // Absence says nothing of a column that the other file may not have; NULL does.
                    None if name != "timestamp" && !METADATA_COLUMNS.contains(&name.as_str()) => {
                        record.metadata.insert(name.clone(), serde_json::Value::Null);
                    }
                    None => {}
                },
            }
        }
        Ok(record)
    }

    /// Values of all columns of this file that a record speaks of, but key, session and writer's hash. What the record
    /// leaves out of the contract's columns is NULL there, and here where that may be.
    fn message_values<'a>(&self, record: &'a MessageRecord) -> Vec<(&'a str, Value)> {
        let mut values = vec![
            ("role", Value::Text(record.role.clone())),
            ("content", Value::Text(record.content.clone())),
        ];
        let here = |name: &str| self.message_columns.iter().any(|column| column == name);
        let mut set = |name: &'a str, value: Value| {
            if here(name) && !(value == Value::Null && self.message_not_null.contains(name)) {
                values.push((name, value));
            }
        };
        match (&record.created_at, record.metadata.get("timestamp")) {
            (Some(time), _) => set("timestamp", Value::Text(time.clone())),
            (None, Some(other)) => set("timestamp", from_json(other)),
            (None, None) => set("timestamp", Value::Null),
        }
        let own_field = ["session_id", "role", "content", "hash", "timestamp"];
        for (name, value) in &record.metadata {
            if !own_field.contains(&name.as_str()) && *name != self.message_key {
                set(name, from_json(value));
            }
        }
        for name in METADATA_COLUMNS {
            if !record.metadata.contains_key(name) {
                set(name, Value::Null);
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

fn local_message(
    tenant: TenantId,
    redactor: &Redactor,
    record: MessageRecord,
) -> Result<LocalMessage, Refusal> {
    let mut findings = Findings::new();
    let Some(sent) = redact_message(redactor, &record, &mut findings) else {
        let (hash, _) = check::message(tenant, &record)?;
        return Ok(LocalMessage {
            version: record.version(hash),
            record,
            hash,
            findings,
            here: None,
        });
    };
    let (hash, _) = check::message(tenant, &sent)?;
    let hash_here = message_hash(tenant, &record.session_id, &record.content);
    Ok(LocalMessage {
        version: record.version(hash_here),
        record: sent,
        hash,
        findings,
        here: Some(Box::new(Here {
            record,
            hash: hash_here,
        })),
    })
}

fn session_value(record: &MessageRecord) -> Value {
    if record.session_null {
        Value::Null
    } else {
        Value::Text(record.session_id.clone())
    }
}
