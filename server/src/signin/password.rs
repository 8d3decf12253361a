//! Passwords: what may be one, and their hashes. Hashing is slow and takes memory on purpose, so it happens on threads
//! of its own, a few at a time, and a crowd is sent away instead of taking the server down.

use std::fmt;
use std::sync::{Arc, LazyLock};

use anyhow::Context as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Memory of one hash in KiB, passes over it, and lanes: the first of OWASP's equivalent choices for Argon2id
/// (Password Storage Cheat Sheet), some 20 ms on one core.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Random bytes in each salt: the 128 bits that RFC 9106 recommends.
const SALT_BYTES: usize = 16;

/// Hashes at once: as many as the smallest machine that we serve from has cores.
const AT_ONCE: usize = 2;

/// Hashes that may wait beside those: at some 20 ms each the last waits for a third of a second.
const WAITING: usize = 32;

/// Fewest characters of a password. It is the only factor, so more than the 8 that NIST SP 800-63B asks of one among
/// several; no rule of composition, which only makes passwords alike.
pub(super) const MIN_CHARS: usize = 12;

/// Longest password in bytes: more adds nothing.
pub(super) const MAX_BYTES: usize = 1024;

/// A password as it was typed. Shown by no Debug.
#[derive(Clone, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Password(String);

/// The places in which passwords are hashed. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hashing {
    admitted: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

/// What a password is compared with when there is nothing to compare it with, so that this takes as long.
static NOBODYS: LazyLock<Option<String>> = LazyLock::new(|| hash(b"nobody's password").ok());

impl Password {
    /// Why this cannot be a password of `email`, in words for the one who chose it.
    pub(super) fn refusal(&self, email: &str) -> Option<String> {
        let chars = self.0.chars().count();
        if chars < MIN_CHARS {
            return Some(format!(
                "Use at least {MIN_CHARS} characters. A few words that only you would put together are best."
            ));
        }
        if self.0.len() > MAX_BYTES {
            return Some(format!("Use at most {MAX_BYTES} characters."));
        }
        let plain = self.0.to_lowercase();
        let name = email.split('@').next().unwrap_or_default();
        let distinct = plain.chars().collect::<std::collections::BTreeSet<_>>().len();
        if plain == email
            || (name.len() >= MIN_CHARS / 2 && plain.replace(name, "").chars().count() < MIN_CHARS / 2)
        {
            return Some("Use something that is not your address.".to_owned());
        }
        if distinct < MIN_CHARS / 3 {
            return Some("Use more different characters.".to_owned());
        }
        None
    }

    pub(super) fn is_same_as(&self, other: &Password) -> bool {
        self.0 == other.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Default for Hashing {
    fn default() -> Hashing {
        Hashing {
            admitted: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            working: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Hashing {
    /// The hash of a password, with a salt of its own.
    ///
    /// # Errors
    /// 503 if too many wait already.
    pub(super) async fn hash(&self, password: Password) -> Result<String, ApiError> {
        self.work(move || hash(password.0.as_bytes())).await
    }

    /// Whether a hash is this password's. Without a hash it is not, after the same time.
    ///
    /// # Errors
    /// 503 if too many wait already.
    pub(super) async fn verify(&self, password: Password, hash: Option<String>) -> Result<bool, ApiError> {
        self.work(move || {
            let known = hash.is_some();
            let Some(hash) = hash.or_else(|| NOBODYS.clone()) else {
                return Ok(false);
            };
            let hash = PasswordHash::new(&hash).context("reading a stored hash")?;
            // The parameters are the hash's own.
            let matches = argon2()?.verify_password(password.0.as_bytes(), &hash).is_ok();
            Ok(known && matches)
        })
        .await
    }

    fn turned_away() -> ApiError {
        ApiError::Unavailable(anyhow::anyhow!(
            "{} passwords are being hashed already",
            AT_ONCE + WAITING
        ))
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let admitted = self
            .admitted
            .clone()
            .try_acquire_owned()
            .map_err(|_| Self::turned_away())?;
        let working = self
            .working
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Self::turned_away())?;
        // Both go with the work: a request that is given up does not end it.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((admitted, working));
            done
        });
        Ok(done.await.context("hashing a password")??)
    }
}

fn hash(password: &[u8]) -> anyhow::Result<String> {
    let mut salt = [0; SALT_BYTES];
    SysRng
        .try_fill_bytes(&mut salt)
        .context("drawing random numbers from the operating system")?;
    let hash: PasswordHash = argon2()?
        .hash_password_with_salt(password, &salt)
        .context("hashing a password")?;
    Ok(hash.to_string())
}

fn argon2() -> anyhow::Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).context("the parameters of Argon2id")?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(password: &str) -> Option<String> {
        Password(password.to_owned()).refusal("margaret.hamilton@acme.test")
    }

    #[test]
    fn a_password_is_long_enough_and_not_the_address() {
        for good in ["correct horse battery", "zwölf Zeichen", &"word ".repeat(200)] {
            assert_eq!(refusal(good), None, "{good}");
        }
        let long = "x1y2z3".repeat(200);
        for bad in [
            "",
            "elevenchars",
            "aaaaaaaaaaaaaaaa",
            "margaret.hamilton@acme.test",
            "Margaret.Hamilton1",
            &long,
        ] {
            assert!(refusal(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn two_hashes_of_one_password_differ_and_name_their_parameters() {
        let (one, other) = (
            hash(b"the same password").unwrap(),
            hash(b"the same password").unwrap(),
        );
        assert_ne!(one, other);
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
    }

    #[tokio::test]
    async fn only_the_password_of_a_hash_is_taken_and_without_a_hash_none() {
        let hashing = Hashing::default();
        let verify =
            |password: &str, hash: Option<String>| hashing.verify(Password(password.to_owned()), hash);
        let stored = hashing
            .hash(Password("the right password".to_owned()))
            .await
            .unwrap();
        assert!(verify("the right password", Some(stored.clone())).await.unwrap());
        assert!(!verify("the right Password", Some(stored)).await.unwrap());
        assert!(!verify("nobody's password", None).await.unwrap());
    }

    #[tokio::test]
    async fn a_crowd_is_sent_away_and_the_hashing_goes_on() {
        let hashing = Hashing::default();
        let busy = hashing.working.acquire_many(AT_ONCE as u32).await.unwrap();
        let waiting = (0..AT_ONCE + WAITING).map(|_| hashing.work(|| Ok(())));
        let mut waiting = std::pin::pin!(futures_util::future::join_all(waiting));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        assert!(hashing.work(|| Ok(())).await.is_err());
        drop(busy);
        assert!(waiting.await.iter().all(Result::is_ok));
        assert!(hashing.work(|| Ok(())).await.is_ok());
    }

    #[test]
    fn p15_a_password_is_shown_by_no_debug() {
        assert_eq!(format!("{:?}", Password("hush".to_owned())), "Password(…)");
    }
}
