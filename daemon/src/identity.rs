//! Identities: what makes a local row the same row on every device (PROTOCOL 1).
//!
//! Given in outbox order, everywhere in the same way: while a batch is built, and for all that is queued before a
//! pulled page is looked at. The ops newer than what an identity has seen decide between an edit and a new row
//! under an id that was given out again; no op is taken for content.

use coditect_shared::{ContentHash, DeviceId, Origin, Stamp};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row};
use uuid::Uuid;

use crate::key::RawKey;
use crate::outbox::Context;
use crate::owner::{Found, LocalMessage, LocalTask, Owner, Unfit};
use crate::rules::{Rule, holds};
use crate::store;

/// Identity of a message, as `sync_messages` holds it.
#[derive(Clone, Debug)]
pub struct MessageIdentity {
    pub ident: i64,
    /// None: the tombstone of a row deleted here.
    pub row_id: Option<i64>,
    pub origin: Origin,
    pub writer_hash: Option<String>,
    pub sent: bool,
    pub acked: Acked,
    seen_seq: i64,
}

/// Identity of a task, as `sync_tasks` holds it.
#[derive(Clone, Debug)]
pub struct TaskIdentity {
    pub ident: i64,
    pub local_id: Value,
    pub cloud_id: String,
    pub gone: bool,
    pub acked: Acked,
}

/// The version of a row that the server has acknowledged, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    pub hash: Option<ContentHash>,
    /// What the local row looked like then, before redaction. None: unknown, since only a stub told of it.
    pub version: Option<i64>,
    pub stamp: Stamp,
}

impl Acked {
    pub fn is_known(&self) -> bool {
        self.hash.is_some()
    }

    /// Whether a local row equals the acknowledged version: there is nothing to send. `hashes` are those of the row as it
    /// is sent and as it stands here; where the version is known, it alone decides, whatever is redacted today.
    pub fn equals(&self, hashes: [ContentHash; 2], version: i64) -> bool {
        match (self.hash, self.version) {
            (None, _) => false,
            (Some(acked), None) => hashes.contains(&acked),
            (Some(_), Some(acked)) => acked == version,
        }
    }
}

/// What stands behind the key of a queued message.
#[derive(Debug)]
pub enum Identified {
    /// The row is gone; the identity that remains as its tombstone, if any.
    Gone(Option<i64>),
    Unfit(Unfit, Option<i64>),
    Row(Box<(MessageIdentity, LocalMessage)>),
}

/// Gives the queued message its identity, or confirms the one it has.
pub fn identify_message(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    row_id: i64,
) -> rusqlite::Result<Identified> {
    let mut identity = message_of_row(tx, row_id)?;
    let message = match owner.read_message(tx, context.tenant, &context.policy.redactor, row_id)? {
        Found::Gone => {
            if let Some(identity) = &identity {
                park_links(tx, owner, identity.ident, row_id)?;
            }
            let tombstone = match &identity {
                Some(identity) => bury(tx, identity)?.then_some(identity.ident),
                None => None,
            };
            return Ok(Identified::Gone(tombstone));
        }
        Found::Unfit(unfit) => {
            // A row written anew buries the old one even if it cannot travel yet: the entries that tell so end here.
            let ops = ops_after(tx, row_id, identity.as_ref().map_or(0, |old| old.seen_seq))?;
            if let Some(old) = &identity
                && ops.fresh
                && holds(Rule::OpsDecide)
            {
                bury(tx, old)?;
                identity = None;
            }
            return Ok(Identified::Unfit(unfit, identity.map(|identity| identity.ident)));
        }
        Found::Row(message) => message,
    };
    let seen = identity.as_ref().map_or(0, |identity| identity.seen_seq);
    let ops = ops_after(tx, row_id, seen)?;
    if let Some(old) = &identity
        && !is_same_row(old, &message, ops.fresh)
    {
        requeue_links(tx, old.ident, row_id)?;
        bury(tx, old)?;
        identity = None;
    }
    let mut identity = match identity {
        Some(identity) => identity,
        None => match taken_over(tx, owner, &message)? {
            Some(mut identity) => {
                identity.row_id = Some(row_id);
                identity
            }
            None => new_message(tx, row_id, &message)?,
        },
    };
    let unheard_of = !identity.sent && !identity.acked.is_known();
    if identity.origin.content_hash != message.hash && (unheard_of || !holds(Rule::OriginKept)) {
        // Nobody has heard of it yet: it is as if it had been written like this in the first place.
        identity.origin.content_hash = message.hash;
        identity.origin.occurrence = free_occurrence(tx, message.hash)?;
        message_came(tx, &identity.origin)?;
    }
    identity.seen_seq = identity.seen_seq.max(ops.newest);
    identity.writer_hash.clone_from(&message.record.hash);
    tx.prepare_cached(
        "UPDATE sync_messages SET row_id = ?2, origin_hash = ?3, origin_occurrence = ?4, writer_hash = ?5, seen_seq = ?6
         WHERE ident = ?1",
    )?
    .execute(rusqlite::params![
        identity.ident,
        identity.row_id,
        identity.origin.content_hash.as_bytes(),
        identity.origin.occurrence,
        identity.writer_hash,
        identity.seen_seq,
    ])?;
    Ok(Identified::Row(Box::new((identity, message))))
}

