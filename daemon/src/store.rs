//! Opening context.db: created if absent, adopted if another program made it, refused with the reason otherwise.
//!
//! The file belongs to its owner. Its journal mode, its own tables, triggers and `user_version` are left as they
//! are; every table of ours begins with `sync_`. While nothing is to be done, nothing is written.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coditect_shared::{DeviceId, TenantId, UserId};
use rusqlite::types::{FromSql, ToSql, Value};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use uuid::Uuid;

use crate::apply;
use crate::capture;
use crate::owner::{Owner, ShapeError};

const OWNER_SCHEMA: &str = include_str!("../../migrations-sqlite/0001_context.sql");

/// Our own schema, in order. The n-th entry brings `schema_version` to n; entries are only ever added.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations-sqlite/0002_sync.sql"),
    include_str!("../../migrations-sqlite/0003_projects.sql"),
    include_str!("../../migrations-sqlite/0004_devices.sql"),
];

/// How long we wait for the owner's write lock. The loop tries again later; nothing is lost by giving up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the file must have been left alone before we begin to write, and how long we wait for that at most:
/// an owner with busy_timeout 0 fails if it meets us, one that never pauses must not keep us out for ever.
const CALM: Duration = Duration::from_millis(2);
const CALM_WAIT_MAX: Duration = Duration::from_millis(50);

/// Two commits of the owner within this time are a burst: there will be a third. Then we wait for it, but not for
/// longer than the second of these, and look for it this often.
const BURST: Duration = Duration::from_millis(80);
const NEXT_COMMIT_WAIT_MAX: Duration = Duration::from_millis(25);
const NEXT_COMMIT_POLL: Duration = Duration::from_micros(500);

/// Distinct statements kept prepared: one for each set of columns that rows arrive with, and our own.
const STATEMENT_CACHE: usize = 128;

/// An open context.db with our tables and triggers in place.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    path: PathBuf,
    owner: Owner,
    /// The journal that we sync after each commit; None where SQLite does so while it holds the lock.
    wal: Option<PathBuf>,
    rhythm: Rhythm,
}

/// When the owner commits, as far as we saw.
#[derive(Debug)]
struct Rhythm {
    version: i64,
    /// The last two commits seen, the newer one first.
    commits: [Option<Instant>; 2],
}

impl Rhythm {
    /// Whether there was a commit since the last note.
    fn note(&mut self, version: i64) -> bool {
        if version == self.version {
            return false;
        }
        self.version = version;
        self.commits = [Some(Instant::now()), self.commits[0]];
        true
    }

