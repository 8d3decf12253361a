//! What becomes of each record of a push: the pure decision, in the order of the batch.
//!
//! The caller loads what is stored about the identities of a batch ([`Known`]), under the tenant's head lock;
//! [`plan`] lays each record over what the records before it left behind, so that equal keys within one batch fold as
//! if each had come in a push of its own, and says what to write, set-wise. It promises:
//! - cursors are drawn in batch order from `head + 1`, one for each version stored, none for anything else;
//! - no two rows share an origin or a dedupe key, and no dedupe key that was taken when the batch began is given to
//!   another row within it, so that no order of the writes can collide;
//! - each version that stops being current, or never becomes so, is filed.

#[cfg(test)]
mod model;
mod planner;

use std::collections::{HashMap, HashSet};

use coditect_shared::{ContentHash, Origin, Stamp};
use uuid::Uuid;

use planner::Planner;

/// Session, hash and occurrence of a row's present content: what other clients dedupe by. The same shape as an
/// origin, but a row's key changes with each edit while its origin stays.
pub type Key = Origin;

/// A checked batch, reduced to what decides.
#[derive(Debug, Default)]
pub struct Batch {
    pub messages: Vec<MessageClaim>,
    pub tasks: Vec<TaskClaim>,
    pub links: Vec<LinkClaim>,
}

#[derive(Clone, Debug)]
pub struct MessageClaim {
    pub origin: Origin,
    /// Of the present content.
    pub hash: ContentHash,
    /// Where the sender counts this content; taken if it is free.
    pub occurrence: u32,
    /// Tells edits of role, time and metadata apart.
    pub version: i64,
    pub edit: bool,
    pub base: Option<Stamp>,
    pub stamp: Option<Stamp>,
    /// The row's id, should the claim become a new row.
    pub new_id: Uuid,
}

#[derive(Clone, Debug)]
pub struct TaskClaim {
    pub id: Uuid,
    pub hash: ContentHash,
    pub base: Option<Stamp>,
    pub stamp: Option<Stamp>,
}

#[derive(Clone, Debug)]
pub struct LinkClaim {
    pub task: Uuid,
    pub message: Origin,
    pub sequence: Option<i64>,
    pub base: Option<Stamp>,
    pub stamp: Option<Stamp>,
}

/// What is stored about the identities that a batch names.
#[derive(Debug, Default)]
pub struct Known {
    pub epoch: i64,
    /// The tenant's head before this push.
    pub head: i64,
    /// By origin: every message that a record or a link of the batch names.
    pub messages: HashMap<Origin, StoredMessage>,
    /// Those of the batch's own keys (present hash, sender's occurrence) that some row has.
    pub keys: HashSet<Key>,
    /// All occurrences that rows have of a text in a session, as key or as origin; see [`missing_occurrences`].
    pub occurrences: HashMap<(String, ContentHash), HashSet<u32>>,
    pub tasks: HashMap<Uuid, StoredTask>,
    /// By task and message row.
    pub links: HashMap<(Uuid, Uuid), StoredLink>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    pub id: Uuid,
    pub hash: ContentHash,
    pub occurrence: u32,
    pub version: i64,
    pub cursor: i64,
    pub stamp: Stamp,
    pub size_bytes: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredTask {
    pub hash: ContentHash,
    pub cursor: i64,
    pub stamp: Stamp,
    pub size_bytes: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredLink {
    pub sequence: Option<i64>,
    pub cursor: i64,
    pub stamp: Stamp,
}

/// What became of one record. The cursor is that of the version that is current after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Stored(i64),
    Duplicate(i64),
    Superseded(i64),
    RetryLater,
}

/// The whole decision. Indexes point into the batch's lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub message_fates: Vec<Fate>,
    pub task_fates: Vec<Fate>,
    pub link_fates: Vec<Fate>,
    /// One for each row that is new or changes, with its last version in this batch.
    pub messages: Vec<MessageWrite>,
    /// Versions from this batch that are not current at its end. (Stored versions that are replaced are the rows of
    /// `messages` with `replaces`.)
    pub filed_messages: Vec<FiledMessage>,
    pub tasks: Vec<TaskWrite>,
    pub task_events: Vec<TaskEvent>,
    pub links: Vec<LinkWrite>,
    /// The tenant's head after this push.
    pub head: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageWrite {
    pub id: Uuid,
    /// The claim that is current at the end of the batch.
    pub claim: usize,
    /// The claim that made the row: its writer's hash stays, whatever edits follow.
    pub first_claim: usize,
    pub occurrence: u32,
    pub cursor: i64,
    pub stamp: Stamp,
    /// Bytes of the stored version that this one replaces; none for a new row.
    pub replaces: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FiledMessage {
    pub message: Uuid,
    pub claim: usize,
    /// The cursor under which it was current for a moment; none if it was superseded.
    pub cursor: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWrite {
    pub claim: usize,
    pub cursor: i64,
    pub stamp: Stamp,
    pub replaces: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEvent {
    pub claim: usize,
    /// None if it was superseded.
    pub cursor: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkWrite {
    pub claim: usize,
    pub message: Uuid,
    pub cursor: i64,
    pub stamp: Stamp,
    pub replaces: bool,
}

/// Decides a batch. `known` must have the occurrences that [`missing_occurrences`] names.
pub fn plan(batch: &Batch, known: Known) -> Plan {
    Planner::new(known).decide(batch)
}

/// Texts whose occurrences are to be loaded before the batch can be decided.
///
/// A text needs its occurrences if a record may have to take another than its sender's: an edit always does; an insert
/// does if its key is taken, by a stored row or by another record of the batch.
pub fn missing_occurrences(batch: &Batch, known: &Known) -> Vec<(String, ContentHash)> {
    let mut claimed = HashMap::new();
    let mut missing: Vec<(String, ContentHash)> = Vec::new();
    for claim in &batch.messages {
        let key = (claim.origin.session_id.as_str(), claim.hash, claim.occurrence);
        // Two records of one origin are versions of one row, and do not stand in each other's way.
        let met = claimed
            .insert(key, &claim.origin)
            .is_some_and(|other| *other != claim.origin);
        let taken = || {
            known.keys.contains(&Key {
                session_id: claim.origin.session_id.clone(),
                content_hash: claim.hash,
                occurrence: claim.occurrence,
            })
        };
        let is_new = || !known.messages.contains_key(&claim.origin);
        if claim.edit || claim.stamp.is_some() || met || (is_new() && taken()) {
            let text = (claim.origin.session_id.clone(), claim.hash);
            if !known.occurrences.contains_key(&text) {
                missing.push(text);
            }
        }
    }
    missing.sort_unstable();
    missing.dedup();
    missing
}
