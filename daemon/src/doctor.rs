//! Looks for what is wrong, without changing anything, and says how to mend it.
//!
//! Each check is a pure judgement over what was measured; the measuring is in `commands/doctor.rs` and in the few
//! functions here that read the file or the disk.

use std::path::Path;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::capture::{self, CaptureHealth};
use crate::disk;
use crate::owner::Owner;
use crate::status::{State, Status, age, grouped};
use crate::store;

/// A WAL of this size means that somebody keeps it from being written back: SQLite does so from 4 MB on.
const WAL_LARGE_BYTES: u64 = 64 << 20;

/// Free space below which a warning is due, and below which SQLite and we cannot work.
const DISK_LOW_BYTES: u64 = 1 << 30;
const DISK_FULL_BYTES: u64 = 50 << 20;

/// Tokens carry times in whole seconds and live for minutes: a clock off by more makes them end early or begin late.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(30);

/// A token with less left than this is worth a warning.
const TOKEN_SOON: SignedDuration = SignedDuration::from_secs(120);

/// Files up to this size are read through by SQLite's own check; a larger one takes too long for a quick look.
const QUICK_CHECK_MAX_BYTES: u64 = 512 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    Warning,
    Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub message: String,
    /// What to do; with every warning and problem.
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Ok,
            message: message.into(),
            remedy: None,
        }
    }

    pub fn warning(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Warning,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub fn problem(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Problem,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// Everything about context.db, its folder and its disk.
pub fn file(path: &Path) -> Vec<Finding> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut findings = Vec::new();
    if let Some(free) = disk::free_bytes(path) {
        findings.push(judge_disk(free, folder));
    }
    if let Err(refusal) = disk::refuse_network(path) {
        findings.push(Finding::problem(
            "disk",
            refusal.to_string(),
            "move the file to a disk of this machine",
        ));
    }
    let bytes = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.push(Finding::warning(
                "file",
                format!("{} is not there yet", path.display()),
                "`coditect-sync run` creates it; name another one with --context-db",
            ));
            return findings;
        }
        Err(error) => {
            findings.push(Finding::problem(
                "file",
                format!("{}: {error}", path.display()),
                "make the file and its folder readable for you",
            ));
            return findings;
        }
    };
    match open_to_look(path) {
        Ok(conn) => findings.extend(content(&conn, path, bytes)),
        Err(error) => findings.push(Finding::problem(
            "file",
            format!("{} cannot be opened: {error:#}", path.display()),
            "name another file with --context-db, or restore this one from a backup",
        )),
    }
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let wal_bytes = std::fs::metadata(wal).map_or(0, |meta| meta.len());
    findings.push(judge_wal(wal_bytes));
    findings
}

/// Reads, and creates, migrates and repairs nothing.
fn open_to_look(path: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    // Opening reads nothing; this does, and fails on what is no database.
    conn.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0))
        .context("reading it")?;
    Ok(conn)
}

fn content(conn: &Connection, path: &Path, bytes: u64) -> Vec<Finding> {
    let mut findings = vec![integrity(conn, path, bytes)];
    let ours = conn.table_exists(None, "sync_state").unwrap_or(false);
    if !ours {
        findings.push(Finding::warning(
            "schema",
            "the file is not prepared for syncing yet",
            "`coditect-sync login` or `run` prepares it",
        ));
        return findings;
    }
    let version = conn.pragma_query_value(None, "schema_version", |row| row.get(0));
    let owner = match version
        .map_err(anyhow::Error::new)
        .and_then(|version| Ok(Owner::read(conn, version)?))
    {
        Ok(owner) => owner,
        Err(error) => {
            findings.push(Finding::problem(
                "schema",
                format!("{error:#}"),
                "the program that writes the file must keep these columns; or name another file with --context-db",
            ));
            return findings;
        }
    };
    let schema = store::value::<i64>(conn, "schema_version")
        .ok()
        .flatten()
        .unwrap_or_default();
    findings.push(Finding::ok(
        "schema",
        format!("the tables are as they must be (schema {schema})"),
    ));
    findings.push(match capture::health(conn, &owner) {
        Ok(CaptureHealth::Ok) => Finding::ok("triggers", "every change of the file is queued"),
        Ok(CaptureHealth::Broken(names)) => Finding::problem(
            "triggers",
            format!("lost or changed: {}", names.join(", ")),
            "a running daemon makes them again and looks for what it missed: start `coditect-sync run`",
        ),
        Err(error) => Finding::problem(
            "triggers",
            error.to_string(),
            "look at the file's own check above",
        ),
    });
    findings
}

fn integrity(conn: &Connection, path: &Path, bytes: u64) -> Finding {
    let size = format!("{} ({} bytes)", path.display(), grouped(bytes));
    if bytes > QUICK_CHECK_MAX_BYTES {
        return Finding::ok(
            "file",
            format!("{size}; too large for a quick check of every page"),
        );
    }
    let checked = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match checked {
        Ok(text) if text == "ok" => Finding::ok("file", size),
        Ok(text) => Finding::problem(
            "file",
            format!("{size} is damaged: {text}"),
            "stop the programs that write it and restore it, or save what can be read with `sqlite3 FILE .recover`",
        ),
        Err(error) => Finding::problem(
            "file",
            format!("{size}: {error}"),
            "see whether another program holds it locked",
        ),
    }
}

