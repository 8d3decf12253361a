//! The loop that accepts connections and speaks HTTP on them, until it is told to stop.

use std::future::Future;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::from_fn;
use axum::routing::any;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use crate::answer;
use crate::error::ApiError;
use crate::limits::{CONNECTIONS, HEAD_BYTES, HEAD_LINES};
use crate::patience::{Impatient, Patience};
use crate::tls::{Entered, Tls};

/// How long we wait when the system gives no more connections (out of files, out of memory) before we ask again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address at the other end of the connection, as an argument of a handler. Behind a proxy it is the proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) IpAddr);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Peer, ApiError> {
        let peer = parts.extensions.get::<Peer>();
        // Only a request that came in by another way than `serve` has none.
        peer.copied()
            .ok_or_else(|| ApiError::Internal(anyhow::anyhow!("the request bears no address of its sender")))
    }
}

/// Serves until `stop` resolves, over TLS if there is one; then no connection is accepted, idle ones are closed, and open
/// requests have `drain` to end.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    patience: Patience,
    router: Router,
    stop: impl Future<Output = ()>,
    drain: Duration,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    // Tells connections to end; closed when the last of them has.
    let (ending, end) = watch::channel(false);
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_headers(HEAD_LINES)
        .max_buf_size(HEAD_BYTES);
    let mut stop = std::pin::pin!(stop);
    loop {
        let ((stream, peer), slot) = tokio::select! {
            () = stop.as_mut() => break,
            accepted = async {
                // The slot first: above the limit clients wait in the system's queue, at no cost for us.
                let slot = slots.clone().acquire_owned().await.ok()?;
                Some((accept(&listener).await, slot))
            } => match accepted {
                Some(accepted) => accepted,
                None => break,
            },
        };
        let (protocol, tls, router, mut end) = (protocol.clone(), tls.clone(), router.clone(), end.clone());
        tokio::spawn(async move {
            match tls {
                None => {
                    let stream = Impatient::new(stream, patience.write_pause);
                    speak(&protocol, stream, peer, router, &mut end).await;
                }
                Some(tls) => {
                    let entered = tokio::select! {
                        entered = tls.enter(stream, &patience) => entered,
                        _ = end.changed() => return,
                    };
                    match entered {
                        Ok(Entered::Secure(stream)) => speak(&protocol, stream, peer, router, &mut end).await,
                        Ok(Entered::Plain(stream)) => {
                            speak(&protocol, stream, peer, over_tls_only(), &mut end).await
                        }
                        Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
                    }
                }
            }
            drop(slot);
        });
    }
    drop((listener, end));
    let _ = ending.send(true);
    if tokio::time::timeout(drain, ending.closed()).await.is_err() {
        tracing::info!("requests were still open after {} ms", drain.as_millis());
    }
}

/// One connection's life.
async fn speak(
    protocol: &http1::Builder,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    end: &mut watch::Receiver<bool>,
) {
    let router = router.map_request(move |mut request: Request<_>| {
        request.extensions_mut().insert(peer);
        request
    });
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(protocol.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = end.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// What a client meets that speaks plain HTTP where TLS is spoken: an answer it can read, whatever it asked for.
fn over_tls_only() -> Router {
    Router::new()
        .fallback(any(async || ApiError::TlsNeeded))
        .layer(from_fn(answer::complete))
}

/// The next connection, whatever hinders on the way.
async fn accept(listener: &TcpListener) -> (TcpStream, Peer) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Answers are written whole; waiting to join them with more only delays them.
                let _ = stream.set_nodelay(true);
                // An IPv4 client of a socket for both kinds is known by its IPv4 address.
                return (stream, Peer(address.ip().to_canonical()));
            }
            // The client was faster to leave than we to accept.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
