//! The core against a world of its own: a file, an outbox, a server, and faults of every kind, all seeded.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::status::State;

/// A row of the outbox: its number, and the record that it speaks of.
#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: i64,
    record: u64,
}

/// What is wrong with the world, until the time at which it ends.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    net: Millis,
    push: Millis,
    pull: Millis,
    file: Millis,
    /// The server asked for no request before this.
    closed: Millis,
}

struct World {
    rng: StdRng,
    now: Millis,
    faults: Faults,
    queue: VecDeque<Entry>,
    next_seq: i64,
    next_record: u64,
    /// Records that make the server fail as a whole.
    poison: BTreeSet<u64>,
    taken: BTreeSet<u64>,
    quarantined: BTreeSet<u64>,
    in_flight: Vec<Entry>,
    unbackfilled: Vec<u64>,
    answer: bool,
    page: Option<i64>,
    epoch: i64,
    cursor: i64,
    head: i64,
    core: Core,
    next_waiter: u64,
    waiting: Vec<(u64, BTreeSet<u64>, i64)>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            faults: Faults::default(),
            queue: VecDeque::new(),
            next_seq: 1,
            next_record: 1,
            poison: BTreeSet::new(),
            taken: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            in_flight: Vec::new(),
            unbackfilled: Vec::new(),
            answer: false,
            page: None,
            epoch: 0,
            cursor: 0,
            head: 0,
            core: Core::new(seed, true, false),
            next_waiter: 1,
            waiting: Vec::new(),
        }
    }

    fn commit(&mut self, poisonous: bool) -> u64 {
        let record = self.next_record;
        self.next_record += 1;
        if poisonous {
            self.poison.insert(record);
        }
        self.push_entry(record);
        record
    }

    fn push_entry(&mut self, record: u64) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.queue.push_back(Entry { seq, record });
    }

    fn view(&self) -> View {
        View {
            pending: self.queue.len() as u64,
            newest_seq: self.queue.back().map_or(0, |entry| entry.seq),
            oldest_seq: self.queue.front().map_or(0, |entry| entry.seq),
            held: 0,
            backfilling: !self.unbackfilled.is_empty(),
            capture_ok: true,
            recovering: false,
            epoch: self.epoch,
            cursor: self.cursor,
            in_flight: self.in_flight.len(),
        }
    }

    fn fail(trouble: Trouble) -> Outcome {
        Outcome::Failed {
            code: format!("{trouble:?}"),
            trouble,
            message: "a fault of the test".into(),
        }
    }

    fn leave(&mut self, gone: impl Fn(&Entry) -> bool) {
        self.queue.retain(|entry| !gone(entry));
    }

    fn perform(&mut self, step: &Step) -> Outcome {
        if self.now < self.faults.file {
            return Self::fail(Trouble::File);
        }
        match step {
            Step::Look | Step::Identify => Outcome::Looked(self.view()),
            Step::Backfill => {
                let part = self.unbackfilled.len().min(3);
                for record in self.unbackfilled.drain(..part).collect::<Vec<_>>() {
                    self.push_entry(record);
                }
                Outcome::Looked(self.view())
            }
            Step::Build { rows } => {
                self.in_flight = self.queue.iter().copied().take(*rows).collect();
                Outcome::Built(self.view())
            }
            Step::Push => self.push(),
            Step::Settle => {
                assert!(self.answer, "a batch is settled by an answer");
                self.answer = false;
                let batch = std::mem::take(&mut self.in_flight);
                self.taken.extend(batch.iter().map(|entry| entry.record));
                self.leave(|entry| batch.iter().any(|sent| sent.seq == entry.seq));
                Outcome::Settled {
                    view: self.view(),
                    ended: batch.len(),
                    deferred: 0,
                    head: self.head,
                }
            }
            Step::Halve => {
                assert!(self.in_flight.len() > 1, "only what has halves is halved");
                self.in_flight.truncate(self.in_flight.len() / 2);
                Outcome::Looked(self.view())
            }
            Step::Defer | Step::GiveUp { .. } => {
                let batch = std::mem::take(&mut self.in_flight);
                assert_eq!(batch.len(), 1, "only a record alone is told from the others");
                self.leave(|entry| entry.seq == batch[0].seq);
                if *step == Step::Defer {
                    self.push_entry(batch[0].record);
                } else {
                    self.quarantined.insert(batch[0].record);
                }
                Outcome::Looked(self.view())
            }
            Step::Pull { .. } => self.pull(),
            Step::Apply => {
                self.epoch = 1;
                self.cursor = self.page.take().expect("a page was pulled");
                Outcome::Applied {
                    view: self.view(),
                    took_ms: self.rng.random_range(0..60),
                }
            }
            Step::TakeNewDeviceId { .. } => Outcome::Looked(self.view()),
        }
    }

    fn network(&mut self) -> Option<Outcome> {
        assert!(
            self.now >= self.faults.closed,
            "the server asked to be left alone"
        );
        if self.now >= self.faults.net {
            return None;
        }
        Some(match self.rng.random_range(0..3) {
            0 => {
                let asked = self.rng.random_range(0..120_000);
                self.faults.closed = self.now + asked;
                Self::fail(Trouble::Busy {
                    retry_after_ms: Some(asked),
                })
            }
            _ => Self::fail(Trouble::Unreachable),
        })
    }

    fn push(&mut self) -> Outcome {
        if let Some(outcome) = self.network() {
            return outcome;
        }
        let is_poisoned = self
            .in_flight
            .iter()
            .any(|entry| self.poison.contains(&entry.record));
        if self.now < self.faults.push || is_poisoned {
            return Self::fail(if self.rng.random() {
                Trouble::Server
            } else {
                Trouble::Refused
            });
        }
        self.head += self.in_flight.len() as i64;
        self.answer = true;
        Outcome::Answered
    }

    fn pull(&mut self) -> Outcome {
        if let Some(outcome) = self.network() {
            return outcome;
        }
        if self.now < self.faults.pull {
            return Self::fail(Trouble::Server);
        }
        let has_more = self.head - self.cursor > 3;
        let to = if has_more { self.cursor + 3 } else { self.head };
        let news = self.epoch == 0 || to != self.cursor;
        self.page = news.then_some(to);
        Outcome::Pulled {
            head: self.head,
            has_more,
            news,
        }
    }

    fn hint(&mut self, hint: Hint) {
        self.core.hint(self.now, hint);
    }

    fn ask(&mut self) {
        let id = self.next_waiter;
        self.next_waiter += 1;
        let mut wanted: BTreeSet<u64> = self.queue.iter().map(|entry| entry.record).collect();
        wanted.extend(&self.unbackfilled);
        self.waiting.push((id, wanted, self.head));
        self.hint(Hint::SyncRequested { waiter: Some(id) });
    }

    /// One turn of the loop; whether a step failed.
    fn turn(&mut self) -> bool {
        for (id, done) in self.core.take_finished() {
            let at = self
                .waiting
                .iter()
                .position(|(waiter, ..)| *waiter == id)
                .expect("answered once");
            let (_, wanted, head) = self.waiting.swap_remove(at);
            if let SyncDone::Done { .. } = done {
                for record in wanted {
                    assert!(
                        self.taken.contains(&record) || self.quarantined.contains(&record),
                        "sync --wait was answered while {record} is not in the cloud"
                    );
                }
                assert!(self.cursor >= head, "sync --wait was answered below the head");
            }
        }
        if self.core.state() == State::InSync {
            // What was committed since the last look is not known yet; nothing else may be under way.
            assert!(self.core.view().pending == 0 && self.in_flight.is_empty());
            assert!(self.page.is_none() && !self.answer);
        }
        match self.core.next(self.now) {
            Next::Do(step) => {
                let outcome = self.perform(&step);
                let failed = matches!(outcome, Outcome::Failed { .. });
                self.core.done(self.now, &step, outcome);
                failed
            }
            Next::WaitUntil(until) => {
                assert!(until > self.now, "a wait that is over is no wait");
                assert!(
                    until <= self.now + LOOK_EVERY_MS,
                    "the poll of the file is always armed"
                );
                self.now = until;
                false
            }
        }
    }

    fn is_settled(&self) -> bool {
        let only_poison = |entry: &Entry| self.poison.contains(&entry.record);
        self.unbackfilled.is_empty()
            && self.queue.iter().all(only_poison)
            && self.cursor >= self.head
            && self.epoch > 0
    }

    /// Turns until nothing but what the server will never take is left, and nobody waits, at most for `limit_ms`.
    fn settle(&mut self, limit_ms: Millis) {
        self.settle_but(limit_ms, false);
    }

    /// A record that fails alone, with no other to tell it from an ill server, keeps those waiting who wait for it.
    fn settle_but(&mut self, limit_ms: Millis, waiters: bool) {
        let end = self.now + limit_ms;
        while !(self.is_settled() && (waiters || self.waiting.is_empty()) && self.core.finished.is_empty()) {
            self.turn();
            assert!(
                self.now < end,
                "it does not drain: {:?} {:?}",
                self.core,
                self.queue.iter().take(5).collect::<Vec<_>>()
            );
        }
    }
}

