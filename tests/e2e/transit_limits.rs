//! Limits in number, size and time: whoever goes beyond is cut off, and everybody else is served.

use std::time::{Duration, Instant};

use coditect_server::patience::Patience;
use coditect_tests::api::{Api, Pusher, message};
use coditect_tests::daemon::Workstation;
use coditect_tests::deadline::{let_live, until};
use coditect_tests::server::{ServerProcess, TestServer};
use coditect_tests::writer;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::interval;

use crate::pair::is_settled;

/// Short enough not to be waited for, long enough for a loaded machine to serve honest requests in.
const SHORT: Duration = Duration::from_millis(400);

/// Between two pieces of those who send without end.
const DRIP: Duration = Duration::from_millis(20);

async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://"))
        .await
        .unwrap()
}

/// The head of a push of so many bytes.
fn push_head(api: &Api, length: usize, more: &str) -> String {
    format!(
        "POST /api/v1/context/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Device-ID: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n",
        api.token, api.device
    )
}

/// Sends a piece at a time until the server answers or closes, and returns what it said.
async fn drip(stream: &mut TcpStream, piece: &[u8]) -> String {
    let mut said = Vec::new();
    let mut drops = interval(DRIP);
    let (mut reader, mut writer) = stream.split();
    loop {
        let mut bytes = [0; 4096];
        tokio::select! {
            read = reader.read(&mut bytes) => match read {
                Ok(0) | Err(_) => break,
                Ok(read) => said.extend_from_slice(&bytes[..read]),
            },
            _ = drops.tick() => {
                // The other side may have closed in this very moment.
                let _ = writer.write_all(piece).await;
            }
        }
    }
    String::from_utf8(said).unwrap()
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A connection that is reset has said what it said.
    let _ = stream.read_to_end(&mut said).await;
    said
}

