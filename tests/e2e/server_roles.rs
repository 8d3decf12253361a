//! What a caller may do is what the membership's row says now, whatever the token says.

use std::time::Duration;

use coditect_server::auth::{Caller, Role};
use coditect_server::membership::BELIEVED;
use coditect_shared::wire::{Account, PullQuery};
use coditect_tests::api::{Api, batch_of_messages, message};
use coditect_tests::daemon::Workstation;
use coditect_tests::server::TestServer;
use coditect_tests::writer;
use serde_json::json;
use uuid::Uuid;

use crate::pair::is_settled;

async fn set_role(server: &TestServer, caller: &Caller, role: Option<Role>) {
    let look = server.database.look().await;
    let user: Uuid = caller.user.as_str().parse().unwrap();
    let statement = match role {
        Some(_) => "UPDATE memberships SET role = $2 WHERE user_id = $1",
        None => "DELETE FROM memberships WHERE user_id = $1 AND $2 = ''",
    };
    let role = role.map_or("", Role::as_str);
    assert_eq!(look.execute(statement, &[&user, &role]).await.unwrap(), 1);
}

async fn push_code(api: &Api) -> String {
    let reply = api.try_push(&batch_of_messages(1, vec![message("s", "x")])).await;
    match reply.status.as_u16() {
        200 => "stored".to_owned(),
        status => reply.error(status).error.code,
    }
}

#[tokio::test]
async fn the_role_is_the_memberships_and_never_the_tokens() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let viewer = server.user(tenant, "v@acme.test", Role::Viewer).await;
    let boasting = server.api(&Caller {
        role: Role::Owner,
        ..viewer.clone()
    });
    assert_eq!(push_code(&boasting).await, "read_only");
    let account: Account = boasting.get("/api/v1/account").await.ok();
    assert_eq!(account.role, "viewer");
    let member = server.user(tenant, "m@acme.test", Role::Member).await;
    let modest = server.api(&Caller {
        role: Role::Viewer,
        ..member
    });
    assert_eq!(push_code(&modest).await, "stored");
}

#[tokio::test]
async fn a_change_or_removal_counts_as_soon_as_the_role_is_read_again() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let distrustful = server.beside_and_distrustful().await;
    let api = Api::new(&distrustful.url, &api.token);
    set_role(&server, &caller, Some(Role::Viewer)).await;
    assert_eq!(push_code(&api).await, "read_only");
    set_role(&server, &caller, None).await;
    assert_eq!(push_code(&api).await, "membership_ended");
    assert_eq!(
        api.try_pull(&PullQuery::default()).await.error(401).error.code,
        "membership_ended"
    );
    assert_eq!(server.database.count("context_sync_cursors").await, 0);
}

#[tokio::test]
async fn a_role_is_believed_for_half_a_minute_at_most_and_until_then_not_read_again() {
    assert!(BELIEVED <= Duration::from_secs(30));
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    assert_eq!(api.pull(0).await.cursor, 0);
    set_role(&server, &caller, None).await;
    assert_eq!(api.pull(0).await.cursor, 0, "read a moment ago");
    server.state.memberships.forget(caller.tenant, &caller.user);
    let reply = api.try_pull(&PullQuery::default()).await;
    assert_eq!(reply.error(401).error.code, "membership_ended");
}

#[tokio::test]
async fn without_the_database_a_role_that_is_not_known_is_503_and_no_refusal() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let look = server.database.look().await;
    look.batch_execute("BEGIN; LOCK TABLE memberships").await.unwrap();
    let reply = api.get("/api/v1/account").await;
    assert_eq!(reply.error(503).error.code, "unavailable");
    look.batch_execute("COMMIT").await.unwrap();
    assert!(api.get("/api/v1/account").await.status.is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewers_daemon_says_read_only_keeps_queueing_and_sends_all_once_it_may() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let caller = server.user(tenant, "v@acme.test", Role::Viewer).await;
    let a = Workstation::start(&server.url, &server.token(&caller)).await;
    a.wait_until("in sync with an empty cloud", is_settled).await;
    for n in 0..3 {
        writer::message(&a.open(), "s", &format!("written by a viewer, {n}")).unwrap();
    }
    let status = a.wait_for_state("read_only").await;
    assert_eq!(status["last_error"]["code"], json!("forbidden"));
    a.wait_until("all is queued", |status| status["outbox"]["pending"] == 3)
        .await;
    assert_eq!(server.database.count("context_messages").await, 0);

    set_role(&server, &caller, Some(Role::Member)).await;
    server.state.memberships.forget(caller.tenant, &caller.user);
    // Roles change rarely, so it would try by itself only after minutes.
    a.post("/v1/sync").await;
    a.wait_until("in sync", is_settled).await;
    assert_eq!(server.database.count("context_messages").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_members_daemon_asks_for_a_login_and_loses_nothing() {
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let a = Workstation::start(&server.url, &api.token).await;
    a.wait_until("in sync", is_settled).await;
    set_role(&server, &caller, None).await;
    server.state.memberships.forget(caller.tenant, &caller.user);
    writer::message(&a.open(), "s", "written after the end").unwrap();
    let status = a.wait_for_state("needs_login").await;
    assert_eq!(status["outbox"]["pending"], 1);
    assert_eq!(server.database.count("context_messages").await, 0);
}
