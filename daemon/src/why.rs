//! `why`: how it stands with one row, from context.db and the state file alone. Reads only.

use std::path::Path;

use coditect_shared::{ContentHash, TenantId};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _};
use serde::Serialize;

use crate::identity::{self, Acked};
use crate::key::{RowKey, Table};
use crate::owner::{Found, Owner};
use crate::policy::Policy;
use crate::projects::{self, Place, Standing};
use crate::redaction::Findings;
use crate::state;
use crate::store::{self, table_exists};

/// What is known of a row, fact by fact. A field that is null or empty has nothing to tell.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// Whether the row stands in the file.
    pub exists: bool,
    pub project: Option<Judged>,
    /// Changes that wait in the outbox.
    pub queued: Option<Queued>,
    /// Since when the row is kept back, by its project.
    pub excluded: Option<projects::excluded::Entry>,
    pub refused: Vec<Refusal>,
    /// What is replaced in the form that is sent, by kind.
    pub redacted: Findings,
    /// The push_seq of the batch in flight that the row is in.
    pub in_flight: Option<i64>,
    pub acknowledged: Option<Acknowledged>,
    /// A version from elsewhere that waits for the local change to end.
    pub held: Option<At>,
    /// The machine that wrote the row, if it was pulled; empty where that gave no name.
    pub pulled_from: Option<String>,
    /// Of a link that waits: what is with its ends.
    pub waits_for: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub name: String,
    #[serde(flatten)]
    pub standing: Standing,
}

#[derive(Clone, Debug, Serialize)]
pub struct Queued {
    pub changes: u64,
    /// When the first was made, in UTC.
    pub since: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// `up`: by the server, or it cannot travel. `down`: a version from elsewhere, by this file's own constraints.
    pub direction: String,
    pub code: String,
    pub message: String,
    pub at: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct At {
    pub epoch: i64,
    pub cursor: i64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Acknowledged {
    #[serde(flatten)]
    pub at: At,
    /// The row stands here as it was acknowledged.
    pub unchanged: bool,
}

/// What all facts come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    Sent,
    InFlight,
    Refused,
    Excluded,
    WaitsForEnd,
    ToSend,
    DeletedHere,
    NotNoticed,
    NoAccount,
}

/// None: neither the file nor our tables know the row.
pub fn look(
    context_db: &Path,
    state_db: &Path,
    policy: &Policy,
    key: &RowKey,
) -> anyhow::Result<Option<(Conclusion, Facts)>> {
    let Some((conn, owner)) = projects::open(context_db)? else {
        return Ok(None);
    };
    let snapshot = conn.unchecked_transaction()?;
    let reading = Reading {
        conn: &snapshot,
        owner: &owner,
        policy,
        key,
    };
    let mut facts = Facts {
        exists: reading.exists()?,
        project: reading.project()?,
        ..Facts::default()
    };
    // A file that no daemon has opened has none of our tables, or those of a former version.
    let is_ours = table_exists(&snapshot, "sync_excluded")?;
    let tenant: Option<String> = match is_ours {
        true => store::value(&snapshot, "bound_tenant")?,
        false => None,
    };
    if is_ours {
        reading.marks(&mut facts)?;
        if let Some(tenant) = &tenant {
            reading.identity(tenant.parse()?, &mut facts)?;
        }
        let batch = state::batch_in_flight(state_db)?;
        facts.in_flight = batch
            .filter(|batch| batch.records.iter().any(|sent| sent.key == *key))
            .map(|batch| batch.push_seq);
    }
    let is_known = facts.exists || facts.queued.is_some() || facts.acknowledged.is_some();
    Ok(is_known.then(|| (conclude(&facts, tenant.is_some()), facts)))
}

/// The worst that holds decides.
fn conclude(facts: &Facts, has_account: bool) -> Conclusion {
    let acknowledged = facts.acknowledged.as_ref();
    if facts.in_flight.is_some() {
        return Conclusion::InFlight;
    }
    if facts.refused.iter().any(|refusal| refusal.direction == "up") {
        return Conclusion::Refused;
    }
    if !facts.waits_for.is_empty() {
        return Conclusion::WaitsForEnd;
    }
    let unsent = match (&facts.project, has_account) {
        (Some(project), _) if !project.standing.included => Conclusion::Excluded,
        (_, false) => Conclusion::NoAccount,
        (_, true) => Conclusion::ToSend,
    };
    // An entry of a project that is included by now goes once the daemon has looked.
    if facts.excluded.is_some() || facts.queued.is_some() {
        return unsent;
    }
    match acknowledged {
        Some(_) if !facts.exists => Conclusion::DeletedHere,
        Some(acknowledged) if acknowledged.unchanged => Conclusion::Sent,
        Some(_) | None if unsent == Conclusion::ToSend => Conclusion::NotNoticed,
        Some(_) | None => unsent,
    }
}

struct Reading<'a> {
    conn: &'a Connection,
    owner: &'a Owner,
    policy: &'a Policy,
    key: &'a RowKey,
}

