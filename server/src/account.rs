//! `GET /api/v1/account`: what a workstation needs to know of a token before it binds its file to it.

use axum::extract::State;
use axum::{Extension, Json};
use coditect_shared::wire::Account;
use tokio_postgres::types::Type;

use crate::answer::RequestId;
use crate::app::AppState;
use crate::audit::reads::What;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::routes::Doc;
use crate::tenant::TenantTx;

/// For the OpenAPI document.
pub(crate) fn doc() -> Doc {
    Doc::new("Whom the token speaks for").json::<Account>(200, "Tenant, user and role, by id and name.")
}

/// Who the caller is, by name.
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
) -> Result<Json<Account>, ApiError> {
    let tx = TenantTx::begin_snapshot(&state.pool, caller.tenant, &caller.user).await?;
    let row = tx
        .query_typed_opt(
            "SELECT t.name, u.email
               FROM tenants t JOIN users u ON u.tenant_id = t.tenant_id
              WHERE u.id::text = $1",
            &[(&caller.user.to_string(), Type::TEXT)],
        )
        .await?;
    tx.commit().await?;
    let row = row.ok_or_else(|| ApiError::Unauthorized {
        code: "token_invalid",
        message: "the user of this access token no longer exists".to_owned(),
    })?;
    let what = What {
        row_id: Some(caller.user.to_string()),
        ..What::rows("users", 1)
    };
    state.reads.note(&caller, &request_id.0, what).await?;
    Ok(Json(Account {
        instance_id: state.instance_id,
        tenant_id: caller.tenant,
        tenant: row.get(0),
        user_id: caller.user,
        user: row.get(1),
        role: caller.role.to_string(),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}
