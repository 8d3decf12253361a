//! How much at once and for how long: what keeps one client, or many, from taking the server down.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::patience::Patience;

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

/// How long a client may pause within a body: lost packets are sent again within a few seconds, and whoever pauses longer
/// holds one of the places of [`OPEN_REQUESTS`] for nothing.
pub(crate) const BODY_PAUSE: Duration = Duration::from_secs(20);

/// How long a client may take nothing of an answer before the connection is closed: an answer that waits is memory.
pub(crate) const WRITE_PAUSE: Duration = Duration::from_secs(60);

/// Requests of one device at once, above its rate: a device that comes back after a week sends and fetches in a row.
pub(crate) const DEVICE_BURST: f64 = 1_000.0;

/// Requests of one device per second, lasting. The daemon at its fastest (batches and pages of a thousand rows, PostgreSQL
/// on the same machine) makes some fifty.
pub(crate) const DEVICE_RATE_PER_SEC: f64 = 100.0;

/// As many devices' worth has one user over all of them.
pub(crate) const USER_DEVICES: f64 = 4.0;

/// Most devices and users whose rate is remembered, at 40 bytes each: more than [`CONNECTIONS`] can come with at once.
pub(crate) const BUCKETS: usize = 65_536;

/// Where the head of a request is cut off, in bytes (a token has under 1 KB), and the size in which bodies are read: what is
/// larger than this when a read begins is refused, so that a head of less than twice as much may still pass.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;

/// Most header lines of a request.
pub(crate) const HEAD_LINES: usize = 64;

/// What [`admit`] goes by.
#[derive(Clone)]
pub(crate) struct Door {
    open: Arc<Semaphore>,
    time: Duration,
}

impl Door {
    pub(crate) fn new(patience: &Patience) -> Door {
        Door {
            open: Arc::new(Semaphore::new(OPEN_REQUESTS)),
            time: patience.request,
        }
    }
}

/// Middleware: lets a request in if there is room, and ends it when its time is over.
///
/// Questions after our health pass always: a server that is busy is not to be taken for dead.
pub(crate) async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with("/health") {
        return next.run(request).await;
    }
    let Ok(_permit) = door.open.try_acquire() else {
        return ApiError::Unavailable(anyhow::anyhow!("{OPEN_REQUESTS} requests are open already"))
            .into_response();
    };
    match tokio::time::timeout(door.time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::TimedOut(door.time).into_response(),
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
