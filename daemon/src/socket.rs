//! The status socket: HTTP/1.1 over a unix socket, for the command line and for IDEs of the same user.
//!
//! It reads the status that the loop publishes and hands wishes to the loop; it decides nothing itself. A browser page
//! cannot use it, even through a proxy to the socket: requests with an Origin or a foreign Host are refused.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::Router;
use axum::extract::{Request, State as AppState};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::status::{State, Status};

/// How long a `sync` with `wait` waits unless it says otherwise.
pub const SYNC_WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// Longest wait that a request may ask for; a client that wants more asks again.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(3600);

/// How long requests in flight may go on after the stop; the whole daemon has 2 s.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// How long a wish waits for the status to show it.
const STATUS_WAIT_MAX: Duration = Duration::from_secs(2);

/// Largest request body; ours are a few words.
const BODY_MAX_BYTES: usize = 64 * 1024;

/// What a request asks of the loop.
#[derive(Debug)]
pub enum Control {
    /// Sync now. With `done`, first prove that everything committed before was captured, then say when it is
    /// acknowledged and the head reached. A dropped sender means that the daemon stops.
    Sync {
        done: Option<oneshot::Sender<SyncDone>>,
    },
    Pause,
    Resume,
    /// Somebody logged in or out: read account and secret again, and config.toml too.
    Reload,
    /// config.toml may have changed.
    Reconfigure,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum SyncDone {
    Done { cursor: i64 },
    NotPossible { state: State, reason: String },
}

#[derive(Clone)]
struct App {
    status: watch::Receiver<Arc<Status>>,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
}

/// Serves until `shutdown`. Fails if the socket cannot be made, or if another daemon answers on it.
pub async fn serve(
    path: &Path,
    status: watch::Receiver<Arc<Status>>,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    serve_on(Socket::bind(path).await?, status, control, shutdown).await
}

/// The same on a socket that is already open.
pub async fn serve_on(
    socket: Socket,
    status: watch::Receiver<Arc<Status>>,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let app = App {
        status,
        control,
        shutdown: shutdown.clone(),
    };
    let stopped = shutdown.clone().cancelled_owned();
    let server = axum::serve(socket, router(app)).with_graceful_shutdown(stopped);
    tokio::select! {
        served = server.into_future() => served.context("serving the status socket"),
        () = async { shutdown.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => Ok(()),
    }
}

/// An open status socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Tells our socket file from one that another daemon put in its place.
    inode: u64,
    uid: u32,
}

impl Socket {
    /// Opens the socket with mode 0600. A left-over file is replaced only if nobody answers on it.
    pub async fn bind(path: &Path) -> anyhow::Result<Socket> {
        remove_left_over(path).await?;
        let listener =
            UnixListener::bind(path).with_context(|| format!("opening the socket {}", path.display()))?;
        // Until here the file may be open to others; their connections are refused by their user id all the same.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("closing the socket {} to others", path.display()))?;
        let inode = std::fs::symlink_metadata(path)
            .context("looking at the socket")?
            .ino();
        Ok(Socket {
            listener,
            path: path.to_path_buf(),
            inode,
            uid: rustix::process::geteuid().as_raw(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode);
        if ours {
            // A file that stays is replaced by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl axum::serve::Listener for Socket {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == self.uid => return (stream, ()),
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "refused another user at the status socket"),
                    Err(error) => tracing::warn!(%error, "refused a nameless peer at the status socket"),
                },
                Err(error) => {
                    // Out of file descriptors, most likely: they come back when other connections end.
                    tracing::warn!(%error, "accepting at the status socket");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

async fn remove_left_over(path: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        // A plain file refuses a connection just as a stale socket does.
        Ok(_) => anyhow::bail!("{} is no socket: move it away", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("looking at {}", path.display())),
    }
    match UnixStream::connect(path).await {
        Ok(_) => anyhow::bail!("another daemon answers at {}: stop it first", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .with_context(|| format!("removing the stale socket {}", path.display())),
        Err(error) => Err(error).with_context(|| format!("looking who is at {}", path.display())),
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/sync", post(sync))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/reload", post(reload))
        .route("/v1/license", get(license))
        .fallback(async || error(StatusCode::NOT_FOUND, "not_found", "there is no such route"))
        .method_not_allowed_fallback(async || {
            error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the route takes another method",
            )
        })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(axum::middleware::from_fn(refuse_browsers))
        .with_state(app)
}

async fn refuse_browsers(request: Request, next: Next) -> Response {
    match foreign(request.headers()) {
        Some(reason) => error(StatusCode::FORBIDDEN, "forbidden", reason),
        None => next.run(request).await,
    }
}

/// Why a request may come from a web page.
fn foreign(headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(ORIGIN) {
        return Some("requests of web pages (Origin) are not answered");
    }
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    (!name.eq_ignore_ascii_case("localhost")).then_some("the Host must be localhost")
}

async fn status(AppState(app): AppState<App>) -> Response {
    Json(&**app.status.borrow()).into_response()
}

async fn license(AppState(app): AppState<App>) -> Response {
    Json(&app.status.borrow().license).into_response()
}

async fn events(AppState(app): AppState<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut status = app.status;
    status.mark_changed();
    let changes = stream::unfold(status, async |mut status| {
        status.changed().await.ok()?;
        let now = status.borrow_and_update().clone();
        let event = Event::default()
            .event("status")
            .json_data(&*now)
            .expect("a status renders as JSON");
        Some((Ok(event), status))
    });
    let until_stop = changes.take_until(app.shutdown.cancelled_owned());
    Sse::new(until_stop).keep_alive(KeepAlive::default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SyncRequest {
    wait: bool,
    timeout_ms: Option<u64>,
}

async fn sync(AppState(app): AppState<App>, body: axum::body::Bytes) -> Response {
    let request: SyncRequest = match body.is_empty() {
        true => SyncRequest::default(),
        false => match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(cause) => {
                return error(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid_field",
                    &cause.to_string(),
                );
            }
        },
    };
    if !request.wait {
        return tell(&app, Control::Sync { done: None }).await;
    }
    let (done, finished) = oneshot::channel();
    if app
        .control
        .send(Control::Sync { done: Some(done) })
        .await
        .is_err()
    {
        return stopping();
    }
    let limit = request
        .timeout_ms
        .map_or(SYNC_WAIT_DEFAULT, Duration::from_millis)
        .min(SYNC_WAIT_MAX);
    match tokio::time::timeout(limit, finished).await {
        Ok(Ok(done @ SyncDone::Done { .. })) => Json(done).into_response(),
        Ok(Ok(SyncDone::NotPossible { state, reason })) => {
            let body = json!({"error": {"code": "sync_not_possible", "message": reason, "details": {"state": state}}});
            (StatusCode::CONFLICT, Json(body)).into_response()
        }
        Ok(Err(_)) => stopping(),
        Err(_) => error(
            StatusCode::GATEWAY_TIMEOUT,
            "sync_timeout",
            &format!("not in sync within {} ms; the sync goes on", limit.as_millis()),
        ),
    }
}

async fn pause(AppState(app): AppState<App>) -> Response {
    tell_and_wait(&app, Control::Pause, |state| {
        state == State::Paused || hides_pause(state)
    })
    .await
}

async fn resume(AppState(app): AppState<App>) -> Response {
    tell_and_wait(&app, Control::Resume, |state| state != State::Paused).await
}

async fn reload(AppState(app): AppState<App>) -> Response {
    tell(&app, Control::Reload).await
}

/// Answers once the status says so too: whoever asks next must not see the state from before.
async fn tell_and_wait(app: &App, control: Control, holds: impl Fn(State) -> bool) -> Response {
    let answer = tell(app, control).await;
    let mut status = app.status.clone();
    // A loop in the middle of a slow step takes the wish all the same, only later.
    let _ = tokio::time::timeout(STATUS_WAIT_MAX, status.wait_for(|status| holds(status.state))).await;
    answer
}

/// States that go before `paused`.
fn hides_pause(state: State) -> bool {
    match state {
        State::Starting | State::NeedsLogin | State::Blocked => true,
        State::Syncing | State::InSync | State::Offline | State::Paused | State::ReadOnly => false,
    }
}

async fn tell(app: &App, control: Control) -> Response {
    match app.control.send(control).await {
        Ok(()) => (StatusCode::ACCEPTED, Json(json!({"result": "accepted"}))).into_response(),
        Err(_) => stopping(),
    }
}

fn stopping() -> Response {
    error(
        StatusCode::SERVICE_UNAVAILABLE,
        "stopping",
        "the daemon is stopping",
    )
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": code, "message": message, "details": {}}});
    (status, Json(body)).into_response()
}
