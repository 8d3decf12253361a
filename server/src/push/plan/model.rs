//! The plan against a tiny model that takes one record after the other and looks at everything that is stored.

use std::collections::{BTreeMap, HashSet};

use coditect_shared::hash::sha256;
use coditect_shared::{ContentHash, Origin, Stamp};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    Batch, Fate, Key, Known, LinkClaim, MessageClaim, Plan, StoredLink, StoredMessage, StoredTask, TaskClaim,
    missing_occurrences, plan,
};

const EPOCH: i64 = 2;

/// A database, as far as the plan is concerned.
#[derive(Clone, Debug, Default, PartialEq)]
struct Store {
    head: i64,
    messages: BTreeMap<Origin, StoredMessage>,
    /// Message, version, and the cursor under which it was current, sorted.
    history: Vec<(Uuid, i64, Option<i64>)>,
    tasks: BTreeMap<Uuid, StoredTask>,
    events: Vec<(Uuid, ContentHash, Option<i64>)>,
    links: BTreeMap<(Uuid, Uuid), StoredLink>,
}

/// One record at a time, the rules as PROTOCOL 3 tells them.
struct Model {
    store: Store,
    /// Keys that some row had when the batch began or got within it: none of them goes to another row.
    held: HashSet<Key>,
}

impl Model {
    fn message(&mut self, claim: &MessageClaim) -> Fate {
        let Some(row) = self.store.messages.get(&claim.origin).cloned() else {
            let wanted = key(claim, claim.occurrence);
            let occurrence = if self.held.contains(&wanted) {
                self.free(claim)
            } else {
                claim.occurrence
            };
            return self.put(claim, claim.new_id, occurrence);
        };
        if row.hash == claim.hash && (!claim.edit || row.version == claim.version) {
            return Fate::Duplicate(row.cursor);
        }
        let plain = !claim.edit && claim.stamp.is_none();
        if plain || late(claim.base, claim.stamp, row.stamp) {
            if !self
                .store
                .history
                .iter()
                .any(|(id, version, _)| (*id, *version) == (row.id, claim.version))
            {
                self.store.history.push((row.id, claim.version, None));
            }
            return Fate::Superseded(row.cursor);
        }
        self.store.history.push((row.id, row.version, Some(row.cursor)));
        let occurrence = if row.hash == claim.hash {
            row.occurrence
        } else {
            self.free(claim)
        };
        self.put(claim, row.id, occurrence)
    }

    fn put(&mut self, claim: &MessageClaim, id: Uuid, occurrence: u32) -> Fate {
        let (cursor, stamp) = self.next(claim.stamp);
        self.held.insert(key(claim, occurrence));
        let row = StoredMessage {
            id,
            hash: claim.hash,
            occurrence,
            version: claim.version,
            cursor,
            stamp,
            size_bytes: 0,
        };
        self.store.messages.insert(claim.origin.clone(), row);
        Fate::Stored(cursor)
    }

    fn free(&self, claim: &MessageClaim) -> u32 {
        (0..)
            .find(|occurrence| {
                let key = key(claim, *occurrence);
                !self.held.contains(&key) && !self.store.messages.contains_key(&key)
            })
            .unwrap()
    }

    fn task(&mut self, claim: &TaskClaim) -> Fate {
        match self.store.tasks.get(&claim.id) {
            Some(task) if task.hash == claim.hash => return Fate::Duplicate(task.cursor),
            Some(task) if late(claim.base, claim.stamp, task.stamp) => {
                let fate = Fate::Superseded(task.cursor);
                if !self
                    .store
                    .events
                    .iter()
                    .any(|(id, hash, _)| (*id, *hash) == (claim.id, claim.hash))
                {
                    self.store.events.push((claim.id, claim.hash, None));
                }
                return fate;
            }
            Some(_) | None => {}
        }
        let (cursor, stamp) = self.next(claim.stamp);
        self.store.events.push((claim.id, claim.hash, Some(cursor)));
        self.store.tasks.insert(
            claim.id,
            StoredTask {
                hash: claim.hash,
                cursor,
                stamp,
                size_bytes: 0,
            },
        );
        Fate::Stored(cursor)
    }

    fn link(&mut self, claim: &LinkClaim) -> Fate {
        let Some(message) = self.store.messages.get(&claim.message) else {
            return Fate::RetryLater;
        };
        if !self.store.tasks.contains_key(&claim.task) {
            return Fate::RetryLater;
        }
        let ends = (claim.task, message.id);
        match self.store.links.get(&ends) {
            Some(link) if link.sequence == claim.sequence => return Fate::Duplicate(link.cursor),
            Some(link) if late(claim.base, claim.stamp, link.stamp) => return Fate::Superseded(link.cursor),
            Some(_) | None => {}
        }
        let (cursor, stamp) = self.next(claim.stamp);
        self.store.links.insert(
            ends,
            StoredLink {
                sequence: claim.sequence,
                cursor,
                stamp,
            },
        );
        Fate::Stored(cursor)
    }