#[tokio::test]
async fn a_head_that_comes_without_end_and_a_connection_without_a_request_are_closed() {
    let server = TestServer::start_with_patience(Patience {
        head: SHORT,
        ..Patience::default()
    })
    .await;
    let mut slow = connect(&server.url).await;
    slow.write_all(b"GET /health/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .await
        .unwrap();
    let said = drip(&mut slow, b"a").await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    // One request, then nothing.
    let mut idle = connect(&server.url).await;
    idle.write_all(b"GET /health/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let said = String::from_utf8(read_to_end(&mut idle).await).unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up_and_stores_nothing() {
    let server = TestServer::start_with_patience(Patience {
        body_pause: SHORT,
        ..Patience::default()
    })
    .await;
    let (_, api) = server.acme().await;
    for encoding in ["", "Content-Encoding: zstd\r\n"] {
        let mut stalled = connect(&server.url).await;
        stalled
            .write_all(push_head(&api, 1_000, encoding).as_bytes())
            .await
            .unwrap();
        // The first bytes of a zstd frame, which are no JSON either.
        stalled.write_all(b"\x28\xb5\x2f\xfd").await.unwrap();
        let said = String::from_utf8(read_to_end(&mut stalled).await).unwrap();
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        assert!(
            said.contains("request_timeout") && said.contains("retry-after"),
            "{said}"
        );
    }
    assert_eq!(server.database.count("context_push_log").await, 0);
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off_though_it_never_pauses() {
    let server = TestServer::start_with_patience(Patience {
        request: SHORT,
        ..Patience::default()
    })
    .await;
    let (_, api) = server.acme().await;
    let mut endless = connect(&server.url).await;
    endless
        .write_all(push_head(&api, 1 << 20, "").as_bytes())
        .await
        .unwrap();
    let said = drip(&mut endless, b" ").await;
    assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    assert!(said.contains("request_timeout"), "{said}");
}

#[tokio::test]
async fn a_client_that_takes_no_answer_loses_its_connection() {
    const ROWS: usize = 4;
    const PULLS: usize = 12;
    let server = TestServer::start_with_patience(Patience {
        write_pause: SHORT,
        ..Patience::default()
    })
    .await;
    let (_, api) = server.acme().await;
    let rows = (0..ROWS).map(|n| message("s", &format!("{n}{}", "x".repeat(1 << 20))));
    Pusher::new(api.clone()).messages(rows.collect()).await;
    let mut deaf = connect(&server.url).await;
    let pull = format!(
        "GET /api/v1/context/pull?cursor=0&limit=100 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Device-ID: {}\r\n\r\n",
        api.token,
        api.another_device().device
    );
    deaf.write_all(pull.repeat(PULLS).as_bytes()).await.unwrap();
    // Several times the patience with nothing taken at all.
    let_live(8 * SHORT).await;
    let taken = read_to_end(&mut deaf).await.len();
    assert!(
        taken > 0 && taken < (PULLS * ROWS) << 20,
        "{taken} bytes: all answers were kept for a client that takes none"
    );
    assert_eq!(api.get("/health/").await.status, 200);
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let server = TestServer::start().await;
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    let large = format!("X-Large: {}\r\n", "y".repeat(200 << 10));
    let path = format!("/{}", "y".repeat(200 << 10));
    for (path, more) in [("/health/", many.as_str()), ("/health/", &large), (&path, "")] {
        let mut stream = connect(&server.url).await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
        // Refused before it was read to its end.
        let _ = stream.write_all(head.as_bytes()).await;
        let said = String::from_utf8(read_to_end(&mut stream).await).unwrap();
        let refused = ["HTTP/1.1 431", "HTTP/1.1 414", "HTTP/1.1 400"];
        // A reset may overtake the answer.
        assert!(
            said.is_empty() || refused.iter().any(|status| said.starts_with(status)),
            "{said}"
        );
    }
    assert_eq!(Api::new(&server.url, "").get("/health/").await.status, 200);
}

#[tokio::test]
async fn above_the_number_of_open_requests_others_are_told_to_come_back_and_health_answers() {
    /// As the server's own limit.
    const OPEN: usize = 256;
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let mut holding = Vec::new();
    for _ in 0..OPEN {
        let mut stream = connect(&server.url).await;
        stream
            .write_all(push_head(&api, 10, "").as_bytes())
            .await
            .unwrap();
        holding.push(stream);
    }
    let busy = until(
        "the server is full",
        async || api.get("/api/v1/account").await,
        |reply| reply.status == 503,
    )
    .await;
    assert_eq!(busy.error(503).error.code, "unavailable");
    let busy = api.get("/api/v1/account").await;
    assert!(busy.headers.contains_key("retry-after"));
    assert_eq!(api.get("/health/").await.status, 200);
    assert_eq!(api.get("/health/ready/").await.status, 200);
    drop(holding);
    until(
        "there is room again",
        async || api.get("/api/v1/account").await.status,
        |status| status.is_success(),
    )
    .await;
}

/// Takes all that a device may ask for now.
fn exhaust(server: &TestServer, api: &Api) {
    let caller = coditect_server::auth::verify(&server.state.keys, &api.token).unwrap();
    let rates = &server.state.rates;
    while rates
        .take(caller.tenant, &caller.user, Some(api.device), Instant::now())
        .is_ok()
    {}
}

#[tokio::test]
async fn a_device_that_asks_without_pause_is_told_when_to_come_back_and_another_is_not() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let other = api.another_device();
    assert_eq!(api.get("/api/v1/account").await.status, 200);
    exhaust(&server, &api);
    let refused = until(
        "the device is refused",
        async || {
            exhaust(&server, &api);
            api.get("/api/v1/account").await
        },
        |reply| reply.status == 429,
    )
    .await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.error(429).error.code, "too_many_requests");
    assert_eq!(other.get("/api/v1/account").await.status, 200);
    until(
        "it may ask again",
        async || api.get("/api/v1/account").await.status,
        |status| status.is_success(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_a_daemon_that_is_told_to_come_back_does_and_loses_nothing() {
    let server = TestServer::start().await;
    let (_, api) = server.acme().await;
    let a = Workstation::start(&server.url, &api.token).await;
    let status = a.wait_until("in sync", is_settled).await;
    let device = status["account"]["device_id"].as_str().unwrap();
    let as_a = api.as_device(device.parse().unwrap());
    let before = server.database.count("context_push_log").await;
    exhaust(&server, &as_a);
    writer::message(&a.open(), "s", "written by a device that asks too much").unwrap();
    a.wait_until("sent", |status| {
        is_settled(status) && status["push"]["rows_total"] != 0
    })
    .await;
    assert_eq!(server.database.count("context_push_log").await, before + 1);
    assert_eq!(server.database.count("context_messages").await, 1);
}

#[tokio::test]
async fn every_answer_bears_the_requests_id_and_so_does_every_line_of_its_log() {
    let mut server = ServerProcess::start().await;
    let api = Api::new(&server.url(), &server.token("a@acme.test").await);
    let cases = [
        ("known-route", "/api/v1/account", 200),
        ("no-route", "/nothing", 404),
        ("bad-query", "/api/v1/context/pull?cursor=x", 422),
        ("health", "/health/ready/", 200),
    ];
    for (id, path, status) in cases {
        let request = api.request(Method::GET, path).header("X-Request-ID", id);
        let reply = coditect_tests::api::send(request).await;
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(reply.headers["x-request-id"], id);
        if status != 200 {
            assert_eq!(reply.json()["meta"]["request_id"], id);
        }
        let log = until(
            "the request is in the log",
            async || server.running().log(),
            |log| log.contains(&format!("request{{id={id} ")),
        )
        .await;
        let lines: Vec<_> = log.lines().filter(|line| line.contains(id)).collect();
        assert!(
            lines
                .iter()
                .all(|line| line.contains(&format!("request{{id={id} "))),
            "{lines:#?}"
        );
        assert!(
            lines.last().unwrap().contains(&format!("status={status}")),
            "{lines:#?}"
        );
        assert!(!log.contains(&api.token), "P15");
    }
}
