//! P1, P5, P16: what one device has, the other gets, once and without echo.

use coditect_tests::contents::Contents;
use coditect_tests::daemon::Workstation;
use coditect_tests::{deadline, writer};

use crate::pair::{Pair, is_settled, sent};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_rows_of_every_kind_arrive_with_every_column_without_being_asked_for() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    file.execute_batch(
        "INSERT INTO messages (hash, session_id, role, content, source_type, source_file, checkpoint, timestamp,
                               extracted_at, content_length, has_code, has_markdown, agent_context)
         VALUES ('h1', 's', 'tool', '', 'tool_result', 'p/s.jsonl', 'c', '2026-11-24 07:00', 'yesterday', 0, 1, 0, 'x'),
                ('h2', NULL, 'user', 'no session', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
         INSERT INTO task_tracking VALUES
                ('6f4f1d0e-0000-4000-8000-000000000001', '7', 'write it', 'writing it', 's', 'acme/shop', 'completed',
                 'partial', 0.1, 3, 27, 0, '2026-11-24T06:00:00Z', '2026-11-24T07:00:00+01:00', 'now');",
    )
    .unwrap();
    let id = writer::message(&file, "s", "linked").unwrap();
    writer::link(&file, "6f4f1d0e-0000-4000-8000-000000000001", id, 1).unwrap();

    let written = Contents::of(&pair.a);
    deadline::until(
        "B has what A wrote",
        async || Contents::of(&pair.b),
        |b| *b == written,
    )
    .await;
    pair.converge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_pulled_rows_are_not_sent_back() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    for n in 0..50 {
        writer::message(&file, "s", &format!("text {n}")).unwrap();
    }
    writer::task(&file, "s", "a task").unwrap();
    pair.converge().await;
    let (a, b) = (pair.a.status().await.unwrap(), pair.b.status().await.unwrap());
    assert_eq!((sent(&a), sent(&b)), (51, 0));
    assert_eq!(b["pull"]["rows_total"], 51);
    assert_eq!(writer::count(&pair.b.open(), "sync_queue"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_a_sync_with_nothing_to_do_writes_nothing_to_the_file() {
    let pair = Pair::start().await;
    writer::message(&pair.a.open(), "s", "one row").unwrap();
    pair.converge().await;
    let file = pair.a.open();
    let version = |file: &rusqlite::Connection| -> i64 {
        file.query_row("PRAGMA data_version", [], |row| row.get(0))
            .unwrap()
    };
    let before = version(&file);
    for _ in 0..3 {
        pair.a.sync().await;
    }
    assert_eq!(version(&file), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_devices_writing_at_once_end_with_the_same_rows() {
    let pair = Pair::start().await;
    let write = |workstation: &Workstation, name: &'static str| {
        let file = workstation.open();
        tokio::task::spawn_blocking(move || {
            for n in 0..300 {
                writer::message(&file, "shared session", &format!("{name} {n}")).unwrap();
            }
        })
    };
    let (one, other) = tokio::join!(write(&pair.a, "from A"), write(&pair.b, "from B"));
    one.unwrap();
    other.unwrap();
    assert_eq!(pair.converge().await.message_count(), 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_daemon_goes_on_where_it_was() {
    let mut pair = Pair::start().await;
    writer::message(&pair.a.open(), "s", "before").unwrap();
    pair.converge().await;
    pair.b.terminate(deadline::PATIENCE).await;
    // While nobody watches, both files go on.
    writer::message(&pair.b.open(), "s", "written while the daemon was off").unwrap();
    writer::message(&pair.a.open(), "s", "sent while the daemon was off").unwrap();
    pair.b.run().await;
    assert_eq!(pair.converge().await.message_count(), 3);
    let status = pair.b.status().await.unwrap();
    assert_eq!(status["pull"]["rows_total"], 1, "{status:#}");
    assert_eq!(sent(&status), 1, "{status:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_device_that_comes_late_gets_everything() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    let task = writer::task(&file, "s", "a task").unwrap();
    for n in 0..5 {
        let id = writer::message(&file, "s", "yes").unwrap();
        writer::link(&file, &task, id, n).unwrap();
    }
    let expected = pair.converge().await;
    let late = Workstation::start(&pair.server.url, &pair.token).await;
    late.wait_until("all is there", is_settled).await;
    late.sync().await;
    expected.assert_same(&Contents::of(&late));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p16_verify_sees_a_row_that_the_cloud_has_lost() {
    let pair = Pair::start().await;
    writer::message(&pair.a.open(), "s", "kept").unwrap();
    writer::message(&pair.a.open(), "s", "lost").unwrap();
    pair.converge().await;
    let cloud = pair.server.database.look().await;
    cloud
        .execute("DELETE FROM context_messages WHERE content = 'lost'", &[])
        .await
        .unwrap();
    let output = pair.a.cli(&["verify", "--json"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:#?}");
    let verdict: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(verdict["equal"], false, "{verdict:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_here_stays_in_the_cloud_and_on_the_other_device() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    writer::message(&file, "s", "kept").unwrap();
    writer::message(&file, "s", "purged").unwrap();
    pair.converge().await;
    file.execute("DELETE FROM messages WHERE content = 'purged'", [])
        .unwrap();
    pair.a.sync().await;
    pair.b.sync().await;
    assert_eq!(writer::count(&pair.b.open(), "messages"), 2);
    assert_eq!(pair.server.database.count("context_messages").await, 2);
    // The cloud's surplus is known to have been deleted here: that is equality, and nothing comes back.
    assert_eq!(pair.a.verify().await["equal"], true);
    pair.a.sync().await;
    assert_eq!(writer::count(&file, "messages"), 1);
}
