//! The rules of the protocol that a test can take out, to show what breaks without them.
//!
//! In ordinary builds every rule holds and the question costs nothing. With the feature `rule-switches`, in builds with
//! debug assertions, a test may take one out for its own thread, on which its server then runs too.

/// A rule by the name of what it keeps (PROTOCOL 3 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A plain insert whose origin stands here with other content is older than that.
    InsertSuperseded,

    /// Another batch under a push_seq that is used up tells of a copied file.
    DigestCompared,
    /// In recovery a record made from an older version than the stored one does not replace it.
    BaseCompared,
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
