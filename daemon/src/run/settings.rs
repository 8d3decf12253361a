//! Takes up changes of config.toml while the daemon runs.
//!
//! A file that is wrong changes nothing: what held goes on to hold, and the status says what is wrong. So does a file
//! that is gone or empty where there was one: a slip of an editor or a full disk must not send rows that were to stay.
//! Where it was gone at the start already, context.db tells that it was judged by some, and nothing is sent.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::{Config, Ingest, Overrides};
use crate::policy::Policy;
use crate::socket::Control;
use crate::status::{ConfigStatus, SETTINGS_GONE};
use crate::sync::{Outcome, Trouble};
use crate::wake::Wake;

/// How often the file is looked at without a hint: some file systems give none, and a link leads to another folder.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// A file that is being written is read when it has stayed the same for so long.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Tells the loop of each change of the file, and of each SIGHUP, until the loop is gone.
pub(super) async fn watch(path: PathBuf, control: mpsc::Sender<Control>) -> anyhow::Result<()> {
    let mut hung_up = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let wake = Wake::on(&path);
    let mut poll = interval(POLL_INTERVAL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Look::at(&path);
    loop {
        let wish = tokio::select! {
            _ = hung_up.recv() => {
                tracing::info!("SIGHUP: reading config.toml and the login anew");
                known = Look::at(&path);
                Control::Reload
            }
            _ = async { tokio::select! { () = wake.changed() => {}, _ = poll.tick() => {} } } => {
                if Look::at(&path) == known {
                    continue;
                }
                known = settled(&path).await;
                Control::Reconfigure
            }
        };
        if control.send(wish).await.is_err() {
            return Ok(());
        }
    }
}

/// The settings that hold, and what the status says of them.
#[derive(Debug)]
pub(super) struct Settings {
    path: PathBuf,
    overrides: Overrides,
    config: Config,
    /// What this daemon was started with, and goes on with.
    context_db: Option<PathBuf>,
    /// Whether there were settings in the file.
    from_file: bool,
    status: ConfigStatus,
}

/// What was read of the file, ready to hold.
#[derive(Debug)]
pub(super) struct Fresh {
    config: Config,
    policy: Policy,
    from_file: bool,
}

/// There is no config.toml, or an empty one, and nothing outweighs it.
#[derive(Debug)]
pub(super) struct Gone(PathBuf);

impl Gone {
    /// Why nothing may be sent of a file that was judged by settings.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Failed {
            trouble: Trouble::File,
            code: SETTINGS_GONE.into(),
            message: format!(
                "{} is gone or empty, and by its settings not every project was to be sent: nothing is sent before it \
                 says again what may be",
                self.0.display()
            ),
        }
    }
}

/// What is different now.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Which rows are sent, or in which form.
    pub policy: Option<Arc<Policy>>,
    /// Whom to trust.
    pub trust: bool,
}

impl Settings {
    pub(super) fn new(path: PathBuf, overrides: Overrides, config: Config, now: Timestamp) -> Self {
        crate::logging::set_level(config.log.level);
        Self {
            status: ConfigStatus {
                path: path.display().to_string(),
                loaded_at: now,
                error: None,
                note: None,
            },
            from_file: has_text(&path),
            context_db: config.context_db.clone(),
            path,
            overrides,
            config,
        }
    }

    /// Whom to trust instead of the machine's authorities.
    pub(super) fn ca_file(&self) -> Option<PathBuf> {
        self.config.ca_file(&self.path)
    }

    pub(super) fn status(&self) -> &ConfigStatus {
        &self.status
    }

    pub(super) fn ingest(&self) -> &Ingest {
        &self.config.ingest
    }

    /// If nothing says by now which projects may leave, what that means for a file that settings have judged.
    pub(super) fn if_gone(&self) -> Option<Gone> {
        let said = self.from_file || self.overrides.concern("projects");
        (!said).then(|| Gone(self.path.clone()))
    }

