//! What becomes of each record of a push: the pure decision, in the order of the batch.
//!
//! The caller loads what is stored about the identities of a batch ([`Known`]), under the tenant's head lock;
//! [`plan`] lays each record over what the records before it left behind, so that equal keys within one batch fold as
//! if each had come in a push of its own, and says what to write, set-wise. It promises:
//! - cursors are drawn in batch order from `head + 1`, one for each version stored, none for anything else;
//! - no two rows share an origin or a dedupe key, and no dedupe key that was taken when the batch began is given to
//!   another row within it, so that no order of the writes can collide;
//! - each version that stops being current, or never becomes so, is filed.

use std::collections::{HashMap, HashSet};

use coditect_shared::{ContentHash, Origin, Stamp};
use uuid::Uuid;

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
    /// All occurrences that rows have of a text in a session, as key or as origin. Loaded for edits at once, for
    /// other records when [`plan`] asks.
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

/// Texts whose occurrences must be loaded before the batch can be decided.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<(String, ContentHash)>);

/// Decides a batch.
///
/// # Errors
/// [`Missing`] if a plain insert found its dedupe key taken by an edited row, so that a free one is needed: load the
/// occurrences it names, and call again.
pub fn plan(batch: &Batch, known: Known) -> Result<Plan, (Missing, Known)> {
    if let Some(missing) = missing_occurrences(batch, &known) {
        return Err((missing, known));
    }
    let mut planner = Planner::new(known);
    for (index, claim) in batch.messages.iter().enumerate() {
        let fate = planner.message(index, claim);
        planner.plan.message_fates.push(fate);
    }
    for (index, claim) in batch.tasks.iter().enumerate() {
        let fate = planner.task(index, claim);
        planner.plan.task_fates.push(fate);
    }
    for (index, claim) in batch.links.iter().enumerate() {
        let fate = planner.link(index, claim);
        planner.plan.link_fates.push(fate);
    }
    planner.plan.head = planner.head;
    Ok(planner.plan)
}

/// A text needs its occurrences if a record may have to take another than its sender's: an edit always does; an insert
/// does if its key is taken, by a stored row or by another record of the batch.
fn missing_occurrences(batch: &Batch, known: &Known) -> Option<Missing> {
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
    (!missing.is_empty()).then_some(Missing(missing))
}

/// What is stored, with the records decided so far laid over it.
struct Planner {
    epoch: i64,
    head: i64,
    messages: HashMap<Origin, Row>,
    keys: HashSet<Key>,
    occurrences: HashMap<(String, ContentHash), HashSet<u32>>,
    tasks: HashMap<Uuid, Task>,
    links: HashMap<(Uuid, Uuid), Link>,
    plan: Plan,
}

struct Row {
    stored: StoredMessage,
    /// Its place in `plan.messages`, once this batch has written it.
    write: Option<usize>,
}

struct Task {
    stored: StoredTask,
    write: Option<usize>,
}

struct Link {
    stored: StoredLink,
    write: Option<usize>,
}

impl Planner {
    fn new(known: Known) -> Planner {
        let mut keys = known.keys;
        // The rows' own keys are taken too, whether or not a record of the batch asks for them.
        keys.extend(known.messages.iter().map(|(origin, row)| Key {
            session_id: origin.session_id.clone(),
            content_hash: row.hash,
            occurrence: row.occurrence,
        }));
        Planner {
            epoch: known.epoch,
            head: known.head,
            messages: known
                .messages
                .into_iter()
                .map(|(origin, stored)| (origin, Row { stored, write: None }))
                .collect(),
            keys,
            occurrences: known.occurrences,
            tasks: known
                .tasks
                .into_iter()
                .map(|(id, stored)| (id, Task { stored, write: None }))
                .collect(),
            links: known
                .links
                .into_iter()
                .map(|(ends, stored)| (ends, Link { stored, write: None }))
                .collect(),
            plan: Plan::default(),
        }
    }

