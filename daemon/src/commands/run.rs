//! `run`: the daemon in the foreground, until SIGTERM or SIGINT.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Setup;
use crate::disk;
use crate::output::Fault;
use crate::run;
use crate::supervisor;

/// A stop may take 2 s in all. What is cut off then is sent again after the next start.
const STOP_LIMIT: Duration = Duration::from_millis(1_800);

/// Threads for waiting on sockets and timers; files are read and written on threads of their own.
const WORKER_THREADS: usize = 2;

pub(super) fn run(setup: Setup) -> Result<(), Fault> {
    disk::refuse_network(&setup.paths.context_db)?;
    setup.paths.make_folders()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(until_stopped(setup));
    // A thread that hangs in the file system must not hold up the end of the process.
    runtime.shutdown_background();
    Ok(ended?)
}

async fn until_stopped(setup: Setup) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let daemon = run::run(setup.paths, setup.config, setup.overrides, shutdown.clone());
    tokio::pin!(daemon);
    tokio::select! {
        ended = &mut daemon => return ended,
        name = either(&mut terminated, &mut interrupted) => tracing::info!("stopping: {name}"),
    }
    supervisor::stopping();
    shutdown.cancel();
    match tokio::time::timeout(STOP_LIMIT, daemon).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("stopped in the middle of something; the next start goes on with it");
            Ok(())
        }
    }
}

async fn either(terminated: &mut Signal, interrupted: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminated.recv() => "SIGTERM",
        _ = interrupted.recv() => "SIGINT",
    }
}
