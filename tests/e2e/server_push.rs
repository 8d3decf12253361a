//! Push: once, in order, each record by itself.

use coditect_shared::wire::{PullQuery, PushConflict, PushRequest};
use coditect_tests::api::{batch_of_messages, message};
use coditect_tests::deadline::until;
use coditect_tests::server::TestServer;
use serde_json::{Value, json};

#[tokio::test]
async fn p2_the_same_push_twice_changes_nothing_and_gets_the_same_answer() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let batch = batch_of_messages(1, vec![message("s", "one"), message("s", "two")]);
    let first = api.try_push(&batch).await;
    let again = api.try_push(&batch).await;
    assert_eq!(first.status, 200, "{first:#?}");
    assert_eq!(first.body, again.body, "word for word");
    assert_eq!(server.database.count("context_messages").await, 2);
    assert_eq!(server.database.count("context_push_log").await, 1);
    assert_eq!(server.database.count("audit_log").await, 1);
    let head: Value = api.get("/api/v1/context/stats").await.ok();
    assert_eq!((&head["messages"], &head["cursor"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn a_push_seq_used_for_another_batch_is_a_conflict_with_the_stored_digest_and_answer() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let stored = api.push(&batch_of_messages(1, vec![message("s", "one")])).await;
    let reply = api
        .try_push(&batch_of_messages(1, vec![message("s", "other")]))
        .await;
    let error = reply.error(409).error;
    assert_eq!(error.code, "push_seq_conflict");
    let conflict: PushConflict = serde_json::from_value(error.details).unwrap();
    assert_eq!(conflict.answer, stored);
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test]
async fn a_push_seq_that_is_past_or_leaves_a_gap_stores_nothing() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let code = async |seq: i64| {
        let reply = api
            .try_push(&batch_of_messages(seq, vec![message("s", &format!("{seq}"))]))
            .await;
        reply.error(409).error.code
    };
    assert_eq!(code(2).await, "push_seq_gap", "a new device begins with 1");
    assert_eq!(
        server.database.count("context_sync_cursors").await,
        0,
        "a refused batch registers no device"
    );
    for seq in [1, 2] {
        api.push(&batch_of_messages(seq, vec![message("s", &format!("{seq}"))]))
            .await;
    }
    assert_eq!(code(1).await, "push_seq_stale");
    assert_eq!(code(4).await, "push_seq_gap");
    assert_eq!(server.database.count("context_messages").await, 2);
}

#[tokio::test]
async fn a_batch_of_another_epoch_is_told_the_servers() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let batch = PushRequest {
        epoch: 2,
        ..batch_of_messages(1, vec![message("s", "one")])
    };
    let error = api.try_push(&batch).await.error(409).error;
    assert_eq!(
        (error.code.as_str(), &error.details["epoch"]),
        ("epoch_mismatch", &json!(1))
    );
}

#[tokio::test]
async fn a_long_answer_is_kept_until_the_next_push_and_marks_for_ever() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let rows = || (0..100).map(|n| message("s", &n.to_string())).collect::<Vec<_>>();
    api.push(&batch_of_messages(1, rows())).await;
    let duplicates = batch_of_messages(2, rows());
    let answer = api.push(&duplicates).await;
    assert_eq!(answer.verdicts.len(), 100);
    assert_eq!(api.push(&duplicates).await, answer, "it can still be asked for");
    api.push(&batch_of_messages(3, vec![message("s", "new")])).await;
    let kept = "context_push_log WHERE answer IS NOT NULL AND push_seq = 2";
    assert_eq!(server.database.count(kept).await, 0);
    assert_eq!(
        server
            .database
            .count("context_push_log WHERE mark IS NOT NULL")
            .await,
        2
    );
}

#[tokio::test]
async fn a_token_whose_tenant_was_deleted_writes_nothing() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    // So that the role is known, and believed for some seconds more.
    assert!(api.get("/api/v1/account").await.status.is_success());
    let look = server.database.look().await;
    look.execute("DELETE FROM tenants WHERE tenant_id = $1", &[&caller.tenant.0])
        .await
        .unwrap();
    let reply = api.try_push(&batch_of_messages(1, vec![message("s", "x")])).await;
    assert_eq!(reply.error(401).error.code, "token_invalid");
    let reply = api.try_pull(&PullQuery::default()).await;
    assert_eq!(reply.error(401).error.code, "token_invalid");
    assert_eq!(server.database.count("context_heads").await, 0);
    server.state.memberships.forget(caller.tenant, &caller.user);
    assert_eq!(
        api.get("/api/v1/account").await.error(401).error.code,
        "membership_ended"
    );
}

#[tokio::test]
async fn a_push_whose_client_hung_up_is_stored_whole() {
    // The client gives up while its push waits for the tenant's head, which another push holds.
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    api.push(&batch_of_messages(1, vec![message("s", "one")])).await;
    let look = server.database.look().await;
    look.batch_execute("BEGIN; SELECT FROM context_heads FOR UPDATE")
        .await
        .unwrap();
    let waiting = "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let batch = batch_of_messages(2, vec![message("s", "two"), message("s", "three")]);
    tokio::select! {
        reply = api.try_push(&batch) => panic!("answered while the head was held: {reply:#?}"),
        _ = until("the push waits", async || server.database.count(waiting).await, |n| *n == 1) => {}
    }
    look.batch_execute("COMMIT").await.unwrap();
    until(
        "all of it is stored",
        async || server.database.count("context_messages").await,
        |n| *n == 3,
    )
    .await;
    let again = api.push(&batch).await;
    assert_eq!((again.synced, again.cursor), (2, 3), "the stored answer");
}
