//! The daemon as a background service of its user: the file that describes it to the system's service manager, and the
//! manager itself. systemd on Linux, launchd on macOS.

mod launchd;
mod systemd;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::Serialize;

/// What the service is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// The real path of the program.
    pub program: PathBuf,
    /// Where they were named for this call, so that the service serves the same workstation.
    pub home: Option<PathBuf>,
    pub context_db: Option<PathBuf>,
    /// Where the daemon logs if the manager keeps no log.
    pub log: PathBuf,
}

/// A manager of user services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Manager {
    Systemd,
    Launchd,
}

/// Whether the file had to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    Written,
    Replaced,
    Unchanged,
}

/// How the service stands.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Standing {
    pub manager: Manager,
    /// The file that describes the service, whether it is there or not.
    pub unit: PathBuf,
    pub installed: bool,
    /// What the file starts, and whether that is the program that asks.
    pub program: Option<PathBuf>,
    pub is_this_program: Option<bool>,
    /// None where the manager cannot be asked; `trouble` then says why.
    pub live: Option<Live>,
    pub trouble: Option<String>,
    /// Whether the service goes on when the user has logged out; None where that is no question.
    pub linger: Option<bool>,
}

/// What the manager says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Live {
    /// Whether it starts by itself.
    pub enabled: bool,
    /// `active`, `activating`, `inactive`, `failed`, … in the manager's own words.
    pub state: String,
    pub is_running: bool,
    /// It has failed, or it fails again and again.
    pub is_failing: bool,
    pub pid: Option<u32>,
    /// In the manager's own words too.
    pub since: Option<String>,
    /// The daemon's own line on how things stand.
    pub says: Option<String>,
    /// The file that the manager goes by, which a package may have brought. None: it knows of none, or does not say.
    #[serde(skip)]
    pub unit: Option<PathBuf>,
}

impl Manager {
    /// The one of this system.
    pub(crate) fn of_this_system() -> Manager {
        if cfg!(target_os = "macos") {
            Manager::Launchd
        } else {
            Manager::Systemd
        }
    }

    pub(crate) fn unit_path(self) -> anyhow::Result<PathBuf> {
        match self {
            Manager::Systemd => systemd::unit_path(),
            Manager::Launchd => launchd::unit_path(),
        }
    }

    /// Writes the file, if it is not there as it should be.
    pub(crate) fn write(self, order: &Order) -> anyhow::Result<Change> {
        let text = match self {
            Manager::Systemd => systemd::render(order)?,
            Manager::Launchd => {
                if let Some(folder) = order.log.parent() {
                    crate::paths::make_private_folder(folder)?;
                }
                launchd::render(order)?
            }
        };
        put(&self.unit_path()?, &text)
    }

    /// Whether services can be started here and now; else why not, and what to do.
    pub(crate) fn refuse_if_absent(self) -> anyhow::Result<()> {
        match self {
            Manager::Systemd => systemd::refuse_if_absent(),
            Manager::Launchd => launchd::refuse_if_absent(),
        }
    }

    /// Has it started now and at each login. One that runs from a file as it was before is started again.
    pub(crate) fn start(self, change: Change) -> anyhow::Result<()> {
        match self {
            Manager::Systemd => systemd::start(change),
            Manager::Launchd => launchd::start(change),
        }
    }

    /// Stops it, and has it started no more.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        match self {
            Manager::Systemd => systemd::stop(),
            Manager::Launchd => launchd::stop(),
        }
    }

    /// Removes the file and what the manager made of it. Whether there was one.
    pub(crate) fn remove(self) -> anyhow::Result<bool> {
        let unit = self.unit_path()?;
        let removed = match std::fs::remove_file(&unit) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error).with_context(|| format!("removing {}", unit.display())),
        };
        if self == Manager::Systemd {
            systemd::forget()?;
        }
        Ok(removed)
    }

    pub(crate) fn live(self) -> anyhow::Result<Live> {
        match self {
            Manager::Systemd => systemd::live(),
            Manager::Launchd => launchd::live(),
        }
    }

    /// The end of what the service has logged.
    pub(crate) fn log_tail(self, order: &Order) -> String {
        match self {
            Manager::Systemd => systemd::log_tail(),
            Manager::Launchd => format!("see {}", order.log.display()),
        }
    }

    pub(crate) fn standing(self, this: &Path) -> anyhow::Result<Standing> {
        let (live, trouble) = match self.refuse_if_absent().and_then(|()| self.live()) {
            Ok(live) => (Some(live), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let used = live.as_ref().and_then(|live| live.unit.clone());
        let unit = match used {
            Some(used) => used,
            None => self.unit_path()?,
        };
        let text = std::fs::read_to_string(&unit).ok();
        let program = text.as_deref().and_then(|text| match self {
            Manager::Systemd => systemd::program_of(text),
            Manager::Launchd => launchd::program_of(text),
        });
        Ok(Standing {
            manager: self,
            unit,
            installed: text.is_some(),
            is_this_program: program.as_deref().map(|program| program == this),
            program,
            live,
            trouble,
            linger: match self {
                Manager::Systemd => systemd::linger(),
                Manager::Launchd => None,
            },
        })
    }
}

/// Writes a file whole or not at all.
fn put(path: &Path, text: &str) -> anyhow::Result<Change> {
    let change = match std::fs::read_to_string(path) {
        Ok(before) if before == text => return Ok(Change::Unchanged),
        Ok(_) => Change::Replaced,
        Err(error) if error.kind() == ErrorKind::NotFound => Change::Written,
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let doing = || format!("writing {}", path.display());
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).with_context(doing)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    std::fs::write(&draft, text).with_context(doing)?;
    std::fs::rename(&draft, path).with_context(doing)?;
    Ok(change)
}

/// What a manager's program printed, if it succeeded.
fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is no `{program}` here"),
        Err(error) => return Err(error).with_context(|| format!("running {program}")),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`{program} {}` failed: {said}", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A path as text: neither manager's files can hold another.
fn text_of(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .filter(|text| !text.contains(|c: char| c.is_control()))
        .with_context(|| format!("{} has characters that no service can be given", path.display()))
}
