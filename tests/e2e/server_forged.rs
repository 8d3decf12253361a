//! Tokens that prove nothing and requests that mean nothing: only refusals, nothing stored, no panic.

use coditect_server::routes::{self, Access};
use coditect_tests::api::{Api, message, new_device};
use coditect_tests::api::{batch_of_messages, send};
use coditect_tests::server::ServerProcess;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

const TOKENS: usize = 200;
const REQUESTS_OF_A_ROUTE: usize = 50;

/// Rows of all tables that a request could have made; the audit of reads that were let in is none of theirs.
async fn stored(server: &ServerProcess) -> i64 {
    let mut rows = 0;
    for table in [
        "tenants",
        "users",
        "memberships",
        "teams",
        "team_members",
        "projects",
        "permissions",
        "context_heads",
        "context_sync_cursors",
        "context_push_log",
        "context_messages",
        "context_task_tracking",
        "login_directory",
        "audit_log WHERE action <> 'read'",
    ] {
        rows += server.database.count(table).await;
    }
    rows
}

fn part(text: &str) -> String {
    // Base64url without a crate of its own: tokens need no more than this.
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for n in 0..=chunk.len() {
            out.push(char::from(LETTERS[(bits >> (18 - 6 * n)) as usize & 63]));
        }
    }
    out
}

