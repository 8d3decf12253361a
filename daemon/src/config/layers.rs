//! Puts the layers over each other: defaults, file, environment, command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize as _, Serialize};

use super::schema::{self, KEYS, Key, Kind};
use super::{Config, ConfigError, Problem, file};

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "source", content = "name", rename_all = "snake_case")]
pub enum Source {
    Default,
    File,
    /// With the name of the variable.
    Environment(String),
    /// With the name of the option.
    Flag(String),
}

/// What the environment and the command line of this process say. It stays as it is while the process lives; the file
/// below it may change.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    settings: Vec<(&'static Key, toml::Value, Source)>,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub context_db: Option<PathBuf>,
    /// Each `KEY=VALUE`.
    pub set: Vec<String>,
}

/// What holds, and why.
#[derive(Clone, Debug)]
pub struct Holding {
    pub config: Config,
    values: toml::Table,
    sources: BTreeMap<String, Source>,
}

/// A key with what holds for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    pub key: String,
    /// None where nothing is set, and there is no default.
    pub value: Option<toml::Value>,
    #[serde(flatten)]
    pub source: Source,
    /// The variable that sets it.
    pub variable: String,
}

impl Overrides {
    /// An empty variable is as good as none, which is how service managers and shells unset one.
    pub fn new(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        given: &Given,
    ) -> Result<Overrides, ConfigError> {
        let mut settings = Vec::new();
        let mut problems = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|_| !value.is_empty()) else {
                continue;
            };
            match of_variable(name, &value) {
                None => {}
                Some(Ok((key, value))) => {
                    settings.push((key, value, Source::Environment(name.to_owned())));
                }
                Some(Err(text)) => problems.push(Problem {
                    place: format!("the variable {name}"),
                    text,
                }),
            }
        }
        for text in &given.set {
            match of_option(text) {
                Ok((key, value)) => settings.push((key, value, Source::Flag("--set".into()))),
                Err(text) => problems.push(Problem {
                    place: "--set".into(),
                    text,
                }),
            }
        }
        if let Some(path) = &given.context_db {
            let key = schema::find("", "context_db").expect("the key is in the schema");
            match path.to_str() {
                Some(path) => {
                    settings.push((key, from_here(path).into(), Source::Flag("--context-db".into())));
                }
                None => problems.push(Problem {
                    place: "--context-db".into(),
                    text: format!("{} is no UTF-8", path.display()),
                }),
            }
        }
        match problems.is_empty() {
            true => Ok(Overrides { settings }),
            false => Err(ConfigError::Invalid(problems)),
        }
    }

    /// Whether they set anything of this section.
    pub fn concern(&self, section: &str) -> bool {
        self.settings.iter().any(|(key, _, _)| key.section == section)
    }

    /// What they set of these sections otherwise than the file does: another process, such as a service, goes without it.
    pub fn only_here(&self, path: &Path, sections: &[&str]) -> Result<Vec<Setting>, ConfigError> {
        let elsewhere = Overrides::default().over_file(path)?;
        let concerned = |key: &Key| self.concern(key.section) && sections.contains(&key.section);
        let holding = self.over_file(path)?;
        let differs =
            |key: &&Key| concerned(key) && value_of(&holding.values, key) != value_of(&elsewhere.values, key);
        Ok(KEYS
            .iter()
            .filter(differs)
            .map(|key| holding.setting(key))
            .collect())
    }

    /// What holds with this file below. A missing file is an empty one.
    pub fn over_file(&self, path: &Path) -> Result<Holding, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => self.over_text(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.over_text("", path),
            Err(source) => Err(ConfigError::Unreadable {
                path: path.to_path_buf(),
                source,
            }),
        }
    }

    /// The same with the text of the file; errors name the file as `path`.
    pub fn over_text(&self, text: &str, path: &Path) -> Result<Holding, ConfigError> {
        let of_file = file::read(text, path).map_err(ConfigError::Invalid)?;
        let mut values = toml::Table::try_from(Config::default()).expect("the defaults are TOML");
        let mut sources = BTreeMap::new();
        let layers = of_file.into_iter().map(|(key, value)| (key, value, Source::File));
        for (key, value, source) in layers.chain(self.settings.iter().cloned()) {
            put(&mut values, key, value);
            sources.insert(key.dotted(), source);
        }
        let config = Config::deserialize(values.clone()).map_err(|error| {
            // The schema has checked each value; what is left is a fault of ours, but no reason to panic.
            ConfigError::Invalid(vec![Problem {
                place: path.display().to_string(),
                text: error.to_string().trim_end().replace('\n', ", "),
            }])
        })?;
        Ok(Holding {
            config,
            values,
            sources,
        })
    }
}

