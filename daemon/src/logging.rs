//! The log, on standard error or in a file of its own. How much it tells can change while the daemon runs.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::LogLevel;
use crate::log_file::LogFile;
use crate::output::Fault;

/// The one log of the process; none where RUST_LOG rules.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log of this process with a level such as `info`. RUST_LOG, where it is set and valid, rules instead, and
/// goes on ruling. What a panic says goes into the file too: where there is one, nobody reads standard error.
pub fn start(level: &str, file: Option<&Path>) -> Result<(), Fault> {
    let named = EnvFilter::try_from_default_env();
    let is_free = named.is_err();
    let (filter, handle) = reload::Layer::new(named.unwrap_or_else(|_| EnvFilter::new(level)));
    let registry = tracing_subscriber::registry().with(filter);
    // A log that cannot be written, on a full disk most likely, must not end the daemon: it would be told on standard
    // error, where it cannot be written either, and that is a panic.
    let lines = fmt::layer().log_internal_errors(false);
    if let Some(path) = file {
        let log = LogFile::open(path).with_context(|| format!("opening the log {}", path.display()))?;
        registry
            .with(lines.with_writer(Mutex::new(log)).with_ansi(false))
            .init();
        let to_stderr = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!("{panic}");
            to_stderr(panic);
        }));
    } else {
        let is_terminal = std::io::stderr().is_terminal();
        registry
            .with(lines.with_writer(std::io::stderr).with_ansi(is_terminal))
            .init();
    }
    if is_free {
        // Set once: a process starts its log once.
        FILTER.set(handle).ok();
    }
    Ok(())
}

/// From now on tells what the settings say.
pub fn set_level(level: LogLevel) {
    if let Some(filter) = FILTER.get()
        && let Err(error) = filter.reload(EnvFilter::new(level.name()))
    {
        tracing::warn!(%error, "the level of the log stays as it was");
    }
}
