//! What of this file may leave the machine, and in which form, as `config.toml` says: which projects are sent, and
//! what is redacted in them.

use crate::config::Config;
use crate::projects::ProjectFilter;
use crate::redaction::Redactor;

/// Shared by all that reads rows in order to send or to compare them.
#[derive(Debug, Default)]
pub struct Policy {
    pub projects: ProjectFilter,
    pub redactor: Redactor,
}

impl Policy {
    /// An error names the key and the value that is none.
    pub fn new(config: &Config) -> Result<Policy, String> {
        let home = std::env::home_dir();
        Ok(Policy {
            projects: ProjectFilter::new(&config.projects, home.as_deref())
                .map_err(|error| error.to_string())?,
            redactor: Redactor::new(&config.redaction)?,
        })
    }
}
