//! The support itself: what every other test stands on.

use coditect_shared::wire::Account;
use coditect_tests::postgres::{OWNER, TestDatabase};
use coditect_tests::server::TestServer;

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
