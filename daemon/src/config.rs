//! What a user may set: in `config.toml`, over it by the environment, over that by the command line. A key or value
//! that is none is refused by its name, with the nearest right one; a missing file is a file of defaults.
//!
//! `config/default.toml` documents every key. `schema` says what a key takes, `file` reads a file by it, `layers` puts
//! what was read into one [`Config`], `edit` changes a file and keeps the rest of it.

mod edit;
mod file;
mod layers;
mod schema;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

pub use edit::{with_setting, write_file};
pub use layers::{Given, Holding, Overrides, Source};

/// The commented file of all keys and their defaults.
pub const DEFAULT_FILE: &str = include_str!("config/default.toml");

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The file to watch. A relative path starts at the folder of `config.toml`.
    pub context_db: Option<PathBuf>,
    /// Where `login` goes without `--server`.
    pub server: Option<Url>,
    /// Whom to trust when it speaks TLS, instead of the authorities of this machine. See [`Config::ca_file`].
    pub ca_file: Option<PathBuf>,
    pub log: Log,
    pub ingest: Ingest,
    pub projects: Projects,
    pub redaction: Redaction,
}

impl Config {
    /// The authority's file, from the folder of the `config.toml` that names it.
    pub fn ca_file(&self, config_file: &Path) -> Option<PathBuf> {
        let named = self.ca_file.as_deref()?;
        let folder = config_file.parent().unwrap_or(Path::new("/"));
        Some(folder.join(expand_home(named)))
    }
}

/// What the daemon tells of its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Which transcripts the daemon itself follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// Claude Code's transcripts, in `claude_projects_dir`.
    pub claude_projects: bool,
    /// `~` stands for the user's home.
    pub claude_projects_dir: PathBuf,
}

/// Whose rows may leave the machine. Patterns are globs over the name of a project, or over its folder if
/// there is a `/` in them; see `projects::ProjectFilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Projects {
    /// What becomes of a project that no pattern names.
    pub default: Sharing,
    pub include: Vec<String>,
    /// Outweighs `include`.
    pub exclude: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    #[default]
    Include,
    Exclude,
}

/// Which secrets are taken out of what is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redaction {
    pub enabled: bool,
    /// Regular expressions of findings that are no secrets.
    pub allow: Vec<String>,
    #[serde(rename = "rule")]
    pub rules: Vec<RedactionRule>,
}

/// A rule of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactionRule {
    /// Named in what stands in the secret's place: `[REDACTED:kind]`.
    pub kind: String,
    /// A regular expression; its group `secret`, if it has one, is what is replaced.
    pub pattern: String,
}

impl Default for Ingest {
    fn default() -> Ingest {
        Ingest {
            claude_projects: false,
            claude_projects_dir: "~/.claude/projects".into(),
        }
    }
}

impl Default for Redaction {
    fn default() -> Redaction {
        Redaction {
            enabled: true,
            allow: Vec::new(),
            rules: Vec::new(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    /// All that is wrong, a line each.
    #[error("{}", told(.0))]
    Invalid(Vec<Problem>),
}

/// Something that is no setting: where it stands, what is wrong with it, and what is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A file with the line, a variable, an option.
    pub place: String,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

fn told(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl LogLevel {
    /// As the log's filter takes it.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// The path with `~` at its beginning replaced by the user's home, if that is known.
pub fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), directories::BaseDirs::new()) {
        (Ok(rest), Some(dirs)) if rest.as_os_str().is_empty() => dirs.home_dir().to_path_buf(),
        (Ok(rest), Some(dirs)) => dirs.home_dir().join(rest),
        (Err(_), _) | (Ok(_), None) => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests;
