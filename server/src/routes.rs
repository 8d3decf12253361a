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
use crate::auth::{self, Action, Role};
use crate::error::ApiError;
use crate::manage::{memberships, permissions, projects, team_members, teams};
use crate::signin::{oauth, pages};
use crate::{account, audit, digest, events, health, pull, push, stats};

pub(crate) use document::Doc;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody. What it does to prove who asks, if anything, is its own business.
    Public,
    /// A member whose role allows the action. Writing what is one's own counts as `Create`.
    May(Action),
    /// An owner or admin whose role allows the action: what concerns the tenant as a whole.
    Manage(Action),
}

impl Access {
    /// Passes if the role may.
    ///
    /// # Errors
    /// 403 else.
    pub fn check(self, role: Role) -> Result<(), ApiError> {
        match self {
            Access::Public => Ok(()),
            Access::May(action) => role.may(action),
            Access::Manage(action) => role.may_manage(action),
        }
    }
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
#[rustfmt::skip] // One line an entry, so that it reads as the table that it is.
pub fn table() -> Vec<Route> {
    use Access::{Manage, May, Public};
    use Action::{Create, Delete, Read, Update};
    vec![
        get("/api/v1/account", May(Read), account::show, account::doc()),
        post("/api/v1/context/push", May(Create), push::push, push::doc()),
        get("/api/v1/context/pull", May(Read), pull::pull, pull::doc()),
        get("/api/v1/context/events", May(Read), events::events, events::doc()),
        get("/api/v1/context/digest", May(Read), digest::digest, digest::doc()),
        get("/api/v1/context/stats", May(Read), stats::stats, stats::doc()),
        get("/api/v1/audit", Manage(Read), audit::show, audit::doc()),
        get("/api/v1/memberships", Manage(Read), memberships::list, memberships::list_doc()),
        post("/api/v1/memberships", Manage(Create), memberships::invite, memberships::invite_doc()),
        patch("/api/v1/memberships/{id}", Manage(Update), memberships::change, memberships::change_doc()),
        delete("/api/v1/memberships/{id}", Manage(Delete), memberships::remove, memberships::remove_doc()),
        get("/api/v1/teams", Manage(Read), teams::list, teams::list_doc()),
        post("/api/v1/teams", Manage(Create), teams::create, teams::create_doc()),
        patch("/api/v1/teams/{id}", Manage(Update), teams::rename, teams::rename_doc()),
        delete("/api/v1/teams/{id}", Manage(Delete), teams::remove, teams::remove_doc()),
        get("/api/v1/teams/{id}/members", Manage(Read), team_members::list, team_members::list_doc()),
        post("/api/v1/teams/{id}/members", Manage(Create), team_members::add, team_members::add_doc()),
        delete("/api/v1/teams/{id}/members/{user_id}", Manage(Delete), team_members::remove, team_members::remove_doc()),
        get("/api/v1/projects", Manage(Read), projects::list, projects::list_doc()),
        post("/api/v1/projects", Manage(Create), projects::create, projects::create_doc()),
        patch("/api/v1/projects/{id}", Manage(Update), projects::rename, projects::rename_doc()),
        delete("/api/v1/projects/{id}", Manage(Delete), projects::remove, projects::remove_doc()),
        get("/api/v1/permissions", Manage(Read), permissions::list, permissions::list_doc()),
        post("/api/v1/permissions", Manage(Create), permissions::give, permissions::give_doc()),
        delete("/api/v1/permissions/{id}", Manage(Delete), permissions::take, permissions::take_doc()),
        post("/api/v1/auth/device", Public, oauth::begin, oauth::begin_doc()),
        post("/api/v1/auth/token", Public, oauth::token, oauth::token_doc()),
        post("/api/v1/auth/revoke", Public, oauth::revoke, oauth::revoke_doc()),
        get(
            "/device",
            Public,
            pages::device::enter,
            pages::doc("Page: type the code of a device"),
        ),
        get(
            "/device/confirm",
            Public,
            pages::device::confirm,
            pages::device::confirm_doc(),
        ),
        post(
            "/device/sign-in",
            Public,
            pages::device::sign_in,
            pages::form_doc("Form: sign in"),
        ),
        post(
            "/device/tenant",
            Public,
            pages::device::choose,
            pages::form_doc("Form: which of several tenants"),
        ),
        post(
            "/device/decide",
            Public,
            pages::device::decide,
            pages::form_doc("Form: approve or deny a device"),
        ),
        post(
            "/device/sign-out",
            Public,
            pages::device::sign_out,
            pages::form_doc("Form: sign out"),
        ),
        get(
            "/device/style.css",
            Public,
            pages::style_sheet,
            pages::style_doc(),
        ),
        get(
            "/invitation/{secret}",
            Public,
            pages::invitation::show,
            pages::invitation::show_doc(),
        ),
        post(
            "/invitation/{secret}",
            Public,
            pages::invitation::set,
            pages::invitation::set_doc(),
        ),
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
            access @ (Access::May(_) | Access::Manage(_)) => route
                .handler
                .route_layer(from_fn_with_state((state.clone(), access), admit)),
        };
        router.route(route.path, handler)
    })
}

/// Lets a caller in whose role is good enough; handlers find him in the request's extensions.
async fn admit(
    State((state, access)): State<(AppState, Access)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = auth::authenticate(&state, request.headers()).await?;
    access.check(caller.role)?;
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

fn patch<H, T>(path: &'static str, access: Access, handler: H, doc: Doc) -> Route
where
    H: Handler<T, AppState>,
    T: 'static,
{
    route(Method::PATCH, MethodFilter::PATCH, path, access, handler, doc)
}

fn delete<H, T>(path: &'static str, access: Access, handler: H, doc: Doc) -> Route
where
    H: Handler<T, AppState>,
    T: 'static,
{
    route(Method::DELETE, MethodFilter::DELETE, path, access, handler, doc)
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
