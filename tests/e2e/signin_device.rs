//! Device login (RFC 8628): codes, the pages on which they are approved, and what a device gets.

use coditect_tests::api::Api;
use coditect_tests::oauth::{Device, PASSWORD, set_password, signed_in};
use coditect_tests::server::ServerProcess;
use coditect_tests::visitor::{Seen, Visitor};
use serde_json::Value;

/// Opens the page of a code and signs in; the page that follows.
async fn sign_in(visitor: &mut Visitor, codes: &Value, email: &str, password: &str) -> Seen {
    let page = visitor
        .open(codes["verification_uri_complete"].as_str().unwrap())
        .await
        .expect(200);
    visitor
        .send(&page, &[("email", email), ("password", password)])
        .await
}

/// Lets the device's next poll count as timely, however soon it comes.
async fn time_passes(server: &ServerProcess) {
    server
        .database
        .look()
        .await
        .batch_execute("UPDATE device_codes SET polled_at = NULL")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_device_is_signed_in_by_whoever_approves_its_code_on_the_page() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let device = Device::new(&server.url());
    let codes = device.begin("Ada's <laptop>").await;
    assert_eq!(codes["verification_uri"], format!("{}/device", server.url()));
    assert_eq!(
        (&codes["interval"], &codes["expires_in"]),
        (&5.into(), &600.into())
    );
    let code = codes["user_code"].as_str().unwrap();
    assert_eq!(code.len(), 9, "{code}");
    assert_eq!(device.poll(&codes).await.error(), "authorization_pending");

    let mut visitor = Visitor::new(&server.url());
    let enter = visitor.open("/device").await.expect(200);
    assert!(enter.html.contains("name=\"code\""), "{}", enter.html);
    let page = visitor
        .open(&format!(
            "/device/confirm?code={}",
            code.to_lowercase().replace('-', "+")
        ))
        .await
        .expect(200);
    assert!(
        !page.html.contains("laptop"),
        "nothing is shown to strangers: {}",
        page.html
    );
    let page = visitor
        .send(&page, &[("email", " A@acme.test "), ("password", PASSWORD)])
        .await
        .expect(200);
    for shown in [
        code,
        "Ada's &lt;laptop&gt;",
        "127.0.0.1",
        "a@acme.test",
        "acme",
        "the same as this browser",
    ] {
        assert!(page.html.contains(shown), "{shown}: {}", page.html);
    }
    let done = visitor
        .send_to(&page, "/device/decide", &[("decision", "approve")])
        .await
        .expect(200);
    assert!(done.html.contains("is signed in as"), "{}", done.html);
    assert_eq!(
        server.database.count("browser_sessions").await,
        0,
        "the session ends with the decision"
    );
    assert!(!visitor.cookies.contains_key("coditect_session"));

    let tokens = device.poll(&codes).await.ok();
    assert_eq!(
        (&tokens["token_type"], &tokens["expires_in"]),
        (&"Bearer".into(), &900.into())
    );
    let api = Api::new(&server.url(), tokens["access_token"].as_str().unwrap());
    let account: Value = api.get("/api/v1/account").await.ok();
    assert_eq!(
        (&account["user"], &account["tenant"]),
        (&"a@acme.test".into(), &"acme".into())
    );

    // The code is used up, for the device and on the page.
    assert_eq!(device.poll(&codes).await.error(), "invalid_grant");
    let again = sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
        .await
        .expect(422);
    assert!(again.html.contains("No login waits"), "{}", again.html);
    assert_eq!(server.database.count("devices").await, 1);
    for (table, times) in [("devices", 1), ("device_codes", 1), ("browser_sessions", 3)] {
        let rows = format!("audit_log WHERE table_name = '{table}'");
        assert_eq!(server.database.count(&rows).await, times, "{table}");
    }
}

#[tokio::test]
async fn a_denied_device_and_one_that_nobody_approved_in_time_are_told_so_and_get_nothing() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let device = Device::new(&server.url());
    let denied = device.begin("laptop").await;
    let mut visitor = Visitor::new(&server.url());
    let page = sign_in(&mut visitor, &denied, "a@acme.test", PASSWORD)
        .await
        .expect(200);
    let done = visitor
        .send_to(&page, "/device/decide", &[("decision", "deny")])
        .await
        .expect(200);
    assert!(done.html.contains("denied"), "{}", done.html);
    assert_eq!(device.poll(&denied).await.error(), "access_denied");

    let late = device.begin("laptop").await;
    let page = sign_in(&mut visitor, &late, "a@acme.test", PASSWORD)
        .await
        .expect(200);
    let end = "UPDATE device_codes SET expires_at = clock_timestamp() WHERE approved IS NULL";
    server.database.look().await.batch_execute(end).await.unwrap();
    let done = visitor
        .send_to(&page, "/device/decide", &[("decision", "approve")])
        .await
        .expect(422);
    assert!(done.html.contains("expired"), "{}", done.html);
    assert_eq!(device.poll(&late).await.error(), "expired_token");
    assert_eq!(server.database.count("devices").await, 0);
}

