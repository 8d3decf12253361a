//! The outbox: from queued keys to a batch, and from the server's verdicts back to an empty queue (PROTOCOL 3).
//!
//! A batch is built in one transaction that also gives identities and a nonce. It is settled in one transaction that
//! also raises push_seq: an outbox row goes only when the server has acknowledged the very version that was sent.

mod build;
mod settle;

use std::sync::Arc;

use coditect_shared::hash::sha256;
use coditect_shared::wire::PushRequest;
use coditect_shared::{ContentHash, DeviceId, TenantId};
use rusqlite::Connection;
use rusqlite::types::Value;
use serde::{Deserialize, Serialize};

use crate::key::{KeyPart, RowKey, Table};
use crate::owner::Owner;
use crate::policy::Policy;
use crate::projects::{self, ProjectFilter};
use crate::redaction::Findings;

pub use build::{Built, build, requeue_parked};
pub use settle::{Settled, defer, give_up, settle};

/// What the functions of this module need to know besides the file.
#[derive(Clone, Debug)]
pub struct Context {
    pub tenant: TenantId,
    pub device: DeviceId,
    /// Names the machine; only shown.
    pub hardware_id: Option<String>,
    /// RFC 3339, for the quarantine's `at`.
    pub now: String,
    pub policy: Arc<Policy>,
}

/// Where a batch ends.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub rows: usize,
    pub bytes: usize,
}

/// A batch as it is persisted before it is sent. A retry sends the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    pub device: DeviceId,
    pub push_seq: i64,
    pub epoch: i64,
    /// Also in context.db: they differ if that file went back under the state file.
    pub nonce: String,
    pub digest: ContentHash,
    /// The fingerprint of what redacted it; None: an earlier version did, which is not known.
    #[serde(default)]
    pub redacted_by: Option<ContentHash>,
    pub records: Vec<Sent>,
    #[serde(skip)]
    pub body: Vec<u8>,
}

/// One record of a batch: which row, which version, and which outbox entries it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub key: RowKey,
    /// In sync_messages, sync_tasks or sync_links.
    pub ident: i64,
    /// The newest outbox entry that this version includes.
    pub covered: i64,
    /// Of messages and tasks: of what was sent, that is, redacted.
    pub hash: Option<ContentHash>,
    /// Of messages and tasks: what the local row looks like; of links: the sequence.
    pub version: Option<i64>,
    /// What was redacted in it, for the counts in status.
    #[serde(default, skip_serializing_if = "Findings::is_empty")]
    pub findings: Findings,
}

/// Halves a batch that was too large or failed as a whole; its push_seq was not used up. None: it holds one record.
pub fn halve(batch: &Batch) -> Result<Option<Batch>, serde_json::Error> {
    let keep = batch.records.len() / 2;
    if keep == 0 {
        return Ok(None);
    }
    let mut request: PushRequest = serde_json::from_slice(&batch.body)?;
    let mut left = keep;
    truncate(&mut request.messages, &mut left);
    truncate(&mut request.tasks, &mut left);
    truncate(&mut request.task_messages, &mut left);
    let body = serde_json::to_vec(&request)?;
    Ok(Some(Batch {
        digest: sha256(&body),
        body,
        records: batch.records[..keep].to_vec(),
        ..batch.clone()
    }))
}

/// The same batch for another epoch. Its digest is another, since the epoch is part of what is sent.
pub fn with_epoch(batch: &Batch, epoch: i64) -> Result<Batch, serde_json::Error> {
    let request = PushRequest {
        epoch,
        ..serde_json::from_slice(&batch.body)?
    };
    let body = serde_json::to_vec(&request)?;
    Ok(Batch {
        epoch,
        digest: sha256(&body),
        body,
        ..batch.clone()
    })
}

/// Whether a batch holds rows of a project that must not leave the machine.
pub fn has_excluded(
    conn: &Connection,
    owner: &Owner,
    filter: &ProjectFilter,
    batch: &Batch,
) -> rusqlite::Result<bool> {
    if filter.includes_all() {
        return Ok(false);
    }
    for sent in &batch.records {
        let (key, key2) = (&sent.key.key, &sent.key.key2);
        let task = || projects::of_task(conn, owner, &Value::from(key.clone()));
        let places = match (sent.key.table, key, key2) {
            (Table::Messages, KeyPart::Int(row_id), _) => [projects::of_message(conn, owner, *row_id)?, None],
            (Table::Messages, _, _) => [None, None],
            (Table::TaskTracking, _, _) => [task()?, None],
            (Table::TaskMessages, _, KeyPart::Int(row_id)) => {
                [task()?, projects::of_message(conn, owner, *row_id)?]
            }
            (Table::TaskMessages, _, _) => [task()?, None],
        };
        if places.iter().flatten().any(|place| filter.excludes(place)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Outbox entries, counted up to a bound; the oldest and the newest of them, 0 for none.
///
/// Beyond the bound the span of the numbers serves as the count: they are given without gaps, and leave from the oldest
/// on, so that it is hardly ever more than a little too much. A count of a million is too slow for every look.
pub fn size(conn: &Connection) -> rusqlite::Result<(u64, i64, i64)> {
    const COUNTED_MAX: i64 = 5_000;
    let (counted, oldest, newest): (i64, i64, i64) = conn
        .prepare_cached(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM sync_queue LIMIT ?1)),
               coalesce((SELECT min(seq) FROM sync_queue), 0), coalesce((SELECT max(seq) FROM sync_queue), 0)",
        )?
        .query_row([COUNTED_MAX], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let count = if counted < COUNTED_MAX {
        counted
    } else {
        counted.max(newest - oldest + 1)
    };
    Ok((count.unsigned_abs(), oldest, newest))
}

fn truncate<T>(records: &mut Vec<T>, left: &mut usize) {
    records.truncate(*left);
    *left -= records.len();
}
