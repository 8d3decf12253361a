//! The one table of routes: method, path, who may, and what the OpenAPI document says.
//!
//! The router, the check of the role and `/openapi.json` all come from it. A handler is reached only through an entry
//! here, and an entry cannot be made without saying who may call it: nobody can forget the check.

mod document;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};

use crate::app::AppState;
use crate::auth::{self, Action};
use crate::error::ApiError;
use crate::{account, digest, events, health, pull, push, stats};

pub(crate) use document::Doc;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody. What it does to prove who asks, if anything, is its own business.
    Public,
    /// A member whose role allows the action. Writing what is one's own counts as `Create`.
    May(Action),
}

/// One entry of the table.
pub struct Route {
    pub method: Method,
    /// From the root, with `{name}` for a part that varies.
    pub path: &'static str,
    pub access: Access,
    handler: MethodRouter<AppState>,
    doc: Doc,
}

/// All routes.
pub fn table() -> Vec<Route> {
    use Access::{May, Public};
    use Action::{Create, Read};
    vec![
        get("/api/v1/account", May(Read), account::show, account::doc()),
        post("/api/v1/context/push", May(Create), push::push, push::doc()),
        get("/api/v1/context/pull", May(Read), pull::pull, pull::doc()),
        get("/api/v1/context/events", May(Read), events::events, events::doc()),
        get("/api/v1/context/digest", May(Read), digest::digest, digest::doc()),
        get("/api/v1/context/stats", May(Read), stats::stats, stats::doc()),
        get("/health", Public, health::alive, health::alive_doc()),
        get("/health/", Public, health::alive, health::alive_doc()),
        get("/health/ready", Public, health::ready, health::ready_doc()),
        get("/health/ready/", Public, health::ready, health::ready_doc()),
        get("/.well-known/jwks.json", Public, health::jwks, health::jwks_doc()),
        get("/openapi.json", Public, document::show, document::doc()),
    ]
}

/// The router of all entries, each behind its check.
pub(crate) fn router(state: &AppState) -> Router<AppState> {
    table().into_iter().fold(Router::new(), |router, route| {
        let handler = match route.access {
            Access::Public => route.handler,
            Access::May(action) => route
                .handler
                .route_layer(from_fn_with_state((state.clone(), action), admit)),
        };
        router.route(route.path, handler)
    })
}

/// Lets a caller in whose role allows the action; handlers find him in the request's extensions.
async fn admit(
    State((state, action)): State<(AppState, Action)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = auth::authenticate(&state, request.headers()).await?;
    caller.role.may(action)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn get<H, T>(path: &'static str, access: Access, handler: H, doc: Doc) -> Route
where
    H: Handler<T, AppState>,
    T: 'static,
{
    route(Method::GET, MethodFilter::GET, path, access, handler, doc)
}

fn post<H, T>(path: &'static str, access: Access, handler: H, doc: Doc) -> Route
where
    H: Handler<T, AppState>,
    T: 'static,
{
    route(Method::POST, MethodFilter::POST, path, access, handler, doc)
}

fn route<H, T>(
    method: Method,
    filter: MethodFilter,
    path: &'static str,
    access: Access,
    handler: H,
    doc: Doc,
) -> Route
where
    H: Handler<T, AppState>,
    T: 'static,
{
    Route {
        method,
        path,
        access,
        handler: MethodRouter::new().on(filter, handler),
        doc,
    }
}
