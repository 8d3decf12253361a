//! Access tokens of other issuers, for services: whom the operator named is believed as to who asks, and nothing more.
//!
//! A token is checked with the issuer's published keys ([`keys`]), by rules that are ours and not the token's ([`token`]).
//! What it says of tenant and subject leads to a user of ours ([`account`]); what that user may do is always the
//! membership's to say.

mod account;
mod keys;
mod settings;
mod token;

use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::app::AppState;
use crate::auth::{Caller, Role};
use crate::error::ApiError;
pub(crate) use account::subject_digest;
use keys::{Found, Keys};
pub use settings::Settings;

/// The issuers that are believed. Cheap to clone.
#[derive(Clone, Default)]
pub struct External {
    issuers: Arc<Vec<Issuer>>,
}

/// One issuer, with its keys as they were fetched last.
pub(crate) struct Issuer {
    settings: Settings,
    keys: Keys,
}

impl External {
    /// For these issuers. Nothing is fetched before the first token comes.
    ///
    /// # Errors
    /// If an issuer cannot be used, with the remedy, or there are no TLS certificates to trust.
    pub fn new(settings: Vec<Settings>) -> anyhow::Result<External> {
        let mut issuers: Vec<Issuer> = Vec::new();
        for settings in settings {
            settings
                .check()
                .with_context(|| format!("the issuer {}", settings.url))?;
            anyhow::ensure!(
                !issuers.iter().any(|known| known.settings.url == settings.url),
                "the issuer {} is named twice",
                settings.url
            );
            let keys = Keys::of(&settings.url)?;
            issuers.push(Issuer { settings, keys });
        }
        Ok(External {
            issuers: Arc::new(issuers),
        })
    }

    /// The issuer that a token says it comes from, if it is one of these. Nothing is proven by it.
    pub(crate) fn named_by(&self, token: &str) -> Option<&Issuer> {
        if self.issuers.is_empty() {
            return None;
        }
        let named = token::issuer_of(token)?;
        self.issuers.iter().find(|issuer| issuer.settings.url == named)
    }
}

impl Issuer {
    /// Who asks, as a user of ours. The role is the least there is, until the membership was asked.
    ///
    /// # Errors
    /// 401 for a token that proves nothing, or proves somebody whom we do not know; 503 if the issuer's keys are needed
    /// and cannot be had, or the database is away.
    pub(crate) async fn caller(&self, state: &AppState, token: &str) -> Result<Caller, ApiError> {
        let head = token::head(token).map_err(token::refused)?;
        let key = match self.keys.find(&head.kid).await {
            Found::Key(key) => key,
            Found::Unknown => return Err(token::refused(token::Refused::UnknownKey)),
            Found::OutOfReach => {
                return Err(ApiError::Unavailable(anyhow::anyhow!(
                    "the keys of the issuer {} cannot be fetched",
                    self.settings.url
                )));
            }
        };
        let claimed =
            token::verify(token, &head, &key, &self.settings, Timestamp::now()).map_err(token::refused)?;
        let (tenant, user) = account::of(&state.pool, &self.settings, &claimed).await?;
        Ok(Caller {
            tenant,
            user,
            role: Role::Viewer,
            device: None,
        })
    }
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls = self.issuers.iter().map(|issuer| &issuer.settings.url);
        f.debug_list().entries(urls).finish()
    }
}
