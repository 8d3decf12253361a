//! `pause` and `resume`.

use serde_json::json;

use super::daemon::Daemon;
use crate::cli::Setup;
use crate::output::{self, Fault};

pub(super) async fn pause(json: bool, setup: &Setup) -> Result<(), Fault> {
    let said = "paused: changes are still noticed; `coditect-sync resume` goes on";
    tell(setup, "pause", said, json).await
}

pub(super) async fn resume(json: bool, setup: &Setup) -> Result<(), Fault> {
    tell(setup, "resume", "going on", json).await
}

async fn tell(setup: &Setup, what: &str, said: &str, json: bool) -> Result<(), Fault> {
    Daemon::of(setup)?.tell(what).await?;
    if json {
        output::json(&json!({"result": "accepted"}))
    } else {
        output::text(said)
    }
}
