//! What makes a token of another issuer one to believe. All of it is decided here, by the issuer's keys and settings; the
//! token chooses the key's name and nothing else.

use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use super::Settings;
use crate::error::ApiError;

/// How far the issuer's clock may be from ours, either way.
const LEEWAY_SECS: u64 = 30;

/// Longest token that is looked at: providers put groups and permissions into theirs.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Why a token is not believed. The client is told the first of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Expired,
    Malformed,
    /// Another algorithm than ours, or one that does not fit the key.
    Algorithm,
    UnknownKey,
    /// Signature, issuer, audience or a time.
    Invalid,
    /// No subject.
    Claims,
}

/// What a token says of itself, and what is needed before it can be checked.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) kid: String,
    algorithm: Algorithm,
}

/// A key, with the algorithms that it may be used for.
#[derive(Clone)]
pub(super) struct Key {
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// What a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) subject: String,
    /// Name or id of the tenant.
    pub(super) tenant: Option<String>,
    pub(super) role: Option<String>,
    pub(super) email: Option<String>,
    pub(super) email_verified: bool,
}

/// Whom a token names as its issuer, before anything is proven.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

pub(super) fn head(token: &str) -> Result<Head, Refused> {
    let header = decode_header(token).map_err(|_| Refused::Malformed)?;
    let ours = [
        Algorithm::RS256,
        Algorithm::PS256,
        Algorithm::ES256,
        Algorithm::EdDSA,
    ];
    if !ours.contains(&header.alg) {
        return Err(Refused::Algorithm);
    }
    // Something that has to be understood, and that we do not.
    if header.crit.is_some() {
        return Err(Refused::Malformed);
    }
    let kid = header.kid.ok_or(Refused::UnknownKey)?;
    Ok(Head {
        kid,
        algorithm: header.alg,
    })
}

/// The name of a published key, and the key, if it is one that checks signatures of ours.
pub(super) fn usable(key: &Value) -> Option<(String, Key)> {
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    let mut algorithms = of_type(&jwk.algorithm)?;
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| fits(only, *algorithm));
    }
    let signs = jwk
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let verifies = jwk
        .common
        .key_operations
        .as_ref()
        .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if algorithms.is_empty() || !signs || !verifies {
        return None;
    }
    let kid = jwk.common.key_id.clone()?;
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((kid, Key { key, algorithms }))
}

pub(super) fn verify(
    token: &str,
    head: &Head,
    key: &Key,
    settings: &Settings,
    now: Timestamp,
) -> Result<Claimed, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::Malformed);
    }
    if !key.algorithms.contains(&head.algorithm) {
        return Err(Refused::Algorithm);
    }
    let mut rules = Validation::new(head.algorithm);
    rules.leeway = LEEWAY_SECS;
    rules.validate_nbf = true;
    rules.set_issuer(&[&settings.url]);
    rules.set_audience(&settings.audience);
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let claims: Value = decode(token, &key.key, &rules)
        .map_err(|error| {
            if matches!(error.kind(), ErrorKind::ExpiredSignature) {
                Refused::Expired
            } else {
                Refused::Invalid
            }
        })?
        .claims;
    // A token from the future was made by a clock, or a person, that is not to be trusted.
    let latest = now.as_second() + LEEWAY_SECS.cast_signed();
    if claims["iat"].as_i64().is_some_and(|issued| issued > latest) {
        return Err(Refused::Invalid);
    }
    claimed(&claims, settings)
}

fn claimed(claims: &Value, settings: &Settings) -> Result<Claimed, Refused> {
    let text = |name: &str| {
        let value = if name.starts_with('/') {
            claims.pointer(name)
        } else {
            claims.get(name)
        };
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let subject = text("sub").filter(|subject| !subject.is_empty());
    Ok(Claimed {
        subject: subject.ok_or(Refused::Claims)?,
        tenant: settings.tenant.clone().or_else(|| text(&settings.tenant_claim)),
        role: text(&settings.role_claim),
        email: text(&settings.email_claim),
        email_verified: claims["email_verified"] == Value::Bool(true),
    })
}

/// For what a key of this type serves. A secret that everybody can read (`oct`) serves for nothing.
fn of_type(key: &AlgorithmParameters) -> Option<Vec<Algorithm>> {
    if let AlgorithmParameters::RSA(_) = key {
        return Some(vec![Algorithm::RS256, Algorithm::PS256]);
    }
    if let AlgorithmParameters::EllipticCurve(key) = key
        && key.curve == EllipticCurve::P256
    {
        return Some(vec![Algorithm::ES256]);
    }
    if let AlgorithmParameters::OctetKeyPair(key) = key
        && key.curve == EllipticCurve::Ed25519
    {
        return Some(vec![Algorithm::EdDSA]);
    }
    None
}

fn fits(named: KeyAlgorithm, algorithm: Algorithm) -> bool {
    [
        (KeyAlgorithm::RS256, Algorithm::RS256),
        (KeyAlgorithm::PS256, Algorithm::PS256),
        (KeyAlgorithm::ES256, Algorithm::ES256),
        (KeyAlgorithm::EdDSA, Algorithm::EdDSA),
    ]
    .contains(&(named, algorithm))
}

/// What a client is told; which check failed is no business of whoever forges tokens.
pub(super) fn refused(why: Refused) -> ApiError {
    tracing::debug!(?why, "refused an access token of another issuer");
    let (code, message) = match why {
        Refused::Expired => ("token_expired", "the access token has expired"),
        Refused::Malformed
        | Refused::Algorithm
        | Refused::UnknownKey
        | Refused::Invalid
        | Refused::Claims => ("token_invalid", "the access token is not valid"),
    };
    ApiError::Unauthorized {
        code,
        message: message.to_owned(),
    }
}
