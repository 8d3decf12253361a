//! The history of one user: how far it goes, and which mark proves which stretch of it.
//!
//! Each push that stored something left a random mark. The mark of a cursor is that of the push that covers it: of the
//! log's first row at or above it. Rows are only ever added above, so a cursor's mark never changes, unless the
//! database was restored to the past and went on from there: then a client that shows the old mark is told so.

use tokio_postgres::types::Type;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// How far a history goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// 0 before the first row.
    pub cursor: i64,
    pub mark: Option<String>,
}

/// The tenant's, over all users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantHead {
    pub cursor: i64,
    pub epoch: i64,
}

/// The user's head as the transaction sees it.
pub async fn head(tx: &TenantTx, caller: &Caller) -> Result<Head, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT last_cursor, mark FROM context_push_log
              WHERE tenant_id = $1 AND user_id = $2 AND mark IS NOT NULL
              ORDER BY last_cursor DESC LIMIT 1",
            &[
                (&caller.tenant.0, Type::UUID),
                (&caller.user.as_str(), Type::TEXT),
            ],
        )
        .await?;
    row.map_or(Ok(Head::default()), |row| {
        Ok(Head {
            cursor: row.try_get("last_cursor")?,
            mark: row.try_get("mark")?,
        })
    })
}

/// The mark of a cursor; none beyond the user's head.
pub async fn mark_at(tx: &TenantTx, caller: &Caller, cursor: i64) -> Result<Option<String>, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT mark FROM context_push_log
              WHERE tenant_id = $1 AND user_id = $2 AND mark IS NOT NULL AND last_cursor >= $3
              ORDER BY last_cursor LIMIT 1",
            &[
                (&caller.tenant.0, Type::UUID),
                (&caller.user.as_str(), Type::TEXT),
                (&cursor, Type::INT8),
            ],
        )
        .await?;
    row.map(|row| Ok(row.try_get("mark")?)).transpose()
}

/// The tenant's head and epoch; those of an empty history before the first push.
pub async fn tenant_head(tx: &TenantTx, caller: &Caller) -> Result<TenantHead, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT head, epoch FROM context_heads WHERE tenant_id = $1",
            &[(&caller.tenant.0, Type::UUID)],
        )
        .await?;
    row.map_or(Ok(TenantHead { cursor: 0, epoch: 1 }), |row| {
        Ok(TenantHead {
            cursor: row.try_get("head")?,
            epoch: row.try_get("epoch")?,
        })
    })
}
