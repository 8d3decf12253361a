//! Talks to the server over HTTP. Every call ends: with a result, or with a failure that says whether and when it is
//! worth trying again. Nothing is retried here, that is the loop's business.

pub mod access;
pub mod events;
pub mod outcome;
pub mod sign_in;

use std::error::Error as _;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use coditect_shared::wire::{self, DEVICE_HEADER, DigestAnswer, HeadEvent, PullQuery};
use coditect_shared::{DeviceId, limits};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use crate::account::Account;
use crate::credential::{Secret, Tokens};
use crate::paths::Paths;
use access::{Access, Place, Renewal};
use events::EventReader;
use outcome::{Answer, interpret};
pub use outcome::{Failure, Problem, PullOutcome, PushOutcome};
use sign_in::SignIn;

/// DNS, TCP and TLS together. A laptop that wakes up needs a few seconds for its network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Until the answer's head is here, beside the time that the body takes. Pushes of one tenant wait for each other.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The slowest uplink that we wait for, in bytes a second: half of what a 2G phone sends.
const UPLINK_MIN_BYTES_PER_SEC: u64 = 8 * 1024;

/// Between two pieces of an answer, and of the event stream, whose server sends a keep-alive every 15 s: three
/// missed ones mean a half-open connection.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// Largest answer that is read: a page of one row of every limit, each byte escaped as badly as JSON can, and as much
/// again. What is larger is no coditect server's.
const ANSWER_MAX_BYTES: usize = 2 * limits::PUSH_BODY_MAX_BYTES;

/// How long a push or a pull takes at most, before whoever waits for it may take us for stuck. Each piece of it has a
/// limit of its own above. At the slowest speed that we wait for, 28 MB pass in this time, which is more than any
/// batch or page has when it is compressed.
pub(crate) const LONGEST_EXCHANGE: Duration = Duration::from_secs(3_600);

/// One user's access to one server. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    access: Access,
    device: DeviceId,
    silence_limit: Duration,
}

/// The answer of `Client::account`, with what else `doctor` reads from it.
#[derive(Clone, Debug)]
pub struct Probe {
    pub account: wire::Account,
    /// The answer's `Date`, as it came.
    pub date: Option<String>,
}

impl Client {
    /// `ca_file` has the only authorities to trust; without it they are the machine's.
    ///
    /// Fails on a token that no header can carry, or without any TLS certificates to trust.
    pub fn new(
        server: &Url,
        device: DeviceId,
        token: &Secret,
        ca_file: Option<&Path>,
    ) -> anyhow::Result<Client> {
        Client::with_access(server, device, Access::new(token, None)?, ca_file)
    }

    /// The access of whoever is logged in, with what is stored of the login. Tokens of a device login renew themselves.
    pub fn of_account(
        account: &Account,
        paths: &Paths,
        device: DeviceId,
        stored: &Secret,
        ca_file: Option<&Path>,
    ) -> anyhow::Result<Client> {
        let Tokens { access, refresh } = Tokens::read(stored);
        let renewal = match (refresh, account.sign_in_device) {
            (Some(_), Some(sign_in_device)) => Some(Renewal::new(
                SignIn::new(&account.server, sign_in_device, ca_file)?,
                Place {
                    file: paths.credentials.clone(),
                    key: account.credential_key(&paths.account),
                    store: account.credential_store,
                },
            )),
            (Some(_) | None, _) => None,
        };
        Client::with_access(&account.server, device, Access::new(&access, renewal)?, ca_file)
    }

    fn with_access(
        server: &Url,
        device: DeviceId,
        access: Access,
        ca_file: Option<&Path>,
    ) -> anyhow::Result<Client> {
        Ok(Client {
            http: http(server, ca_file)?,
            server: server.clone(),
            access,
            device,
            silence_limit: SILENCE_LIMIT,
        })
    }

