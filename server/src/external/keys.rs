//! The published keys of another issuer: fetched when they are needed, kept, and fetched again when they are old or a
//! token names one that is not among them. Whatever the issuer does meanwhile, at most one fetch runs, and not often.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::token::{Key, usable};

/// How long keys are used without asking again: so long does a key count that its issuer has taken back.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// How long keys are used while the issuer cannot be reached: an outage of a night does not stop the services.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Between two fetches, whatever asks for them: anybody can make a token with an unknown key.
const PAUSE: Duration = Duration::from_secs(5);

/// Requests that wait for a fetch at once; what comes above does not wait. Anybody can make a token with an unknown key,
/// and a slow issuer must not fill the server with such requests.
const WAITING: usize = 32;

/// How long one answer may take, its body included.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Largest discovery document and key set: real ones have under 20 KB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Most keys that are kept of one issuer; real ones publish two or three.
const KEYS_MAX: usize = 100;

pub(super) struct Keys {
    source: Arc<Source>,
}

struct Source {
    issuer: String,
    http: reqwest::Client,
    known: RwLock<Known>,
    /// Held by whoever fetches.
    fetching: tokio::sync::Mutex<()>,
    waiting: Semaphore,
}

#[derive(Clone, Default)]
struct Known {
    keys: Arc<HashMap<String, Key>>,
    /// When they were fetched.
    at: Option<Instant>,
    tried: Option<Instant>,
}

pub(super) enum Found {
    Key(Key),
    /// The issuer has no such key.
    Unknown,
    /// It cannot be asked now.
    OutOfReach,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    /// Read one by one, since those of a kind that we do not know are no reason to refuse the others.
    keys: Vec<Value>,
}

impl Keys {
    /// Nothing is fetched yet.
    pub(super) fn of(issuer: &str) -> anyhow::Result<Keys> {
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("coditect-server/", env!("CARGO_PKG_VERSION")))
            .timeout(ANSWER_TIME)
            // Where an issuer's keys are is said by the issuer, not by whoever answers in its place.
            .redirect(Policy::none());
        if issuer.starts_with("http://") {
            // On this machine, without TLS: certificates are not needed, and there may be none.
            http = http.tls_certs_only([]).no_proxy();
        }
        Ok(Keys {
            source: Arc::new(Source {
                issuer: issuer.to_owned(),
                http: http.build().context("setting up HTTP for another issuer")?,
                known: RwLock::default(),
                fetching: tokio::sync::Mutex::default(),
                waiting: Semaphore::new(WAITING),
            }),
        })
    }

    pub(super) async fn find(&self, kid: &str) -> Found {
        let known = self.source.known();
        if let Some(key) = known.keys.get(kid) {
            if known.is_within(FRESH) {
                return Found::Key(key.clone());
            }
            if known.is_within(STALE) {
                // Good for now. Nobody waits for the fetch, and one at a time is enough.
                let source = self.source.clone();
                tokio::spawn(async move { source.fetch_if_due(FRESH).await });
                return Found::Key(key.clone());
            }
        }
        self.source.fetch_if_due(Duration::ZERO).await;
        let known = self.source.known();
        match known.keys.get(kid).filter(|_| known.is_within(STALE)) {
            Some(key) => Found::Key(key.clone()),
            None if known.is_within(STALE) && known.at >= known.tried => Found::Unknown,
            None => Found::OutOfReach,
        }
    }
}

impl Known {
    fn is_within(&self, time: Duration) -> bool {
        self.at.is_some_and(|at| at.elapsed() < time)
    }
}

impl Source {
    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the keys unless they are younger than `fresh`, or it was just tried. Waits for a fetch that runs.
    async fn fetch_if_due(&self, fresh: Duration) {
        let Ok(_place) = self.waiting.try_acquire() else {
            return;
        };
        let _alone = self.fetching.lock().await;
        let known = self.known();
        let just_tried = known.tried.is_some_and(|tried| tried.elapsed() < PAUSE);
        if just_tried || known.is_within(fresh) {
            return;
        }
        let tried = Instant::now();
        let fetched = self.fetch().await;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.tried = Some(tried);
        match fetched {
            Ok(keys) => {
                known.keys = Arc::new(keys);
                known.at = Some(Instant::now());
            }
            Err(error) => {
                tracing::warn!(
                    issuer = self.issuer,
                    "the issuer's keys stay as they were: {error:#}"
                );
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<HashMap<String, Key>> {
        let place = format!(
            "{}/.well-known/openid-configuration",
            self.issuer.trim_end_matches('/')
        );
        let discovery: Discovery = self.get(&place).await?;
        ensure!(
            discovery.issuer == self.issuer,
            "{place} speaks for the issuer {:?}",
            discovery.issuer
        );
        let is_plain = !discovery.jwks_uri.starts_with("https://");
        ensure!(
            !(is_plain && self.issuer.starts_with("https://")),
            "{place} has its keys at an address without encryption"
        );
        let set: KeySet = self.get(&discovery.jwks_uri).await?;
        let keys: HashMap<_, _> = set.keys.iter().take(KEYS_MAX).filter_map(usable).collect();
        ensure!(
            !keys.is_empty(),
            "{} has no key that is of use",
            discovery.jwks_uri
        );
        Ok(keys)
    }

    async fn get<T: DeserializeOwned>(&self, place: &str) -> anyhow::Result<T> {
        let doing = || format!("fetching {place}");
        let mut answer = self.http.get(place).send().await.with_context(doing)?;
        ensure!(
            answer.status() == reqwest::StatusCode::OK,
            "{place} answers {}",
            answer.status()
        );
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.with_context(doing)? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                bail!("{place} answers more than {ANSWER_BYTES_MAX} bytes");
            }
            body.extend_from_slice(&piece);
        }
        serde_json::from_slice(&body).with_context(|| format!("reading the answer of {place}"))
    }
}
