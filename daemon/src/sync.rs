//! The core of the loop: what to do next, decided without async, without I/O and without a clock of its own.
//!
//! The loop asks `next`, does that one step, tells its outcome to `done`, and passes on hints as they come. Times
//! are milliseconds of a monotonic clock. Whatever fails, `next` never waits without a time at which it ends (P8):
//! the poll of the file and of the server is always armed, and a failure only moves the next try.

mod failure;
mod step;
mod waiters;

use std::collections::BTreeMap;

use coditect_shared::limits::BATCH_ROWS;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::socket::SyncDone;

pub use failure::{
    BACKOFF_BASE_MS, BACKOFF_CAP_MS, BACKOFF_FLOOR_MS, FORBIDDEN_RETRY_MS, RETRY_AFTER_CAP_MS,
};
pub use step::{Complaint, Hint, Millis, Next, Outcome, Step, Trouble, View};
use waiters::Waiter;

/// How often the file is looked at where no hint comes: `data_version` costs about 4 µs.
pub const LOOK_EVERY_MS: Millis = 1_000;

/// When the file is looked at after a hint, each from the look before. The hint comes with the write to the -wal, but a
/// commit shows only after that, where the owner syncs to the disk some tens of milliseconds after.
const LOOKS_AFTER_HINT_MS: [Millis; 4] = [2, 8, 30, 120];

/// How often the server is asked where no event comes.
pub const PULL_EVERY_MS: Millis = 30_000;

/// Rows asked for in a page at first, and the range in which their number follows the time that applying takes.
const PAGE_ROWS: u32 = 500;
const PAGE_ROWS_MIN: u32 = 50;
const PAGE_ROWS_MAX: u32 = 2_000;

/// How long a transaction on context.db may take before pages get smaller.
const APPLY_MS_MAX: Millis = 20;

const LOGIN_FAILED: &str = "login_unusable";

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
                let soon = now + LOOKS_AFTER_HINT_MS[0];
                // To open a file that cannot be used makes such hints itself: they do not shorten the wait.
                let unusable = !self.looked && self.file_failures > 0;
                let at = if unusable {
                    soon.max(self.file_not_before)
                } else {
                    soon
                };
                self.look_at = self.look_at.min(at);
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

#[cfg(test)]
mod tests;
