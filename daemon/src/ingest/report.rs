//! What an ingest read, stored and could not read.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::find::Unreadable;
use super::values::Damage;

/// So many damaged parts are listed; beyond, they are only counted. A badly broken gigabyte has millions.
const DAMAGED_LISTED_MAX: usize = 100;

/// So many kinds of skipped records are told apart, and so many characters of their names: both come from the
/// file.
const KINDS_MAX: usize = 200;
const KIND_MAX_CHARS: usize = 60;

/// Counts of one ingest, or of one round of a following one.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Transcripts that were read.
    pub files: u64,
    /// Sessions that they belong to.
    pub sessions: u64,
    /// JSON objects in them.
    pub records: u64,
    pub messages: Stored,
    pub tasks: TaskCounts,
    pub links: Stored,
    /// Transcripts that became shorter or other files, and were read from their beginning again.
    pub restarted: u64,
    /// Transcripts that were there before and are not any more. Their rows stay.
    pub vanished: u64,
    /// Damaged parts, in bytes of their file; the first of them, `damaged_total` counts all.
    pub damaged: Vec<DamagedPart>,
    pub damaged_total: u64,
    pub unreadable: Vec<Unreadable>,
    /// Records, and parts of records, that hold no text to keep, by kind.
    pub skipped_record_kinds: BTreeMap<String, u64>,
    #[serde(skip)]
    session_names: HashSet<String>,
}

/// Rows that the transcripts hold, and those of them that context.db did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stored {
    pub seen: u64,
    pub inserted: u64,
}

/// Tasks that the transcripts hold, and those of them that context.db did not hold or held in an older
/// version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskCounts {
    pub seen: u64,
    pub inserted: u64,
    pub updated: u64,
}

/// A part of a transcript that was passed over, or read after mending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedPart {
    pub file: String,
    /// Where it begins and how long it is, in bytes.
    pub offset: u64,
    pub bytes: u64,
    pub reason: &'static str,
}

impl Report {
    /// Whether anything was written to context.db.
    pub fn wrote(&self) -> bool {
        self.messages.inserted + self.tasks.inserted + self.tasks.updated + self.links.inserted > 0
    }

    /// Whether anything was read, or is otherwise than before.
    pub(super) fn is_news(&self) -> bool {
        self.files + self.vanished > 0
    }

    pub(super) fn damage(&mut self, file: &str, damage: Damage) {
        self.damaged_total += 1;
        if self.damaged.len() < DAMAGED_LISTED_MAX {
            self.damaged.push(DamagedPart {
                file: file.to_owned(),
                offset: damage.offset,
                bytes: damage.bytes,
                reason: damage.reason,
            });
        }
    }

    pub(super) fn unreadable(&mut self, unreadable: Unreadable) {
        self.unreadable.push(unreadable);
    }

    pub(super) fn skipped(&mut self, kind: &str) {
        let kind = super::fields::cut(kind, KIND_MAX_CHARS);
        if let Some(count) = self.skipped_record_kinds.get_mut(kind) {
            *count += 1;
        } else {
            let kind = if self.skipped_record_kinds.len() < KINDS_MAX {
                kind
            } else {
                "(other)"
            };
            *self.skipped_record_kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn session(&mut self, name: &str) {
        if !self.session_names.contains(name) {
            self.session_names.insert(name.to_owned());
            self.sessions += 1;
        }
    }
}
