//! The two real programs, as child processes that never outlive their test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::deadline::PATIENCE;

/// How much of a log a failed test shows.
const LOG_TAIL_BYTES: usize = 6_000;

/// Where a program of the workspace was built: beside the folder of this test's own executable.
///
/// # Panics
/// If it is not there, with the command that builds it.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test has an executable");
    let built = test
        .parent()
        .and_then(Path::parent)
        .expect("tests are built into target/PROFILE/deps")
        .join(name);
    assert!(
        built.exists(),
        "{} is missing: run `cargo build --bins` first, or `sh packaging/test.sh`, which does",
        built.display()
    );
    built
}

/// What a command that ran to its end left.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that succeeded.
    ///
    /// # Panics
    /// If it failed, with all that it said.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "the command failed: {self:#?}");
        self.stdout
    }

    /// Standard output of a command that succeeded, as JSON.
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in the output: {text}"))
    }
}

/// Runs a command to its end, giving it `input`.
pub async fn output(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("its input is piped");
    // A command that does not want its input may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let finished = timeout(PATIENCE, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} did not end within {PATIENCE:?}"))
        .expect("waiting for a child");
    Output {
        status: finished.status,
        stdout: String::from_utf8(finished.stdout).expect("the programs speak UTF-8"),
        stderr: String::from_utf8(finished.stderr).expect("the programs speak UTF-8"),
    }
}

/// A program that runs until it is told to stop. Dropped, it is killed; in a test that panics, its log is shown.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it with standard error appended to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Running {
        Self::start_with(command, log, Stdio::null())
    }

    /// [`Running::start`] with standard input to be taken by the test.
    pub fn start_with_input(command: &mut Command, log: &Path) -> Running {
        Self::start_with(command, log, Stdio::piped())
    }

    fn start_with(command: &mut Command, log: &Path, input: Stdio) -> Running {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("opening the log of a program");
        let child = command
            .stdin(input)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        Running {
            child,
            log: log.to_path_buf(),
        }
    }

    /// The child, for its standard output.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("asking after a child")
    }

    /// kill -9, and waits until the kernel has taken it away.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killing a child");
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, signal).expect("signalling a child");
        }
    }

    /// SIGTERM, then the exit status.
    ///
    /// # Panics
    /// If it does not end within `patience`.
    pub async fn terminate(self, patience: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(patience).await
    }

    /// Its exit status, once it has ended.
    ///
    /// # Panics
    /// If it does not end within `patience`.
    pub async fn wait(mut self, patience: Duration) -> ExitStatus {
        timeout(patience, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("did not end within {patience:?}"))
            .expect("waiting for a child")
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Waited for, so that it writes no more into a folder that is about to be removed. SIGKILL takes effect soon.
        let _ = self.child.start_kill();
        while matches!(self.child.try_wait(), Ok(None)) {
            std::thread::yield_now();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.floor_char_boundary(log.len().saturating_sub(LOG_TAIL_BYTES));
            eprintln!("--- end of {}:\n{}", self.log.display(), &log[from..]);
        }
    }
}
