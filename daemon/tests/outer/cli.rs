//! The built program, run as a user runs it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Home {
        Home {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_coditect-sync"))
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
            .unwrap();
        // A command that wants no input may be gone before it is written.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
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
    let cases: [(&[&str], &str); 6] = [
        (&["login"], "--server"),
        (&["login", "--server", "http://127.0.0.1:1"], "--token-stdin"),
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
