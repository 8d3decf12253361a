//! Checks each record of a push alone, and keeps the good ones ready for the plan and for SQL.
//!
//! Everything that PostgreSQL could refuse is refused here, for one record, with a code: a single constraint that
//! failed inside the transaction would fail the whole batch.

use coditect_shared::check::{self, Refusal};
use coditect_shared::wire::{PushAnswer, PushRequest, RecordVerdict, Rejection, Verdict};
use coditect_shared::{LinkRecord, MessageRecord, RecordRef, TaskRecord, TenantId};
use uuid::Uuid;

use super::lock::Head;
use super::plan::{Batch, Fate, LinkClaim, MessageClaim, Plan, TaskClaim};
use crate::{history, instant};

/// The good records of a batch, in its order, and the refusals of the others.
pub(super) struct Intake {
    pub(super) messages: Vec<Message>,
    pub(super) tasks: Vec<Task>,
    /// All else of a link is in the claim.
    links: Vec<RecordRef>,
    /// The same records, reduced to what decides: index n is record n of the lists above.
    pub(super) batch: Batch,
    rejected: Vec<Rejection>,
}

pub(super) struct Message {
    reference: RecordRef,
    pub(super) record: MessageRecord,
    /// As JSON; none where it is empty.
    pub(super) metadata: Option<String>,
    pub(super) size_bytes: i32,
}

pub(super) struct Task {
    reference: RecordRef,
    pub(super) record: TaskRecord,
    /// The fields in the sender's spelling, without what belongs to this one push.
    pub(super) json: String,
}

impl Intake {
    /// A tenant in a record's hash can only be the caller's own: a forged one does not match.
    pub(super) fn check(tenant: TenantId, request: PushRequest) -> Intake {
        let mut intake = Intake {
            messages: Vec::with_capacity(request.messages.len()),
            tasks: Vec::with_capacity(request.tasks.len()),
            links: Vec::with_capacity(request.task_messages.len()),
            batch: Batch::default(),
            rejected: Vec::new(),
        };
        for (n, mut record) in request.messages.into_iter().enumerate() {
            let reference = reference(record.reference.take(), "messages", n);
            if let Err(refusal) = intake.message(tenant, record, reference.clone()) {
                intake.reject(reference, refusal);
            }
        }
        for (n, mut record) in request.tasks.into_iter().enumerate() {
            let reference = reference(record.reference.take(), "tasks", n);
            if let Err(refusal) = intake.task(tenant, record, reference.clone()) {
                intake.reject(reference, refusal);
            }
        }
        for (n, mut record) in request.task_messages.into_iter().enumerate() {
            let reference = reference(record.reference.take(), "task_messages", n);
            if let Err(refusal) = intake.link(record, reference.clone()) {
                intake.reject(reference, refusal);
            }
        }
        intake
    }

    fn message(
        &mut self,
        tenant: TenantId,
        record: MessageRecord,
        reference: RecordRef,
    ) -> Result<(), Refusal> {
        let (hash, origin) = check::message(tenant, &record)?;
        let metadata = if record.metadata.is_empty() {
            None
        } else {
            Some(json(&record.metadata)?)
        };
        self.batch.messages.push(MessageClaim {
            origin,
            hash,
            occurrence: record.occurrence,
            version: record.version(hash),
            edit: record.is_edit(),
            base: record.base,
            stamp: record.stamp,
            new_id: Uuid::now_v7(),
        });
        let size_bytes = size(record.content.len() + metadata.as_ref().map_or(0, String::len));
        self.messages.push(Message {
            reference,
            record,
            metadata,
            size_bytes,
        });
        Ok(())
    }

    fn task(
        &mut self,
        tenant: TenantId,
        mut record: TaskRecord,
        reference: RecordRef,
    ) -> Result<(), Refusal> {
        let (hash, id) = check::task(tenant, &record)?;
        self.batch.tasks.push(TaskClaim {
            id,
            hash,
            base: record.base.take(),
            stamp: record.stamp.take(),
        });
        record.id = id.hyphenated().to_string();
        record.content_hash = Some(hash.to_string());
        (record.sync_cursor, record.synced_at) = (None, None);
        let json = json(&record)?;
        self.tasks.push(Task {
            reference,
            record,
            json,
        });
        Ok(())
    }

    fn link(&mut self, record: LinkRecord, reference: RecordRef) -> Result<(), Refusal> {
        let task = check::link(&record)?;
        self.batch.links.push(LinkClaim {
            task,
            message: record.message,
            sequence: record.sequence,
            base: record.base,
            stamp: record.stamp,
        });
        self.links.push(reference);
        Ok(())
    }

    fn reject(&mut self, reference: RecordRef, refusal: Refusal) {
        let Refusal { code, message } = refusal;
        self.rejected.push(Rejection {
            reference,
            code: code.to_owned(),
            message,
        });
    }

    /// The answer to the batch, once it is planned. Takes the refusals along.
    pub(super) fn answer(&mut self, plan: &Plan, after: &history::Head, head: &Head) -> PushAnswer {
        let mut answer = PushAnswer {
            synced: 0,
            skipped: 0,
            rejected: std::mem::take(&mut self.rejected),
            verdicts: Vec::new(),
            cursor: after.cursor,
            mark: after.mark.clone(),
            epoch: head.epoch,
            timestamp: instant::to_text(head.synced_at),
        };
        for rejection in &answer.rejected {
            answer.verdicts.push(RecordVerdict {
                reference: rejection.reference.clone(),
                verdict: Verdict::Rejected,
                cursor: None,
            });
        }
        let messages = self
            .messages
            .iter()
            .map(|message| &message.reference)
            .zip(&plan.message_fates);
        let tasks = self
            .tasks
            .iter()
            .map(|task| &task.reference)
            .zip(&plan.task_fates);
        let links = self.links.iter().zip(&plan.link_fates);
        for (reference, fate) in messages.chain(tasks).chain(links) {
            let (verdict, cursor) = match fate {
                Fate::Stored(_) => {
                    answer.synced += 1;
                    continue;
                }
                Fate::Duplicate(cursor) => (Verdict::Duplicate, Some(*cursor)),
                Fate::Superseded(cursor) => (Verdict::Superseded, Some(*cursor)),
                Fate::RetryLater => (Verdict::RetryLater, None),
            };
            answer.skipped += usize::from(cursor.is_some());
            answer.verdicts.push(RecordVerdict {
                reference: reference.clone(),
                verdict,
                cursor,
            });
        }
        answer
    }

    /// The machine that the records come from, as far as they say.
    pub(super) fn hardware_id(&self) -> Option<&str> {
        let of_messages = self
            .messages
            .iter()
            .filter_map(|message| message.record.hardware_id.as_deref());
        of_messages
            .chain(
                self.tasks
                    .iter()
                    .filter_map(|task| task.record.hardware_id.as_deref()),
            )
            .next()
    }
}

/// A sender that names no reference finds its record by its place.
fn reference(given: Option<RecordRef>, list: &str, n: usize) -> RecordRef {
    given.unwrap_or_else(|| RecordRef::Text(format!("{list}[{n}]")))
}

fn json(value: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(|error| Refusal {
        code: "invalid_field",
        message: format!("the record is no JSON: {error}"),
    })
}

/// Texts are limited to a few megabytes each, far below what the column holds.
fn size(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