/// Faults, writes, hints and questions at random for some minutes; then all is well but for poison.
fn random_life(seed: u64, poisons: usize) -> World {
    let mut world = World::new(seed);
    let mut failed_in_second = (0, 0);
    for _ in 0..2_000 {
        let now = world.now;
        let until = now + world.rng.random_range(0..20_000);
        match world.rng.random_range(0..60) {
            0 => world.faults.net = until,
            // A server that is ill at every turn cannot be told from a row that is.
            1 if poisons == 0 => world.faults.push = until,
            2 => world.faults.pull = until,
            3 => world.faults.file = until,
            4..=9 => {
                let poisonous = world.poison.len() < poisons && world.rng.random_range(0..4) == 0;
                world.commit(poisonous);
                world.hint(Hint::File);
            }
            10 => {
                let rows = world.rng.random_range(1..30);
                for _ in 0..rows {
                    world.commit(false);
                }
            }
            11 => {
                world.head += 1;
                let head = world.head;
                world.hint(Hint::Head(head));
            }
            12 => world.head += 5,
            13 => world.ask(),
            14 => {
                world.hint(Hint::Pause);
                world.hint(Hint::Resume);
            }
            15 => {
                let rows: Vec<u64> = (0..7).map(|n| world.next_record + n).collect();
                world.next_record += 7;
                world.unbackfilled.extend(rows);
            }
            _ => {}
        }
        if world.turn() {
            let second = world.now / 1_000;
            let before = if failed_in_second.0 == second {
                failed_in_second.1
            } else {
                0
            };
            failed_in_second = (second, before + 1);
            assert!(before < 80, "{before} failures in one second are a busy loop");
        }
    }
    let now = world.now;
    world.faults = Faults {
        closed: world.faults.closed,
        ..Faults::default()
    };
    assert!(world.faults.closed <= now + 130_000);
    world
}

