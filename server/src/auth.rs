//! From a bearer token to a [`Caller`]: who asks, for which tenant, and what the role lets them do.
//!
//! A token is a JWT signed with EdDSA by this server's own key ([`crate::keys`]) and nothing else: the algorithm is
//! ours to choose, never the token's. Whoever holds one is believed until it expires, which is why it lives shortly.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use coditect_shared::ids::{DeviceId, TenantId, UserId};
use coditect_shared::wire::DEVICE_HEADER;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::app::AppState;
use crate::error::ApiError;
use crate::keys::Issuer;

/// Who signs; a token of another issuer is none of ours even if somebody got it signed with our key.
pub const ISSUER: &str = "coditect-server";

/// How long past `exp` a token is still taken. Issuer and verifier are one program, so only a request that was on its
/// way when the token expired needs it.
const EXPIRY_LEEWAY: Duration = Duration::from_secs(2);

/// Longest token that is looked at. Ours have under 600 bytes; base64 and JSON of more cost for nothing.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a membership lets its user do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, memberships of other owners included.
    Owner,
    /// Create, read, update, delete.
    Admin,
    /// Read, and create: one's own context, devices and licence session.
    Member,
    /// Read.
    Viewer,
}

/// What a request is about to do with the tenant's data. Writing one's own context counts as `Create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Read,
    Update,
    Delete,
    /// What only an owner does, such as deleting the tenant.
    Own,
}

impl Role {
    /// Passes if the role allows the action.
    ///
    /// # Errors
    /// 403 `forbidden` else.
    pub fn may(self, action: Action) -> Result<(), ApiError> {
        let allowed = match self {
            Role::Owner => true,
            Role::Admin => action != Action::Own,
            Role::Member => matches!(action, Action::Read | Action::Create),
            Role::Viewer => action == Action::Read,
        };
        if allowed {
            Ok(())
        } else {
            Err(ApiError::Forbidden(format!(
                "the role {self} does not allow to {action}"
            )))
        }
    }

    /// The role's name in claims and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
            Role::Viewer => "viewer",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "owner" => Ok(Role::Owner),
            "admin" => Ok(Role::Admin),
            "member" => Ok(Role::Member),
            "viewer" => Ok(Role::Viewer),
            _ => Err(format!(
                "unknown role {text:?}, expected owner, admin, member or viewer"
            )),
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Action::Create => "create",
            Action::Read => "read",
            Action::Update => "update",
            Action::Delete => "delete",
            Action::Own => "act as an owner",
        })
    }
}

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub sub: String,
    pub tenant_id: String,
    pub role: Role,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970.
    pub exp: i64,
    pub iss: String,
}

/// Who asks. As an argument of a handler it is taken from the bearer token, and the handler runs only with one.
#[derive(Clone, Debug)]
pub struct Caller {
    pub tenant: TenantId,
    pub user: UserId,
    pub role: Role,
}

/// The device that asks, from the header `X-Device-ID`. It proves nothing by itself: the server knows
/// (tenant, user, device), the first two from the token.
#[derive(Clone, Copy, Debug)]
pub struct Device(pub DeviceId);

/// Signs an access token of `ttl` from `now` on.
pub fn issue(issuer: &Issuer, caller: &Caller, now: Timestamp, ttl: Duration) -> anyhow::Result<String> {
    let iat = now.as_second();
    let ttl_secs = i64::try_from(ttl.as_secs()).context("the token would live too long")?;
    let claims = Claims {
        sub: caller.user.to_string(),
        tenant_id: caller.tenant.to_string(),
        role: caller.role,
        iat,
        exp: iat
            .checked_add(ttl_secs)
            .context("the token would live too long")?,
        iss: ISSUER.to_owned(),
    };
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(issuer.kid.clone());
    encode(&header, &claims, &issuer.signing).context("signing the access token")
}

/// Who a token speaks for.
///
/// # Errors
/// 401 with `token_expired` (a new one helps) or `token_invalid` (it does not).
pub fn verify(issuer: &Issuer, token: &str) -> Result<Caller, ApiError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(invalid_token("the access token is too long"));
    }
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.leeway = EXPIRY_LEEWAY.as_secs();
    rules.validate_nbf = true;
    rules.set_issuer(&[ISSUER]);
    rules.set_required_spec_claims(&["exp", "iss", "sub"]);
    let claims = decode::<Claims>(token, &issuer.verifying, &rules)
        .map_err(|error| {
            if matches!(error.kind(), ErrorKind::ExpiredSignature) {
                unauthorized("token_expired", "the access token has expired")
            } else {
                // Which check failed is no business of whoever forges tokens.
                tracing::debug!(%error, "refused an access token");
                invalid_token("the access token is not valid")
            }
        })?
        .claims;
    let (Ok(tenant), Ok(user)) = (
        TenantId::from_str(&claims.tenant_id),
        UserId::from_str(&claims.sub),
    ) else {
        return Err(invalid_token("the access token names no valid tenant or user"));
    };
    Ok(Caller {
        tenant,
        user,
        role: claims.role,
    })
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Caller, ApiError> {
        verify(&state.keys, bearer(&parts.headers)?)
    }
}

impl FromRequestParts<AppState> for Device {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Device, ApiError> {
        let value = parts.headers.get(DEVICE_HEADER).ok_or_else(|| {
            ApiError::invalid(
                "X-Device-ID",
                "the header is missing; it names the device by its UUID",
            )
        })?;
        value
            .to_str()
            .ok()
            .and_then(|text| DeviceId::from_str(text).ok())
            .map(Device)
            .ok_or_else(|| ApiError::invalid("X-Device-ID", "this is no UUID"))
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let missing = || {
        unauthorized(
            "token_missing",
            "an access token is needed: Authorization: Bearer …",
        )
    };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        // Two of them invite a proxy and us to look at different ones.
        return Err(invalid_token("more than one Authorization header"));
    }
    let text = value
        .to_str()
        .map_err(|_| invalid_token("the Authorization header is not readable"))?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    Ok(token.trim())
}

fn invalid_token(message: &str) -> ApiError {
    unauthorized("token_invalid", message)
}

fn unauthorized(code: &'static str, message: &str) -> ApiError {
    ApiError::Unauthorized {
        code,
        message: message.to_owned(),
    }
}
