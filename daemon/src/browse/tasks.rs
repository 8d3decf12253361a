//! The tasks of the file, those of the newest session first.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::types::Value;
use serde::Serialize;

use super::device::{Device, DeviceFilter};
use super::filter::{ProjectGlob, Since, moment};
use super::{Browser, some_text, text};
use crate::projects::{NONE, Place};

/// A task, as `tasks --json` shows it. Field names are part of the contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Task {
    pub id: String,
    pub task_id: String,
    pub session_id: Option<String>,
    pub project: Option<String>,
    pub description: String,
    pub active_form: Option<String>,
    /// pending, in_progress or completed.
    pub status: String,
    pub outcome: Option<String>,
    pub outcome_score: Option<f64>,
    pub tool_success_count: Option<i64>,
    pub tool_error_count: Option<i64>,
    /// As the source spells them.
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    pub updated_at: Option<String>,
    pub device: Device,
    /// `sent`, `waiting`, `excluded`, `refused` or `local`.
    pub sync: super::SyncState,
    /// The first message of the work on it.
    #[serde(skip)]
    pub(crate) first_message: Option<i64>,
}

/// All of these must hold; what is None always does.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub project: Option<ProjectGlob>,
    pub status: Option<String>,
    pub device: Option<DeviceFilter>,
    pub since: Option<Since>,
    /// The whole id of a session.
    pub session: Option<String>,
}

impl Task {
    /// The last thing that happened to it.
    pub fn last_at(&self) -> Option<&str> {
        [&self.updated_at, &self.completed_at, &self.started_at]
            .into_iter()
            .find_map(Option::as_deref)
    }
}

impl Browser {
    /// The tasks that the filter lets through: sessions newest first, tasks of a session in the order of the list.
    pub fn tasks(&self, filter: &TaskFilter) -> rusqlite::Result<Vec<Task>> {
        let places = self.places()?;
        let mut tasks = Vec::new();
        for mut task in self.all_tasks(filter.session.as_deref())? {
            let place = places
                .get(task.session_id.as_deref().unwrap_or_default())
                .cloned()
                .unwrap_or_default();
            let place = Place {
                own: task.project.take(),
                ..place
            };
            if filter.lets_through(&task, &place) {
                let name = place.own.as_deref().unwrap_or(place.name());
                task.project = Some(name.to_owned()).filter(|name| name != NONE);
                tasks.push(task);
            }
        }
        Ok(by_session(tasks))
    }

    fn all_tasks(&self, session: Option<&str>) -> rusqlite::Result<Vec<Task>> {
        let column = |name| self.task_column(name);
        let (waiting, excluded, refused, elsewhere) = (
            self.task_keys("SELECT row_id, NULL FROM sync_queue WHERE table_name = 'task_tracking'")?,
            self.task_keys("SELECT row_id, NULL FROM sync_excluded WHERE table_name = 'task_tracking'")?,
            self.task_keys(
                "SELECT row_id, NULL FROM sync_quarantine WHERE table_name = 'task_tracking' AND direction = 'up'",
            )?,
            self.task_keys("SELECT local_id, hardware_id FROM sync_tasks WHERE hardware_id IS NOT NULL")?,
        );
        let keys = |found: &[(String, String)]| -> HashSet<String> {
            found.iter().map(|(key, _)| key.clone()).collect()
        };
        let (waiting, excluded, refused) = (keys(&waiting), keys(&excluded), keys(&refused));
        let elsewhere: std::collections::HashMap<String, String> = elsewhere.into_iter().collect();
        let bound = self.is_bound()?;
        let sql = format!(
            "SELECT id, task_id, {session}, {}, {}, {}, status, {}, {}, {}, {}, {}, {}, {},
               (SELECT min(message_id) FROM task_messages l WHERE l.task_id = t.id)
             FROM task_tracking t WHERE ?1 IS NULL OR coalesce({session}, '') = ?1 ORDER BY t.rowid",
            column("project_id"),
            column("description"),
            column("active_form"),
            column("outcome"),
            column("outcome_score"),
            column("tool_success_count"),
            column("tool_error_count"),
            column("started_at"),
            column("completed_at"),
            column("updated_at"),
            session = column("session_id"),
        );
        let mut statement = self.conn.prepare(&sql)?;
        let mut rows = statement.query([session])?;
        let mut tasks = Vec::new();
        while let Some(row) = rows.next()? {
            let id = text(row.get_ref(0)?);
            let sync = match () {
                () if !bound => super::SyncState::Local,
                () if excluded.contains(&id) => super::SyncState::Excluded,
                () if waiting.contains(&id) => super::SyncState::Waiting,
                () if refused.contains(&id) => super::SyncState::Refused,
                () => super::SyncState::Sent,
            };
            tasks.push(Task {
                task_id: text(row.get_ref(1)?),
                session_id: some_text(row.get_ref(2)?),
                project: some_text(row.get_ref(3)?),
                description: text(row.get_ref(4)?),
                active_form: some_text(row.get_ref(5)?),
                status: text(row.get_ref(6)?),
                outcome: some_text(row.get_ref(7)?),
                // A file that another program made may have any type here.
                outcome_score: number(row.get(8)?),
                tool_success_count: integer(row.get(9)?),
                tool_error_count: integer(row.get(10)?),
                started_at: some_text(row.get_ref(11)?),
                completed_at: some_text(row.get_ref(12)?),
                updated_at: some_text(row.get_ref(13)?),
                device: match elsewhere.get(&id) {
                    Some(name) => Device::elsewhere(name.clone(), 1),
                    None => Device::here(1),
                },
                sync,
                first_message: integer(row.get(14)?),
                id,
            });
        }
        Ok(tasks)
    }

    /// Two texts from a table of ours; none where there is no such table.
    fn task_keys(&self, sql: &str) -> rusqlite::Result<Vec<(String, String)>> {
        if !self.is_synced()? {
            return Ok(Vec::new());
        }
        let mut statement = self.conn.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((text(row.get_ref(0)?), text(row.get_ref(1)?))))?;
        rows.collect()
    }
}

impl TaskFilter {
    fn lets_through(&self, task: &Task, place: &Place) -> bool {
        let since = |since: &Since| moment(task.last_at()).is_some_and(|last| last >= since.0);
        self.project.as_ref().is_none_or(|glob| glob.matches(place))
            && self.status.as_ref().is_none_or(|status| *status == task.status)
            && self
                .device
                .as_ref()
                .is_none_or(|filter| filter.matches(&task.device))
            && self.since.as_ref().is_none_or(since)
    }
}

/// Whole sessions, the one in which something happened last first; inside of them as they came.
fn by_session(tasks: Vec<Task>) -> Vec<Task> {
    let mut sessions: Vec<(Timestamp, Vec<Task>)> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for task in tasks {
        let last = moment(task.last_at()).unwrap_or(Timestamp::MIN);
        let at = *index.entry(task.session_id.clone()).or_insert_with(|| {
            sessions.push((Timestamp::MIN, Vec::new()));
            sessions.len() - 1
        });
        sessions[at].0 = sessions[at].0.max(last);
        sessions[at].1.push(task);
    }
    sessions.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
    sessions.into_iter().flat_map(|(_, tasks)| tasks).collect()
}

fn number(value: Value) -> Option<f64> {
    match value {
        Value::Real(number) => Some(number),
        Value::Integer(number) => Some(number as f64),
        Value::Null | Value::Text(_) | Value::Blob(_) => None,
    }
}

fn integer(value: Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(number),
        Value::Null | Value::Real(_) | Value::Text(_) | Value::Blob(_) => None,
    }
}
