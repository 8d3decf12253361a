//! Lists that come in pages: parameters of the query, each named when it cannot be read.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::app::AppState;
use crate::error::ApiError;

/// Rows of a page unless the client asks for another number.
pub(crate) const LIMIT_DEFAULT: u32 = 100;

/// Most rows of a page: some 100 KB.
pub(crate) const LIMIT_MAX: u32 = 500;

/// What a client asks a list for. The next page begins after the last row of the one before, whatever was added or
/// removed meanwhile.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct Page {
    /// Most rows wanted.
    #[param(required = false, minimum = 1, maximum = 500, default = 100)]
    pub(crate) limit: u32,
    /// `next` of the page before.
    pub(crate) after: Option<Uuid>,
}

impl FromRequestParts<AppState> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Page, ApiError> {
        let parameters = Parameters::read(parts)?;
        Ok(Page {
            limit: parameters.limit()?,
            after: parameters.parsed("after", "this is no `next` of a page before")?,
        })
    }
}

/// The query's parameters by name. Unknown ones are ignored, of several the last counts.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn read(parts: &Parts) -> Result<Parameters, ApiError> {
        let Query(pairs) = Query::try_from_uri(&parts.uri)
            .map_err(|_| ApiError::invalid("query", "the query cannot be read as parameters"))?;
        Ok(Parameters(pairs))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let named = self.0.iter().rev().find(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    pub(crate) fn parsed<T: FromStr>(&self, name: &str, refusal: &str) -> Result<Option<T>, ApiError> {
        let text = self.text(name);
        text.map(|text| text.parse().map_err(|_| ApiError::invalid(name, refusal)))
            .transpose()
    }

    pub(crate) fn limit(&self) -> Result<u32, ApiError> {
        let limit = self.parsed("limit", "this is no whole number in range")?;
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            return Ok(limit);
        }
        Err(ApiError::invalid(
            "limit",
            format!("{limit} is not between 1 and {LIMIT_MAX}"),
        ))
    }
}

/// Cuts a list that was read with one row more than wanted, and gives the key of its last row if there is more.
pub(crate) fn cut<T, K>(rows: &mut Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> Option<K> {
    let limit = limit as usize;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    rows.last().filter(|_| has_more).map(key)
}
