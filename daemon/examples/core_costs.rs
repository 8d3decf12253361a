//! What the core's steps cost on a large file: prints how long each transaction holds the write lock.
//!
//! `cargo run --release --example core_costs -- [MESSAGES] [OUTBOX_ROWS]`, by default 200000 and 1000000.

#![expect(clippy::print_stdout, reason = "a measurement prints what it measured")]

use std::time::{Duration, Instant};

use coditect_shared::limits::{BATCH_BYTES, BATCH_ROWS};
use coditect_shared::wire::{PullPage, PushAnswer};
use coditect_shared::{MessageRecord, TenantId};
use coditect_sync::outbox::{self, BatchLimits, Context};
use coditect_sync::store::Store;
use coditect_sync::{apply, capture};
use uuid::Uuid;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let messages = numbers.next().transpose()?.unwrap_or(200_000);
    let outbox_rows = numbers.next().transpose()?.unwrap_or(1_000_000);

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("context.db");
    let owner = rusqlite::Connection::open(&path)?;
    owner.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE messages (id INTEGER PRIMARY KEY, hash TEXT UNIQUE NOT NULL, session_id TEXT, role TEXT NOT NULL,
           content TEXT NOT NULL, source_type TEXT);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {messages})
         INSERT INTO messages SELECT i, i, 'session ' || (i / 200), 'user', hex(randomblob(500)), 'user' FROM n;"
    ))?;
    let opened = Instant::now();
    let mut store = Store::open(&path)?;
    store.bind(Uuid::from_u128(1), TenantId(Uuid::from_u128(2)), &"u".parse()?)?;
    println!(
        "opening, with triggers on {messages} messages: {:?}",
        opened.elapsed()
    );

    let mut backfill = Times::default();
    while !backfill.of(|| store.write(|tx, owner| capture::backfill_step(tx, owner)))? {}
    backfill.print("backfill, a step");

    let context = Context {
        tenant: TenantId(Uuid::from_u128(2)),
        device: store.device_id()?,
        hardware_id: None,
        now: "2026-01-01T00:00:00Z".into(),
        policy: std::sync::Arc::default(),
    };
    let limits = BatchLimits {
        rows: BATCH_ROWS,
        bytes: BATCH_BYTES,
    };
    let (mut build, mut settle) = (Times::default(), Times::default());
    for _ in 0..10 {
        let built = build.of(|| store.write(|tx, owner| outbox::build(tx, owner, &context, limits)))?;
        let Some(batch) = built.batch else { break };
        let answer = PushAnswer {
            synced: batch.records.len(),
            skipped: 0,
            rejected: Vec::new(),
            verdicts: Vec::new(),
            cursor: batch.push_seq,
            mark: Some("m".into()),
            epoch: 1,
            timestamp: String::new(),
        };
        settle.of(|| store.write(|tx, owner| outbox::settle(tx, owner, &context, &batch, &answer)))?;
    }
    build.print(&format!("building a batch of {BATCH_ROWS}"));
    settle.print(&format!("settling a batch of {BATCH_ROWS}"));

    owner.execute_batch(&format!(
        "DELETE FROM sync_queue;
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {outbox_rows})
         INSERT INTO sync_queue (table_name, row_id, op) SELECT 'messages', 1 + i % {messages}, 'upd' FROM n;"
    ))?;
    let mut look = Times::default();
    for _ in 0..100 {
        look.of(|| outbox::size(store.conn()))?;
    }
    look.print(&format!("the size of an outbox of {outbox_rows}"));
    let reopened = Instant::now();
    drop(Store::open(&path)?);
    println!("opening again: {:?}", reopened.elapsed());

    owner.execute_batch("DELETE FROM sync_queue")?;
    let mut pull = Times::default();
    for page in 0..10_i64 {
        let cursor = 1_000_000 + page * 500;
        let page = PullPage {
            messages: (0..500)
                .map(|n| MessageRecord {
                    session_id: "elsewhere".into(),
                    role: "user".into(),
                    content: format!("{cursor} {n} {}", "x".repeat(1_000)),
                    sync_cursor: Some(cursor),
                    ..MessageRecord::default()
                })
                .collect(),
            cursor,
            head: cursor,
            epoch: 1,
            device_push_seq: 0,
            ..PullPage::default()
        };
        pull.of(|| store.write(|tx, owner| apply::apply_page(tx, owner, &context, &page, &[], 500)))?;
    }
    pull.print("applying a page of 500");
    Ok(())
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn of<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let value = act();
        self.0.push(begun.elapsed());
        value
    }

    fn print(mut self, what: &str) {
        self.0.sort();
        let (Some(longest), median) = (self.0.last(), self.0.get(self.0.len() / 2)) else {
            return;
        };
        println!(
            "{what}: median {:?}, longest {longest:?}, of {}",
            median.unwrap_or(longest),
            self.0.len()
        );
    }
}