#[tokio::test]
async fn a_device_that_polls_too_often_has_to_slow_down_by_five_seconds_each_time() {
    let server = ServerProcess::start().await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    assert_eq!(device.poll(&codes).await.error(), "authorization_pending");
    for interval in [10, 15] {
        assert_eq!(device.poll(&codes).await.error(), "slow_down");
        let row = server
            .database
            .look()
            .await
            .query_one("SELECT interval_secs FROM device_codes", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i32>(0), interval);
    }
    let wait = "UPDATE device_codes SET polled_at = polled_at - make_interval(secs => interval_secs)";
    server.database.look().await.batch_execute(wait).await.unwrap();
    assert_eq!(device.poll(&codes).await.error(), "authorization_pending");
}

#[tokio::test]
async fn codes_of_another_device_or_of_nobody_and_forms_that_are_none_are_refused() {
    let server = ServerProcess::start().await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    let code = codes["user_code"].as_str().unwrap();
    server
        .cli(&["device", "approve", code, "--user", "a@acme.test"])
        .await
        .ok();
    assert_eq!(device.another().poll(&codes).await.error(), "invalid_grant");
    assert_eq!(
        device
            .poll(&serde_json::json!({"device_code": "x"}))
            .await
            .error(),
        "invalid_grant"
    );
    for (fields, error) in [
        (&[][..], "invalid_request"),
        (&[("grant_type", "refresh_token")][..], "invalid_request"),
        (
            &[("grant_type", "password"), ("username", "a"), ("password", "b")][..],
            "unsupported_grant_type",
        ),
        (
            &[("grant_type", "refresh_token"), ("refresh_token", "x")][..],
            "invalid_grant",
        ),
    ] {
        assert_eq!(device.post("token", fields).await.error(), error, "{fields:?}");
    }
    device.poll(&codes).await.ok();
}

#[tokio::test]
async fn the_operator_approves_lists_and_revokes_devices() {
    let server = ServerProcess::start().await;
    let (device, tokens) = signed_in(&server, "a@acme.test").await;
    let listed = server.cli(&["device", "list", "--json"]).await.json();
    let row = &listed["devices"][0];
    assert_eq!(
        (&row["id"], &row["user"]),
        (&device.id.to_string().into(), &"a@acme.test".into())
    );
    assert_eq!(
        (&row["name"], &row["revoked_at"]),
        (&"laptop".into(), &Value::Null)
    );
    assert!(
        server
            .cli(&["device", "list", "--tenant", "acme"])
            .await
            .ok()
            .contains("a@acme.test of acme  laptop")
    );

    server
        .cli(&["device", "revoke", &device.id.to_string()])
        .await
        .ok();
    assert_eq!(device.refresh(&tokens).await.error(), "invalid_grant");
    assert_eq!(
        server
            .cli(&["device", "revoke", &device.id.to_string()])
            .await
            .status
            .code(),
        Some(1)
    );
    let listed = server.cli(&["device", "list", "--json"]).await.json();
    assert_eq!(listed["devices"][0]["revoked_reason"], "administration");

    for (code, exit) in [("BCDF-GHJK", 1), ("nonsense", 2)] {
        let refused = server
            .cli(&["device", "approve", code, "--user", "a@acme.test"])
            .await;
        assert_eq!(refused.status.code(), Some(exit), "{code}: {}", refused.stderr);
    }
    // A new login of the same device lets it in again; another user's it cannot become.
    let codes = device.begin("laptop").await;
    server
        .cli(&[
            "device",
            "approve",
            codes["user_code"].as_str().unwrap(),
            "--user",
            "a@acme.test",
        ])
        .await
        .ok();
    let tokens = device.poll(&codes).await.ok();
    device.refresh(&tokens).await.ok();
    server.create_user("b@acme.test").await;
    let codes = device.begin("laptop").await;
    server
        .cli(&[
            "device",
            "approve",
            codes["user_code"].as_str().unwrap(),
            "--user",
            "b@acme.test",
        ])
        .await
        .ok();
    assert_eq!(device.poll(&codes).await.error(), "invalid_grant");
}