/// Identities for all that is queued beyond `identified_seq`, in outbox order, at most `limit` outbox rows; whether
/// all are done. Needed before a pulled page is planned: the owner's insert made meanwhile would double otherwise.
pub fn identify_queued(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    limit: usize,
) -> rusqlite::Result<bool> {
    let from: i64 = store::value(tx, "identified_seq")?.unwrap_or(0);
    let queued: Vec<(i64, String, RawKey)> = tx
        .prepare_cached(
            "SELECT seq, table_name, row_id FROM sync_queue WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?
        .query_map(
            rusqlite::params![from, i64::try_from(limit).unwrap_or(i64::MAX)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?
        .collect::<Result<_, _>>()?;
    for (_, table, key) in &queued {
        // A key that is no UTF-8 is set aside when its turn comes.
        let RawKey::Key(key) = key else { continue };
        match (table.as_str(), key) {
            ("messages", Value::Integer(row_id)) => drop(identify_message(tx, owner, context, *row_id)?),
            ("task_tracking", key) => drop(identify_task(tx, owner, context, key)?),
            (_, _) => {}
        }
    }
    if let Some((last, _, _)) = queued.last() {
        store::set_value(tx, "identified_seq", last)?;
    }
    Ok(queued.len() < limit)
}

/// Gives the queued task its identity. None: the row is gone and never had one.
pub fn identify_task(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    local_id: &Value,
) -> rusqlite::Result<Option<(TaskIdentity, Found<LocalTask>)>> {
    let known = task_of_row(tx, local_id)?;
    let mut identity = match known {
        Some(identity) => identity,
        None if !owner.task_exists(tx, local_id)? => return Ok(None),
        None => new_task(tx, context.device, local_id)?,
    };
    let found = owner.read_task(
        tx,
        context.tenant,
        &context.policy.redactor,
        local_id,
        &identity.cloud_id,
    )?;
    let gone = matches!(found, Found::Gone);
    if gone != identity.gone {
        identity.gone = gone;
        tx.prepare_cached("UPDATE sync_tasks SET gone = ?2 WHERE ident = ?1")?
            .execute(rusqlite::params![identity.ident, gone])?;
    }
    Ok(Some((identity, found)))
}

pub fn message_of_row(tx: &Connection, row_id: i64) -> rusqlite::Result<Option<MessageIdentity>> {
    message_where(tx, "row_id = ?1", &[&row_id])
}

pub fn message_by_ident(tx: &Connection, ident: i64) -> rusqlite::Result<Option<MessageIdentity>> {
    message_where(tx, "ident = ?1", &[&ident])
}

pub fn message_by_origin(tx: &Connection, origin: &Origin) -> rusqlite::Result<Option<MessageIdentity>> {
    let hash = origin.content_hash.as_bytes();
    message_where(
        tx,
        "origin_hash = ?1 AND origin_occurrence = ?2 AND session_id = ?3",
        &[hash, &origin.occurrence, &origin.session_id],
    )
}

/// A row of this file that was never acknowledged, by the writer's own hash.
pub fn unacknowledged_by_writer_hash(
    tx: &Connection,
    session_id: &str,
    writer_hash: &str,
) -> rusqlite::Result<Option<MessageIdentity>> {
    message_where(
        tx,
        "writer_hash = ?1 AND session_id = ?2 AND acked_hash IS NULL AND row_id IS NOT NULL",
        &[&writer_hash, &session_id],
    )
}

pub fn task_of_row(tx: &Connection, local_id: &Value) -> rusqlite::Result<Option<TaskIdentity>> {
    task_where(tx, "local_id IS ?1", local_id)
}

pub fn task_by_ident(tx: &Connection, ident: i64) -> rusqlite::Result<Option<TaskIdentity>> {
    task_where(tx, "ident = ?1", &ident)
}

/// Of two local rows that map to one cloud id the first keeps it, so that there is at most one.
pub fn task_by_cloud_id(tx: &Connection, cloud_id: &str) -> rusqlite::Result<Option<TaskIdentity>> {
    task_where(tx, "cloud_id = ?1", &cloud_id)
}

pub fn insert_task(tx: &Connection, local_id: &Value, cloud_id: &str) -> rusqlite::Result<TaskIdentity> {
    let ident = tx
        .prepare_cached("INSERT INTO sync_tasks (local_id, cloud_id) VALUES (?1, ?2)")?
        .insert(rusqlite::params![local_id, cloud_id])?;
    task_came(tx, cloud_id)?;
    let (local_id, cloud_id) = (local_id.clone(), cloud_id.to_owned());
    Ok(TaskIdentity {
        ident,
        local_id,
        cloud_id,
        gone: false,
        acked: Acked::default(),
    })
}

/// The task came from this machine, as far as that is known.
pub fn set_task_hardware(tx: &Connection, ident: i64, hardware_id: Option<&str>) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE sync_tasks SET hardware_id = coalesce(?2, '') WHERE ident = ?1")?
        .execute(rusqlite::params![ident, hardware_id])?;
    Ok(())
}

/// A message with this origin is known now: links that wait for it are looked at before the next page is in.
pub fn message_came(tx: &Connection, origin: &Origin) -> rusqlite::Result<()> {
    let waits = tx
        .prepare_cached("SELECT 1 FROM sync_links_waiting WHERE origin_hash = ?1 AND origin_occurrence = ?2")?
        .exists(rusqlite::params![
            origin.content_hash.as_bytes(),
            origin.occurrence
        ])?;
    if waits {
        store::set_value(tx, "waiting_ready", 1)?;
    }
    Ok(())
}

fn task_came(tx: &Connection, cloud_id: &str) -> rusqlite::Result<()> {
    let waits = tx
        .prepare_cached("SELECT 1 FROM sync_links_waiting WHERE task_id = ?1")?
        .exists([cloud_id])?;
    if waits {
        store::set_value(tx, "waiting_ready", 1)?;
    }
    Ok(())
}

/// An identity for a pulled message, acknowledged under the cursor it came with.
/// `hardware_id`: the machine that it came from, as far as that is known.
pub fn insert_pulled_message(
    tx: &Connection,
    row_id: i64,
    origin: &Origin,
    writer_hash: Option<&str>,
    hardware_id: Option<&str>,
    acked: &Acked,
) -> rusqlite::Result<i64> {
    message_came(tx, origin)?;
    tx.prepare_cached(
        "INSERT INTO sync_messages (row_id, session_id, origin_hash, origin_occurrence, writer_hash, sent,
           acked_hash, acked_version, acked_epoch, acked_cursor, hardware_id, seen_seq)
         VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, ?9, coalesce(?10, ''),
           (SELECT coalesce(max(seq), 0) FROM sync_queue))",
    )?
    .insert(rusqlite::params![
        row_id,
        origin.session_id,
        origin.content_hash.as_bytes(),
        origin.occurrence,
        writer_hash,
        acked.hash.as_ref().map(ContentHash::as_bytes),
        acked.version,
        acked.stamp.epoch,
        acked.stamp.cursor,
        hardware_id,
    ])
}

