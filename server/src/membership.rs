//! What a caller may do now: the role in the membership's row, never the one in the token; and nothing with the token of
//! a device that was revoked.
//!
//! What was read is believed for [`BELIEVED`], so that requests cost no query, and a change, removal or revocation counts
//! within that time on every server, without anybody being told.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coditect_shared::{DeviceId, TenantId, UserId};
use deadpool_postgres::Pool;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::error::ApiError;
use crate::role::Role;
use crate::tenant::TenantTx;

/// How long a role that was read is believed. The product's promise: a removal counts within 30 s.
pub const BELIEVED: Duration = Duration::from_secs(30);

/// Most users whose role is kept: each takes some 200 bytes. With more at once, some are read again before their time.
const KEPT_MAX: usize = 50_000;

/// How a caller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Member(Role),
    NoMember,
    /// The token was given to a device that was revoked, or is none of the user's.
    DeviceRevoked,
}

/// What was read lately. Cheap to clone.
#[derive(Clone)]
pub struct Memberships {
    slots: Arc<Mutex<HashMap<Key, Slot>>>,
    believed: Duration,
}

/// A user, on a device that signed in or with a token of another origin.
type Key = (TenantId, UserId, Option<DeviceId>);

/// One key's. Its lock is held while the row is read, so that requests that come together read it once.
type Slot = Arc<tokio::sync::Mutex<Option<Known>>>;

#[derive(Clone, Copy)]
struct Known {
    standing: Standing,
    /// Before the row was read.
    at: Instant,
}

impl Default for Memberships {
    fn default() -> Memberships {
        Memberships::believed_for(BELIEVED)
    }
}

impl Memberships {
    /// Believes what it read for that long.
    pub fn believed_for(believed: Duration) -> Memberships {
        Memberships {
            slots: Arc::default(),
            believed,
        }
    }

    /// How a user stands, on the device that the token was given to if it was given to one, as it was at most so long ago.
    ///
    /// # Errors
    /// 503 if it has to be read and the database is away.
    pub async fn standing(
        &self,
        pool: &Pool,
        tenant: TenantId,
        user: &UserId,
        device: Option<DeviceId>,
    ) -> Result<Standing, ApiError> {
        let slot = self.slot((tenant, user.clone(), device));
        let mut known = slot.lock().await;
        if let Some(known) = known.filter(|known| known.is_fresh(self.believed)) {
            return Ok(known.standing);
        }
        let at = Instant::now();
        let standing = read(pool, tenant, user, device).await?;
        *known = Some(Known { standing, at });
        Ok(standing)
    }

    /// Reads a user's role anew at the next request, where this server itself changed it.
    pub fn forget(&self, tenant: TenantId, user: &UserId) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|(of, who, _), _| !(*of == tenant && who == user));
    }

    fn slot(&self, key: Key) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&key) {
            return slot.clone();
        }
        if slots.len() >= KEPT_MAX {
            make_room(&mut slots, self.believed);
        }
        slots.entry(key).or_default().clone()
    }
}

impl Known {
    fn is_fresh(&self, believed: Duration) -> bool {
        self.at.elapsed() < believed
    }
}

/// Forgets what is too old to be believed; if that is not half of all, the rest too: reading it again is cheap, and this
/// happens at most once in so many new users.
fn make_room(slots: &mut HashMap<Key, Slot>, believed: Duration) {
    slots.retain(|_, slot| {
        // A slot whose row is being read stays.
        slot.try_lock()
            .map_or(true, |known| known.is_some_and(|known| known.is_fresh(believed)))
    });
    if slots.len() > KEPT_MAX / 2 {
        slots.clear();
    }
}

async fn read(
    pool: &Pool,
    tenant: TenantId,
    user: &UserId,
    device: Option<DeviceId>,
) -> Result<Standing, ApiError> {
    let Ok(id) = user.as_str().parse::<Uuid>() else {
        // Members have ids that we made.
        return Ok(Standing::NoMember);
    };
    let tx = TenantTx::begin_snapshot(pool, tenant, user).await?;
    let row = tx
        .query_typed_opt(
            "SELECT m.role,
                    $3::uuid IS NULL OR EXISTS (
                        SELECT FROM devices d
                         WHERE d.tenant_id = $1 AND d.id = $3 AND d.user_id = $2 AND d.revoked_at IS NULL)
               FROM memberships m WHERE m.tenant_id = $1 AND m.user_id = $2",
            &[
                (&tenant.0, Type::UUID),
                (&id, Type::UUID),
                (&device.map(|device| device.0), Type::UUID),
            ],
        )
        .await?;
    tx.commit().await?;
    let Some(row) = row else {
        return Ok(Standing::NoMember);
    };
    if !row.try_get::<_, bool>(1)? {
        return Ok(Standing::DeviceRevoked);
    }
    Ok(Standing::Member(
        Role::from_str(row.try_get(0)?).map_err(anyhow::Error::msg)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_more_users_than_are_kept_make_room_for_each_other() {
        let memberships = Memberships::default();
        for n in 0..KEPT_MAX * 2 {
            memberships.slot((
                TenantId(Uuid::nil()),
                UserId::from(Uuid::from_u128(n as u128)),
                None,
            ));
        }
        assert!(memberships.slots.lock().unwrap().len() <= KEPT_MAX);
    }
}
