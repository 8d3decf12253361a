//! `pause` and `resume`.

use super::daemon::Daemon;
use crate::cli::Setup;
use crate::output::{self, Fault};

pub(super) async fn pause(setup: &Setup) -> Result<(), Fault> {
    Daemon::of(setup)?.tell("pause").await?;
    output::text("paused: changes are still noticed; `coditect-sync resume` goes on")
}

pub(super) async fn resume(setup: &Setup) -> Result<(), Fault> {
    Daemon::of(setup)?.tell("resume").await?;
    output::text("going on")
}
