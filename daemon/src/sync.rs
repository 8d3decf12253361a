//! The core of the loop: what to do next, decided without async, without I/O and without a clock of its own.
//!
//! The loop asks `next`, does that one step, tells its outcome to `done`, and passes on hints as they come. Times
//! are milliseconds of a monotonic clock. Whatever fails, `next` never waits without a time at which it ends (P8):
//! the poll of the file and of the server is always armed, and a failure only moves the next try.

use std::collections::BTreeMap;

use coditect_shared::limits::BATCH_ROWS;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::socket::SyncDone;
use crate::status::State;

/// Milliseconds of a monotonic clock.
pub type Millis = u64;

/// How often the file is looked at where no hint comes: `data_version` costs about 4 µs.
pub const LOOK_EVERY_MS: Millis = 1_000;

/// When the file is looked at after a hint, each from the look before. The hint comes with the write to the -wal, but a
/// commit shows only after that, where the owner syncs to the disk some tens of milliseconds after.
const LOOKS_AFTER_HINT_MS: [Millis; 4] = [2, 8, 30, 120];

/// How often the server is asked where no event comes.
pub const PULL_EVERY_MS: Millis = 30_000;

/// Full-jitter backoff: uniform between nothing and a bound that doubles from the base to the cap.
pub const BACKOFF_BASE_MS: Millis = 500;
pub const BACKOFF_CAP_MS: Millis = 60_000;

/// A draw of the jitter below this is raised to it: what failed at once would fail at once again.
pub const BACKOFF_FLOOR_MS: Millis = 50;

/// The longest `Retry-After` that is believed: a proxy that says a year must not stop the sync for one.
pub const RETRY_AFTER_CAP_MS: Millis = 15 * 60_000;

/// How often somebody who may only read tries to push all the same: roles change on the server.
pub const FORBIDDEN_RETRY_MS: Millis = 5 * 60_000;

/// Rows asked for in a page at first, and the range in which their number follows the time that applying takes.
const PAGE_ROWS: u32 = 500;
const PAGE_ROWS_MIN: u32 = 50;
const PAGE_ROWS_MAX: u32 = 2_000;

/// How long a transaction on context.db may take before pages get smaller.
const APPLY_MS_MAX: Millis = 20;

/// Failed tries of the same batch after which it is halved, and after which a single record has to wait behind the
/// others. Once a batch has been divided, a part of it gets one try: dividing loses nothing.
const TRIES_BEFORE_DIVIDING: u32 = 3;

const LOGIN_FAILED: &str = "login_unusable";

/// One step for the loop to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look at the file: did others commit, do the triggers stand, what is pending?
    Look,
    /// Queue the next part of the rows that were there before us, or give queued rows their identities.
    Backfill,
    Identify,
    /// Build a batch of at most this many records from the outbox and persist it.
    Build {
        rows: usize,
    },
    /// Send the batch in flight.
    Push,
    /// Take the verdicts into the file.
    Settle,
    /// Send only half of the batch in flight.
    Halve,
    /// Let the one record of the batch in flight wait behind the others: the server may be ill, not the record.
    Defer,
    /// Quarantine the one record of the batch in flight.
    GiveUp {
        code: String,
        message: String,
    },
    Pull {
        limit: u32,
    },
    /// Apply the page that was pulled.
    Apply,
    /// This file's history has parted from what the server knows of its device id.
    TakeNewDeviceId {
        reason: String,
    },
}

/// What the loop is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    WaitUntil(Millis),
}

/// What the file looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Outbox entries.
    pub pending: u64,
    /// The newest of them, 0 if there is none; and the oldest.
    pub newest_seq: i64,
    pub oldest_seq: i64,
    pub held: u64,
    pub backfilling: bool,
    pub capture_ok: bool,
    pub recovering: bool,
    /// 0 until the first page has come.
    pub epoch: i64,
    pub cursor: i64,
    /// Records of the batch in flight; 0 for none.
    pub in_flight: usize,
}

