//! One workstation: a home folder with the real `coditect-sync`, and its context.db as other programs see it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::deadline::{PATIENCE, until_within};
use crate::program::{Output, Running, output, program};

/// How long another program's write waits for a lock before it counts as failed: what writers commonly set.
pub const WRITER_PATIENCE: Duration = Duration::from_secs(5);

/// The owner's tables, as the product documents them: a program that comes before the daemon makes them itself.
pub const OWNERS_TABLES: &str = include_str!("../../migrations-sqlite/0001_context.sql");

/// One workstation. Dropped, its daemon is killed and its folder removed.
pub struct Workstation {
    /// Before the folder, so that the daemon is gone when that is removed.
    daemon: Option<Running>,
    home: TempDir,
    environment: Vec<(&'static str, PathBuf)>,
    http: reqwest::Client,
}

impl Workstation {
    /// A home folder in which nothing has run yet.
    pub fn new() -> Workstation {
        // Not $TMPDIR: the path of a unix socket has 107 characters at most.
        let home = tempfile::Builder::new()
            .prefix("coditect-ws-")
            .tempdir_in("/tmp")
            .expect("making a home folder");
        let http = reqwest::Client::builder()
            .unix_socket(home.path().join("sync.sock"))
            .timeout(Duration::from_secs(10))
            .build()
            .expect("a client of the status socket");
        Workstation {
            daemon: None,
            home,
            environment: Vec::new(),
            http,
        }
    }

    /// A workstation that is logged in and whose daemon runs.
    pub async fn start(server: &str, token: &str) -> Workstation {
        let mut workstation = Workstation::new();
        workstation.login(server, token).await.ok();
        workstation.run().await;
        workstation
    }

    /// Sets a variable for all that is run here from now on.
    pub fn set(&mut self, variable: &'static str, value: PathBuf) {
        self.environment.push((variable, value));
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn context_db(&self) -> PathBuf {
        self.home().join("context.db")
    }

    /// The command line of this workstation, to be given its command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("coditect-sync"));
        command
            .arg("--home")
            .arg(self.home())
            // Nothing of the machine that runs the tests may leak in.
            .env_remove("CODITECT_HOME")
            .env_remove("CODITECT_CONTEXT_DB")
            .env("RUST_LOG", "info,coditect_sync=debug")
            .envs(self.environment.iter().cloned());
        command
    }

    /// Runs one command to its end.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        output(self.command().args(arguments), "").await
    }

    /// Logs in with an access token, given on standard input.
    pub async fn login(&self, server: &str, token: &str) -> Output {
        let mut command = self.command();
        command.args([
            "login",
            "--server",
            server,
            "--token-stdin",
            "--insecure-storage",
            "--yes",
        ]);
        output(&mut command, token).await
    }

    /// Starts the daemon and waits until its status socket answers.
    pub async fn run(&mut self) {
        let mut command = self.command();
        self.run_as(command.arg("run")).await;
    }

    /// [`Workstation::run`] by a command of its own making.
    pub async fn run_as(&mut self, command: &mut Command) {
        let log = self.home().join("daemon.log");
        self.daemon = Some(Running::start(command, &log));
        self.wait_until("the daemon answers", |_| true).await;
    }

    /// Starts the daemon by a command made from [`Workstation::command`], and waits for nothing.
    pub fn start_daemon(&mut self, command: &mut Command) {
        let log = self.home().join("daemon.log");
        self.daemon = Some(Running::start(command, &log));
    }

    /// Waits until the daemon has ended by itself, or by a signal.
    pub async fn ended(&mut self) -> ExitStatus {
        let daemon = self.daemon.take().expect("the daemon was started");
        daemon.wait(PATIENCE).await
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// If it was not started.
    pub fn daemon(&mut self) -> &mut Running {
        self.daemon.as_mut().expect("the daemon was started")
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.daemon.take().expect("the daemon was started").kill().await;
    }

    /// SIGTERM, then the exit status.
    pub async fn terminate(&mut self, patience: Duration) -> ExitStatus {
        let daemon = self.daemon.take().expect("the daemon was started");
        daemon.terminate(patience).await
    }

    /// SIGSTOP: a workstation that is cut off without knowing it.
    pub fn freeze(&mut self) {
        self.daemon().signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.daemon().signal(Signal::CONT);
    }

    /// The body of `GET /v1/status`, or why there was none.
    pub async fn status(&self) -> Result<Value, String> {
        let answer = self.http.get("http://localhost/v1/status").send().await;
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        answer.json().await.map_err(|error| format!("{error:?}"))
    }

    /// `POST` to a route of the status socket.
    pub async fn post(&self, route: &str) -> reqwest::Response {
        let answer = self.http.post(format!("http://localhost{route}")).send().await;
        answer.expect("the status socket answers")
    }

    /// Waits until the status is as asked for, and returns it.
    pub async fn wait_until(&self, what: &str, good: impl FnMut(&Value) -> bool) -> Value {
        self.wait_until_within(PATIENCE, what, good).await
    }

    /// [`Workstation::wait_until`] with a patience of its own.
    pub async fn wait_until_within(
        &self,
        patience: Duration,
        what: &str,
        mut good: impl FnMut(&Value) -> bool,
    ) -> Value {
        let seen = until_within(
            patience,
            what,
            async || self.status().await,
            |status| status.as_ref().is_ok_and(&mut good),
        );
        seen.await.expect("only a status that was read is good")
    }

    /// Waits for a named state.
    pub async fn wait_for_state(&self, state: &str) -> Value {
        self.wait_until(&format!("state {state}"), |status| status["state"] == state)
            .await
    }

    /// `sync --wait`: returns when all that was committed before is acknowledged and the head is reached.
    pub async fn sync(&self) {
        self.cli(&["sync", "--wait", "--timeout", "60s"]).await.ok();
    }

    /// A sync that may fail, since the network does.
    pub async fn sync_if_possible(&self) {
        self.cli(&["sync", "--wait", "--timeout", "1s"]).await;
    }

    /// `verify --json`: whether this file and the cloud hold the same.
    pub async fn verify(&self) -> Value {
        self.cli(&["verify", "--json"]).await.json()
    }

    /// Opens context.db as another program would.
    pub fn open(&self) -> Connection {
        open(&self.context_db())
    }

    /// Makes context.db before the daemon does, with the owner's tables.
    pub fn create_context_db(&self) -> Connection {
        let writer = self.open();
        writer
            .execute_batch(OWNERS_TABLES)
            .expect("making the owner's tables");
        writer
    }
}

impl Default for Workstation {
    fn default() -> Self {
        Self::new()
    }
}

/// Opens a context.db as a foreign program would: WAL, a busy timeout, and nothing of ours.
pub fn open(path: &Path) -> Connection {
    let writer = Connection::open(path).expect("opening context.db");
    writer
        .busy_timeout(WRITER_PATIENCE)
        .expect("setting a busy timeout");
    // A pragma that answers with a row.
    writer
        .query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .expect("setting the journal mode");
    writer
}
