//! `/projects`: projects as the tenant names them. `key` is what stands as `project_id` in the context, and stays.

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
pub(crate) struct ProjectList {
    projects: Vec<Project>,
    /// `after` of the next page; null where this is the last one.
    next: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Project {
    id: Uuid,
    key: String,
    name: String,
    created_at: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewProject {
    /// What stands as `project_id` in tasks; the only project with it.
    #[schema(min_length = 1, max_length = 255)]
    key: String,
    #[schema(min_length = 1, max_length = 255)]
    name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ProjectName {
    #[schema(min_length = 1, max_length = 255)]
    name: String,
}

pub(crate) fn list_doc() -> Doc {
    Doc::new("The tenant's projects")
        .query::<Page>()
        .json::<ProjectList>(200, "By id.")
}

pub(crate) async fn list(manager: Manager, page: Page) -> Result<Json<ProjectList>, ApiError> {
    let tx = manager.read().await?;
    let rows = tx
        .query_typed(
            "SELECT id, key, name, created_at FROM projects
              WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
            &[
                (&manager.tenant(), Type::UUID),
                (&page.after, Type::UUID),
                (&(i64::from(page.limit) + 1), Type::INT8),
            ],
        )
        .await?;
    tx.commit().await?;
    let mut projects = rows.iter().map(project).collect::<Result<Vec<_>, _>>()?;
    let next = page::cut(&mut projects, page.limit, |row| row.id);
    manager.listed("projects", projects.len()).await?;
    Ok(Json(ProjectList { projects, next }))
}

pub(crate) fn create_doc() -> Doc {
    Doc::new("Name a project")
        .body::<NewProject>()
        .json::<Project>(201, "The project.")
        .refuses(409, "`already_exists`: there is a project with this key.")
}

pub(crate) async fn create(
    manager: Manager,
    JsonBody { value, .. }: JsonBody<NewProject>,
) -> Result<(StatusCode, Json<Project>), ApiError> {
    let (key, name) = (name("key", &value.key)?, name("name", &value.name)?);
    let tx = manager.begin().await?;
    let row = tx
        .query_typed_one(
            "INSERT INTO projects (tenant_id, id, key, name) VALUES ($1, $2, $3, $4)
             RETURNING id, key, name, created_at",
            &[
                (&manager.tenant(), Type::UUID),
                (&Uuid::new_v4(), Type::UUID),
                (&key, Type::TEXT),
                (&name, Type::TEXT),
            ],
        )
        .await
        .map_err(|error| {
            refused(
                error,
                "the tenant has a project with this key",
                "there is no such tenant",
            )
        })?;
    let made = project(&row)?;
    let details = json!({"after": {"key": key, "name": name}});
    manager
        .record(&tx, "create", "projects", &made.id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(crate) fn rename_doc() -> Doc {
    Doc::new("Rename a project")
        .body::<ProjectName>()
        .json::<Project>(200, "The project.")
}

pub(crate) async fn rename(
    manager: Manager,
    Path(project_id): Path<String>,
    JsonBody { value, .. }: JsonBody<ProjectName>,
) -> Result<Json<Project>, ApiError> {
    let project_id = id("id", &project_id)?;
    let name = name("name", &value.name)?;
    let tx = manager.begin().await?;
    let before = tx
        .query_typed_opt(
            "SELECT name FROM projects WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
            &[(&manager.tenant(), Type::UUID), (&project_id, Type::UUID)],
        )
        .await?
        .ok_or_else(|| not_found("project", project_id))?;
    let row = tx
        .query_typed_one(
            "UPDATE projects SET name = $3 WHERE tenant_id = $1 AND id = $2 RETURNING id, key, name, created_at",
            &[
                (&manager.tenant(), Type::UUID),
                (&project_id, Type::UUID),
                (&name, Type::TEXT),
            ],
        )
        .await?;
    let before: String = before.try_get("name")?;
    let details = before_and_after(json!({"name": before}), json!({"name": name}));
    manager
        .record(&tx, "update", "projects", &project_id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok(Json(project(&row)?))
}

pub(crate) fn remove_doc() -> Doc {
    Doc::new("Forget a project's name")
        .description("Its permissions go with it; what was synced for it stays.")
        .empty(204, "Forgotten.")
}

pub(crate) async fn remove(manager: Manager, Path(project_id): Path<String>) -> Result<StatusCode, ApiError> {
    let project_id = id("id", &project_id)?;
    let tx = manager.begin().await?;
    let row = tx
        .query_typed_opt(
            "DELETE FROM projects WHERE tenant_id = $1 AND id = $2 RETURNING key, name",
            &[(&manager.tenant(), Type::UUID), (&project_id, Type::UUID)],
        )
        .await?
        .ok_or_else(|| not_found("project", project_id))?;
    let (key, name): (String, String) = (row.try_get("key")?, row.try_get("name")?);
    let details = json!({"before": {"key": key, "name": name}});
    manager
        .record(&tx, "delete", "projects", &project_id.to_string(), details)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn project(row: &Row) -> Result<Project, ApiError> {
    Ok(Project {
        id: row.try_get("id")?,
        key: row.try_get("key")?,
        name: row.try_get("name")?,
        created_at: instant::to_text(row.try_get("created_at")?),
    })
}
