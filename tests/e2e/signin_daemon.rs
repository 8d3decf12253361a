//! Device login of the real workstation: shown, approved, kept alive, ended.

use std::process::Stdio;

use coditect_tests::daemon::Workstation;
use coditect_tests::deadline::until;
use coditect_tests::oauth::set_password;
use coditect_tests::program::Output;
use coditect_tests::server::ServerProcess;
use coditect_tests::visitor::Visitor;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;

/// A `login` that waits for approval.
struct Login {
    child: Child,
    rest: BufReader<tokio::process::ChildStdout>,
    /// What it shows.
    codes: Value,
}

impl Login {
    async fn begin(workstation: &Workstation, server: &ServerProcess) -> Login {
        let mut child = workstation
            .command()
            .args([
                "login",
                "--server",
                &server.url(),
                "--insecure-storage",
                "--yes",
                "--json",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut rest = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        rest.read_line(&mut line).await.unwrap();
        let codes = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Login { child, rest, codes }
    }

    fn code(&self) -> &str {
        self.codes["user_code"].as_str().unwrap()
    }

    async fn approved_by_operator(self, server: &ServerProcess) -> Output {
        server
            .cli(&["device", "approve", self.code(), "--user", "a@acme.test"])
            .await
            .ok();
        self.end().await
    }

    async fn end(mut self) -> Output {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.rest.read_to_string(&mut stdout).await.unwrap();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .await
            .unwrap();
        let status = self.child.wait().await.unwrap();
        Output {
            status,
            stdout,
            stderr,
        }
    }
}

/// Nothing of a login is left on the workstation.
fn assert_nothing_stored(workstation: &Workstation) {
    for file in ["account.json", "credentials", "context.db"] {
        assert!(!workstation.home().join(file).exists(), "{file}");
    }
}

fn write_messages(workstation: &Workstation, from: usize, rows: usize) {
    let writer = workstation.open();
    for n in from..from + rows {
        let text = format!("message {n}");
        let insert = "INSERT INTO messages (hash, session_id, role, content) VALUES (?1, 's', 'user', ?1)";
        writer.execute(insert, [&text]).unwrap();
    }
}

#[tokio::test]
async fn login_approved_on_the_page_and_the_first_sync_need_no_other_step() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let mut workstation = Workstation::new();
    let login = Login::begin(&workstation, &server).await;
    let mut visitor = Visitor::new(&server.url());
    let page = visitor
        .open(login.codes["verification_uri_complete"].as_str().unwrap())
        .await
        .expect(200);
    let fields = [
        ("email", "a@acme.test"),
        ("password", coditect_tests::oauth::PASSWORD),
    ];
    let page = visitor.send(&page, &fields).await.expect(200);
    visitor
        .send_to(&page, "/device/decide", &[("decision", "approve")])
        .await
        .expect(200);
    let done = login.end().await.json();
    assert_eq!(done["account"]["user"], "a@acme.test");
    assert_eq!(done["token_expires_at"], Value::Null);

    workstation.run().await;
    write_messages(&workstation, 0, 3);
    workstation.sync().await;
    assert_eq!(server.database.count("context_messages").await, 3);
    assert_eq!(workstation.cli(&["verify", "--json"]).await.json()["equal"], true);
    let secrets = std::fs::read_to_string(workstation.home().join("credentials")).unwrap();
    let log = workstation.daemon().log();
    let refresh = secrets
        .split("refresh_token")
        .nth(1)
        .unwrap()
        .trim_matches(|c: char| !c.is_alphanumeric());
    assert!(!log.contains(&refresh[..60]), "p15: {log}");

    // Logging out ends the device at the server too.
    let out = workstation.cli(&["logout", "--json"]).await.json();
    assert_eq!(out["device_revoked"], true);
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_reason = 'logout'")
            .await,
        1
    );
    workstation.wait_for_state("needs_login").await;
}

