//! What is written into the audit log. The serving role can add to it and take nothing away.

use serde_json::Value;
use tokio_postgres::types::Type;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// One entry: a single row, or a push with its counts.
pub(crate) struct Entry<'a> {
    pub(crate) action: &'static str,
    pub(crate) table: &'static str,
    pub(crate) row_count: i64,
    /// First and last cursor of the rows written.
    pub(crate) cursors: Option<(i64, i64)>,
    pub(crate) request_id: &'a str,
    pub(crate) details: Value,
}

/// Adds an entry, in the transaction of what it records: neither is there without the other.
pub(crate) async fn record(tx: &TenantTx, caller: &Caller, entry: &Entry<'_>) -> Result<(), ApiError> {
    let (from, to) = entry.cursors.unzip();
    tx.execute_typed(
        "INSERT INTO audit_log (tenant_id, actor, action, table_name, row_count, cursor_from, cursor_to, request_id, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &[
            (&caller.tenant.0, Type::UUID),
            (&caller.user.as_str(), Type::TEXT),
            (&entry.action, Type::TEXT),
            (&entry.table, Type::TEXT),
            (&entry.row_count, Type::INT8),
            (&from, Type::INT8),
            (&to, Type::INT8),
            (&entry.request_id, Type::TEXT),
            (&entry.details, Type::JSONB),
        ],
    )
    .await?;
    Ok(())
}
