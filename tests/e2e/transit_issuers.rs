//! Access tokens of other issuers: who is believed, who is not, and what becomes of a first login.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coditect_server::auth::Caller;
use coditect_server::external::Settings;
use coditect_shared::wire::Account;
use coditect_tests::api::{Api, Reply};
use coditect_tests::deadline::until;
use coditect_tests::issuer::{AUDIENCE, Said, Signer, StandIn};
use coditect_tests::server::{SecondServer, ServerProcess, TestServer};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::EdDSA,
];

/// A server that believes a stand-in issuer, and a tenant `acme` with a member.
struct Stage {
    server: TestServer,
    believing: SecondServer,
    issuer: StandIn,
    member: Caller,
}

impl Stage {
    async fn with(signers: &[&Signer]) -> Stage {
        let keys = signers.iter().map(|signer| signer.jwk()).collect();
        let issuer = StandIn::start(Said::Keys(keys)).await;
        let server = TestServer::start().await;
        let believing = server
            .beside_believing(vec![Settings::new(&issuer.url, AUDIENCE)])
            .await;
        let (member, _) = server.acme().await;
        Stage {
            server,
            believing,
            issuer,
            member,
        }
    }

    /// The tenant's id, as a claim.
    fn tenant(&self) -> String {
        self.member.tenant.to_string()
    }

    async fn allow_first_login(&self) {
        let superuser = self.server.database.look().await;
        superuser
            .execute("UPDATE tenants SET first_login_makes_user = true", &[])
            .await
            .unwrap();
    }

    async fn account(&self, token: &str) -> Reply {
        Api::new(&self.believing.url, token).get("/api/v1/account").await
    }

    async fn refusal(&self, token: &str) -> String {
        self.account(token).await.error(401).error.code
    }
}

#[tokio::test]
async fn tokens_of_each_algorithm_are_believed_and_the_first_makes_the_user_with_its_role_once() {
    let signers = ALGORITHMS.map(|algorithm| Signer::new(&format!("{algorithm:?}"), algorithm));
    let stage = Stage::with(&signers.iter().collect::<Vec<_>>()).await;
    let with_role = |role: &str| {
        let mut claims = stage.issuer.claims("service", &stage.tenant());
        claims["role"] = json!(role);
        claims
    };
    let claims = with_role("admin");
    assert_eq!(stage.refusal(&signers[0].sign(&claims)).await, "user_unknown");
    stage.allow_first_login().await;
    let mut seen = Vec::new();
    for signer in &signers {
        let account: Account = stage.account(&signer.sign(&claims)).await.ok();
        assert_eq!(
            (account.user.as_str(), account.role.as_str()),
            ("service@acme.test", "admin")
        );
        seen.push(account.user_id);
    }
    assert!(seen.iter().all(|user| *user == seen[0]), "{seen:?}");
    // From then on the role is the membership's, whatever tokens say.
    let account: Account = stage.account(&signers[0].sign(&with_role("owner"))).await.ok();
    assert_eq!(account.role, "admin");
    assert_eq!(stage.server.database.count("users").await, 2);
    assert_eq!(
        stage
            .server
            .database
            .count("audit_log WHERE details ->> 'by' = 'first login'")
            .await,
        1
    );
    assert_eq!(stage.issuer.fetches(), 1, "the keys are kept");
}

#[tokio::test]
async fn first_logins_at_once_make_one_user() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let stage = Stage::with(&[&signer]).await;
    stage.allow_first_login().await;
    let token = signer.sign(&stage.issuer.claims("service", &stage.tenant()));
    let answers = futures_util::future::join_all((0..8).map(|_| stage.account(&token))).await;
    let users: Vec<_> = answers
        .into_iter()
        .map(|reply| reply.ok::<Account>().user_id)
        .collect();
    assert!(users.iter().all(|user| *user == users[0]), "{users:?}");
    assert_eq!(stage.server.database.count("users").await, 2);
}

