//! From a bearer token to a [`Caller`]: who asks, for which tenant, and what the role lets them do.
//!
//! A token is a JWT signed with EdDSA by a key of this server's own ([`crate::keys`]), or, for services, by another issuer
//! that the operator named ([`crate::external`]): the algorithm is ours to choose, never the token's. Whoever holds one is believed until it expires, which is why it lives shortly.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use coditect_shared::ids::{DeviceId, TenantId, UserId};
use coditect_shared::wire::DEVICE_HEADER;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};

use crate::app::AppState;
use crate::error::ApiError;
use crate::keys::Issuer;
use crate::membership::Standing;
pub use crate::role::{Action, Role};

/// Who signs; a token of another issuer is none of ours even if somebody got it signed with our key.
pub const ISSUER: &str = "coditect-server";

/// How long past `exp` a token is still taken. Issuer and verifier are one program, so only a request that was on its
/// way when the token expired needs it.
const EXPIRY_LEEWAY: Duration = Duration::from_secs(2);

/// Longest token that is looked at. Ours have under 600 bytes; base64 and JSON of more cost for nothing.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub sub: String,
    pub tenant_id: String,
    pub role: Role,
    /// The device that the token was given to, if it came by a device login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970.
    pub exp: i64,
    pub iss: String,
}

/// Who asks. [`crate::routes`] finds out before it calls a handler, which takes it as an argument.
#[derive(Clone, Debug)]
pub struct Caller {
    pub tenant: TenantId,
    pub user: UserId,
    pub role: Role,
    /// The device that signed in, for tokens of a device login.
    pub device: Option<DeviceId>,
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
        device: caller.device,
        iat,
        exp: iat
            .checked_add(ttl_secs)
            .context("the token would live too long")?,
        iss: ISSUER.to_owned(),
    };
    issuer.sign(&claims, ttl)
}

/// Who a token speaks for.
///
/// # Errors
/// 401 with `token_expired` (a new one helps) or `token_invalid` (it does not).
pub fn verify(issuer: &Issuer, token: &str) -> Result<Caller, ApiError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(invalid_token("the access token is too long"));
    }
    // The token chooses among our own keys, and nothing else.
    let key = decode_header(token)
        .ok()
        .and_then(|header| issuer.verifying(&header.kid?))
        .ok_or_else(|| invalid_token("the access token is not valid"))?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.leeway = EXPIRY_LEEWAY.as_secs();
    rules.validate_nbf = true;
    rules.set_issuer(&[ISSUER]);
    rules.set_required_spec_claims(&["exp", "iss", "sub"]);
    let claims = decode::<Claims>(token, &key, &rules)
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
        device: claims.device,
    })
}

/// Who asks, by the bearer token, with the role that the membership has now.
///
/// # Errors
/// 401 without a good token, with `membership_ended` for whoever is no member, and with `device_revoked` for a token of
/// a device that was revoked; 429 above the device's rate; 503 if the database is away.
pub(crate) async fn authenticate(state: &AppState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let token = bearer(headers)?;
    let said = match state.external.named_by(token) {
        Some(issuer) => issuer.caller(state, token).await?,
        None => verify(&state.keys, token)?,
    };
    // What is no device id is refused by the routes that need one.
    let device = Device::of(headers).ok().map(|device| device.0);
    state
        .rates
        .take(said.tenant, &said.user, device, Instant::now())
        .map_err(|retry_after| ApiError::TooManyRequests {
            message: "too many requests from this device".to_owned(),
            retry_after,
        })?;
    let standing = state
        .memberships
        .standing(&state.pool, said.tenant, &said.user, said.device)
        .await?;
    match standing {
        Standing::Member(role) => Ok(Caller { role, ..said }),
        Standing::NoMember => Err(unauthorized(
            "membership_ended",
            "the user is no member of this tenant any more",
        )),
        Standing::DeviceRevoked => Err(unauthorized(
            "device_revoked",
            "this device was logged out or revoked: log in again",
        )),
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Caller, ApiError> {
        parts
            .extensions
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| ApiError::Internal(anyhow::anyhow!("a public route asks who calls")))
    }
}

impl FromRequestParts<AppState> for Device {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Device, ApiError> {
        Device::of(&parts.headers)
    }
}

impl Device {
    fn of(headers: &HeaderMap) -> Result<Device, ApiError> {
        let value = headers.get(DEVICE_HEADER).ok_or_else(|| {
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

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    /// An issuer with the folder of its keys.
    struct Desk {
        folder: tempfile::TempDir,
        issuer: Issuer,
    }

    impl std::ops::Deref for Desk {
        type Target = Issuer;

        fn deref(&self) -> &Issuer {
            &self.issuer
        }
    }

    impl Desk {
        fn kid(&self) -> String {
            self.list().unwrap()[0].kid.clone()
        }

        /// The private key, as a thief would find it.
        fn private(&self) -> EncodingKey {
            let text = std::fs::read_to_string(self.folder.path().join("issuer.json")).unwrap();
            let keys: serde_json::Value = serde_json::from_str(&text).unwrap();
            EncodingKey::from_ed_pem(keys["signing"]["pem"].as_str().unwrap().as_bytes()).unwrap()
        }
    }

    fn issuer() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::load_or_make(folder.path()).unwrap();
        Desk { folder, issuer }
    }

    /// A header that names a key of ours.
    fn header(algorithm: Algorithm, kid: &str) -> Header {
        let mut header = Header::new(algorithm);
        header.kid = Some(kid.to_owned());
        header
    }

    fn caller() -> Caller {
        Caller {
            tenant: "5a0f1f4e-0000-4000-8000-000000000001".parse().unwrap(),
            user: "5a0f1f4e-0000-4000-8000-000000000002".parse().unwrap(),
            role: Role::Member,
            device: None,
        }
    }

    fn claims() -> serde_json::Value {
        let now = Timestamp::now().as_second();
        json!({"sub": caller().user, "tenant_id": caller().tenant, "role": "member",
               "iat": now, "exp": now + 60, "iss": ISSUER})
    }

    fn signed(issuer: &Issuer, claims: &serde_json::Value) -> String {
        issuer.sign(claims, Duration::from_secs(60)).unwrap()
    }

    /// Header and claims as a token's first two parts.
    fn unsigned(algorithm: &str, kid: &str, claims: &serde_json::Value) -> String {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}",
            part(&json!({"alg": algorithm, "kid": kid, "typ": "JWT"})),
            part(claims)
        )
    }