    /// The same access for another device id.
    pub fn with_device(&self, device: DeviceId) -> Client {
        Client {
            device,
            ..self.clone()
        }
    }

    /// The same access with another patience towards a connection on which nothing comes.
    pub fn with_silence_limit(&self, silence_limit: Duration) -> Client {
        Client {
            silence_limit,
            ..self.clone()
        }
    }

    pub fn server(&self) -> &Url {
        &self.server
    }

    /// Whom the token speaks for.
    pub async fn account(&self) -> Result<wire::Account, Failure> {
        self.probe().await.map(|probe| probe.account)
    }

    /// Whom the token speaks for, and what the server takes for the time of day.
    pub async fn probe(&self) -> Result<Probe, Failure> {
        let response = self.send(self.request(Method::GET, "account"), 0).await?;
        let date = text_of(response.headers(), DATE).map(str::to_owned);
        let account = self.read(response).await?;
        Ok(Probe { account, date })
    }

    /// Sends a `PushRequest`, already compressed by zstd: a retry sends the very same bytes.
    pub async fn push(&self, zstd_body: Vec<u8>) -> PushOutcome {
        let bytes = zstd_body.len() as u64;
        let request = self
            .request(Method::POST, "context/push")
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_ENCODING, "zstd")
            .body(zstd_body);
        self.exchange(request, bytes).await.into()
    }

    pub async fn pull(&self, query: &PullQuery) -> PullOutcome {
        self.exchange(self.request(Method::GET, "context/pull").query(query), 0)
            .await
            .into()
    }

    pub async fn digest(&self) -> Result<DigestAnswer, Failure> {
        Ok(self
            .exchange(self.request(Method::GET, "context/digest"), 0)
            .await?)
    }

    /// Follows the event stream over one connection until that ends, and says why it did. The caller connects again.
    pub async fn events(&self, on_head: &mut (dyn FnMut(i64) + Send)) -> Failure {
        let request = self
            .request(Method::GET, "context/events")
            .header(ACCEPT, "text/event-stream");
        match self.send(request, 0).await {
            Ok(response) => self.follow(response, on_head).await,
            Err(failure) => failure,
        }
    }

    fn request(&self, method: Method, route: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/{route}", self.server.as_str().trim_end_matches('/'));
        self.http
            .request(method, url)
            .header(DEVICE_HEADER, self.device.to_string())
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        body_bytes: u64,
    ) -> Result<T, Problem> {
        let response = self.send(request, body_bytes).await.map_err(Problem::Failed)?;
        self.read(response).await
    }

    /// Until the head of the answer is here. A token that is refused is renewed, if it can be, and the request is made
    /// again: it has done nothing.
    async fn send(&self, request: RequestBuilder, body_bytes: u64) -> Result<Response, Failure> {
        let bearer = self.access.header().await?;
        let again = request.try_clone();
        let request = request.header(AUTHORIZATION, bearer.clone());
        let response = send_once(request, body_bytes).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(again) = again
            && let Some(renewed) = self.access.instead_of(&bearer).await
        {
            return send_once(again.header(AUTHORIZATION, renewed?), body_bytes).await;
        }
        Ok(response)
    }

    async fn read<T: DeserializeOwned>(&self, mut response: Response) -> Result<T, Problem> {
        let body = self.read_body(&mut response).await.map_err(Problem::Failed)?;
        let headers = response.headers();
        interpret(&Answer {
            status: response.status().as_u16(),
            content_type: text_of(headers, CONTENT_TYPE),
            retry_after: text_of(headers, RETRY_AFTER),
            location: text_of(headers, LOCATION),
            body: &body,
        })
    }

    async fn read_body(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = self.next_piece(response).await? {
            if body.len() + piece.len() > ANSWER_MAX_BYTES {
                let reason = format!("the answer is longer than {ANSWER_MAX_BYTES} bytes");
                return Err(Failure::Unreachable { reason });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn next_piece(
        &self,
        response: &mut Response,
    ) -> Result<Option<impl Deref<Target = [u8]> + use<>>, Failure> {
        match tokio::time::timeout(self.silence_limit, response.chunk()).await {
            Ok(piece) => piece.map_err(unreachable),
            Err(_) => Err(Failure::Unreachable {
                reason: format!(
                    "the connection is silent for {} s",
                    self.silence_limit.as_secs_f64()
                ),
            }),
        }
    }

    async fn follow(&self, mut response: Response, on_head: &mut (dyn FnMut(i64) + Send)) -> Failure {
        let is_stream = text_of(response.headers(), CONTENT_TYPE)
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        if response.status() != reqwest::StatusCode::OK || !is_stream {
            return match self.read::<serde_json::Value>(response).await {
                Ok(_) => Failure::Unreachable {
                    reason: "answered something else than an event stream".into(),
                },
                Err(problem) => problem.into(),
            };
        }
        let mut reader = EventReader::default();
        loop {
            match self.next_piece(&mut response).await {
                Ok(Some(piece)) => {
                    for event in reader.feed(&piece) {
                        // Other events are those of a newer server.
                        if event.name == "head"
                            && let Ok(head) = serde_json::from_str::<HeadEvent>(&event.data)
                        {
                            on_head(head.cursor);
                        }
                    }
                }
                Ok(None) => {
                    return Failure::Unreachable {
                        reason: "the event stream ended".into(),
                    };
                }
                Err(failure) => return failure,
            }
        }
    }
}

fn authorities(file: &Path) -> anyhow::Result<Vec<reqwest::Certificate>> {
    let doing = || format!("reading the certificates of ca_file, {}", file.display());
    let pem = std::fs::read(file).with_context(doing)?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).with_context(doing)?;
    anyhow::ensure!(!found.is_empty(), "{}: there is none in PEM", doing());
    Ok(found)
}

async fn send_once(request: RequestBuilder, body_bytes: u64) -> Result<Response, Failure> {
    let limit = ANSWER_TIMEOUT + Duration::from_secs(body_bytes / UPLINK_MIN_BYTES_PER_SEC);
    match tokio::time::timeout(limit, request.send()).await {
        Ok(sent) => sent.map_err(unreachable),
        Err(_) => Err(Failure::Unreachable {
            reason: format!("no answer within {} s", limit.as_secs()),
        }),
    }
}

/// Connections to one server. Fails without any TLS certificates to trust.
fn http(server: &Url, ca_file: Option<&Path>) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("coditect-sync/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(SILENCE_LIMIT)
        // The server redirects nobody; a captive portal does, and must not be followed with the user's rows.
        .redirect(reqwest::redirect::Policy::none());
    if is_loopback(server) {
        // A proxy would look for the server on its own machine.
        builder = builder.no_proxy();
    }
    if server.scheme() == "http" {
        // Without TLS no certificates are needed, and a fresh machine has none, which would fail the client.
        builder = builder.tls_certs_only([]);
    } else if let Some(file) = ca_file {
        builder = builder.tls_certs_only(authorities(file)?);
    }
    builder.build().context("setting up HTTP")
}

/// Whether the URL's host is this machine, seen from itself.
pub fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

fn text_of(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The innermost cause says what happened (`connection refused`), the outer ones only in what.
fn unreachable(error: reqwest::Error) -> Failure {
    let what = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time"
    } else if error.is_body() || error.is_decode() {
        "the answer was cut short"
    } else {
        "the request broke off"
    };
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(|cause| cause.source()) {
        cause = Some(deeper);
    }
    let host = error
        .url()
        .and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    let to = host.map(|host| format!(" to {host}")).unwrap_or_default();
    let reason = match cause {
        Some(cause) => format!("{what}{to}: {cause}"),
        None => format!("{what}{to}"),
    };
    Failure::Unreachable { reason }
}
