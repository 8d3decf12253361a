//! Ids of tenants, users and devices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::limits::USER_ID_MAX_CHARS;

/// A customer organisation. Rendered as lower-case hyphenated UUID, which is also how it enters hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantId(pub Uuid);

/// One context.db: a random UUID that lives in the file it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceId(pub Uuid);

/// A user within a tenant: 1 to 63 characters of `[A-Za-z0-9_.:@|-]`.
///
/// The narrow alphabet lets the server render it into `SET LOCAL app.user_id = '…'`, which takes no parameters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, max_length = 63, pattern = "^[A-Za-z0-9_.:@|-]+$"))]
pub struct UserId(String);

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind}: expected {expected}")]
pub struct InvalidId {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

impl UserId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:@|-".contains(c);
        if text.is_empty() || text.len() > USER_ID_MAX_CHARS || !text.chars().all(allowed) {
            return Err(InvalidId {
                kind: "user id",
                expected: "1 to 63 letters, digits or any of _.:@|-",
                text: text.into(),
            });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> String {
        id.0
    }
}

impl From<Uuid> for UserId {
    fn from(id: Uuid) -> Self {
        Self(id.hyphenated().to_string())
    }
}

impl FromStr for TenantId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_uuid("tenant id", text).map(Self)
    }
}

impl FromStr for DeviceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse_uuid("device id", text).map(Self)
    }
}

fn parse_uuid(kind: &'static str, text: &str) -> Result<Uuid, InvalidId> {
    Uuid::parse_str(text).map_err(|_| InvalidId {
        kind,
        expected: "a UUID",
        text: text.into(),
    })
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_that_could_break_out_of_a_setting_is_refused() {
        for bad in ["", "a'b", "a b", "ü", "a;b", &"x".repeat(64)] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "auth0|5f-a.b@c:1".parse::<UserId>().unwrap().as_str(),
            "auth0|5f-a.b@c:1"
        );
    }

    #[test]
    fn uuids_are_rendered_in_lower_case_whatever_they_came_in() {
        let tenant: TenantId = "A1B2C3D4-0000-4000-8000-00000000000F".parse().unwrap();
        assert_eq!(tenant.to_string(), "a1b2c3d4-0000-4000-8000-00000000000f");
    }
}
