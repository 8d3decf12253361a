//! What of this file may leave the machine, and in which form, as `config.toml` says: which projects are sent, and
//! what is redacted in them.

use crate::config::Config;

/// Shared by all that reads rows in order to send or to compare them.
#[derive(Debug, Default)]
pub struct Policy {}

impl Policy {
    /// An error names the key and the value that is none.
    pub fn new(_config: &Config) -> Result<Policy, String> {
        Ok(Policy {})
    }
}