pub fn set_message_acked(tx: &Connection, ident: i64, acked: &Acked) -> rusqlite::Result<()> {
    set_acked(
        tx,
        "UPDATE sync_messages SET acked_hash = ?2, acked_version = ?3, acked_epoch = ?4, acked_cursor = ?5 WHERE ident = ?1",
        ident,
        acked,
    )
}

pub fn set_task_acked(tx: &Connection, ident: i64, acked: &Acked) -> rusqlite::Result<()> {
    set_acked(
        tx,
        "UPDATE sync_tasks SET acked_hash = ?2, acked_version = ?3, acked_epoch = ?4, acked_cursor = ?5 WHERE ident = ?1",
        ident,
        acked,
    )
}

fn set_acked(tx: &Connection, sql: &str, ident: i64, acked: &Acked) -> rusqlite::Result<()> {
    tx.prepare_cached(sql)?.execute(rusqlite::params![
        ident,
        acked.hash.as_ref().map(ContentHash::as_bytes),
        acked.version,
        acked.stamp.epoch,
        acked.stamp.cursor,
    ])?;
    Ok(())
}

/// An edit keeps session and, unless the row was written anew, its identity. The writer's own hash outweighs the
/// ops: INSERT OR REPLACE under the same hash is an edit by other means.
fn is_same_row(identity: &MessageIdentity, message: &LocalMessage, fresh: bool) -> bool {
    let same_writer_hash = identity.writer_hash.is_some() && identity.writer_hash == message.record.hash;
    identity.origin.session_id == message.record.session_id
        && (same_writer_hash || !fresh || !holds(Rule::OpsDecide))
}