    fn is_burst(&self, now: Instant) -> bool {
        let [_, earlier] = self.commits;
        earlier.is_some_and(|earlier| now.duration_since(earlier) < BURST)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{path}: schema {found} is newer than {known}, the newest that this program knows; update coditect-sync"
    )]
    Newer { path: String, found: i64, known: i64 },
    #[error("{path}: {source}")]
    Shape { path: String, source: ShapeError },
    #[error("{path} belongs to {whose}; log in as that user, or use another file (--context-db)")]
    BoundElsewhere { path: String, whose: String },
    #[error("{path}: cannot create the file: {source}")]
    Create { path: String, source: std::io::Error },
    #[error("{path} is no SQLite database; move it away or name another file (--context-db)")]
    NotADatabase { path: String },
    #[error("context.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl Store {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let conn = open_or_create(path)?;
        conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        let journal_mode: String = conn
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .map_err(|error| not_a_database(path, error))?;
        // Cursor and push_seq must not fall behind what the server was told: no commit of ours may be lost in a
        // power failure. In WAL mode we sync the journal ourselves, once the write lock is free again: the wait for the
        // disk would be most of the time for which the owner's writes meet us. A setting of the connection, not of
        // the file.
        let wal = journal_mode
            .eq_ignore_ascii_case("wal")
            .then(|| with_suffix(path, "-wal"));
        conn.pragma_update(None, "synchronous", if wal.is_some() { "NORMAL" } else { "FULL" })?;

        let version = data_version(&conn)?;
        let mut store = Self {
            owner: Owner::unread(),
            rhythm: Rhythm {
                version,
                commits: [None, None],
            },
            conn,
            path: path.to_path_buf(),
            wal,
        };
        store.migrate()?;
        store.repair_tables()?;
        store.refresh_owner()?;
        Ok(store)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    /// For a transaction that does not wait for the owner's pause.
    pub fn conn_mut(&mut self) -> &mut Connection {
        &mut self.conn
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether the schema is another one than when the shape of the owner's tables was last read.
    pub fn schema_changed(&self) -> rusqlite::Result<bool> {
        let version: i64 = self
            .conn
            .pragma_query_value(None, "schema_version", |row| row.get(0))?;
        Ok(version != self.owner.schema_version())
    }

    /// Makes our tables and indexes again where somebody dropped them; whether there were any.
    ///
    /// The outbox goes on with the numbers that it had reached: identities have seen them. All rows are then looked at,
    /// since changes were lost. Without identities this file is a stranger to what it sent: it takes up a new device id,
    /// and learns from a pull which of its rows are known.
    pub fn repair_tables(&mut self) -> Result<bool, StoreError> {
        if missing_objects(&self.conn)?.is_empty() {
            return Ok(false);
        }
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let missing = missing_objects(&tx)?;
        let lost = |table: &str| missing.iter().any(|(name, _)| name == table);
        for (_, sql) in &missing {
            tx.execute_batch(sql)?;
        }
        if lost("sync_state") {
            set_value(
                &tx,
                "schema_version",
                i64::try_from(MIGRATIONS.len()).expect("a handful"),
            )?;
            set_value(&tx, "device_id", Uuid::new_v4().to_string())?;
        }
        if lost("sync_queue") {
            tx.execute(
                "INSERT OR REPLACE INTO sqlite_sequence (rowid, name, seq)
                 SELECT (SELECT rowid FROM sqlite_sequence WHERE name = 'sync_queue'), 'sync_queue', max(
                   (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'sync_queue'),
                   (SELECT coalesce(max(seen_seq), 0) FROM sync_messages),
                   (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM sync_state
                    WHERE key IN ('identified_seq', 'recovery_seq')))",
                [],
            )?;
        }
        if ["sync_state", "sync_messages", "sync_tasks", "sync_links"]
            .into_iter()
            .any(lost)
        {
            apply::take_new_device_id(&tx, DeviceId(Uuid::new_v4()))?;
        }
        if lost("sync_sessions") {
            // Noted anew, where it matters.
            set_value(&tx, "sessions_noted", Value::Null)?;
            set_value(&tx, "projects_judged_by", Value::Null)?;
        }
        if missing.iter().any(|(name, _)| makes_table(name)) {
            capture::begin_backfill(&tx)?;
        }
        tx.commit()?;
        Ok(true)
    }

    /// Reads the shape of the owner's tables anew if the schema has changed since.
    pub fn refresh_owner(&mut self) -> Result<bool, StoreError> {
        let version: i64 = self
            .conn
            .pragma_query_value(None, "schema_version", |row| row.get(0))?;
        if version == self.owner.schema_version() {
            return Ok(false);
        }
        self.owner = Owner::read(&self.conn, version).map_err(|source| StoreError::Shape {
            path: self.path.display().to_string(),
            source,
        })?;
        Ok(true)
    }

    /// Notes whether another connection has committed since this was last called: transactions begin by that rhythm.
    pub fn note_commits(&mut self) -> rusqlite::Result<()> {
        self.rhythm.note(data_version(&self.conn)?);
        Ok(())
    }

    /// A write transaction, begun when the owner pauses.
    pub fn write<T, E: From<rusqlite::Error>>(
        &mut self,
        act: impl FnOnce(&Transaction<'_>, &Owner) -> Result<T, E>,
    ) -> Result<T, E> {
        self.wait_for_calm()?;
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = act(&tx, &self.owner)?;
        tx.commit()?;
        self.sync_journal()?;
        Ok(value)
    }

    pub fn device_id(&self) -> rusqlite::Result<DeviceId> {
        device_id(&self.conn)
    }

    /// Binds the file to one account at the first login; later logins must be the same account.
    pub fn bind(&mut self, instance: Uuid, tenant: TenantId, user: &UserId) -> Result<(), StoreError> {
        let path = self.path.display().to_string();
        self.write(|tx, _| {
            if let Some(bound) = binding(tx)? {
                if (bound.instance, bound.tenant, &bound.user) == (instance, tenant, user) {
                    return Ok(());
                }
                return Err(StoreError::BoundElsewhere {
                    path,
                    whose: bound.whose,
                });
            }
            set_value(tx, "bound_instance", instance.to_string())?;
            set_value(tx, "bound_tenant", tenant.to_string())?;
            set_value(tx, "bound_user", user.as_str())?;
            // What an earlier life of this file sent is pulled to its end before anything is sent: a row read again from
            // its source meets its equal, even if that was redacted otherwise.
            set_value(tx, "recovering", 1)?;
            Ok(())
        })
    }

    /// What the account is called to which the file is bound, so that a refusal can say it.
    pub fn name_binding(&mut self, whose: &str) -> rusqlite::Result<()> {
        if value::<String>(&self.conn, "bound_whose")?.as_deref() == Some(whose) {
            return Ok(());
        }
        self.write(|tx, _| set_value(tx, "bound_whose", whose))
    }

    pub fn binding(&self) -> rusqlite::Result<Option<Binding>> {
        binding(&self.conn)
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let known = i64::try_from(MIGRATIONS.len()).expect("a handful of migrations");
        let found = schema_version(&self.conn).map_err(|error| not_a_database(&self.path, error))?;
        if found > known {
            return Err(StoreError::Newer {
                path: self.path.display().to_string(),
                found,
                known,
            });
        }
        if found == known {
            return Ok(());
        }
        // Before anything is made, so that a file that cannot be used stays as it was.
        Owner::check_before_adoption(&self.conn).map_err(|source| StoreError::Shape {
            path: self.path.display().to_string(),
            source,
        })?;
        if found == 0 && any_of_ours(&self.conn)? {
            // Only the table that says so was dropped.
            self.repair_tables()?;
            return Ok(());
        }
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = schema_version(&tx)?;
        if found == 0 {
            tx.execute_batch(OWNER_SCHEMA)?;
        }
        for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
            tx.execute_batch(sql)?;
            set_value(&tx, "schema_version", version)?;
        }
        if found == 0 {
            set_value(&tx, "device_id", Uuid::new_v4().to_string())?;
            let owner = Owner::read(&tx, 0).map_err(|source| StoreError::Shape {
                path: self.path.display().to_string(),
                source,
            })?;
            // Triggers first, in the same transaction as the mark: whatever is written later is queued by them, and
            // whatever is there now by the backfill.
            capture::install(&tx, &owner)?;
            capture::begin_backfill(&tx)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// What was committed is on the disk from here on. Closing a descriptor of the journal drops no lock: SQLite's
    /// locks are on the other two files.
    fn sync_journal(&self) -> rusqlite::Result<()> {
        let Some(wal) = &self.wal else { return Ok(()) };
        match std::fs::File::open(wal).and_then(|file| file.sync_data()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC),
                Some(format!("syncing {}: {error}", wal.display())),
            )),
        }
    }

    /// Begins to write when the owner is least likely to: not while it commits, and right after one of several commits
    /// in a row, which leaves the most time until the next.
    fn wait_for_calm(&mut self) -> rusqlite::Result<()> {
        let begun = Instant::now();
        let mut version = data_version(&self.conn)?;
        if version == self.rhythm.version {
            if self.rhythm.is_burst(begun) {
                while begun.elapsed() < NEXT_COMMIT_WAIT_MAX && !self.rhythm.note(data_version(&self.conn)?) {
                    std::thread::sleep(NEXT_COMMIT_POLL);
                }
            }
            return Ok(());
        }
        while begun.elapsed() < CALM_WAIT_MAX {
            self.rhythm.note(version);
            std::thread::sleep(CALM);
            let now = data_version(&self.conn)?;
            if now == version {
                break;
            }
            version = now;
        }
        Ok(())
    }
}

