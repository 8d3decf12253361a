//! The support itself: what every other test stands on.

use coditect_shared::wire::Account;
use coditect_tests::api::Api;
use coditect_tests::postgres::{OWNER, TestDatabase};
use coditect_tests::proxy::{Fault, Proxy};
use coditect_tests::server::{ServerProcess, TestServer};
use reqwest::Method;

#[tokio::test]
async fn each_test_has_a_database_of_its_own_whose_owner_is_no_superuser() {
    let (one, two) = tokio::join!(TestDatabase::create_empty(), TestDatabase::create_empty());
    let owner = one.as_owner().await;
    owner.batch_execute("CREATE TABLE mine (id int)").await.unwrap();
    assert!(
        two.as_owner()
            .await
            .batch_execute("SELECT * FROM mine")
            .await
            .is_err()
    );
    let row = owner
        .query_one("SELECT current_user::text, current_setting('is_superuser')", &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (OWNER, "off"));
}

#[tokio::test]
async fn the_server_in_this_process_answers_on_a_migrated_database() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let account: Account = api.get("/api/v1/account").await.ok();
    assert_eq!(
        (account.tenant.as_str(), account.user.as_str()),
        ("acme", "a@acme.test")
    );
    assert_eq!(account.instance_id, server.state.instance_id);
}

#[tokio::test]
async fn the_real_server_is_killed_and_comes_back_on_its_port() {
    let mut server = ServerProcess::start().await;
    let url = server.url();
    let api = Api::new(&url, &server.token("a@acme.test").await);
    server.kill().await;
    server.run().await;
    assert_eq!(server.url(), url);
    let account: Account = api.get("/api/v1/account").await.ok();
    assert_eq!(account.user, "a@acme.test");
}

#[tokio::test]
async fn the_proxy_relays_whole_answers_and_fails_on_demand() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let proxy = Proxy::before(&server.url).await;
    let through = Api::new(&proxy.url, &api.token);
    let account: Account = through.get("/api/v1/account").await.ok();
    assert_eq!(account.user, "a@acme.test");
    proxy.once("GET /api/v1/account", Fault::Status(503));
    assert_eq!(through.get("/api/v1/account").await.status.as_u16(), 503);
    proxy.always("GET /api", Fault::LoseAnswer);
    let lost = through.request(Method::GET, "/api/v1/account").send().await;
    assert!(lost.is_err(), "{lost:?}");
    proxy.heal();
    assert!(through.get("/api/v1/account").await.status.is_success());
    assert_eq!(proxy.seen("GET /api/v1/account").len(), 4);
}
