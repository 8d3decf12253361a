//! What an answer of the server means. One pure function reads status, headers and body; the loop branches on what it
//! returns and never sees HTTP.

use std::fmt;

use coditect_shared::wire::{ErrorBody, ErrorDetail, PullPage, PushAnswer, PushConflict};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a push came to.
#[derive(Clone, Debug, PartialEq)]
pub enum PushOutcome {
    Answer(PushAnswer),
    /// Something else was committed under this push_seq.
    Conflict(PushConflict),
    /// The push_seq is beyond what the server expects: it went back.
    Gap,
    /// The push_seq is below what the server has committed: this file went back, or is a copy.
    Stale,
    /// The server lives in another epoch than the batch was made for.
    EpochMismatch {
        epoch: i64,
    },
    Diverged {
        message: String,
    },
    Failed(Failure),
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq)]
pub enum PullOutcome {
    Page(Box<PullPage>),
    /// The server does not know the history that this file has seen.
    Diverged {
        message: String,
    },
    Failed(Failure),
}

/// Why a request had no result. Displayed as a sentence for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer, half of one, or one that no coditect server gives (a captive portal's page).
    Unreachable {
        reason: String,
    },
    /// 429 or 503.
    Busy {
        status: u16,
        code: String,
        message: String,
        retry_after_ms: Option<u64>,
    },
    /// Any other 5xx.
    Server {
        status: u16,
        code: String,
        message: String,
    },
    Unauthorized {
        message: String,
    },
    Forbidden {
        message: String,
    },
    /// The body, with the limit in bytes where the server names it.
    TooLarge {
        limit: Option<u64>,
    },
    /// Any other 4xx: this request will never be taken.
    Refused {
        status: u16,
        code: String,
        message: String,
    },
}

/// An answer as it came over the wire, decompressed.
#[derive(Clone, Debug, Default)]
pub struct Answer<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    /// In seconds; the server sends no dates.
    pub retry_after: Option<&'a str>,
    pub location: Option<&'a str>,
    pub body: &'a [u8],
}

/// An answer that is no result. The first five are said by the sync's own routes.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    Conflict(Box<PushConflict>),
    Gap,
    Stale,
    EpochMismatch { epoch: i64 },
    Diverged { message: String },
    Failed(Failure),
}

/// Reads an answer, whatever route it came from.
///
/// Only a body in the contract's error form is believed to come from the server: a page of a captive portal, a proxy
/// or another program on the port must neither log the user out nor divide the histories.
pub fn interpret<T: DeserializeOwned>(answer: &Answer<'_>) -> Result<T, Problem> {
    match answer.status {
        200..=299 => read_result(answer).map_err(Problem::Failed),
        300..=399 => Err(Problem::Failed(redirected(answer))),
        _ => Err(match serde_json::from_slice::<ErrorBody>(answer.body) {
            Ok(body) => problem(answer, body.error),
            Err(_) => Problem::Failed(foreign_error(answer)),
        }),
    }
}

fn read_result<T: DeserializeOwned>(answer: &Answer<'_>) -> Result<T, Failure> {
    if !is_json(answer.content_type) {
        return Err(unreachable(format!(
            "something that is no coditect server answered ({} instead of JSON); is a captive portal or a proxy in between?",
            answer.content_type.unwrap_or("no content type")
        )));
    }
    // The error's place in the text helps; the text itself may hold the user's words and is not quoted.
    serde_json::from_slice(answer.body).map_err(|error| {
        unreachable(format!(
            "the answer is cut short or garbled (line {}, column {} of {} bytes)",
            error.line(),
            error.column(),
            answer.body.len()
        ))
    })
}

fn is_json(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    })
}

fn redirected(answer: &Answer<'_>) -> Failure {
    unreachable(match answer.location {
        Some(location) => format!("redirected to {location}; a captive portal, or log in with that address"),
        None => format!("answered {} without saying where to go", answer.status),
    })
}

/// An error in the server's own words.
fn problem(answer: &Answer<'_>, error: ErrorDetail) -> Problem {
    let ErrorDetail {
        code,
        message,
        details,
    } = error;
    let status = answer.status;
    let failure = match status {
        401 => Failure::Unauthorized { message },
        403 => Failure::Forbidden { message },
        408 => unreachable(format!("the request took too long for the server: {message}")),
        409 => return conflict(code, message, details),
        413 => Failure::TooLarge {
            limit: limit_of(&details),
        },
        429 | 503 => Failure::Busy {
            status,
            code,
            message,
            retry_after_ms: retry_after_ms(answer),
        },
        500.. => Failure::Server {
            status,
            code,
            message,
        },
        _ => Failure::Refused {
            status,
            code,
            message,
        },
    };
    Problem::Failed(failure)
}

