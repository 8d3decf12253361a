//! The core and its files against a cloud that keeps the rules of pushing, killed at random between any two steps.

use std::collections::BTreeMap;

use coditect_shared::hash::message_hash;
use coditect_shared::wire::{PushRequest, Stub};
use coditect_shared::{ContentHash, Origin};
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::sync::{Core, Hint, Next, Step};

const TENANT: TenantId = TenantId(Uuid::from_u128(0x7e57));

struct Desk {
    folder: TempDir,
    owner: Connection,
    files: Files,
    policy: Arc<Policy>,
    core: Core,
    now: u64,
    cloud: Cloud,
    answer: Option<(Batch, PushAnswer)>,
    page: Option<PullPage>,
}

/// The rows that one device pushed, and its last push.
#[derive(Default)]
struct Cloud {
    rows: BTreeMap<Origin, (ContentHash, i64)>,
    head: i64,
    last: Option<(i64, ContentHash, PushAnswer)>,
}

enum Pushed {
    Answer(PushAnswer),
    Conflict(PushConflict),
}

impl Cloud {
    fn push(&mut self, batch: &Batch) -> Pushed {
        let (last_seq, last_digest) = self
            .last
            .as_ref()
            .map_or((0, None), |(seq, digest, _)| (*seq, Some(*digest)));
        let request: PushRequest = serde_json::from_slice(&batch.body).unwrap();
        assert_eq!(request.push_seq, batch.push_seq);
        if let Some((seq, _, answer)) = &self.last
            && *seq == request.push_seq
        {
            return if last_digest == Some(batch.digest) {
                Pushed::Answer(answer.clone())
            } else {
                Pushed::Conflict(PushConflict {
                    digest: last_digest.unwrap(),
                    answer: answer.clone(),
                })
            };
        }
        assert_eq!(request.push_seq, last_seq + 1, "neither stale nor with a gap");
        for message in &request.messages {
            self.head += 1;
            let hash = message_hash(TENANT, &message.session_id, &message.content);
            self.rows.insert(message.origin_with(hash), (hash, self.head));
        }
        let answer = PushAnswer {
            synced: request.messages.len(),
            skipped: 0,
            rejected: Vec::new(),
            verdicts: Vec::new(),
            cursor: self.head,
            mark: Some(format!("m{}", self.head)),
            epoch: 1,
            timestamp: String::new(),
        };
        self.last = Some((request.push_seq, batch.digest, answer.clone()));
        Pushed::Answer(answer)
    }

