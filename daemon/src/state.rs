//! Our own state file beside context.db: the batch in flight, and what need not change together with rows.
//!
//! While nothing happens the daemon writes nothing to context.db, and the bytes of a batch never go there. The state
//! may be lost or belong to another life of the file: nonce, push_seq and device id then say so, and it is void.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::outbox::Batch;
use crate::redaction::Redacted;
use crate::rules::{Rule, holds};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS batch (
      digest  TEXT PRIMARY KEY NOT NULL,
      -- All digests sent under one push_seq are kept until it settles: the full batch may commit late.
      current INTEGER NOT NULL,
      meta    TEXT NOT NULL,
      body    BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS value (
      key   TEXT PRIMARY KEY NOT NULL,
      value
    );";

#[derive(Debug)]
pub struct State {
    conn: Connection,
    path: PathBuf,
}

impl State {
    /// Opens the file; one that is no database is set aside, since all of it can be made anew. One that cannot be used
    /// for another reason, such as a full disk, is good again later.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::try_open(path).or_else(|error| {
            if !is_damaged(&error) {
                return Err(error);
            }
            let aside = path.with_extension("db.broken");
            tracing::warn!(%error, aside = %aside.display(), "the state file is unreadable; starting a new one");
            std::fs::rename(path, &aside).with_context(|| format!("setting {} aside", path.display()))?;
            Self::try_open(path)
        })
    }

    fn try_open(path: &Path) -> anyhow::Result<Self> {
        let doing = || format!("opening {}", path.display());
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .with_context(doing)?;
        let conn = Connection::open(path).with_context(doing)?;
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
            .with_context(doing)?;
        // The batch must be on disk before it is sent.
        conn.pragma_update(None, "synchronous", "FULL")
            .with_context(doing)?;
        conn.execute_batch(SCHEMA).with_context(doing)?;
        Ok(Self {
            conn,
            path: path.to_path_buf(),
        })
    }

    /// The batch in flight.
    pub fn batch(&self) -> anyhow::Result<Option<Batch>> {
        let found: Option<(String, Vec<u8>)> = self
            .conn
            .query_row("SELECT meta, body FROM batch WHERE current = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        // What this version cannot read was written by another one; its rows are still in the outbox.
        Ok(found.and_then(|(meta, body)| parsed(&meta, body)))
    }

    /// All that may have arrived under the push_seq in use, the batch in flight and its variants, without their bytes.
    pub fn sent(&self) -> anyhow::Result<Vec<Batch>> {
        let mut statement = self.conn.prepare_cached("SELECT meta FROM batch")?;
        let metas = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut sent = Vec::new();
        for meta in metas {
            sent.extend(parsed(&meta?, Vec::new()));
        }
        Ok(sent)
    }

    /// What was sent under the same push_seq before, by its digest.
    pub fn variant(&self, digest: &str) -> anyhow::Result<Option<Batch>> {
        let found: Option<(String, Vec<u8>)> = self
            .conn
            .query_row(
                "SELECT meta, body FROM batch WHERE digest = ?1",
                [digest],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        Ok(found.and_then(|(meta, body)| parsed(&meta, body)))
    }

    /// Makes `batch` the one in flight; others of its push_seq stay as variants.
    pub fn put_batch(&mut self, batch: &Batch) -> anyhow::Result<()> {
        self.write_batch(batch).with_context(|| self.writing())
    }

    fn write_batch(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let tx = self.conn.transaction()?;
        tx.execute("UPDATE batch SET current = 0", [])?;
        if !holds(Rule::VariantsKept) {
            tx.execute("DELETE FROM batch", [])?;
        }
        tx.execute(
            "INSERT OR REPLACE INTO batch (digest, current, meta, body) VALUES (?1, 1, ?2, ?3)",
            rusqlite::params![
                batch.digest.to_string(),
                serde_json::to_string(batch)?,
                batch.body
            ],
        )?;
        tx.commit()?;
        Ok(())
    }

    pub fn clear_batch(&mut self) -> anyhow::Result<()> {
        self.conn
            .execute("DELETE FROM batch", [])
            .with_context(|| self.writing())?;
        Ok(())
    }

    /// The batch is settled, and what was redacted in it counts as sent.
    pub fn end_batch(&mut self, batch: &Batch, now: Timestamp) -> anyhow::Result<()> {
        let counts = redacted_in(batch);
        if counts.rows == 0 {
            return self.clear_batch();
        }
        let mut total = self.redacted()?;
        total.since.get_or_insert(now);
        total.add(&counts);
        self.write_end(&total).with_context(|| self.writing())
    }

    fn write_end(&mut self, redacted: &Redacted) -> anyhow::Result<()> {
        let tx = self.conn.transaction()?;
        tx.execute("DELETE FROM batch", [])?;
        tx.execute(
            "INSERT OR REPLACE INTO value (key, value) VALUES ('redacted', ?1)",
            [serde_json::to_string(redacted)?],
        )?;
        Ok(tx.commit()?)
    }

    /// What was redacted in all that was sent since this file was made.
    pub fn redacted(&self) -> anyhow::Result<Redacted> {
        let text: Option<String> = self
            .conn
            .prepare_cached("SELECT value FROM value WHERE key = 'redacted'")?
            .query_row([], |row| row.get(0))
            .optional()?;
        // Counts of another version are no reason to stop.
        Ok(text
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default())
    }

    /// The batch is not sent any more, but may have arrived: it stays as a variant of its push_seq.
    pub fn retire_batch(&mut self) -> anyhow::Result<()> {
        self.conn
            .execute("UPDATE batch SET current = 0", [])
            .with_context(|| self.writing())?;
        Ok(())
    }

    pub fn is_paused(&self) -> anyhow::Result<bool> {
        Ok(self
            .conn
            .query_row("SELECT value FROM value WHERE key = 'paused'", [], |row| {
                row.get::<_, bool>(0)
            })
            .optional()?
            .unwrap_or(false))
    }

    /// Remembered over restarts: somebody who paused means it.
    pub fn set_paused(&mut self, paused: bool) -> anyhow::Result<()> {
        self.conn
            .execute(
                "INSERT OR REPLACE INTO value (key, value) VALUES ('paused', ?1)",
                [paused],
            )
            .with_context(|| self.writing())?;
        Ok(())
    }

    fn writing(&self) -> String {
        format!("writing {}", self.path.display())
    }
}

fn is_damaged(error: &anyhow::Error) -> bool {
    let code = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<rusqlite::Error>()?.sqlite_error_code());
    matches!(
        code,
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt)
    )
}

/// The batch in flight of a state file that a daemon may have open, without its bytes. Writes nothing.
pub fn batch_in_flight(path: &Path) -> anyhow::Result<Option<Batch>> {
    if !path.exists() {
        return Ok(None);
    }
    let doing = || format!("reading {}", path.display());
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).with_context(doing)?;
    let meta: Option<String> = conn
        .query_row("SELECT meta FROM batch WHERE current = 1", [], |row| row.get(0))
        .optional()
        .with_context(doing)?;
    Ok(meta.and_then(|meta| parsed(&meta, Vec::new())))
}

fn redacted_in(batch: &Batch) -> Redacted {
    let mut counts = Redacted::default();
    for findings in batch.records.iter().map(|sent| &sent.findings) {
        counts.add(&Redacted {
            since: None,
            rows: u64::from(!findings.is_empty()),
            findings: findings.values().sum(),
            kinds: findings.clone(),
        });
    }
    counts
}

fn parsed(meta: &str, body: Vec<u8>) -> Option<Batch> {
    serde_json::from_str(meta)
        .ok()
        .map(|batch: Batch| Batch { body, ..batch })
}
