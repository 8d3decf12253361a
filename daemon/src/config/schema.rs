//! Every key: its section, what it takes, and how one writes it. A value is checked here, from wherever it came.

use std::ops::Range;

use toml_edit::{Document, Item, TableLike};

/// A key of `config.toml`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Empty for the keys at the top.
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// A value as one writes it.
    pub(super) example: &'static str,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Path,
    Url,
    Choice(&'static [&'static str]),
    Texts,
    /// Tables of these texts, all of which are needed.
    Tables(&'static [&'static str]),
}

const fn key(section: &'static str, name: &'static str, kind: Kind, example: &'static str) -> Key {
    Key {
        section,
        name,
        kind,
        example,
    }
}

pub(super) const KEYS: &[Key] = &[
    key("", "context_db", Kind::Path, r#""~/work/context.db""#),
    key("", "server", Kind::Url, r#""https://sync.example.com""#),
    key("", "ca_file", Kind::Path, r#""~/acme-ca.pem""#),
    key(
        "log",
        "level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        r#""debug""#,
    ),
    key("ingest", "claude_projects", Kind::Switch, "true"),
    key(
        "ingest",
        "claude_projects_dir",
        Kind::Path,
        r#""~/.claude/projects""#,
    ),
    key(
        "projects",
        "default",
        Kind::Choice(&["include", "exclude"]),
        r#""exclude""#,
    ),
    key("projects", "include", Kind::Texts, r#"["acme-*"]"#),
    key("projects", "exclude", Kind::Texts, r#"["private-*"]"#),
    key("redaction", "enabled", Kind::Switch, "true"),
    key("redaction", "allow", Kind::Texts, r#"["^test_[a-z]+$"]"#),
    key(
        "redaction",
        "rule",
        Kind::Tables(&["kind", "pattern"]),
        r#"[{ kind = "acme-key", pattern = "acme_[0-9a-f]{32}" }]"#,
    ),
];

/// Longest foreign text that an error repeats.
const QUOTED_MAX_CHARS: usize = 40;

/// How alike two names are at least, of 1, for one to be taken for a slip of the other. `claud_project` and
/// `claude_projects` reach 0.97, `include` and `exclude` 0.67.
const ALIKE: f64 = 0.8;

/// Why a value is none; with the place of it in its text, if that is not the whole.
pub(super) struct Wrong {
    pub(super) span: Option<Range<usize>>,
    pub(super) text: String,
}

impl Key {
    /// `ingest.claude_projects`.
    pub(super) fn dotted(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }

    /// `CODITECT_INGEST_CLAUDE_PROJECTS`.
    pub(super) fn variable(&self) -> String {
        format!("CODITECT_{}", self.dotted().replace('.', "_").to_uppercase())
    }

    /// The value of a parsed item, if it is one that this key takes.
    pub(super) fn check(&self, item: &Item) -> Result<toml::Value, Wrong> {
        match &self.kind {
            Kind::Switch => item
                .as_bool()
                .map(toml::Value::Boolean)
                .ok_or_else(|| self.wrong_type("true or false", item)),
            Kind::Path => self.text(item, "a path in quotes").and_then(|text| match text {
                "" => Err(self.wrong("the path is empty".into())),
                text => Ok(text.into()),
            }),
            Kind::Url => {
                let text = self.text(item, "an address in quotes")?;
                match url::Url::parse(text) {
                    Ok(_) => Ok(text.into()),
                    Err(error) => Err(self.wrong(format!("{} is no address ({error})", quoted(text)))),
                }
            }
            Kind::Choice(choices) => {
                let text = self.text(item, "a text in quotes")?;
                match choices.contains(&text) {
                    true => Ok(text.into()),
                    false => Err(no_choice(text, choices)),
                }
            }
            Kind::Texts => {
                let array = item
                    .as_array()
                    .ok_or_else(|| self.wrong_type("a list of texts", item))?;
                let texts = array.iter().map(|value| match value.as_str() {
                    Some(text) => Ok(toml::Value::from(text)),
                    None => Err(Wrong {
                        span: value.span(),
                        ..self.wrong_type("a list of texts", &Item::Value(value.clone()))
                    }),
                });
                texts.collect::<Result<Vec<_>, _>>().map(toml::Value::Array)
            }
            Kind::Tables(fields) => self.tables(item, fields),
        }
    }

    /// The value of a text as it stands in a variable or on the command line: quotes may be left out, a list may be
    /// given with commas.
    pub(super) fn check_text(&self, text: &str) -> Result<toml::Value, String> {
        let trimmed = text.trim();
        let is_toml = match &self.kind {
            Kind::Switch | Kind::Tables(_) => true,
            Kind::Path | Kind::Url | Kind::Choice(_) => trimmed.starts_with(['"', '\'']),
            Kind::Texts => trimmed.starts_with('['),
        };
        let item = if is_toml {
            let line = format!("x = {trimmed}");
            match Document::parse(line.as_str()) {
                Ok(document) if document.len() == 1 => document.as_table()["x"].clone(),
                Ok(_) | Err(_) => {
                    return Err(format!(
                        "expected {}, found {}",
                        self.example.trim_matches('"'),
                        quoted(text)
                    ));
                }
            }
        } else if self.kind == Kind::Texts {
            let parts = trimmed.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml_edit::value(parts.collect::<toml_edit::Array>())
        } else {
            toml_edit::value(text)
        };
        self.check(&item).map_err(|wrong| wrong.text)
    }

    fn text<'i>(&self, item: &'i Item, expected: &str) -> Result<&'i str, Wrong> {
        item.as_str().ok_or_else(|| self.wrong_type(expected, item))
    }

    fn tables(&self, item: &Item, fields: &[&'static str]) -> Result<toml::Value, Wrong> {
        let tables: Vec<(&dyn TableLike, Option<Range<usize>>)> =
            match (item.as_array_of_tables(), item.as_array()) {
                (Some(tables), _) => tables
                    .iter()
                    .map(|table| (table as &dyn TableLike, table.span()))
                    .collect(),
                (None, Some(array)) => {
                    let all: Option<Vec<_>> = array
                        .iter()
                        .map(|value| Some((value.as_inline_table()? as &dyn TableLike, value.span())))
                        .collect();
                    all.ok_or_else(|| self.wrong_type("a list of tables", item))?
                }
                (None, None) => return Err(self.wrong_type("a list of tables", item)),
            };
        let mut rows = Vec::new();
        for (table, span) in tables {
            let mut row = toml::Table::new();
            for (name, item) in table.iter() {
                let place = table.key(name).and_then(|key| key.span()).or(span.clone());
                if !fields.contains(&name) {
                    let near = nearest(name, fields.iter().copied());
                    return Err(Wrong {
                        span: place,
                        text: format!(
                            "unknown key `{}` in [[{}]]: {}",
                            short(name),
                            self.dotted(),
                            suggestion(near.map(|near| format!("`{near}`")), fields)
                        ),
                    });
                }
                let text = item.as_str().ok_or_else(|| Wrong {
                    span: place,
                    text: format!("`{name}`: expected a text in quotes, found {}", found(item)),
                })?;
                row.insert(name.to_owned(), text.into());
            }
            if let Some(missing) = fields.iter().find(|field| !row.contains_key(**field)) {
                return Err(Wrong {
                    span,
                    text: format!("`{missing}` is missing, such as {}", self.example),
                });
            }
            rows.push(row.into());
        }
        Ok(toml::Value::Array(rows))
    }

    fn wrong_type(&self, expected: &str, item: &Item) -> Wrong {
        self.wrong(format!("expected {expected}, found {}", found(item)))
    }

    fn wrong(&self, what: String) -> Wrong {
        Wrong {
            span: None,
            text: format!("{what}; write it as in `{} = {}`", self.name, self.example),
        }
    }
}

/// What is meant by a key that is none: in its own section first, then elsewhere.
pub(super) fn unknown(section: &str, name: &str) -> String {
    let place = match section {
        "" => "at the top".to_owned(),
        section => format!("in [{section}]"),
    };
    let here: Vec<&str> = names(section).collect();
    let near = match nearest(name, here.iter().copied()) {
        Some(near) if section.is_empty() && is_section(near) => Some(format!("[{near}]")),
        Some(near) => Some(format!("`{near}`")),
        None => {
            let elsewhere = KEYS.iter().filter(|key| key.section != section);
            let best = nearest(name, elsewhere.clone().map(|key| key.name));
            best.and_then(|best| elsewhere.clone().find(|key| key.name == best))
                .map(|key| match key.section {
                    "" => format!("`{}` at the top", key.name),
                    section => format!("`{}` in [{section}]", key.name),
                })
        }
    };
    format!(
        "unknown key `{}` {place}: {}",
        short(name),
        suggestion(near, &here)
    )
}

pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

pub(super) fn is_section(name: &str) -> bool {
    !name.is_empty() && KEYS.iter().any(|key| key.section == name)
}

/// The name that comes nearest, if it is near at all.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let meant = plain(name);
    known
        .map(|known| (strsim::jaro_winkler(&meant, &plain(known)), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// A foreign text in an error: not longer than it helps.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", short(text))
}

fn short(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Keys of a section; at the top the sections too.
fn names(section: &str) -> impl Iterator<Item = &'static str> {
    let sections = KEYS.iter().map(|key| key.section).filter(|name| !name.is_empty());
    let mut sections: Vec<_> = sections.collect();
    sections.dedup();
    let keys: Vec<_> = KEYS
        .iter()
        .filter(|key| key.section == section)
        .map(|key| key.name)
        .collect();
    let sections = if section.is_empty() { sections } else { Vec::new() };
    keys.into_iter().chain(sections)
}

fn no_choice(text: &str, choices: &[&'static str]) -> Wrong {
    let near = nearest(text, choices.iter().copied()).map(|near| format!("\"{near}\""));
    let known: Vec<String> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
    let text = match near {
        Some(near) => format!("{} is no value of it: did you mean {near}?", quoted(text)),
        None => format!(
            "{} is no value of it: it takes {}",
            quoted(text),
            known.join(", ")
        ),
    };
    Wrong { span: None, text }
}

fn suggestion(near: Option<String>, known: &[&str]) -> String {
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known here are {}", known.join(", ")),
    }
}

fn found(item: &Item) -> String {
    match item.as_str() {
        Some(text) => format!("the text {}", quoted(text)),
        None => match item.type_name() {
            kind @ ("array" | "integer" | "inline table" | "array of tables") => format!("an {kind}"),
            kind => format!("a {kind}"),
        },
    }
}
