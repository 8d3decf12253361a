//! The pages that people see: HTML from the server, without script, in the browser's own controls, for narrow and wide
//! windows, light and dark.
//!
//! Each of them is answered with headers that let it load nothing but our style sheet, be framed by nobody and be kept
//! by no cache. Every form bears a token ([`form`]), so that no other site can send it in somebody's name.

pub(crate) mod device;
mod form;
pub(crate) mod invitation;
mod look;

use axum::response::{IntoResponse, Response};
use maud::html;

use crate::error::ApiError;
use crate::routes::Doc;
use look::Page;
pub(crate) use look::style_sheet;

/// What the pages have in common, for the document of the API: people's browsers use them, no program.
pub(crate) fn doc(summary: &'static str) -> Doc {
    const HTML: &str = "text/html";
    Doc::new(summary)
        .text(200, HTML, "A page.")
        .text(
            422,
            HTML,
            "The page again, with what did not fit; or the contract's error for what is no form.",
        )
        .text(
            429,
            HTML,
            "Too many attempts; `Retry-After` says how long to wait.",
        )
        .text(500, HTML, "A fault of the server.")
        .text(503, HTML, "Not now.")
}

pub(crate) fn style_doc() -> Doc {
    Doc::new("The style sheet of the pages").text(200, "text/css", "CSS.")
}

/// A form of a page.
pub(crate) fn form_doc(summary: &'static str) -> Doc {
    doc(summary)
        .any_form()
        .text(303, "text/html", "On to the next page.")
        .text(
            403,
            "text/html",
            "The form was not on a page that this browser had opened.",
        )
}

/// What goes wrong on the way to a page, as a page.
pub(crate) struct PageError(ApiError);

impl<E: Into<ApiError>> From<E> for PageError {
    fn from(error: E) -> PageError {
        PageError(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (title, text) = match &self.0 {
            ApiError::Unavailable(_) | ApiError::TimedOut(_) => (
                "Not now",
                "The server is busy or being restarted. Please try again in a moment.".to_owned(),
            ),
            ApiError::Forbidden { message: text, .. } | ApiError::NotFound(text) => {
                ("This did not work", text.clone())
            }
            ApiError::TooManyRequests { message, .. } => ("Too many attempts", message.clone()),
            ApiError::Invalid { .. } | ApiError::TooLarge { .. } => (
                "This did not work",
                "The form did not arrive as it was made. Please open the page anew.".to_owned(),
            ),
            ApiError::Unauthorized { .. }
            | ApiError::MethodNotAllowed(_)
            | ApiError::Conflict { .. }
            | ApiError::Gone { .. }
            | ApiError::TlsNeeded
            | ApiError::UnsupportedMediaType(_)
            | ApiError::Internal(_) => (
                "Something went wrong",
                "The fault is ours; it was written to the server's log.".to_owned(),
            ),
        };
        let page = Page {
            status: self.0.status(),
            title,
            body: html! { p { (text) } },
        };
        let mut response = page.into_response();
        if let Some(after) = self.0.retry_after() {
            response
                .headers_mut()
                .insert(axum::http::header::RETRY_AFTER, after.as_secs().into());
        }
        // For the outermost layer, which logs causes.
        response
            .extensions_mut()
            .insert(crate::error::Failure(std::sync::Arc::new(self.0)));
        response
    }
}
