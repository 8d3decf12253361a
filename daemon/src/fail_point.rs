//! Places where a test can make the real program hang, to show what gets it going again.
//!
//! In ordinary builds they are not there. With the feature `rule-switches`, in builds with debug assertions, a file of
//! the point's name in the folder that `CODITECT_FAIL_POINTS` names makes the thread that comes by stay there until the
//! file is gone.

/// A place to hang at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailPoint {
    /// The loop, between two steps: as if a lock were never given back, or a computation never ended.
    Loop,
    /// The thread of a step on the files: as if the disk did not answer.
    Files,
}

#[cfg(not(all(feature = "rule-switches", debug_assertions)))]
pub(crate) const fn pass(_: FailPoint) {}

#[cfg(all(feature = "rule-switches", debug_assertions))]
pub(crate) fn pass(point: FailPoint) {
    use std::time::Duration;

    const LOOK_EVERY: Duration = Duration::from_millis(10);

    let Some(folder) = std::env::var_os("CODITECT_FAIL_POINTS") else {
        return;
    };
    let name = match point {
        FailPoint::Loop => "loop",
        FailPoint::Files => "files",
    };
    let file = std::path::Path::new(&folder).join(name);
    while file.exists() {
        std::thread::sleep(LOOK_EVERY);
    }
}
