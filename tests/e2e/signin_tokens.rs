//! Refresh tokens: rotated at each use, bound to their device, and of two holders none goes on unnoticed.

use coditect_server::auth::{Caller, Role};
use coditect_tests::api::{Api, new_device};
use coditect_tests::oauth::signed_in;
use coditect_tests::server::{ServerProcess, TestServer};
use serde_json::json;

#[tokio::test]
async fn a_refresh_token_is_rotated_at_each_use() {
    let server = ServerProcess::start().await;
    let (device, mut tokens) = signed_in(&server, "a@acme.test").await;
    for _ in 0..4 {
        let next = device.refresh(&tokens).await.ok();
        assert_ne!(next["refresh_token"], tokens["refresh_token"]);
        tokens = next;
    }
    assert_eq!(
        server
            .database
            .count("refresh_tokens WHERE state = 'current'")
            .await,
        1
    );
    assert_eq!(
        server
            .database
            .count("refresh_tokens WHERE state = 'previous'")
            .await,
        1
    );
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn use_of_a_spent_token_revokes_the_device() {
    let server = ServerProcess::start().await;
    let (device, first) = signed_in(&server, "a@acme.test").await;
    let second = device.refresh(&first).await.ok();
    let third = device.refresh(&second).await.ok();
    // Somebody who copied the first one comes too late, and ends it for both.
    assert_eq!(device.refresh(&first).await.error(), "invalid_grant");
    assert_eq!(device.refresh(&third).await.error(), "invalid_grant");
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_reason = 'reuse'")
            .await,
        1
    );
    let audited = "audit_log WHERE table_name = 'devices' AND details->>'reason' = 'reuse'";
    assert_eq!(server.database.count(audited).await, 1);
}

#[tokio::test]
async fn a_lost_answer_costs_nothing_and_what_nobody_received_is_spent() {
    let server = ServerProcess::start().await;
    let (device, first) = signed_in(&server, "a@acme.test").await;
    let lost = device.refresh(&first).await.ok();
    let second_lost = device.refresh(&first).await.ok();
    let second = device.refresh(&first).await.ok();
    assert_ne!(lost["refresh_token"], second["refresh_token"]);
    let third = device.refresh(&second).await.ok();
    // Whoever did catch a lost answer is noticed when he uses it.
    assert_eq!(device.refresh(&second_lost).await.error(), "invalid_grant");
    assert_eq!(device.refresh(&third).await.error(), "invalid_grant");
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_reason = 'reuse'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_thief_who_is_faster_than_the_device_is_noticed_when_the_device_comes() {
    let server = ServerProcess::start().await;
    let (device, first) = signed_in(&server, "a@acme.test").await;
    let ours = device.refresh(&first).await.ok();
    let theirs = device.refresh(&first).await.ok();
    assert_eq!(device.refresh(&ours).await.error(), "invalid_grant");
    assert_eq!(device.refresh(&theirs).await.error(), "invalid_grant");
}

#[tokio::test]
async fn a_new_login_ends_the_former_tokens_of_its_device_and_they_end_nothing_more() {
    let server = ServerProcess::start().await;
    let (device, first) = signed_in(&server, "a@acme.test").await;
    let second = device.refresh(&first).await.ok();
    let codes = device.begin("laptop").await;
    let code = codes["user_code"].as_str().unwrap();
    server
        .cli(&["device", "approve", code, "--user", "a@acme.test"])
        .await
        .ok();
    let new = device.poll(&codes).await.ok();
    for former in [&first, &second] {
        assert_eq!(device.refresh(former).await.error(), "invalid_grant");
    }
    device.refresh(&new).await.ok();
}

#[tokio::test]
async fn a_refresh_token_from_another_device_revokes_its_own() {
    let server = ServerProcess::start().await;
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    assert_eq!(device.another().refresh(&tokens).await.error(), "invalid_grant");
    assert_eq!(device.refresh(&tokens).await.error(), "invalid_grant");
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_reason = 'wrong_device'")
            .await,
        1
    );
}

