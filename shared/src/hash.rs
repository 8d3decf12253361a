//! Content hashes: what makes two rows the same row.
//!
//! `hex(SHA-256(tenant_id ":" session_id ":" content))` is fixed by the product's owner; other clients compute the same.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{TaskRecord, TenantId};

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, pattern = "^[0-9a-fA-F]{64}$"))]
pub struct ContentHash([u8; 32]);

/// A text that is no SHA-256 digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no content hash: expected 64 hexadecimal digits")]
pub struct InvalidHash(String);

/// Hash of a message's content.
pub fn message_hash(tenant: TenantId, session_id: &str, content: &str) -> ContentHash {
    scoped_hash(tenant, session_id, content.as_bytes())
}

/// Hash of one version of a task: the canonical JSON of its mutable fields stands where a message has its content.
pub fn task_hash(tenant: TenantId, task: &TaskRecord) -> ContentHash {
    let session_id = task.session_id.as_deref().unwrap_or_default();
    scoped_hash(tenant, session_id, task_canonical_json(task).as_bytes())
}

/// RFC 8785 JSON of a task's mutable fields; an absent field is null.
pub fn task_canonical_json(task: &TaskRecord) -> String {
    let fields: Value = json!({
        "task_id": task.task_id,
        "description": task.description,
        "active_form": task.active_form,
        "project_id": task.project_id,
        "status": task.status,
        "outcome": task.outcome,
        "outcome_score": task.outcome_score,
        "tool_success_count": task.tool_success_count,
        "tool_error_count": task.tool_error_count,
        "user_corrections": task.user_corrections,
        "started_at": task.started_at,
        "completed_at": task.completed_at,
    });
    serde_json_canonicalizer::to_string(&fields).expect("a map of texts and finite numbers always renders")
}

/// SHA-256 of plain bytes, for digests of batches and files.
pub fn sha256(bytes: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(bytes).into())
}

fn scoped_hash(tenant: TenantId, session_id: &str, content: &[u8]) -> ContentHash {
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let mut sha = Sha256::new();
    sha.update(tenant.0.hyphenated().encode_lower(&mut buffer).as_bytes());
    sha.update(b":");
    sha.update(session_id.as_bytes());
    sha.update(b":");
    sha.update(content);
    ContentHash(sha.finalize().into())
}

impl ContentHash {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes, for digests and for versions that need only tell apart.
    pub fn first_u64(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl TryFrom<&[u8]> for ContentHash {
    type Error = InvalidHash;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidHash> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| InvalidHash(format!("{} bytes", bytes.len())))
    }
}

impl FromStr for ContentHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let invalid = || InvalidHash(text.chars().take(80).collect());
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16).ok_or_else(invalid)?;
            let low = char::from(pair[1]).to_digit(16).ok_or_else(invalid)?;
            *byte = u8::try_from(high * 16 + low).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for ContentHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> String {
        hash.to_string()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.12}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const TENANT: TenantId = TenantId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));

    #[test]
    fn a_message_hash_is_what_any_other_client_computes() {
        // printf '01900000-0000-7000-8000-000000000001:s:1:hé' | sha256sum
        assert_eq!(
            message_hash(TENANT, "s:1", "hé").to_string(),
            "cefc9f943deb943dec4a220a990a8be1902106fe21d7edfd0f2d8422864d4bc3"
        );
    }

    #[test]
    fn a_task_is_hashed_over_its_canonical_json_with_absent_fields_as_null() {
        let task = TaskRecord {
            task_id: "1".into(),
            description: "über \"x\"\n".into(),
            status: "pending".into(),
            outcome_score: Some(1.0),
            tool_success_count: Some(3),
            ..TaskRecord::default()
        };
        assert_eq!(
            task_canonical_json(&task),
            "{\"active_form\":null,\"completed_at\":null,\"description\":\"über \\\"x\\\"\\n\",\"outcome\":null,\
             \"outcome_score\":1,\"project_id\":null,\"started_at\":null,\"status\":\"pending\",\"task_id\":\"1\",\
             \"tool_error_count\":null,\"tool_success_count\":3,\"user_corrections\":null}"
        );
    }

    #[test]
    fn a_hash_survives_its_text_form_and_bad_texts_are_refused() {
        let hash = sha256(b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<ContentHash>().is_err(), "{bad:?}");
        }
    }
}
