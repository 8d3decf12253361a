//! The core of the loop: what to do next, decided without async, without I/O and without a clock of its own.
//!
//! The loop asks `next`, does that one step, tells its outcome to `done`, and passes on hints as they come. Times
//! are milliseconds of a monotonic clock. Whatever fails, `next` never waits without a time at which it ends (P8):
//! the poll of the file and of the server is always armed, and a failure only moves the next try.

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

/// Rows asked for in a page at first, and the range in which their number follows the time that applying takes.
const PAGE_ROWS: u32 = 500;
const PAGE_ROWS_MIN: u32 = 50;
const PAGE_ROWS_MAX: u32 = 2_000;

/// How long a transaction on context.db may take before pages get smaller.
const APPLY_MS_MAX: Millis = 20;

/// Failed tries of the same batch after which it is halved; and after which a single record is given up where nothing
/// else has been taken meanwhile, so that it may be the server that is ill.
const TRIES_BEFORE_HALVING: u32 = 3;
const TRIES_BEFORE_GIVING_UP: u32 = 8;

const LOGIN_FAILED: &str = "login_unusable";

/// One step for the loop to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look at the file: did others commit, do the triggers stand, what is pending?
    Look,
    /// Queue the next part of the rows that were there before us, or give queued rows their identities.
    Backfill,
    Identify,
    /// Build a batch from the outbox and persist it.
    Build,
    /// Send the batch in flight.
    Push,
    /// Take the verdicts into the file.
    Settle,
    /// Send only half of the batch in flight.
    Halve,
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
        progress: bool,
        head: i64,
    },
    Pulled {
        head: i64,
        has_more: bool,
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
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    /// Everything up to here must have left the outbox. None: the file has not been looked at since the request.
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
    /// Nothing goes over the network before.
    backoff_until: Millis,
    failures: u32,
    /// No step on the file before, and no push: each has its own trouble, that of one must not hold up the other.
    file_not_before: Millis,
    push_not_before: Millis,
    file_failures: u32,
    /// Failed tries of the batch in flight that were not the network's fault.
    tries: u32,
    halve: bool,
    give_up: Option<(String, String)>,
    /// Another batch was taken since the first of these tries: it is this one that is ill.
    pushed_since: bool,
    /// A pull has succeeded since the batch last failed: the server as such is well.
    server_is_well: bool,
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
            failures: 0,
            file_not_before: 0,
            push_not_before: 0,
            file_failures: 0,
            pushed_since: false,
            tries: 0,
            halve: false,
            give_up: None,
            server_is_well: true,
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
        if let Some(step) = self.step_on_file() {
            return if now < self.file_not_before {
                Next::WaitUntil(self.look_at.min(self.file_not_before))
            } else {
                Next::Do(step)
            };
        }
        if !self.may_use_network() {
            return Next::WaitUntil(self.look_at);
        }
        if now < self.backoff_until {
            return Next::WaitUntil(self.look_at.min(self.backoff_until));
        }
        match self.step_over_network(now) {
            Some(step) => Next::Do(step),
            None if self.push_not_before > now => {
                Next::WaitUntil(self.look_at.min(self.pull_at).min(self.push_not_before))
            }
            None => Next::WaitUntil(self.look_at.min(self.pull_at)),
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
        if self.view.epoch == 0 || self.view.recovering || !self.server_is_well {
            return Some(pull);
        }
        if !self.read_only && now >= self.push_not_before {
            if self.view.in_flight > 0 {
                return Some(Step::Push);
            }
            if self.view.pending > 0 {
                return Some(Step::Build);
            }
        }
        let asked = self.waiters.iter().any(|waiter| !waiter.pulled);
        (self.head > self.view.cursor || now >= self.pull_at || asked).then_some(pull)
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
        });
    }

    /// The outcome of the step that `next` gave.
    pub fn done(&mut self, now: Millis, step: &Step, outcome: Outcome) {
        match outcome {
            Outcome::Looked(view) | Outcome::Built(view) => self.viewed(now, step, view),
            Outcome::Answered => {
                self.succeeded(now);
                self.tries = 0;
                self.pushed_since = true;
                self.answered = true;
            }
            Outcome::Settled { view, progress, head } => {
                self.answered = false;
                self.head = self.head.max(head);
                self.viewed(now, step, view);
                if !progress {
                    // Nothing but links whose ends are not there yet: no use in asking again at once.
                    self.back_off(now, None);
                }
            }
            Outcome::Pulled { head, has_more } => {
                self.succeeded(now);
                self.server_is_well = true;
                self.head = self.head.max(head);
                self.page = Some(PageState { has_more });
                for waiter in &mut self.waiters {
                    // Hints are taken between steps: whoever has a target by now asked before this pull began.
                    waiter.page_came = !has_more && waiter.target_seq.is_some();
                }
            }
            Outcome::Applied { view, took_ms } => self.applied(now, step, view, took_ms),
            Outcome::IdentitiesFirst => self.identities_first = true,
            Outcome::Parted { reason } => {
                self.answered = false;
                self.page = None;
                self.parted = Some(reason);
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
        self.view = view;
        match step {
            Step::Look => {
                self.looked = true;
                let after_hint = LOOKS_AFTER_HINT_MS.get(self.looks_after_hint);
                self.looks_after_hint += usize::from(after_hint.is_some());
                self.look_at = now + after_hint.copied().unwrap_or(LOOK_EVERY_MS);
                for waiter in &mut self.waiters {
                    waiter.target_seq.get_or_insert(view.newest_seq);
                }
                self.forget_complaint(|complaint| complaint.trouble == Trouble::File && complaint.on_look);
                return;
            }
            Step::Identify => self.identities_first = false,
            Step::Halve => {
                self.halve = false;
                self.tries = 0;
                self.push_not_before = now;
            }
            Step::GiveUp { .. } => {
                self.give_up = None;
                self.tries = 0;
                self.push_not_before = now;
                self.complaint = None;
            }
            Step::TakeNewDeviceId { .. } => {
                self.parted = None;
                self.halve = false;
                self.give_up = None;
                self.tries = 0;
            }
            Step::Backfill | Step::Build | Step::Push | Step::Settle | Step::Pull { .. } | Step::Apply => {}
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
            self.pull_at = now + PULL_EVERY_MS + self.rng.random_range(0..PULL_EVERY_MS / 4);
            for waiter in &mut self.waiters {
                waiter.pulled |= waiter.page_came;
            }
        }
    }

    fn failed(&mut self, now: Millis, step: &Step, trouble: Trouble, code: String, message: String) {
        let mut retry_after = None;
        match &trouble {
            Trouble::Unreachable | Trouble::Diverged => {}
            Trouble::Busy { retry_after_ms } => retry_after = *retry_after_ms,
            Trouble::EpochMismatch => self.server_is_well = false,
            Trouble::TooLarge if *step == Step::Push => self.divide(&code, &message),
            Trouble::Server | Trouble::Refused if *step == Step::Push => {
                self.push_failed(now, &code, &message);
            }
            Trouble::TooLarge | Trouble::Server | Trouble::Refused => {}
            Trouble::Unauthorized => self.credential = false,
            Trouble::Forbidden if *step == Step::Push => self.read_only = true,
            Trouble::Forbidden => {}
            Trouble::File => {
                self.file_failures += 1;
                self.file_not_before = now + self.jitter(self.file_failures);
                self.look_at = now + LOOK_EVERY_MS;
                self.looked &= *step != Step::Look;
            }
        }
        match &trouble {
            // What these ask for is done at once; a push that failed has its own wait.
            Trouble::File | Trouble::EpochMismatch => {}
            Trouble::Server | Trouble::Refused | Trouble::TooLarge if *step == Step::Push => {}
            Trouble::Forbidden if *step == Step::Push => {}
            Trouble::Unreachable
            | Trouble::Busy { .. }
            | Trouble::Server
            | Trouble::Refused
            | Trouble::TooLarge
            | Trouble::Unauthorized
            | Trouble::Forbidden
            | Trouble::Diverged => self.back_off(now, retry_after),
        }
        if *step == Step::Apply {
            // The page is pulled again: it may have been what was wrong.
            self.page = None;
        }
        let count = match &self.complaint {
            Some(before) if before.code == code => before.count + 1,
            Some(_) | None => 1,
        };
        let not_before = if trouble == Trouble::File {
            self.file_not_before
        } else {
            self.backoff_until
        };
        let retry_at = self.may_use_network().then_some(not_before.max(now));
        let on_look = *step == Step::Look;
        self.complaint = Some(Complaint {
            trouble,
            code,
            message,
            count,
            retry_at,
            on_look,
        });
    }

    /// The fault may be the server's as a whole, which mends itself, or one row's, which must not stall the rest: that
    /// is told by a pull that succeeds and by other batches that are taken.
    fn push_failed(&mut self, now: Millis, code: &str, message: &str) {
        self.tries += 1;
        if self.tries == 1 {
            self.pushed_since = false;
        }
        self.push_not_before = now + self.jitter(self.tries);
        let is_ours = self.server_is_well;
        self.server_is_well = false;
        let enough = match (self.view.in_flight, self.pushed_since) {
            (1, false) => TRIES_BEFORE_GIVING_UP,
            (_, _) => TRIES_BEFORE_HALVING,
        };
        if is_ours && self.tries >= enough {
            self.divide(code, message);
        }
    }

    /// The batch as it is will not be taken: half of it, or without its only record.
    fn divide(&mut self, code: &str, message: &str) {
        if self.view.in_flight > 1 {
            self.halve = true;
        } else {
            self.give_up = Some((code.to_owned(), message.to_owned()));
        }
    }

    fn back_off(&mut self, now: Millis, at_least: Option<Millis>) {
        self.failures = self.failures.saturating_add(1);
        self.backoff_until = now + at_least.unwrap_or(0) + self.jitter(self.failures);
    }

    fn jitter(&mut self, failures: u32) -> Millis {
        let bound = BACKOFF_BASE_MS
            .saturating_mul(1 << failures.min(16))
            .min(BACKOFF_CAP_MS);
        self.rng.random_range(0..=bound)
    }

    fn succeeded(&mut self, now: Millis) {
        self.failures = 0;
        self.backoff_until = now;
        self.forget_complaint(|complaint| complaint.trouble != Trouble::File);
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
            Some(Trouble::Unreachable | Trouble::Busy { .. } | Trouble::Server) => return State::Offline,
            Some(
                Trouble::Refused
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
mod tests {
    use super::*;

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
}
