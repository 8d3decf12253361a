//! Single values between SQLite, where any column may hold any type, and what can travel.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use coditect_shared::ContentHash;
use coditect_shared::check::Refusal;
use coditect_shared::hash::sha256;
use rusqlite::Row;
use rusqlite::types::{Value, ValueRef};
use serde_json::{Map, Value as Json, json};

/// Marks a blob inside `metadata`, which JSON cannot hold as it is.
pub(super) const BLOB_KEY: &str = "$base64";

/// Only its equality matters, so that a number or blob serves in its text form.
pub(super) fn writer_hash(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        ValueRef::Blob(bytes) => Some(sha256(bytes).to_string()),
    }
}

pub(super) fn text<'a>(name: &str, value: ValueRef<'a>) -> Result<&'a str, Refusal> {
    match value {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes)
            .map_err(|error| unfit(name, &format!("is no UTF-8: bad byte at {}", error.valid_up_to()))),
        ValueRef::Null => Err(unfit(name, "is NULL")),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err(unfit(name, "is a number, not a text")),
        ValueRef::Blob(_) => Err(unfit(name, "is a blob, not a text")),
    }
}

pub(super) fn optional_text(name: &str, value: ValueRef<'_>) -> Result<Option<String>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Text(_) | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => {
            text(name, value).map(|text| Some(text.to_owned()))
        }
    }
}

pub(super) fn optional_count(name: &str, value: ValueRef<'_>) -> Result<Option<i64>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => Ok(Some(number)),
        ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => Err(unfit(name, "is no integer")),
    }
}

pub(super) fn optional_score(name: &str, value: ValueRef<'_>) -> Result<Option<f64>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Real(number) => Ok(Some(number)),
        #[expect(
            clippy::cast_precision_loss,
            reason = "scores beyond 1 are refused by the check that follows"
        )]
        ValueRef::Integer(number) => Ok(Some(number as f64)),
        ValueRef::Text(_) | ValueRef::Blob(_) => Err(unfit(name, "is no number")),
    }
}

pub(super) fn to_json(name: &str, value: ValueRef<'_>) -> Result<Option<Json>, Refusal> {
    Ok(Some(match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => serde_json::Number::from_f64(number)
            .map(Json::Number)
            .ok_or_else(|| unfit(name, "is infinite, which JSON cannot hold"))?,
        ValueRef::Text(_) => text(name, value)?.into(),
        ValueRef::Blob(bytes) => json!({ BLOB_KEY: BASE64.encode(bytes) }),
    }))
}

pub(super) fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Integer(i64::from(*flag)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Integer(number),
            (None, Some(number)) => Value::Real(number),
            (None, None) => Value::Text(number.to_string()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Object(fields) => blob(fields).map_or_else(|| Value::Text(value.to_string()), Value::Blob),
        Json::Array(_) => Value::Text(value.to_string()),
    }
}

pub(super) fn blob(fields: &Map<String, Json>) -> Option<Vec<u8>> {
    let encoded = fields.get(BLOB_KEY)?.as_str()?;
    BASE64.decode(encoded).ok()
}

pub(super) fn fingerprint(row: &Row<'_>, columns: usize) -> ContentHash {
    let mut bytes = Vec::new();
    for index in 0..columns {
        match row.get_ref(index) {
            Ok(ValueRef::Null) | Err(_) => bytes.push(0),
            Ok(ValueRef::Integer(number)) => {
                bytes.push(1);
                bytes.extend(number.to_be_bytes());
            }
            Ok(ValueRef::Real(number)) => {
                bytes.push(2);
                bytes.extend(number.to_be_bytes());
            }
            Ok(ValueRef::Text(text)) => {
                bytes.push(3);
                bytes.extend(sha256(text).as_bytes());
            }
            Ok(ValueRef::Blob(blob)) => {
                bytes.push(4);
                bytes.extend(sha256(blob).as_bytes());
            }
        }
    }
    sha256(&bytes)
}

pub(super) fn unfit(field: &str, reason: &str) -> Refusal {
    Refusal {
        code: "invalid_field",
        message: format!("{field} {reason}"),
    }
}
