//! What a client is told when something does not work, and what only the log is told.
//!
//! Handlers return [`ApiError`]; the outermost layer ([`crate::app`]) writes it as the contract's JSON with the
//! request's id. A client gets a code to branch on and a text without internals; the cause goes to the log, once.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use deadpool_postgres::PoolError;
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

/// After which time a client may come back when the database was away or the pool exhausted: long enough to let a
/// restart of PostgreSQL pass (1 to 2 s as measured), short enough that nobody waits for nothing.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A refused or failed request. Every variant names the status with which it is answered.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 401: no token, or one that proves nothing.
    #[error("{message}")]
    Unauthorized { code: &'static str, message: String },
    /// 403: the caller's role does not reach that far.
    #[error("{message}")]
    Forbidden { code: &'static str, message: String },
    /// 404: not there, or another tenant's, which is the same to the caller.
    #[error("{0}")]
    NotFound(String),
    /// 405: the path exists, the method does not.
    #[error("this path does not take {0}")]
    MethodNotAllowed(String),
    /// 400: plain HTTP where TLS is spoken.
    #[error(
        "this port speaks HTTPS: use an https:// address. A token that was sent with this request was sent in the clear"
    )]
    TlsNeeded,
    /// 503: the request took longer than any honest one does.
    #[error("the request took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// 409: the request does not fit what is stored; `code` and `details` are the contract's.
    #[error("{message}")]
    Conflict {
        code: &'static str,
        message: String,
        details: Value,
    },
    /// 410: it was there once.
    #[error("{message}")]
    Gone { code: &'static str, message: String },
    /// 413: `limit` in the unit that `message` names.
    #[error("{message}")]
    TooLarge { message: String, limit: u64 },
    /// 415: an encoding or media type that the server does not read.
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// 422: `field` is what is wrong, as a path into the body, a header's or a parameter's name.
    #[error("{field}: {message}")]
    Invalid { field: String, message: String },
    /// 429: too much from one caller, or too many at once.
    #[error("{message}")]
    TooManyRequests { message: String, retry_after: Duration },
    /// 503: the database does not answer or takes no writes, or we are at a limit; a later try can succeed.
    #[error("the server cannot do this now, try again later")]
    Unavailable(#[source] anyhow::Error),
    /// 500: a fault of ours; the cause stands in the log under the request's id.
    #[error("an internal error")]
    Internal(#[source] anyhow::Error),
}

impl ApiError {
    /// A 422 for one field of the body, one header or one parameter.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::Invalid {
            field: field.into(),
            message: message.into(),
        }
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden { .. } => StatusCode::FORBIDDEN,
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::TlsNeeded => StatusCode::BAD_REQUEST,
            ApiError::TimedOut(_) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Conflict { .. } => StatusCode::CONFLICT,
            ApiError::Gone { .. } => StatusCode::GONE,
            ApiError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ApiError::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            ApiError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The word that clients branch on.
    pub fn code(&self) -> &'static str {
        match self {
            ApiError::Unauthorized { code, .. }
            | ApiError::Forbidden { code, .. }
            | ApiError::Conflict { code, .. }
            | ApiError::Gone { code, .. } => code,
            ApiError::NotFound(_) => "not_found",
            ApiError::MethodNotAllowed(_) => "method_not_allowed",
            ApiError::TlsNeeded => "tls_needed",
            ApiError::TimedOut(_) => "request_timeout",
            ApiError::TooLarge { .. } => "too_large",
            ApiError::UnsupportedMediaType(_) => "unsupported_media_type",
            ApiError::Invalid { .. } => "invalid_field",
            ApiError::TooManyRequests { .. } => "too_many_requests",
            ApiError::Unavailable(_) => "unavailable",
            ApiError::Internal(_) => "internal",
        }
    }

    /// What a program needs beside the code: the field, the limit, the contract's own details.
    pub fn details(&self) -> Value {
        match self {
            ApiError::Conflict { details, .. } => details.clone(),
            ApiError::TooLarge { limit, .. } => json!({"limit": limit}),
            ApiError::Invalid { field, .. } => json!({"field": field}),
            ApiError::TimedOut(limit) => json!({"limit_secs": limit.as_secs()}),
            ApiError::Unauthorized { .. }
            | ApiError::Forbidden { .. }
            | ApiError::NotFound(_)
            | ApiError::MethodNotAllowed(_)
            | ApiError::TlsNeeded
            | ApiError::Gone { .. }
            | ApiError::UnsupportedMediaType(_)
            | ApiError::TooManyRequests { .. }
            | ApiError::Unavailable(_)
            | ApiError::Internal(_) => json!({}),
        }
    }

    /// The header `Retry-After`, where a later try can succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ApiError::Unavailable(_) | ApiError::TimedOut(_) => Some(RETRY_AFTER),
            ApiError::TooManyRequests { retry_after, .. } => Some(*retry_after),
            ApiError::Unauthorized { .. }
            | ApiError::Forbidden { .. }
            | ApiError::NotFound(_)
            | ApiError::MethodNotAllowed(_)
            | ApiError::TlsNeeded
            | ApiError::Conflict { .. }
            | ApiError::Gone { .. }
            | ApiError::TooLarge { .. }
            | ApiError::UnsupportedMediaType(_)
            | ApiError::Invalid { .. }
            | ApiError::Internal(_) => None,
        }
    }

    /// What the log is told and the client is not.
    pub fn cause(&self) -> Option<&anyhow::Error> {
        match self {
            ApiError::Unavailable(cause) | ApiError::Internal(cause) => Some(cause),
            ApiError::Unauthorized { .. }
            | ApiError::Forbidden { .. }
            | ApiError::NotFound(_)
            | ApiError::MethodNotAllowed(_)
            | ApiError::TlsNeeded
            | ApiError::TimedOut(_)
            | ApiError::Conflict { .. }
            | ApiError::Gone { .. }
            | ApiError::TooLarge { .. }
            | ApiError::UnsupportedMediaType(_)
            | ApiError::Invalid { .. }
            | ApiError::TooManyRequests { .. } => None,
        }
    }
}

