//! One workstation's life: logging in and out, tokens that expire, pausing, stopping, a second daemon.

use std::time::Duration;

use coditect_tests::daemon::Workstation;
use coditect_tests::deadline::PATIENCE;
use coditect_tests::writer;
use jiff::Timestamp;

use crate::pair::{is_settled, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_before_a_login_rows_are_captured_and_afterwards_they_are_sent() {
    let (server, token) = server().await;
    let mut a = Workstation::new();
    a.run().await;
    let status = a.wait_for_state("needs_login").await;
    assert_eq!(status["account"], serde_json::Value::Null);
    writer::message(&a.open(), "s", "written before the login").unwrap();
    let waiting = a.cli(&["sync", "--wait"]).await;
    assert_eq!(waiting.status.code(), Some(4), "{waiting:#?}");
    a.login(&server.url, &token).await.ok();
    let status = a.wait_until("in sync", is_settled).await;
    assert_eq!(status["account"]["tenant"], "acme");
    assert_eq!(status["account"]["user"], "a@acme.test");
    assert_eq!(status["account"]["credential_store"], "file");
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_asks_for_a_login_and_loses_nothing() {
    let (server, token) = server().await;
    let mut a = Workstation::new();
    a.login(&server.url, &token).await.ok();
    // What the file would hold an hour later.
    let caller = coditect_server::auth::verify(&server.state.keys, &token).unwrap();
    let hour = Duration::from_secs(3600);
    let expired = server.token_issued_at(&caller, Timestamp::now() - 2 * hour, hour);
    let credentials = a.home().join("credentials");
    let text = std::fs::read_to_string(&credentials).unwrap();
    std::fs::write(&credentials, text.replace(&token, &expired)).unwrap();
    a.run().await;
    a.wait_for_state("needs_login").await;
    writer::message(&a.open(), "s", "written meanwhile").unwrap();
    let log = a.daemon().log();
    assert!(!log.contains(&expired), "P15: the log shows a token");
    a.login(&server.url, &token).await.ok();
    a.wait_until("in sync", is_settled).await;
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_account_is_refused_for_a_file_that_is_bound() {
    let (server, token) = server().await;
    let tenant = server.tenant("rival").await;
    let rival = server
        .user(tenant, "b@rival.test", coditect_server::auth::Role::Member)
        .await;
    let a = Workstation::start(&server.url, &token).await;
    let refused = a.login(&server.url, &server.token(&rival)).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
    assert!(refused.stderr.contains("belongs to"), "{refused:#?}");
    writer::message(&a.open(), "s", "still acme's").unwrap();
    a.sync().await;
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logged_out_says_so_and_keeps_the_rows_for_the_next_login() {
    let (server, token) = server().await;
    let a = Workstation::start(&server.url, &token).await;
    a.wait_for_state("in_sync").await;
    a.cli(&["logout"]).await.ok();
    a.wait_for_state("needs_login").await;
    writer::message(&a.open(), "s", "written while logged out").unwrap();
    a.login(&server.url, &token).await.ok();
    a.wait_until("in sync", is_settled).await;
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_on_the_same_file_is_refused() {
    let (server, token) = server().await;
    let a = Workstation::start(&server.url, &token).await;
    let second = a.cli(&["run"]).await;
    assert_eq!(second.status.code(), Some(1), "{second:#?}");
    // Another home that names the same file.
    let other = Workstation::new();
    let mut command = other.command();
    command.arg("--context-db").arg(a.context_db()).arg("run");
    let second = coditect_tests::program::output(&mut command, "").await;
    assert_eq!(second.status.code(), Some(1), "{second:#?}");
    a.wait_until("the first goes on", is_settled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_stops_it_cleanly_in_the_middle_of_work() {
    let (server, token) = server().await;
    let mut a = Workstation::start(&server.url, &token).await;
    let mut file = a.open();
    let tx = file.transaction().unwrap();
    for n in 0..5_000 {
        writer::message(&tx, "s", &format!("row {n}")).unwrap();
    }
    tx.commit().unwrap();
    a.wait_until("work has begun", |status| {
        status["outbox"]["pending"] != 0 || status["push"]["rows_total"] != 0
    })
    .await;
    let status = a.terminate(PATIENCE).await;
    assert!(status.success(), "{status:?}");
    assert!(
        !a.home().join("sync.sock").exists(),
        "the socket goes with the daemon"
    );
    a.run().await;
    a.sync().await;
    assert_eq!(server.database.count("context_messages").await, 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_nothing_is_sent_and_resumed_everything_is() {
    let (server, token) = server().await;
    let a = Workstation::start(&server.url, &token).await;
    a.wait_for_state("in_sync").await;
    a.cli(&["pause"]).await.ok();
    a.wait_for_state("paused").await;
    writer::message(&a.open(), "s", "written while paused").unwrap();
    let status = a
        .wait_until("it is noticed", |status| status["outbox"]["pending"] == 1)
        .await;
    assert_eq!(status["state"], "paused");
    assert_eq!(server.database.count("context_messages").await, 0);
    a.cli(&["resume"]).await.ok();
    a.wait_until("in sync", is_settled).await;
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_home_socket_and_credentials_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let (server, token) = server().await;
    let a = Workstation::start(&server.url, &token).await;
    for (file, mode) in [("sync.sock", 0o600), ("credentials", 0o600)] {
        let found = std::fs::metadata(a.home().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o777, mode, "{file}");
    }
}
