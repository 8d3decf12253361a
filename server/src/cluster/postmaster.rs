//! One run of the PostgreSQL server process: how it is started, found again, asked and stopped.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::process::{Child, Command};

use super::find::Programs;
use super::folder::{Folder, PORT};

/// How long a fast shutdown may take: it writes out what is dirty, at most the 128 MB of shared buffers.
const FAST_STOP: Duration = Duration::from_secs(10);

/// After an immediate shutdown processes end at once; the next start recovers from the log.
const IMMEDIATE_STOP: Duration = Duration::from_secs(5);

/// How often we look whether a process that is not our child has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// At this size the log is set aside at the next start, in the place of the one set aside before.
const LOG_BYTES_MAX: u64 = 10 << 20;

/// How much of the log's end goes into an error text.
const LOG_TAIL_BYTES: u64 = 1500;

/// What the cluster is run with. Given on the command line, so that they hold whatever stands in configuration files.
const SETTINGS: &[(&str, &str)] = &[
    // No TCP port, by which others of this machine could try their luck.
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    // A commit that was acknowledged survives a power cut; the daemons delete their queue on the strength of it.
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    // Sixteen for the server's pool, the rest for administration, psql and a second server during a change-over.
    ("max_connections", "60"),
    // Our statements are short, compiling them would cost more than it saves; and the service's unit forbids memory that
    // is writable and executable.
    ("jit", "off"),
    // All our sessions speak UTF-8 and UTC; PostgreSQL would else take both from the environment.
    ("timezone", "UTC"),
    // Terse leaves out DETAIL, which repeats the values of rows: what developers wrote is not for the log.
    ("log_error_verbosity", "terse"),
    ("log_min_error_statement", "panic"),
    ("log_checkpoints", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("log_timezone", "UTC"),
    ("logging_collector", "off"),
];

/// A running server process.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: Pid,
    /// `None` if it was started by a process before us.
    child: Option<Child>,
}

impl Drop for Postmaster {
    /// Whoever starts one looks after it until it is stopped. If that was broken off (a signal, a start that takes too
    /// long), what was started must not go on unowned: it is told to stop in good order, and needs nobody for that.
    fn drop(&mut self) {
        if self.child.is_some() && !self.has_ended() {
            let _ = kill_process(self.pid, Signal::INT);
        }
    }
}

/// What `postmaster.pid` says. It is filled line by line while the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: Pid,
    pub(super) port: Option<u16>,
    pub(super) socket_folder: Option<PathBuf>,
    /// Whether it takes connections; it may also start, recover or stop.
    pub(super) ready: bool,
}

