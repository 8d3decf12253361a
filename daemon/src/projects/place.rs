//! Where a row comes from, as far as the file tells.

use rusqlite::types::ValueRef;
use serde::Serialize;

use crate::ingest::AgentContext;

/// How rows that name neither a project nor a folder are called, also in patterns.
pub const NONE: &str = "(none)";

/// The project of a session, or of one of its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The name of the repository, as `ingest` took it from the transcript.
    pub project: Option<String>,
    /// The name that the row itself bears, where it is another one.
    pub own: Option<String>,
    /// Claude Code's name of the working folder, such as `-home-ada-code-harbour`.
    pub folder: Option<String>,
}

impl Place {
    /// What it is called: by the project, else by the folder.
    pub fn name(&self) -> &str {
        self.project.as_deref().or(self.folder.as_deref()).unwrap_or(NONE)
    }

    /// All that a pattern may match.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        let named = [&self.project, &self.own, &self.folder];
        let nothing = named.iter().all(|label| label.is_none());
        named
            .into_iter()
            .filter_map(|label| label.as_deref())
            .chain(nothing.then_some(NONE))
    }

    /// What the columns of one message say, by themselves.
    pub(super) fn of_columns(agent_context: Option<&str>, source_file: Option<&str>) -> Place {
        Place {
            project: agent_context
                .filter(|text| text.starts_with('{'))
                .and_then(|text| AgentContext::parse(text).project)
                .filter(|name| !name.is_empty()),
            own: None,
            // `ingest` names a file from its project's folder on. A file outside of any has no folder.
            folder: source_file
                .and_then(|file| file.split_once('/'))
                .map(|(folder, _)| folder.to_owned())
                .filter(|folder| !folder.is_empty()),
        }
    }
}

/// A text column, whatever another program put there.
pub(super) fn text_of(value: ValueRef<'_>) -> Option<&str> {
    value.as_str().ok().filter(|text| !text.is_empty())
}

/// The session as it travels; empty for none.
pub(super) fn session_of(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Text(_) => text_of(value).unwrap_or_default().to_owned(),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_called_by_its_project_else_by_its_folder() {
        let place = Place::of_columns(Some(r#"{"project":"shop"}"#), Some("-c-shop/s.jsonl"));
        assert_eq!((place.name(), place.folder.as_deref()), ("shop", Some("-c-shop")));
        let place = Place::of_columns(Some("a4f19c03"), Some("-c-shop/s/subagents/agent-a.jsonl"));
        assert_eq!((place.name(), &place.project), ("-c-shop", &None));
        for (context, file) in [
            (None, None),
            (Some(r#"{"project":""}"#), Some("s.jsonl")),
            (Some("{"), Some("/s")),
        ] {
            assert_eq!(
                Place::of_columns(context, file).name(),
                NONE,
                "{context:?} {file:?}"
            );
        }
    }
}