/// Why a step did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No answer that counts: the network, a captive portal, an outage.
    Unreachable,
    /// The server asks to be left alone for a while.
    Busy {
        retry_after_ms: Option<u64>,
    },
    /// A fault of the server: the whole, or one of our rows.
    Server,
    /// The request as a whole will never be taken.
    Refused,
    TooLarge,
    Unauthorized,
    Forbidden,
    /// The server does not know the history that this file has seen.
    Diverged,
    /// The batch was made for another epoch.
    EpochMismatch,
    /// context.db or our state file cannot be read or written.
    File,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of any step on the file: how it looks now.
    Looked(View),
    /// Of a build: nothing needed to be sent, or a batch is in flight; either way the view says so.
    Built(View),
    /// The server has given its verdicts, which are not in the file yet.
    Answered,
    Settled {
        view: View,
        /// Records that are dealt with, and links that step behind the others since an end of theirs is not there.
        ended: usize,
        deferred: usize,
        head: i64,
    },
    Pulled {
        head: i64,
        has_more: bool,
        /// Whether the page has to be applied: an empty one that ends where the file stands says nothing new.
        news: bool,
    },
    Applied {
        view: View,
        took_ms: Millis,
    },
    /// Applying has to wait until queued rows have identities.
    IdentitiesFirst,
    /// What was in flight or pulled is of no use any more.
    Parted {
        reason: String,
    },
    Failed {
        trouble: Trouble,
        code: String,
        message: String,
    },
}

/// What comes from outside, at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Something happened in the folder of context.db.
    File,
    /// The server says that the user's head is at least here. It also proves that the server can be reached.
    Head(i64),
    Pause,
    Resume,
    /// There is a token now, or there is none.
    Credential(bool),
    /// Somebody waits until all that is committed by now is in the cloud, and all of the cloud is here.
    SyncRequested {
        waiter: Option<u64>,
    },
}

/// The last thing that went wrong, until something succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub trouble: Trouble,
    pub code: String,
    pub message: String,
    pub count: u64,
    pub retry_at: Option<Millis>,
    /// It came from reading the file; else a write that succeeds ends it.
    on_look: bool,
    /// It came from a push: a pull that succeeds does not end it.
    on_push: bool,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    /// Everything up to here must have left the outbox. None: the file has not been looked at since the request, or
    /// rows that stand in it are still being queued.
    target_seq: Option<i64>,
    /// A pull that began after the request has brought the head, and then: its page is in the file.
    page_came: bool,
    pulled: bool,
}

/// The state of the loop.
#[derive(Debug)]
pub struct Core {
    rng: StdRng,
    view: View,
    looked: bool,
    look_at: Millis,
    /// Looks of `LOOKS_AFTER_HINT_MS` that are done or arranged.
    looks_after_hint: usize,
    pull_at: Millis,
    head: i64,
    answered: bool,
    page: Option<PageState>,
    identities_first: bool,
    parted: Option<String>,
    paused: bool,
    credential: bool,
    read_only: bool,
    /// Nothing goes over the network before; the second of these is the server's own wish, which nobody's hurry ends.
    backoff_until: Millis,
    asked_to_wait_until: Millis,
    failures: u32,
    /// No step but a look before this, no push, no pull for a head that was announced: each has its own trouble, that
    /// of one must not hold up the other.
    file_not_before: Millis,
    push_not_before: Millis,
    pull_not_before: Millis,
    file_failures: u32,
    /// Complete pages in a row that did not reach the head that was announced.
    short_pages: u32,
    /// Times in a row that the server called the batch's epoch wrong.
    epoch_misses: u32,
    /// Failed tries of the batch in flight that were not the network's fault.
    tries: u32,
    halve: bool,
    defer: bool,
    give_up: Option<(String, String)>,
    /// Among this many records at the head of the outbox is one that the server does not take; 0: none is looked for.
    span: usize,
    /// Records that wait behind the others, since the server did not take them: their place in the outbox, and how many
    /// batches had been taken by then. If more have been when one fails again, it is the record that is ill.
    suspects: BTreeMap<i64, u64>,
    taken: u64,
    /// A pull has succeeded since the batch last failed: the server as such is well. Where that failed too, the batch
    /// is tried again all the same: it may be the pull alone that is ill by now.
    server_is_well: bool,
    pull_failed_too: bool,
    page_rows: u32,
    complaint: Option<Complaint>,
    waiters: Vec<Waiter>,
    finished: Vec<(u64, SyncDone)>,
}

#[derive(Clone, Copy, Debug)]
struct PageState {
    has_more: bool,
}

