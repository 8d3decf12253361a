//! What a push and a pull read is measured in rows, not in time: it depends on their own size, not on what is stored.

use coditect_shared::MessageRecord;
use coditect_shared::Origin;
use coditect_shared::hash::message_hash;
use coditect_tests::api::{Pusher, message};
use coditect_tests::deadline::until;
use coditect_tests::server::TestServer;

#[tokio::test]
async fn a_push_reads_no_more_of_the_table_than_it_names_even_before_postgresql_has_statistics() {
    const BATCHES: usize = 6;
    const ROWS: usize = 400;
    let server = TestServer::start().await;
    let look = server.database.look().await;
    // Nobody looks at the new tables before the first sync is through.
    for table in ["context_messages", "context_message_versions", "context_push_log"] {
        look.batch_execute(&format!("ALTER TABLE {table} SET (autovacuum_enabled = off)"))
            .await
            .unwrap();
    }
    let (caller, api) = server.acme().await;
    let mut pusher = Pusher::new(api.clone());
    // One session, the worst case: all rows share tenant, user and session.
    let text = |batch: usize, n: usize| format!("{batch}.{n}");
    let rows = |batch: usize| {
        (0..ROWS)
            .map(|n| message("s", &text(batch, n)))
            .collect::<Vec<_>>()
    };
    for batch in 0..BATCHES {
        pusher.messages(rows(batch)).await;
    }
    let edit = |n: usize| MessageRecord {
        origin: Some(Origin {
            session_id: "s".into(),
            content_hash: message_hash(caller.tenant, "s", &text(2, n)),
            occurrence: 0,
        }),
        ..message("s", &format!("edited {n}"))
    };
    pusher.messages((0..ROWS).map(edit).collect()).await;
    pusher.messages(rows(0)).await;
    pusher.messages(rows(2)).await;
    api.another_device().pull_to_head(0).await;

    // Connections tell what they did when they end.
    server.state.pool.close();
    until(
        "the server's connections are gone",
        async || server.database.count("pg_stat_activity WHERE usename = 'coditect_app' AND datname = current_database() AND query !~ 'LISTEN|pg_notify'").await,
        |open| *open == 0,
    )
    .await;
    let row = look
        .query_one(
            "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'context_messages'",
            &[],
        )
        .await
        .unwrap();
    let (scanned, fetched): (i64, i64) = (row.get(0), row.get(1));
    // The pushes after the first six name 3 * 400 rows, the edits each a few times; the pull reads all rows once, and
    // one more for each page.
    let named = (BATCHES + 3) * ROWS;
    assert!(
        fetched as usize <= 4 * named,
        "{fetched} rows fetched for {named} that were named"
    );
    assert!(scanned as usize <= named, "{scanned} rows scanned");
    assert!(fetched > 0, "the counters have arrived");
}
