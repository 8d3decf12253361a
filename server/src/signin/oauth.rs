//! The routes that devices use: `POST /api/v1/auth/device`, `/auth/token` and `/auth/revoke` (RFC 8628, 6749, 7009).
//!
//! They speak OAuth: forms in, `{"error": "…"}` out with 400. The device names itself in `X-Device-ID`, and what it gets
//! is bound to that name.

use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::header::{CACHE_CONTROL, HeaderMap};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use coditect_shared::TenantId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::device::{self, Granted};
use super::device_code::{self, CODE_LIFE, Polled};
use super::form_body::FormBody;
use super::secret::TenantSecret;
use crate::answer::RequestId;
use crate::app::AppState;
use crate::auth::{self, Caller, Device};
use crate::connections::Peer;
use crate::error::ApiError;
use crate::routes::Doc;

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const REFRESH_TOKEN: &str = "refresh_token";

/// Longest name of a device, as the column has it.
const NAME_MAX_CHARS: usize = 100;

/// An answer of the token route that is no token: 400.
#[derive(Debug)]
struct Refusal {
    error: &'static str,
    description: &'static str,
}

/// What a device login begins with.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Begin {
    /// As the workstation calls itself, for the person who approves.
    #[serde(default)]
    device_name: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Begun {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: String,
    /// Seconds.
    expires_in: u64,
    /// Seconds between two polls.
    interval: u64,
}

#[derive(Serialize, ToSchema)]
struct Tokens {
    access_token: String,
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    refresh_token: String,
}

