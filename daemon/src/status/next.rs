//! What the user can do about a state: one sentence, and a command to paste where there is one.

use url::Url;

use super::State;
use crate::paths::{Paths, quoted};

/// What decides the next step.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub state: State,
    /// Of the last error.
    pub code: Option<&'a str>,
    pub quarantined: u64,
    /// Where the last login was.
    pub server: Option<&'a Url>,
    pub paths: &'a Paths,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    pub step: String,
    pub command: Option<String>,
}

/// None: there is nothing to do.
pub fn next(situation: Situation<'_>) -> Option<Next> {
    let paths = situation.paths;
    let with = |step: &str, words: &str| Next {
        step: step.into(),
        command: Some(paths.command(words)),
    };
    Some(match situation.state {
        State::NeedsLogin => {
            let server = situation.server.map_or("URL".into(), |url| quoted(url.as_str()));
            with(
                "log in; until then changes are queued here",
                &format!("login --server {server}"),
            )
        }
        State::Paused => with(
            "resume when you like; until then changes are queued here",
            "resume",
        ),
        State::Offline => with(
            "nothing: it goes on by itself once the server answers; changes are queued here",
            "doctor",
        ),
        State::ReadOnly => Next {
            step: "ask an owner or admin of the tenant for the role member, which may send rows".into(),
            command: None,
        },
        State::Blocked => blocked(situation.code, paths),
        State::Starting | State::Syncing | State::InSync if situation.quarantined > 0 => with(
            "look at what was refused and why; a row that is mended is tried again by itself",
            "quarantine list",
        ),
        State::Starting | State::Syncing | State::InSync => return None,
    })
}

fn blocked(code: Option<&str>, paths: &Paths) -> Next {
    let file = quoted(&paths.context_db.display().to_string());
    let folder = paths.context_db.parent().unwrap_or(&paths.context_db);
    let folder = quoted(&folder.display().to_string());
    let state_folder = paths.state_db.parent().unwrap_or(&paths.state_db);
    let state_folder = quoted(&state_folder.display().to_string());
    let (step, command) = match code {
        Some("disk_full") => (
            "free some space on this disk; it then goes on by itself, and nothing is lost meanwhile",
            match state_folder == folder {
                true => format!("df -h {folder}"),
                false => format!("df -h {folder} {state_folder}"),
            },
        ),
        Some("read_only_file") => (
            "make the file and its folder writable for you, or their file system; it then goes on by itself",
            format!("ls -ld {folder} {file}"),
        ),
        Some("database_locked") => (
            "end the program that keeps the file locked; it then goes on by itself",
            format!("fuser -v {file}"),
        ),
        Some("schema_newer") => (
            "this file was used by a newer version: install that one",
            paths.command("--version"),
        ),
        Some(super::SETTINGS_GONE) => (
            "restore config.toml, or say that all projects may be sent; it then goes on by itself",
            paths.command("config set projects.default include"),
        ),
        Some("cannot_open") => (
            "see to it that the folder is there and that you may use it; it then goes on by itself",
            format!("ls -ld {folder} {file}"),
        ),
        Some(_) | None => (
            "look for the cause, and for how to mend it",
            paths.command("doctor"),
        ),
    };
    Next {
        step: step.into(),
        command: Some(command),
    }
}
