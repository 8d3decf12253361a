//! What every pulled row needs of the transaction: the flag that stops the echo, and where a row goes that cannot be
//! written now.

use coditect_shared::{DeviceId, Stamp};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode};

use super::ApplyError;
use super::link::link_by_ident;
use crate::identity;
use crate::key::{RowKey, Table};
use crate::outbox::Context;
use crate::owner::{Found, Owner};
use crate::quarantine;
use crate::rules::{Rule, holds};
use crate::store::value;

/// Applies rows to the owner's tables and to our identities.
pub(super) struct Applier<'a> {
    pub(super) tx: &'a Connection,
    pub(super) owner: &'a Owner,
    pub(super) context: &'a Context,
    /// Devices that this file was before; empty outside recovery.
    pub(super) former_devices: Vec<DeviceId>,
    /// Where the owner has triggers: the newest outbox entry from before, and the rows that we wrote.
    pub(super) queued_before: Option<i64>,
    pub(super) written: Vec<(RowKey, i64)>,
}

impl<'a> Applier<'a> {
    pub(super) fn begin(
        tx: &'a Connection,
        owner: &'a Owner,
        context: &'a Context,
    ) -> rusqlite::Result<Self> {
        let queued_before = if owner.has_triggers() {
            Some(
                tx.query_row("SELECT coalesce(max(seq), 0) FROM sync_queue", [], |row| {
                    row.get(0)
                })?,
            )
        } else if !holds(Rule::GuardFlag) {
            None
        } else {
            tx.prepare_cached("INSERT INTO sync_applying (on_behalf_of) VALUES ('coditect-sync')")?
                .execute([])?;
            None
        };
        let former_devices = match value::<i64>(tx, "recovering")? {
            Some(_) => value::<String>(tx, "former_devices")?
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect(),
            None => Vec::new(),
        };
        Ok(Self {
            tx,
            owner,
            context,
            former_devices,
            queued_before,
            written: Vec::new(),
        })
    }

    pub(super) fn finish(self) -> rusqlite::Result<()> {
        let Some(queued_before) = self.queued_before else {
            self.tx.prepare_cached("DELETE FROM sync_applying")?.execute([])?;
            return Ok(());
        };
        for (key, ident) in &self.written {
            if self.stands_as_pulled(key, *ident)? {
                self.tx
                    .prepare_cached(
                        "DELETE FROM sync_queue
                         WHERE table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3 AND seq > ?4",
                    )?
                    .execute(rusqlite::params![
                        key.table.name(),
                        key.key,
                        key.key2,
                        queued_before
                    ])?;
            }
        }
        Ok(())
    }

    /// Whether a row that we wrote still is what was pulled, after the owner's triggers have run.
    pub(super) fn stands_as_pulled(&self, key: &RowKey, ident: i64) -> rusqlite::Result<bool> {
        match key.table {
            Table::Messages => {
                let Some(identity) = identity::message_by_ident(self.tx, ident)? else {
                    return Ok(false);
                };
                Ok(match self.local_message(&identity)? {
                    Some(Found::Row(message)) => identity.acked.equals(message.hashes(), message.version),
                    Some(Found::Gone | Found::Unfit(_)) | None => false,
                })
            }
            Table::TaskTracking => {
                let Some(identity) = identity::task_by_ident(self.tx, ident)? else {
                    return Ok(false);
                };
                Ok(match self.local_task(&identity)? {
                    Found::Row(task) => identity.acked.equals(task.hashes(), task.version()),
                    Found::Gone | Found::Unfit(_) => false,
                })
            }
            Table::TaskMessages => {
                let Some(link) = link_by_ident(self.tx, ident)? else {
                    return Ok(false);
                };
                let Value::Integer(message) = Value::from(key.key2.clone()) else {
                    return Ok(false);
                };
                let found = self
                    .owner
                    .read_link(self.tx, &Value::from(key.key.clone()), message)?;
                Ok(found == Some(link.acked_sequence))
            }
        }
    }

    pub(super) fn note_written(&mut self, key: RowKey, ident: i64) {
        if self.queued_before.is_some() {
            self.written.push((key, ident));
        }
    }

    pub(super) fn hold(
        &self,
        table: Table,
        ident: i64,
        record: &impl serde::Serialize,
        stamp: Stamp,
    ) -> Result<(), ApplyError> {
        if !holds(Rule::Held) {
            return Ok(());
        }
        let body = rendered(record)?;
        // Of several versions the newest is the one to apply.
        self.tx
            .prepare_cached(
                "INSERT OR REPLACE INTO sync_held (table_name, ident, body, epoch, cursor)
                 SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM sync_held
                   WHERE table_name = ?1 AND ident = ?2 AND (epoch, cursor) >= (?4, ?5))",
            )?
            .execute(rusqlite::params![
                table.name(),
                ident,
                body,
                stamp.epoch,
                stamp.cursor
            ])?;
        Ok(())
    }

    /// The owner's own constraints refuse a pulled row: it is set aside with its body, and the cursor moves on. A
    /// failed statement has changed nothing, so that the transaction goes on.
    pub(super) fn refused(
        &self,
        table: Table,
        cloud_key: &str,
        record: &impl serde::Serialize,
        stamp: Stamp,
        error: rusqlite::Error,
    ) -> Result<(), ApplyError> {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {}
            // A trigger of the owner said RAISE(IGNORE).
            None if matches!(error, rusqlite::Error::StatementChangedRows(_)) => {}
            Some(_) | None => return Err(error.into()),
        }
        if self.tx.is_autocommit() {
            // A trigger of the owner said RAISE(ROLLBACK), which ends our transaction too.
            return Err(ApplyError::Sqlite(error));
        }
        let message = format!("context.db refuses the row: {error}");
        let refused = quarantine::Refused {
            code: "local_constraint",
            message: &message,
        };
        let body = rendered(record)?;
        Ok(quarantine::add_down(
            self.tx,
            table,
            cloud_key,
            &body,
            stamp,
            &refused,
            &self.context.now,
        )?)
    }
}

fn rendered(record: &impl serde::Serialize) -> Result<String, ApplyError> {
    serde_json::to_string(record)
        .map_err(|error| ApplyError::Protocol(format!("cannot render a record: {error}")))
}
