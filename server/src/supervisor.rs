//! What the service manager (systemd) is told: what the start is at, that requests are taken, that the loop which takes
//! them is alive, and that we stop. Started by anybody else, nobody is told.

use std::time::Duration;

use sd_notify::NotifyState;

/// Where the start is, for whoever waits for it.
pub(crate) fn starting(what: &str) {
    tell(&[NotifyState::Status(what)]);
}

/// Requests are taken, at this address.
pub(crate) fn ready(url: &str) {
    tell(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("listening on {url}")),
    ]);
}

/// It was told to.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Tells for ever that we are alive, twice in the time that the manager waits for it. To be polled in the task of the
/// loop that it speaks for, so that it falls silent with that. What the database does is no part of it: its outage is
/// answered by 503, and a restart would not end it.
pub(crate) async fn keep_alive() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut beat = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    loop {
        beat.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