impl Core {
    pub fn new(seed: u64, credential: bool, paused: bool) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            view: View::default(),
            looked: false,
            look_at: 0,
            looks_after_hint: LOOKS_AFTER_HINT_MS.len(),
            pull_at: 0,
            head: 0,
            answered: false,
            page: None,
            identities_first: false,
            parted: None,
            paused,
            credential,
            read_only: false,
            backoff_until: 0,
            asked_to_wait_until: 0,
            failures: 0,
            file_not_before: 0,
            push_not_before: 0,
            pull_not_before: 0,
            file_failures: 0,
            short_pages: 0,
            epoch_misses: 0,
            tries: 0,
            halve: false,
            defer: false,
            give_up: None,
            span: 0,
            suspects: BTreeMap::new(),
            taken: 0,
            server_is_well: true,
            pull_failed_too: false,
            page_rows: PAGE_ROWS,
            complaint: None,
            waiters: Vec::new(),
            finished: Vec::new(),
        }
    }

    pub fn next(&self, now: Millis) -> Next {
        if now >= self.look_at {
            return Next::Do(Step::Look);
        }
        if !self.looked {
            // The file cannot be used; nothing else makes sense before it can.
            return Next::WaitUntil(self.look_at);
        }
        if now < self.file_not_before {
            // Every step reads or writes a file.
            return Next::WaitUntil(self.look_at.min(self.file_not_before));
        }
        if let Some(step) = self.step_on_file() {
            return Next::Do(step);
        }
        if !self.may_use_network() {
            return Next::WaitUntil(self.look_at);
        }
        let closed_until = self.backoff_until.max(self.asked_to_wait_until);
        if now < closed_until {
            return Next::WaitUntil(self.look_at.min(closed_until));
        }
        match self.step_over_network(now) {
            Some(step) => Next::Do(step),
            None => {
                let tries = [self.push_not_before, self.pull_not_before];
                let armed = [self.look_at, self.pull_at];
                let next = tries.into_iter().filter(|at| *at > now).chain(armed).min();
                Next::WaitUntil(next.unwrap_or(self.look_at))
            }
        }
    }

    /// What is ready to be done here, whatever the network does.
    fn step_on_file(&self) -> Option<Step> {
        if let Some(reason) = &self.parted {
            return Some(Step::TakeNewDeviceId {
                reason: reason.clone(),
            });
        }
        if self.answered {
            return Some(Step::Settle);
        }
        if self.identities_first {
            return Some(Step::Identify);
        }
        if self.page.is_some() {
            return Some(Step::Apply);
        }
        if self.halve {
            return Some(Step::Halve);
        }
        if self.defer {
            return Some(Step::Defer);
        }
        if let Some((code, message)) = &self.give_up {
            return Some(Step::GiveUp {
                code: code.clone(),
                message: message.clone(),
            });
        }
        // Before anything is pulled: a pulled row must meet the local one that it equals.
        self.view.backfilling.then_some(Step::Backfill)
    }

    fn step_over_network(&self, now: Millis) -> Option<Step> {
        let pull = Step::Pull {
            limit: self.page_rows,
        };
        // A new device, and one that recovers, learns what is there before it sends.
        let unproven = !self.server_is_well && !self.pull_failed_too;
        if self.view.epoch == 0 || self.view.recovering || unproven {
            return Some(pull);
        }
        if now >= self.push_not_before {
            if self.view.in_flight > 0 {
                return Some(Step::Push);
            }
            if self.view.pending > 0 {
                return Some(Step::Build {
                    rows: match self.span {
                        0 => BATCH_ROWS,
                        span => span.div_ceil(2),
                    },
                });
            }
        }
        // A waiter without a target is not served by a pull: the next look gives it one.
        let asked = self
            .waiters
            .iter()
            .any(|waiter| !waiter.pulled && waiter.target_seq.is_some());
        let called = (self.head > self.view.cursor || asked) && now >= self.pull_not_before;
        (called || now >= self.pull_at).then_some(pull)
    }

    fn may_use_network(&self) -> bool {
        self.credential && !self.paused
    }

    pub fn hint(&mut self, now: Millis, hint: Hint) {
        match hint {
            Hint::File => {
                self.look_at = self.look_at.min(now + LOOKS_AFTER_HINT_MS[0]);
                self.looks_after_hint = 1;
            }
            Hint::Head(head) => {
                self.head = self.head.max(head);
                self.reachable(now);
            }
            Hint::Pause => self.paused = true,
            Hint::Resume => {
                self.paused = false;
                self.start_over(now);
            }
            Hint::Credential(present) => {
                self.credential = present;
                self.read_only = false;
                self.complaint = None;
                self.start_over(now);
            }
            Hint::SyncRequested { waiter } => {
                self.start_over(now);
                self.waiters.extend(waiter.map(|id| Waiter {
                    id,
                    target_seq: None,
                    page_came: false,
                    pulled: false,
                }));
            }
        }
        self.answer_waiters();
    }

    /// There is a login, but it cannot be used: a locked keyring, another account's file.
    pub fn login_failed(&mut self, message: String) {
        let count = self
            .complaint
            .as_ref()
            .filter(|before| before.code == LOGIN_FAILED)
            .map_or(0, |before| before.count)
            + 1;
        self.complaint = Some(Complaint {
            trouble: Trouble::Unauthorized,
            code: LOGIN_FAILED.into(),
            message,
            count,
            retry_at: None,
            on_look: false,
            on_push: false,
        });
    }

    /// The outcome of the step that `next` gave.
    pub fn done(&mut self, now: Millis, step: &Step, outcome: Outcome) {
        match outcome {
            Outcome::Looked(view) | Outcome::Built(view) => self.viewed(now, step, view),
            Outcome::Answered => {
                self.pushed(now);
                self.answered = true;
            }
            Outcome::Settled {
                view,
                ended,
                deferred,
                head,
            } => {
                self.answered = false;
                self.head = self.head.max(head);
                self.viewed(now, step, view);
                if deferred > 0 {
                    self.prolong_waits();
                }
                if deferred > 0 && ended == 0 {
                    // Nothing but links whose ends are not there yet: no use in asking again at once.
                    self.back_off(now, None);
                }
            }
            Outcome::Pulled { head, has_more, news } => {
                self.succeeded(now);
                self.server_is_well = true;
                self.pull_failed_too = false;
                self.head = self.head.max(head);
                for waiter in &mut self.waiters {
                    // Hints are taken between steps: whoever has a target by now asked before this pull began.
                    waiter.page_came = !has_more && waiter.target_seq.is_some();
                }
                if news {
                    self.page = Some(PageState { has_more });
                } else {
                    self.caught_up(now);
                }
            }
            Outcome::Applied { view, took_ms } => self.applied(now, step, view, took_ms),
            Outcome::IdentitiesFirst => self.identities_first = true,
            Outcome::Parted { reason } => {
                self.answered = false;
                self.page = None;
                self.identities_first = false;
                self.parted = Some(reason);
                if *step == Step::Look {
                    self.looked = true;
                    self.look_at = now + LOOK_EVERY_MS;
                }
            }
            Outcome::Failed {
                trouble,
                code,
                message,
            } => self.failed(now, step, trouble, code, message),
        }
        self.answer_waiters();
    }

    fn viewed(&mut self, now: Millis, step: &Step, view: View) {
        if view.epoch != self.view.epoch {
            // The head was one of another life of the server.
            self.head = view.cursor;
        }
        let left_behind = self.view.newest_seq;
        self.view = view;
        // What has left the outbox is no suspect any more.
        self.suspects = self.suspects.split_off(&view.oldest_seq);
        if view.pending == 0 && view.in_flight == 0 {
            self.span = 0;
        }
        match step {
            Step::Look => {
                self.looked = true;
                let after_hint = LOOKS_AFTER_HINT_MS.get(self.looks_after_hint);
                self.looks_after_hint += usize::from(after_hint.is_some());
                self.look_at = now + after_hint.copied().unwrap_or(LOOK_EVERY_MS);
                if !view.backfilling && view.capture_ok {
                    for waiter in &mut self.waiters {
                        waiter.target_seq.get_or_insert(view.newest_seq);
                    }
                }
                self.forget_complaint(|complaint| complaint.trouble == Trouble::File && complaint.on_look);
                return;
            }
            Step::Identify => self.identities_first = false,
            Step::Halve => {
                self.halve = false;
                self.tries = 0;
            }
            Step::Defer => {
                self.defer = false;
                self.tries = 0;
                self.span = 0;
                if view.newest_seq > left_behind {
                    self.suspects.insert(view.newest_seq, self.taken);
                }
                self.prolong_waits();
            }
            Step::GiveUp { .. } => {
                self.give_up = None;
                self.tries = 0;
                self.span = 0;
                self.push_not_before = now;
                self.complaint = None;
            }
            Step::TakeNewDeviceId { .. } => {
                self.parted = None;
                self.halve = false;
                self.defer = false;
                self.give_up = None;
                self.suspects.clear();
                self.span = 0;
                self.tries = 0;
            }
            Step::Backfill if !view.backfilling => self.look_at = now,
            Step::Backfill
            | Step::Build { .. }
            | Step::Push
            | Step::Settle
            | Step::Pull { .. }
            | Step::Apply => {}
        }
        self.file_failures = 0;
        self.forget_complaint(|complaint| complaint.trouble == Trouble::File);
    }

    fn applied(&mut self, now: Millis, step: &Step, view: View, took_ms: Millis) {
        let complete = self.page.take().is_some_and(|page| !page.has_more);
        self.viewed(now, step, view);
        if took_ms > APPLY_MS_MAX {
            self.page_rows = (self.page_rows / 2).max(PAGE_ROWS_MIN);
        } else if took_ms < APPLY_MS_MAX / 2 {
            self.page_rows = (self.page_rows + self.page_rows / 4).min(PAGE_ROWS_MAX);
        }
        if complete {
            self.caught_up(now);
        }
    }

    /// All of what the server showed is in the file.
    fn caught_up(&mut self, now: Millis) {
        self.pull_at = now + PULL_EVERY_MS + self.rng.random_range(0..PULL_EVERY_MS / 4);
        for waiter in &mut self.waiters {
            waiter.pulled |= waiter.page_came;
        }
        if self.view.cursor < self.head {
            // A replica that is behind, or an event of before a failover: asking again at once would show the same.
            self.short_pages = self.short_pages.saturating_add(1);
            self.pull_not_before = now + self.jitter(self.short_pages);
        } else {
            self.short_pages = 0;
            self.pull_not_before = now;
        }
    }

    /// The server has taken a batch.
    fn pushed(&mut self, now: Millis) {
        self.succeeded(now);
        self.forget_complaint(|complaint| complaint.on_push);
        self.read_only = false;
        self.push_not_before = now;
        self.epoch_misses = 0;
        self.tries = 0;
        self.taken += 1;
        self.span = self.span.saturating_sub(self.view.in_flight);
    }

    /// Records stepped behind the others: whoever waits for them goes on waiting.
    fn prolong_waits(&mut self) {
        for waiter in &mut self.waiters {
            waiter.target_seq = waiter.target_seq.map(|target| target.max(self.view.newest_seq));
        }
    }

    fn failed(&mut self, now: Millis, step: &Step, trouble: Trouble, code: String, message: String) {
        match (&trouble, step) {
            (Trouble::File, _) => {}
            // What these ask for is done at once; a push that failed has its own wait.
            (Trouble::EpochMismatch, Step::Push) => {
                self.server_is_well = false;
                self.pull_failed_too = false;
                self.epoch_misses = self.epoch_misses.saturating_add(1);
                if self.epoch_misses > 1 {
                    // The pull in between did not help.
                    self.push_not_before = now + self.jitter(self.epoch_misses);
                }
            }
            (Trouble::TooLarge, Step::Push) => self.divide(&code, &message),
            (Trouble::Server | Trouble::Refused, Step::Push) => self.push_failed(now, &code, &message),
            (Trouble::Forbidden, Step::Push) => {
                self.read_only = true;
                self.push_not_before = now + FORBIDDEN_RETRY_MS;
            }
            (Trouble::Unauthorized, _) => {
                self.credential = false;
                self.back_off(now, None);
            }
            (Trouble::Server | Trouble::Refused, Step::Pull { .. }) => {
                self.pull_failed_too = true;
                self.back_off(now, None);
            }
            (Trouble::Busy { retry_after_ms }, _) => self.back_off(now, *retry_after_ms),
            (
                Trouble::Unreachable
                | Trouble::Server
                | Trouble::Refused
                | Trouble::TooLarge
                | Trouble::Forbidden
                | Trouble::EpochMismatch
                | Trouble::Diverged,
                _,
            ) => self.back_off(now, None),
        }
        let is_on_file = !matches!(step, Step::Push | Step::Pull { .. });
        if trouble == Trouble::File || is_on_file {
            self.file_failures = self.file_failures.saturating_add(1);
            self.file_not_before = now + self.jitter(self.file_failures);
        }
        if *step == Step::Look {
            self.look_at = now + LOOK_EVERY_MS;
            self.looked = false;
        }
        if *step == Step::Apply {
            // The page is pulled again: it may have been what was wrong.
            self.page = None;
        }
        let count = match &self.complaint {
            Some(before) if before.code == code => before.count + 1,
            Some(_) | None => 1,
        };
        let not_before = match (&trouble, step) {
            (Trouble::File, _) => self.file_not_before,
            (_, Step::Push) => self.push_not_before.max(self.backoff_until),
            (_, _) => self.backoff_until,
        };
        let retry_at = self
            .may_use_network()
            .then_some(not_before.max(self.asked_to_wait_until).max(now));
        self.complaint = Some(Complaint {
            on_look: *step == Step::Look,
            on_push: *step == Step::Push && is_of_a_push(&trouble),
            trouble,
            code,
            message,
            count,
            retry_at,
        });
    }

    /// The fault may be the server's as a whole, which mends itself, or one row's, which must not stall the rest. That
    /// the server can be asked tells nothing of how it writes: what tells is another batch that it takes. So a record
    /// that fails alone steps behind the others, and is given up only if it fails again after one of them was taken.
    fn push_failed(&mut self, now: Millis, code: &str, message: &str) {
        self.tries = self.tries.saturating_add(1);
        self.push_not_before = now + self.jitter(self.tries);
        let is_ours = self.server_is_well;
        self.server_is_well = false;
        self.pull_failed_too = false;
        let is_part = self.span > 0 && self.view.in_flight > 1;
        if !is_ours || (!is_part && self.tries < TRIES_BEFORE_DIVIDING) {
            return;
        }
        if self.view.in_flight > 1 {
            self.halve();
        } else if self.others_taken_since() {
            self.give_up = Some((code.to_owned(), message.to_owned()));
        } else if self.view.pending > 1 {
            self.defer = true;
        }
        // Else it is the only one: it stalls nobody, and the server may take it yet.
    }

    /// Whether the record at the head of the outbox failed before, and others were taken since.
    fn others_taken_since(&self) -> bool {
        let before = self.suspects.get(&self.view.oldest_seq);
        before.is_some_and(|taken| *taken < self.taken)
    }

    /// The batch as it is will not be taken: half of it, or without its only record.
    fn divide(&mut self, code: &str, message: &str) {
        if self.view.in_flight > 1 {
            self.halve();
        } else {
            self.give_up = Some((code.to_owned(), message.to_owned()));
        }
    }

    fn halve(&mut self) {
        self.halve = true;
        self.span = self.view.in_flight;
    }

    /// `asked`: how long the server wants to be left alone.
    fn back_off(&mut self, now: Millis, asked: Option<Millis>) {
        self.failures = self.failures.saturating_add(1);
        let wait = self.jitter(self.failures);
        self.backoff_until = now + wait;
        if let Some(asked) = asked {
            self.asked_to_wait_until = now + asked.min(RETRY_AFTER_CAP_MS) + wait;
        }
    }

    fn jitter(&mut self, failures: u32) -> Millis {
        let bound = BACKOFF_BASE_MS
            .saturating_mul(1 << failures.min(16))
            .min(BACKOFF_CAP_MS);
        self.rng.random_range(0..=bound).max(BACKOFF_FLOOR_MS)
    }

    fn succeeded(&mut self, now: Millis) {
        self.failures = 0;
        self.backoff_until = now;
        self.asked_to_wait_until = now;
        self.forget_complaint(|complaint| complaint.trouble != Trouble::File && !complaint.on_push);
    }

    fn forget_complaint(&mut self, of: impl Fn(&Complaint) -> bool) {
        if self.complaint.as_ref().is_some_and(of) {
            self.complaint = None;
        }
    }

    /// The server can be reached: no reason to wait any longer, unless it asked for it.
    fn reachable(&mut self, now: Millis) {
        if self
            .complaint
            .as_ref()
            .is_none_or(|complaint| complaint.trouble == Trouble::Unreachable)
        {
            self.failures = 0;
            self.backoff_until = self.backoff_until.min(now);
        }
    }

    fn start_over(&mut self, now: Millis) {
        self.failures = 0;
        self.backoff_until = now;
        self.push_not_before = now;
        self.pull_not_before = now;
        self.file_not_before = now;
        self.look_at = now;
        self.pull_at = now;
    }

    fn answer_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        if let Some(reason) = self.cannot_sync() {
            let state = self.state();
            for waiter in self.waiters.drain(..) {
                self.finished.push((
                    waiter.id,
                    SyncDone::NotPossible {
                        state,
                        reason: reason.clone(),
                    },
                ));
            }
            return;
        }
        let (view, head) = (self.view, self.head);
        let drained = |target: i64| {
            view.in_flight == 0 && view.held == 0 && (view.pending == 0 || view.oldest_seq > target)
        };
        let caught_up = view.capture_ok && !view.backfilling && view.cursor >= head && !view.recovering;
        let (done, waiting) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| caught_up && waiter.pulled && waiter.target_seq.is_some_and(drained));
        self.waiters = waiting;
        let done: Vec<Waiter> = done;
        self.finished.extend(
            done.into_iter()
                .map(|waiter| (waiter.id, SyncDone::Done { cursor: view.cursor })),
        );
    }

    fn cannot_sync(&self) -> Option<String> {
        if !self.credential {
            return Some("not logged in: run `coditect-sync login`".into());
        }
        if self.paused {
            return Some("paused: run `coditect-sync resume`".into());
        }
        let complaint = self.complaint.as_ref()?;
        match complaint.trouble {
            Trouble::Diverged | Trouble::File | Trouble::Forbidden => Some(complaint.message.clone()),
            Trouble::Unreachable
            | Trouble::Busy { .. }
            | Trouble::Server
            | Trouble::Refused
            | Trouble::TooLarge
            | Trouble::Unauthorized
            | Trouble::EpochMismatch => None,
        }
    }

    /// Waiters whose wait has ended since this was last called.
    pub fn take_finished(&mut self) -> Vec<(u64, SyncDone)> {
        std::mem::take(&mut self.finished)
    }

    /// P11: `in_sync` only when nothing is pending, held, unverified or behind.
    pub fn state(&self) -> State {
        let trouble = self.complaint.as_ref().map(|complaint| &complaint.trouble);
        if matches!(trouble, Some(Trouble::File)) {
            return State::Blocked;
        }
        if !self.looked {
            return State::Starting;
        }
        if !self.credential {
            return State::NeedsLogin;
        }
        if self.paused {
            return State::Paused;
        }
        match trouble {
            Some(Trouble::Diverged) => return State::Blocked,
            Some(Trouble::Unreachable | Trouble::Busy { .. }) => return State::Offline,
            // A server that can be asked is there, even if it does not take what we push.
            Some(Trouble::Server) if !(self.server_is_well && self.is_of_a_push()) => return State::Offline,
            Some(
                Trouble::Server
                | Trouble::Refused
                | Trouble::TooLarge
                | Trouble::Unauthorized
                | Trouble::Forbidden
                | Trouble::EpochMismatch
                | Trouble::File,
            )
            | None => {}
        }
        if self.read_only {
            return State::ReadOnly;
        }
        if self.is_in_sync() {
            State::InSync
        } else {
            State::Syncing
        }
    }

    fn is_in_sync(&self) -> bool {
        let view = &self.view;
        view.pending == 0
            && view.in_flight == 0
            && view.held == 0
            && view.capture_ok
            && !view.backfilling
            && !view.recovering
            && view.epoch > 0
            && view.cursor >= self.head
            && !self.answered
            && self.page.is_none()
            && self.parted.is_none()
    }

    fn is_of_a_push(&self) -> bool {
        self.complaint.as_ref().is_some_and(|complaint| complaint.on_push)
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    pub fn head(&self) -> i64 {
        self.head.max(self.view.cursor)
    }

    pub fn complaint(&self) -> Option<&Complaint> {
        self.complaint.as_ref()
    }
}

/// Troubles that a pull which succeeds does not end: the server is there, and does not take what we push.
fn is_of_a_push(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Server | Trouble::Refused | Trouble::TooLarge => true,
        Trouble::Unreachable
        | Trouble::Busy { .. }
        | Trouble::Unauthorized
        | Trouble::Forbidden
        | Trouble::Diverged
        | Trouble::EpochMismatch
        | Trouble::File => false,
    }
}

#[cfg(test)]
mod tests;
