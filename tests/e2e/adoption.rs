//! A context.db that another program made: adopted as it is, its rows sent once, its settings and triggers untouched.

use coditect_tests::daemon::Workstation;
use coditect_tests::writer;

use crate::pair::{is_settled, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_fewer_columns_its_own_trigger_and_rows_takes_part() {
    let (server, token) = server().await;
    let full = Workstation::start(&server.url, &token).await;
    let mut sparse = Workstation::new();
    let file = rusqlite::Connection::open(sparse.context_db()).unwrap();
    file.execute_batch(
        "PRAGMA user_version = 77;
         CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT);
         CREATE TABLE owners_log (said TEXT);
         CREATE TRIGGER owners_trigger AFTER INSERT ON messages BEGIN
             INSERT INTO owners_log VALUES (new.content);
         END;
         INSERT INTO messages (session_id, role, content) VALUES ('old', 'user', 'from before'), ('old', 'user', 'yes'),
                                                                 ('old', 'user', 'yes');",
    )
    .unwrap();
    let schema = "SELECT group_concat(sql, ';') FROM sqlite_master
                  WHERE tbl_name IN ('messages', 'owners_log') AND substr(name, 1, 5) <> 'sync_'";
    let before = writer::text(&file, schema);
    sparse.login(&server.url, &token).await.ok();
    sparse.run().await;
    sparse.wait_until("the backfill is done", is_settled).await;
    assert_eq!(
        writer::text(&file, "PRAGMA journal_mode"),
        "delete",
        "the owner's choice"
    );

    writer::message(&full.open(), "new", "from the other device").unwrap();
    for _ in 0..2 {
        full.sync().await;
        sparse.sync().await;
    }
    for workstation in [&full, &sparse] {
        assert_eq!(writer::count(&workstation.open(), "messages"), 4);
        let verified = workstation.verify().await;
        assert_eq!(verified["equal"], true, "{verified:#}");
    }
    let user_version: i64 = file
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(user_version, 77);
    assert_eq!(writer::text(&file, schema), before);
    assert_eq!(
        writer::count(&file, "owners_log"),
        4,
        "the owner's trigger runs for pulled rows too"
    );
    assert_eq!(
        server.database.count("context_messages").await,
        4,
        "each row once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_must_not_be_null_blocks_pulled_rows_with_the_reason_and_nothing_else() {
    let (server, token) = server().await;
    let full = Workstation::start(&server.url, &token).await;
    let mut strict = Workstation::new();
    rusqlite::Connection::open(strict.context_db())
        .unwrap()
        .execute_batch(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY, hash TEXT UNIQUE NOT NULL, session_id TEXT, role TEXT,
                                    content TEXT, mood TEXT NOT NULL);
             INSERT INTO messages (hash, session_id, role, content, mood) VALUES ('h', 's', 'user', 'mine', 'calm');",
        )
        .unwrap();
    strict.login(&server.url, &token).await.ok();
    strict.run().await;
    writer::message(&full.open(), "s", "without a mood").unwrap();
    full.sync().await;
    strict.sync().await;
    full.sync().await;
    // What is written there goes out.
    assert_eq!(writer::count(&full.open(), "messages"), 2);
    // What cannot be written there is put aside, and the reason names the column.
    let list = strict.cli(&["quarantine", "list", "--json"]).await.json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list:#}");
    assert_eq!(list[0]["direction"], "down", "{list:#}");
    assert!(list[0]["message"].as_str().unwrap().contains("mood"), "{list:#}");
    assert_eq!(strict.status().await.unwrap()["outbox"]["quarantined"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_owners_trigger_changes_while_it_is_pulled_ends_the_same_everywhere() {
    let (server, token) = server().await;
    let plain = Workstation::start(&server.url, &token).await;
    let mut rewriting = Workstation::new();
    rewriting
        .create_context_db()
        .execute_batch(
            "CREATE TRIGGER owners_trigger AFTER INSERT ON messages WHEN new.content LIKE '% ' BEGIN
                 UPDATE messages SET content = rtrim(content) WHERE id = new.id;
             END;",
        )
        .unwrap();
    rewriting.login(&server.url, &token).await.ok();
    rewriting.run().await;
    writer::message(&plain.open(), "s", "trailing blanks   ").unwrap();
    let contents = coditect_tests::contents::converge(&[&plain, &rewriting]).await;
    assert_eq!(contents.message_count(), 1);
    assert_eq!(
        writer::text(&plain.open(), "SELECT content FROM messages"),
        "trailing blanks"
    );
}
