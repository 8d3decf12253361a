//! Reads a page's rows from each table. What a row weighs stands in a column, so that contents beyond the bytes of a
//! page are neither read nor sent.

use std::time::SystemTime;

use coditect_shared::limits::PULL_PAGE_BYTES;
use coditect_shared::wire::Stub;
use coditect_shared::{ContentHash, DeviceId, LinkRecord, MessageRecord, Origin, TaskRecord};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Body, Item};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::instant;
use crate::tenant::TenantTx;

/// What a row takes beside its texts: field names, hashes, ids, times.
const ROW_BYTES: i32 = 400;

/// Which rows a page is made from.
pub(super) struct Wanted<'a> {
    pub(super) tx: &'a TenantTx,
    pub(super) caller: &'a Caller,
    pub(super) device: DeviceId,
    /// Rows above it.
    pub(super) cursor: i64,
    pub(super) limit: usize,
    /// Stubs alone, of everybody's rows.
    pub(super) stubs: bool,
}

/// Messages, at most one more than the page can hold: that one tells that there is more.
pub(super) async fn messages(wanted: &Wanted<'_>) -> Result<Vec<Item>, ApiError> {
    let rows = wanted.query(include_str!("messages.sql")).await?;
    rows.iter()
        .map(|row| {
            item(row, |cursor, synced_at| {
                let origin = origin(row)?;
                let content_hash = hash(row, "content_hash")?;
                let Some(synced_at) = synced_at else {
                    return Ok(Body::Own(Stub::Message {
                        origin,
                        content_hash,
                        sync_cursor: cursor,
                    }));
                };
                let key = Origin {
                    session_id: origin.session_id.clone(),
                    content_hash,
                    occurrence: occurrence(row, "occurrence")?,
                };
                let metadata: &str = row.try_get("metadata")?;
                Ok(Body::Message(Box::new(MessageRecord {
                    session_id: key.session_id.clone(),
                    session_null: row.try_get("session_null")?,
                    role: row.try_get("message_type")?,
                    content: row.try_get("content")?,
                    content_hash: Some(content_hash.to_string()),
                    occurrence: key.occurrence,
                    created_at: row.try_get("created_at_text")?,
                    hardware_id: row.try_get("hardware_id")?,
                    metadata: serde_json::from_str(metadata).map_err(anyhow::Error::from)?,
                    hash: row.try_get("writer_hash")?,
                    origin: (origin != key).then_some(origin),
                    sync_cursor: Some(cursor),
                    synced_at: Some(synced_at),
                    ..MessageRecord::default()
                })))
            })
        })
        .collect()
}

/// Tasks, in the sender's own spelling.
pub(super) async fn tasks(wanted: &Wanted<'_>) -> Result<Vec<Item>, ApiError> {
    let rows = wanted.query(include_str!("tasks.sql")).await?;
    rows.iter()
        .map(|row| {
            item(row, |cursor, synced_at| {
                let Some(synced_at) = synced_at else {
                    let (id, content_hash) = (row.try_get("id")?, hash(row, "content_hash")?);
                    return Ok(Body::Own(Stub::Task {
                        id,
                        content_hash,
                        sync_cursor: cursor,
                    }));
                };
                let record: &str = row.try_get("record")?;
                let mut record: TaskRecord = serde_json::from_str(record).map_err(anyhow::Error::from)?;
                record.sync_cursor = Some(cursor);
                record.synced_at = Some(synced_at);
                Ok(Body::Task(Box::new(record)))
            })
        })
        .collect()
}

/// Links, each with its message's origin.
pub(super) async fn links(wanted: &Wanted<'_>) -> Result<Vec<Item>, ApiError> {
    let rows = wanted.query(include_str!("links.sql")).await?;
    rows.iter()
        .map(|row| {
            item(row, |cursor, synced_at| {
                let (task_id, message): (Uuid, _) = (row.try_get("task_id")?, origin(row)?);
                let sequence = row.try_get("sequence")?;
                Ok(match synced_at {
                    None => Body::Own(Stub::Link {
                        task_id,
                        message,
                        sequence,
                        sync_cursor: cursor,
                    }),
                    Some(synced_at) => Body::Link(LinkRecord {
                        reference: None,
                        task_id: task_id.hyphenated().to_string(),
                        message,
                        sequence,
                        base: None,
                        stamp: None,
                        sync_cursor: Some(cursor),
                        synced_at: Some(synced_at),
                    }),
                })
            })
        })
        .collect()
}

impl Wanted<'_> {
    /// $1 tenant, $2 user, $3 cursor, $4 device, $5 all as stubs, $6 rows, $7 bytes, $8 bytes of a row beside its texts.
    async fn query(&self, statement: &str) -> Result<Vec<Row>, ApiError> {
        let rows = i64::try_from(self.limit).map_err(anyhow::Error::from)? + 1;
        let params: [(&(dyn ToSql + Sync), Type); 8] = [
            (&self.caller.tenant.0, Type::UUID),
            (&self.caller.user.as_str(), Type::TEXT),
            (&self.cursor, Type::INT8),
            (&self.device.0, Type::UUID),
            (&self.stubs, Type::BOOL),
            (&rows, Type::INT8),
            (&PULL_PAGE_BYTES, Type::INT8),
            (&ROW_BYTES, Type::INT4),
        ];
        Ok(self.tx.query_typed(statement, &params).await?)
    }
}

/// A row's place in the page, and its body: a stub where `synced_at` is none, nothing where it was not read.
fn item(
    row: &Row,
    body: impl FnOnce(i64, Option<String>) -> Result<Body, ApiError>,
) -> Result<Item, ApiError> {
    let cursor: i64 = row.try_get("sync_cursor")?;
    let weight: i32 = row.try_get("weight")?;
    let synced_at: Option<SystemTime> = row.try_get("synced_at")?;
    let own: bool = row.try_get("own")?;
    let body = match synced_at {
        None if !own => Body::LeftOut,
        None | Some(_) => body(cursor, synced_at.map(instant::to_text))?,
    };
    Ok(Item {
        cursor,
        weight: i64::from(weight),
        body,
    })
}

fn origin(row: &Row) -> Result<Origin, ApiError> {
    Ok(Origin {
        session_id: row.try_get("session_id")?,
        content_hash: hash(row, "origin_hash")?,
        occurrence: occurrence(row, "origin_occurrence")?,
    })
}

fn hash(row: &Row, column: &str) -> Result<ContentHash, ApiError> {
    let text: &str = row.try_get(column)?;
    Ok(text.parse().map_err(anyhow::Error::from)?)
}

fn occurrence(row: &Row, column: &str) -> Result<u32, ApiError> {
    let occurrence: i32 = row.try_get(column)?;
    Ok(u32::try_from(occurrence).map_err(anyhow::Error::from)?)
}
