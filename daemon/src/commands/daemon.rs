//! Asks the running daemon over its status socket.

use std::io;
use std::time::Duration;

use anyhow::Context;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::cli::Setup;
use crate::client::events::EventReader;
use crate::output::Fault;
use crate::socket::SyncDone;
use crate::status::{State, Status};

/// Until the daemon answers what needs no waiting. It answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is added to a wait that the daemon keeps itself.
const WAIT_MARGIN: Duration = Duration::from_secs(2);

pub(crate) struct Daemon {
    http: reqwest::Client,
    absent: String,
}

/// How a sync that was waited for ended.
pub(crate) enum Waited {
    Done { cursor: i64 },
    NotPossible { state: Option<State>, reason: String },
    TimedOut,
}

impl Daemon {
    pub(crate) fn of(setup: &Setup) -> Result<Daemon, Fault> {
        let http = reqwest::Client::builder()
            .unix_socket(setup.paths.socket.as_path())
            // No TLS here, and no need for certificates to be installed.
            .tls_certs_only([])
            .build()
            .context("setting up the status socket's client")?;
        let absent = format!(
            "no daemon answers at {}: start it with `{}`",
            setup.paths.socket.display(),
            setup.command("run")
        );
        Ok(Daemon { http, absent })
    }

    pub(crate) async fn status(&self) -> Result<Status, Fault> {
        let request = self
            .http
            .get("http://localhost/v1/status")
            .timeout(ANSWER_TIMEOUT);
        let body = expect_success(self.send(request).await?).await?;
        Ok(serde_json::from_value(body).context("reading the daemon's status (is it another version?)")?)
    }

    /// Tells the daemon something that it does at once: `pause`, `resume`, `reload` or `sync`.
    pub(crate) async fn tell(&self, what: &str) -> Result<(), Fault> {
        let request = self
            .http
            .post(format!("http://localhost/v1/{what}"))
            .timeout(ANSWER_TIMEOUT);
        expect_success(self.send(request).await?).await?;
        Ok(())
    }

    /// As `tell`; false if no daemon runs.
    pub(crate) async fn tell_if_running(&self, what: &str) -> Result<bool, Fault> {
        match self.tell(what).await {
            Ok(()) => Ok(true),
            Err(Fault::NotReachable(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Asks for a sync and waits for its end.
    pub(crate) async fn sync_and_wait(&self, limit: Duration) -> Result<Waited, Fault> {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request = self
            .http
            .post("http://localhost/v1/sync")
            .json(&json!({"wait": true, "timeout_ms": timeout_ms}))
            .timeout(limit.saturating_add(WAIT_MARGIN));
        let response = match self.send(request).await {
            Err(Fault::Failed(error)) if is_timeout(&error) => return Ok(Waited::TimedOut),
            other => other?,
        };
        match response.status() {
            StatusCode::GATEWAY_TIMEOUT => Ok(Waited::TimedOut),
            StatusCode::CONFLICT => {
                let body: Value = response.json().await.context("reading the daemon's answer")?;
                let error = &body["error"];
                Ok(Waited::NotPossible {
                    state: serde_json::from_value(error["details"]["state"].clone()).ok(),
                    reason: error["message"]
                        .as_str()
                        .unwrap_or("the daemon does not say why")
                        .to_owned(),
                })
            }
            _ => match serde_json::from_value(expect_success(response).await?) {
                Ok(SyncDone::Done { cursor }) => Ok(Waited::Done { cursor }),
                Ok(SyncDone::NotPossible { state, reason }) => Ok(Waited::NotPossible {
                    state: Some(state),
                    reason,
                }),
                Err(error) => Err(Fault::Failed(
                    anyhow::Error::new(error).context("reading the daemon's answer"),
                )),
            },
        }
    }

    /// Follows the status until the daemon ends or `on_status` has enough.
    pub(crate) async fn watch(
        &self,
        mut on_status: impl FnMut(Status) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut response = self.send(self.http.get("http://localhost/v1/events")).await?;
        let mut reader = EventReader::with_line_max(STATUS_MAX_BYTES);
        while let Ok(Some(piece)) = response.chunk().await {
            for event in reader.feed(&piece) {
                let status = serde_json::from_str(&event.data).context("reading the daemon's status")?;
                on_status(status)?;
            }
        }
        Err(Fault::NotReachable("the daemon has stopped".into()))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Fault> {
        request.send().await.map_err(|error| match refusal(&error) {
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Fault::NotReachable(self.absent.clone())
            }
            Some(io::ErrorKind::PermissionDenied) => {
                Fault::NotReachable("the status socket belongs to another user".into())
            }
            Some(_) | None => Fault::Failed(anyhow::Error::new(error).context("asking the daemon")),
        })
    }
}

/// Longest status that is read: ten notes of refused rows and some lines.
const STATUS_MAX_BYTES: usize = 1 << 20;

fn refusal(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(io) = this.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = this.source();
    }
    None
}

fn is_timeout(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<reqwest::Error>()
        .is_some_and(reqwest::Error::is_timeout)
}

async fn expect_success(response: Response) -> Result<Value, Fault> {
    let status = response.status();
    let body: Value = response.json().await.context("reading the daemon's answer")?;
    if status.is_success() {
        return Ok(body);
    }
    let message = body["error"]["message"].as_str().unwrap_or("no reason given");
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Err(Fault::NotReachable(message.to_owned())),
        _ => Err(Fault::failed(format!("the daemon refused ({status}): {message}"))),
    }
}