impl PidFile {
    /// The file of a data directory; `None` if there is none.
    pub(super) fn read(data: &Path) -> anyhow::Result<Option<PidFile>> {
        let path = path_of(data);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(PidFile::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn parse(text: &str) -> Option<PidFile> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pid = Pid::from_raw(lines.first()?.parse::<i32>().ok()?.abs())?;
        Some(PidFile {
            pid,
            port: lines.get(3).and_then(|line| line.parse().ok()),
            socket_folder: lines.get(4).filter(|line| !line.is_empty()).map(PathBuf::from),
            ready: lines.get(7) == Some(&"ready"),
        })
    }

    /// Whether the process that it names is alive and a PostgreSQL server.
    pub(super) fn is_alive(&self) -> bool {
        look_at(self.pid) == Process::Postgres
    }
}

impl Postmaster {
    /// Starts the server. It has a process group of its own: a Ctrl-C in our terminal must reach us first, who end
    /// what uses the database before the database.
    pub(super) fn start(
        programs: &Programs,
        folder: &Folder,
        socket_folder: &Path,
    ) -> anyhow::Result<Postmaster> {
        let log = open_log(folder)?;
        let mut command = Command::from(folder.command(&programs.bin.join("postgres")));
        command
            .arg("-D")
            .arg(folder.data())
            .arg("-p")
            .arg(PORT.to_string())
            .arg("-k")
            .arg(socket_folder);
        for (name, value) in SETTINGS {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let child = command
            .stdout(Stdio::from(log.try_clone().context("sharing the log file")?))
            .stderr(Stdio::from(log))
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", programs.bin.join("postgres").display()))?;
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .context("PostgreSQL ended at once")?;
        Ok(Postmaster {
            pid,
            child: Some(child),
        })
    }

    /// Takes over a server that an earlier process of ours left running.
    pub(super) fn adopt(pid: Pid) -> Postmaster {
        Postmaster { pid, child: None }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        match &mut self.child {
            // An error means that somebody else reaped it, so it is gone.
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => look_at(self.pid) != Process::Postgres,
        }
    }

    /// Stops it: open transactions are rolled back, what is committed is written out. One that does not end in time is
    /// ended at once, which costs the next start a recovery and no data.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for (signal, patience) in [(Signal::INT, FAST_STOP), (Signal::QUIT, IMMEDIATE_STOP)] {
            if self.has_ended() {
                return Ok(());
            }
            match kill_process(self.pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).context("telling PostgreSQL to stop"),
            }
            let until = Instant::now() + patience;
            while Instant::now() < until {
                if self.has_ended() {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            tracing::warn!(
                pid = self.pid(),
                "PostgreSQL did not stop within {} s",
                patience.as_secs()
            );
        }
        bail!(
            "PostgreSQL (process {}) does not stop: look into its log",
            self.pid()
        )
    }
}

/// Whether a start failed only because processes of the run before still hold the shared memory: after the server
/// process alone was killed, its children take a moment to notice and end.
pub(super) fn failed_for_leftovers(folder: &Folder) -> bool {
    log_tail(folder).contains("still in use")
}

/// Removes the lock files of a dead server. PostgreSQL would do so itself, but takes any living process of that number
/// for the server: another program after a restart of the machine, or a dead one that nobody has collected yet.
/// Processes left over from the dead server are still noticed: they hold the shared memory of this data directory.
pub(super) fn remove_stale_locks(data: &Path, socket_folder: &Path) -> anyhow::Result<()> {
    for path in [path_of(data), socket_folder.join(format!(".s.PGSQL.{PORT}.lock"))] {
        match std::fs::read_to_string(&path) {
            Ok(text) if PidFile::parse(&text).is_none_or(|file| !file.is_alive()) => {
                tracing::debug!(path = %path.display(), "removing the lock file of a dead server");
                std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
    Ok(())
}

/// The end of the log, for an error text.
pub(super) fn log_tail(folder: &Folder) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(folder.log())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    let tail = read().unwrap_or_else(|error| format!("(unreadable: {error})"));
    format!("{}:\n{tail}", folder.log().display())
}

/// Opens the log for appending, after one grown too long was set aside.
pub(super) fn open_log(folder: &Folder) -> anyhow::Result<File> {
    let path = folder.log();
    if std::fs::metadata(&path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        let _ = std::fs::rename(&path, path.with_extension("log.1"));
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
}

fn path_of(data: &Path) -> PathBuf {
    data.join("postmaster.pid")
}

/// What the system says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    /// There is none, or only its exit status waits for a parent that may never ask (in a container without init).
    Gone,
    Postgres,
    Other,
}

/// Where the system does not tell what runs, we believe the pid file.
fn look_at(pid: Pid) -> Process {
    // "Not permitted" says that somebody is there.
    if matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)) {
        return Process::Gone;
    }
    let number = pid.as_raw_nonzero().get();
    match std::fs::read_to_string(format!("/proc/{number}/stat")) {
        // `PID (NAME) STATE …`, and the name may hold anything, brackets too.
        Ok(stat) => match stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) {
            Some((name, rest)) => classify(rest.split(' ').next().unwrap_or(""), name),
            None => Process::Postgres,
        },
        Err(_) => std::process::Command::new("ps")
            .args(["-o", "stat=", "-o", "comm=", "-p", &number.to_string()])
            .stderr(Stdio::null())
            .output()
            .ok()
            .and_then(|output| {
                let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                line.split_once(char::is_whitespace)
                    .map(|(state, name)| classify(state, name))
            })
            .unwrap_or(Process::Postgres),
    }
}

/// From the state's letter and the program's name.
fn classify(state: &str, name: &str) -> Process {
    if state.starts_with(['Z', 'X']) {
        Process::Gone
    } else if name.contains("postgres") || name.contains("postmaster") {
        Process::Postgres
    } else {
        Process::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_at_every_stage_of_a_start() {
        let whole = "4711\n/d/pg/data\n1764000000\n5432\n/d/pg/run\n\n  5432001    131072\nready   \n";
        let read = PidFile::parse(whole).unwrap();
        assert_eq!(read.pid.as_raw_nonzero().get(), 4711);
        assert_eq!(
            (read.port, read.socket_folder),
            (Some(5432), Some("/d/pg/run".into()))
        );
        let first = PidFile::parse("4711\n").unwrap();
        assert_eq!(
            (first.port, first.socket_folder, first.ready),
            (None, None, false)
        );
        assert_eq!(PidFile::parse(""), None);
    }

    #[test]
    fn a_living_process_of_another_program_is_no_postgres() {
        let us = PidFile {
            pid: rustix::process::getpid(),
            port: None,
            socket_folder: None,
            ready: true,
        };
        assert!(!us.is_alive());
    }

    #[test]
    fn a_dead_process_that_nobody_collects_is_gone() {
        assert_eq!(classify("Z+", "postgres"), Process::Gone);
        assert_eq!(classify("Ss", "/opt/homebrew/bin/postgres"), Process::Postgres);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while look_at(pid) != Process::Gone {
            assert!(
                Instant::now() < deadline,
                "the child has ended but counts as running"
            );
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
