//! Waiting in tests: for a condition, up to a deadline that only a broken program reaches, and never for a time.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// Long enough for a loaded machine with two cores. No test passes or fails by how much of it is used.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks: short against what tests wait for, long enough not to keep a core busy with looking.
const PAUSE: Duration = Duration::from_millis(15);

/// Looks until `good` holds for what `probe` finds, and returns that.
///
/// # Panics
/// If it does not hold within [`PATIENCE`], with the value seen last.
pub async fn until<T: Debug>(what: &str, probe: impl AsyncFnMut() -> T, good: impl FnMut(&T) -> bool) -> T {
    until_within(PATIENCE, what, probe, good).await
}

/// [`until`] with a patience of its own, for work that takes longer.
pub async fn until_within<T: Debug>(
    patience: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> T,
    mut good: impl FnMut(&T) -> bool,
) -> T {
    let deadline = Instant::now() + patience;
    let mut pause = interval(PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pause.tick().await;
        let seen = probe().await;
        if good(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "waited {patience:?} for this: {what}\nlast seen: {seen:#?}"
        );
    }
}

/// Lets a victim live for a random time before it is killed: the one place where time passing is the subject, and
/// nothing is waited for.
pub async fn let_live(life: Duration) {
    let _ = tokio::time::timeout(life, std::future::pending::<()>()).await;
}
