//! The audit record: what was written stands there with its transaction, what was read a moment later; nobody takes
//! anything away.

use coditect_server::auth::{Caller, Role};
use coditect_tests::api::{Api, Pusher, message, task};
use coditect_tests::deadline::until;
use coditect_tests::server::{ServerProcess, TestServer};
use serde_json::{Value, json};
use uuid::Uuid;

async fn reads(server: &TestServer) -> Vec<(String, i64, Option<i64>, Option<i64>, Value)> {
    server.state.reads.flush(&server.state.pool).await;
    let rows = server
        .database
        .look()
        .await
        .query(
            "SELECT table_name, row_count, cursor_from, cursor_to, details FROM audit_log
              WHERE action = 'read' ORDER BY at",
            &[],
        )
        .await
        .unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect()
}

async fn owner(server: &TestServer, of: &Caller) -> Api {
    server.api(&server.user(of.tenant, "owner@acme.test", Role::Owner).await)
}

#[tokio::test]
async fn a_pulled_page_is_one_entry_with_counts_and_cursor_range_and_an_empty_one_none() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    assert_eq!(api.pull(0).await.cursor, 0);
    assert_eq!(reads(&server).await, []);
    let mut pusher = Pusher::new(api.another_device());
    pusher
        .messages(vec![message("s", "one"), message("s", "two")])
        .await;
    pusher.tasks(vec![task(Uuid::new_v4(), "t")]).await;
    api.pull(0).await;
    api.pull(3).await;
    let details = json!({"device_id": api.device, "messages": 2, "tasks": 1, "task_messages": 0, "own": 0});
    assert_eq!(
        reads(&server).await,
        [("context".to_owned(), 3, Some(1), Some(3), details)]
    );
    let row = server
        .database
        .look()
        .await
        .query_one(
            "SELECT tenant_id, actor, request_id FROM audit_log WHERE action = 'read'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (caller.tenant.0, caller.user.as_str()));
    assert!(!row.get::<_, &str>(2).is_empty());
}

#[tokio::test]
async fn every_route_that_returns_rows_is_on_record() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    Pusher::new(api.clone()).messages(vec![message("s", "one")]).await;
    let owner = owner(&server, &caller).await;
    for path in [
        "/api/v1/account",
        "/api/v1/context/digest",
        "/api/v1/context/stats",
    ] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    for path in ["/api/v1/memberships", "/api/v1/audit", "/api/v1/teams"] {
        assert_eq!(owner.get(path).await.status, 200, "{path}");
    }
    let tables: Vec<(String, i64)> = reads(&server)
        .await
        .into_iter()
        .map(|read| (read.0, read.1))
        .collect();
    // The digest covers the one message; no team is there, so nothing was read of them; the push is the audit's entry.
    let expected = [
        ("users", 1),
        ("context", 1),
        ("context_sync_cursors", 1),
        ("memberships", 2),
    ];
    for (table, rows) in expected {
        assert!(tables.contains(&(table.to_owned(), rows)), "{table}: {tables:?}");
    }
    assert!(
        tables
            .iter()
            .any(|(table, rows)| table == "audit_log" && *rows >= 1),
        "{tables:?}"
    );
    assert!(!tables.iter().any(|(table, _)| table == "teams"), "{tables:?}");
}

#[tokio::test]
async fn reads_are_written_by_themselves_and_a_server_that_is_stopped_loses_none() {
    let mut server = ServerProcess::start().await;
    let api = Api::new(&server.url(), &server.token("a@acme.test").await);
    let recorded = async || server.database.count("audit_log WHERE action = 'read'").await;
    api.get("/api/v1/account").await;
    until("the read is on record", recorded, |count| *count == 1).await;
    for _ in 0..20 {
        api.get("/api/v1/account").await;
    }
    let stopped = server.terminate().await;
    assert!(stopped.success());
    assert_eq!(server.database.count("audit_log WHERE action = 'read'").await, 21);
}

#[tokio::test]
async fn reads_wait_while_the_record_cannot_be_written_and_none_is_lost() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let look = server.database.look().await;
    look.batch_execute("REVOKE INSERT ON audit_log FROM coditect_app")
        .await
        .unwrap();
    for _ in 0..3 {
        assert_eq!(api.get("/api/v1/account").await.status, 200);
    }
    assert_eq!(reads(&server).await.len(), 0);
    look.batch_execute("GRANT INSERT ON audit_log TO coditect_app")
        .await
        .unwrap();
    assert_eq!(reads(&server).await.len(), 3);
}

#[tokio::test]
async fn p7_the_serving_role_adds_to_the_record_and_changes_and_removes_nothing() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    Pusher::new(api).messages(vec![message("s", "one")]).await;
    let app = server.database.as_app().await;
    for statement in [
        "UPDATE audit_log SET actor = 'nobody'",
        "UPDATE audit_log SET details = '{}'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "DROP TABLE audit_log",
        "ALTER TABLE audit_log DISABLE ROW LEVEL SECURITY",
    ] {
        let refused = app.batch_execute(statement).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{statement}");
    }
    assert_eq!(server.database.count("audit_log").await, 1);
}

#[tokio::test]
async fn the_record_is_paged_newest_first_and_filtered_for_owners_and_admins_alone() {
    let server = TestServer::start().await;
    let (caller, member) = server.acme().await;
    let owner = owner(&server, &caller).await;
    assert_eq!(
        member.get("/api/v1/audit").await.error(403).error.code,
        "forbidden"
    );
    let mut pusher = Pusher::new(member.clone());
    for n in 0..5 {
        pusher.messages(vec![message("s", &format!("{n}"))]).await;
    }
    let other = server.tenant("other").await;
    let stranger = server.user(other, "s@other.test", Role::Member).await;
    Pusher::new(server.api(&stranger))
        .messages(vec![message("s", "x")])
        .await;

    let mut seqs = Vec::new();
    let mut after = String::new();
    loop {
        let page: Value = owner
            .get(&format!(
                "/api/v1/audit?action=create&table=context&limit=2{after}"
            ))
            .await
            .ok();
        let entries = page["entries"].as_array().unwrap();
        assert!(
            entries.iter().all(|entry| entry["actor"] == json!(caller.user)),
            "{page}"
        );
        seqs.extend(
            entries
                .iter()
                .map(|entry| entry["details"]["push_seq"].as_i64().unwrap()),
        );
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seqs, [5, 4, 3, 2, 1]);

    let count = async |query: &str| {
        let page: Value = owner.get(&format!("/api/v1/audit?{query}")).await.ok();
        page["entries"].as_array().unwrap().len()
    };
    let pushes: Value = owner.get("/api/v1/audit?table=context").await.ok();
    let third = pushes["entries"][2]["at"].as_str().unwrap();
    assert_eq!(count(&format!("table=context&since={third}")).await, 3);
    assert_eq!(count(&format!("table=context&until={third}")).await, 2);
    assert_eq!(count(&format!("actor={}&action=create", caller.user)).await, 5);
    assert_eq!(count("actor=nobody").await, 0);
    for bad in [
        "action=steal",
        "since=yesterday",
        "until=x",
        "limit=501",
        "after=x",
        "after=-1.x",
        "actor=%00",
    ] {
        let refused = owner.get(&format!("/api/v1/audit?{bad}")).await;
        assert_eq!(
            refused.error(422).error.details["field"],
            json!(bad.split('=').next()),
            "{bad}"
        );
    }
}