#[tokio::test]
async fn a_first_login_takes_over_a_user_of_that_address_only_if_the_issuer_vouches_for_it() {
    let signer = Signer::new("k", Algorithm::ES256);
    let stage = Stage::with(&[&signer]).await;
    stage.allow_first_login().await;
    let mut claims = stage.issuer.claims("a", &stage.tenant());
    for unverified in [json!(false), json!("true"), Value::Null] {
        claims["email_verified"] = unverified;
        assert_eq!(stage.refusal(&signer.sign(&claims)).await, "user_unknown");
    }
    claims["email_verified"] = json!(true);
    claims["role"] = json!("owner");
    let account: Account = stage.account(&signer.sign(&claims)).await.ok();
    assert_eq!(account.user_id, stage.member.user);
    assert_eq!(account.role, "member", "the role is not the token's to change");
    // Without an address, or with a role that is none, nobody is made.
    for (name, value) in [
        ("email", Value::Null),
        ("email", json!("no address")),
        ("role", json!("root")),
    ] {
        let mut claims = stage.issuer.claims("b", &stage.tenant());
        claims[name] = value;
        assert_eq!(
            stage.refusal(&signer.sign(&claims)).await,
            "user_unknown",
            "{name}"
        );
    }
    assert_eq!(stage.server.database.count("users").await, 1);
}

#[tokio::test]
async fn a_subject_belongs_to_one_tenant_and_a_removed_member_stays_out() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let stage = Stage::with(&[&signer]).await;
    stage.server.tenant("rival").await;
    let rival = stage.server.tenant("rival2").await.to_string();
    stage.allow_first_login().await;
    let token = signer.sign(&stage.issuer.claims("service", &stage.tenant()));
    let account: Account = stage.account(&token).await.ok();
    let elsewhere = signer.sign(&stage.issuer.claims("service", &rival));
    assert_eq!(stage.refusal(&elsewhere).await, "user_unknown");
    for nowhere in ["no such tenant", "5a0f1f4e-0000-4000-8000-00000000dead", ""] {
        let token = signer.sign(&stage.issuer.claims("another", nowhere));
        assert_eq!(stage.refusal(&token).await, "user_unknown", "{nowhere}");
    }
    stage
        .server
        .database
        .look()
        .await
        .execute(
            "DELETE FROM memberships WHERE user_id::text = $1",
            &[&account.user_id.to_string()],
        )
        .await
        .unwrap();
    // What was read is believed for some seconds; a server that has read nothing yet knows at once.
    let fresh = stage
        .server
        .beside_believing(vec![Settings::new(&stage.issuer.url, AUDIENCE)])
        .await;
    let ended = Api::new(&fresh.url, &token).get("/api/v1/account").await;
    assert_eq!(ended.error(401).error.code, "membership_ended");
    assert_eq!(stage.server.database.count("users").await, 2);
}

/// Header and claims as a token's first two parts, with a signature of one's own.
fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

