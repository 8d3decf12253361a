//! `GET /audit`: the record of a tenant, for its owners and admins, newest first.

use std::time::SystemTime;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::types::Type;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::reads::What;
use crate::answer::RequestId;
use crate::app::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::instant;
use crate::page::{self, Parameters};
use crate::routes::Doc;
use crate::tenant::TenantTx;

/// A page of the record.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditPage {
    entries: Vec<AuditEntry>,
    /// `after` of the next page; null where this is the last one.
    next: Option<String>,
}

/// Who did what, and when.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    id: Uuid,
    /// RFC 3339.
    at: String,
    /// The user's id, or `administration` for the server's command line.
    actor: String,
    /// `create`, `read`, `update` or `delete`.
    action: String,
    table: String,
    /// The row, where it is one.
    row_id: Option<String>,
    row_count: i64,
    /// First and last cursor of a push or a pulled page.
    cursor_from: Option<i64>,
    cursor_to: Option<i64>,
    request_id: Option<String>,
    /// Of an update the changed fields `before` and `after`; counts by table.
    details: Value,
}

/// Filters and paging.
#[derive(Debug, Default, IntoParams)]
pub(crate) struct Wanted {
    /// Most entries wanted.
    #[param(required = false, minimum = 1, maximum = 500, default = 100)]
    limit: u32,
    /// `next` of the page before.
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,17}\\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    after: Option<Place>,
    /// Only of this user's id.
    actor: Option<String>,
    /// Only `create`, `read`, `update` or `delete`.
    #[param(pattern = "^(create|read|update|delete)$")]
    action: Option<String>,
    /// Only of this table.
    table: Option<String>,
    /// Only at this time or later: RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<SystemTime>,
    /// Only before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<SystemTime>,
}

/// Where a page ended: microseconds since 1970 and the entry's id, as `MICROS.ID`.
#[derive(Debug, Clone, Copy)]
struct Place {
    micros: i64,
    id: Uuid,
}

const ACTIONS: [&str; 4] = ["create", "read", "update", "delete"];

/// For the OpenAPI document.
pub(crate) fn doc() -> Doc {
    Doc::new("The tenant's audit record")
        .description(
            "Newest first. What was written stands there with its transaction; what was read, about a second later.",
        )
        .query::<Wanted>()
        .json::<AuditPage>(200, "One page.")
}

/// The route.
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    wanted: Wanted,
) -> Result<Json<AuditPage>, ApiError> {
    let tx = TenantTx::begin_snapshot(&state.pool, caller.tenant, &caller.user).await?;
    let rows = tx
        .query_typed(
            "SELECT id, at, (extract(epoch FROM at) * 1000000)::int8 AS micros, actor, action, table_name, row_id,
                    row_count, cursor_from, cursor_to, request_id, details
               FROM audit_log
              WHERE tenant_id = $1
                AND ($2::text IS NULL OR actor = $2)
                AND ($3::text IS NULL OR action = $3)
                AND ($4::text IS NULL OR table_name = $4)
                AND ($5::timestamptz IS NULL OR at >= $5)
                AND ($6::timestamptz IS NULL OR at < $6)
                AND ($7::int8 IS NULL OR (at, id) < (to_timestamp(0) + $7 * interval '1 microsecond', $8))
              ORDER BY at DESC, id DESC
              LIMIT $9",
            &[
                (&caller.tenant.0, Type::UUID),
                (&wanted.actor, Type::TEXT),
                (&wanted.action, Type::TEXT),
                (&wanted.table, Type::TEXT),
                (&wanted.since, Type::TIMESTAMPTZ),
                (&wanted.until, Type::TIMESTAMPTZ),
                (&wanted.after.map(|place| place.micros), Type::INT8),
                (&wanted.after.map(|place| place.id), Type::UUID),
                (&(i64::from(wanted.limit) + 1), Type::INT8),
            ],
        )
        .await?;
    tx.commit().await?;
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        let entry = AuditEntry {
            id: row.try_get("id")?,
            at: instant::to_text(row.try_get("at")?),
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            table: row.try_get("table_name")?,
            row_id: row.try_get("row_id")?,
            row_count: row.try_get("row_count")?,
            cursor_from: row.try_get("cursor_from")?,
            cursor_to: row.try_get("cursor_to")?,
            request_id: row.try_get("request_id")?,
            details: row.try_get("details")?,
        };
        entries.push((row.try_get::<_, i64>("micros")?, entry));
    }
    let next = page::cut(&mut entries, wanted.limit, |(micros, entry)| {
        format!("{micros}.{}", entry.id)
    });
    let what = What::rows("audit_log", entries.len());
    state.reads.note(&caller, &request_id.0, what).await?;
    Ok(Json(AuditPage {
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        next,
    }))
}

impl FromRequestParts<AppState> for Wanted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Wanted, ApiError> {
        let parameters = Parameters::read(parts)?;
        let text = |name| match parameters.text(name) {
            Some(text) if text.contains('\0') => Err(ApiError::invalid(name, "it holds U+0000")),
            text => Ok(text.map(str::to_owned)),
        };
        let time = |name| {
            let time: Option<Timestamp> = parameters.parsed(name, "this is no time in RFC 3339")?;
            time.map(|time| {
                SystemTime::try_from(time).map_err(|_| ApiError::invalid(name, "this time is out of range"))
            })
            .transpose()
        };
        let action = text("action")?;
        if let Some(action) = &action
            && !ACTIONS.contains(&action.as_str())
        {
            return Err(ApiError::invalid(
                "action",
                format!("expected one of {}", ACTIONS.join(", ")),
            ));
        }
        Ok(Wanted {
            limit: parameters.limit()?,
            after: parameters.parsed("after", "this is no `next` of a page before")?,
            actor: text("actor")?,
            action,
            table: text("table")?,
            since: time("since")?,
            until: time("until")?,
        })
    }
}

impl std::str::FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Place, ()> {
        let (micros, id) = text.split_once('.').ok_or(())?;
        let micros = micros.parse().map_err(|_| ())?;
        // Seventeen digits, some 3,000 years: PostgreSQL's times surely hold them.
        if !(0..100_000_000_000_000_000).contains(&micros) {
            return Err(());
        }
        Ok(Place {
            micros,
            id: id.parse().map_err(|_| ())?,
        })
    }
}
