//! The built program, run as a user runs it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};
use tempfile::TempDir;

/// After which a test that waits for something is taken for stuck.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self.spawn(args);
        // A command that wants no input may be gone before it is written.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn spawn(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_coditect-sync"))
            .args(args)
            .arg("--home")
            .arg(self.path())
            .env_remove("CODITECT_HOME")
            .env_remove("CODITECT_CONTEXT_DB")
            .env_remove("RUST_LOG")
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// A running daemon whose socket answers.
    fn daemon(&self) -> Daemon {
        let child = self.spawn(&["run"]);
        wait_until("the daemon answers", || {
            code(&self.run(&["status", "--json"])) == 0
        });
        Daemon { child: Some(child) }
    }

    fn state(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["state"].clone()
    }

    /// Names of the files under this home that hold the text.
    pub(crate) fn files_with(&self, text: &str) -> Vec<String> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            let content = std::fs::read(entry.path()).unwrap_or_default();
            if content
                .windows(text.len())
                .any(|window| window == text.as_bytes())
            {
                names.push(entry.file_name().into_string().unwrap());
            }
        }
        names
    }
}

struct Daemon {
    child: Option<Child>,
}

impl Daemon {
    /// Sends SIGTERM and returns what the daemon said.
    fn stop(mut self) -> Output {
        let child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server that knows two tokens, `token-of-1` and `token-of-2`, and nothing else.
pub(crate) fn account_server() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().route("/api/v1/account", get(account)))
                .await
                .unwrap();
        });
    });
    url
}

async fn account(headers: HeaderMap) -> axum::response::Response {
    let user = headers["authorization"]
        .to_str()
        .unwrap()
        .strip_prefix("Bearer token-of-");
    match user {
        Some(user) => Json(json!({
            "instance_id": "00000000-0000-0000-0000-000000000001",
            "tenant_id": "00000000-0000-0000-0000-000000000002",
            "tenant": "acme",
            "user_id": user,
            "user": format!("{user}@acme.test"),
            "role": "member",
            "server_version": "0.1.0",
        }))
        .into_response(),
        None => {
            let error = json!({"code": "invalid_token", "message": "the token is not valid", "details": {}});
            let body = json!({"error": error, "meta": {"request_id": "r", "timestamp": "t"}});
            (StatusCode::UNAUTHORIZED, Json(body)).into_response()
        }
    }
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn without_a_daemon_the_exit_code_is_3_and_the_remedy_is_named() {
    let home = Home::new();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--watch"],
        &["sync", "--wait"],
        &["pause"],
    ] {
        let output = home.run(args);
        assert_eq!(code(&output), 3, "{args:?}");
        assert!(stderr(&output).contains("run`"), "{args:?}: {}", stderr(&output));
    }
    assert!(stdout(&home.run(&["status"])).contains("nobody is logged in"));
    assert!(stdout(&home.run(&["status", "--json"])).is_empty());
}