fn drained(world: &World) {
    for record in 1..world.next_record {
        let is_there = world.taken.contains(&record) || world.quarantined.contains(&record);
        assert!(
            is_there || world.poison.contains(&record),
            "{record} was not taken"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn p8_p11_whatever_failed_the_outbox_drains_once_all_is_well(seed in any::<u64>()) {
        let mut world = random_life(seed, 0);
        world.settle(30 * 60_000);
        drained(&world);
        world.hint(Hint::File);
        for _ in 0..20 {
            world.turn();
        }
        prop_assert_eq!(world.core.state(), State::InSync);
    }

    #[test]
    fn p10_poisonous_records_stall_no_other_and_take_none_with_them(seed in any::<u64>()) {
        let mut world = random_life(seed, 2);
        world.settle_but(60 * 60_000, true);
        // What comes later shows that the server is well, so that poison is told from an ill server.
        for _ in 0..40 {
            world.commit(false);
            world.hint(Hint::File);
            world.settle_but(60 * 60_000, true);
        }
        world.settle(60 * 60_000);
        drained(&world);
        prop_assert!(world.quarantined.is_subset(&world.poison));
        prop_assert_eq!(&world.quarantined, &world.poison);
    }
}

#[test]
fn p10_one_poisonous_record_among_a_thousand_is_found_within_a_minute() {
    let mut world = World::new(7);
    for n in 0..1_000 {
        world.commit(n == 617);
    }
    while world.quarantined.is_empty() {
        world.turn();
        assert!(world.now < 60_000, "{} left after a minute", world.queue.len());
    }
    world.settle(60_000);
    drained(&world);
}

#[test]
fn a_server_that_takes_no_push_at_all_costs_no_row_its_place() {
    let mut world = World::new(3);
    for _ in 0..5 {
        world.commit(false);
    }
    world.faults.push = 24 * 60 * 60_000;
    let end = world.faults.push;
    while world.now < end {
        world.turn();
    }
    assert!(world.quarantined.is_empty());
    world.settle(10 * 60_000);
    drained(&world);
}

#[test]
fn p11_a_poll_that_finds_nothing_is_no_news() {
    let mut world = World::new(1);
    world.settle(60_000);
    let mut polls = 0;
    while polls < 5 {
        if matches!(world.core.next(world.now), Next::Do(Step::Pull { .. })) {
            polls += 1;
        }
        world.turn();
        assert_eq!(world.core.state(), State::InSync);
    }
}

#[test]
fn p8_no_trouble_with_a_step_makes_a_busy_loop() {
    let troubles = [
        Trouble::Unreachable,
        Trouble::Busy { retry_after_ms: None },
        Trouble::Server,
        Trouble::Refused,
        Trouble::Forbidden,
        Trouble::Diverged,
        Trouble::EpochMismatch,
        Trouble::File,
    ];
    for ill in [
        "Look", "Build", "Push", "Settle", "Pull", "Apply", "Halve", "Defer", "GiveUp", "Backfill",
    ] {
        for trouble in &troubles {
            let mut world = World::new(11);
            for n in 0..4 {
                world.commit(n == 2);
            }
            world.unbackfilled = vec![100];
            let mut failures = 0;
            while world.now < 600_000 {
                match world.core.next(world.now) {
                    Next::Do(step) if format!("{step:?}").starts_with(ill) => {
                        failures += 1;
                        world.core.done(world.now, &step, World::fail(trouble.clone()));
                    }
                    Next::Do(_) | Next::WaitUntil(_) => {
                        if world.now % 7_000 < 1_000 {
                            world.head += 1;
                            let head = world.head;
                            world.hint(Hint::Head(head));
                        }
                        world.turn();
                    }
                }
                assert!(
                    failures < 1_500,
                    "{ill} fails with {trouble:?} again and again at {}",
                    world.now
                );
            }
        }
    }
}

#[test]
fn p8_a_file_that_went_back_is_noticed_at_the_first_look_and_dealt_with() {
    let mut core = Core::new(1, true, false);
    assert_eq!(core.next(0), Next::Do(Step::Look));
    let reason = String::from("a batch was prepared in another life of this file");
    core.done(
        0,
        &Step::Look,
        Outcome::Parted {
            reason: reason.clone(),
        },
    );
    assert_eq!(core.next(0), Next::Do(Step::TakeNewDeviceId { reason }));
}

#[test]
fn p8_somebody_who_may_only_read_tries_to_push_again_after_a_while() {
    let mut world = World::new(5);
    world.commit(false);
    while world.core.next(world.now) != Next::Do(Step::Push) {
        world.turn();
    }
    world
        .core
        .done(world.now, &Step::Push, World::fail(Trouble::Forbidden));
    world.settle(FORBIDDEN_RETRY_MS + 60_000);
    drained(&world);
}

#[test]
fn retry_after_outlasts_a_sync_that_somebody_asks_for() {
    let mut world = World::new(2);
    world.settle(60_000);
    world.commit(false);
    world.hint(Hint::File);
    while world.core.next(world.now) != Next::Do(Step::Push) {
        world.turn();
    }
    let asked = 60_000;
    let busy = World::fail(Trouble::Busy {
        retry_after_ms: Some(asked),
    });
    world.core.done(world.now, &Step::Push, busy);
    world.faults.closed = world.now + asked;
    world.ask();
    world.settle(3 * 60_000);
}

#[test]
fn sync_wait_is_not_answered_by_a_pull_that_began_before_the_request() {
    let mut world = World::new(4);
    world.settle(60_000);
    world.hint(Hint::SyncRequested { waiter: None });
    while !matches!(world.core.next(world.now), Next::Do(Step::Pull { .. })) {
        world.turn();
    }
    let step = Step::Pull { limit: PAGE_ROWS };
    // The answer is on its way when somebody else's row comes and a user asks.
    let outcome = world.perform(&step);
    world.core.done(world.now, &step, outcome);
    world.head += 1;
    world.ask();
    world.settle(60_000);
}

#[test]
fn an_announced_head_that_no_pull_reaches_is_not_asked_for_in_a_loop() {
    let mut world = World::new(6);
    world.settle(60_000);
    let (begun, mut pulls) = (world.now, 0);
    world.hint(Hint::Head(1_000));
    while world.now < begun + 60_000 {
        if matches!(world.core.next(world.now), Next::Do(Step::Pull { .. })) {
            pulls += 1;
        }
        world.turn();
        assert_ne!(world.core.state(), State::InSync, "P11: the head was announced");
    }
    assert!(pulls < 50, "{pulls} pulls in a minute");
}

/// Looks until `until` and finds the file unchanged each time.
fn looks(core: &mut Core, from: Millis, until: Millis) -> Vec<Millis> {
    let mut at = Vec::new();
    let mut now = from;
    while now < until {
        match core.next(now) {
            Next::Do(step) => {
                assert_eq!(step, Step::Look);
                at.push(now - from);
                core.done(now, &step, Outcome::Looked(View::default()));
            }
            Next::WaitUntil(time) => now = time,
        }
    }
    at
}

#[test]
fn p1_a_commit_that_shows_a_moment_after_its_hint_is_not_left_to_the_poll() {
    let mut core = Core::new(1, false, false);
    assert_eq!(looks(&mut core, 0, 2_500), [0, 1_000, 2_000]);
    core.hint(2_500, Hint::File);
    assert_eq!(looks(&mut core, 2_500, 4_000), [2, 10, 40, 160, 1_160]);
}

#[test]
fn p1_hints_without_pause_do_not_put_the_look_off() {
    let mut core = Core::new(1, false, false);
    looks(&mut core, 0, 100);
    for now in 100..=102 {
        core.hint(now, Hint::File);
    }
    assert_eq!(core.next(102), Next::Do(Step::Look));
}

#[test]
fn p8_hints_do_not_make_a_busy_loop_of_a_file_that_cannot_be_opened() {
    let mut core = Core::new(1, true, false);
    let (mut now, mut looks) = (0, 0);
    while now < 10_000 {
        match core.next(now) {
            Next::Do(step) => {
                looks += 1;
                let outcome = Outcome::Failed {
                    trouble: Trouble::File,
                    code: "database_unusable".into(),
                    message: "made for a test".into(),
                };
                core.done(now, &step, outcome);
                // What the failed try itself did in the folder.
                core.hint(now, Hint::File);
            }
            Next::WaitUntil(until) => now = until.max(now + 1),
        }
    }
    assert!(looks <= 30, "{looks} looks in ten seconds");
}
