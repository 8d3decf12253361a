//! `user create` and `user invite`.

use anyhow::{Context as _, bail};
use coditect_shared::TenantId;
use deadpool_postgres::Pool;
use serde::Serialize;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::directory::{self, Kind};
use super::{Administration, audit, tenant, token, tx_for, whole};
use crate::auth::Role;
use crate::config::{Options, Usage};
use crate::external::subject_digest;
use crate::signin::Invitation;
use crate::tenant::TenantTx;

/// Longest address, as RFC 5321 and the column have it.
const EMAIL_MAX_CHARS: usize = 320;

/// The row made, with its membership.
#[derive(Serialize)]
pub(crate) struct User {
    /// The same as `user_id`.
    pub(crate) id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) tenant_id: TenantId,
    /// The tenant's name.
    pub(crate) tenant: String,
    pub(crate) email: String,
    pub(crate) role: Role,
    pub(crate) created_at: String,
    #[serde(flatten)]
    pub(crate) invitation: Invited,
}

/// A link with which a user sets his password. It is shown once, here.
#[derive(Serialize)]
pub(crate) struct Invited {
    pub(crate) invitation_url: String,
    /// When the link stops working.
    pub(crate) invitation_expires_at: String,
}

/// Makes a user in a tenant.
///
/// # Errors
/// If there is no such tenant, or the address is taken within it.
pub(crate) async fn create(options: &Options, email: &str, tenant: &str, role: Role) -> anyhow::Result<User> {
    let email = directory::normal(email);
    if !is_address(&email) {
        return Err(Usage(format!("{email:?} is no e-mail address")).into());
    }
    let administration = Administration::open(options).await?;
    let links = options.public_url(&administration.data_dir);
    let made = insert(&administration.pool, email, tenant, role, &links).await;
    administration.close(made).await
}

/// Makes a new link for a user who lost his, or his password.
///
/// # Errors
/// If there is no such user, or several tenants have one and none was named.
pub(crate) async fn invite(options: &Options, email: &str, tenant: Option<&str>) -> anyhow::Result<Invited> {
    let administration = Administration::open(options).await?;
    let links = options.public_url(&administration.data_dir);
    let made = renew(&administration.pool, email, tenant, &links).await;
    administration.close(made).await
}

async fn renew(pool: &Pool, email: &str, tenant: Option<&str>, links: &str) -> anyhow::Result<Invited> {
    let caller = token::find(pool, email, tenant).await?;
    let user: Uuid = caller.user.as_str().parse().context("reading the user's id")?;
    let tx = tx_for(pool, caller.tenant).await?;
    let invited = invitation(&tx, caller.tenant, user, links).await?;
    tx.commit().await.map_err(whole)?;
    Ok(invited)
}

async fn invitation(tx: &TenantTx, tenant: TenantId, user: Uuid, links: &str) -> anyhow::Result<Invited> {
    let made = Invitation::make(tx, tenant, user)
        .await
        .map_err(whole)
        .context("making an invitation")?;
    audit(
        tx,
        &tenant.to_string(),
        "create",
        "invitations",
        &user.to_string(),
    )
    .await
    .map_err(whole)?;
    Ok(Invited {
        invitation_url: made.url(links),
        invitation_expires_at: made.expires_at,
    })
}

