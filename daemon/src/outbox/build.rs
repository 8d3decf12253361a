//! From queued keys to a batch, in one transaction that also gives identities and a nonce.

use super::{Batch, BatchLimits, Context, Sent};
use crate::apply::{self, ApplyError};
use crate::identity::{self, Identified};
use crate::key::{KeyPart, RawKey, RowKey, Table};
use crate::owner::{Found, Owner, Unfit};
use crate::projects::{self, Place, excluded};
use crate::quarantine;
use crate::redaction::Findings;
use crate::rules::{Rule, holds};
use crate::store::{set_value, value};
use coditect_shared::hash::sha256;
use coditect_shared::wire::PushRequest;
use coditect_shared::{LinkRecord, RecordRef};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _};
use std::collections::HashSet;
use uuid::Uuid;

/// What one look at the outbox came to.
#[derive(Debug, Default)]
pub struct Built {
    pub batch: Option<Batch>,
    /// Entries that ended without being sent: unchanged, gone, unfit.
    pub ended: usize,
}

/// Reads the outbox in its order until a limit is met, and makes a batch of what needs to be sent.
pub fn build(
    tx: &Connection,
    owner: &Owner,
    context: &Context,
    limits: BatchLimits,
) -> Result<Built, ApplyError> {
    let mut builder = Builder {
        tx,
        owner,
        context,
        recovery_seq: value(tx, "recovery_seq")?.unwrap_or(0),
        request: PushRequest {
            epoch: value(tx, "epoch")?.unwrap_or(1),
            push_seq: value::<i64>(tx, "push_seq")?.unwrap_or(0) + 1,
            ..PushRequest::default()
        },
        records: Vec::new(),
        bytes: 0,
        ended: 0,
    };
    let mut looked_at = HashSet::new();
    let mut read_to = 0;
    for (seq, key) in window(tx, limits.rows * 2, &context.now)? {
        if looked_at.insert(key.clone()) {
            builder.add(&key)?;
        }
        read_to = seq;
        if builder.records.len() >= limits.rows || builder.bytes >= limits.bytes {
            break;
        }
    }
    if read_to > value(tx, "identified_seq")?.unwrap_or(0) {
        set_value(tx, "identified_seq", read_to)?;
    }
    builder.finish()
}

/// An end of links is here and can be sent: those that waited for it go back to the outbox, if their other end is too.
/// Asked for each row whose change is looked at and for each that is pulled, so that it costs nothing where none waits.
pub fn requeue_parked(tx: &Connection, owner: &Owner, end: &RowKey) -> rusqlite::Result<()> {
    let column = match end.table {
        Table::Messages => "message_id",
        Table::TaskTracking => "task_id",
        Table::TaskMessages => return Ok(()),
    };
    let links: Vec<(Value, Value)> = tx
        .prepare_cached(&format!(
            "SELECT task_id, message_id FROM sync_links_parked WHERE {column} IS ?1"
        ))?
        .query_map([&end.key], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (task, message) in links {
        let Value::Integer(message_id) = message else {
            continue;
        };
        // Here, or once acknowledged.
        let has_message = owner.message_exists(tx, message_id)?
            || identity::message_of_row(tx, message_id)?.is_some_and(|found| found.acked.is_known());
        let has_task = owner.task_exists(tx, &task)?
            || identity::task_of_row(tx, &task)?.is_some_and(|found| found.acked.is_known());
        if has_message
            && has_task
            && !stays_here(tx, &RowKey::message(message_id))?
            && !stays_here(tx, &RowKey::task(&task))?
        {
            RowKey::link(&task, message_id).queue(tx, "scan")?;
            tx.prepare_cached("DELETE FROM sync_links_parked WHERE task_id IS ?1 AND message_id = ?2")?
                .execute(rusqlite::params![task, message_id])?;
        }
    }
    Ok(())
}

/// Set aside on its way up, whatever its content, or of an excluded project.
fn stays_here(tx: &Connection, key: &RowKey) -> rusqlite::Result<bool> {
    Ok(quarantine::holds_up(tx, key)? || excluded::holds(tx, key)?)
}

struct Builder<'a> {
    tx: &'a Connection,
    owner: &'a Owner,
    context: &'a Context,
    /// Outbox entries up to here were made before this file took up a new device id.
    recovery_seq: i64,
    request: PushRequest,
    records: Vec<Sent>,
    bytes: usize,
    ended: usize,
}

