//! Secrets that are handed out: `TENANT_ID.RANDOM`. They carry their tenant, since the row behind one is invisible
//! until the tenant is known; what is stored is their digest.

use std::fmt;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coditect_shared::TenantId;
use coditect_shared::hash::sha256;
use rand::TryRng as _;
use rand::rngs::SysRng;

/// Random bytes in a secret: nobody guesses 256 bits, so that a plain digest protects them at rest.
const RANDOM_BYTES: usize = 32;

/// Their length in base64.
const RANDOM_CHARS: usize = (RANDOM_BYTES * 4).div_ceil(3);

/// A secret that belongs to one tenant. Debug shows the tenant alone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TenantSecret {
    pub(crate) tenant: TenantId,
    random: String,
}

impl TenantSecret {
    /// A new one.
    pub(crate) fn new(tenant: TenantId) -> anyhow::Result<TenantSecret> {
        Ok(TenantSecret {
            tenant,
            random: random()?,
        })
    }

    /// Reads one in exactly the form in which it is handed out; anything else is nobody's.
    pub(crate) fn parse(text: &str) -> Option<TenantSecret> {
        let (tenant, random) = text.split_once('.')?;
        let secret = TenantSecret {
            tenant: tenant.parse().ok()?,
            random: random.to_owned(),
        };
        let well_formed = random.len() == RANDOM_CHARS && URL_SAFE_NO_PAD.decode(random).is_ok();
        (well_formed && secret.expose() == text).then_some(secret)
    }

    /// The text, for whom it is meant.
    pub(crate) fn expose(&self) -> String {
        format!("{}.{}", self.tenant, self.random)
    }

    /// Under which it is stored.
    pub(crate) fn digest(&self) -> Vec<u8> {
        digest(&self.expose())
    }
}

impl fmt::Debug for TenantSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantSecret({}.…)", self.tenant)
    }
}

/// 256 random bits in base64, for URLs, cookies and forms.
pub(crate) fn random() -> anyhow::Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    SysRng
        .try_fill_bytes(&mut bytes)
        .context("drawing random numbers from the operating system")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// SHA-256 of a secret.
pub(crate) fn digest(secret: &str) -> Vec<u8> {
    sha256(secret.as_bytes()).as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        "5a0f1f4e-0000-4000-8000-00000000000a".parse().unwrap()
    }

    #[test]
    fn p15_a_secret_is_read_back_and_shown_by_no_debug() {
        let secret = TenantSecret::new(tenant()).unwrap();
        let text = secret.expose();
        assert_eq!(TenantSecret::parse(&text), Some(secret.clone()));
        assert!(!format!("{secret:?}").contains(&secret.random));
        assert_ne!(secret, TenantSecret::new(tenant()).unwrap());
    }

    #[test]
    fn anything_in_another_form_is_nobodys_secret() {
        let good = TenantSecret::new(tenant()).unwrap().expose();
        let upper = good.replace("5a0f1f4e", "5A0F1F4E");
        for bad in [
            "",
            ".",
            "x.y",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}A"),
            &upper,
            &good.replace('.', ":"),
        ] {
            assert_eq!(TenantSecret::parse(bad), None, "{bad}");
        }
    }
}
