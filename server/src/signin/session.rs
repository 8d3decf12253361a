//! The session of a browser: from the password to the decision about one login, and for a quarter of an hour at most.

use std::time::Duration;

use coditect_shared::{TenantId, UserId};
use deadpool_postgres::Pool;
use serde_json::json;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::account::Account;
use super::secret::TenantSecret;
use super::{Entry, record};
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// How long somebody who signed in may take to decide.
pub(super) const SESSION_LIFE: Duration = Duration::from_secs(15 * 60);

/// Who is signed in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) secret: TenantSecret,
    pub(super) user: UserId,
    pub(super) email: String,
    pub(super) tenant_name: String,
}

impl Session {
    pub(super) fn tenant(&self) -> TenantId {
        self.secret.tenant
    }
}

/// Makes a session for a user whose password was right.
pub(super) async fn make(pool: &Pool, account: &Account, request_id: &str) -> Result<TenantSecret, ApiError> {
    let secret = TenantSecret::new(account.tenant)?;
    let tenant = account.tenant.0;
    let tx = TenantTx::begin(pool, account.tenant, &account.user).await?;
    // Sessions that ended unnoticed go when their user comes back.
    tx.execute_typed(
        "DELETE FROM browser_sessions
          WHERE tenant_id = $1 AND user_id = $2::text::uuid AND expires_at <= clock_timestamp()",
        &[(&tenant, Type::UUID), (&account.user.as_str(), Type::TEXT)],
    )
    .await?;
    tx.execute_typed(
        "INSERT INTO browser_sessions (tenant_id, digest, user_id, expires_at)
         VALUES ($1, $2, $3::text::uuid, clock_timestamp() + make_interval(secs => $4))",
        &[
            (&tenant, Type::UUID),
            (&secret.digest(), Type::BYTEA),
            (&account.user.as_str(), Type::TEXT),
            (&SESSION_LIFE.as_secs_f64(), Type::FLOAT8),
        ],
    )
    .await?;
    record(&tx, tenant, &entry(&account.user, "create", request_id)).await?;
    tx.commit().await?;
    Ok(secret)
}

/// Whose session this is, if it goes on and its user is still a member.
pub(super) async fn look(pool: &Pool, secret: TenantSecret) -> Result<Option<Session>, ApiError> {
    let tx = TenantTx::begin_for_tenant(pool, secret.tenant).await?;
    let row = tx
        .query_typed_opt(
            "SELECT s.user_id, u.email, t.name
               FROM browser_sessions s
               JOIN memberships m ON m.tenant_id = s.tenant_id AND m.user_id = s.user_id
               JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
               JOIN tenants t ON t.tenant_id = s.tenant_id
              WHERE s.tenant_id = $1 AND s.digest = $2 AND s.expires_at > clock_timestamp()",
            &[(&secret.tenant.0, Type::UUID), (&secret.digest(), Type::BYTEA)],
        )
        .await?;
    tx.commit().await?;
    let session = |row: tokio_postgres::Row| {
        Ok(Session {
            user: UserId::from(row.try_get::<_, Uuid>(0)?),
            email: row.try_get(1)?,
            tenant_name: row.try_get(2)?,
            secret,
        })
    };
    row.map(session).transpose()
}

/// Ends a session, in the transaction of what it was for.
pub(super) async fn end(tx: &TenantTx, session: &Session, request_id: &str) -> Result<(), ApiError> {
    let tenant = session.tenant().0;
    tx.execute_typed(
        "DELETE FROM browser_sessions WHERE tenant_id = $1 AND digest = $2",
        &[(&tenant, Type::UUID), (&session.secret.digest(), Type::BYTEA)],
    )
    .await?;
    record(tx, tenant, &entry(&session.user, "delete", request_id)).await
}

fn entry<'a>(user: &'a UserId, action: &'static str, request_id: &'a str) -> Entry<'a> {
    Entry {
        actor: user.as_str(),
        action,
        table: "browser_sessions",
        row: user.as_str(),
        request_id: Some(request_id),
        details: json!({}),
    }
}
