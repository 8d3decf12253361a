//! Counts attempts, so that guessing takes too long to be worth it: by account, by network address, and by user for the
//! codes that are typed.
//!
//! The counts stand in the database: several servers count together, and a restart forgets nothing. They are kept by
//! digest, of whatever was typed, so that an account that does not exist is counted and blocked like one that does.
//! Whoever knows an address can slow its owner's sign-in down, by minutes at most; devices that are signed in notice
//! nothing of it.

use std::net::IpAddr;
use std::time::Duration;

use coditect_shared::{TenantId, UserId};
use deadpool_postgres::Pool;
use tokio_postgres::types::Type;

use super::secret::digest;
use crate::error::ApiError;

/// Who or what attempts.
pub(super) enum Subject<'a> {
    /// The e-mail address as it was typed, in its normal spelling.
    Account(&'a str),
    Address(IpAddr),
    /// A signed-in user who types codes.
    Codes(TenantId, &'a UserId),
}

/// Attempts that cost nothing, and the longest wait after many.
struct Allowance {
    free: i32,
    longest: Duration,
}

impl Subject<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Subject::Account(_) => "account",
            Subject::Address(_) => "address",
            Subject::Codes(..) => "code",
        }
    }

    fn digest(&self) -> Vec<u8> {
        match self {
            Subject::Account(email) => digest(email),
            Subject::Address(address) => digest(&network(*address)),
            Subject::Codes(tenant, user) => digest(&format!("{tenant} {user}")),
        }
    }

    fn allowance(&self) -> Allowance {
        match self {
            // People mistype; after that one guess in five minutes is some 100,000 a year, against 12 characters.
            Subject::Account(_) => Allowance {
                free: 5,
                longest: Duration::from_secs(5 * 60),
            },
            // An office behind one address has many people who mistype.
            Subject::Address(_) => Allowance {
                free: 50,
                longest: Duration::from_secs(15 * 60),
            },
            // Of 26 billion codes a few thousand wait at once.
            Subject::Codes(..) => Allowance {
                free: 10,
                longest: Duration::from_secs(5 * 60),
            },
        }
    }
}

/// Counts an attempt that is about to be made.
///
/// # Errors
/// 429 with the time to wait if it must not be made now.
pub(super) async fn begin(pool: &Pool, subject: &Subject<'_>) -> Result<(), ApiError> {
    let Allowance { free, longest } = subject.allowance();
    let row = pool
        .get()
        .await?
        .query_typed_one(
            "SELECT sign_in_attempt($1, $2, $3, $4)",
            &[
                (&subject.kind(), Type::TEXT),
                (&subject.digest(), Type::BYTEA),
                (&free, Type::INT4),
                (&(longest.as_secs() as i32), Type::INT4),
            ],
        )
        .await?;
    match u64::try_from(row.try_get::<_, i32>(0)?) {
        Ok(0) | Err(_) => Ok(()),
        Ok(secs) => {
            tracing::warn!(kind = subject.kind(), secs, "too many attempts");
            Err(ApiError::TooManyRequests {
                message: format!(
                    "Too many attempts. Please wait {}, then try again.",
                    in_words(secs)
                ),
                retry_after: Duration::from_secs(secs),
            })
        }
    }
}

/// The attempt that was counted last succeeded.
pub(super) async fn passed(pool: &Pool, subject: &Subject<'_>) -> Result<(), ApiError> {
    pool.get()
        .await?
        .query_typed(
            "SELECT sign_in_passed($1, $2)",
            &[(&subject.kind(), Type::TEXT), (&subject.digest(), Type::BYTEA)],
        )
        .await?;
    Ok(())
}

/// What one customer of a network provider has: an IPv4 address, or the 64 bits of IPv6 behind which he has all.
fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

fn in_words(secs: u64) -> String {
    match secs {
        1 => "a second".to_owned(),
        2..=90 => format!("{secs} seconds"),
        _ => format!("{} minutes", secs.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_of_one_ipv6_customer_are_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
