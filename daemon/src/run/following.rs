//! The daemon follows transcripts itself: on a thread of its own with a connection of its own, as one more program that
//! writes context.db. The loop learns of its rows as of any other program's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::{Ingest, expand_home};
use crate::ingest::{Follower, Progress, Report, Stopper, Told};
use crate::status::{self, IngestStatus};

/// How often a busy follower tells where it is.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// How long a stop waits for the thread. One that hangs in the file system ends with the process.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// What is followed now, if anything is.
#[derive(Debug)]
pub(super) struct Following {
    running: Option<Running>,
    tell: watch::Sender<IngestStatus>,
    status: watch::Receiver<IngestStatus>,
}

#[derive(Debug)]
struct Running {
    ingest: Ingest,
    stopper: Stopper,
    /// Closed when the thread has ended.
    alive: watch::Receiver<()>,
}

impl Following {
    pub(super) fn nothing() -> Self {
        let (tell, status) = watch::channel(IngestStatus::default());
        Self {
            running: None,
            tell,
            status,
        }
    }

    /// Follows what the settings say, from now on. Without a change nothing happens.
    pub(super) fn adopt(&mut self, context_db: &Path, ingest: &Ingest) {
        let is_as_before = match &self.running {
            Some(running) => running.ingest == *ingest,
            None => !ingest.claude_projects,
        };
        if is_as_before {
            return;
        }
        if let Some(running) = self.running.take() {
            // Its last rows may still be on their way; another one beside it doubles nothing.
            running.stopper.stop();
        }
        let folder = expand_home(&ingest.claude_projects_dir);
        // What an old thread still has to say goes nowhere.
        (self.tell, self.status) = watch::channel(IngestStatus {
            following: ingest.claude_projects,
            folder: ingest.claude_projects.then(|| folder.display().to_string()),
            ..IngestStatus::default()
        });
        // The loop has to look at it once.
        self.status.mark_changed();
        if ingest.claude_projects {
            self.running = self.start(context_db, folder, ingest);
        }
    }

    /// Ends when there is news, and counts it as seen.
    pub(super) async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn status(&self) -> IngestStatus {
        self.status.borrow().clone()
    }

    pub(super) async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stopper.stop();
            // The end of the thread is the error that is waited for.
            let _ = tokio::time::timeout(STOP_WAIT, async {
                while running.alive.changed().await.is_ok() {}
            })
            .await;
        }
    }

    fn start(&self, context_db: &Path, folder: PathBuf, ingest: &Ingest) -> Option<Running> {
        let follower = Follower::in_background(context_db, vec![folder]);
        let stopper = follower.stopper();
        let teller = Teller::new(self.tell.clone());
        let (lives, alive) = watch::channel(());
        let started = thread::Builder::new().name("following".into()).spawn(move || {
            let _lives = lives;
            follow(follower, teller);
        });
        if let Err(error) = started {
            self.tell.send_modify(|status| {
                status.following = false;
                status.error = Some(format!("starting to follow transcripts: {error}"));
            });
            return None;
        }
        Some(Running {
            ingest: ingest.clone(),
            stopper,
            alive,
        })
    }
}

fn follow(mut follower: Follower, mut teller: Teller) {
    let followed = catch_unwind(AssertUnwindSafe(|| {
        follower.follow(&mut |told| teller.hear(&told));
    }));
    if followed.is_err() {
        // The panic itself is in the log. The rest of the daemon goes on.
        teller.tell.send_modify(|status| {
            status.following = false;
            status.error = Some("following has broken down; restart the daemon, and report this".into());
        });
    }
}

/// Turns what a follower says into its status, and into lines of the log.
struct Teller {
    tell: watch::Sender<IngestStatus>,
    status: IngestStatus,
    told_at: Option<Instant>,
}

impl Teller {
    fn new(tell: watch::Sender<IngestStatus>) -> Self {
        let status = tell.borrow().clone();
        Self {
            tell,
            status,
            told_at: None,
        }
    }

    fn hear(&mut self, told: &Told<'_>) {
        let is_urgent = match told {
            Told::Round(report) => self.round(report),
            Told::Progress(progress) => self.progress(*progress),
            Told::Found { files } => {
                self.status.files = *files as u64;
                true
            }
            Told::Trouble(error) => {
                let text = format!("{error:#}");
                if self.status.error.as_ref() != Some(&text) {
                    tracing::warn!("following transcripts: {text}; trying again");
                }
                self.status.error = Some(text);
                true
            }
            Told::Watching { absent, blind } => self.watching(*absent, *blind),
        };
        let now = Instant::now();
        if is_urgent || self.told_at.is_none_or(|at| now >= at + TELL_INTERVAL) {
            self.told_at = Some(now);
            let status = &self.status;
            self.tell.send_if_modified(|told| {
                let is_news = told != status;
                told.clone_from(status);
                is_news
            });
        }
    }

    fn round(&mut self, report: &Report) -> bool {
        let status = &mut self.status;
        if report.records > 0 {
            status.last_line_at = Some(status::now());
        }
        status.files_unread = 0;
        status.messages += report.messages.inserted;
        status.restarted += report.restarted;
        status.vanished += report.vanished;
        status.damaged += report.damaged_total;
        status.error = None;
        if report.vanished > 0 {
            tracing::info!(files = report.vanished, "transcripts are gone; their rows stay");
        }
        for part in &report.damaged {
            tracing::warn!(
                file = part.file,
                offset = part.offset,
                bytes = part.bytes,
                reason = part.reason,
                "a damaged part of a transcript"
            );
        }
        for file in &report.unreadable {
            tracing::warn!(
                file = file.file,
                reason = file.reason,
                "a transcript cannot be read"
            );
        }
        true
    }

    fn progress(&mut self, progress: Progress) -> bool {
        self.status.files_unread = progress.files_total.saturating_sub(progress.files_done);
        false
    }

    fn watching(&mut self, absent: bool, blind: Option<&str>) -> bool {
        let note = match (absent, blind) {
            (true, _) => Some("the folder does not exist yet; it is waited for".to_owned()),
            (false, Some(reason)) => Some(format!(
                "the system gives no hints of changes ({reason}); looking at the files in turns, which may take some seconds"
            )),
            (false, None) => None,
        };
        if note != self.status.note
            && let Some(note) = &note
        {
            tracing::warn!(folder = self.status.folder, "{note}");
        }
        self.status.note = note;
        true
    }
}
