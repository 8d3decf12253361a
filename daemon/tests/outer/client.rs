//! What the network and other people's servers can do to a request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use coditect_shared::DeviceId;
use coditect_shared::wire::{PullPage, PullQuery};
use coditect_sync::client::{Client, Failure, PullOutcome, PushOutcome};
use coditect_sync::credential::Secret;
use futures_util::stream;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

/// Longer than any step on loopback takes, short enough to wait for.
const SHORT_SILENCE: Duration = Duration::from_millis(300);

async fn serve(router: Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    client_of(address)
}

/// A server that reads a request and answers with these bytes, and then closes or keeps silent.
async fn serve_bytes(answer: &'static [u8], close: bool) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
            if !close {
                open.push(stream);
            }
        }
    });
    client_of(address)
}

fn client_of(address: SocketAddr) -> Client {
    let server = format!("http://{address}").parse().unwrap();
    Client::new(&server, DeviceId(Uuid::from_u128(7)), &Secret::new("t0k3n"), None)
        .unwrap()
        .with_silence_limit(SHORT_SILENCE)
}

fn reason(failure: Failure) -> String {
    let Failure::Unreachable { reason } = failure else {
        panic!("expected unreachable, got {failure:?}");
    };
    reason
}

async fn pull_failure(client: &Client) -> Failure {
    let outcome = client.pull(&PullQuery::default()).await;
    let PullOutcome::Failed(failure) = outcome else {
        panic!("expected a failure, got {outcome:?}");
    };
    failure
}

#[tokio::test]
async fn a_request_carries_token_device_and_query() {
    let router = Router::new().route(
        "/api/v1/context/pull",
        get(|headers: HeaderMap, RawQuery(query): RawQuery| async move {
            assert_eq!(headers["authorization"], "Bearer t0k3n");
            assert_eq!(headers["x-device-id"], "00000000-0000-0000-0000-000000000007");
            assert_eq!(query.as_deref(), Some("cursor=3&mark=m"));
            Json(PullPage {
                cursor: 9,
                ..PullPage::default()
            })
        }),
    );
    let query = PullQuery {
        cursor: 3,
        mark: Some("m".into()),
        ..PullQuery::default()
    };
    let outcome = serve(router).await.pull(&query).await;
    let PullOutcome::Page(page) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(page.cursor, 9);
}

#[tokio::test]
async fn nobody_listening_is_unreachable_with_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let text = reason(pull_failure(&client_of(address)).await);
    assert!(
        text.contains("refused") && text.contains(&address.to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn a_captive_portals_page_is_unreachable_even_with_200() {
    let client = serve(Router::new().fallback(async || Html("<h1>Welcome to our hotel</h1>"))).await;
    let text = reason(pull_failure(&client).await);
    assert!(text.contains("text/html"), "{text}");
    let failure = client.events(&mut |_| panic!("no event was sent")).await;
    assert!(matches!(failure, Failure::Unreachable { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let followed = Arc::new(AtomicUsize::new(0));
    let count = followed.clone();
    let router = Router::new()
        .route(
            "/portal",
            get(async move || count.fetch_add(1, Ordering::SeqCst).to_string()),
        )
        .fallback(async || (StatusCode::FOUND, [(header::LOCATION, "/portal")]));
    let text = reason(pull_failure(&serve(router).await).await);
    assert!(text.contains("/portal"), "{text}");
    assert_eq!(followed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_cut_short_is_unreachable() {
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"messages\": [";
    let text = reason(pull_failure(&serve_bytes(answer, true).await).await);
    assert!(text.contains("cut short"), "{text}");
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_ends_by_silence() {
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"messages\": [";
    let text = reason(pull_failure(&serve_bytes(answer, false).await).await);
    assert!(text.contains("silent"), "{text}");
}

#[tokio::test]
async fn garbage_instead_of_http_is_unreachable() {
    reason(pull_failure(&serve_bytes(b"SSH-2.0-OpenSSH_9.2\r\n", true).await).await);
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back() {
    let busy = async || {
        let error = json!({"code": "unavailable", "message": "no database", "details": {}});
        let body = json!({"error": error, "meta": {"request_id": "r", "timestamp": "t"}});
        (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "2")],
            Json(body),
        )
    };
    let failure = pull_failure(&serve(Router::new().fallback(busy)).await).await;
    let expected = Failure::Busy {
        status: 503,
        code: "unavailable".into(),
        message: "no database".into(),
        retry_after_ms: Some(2000),
    };
    assert_eq!(failure, expected);
}

#[tokio::test]
async fn a_push_sends_the_bytes_as_they_are() {
    let router = Router::new().route(
        "/api/v1/context/push",
        post(|headers: HeaderMap, body: axum::body::Bytes| async move {
            assert_eq!(headers["content-encoding"], "zstd");
            assert_eq!(&body[..], b"compressed");
            (StatusCode::PAYLOAD_TOO_LARGE, "a proxy's words").into_response()
        }),
    );
    let outcome = serve(router).await.push(b"compressed".to_vec()).await;
    assert_eq!(outcome, PushOutcome::Failed(Failure::TooLarge { limit: None }));
}

#[tokio::test]
async fn heads_arrive_until_the_stream_ends() {
    let events = async || {
        let heads = [1, 2, 3].map(|cursor| {
            Ok::<_, Infallible>(
                Event::default()
                    .event("head")
                    .data(json!({"cursor": cursor}).to_string()),
            )
        });
        Sse::new(stream::iter(heads))
    };
    let client = serve(Router::new().route("/api/v1/context/events", get(events))).await;
    let mut heads = Vec::new();
    let failure = client.events(&mut |head| heads.push(head)).await;
    assert_eq!(heads, [1, 2, 3]);
    assert!(reason(failure).contains("ended"));
}

#[tokio::test]
async fn a_half_open_stream_is_noticed_by_its_silence() {
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: head\ndata: {\"cursor\": 5}\n\n";
    let client = serve_bytes(answer, false).await;
    let mut heads = Vec::new();
    let failure = client.events(&mut |head| heads.push(head)).await;
    assert_eq!(heads, [5]);
    assert!(reason(failure).contains("silent"));
}

#[tokio::test]
async fn a_refused_event_stream_is_told_apart_from_a_broken_one() {
    let refused = async || {
        let error = json!({"code": "token_expired", "message": "it has expired", "details": {}});
        let body = json!({"error": error, "meta": {"request_id": "r", "timestamp": "t"}});
        (StatusCode::UNAUTHORIZED, Json(body))
    };
    let client = serve(Router::new().fallback(refused)).await;
    let failure = client.events(&mut |_| {}).await;
    assert!(matches!(failure, Failure::Unauthorized { .. }), "{failure:?}");
}

#[test]
fn p15_a_token_that_no_header_can_carry_is_not_quoted() {
    let server = "http://127.0.0.1:1".parse().unwrap();
    let error = Client::new(&server, DeviceId(Uuid::nil()), &Secret::new("hush\nhush"), None)
        .err()
        .unwrap();
    assert!(!format!("{error:?}").contains("hush"), "{error:?}");
}