impl Reading<'_> {
    fn local_id(&self) -> Value {
        Value::from(self.key.key.clone())
    }

    /// The row id of the message, or of the message of a link.
    fn message(&self) -> Option<i64> {
        let part = match self.key.table {
            Table::Messages => &self.key.key,
            Table::TaskMessages => &self.key.key2,
            Table::TaskTracking => return None,
        };
        match Value::from(part.clone()) {
            Value::Integer(row_id) => Some(row_id),
            Value::Null | Value::Real(_) | Value::Text(_) | Value::Blob(_) => None,
        }
    }

    fn exists(&self) -> rusqlite::Result<bool> {
        match (self.key.table, self.message()) {
            (Table::Messages, Some(row_id)) => self.owner.message_exists(self.conn, row_id),
            (Table::TaskMessages, Some(row_id)) => Ok(self
                .owner
                .read_link(self.conn, &self.local_id(), row_id)?
                .is_some()),
            (Table::TaskTracking, _) => self.owner.task_exists(self.conn, &self.local_id()),
            (Table::Messages | Table::TaskMessages, None) => Ok(false),
        }
    }

    /// Of a link, that of its message.
    fn project(&self) -> rusqlite::Result<Option<Judged>> {
        let place: Option<Place> = match self.message() {
            Some(row_id) => projects::searched_message(self.conn, self.owner, row_id)?,
            None => projects::searched_task(self.conn, self.owner, &self.local_id())?,
        };
        Ok(place.map(|place| Judged {
            name: place.name().to_owned(),
            standing: self.policy.projects.judge(&place),
        }))
    }

    /// Outbox, quarantine, what is kept back, links that wait.
    fn marks(&self, facts: &mut Facts) -> rusqlite::Result<()> {
        let (table, key, key2) = (self.key.table.name(), &self.key.key, &self.key.key2);
        let (changes, since): (i64, Option<String>) = self.conn.query_row(
            "SELECT count(*), min(queued_at) FROM sync_queue
             WHERE table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3",
            rusqlite::params![table, key, key2],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        facts.queued = (changes > 0).then_some(Queued {
            changes: changes.unsigned_abs(),
            since,
        });
        let mut refused = self.conn.prepare(
            "SELECT direction, code, message, at FROM sync_quarantine
             WHERE table_name = ?1 AND row_id IS ?2 AND row_id2 IS ?3 ORDER BY id",
        )?;
        facts.refused = refused
            .query_map(rusqlite::params![table, key, key2], |row| {
                Ok(Refusal {
                    direction: row.get(0)?,
                    code: row.get(1)?,
                    message: row.get(2)?,
                    at: row.get(3)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        match self.key.table {
            Table::Messages | Table::TaskTracking => {
                facts.excluded = projects::excluded::entry(self.conn, self.key)?;
            }
            Table::TaskMessages => {
                let waits = self
                    .conn
                    .prepare("SELECT 1 FROM sync_links_parked WHERE task_id IS ?1 AND message_id IS ?2")?
                    .exists(rusqlite::params![key, key2])?;
                if waits {
                    facts.waits_for = self.ends()?;
                }
            }
        }
        Ok(())
    }

    /// What keeps a link that waits.
    fn ends(&self) -> rusqlite::Result<Vec<String>> {
        let mut waits_for = Vec::new();
        let task = self.local_id();
        let message_place = match self.message() {
            Some(row_id) => projects::searched_message(self.conn, self.owner, row_id)?,
            None => None,
        };
        let ends = [
            ("its message", message_place, self.message().map(RowKey::message)),
            (
                "its task",
                projects::searched_task(self.conn, self.owner, &task)?,
                Some(RowKey::task(&task)),
            ),
        ];
        for (end, place, key) in ends {
            let (Some(place), Some(key)) = (place, key) else {
                waits_for.push(format!("{end}, which is not in this file"));
                continue;
            };
            if self.policy.projects.excludes(&place) {
                waits_for.push(format!("{end}, whose project {} is excluded", place.name()));
            } else if crate::quarantine::holds_up(self.conn, &key)? {
                waits_for.push(format!("{end}, which was refused"));
            }
        }
        if waits_for.is_empty() {
            waits_for.push("an end that was not there; it is looked at again".into());
        }
        Ok(waits_for)
    }

    /// What was acknowledged, and whether the row still stands so.
    fn identity(&self, tenant: TenantId, facts: &mut Facts) -> rusqlite::Result<()> {
        let redactor = &self.policy.redactor;
        let (ident, acked, now): (i64, Acked, Option<([ContentHash; 2], i64)>) = match self.key.table {
            Table::Messages => {
                let Some(row_id) = self.message() else {
                    return Ok(());
                };
                let found = match self.owner.read_message(self.conn, tenant, redactor, row_id)? {
                    Found::Row(message) => Some(((message.hashes(), message.version), message.findings)),
                    Found::Gone | Found::Unfit(_) => None,
                };
                let (now, findings) = found.unzip();
                facts.redacted = findings.unwrap_or_default();
                let Some(identity) = identity::message_of_row(self.conn, row_id)? else {
                    return Ok(());
                };
                (identity.ident, identity.acked, now)
            }
            Table::TaskTracking => {
                let local_id = self.local_id();
                let Some(identity) = identity::task_of_row(self.conn, &local_id)? else {
                    return Ok(());
                };
                let found =
                    self.owner
                        .read_task(self.conn, tenant, redactor, &local_id, &identity.cloud_id)?;
                let found = match found {
                    Found::Row(task) => Some(((task.hashes(), task.version()), task.findings)),
                    Found::Gone | Found::Unfit(_) => None,
                };
                let (now, findings) = found.unzip();
                facts.redacted = findings.unwrap_or_default();
                (identity.ident, identity.acked, now)
            }
            Table::TaskMessages => return self.link(facts),
        };
        let table = self.key.table.name();
        facts.acknowledged = acked.is_known().then(|| Acknowledged {
            at: At {
                epoch: acked.stamp.epoch,
                cursor: acked.stamp.cursor,
            },
            unchanged: now.is_some_and(|(hashes, version)| acked.equals(hashes, version)),
        });
        facts.held = self.held(table, ident)?;
        let identities = match self.key.table {
            Table::Messages => "sync_messages",
            Table::TaskTracking | Table::TaskMessages => "sync_tasks",
        };
        facts.pulled_from = self
            .conn
            .query_row(
                &format!("SELECT hardware_id FROM {identities} WHERE ident = ?1"),
                [ident],
                |row| row.get(0),
            )
            .optional()?
            .flatten();
        Ok(())
    }

    fn link(&self, facts: &mut Facts) -> rusqlite::Result<()> {
        let Some(row_id) = self.message() else {
            return Ok(());
        };
        let found: Option<(i64, bool, Option<i64>, i64, i64)> = self
            .conn
            .query_row(
                "SELECT l.ident, l.acked, l.acked_sequence, l.acked_epoch, l.acked_cursor FROM sync_links l
                 JOIN sync_tasks t ON t.ident = l.task JOIN sync_messages m ON m.ident = l.message
                 WHERE t.local_id IS ?1 AND m.row_id = ?2",
                rusqlite::params![self.key.key, row_id],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )
            .optional()?;
        let Some((ident, acked, sequence, epoch, cursor)) = found else {
            return Ok(());
        };
        let now = self.owner.read_link(self.conn, &self.local_id(), row_id)?;
        facts.acknowledged = acked.then_some(Acknowledged {
            at: At { epoch, cursor },
            unchanged: now == Some(sequence),
        });
        facts.held = self.held("task_messages", ident)?;
        Ok(())
    }

    fn held(&self, table: &str, ident: i64) -> rusqlite::Result<Option<At>> {
        self.conn
            .query_row(
                "SELECT epoch, cursor FROM sync_held WHERE table_name = ?1 AND ident = ?2",
                rusqlite::params![table, ident],
                |row| {
                    Ok(At {
                        epoch: row.get(0)?,
                        cursor: row.get(1)?,
                    })
                },
            )
            .optional()
    }
}
