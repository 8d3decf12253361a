//! `/teams`: groups of users, to give permissions to.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Manager, before_and_after, id, name, not_found, refused};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::instant;
use crate::page::{self, Page};
use crate::routes::Doc;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeamList {
    teams: Vec<Team>,
    /// `after` of the next page; null where this is the last one.
    next: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Team {
    id: Uuid,
    name: String,
    created_at: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TeamName {
    /// The only team of this name.
    #[schema(min_length = 1, max_length = 255)]
    name: String,
}

const TAKEN: &str = "the tenant has a team of this name";

pub(crate) fn list_doc() -> Doc {
    Doc::new("The tenant's teams")
        .query::<Page>()
        .json::<TeamList>(200, "By id.")
}

pub(crate) async fn list(manager: Manager, page: Page) -> Result<Json<TeamList>, ApiError> {
    let tx = manager.read().await?;
    let rows = tx
        .query_typed(
            "SELECT id, name, created_at FROM teams
              WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
            &[
                (&manager.tenant(), Type::UUID),
                (&page.after, Type::UUID),
                (&(i64::from(page.limit) + 1), Type::INT8),
            ],
        )
        .await?;
    tx.commit().await?;
    let mut teams = rows.iter().map(team).collect::<Result<Vec<_>, _>>()?;
    let next = page::cut(&mut teams, page.limit, |row| row.id);
    manager.listed("teams", teams.len()).await?;
    Ok(Json(TeamList { teams, next }))
}

pub(crate) fn create_doc() -> Doc {
    Doc::new("Make a team")
        .body::<TeamName>()
        .json::<Team>(201, "The team.")
        .refuses(409, "`already_exists`: there is a team of this name.")
}

pub(crate) async fn create(
    manager: Manager,
    JsonBody { value, .. }: JsonBody<TeamName>,
) -> Result<(StatusCode, Json<Team>), ApiError> {
    let name = name("name", &value.name)?;
    let tx = manager.begin().await?;
    let row = tx
        .query_typed_one(
            "INSERT INTO teams (tenant_id, id, name) VALUES ($1, $2, $3) RETURNING id, name, created_at",
            &[
                (&manager.tenant(), Type::UUID),
                (&Uuid::new_v4(), Type::UUID),
                (&name, Type::TEXT),
            ],
        )
        .await
        .map_err(|error| refused(error, TAKEN, "there is no such tenant"))?;
    let made = team(&row)?;
    let details = json!({"after": {"name": name}});
    manager
        .record(&tx, "create", "teams", &made.id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(crate) fn rename_doc() -> Doc {
    Doc::new("Rename a team")
        .body::<TeamName>()
        .json::<Team>(200, "The team.")
        .refuses(409, "`already_exists`: there is a team of this name.")
}

pub(crate) async fn rename(
    manager: Manager,
    Path(team_id): Path<String>,
    JsonBody { value, .. }: JsonBody<TeamName>,
) -> Result<Json<Team>, ApiError> {
    let team_id = id("id", &team_id)?;
    let name = name("name", &value.name)?;
    let tx = manager.begin().await?;
    let before = tx
        .query_typed_opt(
            "SELECT name FROM teams WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
            &[(&manager.tenant(), Type::UUID), (&team_id, Type::UUID)],
        )
        .await?
        .ok_or_else(|| not_found("team", team_id))?;
    let row = tx
        .query_typed_one(
            "UPDATE teams SET name = $3 WHERE tenant_id = $1 AND id = $2 RETURNING id, name, created_at",
            &[
                (&manager.tenant(), Type::UUID),
                (&team_id, Type::UUID),
                (&name, Type::TEXT),
            ],
        )
        .await
        .map_err(|error| refused(error, TAKEN, "there is no such team"))?;
    let before: String = before.try_get("name")?;
    let details = before_and_after(json!({"name": before}), json!({"name": name}));
    manager
        .record(&tx, "update", "teams", &team_id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok(Json(team(&row)?))
}

pub(crate) fn remove_doc() -> Doc {
    Doc::new("Remove a team").empty(204, "Its places and permissions went with it.")
}

pub(crate) async fn remove(manager: Manager, Path(team_id): Path<String>) -> Result<StatusCode, ApiError> {
    let team_id = id("id", &team_id)?;
    let tx = manager.begin().await?;
    let row = tx
        .query_typed_opt(
            "DELETE FROM teams WHERE tenant_id = $1 AND id = $2 RETURNING name",
            &[(&manager.tenant(), Type::UUID), (&team_id, Type::UUID)],
        )
        .await?
        .ok_or_else(|| not_found("team", team_id))?;
    let before: String = row.try_get("name")?;
    let details = json!({"before": {"name": before}});
    manager
        .record(&tx, "delete", "teams", &team_id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn team(row: &Row) -> Result<Team, ApiError> {
    Ok(Team {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        created_at: instant::to_text(row.try_get("created_at")?),
    })
}
