//! The log, on standard error. How much it tells can change while the daemon runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::LogLevel;

/// The one log of the process; none where RUST_LOG rules.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log of this process with a level such as `info`. RUST_LOG, where it is set and valid, rules instead, and
/// goes on ruling.
pub fn start(level: &str) {
    let named = EnvFilter::try_from_default_env();
    let is_free = named.is_err();
    let (filter, handle) = reload::Layer::new(named.unwrap_or_else(|_| EnvFilter::new(level)));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that cannot be written, on a full disk most likely, must not end the daemon: it would be told on standard
        // error, where it cannot be written either, and that is a panic.
        .log_internal_errors(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    if is_free {
        // Set once: a process starts its log once.
        FILTER.set(handle).ok();
    }
}

/// From now on tells what the settings say.
pub fn set_level(level: LogLevel) {
    if let Some(filter) = FILTER.get()
        && let Err(error) = filter.reload(EnvFilter::new(level.name()))
    {
        tracing::warn!(%error, "the level of the log stays as it was");
    }
}
