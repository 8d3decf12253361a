//! Keeps on reading transcripts as they grow.
//!
//! Each round reads on where a file has grown; a last line that is still being written waits for its end. Rounds follow
//! the hints of the file system, so that an idle follower looks at nothing; a slow sweep over all files is the truth
//! behind them. What is remembered lives in memory only: after a restart a file is read from its beginning, which writes
//! nothing that is there already. Nothing is ever deleted, whatever becomes of a file.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use notify::RecommendedWatcher;

use super::context_db::{ContextDb, Pace};
use super::find::{Source, Unreadable, find};
use super::hints::{Board, Hints, Stopper, watch};
use super::transcript::{Reading, Transcript};
use super::{Progress, Report};

/// Between two sweeps over all files, where hints come too; and where none come.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// A sweep's time is at most this part of the time until the next: many thousand files must not cost a core.
const SWEEP_PART: u32 = 2_000;
const POLL_PART: u32 = 500;

/// Files that changed within this time are looked at twice a second without a hint: who writes goes on writing, and some
/// file systems (of networks, of containers) give hints of nothing.
const HOT_FOR: Duration = Duration::from_secs(5 * 60);
const HOT_INTERVAL: Duration = Duration::from_millis(500);
const HOT_MAX: usize = 100;

/// When a new folder is looked at again: a file made before the folder was watched gave no hint.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// How often a folder that does not exist is looked for.
const ABSENT_INTERVAL: Duration = Duration::from_secs(1);

/// Wait after an error, doubled each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What is known of a file that has not grown for so long is dropped; if it grows after all it is read anew. And no more
/// than so many are kept, those that grew last.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
const REMEMBERED_MAX: usize = 100;

/// Progress is told no more often than this.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Reads transcripts in rounds and remembers where it is in each.
pub struct Follower {
    context_db: PathBuf,
    pace: Pace,
    db: Option<ContextDb>,
    paths: Vec<PathBuf>,
    files: HashMap<PathBuf, Followed>,
    board: Arc<Board>,
}