#[tokio::test]
async fn unknown_accounts_and_wrong_passwords_get_the_same_page() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    server.create_user("no-password@acme.test").await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    let mut pages = Vec::new();
    for (email, password) in [
        ("a@acme.test", "not the password"),
        ("nobody@acme.test", PASSWORD),
        ("no-password@acme.test", PASSWORD),
        ("no address", PASSWORD),
    ] {
        let mut visitor = Visitor::new(&server.url());
        let page = sign_in(&mut visitor, &codes, email, password).await.expect(422);
        assert!(!visitor.cookies.contains_key("coditect_session"));
        let token = page.between("name=\"form\" value=\"", "\"").unwrap().to_owned();
        pages.push(page.html.replace(email, "EMAIL").replace(&token, "TOKEN"));
    }
    pages.dedup();
    assert_eq!(pages.len(), 1, "{pages:#?}");
    assert!(pages[0].contains("Address or password is wrong."));
}

#[tokio::test]
async fn guessing_a_password_is_slowed_down_and_an_unknown_account_looks_the_same() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    for email in ["a@acme.test", "nobody@acme.test"] {
        let mut visitor = Visitor::new(&server.url());
        for _ in 0..5 {
            sign_in(&mut visitor, &codes, email, "a wrong password")
                .await
                .expect(422);
        }
        // Far into the wait, so that its end does not come in the middle of the test.
        let longer = "UPDATE sign_in_attempts SET blocked_until = blocked_until + interval '2 min' WHERE blocked_until > now()";
        server.database.look().await.batch_execute(longer).await.unwrap();
        let blocked = sign_in(&mut visitor, &codes, email, PASSWORD).await.expect(429);
        assert!(
            blocked.headers.contains_key("retry-after") && blocked.html.contains("Too many attempts"),
            "{blocked:#?}"
        );
    }
    // Somebody else at the same address still signs in.
    server.create_user("b@acme.test").await;
    set_password(&server, "b@acme.test", "acme").await;
    sign_in(&mut Visitor::new(&server.url()), &codes, "b@acme.test", PASSWORD)
        .await
        .expect(200);
    // And when the wait is over the right password counts, and clears the account.
    server
        .database
        .look()
        .await
        .batch_execute("UPDATE sign_in_attempts SET blocked_until = now()")
        .await
        .unwrap();
    let mut visitor = Visitor::new(&server.url());
    sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
        .await
        .expect(200);
    let left = server
        .database
        .count("sign_in_attempts WHERE kind = 'account' AND attempts > 0")
        .await;
    assert_eq!(left, 1, "only the account that does not exist is still counted");
}

#[tokio::test]
async fn guessing_from_one_address_is_slowed_down_whatever_the_accounts() {
    let server = ServerProcess::start().await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    let mut visitor = Visitor::new(&server.url());
    sign_in(&mut visitor, &codes, "x@acme.test", "a wrong password")
        .await
        .expect(422);
    let nearly = "UPDATE sign_in_attempts SET attempts = 60 WHERE kind = 'address'";
    assert_eq!(
        server.database.look().await.execute(nearly, &[]).await.unwrap(),
        1
    );
    sign_in(&mut visitor, &codes, "y@acme.test", "a wrong password")
        .await
        .expect(422);
    sign_in(&mut visitor, &codes, "z@acme.test", "a wrong password")
        .await
        .expect(429);
}

#[tokio::test]
async fn going_through_codes_is_slowed_down() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    let mut visitor = Visitor::new(&server.url());
    sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
        .await
        .expect(200);
    for n in 0..10 {
        let letter = char::from(b"BCDFGHJKLM"[n]);
        let page = visitor
            .open(&format!("/device/confirm?code={}", letter.to_string().repeat(8)))
            .await
            .expect(422);
        assert!(page.html.contains("No login waits"), "{}", page.html);
    }
    let longer =
        "UPDATE sign_in_attempts SET blocked_until = blocked_until + interval '2 min' WHERE kind = 'code'";
    server.database.look().await.batch_execute(longer).await.unwrap();
    visitor.open("/device/confirm?code=NNNN-NNNN").await.expect(429);
}

