//! `tenant create` and `tenant delete`.

use anyhow::{Context as _, bail};
use coditect_shared::TenantId;
use deadpool_postgres::Pool;
use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::directory::{self, Kind};
use super::{Administration, audit, tx_for, whole};
use crate::config::{Options, Usage};

/// Longest name, as the column has it.
const NAME_MAX_CHARS: usize = 255;

/// The row made.
#[derive(Debug, Serialize)]
pub(crate) struct Tenant {
    /// The same as `tenant_id`.
    pub(crate) id: TenantId,
    pub(crate) tenant_id: TenantId,
    pub(crate) name: String,
    pub(crate) created_at: String,
}

/// Makes a tenant.
///
/// # Errors
/// If one of that name exists.
pub(crate) async fn create(options: &Options, name: &str) -> anyhow::Result<Tenant> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_MAX_CHARS || name.chars().any(char::is_control) {
        return Err(Usage(format!(
            "a tenant's name has 1 to {NAME_MAX_CHARS} printable characters"
        ))
        .into());
    }
    let administration = Administration::open(options).await?;
    let made = insert(&administration.pool, name).await;
    administration.close(made).await
}

/// What was deleted.
#[derive(Debug, Serialize)]
pub(crate) struct Deleted {
    pub(crate) tenant_id: TenantId,
    pub(crate) name: String,
}

/// Deletes a tenant with all that is its own, for good; its audit record stays.
///
/// # Errors
/// If there is none, or nobody said that it is meant.
pub(crate) async fn delete(options: &Options, name: &str, is_meant: bool) -> anyhow::Result<Deleted> {
    if !is_meant {
        return Err(Usage(format!(
            "this deletes the tenant {name:?} with its users, sessions, tasks and licences, for good: say --yes if it is meant"
        ))
        .into());
    }
    let administration = Administration::open(options).await?;
    let deleted = remove(&administration.pool, name).await;
    administration.close(deleted).await
}

async fn remove(pool: &Pool, name: &str) -> anyhow::Result<Deleted> {
    let (tenant_id, name) = find(pool, name).await?;
    let tx = tx_for(pool, tenant_id).await?;
    tx.execute_typed(
        "DELETE FROM tenants WHERE tenant_id = $1",
        &[(&tenant_id.0, Type::UUID)],
    )
    .await
    .context("deleting the tenant")?;
    // No foreign key leads there, since it belongs to no tenant.
    tx.execute_typed(
        "DELETE FROM login_directory WHERE tenant_id = $1",
        &[(&tenant_id.0, Type::UUID)],
    )
    .await
    .context("clearing the login directory")?;
    let id = tenant_id.to_string();
    audit(&tx, &id, "delete", "tenants", &id).await.map_err(whole)?;
    tx.commit().await.map_err(whole)?;
    Ok(Deleted { tenant_id, name })
}

/// What holds for a tenant now.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) tenant_id: TenantId,
    pub(crate) name: String,
    pub(crate) first_login_makes_user: bool,
}

/// Lets the first login by another issuer's token make the user, or no longer.
///
/// # Errors
/// If there is no such tenant.
pub(crate) async fn set_first_login(
    options: &Options,
    name: &str,
    makes_user: bool,
) -> anyhow::Result<Setting> {
    let administration = Administration::open(options).await?;
    let set = update_first_login(&administration.pool, name, makes_user).await;
    administration.close(set).await
}

async fn update_first_login(pool: &Pool, name: &str, makes_user: bool) -> anyhow::Result<Setting> {
    let (tenant_id, name) = find(pool, name).await?;
    let tx = tx_for(pool, tenant_id).await?;
    tx.execute_typed(
        "UPDATE tenants SET first_login_makes_user = $1",
        &[(&makes_user, Type::BOOL)],
    )
    .await
    .context("writing the tenant")?;
    let id = tenant_id.to_string();
    audit(&tx, &id, "update", "tenants", &id).await.map_err(whole)?;
    tx.commit().await.map_err(whole)?;
    Ok(Setting {
        tenant_id,
        name,
        first_login_makes_user: makes_user,
    })
}

/// The tenant of a name (or an id).
///
/// # Errors
/// If there is none.
pub(crate) async fn find(pool: &Pool, name: &str) -> anyhow::Result<(TenantId, String)> {
    let mut candidates: Vec<TenantId> = directory::look_up(pool, Kind::Tenant, name)
        .await?
        .into_iter()
        .map(|(tenant, _)| tenant)
        .collect();
    candidates.extend(name.parse::<TenantId>());
    for tenant in candidates {
        if let Some(name) = name_of(pool, tenant).await? {
            return Ok((tenant, name));
        }
    }
    bail!("there is no tenant {name:?}")
}

/// All tenants there are. The owner too sees a tenant's rows only by naming it, so the directory says which.
pub(crate) async fn all(pool: &Pool) -> anyhow::Result<Vec<TenantId>> {
    let rows = pool
        .get()
        .await
        .context("connecting as the owner")?
        .query_typed(
            "SELECT tenant_id FROM login_directory WHERE kind = 'tenant' ORDER BY created_at, tenant_id",
            &[],
        )
        .await
        .context("reading the login directory")?;
    Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
}

async fn insert(pool: &Pool, name: &str) -> anyhow::Result<Tenant> {
    for (holder, _) in directory::look_up(pool, Kind::Tenant, name).await? {
        if name_of(pool, holder).await?.is_some() {
            bail!("a tenant {name:?} exists already (its id is {holder})");
        }
        // Its tenant is gone and left the entry behind.
        forget(pool, holder, name).await?;
    }
    let tenant = TenantId(Uuid::new_v4());
    let tx = tx_for(pool, tenant).await?;
    let row = tx
        .query_typed_one(
            "INSERT INTO tenants (tenant_id, name) VALUES ($1, $2)
             RETURNING to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            &[(&tenant.0, Type::UUID), (&name, Type::TEXT)],
        )
        .await
        .context("writing the tenant")?;
    // Its unique key decides between two commands that make the same name at once.
    tx.execute_typed(
        "INSERT INTO login_directory (kind, digest, tenant_id) VALUES ($1, $2, $3)",
        &[
            (&Kind::Tenant.as_str(), Type::TEXT),
            (&directory::digest(name), Type::BYTEA),
            (&tenant.0, Type::UUID),
        ],
    )
    .await
    .context("entering the tenant's name into the login directory")?;
    audit(&tx, &tenant.to_string(), "create", "tenants", &tenant.to_string())
        .await
        .map_err(whole)?;
    tx.commit().await.map_err(whole)?;
    Ok(Tenant {
        id: tenant,
        tenant_id: tenant,
        name: name.to_owned(),
        created_at: row.get(0),
    })
}

async fn name_of(pool: &Pool, tenant: TenantId) -> anyhow::Result<Option<String>> {
    let tx = tx_for(pool, tenant).await?;
    let row = tx
        .query_typed_opt("SELECT name FROM tenants", &[])
        .await
        .context("reading the tenant")?;
    tx.commit().await.map_err(whole)?;
    Ok(row.map(|row| row.get(0)))
}

async fn forget(pool: &Pool, tenant: TenantId, name: &str) -> anyhow::Result<()> {
    pool.get()
        .await
        .context("connecting as the owner")?
        .execute_typed(
            "DELETE FROM login_directory WHERE kind = $1 AND digest = $2 AND tenant_id = $3",
            &[
                (&Kind::Tenant.as_str(), Type::TEXT),
                (&directory::digest(name), Type::BYTEA),
                (&tenant.0, Type::UUID),
            ],
        )
        .await
        .context("clearing the login directory")?;
    Ok(())
}
