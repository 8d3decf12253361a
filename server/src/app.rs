//! The application: what every request shares, the routes, the limits around them, and the loop that serves.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::any;
use coditect_shared::limits::PUSH_BODY_MAX_BYTES;
use deadpool_postgres::Pool;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use uuid::Uuid;

use crate::audit::reads::Reads;
use crate::error::ApiError;
use crate::events::Heads;
use crate::external::External;
use crate::keys::Issuer;
use crate::limits;
use crate::membership::Memberships;
use crate::patience::Patience;
use crate::push::turns::Turns;
use crate::rate::Rates;
use crate::signin::SignIn;
use crate::tls::Tls;
use crate::{answer, connections, routes};

/// How long open requests may go on after the signal to stop; `serve` ends within 2 s, cluster not counted.
const DRAIN: Duration = Duration::from_millis(1500);

/// How long the record of the last reads may take to be written after that: milliseconds as a rule.
const RECORD: Duration = Duration::from_secs(1);

/// What every request shares. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Connections of the serving role, for [`crate::tenant::TenantTx`].
    pub pool: Pool,
    /// Who waits for which head.
    pub heads: Heads,
    /// Where pushes of one tenant queue before they take a connection.
    pub turns: Turns,
    /// What callers may do, as it was read lately.
    pub memberships: Memberships,
    /// What was read, on its way into the audit log.
    pub reads: Reads,
    /// The key of the access tokens.
    pub keys: Arc<Issuer>,
    /// Passwords, invitations and the pages for them.
    pub signin: SignIn,
    /// Names this database for its whole life; clients bind their files to it.
    pub instance_id: Uuid,
    /// Turns true when the server stops: whoever holds a request open for long ends it then.
    pub stopping: watch::Receiver<bool>,
    /// Other issuers whose access tokens are believed.
    pub external: External,
    /// How long clients may keep us waiting.
    pub patience: Patience,
    /// How many requests each device has made of late.
    pub rates: Arc<Rates>,
    stop: Arc<watch::Sender<bool>>,
}

impl AppState {
    /// The state of a server that has just started.
    pub fn new(pool: Pool, keys: Arc<Issuer>, instance_id: Uuid) -> AppState {
        let (stop, stopping) = watch::channel(false);
        AppState {
            pool,
            heads: Heads::default(),
            turns: Turns::default(),
            memberships: Memberships::default(),
            reads: Reads::default(),
            keys,
            signin: SignIn::default(),
            instance_id,
            stopping,
            external: External::default(),
            patience: Patience::default(),
            rates: Arc::default(),
            stop: Arc::new(stop),
        }
    }
}

/// All routes, with the layers around them.
pub fn router(state: AppState) -> Router {
    routes::router(&state)
        .fallback(any(no_such_route))
        // Read from below: the bytes on the wire are limited, then decompressed, then limited again as they come out,
        // so that a small body cannot unfold without end.
        .layer(DefaultBodyLimit::max(PUSH_BODY_MAX_BYTES))
        .layer(RequestDecompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(PUSH_BODY_MAX_BYTES))
        .layer(RequestBodyTimeoutLayer::new(state.patience.body_pause))
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(
            limits::Door::new(&state.patience),
            limits::admit,
        ))
        .layer(from_fn(answer::complete))
        .with_state(state)
}

/// Serves plain HTTP until `shutdown` resolves, then lets open requests finish for a moment.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: impl Future<Output = ()>) {
    serve_with(listener, None, state, shutdown).await;
}

/// [`serve`], over TLS if there is one.
pub async fn serve_with(
    listener: TcpListener,
    tls: Option<Tls>,
    state: AppState,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, patience) = (state.stop.clone(), state.patience);
    let asked = async move {
        shutdown.await;
        // Event streams end by it, so that they do not use up the time of those that can finish.
        let _ = stop.send(true);
    };
    let (ended, end) = watch::channel(false);
    let (reads, pool) = (state.reads.clone(), state.pool.clone());
    let recording = tokio::spawn(async move { reads.run(&pool, end).await });
    connections::serve(listener, tls, patience, router(state), asked, DRAIN).await;
    // Nobody reads any more: what was read is recorded before the pool goes.
    let _ = ended.send(true);
    if tokio::time::timeout(RECORD, recording).await.is_err() {
        tracing::warn!("the audit of the last reads could not be written in time");
    }
}

/// 413 for a body, with the limit.
pub(crate) fn body_too_large() -> ApiError {
    ApiError::TooLarge {
        message: format!("the body is larger than {PUSH_BODY_MAX_BYTES} bytes"),
        limit: PUSH_BODY_MAX_BYTES as u64,
    }
}

async fn no_such_route(uri: axum::http::Uri) -> ApiError {
    ApiError::NotFound(format!("there is nothing at {}", uri.path()))
}
