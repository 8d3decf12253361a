//! A workstation whose daemon does one step at a time, so that a test can put other events between any two of them.
//!
//! Everything is real but the loop: context.db, its foreign writer, the state file, the server. The steps are those of
//! `coditect_sync::run`, called by the test instead.

use std::sync::Arc;

use coditect_server::auth::Caller;
use coditect_shared::DeviceId;
use coditect_shared::wire::{PullPage, PullQuery, PushAnswer, PushConflict};
use coditect_sync::apply::{self, Applied};
use coditect_sync::outbox::{self, Batch, BatchLimits, Context};
use coditect_sync::state::State;
use coditect_sync::store::{self, Store};
use coditect_sync::{capture, identity};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::api::Api;
use crate::contents::Contents;
use crate::server::TestServer;

/// Steps after which a device must have nothing left to do.
const ROUNDS_MAX: usize = 50;

pub struct Stepped {
    /// The program that owns the file: an ordinary writer with a connection of its own.
    pub owner: Connection,
    pub state: State,
    store: Store,
    api: Api,
    context: Context,
    pub limits: BatchLimits,
    pub page_rows: u32,
    folder: TempDir,
}

/// What a push came to, where it was no plain answer.
#[derive(Debug)]
pub enum Sent {
    Answer(PushAnswer),
    Conflict(PushConflict),
}

impl Stepped {
    /// A new file, bound to the caller.
    pub fn new(server: &TestServer, caller: &Caller) -> Stepped {
        let folder = tempfile::tempdir().expect("making a folder");
        let path = folder.path().join("context.db");
        let mut store = Store::open(&path).expect("opening context.db");
        store
            .bind(server.state.instance_id, caller.tenant, &caller.user)
            .expect("binding the file");
        while !store
            .write(|tx, owner| capture::backfill_step(tx, owner))
            .expect("backfilling")
        {}
        let device = store.device_id().expect("reading the device id");
        Stepped {
            owner: crate::daemon::open(&path),
            state: State::open(&folder.path().join("state.db")).expect("opening the state file"),
            api: server.api(caller).as_device(device),
            context: Context {
                tenant: caller.tenant,
                device,
                hardware_id: None,
                now: "2026-01-01T00:00:00Z".into(),
                policy: Arc::default(),
            },
            limits: BatchLimits {
                rows: 1_000,
                bytes: 1 << 20,
            },
            page_rows: 1_000,
            store,
            folder,
        }
    }

    /// A copy of both files under the same device id, as a backup or a cloned disk makes it.
    pub fn copied(&self) -> Stepped {
        let folder = tempfile::tempdir().expect("making a folder");
        for name in ["context.db", "state.db"] {
            let from = Connection::open(self.folder.path().join(name)).expect("opening the file to copy");
            let to = folder.path().join(name);
            from.execute("VACUUM INTO ?1", [to.to_str().expect("a path of ASCII")])
                .expect("copying the file");
        }
        let path = folder.path().join("context.db");
        Stepped {
            owner: crate::daemon::open(&path),
            state: State::open(&folder.path().join("state.db")).expect("opening the state file"),
            store: Store::open(&path).expect("opening context.db"),
            api: self.api.clone(),
            context: self.context.clone(),
            folder,
            ..*self
        }
    }

    /// What the daemon does once it has noticed that its history has parted.
    pub fn take_new_device_id(&mut self) {
        let new = crate::api::new_device();
        self.store
            .write(|tx, _| apply::take_new_device_id(tx, new))
            .expect("taking up a new device id");
        self.state.clear_batch().expect("clearing the batch");
        self.context.device = new;
        self.api = self.api.as_device(new);
    }

    pub fn device(&self) -> DeviceId {
        self.context.device
    }

    /// A message by the file's owner; `writer_hash` is what the owner recognises it by. Gives its local id.
    pub fn say(&self, session: &str, content: &str, writer_hash: &str) -> i64 {
        self.owner
            .execute(
                "INSERT INTO messages (session_id, role, content, hash) VALUES (?1, 'user', ?2, ?3)",
                [session, content, writer_hash],
            )
            .expect("the owner's insert");
        self.owner.last_insert_rowid()
    }

    pub fn edit(&self, id: i64, content: &str) {
        self.owner
            .execute(
                "UPDATE messages SET content = ?2 WHERE id = ?1",
                rusqlite::params![id, content],
            )
            .expect("the owner's update");
    }

    /// Writes the task, new or not, with this status.
    pub fn task(&self, id: &str, status: &str) {
        let updated = self
            .owner
            .execute("UPDATE task_tracking SET status = ?2 WHERE id = ?1", [id, status])
            .expect("the owner's update");
        if updated == 0 {
            self.owner
                .execute(
                    "INSERT INTO task_tracking (id, task_id, description, status) VALUES (?1, '1', 'a task', ?2)",
                    [id, status],
                )
                .expect("the owner's insert");
        }
    }