#[tokio::test]
async fn forged_tokens_are_refused_one_by_one() {
    let signers = ALGORITHMS.map(|algorithm| Signer::new(&format!("{algorithm:?}"), algorithm));
    let [rsa, _, ec, ed] = &signers;
    let secret = json!({"kty": "oct", "kid": "secret", "k": URL_SAFE_NO_PAD.encode("shared")});
    let mut for_encryption = rsa.jwk();
    for_encryption["kid"] = json!("encryption");
    for_encryption["use"] = json!("enc");
    let mut for_ps = rsa.jwk();
    for_ps["kid"] = json!("only-ps");
    for_ps["alg"] = json!("PS256");
    let stage = Stage::with(&signers.iter().collect::<Vec<_>>()).await;
    let mut keys: Vec<Value> = signers.iter().map(Signer::jwk).collect();
    keys.extend([
        secret,
        for_encryption,
        for_ps,
        json!({"kty": "future"}),
        json!("nonsense"),
    ]);
    stage.issuer.say(Said::Keys(keys));
    stage.allow_first_login().await;
    let good = stage.issuer.claims("service", &stage.tenant());
    let now = Timestamp::now().as_second();

    let mut table: Vec<(String, String)> = Vec::new();
    for algorithm in [
        "none", "None", "NONE", "HS256", "HS512", "RS256", "ES256", "EdDSA", "ES384", "RS512", "",
    ] {
        for signature in ["", "AAAA"] {
            let header = json!({"alg": algorithm, "kid": "RS256", "typ": "JWT"});
            table.push((
                format!("{algorithm} without a signature"),
                forged(&header, &good, signature),
            ));
        }
    }
    let with_kid = |algorithm: Algorithm, kid: &str| {
        let mut header = Header::new(algorithm);
        header.kid = Some(kid.to_owned());
        header
    };
    // The public key taken as the secret of an HMAC, in each form in which it is published.
    for text in [
        rsa.pem().to_owned(),
        rsa.jwk().to_string(),
        rsa.jwk()["n"].as_str().unwrap().to_owned(),
        ed.jwk()["x"].as_str().unwrap().to_owned(),
    ] {
        for kid in ["RS256", "EdDSA"] {
            let key = EncodingKey::from_secret(text.as_bytes());
            let token = encode(&with_kid(Algorithm::HS256, kid), &good, &key).unwrap();
            table.push((format!("HMAC by a public key, {kid}"), token));
        }
    }
    let shared = EncodingKey::from_secret(b"shared");
    table.push((
        "HMAC by a published secret".into(),
        encode(&with_kid(Algorithm::HS256, "secret"), &good, &shared).unwrap(),
    ));
    // A key of one type named for the algorithm of another, or beside its purpose.
    table.push((
        "ES256 by an Ed25519 key's name".into(),
        ec.sign_as(&with_kid(Algorithm::ES256, "EdDSA"), &good),
    ));
    table.push((
        "EdDSA by an EC key's name".into(),
        ed.sign_as(&with_kid(Algorithm::EdDSA, "ES256"), &good),
    ));
    table.push((
        "RS512 by a good key".into(),
        rsa.sign_as(&with_kid(Algorithm::RS512, "RS256"), &good),
    ));
    table.push((
        "a key for encryption".into(),
        rsa.sign_as(&with_kid(Algorithm::RS256, "encryption"), &good),
    ));
    table.push((
        "RS256 by a key for PS256".into(),
        rsa.sign_as(&with_kid(Algorithm::RS256, "only-ps"), &good),
    ));
    table.push((
        "another key of the set".into(),
        rsa.sign_as(&with_kid(Algorithm::RS256, "PS256"), &good),
    ));
    let thief = Signer::new("RS256", Algorithm::RS256);
    table.push(("a stranger's key under a good name".into(), thief.sign(&good)));
    let unknown = Signer::new("unknown", Algorithm::EdDSA);
    table.push(("an unknown key".into(), unknown.sign(&good)));
    table.push((
        "no key's name".into(),
        ed.sign_as(&Header::new(Algorithm::EdDSA), &good),
    ));
    let mut critical = ed.header();
    critical.crit = Some(vec!["exp".into()]);
    table.push(("something critical".into(), ed.sign_as(&critical, &good)));
    let mut embedded = with_kid(Algorithm::EdDSA, "unknown");
    embedded.jwk = serde_json::from_value(unknown.jwk()).ok();
    embedded.jku = Some(format!("{}/keys", stage.issuer.url));
    table.push(("its own key along".into(), unknown.sign_as(&embedded, &good)));
    for (name, value) in [
        ("iss", json!("https://elsewhere.test")),
        ("iss", json!(format!("{}/", stage.issuer.url))),
        ("aud", json!("another service")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("nbf", json!(now + 3600)),
        ("iat", json!(now + 3600)),
        ("exp", json!("soon")),
        ("exp", Value::Null),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!(5)),
    ] {
        let mut claims = good.clone();
        claims[name] = value.clone();
        table.push((format!("{name}: {value}"), ed.sign(&claims)));
    }
    for name in ["iss", "aud", "exp", "sub"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        table.push((format!("without {name}"), ed.sign(&claims)));
    }
    let whole = ed.sign(&good);
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        table.push((format!("cut at {cut}"), whole[..cut].to_owned()));
    }
    let mut swapped = good.clone();
    swapped["role"] = json!("owner");
    let parts: Vec<&str> = whole.split('.').collect();
    let other = ed.sign(&swapped);
    let claims = other.split('.').nth(1).unwrap();
    table.push((
        "claims of another token".into(),
        format!("{}.{claims}.{}", parts[0], parts[2]),
    ));
    let long = {
        let mut claims = good.clone();
        claims["groups"] = json!("x".repeat(20_000));
        ed.sign(&claims)
    };
    table.push(("too long".into(), long));

    for (what, token) in &table {
        assert_eq!(stage.refusal(token).await, "token_invalid", "{what}");
    }
    let mut expired = good.clone();
    expired["exp"] = json!(now - 60);
    assert_eq!(stage.refusal(&ed.sign(&expired)).await, "token_expired");
    assert_eq!(stage.server.database.count("users").await, 1, "nobody was made");
    // They differ from this in one thing each.
    assert_eq!(stage.account(&whole).await.status, 200);
    // Unknown keys by the dozen did not make it fetch by the dozen.
    assert!(stage.issuer.fetches() <= 3, "{} fetches", stage.issuer.fetches());
}

