//! Consent: what an excluded project holds reaches neither the wire nor PostgreSQL, and arrives once it is included.

use std::path::Path;

use coditect_tests::contents::Contents;
use coditect_tests::daemon::Workstation;
use coditect_tests::proxy::{Fault, Proxy};
use coditect_tests::server::TestServer;
use coditect_tests::writer;
use rusqlite::Connection;

use crate::pair::server;

/// Stands in every text of the project that must not leave.
const SECRET: &str = "the-vault-is-behind-the-mill";

const PUSH: &str = "POST /api/v1/context/push";

/// A workstation whose daemon is not running, behind a relay that sees all that leaves.
async fn workstation(settings: &str) -> (TestServer, Proxy, Workstation, String) {
    let (server, token) = server().await;
    let proxy = Proxy::before(&server.url).await;
    let workstation = Workstation::new();
    std::fs::write(workstation.home().join("config.toml"), settings).unwrap();
    (server, proxy, workstation, token)
}

/// A session of a project: two messages, a task and a link between them, as `ingest` writes them.
fn work(file: &Connection, project: &str, said: &str) -> i64 {
    let session = format!("session of {project}");
    let first = say(file, project, &format!("{said}, first"));
    say(file, project, &format!("{said}, second"));
    let task = writer::task(file, &session, said).unwrap();
    file.execute(
        "UPDATE task_tracking SET project_id = ?2 WHERE id = ?1",
        [&task, project],
    )
    .unwrap();
    writer::link(file, &task, first, 1).unwrap();
    first
}

fn say(file: &Connection, project: &str, said: &str) -> i64 {
    let context = format!("{{\"project\":\"{project}\"}}");
    file.execute(
        "INSERT INTO messages (hash, session_id, role, content, source_file, agent_context)
         VALUES (hex(randomblob(16)), ?1, 'user', ?2, ?3, ?4)",
        [
            &format!("session of {project}"),
            said,
            &format!("-home-ada-{project}/s.jsonl"),
            &context,
        ],
    )
    .unwrap();
    file.last_insert_rowid()
}

/// Messages, tasks and links in PostgreSQL.
async fn cloud(server: &TestServer) -> [i64; 3] {
    let database = &server.database;
    [
        database.count("context_messages").await,
        database.count("context_task_tracking").await,
        database.count("context_task_messages").await,
    ]
}

/// Rows of any table of PostgreSQL, and files under its server's roof, that hold the text.
async fn in_database(server: &TestServer, text: &str) -> i64 {
    let mut found = 0;
    for table in [
        "context_messages",
        "context_message_versions",
        "context_task_tracking",
        "task_events",
        "context_push_log",
        "audit_log",
    ] {
        found += server
            .database
            .count(&format!("{table} t WHERE t::text LIKE '%{text}%'"))
            .await;
    }
    found
}

