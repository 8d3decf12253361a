//! What every request meets, whatever its route: identity, errors, limits, an unreachable database.

use std::sync::Arc;

use coditect_server::app::{self, AppState};
use coditect_server::auth::Role;
use coditect_server::database::Address;
use coditect_server::keys::Issuer;
use coditect_shared::UserId;
use coditect_shared::wire::Account;
use coditect_tests::api::{Api, Reply, send};
use coditect_tests::server::TestServer;
use reqwest::Method;
use tokio::net::TcpListener;
use uuid::Uuid;

/// Every route, whether it is known or not, that a stranger might try.
const GUARDED: [&str; 5] = [
    "/api/v1/account",
    "/api/v1/context/pull",
    "/api/v1/context/digest",
    "/api/v1/context/events",
    "/api/v1/context/stats",
];

fn code(reply: &Reply, status: u16) -> String {
    reply.error(status).error.code
}

#[tokio::test]
async fn without_a_valid_token_no_route_says_anything() {
    let server = TestServer::start().await;
    let api = Api::new(&server.url, "");
    for path in GUARDED {
        let reply = send(api.anonymous(Method::GET, path)).await;
        assert_eq!(code(&reply, 401), "token_missing", "{path}");
        assert_eq!(reply.headers["www-authenticate"], "Bearer", "{path}");
        assert_eq!(
            code(&api.with_token("a.b.c").get(path).await, 401),
            "token_invalid",
            "{path}"
        );
    }
    let push = api.with_token("a.b.c").push_text("{}").await;
    assert_eq!(code(&push, 401), "token_invalid");
}

#[tokio::test]
async fn a_token_of_another_server_is_refused() {
    let (server, other) = tokio::join!(TestServer::start(), TestServer::start());
    let (caller, api) = server.acme().await;
    let foreign = api.with_token(&other.token(&caller));
    assert_eq!(code(&foreign.get("/api/v1/account").await, 401), "token_invalid");
}

#[tokio::test]
async fn a_token_of_a_user_who_is_gone_is_refused() {
    let server = TestServer::start().await;
    let (mut caller, _) = server.acme().await;
    caller.user = UserId::from(Uuid::new_v4());
    assert_eq!(
        code(&server.api(&caller).get("/api/v1/account").await, 401),
        "membership_ended"
    );
}

#[tokio::test]
async fn the_account_names_tenant_user_and_role_of_the_token() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let caller = server.user(tenant, "v@acme.test", Role::Viewer).await;
    let account: Account = server.api(&caller).get("/api/v1/account").await.ok();
    assert_eq!((account.tenant_id, account.user_id), (caller.tenant, caller.user));
    assert_eq!(
        (account.user.as_str(), account.role.as_str()),
        ("v@acme.test", "viewer")
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_are_the_contracts_errors() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    for path in [
        "/",
        "/api/v1/nothing",
        "/api/v2/account",
        "/health/x",
        "/api/v1/context/push/",
    ] {
        assert_eq!(code(&api.get(path).await, 404), "not_found", "{path}");
    }
    let posted = send(api.request(Method::POST, "/api/v1/account")).await;
    assert_eq!(code(&posted, 405), "method_not_allowed");
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_with_the_limit() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let large = vec![b' '; coditect_shared::limits::PUSH_BODY_MAX_BYTES + 1];
    let reply = send(api.request(Method::POST, "/api/v1/context/push").body(large)).await;
    let error = reply.error(413).error;
    assert_eq!(error.code, "too_large");
    assert_eq!(
        error.details["limit"],
        coditect_shared::limits::PUSH_BODY_MAX_BYTES
    );
}

#[tokio::test]
async fn health_and_keys_need_no_token() {
    let server = TestServer::start().await;
    let api = Api::new(&server.url, "");
    for path in ["/health/", "/health/ready/"] {
        let reply = send(api.anonymous(Method::GET, path)).await;
        assert_eq!(reply.ok::<serde_json::Value>()["status"], "healthy", "{path}");
    }
    let keys: serde_json::Value = send(api.anonymous(Method::GET, "/.well-known/jwks.json"))
        .await
        .ok();
    assert_eq!(keys["keys"][0]["kty"], "OKP");
}

#[tokio::test]
async fn with_the_database_away_the_server_lives_and_says_when_to_come_back() {
    let data = tempfile::tempdir().unwrap();
    let keys = Arc::new(Issuer::load_or_make(data.path()).unwrap());
    let nowhere: Address = "postgresql://coditect_app@/x?host=/nonexistent".parse().unwrap();
    let state = AppState::new(nowhere.pool().unwrap(), keys.clone(), Uuid::new_v4());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(app::serve(listener, state, std::future::pending()));
    let caller = coditect_server::auth::Caller {
        tenant: "5a0f1f4e-0000-4000-8000-000000000001".parse().unwrap(),
        user: UserId::from(Uuid::new_v4()),
        role: Role::Member,
        device: None,
    };
    let ttl = std::time::Duration::from_secs(600);
    let token = coditect_server::auth::issue(&keys, &caller, jiff::Timestamp::now(), ttl).unwrap();
    let api = Api::new(&url, &token);
    assert_eq!(api.get("/health/").await.status, 200);
    let ready = api.get("/health/ready/").await;
    assert_eq!(
        (ready.status.as_u16(), &ready.json()["status"]),
        (503, &"unhealthy".into())
    );
    let account = api.get("/api/v1/account").await;
    assert_eq!(code(&account, 503), "unavailable");
    assert!(account.headers.contains_key("retry-after"));
    assert!(!account.body.contains("nonexistent"), "{}", account.body);
    server.abort();
}
