//! The service manager's end of the notify socket, where no systemd runs: it starts a daemon as systemd does, hears
//! what the daemon tells, and can tell that the signs of life have ended.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::time::timeout;

use crate::deadline::PATIENCE;

/// How long the manager waits for a sign of life. Short, so that tests are; long against a turn of the loop.
pub const WATCHDOG: Duration = Duration::from_secs(2);

/// A notify socket, and a folder for the daemon's fail points.
pub struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
    /// Lines heard and not asked for yet.
    heard: Vec<String>,
}

impl Manager {
    pub fn new() -> Manager {
        let folder = tempfile::Builder::new()
            .prefix("coditect-manager-")
            .tempdir_in("/tmp")
            .expect("making a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("opening a notify socket");
        Manager {
            socket,
            folder,
            heard: Vec::new(),
        }
    }

    /// The same program with the environment that systemd gives.
    pub fn start(&self, program: &Command) -> Command {
        let program = program.as_std();
        // The process must know its own number before it starts: a shell that turns into it does.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#])
            .arg(program.get_program())
            .args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env("CODITECT_FAIL_POINTS", self.folder.path());
        command
    }

    /// Waits for a line that is as asked for, and returns it; those before it are forgotten.
    pub async fn hears(&mut self, what: &str, mut good: impl FnMut(&str) -> bool) -> String {
        let mut before = Vec::new();
        let waiting = async {
            loop {
                while !self.heard.is_empty() {
                    let line = self.heard.remove(0);
                    if good(&line) {
                        return line;
                    }
                    before.push(line);
                }
                self.receive().await;
            }
        };
        let found = timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("waited {PATIENCE:?} to hear this: {what}\nheard: {before:#?}"))
    }

    /// Waits until no sign of life has come for as long as systemd would wait.
    pub async fn misses_signs_of_life(&mut self) {
        let silence = async {
            // Any line but a sign of life is none.
            while timeout(
                WATCHDOG,
                self.hears("a sign of life", |line| line == "WATCHDOG=1"),
            )
            .await
            .is_ok()
            {}
        };
        timeout(PATIENCE, silence).await.expect("the signs of life go on");
    }

    /// Everything heard until now that was not asked for.
    pub fn heard_so_far(&mut self) -> Vec<String> {
        let mut datagram = [0; 4096];
        while let Ok(length) = self.socket.try_recv(&mut datagram) {
            self.note(&datagram[..length]);
        }
        std::mem::take(&mut self.heard)
    }

    /// Makes the daemon hang at a place that `coditect_sync`'s `fail_point` names.
    pub fn hang(&self, place: &str) {
        std::fs::write(self.fail_point(place), "").expect("setting a fail point");
    }

    /// Lets it go on.
    pub fn release(&self, place: &str) {
        std::fs::remove_file(self.fail_point(place)).expect("lifting a fail point");
    }

    fn fail_point(&self, place: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(place)
    }

    async fn receive(&mut self) {
        let mut datagram = [0; 4096];
        let length = self.socket.recv(&mut datagram).await.expect("hearing the daemon");
        self.note(&datagram[..length]);
    }

    fn note(&mut self, datagram: &[u8]) {
        let text = String::from_utf8_lossy(datagram);
        self.heard.extend(text.lines().map(str::to_owned));
    }
}

impl Default for Manager {
    fn default() -> Self {
        Self::new()
    }
}