fn makes_table(name: &str) -> bool {
    let statement = format!("CREATE TABLE {name} ");
    MIGRATIONS.iter().any(|sql| sql.contains(&statement))
}

/// Our tables and indexes that are not in the file, with what makes them; tables first.
fn missing_objects(conn: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    // What the migrations make is asked of SQLite itself.
    let wanted = Connection::open_in_memory()?;
    for sql in MIGRATIONS {
        wanted.execute_batch(sql)?;
    }
    let mut statement = wanted.prepare(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name LIKE 'sync\\_%' ESCAPE '\\'
         ORDER BY type DESC, name",
    )?;
    let mut here = conn.prepare_cached("SELECT 1 FROM sqlite_master WHERE name = ?1")?;
    let mut missing = Vec::new();
    for object in statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))? {
        let (name, sql) = object?;
        if !here.exists([&name])? {
            missing.push((name, sql));
        }
    }
    Ok(missing)
}

/// The account that a file is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub instance: Uuid,
    pub tenant: TenantId,
    pub user: UserId,
    /// By its names where they were noted, else by its ids.
    pub whose: String,
}

/// The account of a file that may have none of our tables.
pub(crate) fn bound_to(conn: &Connection) -> rusqlite::Result<Option<Binding>> {
    match table_exists(conn, "sync_state")? {
        true => binding(conn),
        false => Ok(None),
    }
}

