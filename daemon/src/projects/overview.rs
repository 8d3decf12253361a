//! What this file holds, project by project: what would leave the machine, what has left, what stays.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags, Row};
use serde::Serialize;

use super::place::{NONE, Place, session_of, text_of};
use super::session::{of_row, of_sessions, own_of_message, own_of_task, select_messages, select_tasks};
use super::{ProjectFilter, Standing};
use crate::owner::Owner;
use crate::store::table_exists;

/// How long another program's exclusive lock is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// All projects of a file, those with the newest messages first.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    pub projects: Vec<Project>,
    /// Nothing of this file has been acknowledged by any server.
    pub never_sent: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Project {
    pub project: String,
    /// Claude Code's names of the working folders.
    pub folders: BTreeSet<String>,
    #[serde(flatten)]
    pub standing: Standing,
    #[serde(flatten)]
    pub counts: Counts,
    /// Of all rows: in the cloud as they stand; to be sent; kept back, or not to be sent.
    pub sent: u64,
    pub pending: u64,
    pub excluded: u64,
    /// When the newest message was said, as its source spells it.
    pub newest: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub sessions: u64,
    pub messages: u64,
    pub tasks: u64,
    /// Of the texts of messages and tasks.
    pub bytes: u64,
}

impl Overview {
    /// Reads the file as it stands, with or without our tables.
    pub fn read(conn: &Connection, owner: &Owner, filter: &ProjectFilter) -> rusqlite::Result<Overview> {
        let snapshot = conn.unchecked_transaction()?;
        let mut reading = Reading {
            filter,
            sessions: of_sessions(&snapshot, owner)?,
            found: BTreeMap::new(),
        };
        let marks = Marks::of(&snapshot)?;
        reading.messages(&snapshot, owner, &marks)?;
        reading.tasks(&snapshot, owner, &marks)?;
        let mut projects: Vec<Project> = reading
            .found
            .into_values()
            .map(|mut found| {
                found.project.counts.sessions = found.sessions.len() as u64;
                found.project
            })
            .collect();
        projects.sort_by(|a, b| b.newest.cmp(&a.newest).then_with(|| a.project.cmp(&b.project)));
        Ok(Overview {
            never_sent: marks.never_sent,
            projects,
        })
    }

    /// Of no file.
    pub fn empty() -> Overview {
        Overview {
            projects: Vec::new(),
            never_sent: true,
        }
    }

    /// What is sent, or stays.
    pub fn of(&self, included: bool) -> impl Iterator<Item = &Project> {
        self.projects
            .iter()
            .filter(move |project| project.standing.included == included)
    }

    /// Rows that a daemon would send.
    pub fn pending(&self) -> u64 {
        self.projects.iter().map(|project| project.pending).sum()
    }
}

impl Project {
    /// A place that is called so; of several folders, the first.
    pub fn place(&self) -> Place {
        let folder = self.folders.first().cloned();
        let named = folder.as_ref() != Some(&self.project) && self.project != NONE;
        Place {
            project: named.then(|| self.project.clone()),
            own: None,
            folder,
        }
    }
}

impl Counts {
    pub fn sum<'a>(all: impl Iterator<Item = &'a Project>) -> Counts {
        all.fold(Counts::default(), |sum, project| Counts {
            sessions: sum.sessions + project.counts.sessions,
            messages: sum.messages + project.counts.messages,
            tasks: sum.tasks + project.counts.tasks,
            bytes: sum.bytes + project.counts.bytes,
        })
    }
}

/// The file, for reading alone; None where there is none, or nothing in it yet.
pub fn open(path: &Path) -> anyhow::Result<Option<(Connection, Owner)>> {
    if !path.exists() {
        return Ok(None);
    }
    let doing = || format!("reading {}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).with_context(doing)?;
    conn.busy_timeout(BUSY_TIMEOUT).with_context(doing)?;
    for table in ["messages", "task_tracking", "task_messages"] {
        if !table_exists(&conn, table).with_context(doing)? {
            return Ok(None);
        }
    }
    let owner = Owner::read(&conn, 0).with_context(doing)?;
    Ok(Some((conn, owner)))
}

struct Found {
    project: Project,
    sessions: HashSet<String>,
}

struct Reading<'a> {
    filter: &'a ProjectFilter,
    sessions: HashMap<String, Place>,
    found: BTreeMap<(String, bool), Found>,
}

