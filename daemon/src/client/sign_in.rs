//! The device login at the server (RFC 8628), and what follows from it: refresh tokens, and logging out.

use std::path::Path;
use std::time::Duration;

use coditect_shared::DeviceId;
use coditect_shared::wire::DEVICE_HEADER;
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;
use url::form_urlencoded::Serializer;

use super::outcome::{Answer, Failure, Problem, interpret};
use super::{ANSWER_TIMEOUT, http, text_of, unreachable};
use crate::credential::{Secret, Tokens};

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Largest answer that is read: tokens and codes have under 2 KB.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Fewest seconds between two polls, whatever the server says: nobody approves faster.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// By how much `slow_down` lengthens the interval (RFC 8628, 3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// One device's way to tokens.
#[derive(Clone)]
pub struct SignIn {
    http: reqwest::Client,
    server: Url,
    device: DeviceId,
}

/// What a login begins with.
#[derive(Debug, Deserialize)]
pub struct Codes {
    device_code: Secret,
    /// For a person to type.
    pub user_code: String,
    pub verification_uri: String,
    pub verification_uri_complete: Option<String>,
    /// Seconds.
    pub expires_in: u64,
    /// Seconds.
    #[serde(default)]
    pub interval: u64,
}

/// What a poll came to.
#[derive(Debug, PartialEq)]
pub enum Polled {
    Tokens(Tokens),
    Pending,
    SlowDown,
    Denied,
    Expired,
    /// The code is unknown or used up.
    Gone,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Secret,
    refresh_token: Secret,
}

/// An answer in OAuth's words.
#[derive(Debug, Deserialize)]
struct OAuthError {
    error: String,
}

/// Why an OAuth route did not give what was asked for.
#[derive(Debug, PartialEq)]
enum Refusal {
    /// The error's code.
    Said(String),
    Failed(Failure),
}

impl SignIn {
    /// Fails without any TLS certificates to trust.
    pub fn new(server: &Url, device: DeviceId, ca_file: Option<&Path>) -> anyhow::Result<SignIn> {
        Ok(SignIn {
            http: http(server, ca_file)?,
            server: server.clone(),
            device,
        })
    }

    /// Asks for codes, in the name that the person who approves is shown.
    pub async fn begin(&self, device_name: &str) -> Result<Codes, Failure> {
        Ok(self.post("device", &[("device_name", device_name)]).await?)
    }

    /// Asks once whether the login was approved.
    pub async fn poll(&self, codes: &Codes) -> Result<Polled, Failure> {
        let fields = [
            ("grant_type", DEVICE_CODE),
            ("device_code", codes.device_code.expose()),
        ];
        match self.post::<TokenAnswer>("token", &fields).await {
            Ok(tokens) => Ok(Polled::Tokens(tokens.into())),
            Err(Refusal::Failed(failure)) => Err(failure),
            Err(Refusal::Said(error)) => match error.as_str() {
                "authorization_pending" => Ok(Polled::Pending),
                "slow_down" => Ok(Polled::SlowDown),
                "access_denied" => Ok(Polled::Denied),
                "expired_token" => Ok(Polled::Expired),
                "invalid_grant" => Ok(Polled::Gone),
                _ => Err(refused(error)),
            },
        }
    }

    /// Exchanges a refresh token. `None`: it is not good any more.
    pub async fn refresh(&self, token: &Secret) -> Result<Option<Tokens>, Failure> {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
        match self.post::<TokenAnswer>("token", &fields).await {
            Ok(tokens) => Ok(Some(tokens.into())),
            Err(Refusal::Said(error)) if error == "invalid_grant" => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Logs this device out.
    pub async fn revoke(&self, token: &Secret) -> Result<(), Failure> {
        self.post::<serde_json::Value>("revoke", &[("token", token.expose())])
            .await?;
        Ok(())
    }

    async fn post<T: DeserializeOwned>(&self, route: &str, fields: &[(&str, &str)]) -> Result<T, Refusal> {
        let url = format!(
            "{}/api/v1/auth/{route}",
            self.server.as_str().trim_end_matches('/')
        );
        let request = self
            .http
            .post(url)
            .header(DEVICE_HEADER, self.device.to_string())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Serializer::new(String::new()).extend_pairs(fields).finish());
        let exchange = async {
            let mut response = request.send().await.map_err(unreachable)?;
            let body = body_of(&mut response).await?;
            Ok((response, body))
        };
        let (response, body) = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(done) => done.map_err(Refusal::Failed)?,
            Err(_) => {
                let reason = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                return Err(Refusal::Failed(Failure::Unreachable { reason }));
            }
        };
        let headers = response.headers();
        read(&Answer {
            status: response.status().as_u16(),
            content_type: text_of(headers, CONTENT_TYPE),
            retry_after: text_of(headers, RETRY_AFTER),
            location: text_of(headers, LOCATION),
            body: &body,
        })
    }
}

