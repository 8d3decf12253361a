//! What follows from a step that failed: when it is tried again, and when a batch is divided.

use rand::RngExt as _;

use super::{Complaint, Core, LOOK_EVERY_MS, Millis, Step, Trouble};

/// Full-jitter backoff: uniform between nothing and a bound that doubles from the base to the cap.
pub const BACKOFF_BASE_MS: Millis = 500;

/// A draw of the jitter below this is raised to it: what failed at once would fail at once again.
pub const BACKOFF_FLOOR_MS: Millis = 50;

/// The longest `Retry-After` that is believed: a proxy that says a year must not stop the sync for one.
pub const RETRY_AFTER_CAP_MS: Millis = 15 * 60_000;

/// How often somebody who may only read tries to push all the same: roles change on the server.
pub const FORBIDDEN_RETRY_MS: Millis = 5 * 60_000;

/// Failed tries of the same batch after which it is halved, and after which a single record has to wait behind the
/// others. Once a batch has been divided, a part of it gets one try: dividing loses nothing.
const TRIES_BEFORE_DIVIDING: u32 = 3;
pub const BACKOFF_CAP_MS: Millis = 60_000;

impl Core {
    pub(super) fn failed(
        &mut self,
        now: Millis,
        step: &Step,
        trouble: Trouble,
        code: String,
        message: String,
    ) {
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
    pub(super) fn push_failed(&mut self, now: Millis, code: &str, message: &str) {
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
    pub(super) fn others_taken_since(&self) -> bool {
        let before = self.suspects.get(&self.view.oldest_seq);
        before.is_some_and(|taken| *taken < self.taken)
    }

    /// The batch as it is will not be taken: half of it, or without its only record.
    pub(super) fn divide(&mut self, code: &str, message: &str) {
        if self.view.in_flight > 1 {
            self.halve();
        } else {
            self.give_up = Some((code.to_owned(), message.to_owned()));
        }
    }

    pub(super) fn halve(&mut self) {
        self.halve = true;
        self.span = self.view.in_flight;
    }

    /// `asked`: how long the server wants to be left alone.
    pub(super) fn back_off(&mut self, now: Millis, asked: Option<Millis>) {
        self.failures = self.failures.saturating_add(1);
        let wait = self.jitter(self.failures);
        self.backoff_until = now + wait;
        if let Some(asked) = asked {
            self.asked_to_wait_until = now + asked.min(RETRY_AFTER_CAP_MS) + wait;
        }
    }

    pub(super) fn jitter(&mut self, failures: u32) -> Millis {
        let bound = BACKOFF_BASE_MS
            .saturating_mul(1 << failures.min(16))
            .min(BACKOFF_CAP_MS);
        self.rng.random_range(0..=bound).max(BACKOFF_FLOOR_MS)
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
