//! `/teams/{id}/members`: who is in a team. Only members of the tenant can be.

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
use crate::tenant::TenantTx;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeamMemberList {
    members: Vec<TeamMember>,
    /// `after` of the next page; null where this is the last one.
    next: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeamMember {
    user_id: Uuid,
    email: String,
    created_at: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewTeamMember {
    user_id: Uuid,
}

pub(crate) fn list_doc() -> Doc {
    Doc::new("Who is in a team")
        .query::<Page>()
        .json::<TeamMemberList>(200, "By the user's id.")
}

pub(crate) async fn list(
    manager: Manager,
    Path(team): Path<String>,
    page: Page,
) -> Result<Json<TeamMemberList>, ApiError> {
    let team = id("id", &team)?;
    let tx = manager.read().await?;
    expect_team(&tx, &manager, team).await?;
    let rows = tx
        .query_typed(
            "SELECT t.user_id, u.email, t.created_at
               FROM team_members t JOIN users u ON u.tenant_id = t.tenant_id AND u.id = t.user_id
              WHERE t.tenant_id = $1 AND t.team_id = $2 AND ($3::uuid IS NULL OR t.user_id > $3)
              ORDER BY t.user_id LIMIT $4",
            &[
                (&manager.tenant(), Type::UUID),
                (&team, Type::UUID),
                (&page.after, Type::UUID),
                (&(i64::from(page.limit) + 1), Type::INT8),
            ],
        )
        .await?;
    tx.commit().await?;
    let mut members = rows.iter().map(member).collect::<Result<Vec<_>, _>>()?;
    let next = page::cut(&mut members, page.limit, |row| row.user_id);
    manager.listed("team_members", members.len()).await?;
    Ok(Json(TeamMemberList { members, next }))
}

pub(crate) fn add_doc() -> Doc {
    Doc::new("Put a member into a team")
        .body::<NewTeamMember>()
        .json::<TeamMember>(201, "In the team.")
        .refuses(409, "`already_exists`: is in the team already.")
}

pub(crate) async fn add(
    manager: Manager,
    Path(team): Path<String>,
    JsonBody { value, .. }: JsonBody<NewTeamMember>,
) -> Result<(StatusCode, Json<TeamMember>), ApiError> {
    let team = id("id", &team)?;
    let tx = manager.begin().await?;
    expect_team(&tx, &manager, team).await?;
    let row = tx
        .query_typed_opt(
            // Locked, so that the membership cannot end before this is committed.
            "WITH member AS (
                 SELECT m.user_id, u.email
                   FROM memberships m JOIN users u ON u.tenant_id = m.tenant_id AND u.id = m.user_id
                  WHERE m.tenant_id = $1 AND m.user_id = $3 FOR UPDATE OF m
             ), added AS (
                 INSERT INTO team_members (tenant_id, team_id, user_id) SELECT $1, $2, user_id FROM member
                 RETURNING user_id, created_at
             )
             SELECT added.user_id, member.email, added.created_at FROM added JOIN member USING (user_id)",
            &[
                (&manager.tenant(), Type::UUID),
                (&team, Type::UUID),
                (&value.user_id, Type::UUID),
            ],
        )
        .await
        .map_err(|error| {
            refused(
                error,
                "this member is in the team already",
                "there is no such team",
            )
        })?
        .ok_or_else(|| not_found("member", value.user_id))?;
    let made = member(&row)?;
    let row_id = format!("{team} {}", value.user_id);
    let details = json!({"after": {"team_id": team, "user_id": value.user_id}});
    manager
        .record(&tx, "create", "team_members", &row_id, details)
        .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(crate) fn remove_doc() -> Doc {
    Doc::new("Take a member out of a team").empty(204, "Out of the team.")
}

pub(crate) async fn remove(
    manager: Manager,
    Path((team, user)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (team, user) = (id("id", &team)?, id("user_id", &user)?);
    let tx = manager.begin().await?;
    let removed = tx
        .execute_typed(
            "DELETE FROM team_members WHERE tenant_id = $1 AND team_id = $2 AND user_id = $3",
            &[
                (&manager.tenant(), Type::UUID),
                (&team, Type::UUID),
                (&user, Type::UUID),
            ],
        )
        .await?;
    if removed == 0 {
        return Err(not_found("member of this team", user));
    }
    let row_id = format!("{team} {user}");
    let details = json!({"before": {"team_id": team, "user_id": user}});
    manager
        .record(&tx, "delete", "team_members", &row_id, details)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn expect_team(tx: &TenantTx, manager: &Manager, team: Uuid) -> Result<(), ApiError> {
    tx.query_typed_opt(
        "SELECT FROM teams WHERE tenant_id = $1 AND id = $2",
        &[(&manager.tenant(), Type::UUID), (&team, Type::UUID)],
    )
    .await?
    .map(drop)
    .ok_or_else(|| not_found("team", team))
}

fn member(row: &Row) -> Result<TeamMember, ApiError> {
    Ok(TeamMember {
        user_id: row.try_get("user_id")?,
        email: row.try_get("email")?,
        created_at: instant::to_text(row.try_get("created_at")?),
    })
}