#[tokio::test]
async fn two_refreshes_at_once_leave_one_good_successor() {
    let server = ServerProcess::start().await;
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    let (one, other) = tokio::join!(device.refresh(&tokens), device.refresh(&tokens));
    let (one, other) = (one.ok(), other.ok());
    assert_ne!(one["refresh_token"], other["refresh_token"]);
    assert_eq!(
        server
            .database
            .count("refresh_tokens WHERE state = 'current'")
            .await,
        1
    );
    assert_eq!(
        server
            .database
            .count("refresh_tokens WHERE state = 'spent'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_device_logs_out_and_a_bad_token_is_as_good_as_revoked() {
    let server = ServerProcess::start().await;
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    for bad in [
        "x",
        "5a0f1f4e-0000-4000-8000-000000000001.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        device.post("revoke", &[("token", bad)]).await.ok();
    }
    assert_eq!(device.post("revoke", &[]).await.error(), "invalid_request");
    let token = tokens["refresh_token"].as_str().unwrap();
    for _ in 0..2 {
        device.post("revoke", &[("token", token)]).await.ok();
    }
    assert_eq!(device.refresh(&tokens).await.error(), "invalid_grant");
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_reason = 'logout'")
            .await,
        1
    );
    assert_eq!(
        server
            .database
            .count("audit_log WHERE details->>'reason' = 'logout'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_device_that_was_silent_for_too_long_or_whose_user_left_gets_nothing() {
    let server = ServerProcess::start().await;
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    let silent = "UPDATE refresh_tokens SET made_at = made_at - interval '91 days'";
    server.database.look().await.batch_execute(silent).await.unwrap();
    assert_eq!(device.refresh(&tokens).await.error(), "invalid_grant");
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    server
        .database
        .look()
        .await
        .batch_execute("DELETE FROM memberships")
        .await
        .unwrap();
    assert_eq!(device.refresh(&tokens).await.error(), "invalid_grant");
    assert_eq!(
        server
            .database
            .count("devices WHERE revoked_at IS NOT NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn evidence_of_spent_tokens_does_not_pile_up() {
    let server = ServerProcess::start().await;
    let (device, mut tokens) = signed_in(&server, "a@acme.test").await;
    for _ in 0..5 {
        tokens = device.refresh(&tokens).await.ok();
    }
    let old = "UPDATE refresh_tokens SET made_at = made_at - interval '8 days' WHERE state = 'spent'";
    server.database.look().await.batch_execute(old).await.unwrap();
    device.refresh(&tokens).await.ok();
    assert_eq!(
        server.database.count("refresh_tokens").await,
        3,
        "current, previous, and the one spent just now"
    );
}

#[tokio::test]
async fn a_revoked_devices_access_token_ends_too() {
    let server = TestServer::start().await;
    let tenant = server.tenant("acme").await;
    let caller = server.user(tenant, "a@acme.test", Role::Member).await;
    let distrustful = server.beside_and_distrustful().await;
    let device = new_device();
    let look = server.database.look().await;
    let made = "INSERT INTO devices (tenant_id, id, user_id, name, address) VALUES ($1, $2, $3::text::uuid, 'laptop', 'x')";
    look.execute(made, &[&tenant.0, &device.0, &caller.user.as_str()])
        .await
        .unwrap();
    let token = |caller: &Caller, device| {
        server.token(&Caller {
            device,
            ..caller.clone()
        })
    };
    let status = async |url: &str, token: String| Api::new(url, &token).get("/api/v1/account").await;
    let (here, there) = (server.url.as_str(), distrustful.url.as_str());
    assert_eq!(
        status(here, token(&caller, Some(device))).await.status.as_u16(),
        200
    );
    assert_eq!(
        status(there, token(&caller, Some(device))).await.status.as_u16(),
        200
    );
    // A device that nobody knows, and another user's.
    let other = server.user(tenant, "b@acme.test", Role::Owner).await;
    for (who, device) in [(&caller, new_device()), (&other, device)] {
        let refused = status(there, token(who, Some(device))).await;
        assert_eq!(refused.error(401).error.code, "device_revoked");
    }
    let revoke = "UPDATE devices SET revoked_at = now(), revoked_reason = 'administration'";
    look.batch_execute(revoke).await.unwrap();
    let refused = status(there, token(&caller, Some(device))).await;
    assert_eq!(refused.error(401).error.code, "device_revoked");
    // Where it was read a moment ago it still counts, for 30 s at most; a token of no device always does.
    assert_eq!(
        status(here, token(&caller, Some(device))).await.status.as_u16(),
        200
    );
    assert!(coditect_server::membership::BELIEVED.as_secs() <= 30);
    assert_eq!(status(there, token(&caller, None)).await.status.as_u16(), 200);
}

#[tokio::test]
async fn the_life_of_access_tokens_is_the_servers_to_say() {
    let mut server = ServerProcess::start().await;
    server.serve_arguments = vec!["--access-token-ttl=5s".to_owned()];
    server.kill().await;
    server.run().await;
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    assert_eq!(tokens["expires_in"], json!(5));
    assert_eq!(device.refresh(&tokens).await.ok()["expires_in"], json!(5));
}

#[tokio::test]
async fn p15_tokens_and_codes_stand_neither_in_the_database_nor_in_the_log() {
    let mut server = ServerProcess::start().await;
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    let next = device.refresh(&tokens).await.ok();
    device.another().refresh(&next).await.error();
    let secrets = [
        &tokens["refresh_token"],
        &next["refresh_token"],
        &tokens["access_token"],
    ];
    let log = server.running().log();
    let look = server.database.look().await;
    for table in ["audit_log", "devices", "refresh_tokens", "device_codes"] {
        let all = format!("SELECT coalesce(string_agg(t::text, ''), '') FROM {table} t");
        let stored: String = look.query_one(&all, &[]).await.unwrap().get(0);
        for secret in secrets {
            let random = secret.as_str().unwrap().rsplit('.').next().unwrap();
            assert!(!stored.contains(random), "{table}: {stored}");
            assert!(!log.contains(random), "{log}");
        }
    }
}