/// One of many ways to show a token that is none.
fn forged(good: &str, random: &mut StdRng) -> String {
    let parts: Vec<&str> = good.split('.').collect();
    let claims = json!({"sub": Uuid::new_v4(), "tenant_id": Uuid::new_v4(), "role": "owner",
        "iat": 0, "exp": 9_999_999_999_i64, "iss": "coditect-server"});
    let claims = part(&claims.to_string());
    let header = |algorithm: &str| part(&json!({"alg": algorithm, "typ": "JWT"}).to_string());
    match random.random_range(0..10) {
        0 => {
            let mut bytes = good.as_bytes().to_vec();
            let place = random.random_range(0..bytes.len());
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        }
        1 => good[..random.random_range(0..good.len())].to_owned(),
        2 => format!("{}.{claims}.", header("none")),
        3 => format!("{}.{claims}.{}", header("HS256"), parts[2]),
        4 => format!("{}.{claims}.{}", parts[0], parts[2]),
        5 => format!("{good}.{}", parts[2]),
        6 => part(&"x".repeat(random.random_range(0..20_000))),
        7 => format!("{}.{}.{}", parts[2], parts[1], parts[0]),
        8 => (0..random.random_range(1..200))
            .map(|_| char::from(random.random_range(33..127_u8)))
            .collect(),
        _ => format!("{}.{}.{}", header("EdDSA"), part("{}"), parts[2]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_are_refused_everywhere_and_leave_nothing_behind() {
    let mut server = ServerProcess::start().await;
    let good = server.token("a@acme.test").await;
    let api = Api::new(&server.url(), &good);
    let before = stored(&server).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let guarded: Vec<_> = routes::table()
        .into_iter()
        .filter(|route| route.access != Access::Public)
        .collect();
    for n in 0..TOKENS {
        let route = &guarded[n % guarded.len()];
        let token = forged(&good, &mut random);
        let path = with_ids(route.path);
        let mut request = api.with_token(&token).request(route.method.clone(), &path);
        if route.method != Method::GET {
            request = request.json(&batch_of_messages(1, vec![message("s", "forged")]));
        }
        // A token that no header can hold never leaves the client.
        let Ok(request) = request.build() else { continue };
        let reply = api.execute(request).await;
        assert_eq!(
            reply.status, 401,
            "{} {path} with {token}: {reply:?}",
            route.method
        );
        assert!(
            token.len() < 20 || !reply.body.contains(&token),
            "P15: the token is said back"
        );
    }
    assert_eq!(stored(&server).await, before);
    let log = server.running().log();
    assert!(!log.contains("panicked"), "{log}");
}

fn with_ids(path: &str) -> String {
    path.replace("{secret}", "nothing")
        .replace("{id}", &Uuid::new_v4().to_string())
        .replace("{user_id}", &Uuid::new_v4().to_string())
}

fn garbage(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(1..300)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A body that fits no route.
fn bad_body(random: &mut StdRng) -> Vec<u8> {
    let bad = [
        "",
        "{",
        "null",
        "[]",
        "7",
        "\"text\"",
        "{}",
        "{\"name\": 7, \"key\": 7, \"email\": 7, \"role\": 7, \"epoch\": \"x\", \"user_id\": 7, \"project_id\": 7}",
        "{\"name\": \"\", \"key\": \"\", \"email\": \"\", \"role\": \"king\", \"epoch\": 0, \"push_seq\": 0, \"action\": \"steal\"}",
        "{\"epoch\": 1, \"push_seq\": 1, \"messages\": {}}",
        "{\"epoch\": 1, \"push_seq\": 9223372036854775808}",
        "{\"name\": \"\\u0000\", \"key\": \"\\u0000\", \"epoch\": -1, \"push_seq\": 1}",
        "{\"name\": \"\\ud800\"}",
    ];
    match random.random_range(0..=bad.len()) {
        n if n < bad.len() => bad[n].as_bytes().to_vec(),
        _ if random.random_bool(0.5) => "[".repeat(100_000).into_bytes(),
        _ => garbage(random),
    }
}

/// A request to a route's path that nothing good can come of.
fn malformed(api: &Api, route: &routes::Route, random: &mut StdRng) -> Option<RequestBuilder> {
    let path = with_ids(route.path);
    let takes_body = [Method::POST, Method::PATCH].contains(&route.method);
    let is_pull = route.path.ends_with("/pull");
    let is_list = route.method == Method::GET && !takes_body && matches!(route.access, Access::Manage(_));
    let request = |path: &str| api.request(route.method.clone(), path);
    Some(match random.random_range(0..8) {
        // A body that does not fit.
        0 | 1 if takes_body => request(&path).body(bad_body(random)),
        2 if takes_body => request(&path)
            .header("content-encoding", "zstd")
            .body(garbage(random)),
        3 if takes_body => request(&path).header("content-encoding", "brainfuck").body("{}"),
        // Ids that are none.
        0..4 if path != route.path => {
            let bad = ["x", "%00", "%ff", "..%2f..", "0", "%27%20OR%201=1", "-1"];
            let bad = bad[random.random_range(0..bad.len())];
            let path = route.path.replace("{id}", bad).replace("{user_id}", bad);
            request(&path).body("{\"name\": \"n\", \"role\": \"viewer\"}")
        }
        // Parameters that are none.
        0..3 if is_pull || is_list => {
            let bad = ["limit=0", "limit=-1", "limit=9999999999999999999999", "limit=x"];
            let own = if is_pull { "cursor=-1" } else { "after=x" };
            let bad = if random.random_bool(0.3) {
                own
            } else {
                bad[random.random_range(0..bad.len())]
            };
            request(&format!("{path}?{bad}"))
        }
        // Devices that are none.
        3 if is_pull => api
            .anonymous(route.method.clone(), &path)
            .bearer_auth(&api.token)
            .header("x-device-id", "not-a-uuid"),
        // Nobody, or somebody twice.
        4 if route.access != Access::Public => api.anonymous(route.method.clone(), &path),
        5 if route.access != Access::Public => request(&path).header("authorization", "Bearer second"),
        // A method or a path that is not there.
        6 => api.request(Method::from_bytes(b"BREW").ok()?, &path),
        _ => request(&format!(
            "{}/{}",
            path.trim_end_matches('/'),
            random.random::<u64>()
        )),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_by_every_route_and_leave_nothing_behind() {
    let mut server = ServerProcess::start().await;
    server
        .cli(&[
            "user",
            "create",
            "o@acme.test",
            "--tenant",
            "acme",
            "--role",
            "owner",
        ])
        .await
        .ok();
    let owner = Api::new(&server.url(), &server.token("o@acme.test").await);
    let before = stored(&server).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for route in routes::table() {
        for _ in 0..REQUESTS_OF_A_ROUTE {
            let Some(request) = malformed(&owner.as_device(new_device()), &route, &mut random) else {
                continue;
            };
            let request = request.build().unwrap();
            let what = format!("{} {}", request.method(), request.url());
            let reply = owner.execute(request).await;
            assert!(reply.status.is_client_error(), "{what}: {reply:?}");
            if route.path.starts_with("/api/v1/context") || matches!(route.access, Access::Manage(_)) {
                let error: Value = reply.json();
                assert!(error["error"]["code"].is_string(), "{what}: {reply:?}");
            }
        }
    }
    assert_eq!(stored(&server).await, before);
    let page: Value = send(owner.request(Method::GET, "/api/v1/memberships")).await.ok();
    assert_eq!(page["memberships"].as_array().unwrap().len(), 2, "it still works");
    let log = server.running().log();
    assert!(!log.contains("panicked"), "{log}");
}