    fn message(&mut self, index: usize, claim: &MessageClaim) -> Fate {
        let Some(row) = self.messages.get(&claim.origin) else {
            return self.new_message(index, claim);
        };
        let stored = row.stored.clone();
        // A plain insert says "this text stands here", which holds whatever else the row has; an edit means all of it.
        if stored.hash == claim.hash && (!claim.edit || stored.version == claim.version) {
            return Fate::Duplicate(stored.cursor);
        }
        let ordered = claim.edit || claim.stamp.is_some();
        if !ordered || is_older(claim.base, claim.stamp, stored.stamp) {
            self.plan.filed_messages.push(FiledMessage {
                message: stored.id,
                claim: index,
                cursor: None,
            });
            return Fate::Superseded(stored.cursor);
        }
        self.new_version(index, claim, stored)
    }

    fn new_message(&mut self, index: usize, claim: &MessageClaim) -> Fate {
        let wanted = key(claim, claim.occurrence);
        let occurrence = if self.keys.contains(&wanted) {
            self.free_occurrence(claim)
        } else {
            claim.occurrence
        };
        let (cursor, stamp) = self.draw(claim.stamp);
        self.keys.insert(key(claim, occurrence));
        let write = self.plan.messages.len();
        self.plan.messages.push(MessageWrite {
            id: claim.new_id,
            claim: index,
            first_claim: index,
            occurrence,
            cursor,
            stamp,
            replaces: None,
        });
        let stored = StoredMessage {
            id: claim.new_id,
            hash: claim.hash,
            occurrence,
            version: claim.version,
            cursor,
            stamp,
            size_bytes: 0,
        };
        self.messages.insert(
            claim.origin.clone(),
            Row {
                stored,
                write: Some(write),
            },
        );
        Fate::Stored(cursor)
    }

    fn new_version(&mut self, index: usize, claim: &MessageClaim, stored: StoredMessage) -> Fate {
        // With its text unchanged the row keeps its key.
        let occurrence = if stored.hash == claim.hash {
            stored.occurrence
        } else {
            self.free_occurrence(claim)
        };
        let (cursor, stamp) = self.draw(claim.stamp);
        self.keys.insert(key(claim, occurrence));
        let row = self
            .messages
            .get_mut(&claim.origin)
            .expect("the row was found by this origin");
        match row.write {
            Some(write) => {
                let write = &mut self.plan.messages[write];
                self.plan.filed_messages.push(FiledMessage {
                    message: stored.id,
                    claim: write.claim,
                    cursor: Some(write.cursor),
                });
                (write.claim, write.occurrence, write.cursor, write.stamp) =
                    (index, occurrence, cursor, stamp);
            }
            None => {
                row.write = Some(self.plan.messages.len());
                self.plan.messages.push(MessageWrite {
                    id: stored.id,
                    claim: index,
                    first_claim: index,
                    occurrence,
                    cursor,
                    stamp,
                    replaces: Some(stored.size_bytes),
                });
            }
        }
        row.stored = StoredMessage {
            hash: claim.hash,
            occurrence,
            version: claim.version,
            cursor,
            stamp,
            ..stored
        };
        Fate::Stored(cursor)
    }

    /// The lowest number of this text in this session that no row has, neither as its key nor as its origin: a key
    /// that is another row's origin would make that row's own return to its first text impossible to tell.
    fn free_occurrence(&self, claim: &MessageClaim) -> u32 {
        let text = (claim.origin.session_id.clone(), claim.hash);
        let stored = self.occurrences.get(&text);
        let mut candidate = key(claim, 0);
        while stored.is_some_and(|taken| taken.contains(&candidate.occurrence))
            || self.keys.contains(&candidate)
            || self.messages.contains_key(&candidate)
        {
            candidate.occurrence += 1;
        }
        candidate.occurrence
    }

