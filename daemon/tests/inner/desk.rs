//! A context.db with its owner, the daemon's steps on it, and a cloud that takes whatever it is sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coditect_shared::hash::message_hash;
use coditect_shared::wire::{PullPage, PushAnswer, PushRequest, RecordVerdict, Verdict};
use coditect_shared::{DeviceId, MessageRecord, Origin, TenantId, UserId};
use coditect_sync::apply::{self, Applied};
use coditect_sync::outbox::{self, Batch, BatchLimits, Context};
use coditect_sync::store::{self, Store};
use coditect_sync::{capture, quarantine};
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const TENANT: TenantId = TenantId(Uuid::from_u128(0x7e57));

pub(crate) struct Desk {
    pub(crate) store: Store,
    pub(crate) owner: Connection,
    pub(crate) context: Context,
    pub(crate) cloud: Cloud,
    pub(crate) limits: BatchLimits,
    path: PathBuf,
    _folder: TempDir,
}

/// What the cloud holds: the present version of each row.
#[derive(Default)]
pub(crate) struct Cloud {
    pub(crate) messages: BTreeMap<Origin, MessageRecord>,
    pub(crate) tasks: BTreeMap<String, String>,
    pub(crate) links: BTreeMap<(String, Origin), Option<i64>>,
    pub(crate) head: i64,
    /// Records that changed nothing: they should not have been sent.
    pub(crate) idle: Vec<String>,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk::adopting("")
    }

    /// On a file that its owner made with this SQL; with none, on a new one.
    pub(crate) fn adopting(sql: &str) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.db");
        if !sql.is_empty() {
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        }
        let mut store = Store::open(&path).unwrap();
        let user: UserId = "u".parse().unwrap();
        store.bind(Uuid::from_u128(1), TENANT, &user).unwrap();
        let device = store.device_id().unwrap();
        let mut desk = Desk {
            owner: open(&path),
            store,
            context: Context {
                tenant: TENANT,
                device,
                hardware_id: None,
                now: "2026-01-01T00:00:00Z".into(),
                policy: Arc::default(),
            },
            cloud: Cloud::default(),
            limits: BatchLimits {
                rows: 100,
                bytes: 1 << 20,
            },
            path,
            _folder: folder,
        };
        desk.backfill();
        desk
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn exec(&self, sql: &str) {
        self.owner
            .execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) fn count(&self, from: &str) -> i64 {
        self.owner
            .query_row(&format!("SELECT count(*) FROM {from}"), [], |row| row.get(0))
            .unwrap()
    }

    pub(crate) fn text(&self, sql: &str) -> String {
        self.owner.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub(crate) fn say(&self, session: &str, content: &str) -> i64 {
        let hash = Uuid::new_v4().to_string();
        self.owner
            .execute(
                "INSERT INTO messages (session_id, role, content, hash) VALUES (?1, 'user', ?2, ?3)",
                [session, content, hash.as_str()],
            )
            .unwrap();
        self.owner.last_insert_rowid()
    }

    pub(crate) fn task(&self, id: &str) {
        self.owner
            .execute(
                "INSERT INTO task_tracking (id, task_id, description, status) VALUES (?1, '1', 'a task', 'pending')",
                [id],
            )
            .unwrap();
    }

    pub(crate) fn backfill(&mut self) {
        while !self
            .store
            .write(|tx, owner| capture::backfill_step(tx, owner))
            .unwrap()
        {}
    }

    pub(crate) fn build(&mut self) -> Option<Batch> {
        self.store.refresh_owner().unwrap();
        let (context, limits) = (&self.context, self.limits);
        self.store
            .write(|tx, owner| outbox::build(tx, owner, context, limits))
            .unwrap()
            .batch
    }

    pub(crate) fn settle(&mut self, batch: &Batch, answer: &PushAnswer) {
        let context = &self.context;
        self.store
            .write(|tx, owner| outbox::settle(tx, owner, context, batch, answer))
            .unwrap();
    }

    /// Pushes until the outbox is empty; gives the number of records that were sent.
    pub(crate) fn push_all(&mut self) -> usize {
        let mut sent = 0;
        for _ in 0..1_000 {
            match self.build() {
                Some(batch) => {
                    sent += batch.records.len();
                    let answer = self.cloud.take(&batch);
                    self.settle(&batch, &answer);
                }
                None if self.count("sync_queue") == 0 => return sent,
                None => {}
            }
        }
        panic!("{} outbox rows never leave", self.count("sync_queue"));
    }

    pub(crate) fn apply(&mut self, page: &PullPage) -> Applied {
        let context = &self.context;
        self.store
            .write(|tx, owner| apply::apply_page(tx, owner, context, page, &[], usize::MAX))
            .unwrap()
    }

    /// A page of one message that another device wrote.
    pub(crate) fn page_of(&mut self, message: MessageRecord) -> PullPage {
        self.cloud.head += 1;
        PullPage {
            messages: vec![MessageRecord {
                sync_cursor: Some(self.cloud.head),
                device_id: Some(DeviceId(Uuid::from_u128(99))),
                ..message
            }],
            ..self.page()
        }
    }

    /// A page without rows that ends at the head.
    pub(crate) fn page(&self) -> PullPage {
        let push_seq: i64 = store::value(self.store.conn(), "push_seq").unwrap().unwrap_or(0);
        PullPage {
            cursor: self.cloud.head,
            head: self.cloud.head,
            epoch: 1,
            mark: Some(format!("m{}", self.cloud.head)),
            device_push_seq: push_seq,
            ..PullPage::default()
        }
    }

    pub(crate) fn quarantine(&self) -> Vec<quarantine::Entry> {
        quarantine::list(self.store.conn()).unwrap()
    }
}

