//! What a pull asks for; every parameter that cannot be read is named.

use std::str::FromStr;

use coditect_shared::limits::{PULL_LIMIT_DEFAULT, PULL_LIMIT_MAX};
use coditect_shared::wire::PullQuery;

use crate::error::ApiError;

/// The query, with its defaults filled in and its witness taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) query: PullQuery,
    pub(super) limit: usize,
    /// Cursor and mark.
    pub(super) witness: Option<(i64, String)>,
}

/// Reads the parameters. Unknown ones are ignored, empty ones count as left out.
pub(super) fn parse(pairs: &[(String, String)]) -> Result<Asked, ApiError> {
    let mut query = PullQuery::default();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        match name.as_str() {
            "cursor" => query.cursor = at_least_zero(name, value)?,
            "limit" => query.limit = Some(number(name, value)?),
            "mark" => query.mark = Some(value.clone()),
            "witness" => query.witness = Some(value.clone()),
            "at_least" => query.at_least = Some(at_least_zero(name, value)?),
            "stubs" => query.stubs = Some(flag(name, value)?),
            _ => {}
        }
    }
    let limit = query.limit.unwrap_or(PULL_LIMIT_DEFAULT);
    if !(1..=PULL_LIMIT_MAX).contains(&limit) {
        return Err(ApiError::invalid(
            "limit",
            format!("{limit} is not between 1 and {PULL_LIMIT_MAX}"),
        ));
    }
    let witness = query.witness.as_deref().map(witness).transpose()?;
    Ok(Asked {
        query,
        limit: limit as usize,
        witness,
    })
}

fn witness(text: &str) -> Result<(i64, String), ApiError> {
    let (cursor, mark) = text
        .split_once(':')
        .ok_or_else(|| ApiError::invalid("witness", "this is no CURSOR:MARK"))?;
    Ok((at_least_zero("witness", cursor)?, mark.to_owned()))
}

fn at_least_zero(name: &str, value: &str) -> Result<i64, ApiError> {
    let cursor = number(name, value)?;
    if cursor < 0 {
        return Err(ApiError::invalid(
            name,
            format!("{cursor} is negative; the first page starts at 0"),
        ));
    }
    Ok(cursor)
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| {
        let value: String = value.chars().take(40).collect();
        ApiError::invalid(name, format!("{value:?} is no whole number in range"))
    })
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(ApiError::invalid(name, "this is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<Asked, String> {
        let pairs: Vec<_> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        parse(&pairs).map_err(|error| error.details()["field"].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_bad_parameter_is_named() {
        for (query, field) in [
            ("cursor=-1", "cursor"),
            ("cursor=x", "cursor"),
            ("cursor=9223372036854775808", "cursor"),
            ("limit=0", "limit"),
            ("limit=5001", "limit"),
            ("limit=-1", "limit"),
            ("limit=ten", "limit"),
            ("witness=5", "witness"),
            ("witness=-5:a", "witness"),
            ("at_least=-1", "at_least"),
            ("stubs=perhaps", "stubs"),
        ] {
            assert_eq!(parsed(query), Err(field.to_owned()), "{query}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_unknown_is_ignored() {
        let asked = parsed("colour=red&mark=").unwrap();
        assert_eq!(
            (asked.query.cursor, asked.limit, asked.query.mark),
            (0, 100, None)
        );
        let asked = parsed("cursor=7&limit=5000&mark=m&witness=9:w&stubs=true").unwrap();
        assert_eq!((asked.query.cursor, asked.limit), (7, 5000));
        assert_eq!(asked.witness, Some((9, "w".to_owned())));
        assert_eq!(asked.query.stubs, Some(true));
    }
}