    fn pull(&self, cursor: i64) -> PullPage {
        let own = self.rows.iter().filter(|(_, (_, at))| *at > cursor);
        PullPage {
            own: own
                .map(|(origin, (hash, at))| Stub::Message {
                    origin: origin.clone(),
                    content_hash: *hash,
                    sync_cursor: *at,
                })
                .collect(),
            cursor: self.head,
            head: self.head,
            mark: Some(format!("m{}", self.head)),
            device_push_seq: self.last.as_ref().map_or(0, |(seq, ..)| *seq),
            epoch: 1,
            ..PullPage::default()
        }
    }
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.db");
        let mut store = Store::open(&path).unwrap();
        store
            .bind(Uuid::from_u128(1), TENANT, &"u".parse().unwrap())
            .unwrap();
        drop(store);
        let files = Files::open(&path, &folder.path().join("state.db"), Arc::default()).unwrap();
        let owner = Connection::open(&path).unwrap();
        owner.busy_timeout(Duration::from_secs(10)).unwrap();
        owner.pragma_update(None, "synchronous", "OFF").unwrap();
        Desk {
            owner,
            files,
            policy: Arc::default(),
            folder,
            core: Core::new(1, true, false),
            now: 0,
            cloud: Cloud::default(),
            answer: None,
            page: None,
        }
    }

    /// The process dies and comes back.
    fn kill(&mut self) {
        let folder = self.folder.path();
        self.files = Files::open(
            &folder.join("context.db"),
            &folder.join("state.db"),
            self.policy.clone(),
        )
        .unwrap();
        self.core = Core::new(self.now, true, false);
        (self.answer, self.page) = (None, None);
        self.hurry();
    }

    /// A process that dies loses nothing that it wrote; only a machine would.
    fn hurry(&self) {
        self.files
            .store
            .conn()
            .pragma_update(None, "synchronous", "OFF")
            .unwrap();
    }

    fn perform(&mut self, step: &Step, answer_is_lost: bool) -> Outcome {
        let unreachable = || Outcome::Failed {
            trouble: Trouble::Unreachable,
            code: "unreachable".into(),
            message: String::new(),
        };
        let result = match step {
            Step::Look => self.files.look(),
            Step::Backfill => self.files.backfill(),
            Step::Identify => self.files.identify(),
            Step::Build { rows } => self.files.build(BatchLimits {
                rows: *rows.min(&3),
                bytes: 1 << 20,
            }),
            Step::Push => {
                let Some(ready) = self.files.ready().unwrap() else {
                    return self.files.look().unwrap();
                };
                self.assert_consent(&ready.batch);
                let pushed = self.cloud.push(&ready.batch);
                if answer_is_lost {
                    return unreachable();
                }
                self.answer = Some(match pushed {
                    Pushed::Answer(answer) => (ready.batch, answer),
                    Pushed::Conflict(conflict) => {
                        let sent = self.files.resolve(&conflict).unwrap();
                        (sent.expect("this file sent it"), conflict.answer)
                    }
                });
                return Outcome::Answered;
            }
            Step::Settle => {
                let (batch, answer) = self.answer.take().expect("an answer came");
                self.files.settle(&batch, &answer).map(|(outcome, _)| outcome)
            }
            Step::Pull { .. } => {
                if answer_is_lost {
                    return unreachable();
                }
                let query = self.files.pull_query(500, self.core.head()).unwrap();
                let page = self.cloud.pull(query.cursor);
                let news = self.files.is_news(&page).unwrap();
                let head = page.head;
                self.page = news.then_some(page);
                return Outcome::Pulled {
                    head,
                    has_more: false,
                    news,
                };
            }
            Step::Apply => {
                let page = self.page.take().expect("a page came");
                let applied = self.files.apply(&page, true);
                applied.map(|(outcome, _)| outcome)
            }
            Step::Halve => self.files.halve(),
            Step::Defer => self.files.defer(),
            Step::GiveUp { .. } | Step::TakeNewDeviceId { .. } => panic!("nothing is ill here: {step:?}"),
        };
        result.unwrap_or_else(|error| panic!("{step:?}: {error:#}"))
    }

    /// Other settings hold from here on.
    fn exclude(&mut self, exclude: &[&str]) {
        let mut config = crate::config::Config::default();
        config.projects.exclude = exclude.iter().map(|text| (*text).to_owned()).collect();
        self.policy = Arc::new(Policy::new(&config).unwrap());
        self.files.set_policy(self.policy.clone()).unwrap();
        self.core.hint(self.now, Hint::File);
    }

    /// Nothing leaves of a project that is excluded at that moment. Sessions are called by their projects here.
    fn assert_consent(&self, batch: &Batch) {
        let request: PushRequest = serde_json::from_slice(&batch.body).unwrap();
        for message in &request.messages {
            assert!(self.is_included(&message.session_id), "it left: {message:?}");
        }
    }

    fn is_included(&self, project: &str) -> bool {
        let place = projects::Place {
            project: Some(project.to_owned()),
            ..projects::Place::default()
        };
        !self.policy.projects.excludes(&place)
    }

    /// Takes one step, or waits for the next; dies in the middle of what has two transactions if it is to.
    fn turn(&mut self, dies_inside: bool, answer_is_lost: bool) {
        match self.core.next(self.now) {
            Next::WaitUntil(until) => self.now = until,
            Next::Do(step) if dies_inside && self.die_inside(&step) => self.kill(),
            Next::Do(step) => {
                let outcome = self.perform(&step, answer_is_lost);
                self.core.done(self.now, &step, outcome);
            }
        }
    }

    /// Does the first half of a step that writes to both files.
    fn die_inside(&mut self, step: &Step) -> bool {
        let context = self.files.context_of_binding().unwrap();
        match step {
            Step::Build { .. } => {
                let limits = BatchLimits {
                    rows: 3,
                    bytes: 1 << 20,
                };
                let build = self
                    .files
                    .store
                    .write(|tx, owner| outbox::build(tx, owner, &context, limits));
                drop(build.unwrap());
                true
            }
            Step::Settle => {
                let (batch, answer) = self.answer.take().expect("an answer came");
                let settle = self
                    .files
                    .store
                    .write(|tx, owner| outbox::settle(tx, owner, &context, &batch, &answer));
                settle.unwrap();
                true
            }
            Step::Defer => {
                let batch = self.files.state.batch().unwrap().unwrap();
                self.files.store.write(|tx, _| outbox::defer(tx, &batch)).unwrap();
                true
            }
            Step::Look
            | Step::Backfill
            | Step::Identify
            | Step::Push
            | Step::Halve
            | Step::GiveUp { .. }
            | Step::Pull { .. }
            | Step::Apply
            | Step::TakeNewDeviceId { .. } => false,
        }
    }

    fn settle_all(&mut self) {
        self.core.hint(self.now, Hint::SyncRequested { waiter: None });
        for _ in 0..2_000 {
            self.turn(false, false);
            // With nothing left to do, also not to ask what became of a batch that is not sent any more.
            if self.core.state() == crate::status::State::InSync
                && matches!(self.core.next(self.now), Next::WaitUntil(_))
            {
                return;
            }
        }
        panic!("never in sync: {:?}", self.core);
    }

    fn count(&self, from: &str) -> i64 {
        self.owner
            .query_row(&format!("SELECT count(*) FROM {from}"), [], |row| row.get(0))
            .unwrap()
    }
}

