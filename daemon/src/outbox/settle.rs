//! From the server's verdicts back to an empty queue, in one transaction that also raises push_seq.

use super::{Batch, Context, Sent};
use crate::apply::{self, ApplyError};
use crate::identity::{self, Acked};
use crate::key::Table;
use crate::owner::Owner;
use crate::quarantine;
use crate::rules::{Rule, holds};
use crate::store::set_value;
use coditect_shared::wire::{PushAnswer, Verdict};
use coditect_shared::{RecordRef, Stamp};
use rusqlite::Connection;
use std::collections::HashMap;

/// What settling a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub stored: usize,
    pub rejected: usize,
    /// Links whose end is not there yet: behind the others again.
    pub deferred: usize,
}

/// Takes the server's verdicts into the file: acknowledges, quarantines, defers, and raises push_seq.
pub fn settle(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    batch: &Batch,
    answer: &PushAnswer,
) -> Result<Settled, ApplyError> {
    let mut settled = Settled::default();
    let verdicts: HashMap<&RecordRef, (Verdict, Option<i64>)> = answer
        .verdicts
        .iter()
        .map(|row| (&row.reference, (row.verdict, row.cursor)))
        .collect();
    let rejections: HashMap<&RecordRef, _> =
        answer.rejected.iter().map(|row| (&row.reference, row)).collect();
    let stamp = Stamp {
        epoch: answer.epoch,
        cursor: answer.cursor,
    };
    for (index, sent) in (0..).zip(&batch.records) {
        let reference = RecordRef::Number(index);
        if let Some(rejection) = rejections.get(&reference) {
            settled.rejected += 1;
            let refused = quarantine::Refused {
                code: &rejection.code,
                message: &rejection.message,
            };
            quarantine::add_up(tx, &sent.key, &fingerprint(sent), &refused, &context.now)?;
            end(tx, owner, context, sent, false)?;
            continue;
        }
        let (verdict, cursor) = verdicts
            .get(&reference)
            .copied()
            .unwrap_or((Verdict::Stored, None));
        match verdict {
            Verdict::Superseded if holds(Rule::Superseded) => {
                // Acknowledges nothing; but the server knows the row, so that a later change of it is an edit.
                supersede(tx, sent)?;
                end(tx, owner, context, sent, true)?;
            }
            Verdict::Stored | Verdict::Duplicate | Verdict::Superseded => {
                // A duplicate is acknowledged where its equal stands: that comes with the next pull, and the fields
                // around the content with it.
                let at = cursor
                    .filter(|_| verdict == Verdict::Duplicate)
                    .unwrap_or(stamp.cursor);
                acknowledge(tx, sent, Stamp { cursor: at, ..stamp })?;
                settled.stored += 1;
                end(tx, owner, context, sent, false)?;
            }
            Verdict::RetryLater => {
                settled.deferred += 1;
                sent.key.unqueue(tx, sent.covered)?;
                if holds(Rule::RetryLater) {
                    sent.key.queue(tx, "scan")?;
                }
            }
            Verdict::Rejected => {
                // Whatever it means, the same answer would come again for ever.
                settled.rejected += 1;
                let refused = quarantine::Refused {
                    code: "rejected",
                    message: "the server gave no reason",
                };
                quarantine::add_up(tx, &sent.key, &fingerprint(sent), &refused, &context.now)?;
                end(tx, owner, context, sent, false)?;
            }
        }
    }
    set_value(tx, "push_seq", batch.push_seq)?;
    if let Some(mark) = &answer.mark {
        set_value(tx, "witness_cursor", answer.cursor)?;
        set_value(tx, "witness_mark", mark.as_str())?;
    }
    Ok(settled)
}

/// Quarantines the only record of a batch that the server cannot take as a whole. The push_seq stays unused.
pub fn give_up(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    batch: &Batch,
    refused: &quarantine::Refused<'_>,
) -> Result<(), ApplyError> {
    for sent in &batch.records {
        quarantine::add_up(tx, &sent.key, &fingerprint(sent), refused, &context.now)?;
        end(tx, owner, context, sent, false)?;
    }
    Ok(())
}

/// Lets the rows of a batch that the server does not take wait behind all others. The push_seq stays unused.
pub fn defer(tx: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    for sent in &batch.records {
        sent.key.unqueue(tx, sent.covered)?;
        sent.key.queue(tx, "scan")?;
    }
    Ok(())
}

fn end(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    sent: &Sent,
    force: bool,
) -> Result<(), ApplyError> {
    let covered = if holds(Rule::CoveredVersion) {
        sent.covered
    } else {
        i64::MAX
    };
    if sent.key.unqueue(tx, covered)? == 0 && !sent.key.is_pending(tx)? {
        // The batch was not in flight any more, and the change has ended otherwise: its project was excluded, or the row
        // was back at what had been acknowledged before. How it stands to what is acknowledged now, the next look tells.
        sent.key.queue(tx, "scan")?;
    }
    apply::end_of_change(tx, owner, context, &sent.key, sent.ident, force)
}

fn acknowledge(tx: &Connection, sent: &Sent, stamp: Stamp) -> rusqlite::Result<()> {
    let acked = |before: Stamp| Acked {
        hash: sent.hash,
        version: sent.version,
        stamp: before.max(stamp),
    };
    match sent.key.table {
        Table::Messages => {
            if let Some(identity) = identity::message_by_ident(tx, sent.ident)? {
                identity::set_message_acked(tx, sent.ident, &acked(identity.acked.stamp))?;
            }
        }
        Table::TaskTracking => {
            if let Some(identity) = identity::task_by_ident(tx, sent.ident)? {
                identity::set_task_acked(tx, sent.ident, &acked(identity.acked.stamp))?;
            }
        }
        Table::TaskMessages => apply::set_link_acked(tx, sent.ident, sent.version, stamp)?,
    }
    quarantine::lift(tx, &sent.key)
}

fn supersede(tx: &Connection, sent: &Sent) -> rusqlite::Result<()> {
    match sent.key.table {
        Table::Messages => {
            if let Some(identity) = identity::message_by_ident(tx, sent.ident)?
                && !identity.acked.is_known()
            {
                let acked = Acked {
                    hash: sent.hash,
                    version: sent.version,
                    stamp: Stamp::default(),
                };
                identity::set_message_acked(tx, sent.ident, &acked)?;
            }
        }
        Table::TaskTracking | Table::TaskMessages => {}
    }
    Ok(())
}

fn fingerprint(sent: &Sent) -> [u8; 8] {
    sent.version.unwrap_or_default().to_be_bytes()
}
