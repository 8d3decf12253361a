//! P7: no tenant and no user reads or writes another's context, even where a handler would ask for it.

use coditect_server::auth::Role;
use coditect_shared::Origin;
use coditect_shared::TenantId;
use coditect_shared::hash::message_hash;
use coditect_shared::wire::PushRequest;
use coditect_tests::api::{Pusher, link, message, task};
use coditect_tests::server::TestServer;
use serde_json::{Value, json};
use uuid::Uuid;

/// Tables of the context domain, and whether their rows belong to a user.
const TABLES: [(&str, bool); 10] = [
    ("context_heads", false),
    ("context_sync_cursors", true),
    ("context_push_log", true),
    ("context_messages", true),
    ("context_message_versions", true),
    ("context_task_tracking", true),
    ("task_events", true),
    ("context_task_messages", true),
    ("context_sync_stats", true),
    ("audit_log", false),
];

/// At least one row in every table.
async fn fill(pusher: &mut Pusher, tenant: TenantId) {
    let id = Uuid::new_v4();
    let origin = Origin {
        session_id: "s".into(),
        content_hash: message_hash(tenant, "s", "m"),
        occurrence: 0,
    };
    let mut edited = message("s", "edited");
    edited.origin = Some(origin.clone());
    let batch = PushRequest {
        messages: vec![message("s", "m"), edited],
        tasks: vec![task(id, "t")],
        task_messages: vec![link(id, origin)],
        ..PushRequest::default()
    };
    assert_eq!(pusher.push(batch).await.synced, 4);
}

#[tokio::test]
async fn p7_the_serving_role_sees_and_touches_rows_of_the_named_tenant_and_user_alone() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    fill(&mut Pusher::new(api), caller.tenant).await;
    let (tenant, user) = (caller.tenant.to_string(), caller.user.to_string());
    let foreign = Uuid::new_v4().to_string();
    let app = server.database.as_app().await;
    for (table, of_user) in TABLES {
        assert!(server.database.count(table).await > 0, "{table} is filled");
        let visible = async |tenant: Option<&str>, user: Option<&str>| {
            let mut begin = "BEGIN".to_owned();
            for (name, value) in [("tenant_id", tenant), ("user_id", user)] {
                if let Some(value) = value {
                    begin.push_str(&format!("; SET LOCAL app.{name} = '{value}'"));
                }
            }
            app.batch_execute(&begin).await.unwrap();
            let row = app
                .query_one(&format!("SELECT count(*) FROM {table}"), &[])
                .await
                .unwrap();
            app.batch_execute("ROLLBACK").await.unwrap();
            row.get::<_, i64>(0) > 0
        };
        assert!(visible(Some(&tenant), Some(&user)).await, "{table}");
        assert!(!visible(None, None).await, "{table} without settings");
        assert!(
            !visible(Some(&foreign), Some(&user)).await,
            "{table} of another tenant"
        );
        assert_eq!(
            visible(Some(&tenant), Some(&foreign)).await,
            !of_user,
            "{table} of another user"
        );
        assert_eq!(
            visible(Some(&tenant), None).await,
            !of_user,
            "{table} without a user"
        );
    }

    // A handler gone wrong asks for another tenant's rows by name.
    app.batch_execute(&format!(
        "BEGIN; SET LOCAL app.tenant_id = '{foreign}'; SET LOCAL app.user_id = '{user}'"
    ))
    .await
    .unwrap();
    let touched = app
        .execute(
            "UPDATE context_messages SET content = 'x' WHERE tenant_id = $1",
            &[&caller.tenant.0],
        )
        .await;
    assert_eq!(touched.unwrap(), 0);
    let written = app
        .execute(
            "INSERT INTO context_heads (tenant_id) VALUES ($1)",
            &[&caller.tenant.0],
        )
        .await;
    assert!(format!("{:?}", written.unwrap_err()).contains("row-level security"));
}

#[tokio::test]
async fn p7_history_and_audit_cannot_be_changed_by_the_serving_role() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    fill(&mut Pusher::new(api), caller.tenant).await;
    let app = server.database.as_app().await;
    for statement in [
        "DELETE FROM context_messages",
        "DELETE FROM context_message_versions",
        "UPDATE context_message_versions SET content = ''",
        "DELETE FROM task_events",
        "UPDATE task_events SET description = ''",
        "UPDATE context_push_log SET mark = ''",
        "DELETE FROM context_push_log",
        "DELETE FROM audit_log",
    ] {
        let error = app.execute(statement, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{statement}: {error}");
    }
}

#[tokio::test]
async fn p7_tenant_and_user_in_a_body_are_ignored_and_a_foreign_tenants_hash_does_not_match() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let other = server.tenant("other").await;
    let victim = server.user(other, "v@other.test", Role::Member).await;
    let forged = json!({"tenant_id": other, "user_id": victim.user, "device_id": Uuid::new_v4(), "epoch": 1, "push_seq": 1,
    "messages": [
        {"tenant_id": other, "user_id": victim.user, "session_id": "s", "role": "user", "content": "mine", "sync_cursor": 77},
        {"session_id": "s", "role": "user", "content": "x", "content_hash": message_hash(other, "s", "x"), "ref": "f"},
    ]});
    let answer: Value = api.push_text(&forged.to_string()).await.ok();
    assert_eq!((&answer["synced"], &answer["cursor"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&answer["rejected"][0]["ref"], &answer["rejected"][0]["code"]),
        (&json!("f"), &json!("hash_mismatch"))
    );
    let row = server
        .database
        .look()
        .await
        .query_one("SELECT tenant_id, user_id, device_id FROM context_messages", &[])
        .await
        .unwrap();
    assert_eq!(
        (row.get(0), row.get(1), row.get(2)),
        (caller.tenant.0, caller.user.as_str(), api.device.0)
    );
    assert!(server.api(&victim).pull(0).await.messages.is_empty());
}

#[tokio::test]
async fn one_device_id_under_two_users_is_two_devices() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let other = server.user(caller.tenant, "b@acme.test", Role::Member).await;
    Pusher::new(api.clone()).messages(vec![message("s", "a")]).await;
    let same_id = api.with_token(&server.token(&other));
    let page = same_id.pull(0).await;
    assert_eq!(
        (page.device_push_seq, page.own.len(), page.messages.len()),
        (0, 0, 0)
    );
    Pusher::new(same_id.clone())
        .messages(vec![message("s", "b")])
        .await;
    assert_eq!(api.pull(0).await.own.len(), 1);
}

#[tokio::test]
async fn a_viewer_reads_and_does_not_write() {
    let server = TestServer::start().await;
    let (caller, _) = server.acme().await;
    let viewer = server.api(&server.user(caller.tenant, "v@acme.test", Role::Viewer).await);
    let reply = viewer
        .try_push(&coditect_tests::api::batch_of_messages(
            1,
            vec![message("s", "x")],
        ))
        .await;
    assert_eq!(reply.error(403).error.code, "read_only");
    assert_eq!(viewer.pull(0).await.cursor, 0);
    assert_eq!(server.database.count("context_messages").await, 0);
}