#[tokio::test]
async fn a_login_that_is_denied_or_given_up_stores_nothing() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let workstation = Workstation::new();
    let login = Login::begin(&workstation, &server).await;
    let mut visitor = Visitor::new(&server.url());
    let page = visitor
        .open(login.codes["verification_uri_complete"].as_str().unwrap())
        .await
        .expect(200);
    let fields = [
        ("email", "a@acme.test"),
        ("password", coditect_tests::oauth::PASSWORD),
    ];
    let page = visitor.send(&page, &fields).await.expect(200);
    visitor
        .send_to(&page, "/device/decide", &[("decision", "deny")])
        .await
        .expect(200);
    let denied = login.end().await;
    assert_eq!(denied.status.code(), Some(4), "{}", denied.stderr);
    assert!(denied.stderr.contains("denied"), "{}", denied.stderr);
    assert_nothing_stored(&workstation);

    let login = Login::begin(&workstation, &server).await;
    let pid = Pid::from_raw(login.child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let given_up = login.end().await;
    assert_eq!(given_up.status.code(), Some(1), "{}", given_up.stderr);
    assert!(
        given_up.stderr.contains("nothing was stored"),
        "{}",
        given_up.stderr
    );
    assert_nothing_stored(&workstation);
}

#[tokio::test]
async fn tokens_that_end_in_mid_sync_are_renewed_unnoticed() {
    let mut server = ServerProcess::start().await;
    server.serve_arguments = vec!["--access-token-ttl=2s".to_owned()];
    server.kill().await;
    server.run().await;
    let mut workstation = Workstation::new();
    let login = Login::begin(&workstation, &server).await;
    login.approved_by_operator(&server).await.ok();
    workstation.run().await;
    let mut rows = 0;
    let renewed = "audit_log WHERE details->>'refresh_token' = 'rotated'";
    while server.database.count(renewed).await < 4 {
        write_messages(&workstation, rows, 500);
        rows += 500;
        workstation.sync().await;
        let status = workstation.status().await.unwrap();
        assert_eq!(status["last_error"], Value::Null, "{status}");
    }
    assert_eq!(server.database.count("context_messages").await, rows as i64);
    let log = workstation.daemon().log();
    assert!(!log.contains("a step failed"), "{log}");
    // Another process of this workstation renews too, and neither ends the other's login.
    assert_eq!(workstation.verify().await["equal"], true);
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn whoever_dies_between_the_servers_answer_and_storing_it_goes_on_with_what_is_stored() {
    let mut server = ServerProcess::start().await;
    server.serve_arguments = vec!["--access-token-ttl=2s".to_owned()];
    server.kill().await;
    server.run().await;
    let mut workstation = Workstation::new();
    let login = Login::begin(&workstation, &server).await;
    login.approved_by_operator(&server).await.ok();
    let credentials = workstation.home().join("credentials");
    let before = std::fs::read(&credentials).unwrap();
    workstation.run().await;
    until(
        "the daemon has renewed its tokens",
        async || std::fs::read(&credentials).unwrap(),
        |now| *now != before,
    )
    .await;
    workstation.kill().await;
    // As if it had died before it stored them. (The server takes the former pair until the new one is used.)
    std::fs::write(&credentials, &before).unwrap();
    workstation.run().await;
    write_messages(&workstation, 0, 1);
    workstation.sync().await;
    assert_eq!(server.database.count("context_messages").await, 1);
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn a_revoked_device_needs_a_login_and_loses_nothing() {
    let mut server = ServerProcess::start().await;
    server.serve_arguments = vec!["--access-token-ttl=2s".to_owned()];
    server.kill().await;
    server.run().await;
    let mut workstation = Workstation::new();
    let login = Login::begin(&workstation, &server).await;
    login.approved_by_operator(&server).await.ok();
    workstation.run().await;
    write_messages(&workstation, 0, 10);
    workstation.sync().await;
    let listed = server.cli(&["device", "list", "--json"]).await.json();
    let device = listed["devices"][0]["id"].as_str().unwrap().to_owned();
    server.cli(&["device", "revoke", &device]).await.ok();
    // What it was given before ends within moments, while it goes on writing.
    let mut rows = 10;
    while workstation.status().await.unwrap()["state"] != "needs_login" {
        write_messages(&workstation, rows, 10);
        rows += 10;
        workstation.sync_if_possible().await;
    }
    write_messages(&workstation, rows, 10);
    rows += 10;
    workstation
        .wait_until("what is written now waits", |status| {
            let pending = status["outbox"]["pending"].as_i64();
            status["state"] == "needs_login" && pending.is_some_and(|pending| pending >= 10)
        })
        .await;

    let login = Login::begin(&workstation, &server).await;
    login.approved_by_operator(&server).await.ok();
    workstation.sync().await;
    assert_eq!(server.database.count("context_messages").await, rows as i64);
    let listed = server.cli(&["device", "list", "--json"]).await.json();
    assert_eq!(
        listed["devices"].as_array().unwrap().len(),
        1,
        "the same device again: {listed}"
    );
}
