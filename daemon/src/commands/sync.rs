//! `sync`: asks the daemon, and waits for it if told to.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::daemon::{Daemon, Waited};
use crate::cli::{self, Setup};
use crate::output::{self, Fault};
use crate::status::{State, Status, counted, grouped};

pub(super) async fn run(args: &cli::Sync, setup: &Setup) -> Result<(), Fault> {
    let daemon = Daemon::of(setup)?;
    if !args.wait {
        daemon.tell("sync").await?;
        return match args.json {
            true => output::json(&json!({"result": "accepted"})),
            false => output::text("the daemon syncs now; --wait would wait for its end"),
        };
    }
    let before = daemon.status().await?;
    let waited = wait(&daemon, args.timeout).await?;
    let after = daemon.status().await?;
    match waited {
        Waited::Done { cursor } => done(args.json, cursor, &before, &after),
        Waited::NotPossible { state, reason } => Err(fault_in(state, reason)),
        Waited::TimedOut => Err(fault_in(Some(after.state), timed_out(args.timeout, &after))),
    }
}

/// Waits with a progress bar where somebody looks at one.
async fn wait(daemon: &Daemon, limit: Duration) -> Result<Waited, Fault> {
    let sync = daemon.sync_and_wait(limit);
    if !std::io::stderr().is_terminal() {
        return sync.await;
    }
    let style =
        ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}").expect("the template is well-formed");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    let progress = daemon.watch(|status| {
        bar.set_message(progress_line(&status));
        Ok(())
    });
    let waited = tokio::select! {
        waited = sync => waited,
        // The watch ends early only if the daemon does; the sync's own answer says so as well.
        ended = progress => ended.and(Ok(Waited::TimedOut)),
    };
    bar.finish_and_clear();
    waited
}

fn progress_line(status: &Status) -> String {
    let behind = status.pull.head.saturating_sub(status.pull.cursor);
    let up = counted(status.outbox.pending, "change", "changes");
    match u64::try_from(behind) {
        Ok(down) if down > 0 => format!("{up} to send, {} positions to receive", grouped(down)),
        Ok(_) | Err(_) => format!("{up} to send"),
    }
}

fn done(json: bool, cursor: i64, before: &Status, after: &Status) -> Result<(), Fault> {
    let sent = after.push.rows_total.saturating_sub(before.push.rows_total);
    let received = after.pull.rows_total.saturating_sub(before.pull.rows_total);
    let refused = after.outbox.quarantined;
    if json {
        let result = json!({"result": "done", "cursor": cursor, "sent": sent, "received": received, "quarantined": refused});
        return output::json(&result);
    }
    let mut text = format!(
        "in sync at {cursor}: {} sent, {} received",
        counted(sent, "row", "rows"),
        counted(received, "row", "rows")
    );
    if refused > 0 {
        text.push_str(&format!(
            "\n{} refused: `coditect-sync quarantine list` says why",
            counted(refused, "row is", "rows are")
        ));
    }
    output::text(&text)
}

/// By what stands in the way: 4 without a log-in, 3 without a server.
fn fault_in(state: Option<State>, text: String) -> Fault {
    match state {
        Some(State::NeedsLogin) => Fault::NotLoggedIn(text),
        Some(State::Offline) => Fault::NotReachable(text),
        Some(
            State::Starting
            | State::Syncing
            | State::InSync
            | State::Paused
            | State::ReadOnly
            | State::Blocked,
        )
        | None => Fault::failed(text),
    }
}

fn timed_out(limit: Duration, after: &Status) -> String {
    let mut text = format!("not in sync within {} s; the daemon goes on", limit.as_secs_f64());
    if after.outbox.pending > 0 {
        text.push_str(&format!(
            "; {} to send",
            counted(after.outbox.pending, "change", "changes")
        ));
    }
    if let Some(error) = &after.last_error {
        text.push_str(&format!("; last error: {}", error.message));
    }
    text
}
