//! The sessions of the file, newest first.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::OptionalExtension as _;
use serde::Serialize;

use super::device::{Device, DeviceFilter};
use super::filter::{ProjectGlob, Since, moment};
use super::{Browser, some_text, text};
use crate::projects::{NONE, Place};
use crate::screen::cut;

/// Longest title, in columns: a text may be one line of a megabyte.
const TITLE_COLUMNS: usize = 200;

/// A title is read from this many characters of a text: what it opens with may be blank or markup.
const TITLE_FROM_CHARS: usize = 2_000;

/// A session, as `sessions --json` shows it. Field names are part of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    pub session_id: String,
    pub project: Option<String>,
    /// The first thing that the user said, on one line.
    pub title: String,
    pub messages: u64,
    pub tasks: TaskCounts,
    /// As the source spells them.
    pub first_at: Option<String>,
    pub last_at: Option<String>,
    /// Where its messages were written.
    pub devices: Vec<Device>,
    pub sync: Sync,
    #[serde(skip)]
    pub(super) newest_row: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskCounts {
    pub pending: u64,
    pub in_progress: u64,
    pub completed: u64,
}

impl TaskCounts {
    pub fn all(&self) -> u64 {
        self.pending + self.in_progress + self.completed
    }
}

/// What has become of the session's messages and tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sync {
    pub state: SyncState,
    /// Rows, of each kind.
    pub waiting: u64,
    pub excluded: u64,
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SyncState {
    /// All of it is in the cloud.
    Sent,
    /// Some of it waits to be sent.
    Waiting,
    /// Its project is excluded: it stays here.
    Excluded,
    /// Some of it was refused, and is only here.
    Refused,
    /// Nobody has logged in with this file yet.
    Local,
}

/// All of these must hold; what is None always does.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    pub project: Option<ProjectGlob>,
    pub sync: Option<SyncState>,
    pub device: Option<DeviceFilter>,
    pub since: Option<Since>,
}

/// What is in our tables about the rows of each session.
pub(super) struct Marks {
    bound: bool,
    waiting: HashMap<String, u64>,
    excluded: HashMap<String, u64>,
    refused: HashMap<String, u64>,
}

impl Browser {
    /// The sessions that the filter lets through, newest first.
    pub fn sessions(&self, filter: &SessionFilter) -> rusqlite::Result<Vec<Session>> {
        let (places, marks) = (self.places()?, self.marks()?);
        let (mut pulled, mut tasks) = (self.pulled_messages()?, self.task_counts()?);
        let mut acked = self.acknowledged_messages()?;
        let mut sessions = Vec::new();
        for (mut session, title_row) in self.sessions_with_messages()? {
            let id = &session.session_id;
            session.tasks = tasks.remove(id).unwrap_or_default();
            session.devices = devices(session.messages, pulled.remove(id).unwrap_or_default());
            session.sync = marks
                .of(id)
                .with_unheard(session.messages, acked.remove(id).unwrap_or(0));
            let place = places.get(id).cloned().unwrap_or_default();
            if filter.lets_through(&session, &place) {
                session.project = Some(place.name().to_owned()).filter(|name| name != NONE);
                session.title = self.title(title_row)?;
                sessions.push(session);
            }
        }
        sessions.sort_by_key(|session| {
            let last = moment(session.last_at.as_deref()).unwrap_or(Timestamp::MIN);
            std::cmp::Reverse((last, session.newest_row))
        });
        Ok(sessions)
    }

    /// Each with the row that its title is read from.
    fn sessions_with_messages(&self) -> rusqlite::Result<Vec<(Session, i64)>> {
        let key = self.owner.message_key();
        let (at, kind) = (
            self.message_column("timestamp"),
            self.message_column("source_type"),
        );
        // Commands and their output begin with a tag; a session is not called by them if anything else was said.
        let sql = format!(
            "SELECT session_id, count(*), min({at}), max({at}), max({key}),
               coalesce(min(CASE WHEN role = 'user' AND coalesce({kind}, 'user') = 'user'
                                  AND substr(content, 1, 1) <> '<' THEN {key} END),
                        min(CASE WHEN role = 'user' THEN {key} END), min({key}))
             FROM messages GROUP BY session_id"
        );
        let mut statement = self.conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let mut sessions: Vec<(Session, i64)> = Vec::new();
        while let Some(row) = rows.next()? {
            let count: i64 = row.get(1)?;
            let session = Session {
                session_id: text(row.get_ref(0)?),
                project: None,
                title: String::new(),
                messages: count.unsigned_abs(),
                tasks: TaskCounts::default(),
                first_at: some_text(row.get_ref(2)?),
                last_at: some_text(row.get_ref(3)?),
                devices: Vec::new(),
                sync: Sync {
                    state: SyncState::Local,
                    waiting: 0,
                    excluded: 0,
                    refused: 0,
                },
                newest_row: row.get(4)?,
            };
            // NULL and '' are one session, the one without a name.
            match sessions
                .iter_mut()
                .find(|(other, _)| session.session_id.is_empty() && other.session_id.is_empty())
            {
                Some((nameless, _)) => {
                    nameless.messages += session.messages;
                    nameless.newest_row = nameless.newest_row.max(session.newest_row);
                    nameless.last_at = nameless.last_at.take().max(session.last_at);
                }
                None => sessions.push((session, row.get(5)?)),
            }
        }
        Ok(sessions)
    }

