//! What a context.db holds, in a form that two devices can be compared by: everything but local numbering.

use std::collections::BTreeMap;
use std::fmt;

use coditect_shared::hash::sha256;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::daemon::Workstation;

/// Longer texts are shown and kept by their hash: some tests hold megabytes in one row.
const SHOWN_CHARS: usize = 100;

/// How many differing rows a failed comparison shows for each side.
const SHOWN_ROWS: usize = 5;

/// The rows of the owner's three tables as texts, with how often each stands there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Contents {
    pub messages: BTreeMap<String, usize>,
    pub tasks: BTreeMap<String, usize>,
    /// By task and the message's writer's hash, since message ids differ from device to device.
    pub links: BTreeMap<String, usize>,
}

impl Contents {
    /// All columns, but for `messages.id`.
    pub fn of(workstation: &Workstation) -> Contents {
        Self::read(&workstation.open())
    }

    pub fn read(file: &Connection) -> Contents {
        Self::read_without("", file)
    }

    /// As [`Contents::of`], but for one more column of `messages`.
    pub fn without(column: &str, workstation: &Workstation) -> Contents {
        Self::read_without(column, &workstation.open())
    }

    fn read_without(without: &str, file: &Connection) -> Contents {
        let columns: Vec<String> = file
            .prepare(
                "SELECT name FROM pragma_table_info('messages') WHERE name NOT IN ('id', ?1) ORDER BY name",
            )
            .and_then(|mut query| query.query_map([without], |row| row.get(0))?.collect())
            .expect("reading the columns of messages");
        Contents {
            messages: rows(file, &format!("SELECT {} FROM messages", columns.join(", "))),
            tasks: rows(file, "SELECT * FROM task_tracking"),
            links: rows(
                file,
                "SELECT l.task_id, m.session_id, m.hash, l.sequence
                   FROM task_messages l LEFT JOIN messages m ON m.id = l.message_id",
            ),
        }
    }

    /// Rows of `messages`, repetitions counted.
    pub fn message_count(&self) -> usize {
        self.messages.values().sum()
    }

    pub fn task_count(&self) -> usize {
        self.tasks.values().sum()
    }

    pub fn link_count(&self) -> usize {
        self.links.values().sum()
    }

    /// # Panics
    /// If the two differ, with the first rows that only one of them has.
    pub fn assert_same(&self, other: &Contents) {
        if self != other {
            panic!(
                "the two files differ\nonly in the first: {}\nonly in the second: {}",
                Beyond(self, other),
                Beyond(other, self)
            );
        }
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages, {} tasks, {} links",
            self.message_count(),
            self.task_count(),
            self.link_count()
        )
    }
}

/// Syncs the workstations until each has what the others had, then compares the files with each other.
///
/// # Panics
/// If they do not hold the same, or `verify` sees a difference that we do not.
pub async fn converge(workstations: &[&Workstation]) -> Contents {
    settle(workstations).await;
    let first = Contents::of(workstations[0]);
    for workstation in workstations {
        first.assert_same(&Contents::of(workstation));
    }
    first
}

/// Syncs the workstations until each has what the others had, and has each verify that it holds what the cloud does.
pub async fn settle(workstations: &[&Workstation]) {
    // Twice: the second round brings what others pushed after one had pulled.
    for _ in 0..2 {
        for workstation in workstations {
            workstation.sync().await;
        }
    }
    for workstation in workstations {
        let verified = workstation.verify().await;
        assert_eq!(verified["equal"], true, "{verified:#}");
    }
}

fn rows(file: &Connection, sql: &str) -> BTreeMap<String, usize> {
    let mut query = file.prepare(sql).expect("preparing a query");
    let names: Vec<String> = query.column_names().map(str::to_owned).collect();
    let mut found = BTreeMap::new();
    let mut rows = query.query([]).expect("reading the owner's rows");
    while let Some(row) = rows.next().expect("reading a row") {
        let shown: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(n, name)| {
                format!(
                    "{name}={}",
                    shown(row.get_ref(n).expect("a column that was asked for"))
                )
            })
            .collect();
        *found.entry(shown.join(" ")).or_insert(0) += 1;
    }
    found
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(bytes) if bytes.len() <= SHOWN_CHARS => {
            format!("{:?}", String::from_utf8_lossy(bytes))
        }
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            format!("({} bytes, SHA-256 {})", bytes.len(), sha256(bytes))
        }
    }
}

/// The rows that stand oftener in the first than in the second.
struct Beyond<'a>(&'a Contents, &'a Contents);

impl fmt::Display for Beyond<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = [
            (&self.0.messages, &self.1.messages),
            (&self.0.tasks, &self.1.tasks),
            (&self.0.links, &self.1.links),
        ];
        for (one, other) in tables {
            let beyond: Vec<_> = one
                .iter()
                .filter(|(row, count)| other.get(*row).is_none_or(|there| there < count))
                .collect();
            write!(f, "\n  {} rows", beyond.len())?;
            for (row, count) in beyond.iter().take(SHOWN_ROWS) {
                write!(f, "\n    {count} x {row}")?;
            }
        }
        Ok(())
    }
}