#[tokio::test]
async fn whoever_belongs_to_several_tenants_chooses_after_the_password_was_right() {
    let server = ServerProcess::start().await;
    for tenant in ["beta", "gamma"] {
        server.cli(&["tenant", "create", tenant]).await.ok();
        server
            .cli(&["user", "create", "a@acme.test", "--tenant", tenant])
            .await
            .ok();
    }
    set_password(&server, "a@acme.test", "acme").await;
    set_password(&server, "a@acme.test", "beta").await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    let mut visitor = Visitor::new(&server.url());
    let wrong = sign_in(&mut visitor, &codes, "a@acme.test", "a wrong password")
        .await
        .expect(422);
    assert!(!wrong.html.contains("beta"), "{}", wrong.html);
    let page = sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
        .await
        .expect(200);
    assert!(
        page.html.contains("beta") && page.html.contains("acme"),
        "{}",
        page.html
    );
    assert!(
        !page.html.contains("gamma"),
        "where the password is not right is not told: {}",
        page.html
    );
    // Nothing is shown or decided before one is chosen, and no foreign one can be.
    let before = visitor.open("/device/confirm?code=BCDF-GHJK").await.expect(200);
    assert!(before.html.contains("name=\"password\""), "{}", before.html);
    let beta = page
        .html
        .split("value=\"")
        .find(|part| part.contains(">beta<"))
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let page = visitor.send(&page, &[("tenant", &beta)]).await.expect(200);
    assert!(page.html.contains("a@acme.test at beta"), "{}", page.html);
    visitor
        .send_to(&page, "/device/decide", &[("decision", "approve")])
        .await
        .expect(200);
    let tokens = device.poll(&codes).await.ok();
    let api = Api::new(&server.url(), tokens["access_token"].as_str().unwrap());
    let account: Value = api.get("/api/v1/account").await.ok();
    assert_eq!(account["tenant"], "beta");
}

#[tokio::test]
async fn no_other_site_can_sign_in_or_approve_in_somebodys_name() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    let code = codes["user_code"].as_str().unwrap().to_owned();
    let mut visitor = Visitor::new(&server.url());
    let page = sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
        .await
        .expect(200);
    let good = page.between("name=\"form\" value=\"", "\"").unwrap().to_owned();
    for token in ["", "00", &good[1..]] {
        for path in [
            "/device/decide",
            "/device/sign-in",
            "/device/tenant",
            "/device/sign-out",
        ] {
            let fields = [
                ("form", token),
                ("code", &code),
                ("decision", "approve"),
                ("email", "a@acme.test"),
                ("password", PASSWORD),
                ("tenant", "x"),
            ];
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            visitor.post(path, &fields).await.expect(403);
        }
    }
    assert_eq!(device.poll(&codes).await.error(), "authorization_pending");
    // Without a session the right form decides nothing either.
    visitor.cookies.remove("coditect_session");
    let asked = visitor
        .send_to(&page, "/device/decide", &[("decision", "approve")])
        .await
        .expect(200);
    assert!(asked.html.contains("name=\"password\""), "{}", asked.html);
    time_passes(&server).await;
    assert_eq!(device.poll(&codes).await.error(), "authorization_pending");
}

#[tokio::test]
async fn a_session_ends_in_time_by_signing_out_and_with_the_membership() {
    let server = ServerProcess::start().await;
    set_password(&server, "a@acme.test", "acme").await;
    let device = Device::new(&server.url());
    let codes = device.begin("laptop").await;
    for end in [
        "UPDATE browser_sessions SET expires_at = clock_timestamp()",
        "DELETE FROM browser_sessions",
        "DELETE FROM memberships",
    ] {
        let mut visitor = Visitor::new(&server.url());
        let page = sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
            .await
            .expect(200);
        if end.starts_with("UPDATE") {
            let out = visitor.send_to(&page, "/device/sign-out", &[]).await.expect(200);
            assert!(out.html.contains("name=\"password\""), "{}", out.html);
            sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
                .await
                .expect(200);
        }
        server.database.look().await.batch_execute(end).await.unwrap();
        let asked = visitor
            .send_to(&page, "/device/decide", &[("decision", "approve")])
            .await
            .expect(200);
        assert!(asked.html.contains("name=\"password\""), "{end}: {}", asked.html);
    }
    let mut visitor = Visitor::new(&server.url());
    sign_in(&mut visitor, &codes, "a@acme.test", PASSWORD)
        .await
        .expect(422);
}

#[tokio::test]
async fn logins_that_wait_are_limited_and_swept() {
    let server = ServerProcess::start().await;
    let device = Device::new(&server.url());
    for _ in 0..50 {
        device.begin("laptop").await;
    }
    let refused = device.post("device", &[("device_name", "laptop")]).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["error"]["code"]),
        (429, &"too_many_requests".into())
    );
    let long_ago = "UPDATE device_codes SET expires_at = expires_at - interval '21 min'";
    server
        .database
        .look()
        .await
        .batch_execute(long_ago)
        .await
        .unwrap();
    device.begin("laptop").await;
    assert_eq!(server.database.count("device_codes").await, 1);
}
