//! The issuer's keys change while servers run and tokens are out.

use std::time::Duration;

use coditect_server::auth;
use coditect_tests::api::{Api, send};
use coditect_tests::deadline::until;
use coditect_tests::server::{ServerProcess, TestServer};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;

async fn published(api: &Api) -> Vec<String> {
    let keys: Value = send(api.anonymous(Method::GET, "/.well-known/jwks.json"))
        .await
        .ok();
    let keys = keys["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn two_servers_of_one_data_directory_take_each_others_tokens_through_a_rotation() {
    let server = TestServer::start().await;
    let (caller, old) = server.acme().await;
    let second = server.beside_in_the_data_directory().await;
    let at_second = |api: &Api| Api::new(&second.url, &api.token);
    assert_eq!(published(&old).await.len(), 1);
    server.state.keys.rotate().unwrap();
    let new = server.api(&caller);
    assert_ne!(old.token, new.token);
    for api in [&old, &new, &at_second(&new), &at_second(&old)] {
        assert_eq!(api.get("/api/v1/account").await.status, 200);
    }
    assert_eq!(published(&old).await.len(), 2);
    assert_eq!(published(&old).await, published(&at_second(&old)).await);
    // What the second signs now, the first takes.
    let ttl = Duration::from_secs(60);
    let token = auth::issue(&second.state.keys, &caller, Timestamp::now(), ttl).unwrap();
    assert_eq!(old.with_token(&token).get("/api/v1/account").await.status, 200);
}

#[tokio::test]
async fn a_running_server_publishes_a_key_that_the_command_line_has_rotated_in() {
    let server = ServerProcess::start().await;
    let api = Api::new(&server.url(), &server.token("a@acme.test").await);
    let first = published(&api).await;
    let keys = server.cli(&["key", "rotate", "--json"]).await.json();
    assert_eq!(keys["keys"][0]["state"], "signing");
    assert_eq!(keys["keys"][1]["kid"], first[0].as_str());
    let new = keys["keys"][0]["kid"].as_str().unwrap();
    // Tokens of either key are good at once, and both keys are published soon.
    let token = server.token("a@acme.test").await;
    for api in [&api, &api.with_token(&token)] {
        assert_eq!(api.get("/api/v1/account").await.status, 200);
    }
    until(
        "both are published",
        async || published(&api).await,
        |kids| *kids == [new.to_owned(), first[0].clone()],
    )
    .await;
    let listed = server.cli(&["key", "list"]).await.ok();
    assert!(
        listed.contains(&format!("{new}  signing since"))
            && listed.contains(&format!("{}  retired", first[0])),
        "{listed}"
    );
}
