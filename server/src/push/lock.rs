//! Takes the locks of a push: first the device, then the tenant's head.

use std::time::SystemTime;

use coditect_shared::{ContentHash, DeviceId};
use tokio_postgres::types::Type;

use super::Sender;
use crate::auth::Caller;
use crate::error::{ApiError, tenant_gone};
use crate::tenant::TenantTx;

/// The transaction of one push, and for whom it is.
pub(super) struct Scope<'a> {
    pub(super) tx: &'a TenantTx,
    pub(super) caller: &'a Caller,
}

/// What the server has committed for a device.
pub(super) struct Committed {
    /// 0 for a device that never pushed.
    pub(super) push_seq: i64,
    pub(super) digest: Option<ContentHash>,
}

/// The tenant's head row, locked until the transaction ends.
pub(super) struct Head {
    pub(super) head: i64,
    pub(super) epoch: i64,
    /// For this push: later than that of every push before.
    pub(super) synced_at: SystemTime,
}

/// Locks the device, then the head. Always in this order, so that two pushes cannot wait for each other.
pub(super) async fn lock(scope: &Scope<'_>, device: DeviceId) -> Result<(Committed, Head), ApiError> {
    loop {
        let locked =
            tokio::try_join!(biased; scope.tx.by_index(), lock_device(scope, device), lock_head(scope))?;
        if let ((), Some(committed), Some(head)) = locked {
            return Ok((committed, head));
        }
        // The first push of this device or tenant. Whoever else makes the row at this moment is waited for, and the
        // row is then locked and read like any other. A batch that is refused rolls it back.
        make_device(scope, device).await.map_err(tenant_gone)?;
        make_head(scope).await.map_err(tenant_gone)?;
    }
}

async fn lock_device(scope: &Scope<'_>, device: DeviceId) -> Result<Option<Committed>, ApiError> {
    let row = scope
        .tx
        .query_typed_opt(
            "SELECT push_seq, push_digest FROM context_sync_cursors
              WHERE tenant_id = $1 AND user_id = $2 AND device_id = $3 FOR UPDATE",
            &[
                (&scope.caller.tenant.0, Type::UUID),
                (&scope.caller.user.as_str(), Type::TEXT),
                (&device.0, Type::UUID),
            ],
        )
        .await?;
    row.map(|row| {
        let digest: Option<&[u8]> = row.try_get("push_digest")?;
        let digest = digest
            .map(ContentHash::try_from)
            .transpose()
            .map_err(anyhow::Error::from)?;
        Ok(Committed {
            push_seq: row.try_get("push_seq")?,
            digest,
        })
    })
    .transpose()
}

async fn lock_head(scope: &Scope<'_>) -> Result<Option<Head>, ApiError> {
    let row = scope
        .tx
        .query_typed_opt(
            "SELECT head, epoch, greatest(last_synced_at + interval '1 microsecond', clock_timestamp()) AS synced_at
               FROM context_heads WHERE tenant_id = $1 FOR UPDATE",
            &[(&scope.caller.tenant.0, Type::UUID)],
        )
        .await?;
    row.map(|row| {
        Ok(Head {
            head: row.try_get("head")?,
            epoch: row.try_get("epoch")?,
            synced_at: row.try_get("synced_at")?,
        })
    })
    .transpose()
}

async fn make_device(scope: &Scope<'_>, device: DeviceId) -> Result<u64, tokio_postgres::Error> {
    scope.tx.execute_typed(
        "INSERT INTO context_sync_cursors (tenant_id, user_id, device_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &[
            (&scope.caller.tenant.0, Type::UUID),
            (&scope.caller.user.as_str(), Type::TEXT),
            (&device.0, Type::UUID),
        ],
    ).await
}

async fn make_head(scope: &Scope<'_>) -> Result<u64, tokio_postgres::Error> {
    scope
        .tx
        .execute_typed(
            "INSERT INTO context_heads (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING",
            &[(&scope.caller.tenant.0, Type::UUID)],
        )
        .await
}

/// The answer to the batch that was committed under the sender's push_seq, word for word.
pub(super) async fn stored_answer(scope: &Scope<'_>, sender: &Sender) -> Result<String, ApiError> {
    let row = scope
        .tx
        .query_typed_one(
            "SELECT answer FROM context_push_log
              WHERE tenant_id = $1 AND user_id = $2 AND device_id = $3 AND push_seq = $4",
            &[
                (&scope.caller.tenant.0, Type::UUID),
                (&scope.caller.user.as_str(), Type::TEXT),
                (&sender.device.0, Type::UUID),
                (&sender.push_seq, Type::INT8),
            ],
        )
        .await?;
    Ok(row.try_get("answer")?)
}
