//! What owners and admins do with their tenant: memberships, teams, projects, permissions.
//!
//! Every change stands in the audit log, in its own transaction, with the fields before and after. What another tenant
//! owns is not there (404), since row level security shows nothing of it.

pub(crate) mod memberships;
pub(crate) mod permissions;
pub(crate) mod projects;
pub(crate) mod team_members;
pub(crate) mod teams;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::answer::RequestId;
use crate::app::AppState;
use crate::audit::{self, Entry};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// Longest name and key, as the columns have them.
const NAME_MAX_CHARS: usize = 255;

/// Who manages, and under which request.
pub(crate) struct Manager {
    pub(crate) state: AppState,
    pub(crate) caller: Caller,
    pub(crate) request_id: String,
}

impl FromRequestParts<AppState> for Manager {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Manager, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let request_id = parts.extensions.get::<RequestId>().cloned();
        Ok(Manager {
            state: state.clone(),
            caller,
            request_id: request_id.map(|id| id.0).unwrap_or_default(),
        })
    }
}

impl Manager {
    async fn begin(&self) -> Result<TenantTx, ApiError> {
        TenantTx::begin(&self.state.pool, self.caller.tenant, &self.caller.user).await
    }

    async fn read(&self) -> Result<TenantTx, ApiError> {
        TenantTx::begin_snapshot(&self.state.pool, self.caller.tenant, &self.caller.user).await
    }

    fn tenant(&self) -> Uuid {
        self.caller.tenant.0
    }

    /// Notes that a list was read.
    async fn listed(&self, table: &'static str, rows: usize) -> Result<(), ApiError> {
        let what = audit::reads::What::rows(table, rows);
        self.state.reads.note(&self.caller, &self.request_id, what).await
    }

    /// Records the change of one row, in its transaction.
    async fn record(
        &self,
        tx: &TenantTx,
        action: &'static str,
        table: &'static str,
        row: &str,
        details: Value,
    ) -> Result<(), ApiError> {
        let entry = Entry {
            action,
            table,
            row_id: Some(row),
            row_count: 1,
            cursors: None,
            request_id: &self.request_id,
            details,
        };
        audit::record(tx, &self.caller, &entry).await
    }
}

/// Fields of a row, for the audit.
fn before_and_after(before: Value, after: Value) -> Value {
    json!({"before": before, "after": after})
}

/// A name or key that people can read.
fn name(field: &str, text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > NAME_MAX_CHARS || text.chars().any(char::is_control) {
        return Err(ApiError::invalid(
            field,
            format!("expected 1 to {NAME_MAX_CHARS} printable characters"),
        ));
    }
    Ok(text.to_owned())
}

/// An id in the path.
fn id(field: &str, text: &str) -> Result<Uuid, ApiError> {
    text.parse()
        .map_err(|_| ApiError::invalid(field, "this is no UUID"))
}

fn not_found(what: &str, id: Uuid) -> ApiError {
    ApiError::NotFound(format!("there is no {what} {id}"))
}

fn conflict(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::Conflict {
        code,
        message: message.into(),
        details: json!({}),
    }
}

/// What PostgreSQL's keys say of a row to insert: it is there already, or what it refers to is not.
fn refused(error: tokio_postgres::Error, taken: &str, missing: &str) -> ApiError {
    match error.code() {
        Some(state) if *state == SqlState::UNIQUE_VIOLATION => conflict("already_exists", taken),
        Some(state) if *state == SqlState::FOREIGN_KEY_VIOLATION => ApiError::NotFound(missing.to_owned()),
        Some(_) | None => error.into(),
    }
}
