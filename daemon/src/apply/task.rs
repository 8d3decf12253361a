//! A pulled task into the file.

use coditect_shared::hash::task_hash;
use coditect_shared::{Stamp, TaskRecord};
use rusqlite::types::Value;
use uuid::Uuid;

use super::ApplyError;
use super::applier::Applier;
use super::plan::{Decision, Known, LocalRow, decide};
use crate::identity::{self, Acked, TaskIdentity};
use crate::key::{RowKey, Table};
use crate::outbox;
use crate::owner::Found;
use crate::projects::excluded;
use crate::quarantine;
use crate::rules::{Rule, holds};

impl Applier<'_> {
    pub(super) fn task(&mut self, record: &TaskRecord, stamp: Stamp) -> Result<(), ApplyError> {
        let id = Uuid::parse_str(&record.id)
            .map_err(|_| ApplyError::Protocol(format!("task id {:?} is no UUID", record.id)))?;
        let cloud_id = id.to_string();
        let hash = task_hash(self.context.tenant, record);
        let version = i64::from_ne_bytes(hash.first_u64().to_ne_bytes());
        let pulled = Acked {
            hash: Some(hash),
            version: Some(version),
            stamp,
        };
        let mut identity = identity::task_by_cloud_id(self.tx, &cloud_id)?;
        let local_id = Value::Text(cloud_id.clone());
        if identity.is_none() && self.owner.task_exists(self.tx, &local_id)? {
            // A row that no trigger told us of. It is looked at like any other change.
            RowKey::task(&local_id).queue(self.tx, "scan")?;
            identity = Some(identity::insert_task(self.tx, &local_id, &cloud_id)?);
        }
        let Some(identity) = identity else {
            return match self.owner.write_task(self.tx, &local_id, record) {
                Ok(()) => {
                    let identity = identity::insert_task(self.tx, &local_id, &cloud_id)?;
                    identity::set_task_hardware(self.tx, identity.ident, record.hardware_id.as_deref())?;
                    self.task_written(&identity, pulled)
                }
                Err(error) => self.refused(Table::TaskTracking, &cloud_id, record, stamp, error),
            };
        };
        let local = self
            .owner
            .read_task(self.tx, self.context.tenant, &identity.local_id, &cloud_id)?;
        let row = match &local {
            Found::Gone if holds(Rule::DeletionKept) => LocalRow::Gone,
            Found::Gone => LocalRow::Different,
            Found::Row(task) if task.hash == hash => LocalRow::Same,
            Found::Row(_) | Found::Unfit(_) => LocalRow::Different,
        };
        let pending = RowKey::task(&identity.local_id).is_pending(self.tx)?;
        match decide(
            Some(Known {
                row,
                pending,
                acked: &identity.acked,
            }),
            stamp,
        ) {
            Decision::Insert | Decision::Update => {
                match self.owner.write_task(self.tx, &identity.local_id, record) {
                    Ok(()) => self.task_written(&identity, pulled),
                    Err(error) => self.refused(Table::TaskTracking, &cloud_id, record, stamp, error),
                }
            }
            Decision::Acknowledge => {
                let acked = Acked {
                    stamp: stamp.max(identity.acked.stamp),
                    ..pulled
                };
                excluded::forget(self.tx, &RowKey::task(&identity.local_id))?;
                Ok(identity::set_task_acked(self.tx, identity.ident, &acked)?)
            }
            Decision::Hold => self.hold(Table::TaskTracking, identity.ident, record, stamp),
            Decision::Skip => Ok(()),
        }
    }

    fn task_written(&mut self, identity: &TaskIdentity, pulled: Acked) -> Result<(), ApplyError> {
        let tenant = self.context.tenant;
        let found = self
            .owner
            .read_task(self.tx, tenant, &identity.local_id, &identity.cloud_id)?;
        let version = match found {
            Found::Row(task) if !self.owner.has_triggers() => Some(task.version()),
            Found::Row(_) | Found::Gone | Found::Unfit(_) => pulled.version,
        };
        identity::set_task_acked(self.tx, identity.ident, &Acked { version, ..pulled })?;
        quarantine::lift_down(self.tx, Table::TaskTracking, &identity.cloud_id)?;
        quarantine::lift(self.tx, &RowKey::task(&identity.local_id))?;
        excluded::forget(self.tx, &RowKey::task(&identity.local_id))?;
        outbox::requeue_parked(self.tx, self.owner, &RowKey::task(&identity.local_id))?;
        self.note_written(RowKey::task(&identity.local_id), identity.ident);
        Ok(())
    }
}