    pub fn link(&self, task: &str, message: i64, sequence: i64) {
        self.owner
            .execute(
                "INSERT INTO task_messages VALUES (?1, ?2, ?3)",
                rusqlite::params![task, message, sequence],
            )
            .expect("the owner's insert");
    }

    pub fn exec(&self, sql: &str) {
        self.owner.execute_batch(sql).expect("the owner's statement");
    }

    pub fn count(&self, from: &str) -> i64 {
        self.owner
            .query_row(&format!("SELECT count(*) FROM {from}"), [], |row| row.get(0))
            .expect("counting")
    }

    pub fn contents(&self) -> Contents {
        Contents::read(&self.owner)
    }

    /// Builds a batch and persists it, unless nothing needs to be sent.
    pub fn build(&mut self) -> Option<Batch> {
        self.store.refresh_owner().expect("reading the schema");
        let (context, limits) = (&self.context, self.limits);
        let built = self
            .store
            .write(|tx, owner| outbox::build(tx, owner, context, limits))
            .expect("building a batch");
        if let Some(batch) = &built.batch {
            self.state.put_batch(batch).expect("persisting the batch");
        }
        built.batch
    }

    /// Sends a batch; the server commits it, whether or not the test lets the answer through.
    pub async fn send(&self, batch: &Batch) -> Sent {
        let reply = self
            .api
            .push_text(std::str::from_utf8(&batch.body).expect("JSON"))
            .await;
        if reply.status == 409 {
            let error = reply.error(409);
            assert_eq!(error.error.code, "push_seq_conflict", "{error:?}");
            return Sent::Conflict(
                serde_json::from_value(error.error.details).expect("the conflict's details"),
            );
        }
        Sent::Answer(reply.ok())
    }

    pub fn settle(&mut self, batch: &Batch, answer: &PushAnswer) {
        let context = &self.context;
        self.store
            .write(|tx, owner| outbox::settle(tx, owner, context, batch, answer))
            .expect("settling a batch");
        self.state.clear_batch().expect("clearing the batch");
    }

    /// The next page from where the file stands.
    pub async fn page(&self) -> PullPage {
        let conn = self.store.conn();
        let query = PullQuery {
            cursor: store::value(conn, "cursor")
                .expect("reading the cursor")
                .unwrap_or(0),
            limit: Some(self.page_rows),
            mark: store::value(conn, "mark").expect("reading the mark"),
            ..PullQuery::default()
        };
        self.api.try_pull(&query).await.ok()
    }

    pub fn apply(&mut self, page: &PullPage) -> Applied {
        let in_flight = self.state.batch().expect("reading the state file");
        let context = &self.context;
        self.store
            .write(|tx, owner| apply::apply_page(tx, owner, context, page, in_flight.as_slice(), usize::MAX))
            .expect("applying a page")
    }

    /// Gives identities to all that is queued, as a build does, without sending anything.
    pub fn identify(&mut self) {
        let context = &self.context;
        self.store
            .write(|tx, owner| identity::identify_queued(tx, owner, context, usize::MAX))
            .expect("giving identities");
    }

    /// Sends and settles until the outbox is empty.
    pub async fn push_all(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let batch = match self.state.batch().expect("reading the state file") {
                Some(batch) => batch,
                None => match self.build() {
                    Some(batch) => batch,
                    None if self.count("sync_queue") == 0 => return Ok(()),
                    None => continue,
                },
            };
            match self.send(&batch).await {
                Sent::Answer(answer) => self.settle(&batch, &answer),
                Sent::Conflict(conflict) => {
                    let digest = conflict.digest.to_string();
                    match self.state.variant(&digest).expect("reading the state file") {
                        Some(variant) => self.settle(&variant, &conflict.answer),
                        None => {
                            return Err(format!(
                                "the server knows a push {digest} that this file never sent"
                            ));
                        }
                    }
                }
            }
        }
        Err(format!("{} outbox rows never leave", self.count("sync_queue")))
    }

    /// Pulls until the head is reached. Err: the file is taken for a copy.
    pub async fn pull_all(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let page = self.page().await;
            match self.apply(&page) {
                Applied::Page { .. } if !page.has_more => return Ok(()),
                Applied::Page { .. } => {}
                Applied::IdentitiesFirst => self.identify(),
                Applied::Parted(reason) => return Err(reason),
            }
        }
        Err("the head is never reached".into())
    }

    pub async fn sync(&mut self) -> Result<(), String> {
        self.pull_all().await?;
        self.push_all().await?;
        self.pull_all().await
    }
}