#[test]
fn paths_are_those_of_the_home_and_looking_creates_nothing() {
    let home = Home::new();
    let output = home.run(&["paths", "--json"]);
    let paths: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        paths["context_db"],
        home.path().join("context.db").to_str().unwrap()
    );
    assert_eq!(paths["socket"], home.path().join("sync.sock").to_str().unwrap());
    for args in [
        &["paths"][..],
        &["status"],
        &["doctor"],
        &["quarantine", "list"],
        &["logout"],
    ] {
        home.run(args);
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn wrong_usage_is_2_and_says_what_is_right() {
    let home = Home::new();
    let cases: [(&[&str], &str); 5] = [
        (&["login"], "--server"),
        (
            &["login", "--server", "http://sync.acme.test", "--token-stdin"],
            "--allow-http",
        ),
        (
            &["login", "--server", "http://127.0.0.1:1", "--token-stdin"],
            "no token",
        ),
        (&["sync", "--timeout", "soon"], "30s"),
        (&["statsu"], "status"),
    ];
    for (args, expected) in cases {
        let output = home.run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(
            stderr(&output).contains(expected),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_wrong_key_in_the_configuration_is_refused_by_name() {
    let home = Home::new();
    std::fs::write(home.path().join("config.toml"), "contextdb = \"x.db\"\n").unwrap();
    let output = home.run(&["paths"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("contextdb"), "{}", stderr(&output));
}

#[test]
fn a_login_without_a_server_is_3_and_leaves_nothing_behind() {
    let home = Home::new();
    let args = [
        "login",
        "--server",
        "http://127.0.0.1:1",
        "--token-stdin",
        "--insecure-storage",
    ];
    let output = home.run_with(&args, "t0k3n\n");
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(!stderr(&output).contains("t0k3n"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn output_that_nobody_reads_to_its_end_is_no_failure() {
    let home = Home::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_coditect-sync"))
        .args(["paths", "--home"])
        .arg(home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

#[test]
fn doctor_says_what_is_wrong_and_how_to_mend_it() {
    let home = Home::new();
    std::fs::write(home.path().join("context.db"), "no database at all ".repeat(100)).unwrap();
    let output = home.run(&["doctor", "--json"]);
    assert_eq!(code(&output), 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    for finding in report["findings"].as_array().unwrap() {
        let fine = finding["level"] == "ok";
        assert_eq!(finding["remedy"].is_null(), fine, "{finding}");
    }
    assert!(stdout(&home.run(&["doctor"])).contains("PROBLEM  file"));
}

#[test]
fn p15_a_login_leaves_the_token_in_one_private_file_and_nowhere_else() {
    let home = Home::new();
    let url = account_server();
    let output = home.run_with(
        &["login", "--server", &url, "--token-stdin", "--insecure-storage"],
        "token-of-1\n",
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stdout(&output).contains("logged in as 1@acme.test (member of acme)"),
        "{}",
        stdout(&output)
    );
    assert!(!stdout(&output).contains("token-of") && !stderr(&output).contains("token-of"));
    assert_eq!(home.files_with("token-of-1"), ["credentials"]);
    for name in ["credentials", "account.json", "context.db"] {
        let mode = std::fs::metadata(home.path().join(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(code(&home.run(&["logout"])), 0);
    assert!(home.files_with("token-of-1").is_empty());
    assert!(!home.path().join("account.json").exists());
}

#[test]
fn a_file_of_one_user_is_not_logged_in_to_by_another() {
    let home = Home::new();
    let url = account_server();
    let login = ["login", "--server", &url, "--token-stdin", "--insecure-storage"];
    assert_eq!(code(&home.run_with(&login, "token-of-1")), 0);
    let output = home.run_with(&login, "token-of-2");
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("belongs to 1@acme.test of acme"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        home.files_with("token-of-1"),
        ["credentials"],
        "the first login is no longer whole"
    );
    assert_eq!(code(&home.run(&["logout"])), 0);
    assert_eq!(
        code(&home.run_with(&login, "token-of-2")),
        1,
        "a log-out does not free the file"
    );
    assert_eq!(code(&home.run_with(&login, "token-of-1")), 0);
}

#[test]
fn without_a_keyring_a_login_says_so_and_leaves_the_file_free() {
    let home = Home::new();
    let url = account_server();
    let output = home.run_with(&["login", "--server", &url, "--token-stdin"], "token-of-1");
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("--insecure-storage"),
        "{}",
        stderr(&output)
    );
    assert!(home.files_with("token-of-1").is_empty());
    let login = ["login", "--server", &url, "--token-stdin", "--insecure-storage"];
    assert_eq!(code(&home.run_with(&login, "token-of-2")), 0);
}

#[test]
fn a_token_that_the_server_does_not_know_is_4() {
    let home = Home::new();
    let url = account_server();
    let output = home.run_with(
        &["login", "--server", &url, "--token-stdin", "--insecure-storage"],
        "another",
    );
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_daemon_that_nobody_is_logged_in_to_says_so_and_stops_cleanly() {
    let home = Home::new();
    let daemon = home.daemon();
    wait_until("the state is known", || home.state() == "needs_login");
    let shown = stdout(&home.run(&["status"]));
    assert!(shown.starts_with("not safe: nobody is logged in"), "{shown}");
    assert!(shown.contains(" login --server URL\n"), "{shown}");
    for command in ["pause", "resume"] {
        let said: Value = serde_json::from_slice(&home.run(&[command, "--json"]).stdout).unwrap();
        assert_eq!(said["result"], "accepted", "{command}");
    }
    assert_eq!(code(&home.run(&["sync", "--wait"])), 4);

    let second = home.run(&["run"]);
    assert_eq!(code(&second), 1);
    assert!(stderr(&second).contains("already runs"), "{}", stderr(&second));
    assert_eq!(home.state(), "needs_login", "the first daemon lost its socket");

    let output = daemon.stop();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!home.path().join("sync.sock").exists());
}

#[test]
fn a_log_in_and_out_reaches_the_running_daemon() {
    let home = Home::new();
    let _daemon = home.daemon();
    wait_until("the state is known", || home.state() == "needs_login");
    let url = account_server();
    let output = home.run_with(
        &[
            "login",
            "--server",
            &url,
            "--token-stdin",
            "--insecure-storage",
            "--json",
        ],
        "token-of-1",
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["daemon_running"], true);
    wait_until("the daemon has noticed the login", || {
        home.state() != "needs_login"
    });
    let output = home.run(&["logout", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(result["logged_out"].is_string(), "{result}");
    wait_until("the daemon has noticed the logout", || {
        home.state() == "needs_login"
    });
}

#[test]
fn a_watch_in_a_pipe_tells_every_change_and_outlives_the_daemon() {
    let home = Home::new();
    let daemon = home.daemon();
    wait_until("the state is known", || home.state() == "needs_login");
    let mut watch = home.spawn(&["status", "--watch", "--json"]);
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut remarks = BufReader::new(watch.stderr.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["state"], "needs_login");
    daemon.stop();
    assert!(
        remarks
            .next()
            .unwrap()
            .unwrap()
            .contains("the daemon has stopped")
    );
    let _daemon = home.daemon();
    while next()["state"] != "needs_login" {}
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_status_tells_whole_milliseconds() {
    let home = Home::new();
    let _daemon = home.daemon();
    let status: Value = serde_json::from_slice(&home.run(&["status", "--json"]).stdout).unwrap();
    let since = status["since"].as_str().unwrap();
    let fraction = since
        .trim_end_matches('Z')
        .split_once('.')
        .map_or(0, |(_, ms)| ms.len());
    assert!(fraction <= 3, "{since}");
}

#[test]
fn without_a_daemon_the_status_says_what_waits_in_the_file() {
    let home = Home::new();
    let daemon = home.daemon();
    wait_until("the state is known", || home.state() == "needs_login");
    daemon.stop();
    let file = rusqlite::Connection::open(home.path().join("context.db")).unwrap();
    file.execute(
        "INSERT INTO messages (hash, session_id, role, content) VALUES ('h', 's', 'user', 'hello')",
        [],
    )
    .unwrap();
    let output = home.run(&["status"]);
    assert_eq!(code(&output), 3);
    let shown = stdout(&output);
    assert!(shown.contains("not running, and 1 change is not sent"), "{shown}");
    assert!(shown.contains("\n            coditect-sync --home"), "{shown}");
}
