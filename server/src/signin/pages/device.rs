//! The pages of a device login: type the code, sign in, see who asks from where, and decide.
//!
//! Whether a login waits under a code is told only to somebody who is signed in: nobody else can go through codes.

use axum::extract::{Extension, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use utoipa::IntoParams;

use super::PageError;
use super::form::{self, Visitor};
use super::look::{Page, complaint};
use crate::answer::RequestId;
use crate::app::AppState;
use crate::connections::Peer;
use crate::routes::Doc;
use crate::signin::account::{self, Account};
use crate::signin::attempts::{self, Subject};
use crate::signin::device_code::{self, UserCode, Waiting};
use crate::signin::form_body::FormBody;
use crate::signin::password::Password;
use crate::signin::secret::TenantSecret;
use crate::signin::session::{self, SESSION_LIFE, Session};
use crate::tenant::TenantTx;

/// The cookie of a session. With several tenants to choose from it holds the sessions of all, with spaces between.
const SESSION_COOKIE: &str = "coditect_session";
const BETWEEN: char = ' ';

#[derive(Deserialize, IntoParams)]
pub(crate) struct Asked {
    /// As people type it: in any case, with or without the dash.
    #[serde(default)]
    code: String,
}

#[derive(Deserialize)]
pub(crate) struct Credentials {
    form: String,
    code: String,
    email: String,
    password: Password,
}

#[derive(Deserialize)]
pub(crate) struct Choice {
    form: String,
    code: String,
    tenant: String,
}

#[derive(Deserialize)]
pub(crate) struct Decision {
    form: String,
    code: String,
    decision: String,
}

#[derive(Deserialize)]
pub(crate) struct SignOut {
    form: String,
    code: String,
}

/// `GET /device`.
pub(crate) async fn enter() -> Page {
    ask_code(None)
}

/// `GET /device/confirm?code=`.
pub(crate) async fn confirm(
    State(state): State<AppState>,
    Query(asked): Query<Asked>,
    peer: Peer,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let Some(code) = UserCode::read(&asked.code) else {
        return Ok(ask_code(Some("A code has eight letters, such as BCDF-GHJK.")).into_response());
    };
    let visitor = Visitor::of(&state.signin, &headers)?;
    let Some(session) = signed_in(&state, &headers).await? else {
        return Ok(visitor.answer(&state.signin, ask_password(&visitor, &code, "", None)));
    };
    let subject = Subject::Codes(session.tenant(), &session.user);
    attempts::begin(&state.pool, &subject).await?;
    let Some(waiting) = device_code::look(&state.pool, &code).await? else {
        return Ok(visitor.answer(&state.signin, ask_code(Some(NO_LOGIN))));
    };
    attempts::passed(&state.pool, &subject).await?;
    let from = state.signin.address(peer, &headers).to_string();
    Ok(visitor.answer(
        &state.signin,
        ask_decision(&visitor, &code, &session, &waiting, &from),
    ))
}

pub(crate) fn confirm_doc() -> Doc {
    super::doc("Page: sign in, then decide about the device that shows a code").query::<Asked>()
}

/// `POST /device/sign-in`.
pub(crate) async fn sign_in(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    peer: Peer,
    headers: HeaderMap,
    FormBody(given): FormBody<Credentials>,
) -> Result<Response, PageError> {
    form::check(&state.signin, &headers, &given.form)?;
    let Some(code) = UserCode::read(&given.code) else {
        return Ok(ask_code(None).into_response());
    };
    let from = state.signin.address(peer, &headers);
    let found = account::of(&state, &given.email, given.password, from).await?;
    let visitor = Visitor::of(&state.signin, &headers)?;
    let mut response = match found.as_slice() {
        [] => visitor.answer(
            &state.signin,
            ask_password(&visitor, &code, &given.email, Some(WRONG)),
        ),
        [_] => to_confirm(&code),
        several => visitor.answer(&state.signin, ask_tenant(&visitor, &code, several)),
    };
    let mut secrets = Vec::new();
    for account in &found {
        secrets.push(session::make(&state.pool, account, &request_id.0).await?.expose());
    }
    if !secrets.is_empty() {
        keep_session(&mut response, &state, &secrets.join(&BETWEEN.to_string()));
    }
    Ok(response)
}

/// `POST /device/tenant`: which of several.
pub(crate) async fn choose(
    State(state): State<AppState>,
    headers: HeaderMap,
    FormBody(choice): FormBody<Choice>,
) -> Result<Response, PageError> {
    form::check(&state.signin, &headers, &choice.form)?;
    let Some(code) = UserCode::read(&choice.code) else {
        return Ok(ask_code(None).into_response());
    };
    let mut response = to_confirm(&code);
    let chosen = sessions(&state, &headers)
        .into_iter()
        .find(|secret| secret.tenant.to_string() == choice.tenant);
    // The others end by themselves within minutes; without the cookie nobody has them.
    keep_session(
        &mut response,
        &state,
        &chosen.map(|secret| secret.expose()).unwrap_or_default(),
    );
    Ok(response)
}

/// `POST /device/decide`.
pub(crate) async fn decide(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    FormBody(decision): FormBody<Decision>,
) -> Result<Response, PageError> {
    form::check(&state.signin, &headers, &decision.form)?;
    let Some(code) = UserCode::read(&decision.code) else {
        return Ok(ask_code(None).into_response());
    };
    // Whose session ended meanwhile signs in again.
    let Some(session) = signed_in(&state, &headers).await? else {
        return Ok(to_confirm(&code));
    };
    let approve = decision.decision == "approve";
    let tx = TenantTx::begin(&state.pool, session.tenant(), &session.user).await?;
    let decided = device_code::decide(
        &tx,
        session.tenant(),
        session.user.as_str(),
        &code,
        approve,
        Some(&request_id.0),
    )
    .await?;
    session::end(&tx, &session, &request_id.0).await?;
    tx.commit().await?;
    let page = match decided {
        None => ask_code(Some(NO_LOGIN)),
        Some(decided) if approve => done(
            "The device is signed in",
            html! { p { strong { (decided.device_name) } " is signed in as " strong { (session.email) } ". You can close this window and go back to it." } },
        ),
        Some(decided) => done(
            "The login was denied",
            html! { p { strong { (decided.device_name) } " gets nothing. If you did not ask for this login, somebody else did: you need do nothing more." } },
        ),
    };
    let mut response = page.into_response();
    keep_session(&mut response, &state, "");
    Ok(response)
}

/// `POST /device/sign-out`.
pub(crate) async fn sign_out(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    FormBody(given): FormBody<SignOut>,
) -> Result<Response, PageError> {
    form::check(&state.signin, &headers, &given.form)?;
    if let Some(session) = signed_in(&state, &headers).await? {
        let tx = TenantTx::begin(&state.pool, session.tenant(), &session.user).await?;
        session::end(&tx, &session, &request_id.0).await?;
        tx.commit().await?;
    }
    let mut response = match UserCode::read(&given.code) {
        Some(code) => to_confirm(&code),
        None => ask_code(None).into_response(),
    };
    keep_session(&mut response, &state, "");
    Ok(response)
}

const WRONG: &str = "Address or password is wrong.";

const NO_LOGIN: &str =
    "No login waits under this code. It may have expired or been decided: look at your device again.";

fn sessions(state: &AppState, headers: &HeaderMap) -> Vec<TenantSecret> {
    let text = form::cookie(&state.signin, headers, SESSION_COOKIE).unwrap_or_default();
    text.split(BETWEEN).filter_map(TenantSecret::parse).collect()
}

/// Who is signed in. Nobody, as long as one of several tenants is to be chosen.
async fn signed_in(state: &AppState, headers: &HeaderMap) -> Result<Option<Session>, PageError> {
    match <[TenantSecret; 1]>::try_from(sessions(state, headers)) {
        Ok([secret]) => Ok(session::look(&state.pool, secret).await?),
        Err(_) => Ok(None),
    }
}

/// Sets the cookie; an empty one is taken back.
fn keep_session(response: &mut Response, state: &AppState, value: &str) {
    let life = if value.is_empty() {
        0
    } else {
        SESSION_LIFE.as_secs() as u32
    };
    form::set_cookie(response, &state.signin, SESSION_COOKIE, value, life);
}

fn to_confirm(code: &UserCode) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(to) = HeaderValue::from_str(&format!("/device/confirm?code={}", code.as_str())) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

fn ask_code(wrong: Option<&str>) -> Page {
    let body = html! {
        p { "Type the code that your device shows." }
        (complaint(wrong))
        form method="get" action="/device/confirm" {
            label for="code" { "Code" }
            input #code.code type="text" name="code" required maxlength="20" autocomplete="off" autocapitalize="characters"
                spellcheck="false" placeholder="BCDF-GHJK" autofocus;
            button type="submit" { "Continue" }
        }
    };
    page(wrong, "Sign a device in", body)
}

fn ask_password(visitor: &Visitor, code: &UserCode, email: &str, wrong: Option<&str>) -> Page {
    let body = html! {
        p { "Then you see which device asks for it, and decide." }
        (complaint(wrong))
        form method="post" action="/device/sign-in" {
            (visitor.field())
            (code_field(code))
            label for="email" { "E-mail address" }
            input #email type="email" name="email" value=(email) required maxlength="320" autocomplete="username"
                autofocus[email.is_empty()];
            label for="password" { "Password" }
            input #password type="password" name="password" required autocomplete="current-password"
                autofocus[!email.is_empty()];
            button type="submit" { "Sign in" }
        }
        p.hint { "No password yet, or forgotten? Whoever runs this server can send you a link to set one." }
    };
    page(wrong, "Sign in", body)
}

fn ask_tenant(visitor: &Visitor, code: &UserCode, accounts: &[Account]) -> Page {
    let body = html! {
        p { "You belong to several organisations. For which one is the device?" }
        form method="post" action="/device/tenant" {
            (visitor.field())
            (code_field(code))
            @for account in accounts {
                button.plain type="submit" name="tenant" value=(account.tenant) { (account.tenant_name) }
            }
        }
    };
    page(None, "Choose an organisation", body)
}

fn ask_decision(
    visitor: &Visitor,
    code: &UserCode,
    session: &Session,
    waiting: &Waiting,
    here: &str,
) -> Page {
    let place = if waiting.address == here {
        "the same as this browser's"
    } else {
        "another than this browser's"
    };
    let body = html! {
        p { "A device asks to be signed in as you. Does it show this code?" }
        p.show { (code.as_str()) }
        dl {
            dt { "Device" } dd { (waiting.device_name) }
            dt { "Asked from" } dd { (waiting.address) " " span.soft { "(" (place) ")" } }
            dt { "Asked" } dd { (ago(waiting.asked_at)) }
            dt { "Account" } dd { (session.email) " at " (session.tenant_name) }
        }
        p.soft {
            "Approve only what you started yourself just now, on a device that is in front of you. "
            "It will read and write your sessions until it is revoked."
        }
        form method="post" action="/device/decide" {
            (visitor.field())
            (code_field(code))
            button type="submit" name="decision" value="approve" { "Approve" }
            button.plain type="submit" name="decision" value="deny" { "Deny" }
        }
        form method="post" action="/device/sign-out" {
            (visitor.field())
            (code_field(code))
            button.link type="submit" { "Not " (session.email) "? Sign out" }
        }
    };
    page(None, "Approve this device?", body)
}

fn done(title: &'static str, body: Markup) -> Page {
    page(None, title, body)
}

fn page(wrong: Option<&str>, title: &'static str, body: Markup) -> Page {
    let status = if wrong.is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    };
    Page { status, title, body }
}

fn code_field(code: &UserCode) -> Markup {
    html! { input type="hidden" name="code" value=(code.as_str()); }
}

fn ago(then: Timestamp) -> String {
    match Timestamp::now().duration_since(then).as_secs() {
        ..60 => "less than a minute ago".to_owned(),
        60..120 => "a minute ago".to_owned(),
        secs => format!("{} minutes ago", secs / 60),
    }
}