    fn title(&self, row_id: i64) -> rusqlite::Result<String> {
        let sql = format!(
            "SELECT substr(content, 1, {TITLE_FROM_CHARS}) FROM messages WHERE {} = ?1",
            self.owner.message_key()
        );
        let content = self
            .conn
            .prepare_cached(&sql)?
            .query_row([row_id], |row| Ok(text(row.get_ref(0)?)))
            .optional()?;
        Ok(one_line(&content.unwrap_or_default()))
    }

    fn task_counts(&self) -> rusqlite::Result<HashMap<String, TaskCounts>> {
        let sql = format!(
            "SELECT {}, status, count(*) FROM task_tracking GROUP BY 1, 2",
            self.task_column("session_id")
        );
        let mut statement = self.conn.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let mut counts: HashMap<String, TaskCounts> = HashMap::new();
        while let Some(row) = rows.next()? {
            let count = row.get::<_, i64>(2)?.unsigned_abs();
            let session = counts.entry(text(row.get_ref(0)?)).or_default();
            match text(row.get_ref(1)?).as_str() {
                "completed" => session.completed += count,
                "in_progress" => session.in_progress += count,
                _ => session.pending += count,
            }
        }
        Ok(counts)
    }

    fn pulled_messages(&self) -> rusqlite::Result<HashMap<String, Vec<(String, u64)>>> {
        let mut pulled: HashMap<String, Vec<(String, u64)>> = HashMap::new();
        if !self.is_synced()? {
            return Ok(pulled);
        }
        let mut statement = self.conn.prepare(
            "SELECT session_id, hardware_id, count(*) FROM sync_messages
             WHERE row_id IS NOT NULL AND hardware_id IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let count = row.get::<_, i64>(2)?.unsigned_abs();
            let machine = (text(row.get_ref(1)?), count);
            pulled.entry(text(row.get_ref(0)?)).or_default().push(machine);
        }
        Ok(pulled)
    }

    /// How many messages of each session the server has, in whatever version.
    fn acknowledged_messages(&self) -> rusqlite::Result<HashMap<String, u64>> {
        let mut acked = HashMap::new();
        if !self.is_synced()? {
            return Ok(acked);
        }
        let mut statement = self.conn.prepare(
            "SELECT session_id, count(*) FROM sync_messages
             WHERE row_id IS NOT NULL AND acked_hash IS NOT NULL GROUP BY 1",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            acked.insert(text(row.get_ref(0)?), row.get::<_, i64>(1)?.unsigned_abs());
        }
        Ok(acked)
    }

    pub(super) fn marks(&self) -> rusqlite::Result<Marks> {
        let mut marks = Marks {
            bound: self.is_bound()?,
            waiting: HashMap::new(),
            excluded: HashMap::new(),
            refused: HashMap::new(),
        };
        if !self.is_synced()? {
            return Ok(marks);
        }
        for table in ["messages", "task_tracking"] {
            for (of, entries) in [
                (&mut marks.waiting, "sync_queue WHERE table_name = ?1"),
                (&mut marks.excluded, "sync_excluded WHERE table_name = ?1"),
                (
                    &mut marks.refused,
                    "sync_quarantine WHERE direction = 'up' AND table_name = ?1",
                ),
            ] {
                for (session, count) in self.marked(table, entries)? {
                    *of.entry(session).or_default() += count;
                }
            }
        }
        Ok(marks)
    }
}

impl Sync {
    /// P11: rows that the server has not and that are marked nowhere wait, too: those of a file that is still being
    /// queued, or of which a trigger was lost.
    fn with_unheard(self, messages: u64, acknowledged: u64) -> Sync {
        match self.state {
            SyncState::Sent if acknowledged < messages => Sync {
                state: SyncState::Waiting,
                waiting: messages - acknowledged,
                ..self
            },
            SyncState::Sent
            | SyncState::Waiting
            | SyncState::Excluded
            | SyncState::Refused
            | SyncState::Local => self,
        }
    }
}

