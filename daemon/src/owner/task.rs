//! Tasks and the links from them to messages.

use std::borrow::Cow;

use coditect_shared::check::{self, Refusal};
use coditect_shared::hash::task_hash;
use coditect_shared::{ContentHash, TaskRecord, TenantId};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::cells::{fingerprint, optional_count, optional_score, optional_text, text, unfit};
use super::forms::{Here, redact_task, restored_task};
use super::{Found, Owner, Unfit};
use crate::redaction::{Findings, Redactor};

pub(super) const TASK_COLUMNS: [&str; 15] = [
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

/// A task of this file, in the form in which it is sent. Its record's `id` is the cloud's.
#[derive(Clone, Debug)]
pub struct LocalTask {
    pub record: TaskRecord,
    /// Of the version that is sent.
    pub hash: ContentHash,
    /// What was redacted, by kind.
    pub findings: Findings,
    here: Option<Box<Here<TaskRecord>>>,
}

impl LocalTask {
    /// Of the row as it stands here: what is redacted of it makes no difference.
    pub fn version(&self) -> i64 {
        version_of(self.hash_here())
    }

    /// Of what is sent, and of what stands here.
    pub fn hashes(&self) -> [ContentHash; 2] {
        [self.hash, self.hash_here()]
    }

    pub fn hash_here(&self) -> ContentHash {
        self.here.as_ref().map_or(self.hash, |here| here.hash)
    }

    /// A pulled task as it is to be written over this one: it takes no secret away.
    pub fn restored<'r>(&self, pulled: &'r TaskRecord) -> Cow<'r, TaskRecord> {
        let here = self.here.as_ref().map_or(&self.record, |here| &here.record);
        restored_task(pulled, here, &self.record)
    }
}

/// Tells versions of a task apart.
pub fn version_of(hash: ContentHash) -> i64 {
    i64::from_ne_bytes(hash.first_u64().to_ne_bytes())
}

impl Owner {
    pub fn task_exists(&self, conn: &Connection, id: &Value) -> rusqlite::Result<bool> {
        conn.prepare_cached("SELECT 1 FROM task_tracking WHERE id IS ?1")?
            .exists([id])
    }

    /// Reads the task with this local id; its record bears `cloud_id`.
    pub fn read_task(
        &self,
        conn: &Connection,
        tenant: TenantId,
        redactor: &Redactor,
        local_id: &Value,
        cloud_id: &str,
    ) -> rusqlite::Result<Found<LocalTask>> {
        let mut statement = conn.prepare_cached(&self.select_task)?;
        let mut rows = statement.query([local_id])?;
        let Some(row) = rows.next()? else {
            return Ok(Found::Gone);
        };
        let checked = task_record(row, cloud_id).and_then(|record| local_task(tenant, redactor, record));
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
            .prepare_cached(&format!("UPDATE OR ABORT task_tracking SET {sets} WHERE id IS ?"))?
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
        tx.prepare_cached(&format!(
            "INSERT OR ABORT INTO task_tracking ({names}) VALUES ({marks})"
        ))?
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
            .prepare_cached(
                "UPDATE OR ABORT task_messages SET sequence = ?3 WHERE task_id IS ?1 AND message_id = ?2",
            )?
            .execute(rusqlite::params![task, message, sequence])?;
        if updated == 0 {
            tx.prepare_cached(
                "INSERT OR ABORT INTO task_messages (task_id, message_id, sequence) VALUES (?1, ?2, ?3)",
            )?
            .execute(rusqlite::params![task, message, sequence])?;
        }
        Ok(())
    }
}

fn local_task(tenant: TenantId, redactor: &Redactor, record: TaskRecord) -> Result<LocalTask, Refusal> {
    let mut findings = Findings::new();
    let Some(sent) = redact_task(redactor, &record, &mut findings) else {
        let (hash, _) = check::task(tenant, &record)?;
        return Ok(LocalTask {
            record,
            hash,
            findings,
            here: None,
        });
    };
    let (hash, _) = check::task(tenant, &sent)?;
    let hash_here = task_hash(tenant, &record);
    Ok(LocalTask {
        record: sent,
        hash,
        findings,
        here: Some(Box::new(Here {
            record,
            hash: hash_here,
        })),
    })
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