fn conflict(code: String, message: String, details: Value) -> Problem {
    match code.as_str() {
        "push_seq_conflict" => match serde_json::from_value(details) {
            Ok(conflict) => Problem::Conflict(conflict),
            Err(error) => Problem::Failed(Failure::Server {
                status: 409,
                code,
                message: format!("the conflict's details are not understood: {error}"),
            }),
        },
        "push_seq_gap" => Problem::Gap,
        "push_seq_stale" => Problem::Stale,
        "epoch_mismatch" => match details.get("epoch").and_then(Value::as_i64) {
            Some(epoch) => Problem::EpochMismatch { epoch },
            None => Problem::Diverged { message },
        },
        "history_diverged" => Problem::Diverged { message },
        _ => Problem::Failed(Failure::Refused {
            status: 409,
            code,
            message,
        }),
    }
}

/// An error that a coditect server did not word.
fn foreign_error(answer: &Answer<'_>) -> Failure {
    let status = answer.status;
    match status {
        413 => Failure::TooLarge { limit: None },
        429 | 503 => Failure::Busy {
            status,
            code: format!("http_{status}"),
            message: "a proxy in front of the server asks to wait".into(),
            retry_after_ms: retry_after_ms(answer),
        },
        407 => unreachable("the proxy wants a log-in (407): put user and password into HTTPS_PROXY".into()),
        511 => unreachable("the network wants a log-in in the browser first (511)".into()),
        500.. => Failure::Server {
            status,
            code: format!("http_{status}"),
            message: "a proxy answered in place of the server".into(),
        },
        _ => unreachable(format!(
            "answered {status}, but not as a coditect server does; is the address right?"
        )),
    }
}

fn limit_of(details: &Value) -> Option<u64> {
    ["limit", "limit_bytes", "max_bytes"]
        .iter()
        .find_map(|name| details.get(name)?.as_u64())
}

fn retry_after_ms(answer: &Answer<'_>) -> Option<u64> {
    let seconds: u64 = answer.retry_after?.trim().parse().ok()?;
    seconds.checked_mul(1000)
}

fn unreachable(reason: String) -> Failure {
    Failure::Unreachable { reason }
}

impl From<Result<PushAnswer, Problem>> for PushOutcome {
    fn from(result: Result<PushAnswer, Problem>) -> PushOutcome {
        match result {
            Ok(answer) => PushOutcome::Answer(answer),
            Err(Problem::Conflict(conflict)) => PushOutcome::Conflict(*conflict),
            Err(Problem::Gap) => PushOutcome::Gap,
            Err(Problem::Stale) => PushOutcome::Stale,
            Err(Problem::EpochMismatch { epoch }) => PushOutcome::EpochMismatch { epoch },
            Err(Problem::Diverged { message }) => PushOutcome::Diverged { message },
            Err(Problem::Failed(failure)) => PushOutcome::Failed(failure),
        }
    }
}

impl From<Result<PullPage, Problem>> for PullOutcome {
    fn from(result: Result<PullPage, Problem>) -> PullOutcome {
        match result {
            Ok(page) => PullOutcome::Page(Box::new(page)),
            Err(Problem::Diverged { message }) => PullOutcome::Diverged { message },
            Err(other) => PullOutcome::Failed(other.into()),
        }
    }
}

/// For the routes that know no histories: a conflict there is a refusal like any other.
impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        let (code, message) = match problem {
            Problem::Failed(failure) => return failure,
            Problem::Conflict(_) => ("push_seq_conflict", String::new()),
            Problem::Gap => ("push_seq_gap", String::new()),
            Problem::Stale => ("push_seq_stale", String::new()),
            Problem::EpochMismatch { epoch } => ("epoch_mismatch", format!("the server's epoch is {epoch}")),
            Problem::Diverged { message } => ("history_diverged", message),
        };
        Failure::Refused {
            status: 409,
            code: code.into(),
            message,
        }
    }
}

impl Failure {
    /// A stable word for `last_error.code`.
    pub fn code(&self) -> &str {
        match self {
            Failure::Unreachable { .. } => "unreachable",
            Failure::Unauthorized { .. } => "unauthorized",
            Failure::Forbidden { .. } => "forbidden",
            Failure::TooLarge { .. } => "too_large",
            Failure::Busy { code, .. } | Failure::Server { code, .. } | Failure::Refused { code, .. } => code,
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable { reason } => write!(f, "the server is not reachable: {reason}"),
            Failure::Busy {
                message,
                retry_after_ms: Some(ms),
                ..
            } => {
                write!(
                    f,
                    "the server is busy, again in {} s: {message}",
                    ms.div_ceil(1000)
                )
            }
            Failure::Busy {
                message,
                retry_after_ms: None,
                ..
            } => write!(f, "the server is busy: {message}"),
            Failure::Server { status, message, .. } => write!(f, "the server failed ({status}): {message}"),
            Failure::Unauthorized { message } => write!(f, "the server does not accept the token: {message}"),
            Failure::Forbidden { message } => write!(f, "the user's role does not allow this: {message}"),
            Failure::TooLarge { limit: Some(limit) } => {
                write!(f, "the request is larger than the server takes ({limit} bytes)")
            }
            Failure::TooLarge { limit: None } => write!(f, "the request is larger than the server takes"),
            Failure::Refused {
                status,
                code,
                message,
            } => {
                write!(f, "the server refused the request ({status} {code}): {message}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
