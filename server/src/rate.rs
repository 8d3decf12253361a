//! How many requests one device, and one user over all devices, may make: token buckets in a bounded map.
//!
//! Honest devices stay far below. What it keeps out is one device that has gone mad (a loop without a pause, a script)
//! and would take the database from all others of the server.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coditect_shared::{DeviceId, TenantId, UserId};

use crate::limits::{BUCKETS, DEVICE_BURST, DEVICE_RATE_PER_SEC, USER_DEVICES};

/// All buckets of a server. Who was not here for long has a full one, which is as good as none.
pub struct Rates {
    buckets: Mutex<HashMap<u64, Bucket>>,
    /// Keys are digests under a secret of this process, so that nobody can choose theirs to meet another's.
    digest: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What a bucket holds and how fast it fills.
#[derive(Clone, Copy, Debug)]
struct Size {
    burst: f64,
    per_sec: f64,
}

const DEVICE: Size = Size {
    burst: DEVICE_BURST,
    per_sec: DEVICE_RATE_PER_SEC,
};

const USER: Size = Size {
    burst: DEVICE_BURST * USER_DEVICES,
    per_sec: DEVICE_RATE_PER_SEC * USER_DEVICES,
};

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            buckets: Mutex::default(),
            digest: RandomState::new(),
        }
    }
}

impl Rates {
    /// Lets one request pass, or says after which time the next one will.
    ///
    /// The device is what the request says of itself, so that the user's own bucket holds whoever says another each time.
    pub fn take(
        &self,
        tenant: TenantId,
        user: &UserId,
        device: Option<DeviceId>,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS {
            forget_idle(&mut buckets, now);
        }
        let mut pass = |key: u64, size: Size| {
            let bucket = buckets.entry(key).or_insert(Bucket {
                tokens: size.burst,
                at: now,
            });
            bucket.take(size, now)
        };
        if let Some(device) = device {
            pass(self.digest.hash_one((tenant, user, Some(device))), DEVICE)?;
        }
        pass(self.digest.hash_one((tenant, user, None::<DeviceId>)), USER)
    }
}

impl Bucket {
    fn take(&mut self, size: Size, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * size.per_sec).min(size.burst);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / size.per_sec))
    }
}

/// Makes room: buckets that are full by now, or all of them if there are none such, since letting some requests pass
/// twice does less harm than memory without a bound.
fn forget_idle(buckets: &mut HashMap<u64, Bucket>, now: Instant) {
    let full_after = Duration::from_secs_f64(DEVICE.burst / DEVICE.per_sec);
    buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < full_after);
    if buckets.len() >= BUCKETS {
        tracing::warn!("more than {BUCKETS} devices at once: their rates are counted anew");
        buckets.clear();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn ids(n: u128) -> (TenantId, UserId, DeviceId) {
        let id = Uuid::from_u128(n);
        (TenantId(id), UserId::from(id), DeviceId(id))
    }

    /// How many of `tries` at one moment pass.
    fn passing(rates: &Rates, n: u128, device: Option<DeviceId>, tries: usize, now: Instant) -> usize {
        let (tenant, user, _) = ids(n);
        (0..tries)
            .filter(|_| rates.take(tenant, &user, device, now).is_ok())
            .count()
    }

    #[test]
    fn a_device_has_its_burst_and_then_its_rate() {
        let (rates, now) = (Rates::default(), Instant::now());
        let device = Some(ids(1).2);
        let burst = DEVICE_BURST as usize;
        assert_eq!(passing(&rates, 1, device, burst + 50, now), burst);
        let (tenant, user, _) = ids(1);
        let wait = rates.take(tenant, &user, device, now).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs_f64(1.0 / DEVICE_RATE_PER_SEC));
        let later = now + Duration::from_secs(1);
        let passed = passing(&rates, 1, device, burst, later);
        assert_eq!(passed, DEVICE_RATE_PER_SEC as usize);
        // The clock of another thread may be a little behind.
        assert_eq!(passing(&rates, 1, device, 1, now), 0);
    }

    #[test]
    fn another_device_and_another_user_have_their_own() {
        let (rates, now) = (Rates::default(), Instant::now());
        let burst = DEVICE_BURST as usize;
        assert_eq!(passing(&rates, 1, Some(ids(1).2), burst + 1, now), burst);
        assert_eq!(passing(&rates, 1, Some(ids(2).2), 10, now), 10);
        assert_eq!(passing(&rates, 2, Some(ids(1).2), 10, now), 10);
    }

    #[test]
    fn whoever_names_another_device_each_time_is_held_by_the_users_bucket() {
        let (rates, now) = (Rates::default(), Instant::now());
        let (tenant, user, _) = ids(1);
        let all = (DEVICE_BURST * USER_DEVICES) as usize;
        let passed = (0..all as u128 + 500)
            .filter(|n| rates.take(tenant, &user, Some(ids(*n).2), now).is_ok())
            .count();
        assert_eq!(passed, all);
    }

    #[test]
    fn the_map_stays_bounded_and_forgets_the_idle_first() {
        let (rates, long_ago) = (Rates::default(), Instant::now());
        let now = long_ago + Duration::from_secs(3600);
        let kept = || rates.buckets.lock().unwrap().len();
        let others = |many: usize, at: Instant| {
            for n in 0..many as u128 {
                passing(&rates, 1_000 + n, None, 1, at);
                assert!(kept() <= BUCKETS + 1);
            }
        };
        others(BUCKETS - 2, long_ago);
        let burst = DEVICE_BURST as usize;
        assert_eq!(passing(&rates, 1, Some(ids(1).2), burst + 1, now), burst);
        // There is no more room: those of long ago go, and the busy one is not forgotten.
        assert_eq!(passing(&rates, 2, None, 1, now), 1);
        assert_eq!(kept(), 3);
        assert_eq!(passing(&rates, 1, Some(ids(1).2), 1, now), 0);
        others(2 * BUCKETS, now);
    }
}