/// SQLite gives the highest id out again. Links that the owner left standing under it will then belong to the new row,
/// and wait for it.
fn park_links(tx: &Connection, owner: &Owner, ident: i64, row_id: i64) -> rusqlite::Result<()> {
    let key = owner.message_key();
    let is_given_out_again = !tx
        .prepare_cached(&format!("SELECT 1 FROM messages WHERE {key} > ?1"))?
        .exists([row_id])?;
    if !is_given_out_again {
        return Ok(());
    }
    tx.prepare_cached(
        "INSERT OR IGNORE INTO sync_links_parked (task_id, message_id)
         SELECT t.local_id, ?2 FROM sync_links l JOIN sync_tasks t ON t.ident = l.task
         WHERE l.message = ?1 AND EXISTS
           (SELECT 1 FROM task_messages k WHERE k.task_id IS t.local_id AND k.message_id = ?2)",
    )?
    .execute([ident, row_id])?;
    Ok(())
}

/// Links that still stand under the row's id belong to the new row now; no trigger tells of that.
fn requeue_links(tx: &Connection, ident: i64, row_id: i64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO sync_queue (table_name, row_id, row_id2, op)
         SELECT 'task_messages', t.local_id, ?2, 'scan' FROM sync_links l JOIN sync_tasks t ON t.ident = l.task
         WHERE l.message = ?1",
    )?
    .execute([ident, row_id])?;
    Ok(())
}

/// Leaves a tombstone of what was sent or acknowledged; anything else dies with its row and frees its number.
/// Whether a tombstone remains.
fn bury(tx: &Connection, identity: &MessageIdentity) -> rusqlite::Result<bool> {
    if identity.sent || identity.acked.is_known() {
        tx.prepare_cached("UPDATE sync_messages SET row_id = NULL WHERE ident = ?1")?
            .execute([identity.ident])?;
        return Ok(true);
    }
    tx.prepare_cached("DELETE FROM sync_links WHERE message = ?1")?
        .execute([identity.ident])?;
    tx.prepare_cached("DELETE FROM sync_messages WHERE ident = ?1")?
        .execute([identity.ident])?;
    Ok(false)
}

/// The identity of a row that is gone, if the new row bears its session and writer's hash: OR REPLACE displaces rows
/// without any trigger, and a second import after a purge must not double.
fn taken_over(
    tx: &Connection,
    owner: &Owner,
    message: &LocalMessage,
) -> rusqlite::Result<Option<MessageIdentity>> {
    let Some(writer_hash) = message.record.hash.as_ref().filter(|_| holds(Rule::TakeOver)) else {
        return Ok(None);
    };
    let condition = format!(
        "writer_hash = ?1 AND session_id = ?2
         AND (row_id IS NULL OR NOT EXISTS (SELECT 1 FROM messages m WHERE m.{} = row_id))
         ORDER BY ident DESC LIMIT 1",
        owner.message_key()
    );
    message_where(tx, &condition, &[writer_hash, &message.record.session_id])
}

fn new_message(tx: &Connection, row_id: i64, message: &LocalMessage) -> rusqlite::Result<MessageIdentity> {
    let origin = Origin {
        session_id: message.record.session_id.clone(),
        content_hash: message.hash,
        occurrence: free_occurrence(tx, message.hash)?,
    };
    message_came(tx, &origin)?;
    let ident = tx
        .prepare_cached(
            "INSERT INTO sync_messages (row_id, session_id, origin_hash, origin_occurrence, writer_hash)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .insert(rusqlite::params![
            row_id,
            origin.session_id,
            origin.content_hash.as_bytes(),
            origin.occurrence,
            message.record.hash,
        ])?;
    Ok(MessageIdentity {
        ident,
        row_id: Some(row_id),
        origin,
        writer_hash: message.record.hash.clone(),
        sent: false,
        acked: Acked::default(),
        seen_seq: 0,
    })
}