impl Cloud {
    /// Takes a batch, and notes what changed nothing.
    pub(crate) fn take(&mut self, batch: &Batch) -> PushAnswer {
        let request: PushRequest = serde_json::from_slice(&batch.body).unwrap();
        let count = request.messages.len() + request.tasks.len() + request.task_messages.len();
        let mut verdicts = Vec::new();
        for message in request.messages {
            let hash = message_hash(TENANT, &message.session_id, &message.content);
            let origin = message.origin_with(hash);
            let said = |record: &MessageRecord| {
                (
                    record.content.clone(),
                    record.role.clone(),
                    record.metadata.clone(),
                )
            };
            if let Some(before) = self.messages.get(&origin) {
                if said(before) == said(&message) {
                    self.idle.push(format!("message {origin:?}"));
                }
                assert!(
                    message.is_edit(),
                    "a row that is known is sent as an edit: {message:?}"
                );
            }
            self.messages.insert(origin, message);
        }
        for task in request.tasks {
            let hash = task.content_hash.clone().unwrap();
            if self.tasks.insert(task.id.clone(), hash.clone()) == Some(hash) {
                self.idle.push(format!("task {}", task.id));
            }
        }
        for link in request.task_messages {
            if !(self.messages.contains_key(&link.message) && self.tasks.contains_key(&link.task_id)) {
                verdicts.push(RecordVerdict {
                    reference: link.reference.unwrap(),
                    verdict: Verdict::RetryLater,
                    cursor: None,
                });
                continue;
            }
            let key = (link.task_id.clone(), link.message.clone());
            if self.links.insert(key, link.sequence) == Some(link.sequence) {
                self.idle.push(format!("link {link:?}"));
            }
        }
        self.head += i64::try_from(count).unwrap();
        PushAnswer {
            synced: count,
            skipped: 0,
            rejected: Vec::new(),
            verdicts,
            cursor: self.head,
            mark: Some(format!("m{}", self.head)),
            epoch: 1,
            timestamp: "2026-01-01T00:00:00.000000Z".into(),
        }
    }
}

pub(crate) fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    conn
}

pub(crate) fn message(session: &str, content: &str) -> MessageRecord {
    MessageRecord {
        session_id: session.into(),
        role: "user".into(),
        content: content.into(),
        ..MessageRecord::default()
    }
}
