//! A JSON body: read up to a limit, decompressed already, and refused as a whole (422) when it does not fit.

use std::error::Error;
use std::io;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;
use tower_http::timeout::TimeoutError;

use crate::error::ApiError;
use crate::limits::BODY_PAUSE;

/// A parsed JSON body with the bytes it was parsed from, since a push is known by the digest of its bytes.
#[derive(Debug)]
pub struct JsonBody<T> {
    /// The body after decompression, as sent.
    pub bytes: Bytes,
    pub value: T,
}

impl<S, T> FromRequest<S> for JsonBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody<T>, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                crate::app::body_too_large()
            } else if has_stalled(&rejection) {
                ApiError::TimedOut(BODY_PAUSE)
            } else {
                // Cut off, no valid zstd or gzip: the client's or the network's doing.
                ApiError::invalid("body", "the body could not be read to its end")
            }
        })?;
        let value = serde_json::from_slice(&bytes).map_err(|_| refusal::<T>(&bytes))?;
        Ok(JsonBody { bytes, value })
    }
}

/// Whether the body paused for too long. Decompression wraps errors into those of the system, whose inner ones are no
/// sources to the standard library.
fn has_stalled(error: &(dyn Error + 'static)) -> bool {
    let inner = || error.downcast_ref::<io::Error>()?.get_ref();
    error.is::<TimeoutError>()
        || inner().is_some_and(|inner| has_stalled(inner))
        || error.source().is_some_and(has_stalled)
}

/// What is wrong with a body, and where. It is read a second time for that, since keeping the path costs time that no
/// honest request should pay.
fn refusal<T: DeserializeOwned>(bytes: &[u8]) -> ApiError {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        // Whole as far as it goes, but something follows it.
        Ok(_) => ApiError::invalid("body", "there is more after the end of the JSON"),
        Err(error) => {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let message = inner.to_string();
            if inner.is_syntax() || inner.is_eof() {
                return ApiError::invalid("body", message);
            }
            // A missing field is reported at what it is missing from.
            let missing = message
                .strip_prefix("missing field `")
                .and_then(|rest| rest.split_once('`'));
            let field = match (path.as_str(), missing) {
                (".", Some((name, _))) => name.to_owned(),
                (".", None) => "body".to_owned(),
                (path, Some((name, _))) => format!("{path}.{name}"),
                (path, None) => path.to_owned(),
            };
            ApiError::invalid(field, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use coditect_shared::wire::PushRequest;

    use super::*;

    #[test]
    fn a_malformed_body_is_refused_with_the_place_that_is_wrong() {
        for (body, place) in [
            ("", "body"),
            ("[1", "body"),
            ("{\"epoch\": 1", "body"),
            ("{\"epoch\": 1, \"push_seq\": 1} x", "body"),
            ("{\"epoch\": 1}", "push_seq"),
            ("{\"epoch\": \"one\", \"push_seq\": 1}", "epoch"),
            (
                "{\"epoch\": 1, \"push_seq\": 1, \"messages\": [{\"session_id\": 5}]}",
                "messages[0].session_id",
            ),
        ] {
            let refused = refusal::<PushRequest>(body.as_bytes());
            assert_eq!(refused.details()["field"], place, "{body}: {refused}");
            assert_eq!(refused.status(), 422);
        }
    }
}