impl Reading<'_> {
    fn messages(&mut self, conn: &Connection, owner: &Owner, marks: &Marks) -> rusqlite::Result<()> {
        let time = if owner.has_message_column("timestamp") {
            "timestamp"
        } else {
            "NULL"
        };
        let sql = format!(
            "SELECT s.*, octet_length(m.content), m.{time}, {} FROM ({}) s JOIN messages m ON m.{key} = s.row_key",
            marks.columns("messages", "sync_messages", "row_id", "s.row_key"),
            select_messages(owner),
            key = owner.message_key(),
        )
        .replace("m.NULL", "NULL");
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let found = self.found(row, own_of_message(row)?, [6, 7])?;
            let project = &mut found.project;
            project.counts.messages += 1;
            project.counts.bytes += row.get::<_, Option<i64>>(4)?.unwrap_or(0).unsigned_abs();
            let time = text_of(row.get_ref(5)?);
            if time > project.newest.as_deref() {
                project.newest = time.map(str::to_owned);
            }
        }
        Ok(())
    }

    fn tasks(&mut self, conn: &Connection, owner: &Owner, marks: &Marks) -> rusqlite::Result<()> {
        let text = if owner.has_task_column("description") {
            "description"
        } else {
            "''"
        };
        let sql = format!(
            "SELECT s.*, {} FROM ({}) s",
            marks.columns("task_tracking", "sync_tasks", "local_id", "s.row_key"),
            select_tasks(owner).replacen(" FROM", &format!(", octet_length({text}), id AS row_key FROM"), 1),
        );
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let found = self.found(row, own_of_task(row)?, [4, 5])?;
            found.project.counts.tasks += 1;
            found.project.counts.bytes += row.get::<_, Option<i64>>(2)?.unwrap_or(0).unsigned_abs();
        }
        Ok(())
    }

    /// The project of a row, in which the row is counted by whether it is acknowledged, and whether a change of it is
    /// not.
    fn found(&mut self, row: &Row<'_>, own: Place, marks_at: [usize; 2]) -> rusqlite::Result<&mut Found> {
        let session = session_of(row.get_ref(0)?);
        let place = of_row(self.sessions.get(&session).cloned().unwrap_or_default(), own);
        let standing = self.filter.judge(&place);
        let (acked, changed): (bool, bool) = (row.get(marks_at[0])?, row.get(marks_at[1])?);
        let key = (place.name().to_owned(), standing.included);
        let found = self.found.entry(key).or_insert_with(|| Found {
            project: Project {
                project: place.name().to_owned(),
                folders: BTreeSet::new(),
                standing,
                counts: Counts::default(),
                sent: 0,
                pending: 0,
                excluded: 0,
                newest: None,
            },
            sessions: HashSet::new(),
        });
        let project = &mut found.project;
        match (acked && !changed, project.standing.included) {
            (true, _) => project.sent += 1,
            (false, true) => project.pending += 1,
            (false, false) => project.excluded += 1,
        }
        project.folders.extend(place.folder);
        if !session.is_empty() {
            found.sessions.insert(session);
        }
        Ok(found)
    }
}

/// What our tables say of rows; in a file that has none, nothing was ever sent.
struct Marks {
    ours: bool,
    never_sent: bool,
}

impl Marks {
    fn of(conn: &Connection) -> rusqlite::Result<Marks> {
        let ours = table_exists(conn, "sync_excluded")?;
        let never_sent = !ours
            || !conn.query_row(
                "SELECT EXISTS (SELECT 1 FROM sync_messages WHERE acked_hash IS NOT NULL)
                   OR EXISTS (SELECT 1 FROM sync_tasks WHERE acked_hash IS NOT NULL)",
                [],
                |row| row.get::<_, bool>(0),
            )?;
        Ok(Marks { ours, never_sent })
    }

    /// Two columns: whether the row is acknowledged, and whether it has changed since.
    fn columns(&self, table: &str, identities: &str, key: &str, row_key: &str) -> String {
        if !self.ours {
            return "0, 0".into();
        }
        let entry = |entries: &str| {
            format!(
                "EXISTS (SELECT 1 FROM {entries} e WHERE e.table_name = '{table}' AND e.row_id IS {row_key})"
            )
        };
        format!(
            "EXISTS (SELECT 1 FROM {identities} i WHERE i.{key} IS {row_key} AND i.acked_hash IS NOT NULL), {} OR {}",
            entry("sync_queue"),
            entry("sync_excluded")
        )
    }
}