impl Holding {
    /// All keys, in the order of the file that documents them.
    pub fn settings(&self) -> Vec<Setting> {
        KEYS.iter().map(|key| self.setting(key)).collect()
    }

    fn setting(&self, key: &Key) -> Setting {
        Setting {
            key: key.dotted(),
            value: value_of(&self.values, key).cloned(),
            source: self.source(key),
            variable: key.variable(),
        }
    }

    fn source(&self, key: &Key) -> Source {
        self.sources
            .get(&key.dotted())
            .cloned()
            .unwrap_or(Source::Default)
    }
}

/// None for a variable that is not ours: other programs of the product have theirs.
fn of_variable(name: &str, value: &OsString) -> Option<Result<(&'static Key, toml::Value), String>> {
    let rest = name.strip_prefix("CODITECT_")?;
    let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
        let section = KEYS
            .iter()
            .find(|key| {
                !key.section.is_empty() && rest.starts_with(&format!("{}_", key.section.to_uppercase()))
            })?
            .section;
        let known: Vec<String> = KEYS
            .iter()
            .filter(|key| key.section == section)
            .map(Key::variable)
            .collect();
        let near = schema::nearest(name, known.iter().map(String::as_str));
        return Some(Err(match near {
            Some(near) => format!("it sets no key of config.toml: did you mean {near}?"),
            None => format!("it sets no key of config.toml: known are {}", known.join(", ")),
        }));
    };
    let Some(text) = value.to_str() else {
        return Some(Err("its value is no UTF-8".into()));
    };
    Some(of_text(key, text))
}

fn of_option(text: &str) -> Result<(&'static Key, toml::Value), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        format!(
            "{} has no `=`: write it as in `--set ingest.claude_projects=true`",
            schema::quoted(text)
        )
    })?;
    let key = find_dotted(key.trim())?;
    of_text(key, value).map_err(|wrong| format!("{}: {wrong}", key.dotted()))
}

/// The key of a dotted name, or what may have been meant.
pub(super) fn find_dotted(dotted: &str) -> Result<&'static Key, String> {
    let (section, name) = dotted.rsplit_once('.').unwrap_or(("", dotted));
    if let Some(key) = schema::find(section, name) {
        return Ok(key);
    }
    let known: Vec<String> = KEYS.iter().map(Key::dotted).collect();
    let of_name = KEYS.iter().find(|key| key.name == name).map(Key::dotted);
    let near =
        of_name.or_else(|| schema::nearest(dotted, known.iter().map(String::as_str)).map(str::to_owned));
    Err(match near {
        Some(near) => format!("unknown key {}: did you mean `{near}`?", schema::quoted(dotted)),
        None => format!(
            "unknown key {}: known are {}",
            schema::quoted(dotted),
            known.join(", ")
        ),
    })
}

/// Relative paths of the command line and the environment start where the process does.
fn of_text(key: &'static Key, text: &str) -> Result<(&'static Key, toml::Value), String> {
    let value = key.check_text(text)?;
    Ok(match (&key.kind, value.as_str()) {
        (Kind::Path, Some(path)) => (key, from_here(path).into()),
        (_, _) => (key, value),
    })
}

fn from_here(path: &str) -> String {
    if path.starts_with('~') {
        return path.to_owned();
    }
    let absolute = std::path::absolute(path).ok();
    absolute
        .and_then(|path| path.to_str().map(str::to_owned))
        .unwrap_or_else(|| path.to_owned())
}

fn put(values: &mut toml::Table, key: &Key, value: toml::Value) {
    if key.section.is_empty() {
        values.insert(key.name.to_owned(), value);
    } else if let Some(toml::Value::Table(section)) = values.get_mut(key.section) {
        section.insert(key.name.to_owned(), value);
    }
}

fn value_of<'v>(values: &'v toml::Table, key: &Key) -> Option<&'v toml::Value> {
    match key.section {
        "" => values.get(key.name),
        section => values.get(section)?.get(key.name),
    }
}
