//! Lays record over record: what is stored, then each decision in turn.

use std::collections::{HashMap, HashSet};

use coditect_shared::{ContentHash, Origin, Stamp};
use uuid::Uuid;

use super::{
    Batch, Fate, FiledMessage, Key, Known, LinkClaim, LinkWrite, MessageClaim, MessageWrite, Plan,
    StoredLink, StoredMessage, StoredTask, TaskClaim, TaskEvent, TaskWrite,
};

use crate::rules::{Rule, holds};

/// What is stored, with the records decided so far laid over it.
pub(super) struct Planner {
    epoch: i64,
    head: i64,
    messages: HashMap<Origin, Row>,
    keys: HashSet<Key>,
    occurrences: HashMap<(String, ContentHash), HashSet<u32>>,
    tasks: HashMap<Uuid, Task>,
    links: HashMap<(Uuid, Uuid), Link>,
    /// Versions that this batch has filed, or stored, so that one that comes late is not filed beside itself.
    filed_messages: HashSet<(Uuid, i64)>,
    task_versions: HashSet<(Uuid, ContentHash)>,
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
    pub(super) fn new(known: Known) -> Planner {
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
            filed_messages: HashSet::new(),
            task_versions: HashSet::new(),
            plan: Plan::default(),
        }
    }

    /// Decides each record in the order of the batch: messages, tasks, links.
    pub(super) fn decide(mut self, batch: &Batch) -> Plan {
        for (index, claim) in batch.messages.iter().enumerate() {
            let fate = self.message(index, claim);
            self.plan.message_fates.push(fate);
        }
        for (index, claim) in batch.tasks.iter().enumerate() {
            let fate = self.task(index, claim);
            self.plan.task_fates.push(fate);
        }
        for (index, claim) in batch.links.iter().enumerate() {
            let fate = self.link(index, claim);
            self.plan.link_fates.push(fate);
        }
        self.plan.head = self.head;
        self.plan
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
        let ordered = claim.edit || claim.stamp.is_some() || !holds(Rule::InsertSuperseded);
        if !ordered || is_older(claim.base, claim.stamp, stored.stamp) {
            if self.filed_messages.insert((stored.id, claim.version)) {
                self.plan.filed_messages.push(FiledMessage {
                    message: stored.id,
                    claim: index,
                    cursor: None,
                });
            }
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
                self.filed_messages.insert((stored.id, stored.version));
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
                if self.task_versions.insert((claim.id, claim.hash)) {
                    self.plan.task_events.push(TaskEvent {
                        claim: index,
                        cursor: None,
                    });
                }
                return Fate::Superseded(stored.cursor);
            }
            Some((stored, write)) => (write, Some(stored.size_bytes)),
            None => (None, None),
        };
        let (cursor, stamp) = self.draw(claim.stamp);
        self.task_versions.insert((claim.id, claim.hash));
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
        (None, Some(base)) => base < stored && holds(Rule::BaseCompared),
        (None, None) => false,
    }
}