impl SessionFilter {
    fn lets_through(&self, session: &Session, place: &Place) -> bool {
        let device = |filter: &DeviceFilter| session.devices.iter().any(|device| filter.matches(device));
        let since = |since: &Since| moment(session.last_at.as_deref()).is_some_and(|last| last >= since.0);
        self.project.as_ref().is_none_or(|glob| glob.matches(place))
            && self.sync.is_none_or(|state| state == session.sync.state)
            && self.device.as_ref().is_none_or(device)
            && self.since.as_ref().is_none_or(since)
    }
}

impl Marks {
    pub(super) fn of(&self, session: &str) -> Sync {
        let count = |of: &HashMap<String, u64>| of.get(session).copied().unwrap_or(0);
        let (waiting, excluded, refused) =
            (count(&self.waiting), count(&self.excluded), count(&self.refused));
        Sync {
            state: match (self.bound, waiting, excluded, refused) {
                (false, ..) => SyncState::Local,
                (true, _, 1.., _) => SyncState::Excluded,
                (true, 1.., 0, _) => SyncState::Waiting,
                (true, 0, 0, 1..) => SyncState::Refused,
                (true, 0, 0, 0) => SyncState::Sent,
            },
            waiting,
            excluded,
            refused,
        }
    }
}

/// This machine first, then those from which most came.
fn devices(messages: u64, pulled: Vec<(String, u64)>) -> Vec<Device> {
    let elsewhere: u64 = pulled.iter().map(|(_, rows)| rows).sum();
    let here = Some(messages.saturating_sub(elsewhere)).filter(|rows| *rows > 0);
    here.map(Device::here)
        .into_iter()
        .chain(
            pulled
                .into_iter()
                .map(|(name, rows)| Device::elsewhere(name, rows)),
        )
        .collect()
}

/// The first line with something on it, without the tags of commands.
fn one_line(content: &str) -> String {
    let mut plain = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(start) = rest.find('<') {
        plain.push_str(&rest[..start]);
        let tag = rest[start + 1..]
            .find('>')
            .map(|end| &rest[start + 1..start + 1 + end]);
        let is_tag = |tag: &&str| {
            let name = tag.trim_start_matches('/');
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        };
        rest = match tag.filter(is_tag) {
            Some(tag) => &rest[start + tag.len() + 2..],
            None => {
                plain.push('<');
                &rest[start + 1..]
            }
        };
    }
    plain.push_str(rest);
    let line = plain.lines().map(str::trim).find(|line| !line.is_empty());
    cut(line.unwrap_or_default(), TITLE_COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_the_first_line_that_says_something() {
        for (content, expected) in [
            ("\n\n  Build the harbour \nand more", "Build the harbour"),
            (
                "<command-message>init</command-message>\n<command-name>/init</command-name>",
                "init",
            ),
            ("is a < b and b > a?", "is a < b and b > a?"),
            ("", ""),
        ] {
            assert_eq!(one_line(content), expected);
        }
    }

    #[test]
    fn a_session_is_sent_only_if_nothing_of_it_waits_or_was_kept_back() {
        let marks = |bound, waiting: u64, excluded: u64, refused: u64| {
            let of = |count: u64| HashMap::from([("s".to_owned(), count)]);
            let marks = Marks {
                bound,
                waiting: of(waiting),
                excluded: of(excluded),
                refused: of(refused),
            };
            marks.of("s").state
        };
        assert_eq!(marks(true, 0, 0, 0), SyncState::Sent);
        assert_eq!(marks(true, 2, 0, 1), SyncState::Waiting);
        assert_eq!(marks(true, 2, 1, 1), SyncState::Excluded);
        assert_eq!(marks(true, 0, 0, 1), SyncState::Refused);
        assert_eq!(marks(false, 9, 0, 0), SyncState::Local);
    }

    #[test]
    fn p11_a_session_of_which_the_server_lacks_a_message_is_not_called_sent() {
        let sent = Sync {
            state: SyncState::Sent,
            waiting: 0,
            excluded: 0,
            refused: 0,
        };
        assert_eq!(sent.with_unheard(5, 5), sent);
        let open = sent.with_unheard(5, 3);
        assert_eq!((open.state, open.waiting), (SyncState::Waiting, 2));
    }

    #[test]
    fn what_was_not_pulled_was_written_here() {
        let from = devices(5, vec![("laptop".into(), 3)]);
        let told: Vec<_> = from.iter().map(|device| (device.name(), device.rows)).collect();
        assert_eq!(told, [("here", 2), ("laptop", 3)]);
        assert_eq!(devices(3, vec![("laptop".into(), 3)]).len(), 1);
    }
}
