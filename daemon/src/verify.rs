//! What this file holds, as digests that the server computes over the same rows (P16).
//!
//! Local rows are read anew. One that stands as it stood when it was acknowledged counts with what the server acknowledged,
//! which may be its redacted form; any other counts as it would be sent now. Rows deleted here count with the version
//! that the cloud keeps of them. So equality is of contents, not of bookkeeping.

use std::path::Path;

use anyhow::Context as _;
use coditect_shared::digest::TableDigest;
use coditect_shared::{Origin, TenantId};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use uuid::Uuid;

use crate::identity::{self, Acked};
use crate::key::RowKey;
use crate::owner::{Found, Owner};
use crate::projects::excluded;
use crate::redaction::Redactor;
use crate::store;

/// This file in digests, at one cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Local {
    pub epoch: i64,
    pub cursor: i64,
    /// Outbox entries: what is not in the cloud yet.
    pub pending: u64,
    pub held: u64,
    pub quarantined: u64,
    /// Rows of excluded projects that are only here, or only here as they stand now. The cloud's version counts.
    pub excluded: u64,
    pub messages: TableDigest,
    pub tasks: TableDigest,
    pub task_messages: TableDigest,
    /// Rows that only the cloud has, since they were deleted here. They are part of the digests.
    pub deleted_here: Deleted,
    /// Rows that nobody has sent, refused ones aside: a trigger must have been lost.
    pub uncaptured: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deleted {
    pub messages: u64,
    pub tasks: u64,
    pub links: u64,
}

/// Reads the whole file in one snapshot, without writing to it.
pub fn local(path: &Path, redactor: &Redactor) -> anyhow::Result<Local> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
    let mut conn =
        Connection::open_with_flags(path, flags).with_context(|| format!("opening {}", path.display()))?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    let snapshot = conn.transaction()?;
    let conn: &Connection = &snapshot;
    let tenant: String =
        store::value(conn, "bound_tenant")?.context("context.db is bound to no account: log in first")?;
    let tenant: TenantId = tenant.parse()?;
    let owner = Owner::read(conn, 0)?;
    let count = |sql: &str| {
        conn.query_row(sql, [], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
    };
    let mut local = Local {
        epoch: store::value(conn, "epoch")?.unwrap_or(0),
        cursor: store::value(conn, "cursor")?.unwrap_or(0),
        pending: count("SELECT count(*) FROM sync_queue")?,
        held: count("SELECT count(*) FROM sync_held")?,
        quarantined: count("SELECT count(*) FROM sync_quarantine")?,
        excluded: count("SELECT count(*) FROM sync_excluded")?,
        ..Local::default()
    };
    let reading = Reading {
        owner: &owner,
        tenant,
        redactor,
    };
    messages(conn, &reading, &mut local)?;
    tasks(conn, &reading, &mut local)?;
    links(conn, &owner, &mut local)?;
    Ok(local)
}

/// What rows are read with.
struct Reading<'a> {
    owner: &'a Owner,
    tenant: TenantId,
    redactor: &'a Redactor,
}

fn messages(conn: &Connection, reading: &Reading<'_>, local: &mut Local) -> anyhow::Result<()> {
    let owner = reading.owner;
    let mut statement = conn.prepare(
        "SELECT row_id, session_id, origin_hash, origin_occurrence, acked_hash, acked_version FROM sync_messages
         WHERE acked_hash IS NOT NULL ORDER BY row_id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(content_hash) = identity::hash_at(row, 2)? else {
            continue;
        };
        let origin = Origin {
            session_id: row.get(1)?,
            content_hash,
            occurrence: row.get(3)?,
        };
        let Some(acked_hash) = identity::hash_at(row, 4)? else {
            continue;
        };
        let acked = Acked {
            hash: Some(acked_hash),
            version: row.get(5)?,
            ..Acked::default()
        };
        let row_id: Option<i64> = row.get(0)?;
        let found = match row_id {
            Some(row_id) => owner.read_message(conn, reading.tenant, reading.redactor, row_id)?,
            None => Found::Gone,
        };
        let excluded = match row_id {
            Some(row_id) => excluded::holds(conn, &RowKey::message(row_id))?,
            None => false,
        };
        match found {
            // What was sent before its project was excluded, and edited since.
            Found::Row(_) if excluded => local.messages.add_message(&origin, acked_hash),
            // What was sent of it may be redacted, under the rules of that time.
            Found::Row(message) if acked.equals(message.hashes(), message.version) => {
                local.messages.add_message(&origin, acked_hash);
            }
            Found::Row(message) => local.messages.add_message(&origin, message.hash),
            // What cannot be sent is not in the cloud; its last good version is.
            Found::Unfit(_) => local.messages.add_message(&origin, acked_hash),
            Found::Gone => {
                local.deleted_here.messages += 1;
                local.messages.add_message(&origin, acked_hash);
            }
        }
    }
    local.uncaptured += conn
        .query_row(
            &format!(
                "SELECT count(*) FROM messages m WHERE NOT EXISTS (SELECT 1 FROM sync_messages s WHERE s.row_id = m.{key})
                 AND NOT EXISTS (SELECT 1 FROM sync_queue q WHERE q.table_name = 'messages' AND q.row_id = m.{key})
                 AND NOT EXISTS (SELECT 1 FROM sync_quarantine q WHERE q.table_name = 'messages' AND q.row_id = m.{key})
                 AND NOT EXISTS (SELECT 1 FROM sync_excluded q WHERE q.table_name = 'messages' AND q.row_id = m.{key})",
                key = owner.message_key()
            ),
            [],
            |row| row.get::<_, i64>(0),
        )?
        .unsigned_abs();
    Ok(())
}

