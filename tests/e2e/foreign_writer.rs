//! A program that writes context.db through a SQLite library while the daemon runs: nothing of it is lost or doubled,
//! and none of its writes fails (each write here is unwrapped).

use coditect_tests::contents::Contents;
use coditect_tests::writer;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::pair::Pair;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_single_commits_and_large_transactions_all_arrive() {
    let pair = Pair::start().await;
    let mut file = pair.a.open();
    let writing = tokio::task::spawn_blocking(move || {
        for n in 0..150 {
            writer::message(&file, "single", &format!("commit {n}")).unwrap();
        }
        let tx = file
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .unwrap();
        for n in 0..10_000 {
            writer::message(&tx, "bulk", &format!("row {n} of one transaction")).unwrap();
        }
        tx.commit().unwrap();
        for n in 150..300 {
            writer::message(&file, "single", &format!("commit {n}")).unwrap();
        }
    });
    writing.await.unwrap();
    assert_eq!(pair.converge().await.message_count(), 10_300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_texts_and_session_ids_arrive_as_they_are() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    let megabyte = "ünï:\u{1F980}\n".repeat(100_000);
    let long_session = "s".repeat(255);
    for (session, content) in [
        // One hash for both, since it joins session and content by a colon; two rows all the same.
        ("a:b", "c"),
        ("a", "b:c"),
        ("", "an empty session id"),
        (":", ":"),
        (long_session.as_str(), "a session id of the greatest length"),
        ("s", ""),
        ("s", " "),
        ("s", "\r\n\t'\"\\%_;--"),
        (
            "s",
            "\u{feff}BOM, combining e\u{301}, right to left \u{202e}abc, 漢字, \u{1F468}\u{200D}\u{1F469}",
        ),
        ("セッション:ü", "{\"json\": [1, 2.50, null]}"),
        ("s", megabyte.as_str()),
        ("s", "\u{1}\u{7f}\u{fffd}\u{10ffff}"),
    ] {
        writer::message(&file, session, content).unwrap();
    }
    for _ in 0..5 {
        writer::message(&file, "s", "yes").unwrap();
    }
    file.execute(
        "INSERT INTO messages (hash, session_id, role, content) VALUES ('n', NULL, 'user', 'no session')",
        [],
    )
    .unwrap();
    assert_eq!(pair.converge().await.message_count(), 12 + 5 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_replaced_under_its_own_hash_stays_one_row() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    let replace = |file: &Connection, content: &str| {
        file.execute(
            "INSERT OR REPLACE INTO messages (hash, session_id, role, content) VALUES ('streamed', 's', 'assistant', ?1)",
            [content],
        )
        .unwrap();
    };
    writer::message(&file, "s", "another row, so that ids move on").unwrap();
    for n in 0..30 {
        // A new rowid each time; whether the daemon has seen the one before is up to chance.
        replace(&file, &format!("the answer so far, part {n}"));
        if n % 10 == 9 {
            pair.a.sync().await;
        }
    }
    // The same again changes nothing.
    replace(&file, "the answer so far, part 29");
    let contents = pair.converge().await;
    assert_eq!(contents.message_count(), 2, "{contents:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_replaced_under_its_own_id_stays_one_row() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    for n in 0..10 {
        file.execute(
            "INSERT OR REPLACE INTO messages (id, hash, session_id, role, content) VALUES (7, 'fixed', 's', 'user', ?1)",
            [format!("draft {n}")],
        )
        .unwrap();
        if n == 4 {
            pair.converge().await;
        }
    }
    assert_eq!(pair.converge().await.message_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_updated_fifty_times_is_one_message() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    let id = writer::message(&file, "s", "").unwrap();
    for n in 0..50 {
        file.execute(
            "UPDATE messages SET content = content || ?2, content_length = ?3 WHERE id = ?1",
            params![id, format!("word{n} "), n],
        )
        .unwrap();
        if n % 16 == 0 {
            // So that several versions are really sent, whatever the daemon's pace.
            pair.a.sync().await;
        }
    }
    let contents = pair.converge().await;
    assert_eq!(contents.message_count(), 1);
    let expected: String = (0..50).map(|n| format!("word{n} ")).collect();
    assert_eq!(
        writer::text(&pair.b.open(), "SELECT content FROM messages"),
        expected
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_updated_ten_times_and_back_to_its_first_state_ends_in_that_state() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    let followed = writer::task(&file, "s", "every version is sent").unwrap();
    let folded = writer::task(&file, "s", "some versions are sent").unwrap();
    for status in [
        "in_progress",
        "completed",
        "in_progress",
        "pending",
        "in_progress",
    ]
    .into_iter()
    .chain(["completed", "pending", "completed", "in_progress", "pending"])
    {
        writer::set_status(&file, &followed, status).unwrap();
        writer::set_status(&file, &folded, status).unwrap();
        pair.a.sync().await;
        writer::set_status(&file, &folded, "completed").unwrap();
        writer::set_status(&file, &folded, status).unwrap();
    }
    assert_eq!(pair.converge().await.task_count(), 2);
    for task in [&followed, &folded] {
        let query = format!("SELECT status FROM task_tracking WHERE id = '{task}'");
        assert_eq!(writer::text(&pair.b.open(), &query), "pending");
    }
    let versions = format!("task_events WHERE id = '{followed}'");
    assert!(pair.server.database.count(&versions).await >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_rolled_back_leaves_nothing_anywhere() {
    let pair = Pair::start().await;
    let mut file = pair.a.open();
    let tx = file.transaction().unwrap();
    writer::message(&tx, "s", "never happened").unwrap();
    tx.rollback().unwrap();
    writer::message(&file, "s", "happened").unwrap();
    assert_eq!(pair.converge().await.message_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_rebuilt_by_its_owner_is_still_captured() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    writer::message(&file, "s", "before").unwrap();
    pair.converge().await;
    // The recipe of SQLite's manual: it takes our triggers along with the old table.
    let columns =
        "id, hash, session_id, role, content, source_type, source_file, checkpoint, timestamp, extracted_at,
                   content_length, has_code, has_markdown, agent_context";
    let create = writer::text(&file, "SELECT sql FROM sqlite_master WHERE name = 'messages'").replacen(
        "messages",
        "messages_new",
        1,
    );
    file.execute_batch(&format!(
        "BEGIN IMMEDIATE; {create}; INSERT INTO messages_new ({columns}) SELECT {columns} FROM messages;
         INSERT INTO messages_new (hash, session_id, role, content) VALUES ('d', 's', 'user', 'during');
         DROP TABLE messages; ALTER TABLE messages_new RENAME TO messages; COMMIT"
    ))
    .unwrap();
    writer::message(&file, "s", "after").unwrap();
    assert_eq!(pair.converge().await.message_count(), 3);
    let a = Contents::of(&pair.a);
    a.assert_same(&Contents::of(&pair.b));
}
