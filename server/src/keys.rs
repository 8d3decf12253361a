//! The keys with which the built-in issuer signs access tokens: made at the first start, kept in the data directory,
//! readable by their owner alone, published at `/.well-known/jwks.json`.
//!
//! One key signs. `key rotate` puts a new one in its place; of the old one the public half stays, and is published, until
//! the last token that it signed must have expired. A token names its key (`kid`), and that alone checks it. Servers of
//! one data directory learn of a change by looking at the file, at once when a token names a key they do not know.

mod file;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use file::{Locked, Record, Stamp};

/// How often a server looks whether the file has changed: so long may it go on signing with a key that was retired.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// At least so long between two looks that tokens with unknown keys ask for, since anybody can make such a token.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How long a retired key outlives the longest life of its tokens: servers go on signing until their next look, clocks
/// differ, and verifiers grant some leeway.
const RETIRED_SLACK: Duration = Duration::from_secs(5 * 60);

/// The issuer's keys. Its Debug shows the id of the one that signs.
pub struct Issuer {
    data_dir: PathBuf,
    ring: RwLock<Ring>,
    asked: Mutex<Option<Instant>>,
}

/// What was read of the file.
struct Ring {
    signing: Signing,
    /// By kid: the one that signs, and the retired ones that still count.
    verifying: HashMap<String, DecodingKey>,
    jwks: JwkSet,
    /// When the first of the retired keys is to go.
    next_removal: Option<Timestamp>,
    stamp: Stamp,
}

struct Signing {
    kid: String,
    key: EncodingKey,
    max_ttl: Duration,
}

/// A key as `key list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub kid: String,
    /// `signing` or `retired`.
    pub state: &'static str,
    pub created_at: Timestamp,
    pub retired_at: Option<Timestamp>,
    /// From when on its tokens count no more.
    pub removed_at: Option<Timestamp>,
}

impl Issuer {
    /// Reads the keys of a data directory, or makes the first if there are none.
    ///
    /// # Errors
    /// If the file cannot be read or made, is not understood, or may be read by others.
    pub fn load_or_make(data_dir: &Path) -> anyhow::Result<Issuer> {
        let ring = match file::read(data_dir)? {
            Some((record, stamp)) => Ring::of(record, stamp)?,
            None => {
                let locked = Locked::take(data_dir)?;
                // Read again, since another process may have been first.
                match locked.read()? {
                    Some((record, stamp)) => Ring::of(record, stamp)?,
                    None => {
                        let record = Record::first(Timestamp::now())?;
                        let stamp = locked.write(&record)?;
                        Ring::of(record, stamp)?
                    }
                }
            }
        };
        Ok(Issuer {
            data_dir: data_dir.to_path_buf(),
            ring: RwLock::new(ring),
            asked: Mutex::new(None),
        })
    }

    /// Signs claims that end after `ttl`, with the key that signs now.
    ///
    /// # Errors
    /// If the file has to note a longer life than any before, and cannot be written.
    pub fn sign(&self, claims: &impl Serialize, ttl: Duration) -> anyhow::Result<String> {
        if ttl > self.ring(|ring| ring.signing.max_ttl) {
            self.note_ttl(ttl)?;
        }
        self.ring(|ring| {
            let mut header = Header::new(Algorithm::EdDSA);
            header.kid = Some(ring.signing.kid.clone());
            encode(&header, claims, &ring.signing.key).context("signing the access token")
        })
    }

    /// The key of this name, if its tokens still count. One that is not known is looked for in the file.
    pub fn verifying(&self, kid: &str) -> Option<DecodingKey> {
        let known = || self.ring(|ring| ring.verifying.get(kid).cloned());
        known().or_else(|| {
            if self.may_ask() {
                self.look();
            }
            known()
        })
    }

    /// The public keys, as `/.well-known/jwks.json` answers.
    pub fn jwks(&self) -> JwkSet {
        self.ring(|ring| ring.jwks.clone())
    }

