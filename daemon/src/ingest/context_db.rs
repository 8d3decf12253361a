//! Writes messages, tasks and links into context.db as any other program would.
//!
//! Knows the owner's tables and nothing of the sync. Looks before it writes, so that what is there already
//! costs no write and no lock; holds the write lock only for a moment at a time. Tables that are missing are
//! made; of tables that another program made only the columns that exist are written.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OptionalExtension as _, ToSql, TransactionBehavior, params_from_iter};

use super::task::TaskRow;
use super::task_table::{Found, look_at_task, task_cells, update_task};
use crate::store::open_or_create;

const TABLES: &str = include_str!("../../../migrations-sqlite/0001_context.sql");

/// How long a statement waits for another program's lock before the ingest gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A write transaction ends after so many rows or so much time, whichever comes first: other writers wait no
/// longer.
const TRANSACTION_ROWS: usize = 500;
const TRANSACTION_TIME: Duration = Duration::from_millis(50);

/// The same beside a daemon that syncs the file: as long as that holds the lock itself.
const GENTLE_TRANSACTION_TIME: Duration = Duration::from_millis(20);

/// A wait for the lock counts as write too, and must not double.
const GENTLE_PAUSE_MAX: Duration = Duration::from_millis(100);

/// How fast rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// A user waits for it.
    Quick,
    /// Nobody waits: after each write as long a pause, in which others write.
    Gentle,
}

/// A row of `messages`.
#[derive(Debug)]
pub(super) struct MessageRow {
    /// Hash of session and content, which `hash` begins with, and which repetition of them this is, from 0.
    pub(super) digest: [u8; 32],
    pub(super) repetition: u32,
    pub(super) hash: String,
    pub(super) session_id: String,
    pub(super) role: &'static str,
    pub(super) content: String,
    pub(super) source_type: &'static str,
    pub(super) source_file: String,
    pub(super) timestamp: Option<String>,
    pub(super) agent_context: Option<String>,
}

/// A row of `task_messages`, by its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkRow {
    pub(super) task: uuid::Uuid,
    pub(super) message: i64,
    pub(super) sequence: u32,
}

/// What became of tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TasksStored {
    pub(super) inserted: u64,
    pub(super) updated: u64,
}

pub(super) struct ContextDb {
    connection: Connection,
    path: PathBuf,
    /// Device and inode: another file under the same name is another.
    file: (u64, u64),
    pace: Pace,
    messages: MessageTable,
    tasks: Columns,
    links: Columns,
}

/// How messages are recognised: by the writer's hash, or in a table where nothing finds a hash by what each
/// session holds.
struct MessageTable {
    columns: Columns,
    by_content: Option<SessionContents>,
}

/// The rows of one session by the hash of session and content, in the order of their ids.
#[derive(Default)]
struct SessionContents {
    session: Option<String>,
    rows: HashMap<[u8; 32], Vec<i64>>,
}

pub(super) type Columns = HashSet<String>;