fn tasks(conn: &Connection, reading: &Reading<'_>, local: &mut Local) -> anyhow::Result<()> {
    let mut statement = conn.prepare(
        "SELECT local_id, cloud_id, acked_hash, acked_version FROM sync_tasks WHERE acked_hash IS NOT NULL",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (local_id, cloud_id): (Value, String) = (row.get(0)?, row.get(1)?);
        let Some(acked_hash) = identity::hash_at(row, 2)? else {
            continue;
        };
        let acked = Acked {
            hash: Some(acked_hash),
            version: row.get(3)?,
            ..Acked::default()
        };
        let id = Uuid::parse_str(&cloud_id).context("a task's id in the cloud")?;
        let is_excluded = excluded::holds(conn, &RowKey::task(&local_id))?;
        match reading
            .owner
            .read_task(conn, reading.tenant, reading.redactor, &local_id, &cloud_id)?
        {
            Found::Row(_) if is_excluded => local.tasks.add_task(id, acked_hash),
            // A file that lacks a column holds the version that it was given, as far as it can.
            Found::Row(task) if acked.equals(task.hashes(), task.version()) => {
                local.tasks.add_task(id, acked_hash)
            }
            Found::Row(task) => local.tasks.add_task(id, task.hash),
            Found::Unfit(_) => local.tasks.add_task(id, acked_hash),
            Found::Gone => {
                local.deleted_here.tasks += 1;
                local.tasks.add_task(id, acked_hash);
            }
        }
    }
    Ok(())
}

fn links(conn: &Connection, owner: &Owner, local: &mut Local) -> anyhow::Result<()> {
    let mut statement = conn.prepare(
        "SELECT t.local_id, t.cloud_id, m.row_id, m.session_id, m.origin_hash, m.origin_occurrence, l.acked_sequence,
           EXISTS (SELECT 1 FROM sync_links_parked p WHERE p.task_id IS t.local_id AND p.message_id = m.row_id)
         FROM sync_links l JOIN sync_tasks t ON t.ident = l.task JOIN sync_messages m ON m.ident = l.message
         WHERE l.acked = 1",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (local_id, cloud_id): (Value, String) = (row.get(0)?, row.get(1)?);
        let Some(content_hash) = identity::hash_at(row, 4)? else {
            continue;
        };
        let message = Origin {
            session_id: row.get(3)?,
            content_hash,
            occurrence: row.get(5)?,
        };
        let id = Uuid::parse_str(&cloud_id).context("a task's id in the cloud")?;
        let found = match row.get::<_, Option<i64>>(2)? {
            Some(row_id) => owner.read_link(conn, &local_id, row_id)?,
            None => None,
        };
        match found {
            // A change of it waits for an end, which may be of an excluded project.
            Some(_) if row.get(7)? => local.task_messages.add_link(id, &message, row.get(6)?),
            Some(sequence) => local.task_messages.add_link(id, &message, sequence),
            None => {
                local.deleted_here.links += 1;
                local.task_messages.add_link(id, &message, row.get(6)?);
            }
        }
    }
    Ok(())
}
