//! From what a token proves to a user of ours: by the subject's entry in the login directory, or, where the tenant allows
//! it, by making the user at the first login.

use std::str::FromStr as _;

use coditect_shared::hash::sha256;
use coditect_shared::{TenantId, UserId};
use deadpool_postgres::Pool;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::Settings;
use super::token::Claimed;
use crate::auth::Role;
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// Longest address, as the column has it.
const EMAIL_MAX_CHARS: usize = 320;

/// The user whom a token speaks for.
///
/// # Errors
/// 401 `user_unknown` if the tenant has no such user and makes none at the first login; 503 if the database is away.
pub(super) async fn of(
    pool: &Pool,
    settings: &Settings,
    claimed: &Claimed,
) -> Result<(TenantId, UserId), ApiError> {
    let digest = subject_digest(&settings.url, &claimed.subject);
    let connection = pool.get().await?;
    let tenant = tenant(&connection, claimed).await?;
    if let Some(found) = look_up(&connection, &digest, tenant).await? {
        return Ok(found);
    }
    drop(connection);
    first_login(pool, tenant, &digest, claimed).await
}

/// Under which a subject stands in the login directory. No issuer's URL holds a line feed.
pub(crate) fn subject_digest(issuer: &str, subject: &str) -> Vec<u8> {
    sha256(format!("{issuer}\n{subject}").as_bytes())
        .as_bytes()
        .to_vec()
}

/// The tenant that a token names.
async fn tenant(client: &Client, claimed: &Claimed) -> Result<TenantId, ApiError> {
    let named = claimed
        .tenant
        .as_deref()
        .ok_or_else(|| unknown("the access token names no tenant"))?;
    if let Ok(id) = TenantId::from_str(named) {
        return Ok(id);
    }
    let digest = sha256(named.trim().to_lowercase().as_bytes()).as_bytes().to_vec();
    let row = client
        .query_typed_opt(
            "SELECT tenant_id FROM login_lookup('tenant', $1)",
            &[(&digest, Type::BYTEA)],
        )
        .await?;
    row.map(|row| TenantId(row.get(0)))
        .ok_or_else(|| unknown("there is no tenant of the name that the access token bears"))
}

/// The user of a subject, if it was seen before.
async fn look_up(
    client: &Client,
    digest: &[u8],
    tenant: TenantId,
) -> Result<Option<(TenantId, UserId)>, ApiError> {
    let row = client
        .query_typed_opt(
            "SELECT tenant_id, user_id FROM login_lookup('subject', $1)",
            &[(&digest, Type::BYTEA)],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (of, user): (Uuid, Option<Uuid>) = (row.get(0), row.get(1));
    match user {
        Some(user) if of == tenant.0 => Ok(Some((tenant, UserId::from(user)))),
        Some(_) | None => Err(unknown(
            "the user belongs to another tenant than the access token names",
        )),
    }
}

/// Makes the user, with the role that the token names: from then on the membership's row alone counts.
async fn first_login(
    pool: &Pool,
    tenant: TenantId,
    digest: &[u8],
    claimed: &Claimed,
) -> Result<(TenantId, UserId), ApiError> {
    let tx = TenantTx::begin_for_tenant(pool, tenant).await?;
    // Two first requests at once: the second finds what the first has made.
    tx.query_typed(
        "SELECT pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 0))",
        &[(&digest, Type::BYTEA)],
    )
    .await?;
    if let Some(found) = look_up(&tx, digest, tenant).await? {
        tx.commit().await?;
        return Ok(found);
    }
    let allowed = tx
        .query_typed_opt("SELECT first_login_makes_user FROM tenants", &[])
        .await?
        .is_some_and(|row| row.get(0));
    if !allowed {
        tx.rollback().await?;
        return Err(unknown(
            "the tenant has no such user, and makes none at the first login",
        ));
    }
    let user = make(&tx, tenant, claimed).await?;
    tx.query_typed(
        "SELECT login_enter_subject($1, $2)",
        &[(&digest, Type::BYTEA), (&user, Type::UUID)],
    )
    .await?;
    tx.commit().await?;
    tracing::info!(%tenant, %user, "made a user at the first login");
    Ok((tenant, UserId::from(user)))
}

/// A new user; or the one who has this address already, if the issuer vouches for the address.
async fn make(tx: &TenantTx, tenant: TenantId, claimed: &Claimed) -> Result<Uuid, ApiError> {
    let email = claimed
        .email
        .as_deref()
        .map(|email| email.trim().to_lowercase())
        .filter(|email| email.contains('@') && email.chars().count() <= EMAIL_MAX_CHARS)
        .ok_or_else(|| unknown("the access token names no e-mail address to make the user with"))?;
    let role = match claimed.role.as_deref() {
        Some(name) => Role::from_str(name).map_err(|_| unknown("the access token names no role of ours"))?,
        None => Role::Member,
    };
    let user = Uuid::new_v4();
    let made = tx
        .execute_typed(
            "INSERT INTO users (tenant_id, id, email) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, email) DO NOTHING",
            &[
                (&tenant.0, Type::UUID),
                (&user, Type::UUID),
                (&email, Type::TEXT),
            ],
        )
        .await?;
    if made == 0 {
        if !claimed.email_verified {
            return Err(unknown(
                "the address belongs to a user already, and the issuer does not vouch for it",
            ));
        }
        let row = tx
            .query_typed_one("SELECT id FROM users WHERE email = $1", &[(&email, Type::TEXT)])
            .await?;
        return Ok(row.get(0));
    }
    tx.execute_typed(
        "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3)",
        &[
            (&tenant.0, Type::UUID),
            (&user, Type::UUID),
            (&role.as_str(), Type::TEXT),
        ],
    )
    .await?;
    tx.execute_typed(
        "INSERT INTO audit_log (tenant_id, actor, action, table_name, row_id, details)
         VALUES ($1, $2, 'create', 'users', $2, jsonb_build_object('role', $3, 'by', 'first login'))",
        &[
            (&tenant.0, Type::UUID),
            (&user.to_string(), Type::TEXT),
            (&role.as_str(), Type::TEXT),
        ],
    )
    .await?;
    Ok(user)
}

fn unknown(message: &str) -> ApiError {
    ApiError::Unauthorized {
        code: "user_unknown",
        message: message.to_owned(),
    }
}