    fn task(&mut self, index: usize, claim: &TaskClaim) -> Fate {
        let current = self.tasks.get(&claim.id).map(|task| (task.stored, task.write));
        let (write, replaces) = match current {
            Some((stored, _)) if stored.hash == claim.hash => return Fate::Duplicate(stored.cursor),
            Some((stored, _)) if is_older(claim.base, claim.stamp, stored.stamp) => {
                self.plan.task_events.push(TaskEvent {
                    claim: index,
                    cursor: None,
                });
                return Fate::Superseded(stored.cursor);
            }
            Some((stored, write)) => (write, Some(stored.size_bytes)),
            None => (None, None),
        };
        let (cursor, stamp) = self.draw(claim.stamp);
        self.plan.task_events.push(TaskEvent {
            claim: index,
            cursor: Some(cursor),
        });
        let write = match write {
            Some(at) => {
                let write = &mut self.plan.tasks[at];
                (write.claim, write.cursor, write.stamp) = (index, cursor, stamp);
                at
            }
            None => {
                self.plan.tasks.push(TaskWrite {
                    claim: index,
                    cursor,
                    stamp,
                    replaces,
                });
                self.plan.tasks.len() - 1
            }
        };
        let stored = StoredTask {
            hash: claim.hash,
            cursor,
            stamp,
            size_bytes: replaces.unwrap_or_default(),
        };
        self.tasks.insert(
            claim.id,
            Task {
                stored,
                write: Some(write),
            },
        );
        Fate::Stored(cursor)
    }

    fn link(&mut self, index: usize, claim: &LinkClaim) -> Fate {
        let (Some(row), true) = (
            self.messages.get(&claim.message),
            self.tasks.contains_key(&claim.task),
        ) else {
            return Fate::RetryLater;
        };
        let message = row.stored.id;
        let ends = (claim.task, message);
        let current = self.links.get(&ends).map(|link| (link.stored, link.write));
        let (write, replaces) = match current {
            Some((stored, _)) if stored.sequence == claim.sequence => return Fate::Duplicate(stored.cursor),
            Some((stored, _)) if is_older(claim.base, claim.stamp, stored.stamp) => {
                return Fate::Superseded(stored.cursor);
            }
            Some((_, write)) => (write, true),
            None => (None, false),
        };
        let (cursor, stamp) = self.draw(claim.stamp);
        let write = match write {
            Some(at) => {
                let write = &mut self.plan.links[at];
                (write.claim, write.cursor, write.stamp) = (index, cursor, stamp);
                at
            }
            None => {
                self.plan.links.push(LinkWrite {
                    claim: index,
                    message,
                    cursor,
                    stamp,
                    replaces,
                });
                self.plan.links.len() - 1
            }
        };
        let stored = StoredLink {
            sequence: claim.sequence,
            cursor,
            stamp,
        };
        self.links.insert(
            ends,
            Link {
                stored,
                write: Some(write),
            },
        );
        Fate::Stored(cursor)
    }

    /// The next cursor, and the stamp of the version that gets it: its own, unless it comes to heal.
    fn draw(&mut self, healed: Option<Stamp>) -> (i64, Stamp) {
        self.head += 1;
        (
            self.head,
            healed.unwrap_or(Stamp {
                epoch: self.epoch,
                cursor: self.head,
            }),
        )
    }
}

fn key(claim: &MessageClaim, occurrence: u32) -> Key {
    Key {
        session_id: claim.origin.session_id.clone(),
        content_hash: claim.hash,
        occurrence,
    }
}

/// Whether a version is older than the stored one, going by where it was once acknowledged (`stamp`, in healing) or
/// by what it was made from (`base`, in recovery). Without either it comes now, and is the newest.
fn is_older(base: Option<Stamp>, stamp: Option<Stamp>, stored: Stamp) -> bool {
    match (stamp, base) {
        (Some(stamp), _) => stamp <= stored,
        (None, Some(base)) => base < stored,
        (None, None) => false,
    }
}
