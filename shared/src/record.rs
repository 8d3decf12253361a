//! The three kinds of rows as they travel: messages, tasks, and links from a task to a message.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::hash::sha256;
use crate::{ContentHash, DeviceId};

/// How a sender names a record of its push, and finds it again in the answer. The receiver only echoes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RecordRef {
    Number(i64),
    Text(String),
}

/// A message's identity: session, hash and occurrence at its first sending, kept through every later edit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Origin {
    pub session_id: String,
    pub content_hash: ContentHash,
    /// The n-th time this text stands in this session, from 0.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = i64, minimum = 0))]
    pub occurrence: u32,
}

/// A position in the history of one tenant. Epochs order before cursors: a restored server starts a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stamp {
    pub epoch: i64,
    pub cursor: i64,
}

/// A message on the wire, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MessageRecord {
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<RecordRef>,
    pub session_id: String,
    /// The sender's file holds NULL, not '', as session. PostgreSQL has '' for both, since NULLs never collide.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub session_null: bool,
    pub role: String,
    pub content: String,
    /// Computed by the receiver where it is left out, checked where it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = i64, minimum = 0))]
    pub occurrence: u32,
    /// The writer's own text, given back in the same spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_id: Option<String>,
    /// Columns of `messages` without a field of their own, under their names. Of the contract's columns
    /// NULL is left out; of others it is said, since a file that lacks the column would leave it out too.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// The writer's own `hash`, which it may dedupe by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Left out where it equals the row's own session, hash and occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Whether this is a new version of a row that the server had acknowledged. Left out: yes if `origin` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<bool>,
    /// In recovery: the version that this one was made from. Anything newer on the server wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Stamp>,
    /// In healing: where this version stood before the server went back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// From the server only: the device that pushed this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// From the server only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_cursor: Option<i64>,
    /// From the server only: RFC 3339 with microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<String>,
}

/// A task on the wire, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskRecord {
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<RecordRef>,
    /// A UUID; the key of the task on every device.
    pub id: String,
    pub task_id: String,
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_form: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_success_count: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_error_count: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_corrections: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_id: Option<String>,
    /// Computed by the receiver where it is left out, checked where it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_cursor: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<String>,
}

/// A link from a task to a message of its span.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkRecord {
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<RecordRef>,
    /// The task's UUID.
    pub task_id: String,
    /// The message's origin, so that the link survives edits.
    pub message: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_cursor: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<String>,
}

impl MessageRecord {
    pub fn is_edit(&self) -> bool {
        self.edit.unwrap_or(self.origin.is_some())
    }

    /// The row's identity, given the hash of its present content.
    pub fn origin_with(&self, content_hash: ContentHash) -> Origin {
        self.origin.clone().unwrap_or_else(|| Origin {
            session_id: self.session_id.clone(),
            content_hash,
            occurrence: self.occurrence,
        })
    }

    /// Tells versions of one message apart: content, role, time and metadata, but not the writer's hash, which a
    /// device replaces where it is taken, and which must then not travel back.
    ///
    /// Nor does it cover `extracted_at`, the time at which a file was read: to read it again is no change.
    ///
    /// Equal values give equal versions within one program; numbers that came through `jsonb` may be spelt anew.
    pub fn version(&self, content_hash: ContentHash) -> i64 {
        let mut bytes = content_hash.as_bytes().to_vec();
        let parts = [
            Some(self.role.as_str()),
            self.created_at.as_deref(),
            self.session_null.then_some("null"),
        ];
        for part in parts {
            // A length before each part keeps ("ab", "c") and ("a", "bc") apart.
            let length = part.map_or(u64::MAX, |text| text.len() as u64);
            bytes.extend(length.to_be_bytes());
            bytes.extend(part.unwrap_or_default().as_bytes());
        }
        // NULL is said of columns that not every file has; a file without the column means the same.
        let said = self.metadata.iter().filter(|(_, value)| !value.is_null());
        for (name, value) in said.filter(|(name, _)| *name != "extracted_at") {
            // Two JSON texts in a row cannot be taken for two others: each ends where its value ends.
            serde_json::to_writer(&mut bytes, name).expect("a text renders into memory");
            serde_json::to_writer(&mut bytes, value).expect("a JSON value renders into memory");
            bytes.push(b',');
        }
        i64::from_ne_bytes(sha256(&bytes).first_u64().to_ne_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_told_by_its_origin_unless_it_says_otherwise() {
        let mut record = MessageRecord::default();
        assert!(!record.is_edit());
        record.origin = Some(Origin {
            session_id: String::new(),
            content_hash: sha256(b""),
            occurrence: 0,
        });
        assert!(record.is_edit());
        record.edit = Some(false);
        assert!(!record.is_edit());
    }

    #[test]
    fn a_version_covers_role_time_and_metadata_but_not_the_writers_hash() {
        let hash = sha256(b"x");
        let plain = MessageRecord {
            role: "user".into(),
            ..MessageRecord::default()
        };
        let version = |change: &dyn Fn(&mut MessageRecord)| {
            let mut record = plain.clone();
            change(&mut record);
            record.version(hash)
        };
        assert_eq!(version(&|r| r.hash = Some("h".into())), plain.version(hash));
        assert_eq!(
            version(&|r| drop(r.metadata.insert("extracted_at".into(), 1.into()))),
            plain.version(hash)
        );
        assert_ne!(version(&|r| r.role = "assistant".into()), plain.version(hash));
        assert_ne!(
            version(&|r| r.created_at = Some(String::new())),
            plain.version(hash)
        );
        assert_ne!(
            version(&|r| drop(r.metadata.insert("a".into(), 1.into()))),
            plain.version(hash)
        );
        assert_ne!(plain.version(sha256(b"y")), plain.version(hash));
        let null = version(&|r| drop(r.metadata.insert("a".into(), Value::Null)));
        assert_eq!(null, plain.version(hash), "no column and NULL are the same");
    }

    #[test]
    fn unknown_fields_of_a_record_are_ignored() {
        let text = r#"{"ref":7,"session_id":"s","role":"user","content":"c","colour":"red"}"#;
        let record: MessageRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.reference, Some(RecordRef::Number(7)));
    }
}
