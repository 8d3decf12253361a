//! Keeps on reading transcripts as they grow.
//!
//! Each round looks at all files and reads on where one has grown; a last line that is still being written
//! waits for its end. What is remembered lives in memory only: after a restart a file is read from its
//! beginning, which writes nothing that is there already.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use jiff::Timestamp;
use notify::{RecursiveMode, Watcher as _};

use super::context_db::ContextDb;
use super::find::{Source, find};
use super::transcript::Transcript;
use super::{Progress, Report};

/// How long a round waits without a hint of the file system: some file systems give none.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// A wait is cut into pieces of this length, in which a request to stop is seen.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How long after a hint the round begins, so that a burst of writes is read at once.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// What is known of a file that has not grown for so long is dropped; if it grows after all it is read anew.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Progress is told no more often than this.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Reads transcripts in rounds and remembers where it is in each.
pub struct Follower {
    db: ContextDb,
    paths: Vec<PathBuf>,
    files: HashMap<PathBuf, Followed>,
}

struct Followed {
    /// The state in which it was last read: as long as it is the same, the file is not opened.
    state: State,
    transcript: Option<Transcript>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    length: u64,
    changed: Option<SystemTime>,
}

impl Follower {
    /// Opens context.db, and creates it or its tables where missing.
    pub fn open(context_db: &Path, paths: Vec<PathBuf>) -> anyhow::Result<Follower> {
        Ok(Follower {
            db: ContextDb::open(context_db)?,
            paths,
            files: HashMap::new(),
        })
    }

    /// Reads what has come since the last round. A half-written last line waits for the next.
    ///
    /// After an error of context.db (it may be locked for long) the next round reads the file in question
    /// anew.
    pub fn catch_up(&mut self, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
        self.round(true, &AtomicBool::new(false), progress)
    }

    /// Follows until `stop` is set, which is seen within 200 ms or at the end of a file. Tells each round that read something.
    pub fn follow(&mut self, stop: &AtomicBool, each_round: &mut dyn FnMut(&Report)) -> anyhow::Result<()> {
        let (hint, hints) = channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event as well, and would keep the rounds going for ever.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // The receiver is gone only when following has ended.
                hint.send(()).ok();
            }
        });
        for path in &self.paths {
            let watched = watcher
                .as_mut()
                .map(|watcher| watcher.watch(path, RecursiveMode::Recursive));
            if !matches!(watched, Ok(Ok(()))) {
                tracing::debug!(path = %path.display(), "no hints of changes here, polling instead");
            }
        }
        while !stop.load(Ordering::Relaxed) {
            match self.round(true, stop, &mut |_| {}) {
                Ok(report) if report.files > 0 => each_round(&report),
                Ok(_) => {}
                Err(error) if is_busy(&error) => tracing::warn!("{error:#}; trying again"),
                Err(error) => return Err(error).context("following transcripts"),
            }
            let deadline = Instant::now() + POLL_INTERVAL;
            while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                match hints.recv_timeout(STOP_CHECK_INTERVAL) {
                    Ok(()) => {
                        std::thread::sleep(SETTLE_TIME);
                        while hints.try_recv().is_ok() {}
                        break;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => std::thread::sleep(STOP_CHECK_INTERVAL),
                }
            }
        }
        Ok(())
    }

    /// One round after which nothing more is expected: a half-written last line is damage.
    pub(super) fn read_once(&mut self, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Report> {
        self.round(false, &AtomicBool::new(false), progress)
    }

    /// Reads all files that have grown, or those up to the moment when it is told to stop.
    fn round(
        &mut self,
        to_be_continued: bool,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let (sources, unreadable) = find(&self.paths)?;
        unreadable.into_iter().for_each(|file| report.unreadable(file));
        let present: HashSet<&PathBuf> = sources.iter().map(|source| &source.path).collect();
        self.files.retain(|path, _| present.contains(path));
        let grown: Vec<(Source, State)> = sources
            .into_iter()
            .filter_map(|source| self.grown(source))
            .collect();
        let mut teller = Teller::new(&grown, progress);
        let now = Timestamp::now().to_string();
        for (source, state) in grown {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let path = source.path.clone();
            let known = self.files.remove(&path).and_then(|followed| followed.transcript);
            let mut transcript = known.unwrap_or_else(|| Transcript::new(source));
            transcript.read_on(&mut self.db, &mut report, &now, &mut |position| {
                teller.tell(position)
            })?;
            teller.file_done(state.length);
            report.files += 1;
            if to_be_continued {
                let transcript = state.is_recent().then_some(transcript);
                self.files.insert(path, Followed { state, transcript });
            } else if let Some(damage) = transcript.unfinished() {
                report.damage(transcript.source_file(), damage);
            }
        }
        Ok(report)
    }

    /// The file and its present state, if that is not the state in which it was last read.
    fn grown(&self, source: Source) -> Option<(Source, State)> {
        // A file that is gone by now is missed in the next round.
        let metadata = std::fs::metadata(&source.path).ok()?;
        let state = State {
            length: metadata.len(),
            changed: metadata.modified().ok(),
        };
        let known = self.files.get(&source.path).map(|followed| followed.state);
        (known != Some(state)).then_some((source, state))
    }
}

impl State {
    fn is_recent(&self) -> bool {
        let age = self.changed.and_then(|changed| changed.elapsed().ok());
        age.is_none_or(|age| age < REMEMBERED_FOR)
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

fn is_busy(error: &anyhow::Error) -> bool {
    let code = error
        .downcast_ref::<rusqlite::Error>()
        .and_then(rusqlite::Error::sqlite_error_code);
    matches!(
        code,
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}
