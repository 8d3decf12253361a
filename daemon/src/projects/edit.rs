//! Patterns into `[projects]` of config.toml, so that its comments and its order stay.

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

/// One of the two lists of `[projects]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Include,
    Exclude,
}

impl List {
    pub fn name(self) -> &'static str {
        match self {
            List::Include => "include",
            List::Exclude => "exclude",
        }
    }

    fn other(self) -> List {
        match self {
            List::Include => List::Exclude,
            List::Exclude => List::Include,
        }
    }
}

/// The text of a file with the patterns in this list and not in the other one. An error names what is wrong.
pub fn with_patterns(text: &str, list: List, patterns: &[String]) -> Result<String, String> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| format!("the file is no TOML: {}", error.message()))?;
    // Comments of a file without any setting would end up behind the first one.
    let remarks = document.is_empty().then(|| text.trim_end().to_owned());
    if remarks.is_some() {
        document = DocumentMut::new();
    }
    let section = document
        .entry("projects")
        .or_insert_with(|| Item::Table(Table::new()))
        .as_table_like_mut()
        .ok_or("`projects` is no section in the file")?;
    if section.contains_key(list.other().name()) {
        array(section, list.other())?
            .retain(|there| !patterns.iter().any(|pattern| there.as_str() == Some(pattern)));
    }
    let into = array(section, list)?;
    for pattern in patterns {
        if !into.iter().any(|there| there.as_str() == Some(pattern)) {
            into.push(pattern.as_str());
        }
    }
    let settings = document.to_string();
    Ok(match remarks {
        Some(remarks) if !remarks.is_empty() => format!("{remarks}\n\n{settings}"),
        Some(_) | None => settings,
    })
}

fn array(section: &mut dyn TableLike, list: List) -> Result<&mut Array, String> {
    section
        .entry(list.name())
        .or_insert_with(|| value(Array::new()))
        .as_array_mut()
        .ok_or_else(|| format!("projects.{} is no list of texts", list.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, list: List, patterns: &[&str]) -> String {
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        with_patterns(text, list, &patterns).unwrap()
    }

    #[test]
    fn a_pattern_goes_into_its_list_and_out_of_the_other_and_the_rest_stays() {
        let before = "\
# mine
server = \"https://sync.acme.test\" # the office

[projects]
default = \"exclude\" # private
include = [\"shop\", \"lamp\"]
# secrets
exclude = [
  \"vault\", # really
]

[redaction]
enabled = true
";
        let after = "\
# mine
server = \"https://sync.acme.test\" # the office

[projects]
default = \"exclude\" # private
include = [\"lamp\"]
# secrets
exclude = [
  \"vault\", \"shop\", # really
]

[redaction]
enabled = true
";
        let got = edited(before, List::Exclude, &["shop", "vault"]);
        let comments = |text: &str| text.matches('#').count();
        assert_eq!(comments(&got), comments(after), "{got}");
        let read = |text: &str| -> toml::Table { text.parse().unwrap() };
        assert_eq!(read(&got), read(after), "{got}");
        assert!(
            got.starts_with(&before[..before.find("include").unwrap()]),
            "{got}"
        );
        assert_eq!(
            edited(&got, List::Exclude, &["shop"]),
            got,
            "a second time changes nothing"
        );
    }

    #[test]
    fn a_file_without_the_section_gets_it_at_its_end_and_remarks_stay_before() {
        assert_eq!(
            edited("server = \"x\"\n", List::Include, &["~/code/*"]),
            "server = \"x\"\n\n[projects]\ninclude = [\"~/code/*\"]\n"
        );
        assert_eq!(
            edited("# all keys\n", List::Exclude, &["a"]),
            "# all keys\n\n[projects]\nexclude = [\"a\"]\n"
        );
        assert_eq!(
            edited("", List::Exclude, &["a\"b"]),
            "[projects]\nexclude = ['a\"b']\n"
        );
        assert_eq!(
            edited("projects = { default = \"exclude\" }\n", List::Include, &["a"]),
            "projects = { default = \"exclude\" , include = [\"a\"] }\n"
        );
    }

    #[test]
    fn what_is_no_list_is_named() {
        let error = with_patterns("[projects]\nexclude = 3\n", List::Exclude, &[]).unwrap_err();
        assert!(error.contains("projects.exclude"), "{error}");
        assert!(with_patterns("[", List::Exclude, &[]).is_err());
    }
}
