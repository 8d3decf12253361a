//! One-time links with which users set their passwords.

use std::time::Duration;

use coditect_shared::{TenantId, UserId};
use deadpool_postgres::Pool;
use serde_json::json;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::secret::TenantSecret;
use super::{Entry, record};
use crate::error::ApiError;
use crate::instant;
use crate::tenant::TenantTx;

/// How long a link works: somebody who is away for the weekend still finds it good, a mail found months later not.
pub(crate) const INVITATION_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A link that was just made. What it holds can be read nowhere afterwards.
pub(crate) struct Invitation {
    secret: TenantSecret,
    /// RFC 3339.
    pub(crate) expires_at: String,
}

/// Whom a link invites.
pub(super) struct Invited {
    pub(super) user: Uuid,
    pub(super) email: String,
    pub(super) tenant: String,
}

impl Invitation {
    /// Makes a user's link, in place of the one that he may have had. Works as the owner of the schema.
    pub(crate) async fn make(tx: &TenantTx, tenant: TenantId, user: Uuid) -> Result<Invitation, ApiError> {
        let secret = TenantSecret::new(tenant)?;
        let row = tx
            .query_typed_one(
                "INSERT INTO invitations (tenant_id, user_id, secret_digest, expires_at)
                 VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
                 ON CONFLICT (tenant_id, user_id) DO UPDATE
                    SET secret_digest = excluded.secret_digest, expires_at = excluded.expires_at,
                        created_at = excluded.created_at
                 RETURNING expires_at",
                &[
                    (&tenant.0, Type::UUID),
                    (&user, Type::UUID),
                    (&secret.digest(), Type::BYTEA),
                    (&INVITATION_LIFE.as_secs_f64(), Type::FLOAT8),
                ],
            )
            .await?;
        Ok(Invitation {
            secret,
            expires_at: instant::to_text(row.try_get(0)?),
        })
    }

    /// The link.
    pub(crate) fn url(&self, public_url: &str) -> String {
        format!("{public_url}/invitation/{}", self.secret.expose())
    }
}

/// Whom a link invites, if it is still good.
pub(super) async fn look(pool: &Pool, secret: &TenantSecret) -> Result<Option<Invited>, ApiError> {
    let tx = TenantTx::begin_for_tenant(pool, secret.tenant).await?;
    let row = tx
        .query_typed_opt(
            "SELECT i.user_id, u.email, t.name
               FROM invitations i
               JOIN users u ON u.tenant_id = i.tenant_id AND u.id = i.user_id
               JOIN tenants t ON t.tenant_id = i.tenant_id
              WHERE i.tenant_id = $1 AND i.secret_digest = $2 AND i.expires_at > clock_timestamp()",
            &[(&secret.tenant.0, Type::UUID), (&secret.digest(), Type::BYTEA)],
        )
        .await?;
    tx.commit().await?;
    let invited = |row: tokio_postgres::Row| {
        Ok(Invited {
            user: row.try_get(0)?,
            email: row.try_get(1)?,
            tenant: row.try_get(2)?,
        })
    };
    row.map(invited).transpose()
}

/// Uses a link up and sets the password of the user whom it invites. False: it was used or replaced meanwhile.
pub(super) async fn redeem(
    pool: &Pool,
    secret: &TenantSecret,
    user: Uuid,
    hash: &str,
    request_id: &str,
) -> Result<bool, ApiError> {
    let tenant = secret.tenant.0;
    let tx = TenantTx::begin(pool, secret.tenant, &UserId::from(user)).await?;
    let used = tx
        .execute_typed(
            "DELETE FROM invitations
              WHERE tenant_id = $1 AND user_id = $2 AND secret_digest = $3 AND expires_at > clock_timestamp()",
            &[(&tenant, Type::UUID), (&user, Type::UUID), (&secret.digest(), Type::BYTEA)],
        )
        .await?;
    if used == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    let first = tx
        .query_typed_one(
            "INSERT INTO user_passwords (tenant_id, user_id, hash) VALUES ($1, $2, $3)
             ON CONFLICT (tenant_id, user_id) DO UPDATE SET hash = excluded.hash, changed_at = excluded.changed_at
             RETURNING xmax = 0",
            &[(&tenant, Type::UUID), (&user, Type::UUID), (&hash, Type::TEXT)],
        )
        .await?;
    let action = if first.try_get(0)? { "create" } else { "update" };
    let actor = user.to_string();
    for (action, table) in [("delete", "invitations"), (action, "user_passwords")] {
        let entry = Entry {
            actor: &actor,
            action,
            table,
            row: &actor,
            request_id: Some(request_id),
            details: json!({}),
        };
        record(&tx, tenant, &entry).await?;
    }
    tx.commit().await?;
    tracing::info!(%tenant, %user, "a password was set by invitation");
    Ok(true)
}