/// What OAuth answers when it does not do what was asked.
#[derive(Serialize, ToSchema)]
struct OAuthError {
    error: &'static str,
    error_description: &'static str,
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct TokenRequest {
    grant_type: Option<String>,
    device_code: Option<String>,
    refresh_token: Option<String>,
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct RevokeRequest {
    token: Option<String>,
}

/// `POST /api/v1/auth/device`.
pub(crate) async fn begin(
    State(state): State<AppState>,
    Device(device): Device,
    peer: Peer,
    headers: HeaderMap,
    form: Result<FormBody<Begin>, ApiError>,
) -> Result<Response, ApiError> {
    let Ok(FormBody(form)) = form else {
        return Ok(malformed().into_response());
    };
    let signin = &state.signin;
    let from = signin.address(peer, &headers);
    let made = device_code::make(
        &state.pool,
        device,
        &shown_name(&form.device_name),
        from,
        signin.poll_interval,
    )
    .await?;
    let uri = format!("{}/device", signin.public_url);
    let code = made.user_code.as_str();
    Ok(private(Json(Begun {
        verification_uri_complete: format!("{uri}/confirm?code={code}"),
        user_code: code.to_owned(),
        device_code: made.device_code,
        verification_uri: uri,
        expires_in: CODE_LIFE.as_secs(),
        interval: signin.poll_interval.as_secs(),
    })))
}

/// `POST /api/v1/auth/token`.
pub(crate) async fn token(
    State(state): State<AppState>,
    Device(device): Device,
    Extension(request_id): Extension<RequestId>,
    form: Result<FormBody<TokenRequest>, ApiError>,
) -> Result<Response, ApiError> {
    let Ok(FormBody(form)) = form else {
        return Ok(malformed().into_response());
    };
    let granted = match (form.grant_type.as_deref(), &form.device_code, &form.refresh_token) {
        (Some(DEVICE_CODE), Some(code), _) => match device_code::poll(&state.pool, code, device).await? {
            Some(Polled::NotYet(error)) => return Ok(not_yet(error).into_response()),
            Some(Polled::Approved { tenant, user }) => {
                let enrolled = device::enrol(&state.pool, code, (tenant, user), &request_id.0).await?;
                enrolled.map(|granted| (tenant, granted))
            }
            None => None,
        },
        (Some(REFRESH_TOKEN), _, Some(text)) => match TenantSecret::parse(text) {
            Some(token) => device::refresh(&state.pool, &token, device, &request_id.0)
                .await?
                .map(|granted| (token.tenant, granted)),
            None => None,
        },
        (Some(DEVICE_CODE | REFRESH_TOKEN) | None, ..) => return Ok(malformed().into_response()),
        (Some(_), ..) => {
            let description = "device_code and refresh_token are the grant types of this server";
            return Ok(Refusal {
                error: "unsupported_grant_type",
                description,
            }
            .into_response());
        }
    };
    match granted {
        Some((tenant, granted)) => Ok(private(Json(tokens(&state, tenant, &granted)?))),
        None => {
            let description =
                "the code or token is not good, was used already, or its device was revoked: log in again";
            Ok(Refusal {
                error: "invalid_grant",
                description,
            }
            .into_response())
        }
    }
}

/// `POST /api/v1/auth/revoke`: a device logs out. 200 whatever the token is (RFC 7009).
pub(crate) async fn revoke(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    form: Result<FormBody<RevokeRequest>, ApiError>,
) -> Result<Response, ApiError> {
    let Ok(FormBody(RevokeRequest { token: Some(text) })) = form else {
        return Ok(malformed().into_response());
    };
    if let Some(token) = TenantSecret::parse(&text) {
        device::log_out(&state.pool, &token, &request_id.0).await?;
    }
    Ok(private(Json(json!({}))))
}

pub(crate) fn begin_doc() -> Doc {
    Doc::new("Begin the login of a device (RFC 8628)")
        .device()
        .form::<Begin>()
        .json::<Begun>(200, "The codes: one to poll with, one for a person to type.")
        .json::<OAuthError>(400, "`invalid_request`.")
        .refuses(429, "`too_many_requests`: too many logins wait for approval.")
}

pub(crate) fn token_doc() -> Doc {
    Doc::new("Exchange an approved device code or a refresh token for tokens")
        .description(
            "A refresh token is good until its successor is used for the first time; a spent one revokes its device.",
        )
        .device()
        .form::<TokenRequest>()
        .json::<Tokens>(200, "An access token, and the refresh token that takes the place of the former.")
        .json::<OAuthError>(
            400,
            "`authorization_pending`, `slow_down`, `access_denied`, `expired_token`, `invalid_grant`, \
             `unsupported_grant_type` or `invalid_request`.",
        )
}

pub(crate) fn revoke_doc() -> Doc {
    Doc::new("Log a device out (RFC 7009)")
        .form::<RevokeRequest>()
        .any_json(
            200,
            "The device is logged out, whether the token was good or not.",
        )
        .json::<OAuthError>(400, "`invalid_request`.")
}

fn tokens(state: &AppState, tenant: TenantId, granted: &Granted) -> Result<Tokens, ApiError> {
    let ttl: Duration = state.signin.access_ttl;
    let caller = Caller {
        tenant,
        user: granted.user.clone(),
        role: granted.role,
        device: Some(granted.device),
    };
    Ok(Tokens {
        access_token: auth::issue(&state.keys, &caller, Timestamp::now(), ttl)?,
        token_type: "Bearer",
        expires_in: ttl.as_secs(),
        refresh_token: granted.refresh_token.expose(),
    })
}

/// A device's name as it is shown: whoever asks chooses it, so nothing in it may look like anything but a name.
fn shown_name(text: &str) -> String {
    // Characters that hide or turn what follows: zero width, direction, separators.
    let hides = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let name: String = text
        .chars()
        .filter(|c| !c.is_control() && !hides(*c))
        .take(NAME_MAX_CHARS)
        .collect();
    match name.trim() {
        "" => "a device without a name".to_owned(),
        name => name.to_owned(),
    }
}

fn not_yet(error: &'static str) -> Refusal {
    let description = match error {
        "slow_down" => "wait five seconds longer between two polls than before",
        "access_denied" => "the login was denied",
        "expired_token" => "nobody approved the login in time",
        _ => "nobody has decided about the login yet",
    };
    Refusal { error, description }
}

fn malformed() -> Refusal {
    Refusal {
        error: "invalid_request",
        description: "expected a form (application/x-www-form-urlencoded) with the fields of the grant type",
    }
}

/// An answer that no cache may keep.
fn private(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = OAuthError {
            error: self.error,
            error_description: self.description,
        };
        private((StatusCode::BAD_REQUEST, Json(body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_cannot_pass_its_name_off_as_something_else() {
        assert_eq!(shown_name("  Ada's laptop "), "Ada's laptop");
        assert_eq!(shown_name("a\u{202e}b\n\u{200b}c"), "abc");
        assert_eq!(shown_name(" \u{200b}"), "a device without a name");
        assert_eq!(shown_name(&"x".repeat(500)).len(), NAME_MAX_CHARS);
    }
}