impl Codes {
    /// How long to wait before the first poll.
    pub fn first_interval(&self) -> Duration {
        Duration::from_secs(self.interval).max(INTERVAL_MIN)
    }
}

/// How long to wait before the next poll, after one that came to this.
pub fn next_interval(interval: Duration, polled: &Result<Polled, Failure>) -> Duration {
    match polled {
        Ok(Polled::SlowDown) => interval + SLOW_DOWN,
        // Whoever cannot be reached is asked less often (RFC 8628, 3.5); the code's end bounds it.
        Err(_) => interval * 2,
        Ok(Polled::Tokens(_) | Polled::Pending | Polled::Denied | Polled::Expired | Polled::Gone) => interval,
    }
}

/// Reads an answer: OAuth's own errors are strings, anything else is read as from every other route.
fn read<T: DeserializeOwned>(answer: &Answer<'_>) -> Result<T, Refusal> {
    if answer.status == 400
        && let Ok(said) = serde_json::from_slice::<OAuthError>(answer.body)
    {
        return Err(Refusal::Said(said.error));
    }
    interpret(answer).map_err(|problem: Problem| Refusal::Failed(problem.into()))
}

async fn body_of(response: &mut Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(unreachable)? {
        if body.len() + piece.len() > ANSWER_MAX_BYTES {
            let reason = format!("the answer is longer than {ANSWER_MAX_BYTES} bytes");
            return Err(Failure::Unreachable { reason });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn refused(code: String) -> Failure {
    let message = format!("the server refused the login: {code}");
    Failure::Refused {
        status: 400,
        code,
        message,
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Said(code) => refused(code),
            Refusal::Failed(failure) => failure,
        }
    }
}

impl From<TokenAnswer> for Tokens {
    fn from(answer: TokenAnswer) -> Tokens {
        Tokens {
            access: answer.access_token,
            refresh: Some(answer.refresh_token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        status: u16,
        content_type: &'static str,
        body: &'static str,
    ) -> Result<serde_json::Value, Refusal> {
        read(&Answer {
            status,
            content_type: Some(content_type),
            body: body.as_bytes(),
            ..Answer::default()
        })
    }

    #[test]
    fn only_oauths_own_errors_are_taken_for_the_servers_word() {
        let json = "application/json";
        let said = answer(
            400,
            json,
            r#"{"error": "invalid_grant", "error_description": "x"}"#,
        );
        assert_eq!(said, Err(Refusal::Said("invalid_grant".into())));
        for (status, kind, body) in [
            (400, "text/html", "<h1>Log in to the hotel's network</h1>"),
            (401, json, r#"{"error": "invalid_grant"}"#),
            (503, json, r#"{"error": "invalid_grant"}"#),
            (200, "text/html", "<h1>Welcome</h1>"),
            (302, "text/html", ""),
        ] {
            let read = answer(status, kind, body);
            assert!(
                matches!(read, Err(Refusal::Failed(_))),
                "{status} {body}: {read:?}"
            );
        }
    }

    #[test]
    fn polls_slow_down_when_told_to_and_when_nobody_answers() {
        let five = Duration::from_secs(5);
        assert_eq!(next_interval(five, &Ok(Polled::Pending)), five);
        assert_eq!(next_interval(five, &Ok(Polled::SlowDown)), five * 2);
        let away = Err(Failure::Unreachable { reason: "x".into() });
        assert_eq!(next_interval(five, &away), five * 2);
    }
}