#[derive(Clone, Debug)]
enum Event {
    Say(u8),
    Edit(u8, u8),
    Turns(u8),
    LoseAnAnswer,
    Kill,
    DieInside,
    /// The batch in flight is divided, or steps behind, as if the server did not take it.
    Divide,
    /// The user excludes these of the two projects.
    Exclude(u8),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4_u8).prop_map(Event::Say),
        2 => (0..9_u8, 0..4_u8).prop_map(|(row, text)| Event::Edit(row, text)),
        6 => (1..6_u8).prop_map(Event::Turns),
        2 => Just(Event::LoseAnAnswer),
        2 => Just(Event::Kill),
        2 => Just(Event::DieInside),
        1 => Just(Event::Divide),
        2 => (0..3_u8).prop_map(Event::Exclude),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn p1_p2_p14_a_kill_between_any_two_steps_loses_doubles_and_parts_nothing(
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut desk = Desk::new();
        let device = desk.files.device_id().unwrap();
        let projects = ["open", "secret"];
        for event in &events {
            match event {
                Event::Say(text) => {
                    desk.owner.execute(
                        r#"INSERT INTO messages (session_id, role, content, hash, agent_context)
                           VALUES (?2, 'user', ?1, hex(randomblob(9)), '{"project":"' || ?2 || '"}')"#,
                        [format!("text {text}"), projects[usize::from(text % 2)].to_owned()],
                    ).unwrap();
                    desk.core.hint(desk.now, Hint::File);
                }
                Event::Edit(row, text) => {
                    desk.owner.execute(
                        "UPDATE messages SET content = ?2 WHERE id = 1 + ?1 % (SELECT max(id) FROM messages)",
                        rusqlite::params![row, format!("text {text}")],
                    ).unwrap();
                }
                Event::Turns(turns) => (0..*turns).for_each(|_| desk.turn(false, false)),
                Event::LoseAnAnswer => desk.turn(false, true),
                Event::Kill => desk.kill(),
                Event::Exclude(which) => desk.exclude(match which {
                    0 => &[],
                    1 => &["secret"],
                    _ => &["open", "secret"],
                }),
                Event::DieInside => desk.turn(true, false),
                Event::Divide => {
                    if let Some(batch) = desk.files.state.batch().unwrap() {
                        let context = desk.files.context_of_binding().unwrap();
                        if batch.push_seq == 1 + store::value::<i64>(desk.files.store.conn(), "push_seq").unwrap().unwrap_or(0)
                            && desk.answer.is_none()
                            && context.device == batch.device
                        {
                            drop(if batch.records.len() > 1 { desk.files.halve() } else { desk.files.defer() }.unwrap());
                            desk.kill();
                        }
                    }
                }
            }
        }
        desk.settle_all();
        prop_assert_eq!(desk.files.device_id().unwrap(), device, "nothing parted");
        prop_assert_eq!(desk.count("sync_queue"), 0);
        prop_assert_eq!(desk.count("sync_quarantine"), 0);
        let excluded = desk.files.facts().unwrap().excluded;
        if projects.iter().all(|project| desk.is_included(project)) {
            prop_assert_eq!(desk.count("messages"), i64::try_from(desk.cloud.rows.len()).unwrap());
            prop_assert_eq!(excluded, 0);
        }
        let mut kept_back = 0;
        let mut statement = desk.owner.prepare(
            "SELECT s.session_id, s.origin_hash, s.origin_occurrence, m.content FROM messages m JOIN sync_messages s ON s.row_id = m.id",
        ).unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let origin = Origin {
                session_id: row.get(0).unwrap(),
                content_hash: ContentHash::from_bytes(row.get(1).unwrap()),
                occurrence: row.get(2).unwrap(),
            };
            let here = message_hash(TENANT, &origin.session_id, &row.get::<_, String>(3).unwrap());
            let there = desk.cloud.rows.get(&origin).map(|(hash, _)| *hash);
            if desk.is_included(&origin.session_id) || there == Some(here) {
                prop_assert_eq!(there, Some(here));
            } else {
                kept_back += 1;
            }
        }
        prop_assert_eq!(excluded, kept_back, "what differs from the cloud is kept back, and nothing else");
    }
}

