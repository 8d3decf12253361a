//! Codes of the device login (RFC 8628): made for a device that nobody knows yet, shown to the person who types one,
//! decided once, taken once.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use coditect_shared::{DeviceId, TenantId, UserId};
use deadpool_postgres::Pool;
use jiff::Timestamp;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde_json::json;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::secret::{self, digest};
use super::{Entry, record};
use crate::error::ApiError;
use crate::tenant::TenantTx;

/// How long a person has to find a browser, sign in and decide.
pub(crate) const CODE_LIFE: Duration = Duration::from_secs(10 * 60);

/// By how much a device that polls too often has to slow down (RFC 8628, 3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// Logins that may wait at once from one network address; an office behind one has many.
const WAITING_OF_ADDRESS: i32 = 50;

/// Logins that may wait at once in all: a guess at a code then meets one in two million.
const WAITING_IN_ALL: i32 = 10_000;

/// Letters of the code that people type: no vowels, that no word arises, and nothing that looks like something else
/// (RFC 8628, 6.1). Eight of twenty are 26 billion.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LETTERS: usize = 8;

/// The code that people type, in the form in which it is shown: `BCDF-GHJK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserCode(String);

/// A pair of codes that was just made.
pub(super) struct Made {
    pub(super) device_code: String,
    pub(super) user_code: UserCode,
}

/// A login that waits.
pub(super) struct Waiting {
    pub(super) device_name: String,
    pub(super) address: String,
    pub(super) asked_at: Timestamp,
}

/// A login that was decided.
pub(crate) struct Decided {
    pub(crate) device: DeviceId,
    pub(crate) device_name: String,
    pub(crate) address: String,
}

/// What a device is told.
pub(super) enum Polled {
    /// An error of RFC 8628.
    NotYet(&'static str),
    Approved {
        tenant: TenantId,
        user: UserId,
    },
}

impl UserCode {
    fn new() -> anyhow::Result<UserCode> {
        let mut letters = String::new();
        // What does not divide evenly is drawn again: every letter is as likely as any other.
        let even = u8::MAX - u8::MAX % LETTERS.len() as u8;
        while letters.len() < CODE_LETTERS {
            let mut byte = [0];
            SysRng
                .try_fill_bytes(&mut byte)
                .context("drawing random numbers from the operating system")?;
            if byte[0] < even {
                letters.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
            }
        }
        letters.insert(CODE_LETTERS / 2, '-');
        Ok(UserCode(letters))
    }