/// A value of `sync_state`.
pub fn value<T: FromSql>(conn: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    let mut statement = conn.prepare_cached("SELECT value FROM sync_state WHERE key = ?1")?;
    Ok(statement
        .query_row([key], |row| row.get::<_, Option<T>>(0))
        .optional()?
        .flatten())
}

pub fn set_value(tx: &Connection, key: &str, value: impl ToSql) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO sync_state (key, value) VALUES (?1, ?2)")?
        .execute(rusqlite::params![key, value])?;
    Ok(())
}

pub fn device_id(conn: &Connection) -> rusqlite::Result<DeviceId> {
    parsed(conn, "device_id")?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn binding(conn: &Connection) -> rusqlite::Result<Option<Binding>> {
    let (instance, tenant, user) = (
        parsed(conn, "bound_instance")?,
        parsed(conn, "bound_tenant")?,
        parsed(conn, "bound_user")?,
    );
    let named: Option<String> = value(conn, "bound_whose")?;
    Ok(match (instance, tenant, user) {
        (Some(instance), Some(tenant), Some(user)) => Some(Binding {
            whose: named.unwrap_or_else(|| format!("user {user} of tenant {tenant} on server {instance}")),
            instance,
            tenant,
            user,
        }),
        (_, _, _) => None,
    })
}

fn parsed<T: std::str::FromStr>(conn: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    Ok(value::<String>(conn, key)?.and_then(|text| text.parse().ok()))
}

/// 0 for a file that is not ours yet.
fn schema_version(conn: &Connection) -> rusqlite::Result<i64> {
    if !table_exists(conn, "sync_state")? {
        return Ok(0);
    }
    Ok(value(conn, "schema_version")?.unwrap_or(0))
}

fn any_of_ours(conn: &Connection) -> rusqlite::Result<bool> {
    table_exists(conn, "sync_messages")
}

pub(crate) fn table_exists(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1")?
        .exists([name])
}

fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}

/// Opens the file, or makes it. Made by us, it is for its user alone and in WAL mode, in which readers and writers do
/// not block one another; a file that was there keeps its mode.
pub(crate) fn open_or_create(path: &Path) -> Result<Connection, StoreError> {
    let created = create_if_absent(path)?;
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    if created {
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    }
    Ok(conn)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether there was nothing. An empty file is what a process left that died right after making it.
fn create_if_absent(path: &Path) -> Result<bool, StoreError> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(std::fs::metadata(path).is_ok_and(|meta| meta.len() == 0))
        }
        Err(source) => Err(StoreError::Create {
            path: path.display().to_string(),
            source,
        }),
    }
}

fn not_a_database(path: &Path, error: rusqlite::Error) -> StoreError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) {
        return StoreError::NotADatabase {
            path: path.display().to_string(),
        };
    }
    error.into()
}
