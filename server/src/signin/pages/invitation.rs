//! The page behind an invitation's link: a password is chosen, once.

use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use maud::html;
use serde::Deserialize;

use super::PageError;
use super::form::{self, Visitor};
use super::look::{Page, complaint};
use crate::answer::RequestId;
use crate::app::AppState;
use crate::routes::Doc;
use crate::signin::form_body::FormBody;
use crate::signin::invitation::{self, Invited};
use crate::signin::password::{MIN_CHARS, Password};
use crate::signin::secret::TenantSecret;

#[derive(Deserialize)]
pub(crate) struct Chosen {
    form: String,
    password: Password,
    again: Password,
}

/// `GET /invitation/{secret}`. It uses nothing up: programs that look at links before people do no harm.
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let Some((_, invited)) = find(&state, &text).await? else {
        return Ok(no_longer_good().into_response());
    };
    ask(&state, &headers, &invited, None)
}

pub(crate) fn show_doc() -> Doc {
    super::doc("Page: set a password by invitation").text(410, "text/html", "The link is no longer good.")
}

/// `POST /invitation/{secret}`.
pub(crate) async fn set(
    State(state): State<AppState>,
    Path(text): Path<String>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    FormBody(chosen): FormBody<Chosen>,
) -> Result<Response, PageError> {
    form::check(&state.signin, &headers, &chosen.form)?;
    // Before the hashing, which costs: only who has a good link makes us do it.
    let Some((secret, invited)) = find(&state, &text).await? else {
        return Ok(no_longer_good().into_response());
    };
    let refusal = match chosen.password.refusal(&invited.email) {
        None if !chosen.password.is_same_as(&chosen.again) => Some("The two passwords differ.".to_owned()),
        refusal => refusal,
    };
    if refusal.is_some() {
        return ask(&state, &headers, &invited, refusal.as_deref());
    }
    let hash = state.signin.hashing.hash(chosen.password).await?;
    if !invitation::redeem(&state.pool, &secret, invited.user, &hash, &request_id.0).await? {
        return Ok(no_longer_good().into_response());
    }
    let body = html! {
        p { "The password of " strong { (invited.email) } " at " strong { (invited.tenant) } " is set." }
        p.soft { "On your workstation, log in with: " br; code { "coditect-sync login --server " (state.signin.public_url) } }
    };
    Ok(Page {
        status: StatusCode::OK,
        title: "Your password is set",
        body,
    }
    .into_response())
}

pub(crate) fn set_doc() -> Doc {
    super::form_doc("Form: set a password by invitation").text(
        410,
        "text/html",
        "The link is no longer good.",
    )
}

async fn find(state: &AppState, text: &str) -> Result<Option<(TenantSecret, Invited)>, PageError> {
    let Some(secret) = TenantSecret::parse(text) else {
        return Ok(None);
    };
    Ok(invitation::look(&state.pool, &secret)
        .await?
        .map(|invited| (secret, invited)))
}

fn ask(
    state: &AppState,
    headers: &HeaderMap,
    invited: &Invited,
    wrong: Option<&str>,
) -> Result<Response, PageError> {
    let visitor = Visitor::of(&state.signin, headers)?;
    let status = if wrong.is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    };
    let body = html! {
        p { "For " strong { (invited.email) } " at " strong { (invited.tenant) } "." }
        (complaint(wrong))
        form method="post" {
            (visitor.field())
            // Password managers store the new password under this name.
            input type="text" name="username" autocomplete="username" value=(invited.email) readonly hidden;
            label for="password" { "Password" }
            input #password type="password" name="password" autocomplete="new-password" required
                minlength=(MIN_CHARS) aria-describedby="rule" autofocus;
            p.hint #rule { "At least " (MIN_CHARS) " characters." }
            label for="again" { "The same again" }
            input #again type="password" name="again" autocomplete="new-password" required;
            button type="submit" { "Set password" }
        }
    };
    Ok(visitor.answer(
        &state.signin,
        Page {
            status,
            title: "Choose a password",
            body,
        },
    ))
}

/// Used, replaced, expired or never made: which, is nobody's business.
fn no_longer_good() -> Page {
    Page {
        status: StatusCode::GONE,
        title: "This link is no longer good",
        body: html! {
            p { "It was used already, or its time is over. Ask whoever sent it to you for a new one." }
            p.soft { "If you have set your password with it, there is nothing left to do here." }
        },
    }
}