async fn excluded(workstation: &Workstation, rows: u64) {
    let status = workstation
        .wait_until("the excluded rows are set aside and the rest is sent", |status| {
            status["outbox"]["excluded"] == rows && status["state"] == "in_sync"
        })
        .await;
    assert_eq!(status["safe_to_power_off"], true, "{status:#}");
    assert_eq!(status["outbox"]["pending"], 0, "{status:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p11_an_excluded_project_never_leaves_until_it_is_included_and_then_arrives_everywhere() {
    let (server, proxy, mut a, token) = workstation("[projects]\nexclude = [\"vault\"]\n").await;
    let file = a.create_context_db();
    work(&file, "harbour", "a crane for the quay");
    let vault = work(&file, "vault", SECRET);
    a.login(&proxy.url, &token).await.ok();
    a.run().await;
    a.sync().await;
    excluded(&a, 3).await;
    assert_eq!(cloud(&server).await, [2, 1, 1]);

    // Also what is written while it runs.
    say(&file, "vault", &format!("{SECRET}, third"));
    say(&file, "harbour", "third");
    a.sync().await;
    excluded(&a, 4).await;
    assert_eq!(
        (proxy.carried(SECRET), in_database(&server, SECRET).await),
        (0, 0)
    );
    assert!(
        in_database(&server, "a crane").await > 0 && proxy.carried("a crane") > 0,
        "both would show it"
    );

    // Equal for what was sent, which is what another device gets.
    let proof = a.verify().await;
    assert_eq!(
        (&proof["equal"], &proof["excluded"]),
        (&true.into(), &4.into()),
        "{proof:#}"
    );
    assert!(
        a.cli(&["verify"])
            .await
            .ok()
            .contains("4 rows of excluded projects are only here")
    );
    let b = Workstation::start(&server.url, &token).await;
    b.sync().await;
    assert_eq!(writer::count(&b.open(), "messages"), 3);
    assert_eq!(
        writer::count(&b.open(), "messages WHERE content LIKE '%vault%'"),
        0
    );
    assert_eq!(b.verify().await["equal"], true);

    a.cli(&["projects", "include", "vault"]).await.ok();
    a.wait_until("the vault is sent", |status| {
        status["outbox"]["excluded"] == 0 && status["state"] == "in_sync"
    })
    .await;
    assert_eq!(cloud(&server).await, [6, 2, 2]);
    b.sync().await;
    Contents::of(&a).assert_same(&Contents::of(&b));
    assert!(proxy.carried(SECRET) > 0, "the relay would have seen it");

    // What was pushed stays, and what becomes of it here stays here.
    a.cli(&["projects", "exclude", "vault"]).await.ok();
    let edited = format!("{SECRET}, sold");
    file.execute(
        "UPDATE messages SET content = ?2 WHERE id = ?1",
        rusqlite::params![vault, edited],
    )
    .unwrap();
    a.sync().await;
    excluded(&a, 1).await;
    assert_eq!((cloud(&server).await, proxy.carried(", sold")), ([6, 2, 2], 0));
    let proof = a.verify().await;
    assert_eq!(
        (&proof["equal"], &proof["excluded"]),
        (&true.into(), &1.into()),
        "{proof:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_by_default_sends_only_what_is_included() {
    let settings = "[projects]\ndefault = \"exclude\"\ninclude = [\"light*\"]\n";
    let (server, proxy, mut a, token) = workstation(settings).await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/sample");
    a.cli(&["ingest", sample.to_str().unwrap()]).await.ok();
    let file = a.open();
    say(&file, "unheard-of", SECRET);
    a.login(&proxy.url, &token).await.ok();
    a.run().await;
    a.sync().await;
    let lighthouse = "messages WHERE source_file LIKE '%lighthouse/%'";
    let (sent, all) = (writer::count(&file, lighthouse), writer::count(&file, "messages"));
    assert!(0 < sent && sent < all, "{sent} of {all}");
    assert_eq!(cloud(&server).await[0], sent);
    assert_eq!(
        server
            .database
            .count("context_messages WHERE metadata::text LIKE '%harbour%'")
            .await,
        0
    );
    assert_eq!((proxy.carried(SECRET), proxy.carried("code/harbour/")), (0, 0));
    assert_eq!(a.verify().await["equal"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_had_not_left_when_its_project_was_excluded_does_not_leave() {
    let (server, proxy, mut a, token) = workstation("").await;
    a.login(&proxy.url, &token).await.ok();
    a.run().await;
    a.wait_for_state("in_sync").await;
    proxy.always(PUSH, Fault::Refuse);
    let file = a.open();
    say(&file, "harbour", "of the same batch");
    say(&file, "vault", SECRET);
    proxy.wait_for_faults(PUSH, 1).await;
    a.cli(&["projects", "exclude", "vault"]).await.ok();
    proxy.heal();
    a.sync().await;
    excluded(&a, 1).await;
    assert_eq!(
        (cloud(&server).await[0], in_database(&server, SECRET).await),
        (1, 0)
    );
    assert_eq!(a.verify().await["equal"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_p14_a_batch_whose_answer_was_lost_before_its_project_was_excluded_parts_nothing() {
    let (server, proxy, mut a, token) = workstation("").await;
    a.login(&proxy.url, &token).await.ok();
    a.run().await;
    let device = a.wait_for_state("in_sync").await["account"]["device_id"].clone();
    // It arrives, and no answer does; nothing can be sent after that.
    proxy.always(PUSH, Fault::Refuse);
    proxy.once(PUSH, Fault::LoseAnswer);
    let file = a.open();
    say(&file, "vault", SECRET);
    proxy.wait_for_faults(PUSH, 1).await;
    a.cli(&["projects", "exclude", "vault"]).await.ok();
    a.kill().await;
    proxy.heal();
    a.run().await;
    a.sync().await;
    // It has left, and counts as that.
    excluded(&a, 0).await;
    assert_eq!(cloud(&server).await[0], 1);
    say(&file, "harbour", "goes on");
    say(&file, "vault", "stays");
    a.sync().await;
    excluded(&a, 1).await;
    assert_eq!(cloud(&server).await[0], 2);
    assert_eq!(
        a.status().await.unwrap()["account"]["device_id"],
        device,
        "nothing parted"
    );
    assert_eq!(a.verify().await["equal"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_daemon_that_starts_without_the_settings_that_judged_its_file_sends_nothing_until_they_are_back()
{
    let settings = "[projects]\ndefault = \"exclude\"\ninclude = [\"harbour\"]\n";
    let (server, proxy, mut a, token) = workstation(settings).await;
    let config = a.home().join("config.toml");
    let file = a.create_context_db();
    work(&file, "harbour", "a crane for the quay");
    work(&file, "vault", SECRET);
    a.login(&proxy.url, &token).await.ok();
    a.run().await;
    a.sync().await;
    excluded(&a, 3).await;
    for lost in [None, Some("\n")] {
        a.kill().await;
        match lost {
            None => std::fs::remove_file(&config).unwrap(),
            Some(text) => std::fs::write(&config, text).unwrap(),
        }
        let before = cloud(&server).await;
        say(&file, "vault", SECRET);
        say(&file, "harbour", "another crane");
        a.run().await;
        let status = a.wait_for_state("blocked").await;
        assert_eq!(status["last_error"]["code"], "settings_gone", "{status:#}");
        assert_eq!(status["safe_to_power_off"], false, "{status:#}");
        let command = status["next_command"].as_str().unwrap();
        assert!(
            command.contains("config set projects.default include"),
            "{command}"
        );
        assert_eq!(a.cli(&["sync", "--wait"]).await.status.code(), Some(1));
        assert_eq!(cloud(&server).await, before);

        std::fs::write(&config, settings).unwrap();
        a.wait_for_state("in_sync").await;
        assert_eq!(cloud(&server).await, [before[0] + 1, before[1], before[2]]);
    }
    assert_eq!(in_database(&server, SECRET).await, 0);

    // To say that all may go is an answer too.
    a.kill().await;
    std::fs::remove_file(&config).unwrap();
    a.run().await;
    a.wait_for_state("blocked").await;
    a.cli(&["config", "set", "projects.default", "include"])
        .await
        .ok();
    a.wait_for_state("in_sync").await;
    assert!(in_database(&server, SECRET).await > 0);
}
