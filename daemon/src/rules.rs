//! The rules of the protocol that a test can take out, to show what breaks without them.
//!
//! In ordinary builds every rule holds and the question costs nothing. With the feature `rule-switches`, in builds with
//! debug assertions, a test may take one out for its own thread.

/// A rule by the name of what it keeps (PROTOCOL 1 to 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An edited row keeps the origin under which it was first sent.
    OriginKept,
    /// A number that a row deleted here bore is not given again.
    OccurrenceKept,
    /// Ops newer than the identity tell an edit from a new row under an id that was given out again.
    OpsDecide,
    /// A new row with session and writer's hash of one that is gone takes over its identity.
    TakeOver,
    /// The echo stop: what is applied is not queued.
    GuardFlag,
    /// An outbox entry goes only if nothing newer stands behind the version that was sent.
    CoveredVersion,
    /// A link goes in only if both its ends can; else it is parked and queued again.
    ParkedLinks,
    /// A link whose end the server does not have yet steps behind the others, and is sent again.
    RetryLater,
    /// An incoming link waits for its ends.
    WaitingLinks,
    /// A pulled version of a row with a local change under way is held.
    Held,
    /// A version below the acknowledged one is not applied, whether it was held or comes late.
    OlderLoses,
    /// Inside the transaction that applies a page, identities come before the plan.
    IdentitiesFirst,
    /// `superseded` ends the change and acknowledges nothing.
    Superseded,
    /// All digests sent under one push_seq are kept until it settles.
    VariantsKept,
    /// A pulled version of a task deleted here is noted, not written.
    DeletionKept,
}

#[cfg(not(all(feature = "rule-switches", debug_assertions)))]
pub(crate) const fn holds(_: Rule) -> bool {
    true
}

#[cfg(all(feature = "rule-switches", debug_assertions))]
pub(crate) use switches::holds;
#[cfg(all(feature = "rule-switches", debug_assertions))]
pub use switches::take_out;

#[cfg(all(feature = "rule-switches", debug_assertions))]
mod switches {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static OUT: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    pub(crate) fn holds(rule: Rule) -> bool {
        OUT.get() != Some(rule)
    }

    /// Takes one rule out on this thread; None puts it back.
    pub fn take_out(rule: Option<Rule>) {
        OUT.set(rule);
    }
}