impl Builder<'_> {
    fn add(&mut self, key: &RowKey) -> Result<(), ApplyError> {
        let (first, covered) = key.queued_range(self.tx)?;
        let recovering = first <= self.recovery_seq;
        match (key.table, &key.key) {
            (Table::Messages, KeyPart::Int(row_id)) => self.add_message(key, *row_id, covered, recovering),
            (Table::TaskTracking, _) => self.add_task(key, covered, recovering),
            (Table::TaskMessages, _) => self.add_link(key, covered, recovering),
            // A message's key is always an integer; anything else was put there by hand.
            (Table::Messages, _) => Ok(key.unqueue(self.tx, covered).map(drop)?),
        }
    }

    fn add_message(
        &mut self,
        key: &RowKey,
        row_id: i64,
        covered: i64,
        recovering: bool,
    ) -> Result<(), ApplyError> {
        match identity::identify_message(self.tx, self.owner, self.context, row_id)? {
            Identified::Gone(ident) => {
                self.lift(key)?;
                self.end_unsent(key, ident, covered)
            }
            Identified::Unfit(unfit, ident) => match self.excluded_message(row_id)? {
                Some(place) => self.exclude(key, &place, ident, covered),
                None => self.set_aside(key, &unfit, ident, covered),
            },
            Identified::Row(found) => {
                let (identity, message) = *found;
                if identity.acked.equals(message.hashes(), message.version) {
                    self.lift(key)?;
                    requeue_parked(self.tx, self.owner, key)?;
                    return self.end_unsent(key, Some(identity.ident), covered);
                }
                if let Some(place) = self.excluded_message(row_id)? {
                    return self.exclude(key, &place, Some(identity.ident), covered);
                }
                excluded::forget(self.tx, key)?;
                if quarantine::keeps(self.tx, key, &message.version.to_be_bytes())? {
                    return self.end_unsent(key, Some(identity.ident), covered);
                }
                requeue_parked(self.tx, self.owner, key)?;
                self.tx
                    .prepare_cached("UPDATE sync_messages SET sent = 1 WHERE ident = ?1 AND sent = 0")?
                    .execute([identity.ident])?;
                let mut record = message.record;
                let is_edit = identity.acked.is_known();
                let is_own_origin = identity.origin.content_hash == message.hash;
                record.reference = Some(RecordRef::Number(self.next_reference()));
                record.content_hash = Some(message.hash.to_string());
                record.occurrence = if is_own_origin {
                    identity.origin.occurrence
                } else {
                    0
                };
                record.hardware_id.clone_from(&self.context.hardware_id);
                record.base = recovering.then_some(identity.acked.stamp);
                if is_edit || !is_own_origin {
                    record.origin = Some(identity.origin);
                    record.edit = (!is_edit).then_some(false);
                }
                self.bytes += record.content.len() + record.session_id.len();
                self.request.messages.push(record);
                self.records.push(Sent {
                    key: key.clone(),
                    ident: identity.ident,
                    covered,
                    hash: Some(message.hash),
                    version: Some(message.version),
                    findings: message.findings,
                });
                Ok(())
            }
        }
    }

    fn add_task(&mut self, key: &RowKey, covered: i64, recovering: bool) -> Result<(), ApplyError> {
        let local_id = Value::from(key.key.clone());
        let context = self.context;
        let Some((identity, found)) = identity::identify_task(self.tx, self.owner, context, &local_id)?
        else {
            self.lift(key)?;
            return self.end_unsent(key, None, covered);
        };
        match found {
            Found::Gone => {
                self.lift(key)?;
                self.end_unsent(key, Some(identity.ident), covered)
            }
            Found::Unfit(unfit) => match self.excluded_task(&local_id)? {
                Some(place) => self.exclude(key, &place, Some(identity.ident), covered),
                None => self.set_aside(key, &unfit, Some(identity.ident), covered),
            },
            Found::Row(task) => {
                let version = task.version();
                if identity.acked.equals(task.hashes(), version) {
                    self.lift(key)?;
                    requeue_parked(self.tx, self.owner, key)?;
                    return self.end_unsent(key, Some(identity.ident), covered);
                }
                if let Some(place) = self.excluded_task(&local_id)? {
                    return self.exclude(key, &place, Some(identity.ident), covered);
                }
                excluded::forget(self.tx, key)?;
                if quarantine::keeps(self.tx, key, &version.to_be_bytes())? {
                    return self.end_unsent(key, Some(identity.ident), covered);
                }
                requeue_parked(self.tx, self.owner, key)?;
                let mut record = task.record;
                record.reference = Some(RecordRef::Number(self.next_reference()));
                record.content_hash = Some(task.hash.to_string());
                record.client_version = Some(env!("CARGO_PKG_VERSION").into());
                record.hardware_id.clone_from(&context.hardware_id);
                record.base = recovering.then_some(identity.acked.stamp);
                self.bytes += record.description.len();
                self.request.tasks.push(record);
                self.records.push(Sent {
                    key: key.clone(),
                    ident: identity.ident,
                    covered,
                    hash: Some(task.hash),
                    version: Some(version),
                    findings: task.findings,
                });
                Ok(())
            }
        }
    }

    fn add_link(&mut self, key: &RowKey, covered: i64, recovering: bool) -> Result<(), ApplyError> {
        let (tx, task_id) = (self.tx, Value::from(key.key.clone()));
        let KeyPart::Int(message_id) = key.key2 else {
            // A link to no message, or to a text: nothing on another device could answer to it.
            return Ok(key.unqueue(tx, covered).map(drop)?);
        };
        let Some(sequence) = self.owner.read_link(tx, &task_id, message_id)? else {
            if let Some(link) = link_of_rows(tx, &task_id, message_id)? {
                tx.prepare_cached("UPDATE sync_links SET gone = 1 WHERE ident = ?1")?
                    .execute([link])?;
            }
            let ident = link_of_rows(tx, &task_id, message_id)?;
            tx.prepare_cached("DELETE FROM sync_links_parked WHERE task_id IS ?1 AND message_id = ?2")?
                .execute(rusqlite::params![task_id, message_id])?;
            quarantine::lift(tx, key)?;
            return self.end_unsent(key, ident, covered);
        };
        let Some((task, message)) = self.ends_of_link(&task_id, message_id)? else {
            key.unqueue(tx, covered)?;
            self.ended += 1;
            if !holds(Rule::ParkedLinks) {
                return Ok(());
            }
            tx.prepare_cached(
                "INSERT OR IGNORE INTO sync_links_parked (task_id, message_id) VALUES (?1, ?2)",
            )?
            .execute(rusqlite::params![task_id, message_id])?;
            return Ok(());
        };
        let link = apply::link_identity(tx, task.ident, message.ident)?;
        if link.gone {
            tx.prepare_cached("UPDATE sync_links SET gone = 0 WHERE ident = ?1")?
                .execute([link.ident])?;
        }
        if link.acked && link.acked_sequence == sequence {
            quarantine::lift(tx, key)?;
            return self.end_unsent(key, Some(link.ident), covered);
        }
        if quarantine::keeps(tx, key, &sequence.unwrap_or_default().to_be_bytes())? {
            return self.end_unsent(key, Some(link.ident), covered);
        }
        self.request.task_messages.push(LinkRecord {
            reference: Some(RecordRef::Number(self.next_reference())),
            task_id: task.cloud_id,
            message: message.origin,
            sequence,
            base: recovering.then_some(link.stamp),
            stamp: None,
            sync_cursor: None,
            synced_at: None,
        });
        self.records.push(Sent {
            key: key.clone(),
            ident: link.ident,
            covered,
            hash: None,
            version: sequence,
            findings: Findings::new(),
        });
        Ok(())
    }

    /// Both ends of a link that may be sent: here or acknowledged, neither in quarantine nor of an excluded project.
    fn ends_of_link(
        &self,
        task_id: &Value,
        message_id: i64,
    ) -> rusqlite::Result<Option<(identity::TaskIdentity, identity::MessageIdentity)>> {
        let (tx, owner, context) = (self.tx, self.owner, self.context);
        if quarantine::holds_up(tx, &RowKey::message(message_id))?
            || quarantine::holds_up(tx, &RowKey::task(task_id))?
            || self.excluded_message(message_id)?.is_some()
            || self.excluded_task(task_id)?.is_some()
        {
            return Ok(None);
        }
        let message = match identity::identify_message(tx, owner, context, message_id)? {
            Identified::Row(found) => found.0,
            Identified::Unfit(..) => return Ok(None),
            Identified::Gone(None) => return Ok(None),
            Identified::Gone(Some(ident)) => match identity::message_by_ident(tx, ident)? {
                Some(message) if message.acked.is_known() => message,
                Some(_) | None => return Ok(None),
            },
        };
        let Some((task, found)) = identity::identify_task(tx, owner, context, task_id)? else {
            return Ok(None);
        };
        let usable = match found {
            Found::Row(_) => true,
            Found::Gone => task.acked.is_known(),
            Found::Unfit(_) => false,
        };
        Ok(usable.then_some((task, message)))
    }

    fn next_reference(&self) -> i64 {
        i64::try_from(self.records.len()).expect("a batch is far smaller")
    }

    /// Session and project of a message that must not leave the machine.
    fn excluded_message(&self, row_id: i64) -> rusqlite::Result<Option<(String, Place)>> {
        let filter = &self.context.policy.projects;
        if filter.includes_all() {
            return Ok(None);
        }
        let judged = projects::judged_message(self.tx, self.owner, row_id)?;
        Ok(judged.filter(|(_, place)| filter.excludes(place)))
    }

    fn excluded_task(&self, local_id: &Value) -> rusqlite::Result<Option<(String, Place)>> {
        let filter = &self.context.policy.projects;
        if filter.includes_all() {
            return Ok(None);
        }
        let judged = projects::judged_task(self.tx, self.owner, local_id)?;
        Ok(judged.filter(|(_, place)| filter.excludes(place)))
    }

    /// The row stays here until its project is included. Its identity stands, as that of a refused row does.
    fn exclude(
        &mut self,
        key: &RowKey,
        (session, place): &(String, Place),
        ident: Option<i64>,
        covered: i64,
    ) -> Result<(), ApplyError> {
        quarantine::lift(self.tx, key)?;
        excluded::set_aside(self.tx, key, session, place, &self.context.now)?;
        self.end_unsent(key, ident, covered)
    }

    /// Nothing of the row is kept back any more.
    fn lift(&self, key: &RowKey) -> rusqlite::Result<()> {
        quarantine::lift(self.tx, key)?;
        excluded::forget(self.tx, key)
    }

    /// The local change has ended without being sent.
    fn end_unsent(&mut self, key: &RowKey, ident: Option<i64>, covered: i64) -> Result<(), ApplyError> {
        self.ended += 1;
        key.unqueue(self.tx, covered)?;
        match ident {
            Some(ident) => apply::end_of_change(self.tx, self.owner, self.context, key, ident, false),
            None => Ok(()),
        }
    }

    fn set_aside(
        &mut self,
        key: &RowKey,
        unfit: &Unfit,
        ident: Option<i64>,
        covered: i64,
    ) -> Result<(), ApplyError> {
        excluded::forget(self.tx, key)?;
        if !quarantine::keeps(self.tx, key, unfit.fingerprint.as_bytes())? {
            let refused = quarantine::Refused {
                code: unfit.refusal.code,
                message: &unfit.refusal.message,
            };
            quarantine::add_up(
                self.tx,
                key,
                unfit.fingerprint.as_bytes(),
                &refused,
                &self.context.now,
            )?;
        }
        self.end_unsent(key, ident, covered)
    }

    fn finish(mut self) -> Result<Built, ApplyError> {
        if self.records.is_empty() {
            return Ok(Built {
                batch: None,
                ended: self.ended,
            });
        }
        // Rows before links: a link's ends come first, in the batch as in the answer.
        self.sort_records();
        let nonce = Uuid::new_v4().simple().to_string();
        set_value(self.tx, "batch_nonce", nonce.as_str())?;
        let body = serde_json::to_vec(&self.request)
            .map_err(|error| ApplyError::Protocol(format!("cannot render a batch: {error}")))?;
        let batch = Batch {
            device: self.context.device,
            push_seq: self.request.push_seq,
            epoch: self.request.epoch,
            nonce,
            digest: sha256(&body),
            redacted_by: Some(self.context.policy.redactor.fingerprint()),
            records: self.records,
            body,
        };
        Ok(Built {
            batch: Some(batch),
            ended: self.ended,
        })
    }

    /// Records and request in one order, with references that count through it.
    fn sort_records(&mut self) {
        self.records.sort_by_key(|sent| sent.key.table);
        let mut next = 0;
        let mut number = || {
            next += 1;
            Some(RecordRef::Number(next - 1))
        };
        self.request
            .messages
            .iter_mut()
            .for_each(|record| record.reference = number());
        self.request
            .tasks
            .iter_mut()
            .for_each(|record| record.reference = number());
        self.request
            .task_messages
            .iter_mut()
            .for_each(|record| record.reference = number());
    }
}

