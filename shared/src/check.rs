//! Limits of a single row, checked by the daemon before it sends and by the server before it writes.
//!
//! A row that fails is refused alone, with a code; the rest of its batch goes on.

use uuid::Uuid;

use crate::hash::{message_hash, task_hash};
use crate::limits::*;
use crate::{ContentHash, LinkRecord, MessageRecord, Origin, TaskRecord, TenantId};

/// Why a row is refused, in the contract's codes: `invalid_field`, `too_large`, `hash_mismatch`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
}

const STATUSES: [&str; 3] = ["pending", "in_progress", "completed"];
const OUTCOMES: [&str; 4] = ["success", "error", "partial", "skipped"];

/// Checks a message and gives the hash of its content and its origin.
pub fn message(tenant: TenantId, record: &MessageRecord) -> Result<(ContentHash, Origin), Refusal> {
    text("session_id", &record.session_id, SESSION_ID_MAX_CHARS)?;
    text("role", &record.role, ROLE_MAX_CHARS)?;
    unbounded("content", &record.content)?;
    optional("created_at", record.created_at.as_deref(), TIMESTAMP_MAX_CHARS)?;
    optional(
        "hardware_id",
        record.hardware_id.as_deref(),
        HARDWARE_ID_MAX_CHARS,
    )?;
    optional("hash", record.hash.as_deref(), WRITER_HASH_MAX_CHARS)?;
    metadata(record)?;
    let hash = message_hash(tenant, &record.session_id, &record.content);
    matches(record.content_hash.as_deref(), hash)?;
    let origin = record.origin_with(hash);
    if origin.session_id != record.session_id {
        return Err(invalid("origin", "names another session than the row"));
    }
    occurrence(origin.occurrence.max(record.occurrence))?;
    Ok((hash, origin))
}

/// Checks a task and gives the hash of this version and its key.
pub fn task(tenant: TenantId, record: &TaskRecord) -> Result<(ContentHash, Uuid), Refusal> {
    let id = Uuid::parse_str(&record.id)
        .map_err(|_| invalid("id", &format!("{:?} is no UUID", shortened(&record.id))))?;
    if record.task_id.is_empty() {
        return Err(invalid("task_id", "is empty"));
    }
    text("task_id", &record.task_id, TASK_ID_MAX_CHARS)?;
    unbounded("description", &record.description)?;
    optional(
        "active_form",
        record.active_form.as_deref(),
        ACTIVE_FORM_MAX_CHARS,
    )?;
    optional("session_id", record.session_id.as_deref(), SESSION_ID_MAX_CHARS)?;
    optional("project_id", record.project_id.as_deref(), PROJECT_ID_MAX_CHARS)?;
    optional(
        "client_version",
        record.client_version.as_deref(),
        CLIENT_VERSION_MAX_CHARS,
    )?;
    optional(
        "hardware_id",
        record.hardware_id.as_deref(),
        HARDWARE_ID_MAX_CHARS,
    )?;
    for (name, time) in [
        ("started_at", &record.started_at),
        ("completed_at", &record.completed_at),
        ("updated_at", &record.updated_at),
    ] {
        optional(name, time.as_deref(), TIMESTAMP_MAX_CHARS)?;
    }
    one_of("status", &record.status, &STATUSES)?;
    if let Some(outcome) = record.outcome.as_deref().filter(|outcome| !outcome.is_empty()) {
        one_of("outcome", outcome, &OUTCOMES)?;
    }
    if let Some(score) = record.outcome_score.filter(|score| !(0.0..=1.0).contains(score)) {
        return Err(invalid(
            "outcome_score",
            &format!("{score} is not between 0.0 and 1.0"),
        ));
    }
    for (name, count) in [
        ("tool_success_count", record.tool_success_count),
        ("tool_error_count", record.tool_error_count),
        ("user_corrections", record.user_corrections),
    ] {
        if let Some(count) = count.filter(|count| !(0..=i64::from(i32::MAX)).contains(count)) {
            return Err(invalid(
                name,
                &format!("{count} is not between 0 and {}", i32::MAX),
            ));
        }
    }
    let hash = task_hash(tenant, record);
    matches(record.content_hash.as_deref(), hash)?;
    Ok((hash, id))
}

/// Checks a link and gives its task's key.
pub fn link(record: &LinkRecord) -> Result<Uuid, Refusal> {
    text(
        "message.session_id",
        &record.message.session_id,
        SESSION_ID_MAX_CHARS,
    )?;
    occurrence(record.message.occurrence)?;
    Uuid::parse_str(&record.task_id)
        .map_err(|_| invalid("task_id", &format!("{:?} is no UUID", shortened(&record.task_id))))
}

/// No field but these may be longer than its column, and none may hold what PostgreSQL cannot store.
fn text(name: &str, value: &str, max_chars: usize) -> Result<(), Refusal> {
    no_nul(name, value)?;
    // Bytes bound characters from above, so that the common case counts nothing.
    if value.len() > max_chars {
        let chars = value.chars().count();
        if chars > max_chars {
            return Err(invalid(
                name,
                &format!("has {chars} characters, at most {max_chars} are allowed"),
            ));
        }
    }
    Ok(())
}

fn optional(name: &str, value: Option<&str>, max_chars: usize) -> Result<(), Refusal> {
    value.map_or(Ok(()), |value| text(name, value, max_chars))
}