    /// Reads a code as people type it: in any case, with or without the dash, with spaces.
    pub(crate) fn read(text: &str) -> Option<UserCode> {
        let mut letters: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && !matches!(c, '-' | '\u{2010}'..='\u{2015}'))
            .map(|c| c.to_ascii_uppercase())
            .collect();
        let known = letters
            .chars()
            .all(|c| u8::try_from(c).is_ok_and(|c| LETTERS.contains(&c)));
        if !known || letters.len() != CODE_LETTERS {
            return None;
        }
        letters.insert(CODE_LETTERS / 2, '-');
        Some(UserCode(letters))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn digest(&self) -> Vec<u8> {
        digest(&self.0)
    }
}

/// Makes a pair of codes for a device.
///
/// # Errors
/// 429 if too many wait already.
pub(super) async fn make(
    pool: &Pool,
    device: DeviceId,
    name: &str,
    from: IpAddr,
    interval: Duration,
) -> Result<Made, ApiError> {
    loop {
        let made = Made {
            device_code: secret::random()?,
            user_code: UserCode::new()?,
        };
        let stored = pool
            .get()
            .await?
            .query_typed_one(
                "SELECT device_code_make($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                &[
                    (&digest(&made.device_code), Type::BYTEA),
                    (&made.user_code.digest(), Type::BYTEA),
                    (&device.0, Type::UUID),
                    (&name, Type::TEXT),
                    (&from.to_string(), Type::TEXT),
                    (&(CODE_LIFE.as_secs() as i32), Type::INT4),
                    (&(interval.as_secs() as i32), Type::INT4),
                    (&WAITING_OF_ADDRESS, Type::INT4),
                    (&WAITING_IN_ALL, Type::INT4),
                ],
            )
            .await;
        match stored {
            Ok(row) if row.try_get(0)? => return Ok(made),
            Ok(_) => {
                return Err(ApiError::TooManyRequests {
                    message: "too many logins wait for approval: approve one, or wait until they expire"
                        .to_owned(),
                    retry_after: Duration::from_secs(60),
                });
            }
            // Somebody else has this code now: one in a few million.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The login behind a code, if it still waits.
pub(super) async fn look(pool: &Pool, code: &UserCode) -> Result<Option<Waiting>, ApiError> {
    let row = pool
        .get()
        .await?
        .query_typed_opt(
            "SELECT device_name, address, created_at FROM device_code_look($1)",
            &[(&code.digest(), Type::BYTEA)],
        )
        .await?;
    let waiting = |row: tokio_postgres::Row| {
        let asked_at: std::time::SystemTime = row.try_get(2)?;
        Ok(Waiting {
            device_name: row.try_get(0)?,
            address: row.try_get(1)?,
            asked_at: Timestamp::try_from(asked_at).context("the time of a login")?,
        })
    };
    row.map(waiting).transpose()
}

/// Decides about a login in the name of the transaction's user. None: it waits no longer.
pub(crate) async fn decide(
    tx: &TenantTx,
    tenant: TenantId,
    actor: &str,
    code: &UserCode,
    approve: bool,
    request_id: Option<&str>,
) -> Result<Option<Decided>, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT device_id, device_name, address FROM device_code_decide($1, $2)",
            &[(&code.digest(), Type::BYTEA), (&approve, Type::BOOL)],
        )
        .await?;
    let Some(decided) = row.map(decided).transpose()? else {
        return Ok(None);
    };
    let device = decided.device.to_string();
    let details =
        json!({"approved": approve, "device_name": decided.device_name, "address": decided.address});
    let entry = Entry {
        actor,
        action: "update",
        table: "device_codes",
        row: &device,
        request_id,
        details,
    };
    record(tx, tenant.0, &entry).await?;
    Ok(Some(decided))
}

/// One poll. None: there is no such code of this device.
pub(super) async fn poll(
    pool: &Pool,
    device_code: &str,
    device: DeviceId,
) -> Result<Option<Polled>, ApiError> {
    let row = pool
        .get()
        .await?
        .query_typed_opt(
            "SELECT outcome, tenant_id, user_id FROM device_code_poll($1, $2, $3)",
            &[
                (&digest(device_code), Type::BYTEA),
                (&device.0, Type::UUID),
                (&(SLOW_DOWN.as_secs() as i32), Type::INT4),
            ],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(match row.try_get(0)? {
        "approved" => Polled::Approved {
            tenant: TenantId(row.try_get(1)?),
            user: UserId::from(row.try_get::<_, Uuid>(2)?),
        },
        "slow_down" => Polled::NotYet("slow_down"),
        "access_denied" => Polled::NotYet("access_denied"),
        "expired_token" => Polled::NotYet("expired_token"),
        _ => Polled::NotYet("authorization_pending"),
    }))
}

/// Takes an approved code, in the transaction of what follows from it. None: somebody else took it.
pub(super) async fn take(tx: &TenantTx, device_code: &str) -> Result<Option<Decided>, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT device_id, device_name, address FROM device_code_take($1)",
            &[(&digest(device_code), Type::BYTEA)],
        )
        .await?;
    row.map(decided).transpose()
}

fn decided(row: tokio_postgres::Row) -> Result<Decided, ApiError> {
    Ok(Decided {
        device: DeviceId(row.try_get(0)?),
        device_name: row.try_get(1)?,
        address: row.try_get(2)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = UserCode::new().unwrap();
        let plain = code.as_str().replace('-', "");
        for typed in [
            code.as_str().to_owned(),
            plain.to_lowercase(),
            format!(" {} {} ", &plain[..4], &plain[4..]),
        ] {
            assert_eq!(UserCode::read(&typed), Some(code.clone()), "{typed}");
        }
        for bad in [
            "",
            "BCDF-GHJ",
            "BCDF-GHJKL",
            "AEIO-UYAE",
            "1234-5678",
            "BCDF-GHJÄ",
            "BCDF/GHJK",
        ] {
            assert_eq!(UserCode::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_letter_comes_up() {
        let many: String = (0..200).map(|_| UserCode::new().unwrap().0).collect();
        for letter in LETTERS {
            assert!(many.contains(char::from(*letter)), "{}", char::from(*letter));
        }
    }
}
