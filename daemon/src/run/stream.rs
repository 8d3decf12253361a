//! The event stream: follows it for as long as somebody is logged in, and turns it into hints.

use coditect_shared::DeviceId;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

use crate::client::{Client, Failure};
use crate::sync::Hint;

/// Between two connections, with full jitter: a restarted server must not meet all of its devices at once.
const RECONNECT_MS_BASE: u64 = 200;
const RECONNECT_MS_MAX: u64 = 15_000;

/// A connection that ends sooner counts as a failed one: something takes connections and drops them.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Ends when the receiver is gone. A hint that finds the channel full is dropped: those before it say the same.
pub(super) async fn follow(client: Client, device: DeviceId, hints: mpsc::Sender<Hint>) {
    let client = client.with_device(device);
    let mut failures: u32 = 0;
    while !hints.is_closed() {
        let mut connected = false;
        let begun = Instant::now();
        let failure = client
            .events(&mut |head| {
                connected = true;
                let _ = hints.try_send(Hint::Head(head));
            })
            .await;
        let was_stable = connected && begun.elapsed() >= STABLE_AFTER;
        failures = if was_stable { 0 } else { failures.saturating_add(1) };
        tracing::debug!(%failure, "the event stream ended");
        if connected || matches!(failure, Failure::Unauthorized { .. }) {
            // A pull finds at once whether the server is still there, and the status says so.
            let _ = hints.try_send(Hint::SyncRequested { waiter: None });
        }
        let bound = (RECONNECT_MS_BASE << failures.min(10)).min(RECONNECT_MS_MAX);
        let wait = rand::random_range(bound / 4..=bound);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}
