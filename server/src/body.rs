//! A JSON body: read up to a limit, decompressed already, and refused as a whole (422) when it does not fit.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

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
            } else {
                // Cut off, no valid zstd or gzip, or stalled: the client's or the network's doing.
                ApiError::invalid("body", "the body could not be read to its end")
            }
        })?;
        // Numbers, borrowed texts and unknown fields are the target type's business; serde says which place is wrong.
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::invalid(field_of(&error), error.to_string()))?;
        Ok(JsonBody { bytes, value })
    }
}

/// The field that serde's text names, else the body as a whole.
fn field_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| text.strip_prefix(start))
        .and_then(|rest| rest.split_once('`'));
    match named {
        Some((field, _)) => field.to_owned(),
        None => "body".to_owned(),
    }
}