/// The lowest number that no origin of this session and hash ever had here; tombstones count. The session is part
/// of the hash.
fn free_occurrence(tx: &Connection, hash: ContentHash) -> rusqlite::Result<u32> {
    if !holds(Rule::OccurrenceKept) {
        return tx.query_row(
            "SELECT coalesce(max(origin_occurrence) + 1, 0) FROM sync_messages
             WHERE origin_hash = ?1 AND row_id IS NOT NULL",
            [hash.as_bytes()],
            |row| row.get(0),
        );
    }

    let (count, next): (u32, u32) = tx
        .prepare_cached(
            "SELECT count(*), coalesce(max(origin_occurrence) + 1, 0) FROM sync_messages WHERE origin_hash = ?1",
        )?
        .query_row([hash.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if count == next {
        return Ok(next);
    }
    let mut statement = tx.prepare_cached(
        "SELECT origin_occurrence FROM sync_messages WHERE origin_hash = ?1 ORDER BY origin_occurrence",
    )?;
    let mut free = 0;
    for taken in statement.query_map([hash.as_bytes()], |row| row.get::<_, u32>(0))? {
        match taken? {
            taken if taken > free => break,
            taken => free = taken + 1,
        }
    }
    Ok(free)
}

struct Ops {
    newest: i64,
    /// An insert or a delete is among them.
    fresh: bool,
}

fn ops_after(tx: &Connection, row_id: i64, seen: i64) -> rusqlite::Result<Ops> {
    tx.prepare_cached(
        "SELECT coalesce(max(seq), 0), coalesce(max(op IN ('ins', 'del')), 0) FROM sync_queue
         WHERE table_name = 'messages' AND row_id = ?1 AND seq > ?2",
    )?
    .query_row([row_id, seen], |row| {
        Ok(Ops {
            newest: row.get(0)?,
            fresh: row.get(1)?,
        })
    })
}

fn new_task(tx: &Connection, device: DeviceId, local_id: &Value) -> rusqlite::Result<TaskIdentity> {
    let text = match local_id {
        Value::Text(text) => text.clone(),
        // With the type, since 1 and '1' may be two rows.
        Value::Integer(_) | Value::Real(_) | Value::Null | Value::Blob(_) => format!("{local_id:?}"),
    };
    let named = || Uuid::new_v5(&device.0, text.as_bytes()).to_string();
    let cloud_id = Uuid::parse_str(&text).map_or_else(|_| named(), |id| id.hyphenated().to_string());
    let cloud_id = if task_by_cloud_id(tx, &cloud_id)?.is_some() {
        named()
    } else {
        cloud_id
    };
    insert_task(tx, local_id, &cloud_id)
}

fn message_where(
    tx: &Connection,
    condition: &str,
    params: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<Option<MessageIdentity>> {
    tx.prepare_cached(&format!(
        "SELECT ident, row_id, session_id, origin_hash, origin_occurrence, writer_hash, sent,
           acked_hash, acked_version, acked_epoch, acked_cursor, seen_seq
         FROM sync_messages WHERE {condition}"
    ))?
    .query_row(params, |row| {
        Ok(MessageIdentity {
            ident: row.get(0)?,
            row_id: row.get(1)?,
            origin: Origin {
                session_id: row.get(2)?,
                content_hash: hash_at(row, 3)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?,
                occurrence: row.get(4)?,
            },
            writer_hash: row.get(5)?,
            sent: row.get(6)?,
            acked: acked_at(row, 7)?,
            seen_seq: row.get(11)?,
        })
    })
    .optional()
}

fn task_where(
    tx: &Connection,
    condition: &str,
    param: &dyn rusqlite::ToSql,
) -> rusqlite::Result<Option<TaskIdentity>> {
    tx.prepare_cached(&format!(
        "SELECT ident, local_id, cloud_id, gone, acked_hash, acked_version, acked_epoch, acked_cursor
         FROM sync_tasks WHERE {condition}"
    ))?
    .query_row([param], |row| {
        Ok(TaskIdentity {
            ident: row.get(0)?,
            local_id: row.get(1)?,
            cloud_id: row.get(2)?,
            gone: row.get(3)?,
            acked: acked_at(row, 4)?,
        })
    })
    .optional()
}

/// Hash, version, epoch and cursor, in four columns from `first`.
fn acked_at(row: &Row<'_>, first: usize) -> rusqlite::Result<Acked> {
    Ok(Acked {
        hash: hash_at(row, first)?,
        version: row.get(first + 1)?,
        stamp: Stamp {
            epoch: row.get(first + 2)?,
            cursor: row.get(first + 3)?,
        },
    })
}

pub(crate) fn hash_at(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<ContentHash>> {
    Ok(row
        .get::<_, Option<[u8; 32]>>(index)?
        .map(ContentHash::from_bytes))
}
