//! The access token that requests bear, renewed before it ends and when the server says that it has ended.
//!
//! Every renewal follows the same steps, one at a time in this process (a mutex) and on this machine (a lock on a file):
//! read what is stored, exchange that refresh token, store the new pair, use it. So
//!
//! - two processes never hold two successors of one token: who comes second finds the new pair stored, and takes it;
//! - what is presented is always what is stored. Whoever dies, or cannot store, after the server has answered presents
//!   the same token again, which the server takes for a lost answer until its successor was used.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use reqwest::header::HeaderValue;

use super::outcome::Failure;
use super::sign_in::SignIn;
use crate::credential::{self, CredentialStore, Secret, Tokens};

/// How long before its end a token is renewed, in parts of its life: a request that is under way when it ends is seldom.
const RENEW_AT_PART: f64 = 0.8;

/// How long we wait for another process that renews: it waits for the server for a minute at most.
const LOCK_WAIT: Duration = Duration::from_secs(90);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A token that may renew itself. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Access {
    current: Arc<Mutex<Bearer>>,
    renewal: Option<Arc<Renewal>>,
}

/// How a token is renewed, and where the pair is kept.
pub struct Renewal {
    pub sign_in: SignIn,
    pub place: Place,
    turn: tokio::sync::Mutex<()>,
}

/// Where a secret is kept.
#[derive(Clone)]
pub struct Place {
    pub file: PathBuf,
    pub key: String,
    pub store: CredentialStore,
}

#[derive(Clone)]
struct Bearer {
    token: Secret,
    header: HeaderValue,
    /// On the clock that nobody sets.
    renew_at: Option<Instant>,
}

impl Renewal {
    pub fn new(sign_in: SignIn, place: Place) -> Renewal {
        Renewal {
            sign_in,
            place,
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl Access {
    /// Fails on a token that no header can carry.
    pub(crate) fn new(token: &Secret, renewal: Option<Renewal>) -> anyhow::Result<Access> {
        let bearer = Bearer::new(token, remaining(token))?;
        Ok(Access {
            current: Arc::new(Mutex::new(bearer)),
            renewal: renewal.map(Arc::new),
        })
    }

    /// What a request bears now, renewed if it is time to.
    ///
    /// # Errors
    /// Only if there will be no new one: then somebody has to log in.
    pub(crate) async fn header(&self) -> Result<HeaderValue, Failure> {
        let bearer = self.bearer();
        let due = bearer.renew_at.is_some_and(|at| Instant::now() >= at);
        match &self.renewal {
            Some(renewal) if due => match self.renew(renewal, &bearer).await {
                Ok(header) => Ok(header),
                Err(Failure::Unauthorized { message }) => Err(Failure::Unauthorized { message }),
                // The old one may still be good; the request will tell.
                Err(failure) => {
                    tracing::debug!(%failure, "the access token could not be renewed yet");
                    Ok(bearer.header)
                }
            },
            Some(_) | None => Ok(bearer.header),
        }
    }

    /// Another than the one that was refused, or why there is none.
    pub(crate) async fn instead_of(&self, refused: &HeaderValue) -> Option<Result<HeaderValue, Failure>> {
        let renewal = self.renewal.as_ref()?;
        let bearer = self.bearer();
        if bearer.header != refused {
            return Some(Ok(bearer.header));
        }
        Some(self.renew(renewal, &bearer).await)
    }

    async fn renew(&self, renewal: &Renewal, old: &Bearer) -> Result<HeaderValue, Failure> {
        let _turn = renewal.turn.lock().await;
        let present = self.bearer();
        if present.token != old.token {
            return Ok(present.header);
        }
        let _lock = lock(&renewal.place.file).await.map_err(local)?;
        let stored = renewal.stored().await.map_err(local)?.ok_or_else(log_in_again)?;
        // Another process has renewed it. With a clock that is wrong this may be an old one: it is refused, and then
        // it is the present one.
        if stored.access != old.token && remaining(&stored.access).is_none_or(|left| left > Duration::ZERO) {
            return self.take(&stored.access, remaining(&stored.access));
        }
        let refresh = stored.refresh.ok_or_else(log_in_again)?;
        let asked = Instant::now();
        let renewed = renewal
            .sign_in
            .refresh(&refresh)
            .await?
            .ok_or_else(log_in_again)?;
        // The token's own life, not what our clock makes of its end.
        let life = renewed
            .access
            .life()
            .map(|life| life.saturating_sub(asked.elapsed()));
        if let Err(error) = renewal.keep(&renewed).await {
            tracing::warn!(%error, "the renewed tokens could not be stored; the former ones are used again next time");
        }
        self.take(&renewed.access, life)
    }

    fn take(&self, token: &Secret, life: Option<Duration>) -> Result<HeaderValue, Failure> {
        let bearer = Bearer::new(token, life).map_err(local)?;
        let header = bearer.header.clone();
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = bearer;
        Ok(header)
    }

    fn bearer(&self) -> Bearer {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Bearer {
    fn new(token: &Secret, life: Option<Duration>) -> anyhow::Result<Bearer> {
        let mut header = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .ok()
            .context("the token holds characters that no HTTP header can carry: log in again")?;
        header.set_sensitive(true);
        let renew_at = life.and_then(|life| Instant::now().checked_add(life.mul_f64(RENEW_AT_PART)));
        Ok(Bearer {
            token: token.clone(),
            header,
            renew_at,
        })
    }
}

/// The right to read and replace the stored tokens, held until it is dropped, or the process ends in whatever way.
/// Whoever logs in or out takes it too: a renewal that is under way must not store its pair over theirs.
pub async fn lock(credentials: &Path) -> anyhow::Result<File> {
    let mut path = credentials.as_os_str().to_owned();
    path.push(".lock");
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .context("locking the tokens")?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WAIT => {
                tokio::time::sleep(LOCK_POLL).await
            }
            Err(TryLockError::WouldBlock) => {
                anyhow::bail!("another process renews the tokens and does not end")
            }
            Err(TryLockError::Error(error)) => return Err(error).context("locking the tokens"),
        }
    }
}

impl Renewal {
    async fn stored(&self) -> anyhow::Result<Option<Tokens>> {
        let place = self.place.clone();
        let loaded =
            tokio::task::spawn_blocking(move || credential::load(&place.file, &place.key, place.store))
                .await?;
        Ok(loaded?.map(|secret| Tokens::read(&secret)))
    }

    async fn keep(&self, tokens: &Tokens) -> anyhow::Result<()> {
        let (place, secret) = (self.place.clone(), tokens.to_secret());
        let insecure = place.store == CredentialStore::File;
        let stored = tokio::task::spawn_blocking(move || {
            credential::store(&place.file, &place.key, &secret, insecure)
        })
        .await?;
        stored?;
        Ok(())
    }
}

/// What our clock says is left of a token. The server knows better, and says so.
fn remaining(token: &Secret) -> Option<Duration> {
    let left = token.expires_at()?.duration_since(Timestamp::now());
    Some(Duration::try_from(left).unwrap_or_default())
}

fn log_in_again() -> Failure {
    Failure::Unauthorized {
        message: "this device was logged out or revoked: log in again".into(),
    }
}

/// The tokens cannot be read or kept just now: no word of the server, and worth another try.
fn local(error: anyhow::Error) -> Failure {
    Failure::Unreachable {
        reason: format!("the stored tokens: {error:#}"),
    }
}
