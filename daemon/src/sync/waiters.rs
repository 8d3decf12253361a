//! Who waits until all is in the cloud and here, and what the state is called.

use super::{Core, Trouble};
use crate::socket::SyncDone;
use crate::status::State;

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: u64,
    /// Everything up to here must have left the outbox. None: the file has not been looked at since the request, or
    /// rows that stand in it are still being queued.
    pub(super) target_seq: Option<i64>,
    /// A pull that began after the request has brought the head, and then: its page is in the file.
    pub(super) page_came: bool,
    pub(super) pulled: bool,
}

impl Core {
    pub(super) fn answer_waiters(&mut self) {
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

    pub(super) fn cannot_sync(&self) -> Option<String> {
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

    pub(super) fn is_in_sync(&self) -> bool {
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
}
