//! Invitations: a link that sets a password, once.

use coditect_tests::server::ServerProcess;
use coditect_tests::visitor::Visitor;

const GOOD: &str = "correct horse battery";

/// The links of a user who was just made and of one who was invited again.
async fn link_of(server: &ServerProcess, email: &str) -> String {
    let made = server
        .cli(&["user", "create", email, "--tenant", "acme", "--json"])
        .await
        .json();
    made["invitation_url"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_invitation_sets_the_password_once() {
    let server = ServerProcess::start().await;
    let link = link_of(&server, "b@acme.test").await;
    assert!(
        link.starts_with(&format!("{}/invitation/", server.url())),
        "{link}"
    );
    let mut visitor = Visitor::new(&server.url());
    let page = visitor.open(&link).await.expect(200);
    assert!(
        page.html.contains("b@acme.test") && page.html.contains("acme"),
        "{}",
        page.html
    );
    // Programs that look at links before people do no harm.
    let page = Visitor::new(&server.url())
        .open(&link)
        .await
        .expect(200)
        .status
        .is_success()
        .then_some(page)
        .unwrap();

    for (password, again) in [
        ("short", "short"),
        ("b@acme.test", "b@acme.test"),
        (GOOD, "another horse battery"),
    ] {
        let refused = visitor
            .send(&page, &[("password", password), ("again", again)])
            .await
            .expect(422);
        assert!(
            refused.html.contains("role=\"alert\""),
            "{password}: {}",
            refused.html
        );
    }
    assert_eq!(server.database.count("user_passwords").await, 0);

    let set = visitor
        .send(&page, &[("password", GOOD), ("again", GOOD)])
        .await
        .expect(200);
    assert!(set.html.contains("is set"), "{}", set.html);
    let row = server
        .database
        .look()
        .await
        .query_one("SELECT hash FROM user_passwords", &[])
        .await
        .unwrap();
    assert!(
        row.get::<_, String>(0)
            .starts_with("$argon2id$v=19$m=19456,t=2,p=1$")
    );

    visitor
        .send(
            &page,
            &[("password", "a second password"), ("again", "a second password")],
        )
        .await
        .expect(410);
    visitor.open(&link).await.expect(410);
    assert_eq!(server.database.count("user_passwords").await, 1);
    let audited = "audit_log WHERE table_name IN ('invitations', 'user_passwords') AND row_id =
                   (SELECT id::text FROM users WHERE email = 'b@acme.test')";
    assert_eq!(
        server.database.count(audited).await,
        3,
        "made, used up, password set"
    );
}

#[tokio::test]
async fn a_newer_invitation_ends_the_older_and_changes_the_password() {
    let server = ServerProcess::start().await;
    let first = link_of(&server, "b@acme.test").await;
    let invited = server
        .cli(&["user", "invite", "B@acme.test", "--json"])
        .await
        .json();
    let second = invited["invitation_url"].as_str().unwrap().to_owned();
    let third = server
        .cli(&["user", "invite", "b@acme.test", "--tenant", "acme"])
        .await
        .ok();
    let mut visitor = Visitor::new(&server.url());
    for link in [&first, &second] {
        visitor.open(link).await.expect(410);
    }
    let mut hashes = Vec::new();
    let mut link = third.trim().to_owned();
    for _ in 0..2 {
        let page = visitor.open(&link).await.expect(200);
        visitor
            .send(&page, &[("password", GOOD), ("again", GOOD)])
            .await
            .expect(200);
        let look = server.database.look().await;
        let row = look.query_one("SELECT hash FROM user_passwords", &[]).await;
        hashes.push(row.unwrap().get::<_, String>(0));
        let again = server.cli(&["user", "invite", "b@acme.test"]).await.ok();
        link = again.trim().to_owned();
    }
    assert_ne!(hashes[0], hashes[1], "the same password has another salt");
    let unknown = server.cli(&["user", "invite", "nobody@acme.test"]).await;
    assert_eq!(unknown.status.code(), Some(1));
}

#[tokio::test]
async fn an_expired_forged_or_foreign_invitation_is_not_good() {
    let server = ServerProcess::start().await;
    let link = link_of(&server, "b@acme.test").await;
    let mut visitor = Visitor::new(&server.url());
    let page = visitor.open(&link).await.expect(200);
    let (start, random) = link.rsplit_once('.').unwrap();
    let (path, _) = start.rsplit_once('/').unwrap();
    let foreign = uuid::Uuid::new_v4();
    let cut = &link[..link.len() - 1];
    for bad in [
        cut.to_owned(),
        format!("{path}/{foreign}.{random}"),
        format!("{path}/x"),
        format!("{link}A"),
    ] {
        visitor.open(&bad).await.expect(410);
    }
    server
        .database
        .look()
        .await
        .batch_execute("UPDATE invitations SET expires_at = clock_timestamp()")
        .await
        .unwrap();
    visitor.open(&link).await.expect(410);
    visitor
        .send(&page, &[("password", GOOD), ("again", GOOD)])
        .await
        .expect(410);
    assert_eq!(server.database.count("user_passwords").await, 0);
}

#[tokio::test]
async fn a_form_that_another_site_sends_is_refused() {
    let server = ServerProcess::start().await;
    let link = link_of(&server, "b@acme.test").await;
    let mut visitor = Visitor::new(&server.url());
    let page = visitor.open(&link).await.expect(200);
    let fields = [("password", GOOD), ("again", GOOD)];
    // Without the cookie, as a browser sends it from elsewhere.
    Visitor::new(&server.url()).send(&page, &fields).await.expect(403);
    // With the cookie, but without the token that stands in our page.
    let forged = [("password", GOOD), ("again", GOOD), ("form", "00")];
    visitor.send(&page, &forged).await.expect(403);
    // With another visitor's token.
    let mut other = Visitor::new(&server.url());
    let others = other.open(&link).await.expect(200);
    visitor.send_to(&others, &page.path, &fields).await.expect(403);
    assert_eq!(server.database.count("user_passwords").await, 0);
    visitor.send(&page, &fields).await.expect(200);
}

#[tokio::test]
async fn p15_links_and_passwords_stand_neither_in_the_database_nor_in_the_log() {
    let mut server = ServerProcess::start().await;
    let link = link_of(&server, "b@acme.test").await;
    let mut visitor = Visitor::new(&server.url());
    let page = visitor.open(&link).await.expect(200);
    visitor
        .send(&page, &[("password", GOOD), ("again", GOOD)])
        .await
        .expect(200);
    let random = link.rsplit_once('.').unwrap().1;
    let log = server.running().log();
    assert!(log.contains("answered"), "{log}");
    assert!(!log.contains(random) && !log.contains("correct"), "{log}");
    let stored = "SELECT string_agg(t::text, '') FROM (SELECT * FROM audit_log) t";
    let stored: String = server
        .database
        .look()
        .await
        .query_one(stored, &[])
        .await
        .unwrap()
        .get(0);
    assert!(!stored.contains(random), "{stored}");
}
