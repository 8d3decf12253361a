//! How a page looks, and the headers it is sent with.

use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

const STYLE_PATH: &str = "/device/style.css";

/// Nothing but our style sheet is loaded, forms go to us alone, nobody frames the page, nothing moves its base.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page.
pub(crate) struct Page {
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    /// What stands below the title.
    pub(super) body: Markup,
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let html = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    title { (self.title) " · CODITECT" }
                    link rel="stylesheet" href=(STYLE_PATH);
                }
                body {
                    main {
                        p.brand { "CODITECT" }
                        h1 { (self.title) }
                        (self.body)
                    }
                }
            }
        };
        let headers = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_FRAME_OPTIONS, "DENY"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            // Links that hold a secret are told to nobody else; with none at all browsers would hide a form's origin.
            (REFERRER_POLICY, "same-origin"),
            (CACHE_CONTROL, "no-store"),
        ];
        (self.status, headers, html.into_string()).into_response()
    }
}

/// What did not fit, above a form; read out by screen readers when the page appears.
pub(super) fn complaint(text: Option<&str>) -> Markup {
    html! {
        @if let Some(text) = text { p.complaint role="alert" { (text) } }
    }
}

/// The style sheet of all pages.
pub(crate) async fn style_sheet() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, include_str!("style.css")).into_response()
}
