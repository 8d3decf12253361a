//! `token issue`: an access token of the built-in issuer.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use coditect_shared::{TenantId, UserId};
use deadpool_postgres::Pool;
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::directory::{self, Kind};
use super::{Administration, tenant, tx_for, whole};
use crate::auth::{self, Caller, Role};
use crate::config::Options;
use crate::keys::Issuer;

/// The token, and for whom it is.
#[derive(Serialize)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
    pub(crate) tenant_id: TenantId,
    pub(crate) user_id: UserId,
    pub(crate) role: Role,
}

/// Signs a token for a user, with the role that the membership has now.
///
/// # Errors
/// If there is no such user, or several tenants have one and none was named.
pub(crate) async fn issue(
    options: &Options,
    email: &str,
    tenant: Option<&str>,
    ttl: Duration,
) -> anyhow::Result<Issued> {
    let administration = Administration::open(options).await?;
    let found = find(&administration.pool, email, tenant).await;
    let issued = found.and_then(|caller| {
        sign(
            &Issuer::load_or_make(administration.data_dir.path())?,
            &caller,
            ttl,
        )
    });
    administration.close(issued).await
}

fn sign(issuer: &Issuer, caller: &Caller, ttl: Duration) -> anyhow::Result<Issued> {
    let now = Timestamp::now();
    Ok(Issued {
        token: auth::issue(issuer, caller, now, ttl)?,
        expires_at: now.checked_add(ttl).context("the token would live too long")?,
        tenant_id: caller.tenant,
        user_id: caller.user.clone(),
        role: caller.role,
    })
}

/// The user of an address, as a caller with the role that he has now.
///
/// # Errors
/// If there is none, or several tenants have one and none was named.
pub(crate) async fn find(pool: &Pool, email: &str, tenant: Option<&str>) -> anyhow::Result<Caller> {
    let wanted = match tenant {
        Some(name) => Some(tenant::find(pool, name).await?.0),
        None => None,
    };
    let mut found = Vec::new();
    for (tenant, user) in directory::look_up(pool, Kind::Email, email).await? {
        if wanted.is_none_or(|wanted| wanted == tenant)
            && let Some(user) = user
            && let Some(member) = member(pool, tenant, user).await?
        {
            found.push(member);
        }
    }
    match found.as_slice() {
        [] => bail!(
            "there is no user {email}{}",
            tenant
                .map(|name| format!(" in the tenant {name:?}"))
                .unwrap_or_default()
        ),
        [(_, caller)] => Ok(caller.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            bail!(
                "{email} is a user of several tenants ({}): name one with --tenant",
                names.join(", ")
            )
        }
    }
}

/// A user as a member, with the tenant's name.
async fn member(pool: &Pool, tenant: TenantId, user: Uuid) -> anyhow::Result<Option<(String, Caller)>> {
    let tx = tx_for(pool, tenant).await?;
    let row = tx
        .query_typed_opt(
            "SELECT t.name, m.role
               FROM memberships m JOIN tenants t ON t.tenant_id = m.tenant_id
              WHERE m.user_id = $1",
            &[(&user, Type::UUID)],
        )
        .await
        .context("reading the membership")?;
    tx.commit().await.map_err(whole)?;
    let Some(row) = row else { return Ok(None) };
    let role = Role::from_str(row.get(1))
        .map_err(anyhow::Error::msg)
        .context("reading the membership")?;
    Ok(Some((
        row.get(0),
        Caller {
            tenant,
            user: UserId::from(user),
            role,
            device: None,
        },
    )))
}