    fn next(&mut self, stamp: Option<Stamp>) -> (i64, Stamp) {
        self.store.head += 1;
        (
            self.store.head,
            stamp.unwrap_or(Stamp {
                epoch: EPOCH,
                cursor: self.store.head,
            }),
        )
    }
}

fn late(base: Option<Stamp>, stamp: Option<Stamp>, stored: Stamp) -> bool {
    stamp.is_some_and(|stamp| stamp <= stored) || stamp.is_none() && base.is_some_and(|base| base < stored)
}

fn key(claim: &MessageClaim, occurrence: u32) -> Key {
    Key {
        session_id: claim.origin.session_id.clone(),
        content_hash: claim.hash,
        occurrence,
    }
}

impl Store {
    fn keys(&self) -> impl Iterator<Item = (Key, Uuid)> {
        self.messages.iter().map(|(origin, row)| {
            let key = Key {
                session_id: origin.session_id.clone(),
                content_hash: row.hash,
                occurrence: row.occurrence,
            };
            (key, row.id)
        })
    }

    /// What `load` would read for the batch: no more.
    fn known(&self, batch: &Batch) -> Known {
        let mut known = Known {
            epoch: EPOCH,
            head: self.head,
            ..Known::default()
        };
        let origins = batch.messages.iter().map(|claim| &claim.origin);
        for origin in origins.chain(batch.links.iter().map(|claim| &claim.message)) {
            if let Some(row) = self.messages.get(origin) {
                known.messages.insert(origin.clone(), row.clone());
            }
        }
        let stored: HashSet<Key> = self.keys().map(|(key, _)| key).collect();
        for claim in &batch.messages {
            let wanted = key(claim, claim.occurrence);
            if stored.contains(&wanted) {
                known.keys.insert(wanted);
            }
        }
        let edits = batch
            .messages
            .iter()
            .filter(|claim| claim.edit || claim.stamp.is_some());
        let texts = edits
            .map(|claim| (claim.origin.session_id.clone(), claim.hash))
            .collect();
        self.add_occurrences(&mut known, texts);
        let tasks = batch
            .tasks
            .iter()
            .map(|claim| claim.id)
            .chain(batch.links.iter().map(|claim| claim.task));
        known.tasks = tasks.filter_map(|id| Some((id, *self.tasks.get(&id)?))).collect();
        for claim in &batch.links {
            if let Some(row) = self.messages.get(&claim.message)
                && let Some(link) = self.links.get(&(claim.task, row.id))
            {
                known.links.insert((claim.task, row.id), *link);
            }
        }
        known
    }

    fn add_occurrences(&self, known: &mut Known, texts: Vec<(String, ContentHash)>) {
        for text in texts {
            let same = |key: &Key| (&key.session_id, &key.content_hash) == (&text.0, &text.1);
            let keys = self
                .keys()
                .map(|(key, _)| key)
                .chain(self.messages.keys().cloned());
            let taken = keys.filter(same).map(|key| key.occurrence).collect();
            known.occurrences.insert(text, taken);
        }
    }

    /// What `write` does with the plan.
    fn apply(&mut self, batch: &Batch, plan: &Plan) {
        let before: Vec<(Key, Uuid)> = self.keys().collect();
        for write in &plan.messages {
            let claim = &batch.messages[write.claim];
            let new = key(claim, write.occurrence);
            for (taken, id) in &before {
                assert!(
                    *taken != new || *id == write.id,
                    "{new:?} was another row's when the batch began"
                );
            }
            let origin = batch.messages[write.first_claim].origin.clone();
            let row = StoredMessage {
                id: write.id,
                hash: claim.hash,
                occurrence: write.occurrence,
                version: claim.version,
                cursor: write.cursor,
                stamp: write.stamp,
                size_bytes: 0,
            };
            let old = self.messages.insert(origin, row);
            assert_eq!(old.is_some(), write.replaces.is_some(), "an insert is no update");
            self.history
                .extend(old.map(|old| (old.id, old.version, Some(old.cursor))));
        }
        for filed in &plan.filed_messages {
            let version = batch.messages[filed.claim].version;
            let there = self
                .history
                .iter()
                .any(|(id, other, _)| (*id, *other) == (filed.message, version));
            if filed.cursor.is_some() || !there {
                self.history.push((filed.message, version, filed.cursor));
            }
        }
        for write in &plan.tasks {
            let claim = &batch.tasks[write.claim];
            let task = StoredTask {
                hash: claim.hash,
                cursor: write.cursor,
                stamp: write.stamp,
                size_bytes: 0,
            };
            let old = self.tasks.insert(claim.id, task);
            assert_eq!(old.is_some(), write.replaces.is_some());
        }
        let events_before = self.events.clone();
        for event in &plan.task_events {
            let claim = &batch.tasks[event.claim];
            let there = events_before
                .iter()
                .any(|(id, hash, _)| (*id, *hash) == (claim.id, claim.hash));
            if event.cursor.is_some() || !there {
                self.events.push((claim.id, claim.hash, event.cursor));
            }
        }
        for write in &plan.links {
            let claim = &batch.links[write.claim];
            let link = StoredLink {
                sequence: claim.sequence,
                cursor: write.cursor,
                stamp: write.stamp,
            };
            let old = self.links.insert((claim.task, write.message), link);
            assert_eq!(old.is_some(), write.replaces);
        }
        self.head = plan.head;
    }

