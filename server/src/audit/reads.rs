//! The record of what was read: taken from requests in memory, written each second or when there are many.
//!
//! A request waits for no disk, and none goes unrecorded while the server runs: where the record cannot be written, it
//! fills up, and then requests that read wait, and at last are refused. A server that is killed loses what it took in
//! the last second; one that is stopped loses nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use coditect_shared::TenantId;
use deadpool_postgres::Pool;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_postgres::types::Type;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// The longest that an entry waits to be written, while the database takes it.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// So many entries are written before their time is over: one statement takes them in some 10 ms.
const FLUSH_AT: usize = 500;

/// Most entries that wait: half a minute of a thousand pages a second, some 10 MB.
const WAITING_MAX: usize = 30_000;

/// Entries that wait to be written. Cheap to clone.
#[derive(Clone)]
pub struct Reads(Arc<Waiting>);

struct Waiting {
    entries: Mutex<Vec<Read>>,
    room: Semaphore,
    many: Notify,
}

/// One read that returned rows.
struct Read {
    tenant: TenantId,
    at: SystemTime,
    actor: String,
    what: What,
    request_id: String,
}

/// What was read.
pub(crate) struct What {
    pub(crate) table: &'static str,
    pub(crate) row_id: Option<String>,
    pub(crate) row_count: i64,
    /// First and last cursor of the rows read.
    pub(crate) cursors: Option<(i64, i64)>,
    pub(crate) details: Value,
}

impl What {
    /// Rows of a table that has no cursors.
    pub(crate) fn rows(table: &'static str, count: usize) -> What {
        What {
            table,
            row_id: None,
            row_count: count as i64,
            cursors: None,
            details: Value::Object(serde_json::Map::new()),
        }
    }
}

impl Default for Reads {
    fn default() -> Reads {
        Reads(Arc::new(Waiting {
            entries: Mutex::default(),
            room: Semaphore::new(WAITING_MAX),
            many: Notify::new(),
        }))
    }
}

impl Reads {
    /// Takes an entry, unless nothing was read; waits while there is no room.
    pub(crate) async fn note(&self, caller: &Caller, request_id: &str, what: What) -> Result<(), ApiError> {
        if what.row_count == 0 {
            return Ok(());
        }
        let room = self.0.room.acquire().await.map_err(anyhow::Error::from)?;
        // Given back when the entry is written.
        room.forget();
        let read = Read {
            tenant: caller.tenant,
            at: SystemTime::now(),
            actor: caller.user.to_string(),
            what,
            request_id: request_id.to_owned(),
        };
        let waiting = {
            let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.push(read);
            entries.len()
        };
        if waiting >= FLUSH_AT {
            self.0.many.notify_one();
        }
        Ok(())
    }

    /// Writes entries until `ended`, and then what is left.
    pub(crate) async fn run(&self, pool: &Pool, mut ended: watch::Receiver<bool>) {
        loop {
            let ends = tokio::select! {
                () = tokio::time::sleep(FLUSH_EVERY) => false,
                () = self.0.many.notified() => false,
                // An error means that nobody is left to say so.
                _ = ended.wait_for(|ended| *ended) => true,
            };
            self.flush(pool).await;
            if ends {
                return;
            }
            // What could not be written must not be tried again without a pause.
            if !self.is_empty() {
                tokio::time::sleep(FLUSH_EVERY / 10).await;
            }
        }
    }

    /// Writes what waits now. What cannot be written goes on waiting.
    pub async fn flush(&self, pool: &Pool) {
        let taken = std::mem::take(&mut *self.0.entries.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tenants: BTreeMap<TenantId, Vec<Read>> = BTreeMap::new();
        for read in taken {
            tenants.entry(read.tenant).or_default().push(read);
        }
        for (tenant, reads) in tenants {
            match write(pool, tenant, &reads).await {
                Ok(()) => self.0.room.add_permits(reads.len()),
                Err(error) => {
                    tracing::warn!(%tenant, entries = reads.len(), "the audit of reads waits: {error}");
                    let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
                    entries.extend(reads);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

async fn write(pool: &Pool, tenant: TenantId, reads: &[Read]) -> Result<(), ApiError> {
    let tx = TenantTx::begin_for_tenant(pool, tenant).await?;
    // A kill of this process loses a second of reads in any case; one of PostgreSQL may lose as much.
    tx.batch_execute("SET LOCAL synchronous_commit = off").await?;
    let at: Vec<SystemTime> = reads.iter().map(|read| read.at).collect();
    let actor: Vec<&str> = reads.iter().map(|read| read.actor.as_str()).collect();
    let table: Vec<&str> = reads.iter().map(|read| read.what.table).collect();
    let row_id: Vec<Option<&str>> = reads.iter().map(|read| read.what.row_id.as_deref()).collect();
    let count: Vec<i64> = reads.iter().map(|read| read.what.row_count).collect();
    let (from, to): (Vec<Option<i64>>, Vec<Option<i64>>) =
        reads.iter().map(|read| read.what.cursors.unzip()).unzip();
    let request: Vec<&str> = reads.iter().map(|read| read.request_id.as_str()).collect();
    let details: Vec<&Value> = reads.iter().map(|read| &read.what.details).collect();
    tx.execute_typed(
        "INSERT INTO audit_log
                (tenant_id, at, actor, action, table_name, row_id, row_count, cursor_from, cursor_to, request_id, details)
         SELECT $1, at, actor, 'read', table_name, row_id, row_count, cursor_from, cursor_to, request_id, details
           FROM unnest($2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[], $8::int8[],
                       $9::text[], $10::jsonb[])
             AS r (at, actor, table_name, row_id, row_count, cursor_from, cursor_to, request_id, details)",
        &[
            (&tenant.0, Type::UUID),
            (&at, Type::TIMESTAMPTZ_ARRAY),
            (&actor, Type::TEXT_ARRAY),
            (&table, Type::TEXT_ARRAY),
            (&row_id, Type::TEXT_ARRAY),
            (&count, Type::INT8_ARRAY),
            (&from, Type::INT8_ARRAY),
            (&to, Type::INT8_ARRAY),
            (&request, Type::TEXT_ARRAY),
            (&details, Type::JSONB_ARRAY),
        ],
    )
    .await?;
    tx.commit().await
}