/// As the owner writes, and the daemon sends while answers come.
fn write_and_send(desk: &mut Desk, sql: &str) {
    desk.owner.execute_batch(sql).unwrap();
    desk.settle_all();
}

#[test]
fn p1_p12_a_change_taken_back_while_a_batch_that_steps_behind_arrives_late_is_sent() {
    let mut desk = Desk::new();
    write_and_send(
        &mut desk,
        "INSERT INTO messages (session_id, role, content, hash) VALUES ('s', 'user', 'first', 'h')",
    );
    desk.owner
        .execute_batch("UPDATE messages SET content = 'second'")
        .unwrap();
    let limits = BatchLimits {
        rows: 3,
        bytes: 1 << 20,
    };
    desk.files.build(limits).unwrap();
    let ready = desk.files.ready().unwrap().unwrap();
    desk.cloud.push(&ready.batch);
    desk.files.defer().unwrap();
    desk.kill();
    write_and_send(&mut desk, "UPDATE messages SET content = 'first'");
    let hashes: Vec<ContentHash> = desk.cloud.rows.values().map(|(hash, _)| *hash).collect();
    assert_eq!(hashes, [message_hash(TENANT, "s", "first")]);
}

#[test]
fn settings_that_change_to_and_fro_leave_no_batch_behind_that_must_stay() {
    let mut desk = Desk::new();
    desk.settle_all();
    desk.exclude(&["open"]);
    desk.settle_all();
    desk.exclude(&[]);
    desk.owner
        .execute_batch(
            r#"INSERT INTO messages (session_id, role, content, hash, agent_context)
               VALUES ('open', 'user', 'c', 'h', '{"project":"open"}')"#,
        )
        .unwrap();
    let limits = BatchLimits {
        rows: 3,
        bytes: 1 << 20,
    };
    desk.files.build(limits).unwrap();
    desk.exclude(&["open"]);
    desk.settle_all();
    assert!(desk.cloud.rows.is_empty());
}

/// What the cloud has got of the only row, sent once without an answer before `password` was redacted, and again after.
fn resent_under_stricter_rules(arrives_before: bool) -> Vec<ContentHash> {
    let mut desk = Desk::new();
    desk.settle_all();
    let lax = crate::config::Config {
        redaction: crate::config::Redaction {
            enabled: false,
            ..crate::config::Redaction::default()
        },
        ..crate::config::Config::default()
    };
    desk.policy = Arc::new(Policy::new(&lax).unwrap());
    desk.files.set_policy(desk.policy.clone()).unwrap();
    desk.owner
        .execute_batch(
            "INSERT INTO messages (session_id, role, content, hash) VALUES ('s', 'user', 'PASSWORD=hunter2!', 'h')",
        )
        .unwrap();
    let limits = BatchLimits {
        rows: 3,
        bytes: 1 << 20,
    };
    desk.files.build(limits).unwrap();
    let ready = desk.files.ready().unwrap().unwrap();
    if arrives_before {
        desk.cloud.push(&ready.batch);
    }
    // The daemon is stopped, and comes back with the rules that hold without any setting.
    desk.policy = Arc::default();
    desk.kill();
    desk.settle_all();
    assert_eq!(desk.count("sync_queue"), 0);
    desk.cloud.rows.values().map(|(hash, _)| *hash).collect()
}

#[test]
fn p1_a_batch_that_was_redacted_by_weaker_rules_does_not_leave() {
    let redacted = message_hash(TENANT, "s", "PASSWORD=[REDACTED:password]");
    assert_eq!(resent_under_stricter_rules(false), [redacted]);
}

#[test]
fn p1_a_batch_that_arrived_before_the_rules_became_stricter_is_settled_once() {
    let hashes = resent_under_stricter_rules(true);
    assert_eq!(hashes, [message_hash(TENANT, "s", "PASSWORD=hunter2!")]);
}

