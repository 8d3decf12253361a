//! Reads what is stored about the identities of a batch.
//!
//! Each look-up is a nested loop into an index, forced by `LATERAL (… OFFSET 0)`: its cost does not depend on how much
//! is stored nor on the planner's idea of it. Tenant and user stand in every statement although row level security
//! adds them: the planner estimates by them, and Citus routes by them.

use std::collections::{HashMap, HashSet};

use coditect_shared::{ContentHash, Origin, Stamp};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::lock::{Head, Scope};
use super::plan::{Batch, Key, Known, StoredLink, StoredMessage, StoredTask, missing_occurrences};
use crate::error::ApiError;

/// Reads what is stored about the batch. The head must be locked: what is read stays true until the commit.
pub(super) async fn known(scope: &Scope<'_>, head: &Head, batch: &Batch) -> Result<Known, ApiError> {
    let mut known = Known {
        epoch: head.epoch,
        head: head.head,
        ..Known::default()
    };
    let origins: HashSet<&Origin> = batch
        .messages
        .iter()
        .map(|claim| &claim.origin)
        .chain(batch.links.iter().map(|claim| &claim.message))
        .collect();
    let keys: HashSet<Key> = batch
        .messages
        .iter()
        .map(|claim| Key {
            session_id: claim.origin.session_id.clone(),
            content_hash: claim.hash,
            occurrence: claim.occurrence,
        })
        .collect();
    let edited: HashSet<(String, ContentHash)> = batch
        .messages
        .iter()
        .filter(|claim| claim.edit || claim.stamp.is_some())
        .map(|claim| (claim.origin.session_id.clone(), claim.hash))
        .collect();
    let tasks: HashSet<Uuid> = batch
        .tasks
        .iter()
        .map(|claim| claim.id)
        .chain(batch.links.iter().map(|claim| claim.task))
        .collect();
    (
        known.messages,
        known.keys,
        known.occurrences,
        known.tasks,
        known.links,
    ) = tokio::try_join!(biased;
        messages(scope, origins.into_iter().collect()),
        taken_keys(scope, keys.into_iter().collect()),
        occurrences_of(scope, edited.into_iter().collect()),
        stored_tasks(scope, tasks.into_iter().collect()),
        stored_links(scope, batch),
    )?;
    // Rarely any: of inserts whose key an edited row has taken.
    let missing = missing_occurrences(batch, &known);
    known.occurrences.extend(occurrences_of(scope, missing).await?);
    Ok(known)
}

async fn messages(
    scope: &Scope<'_>,
    origins: Vec<&Origin>,
) -> Result<HashMap<Origin, StoredMessage>, ApiError> {
    if origins.is_empty() {
        return Ok(HashMap::new());
    }
    let (sessions, hashes, occurrences) = columns(origins.iter().copied());
    let rows = scope
        .tx
        .query_typed(
            "SELECT wanted.n, m.id, m.content_hash, m.occurrence, m.version, m.sync_cursor, m.stamp_epoch,
                    m.stamp_cursor, m.size_bytes
               FROM unnest($3::text[], $4::text[], $5::int4[]) WITH ORDINALITY AS wanted (session_id, hash, occurrence, n)
              CROSS JOIN LATERAL (
                    SELECT id, content_hash, occurrence, version, sync_cursor, stamp_epoch, stamp_cursor, size_bytes
                      FROM context_messages
                     WHERE tenant_id = $1 AND user_id = $2 AND session_id = wanted.session_id
                       AND origin_hash = wanted.hash AND origin_occurrence = wanted.occurrence
                    OFFSET 0) m",
            &[
                (&scope.caller.tenant.0, Type::UUID),
                (&scope.caller.user.as_str(), Type::TEXT),
                (&sessions, Type::TEXT_ARRAY),
                (&hashes, Type::TEXT_ARRAY),
                (&occurrences, Type::INT4_ARRAY),
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let message = StoredMessage {
                id: row.try_get("id")?,
                hash: hash(row, "content_hash")?,
                occurrence: unsigned(row.try_get("occurrence")?)?,
                version: row.try_get("version")?,
                cursor: row.try_get("sync_cursor")?,
                stamp: stamp(row)?,
                size_bytes: row.try_get("size_bytes")?,
            };
            Ok((origins[place(row)?].clone(), message))
        })
        .collect()
}