async fn insert(pool: &Pool, email: String, tenant: &str, role: Role, links: &str) -> anyhow::Result<User> {
    let (tenant_id, tenant) = tenant::find(pool, tenant).await?;
    let id = Uuid::new_v4();
    let tx = tx_for(pool, tenant_id).await?;
    let inserted = tx
        .query_typed_one(
            "INSERT INTO users (tenant_id, id, email) VALUES ($1, $2, $3)
             RETURNING to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            &[
                (&tenant_id.0, Type::UUID),
                (&id, Type::UUID),
                (&email, Type::TEXT),
            ],
        )
        .await;
    let row = match inserted {
        Ok(row) => row,
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            bail!("the tenant {tenant:?} has a user {email} already")
        }
        Err(error) => return Err(error).context("writing the user"),
    };
    tx.execute_typed(
        "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3)",
        &[
            (&tenant_id.0, Type::UUID),
            (&id, Type::UUID),
            (&role.as_str(), Type::TEXT),
        ],
    )
    .await
    .context("writing the membership")?;
    // An entry that is there already was left behind by a user who is gone: the unique key of users says so.
    tx.execute_typed(
        "INSERT INTO login_directory (kind, digest, tenant_id, user_id) VALUES ($1, $2, $3, $4)
         ON CONFLICT (kind, digest, tenant_id) DO UPDATE SET user_id = excluded.user_id",
        &[
            (&Kind::Email.as_str(), Type::TEXT),
            (&directory::digest(&email), Type::BYTEA),
            (&tenant_id.0, Type::UUID),
            (&id, Type::UUID),
        ],
    )
    .await
    .context("entering the address into the login directory")?;
    audit(&tx, &tenant_id.to_string(), "create", "users", &id.to_string())
        .await
        .map_err(whole)?;
    let invitation = invitation(&tx, tenant_id, id, links).await?;
    tx.commit().await.map_err(whole)?;
    Ok(User {
        id,
        user_id: id,
        tenant_id,
        tenant,
        email,
        role,
        created_at: row.get(0),
        invitation,
    })
}

/// Which user a subject of another issuer is.
#[derive(Debug, Serialize)]
pub(crate) struct Linked {
    pub(crate) user_id: Uuid,
    pub(crate) tenant_id: TenantId,
    /// The tenant's name.
    pub(crate) tenant: String,
}

/// Lets a subject of another issuer be a user, in the place of whoever it was before.
///
/// # Errors
/// If there is no such user, or the subject is one of another tenant.
pub(crate) async fn link(
    options: &Options,
    email: &str,
    tenant: &str,
    issuer: &str,
    subject: &str,
) -> anyhow::Result<Linked> {
    let administration = Administration::open(options).await?;
    let linked = enter_subject(&administration.pool, email, tenant, issuer, subject).await;
    administration.close(linked).await
}

async fn enter_subject(
    pool: &Pool,
    email: &str,
    tenant: &str,
    issuer: &str,
    subject: &str,
) -> anyhow::Result<Linked> {
    let (tenant_id, tenant) = tenant::find(pool, tenant).await?;
    let tx = tx_for(pool, tenant_id).await?;
    let email = directory::normal(email);
    let user_id: Uuid = tx
        .query_typed_opt("SELECT id FROM users WHERE email = $1", &[(&email, Type::TEXT)])
        .await
        .context("looking for the user")?
        .with_context(|| format!("there is no user {email} in the tenant {tenant:?}"))?
        .get(0);
    let entered = tx
        .execute_typed(
            "INSERT INTO login_directory AS d (kind, digest, tenant_id, user_id) VALUES ('subject', $1, $2, $3)
             ON CONFLICT (kind, digest) WHERE kind <> 'email'
             DO UPDATE SET user_id = excluded.user_id WHERE d.tenant_id = excluded.tenant_id",
            &[
                (&subject_digest(issuer, subject), Type::BYTEA),
                (&tenant_id.0, Type::UUID),
                (&user_id, Type::UUID),
            ],
        )
        .await
        .context("entering the subject into the login directory")?;
    if entered == 0 {
        bail!("this subject is a user of another tenant");
    }
    audit(
        &tx,
        &tenant_id.to_string(),
        "update",
        "users",
        &user_id.to_string(),
    )
    .await
    .map_err(whole)?;
    tx.commit().await.map_err(whole)?;
    Ok(Linked {
        user_id,
        tenant_id,
        tenant,
    })
}

/// Whether a text can be an address at all; whether it is one, only a mail to it can tell.
pub(crate) fn is_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split('@').collect();
    parts.len() == 2
        && parts.iter().all(|part| !part.is_empty())
        && text.chars().count() <= EMAIL_MAX_CHARS
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_an_address_is_refused() {
        assert!(is_address("a@acme.test"));
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\n"] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }
}
