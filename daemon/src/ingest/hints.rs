//! Which paths may have changed, as the file system says: hints that are never relied on alone.
//!
//! Whoever waits for them sleeps without waking until there is something to do. A burst of events on one file is one
//! hint, and what does not fit becomes the hint to look at everything.

use std::collections::HashSet;
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// How long after a hint the work begins, so that a burst of writes is read at once.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// So many paths are remembered one by one; with more, a look at everything is as fast.
const PATHS_MAX: usize = 5_000;

/// Hints that wait to be followed, and the wish to stop.
#[derive(Debug, Default)]
pub(super) struct Board {
    notes: Mutex<Notes>,
    written: Condvar,
}

#[derive(Debug, Default)]
struct Notes {
    hints: Hints,
    stop: bool,
}

/// What came since the last time.
#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) changed: HashSet<PathBuf>,
    /// New folders: files may have been made in them before they were watched.
    pub(super) folders: HashSet<PathBuf>,
    /// Events were lost.
    pub(super) everything: bool,
    /// Why there will be no more hints of some or all folders.
    pub(super) blind: Option<String>,
}

/// Asks a follower to stop, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Board>);

impl Stopper {
    /// It stops within milliseconds, in the middle of a file too.
    pub fn stop(&self) {
        self.0.notes().stop = true;
        self.0.written.notify_all();
    }
}

impl Board {
    pub(super) fn stopper(self: &Arc<Self>) -> Stopper {
        Stopper(self.clone())
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.notes().stop
    }

    /// Waits for a hint, a stop or the time, whichever comes first, and takes what came.
    pub(super) fn wait_until(&self, time: Instant) -> Hints {
        let idle = |notes: &mut Notes| !notes.stop && notes.hints.is_empty();
        let (mut notes, timeout) = self
            .written
            .wait_timeout_while(self.notes(), time.saturating_duration_since(Instant::now()), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if !timeout.timed_out() && !notes.stop {
            notes = self.sleep(notes, SETTLE_TIME);
        }
        mem::take(&mut notes.hints)
    }

    /// Waits for the time or a stop, and leaves the hints.
    pub(super) fn rest_until(&self, time: Instant) {
        drop(self.sleep(self.notes(), time.saturating_duration_since(Instant::now())));
    }

    fn sleep<'b>(&'b self, notes: MutexGuard<'b, Notes>, span: Duration) -> MutexGuard<'b, Notes> {
        let slept = self.written.wait_timeout_while(notes, span, |notes| !notes.stop);
        slept.unwrap_or_else(PoisonError::into_inner).0
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Each change of the notes is whole by itself, so that a panic elsewhere leaves nothing half done.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_down(&self, event: notify::Result<Event>) {
        let mut notes = self.notes();
        let hints = &mut notes.hints;
        match event {
            Ok(event) if event.need_rescan() => hints.everything = true,
            Ok(event) => match event.kind {
                // Reading a file is an event as well, and would keep the rounds going for ever.
                EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => return,
                EventKind::Create(CreateKind::Folder) => hints.folders.extend(event.paths),
                EventKind::Create(_)
                | EventKind::Modify(_)
                | EventKind::Remove(_)
                | EventKind::Any
                | EventKind::Other => hints.changed.extend(event.paths),
            },
            Err(error) => {
                if matches!(error.kind, notify::ErrorKind::MaxFilesWatch) {
                    hints.blind = Some(reason(&error));
                }
                hints.everything = true;
            }
        }
        if hints.changed.len() + hints.folders.len() > PATHS_MAX {
            (hints.changed, hints.folders) = Default::default();
            hints.everything = true;
        }
        if !hints.is_empty() {
            self.written.notify_all();
        }
    }
}

impl Hints {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.folders.is_empty() && !self.everything && self.blind.is_none()
    }
}

/// Writes hints of all that happens below the paths to the board, until it is dropped. An error says why there are
/// none, or not all.
pub(super) fn watch(paths: &[PathBuf], board: &Arc<Board>) -> Result<RecommendedWatcher, String> {
    let board = board.clone();
    let mut watcher =
        notify::recommended_watcher(move |event| board.take_down(event)).map_err(|error| reason(&error))?;
    for path in paths {
        watcher
            .watch(path, RecursiveMode::Recursive)
            .map_err(|error| reason(&error))?;
    }
    Ok(watcher)
}

fn reason(error: &notify::Error) -> String {
    match error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "no more files can be watched: raise fs.inotify.max_user_watches".to_owned()
        }
        notify::ErrorKind::Generic(_)
        | notify::ErrorKind::Io(_)
        | notify::ErrorKind::PathNotFound
        | notify::ErrorKind::WatchNotFound
        | notify::ErrorKind::InvalidConfig(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use notify::event::AccessKind;

    use super::*;

    fn event(kind: EventKind, path: &str) -> notify::Result<Event> {
        Ok(Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn a_burst_on_one_file_is_one_hint_and_reading_is_none() {
        let board = Board::default();
        for _ in 0..3 {
            board.take_down(event(EventKind::Modify(ModifyKind::Any), "/a.jsonl"));
            board.take_down(event(EventKind::Access(AccessKind::Any), "/b.jsonl"));
        }
        let hints = board.wait_until(Instant::now());
        assert_eq!(hints.changed, HashSet::from(["/a.jsonl".into()]));
        assert!(board.wait_until(Instant::now()).is_empty());
    }

    #[test]
    fn what_does_not_fit_becomes_a_look_at_everything() {
        let board = Board::default();
        for number in 0..=PATHS_MAX {
            board.take_down(event(EventKind::Any, &format!("/{number}")));
        }
        let hints = board.wait_until(Instant::now());
        assert!(hints.everything && hints.changed.is_empty());
    }

    #[test]
    fn no_more_watches_is_told_and_is_a_reason_to_look_at_everything() {
        let board = Board::default();
        board.take_down(Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
        let hints = board.wait_until(Instant::now());
        assert!(hints.everything && hints.blind.is_some());
    }
}
