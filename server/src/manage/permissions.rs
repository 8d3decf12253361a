//! `/permissions`: what one user or one team may do in one project. One is given or taken, never changed.

use std::str::FromStr as _;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Manager, id, not_found, refused};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::instant;
use crate::page::{self, Page};
use crate::routes::Doc;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PermissionList {
    permissions: Vec<Permission>,
    /// `after` of the next page; null where this is the last one.
    next: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Permission {
    id: Uuid,
    project_id: Uuid,
    /// Of `user_id` and `team_id` one is null.
    user_id: Option<Uuid>,
    team_id: Option<Uuid>,
    action: PermittedAction,
    created_at: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewPermission {
    project_id: Uuid,
    /// Either this or `team_id`.
    #[serde(default)]
    user_id: Option<Uuid>,
    #[serde(default)]
    team_id: Option<Uuid>,
    action: PermittedAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PermittedAction {
    Create,
    Read,
    Update,
    Delete,
}

pub(crate) fn list_doc() -> Doc {
    Doc::new("The tenant's permissions")
        .query::<Page>()
        .json::<PermissionList>(200, "By id.")
}

pub(crate) async fn list(manager: Manager, page: Page) -> Result<Json<PermissionList>, ApiError> {
    let tx = manager.read().await?;
    let rows = tx
        .query_typed(
            "SELECT id, project_id, user_id, team_id, action, created_at FROM permissions
              WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
            &[
                (&manager.tenant(), Type::UUID),
                (&page.after, Type::UUID),
                (&(i64::from(page.limit) + 1), Type::INT8),
            ],
        )
        .await?;
    tx.commit().await?;
    let mut permissions = rows.iter().map(permission).collect::<Result<Vec<_>, _>>()?;
    let next = page::cut(&mut permissions, page.limit, |row| row.id);
    manager.listed("permissions", permissions.len()).await?;
    Ok(Json(PermissionList { permissions, next }))
}

pub(crate) fn give_doc() -> Doc {
    Doc::new("Give a permission")
        .body::<NewPermission>()
        .json::<Permission>(201, "The permission.")
        .refuses(404, "`not_found`: there is no such project, team or member.")
        .refuses(409, "`already_exists`: has it already.")
}

pub(crate) async fn give(
    manager: Manager,
    JsonBody { value, .. }: JsonBody<NewPermission>,
) -> Result<(StatusCode, Json<Permission>), ApiError> {
    if value.user_id.is_some() == value.team_id.is_some() {
        return Err(ApiError::invalid(
            "user_id",
            "a permission is one user's or one team's: give user_id or team_id",
        ));
    }
    let tx = manager.begin().await?;
    if let Some(user) = value.user_id {
        // Locked, so that the membership cannot end before this is committed.
        tx.query_typed_opt(
            "SELECT FROM memberships WHERE tenant_id = $1 AND user_id = $2 FOR UPDATE",
            &[(&manager.tenant(), Type::UUID), (&user, Type::UUID)],
        )
        .await?
        .ok_or_else(|| not_found("member", user))?;
    }
    let row = tx
        .query_typed_one(
            "INSERT INTO permissions (tenant_id, id, project_id, user_id, team_id, action)
             VALUES ($1, $2, $3, $4, $5, $6)
             RETURNING id, project_id, user_id, team_id, action, created_at",
            &[
                (&manager.tenant(), Type::UUID),
                (&Uuid::new_v4(), Type::UUID),
                (&value.project_id, Type::UUID),
                (&value.user_id, Type::UUID),
                (&value.team_id, Type::UUID),
                (&value.action.as_str(), Type::TEXT),
            ],
        )
        .await
        .map_err(|error| {
            refused(
                error,
                "this permission was given already",
                "there is no such project or team",
            )
        })?;
    let made = permission(&row)?;
    let details = json!({"after": fields(&made)});
    manager
        .record(&tx, "create", "permissions", &made.id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(crate) fn take_doc() -> Doc {
    Doc::new("Take a permission away").empty(204, "Taken away.")
}

pub(crate) async fn take(
    manager: Manager,
    Path(permission_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let permission_id = id("id", &permission_id)?;
    let tx = manager.begin().await?;
    let row = tx
        .query_typed_opt(
            "DELETE FROM permissions WHERE tenant_id = $1 AND id = $2
             RETURNING id, project_id, user_id, team_id, action, created_at",
            &[(&manager.tenant(), Type::UUID), (&permission_id, Type::UUID)],
        )
        .await?
        .ok_or_else(|| not_found("permission", permission_id))?;
    let details = json!({"before": fields(&permission(&row)?)});
    manager
        .record(&tx, "delete", "permissions", &permission_id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn fields(permission: &Permission) -> serde_json::Value {
    json!({
        "project_id": permission.project_id,
        "user_id": permission.user_id,
        "team_id": permission.team_id,
        "action": permission.action,
    })
}

fn permission(row: &Row) -> Result<Permission, ApiError> {
    Ok(Permission {
        id: row.try_get("id")?,
        project_id: row.try_get("project_id")?,
        user_id: row.try_get("user_id")?,
        team_id: row.try_get("team_id")?,
        action: PermittedAction::from_str(row.try_get("action")?).map_err(anyhow::Error::msg)?,
        created_at: instant::to_text(row.try_get("created_at")?),
    })
}

impl PermittedAction {
    fn as_str(self) -> &'static str {
        match self {
            PermittedAction::Create => "create",
            PermittedAction::Read => "read",
            PermittedAction::Update => "update",
            PermittedAction::Delete => "delete",
        }
    }
}

impl std::str::FromStr for PermittedAction {
    type Err = String;

    fn from_str(text: &str) -> Result<PermittedAction, String> {
        match text {
            "create" => Ok(PermittedAction::Create),
            "read" => Ok(PermittedAction::Read),
            "update" => Ok(PermittedAction::Update),
            "delete" => Ok(PermittedAction::Delete),
            _ => Err(format!("unknown action {text:?}")),
        }
    }
}
