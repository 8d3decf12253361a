//! Random batches through the whole server, against a model of a few lines. What the plan decides is proved in the
//! server's own tests; this is about what is read before it and written after it.

use std::collections::BTreeMap;

use coditect_shared::digest::TableDigest;
use coditect_shared::hash::{message_hash, task_hash};
use coditect_shared::wire::{PushRequest, Verdict};
use coditect_shared::{LinkRecord, MessageRecord, Origin, TaskRecord};
use coditect_tests::api::{Pusher, link, message, task, verdict};
use coditect_tests::server::TestServer;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom as _, IndexedRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

const BATCHES: usize = 60;

/// What must be current: content and role by origin, description by task, sequence by link.
#[derive(Default)]
struct Model {
    messages: BTreeMap<Origin, (String, String)>,
    tasks: BTreeMap<String, String>,
    links: BTreeMap<(String, Origin), Option<i64>>,
}

impl Model {
    fn message(&mut self, record: &MessageRecord, origin: Origin) -> Verdict {
        let new = (record.content.clone(), record.role.clone());
        match self.messages.get(&origin) {
            Some(old) if *old == new || !record.is_edit() && old.0 == new.0 => return Verdict::Duplicate,
            Some(_) if !record.is_edit() => return Verdict::Superseded,
            Some(_) | None => {}
        }
        self.messages.insert(origin, new);
        Verdict::Stored
    }

    fn task(&mut self, record: &TaskRecord) -> Verdict {
        let old = self.tasks.insert(record.id.clone(), record.description.clone());
        if old.as_ref() == Some(&record.description) {
            Verdict::Duplicate
        } else {
            Verdict::Stored
        }
    }

    fn link(&mut self, record: &LinkRecord) -> Verdict {
        if !self.tasks.contains_key(&record.task_id) || !self.messages.contains_key(&record.message) {
            return Verdict::RetryLater;
        }
        let old = self
            .links
            .insert((record.task_id.clone(), record.message.clone()), record.sequence);
        if old == Some(record.sequence) {
            Verdict::Duplicate
        } else {
            Verdict::Stored
        }
    }
}

#[tokio::test]
async fn random_batches_of_three_devices_leave_what_a_model_says() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = TestServer::start().await;
    let (caller, api) = server.acme().await;
    let tenant = caller.tenant;
    let mut devices: Vec<Pusher> = (0..3).map(|_| Pusher::new(api.another_device())).collect();
    let (sessions, texts, roles) = (
        ["", "s", "a:b"],
        ["yes", "no", "é:1", "v1"],
        ["user", "assistant"],
    );
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
    let mut model = Model::default();
    let mut stored = 0;
    for _ in 0..BATCHES {
        let origin = |random: &mut StdRng| Origin {
            session_id: sessions.choose(random).unwrap().to_string(),
            content_hash: message_hash(tenant, sessions[0], ""),
            occurrence: random.random_range(0..3),
        };
        let mut batch = PushRequest::default();
        for _ in 0..random.random_range(0..12) {
            let mut identity = origin(&mut random);
            let first = texts.choose(&mut random).unwrap();
            identity.content_hash = message_hash(tenant, &identity.session_id, first);
            let mut record = message(&identity.session_id, first);
            record.role = roles.choose(&mut random).unwrap().to_string();
            record.occurrence = identity.occurrence;
            if random.random_bool(0.5) {
                record.content = texts.choose(&mut random).unwrap().to_string();
                record.occurrence = random.random_range(0..3);
                record.origin = Some(identity);
            }
            batch.messages.push(record);
        }
        for _ in 0..random.random_range(0..4) {
            batch.tasks.push(task(
                *ids.choose(&mut random).unwrap(),
                texts.choose(&mut random).unwrap(),
            ));
        }
        for _ in 0..random.random_range(0..5) {
            let mut end = origin(&mut random);
            end.content_hash = message_hash(tenant, &end.session_id, texts.choose(&mut random).unwrap());
            let mut record = link(*ids.choose(&mut random).unwrap(), end);
            record.sequence = [None, Some(1), Some(2)][random.random_range(0..3)];
            batch.task_messages.push(record);
        }
        let answer = devices.choose_mut(&mut random).unwrap().push(batch.clone()).await;
        assert!(answer.rejected.is_empty(), "{answer:#?}");
        let mut check = |place: String, expected: Verdict| {
            assert_eq!(verdict(&answer, &place), expected, "{place} of {batch:#?}");
            stored += i64::from(expected == Verdict::Stored);
        };
        for (n, record) in batch.messages.iter().enumerate() {
            let hash = message_hash(tenant, &record.session_id, &record.content);
            check(
                format!("messages[{n}]"),
                model.message(record, record.origin_with(hash)),
            );
        }
        for (n, record) in batch.tasks.iter().enumerate() {
            check(format!("tasks[{n}]"), model.task(record));
        }
        for (n, record) in batch.task_messages.iter().enumerate() {
            check(format!("task_messages[{n}]"), model.link(record));
        }
    }

    let page = api.another_device().pull_to_head(0).await;
    assert_eq!(page.head, stored, "one cursor for each version stored");
    let hash = |record: &MessageRecord| message_hash(tenant, &record.session_id, &record.content);
    let messages = page.messages.iter().map(|record| {
        (
            record.origin_with(hash(record)),
            (record.content.clone(), record.role.clone()),
        )
    });
    assert_eq!(messages.collect::<BTreeMap<_, _>>(), model.messages);
    let tasks = page
        .tasks
        .iter()
        .map(|record| (record.id.clone(), record.description.clone()));
    assert_eq!(tasks.collect::<BTreeMap<_, _>>(), model.tasks);
    let links = page
        .task_messages
        .iter()
        .map(|record| ((record.task_id.clone(), record.message.clone()), record.sequence));
    assert_eq!(links.collect::<BTreeMap<_, _>>(), model.links);

    let mut digests = [
        TableDigest::default(),
        TableDigest::default(),
        TableDigest::default(),
    ];
    for record in &page.messages {
        digests[0].add_message(&record.origin_with(hash(record)), hash(record));
    }
    for record in &page.tasks {
        digests[1].add_task(record.id.parse().unwrap(), task_hash(tenant, record));
    }
    for record in &page.task_messages {
        digests[2].add_link(record.task_id.parse().unwrap(), &record.message, record.sequence);
    }
    let digest = api.digest().await;
    assert_eq!([digest.messages, digest.tasks, digest.task_messages], digests);
    let replaced = server
        .database
        .count("context_message_versions WHERE kind = 'replaced'")
        .await;
    let events = server.database.count("task_events WHERE kind = 'stored'").await;
    let of_links = stored - replaced - events - model.messages.len() as i64;
    assert!(
        of_links >= model.links.len() as i64,
        "no version of a message or task is filed twice"
    );
    let stats: serde_json::Value = api.get("/api/v1/context/stats").await.ok();
    assert_eq!(stats["messages"], model.messages.len());
    assert_eq!(
        (&stats["tasks"], &stats["task_messages"]),
        (&model.tasks.len().into(), &model.links.len().into())
    );
    let sizes = server.database.look().await
        .query_one("SELECT (SELECT sum(size_bytes) FROM context_messages) + (SELECT sum(size_bytes) FROM context_task_tracking)", &[])
        .await
        .unwrap();
    assert_eq!(stats["bytes"], sizes.get::<_, i64>(0));
}
