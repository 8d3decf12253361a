//! The signals that end this process in good order.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::supervisor;

/// SIGTERM and SIGINT, remembered from the moment this is made.
pub(crate) struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    pub(crate) fn new() -> anyhow::Result<StopSignal> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(StopSignal {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Resolves when one of them has come.
    pub(crate) async fn came(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        supervisor::stopping();
        tracing::info!("stopping");
    }
}
