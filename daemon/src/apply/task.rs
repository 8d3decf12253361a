//! A pulled task into the file.

use std::borrow::Cow;

use coditect_shared::hash::task_hash;
use coditect_shared::{ContentHash, Stamp, TaskRecord};
use rusqlite::types::Value;
use uuid::Uuid;

use super::ApplyError;
use super::applier::Applier;
use super::plan::{Decision, Known, LocalRow, decide};
use crate::identity::{self, Acked, TaskIdentity};
use crate::key::{RowKey, Table};
use crate::outbox;
use crate::owner::{Found, LocalTask, task_version_of};
use crate::projects::excluded;
use crate::quarantine;
use crate::rules::{Rule, holds};

impl Applier<'_> {
    pub(super) fn task(&mut self, record: &TaskRecord, stamp: Stamp) -> Result<(), ApplyError> {
        let id = Uuid::parse_str(&record.id)
            .map_err(|_| ApplyError::Protocol(format!("task id {:?} is no UUID", record.id)))?;
        let cloud_id = id.to_string();
        let hash = task_hash(self.context.tenant, record);
        let pulled = Acked {
            hash: Some(hash),
            version: Some(task_version_of(hash)),
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
                    self.task_written(&identity, hash, pulled)
                }
                Err(error) => self.refused(Table::TaskTracking, &cloud_id, record, stamp, error),
            };
        };
        let local = self.local_task(&identity)?;
        let restored = match &local {
            Found::Row(task) => task.restored(record),
            Found::Gone | Found::Unfit(_) => Cow::Borrowed(record),
        };
        let hash_here = match &restored {
            Cow::Borrowed(_) => hash,
            Cow::Owned(restored) => task_hash(self.context.tenant, restored),
        };
        let row = match &local {
            Found::Gone if holds(Rule::DeletionKept) => LocalRow::Gone,
            Found::Gone => LocalRow::Different,
            Found::Row(task) if task.hash_here() == hash_here => LocalRow::Same,
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
                match self.owner.write_task(self.tx, &identity.local_id, &restored) {
                    Ok(()) => self.task_written(&identity, hash_here, pulled),
                    Err(error) => self.refused(Table::TaskTracking, &cloud_id, record, stamp, error),
                }
            }
            Decision::Acknowledge => {
                let acked = Acked {
                    version: Some(task_version_of(hash_here)),
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

    pub(super) fn local_task(&self, identity: &TaskIdentity) -> rusqlite::Result<Found<LocalTask>> {
        self.owner.read_task(
            self.tx,
            self.context.tenant,
            &self.context.policy.redactor,
            &identity.local_id,
            &identity.cloud_id,
        )
    }

    /// `hash_here` is that of what was written, in which secrets may stand that the pulled version lacks.
    fn task_written(
        &mut self,
        identity: &TaskIdentity,
        hash_here: ContentHash,
        pulled: Acked,
    ) -> Result<(), ApplyError> {
        let version = match self.local_task(identity)? {
            Found::Row(task) if !self.owner.has_triggers() => task.version(),
            Found::Row(_) | Found::Gone | Found::Unfit(_) => task_version_of(hash_here),
        };
        let acked = Acked {
            version: Some(version),
            ..pulled
        };
        identity::set_task_acked(self.tx, identity.ident, &acked)?;
        quarantine::lift_down(self.tx, Table::TaskTracking, &identity.cloud_id)?;
        quarantine::lift(self.tx, &RowKey::task(&identity.local_id))?;
        excluded::forget(self.tx, &RowKey::task(&identity.local_id))?;
        outbox::requeue_parked(self.tx, self.owner, &RowKey::task(&identity.local_id))?;
        self.note_written(RowKey::task(&identity.local_id), identity.ident);
        Ok(())
    }
}