/// The oldest outbox entries. One that no record can name is set aside, so that it does not stand there for ever.
fn window(tx: &Connection, limit: usize, now: &str) -> rusqlite::Result<Vec<(i64, RowKey)>> {
    let mut statement =
        tx.prepare_cached("SELECT seq, table_name, row_id, row_id2 FROM sync_queue ORDER BY seq LIMIT ?1")?;
    let mut rows = statement.query([i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut window = Vec::new();
    while let Some(row) = rows.next()? {
        let (seq, name): (i64, String) = (row.get(0)?, row.get(1)?);
        let (key, key2): (RawKey, RawKey) = (row.get(2)?, row.get(3)?);
        match (Table::from_name(&name), key.into_part(), key2.into_part()) {
            (Some(table), Ok(key), Ok(key2)) => window.push((seq, RowKey { table, key, key2 })),
            (Some(table), key, key2) => {
                set_unnamed_aside(tx, table, key, key2, now)?;
                tx.prepare_cached("DELETE FROM sync_queue WHERE seq = ?1")?
                    .execute([seq])?;
            }
            // Not ours.
            (None, _, _) => drop(tx.execute("DELETE FROM sync_queue WHERE seq = ?1", [seq])?),
        }
    }
    Ok(window)
}

fn set_unnamed_aside(
    tx: &Connection,
    table: Table,
    key: Result<KeyPart, Vec<u8>>,
    key2: Result<KeyPart, Vec<u8>>,
    now: &str,
) -> rusqlite::Result<()> {
    let bytes = |part: Result<KeyPart, Vec<u8>>| part.unwrap_or_else(|bytes| Value::Blob(bytes).into());
    let key = RowKey {
        table,
        key: bytes(key),
        key2: bytes(key2),
    };
    let refused = quarantine::Refused {
        code: "invalid_field",
        message: "the row's key is no UTF-8, and no other device could name it",
    };
    quarantine::add_up(tx, &key, b"key", &refused, now)
}

fn link_of_rows(tx: &Connection, task_id: &Value, message_id: i64) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached(
        "SELECT l.ident FROM sync_links l
         JOIN sync_tasks t ON t.ident = l.task JOIN sync_messages m ON m.ident = l.message
         WHERE t.local_id IS ?1 AND m.row_id = ?2",
    )?
    .query_row(rusqlite::params![task_id, message_id], |row| row.get(0))
    .optional()
}
