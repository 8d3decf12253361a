//! `/memberships`: who belongs to the tenant, and with which role.
//!
//! Only an owner makes or unmakes owners, and the last owner cannot go: whoever changes a membership locks the owners'
//! rows, so that two who step down at once cannot both succeed. The caller's own role is read under the same lock,
//! since a role that was taken away moments ago must not give itself back.

use std::collections::HashMap;
use std::str::FromStr as _;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use coditect_shared::UserId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Manager, before_and_after, conflict, id, not_found, refused};
use crate::admin::directory;
use crate::admin::user::is_address;
use crate::auth::Action;
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::instant;
use crate::page::{self, Page};
use crate::role::Role;
use crate::routes::Doc;
use crate::tenant::TenantTx;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MembershipList {
    memberships: Vec<Membership>,
    /// `after` of the next page; null where this is the last one.
    next: Option<Uuid>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Membership {
    user_id: Uuid,
    email: String,
    role: Role,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Invitation {
    /// The address by which the person is known; in any case.
    #[schema(max_length = 320)]
    email: String,
    role: Role,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewRole {
    role: Role,
}

pub(crate) fn list_doc() -> Doc {
    Doc::new("Who belongs to the tenant")
        .query::<Page>()
        .json::<MembershipList>(200, "By the user's id.")
}

pub(crate) async fn list(manager: Manager, page: Page) -> Result<Json<MembershipList>, ApiError> {
    let tx = manager.read().await?;
    let rows = tx
        .query_typed(
            "SELECT m.user_id, u.email, m.role, m.created_at, m.updated_at
               FROM memberships m JOIN users u ON u.tenant_id = m.tenant_id AND u.id = m.user_id
              WHERE m.tenant_id = $1 AND ($2::uuid IS NULL OR m.user_id > $2)
              ORDER BY m.user_id LIMIT $3",
            &[
                (&manager.tenant(), Type::UUID),
                (&page.after, Type::UUID),
                (&(i64::from(page.limit) + 1), Type::INT8),
            ],
        )
        .await?;
    tx.commit().await?;
    let mut memberships = rows.iter().map(membership).collect::<Result<Vec<_>, _>>()?;
    let next = page::cut(&mut memberships, page.limit, |row| row.user_id);
    manager.listed("memberships", memberships.len()).await?;
    Ok(Json(MembershipList { memberships, next }))
}

pub(crate) fn invite_doc() -> Doc {
    Doc::new("Invite somebody")
        .description("Makes the user, unless the tenant knows the address, and the membership.")
        .body::<Invitation>()
        .json::<Membership>(201, "A member from now on.")
        .refuses(
            403,
            "`forbidden`: the role does not allow this, or an admin would make an owner.",
        )
        .refuses(409, "`already_exists`: the address is a member's.")
}

pub(crate) async fn invite(
    manager: Manager,
    JsonBody { value, .. }: JsonBody<Invitation>,
) -> Result<(StatusCode, Json<Membership>), ApiError> {
    let email = directory::normal(&value.email);
    if !is_address(&email) {
        return Err(ApiError::invalid("email", "this is no e-mail address"));
    }
    let tx = manager.begin().await?;
    let roles = lock(&tx, &manager, None).await?;
    let mine = roles.mine(&manager, Action::Create)?;
    only_owners(mine, value.role)?;
    let user = user_of(&tx, &manager, &email).await?;
    let row = tx
        .query_typed_one(
            "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3)
             RETURNING user_id, $4 AS email, role, created_at, updated_at",
            &[
                (&manager.tenant(), Type::UUID),
                (&user, Type::UUID),
                (&value.role.as_str(), Type::TEXT),
                (&email, Type::TEXT),
            ],
        )
        .await
        .map_err(|error| {
            refused(
                error,
                "this address is a member's already",
                "there is no such user",
            )
        })?;
    let made = membership(&row)?;
    let details = json!({"after": {"email": email, "role": value.role}});
    manager
        .record(&tx, "create", "memberships", &user.to_string(), details)
        .await?;
    tx.commit().await?;
    manager
        .state
        .memberships
        .forget(manager.caller.tenant, &UserId::from(user));
    Ok((StatusCode::CREATED, Json(made)))
}

pub(crate) fn change_doc() -> Doc {
    Doc::new("Change somebody's role")
        .body::<NewRole>()
        .json::<Membership>(200, "Counts within 30 s on every server.")
        .refuses(
            403,
            "`forbidden`: the role does not allow this, or an admin would make or unmake an owner.",
        )
        .refuses(409, "`last_owner`: a tenant keeps at least one.")
}

pub(crate) async fn change(
    manager: Manager,
    Path(user): Path<String>,
    JsonBody { value, .. }: JsonBody<NewRole>,
) -> Result<Json<Membership>, ApiError> {
    let user = id("id", &user)?;
    let tx = manager.begin().await?;
    let roles = lock(&tx, &manager, Some(user)).await?;
    let mine = roles.mine(&manager, Action::Update)?;
    let before = roles.of(user)?;
    only_owners(mine, before)?;
    only_owners(mine, value.role)?;
    if value.role != Role::Owner {
        roles.keep_an_owner(user)?;
    }
    let row = tx
        .query_typed_one(
            "UPDATE memberships m SET role = $3, updated_at = clock_timestamp()
               FROM users u
              WHERE m.tenant_id = $1 AND m.user_id = $2 AND u.tenant_id = m.tenant_id AND u.id = m.user_id
             RETURNING m.user_id, u.email, m.role, m.created_at, m.updated_at",
            &[
                (&manager.tenant(), Type::UUID),
                (&user, Type::UUID),
                (&value.role.as_str(), Type::TEXT),
            ],
        )
        .await?;
    let changed = membership(&row)?;
    let details = before_and_after(json!({"role": before}), json!({"role": value.role}));
    manager
        .record(&tx, "update", "memberships", &user.to_string(), details)
        .await?;
    tx.commit().await?;
    manager
        .state
        .memberships
        .forget(manager.caller.tenant, &UserId::from(user));
    Ok(Json(changed))
}

pub(crate) fn remove_doc() -> Doc {
    Doc::new("Remove somebody")
        .description("What he wrote stays with the tenant; his places in teams and his own permissions go.")
        .empty(204, "Counts within 30 s on every server.")
        .refuses(
            403,
            "`forbidden`: the role does not allow this, or an admin would remove an owner.",
        )
        .refuses(409, "`last_owner`: a tenant keeps at least one.")
}

pub(crate) async fn remove(manager: Manager, Path(user): Path<String>) -> Result<StatusCode, ApiError> {
    let user = id("id", &user)?;
    let tx = manager.begin().await?;
    let roles = lock(&tx, &manager, Some(user)).await?;
    let mine = roles.mine(&manager, Action::Delete)?;
    let before = roles.of(user)?;
    only_owners(mine, before)?;
    roles.keep_an_owner(user)?;
    for statement in [
        "DELETE FROM team_members WHERE tenant_id = $1 AND user_id = $2",
        "DELETE FROM permissions WHERE tenant_id = $1 AND user_id = $2",
        "DELETE FROM memberships WHERE tenant_id = $1 AND user_id = $2",
    ] {
        tx.execute_typed(statement, &[(&manager.tenant(), Type::UUID), (&user, Type::UUID)])
            .await?;
    }
    let details = json!({"before": {"role": before}});
    manager
        .record(&tx, "delete", "memberships", &user.to_string(), details)
        .await?;
    tx.commit().await?;
    manager
        .state
        .memberships
        .forget(manager.caller.tenant, &UserId::from(user));
    Ok(StatusCode::NO_CONTENT)
}

/// Roles of the owners, the caller and whom it concerns, locked until the transaction ends.
struct Locked(HashMap<Uuid, Role>);

async fn lock(tx: &TenantTx, manager: &Manager, concerned: Option<Uuid>) -> Result<Locked, ApiError> {
    let caller: Option<Uuid> = manager.caller.user.as_str().parse().ok();
    // In the order of the key, so that two changes cannot wait for each other.
    let rows = tx
        .query_typed(
            "SELECT user_id, role FROM memberships
              WHERE tenant_id = $1 AND (role = 'owner' OR user_id = $2 OR user_id = $3)
              ORDER BY user_id FOR UPDATE",
            &[
                (&manager.tenant(), Type::UUID),
                (&caller, Type::UUID),
                (&concerned, Type::UUID),
            ],
        )
        .await?;
    let roles = rows.iter().map(|row| Ok((row.try_get("user_id")?, role(row)?)));
    Ok(Locked(roles.collect::<Result<_, ApiError>>()?))
}

impl Locked {
    /// The caller's own role, if it still allows the action.
    fn mine(&self, manager: &Manager, action: Action) -> Result<Role, ApiError> {
        let caller: Option<Uuid> = manager.caller.user.as_str().parse().ok();
        let role = caller.and_then(|caller| self.0.get(&caller)).copied();
        let role = role.unwrap_or(Role::Viewer);
        role.may_manage(action)?;
        Ok(role)
    }

    fn of(&self, user: Uuid) -> Result<Role, ApiError> {
        self.0
            .get(&user)
            .copied()
            .ok_or_else(|| not_found("member", user))
    }

    /// Refuses to take the tenant's last owner away.
    fn keep_an_owner(&self, leaving: Uuid) -> Result<(), ApiError> {
        let stays = self
            .0
            .iter()
            .any(|(user, role)| *role == Role::Owner && *user != leaving);
        if stays || self.of(leaving)? != Role::Owner {
            return Ok(());
        }
        Err(conflict(
            "last_owner",
            "this is the tenant's last owner: make another one first",
        ))
    }
}

/// Only an owner makes or unmakes an owner.
fn only_owners(mine: Role, concerned: Role) -> Result<(), ApiError> {
    if concerned == Role::Owner {
        mine.may(Action::Own)?;
    }
    Ok(())
}

/// The tenant's user of an address, made if there is none.
async fn user_of(tx: &TenantTx, manager: &Manager, email: &str) -> Result<Uuid, ApiError> {
    let made = tx
        .query_typed_opt(
            "INSERT INTO users (tenant_id, id, email) VALUES ($1, $2, $3)
             ON CONFLICT (tenant_id, email) DO NOTHING RETURNING id",
            &[
                (&manager.tenant(), Type::UUID),
                (&Uuid::new_v4(), Type::UUID),
                (&email, Type::TEXT),
            ],
        )
        .await?;
    if let Some(row) = made {
        let user: Uuid = row.try_get("id")?;
        tx.execute_typed("SELECT login_enter_email($1)", &[(&user, Type::UUID)])
            .await?;
        let details = json!({"after": {"email": email}});
        manager
            .record(tx, "create", "users", &user.to_string(), details)
            .await?;
        return Ok(user);
    }
    let row = tx
        .query_typed_one(
            "SELECT id FROM users WHERE tenant_id = $1 AND email = $2",
            &[(&manager.tenant(), Type::UUID), (&email, Type::TEXT)],
        )
        .await?;
    Ok(row.try_get("id")?)
}

fn membership(row: &Row) -> Result<Membership, ApiError> {
    Ok(Membership {
        user_id: row.try_get("user_id")?,
        email: row.try_get("email")?,
        role: role(row)?,
        created_at: instant::to_text(row.try_get("created_at")?),
        updated_at: instant::to_text(row.try_get("updated_at")?),
    })
}

fn role(row: &Row) -> Result<Role, ApiError> {
    Role::from_str(row.try_get("role")?).map_err(|error| anyhow::Error::msg(error).into())
}