    /// Looks at the file at a calm interval, for ever, and takes retired keys out of it when their time has come.
    pub async fn keep_current(&self, look_every: Duration) {
        let mut looks = interval(look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
            let due = self.ring(|ring| ring.next_removal);
            if due.is_some_and(|due| due <= Timestamp::now())
                && let Err(error) = self.change(|_| Ok(()))
            {
                tracing::warn!("a retired issuer key could not be removed: {error:#}");
            }
        }
    }

    /// Puts a new key in the place of the one that signs.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn rotate(&self) -> anyhow::Result<Vec<Listed>> {
        self.change(|record| record.rotate(Timestamp::now()))?;
        self.list()
    }

    /// All keys, the one that signs first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self) -> anyhow::Result<Vec<Listed>> {
        let found = file::read(&self.data_dir)?;
        let (record, _) = found.context("the issuer's keys are gone")?;
        Ok(record.list(Timestamp::now()))
    }

    /// Notes that tokens of the signing key may live so long.
    fn note_ttl(&self, ttl: Duration) -> anyhow::Result<()> {
        self.change(|record| {
            record.note_ttl(ttl);
            Ok(())
        })
    }

    /// Changes the file under its lock, on what stands there now, and takes over the result.
    fn change(&self, change: impl FnOnce(&mut Record) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let locked = Locked::take(&self.data_dir)?;
        let (mut record, _) = locked.read()?.context("the issuer's keys are gone")?;
        change(&mut record)?;
        record.remove_due(Timestamp::now());
        let stamp = locked.write(&record)?;
        self.take_over(record, stamp)
    }

    /// Takes over what the file holds if it has changed. What cannot be read changes nothing and is logged.
    fn look(&self) {
        let looked = || {
            if Stamp::of(&self.data_dir) == Some(self.ring(|ring| ring.stamp)) {
                return Ok(());
            }
            let found = file::read(&self.data_dir)?;
            let (record, stamp) = found.context("the issuer's keys are gone")?;
            self.take_over(record, stamp)
        };
        if let Err(error) = looked() {
            tracing::error!("the issuer's keys stay as they were: {error:#}");
        }
    }

    fn take_over(&self, record: Record, stamp: Stamp) -> anyhow::Result<()> {
        let fresh = Ring::of(record, stamp)?;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if ring.signing.kid != fresh.signing.kid {
            tracing::info!(kid = fresh.signing.kid, "another issuer key signs from now on");
        }
        *ring = fresh;
        Ok(())
    }

    fn may_ask(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked.is_none_or(|at| at.elapsed() >= LOOK_PAUSE);
        if may {
            *asked = Some(Instant::now());
        }
        may
    }

    fn ring<T>(&self, with: impl FnOnce(&Ring) -> T) -> T {
        with(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ring {
    fn of(record: Record, stamp: Stamp) -> anyhow::Result<Ring> {
        let now = Timestamp::now();
        let (signing, jwk) = record.signing()?;
        let retired: Vec<_> = record.retired_at(now).collect();
        let jwks: Vec<Jwk> = std::iter::once(jwk)
            .chain(retired.iter().map(|key| key.jwk.clone()))
            .collect();
        let verifying = jwks
            .iter()
            .map(|jwk| {
                let kid = jwk.common.key_id.clone().context("an issuer key has no id")?;
                Ok((kid, DecodingKey::from_jwk(jwk).context("reading an issuer key")?))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Ring {
            signing,
            verifying,
            next_removal: retired.iter().map(|key| key.removed_at).min(),
            jwks: JwkSet { keys: jwks },
            stamp,
        })
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("kid", &self.ring(|ring| ring.signing.kid.clone()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn kid_of(token: &str) -> String {
        jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
    }

    fn sign(issuer: &Issuer, ttl: Duration) -> String {
        kid_of(&issuer.sign(&serde_json::json!({}), ttl).unwrap())
    }

    fn kids(issuer: &Issuer) -> Vec<String> {
        let keys = issuer.jwks().keys.into_iter();
        keys.map(|key| key.common.key_id.unwrap()).collect()
    }

    #[test]
    fn the_key_is_made_once_and_then_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = Issuer::load_or_make(folder.path()).unwrap();
        let second = Issuer::load_or_make(folder.path()).unwrap();
        assert_eq!(first.jwks(), second.jwks());
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["issuer.json"], "nothing but the keys is left");
    }

    #[test]
    fn two_first_starts_at_once_end_with_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Issuer::load_or_make(folder.path()).unwrap().jwks()))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert!(made.iter().all(|jwks| *jwks == made[0]));
    }

    #[test]
    fn p15_the_file_is_readable_by_its_owner_alone_and_refused_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let made = Issuer::load_or_make(folder.path()).unwrap();
        made.rotate().unwrap();
        let path = folder.path().join("issuer.json");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Issuer::load_or_make(folder.path()).unwrap_err().to_string();
        assert!(error.contains("may be read by others (mode 640)"), "{error}");
        let shown = format!("{made:?}");
        assert!(
            shown.contains(&kids(&made)[0]) && !shown.contains("PRIVATE"),
            "{shown}"
        );
    }

    #[test]
    fn a_file_that_is_no_key_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issuer.json");
        std::fs::write(&path, "not a key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Issuer::load_or_make(folder.path()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a key");
    }

    #[test]
    fn the_published_keys_are_okp_keys_without_their_private_halves() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::load_or_make(folder.path()).unwrap();
        sign(&issuer, MINUTE);
        issuer.rotate().unwrap();
        let jwks = serde_json::to_value(issuer.jwks()).unwrap();
        let keys = jwks["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 2);
        for key in keys {
            assert_eq!(
                (key["kty"].as_str(), key["crv"].as_str()),
                (Some("OKP"), Some("Ed25519"))
            );
            assert!(key.get("d").is_none());
        }
        // Nor does the private half of a retired key stay anywhere.
        let text = std::fs::read_to_string(folder.path().join("issuer.json")).unwrap();
        assert_eq!(text.matches("PRIVATE KEY").count(), 2, "one BEGIN, one END");
    }

    #[test]
    fn after_a_rotation_the_new_key_signs_and_both_are_known_to_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (
            Issuer::load_or_make(folder.path()).unwrap(),
            Issuer::load_or_make(folder.path()).unwrap(),
        );
        let old = sign(&a, MINUTE);
        let listed = a.rotate().unwrap();
        let new = sign(&a, MINUTE);
        assert_ne!(old, new);
        assert_eq!(
            listed.iter().map(|key| (&key.kid, key.state)).collect::<Vec<_>>(),
            [(&new, "signing"), (&old, "retired")]
        );
        // The other server learns of it from the first token that names the new key.
        assert_eq!(kids(&b), std::slice::from_ref(&old));
        assert!(b.verifying(&new).is_some() && b.verifying(&old).is_some());
        assert_eq!(kids(&b), [new.clone(), old]);
        assert_eq!(sign(&b, MINUTE), new);
        // A key that nobody has makes it look at the file at most once a second.
        assert!(b.verifying("unknown").is_none());
    }

    #[test]
    fn a_retired_key_stays_until_the_longest_of_its_tokens_has_expired() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (
            Issuer::load_or_make(folder.path()).unwrap(),
            Issuer::load_or_make(folder.path()).unwrap(),
        );
        sign(&a, MINUTE);
        // Another process gives out a long one.
        let day = 24 * 60 * MINUTE;
        sign(&b, day);
        sign(&a, 2 * MINUTE);
        let old = &a.rotate().unwrap()[1];
        let kept = old.removed_at.unwrap().duration_since(old.retired_at.unwrap());
        assert_eq!(kept.unsigned_abs(), day + RETIRED_SLACK);
    }

    #[test]
    fn a_server_that_did_not_see_the_rotation_notes_a_longer_life_with_the_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (
            Issuer::load_or_make(folder.path()).unwrap(),
            Issuer::load_or_make(folder.path()).unwrap(),
        );
        let old = sign(&b, MINUTE);
        a.rotate().unwrap();
        assert_ne!(sign(&b, 60 * MINUTE), old, "the note has shown it the new key");
    }
}