#[test]
fn p1_triggers_that_were_lost_before_the_start_are_made_again_and_all_rows_looked_at() {
    let mut desk = Desk::new();
    desk.settle_all();
    desk.owner
        .execute_batch(
            "DROP TRIGGER sync_messages_ins;
             INSERT INTO messages (session_id, role, content, hash) VALUES ('s', 'user', 'unseen', 'h');",
        )
        .unwrap();
    desk.kill();
    assert_ne!(desk.files.capture, CaptureHealth::Ok);
    desk.settle_all();
    assert_eq!(desk.files.capture, CaptureHealth::Ok);
    assert_eq!(desk.cloud.rows.len(), 1);
}

#[test]
fn p9_polling_and_looking_write_nothing_to_context_db() {
    let mut desk = Desk::new();
    desk.owner
        .execute(
            "INSERT INTO messages (role, content, hash) VALUES ('user', 'c', 'h')",
            [],
        )
        .unwrap();
    desk.settle_all();
    let version = |owner: &Connection| {
        owner
            .query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let before = version(&desk.owner);
    let end = desk.now + 200_000;
    let mut pulls = 0;
    while desk.now < end {
        pulls += i32::from(matches!(desk.core.next(desk.now), Next::Do(Step::Pull { .. })));
        desk.turn(false, false);
    }
    assert!(pulls >= 4, "it polled {pulls} times");
    assert_eq!(version(&desk.owner), before);
}

fn code_of_failure(error: anyhow::Error) -> (Trouble, String) {
    let outcome = failed(&error, Path::new("/h/context.db"));
    let Outcome::Failed { trouble, code, .. } = outcome else {
        panic!("{outcome:?}")
    };
    (trouble, code)
}

#[test]
fn what_is_wrong_with_a_file_is_told_apart() {
    let mut desk = Desk::new();
    desk.owner
        .execute(
            "INSERT INTO messages (role, content, hash) VALUES ('user', 'c', 'h')",
            [],
        )
        .unwrap();
    desk.files
        .store
        .conn()
        .busy_timeout(Duration::from_millis(1))
        .unwrap();
    let limits = BatchLimits {
        rows: 10,
        bytes: 1 << 20,
    };

    desk.owner.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = desk.files.build(limits).unwrap_err();
    assert_eq!(code_of_failure(error), (Trouble::File, "database_locked".into()));
    desk.owner.execute_batch("ROLLBACK").unwrap();

    let pages: i64 = desk
        .files
        .store
        .conn()
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    desk.files
        .store
        .conn()
        .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
        .unwrap();
    desk.owner
        .execute_batch("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO messages (role, content, hash) SELECT 'user', 'c' || i, i FROM n")
        .unwrap();
    let mut error = None;
    for _ in 0..20 {
        error = error.or(desk
            .files
            .build(BatchLimits {
                rows: 1_000,
                bytes: 1 << 20,
            })
            .err());
    }
    if let Some(error) = error {
        assert_eq!(code_of_failure(error), (Trouble::File, "disk_full".into()));
    }

    desk.files
        .store
        .conn()
        .pragma_update(None, "query_only", true)
        .unwrap();
    let error = desk.files.build(limits).unwrap_err();
    assert_eq!(code_of_failure(error), (Trouble::File, "read_only_file".into()));

    let garbled = anyhow::Error::new(ApplyError::Protocol("nonsense".into()));
    assert_eq!(code_of_failure(garbled), (Trouble::Server, "bad_answer".into()));
    let newer = StoreError::Newer {
        path: "p".into(),
        found: 9,
        known: 1,
    };
    assert_eq!(
        code_of_failure(newer.into()),
        (Trouble::File, "schema_newer".into())
    );
}

#[test]
fn p14_a_context_db_that_went_back_under_its_state_file_takes_up_a_new_device_id() {
    let mut desk = Desk::new();
    desk.settle_all();
    let path = desk.folder.path().join("context.db");
    let backup = desk.folder.path().join("backup.db");
    desk.owner
        .execute_batch(&format!("VACUUM INTO '{}'", backup.display()))
        .unwrap();
    desk.owner
        .execute(
            "INSERT INTO messages (role, content, hash) VALUES ('user', 'c', 'h')",
            [],
        )
        .unwrap();
    desk.files
        .build(BatchLimits {
            rows: 10,
            bytes: 1 << 20,
        })
        .unwrap();
    assert!(desk.files.state.batch().unwrap().is_some());
    std::fs::rename(&backup, &path).unwrap();
    for journal in ["context.db-wal", "context.db-shm"] {
        drop(std::fs::remove_file(desk.folder.path().join(journal)));
    }
    assert!(!desk.files.is_current());
    desk.kill();
    let Outcome::Parted { .. } = desk.files.look().unwrap() else {
        panic!("not noticed")
    };
}
