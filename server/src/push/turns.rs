//! Pushes of one tenant queue here, before they take a connection.
//!
//! They would otherwise queue at the tenant's head lock inside PostgreSQL, each with a connection in its hand, and one
//! busy tenant could take the whole pool away from all others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coditect_shared::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// Pushes of one tenant that hold a connection at a time: one writes, the next one has begun and waits at the lock, so
/// that the tenant's commits follow each other without a gap.
const AT_A_TIME: usize = 2;

/// How many may wait for each tenant: a quarter of the requests that the server has in work at once, so that no tenant
/// alone can fill it. At a few milliseconds a push they wait for some hundred; beyond that a device does better to
/// come back later than to hold a body of megabytes here.
const WAITING_MAX: usize = crate::limits::OPEN_REQUESTS / 4;

/// What a device is told that finds the queue full.
const COME_BACK: Duration = Duration::from_secs(1);

/// The queues of all tenants that push right now.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<TenantId, Arc<Queue>>>>);

#[derive(Debug)]
struct Queue {
    permits: Arc<Semaphore>,
    /// Who waits or has a turn. At zero the entry goes.
    users: AtomicUsize,
}

/// The right to push, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    // Fields drop in this order: the permit must be back before the entry can go.
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// A place in a tenant's queue; frees the tenant's entry with the last one.
#[derive(Debug)]
struct Place {
    turns: Turns,
    tenant: TenantId,
    queue: Arc<Queue>,
}

impl Turns {
    /// Waits for this tenant's next turn. Dropping the wait leaves the queue.
    ///
    /// # Errors
    /// 429 if too many wait already.
    pub async fn wait(&self, tenant: TenantId) -> Result<Turn, ApiError> {
        let place = self.place(tenant)?;
        let permit = place.queue.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|closed| ApiError::Internal(closed.into()))?;
        Ok(Turn {
            _permit: permit,
            _place: place,
        })
    }

    fn place(&self, tenant: TenantId) -> Result<Place, ApiError> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(tenant).or_insert_with(|| {
            Arc::new(Queue {
                permits: Arc::new(Semaphore::new(AT_A_TIME)),
                users: AtomicUsize::new(0),
            })
        });
        // Counted under the map's lock, as is the removal: an entry in use is never removed.
        if queue.users.load(Ordering::Relaxed) >= AT_A_TIME + WAITING_MAX {
            return Err(ApiError::TooManyRequests {
                message: format!("more than {WAITING_MAX} pushes of this tenant are waiting"),
                retry_after: COME_BACK,
            });
        }
        queue.users.fetch_add(1, Ordering::Relaxed);
        Ok(Place {
            turns: self.clone(),
            tenant,
            queue: queue.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.queue.users.fetch_sub(1, Ordering::Relaxed) == 1 {
            queues.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use uuid::Uuid;

    use super::*;

    fn tenant(n: u128) -> TenantId {
        TenantId(Uuid::from_u128(n))
    }

    #[tokio::test]
    async fn one_tenant_waits_for_its_own_turns_only_and_leaves_nothing_behind() {
        let turns = Turns::default();
        let held = [
            turns.wait(tenant(1)).await.unwrap(),
            turns.wait(tenant(1)).await.unwrap(),
        ];
        let mut third = Box::pin(turns.wait(tenant(1)));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(turns.wait(tenant(2)).await.unwrap());
        drop(held);
        drop(third.await.unwrap());
        assert!(turns.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_leaves_the_queue() {
        let turns = Turns::default();
        let held = [
            turns.wait(tenant(1)).await.unwrap(),
            turns.wait(tenant(1)).await.unwrap(),
        ];
        let mut third = Box::pin(turns.wait(tenant(1)));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(third);
        drop(held);
        assert!(turns.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_full_queue_sends_the_next_one_away() {
        let turns = Turns::default();
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..AT_A_TIME + WAITING_MAX {
            let mut wait = Box::pin(turns.wait(tenant(1)));
            match futures_util::poll!(&mut wait) {
                Poll::Ready(turn) => held.push(turn.unwrap()),
                Poll::Pending => waiting.push(wait),
            }
        }
        assert!(matches!(
            turns.wait(tenant(1)).await,
            Err(ApiError::TooManyRequests { .. })
        ));
        drop(waiting);
        drop(held);
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
