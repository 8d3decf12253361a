//! The body of a form: read up to a limit that fits forms, and refused as a whole when it does not fit.

use axum::RequestExt as _;
use axum::extract::{DefaultBodyLimit, Form, FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Largest form in bytes: a password of full length, every character escaped, and room.
const FORM_BYTES: usize = 16 * 1024;

/// The fields of a form.
pub(crate) struct FormBody<T>(pub(crate) T);

impl<S, T> FromRequest<S> for FormBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned + 'static,
{
    type Rejection = ApiError;

    async fn from_request(mut request: Request, _state: &S) -> Result<FormBody<T>, ApiError> {
        DefaultBodyLimit::max(FORM_BYTES).apply(&mut request);
        match request.extract::<Form<T>, _>().await {
            Ok(Form(fields)) => Ok(FormBody(fields)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ApiError::TooLarge {
                    message: format!("the form is larger than {FORM_BYTES} bytes"),
                    limit: FORM_BYTES as u64,
                })
            }
            Err(_) => Err(ApiError::invalid(
                "body",
                "this is no form with the fields that are expected",
            )),
        }
    }
}
