//! Signing in: passwords, the invitations with which people set them, and the login of devices (RFC 8628).
//!
//! What it promises: no secret is stored as it is (passwords as Argon2id hashes, everything random as SHA-256); nothing
//! that a stranger can ask tells him who our users are; a device gets tokens only after a signed-in user of the tenant
//! approved it; and of two who hold a device's tokens none goes on unnoticed.
//!
//! Reading order: [`secret`] is the form of what is handed out; [`password`], [`attempts`] and [`account`] let a person
//! in, [`session`] remembers it for minutes, [`invitation`] is how a password comes to be; [`device_code`] is a login
//! that waits, [`device`] what it becomes, [`oauth`] the routes that devices use; [`pages`] is what people see.

mod secret;

mod account;
mod attempts;
mod invitation;
mod password;
mod session;

mod device;
mod device_code;
pub(crate) mod oauth;

mod form_body;
pub(crate) mod pages;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use serde_json::Value;
use tokio_postgres::types::Type;
use url::Url;
use uuid::Uuid;

use crate::connections::Peer;
use crate::error::ApiError;
use crate::tenant::TenantTx;

pub(crate) use device::{Reason, revoke};
pub(crate) use device_code::{UserCode, decide};
pub(crate) use invitation::{INVITATION_LIFE, Invitation};
use password::Hashing;

/// Life of a device's access token: a device that lost its membership or was stolen is cut off by other means within
/// 30 s, so this only bounds how long a token that leaked works.
pub const ACCESS_TTL: Duration = Duration::from_secs(15 * 60);

/// How long a device waits between two polls (RFC 8628 proposes 5 s).
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Where proxies write for whom they speak.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What signing in shares between requests. Cheap to clone.
#[derive(Clone)]
pub struct SignIn {
    /// Where people reach this server: links begin with it. Without a slash at its end.
    pub public_url: Arc<str>,
    /// Life of the access tokens of devices.
    pub access_ttl: Duration,
    /// How long a device waits between two polls.
    pub poll_interval: Duration,
    /// Proxies whose word we take about the address that a request comes from.
    pub proxies: Arc<[IpAddr]>,
    hashing: Hashing,
}

impl Default for SignIn {
    fn default() -> SignIn {
        SignIn {
            public_url: crate::config::DEFAULT_PUBLIC_URL.into(),
            access_ttl: ACCESS_TTL,
            poll_interval: POLL_INTERVAL,
            proxies: Arc::default(),
            hashing: Hashing::default(),
        }
    }
}

impl SignIn {
    /// Whether browsers reach us by TLS: cookies are then kept to it.
    fn is_private(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// The address that a request comes from: the other end of its connection, or what a proxy of ours says of it. A
    /// proxy appends, so the last entry that is none of ours counts; whatever stands before it anybody may have written.
    fn address(&self, peer: Peer, headers: &HeaderMap) -> IpAddr {
        if !self.proxies.contains(&peer.0) {
            return peer.0;
        }
        let values = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let entries: Vec<&str> = values.flat_map(|text| text.split(',')).map(str::trim).collect();
        let address = |entry: &&str| entry.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let last = entries
            .iter()
            .rev()
            .map_while(address)
            .find(|address| !self.proxies.contains(address));
        last.unwrap_or(peer.0)
    }
}

/// What is written into the audit log of what happens here: one row, by a user or by administration.
pub(crate) struct Entry<'a> {
    pub(crate) actor: &'a str,
    pub(crate) action: &'static str,
    pub(crate) table: &'static str,
    pub(crate) row: &'a str,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) details: Value,
}

/// Adds an entry, in the transaction of what it records.
pub(crate) async fn record(tx: &TenantTx, tenant: Uuid, entry: &Entry<'_>) -> Result<(), ApiError> {
    tx.execute_typed(
        "INSERT INTO audit_log (tenant_id, actor, action, table_name, row_id, request_id, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            (&tenant, Type::UUID),
            (&entry.actor, Type::TEXT),
            (&entry.action, Type::TEXT),
            (&entry.table, Type::TEXT),
            (&entry.row, Type::TEXT),
            (&entry.request_id, Type::TEXT),
            (&entry.details, Type::JSONB),
        ],
    )
    .await?;
    Ok(())
}

/// Reads the address under which people reach the server.
///
/// # Errors
/// If it is none that a browser opens, or has parts to which no path can be added.
pub fn public_url(text: &str) -> Result<String, String> {
    let example = "expected an address such as https://sync.acme.test";
    let url: Url = text.parse().map_err(|error| format!("{error}: {example}"))?;
    let bare = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !bare {
        return Err(example.to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() || url.path() != "/" {
        return Err(format!("leave everything after the host out: {example}"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proxy_of_ours_may_say_for_whom_it_speaks() {
        let signin = SignIn {
            proxies: ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap()).into(),
            ..SignIn::default()
        };
        let from = |peer: &str, said: &[&str]| {
            let headers = said
                .iter()
                .map(|value| (FORWARDED_FOR, value.parse().unwrap()))
                .collect();
            signin.address(Peer(peer.parse().unwrap()), &headers).to_string()
        };
        assert_eq!(
            from("192.0.2.9", &["198.51.100.1"]),
            "192.0.2.9",
            "anybody can write the header"
        );
        assert_eq!(from("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            from("10.0.0.1", &["1.1.1.1, 198.51.100.1", "10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(from("10.0.0.1", &["1.1.1.1, unknown"]), "10.0.0.1");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn a_public_url_is_scheme_and_host_alone() {
        assert_eq!(
            public_url("https://Sync.acme.test/"),
            Ok("https://sync.acme.test".to_owned())
        );
        assert_eq!(
            public_url("http://127.0.0.1:8377"),
            Ok("http://127.0.0.1:8377".to_owned())
        );
        for bad in [
            "",
            "acme.test",
            "ftp://x",
            "https://a:b@x",
            "https://x/base",
            "https://x/?q",
            "https://x/#f",
        ] {
            assert!(public_url(bad).is_err(), "{bad}");
        }
    }
}
