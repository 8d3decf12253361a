//! What is written into the audit log. The serving role can add to it and take nothing away.
//!
//! What was written is recorded in its own transaction: neither is there without the other. What was read is recorded
//! by [`reads`], a moment later and many at once.

pub mod reads;
mod show;

use serde_json::Value;
use tokio_postgres::types::Type;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::tenant::TenantTx;

pub(crate) use show::{doc, show};

/// One entry: a single row, or a push with its counts.
pub(crate) struct Entry<'a> {
    pub(crate) action: &'static str,
    pub(crate) table: &'static str,
    /// The row, where it is one.
    pub(crate) row_id: Option<&'a str>,
    pub(crate) row_count: i64,
    /// First and last cursor of the rows written.
    pub(crate) cursors: Option<(i64, i64)>,
    pub(crate) request_id: &'a str,
    pub(crate) details: Value,
}

/// Adds an entry, in the transaction of what it records.
pub(crate) async fn record(tx: &TenantTx, caller: &Caller, entry: &Entry<'_>) -> Result<(), ApiError> {
    let (from, to) = entry.cursors.unzip();
    tx.execute_typed(
        "INSERT INTO audit_log
                (tenant_id, actor, action, table_name, row_id, row_count, cursor_from, cursor_to, request_id, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        &[
            (&caller.tenant.0, Type::UUID),
            (&caller.user.as_str(), Type::TEXT),
            (&entry.action, Type::TEXT),
            (&entry.table, Type::TEXT),
            (&entry.row_id, Type::TEXT),
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