fn unbounded(name: &str, value: &str) -> Result<(), Refusal> {
    if value.len() > TEXT_MAX_BYTES {
        let message = format!(
            "{name} has {} bytes, at most {TEXT_MAX_BYTES} are allowed",
            value.len()
        );
        return Err(Refusal {
            code: "too_large",
            message,
        });
    }
    no_nul(name, value)
}

/// U+0000 cannot stand in a PostgreSQL text, and one such row would fail its whole batch.
fn no_nul(name: &str, value: &str) -> Result<(), Refusal> {
    if value.as_bytes().contains(&0) {
        return Err(invalid(name, "contains U+0000, which PostgreSQL cannot store"));
    }
    Ok(())
}

fn metadata(record: &MessageRecord) -> Result<(), Refusal> {
    if record.metadata.is_empty() {
        return Ok(());
    }
    let json =
        serde_json::to_string(&record.metadata).map_err(|error| invalid("metadata", &error.to_string()))?;
    if json.len() > METADATA_MAX_BYTES {
        let message = format!(
            "metadata has {} bytes, at most {METADATA_MAX_BYTES} are allowed",
            json.len()
        );
        return Err(Refusal {
            code: "too_large",
            message,
        });
    }
    // The escape may stand behind an escaped backslash; then the text has no NUL but is looked at more closely.
    if json.contains("\\u0000")
        && record
            .metadata
            .iter()
            .any(|(key, value)| key.contains('\0') || has_nul(value))
    {
        return Err(invalid(
            "metadata",
            "contains U+0000, which PostgreSQL cannot store",
        ));
    }
    Ok(())
}

fn has_nul(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn occurrence(value: u32) -> Result<(), Refusal> {
    if i32::try_from(value).is_err() {
        return Err(invalid("occurrence", &format!("{value} is beyond {}", i32::MAX)));
    }
    Ok(())
}

fn one_of(name: &str, value: &str, allowed: &[&str]) -> Result<(), Refusal> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(invalid(
        name,
        &format!("{:?} is none of {}", shortened(value), allowed.join(", ")),
    ))
}

fn matches(given: Option<&str>, computed: ContentHash) -> Result<(), Refusal> {
    match given {
        Some(given) if given.parse() != Ok(computed) => Err(Refusal {
            code: "hash_mismatch",
            message: format!(
                "content_hash {:?} does not match the content, whose hash is {computed}",
                shortened(given)
            ),
        }),
        Some(_) | None => Ok(()),
    }
}

fn invalid(field: &str, reason: &str) -> Refusal {
    Refusal {
        code: "invalid_field",
        message: format!("{field} {reason}"),
    }
}

fn shortened(value: &str) -> String {
    value.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(7));

    type Change = fn(&mut TaskRecord);

    fn a_task() -> TaskRecord {
        TaskRecord {
            id: Uuid::from_u128(1).to_string(),
            task_id: "t".into(),
            status: "pending".into(),
            ..TaskRecord::default()
        }
    }

    #[test]
    fn a_bad_field_is_named_with_its_code() {
        let cases: [(Change, &str, &str); 8] = [
            (|t| t.status = "done".into(), "invalid_field", "status"),
            (|t| t.outcome = Some("good".into()), "invalid_field", "outcome"),
            (|t| t.outcome_score = Some(2.0), "invalid_field", "outcome_score"),
            (
                |t| t.outcome_score = Some(f64::NAN),
                "invalid_field",
                "outcome_score",
            ),
            (|t| t.task_id = "x".repeat(51), "invalid_field", "task_id"),
            (|t| t.description = "a\0b".into(), "invalid_field", "description"),
            (
                |t| t.description = "x".repeat(TEXT_MAX_BYTES + 1),
                "too_large",
                "description",
            ),
            (
                |t| t.content_hash = Some("00".repeat(32)),
                "hash_mismatch",
                "content_hash",
            ),
        ];
        assert!(task(TENANT, &a_task()).is_ok());
        for (change, code, field) in cases {
            let mut record = a_task();
            change(&mut record);
            let refusal = task(TENANT, &record).unwrap_err();
            assert_eq!(refusal.code, code);
            assert!(refusal.message.starts_with(field), "{refusal}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters_as_the_columns_do() {
        let record = MessageRecord {
            session_id: "é".repeat(255),
            ..MessageRecord::default()
        };
        assert!(message(TENANT, &record).is_ok());
        let record = MessageRecord {
            session_id: "é".repeat(256),
            ..MessageRecord::default()
        };
        assert_eq!(message(TENANT, &record).unwrap_err().code, "invalid_field");
    }

    #[test]
    fn a_nul_in_metadata_is_refused_and_an_escaped_backslash_before_u0000_is_not() {
        let with = |text: &str| {
            let mut record = MessageRecord::default();
            record.metadata.insert("a".into(), text.into());
            message(TENANT, &record)
        };
        assert!(with("a\0").is_err());
        assert!(with("\\u0000").is_ok());
    }

    #[test]
    fn an_empty_outcome_counts_as_none() {
        assert!(
            task(
                TENANT,
                &TaskRecord {
                    outcome: Some(String::new()),
                    ..a_task()
                }
            )
            .is_ok()
        );
    }
}