impl ContextDb {
    /// Opens the file, or creates it, and makes the tables that are missing.
    pub(super) fn open(path: &Path, pace: Pace) -> anyhow::Result<ContextDb> {
        let open = || -> anyhow::Result<ContextDb> {
            let connection = open_or_create(path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            make_tables(&connection)?;
            let messages = columns(&connection, "messages", &["session_id", "role", "content"])?;
            Ok(ContextDb {
                path: path.to_path_buf(),
                file: file_of(path)?,
                pace,
                messages: MessageTable {
                    by_content: (!finds_by_hash(&connection)?).then(SessionContents::default),
                    columns: messages,
                },
                tasks: columns(&connection, "task_tracking", &["id", "description", "status"])?,
                links: columns(&connection, "task_messages", &["task_id", "message_id"])?,
                connection,
            })
        };
        open().with_context(|| format!("opening {}", path.display()))
    }

    /// Whether the path still leads to the file that is open.
    pub(super) fn is_current(&self) -> bool {
        file_of(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Gives back the memory of pages that were read; they are read again when they are needed.
    pub(super) fn forget_pages(&self) {
        if let Err(error) = self.connection.execute_batch("PRAGMA shrink_memory") {
            tracing::debug!(%error, "SQLite keeps its memory");
        }
    }

    /// Stores the messages that are not there yet. Gives the row id of each, and how many were new.
    pub(super) fn store_messages(
        &mut self,
        rows: &[MessageRow],
        now: &str,
    ) -> anyhow::Result<(Vec<i64>, u64)> {
        let mut ids = Vec::with_capacity(rows.len());
        // One short read transaction: each statement alone would lock and unlock the file.
        let look = self.connection.unchecked_transaction()?;
        for row in rows {
            ids.push(self.messages.find(&look, row)?);
        }
        drop(look);
        let missing: Vec<usize> = (0..rows.len()).filter(|&index| ids[index].is_none()).collect();
        let mut inserted = 0;
        let ContextDb {
            connection,
            messages,
            pace,
            ..
        } = self;
        in_short_transactions(connection, *pace, &missing, "messages", |connection, &index| {
            ids[index] = match messages.insert(connection, &rows[index], now) {
                Ok(id) => {
                    inserted += 1;
                    Some(id)
                }
                // Another program may have stored it since we looked.
                Err(error) => Some(messages.find(connection, &rows[index])?.ok_or(error)?),
            };
            Ok(())
        })?;
        let ids = ids
            .into_iter()
            .map(|id| id.expect("a message is found or inserted"));
        Ok((ids.collect(), inserted))
    }

    /// Stores the tasks that are not there yet, or are there in an older version.
    pub(super) fn store_tasks(&mut self, rows: &[TaskRow]) -> anyhow::Result<TasksStored> {
        let mut stored = TasksStored::default();
        let ContextDb {
            connection,
            tasks: columns,
            pace,
            ..
        } = self;
        let mut to_write = Vec::new();
        for row in rows {
            if look_at_task(connection, columns, row)? != Found::NothingToWrite {
                to_write.push(row);
            }
        }
        in_short_transactions(connection, *pace, &to_write, "tasks", |connection, row| {
            match look_at_task(connection, columns, row)? {
                Found::NothingToWrite => {}
                Found::Absent => {
                    let cells = present(task_cells(row), columns);
                    insert(connection, "task_tracking", &cells)?;
                    stored.inserted += 1;
                }
                Found::Older => {
                    update_task(connection, columns, row)?;
                    stored.updated += 1;
                }
            }
            Ok(())
        })?;
        Ok(stored)
    }

    /// Stores the links that are not there yet and gives their number.
    pub(super) fn store_links(&mut self, rows: &[LinkRow]) -> anyhow::Result<u64> {
        let ContextDb {
            connection,
            links: columns,
            pace,
            ..
        } = self;
        let exists = |connection: &Connection, row: &LinkRow| {
            let sql = "SELECT EXISTS (SELECT 1 FROM task_messages WHERE task_id = ?1 AND message_id = ?2)";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_row((row.task.to_string(), row.message), |found| {
                found.get::<_, bool>(0)
            })
        };
        let mut missing = Vec::new();
        let look = connection.unchecked_transaction()?;
        for row in rows {
            if !exists(&look, row)? {
                missing.push(row);
            }
        }
        drop(look);
        let mut inserted = 0;
        in_short_transactions(connection, *pace, &missing, "links", |connection, row| {
            if exists(connection, row)? {
                return Ok(());
            }
            let cells: Vec<Cell<'_>> = vec![
                ("task_id", Box::new(row.task.to_string())),
                ("message_id", Box::new(row.message)),
                ("sequence", Box::new(row.sequence)),
            ];
            insert(connection, "task_messages", &present(cells, columns))?;
            inserted += 1;
            Ok(())
        })?;
        Ok(inserted)
    }
}

impl MessageTable {
    fn find(&mut self, connection: &Connection, row: &MessageRow) -> rusqlite::Result<Option<i64>> {
        let Some(contents) = &mut self.by_content else {
            let mut statement = connection.prepare_cached("SELECT rowid FROM messages WHERE hash = ?1")?;
            return statement.query_row([&row.hash], |found| found.get(0)).optional();
        };
        contents.load(connection, &row.session_id)?;
        let rows = contents.rows.get(&row.digest);
        Ok(rows.and_then(|ids| ids.get(row.repetition as usize)).copied())
    }

    fn insert(&mut self, connection: &Connection, row: &MessageRow, now: &str) -> rusqlite::Result<i64> {
        let content: &str = &row.content;
        let cells: Vec<Cell<'_>> = vec![
            ("hash", Box::new(row.hash.as_str())),
            ("session_id", Box::new(row.session_id.as_str())),
            ("role", Box::new(row.role)),
            ("content", Box::new(content)),
            ("source_type", Box::new(row.source_type)),
            ("source_file", Box::new(row.source_file.as_str())),
            ("timestamp", Box::new(row.timestamp.as_deref())),
            ("extracted_at", Box::new(now)),
            ("content_length", Box::new(content.chars().count() as i64)),
            ("has_code", Box::new(has_code(content))),
            ("has_markdown", Box::new(has_markdown(content))),
            ("agent_context", Box::new(row.agent_context.as_deref())),
        ];
        insert(connection, "messages", &present(cells, &self.columns))?;
        let id = connection.last_insert_rowid();
        if let Some(contents) = &mut self.by_content {
            contents.rows.entry(row.digest).or_default().push(id);
        }
        Ok(id)
    }
}

impl SessionContents {
    fn load(&mut self, connection: &Connection, session: &str) -> rusqlite::Result<()> {
        if self.session.as_deref() == Some(session) {
            return Ok(());
        }
        self.rows.clear();
        let sql = "SELECT rowid, content FROM messages WHERE session_id = ?1 ORDER BY rowid";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([session])?;
        while let Some(row) = rows.next()? {
            // A text that is no UTF-8, or a blob, is none that ingest wrote.
            if let Ok(content) = row.get_ref(1)?.as_str() {
                let digest = super::session_digest(session, content);
                self.rows.entry(digest).or_default().push(row.get(0)?);
            }
        }
        self.session = Some(session.to_owned());
        Ok(())
    }
}

/// A fenced block of code.
fn has_code(content: &str) -> bool {
    content.contains("```")
}

/// Something that only makes sense as Markdown: a fence, a heading, a list, emphasis, a link or a table.
fn has_markdown(content: &str) -> bool {
    let of_line = |line: &str| {
        let line = line.trim_start();
        let heading = line.trim_start_matches('#');
        let numbered = line.trim_start_matches(|sign: char| sign.is_ascii_digit());
        (heading.len() < line.len() && line.len() - heading.len() <= 6 && heading.starts_with(' '))
            || ["- ", "* ", "> ", "|"].iter().any(|sign| line.starts_with(sign))
            || (numbered.len() < line.len() && numbered.starts_with(". "))
    };
    content.contains("```")
        || content.contains("**")
        || content.contains("](")
        || content.lines().any(of_line)
}

/// A column and what is to stand in it.
pub(super) type Cell<'a> = (&'static str, Box<dyn ToSql + 'a>);

pub(super) fn present<'a>(cells: Vec<Cell<'a>>, columns: &Columns) -> Vec<Cell<'a>> {
    cells
        .into_iter()
        .filter(|(name, _)| columns.contains(*name))
        .collect()
}

