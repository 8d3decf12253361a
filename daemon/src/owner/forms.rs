//! The two forms of a row: as it stands here, and redacted, as it travels.
//!
//! What is sent, hashed and compared with the cloud is the redacted form. Whether a row has changed since it was
//! acknowledged is asked of the row as it stands here, so that other rules are no change of a row. And what comes back
//! never takes a secret from the row that has it: a text of which the pulled one is a redacted form stays.

use std::borrow::Cow;

use coditect_shared::limits::ACTIVE_FORM_MAX_CHARS;
use coditect_shared::{ContentHash, MessageRecord, TaskRecord};
use serde_json::Value as Json;

use crate::redaction::{Findings, Redactor, fits, is_marked, mark};

/// What stands here, of a row that travels in another form.
#[derive(Clone, Debug)]
pub(super) struct Here<R> {
    pub(super) record: R,
    pub(super) hash: ContentHash,
}

/// The form in which a message travels; None: as it is. `findings` says what was replaced.
pub(super) fn redact_message(
    redactor: &Redactor,
    record: &MessageRecord,
    findings: &mut Findings,
) -> Option<MessageRecord> {
    let mut sent: Option<MessageRecord> = None;
    if let Cow::Owned(content) = redactor.redact(&record.content, findings) {
        sent.get_or_insert_with(|| record.clone()).content = content;
    }
    for (name, value) in record.metadata.iter().filter(|(name, _)| is_free_text(name)) {
        if let Some(value) = redact_json(redactor, value, findings) {
            sent.get_or_insert_with(|| record.clone())
                .metadata
                .insert(name.clone(), value);
        }
    }
    sent
}

/// The form in which a task travels; None: as it is.
pub(super) fn redact_task(
    redactor: &Redactor,
    record: &TaskRecord,
    findings: &mut Findings,
) -> Option<TaskRecord> {
    let mut sent: Option<TaskRecord> = None;
    if let Cow::Owned(description) = redactor.redact(&record.description, findings) {
        sent.get_or_insert_with(|| record.clone()).description = description;
    }
    if let Some(active_form) = &record.active_form {
        let mut found = Findings::new();
        if let Cow::Owned(mut redacted) = redactor.redact(active_form, &mut found) {
            if redacted.chars().count() > ACTIVE_FORM_MAX_CHARS {
                // A mark may be longer than the secret, and the column is not.
                redacted = found.keys().next().map_or_else(String::new, |kind| mark(kind));
            }
            sent.get_or_insert_with(|| record.clone()).active_form = Some(redacted);
        }
        for (kind, count) in found {
            *findings.entry(kind).or_default() += count;
        }
    }
    sent
}

/// A pulled message as it is to be written over one that stands here: texts of which it has a redacted form stay.
pub(super) fn restored_message<'r>(
    pulled: &'r MessageRecord,
    here: &MessageRecord,
    sent: &MessageRecord,
) -> Cow<'r, MessageRecord> {
    let mut restored = Cow::Borrowed(pulled);
    if is_form_of(&pulled.content, &here.content, &sent.content) {
        restored.to_mut().content.clone_from(&here.content);
    }
    for (name, value) in &pulled.metadata {
        if let (Json::String(text), Some(Json::String(here)), sent) =
            (value, here.metadata.get(name), sent.metadata.get(name))
            && is_form_of(text, here, sent.and_then(Json::as_str).unwrap_or_default())
        {
            restored
                .to_mut()
                .metadata
                .insert(name.clone(), here.clone().into());
        }
    }
    restored
}

/// A pulled task as it is to be written over one that stands here.
pub(super) fn restored_task<'r>(
    pulled: &'r TaskRecord,
    here: &TaskRecord,
    sent: &TaskRecord,
) -> Cow<'r, TaskRecord> {
    let mut restored = Cow::Borrowed(pulled);
    if is_form_of(&pulled.description, &here.description, &sent.description) {
        restored.to_mut().description.clone_from(&here.description);
    }
    if let (Some(text), Some(here)) = (&pulled.active_form, &here.active_form)
        && is_form_of(text, here, sent.active_form.as_deref().unwrap_or_default())
    {
        restored.to_mut().active_form = Some(here.clone());
    }
    restored
}

/// Whether a pulled text is a redacted form of the one that stands here, under today's rules or any others.
fn is_form_of(pulled: &str, here: &str, sent: &str) -> bool {
    pulled != here && is_marked(pulled) && (pulled == sent || fits(pulled, here))
}

/// Ids, hashes of contents and times are what rows are found and ordered by. `paid` is no id, and `password_hash` no hash
/// of a content.
fn is_free_text(column: &str) -> bool {
    const NAMES: [&str; 7] = [
        "id",
        "uuid",
        "hash",
        "content_hash",
        "source_type",
        "extracted_at",
        "timestamp",
    ];
    let is_known = NAMES.contains(&column) || ["_id", "_uuid", "_at"].iter().any(|end| column.ends_with(end));
    !is_known
}

fn redact_json(redactor: &Redactor, value: &Json, findings: &mut Findings) -> Option<Json> {
    match value {
        Json::String(text) => match redactor.redact(text, findings) {
            Cow::Owned(redacted) => Some(redacted.into()),
            Cow::Borrowed(_) => None,
        },
        // An object is a blob.
        Json::Object(_) | Json::Array(_) | Json::Null | Json::Bool(_) | Json::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::is_free_text;

    #[test]
    fn only_ids_hashes_of_contents_and_times_are_no_free_text() {
        for column in [
            "id",
            "session_id",
            "parent_uuid",
            "hash",
            "content_hash",
            "created_at",
            "timestamp",
        ] {
            assert!(!is_free_text(column), "{column}");
        }
        for column in [
            "paid",
            "grid",
            "password_hash",
            "slash_hash",
            "agent_context",
            "cwd",
            "valid",
        ] {
            assert!(is_free_text(column), "{column}");
        }
    }
}
