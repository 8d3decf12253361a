//! The fallback: whatever a notification should have told and did not, is found here.
//!
//! Once a user, not once a stream; and a user is looked at only if his tenant's head moved since the last round.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use coditect_shared::{TenantId, UserId};
use tokio::time::sleep;

use crate::app::AppState;
use crate::auth::{Caller, Role};
use crate::error::ApiError;
use crate::history;
use crate::tenant::TenantTx;

/// About the time of a round, and so the longest that a lost notification delays a row.
const ROUND: Duration = Duration::from_secs(30);

/// Tenants' heads as the last round saw them.
#[derive(Debug, Default)]
pub struct Seen(HashMap<TenantId, i64>);

/// Looks at all listeners' heads, round after round, for ever.
pub(super) async fn run(state: &AppState) {
    let mut seen = Seen::default();
    loop {
        // Between 0.75 and 1.25 rounds, so that servers started together drift apart.
        sleep(ROUND.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        if let Err(error) = round(state, &mut seen).await {
            // The database is away: there is nothing to find, and requests log it.
            tracing::debug!("could not look at heads: {error}");
        }
    }
}

/// Looks at each listener's head, and tells it where it is new.
///
/// # Errors
/// Of the database; tenants that were not reached are looked at in the next round.
pub async fn round(state: &AppState, seen: &mut Seen) -> Result<(), ApiError> {
    let mut tenants: BTreeMap<TenantId, Vec<UserId>> = BTreeMap::new();
    for (tenant, user) in state.heads.listeners() {
        tenants.entry(tenant).or_default().push(user);
    }
    seen.0.retain(|tenant, _| tenants.contains_key(tenant));
    for (tenant, users) in tenants {
        let head = look(state, tenant, &users, seen.0.get(&tenant).copied()).await?;
        seen.0.insert(tenant, head);
    }
    Ok(())
}

/// Looks at one tenant's listeners, if its head is another than the one seen last; gives the head.
async fn look(
    state: &AppState,
    tenant: TenantId,
    users: &[UserId],
    seen: Option<i64>,
) -> Result<i64, ApiError> {
    let mut tenant_head = None;
    for user in users {
        // Reading a head needs no more than the right to listen, which each of them has shown.
        let caller = Caller {
            tenant,
            user: user.clone(),
            role: Role::Viewer,
            device: None,
        };
        let tx = TenantTx::begin_snapshot(&state.pool, tenant, user).await?;
        if tenant_head.is_none() {
            let now = history::tenant_head(&tx, &caller).await?.cursor;
            tenant_head = Some(now);
            if seen == Some(now) {
                tx.commit().await?;
                break;
            }
        }
        let head = history::head(&tx, &caller).await?.cursor;
        tx.commit().await?;
        state.heads.learn(tenant, user, head);
    }
    Ok(tenant_head.unwrap_or_default())
}
