//! How much at once and for how long: what keeps one client, or many, from taking the server down.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Connections at once: ten thousand devices with one event stream and one connection for requests each, and room.
pub(crate) const CONNECTIONS: usize = 24_000;

/// Handshakes of TLS at once. Each costs the server a signature, which a client can ask for without proving anything;
/// more than these wait, and time out if it is an attack.
pub(crate) const HANDSHAKES: usize = 512;

/// How long a client may take to say its first word and finish the handshake: three round trips over a slow phone line
/// take under 5 s.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Requests in work at once; event streams count only until they begin. The pool has sixteen connections, so the rest
/// only waits, each with a body in memory. What comes above it is told to try again.
pub(crate) const OPEN_REQUESTS: usize = 256;

/// How long one request may take, its body included: 64 MB over 5 Mbit/s. Answers that stream are not cut off.
pub(crate) const REQUEST_TIME: Duration = Duration::from_secs(120);

/// How long a client may take for the head of a request, and how long a connection may idle between two.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(60);

/// Largest head of a request in bytes (a token has under 1 KB), and the size in which bodies are read.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;

/// Most header lines of a request.
pub(crate) const HEAD_LINES: usize = 64;

/// Middleware: lets a request in if there is room, and ends it when its time is over.
pub(crate) async fn admit(State(open): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = open.try_acquire() else {
        return ApiError::Unavailable(anyhow::anyhow!("{OPEN_REQUESTS} requests are open already"))
            .into_response();
    };
    match tokio::time::timeout(REQUEST_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::TimedOut(REQUEST_TIME).into_response(),
    }
}

/// Raises the number of files that this process may open to what the connections need: each is a file, and the default
/// of 1,024 is meant for programs of another kind.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let found = getrlimit(Resource::Nofile);
    // macOS takes no more than 10,240 at this call, whatever it says the maximum is.
    for wanted in [CONNECTIONS as u64 + 1_000, 10_240] {
        let current = found.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        if found.current.is_none_or(|had| had >= current)
            || setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(current),
                    ..found
                },
            )
            .is_ok()
        {
            return;
        }
    }
    tracing::warn!(limit = ?found.current, "may not raise the number of open files, which bounds the connections");
}