    fn sorted(mut self) -> Store {
        self.history.sort_unstable();
        self.events.sort_unstable();
        self
    }
}

fn text(n: u8) -> ContentHash {
    sha256(&[n])
}

fn a_stamp() -> impl Strategy<Value = Option<Stamp>> {
    let some = (1..=EPOCH, 0..12i64).prop_map(|(epoch, cursor)| Some(Stamp { epoch, cursor }));
    prop_oneof![4 => Just(None), 1 => some]
}

fn an_origin() -> impl Strategy<Value = Origin> {
    (prop_oneof!["s", "t"], 0..3u8, 0..3u32).prop_map(|(session_id, n, occurrence)| Origin {
        session_id,
        content_hash: text(n),
        occurrence,
    })
}

fn a_message() -> impl Strategy<Value = MessageClaim> {
    (
        an_origin(),
        0..3u8,
        0..3u32,
        0..2i64,
        0..5u8,
        a_stamp(),
        a_stamp(),
        any::<u128>(),
    )
        .prop_map(|(origin, n, occurrence, variant, kind, base, stamp, id)| {
            // Mostly plain inserts and edits; also what only a strange client sends.
            let plain = kind < 2;
            let (hash, occurrence) = if plain {
                (origin.content_hash, origin.occurrence)
            } else {
                (text(n), occurrence)
            };
            MessageClaim {
                hash,
                occurrence,
                version: i64::from(hash.as_bytes()[0]) * 10 + variant,
                edit: !plain && kind < 4,
                base,
                stamp: stamp.filter(|_| kind == 4),
                new_id: Uuid::from_u128(id),
                origin,
            }
        })
}

fn a_task() -> impl Strategy<Value = TaskClaim> {
    (0..3u128, 0..3u8, a_stamp(), a_stamp()).prop_map(|(id, n, base, stamp)| TaskClaim {
        id: Uuid::from_u128(id),
        hash: text(n),
        base,
        stamp,
    })
}

fn a_link() -> impl Strategy<Value = LinkClaim> {
    (
        0..3u128,
        an_origin(),
        proptest::option::of(0..2i64),
        a_stamp(),
        a_stamp(),
    )
        .prop_map(|(task, message, sequence, base, stamp)| LinkClaim {
            task: Uuid::from_u128(task),
            message,
            sequence,
            base,
            stamp,
        })
}

fn a_batch() -> impl Strategy<Value = Batch> {
    (vec(a_message(), 0..8), vec(a_task(), 0..4), vec(a_link(), 0..4)).prop_map(|(messages, tasks, links)| {
        Batch {
            messages,
            tasks,
            links,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_planned_batch_leaves_what_its_records_leave_one_by_one(
        batches in vec(a_batch(), 1..6)
    ) {
        let mut store = Store::default();
        for batch in &batches {
            let held = store.keys().map(|(key, _)| key).collect();
            let mut model = Model { store: store.clone(), held };
            let messages: Vec<Fate> = batch.messages.iter().map(|claim| model.message(claim)).collect();
            let tasks: Vec<Fate> = batch.tasks.iter().map(|claim| model.task(claim)).collect();
            let links: Vec<Fate> = batch.links.iter().map(|claim| model.link(claim)).collect();

            let mut known = store.known(batch);
            let missing = missing_occurrences(batch, &known);
            store.add_occurrences(&mut known, missing);
            let plan = plan(batch, known);
            prop_assert_eq!(&plan.message_fates, &messages);
            prop_assert_eq!(&plan.task_fates, &tasks);
            prop_assert_eq!(&plan.link_fates, &links);
            store.apply(batch, &plan);
            store = store.sorted();
            prop_assert_eq!(&store, &model.store.sorted());
            let keys: HashSet<Key> = store.keys().map(|(key, _)| key).collect();
            prop_assert_eq!(keys.len(), store.messages.len(), "no two rows share a key");
        }
    }
}