async fn taken_keys(scope: &Scope<'_>, keys: Vec<Key>) -> Result<HashSet<Key>, ApiError> {
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let (sessions, hashes, occurrences) = columns(keys.iter());
    let rows = scope
        .tx
        .query_typed(
            "SELECT wanted.n
               FROM unnest($3::text[], $4::text[], $5::int4[]) WITH ORDINALITY AS wanted (session_id, hash, occurrence, n)
              CROSS JOIN LATERAL (
                    SELECT FROM context_messages
                     WHERE tenant_id = $1 AND user_id = $2 AND session_id = wanted.session_id
                       AND content_hash = wanted.hash AND occurrence = wanted.occurrence
                    OFFSET 0) m",
            &[
                (&scope.caller.tenant.0, Type::UUID),
                (&scope.caller.user.as_str(), Type::TEXT),
                (&sessions, Type::TEXT_ARRAY),
                (&hashes, Type::TEXT_ARRAY),
                (&occurrences, Type::INT4_ARRAY),
            ],
        )
        .await?;
    rows.iter().map(|row| Ok(keys[place(row)?].clone())).collect()
}

async fn occurrences_of(
    scope: &Scope<'_>,
    texts: Vec<(String, ContentHash)>,
) -> Result<HashMap<(String, ContentHash), HashSet<u32>>, ApiError> {
    if texts.is_empty() {
        return Ok(HashMap::new());
    }
    let sessions: Vec<&str> = texts.iter().map(|(session, _)| session.as_str()).collect();
    let hashes: Vec<String> = texts.iter().map(|(_, hash)| hash.to_string()).collect();
    let rows = scope
        .tx
        .query_typed(
            "SELECT wanted.n, m.occurrence
               FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS wanted (session_id, hash, n)
              CROSS JOIN LATERAL (
                    (SELECT occurrence FROM context_messages
                      WHERE tenant_id = $1 AND user_id = $2 AND session_id = wanted.session_id
                        AND content_hash = wanted.hash OFFSET 0)
                    UNION ALL
                    (SELECT origin_occurrence FROM context_messages
                      WHERE tenant_id = $1 AND user_id = $2 AND session_id = wanted.session_id
                        AND origin_hash = wanted.hash OFFSET 0)) m",
            &[
                (&scope.caller.tenant.0, Type::UUID),
                (&scope.caller.user.as_str(), Type::TEXT),
                (&sessions, Type::TEXT_ARRAY),
                (&hashes, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let mut taken: HashMap<_, HashSet<u32>> =
        texts.iter().map(|text| (text.clone(), HashSet::new())).collect();
    for row in &rows {
        let occurrence = unsigned(row.try_get("occurrence")?)?;
        taken
            .entry(texts[place(row)?].clone())
            .or_default()
            .insert(occurrence);
    }
    Ok(taken)
}

async fn stored_tasks(scope: &Scope<'_>, ids: Vec<Uuid>) -> Result<HashMap<Uuid, StoredTask>, ApiError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = scope
        .tx
        .query_typed(
            "SELECT t.id, t.content_hash, t.sync_cursor, t.stamp_epoch, t.stamp_cursor, t.size_bytes
               FROM unnest($3::uuid[]) AS wanted (id)
              CROSS JOIN LATERAL (
                    SELECT id, content_hash, sync_cursor, stamp_epoch, stamp_cursor, size_bytes
                      FROM context_task_tracking
                     WHERE tenant_id = $1 AND user_id = $2 AND id = wanted.id
                    OFFSET 0) t",
            &[
                (&scope.caller.tenant.0, Type::UUID),
                (&scope.caller.user.as_str(), Type::TEXT),
                (&ids, Type::UUID_ARRAY),
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let task = StoredTask {
                hash: hash(row, "content_hash")?,
                cursor: row.try_get("sync_cursor")?,
                stamp: stamp(row)?,
                size_bytes: row.try_get("size_bytes")?,
            };
            Ok((row.try_get("id")?, task))
        })
        .collect()
}

async fn stored_links(
    scope: &Scope<'_>,
    batch: &Batch,
) -> Result<HashMap<(Uuid, Uuid), StoredLink>, ApiError> {
    if batch.links.is_empty() {
        return Ok(HashMap::new());
    }
    let tasks: Vec<Uuid> = batch.links.iter().map(|claim| claim.task).collect();
    let (sessions, hashes, occurrences) = columns(batch.links.iter().map(|claim| &claim.message));
    let rows = scope
        .tx
        .query_typed(
            "SELECT wanted.task_id, m.id AS message_id, l.sequence, l.sync_cursor, l.stamp_epoch, l.stamp_cursor
               FROM unnest($3::uuid[], $4::text[], $5::text[], $6::int4[]) AS wanted (task_id, session_id, hash, occurrence)
              CROSS JOIN LATERAL (
                    SELECT id FROM context_messages
                     WHERE tenant_id = $1 AND user_id = $2 AND session_id = wanted.session_id
                       AND origin_hash = wanted.hash AND origin_occurrence = wanted.occurrence
                    OFFSET 0) m
              CROSS JOIN LATERAL (
                    SELECT sequence, sync_cursor, stamp_epoch, stamp_cursor
                      FROM context_task_messages
                     WHERE tenant_id = $1 AND user_id = $2 AND task_id = wanted.task_id AND message_id = m.id
                    OFFSET 0) l",
            &[
                (&scope.caller.tenant.0, Type::UUID),
                (&scope.caller.user.as_str(), Type::TEXT),
                (&tasks, Type::UUID_ARRAY),
                (&sessions, Type::TEXT_ARRAY),
                (&hashes, Type::TEXT_ARRAY),
                (&occurrences, Type::INT4_ARRAY),
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let link = StoredLink {
                sequence: row.try_get("sequence")?,
                cursor: row.try_get("sync_cursor")?,
                stamp: stamp(row)?,
            };
            Ok(((row.try_get("task_id")?, row.try_get("message_id")?), link))
        })
        .collect()
}

/// Identities as three arrays for `unnest`.
fn columns<'a>(identities: impl Iterator<Item = &'a Origin>) -> (Vec<&'a str>, Vec<String>, Vec<i32>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for identity in identities {
        columns.0.push(identity.session_id.as_str());
        columns.1.push(identity.content_hash.to_string());
        columns.2.push(signed(identity.occurrence));
    }
    columns
}

/// Occurrences of checked records fit; others cannot be stored, and -1 is stored nowhere.
pub(super) fn signed(occurrence: u32) -> i32 {
    i32::try_from(occurrence).unwrap_or(-1)
}

fn unsigned(occurrence: i32) -> Result<u32, ApiError> {
    Ok(u32::try_from(occurrence).map_err(anyhow::Error::from)?)
}

/// `WITH ORDINALITY` counts from 1.
fn place(row: &Row) -> Result<usize, ApiError> {
    let n: i64 = row.try_get("n")?;
    Ok(usize::try_from(n - 1).map_err(anyhow::Error::from)?)
}

fn hash(row: &Row, column: &str) -> Result<ContentHash, ApiError> {
    let text: &str = row.try_get(column)?;
    Ok(text.parse().map_err(anyhow::Error::from)?)
}

fn stamp(row: &Row) -> Result<Stamp, ApiError> {
    Ok(Stamp {
        epoch: row.try_get("stamp_epoch")?,
        cursor: row.try_get("stamp_cursor")?,
    })
}