/// What a follower tells while it follows.
pub enum Told<'a> {
    /// A round that read or missed something.
    Round(&'a Report),
    /// While a round reads many files.
    Progress(Progress),
    /// After each round.
    Found { files: usize },
    /// It could not go on; it tries again by itself.
    Trouble(&'a anyhow::Error),
    /// Whether all paths are there, and why there are no hints of changes, so that it has to poll.
    Watching { absent: bool, blind: Option<&'a str> },
}

struct Followed {
    /// The state in which it was last read: as long as it is the same, the file is not opened.
    state: State,
    /// In a box: most files have none.
    transcript: Option<Box<Transcript>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    file: (u64, u64),
    length: u64,
    changed: Option<SystemTime>,
}

impl Follower {
    /// Opens context.db, and creates it or its tables where missing.
    pub fn open(context_db: &Path, paths: Vec<PathBuf>) -> anyhow::Result<Follower> {
        let mut follower = Follower::new(context_db, paths, Pace::Quick);
        follower.open_db()?;
        Ok(follower)
    }

    /// One that works beside others: it opens context.db when it has something to write, tries again where that fails,
    /// and leaves gaps between its writes.
    pub fn in_background(context_db: &Path, paths: Vec<PathBuf>) -> Follower {
        Follower::new(context_db, paths, Pace::Gentle)
    }

    fn new(context_db: &Path, paths: Vec<PathBuf>, pace: Pace) -> Follower {
        // Hints name whole paths.
        let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Follower {
            context_db: context_db.to_path_buf(),
            pace,
            db: None,
            paths: paths.into_iter().map(whole).collect(),
            files: HashMap::new(),
            board: Arc::default(),
        }
    }

    pub fn stopper(&self) -> Stopper {
        self.board.stopper()
    }

    /// Reads what has come since the last round. A half-written last line waits for the next.
    ///
    /// After an error of context.db (it may be locked for long) the next round reads the file in question
    /// anew.
    pub fn catch_up(&mut self, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
        self.sweep(true, progress)
    }

    /// Follows until it is stopped. No error ends it, and neither does a path that is not there yet.
    pub fn follow(&mut self, told: &mut dyn FnMut(Told<'_>)) {
        let mut plan = Plan::new();
        let mut eye = Eye::default();
        while !self.board.is_stopped() {
            let now = Instant::now();
            let due = plan.take_due(now);
            let paths = match due {
                Due::Nothing => None,
                Due::Paths(paths) => Some(paths),
                Due::Everything => {
                    let absent = !eye.look(&self.paths, &self.board, now);
                    let blind = eye.blind.as_deref();
                    told(Told::Watching { absent, blind });
                    if absent {
                        plan.sweep_at = now + ABSENT_INTERVAL;
                    }
                    (!absent).then(Vec::new)
                }
            };
            if let Some(paths) = paths {
                let is_sweep = paths.is_empty();
                let mut progress = |progress| told(Told::Progress(progress));
                let done = match is_sweep {
                    true => self.sweep(true, &mut progress),
                    false => self.look_at(paths, &mut progress),
                };
                match done {
                    Ok(report) => {
                        plan.done(is_sweep, now.elapsed(), eye.blind.is_none());
                        if let Some(db) = self.db.as_ref().filter(|_| is_sweep) {
                            db.forget_pages();
                        }
                        if report.is_news() {
                            told(Told::Round(&report));
                        }
                        told(Told::Found {
                            files: self.files.len(),
                        });
                    }
                    Err(error) => {
                        // Whatever is wrong with the connection is not taken along.
                        self.db = None;
                        told(Told::Trouble(&error));
                        let again = plan.failed();
                        self.board.rest_until(again);
                        continue;
                    }
                }
            }
            plan.hot = self.hot();
            let hints = self.board.wait_until(plan.next());
            plan.take(hints, &self.paths, &mut eye);
        }
    }

    /// One round after which nothing more is expected: a half-written last line is damage.
    pub(super) fn read_once(&mut self, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
        self.sweep(false, progress)
    }

    /// Looks at all files.
    fn sweep(&mut self, to_be_continued: bool, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
        let found = find(&self.paths)?;
        let present: HashSet<PathBuf> = found.0.iter().map(|source| source.path.clone()).collect();
        self.read(found, |path| !present.contains(path), to_be_continued, progress)
    }

    /// Looks at some paths: files, or all in a folder.
    fn look_at(&mut self, paths: Vec<PathBuf>, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
        let concern = |path: &PathBuf| match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {
                path.extension().is_some_and(|end| end == "jsonl") || self.paths.contains(path)
            }
            Ok(metadata) => metadata.is_dir(),
            Err(_) => false,
        };
        let (present, absent): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(concern);
        // One that vanishes just now is met by the hint of that.
        let found = find(&present).unwrap_or_default();
        let is_gone = |path: &Path| absent.iter().any(|gone| path.starts_with(gone)) && !path.exists();
        self.read(found, is_gone, true, progress)
    }

    /// Reads those of the files that have grown, up to the moment when it is told to stop.
    fn read(
        &mut self,
        (sources, unreadable): (Vec<Source>, Vec<Unreadable>),
        is_gone: impl Fn(&Path) -> bool,
        to_be_continued: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> anyhow::Result<Report> {
        let mut report = Report::default();
        unreadable.into_iter().for_each(|file| report.unreadable(file));
        let before = self.files.len();
        self.files.retain(|path, _| !is_gone(path));
        report.vanished = (before - self.files.len()) as u64;
        let grown: Vec<(Source, State)> = sources
            .into_iter()
            .filter_map(|source| self.grown(source))
            .collect();
        let mut teller = Teller::new(&grown, progress);
        let now = Timestamp::now().to_string();
        for (source, state) in grown {
            if self.board.is_stopped() {
                break;
            }
            self.open_db()?;
            let db = self.db.as_mut().expect("context.db was opened");
            let path = source.path.clone();
            let known = self.files.remove(&path).and_then(|followed| followed.transcript);
            let mut transcript = known.unwrap_or_else(|| Box::new(Transcript::new(source)));
            let board = &self.board;
            let read = transcript.read_on(db, &mut report, &now, &mut |position| {
                teller.tell(position);
                !board.is_stopped()
            })?;
            if read == Reading::Stopped {
                break;
            }
            teller.file_done(state.length);
            report.files += 1;
            if to_be_continued {
                let transcript = state.is_younger_than(REMEMBERED_FOR).then_some(transcript);
                self.files.insert(path, Followed { state, transcript });
            } else if let Some(damage) = transcript.unfinished() {
                report.damage(transcript.source_file(), damage);
            }
        }
        self.forget_the_oldest();
        Ok(report)
    }

    /// The file and its present state, if that is not the state in which it was last read.
    fn grown(&self, source: Source) -> Option<(Source, State)> {
        // A file that is gone by now is missed in the next round.
        let state = State::of(&std::fs::metadata(&source.path).ok()?);
        let known = self.files.get(&source.path).map(|followed| followed.state);
        (known != Some(state)).then_some((source, state))
    }

    /// Opens context.db where it is not open, or is another file by now, which may hold nothing of what was read.
    fn open_db(&mut self) -> anyhow::Result<()> {
        if self.db.as_ref().is_some_and(|db| !db.is_current()) {
            tracing::info!("context.db was replaced by another file; reading the transcripts into that");
            self.db = None;
            self.files.clear();
        }
        if self.db.is_none() {
            self.db = Some(ContextDb::open(&self.context_db, self.pace)?);
        }
        Ok(())
    }

    /// What was written to not long ago.
    fn hot(&self) -> Vec<PathBuf> {
        let hot = self
            .files
            .iter()
            .filter(|(_, followed)| followed.state.is_younger_than(HOT_FOR));
        hot.take(HOT_MAX).map(|(path, _)| path.clone()).collect()
    }

    fn forget_the_oldest(&mut self) {
        let mut kept: Vec<_> = self
            .files
            .values_mut()
            .filter(|followed| followed.transcript.is_some())
            .collect();
        if kept.len() > REMEMBERED_MAX {
            kept.sort_by_key(|followed| followed.state.changed);
            let too_many = kept.len() - REMEMBERED_MAX;
            kept.into_iter()
                .take(too_many)
                .for_each(|followed| followed.transcript = None);
        }
    }
}

impl State {
    fn of(metadata: &Metadata) -> State {
        State {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            changed: metadata.modified().ok(),
        }
    }

    fn is_younger_than(&self, span: Duration) -> bool {
        let age = self.changed.and_then(|changed| changed.elapsed().ok());
        age.is_none_or(|age| age < span)
    }
}

/// When what is looked at.
struct Plan {
    sweep_at: Instant,
    hot: Vec<PathBuf>,
    hot_at: Instant,
    hinted: HashSet<PathBuf>,
    /// New folders, to be looked at once more.
    again: Vec<(Instant, PathBuf)>,
    failures: u32,
}

enum Due {
    Nothing,
    Everything,
    Paths(Vec<PathBuf>),
}

impl Plan {
    fn new() -> Plan {
        Plan {
            sweep_at: Instant::now(),
            hot: Vec::new(),
            hot_at: Instant::now(),
            hinted: HashSet::new(),
            again: Vec::new(),
            failures: 0,
        }
    }

    fn take(&mut self, hints: Hints, paths: &[PathBuf], eye: &mut Eye) {
        let now = Instant::now();
        // A folder that is gone is not watched any more, nor is one that was made in its place.
        let concerns_all = |changed: &PathBuf| paths.iter().any(|path| path.starts_with(changed));
        if hints.everything || hints.changed.iter().any(concerns_all) {
            self.sweep_at = now;
        }
        if let Some(reason) = hints.blind {
            eye.blind = Some(reason);
        }
        self.again.extend(
            hints
                .folders
                .iter()
                .map(|folder| (now + SECOND_LOOK, folder.clone())),
        );
        self.hinted.extend(hints.changed);
        self.hinted.extend(hints.folders);
    }

    fn take_due(&mut self, now: Instant) -> Due {
        if now >= self.sweep_at {
            // It sees all that the others would.
            self.hinted.clear();
            return Due::Everything;
        }
        let (due, later) = std::mem::take(&mut self.again)
            .into_iter()
            .partition(|(at, _)| now >= *at);
        self.again = later;
        let due: Vec<(Instant, PathBuf)> = due;
        self.hinted.extend(due.into_iter().map(|(_, folder)| folder));
        if now >= self.hot_at {
            self.hot_at = now + HOT_INTERVAL;
            self.hinted.extend(self.hot.drain(..));
        }
        match self.hinted.is_empty() {
            true => Due::Nothing,
            false => Due::Paths(self.hinted.drain().collect()),
        }
    }

    fn done(&mut self, was_sweep: bool, took: Duration, sees: bool) {
        self.failures = 0;
        if was_sweep {
            let (interval, part) = match sees {
                true => (SWEEP_INTERVAL, SWEEP_PART),
                false => (POLL_INTERVAL, POLL_PART),
            };
            self.sweep_at = Instant::now() + interval.max(took * part);
        }
    }

    /// When to try again, with a look at everything: what was read and not stored is not known.
    fn failed(&mut self) -> Instant {
        let wait = RETRY_MIN * 2_u32.saturating_pow(self.failures.min(16));
        self.failures += 1;
        self.sweep_at = Instant::now() + wait.min(RETRY_MAX);
        self.sweep_at
    }

    fn next(&self) -> Instant {
        let again = self.again.iter().map(|(at, _)| *at);
        let hot = (!self.hot.is_empty()).then_some(self.hot_at);
        again.chain(hot).fold(self.sweep_at, Instant::min)
    }
}

/// Watches the paths, as far as the system lets it.
#[derive(Default)]
struct Eye {
    watcher: Option<RecommendedWatcher>,
    /// The folders that are watched: one that was made anew under the same name is another.
    watched: Vec<(u64, u64)>,
    blind: Option<String>,
    retry_at: Option<Instant>,
}

/// After how long it is tried again to watch what could not be watched: each try adds watches folder by folder.
const WATCH_RETRY: Duration = Duration::from_secs(10 * 60);

impl Eye {
    /// Watches what is there; false if a path is not.
    fn look(&mut self, paths: &[PathBuf], board: &Arc<Board>, now: Instant) -> bool {
        let here: Option<Vec<(u64, u64)>> = paths
            .iter()
            .map(|path| {
                std::fs::metadata(path)
                    .ok()
                    .map(|found| (found.dev(), found.ino()))
            })
            .collect();
        let Some(here) = here else {
            *self = Eye::default();
            return false;
        };
        let waits = self.retry_at.is_some_and(|at| now < at);
        if self.watched != here || (self.blind.is_some() && !waits) {
            self.watched = here;
            self.watcher = None;
            match watch(paths, board) {
                Ok(watcher) => {
                    *self = Eye {
                        watcher: Some(watcher),
                        watched: std::mem::take(&mut self.watched),
                        ..Eye::default()
                    }
                }
                Err(reason) => {
                    self.retry_at = Some(now + WATCH_RETRY);
                    self.blind = Some(reason);
                }
            }
        } else if self.blind.is_some() && self.retry_at.is_none() {
            self.retry_at = Some(now + WATCH_RETRY);
        }
        true
    }
}

/// Adds up how far all files together are, and tells it now and then.
struct Teller<'p> {
    told: &'p mut dyn FnMut(Progress),
    progress: Progress,
    bytes_of_done_files: u64,
    next: Instant,
}

impl<'p> Teller<'p> {
    fn new(files: &[(Source, State)], told: &'p mut dyn FnMut(Progress)) -> Teller<'p> {
        let progress = Progress {
            files_total: files.len() as u64,
            bytes_total: files.iter().map(|(_, state)| state.length).sum(),
            ..Progress::default()
        };
        told(progress);
        Teller {
            told,
            progress,
            bytes_of_done_files: 0,
            next: Instant::now(),
        }
    }

    fn tell(&mut self, position: u64) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + PROGRESS_INTERVAL;
            self.progress.bytes_done = self.bytes_of_done_files + position;
            (self.told)(self.progress);
        }
    }

    fn file_done(&mut self, length: u64) {
        self.bytes_of_done_files += length;
        self.progress.files_done += 1;
        self.progress.bytes_done = self.bytes_of_done_files;
        if self.progress.files_done == self.progress.files_total {
            (self.told)(self.progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_are_rare_where_hints_come_calm_where_none_come_and_rarer_where_they_cost() {
        let planned = |took: Duration, sees: bool| {
            let mut plan = Plan::new();
            let now = Instant::now();
            plan.done(true, took, sees);
            plan.sweep_at.duration_since(now)
        };
        let cheap = Duration::from_millis(1);
        assert!(planned(cheap, true) >= SWEEP_INTERVAL);
        assert!((POLL_INTERVAL..SWEEP_INTERVAL).contains(&planned(cheap, false)));
        assert!(planned(Duration::from_secs(1), true) >= Duration::from_secs(2_000));
    }

    #[test]
    fn waits_after_errors_grow_up_to_a_minute_and_a_success_ends_that() {
        let mut plan = Plan::new();
        let mut waits = (0..20).map(|_| plan.failed().duration_since(Instant::now()).as_secs_f64().round());
        assert_eq!(waits.by_ref().take(3).collect::<Vec<_>>(), [1.0, 2.0, 4.0]);
        assert_eq!(waits.last(), Some(60.0));
        plan.done(false, Duration::ZERO, true);
        assert_eq!(plan.failures, 0);
    }

    #[test]
    fn a_new_folder_is_looked_at_twice_and_a_folder_that_is_gone_means_everything() {
        let mut plan = Plan::new();
        plan.sweep_at += SWEEP_INTERVAL;
        let new = Hints {
            folders: HashSet::from(["/p/new".into()]),
            ..Hints::default()
        };
        plan.take(new, &["/p".into()], &mut Eye::default());
        let now = Instant::now();
        for look in [now, now + SECOND_LOOK] {
            assert!(matches!(plan.take_due(look), Due::Paths(paths) if paths == [Path::new("/p/new")]));
        }
        assert!(matches!(plan.take_due(now + SECOND_LOOK), Due::Nothing));
        let gone = Hints {
            changed: HashSet::from(["/p".into()]),
            ..Hints::default()
        };
        plan.take(gone, &["/p/projects".into()], &mut Eye::default());
        assert!(matches!(plan.take_due(Instant::now()), Due::Everything));
    }
}