pub fn judge_disk(free_bytes: u64, folder: &Path) -> Finding {
    let message = format!("{} MB free at {}", grouped(free_bytes >> 20), folder.display());
    let remedy = "make room on this disk";
    match free_bytes {
        0..DISK_FULL_BYTES => Finding::problem("disk", message, remedy),
        DISK_FULL_BYTES..DISK_LOW_BYTES => Finding::warning("disk", message, remedy),
        DISK_LOW_BYTES.. => Finding::ok("disk", message),
    }
}

pub fn judge_wal(bytes: u64) -> Finding {
    let message = format!("the WAL has {} KB", grouped(bytes >> 10));
    if bytes < WAL_LARGE_BYTES {
        return Finding::ok("wal", message);
    }
    Finding::warning(
        "wal",
        message,
        "a program with a read transaction left open keeps it from shrinking: end that program",
    )
}

/// `start` is the command that starts it.
pub fn judge_daemon(status: Option<&Status>, start: &str) -> Finding {
    let Some(status) = status else {
        return Finding::warning("daemon", "does not run", format!("start it: {start}"));
    };
    let name = serde_json::to_value(status.state)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned));
    let message = format!(
        "runs (version {}), state {}",
        status.version,
        name.unwrap_or_default()
    );
    match status.state {
        State::Starting | State::Syncing | State::InSync | State::Paused => Finding::ok("daemon", message),
        State::NeedsLogin | State::Offline | State::ReadOnly | State::Blocked => {
            let reason = status.last_error.as_ref().map(|error| error.message.as_str());
            let message = format!("{message}: {}", reason.unwrap_or("no error is known"));
            let step = status.next_step.clone().unwrap_or_default();
            Finding::warning("daemon", message, step)
        }
    }
}

pub fn judge_token(expires_at: Option<Timestamp>, now: Timestamp) -> Finding {
    let remedy = "log in again: coditect-sync login --server URL";
    match expires_at.map(|at| at.duration_since(now)) {
        None => Finding::ok("token", "there is one"),
        Some(left) if left <= SignedDuration::ZERO => {
            Finding::problem("token", format!("ended {} ago", age(-left)), remedy)
        }
        Some(left) if left < TOKEN_SOON => {
            Finding::warning("token", format!("valid for {} more", age(left)), remedy)
        }
        Some(left) => Finding::ok("token", format!("valid for {} more", age(left))),
    }
}

/// `date` is the header of an answer that came in at `now`.
pub fn judge_clock(date: Option<&str>, now: Timestamp) -> Finding {
    let server = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let Some(server) = server else {
        return Finding::ok("clock", "the server does not tell its time");
    };
    let ahead = now.duration_since(server.timestamp());
    if ahead.abs() <= CLOCK_TOLERANCE {
        return Finding::ok("clock", "agrees with the server's");
    }
    let way = if ahead.is_positive() { "ahead of" } else { "behind" };
    Finding::warning(
        "clock",
        format!("{} {way} the server's", age(ahead.abs())),
        "set the clock, best by NTP (timedatectl set-ntp true)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_warning_and_problem_has_a_remedy() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let at = |secs| Some(now + SignedDuration::from_secs(secs));
        let cases = [
            (judge_disk(2 << 30, Path::new("/")), Level::Ok),
            (judge_disk(100 << 20, Path::new("/")), Level::Warning),
            (judge_disk(0, Path::new("/")), Level::Problem),
            (judge_wal(4 << 20), Level::Ok),
            (judge_wal(1 << 30), Level::Warning),
            (judge_token(None, now), Level::Ok),
            (judge_token(at(900), now), Level::Ok),
            (judge_token(at(60), now), Level::Warning),
            (judge_token(at(-60), now), Level::Problem),
            (judge_daemon(None, "no daemon"), Level::Warning),
            (judge_clock(None, now), Level::Ok),
            (judge_clock(Some("Fri, 15 Jan 2027 08:00:10 GMT"), now), Level::Ok),
            (
                judge_clock(Some("Fri, 15 Jan 2027 09:00:00 GMT"), now),
                Level::Warning,
            ),
        ];
        for (finding, level) in cases {
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.remedy.is_some(), level != Level::Ok, "{finding:?}");
        }
    }

    #[test]
    fn a_clock_behind_is_told_from_one_ahead() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let finding = judge_clock(Some("Fri, 15 Jan 2027 09:00:00 GMT"), now);
        assert!(finding.message.contains("60 min behind"), "{}", finding.message);
    }

    #[test]
    fn looking_at_a_file_does_not_create_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.db");
        let findings = file(&path);
        assert!(!path.exists());
        assert!(
            findings
                .iter()
                .any(|f| f.check == "file" && f.level == Level::Warning),
            "{findings:?}"
        );
    }

    #[test]
    fn a_file_that_is_no_database_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.db");
        std::fs::write(&path, "no database, but long enough to have a header ".repeat(50)).unwrap();
        let findings = file(&path);
        assert!(
            findings
                .iter()
                .any(|f| f.check == "file" && f.level == Level::Problem),
            "{findings:?}"
        );
    }
}
