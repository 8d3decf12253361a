//! `GET /context/stats`: what a user has stored, and how far each of his devices is.
//!
//! The totals are kept by each push, so that asking costs the same however much is stored.

use std::time::SystemTime;

use axum::extract::State;
use axum::{Extension, Json};
use coditect_shared::DeviceId;
use serde::Serialize;
use tokio_postgres::types::Type;

use crate::answer::RequestId;
use crate::app::AppState;
use crate::audit::reads::What;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::routes::Doc;
use crate::tenant::TenantTx;
use crate::{history, instant};

/// Most devices that are listed, those seen last first. A user has a handful; a broken client that makes a new device
/// at every start has thousands.
const DEVICES_MAX: i64 = 100;

/// The answer.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Rows that are current.
    pub messages: i64,
    pub tasks: i64,
    pub task_messages: i64,
    /// Of the texts of messages and tasks that are current.
    pub bytes: i64,
    pub pushes: i64,
    /// Versions that pushes stored, records that they skipped and that were rejected, and bytes they brought, ever.
    pub records_stored: i64,
    pub records_skipped: i64,
    pub records_rejected: i64,
    pub bytes_received: i64,
    /// RFC 3339; null before the first row.
    pub last_synced_at: Option<String>,
    /// The user's head.
    pub cursor: i64,
    pub devices: Vec<DeviceStats>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeviceStats {
    pub device_id: DeviceId,
    pub hardware_id: Option<String>,
    pub push_seq: i64,
    /// It has every row up to here.
    pub pulled_cursor: i64,
    pub first_seen_at: String,
    pub last_pushed_at: Option<String>,
    /// When it last asked from another cursor than before.
    pub last_pulled_at: Option<String>,
}

/// For the OpenAPI document.
pub(crate) fn doc() -> Doc {
    Doc::new("What the user has stored").json::<Stats>(200, "Totals, and how far each device is.")
}

/// The route.
pub async fn stats(
    State(state): State<AppState>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
) -> Result<Json<Stats>, ApiError> {
    let tx = TenantTx::begin_snapshot(&state.pool, caller.tenant, &caller.user).await?;
    let (totals, devices, head) = tokio::try_join!(biased;
        totals(&tx, &caller),
        devices(&tx, &caller),
        history::head(&tx, &caller)
    )?;
    tx.commit().await?;
    let what = What::rows("context_sync_cursors", devices.len());
    state.reads.note(&caller, &request_id.0, what).await?;
    Ok(Json(Stats {
        cursor: head.cursor,
        devices,
        ..totals
    }))
}

async fn totals(tx: &TenantTx, caller: &Caller) -> Result<Stats, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT messages, tasks, task_messages, bytes, pushes, records_stored, records_skipped, records_rejected,
                    bytes_received, last_synced_at
               FROM context_sync_stats WHERE tenant_id = $1 AND user_id = $2",
            &[(&caller.tenant.0, Type::UUID), (&caller.user.as_str(), Type::TEXT)],
        )
        .await?;
    row.map_or(Ok(Stats::default()), |row| {
        Ok(Stats {
            messages: row.try_get("messages")?,
            tasks: row.try_get("tasks")?,
            task_messages: row.try_get("task_messages")?,
            bytes: row.try_get("bytes")?,
            pushes: row.try_get("pushes")?,
            records_stored: row.try_get("records_stored")?,
            records_skipped: row.try_get("records_skipped")?,
            records_rejected: row.try_get("records_rejected")?,
            bytes_received: row.try_get("bytes_received")?,
            last_synced_at: row
                .try_get::<_, Option<SystemTime>>("last_synced_at")?
                .map(instant::to_text),
            ..Stats::default()
        })
    })
}

async fn devices(tx: &TenantTx, caller: &Caller) -> Result<Vec<DeviceStats>, ApiError> {
    let rows = tx
        .query_typed(
            "SELECT device_id, hardware_id, push_seq, pulled_cursor, first_seen_at, last_pushed_at, last_pulled_at
               FROM context_sync_cursors
              WHERE tenant_id = $1 AND user_id = $2
              ORDER BY greatest(first_seen_at, last_pushed_at, last_pulled_at) DESC
              LIMIT $3",
            &[
                (&caller.tenant.0, Type::UUID),
                (&caller.user.as_str(), Type::TEXT),
                (&DEVICES_MAX, Type::INT8),
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let time = |column| {
                row.try_get::<_, Option<SystemTime>>(column)
                    .map(|time| time.map(instant::to_text))
            };
            Ok(DeviceStats {
                device_id: DeviceId(row.try_get("device_id")?),
                hardware_id: row.try_get("hardware_id")?,
                push_seq: row.try_get("push_seq")?,
                pulled_cursor: row.try_get("pulled_cursor")?,
                first_seen_at: time("first_seen_at")?.unwrap_or_default(),
                last_pushed_at: time("last_pushed_at")?,
                last_pulled_at: time("last_pulled_at")?,
            })
        })
        .collect()
}
