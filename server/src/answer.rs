//! The outermost layer: every request gets an id, every answer carries it, every error becomes the contract's JSON,
//! whoever raised it, and every request leaves one line in the log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use coditect_shared::wire::{ErrorBody, ErrorDetail, ErrorMeta};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::error::{ApiError, Failure};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from the caller; UUIDs and trace ids fit, a log flooded by header values does not.
const REQUEST_ID_MAX: usize = 64;

/// The id of a request, for handlers that write it into audit rows: an `Extension`.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Middleware: see the module's description.
pub async fn complete(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    // The pattern, not the path: ids and queries do not belong into logs, and patterns can be counted.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let span = tracing::info_span!("request", id = %id, %method, route = route.as_deref().unwrap_or("-"));
    async {
        let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            // The panic itself was printed where it happened. Nothing is broken beyond this request: a transaction
            // that it had open is closed with its connection.
            Err(_) => ApiError::Internal(anyhow::anyhow!("the handler panicked")).into_response(),
        };
        if let Some(error) = failure_of(&response, method.as_str()) {
            log_cause(&error);
            // A page tells people already what went wrong.
            if !has_type(&response, "text/html") {
                response = write(&error, &id);
            }
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        tracing::info!(
            status = response.status().as_u16(),
            ms = started.elapsed().as_millis() as u64,
            "answered"
        );
        response
    }
    .instrument(span)
    .await
}

/// The caller's id if it is a plain word, so that a trace goes on through us; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |text: &str| {
        (1..=REQUEST_ID_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    match headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()) {
        Some(text) if plain(text) => text.to_owned(),
        Some(_) | None => Uuid::now_v7().to_string(),
    }
}

/// The error in an answer: ours, or one that a library wrote in its own words.
fn failure_of(response: &Response, method: &str) -> Option<Arc<ApiError>> {
    if let Some(Failure(error)) = response.extensions().get::<Failure>() {
        return Some(error.clone());
    }
    let is_whole = has_type(response, "application/json") || has_type(response, "text/html");
    let status = response.status();
    if is_whole || !(status.is_client_error() || status.is_server_error()) {
        return None;
    }
    Some(Arc::new(match status {
        StatusCode::NOT_FOUND => ApiError::NotFound("there is nothing at this path".to_owned()),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::MethodNotAllowed(method.to_owned()),
        StatusCode::PAYLOAD_TOO_LARGE => crate::app::body_too_large(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ApiError::UnsupportedMediaType("a body is JSON, plain or in zstd or gzip".to_owned())
        }
        _ if status.is_client_error() => {
            ApiError::invalid("request", status.canonical_reason().unwrap_or("bad request"))
        }
        _ => ApiError::Internal(anyhow::anyhow!("a layer answered {status}")),
    }))
}

fn has_type(response: &Response, media_type: &str) -> bool {
    let found = response.headers().get(CONTENT_TYPE);
    found.is_some_and(|value| value.as_bytes().starts_with(media_type.as_bytes()))
}

fn log_cause(error: &ApiError) {
    if let Some(cause) = error.cause() {
        tracing::error!(code = error.code(), "{cause:#}");
    }
}

fn write(error: &ApiError, request_id: &str) -> Response {
    let body = ErrorBody {
        error: ErrorDetail {
            code: error.code().to_owned(),
            message: error.to_string(),
            details: error.details(),
        },
        meta: ErrorMeta {
            request_id: request_id.to_owned(),
            timestamp: Timestamp::now().to_string(),
        },
    };
    let mut response = (error.status(), axum::Json(body)).into_response();
    if error.status() == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil() as u64));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::from_fn;
    use axum::routing::get;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;

    /// What a client sees of a handler's answer.
    async fn answer_of(handler: Router, request_id: Option<&str>) -> (StatusCode, HeaderMap, Value) {
        let mut request = axum::http::Request::get("/");
        if let Some(id) = request_id {
            request = request.header(REQUEST_ID, id);
        }
        let router = handler.layer(from_fn(complete));
        let response = router
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, serde_json::from_slice(&bytes).unwrap())
    }

    fn failing(error: fn() -> ApiError) -> Router {
        Router::new().route("/", get(move || async move { error() }))
    }

    #[tokio::test]
    async fn an_error_is_the_contracts_json_with_the_requests_id_in_head_and_body() {
        let (status, headers, body) = answer_of(
            failing(|| ApiError::invalid("limit", "too much")),
            Some("trace-1"),
        )
        .await;
        assert_eq!(status, 422);
        assert_eq!(headers[REQUEST_ID], "trace-1");
        assert_eq!(body["error"]["code"], "invalid_field");
        assert_eq!(body["error"]["details"]["field"], "limit");
        assert_eq!(body["meta"]["request_id"], "trace-1");
        body["meta"]["timestamp"]
            .as_str()
            .unwrap()
            .parse::<Timestamp>()
            .unwrap();
    }

    #[tokio::test]
    async fn an_id_that_would_garble_the_log_is_replaced() {
        for id in ["two words", "a\"b", &"x".repeat(REQUEST_ID_MAX + 1)] {
            let (_, headers, _) = answer_of(failing(|| ApiError::NotFound("x".into())), Some(id)).await;
            assert_ne!(headers[REQUEST_ID], id);
        }
    }

    #[tokio::test]
    async fn p15_a_client_is_not_told_the_cause() {
        let (status, headers, body) = answer_of(
            failing(|| ApiError::Unavailable(anyhow::anyhow!("role secret does not exist"))),
            None,
        )
        .await;
        assert_eq!(status, 503);
        assert!(headers.contains_key(RETRY_AFTER));
        assert!(!body.to_string().contains("secret"), "{body}");
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_of_that_request_alone() {
        async fn panics() -> StatusCode {
            panic!("a test panics on purpose")
        }
        let (status, _, body) = answer_of(Router::new().route("/", get(panics)), None).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["code"]),
            (500, &Value::from("internal"))
        );
        assert!(!body.to_string().contains("on purpose"), "{body}");
    }

    #[tokio::test]
    async fn what_a_library_refuses_in_its_own_words_becomes_json_too() {
        let plain = |status: StatusCode| Router::new().route("/", get(move || async move { (status, "no") }));
        for (status, code) in [
            (404, "not_found"),
            (405, "method_not_allowed"),
            (413, "too_large"),
            (400, "invalid_field"),
        ] {
            let (_, _, body) = answer_of(plain(StatusCode::from_u16(status).unwrap()), None).await;
            assert_eq!(body["error"]["code"], code, "{status}");
        }
        let own = || async {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                axum::Json(serde_json::json!({"status": "unhealthy"})),
            )
        };
        let (_, _, body) = answer_of(Router::new().route("/", get(own)), None).await;
        assert_eq!(
            body["status"], "unhealthy",
            "an answer that is JSON already stays"
        );
    }
}
