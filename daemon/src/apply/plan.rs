//! What becomes of one pulled row, decided from what stands here. Pure, so that every case can be told and tested.

use coditect_shared::Stamp;

use crate::identity::Acked;
use crate::rules::{Rule, holds};

/// What stands in this file for the pulled row's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LocalRow {
    /// Deleted here. Deletions are not undone.
    Gone,
    /// Equals the pulled version.
    Same,
    /// The same content with other fields around it: role, time, metadata.
    SameContent,
    Different,
}

/// An identity of this file that a pulled row belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub row: LocalRow,
    /// A local change of the row waits in the outbox.
    pub pending: bool,
    pub acked: &'a Acked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Insert,
    Update,
    /// The row stays as it is; it counts as acknowledged with the pulled version.
    Acknowledge,
    /// Kept until the local change has ended.
    Hold,
    /// An older version than the one acknowledged.
    Skip,
}

pub(super) fn decide(known: Option<Known<'_>>, pulled: Stamp) -> Decision {
    let Some(known) = known else {
        return Decision::Insert;
    };
    match known.row {
        LocalRow::Gone | LocalRow::Same => Decision::Acknowledge,
        // Two devices wrote the same text: the fields around it are those that were in the cloud first, everywhere.
        LocalRow::SameContent if !known.acked.is_known() => Decision::Update,
        LocalRow::SameContent | LocalRow::Different if known.pending => Decision::Hold,
        LocalRow::SameContent | LocalRow::Different if is_newer(pulled, known.acked.stamp) => {
            Decision::Update
        }
        LocalRow::SameContent | LocalRow::Different => Decision::Skip,
    }
}

/// Whether a held version is applied once the local change has ended: not if that change was acknowledged above it.
/// `force`: the change was superseded, so that whatever is held is newer.
pub(super) fn held_applies(acked: Stamp, held: Stamp, force: bool) -> bool {
    force || acked < held || !holds(Rule::OlderLoses)
}

fn is_newer(pulled: Stamp, acked: Stamp) -> bool {
    pulled >= acked || !holds(Rule::OlderLoses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coditect_shared::hash::sha256;

    const OLD: Stamp = Stamp { epoch: 1, cursor: 5 };
    const NEW: Stamp = Stamp { epoch: 1, cursor: 9 };

    fn acked(stamp: Stamp) -> Acked {
        Acked {
            hash: Some(sha256(b"v")),
            version: Some(1),
            stamp,
        }
    }

    #[test]
    fn every_case_of_a_pulled_row_is_decided() {
        use Decision::*;
        use LocalRow::*;
        let (never, at_old, at_new) = (Acked::default(), acked(OLD), acked(NEW));
        let cases = [
            (Gone, false, &at_old, NEW, Acknowledge),
            (Gone, true, &at_old, NEW, Acknowledge),
            (Same, true, &never, NEW, Acknowledge),
            (SameContent, true, &never, NEW, Update),
            (SameContent, false, &at_old, NEW, Update),
            (SameContent, true, &at_old, NEW, Hold),
            (Different, true, &never, NEW, Hold),
            (Different, true, &at_old, NEW, Hold),
            (Different, false, &at_old, NEW, Update),
            (Different, false, &at_new, OLD, Skip),
            (Different, false, &at_new, NEW, Update),
        ];
        for (row, pending, acked, pulled, expected) in cases {
            let known = Known { row, pending, acked };
            assert_eq!(
                decide(Some(known), pulled),
                expected,
                "{row:?} pending={pending} {acked:?} {pulled:?}"
            );
        }
        assert_eq!(decide(None, NEW), Insert);
    }

    #[test]
    fn a_later_epoch_outweighs_a_higher_cursor() {
        let healed = Stamp { epoch: 2, cursor: 1 };
        let at_new = acked(NEW);
        let known = Known {
            row: LocalRow::Different,
            pending: false,
            acked: &at_new,
        };
        assert_eq!(decide(Some(known), healed), Decision::Update);
    }

    #[test]
    fn a_held_version_is_dropped_only_if_the_change_was_acknowledged_at_or_above_it() {
        assert!(!held_applies(NEW, OLD, false));
        assert!(!held_applies(NEW, NEW, false));
        assert!(held_applies(OLD, NEW, false));
        assert!(held_applies(NEW, OLD, true));
    }
}