    /// Reads the file, on any thread.
    pub(super) fn reader(&self) -> impl FnOnce() -> Result<Fresh, String> + Send + 'static {
        let (path, overrides, had_text) = (self.path.clone(), self.overrides.clone(), self.from_file);
        move || {
            let from_file = has_text(&path);
            if had_text && !from_file {
                return Err(format!("{} is gone or empty", path.display()));
            }
            let holding = overrides.over_file(&path).map_err(|error| error.to_string())?;
            let policy =
                Policy::new(&holding.config).map_err(|text| format!("{}: {text}", path.display()))?;
            Ok(Fresh {
                config: holding.config,
                policy,
                from_file,
            })
        }
    }

    /// Lets what was read hold from now on, if it can.
    pub(super) fn take_up(&mut self, read: Result<Fresh, String>, now: Timestamp) -> Changed {
        let fresh = match read {
            Ok(fresh) => fresh,
            Err(error) => {
                let error = format!("{}; the former settings hold", error.replace('\n', "; "));
                if self.status.error.as_ref() != Some(&error) {
                    tracing::warn!("{error}");
                }
                self.status.error = Some(error);
                return Changed::default();
            }
        };
        let before = std::mem::replace(&mut self.config, fresh.config);
        self.from_file = fresh.from_file;
        self.status.error = None;
        self.status.loaded_at = now;
        self.status.note = (self.config.context_db != self.context_db).then(|| {
            "context_db has changed in the settings: the next start of the daemon takes it up".into()
        });
        if self.config == before {
            return Changed::default();
        }
        tracing::info!(path = %self.path.display(), "the settings have changed");
        if let Some(note) = &self.status.note {
            tracing::warn!("{note}");
        }
        crate::logging::set_level(self.config.log.level);
        let of_policy = |config: &Config| (config.projects.clone(), config.redaction.clone());
        Changed {
            policy: (of_policy(&self.config) != of_policy(&before)).then(|| Arc::new(fresh.policy)),
            trust: self.config.ca_file != before.ca_file,
        }
    }
}

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look(Option<(u64, u64, u64, i64, i64)>);

impl Look {
    /// Follows a link.
    fn at(path: &Path) -> Look {
        let metadata = std::fs::metadata(path).ok();
        Look(metadata.map(|found| {
            let (changed, nanoseconds) = (found.mtime(), found.mtime_nsec());
            (found.dev(), found.ino(), found.len(), changed, nanoseconds)
        }))
    }
}

async fn settled(path: &Path) -> Look {
    let mut seen = Look::at(path);
    loop {
        sleep(SETTLE_TIME).await;
        let again = Look::at(path);
        if again == seen {
            return again;
        }
        seen = again;
    }
}

fn has_text(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Desk {
        folder: tempfile::TempDir,
        settings: Settings,
    }

    impl Desk {
        fn with(text: &str) -> Desk {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("config.toml");
            std::fs::write(&path, text).unwrap();
            let config = Overrides::default().over_file(&path).unwrap().config;
            let settings = Settings::new(path, Overrides::default(), config, Timestamp::UNIX_EPOCH);
            Desk { folder, settings }
        }

        fn write(&mut self, text: &str) -> Changed {
            std::fs::write(self.folder.path().join("config.toml"), text).unwrap();
            self.look()
        }

        fn look(&mut self) -> Changed {
            let read = self.settings.reader()();
            self.settings.take_up(read, Timestamp::UNIX_EPOCH)
        }
    }

    #[test]
    fn a_change_holds_and_what_it_concerns_is_told() {
        let mut desk = Desk::with("");
        assert!(desk.write("[projects]\ndefault = \"exclude\"").policy.is_some());
        assert!(
            desk.write("[projects]\ndefault = \"exclude\" # still")
                .policy
                .is_none()
        );
        assert!(
            desk.write("[projects]\ndefault = \"exclude\"\n[ingest]\nclaude_projects = true")
                .policy
                .is_none()
        );
        assert!(desk.settings.config.ingest.claude_projects);
    }

    #[test]
    fn a_file_that_is_wrong_gone_or_empty_changes_nothing_and_is_told_until_it_is_right() {
        let mut desk = Desk::with("[projects]\ndefault = \"exclude\"");
        let held = desk.settings.config.clone();
        for (text, expected) in [
            ("[projects]\ndefault = \"exlude\"", "did you mean \"exclude\""),
            ("x = 1\ny = 2", "`x` at the top: known here are"),
            ("", "gone or empty"),
        ] {
            assert!(desk.write(text).policy.is_none());
            let error = desk.settings.status().error.clone().unwrap();
            assert!(
                error.contains(expected) && error.ends_with("the former settings hold"),
                "{error}"
            );
            assert_eq!(error.lines().count(), 1);
            assert_eq!(desk.settings.config, held);
        }
        std::fs::remove_file(desk.folder.path().join("config.toml")).unwrap();
        desk.look();
        assert_eq!(desk.settings.config, held);
        desk.write("# all defaults");
        assert_eq!(desk.settings.status().error, None);
        assert_eq!(desk.settings.config, Config::default());
    }

    #[test]
    fn another_file_to_watch_waits_for_the_next_start_and_is_told_so() {
        let mut desk = Desk::with("");
        desk.write("context_db = \"/elsewhere.db\"");
        assert!(
            desk.settings
                .status()
                .note
                .as_ref()
                .unwrap()
                .contains("next start")
        );
        desk.write("# as before");
        assert_eq!(desk.settings.status().note, None);
    }
}
