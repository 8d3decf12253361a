//! What the operator says of an issuer.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use url::{Host, Url};

/// One issuer. In the file of `--issuers` each is a table `[[issuer]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// As it stands in the tokens (`iss`), to the letter; `/.well-known/openid-configuration` is found beneath it.
    pub url: String,
    /// What a token must be meant for (`aud`): one of these.
    pub audience: Vec<String>,
    /// The one tenant that all its users belong to. Without it a claim names the tenant, and the issuer is believed for
    /// every tenant.
    pub tenant: Option<String>,
    /// Where a token names the tenant, by its name or id.
    #[serde(default = "tenant_claim")]
    pub tenant_claim: String,
    /// Where it names the role, for a user that is made at the first login.
    #[serde(default = "role_claim")]
    pub role_claim: String,
    #[serde(default = "email_claim")]
    pub email_claim: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    issuer: Vec<Settings>,
}

impl Settings {
    /// With the usual names of claims.
    pub fn new(url: &str, audience: &str) -> Settings {
        Settings {
            url: url.to_owned(),
            audience: vec![audience.to_owned()],
            tenant: None,
            tenant_claim: tenant_claim(),
            role_claim: role_claim(),
            email_claim: email_claim(),
        }
    }

    /// Those of a TOML file.
    pub fn read(path: &Path) -> anyhow::Result<Vec<Settings>> {
        let doing = || format!("reading the issuers from {}", path.display());
        let text = std::fs::read_to_string(path).with_context(doing)?;
        let file: File = toml::from_str(&text).with_context(doing)?;
        Ok(file.issuer)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let url = Url::parse(&self.url).context("this is no address")?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        ensure!(
            url.scheme() == "https" || (url.scheme() == "http" && loopback),
            "whoever is between could put in keys of their own: use an https:// address"
        );
        ensure!(
            !self.audience.is_empty() && self.audience.iter().all(|audience| !audience.is_empty()),
            "a token for anybody is a token for nobody: name the audience of this server"
        );
        Ok(())
    }
}

fn tenant_claim() -> String {
    "tenant".to_owned()
}

fn role_claim() -> String {
    "role".to_owned()
}

fn email_claim() -> String {
    "email".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_several_issuers_and_what_differs_from_the_usual() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issuers.toml");
        std::fs::write(
            &path,
            "[[issuer]]\nurl = \"https://a.test\"\naudience = [\"x\"]\n\n[[issuer]]\nurl = \"https://b.test/realm\"\n\
             audience = [\"y\", \"z\"]\ntenant = \"acme\"\nrole_claim = \"/app/role\"\n",
        )
        .unwrap();
        let read = Settings::read(&path).unwrap();
        assert_eq!(read[0], Settings::new("https://a.test", "x"));
        assert_eq!(read[1].tenant.as_deref(), Some("acme"));
        assert_eq!(
            (read[1].role_claim.as_str(), read[1].audience.len()),
            ("/app/role", 2)
        );
        std::fs::write(
            &path,
            "[[issuer]]\nurl = \"https://a.test\"\naudiences = [\"x\"]\n",
        )
        .unwrap();
        let error = format!("{:#}", Settings::read(&path).unwrap_err());
        assert!(
            error.contains("issuers.toml") && error.contains("audiences"),
            "{error}"
        );
    }

    #[test]
    fn an_issuer_without_encryption_or_audience_is_refused() {
        for good in ["https://a.test", "http://localhost:1", "http://127.0.0.1:1/x"] {
            Settings::new(good, "x").check().unwrap();
        }
        for bad in ["http://a.test", "ftp://localhost", "a.test", ""] {
            assert!(Settings::new(bad, "x").check().is_err(), "{bad}");
        }
        assert!(Settings::new("https://a.test", "").check().is_err());
    }
}
