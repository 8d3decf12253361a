//! Forms that only our own pages can send: a random cookie that no other site can read or have sent along, and in each
//! form a token derived from it. Beside that, a browser that says where a form comes from must say: from here.

use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::error::ApiError;
use crate::signin::{SignIn, secret};

/// The cookie of forms.
const FORM_COOKIE: &str = "coditect_form";

/// How long a form can be sent after it was opened.
const FORM_LIFE_SECS: u32 = 60 * 60;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The visitor's cookie of forms: the one that came, or a new one. It goes out with the page, for another hour.
pub(super) struct Visitor {
    cookie: String,
}

impl Visitor {
    /// The one whose request this is.
    pub(super) fn of(signin: &SignIn, headers: &HeaderMap) -> Result<Visitor, ApiError> {
        let cookie = match cookie(signin, headers, FORM_COOKIE) {
            Some(cookie) => cookie,
            None => secret::random()?,
        };
        Ok(Visitor { cookie })
    }

    /// The hidden field that every form of a page bears.
    pub(super) fn field(&self) -> Markup {
        html! { input type="hidden" name="form" value=(token(&self.cookie)); }
    }

    /// The page, with the cookie that its forms need.
    pub(super) fn answer(&self, signin: &SignIn, page: impl IntoResponse) -> Response {
        let mut response = page.into_response();
        set_cookie(&mut response, signin, FORM_COOKIE, &self.cookie, FORM_LIFE_SECS);
        response
    }
}

/// Passes if the form was on a page of ours that this browser opened.
///
/// # Errors
/// 403 else, in words for people: most often the page was open for too long.
pub(super) fn check(signin: &SignIn, headers: &HeaderMap, presented: &str) -> Result<(), ApiError> {
    let elsewhere = headers
        .get(FETCH_SITE)
        .is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    let ours = cookie(signin, headers, FORM_COOKIE).is_some_and(|cookie| token(&cookie) == presented);
    if elsewhere || !ours {
        return Err(ApiError::Forbidden {
            code: "form_not_ours",
            message: "This form was open for too long, or your browser keeps no cookies. Please go back and open the page anew."
                .to_owned(),
        });
    }
    Ok(())
}

/// What stands in forms. It shows nothing of the cookie; comparing digests tells nothing by its time either.
fn token(cookie: &str) -> String {
    coditect_shared::hash::sha256(format!("form:{cookie}").as_bytes()).to_string()
}

/// The value of a cookie of ours.
pub(super) fn cookie(signin: &SignIn, headers: &HeaderMap, name: &str) -> Option<String> {
    let name = full_name(signin, name);
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let value = pairs
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value.to_owned());
    value.filter(|value| !value.is_empty())
}

/// Sets a cookie for the pages: no script reads it, no other site has it sent.
pub(super) fn set_cookie(response: &mut Response, signin: &SignIn, name: &str, value: &str, life_secs: u32) {
    let secure = if signin.is_private() { "; Secure" } else { "" };
    let name = full_name(signin, name);
    let text = format!("{name}={value}; Path=/; Max-Age={life_secs}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().append(SET_COOKIE, value);
    }
}

/// With TLS the name binds the cookie to this very host: none of its neighbours can plant one.
fn full_name(signin: &SignIn, name: &str) -> String {
    if signin.is_private() {
        format!("__Host-{name}")
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signin(url: &str) -> SignIn {
        SignIn {
            public_url: url.into(),
            ..SignIn::default()
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_form_passes_with_its_own_browsers_cookie_alone() {
        let here = signin("http://127.0.0.1:1");
        let with = |pairs: &[(&'static str, &str)], token: &str| check(&here, &headers(pairs), token).is_ok();
        let good = token("abc");
        assert!(with(&[("cookie", "other=1; coditect_form=abc")], &good));
        assert!(with(
            &[("cookie", "coditect_form=abc"), ("sec-fetch-site", "same-origin")],
            &good
        ));
        assert!(!with(&[], &good));
        assert!(!with(&[("cookie", "coditect_form=abd")], &good));
        assert!(!with(&[("cookie", "coditect_form=abc")], ""));
        assert!(!with(&[("cookie", "coditect_form=")], &token("")));
        for site in ["cross-site", "same-site"] {
            assert!(
                !with(
                    &[("cookie", "coditect_form=abc"), ("sec-fetch-site", site)],
                    &good
                ),
                "{site}"
            );
        }
    }

    #[test]
    fn with_tls_cookies_are_kept_to_it_and_to_this_host() {
        let mut response = ().into_response();
        set_cookie(&mut response, &signin("https://sync.acme.test"), "a", "b", 5);
        let set = response.headers()[SET_COOKIE].to_str().unwrap();
        assert_eq!(
            set,
            "__Host-a=b; Path=/; Max-Age=5; HttpOnly; SameSite=Strict; Secure"
        );
        let plain = headers(&[("cookie", "a=b")]);
        assert_eq!(cookie(&signin("https://sync.acme.test"), &plain, "a"), None);
    }
}
