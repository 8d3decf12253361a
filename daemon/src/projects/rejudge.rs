//! Judging anew after the settings have changed: what may leave by now goes back to the outbox, in parts.
//!
//! Nothing is sent before it is done. Which settings the file was last judged by stands in it, so that a daemon that
//! died meanwhile, or was not running when they changed, begins anew.

use rusqlite::types::Value;
use rusqlite::{Connection, Error};

use super::{ProjectFilter, note_sessions, note_tasks, of_message, of_task};
use crate::key::{KeyPart, RowKey, Table};
use crate::owner::Owner;
use crate::store::{set_value, value};

/// Rows of one step: some milliseconds of the write lock.
const STEP_ROWS: usize = 500;

/// Where the judging stands; each part is a transaction of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rejudge {
    #[default]
    Begun,
    /// Sessions are noted, of the messages above this one. While all projects were included, nobody did.
    Sessions {
        after: i64,
    },
    /// Entries of `sync_excluded` above this one.
    Excluded {
        after: i64,
    },
    /// Links that wait: it may be for an end that was excluded.
    Links,
    Done,
}

impl Rejudge {
    /// Whether sessions are known, so that what was built before can be judged.
    pub fn knows_sessions(self) -> bool {
        match self {
            Rejudge::Begun | Rejudge::Sessions { .. } => false,
            Rejudge::Excluded { .. } | Rejudge::Links | Rejudge::Done => true,
        }
    }
}

/// Whether the file was last judged by other settings.
pub fn is_due(conn: &Connection, filter: &ProjectFilter) -> rusqlite::Result<bool> {
    Ok(judged_by(conn)? != filter.fingerprint())
}

/// Whether the file was last judged by settings that are not the defaults.
pub fn was_judged(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(!judged_by(conn)?.is_empty())
}

fn judged_by(conn: &Connection) -> rusqlite::Result<String> {
    let fingerprint: Option<String> = value(conn, "projects_judged_by")?;
    Ok(fingerprint.unwrap_or_default())
}

/// Does the next part; gives where that leads.
pub fn step(
    tx: &Connection,
    owner: &Owner,
    filter: &ProjectFilter,
    at: Rejudge,
) -> rusqlite::Result<Rejudge> {
    match at {
        Rejudge::Begun if filter.includes_all() => {
            // From here on rows pass without a look at their session.
            set_value(tx, "sessions_noted", Value::Null)?;
            Ok(Rejudge::Excluded { after: 0 })
        }
        Rejudge::Begun if value::<i64>(tx, "sessions_noted")?.is_some() => Ok(Rejudge::Excluded { after: 0 }),
        Rejudge::Begun => Ok(Rejudge::Sessions { after: i64::MIN }),
        Rejudge::Sessions { after } => match note_sessions(tx, owner, after, STEP_ROWS)? {
            Some(after) => Ok(Rejudge::Sessions { after }),
            None => {
                note_tasks(tx, owner)?;
                set_value(tx, "sessions_noted", 1)?;
                Ok(Rejudge::Excluded { after: 0 })
            }
        },
        Rejudge::Excluded { after } => excluded(tx, owner, filter, after),
        Rejudge::Links => {
            if links(tx)? {
                return Ok(Rejudge::Links);
            }
            let judged_by = Some(filter.fingerprint()).filter(|fingerprint| !fingerprint.is_empty());
            set_value(tx, "projects_judged_by", judged_by)?;
            Ok(Rejudge::Done)
        }
        Rejudge::Done => Ok(Rejudge::Done),
    }
}

fn excluded(tx: &Connection, owner: &Owner, filter: &ProjectFilter, after: i64) -> rusqlite::Result<Rejudge> {
    let entries: Vec<(i64, String, KeyPart)> = tx
        .prepare_cached(
            "SELECT id, table_name, row_id FROM sync_excluded WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?
        .query_map([after, limit()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<Result<_, Error>>()?;
    for (_, name, key) in &entries {
        let Some(table) = Table::from_name(name) else {
            continue;
        };
        let key = RowKey {
            table,
            key: key.clone(),
            key2: KeyPart::Null,
        };
        let place = match (table, &key.key) {
            (Table::Messages, KeyPart::Int(row_id)) => of_message(tx, owner, *row_id)?,
            (_, local_id) => of_task(tx, owner, &Value::from(local_id.clone()))?,
        };
        if place.is_none_or(|place| !filter.excludes(&place)) {
            key.queue(tx, "scan")?;
        }
    }
    Ok(match entries.last() {
        Some((after, _, _)) => Rejudge::Excluded { after: *after },
        None => Rejudge::Links,
    })
}

/// Whether a link may go is judged when its turn comes; else it is parked again. Whether there were any.
fn links(tx: &Connection) -> rusqlite::Result<bool> {
    let parked: Vec<(i64, Value, Value)> = tx
        .prepare_cached("SELECT rowid, task_id, message_id FROM sync_links_parked ORDER BY rowid LIMIT ?1")?
        .query_map([limit()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, Error>>()?;
    for (rowid, task, message) in &parked {
        if let Value::Integer(message) = message {
            RowKey::link(task, *message).queue(tx, "scan")?;
        }
        tx.prepare_cached("DELETE FROM sync_links_parked WHERE rowid = ?1")?
            .execute([rowid])?;
    }
    Ok(!parked.is_empty())
}

fn limit() -> i64 {
    i64::try_from(STEP_ROWS).expect("a few hundred")
}