fn insert(connection: &Connection, table: &str, cells: &[Cell<'_>]) -> rusqlite::Result<()> {
    let names: Vec<&str> = cells.iter().map(|(name, _)| *name).collect();
    let marks = vec!["?"; cells.len()];
    let sql = format!(
        "INSERT INTO {table} ({}) VALUES ({})",
        names.join(", "),
        marks.join(", ")
    );
    let values = cells.iter().map(|(_, value)| value.as_ref());
    connection
        .prepare_cached(&sql)?
        .execute(params_from_iter(values))?;
    Ok(())
}

/// Does something with each item in write transactions that end soon. Without items nothing is locked.
fn in_short_transactions<T>(
    connection: &mut Connection,
    pace: Pace,
    items: &[T],
    what: &str,
    mut each: impl FnMut(&Connection, &T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let time_max = match pace {
        Pace::Quick => TRANSACTION_TIME,
        Pace::Gentle => GENTLE_TRANSACTION_TIME,
    };
    let mut items = items.iter().peekable();
    while items.peek().is_some() {
        let before = Instant::now();
        let mut write = || -> anyhow::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let begun = Instant::now();
            for item in items.by_ref().take(TRANSACTION_ROWS) {
                each(&transaction, item)?;
                if begun.elapsed() > time_max {
                    break;
                }
            }
            Ok(transaction.commit()?)
        };
        write()
            .map_err(explain_lock)
            .with_context(|| format!("writing {what}"))?;
        if pace == Pace::Gentle {
            std::thread::sleep(before.elapsed().min(GENTLE_PAUSE_MAX));
        }
    }
    Ok(())
}

fn file_of(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

fn explain_lock(error: anyhow::Error) -> anyhow::Error {
    let code = error
        .downcast_ref::<rusqlite::Error>()
        .and_then(rusqlite::Error::sqlite_error_code);
    match code {
        Some(rusqlite::ErrorCode::DatabaseBusy) => {
            let seconds = BUSY_TIMEOUT.as_secs();
            error.context(format!(
                "another program has held the write lock for {seconds} s, try again later"
            ))
        }
        Some(_) | None => error,
    }
}

/// Makes the tables that are missing; where all are there nothing is locked.
fn make_tables(connection: &Connection) -> anyhow::Result<()> {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view')
               AND name IN ('messages', 'task_tracking', 'task_messages')";
    let found: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    if found < 3 {
        connection.execute_batch(&format!("BEGIN IMMEDIATE;\n{TABLES}\nCOMMIT;"))?;
    }
    Ok(())
}

/// Whether `messages` has the column and an index that begins with it: looking through the whole table for each
/// message would take for ever.
fn finds_by_hash(connection: &Connection) -> rusqlite::Result<bool> {
    let mut indexes = connection.prepare("PRAGMA index_list(messages)")?;
    let names = indexes.query_map([], |row| row.get::<_, String>("name"))?;
    for name in names {
        let quoted = name?.replace('"', "\"\"");
        let mut columns = connection.prepare(&format!("PRAGMA index_info(\"{quoted}\")"))?;
        let first = columns.query_row([], |row| row.get::<_, Option<String>>("name"));
        if first.optional()?.flatten().as_deref() == Some("hash") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn columns(connection: &Connection, table: &str, needed: &[&str]) -> anyhow::Result<Columns> {
    let mut statement = connection.prepare(&format!("PRAGMA table_info({table})"))?;
    let names = statement.query_map([], |row| row.get::<_, String>("name"))?;
    let columns: Columns = names.collect::<Result<_, _>>()?;
    if let Some(missing) = needed.iter().find(|name| !columns.contains(**name)) {
        bail!("its table {table} has no column {missing}, which ingest cannot do without");
    }
    Ok(columns)
}
