//! The status socket over a real unix socket.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coditect_sync::socket::{Control, Socket, SyncDone, serve_on};
use coditect_sync::status::{State, Status};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// After which a test that waits for something is taken for stuck.
const DEADLINE: Duration = Duration::from_secs(20);

struct Served {
    _folder: TempDir,
    path: PathBuf,
    status: watch::Sender<Arc<Status>>,
    control: mpsc::Receiver<Control>,
    shutdown: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

async fn serve() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sync.sock");
    let (status, seen) = watch::channel(Arc::new(Status::starting(
        Path::new("/c.db"),
        Timestamp::UNIX_EPOCH,
    )));
    let (wish, control) = mpsc::channel(8);
    let shutdown = CancellationToken::new();
    let socket = Socket::bind(&path).await.unwrap();
    let server = tokio::spawn(serve_on(socket, seen, wish, shutdown.clone()));
    Served {
        _folder: folder,
        path,
        status,
        control,
        shutdown,
        server,
    }
}

impl Served {
    /// Sends a request with these header lines and returns status code and body.
    async fn ask(&self, request_line: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        let request = format!(
            "{request_line} HTTP/1.1\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let status = answer[9..12].parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }

    async fn get(&self, route: &str) -> (u16, String) {
        self.ask(&format!("GET {route}"), "host: localhost\r\n", "").await
    }

    async fn post(&self, route: &str, body: &str) -> (u16, String) {
        self.ask(&format!("POST {route}"), "host: localhost\r\n", body)
            .await
    }

    fn publish(&self, state: State) {
        self.status
            .send_modify(|status| Arc::make_mut(status).state = state);
    }
}

#[tokio::test]
async fn the_status_is_the_one_published_last() {
    let served = serve().await;
    served.publish(State::InSync);
    let (code, body) = served.get("/v1/status").await;
    let status: Status = serde_json::from_str(&body).unwrap();
    assert_eq!((code, status.state), (200, State::InSync));
    let (code, body) = served.get("/v1/license").await;
    assert_eq!(code, 200);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["state"],
        "none"
    );
}

#[tokio::test]
async fn p15_the_socket_is_open_to_its_owner_alone() {
    let served = serve().await;
    let mode = std::fs::metadata(&served.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn web_pages_are_refused() {
    let mut served = serve().await;
    let requests = [
        "host: localhost\r\norigin: http://localhost\r\n",
        "host: localhost\r\norigin: null\r\n",
        "host: evil.test\r\n",
        "host: localhost.evil.test:80\r\n",
        "host: \r\n",
    ];
    for headers in requests {
        let (code, body) = served.ask("POST /v1/pause", headers, "").await;
        assert_eq!(code, 403, "{headers:?}: {body}");
    }
    assert!(
        served.control.try_recv().is_err(),
        "a refused request reached the loop"
    );
    let (code, _) = served.ask("GET /v1/status", "host: localhost:80\r\n", "").await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn every_change_is_an_event_and_the_stream_ends_with_the_daemon() {
    let served = serve().await;
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    for state in [State::Starting, State::Offline, State::InSync] {
        if state != State::Starting {
            served.publish(state);
        }
        let mut named = false;
        let status: Status = loop {
            let line = tokio::time::timeout(DEADLINE, lines.next_line())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            named |= line == "event: status";
            if let Some(data) = line.strip_prefix("data: ") {
                break serde_json::from_str(data).unwrap();
            }
        };
        assert!(named);
        assert_eq!(status.state, state);
    }
    served.shutdown.cancel();
    tokio::time::timeout(DEADLINE, served.server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(!served.path.exists(), "the socket's file stayed behind");
}

#[tokio::test]
async fn wishes_reach_the_loop() {
    let mut served = serve().await;
    for (route, name) in [
        ("pause", "Pause"),
        ("resume", "Resume"),
        ("reload", "Reload"),
        ("sync", "Sync"),
    ] {
        let (code, _) = served.post(&format!("/v1/{route}"), "").await;
        assert_eq!(code, 202, "{route}");
        let wish = served.control.recv().await.unwrap();
        assert!(format!("{wish:?}").starts_with(name), "{wish:?}");
    }
    for (line, expected) in [
        ("GET /v1/pause", 405),
        ("POST /v1/status", 405),
        ("GET /v2/status", 404),
    ] {
        assert_eq!(
            served.ask(line, "host: localhost\r\n", "").await.0,
            expected,
            "{line}"
        );
    }
    assert_eq!(served.post("/v1/sync", "{\"wait\": 3}").await.0, 422);
}

#[tokio::test]
async fn a_sync_that_waits_is_answered_when_the_loop_is_done() {
    let mut served = serve().await;
    let mut answers = vec![
        SyncDone::Done { cursor: 42 },
        SyncDone::NotPossible {
            state: State::NeedsLogin,
            reason: "nobody is logged in".into(),
        },
    ];
    let (wishes, mut control) = mpsc::channel(1);
    std::mem::swap(&mut served.control, &mut control);
    drop(wishes);
    let loop_task = tokio::spawn(async move {
        answers.reverse();
        while let Some(Control::Sync { done: Some(done) }) = control.recv().await {
            match answers.pop() {
                Some(answer) => done.send(answer).unwrap(),
                None => drop(done),
            }
        }
    });
    let wait = "{\"wait\": true, \"timeout_ms\": 20000}";
    let (code, body) = served.post("/v1/sync", wait).await;
    assert_eq!(
        (code, body.as_str()),
        (200, "{\"result\":\"done\",\"cursor\":42}")
    );
    let (code, body) = served.post("/v1/sync", wait).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 409);
    assert_eq!(body["error"]["details"]["state"], "needs_login");
    let (code, _) = served.post("/v1/sync", wait).await;
    assert_eq!(code, 503, "the loop dropped the wish: it is stopping");
    loop_task.abort();
}

#[tokio::test]
async fn a_sync_that_takes_too_long_says_so() {
    let served = serve().await;
    let (code, body) = served
        .post("/v1/sync", "{\"wait\": true, \"timeout_ms\": 1}")
        .await;
    assert_eq!(code, 504, "{body}");
}

#[tokio::test]
async fn a_left_over_socket_is_replaced_and_a_living_one_is_not() {
    let served = serve().await;
    let error = Socket::bind(&served.path).await.unwrap_err().to_string();
    assert!(error.contains("another daemon"), "{error}");
    assert_eq!(served.get("/v1/status").await.0, 200);

    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("sync.sock");
    // A process that was killed leaves the file without a listener.
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    drop(Socket::bind(&stale).await.unwrap());
    assert!(!stale.exists());
}

#[tokio::test]
async fn something_else_at_the_sockets_place_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sync.sock");
    std::fs::write(&path, "a file of the user's").unwrap();
    assert!(Socket::bind(&path).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file of the user's");
}
