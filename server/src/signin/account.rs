//! From an e-mail address and a password to the users they belong to.
//!
//! Known and unknown addresses, users without a password and wrong passwords get the same answer after the same time.

use std::time::Duration;

use coditect_shared::{TenantId, UserId};
use deadpool_postgres::Pool;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::attempts::{self, Subject};
use super::password::Password;
use super::secret::digest;
use crate::app::AppState;
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// How long a sign-in takes at least. How many tenants know an address shows in how many hashes are compared, some 20 ms
/// each; this is more than all of them take.
const TAKES: Duration = Duration::from_millis(400);

/// Most tenants in which one address is looked for.
const TENANTS_MAX: usize = 8;

/// One user whose password it was.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) tenant: TenantId,
    pub(super) tenant_name: String,
    pub(super) user: UserId,
}

/// The users of this address and password: none, one, or one in each of several tenants.
///
/// # Errors
/// 429 after too many attempts, on this account or from this address.
pub(super) async fn of(
    state: &AppState,
    email: &str,
    password: Password,
    from: std::net::IpAddr,
) -> Result<Vec<Account>, ApiError> {
    let begun = Instant::now();
    let email = email.trim().to_lowercase();
    let (account, address) = (Subject::Account(&email), Subject::Address(from));
    attempts::begin(&state.pool, &address).await?;
    attempts::begin(&state.pool, &account).await?;
    let found = matching(state, &email, password).await?;
    if !found.is_empty() {
        attempts::passed(&state.pool, &account).await?;
        attempts::passed(&state.pool, &address).await?;
    }
    tokio::time::sleep_until(begun + TAKES).await;
    Ok(found)
}

async fn matching(state: &AppState, email: &str, password: Password) -> Result<Vec<Account>, ApiError> {
    let mut found = Vec::new();
    let mut compared = false;
    for (tenant, user) in users(&state.pool, email).await? {
        let Some((account, hash)) = look(&state.pool, tenant, UserId::from(user)).await? else {
            continue;
        };
        compared = true;
        if state.signin.hashing.verify(password.clone(), Some(hash)).await? {
            found.push(account);
        }
    }
    if !compared {
        state.signin.hashing.verify(password, None).await?;
    }
    Ok(found)
}

async fn users(pool: &Pool, email: &str) -> Result<Vec<(TenantId, Uuid)>, ApiError> {
    let rows = pool
        .get()
        .await?
        .query_typed(
            "SELECT tenant_id, user_id FROM login_lookup('email', $1)
              WHERE user_id IS NOT NULL ORDER BY tenant_id LIMIT $2",
            &[(&digest(email), Type::BYTEA), (&(TENANTS_MAX as i64), Type::INT8)],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((TenantId(row.try_get(0)?), row.try_get(1)?)))
        .collect()
}

/// A member who has a password, with its hash.
async fn look(pool: &Pool, tenant: TenantId, user: UserId) -> Result<Option<(Account, String)>, ApiError> {
    let tx = TenantTx::begin_snapshot(pool, tenant, &user).await?;
    let row = tx
        .query_typed_opt(
            "SELECT t.name, p.hash
               FROM user_passwords p
               JOIN memberships m ON m.tenant_id = p.tenant_id AND m.user_id = p.user_id
               JOIN tenants t ON t.tenant_id = p.tenant_id
              WHERE p.tenant_id = $1 AND p.user_id = $2::text::uuid",
            &[(&tenant.0, Type::UUID), (&user.as_str(), Type::TEXT)],
        )
        .await?;
    tx.commit().await?;
    row.map(|row| {
        Ok((
            Account {
                tenant,
                tenant_name: row.try_get(0)?,
                user,
            },
            row.try_get(1)?,
        ))
    })
    .transpose()
}
