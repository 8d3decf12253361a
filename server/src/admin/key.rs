//! `key rotate` and `key list`: the keys of the built-in issuer, which live in the data directory and need no database.

use jiff::Timestamp;

use crate::config::Options;
use crate::keys::{Issuer, Listed};

/// Puts a new key in the place of the one that signs. A running server takes it up within seconds.
pub(crate) fn rotate(options: &Options) -> anyhow::Result<Vec<Listed>> {
    Issuer::load_or_make(options.data_dir()?.path())?.rotate()
}

/// All keys, the one that signs first.
pub(crate) fn list(options: &Options) -> anyhow::Result<Vec<Listed>> {
    Issuer::load_or_make(options.data_dir()?.path())?.list()
}

/// A line each.
pub(crate) fn lines(keys: &[Listed]) -> String {
    let line = |key: &Listed| {
        let since = key.retired_at.unwrap_or(key.created_at);
        let until = key
            .removed_at
            .map(|at| format!(", counts until {}", second(at)))
            .unwrap_or_default();
        format!("{}  {} since {}{until}", key.kid, key.state, second(since))
    };
    keys.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