    fn code_of(issuer: &Issuer, token: &str) -> &'static str {
        match verify(issuer, token) {
            Ok(caller) => panic!("{token} was taken for {caller:?}"),
            Err(error) => error.code(),
        }
    }

    #[test]
    fn a_token_comes_back_as_the_caller_it_was_issued_for() {
        let issuer = issuer();
        let token = issue(&issuer, &caller(), Timestamp::now(), Duration::from_secs(60)).unwrap();
        let back = verify(&issuer, &token).unwrap();
        assert_eq!(
            (back.tenant, back.user, back.role),
            (caller().tenant, caller().user, Role::Member)
        );
        assert!(token.len() < 1024, "{} bytes", token.len());
    }

    #[test]
    fn an_expired_token_is_told_apart_from_one_that_proves_nothing() {
        let issuer = issuer();
        let long_ago = Timestamp::now() - jiff::SignedDuration::from_secs(3600);
        let token = issue(&issuer, &caller(), long_ago, Duration::from_secs(900)).unwrap();
        assert_eq!(code_of(&issuer, &token), "token_expired");
    }

    #[test]
    fn a_token_without_signature_or_signed_otherwise_is_refused() {
        let issuer = issuer();
        for algorithm in ["none", "None", "NONE", "HS256", "RS256", "ES256", "EdDSA"] {
            for signature in ["", "AAAA"] {
                let token = format!("{}.{signature}", unsigned(algorithm, &issuer.kid(), &claims()));
                assert_eq!(code_of(&issuer, &token), "token_invalid", "{algorithm}");
            }
        }
        // The classic confusion: our public key taken as the secret of an HMAC.
        let jwk = serde_json::to_value(issuer.jwks()).unwrap();
        let x = jwk["keys"][0]["x"].as_str().unwrap();
        for secret in [x.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(x).unwrap()] {
            let key = EncodingKey::from_secret(&secret);
            let token = encode(&header(Algorithm::HS256, &issuer.kid()), &claims(), &key).unwrap();
            assert_eq!(code_of(&issuer, &token), "token_invalid");
        }
        // Another issuer's, under its own name, under ours, and under none.
        let another = self::issuer();
        assert_eq!(code_of(&issuer, &signed(&another, &claims())), "token_invalid");
        for kid in [Some(issuer.kid()), None] {
            let mut forged = Header::new(Algorithm::EdDSA);
            forged.kid = kid;
            let token = encode(&forged, &claims(), &another.private()).unwrap();
            assert_eq!(code_of(&issuer, &token), "token_invalid");
        }
        let genuine = header(Algorithm::EdDSA, &issuer.kid());
        let token = encode(&genuine, &claims(), &issuer.private()).unwrap();
        assert!(
            verify(&issuer, &token).is_ok(),
            "the forgeries differ from this in one thing each"
        );
    }

    #[test]
    fn a_token_changed_in_any_place_is_refused() {
        let issuer = issuer();
        let token = issue(&issuer, &caller(), Timestamp::now(), Duration::from_secs(60)).unwrap();
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of base64 has bits that mean nothing; the decoder refuses them or the text is equal.
            assert!(verify(&issuer, &changed).is_err(), "changed at {place}");
        }
        for cut in 0..token.len() {
            assert!(verify(&issuer, &token[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_claim_left_out_or_foreign_is_refused_even_when_signed() {
        let issuer = issuer();
        assert!(verify(&issuer, &signed(&issuer, &claims())).is_ok());
        for name in ["sub", "tenant_id", "role", "exp", "iss"] {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(name);
            assert_eq!(
                code_of(&issuer, &signed(&issuer, &without)),
                "token_invalid",
                "without {name}"
            );
        }
        let now = Timestamp::now().as_second();
        for (name, value) in [
            ("iss", json!("somebody-else")),
            ("tenant_id", json!("acme")),
            ("sub", json!("a' OR 1=1")),
            ("role", json!("root")),
            ("exp", json!("soon")),
            ("nbf", json!(now + 3600)),
        ] {
            let mut foreign = claims();
            foreign[name] = value;
            assert_eq!(
                code_of(&issuer, &signed(&issuer, &foreign)),
                "token_invalid",
                "{name}"
            );
        }
    }

    #[test]
    fn a_header_that_is_no_bearer_token_is_refused() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned).map_err(|error| error.code())
        };
        assert_eq!(read(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(read(&["bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(read(&[]), Err("token_missing"));
        assert_eq!(read(&["Basic abc"]), Err("token_missing"));
        assert_eq!(read(&["Bearer"]), Err("token_missing"));
        assert_eq!(read(&["Bearer a", "Bearer b"]), Err("token_invalid"));
    }
}