/// The error on its way to the outermost layer, which alone knows the request's id and writes the body.
#[derive(Clone)]
pub(crate) struct Failure(pub(crate) Arc<ApiError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

impl From<tokio_postgres::Error> for ApiError {
    fn from(error: tokio_postgres::Error) -> ApiError {
        let passing = is_passing(&error);
        let cause = anyhow::Error::new(error).context("talking to PostgreSQL");
        if passing {
            ApiError::Unavailable(cause)
        } else {
            ApiError::Internal(cause)
        }
    }
}

impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> ApiError {
        // Whatever keeps the pool from giving a connection (all taken, PostgreSQL away, a password changed) is
        // nothing that the client did or could mend, and a later try can succeed.
        ApiError::Unavailable(anyhow::Error::new(error).context("taking a connection from the pool"))
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> ApiError {
        ApiError::Internal(error)
    }
}

/// For statements that make the first row of a tenant or device: a token outlives its tenant for some minutes, the row
/// that such a statement refers to does not.
pub(crate) fn tenant_gone(error: tokio_postgres::Error) -> ApiError {
    if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) {
        return ApiError::Unauthorized {
            code: "token_invalid",
            message: "the tenant of the access token does not exist any more".to_owned(),
        };
    }
    error.into()
}

/// Whether a database error says "not now" (connection gone, shutting down, a lock or statement timeout, a failover
/// to read-only, a serialisation conflict) and not "never".
fn is_passing(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else {
        // No SQLSTATE: the connection broke, or an answer could not be decoded, which is our own fault.
        return error.is_closed()
            || std::error::Error::source(error).is_some_and(|s| s.is::<std::io::Error>());
    };
    let class = state.code().get(..2).unwrap_or_default();
    // 08 connection, 40 rollback (serialisation, deadlock), 53 resources, 57 operator (shutdown, timeouts, starting up).
    matches!(class, "08" | "40" | "53" | "57")
        || *state == SqlState::LOCK_NOT_AVAILABLE
        || *state == SqlState::READ_ONLY_SQL_TRANSACTION
        || *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
}