#[tokio::test]
async fn a_new_key_of_the_issuer_is_found_and_its_outage_does_not_matter_to_known_ones() {
    let (old, new) = (
        Signer::new("old", Algorithm::EdDSA),
        Signer::new("new", Algorithm::ES256),
    );
    let stage = Stage::with(&[&old]).await;
    stage.allow_first_login().await;
    let claims = stage.issuer.claims("service", &stage.tenant());
    assert_eq!(stage.account(&old.sign(&claims)).await.status, 200);
    stage.issuer.say(Said::Keys(vec![old.jwk(), new.jwk()]));
    // Not more often than every few seconds, whoever asks.
    until(
        "the new key is found",
        async || stage.account(&new.sign(&claims)).await.status,
        |status| status.is_success(),
    )
    .await;
    assert_eq!(stage.issuer.fetches(), 2);
    for said in [Said::Status(503), Said::Nonsense, Said::Silence] {
        stage.issuer.say(said);
        for signer in [&old, &new] {
            assert_eq!(stage.account(&signer.sign(&claims)).await.status, 200);
        }
    }
}

#[tokio::test]
async fn an_issuer_that_is_down_slow_or_says_nonsense_is_no_reason_to_believe_or_to_wait() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    for said in [
        Said::Status(500),
        Said::Status(302),
        Said::Nonsense,
        Said::Foreign,
        Said::Flood,
        Said::Silence,
        Said::Keys(Vec::new()),
    ] {
        let stage = Stage::with(&[&signer]).await;
        stage.allow_first_login().await;
        let claims = stage.issuer.claims("service", &stage.tenant());
        let token = signer.sign(&claims);
        stage.issuer.say(said.clone());
        let refused = stage.account(&token).await;
        assert_eq!(refused.error(503).error.code, "unavailable", "{said:?}");
        // Our own tokens do not depend on it.
        let own = Api::new(&stage.believing.url, &stage.server.token(&stage.member));
        assert_eq!(own.get("/api/v1/account").await.status, 200);
    }
}

#[tokio::test]
async fn the_real_server_believes_an_issuer_by_its_arguments_and_a_linked_subject() {
    let signer = Signer::new("k", Algorithm::PS256);
    let issuer = StandIn::start(Said::Keys(vec![signer.jwk()])).await;
    let mut server = ServerProcess::start().await;
    server.kill().await;
    server.serve_arguments = vec![
        format!("--issuer={}", issuer.url),
        format!("--audience={AUDIENCE}"),
    ];
    server.run().await;
    let token = signer.sign(&issuer.claims("robot", "Acme"));
    let api = Api::new(&server.url(), &token);
    let unknown = api.get("/api/v1/account").await;
    assert_eq!(unknown.error(401).error.code, "user_unknown");
    server
        .cli(&[
            "user",
            "link",
            "a@acme.test",
            "--tenant",
            "acme",
            "--issuer",
            &issuer.url,
            "--subject",
            "robot",
        ])
        .await
        .ok();
    let account: Account = api.get("/api/v1/account").await.ok();
    assert_eq!(account.user, "a@acme.test");
    let set = server
        .cli(&["tenant", "set", "acme", "--first-login", "on", "--json"])
        .await
        .json();
    assert_eq!(set["first_login_makes_user"], true);
    let another = signer.sign(&issuer.claims("another", "acme"));
    let account: Account = api.with_token(&another).get("/api/v1/account").await.ok();
    assert_eq!(
        (account.user.as_str(), account.role.as_str()),
        ("another@acme.test", "member")
    );
    server
        .cli(&["tenant", "set", "acme", "--first-login", "off"])
        .await
        .ok();
    let third = signer.sign(&issuer.claims("third", "acme"));
    let unknown = api.with_token(&third).get("/api/v1/account").await;
    assert_eq!(unknown.error(401).error.code, "user_unknown");
    assert!(!server.running().log().contains(&token), "P15");
}
