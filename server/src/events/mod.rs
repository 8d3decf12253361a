//! `GET /context/events`: tells a device at once that its user's head moved.
//!
//! Only the head is told; rows are pulled. So an event may be lost, doubled or late without harm: the newest head is
//! all that counts, and a slow reader gets that one. Three sources feed it, the first being enough on one server:
//! pushes of this process ([`Heads::moved`]), other servers' ([`relay`]), and a calm poll as the fallback ([`poll`]).

mod hub;
pub mod poll;
mod relay;

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use coditect_shared::wire::HeadEvent;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::time::{Instant, sleep_until};

use crate::app::AppState;
use crate::auth::Caller;
use crate::database::Address;
use crate::error::ApiError;
use crate::history;
use crate::membership::Standing;
use crate::routes::Doc;
use crate::tenant::TenantTx;

pub use hub::Heads;
use hub::Subscription;

/// A comment after so much silence, so that proxies (60 s as a rule) and half-open connections do not go unnoticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long a stream lasts. Whoever listens shows a token only at its beginning, so that it must not go on for ever
/// once the token has expired or was withdrawn; the device connects anew with a fresh one.
const STREAM_LIFE: Duration = Duration::from_secs(15 * 60);

/// Tells other servers of this one's heads, and listeners here of theirs, until the server stops. `address` must lead
/// to PostgreSQL itself and not to a pooler in transaction mode, through which no notification comes.
pub async fn run(state: AppState, address: Address) {
    let mut stopping = state.stopping.clone();
    tokio::select! {
        () = relay::run(&state.heads, &address) => {}
        () = poll::run(&state) => {}
        // An error means that nobody can stop the server any more, because it is gone.
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

/// For the OpenAPI document.
pub(crate) fn doc() -> Doc {
    Doc::new("Tells when the user's head moves")
        .description(
            "Server-sent events named `head` with `{\"cursor\": n}`, the first at once. The stream ends after some 15 minutes; connect anew.",
        )
        .text(200, "text/event-stream", "The stream.")
}

/// The route.
pub async fn events(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    // Subscribed first, looked second: a push between the two is told, at worst twice.
    let subscription = state.heads.subscribe(caller.tenant, &caller.user);
    let head = current_head(&state, &caller).await?;
    state.heads.learn(caller.tenant, &caller.user, head);
    // Up to a third longer, so that devices that came together do not come back together.
    let life = STREAM_LIFE.mul_f64(1.0 + rand::random::<f64>() / 3.0);
    let listener = Listener {
        subscription,
        told: None,
        end: Instant::now() + life,
        caller,
        state,
    };
    Ok(Sse::new(unfold(listener, next_event)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn current_head(state: &AppState, caller: &Caller) -> Result<i64, ApiError> {
    let tx = TenantTx::begin_snapshot(&state.pool, caller.tenant, &caller.user).await?;
    let head = history::head(&tx, caller).await?.cursor;
    tx.commit().await?;
    Ok(head)
}

struct Listener {
    subscription: Subscription,
    /// The head that was told last.
    told: Option<i64>,
    end: Instant,
    caller: Caller,
    state: AppState,
}

/// Waits until there is a head to tell: at once for the first, then whenever it moved. Ends with the stream's life, with
/// the membership, with the device's login, and when the server stops.
async fn next_event(mut listener: Listener) -> Option<(Result<Event, Infallible>, Listener)> {
    loop {
        if *listener.state.stopping.borrow() {
            return None;
        }
        let cursor = listener.subscription.head();
        if listener.told.is_none_or(|told| cursor > told) {
            listener.told = Some(cursor);
            let (state, caller) = (&listener.state, &listener.caller);
            let standing =
                state
                    .memberships
                    .standing(&state.pool, caller.tenant, &caller.user, caller.device);
            // Also where the database is away: the device comes back, and is told how things stand.
            let Ok(Standing::Member(_)) = standing.await else {
                return None;
            };
            // Numbers alone: this cannot fail to render.
            let event = Event::default()
                .event("head")
                .json_data(HeadEvent { cursor })
                .ok()?;
            return Some((Ok(event), listener));
        }
        tokio::select! {
            moved = listener.subscription.moved() => moved?,
            stopped = listener.state.stopping.changed() => stopped.ok()?,
            () = sleep_until(listener.end) => return None,
        }
    }
}
