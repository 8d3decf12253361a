//! `config.toml`: what a user may set. A key or value that is none is refused by its name; a missing file is a file
//! of defaults.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The file to watch. A relative path starts at the folder of `config.toml`.
    pub context_db: Option<PathBuf>,
    /// Where `login` goes without `--server`.
    pub server: Option<Url>,
    pub ingest: Ingest,
    pub projects: Projects,
    pub redaction: Redaction,
}

/// Which transcripts the daemon itself follows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// Claude Code's transcripts, in `claude_projects_dir`.
    pub claude_projects: bool,
    /// `~` stands for the user's home.
    pub claude_projects_dir: PathBuf,
}

/// Whose rows may leave the machine. Patterns are globs over the name of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Projects {
    /// What becomes of a project that no pattern names.
    pub default: Sharing,
    pub include: Vec<String>,
    /// Outweighs `include`.
    pub exclude: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    #[default]
    Include,
    Exclude,
}

/// Which secrets are taken out of what is sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redaction {
    pub enabled: bool,
    /// Regular expressions of findings that are no secrets.
    pub allow: Vec<String>,
    #[serde(rename = "rule")]
    pub rules: Vec<RedactionRule>,
}

/// A rule of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
    /// The text names key, line and what was expected.
    #[error("{path} is not understood: {message}")]
    Invalid { path: PathBuf, message: String },
}

impl Config {
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(&text).map_err(|message| ConfigError::Invalid {
                path: path.to_path_buf(),
                message,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
            Err(source) => Err(ConfigError::Unreadable {
                path: path.to_path_buf(),
                source,
            }),
        }
    }

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_means_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::load(&folder.path().join("config.toml")).unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn a_wrong_key_is_refused_by_name() {
        let error = Config::parse("contextdb = \"x\"\n").unwrap_err();
        assert!(
            error.contains("contextdb") && error.contains("context_db"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_line() {
        let error = Config::parse("\nserver = \"no url\"\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("server"), "{error}");
    }

    #[test]
    fn an_invalid_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "x = 1").unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains("config.toml"), "{error}");
    }
}
