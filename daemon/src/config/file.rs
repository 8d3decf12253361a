//! Reads a file by the schema, to its end: whoever mends it wants to know of everything at once.

use std::path::Path;

use toml_edit::{Document, Item, TableLike};

use super::Problem;
use super::schema::{self, Key, Wrong};

/// The settings of a file.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<(&'static Key, toml::Value)>, Vec<Problem>> {
    let mut reader = Reader {
        text,
        path,
        settings: Vec::new(),
        problems: Vec::new(),
    };
    match Document::parse(text) {
        Ok(document) => reader.top(document.as_table()),
        Err(error) => {
            let message = error.message().replace('\n', ", ");
            reader.problem(
                error.span().map(|span| span.start),
                format!("this is no TOML: {message}"),
            );
        }
    }
    match reader.problems.is_empty() {
        true => Ok(reader.settings),
        false => Err(reader.problems),
    }
}

struct Reader<'t> {
    text: &'t str,
    path: &'t Path,
    settings: Vec<(&'static Key, toml::Value)>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn top(&mut self, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            match (schema::is_section(name), item.as_table_like()) {
                (true, Some(section)) => self.section(name, section),
                (true, None) => {
                    let text = format!("`{name}` is a section: write [{name}], and its keys below");
                    self.problem(place(table, name, item), text);
                }
                (false, _) => self.key("", table, name, item),
            }
        }
    }

    fn section(&mut self, section: &str, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            self.key(section, table, name, item);
        }
    }

    fn key(&mut self, section: &str, table: &dyn TableLike, name: &str, item: &Item) {
        let at = place(table, name, item);
        let Some(key) = schema::find(section, name) else {
            return self.problem(at, schema::unknown(section, name));
        };
        match key.check(item) {
            Ok(value) => self.settings.push((key, value)),
            Err(Wrong { span, text }) => {
                let at = span.map(|span| span.start).or(at);
                self.problem(at, format!("{}: {text}", key.dotted()));
            }
        }
    }

    fn problem(&mut self, at: Option<usize>, text: String) {
        let line = at.map(|at| {
            self.text.as_bytes()[..at.min(self.text.len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1
        });
        let place = match line {
            Some(line) => format!("{}, line {line}", self.path.display()),
            None => self.path.display().to_string(),
        };
        self.problems.push(Problem { place, text });
    }
}

/// Where a key stands in the text. A section's header has a place as a table.
fn place(table: &dyn TableLike, name: &str, item: &Item) -> Option<usize> {
    let of_key = table.key(name).and_then(|key| key.span());
    of_key.or_else(|| item.span()).map(|span| span.start)
}
