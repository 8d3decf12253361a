//! One rule: how it is read from `rules.toml` or `config.toml`, and how it finds its secrets in a text.

use std::ops::Range;
use std::sync::OnceLock;

use regex::{Captures, Match, Regex};
use serde::Deserialize;

use super::value::{Candidate, Check};
use super::{KIND_MAX_CHARS, Kind, is_kind, reason};
use crate::config::RedactionRule;

const RULES: &str = include_str!("rules.toml");

/// `{start}`: a word boundary, or behind an escape in a text that is JSON itself, where `\nghp_…` has none.
const START: &str = r"(?:(?-u:\b)|\\[nrt])";
const END: &str = r"(?-u:\b)";

/// `{value}`: what stands behind a name, in programs, JSON, YAML, environment files, calls and XML.
const VALUE: &str = concat!(
    // The name may itself be a value, with its own beside it or on the next line, which may be numbered. This form comes
    // first, since another one would take the word `value` for the value. What lies between has no bound: counted, it
    // stands in the automaton as often as it is counted, which made all scanning six times slower.
    r#"(?:(?:[ \t\r\n,0-9→]|\\+[nrt]|\\*["'])+(?i-u:value)\\*["']?[\t ]{0,4}[:=][\t ]{0,4}"#,
    r#"(?:\\*"(?<secret_pair>[^"\r\n]{6,})|\\*'(?<secret_pair_single>[^'\r\n]{6,})"#,
    r#"|(?<secret_pair_bare>[^\s"'`,;|<>(){}\[\]\\]{6,400}))"#,
    r#"|\\*["'`]?\]?[\t ]{0,8}"#,
    // A type may stand between name and value.
    r#"(?:(?::[\t ]*&?(?:'static )?[A-Za-z]{1,10}[\t ]{0,8}=|=>|:=|[:=(,])[\t ]{0,8}"#,
    r#"(?:\\*"(?<secret>[^"\r\n]{6,})|\\*'(?<secret_single>[^'\r\n]{6,}))"#,
    r#"|(?:=>|:=|[:=])[\t ]{0,8}(?<secret_bare>[^\s"'`,;|<>(){}\[\]\\]{6,400}))"#,
    r"|>(?<secret_element>[^<>\s]{6,400})<)",
);

#[derive(Debug)]
pub(super) struct Rule {
    kind: String,
    what: String,
    hint: String,
    pattern: String,
    check: Check,
    lines: bool,
    own: bool,
    /// Most rules never meet a text that they have to look at.
    regex: OnceLock<Regex>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    kind: String,
    what: String,
    hint: String,
    pattern: String,
    #[serde(default)]
    check: Check,
    #[serde(default)]
    lines: bool,
}

/// All that the rules of `rules.toml` depend on besides the program itself, for a fingerprint.
pub(super) const BUILT_IN_TEXTS: [&str; 4] = [RULES, START, END, VALUE];

/// The rules of `rules.toml`.
pub(super) fn built_in() -> impl Iterator<Item = Rule> {
    let file: File = toml::from_str(RULES).expect("a test reads the file");
    file.rule.into_iter().map(|rule| Rule {
        pattern: rule
            .pattern
            .replace("{start}", START)
            .replace("{end}", END)
            .replace("{value}", VALUE),
        kind: rule.kind,
        what: rule.what,
        hint: rule.hint.replace("{start}", START),
        check: rule.check,
        lines: rule.lines,
        own: false,
        regex: OnceLock::new(),
    })
}

impl Rule {
    /// A rule of the user's own. It is compiled at once, so that what is wrong with it is said.
    pub(super) fn own(rule: &RedactionRule) -> Result<Rule, String> {
        let RedactionRule { kind, pattern } = rule;
        if !is_kind(kind) {
            return Err(format!(
                "redaction.rule: kind {kind:?} may have up to {KIND_MAX_CHARS} lower-case letters, digits and hyphens"
            ));
        }
        let regex = Regex::new(pattern).map_err(|error| {
            format!(
                "redaction.rule {kind:?}: pattern {pattern:?} is no regular expression: {}",
                reason(&error)
            )
        })?;
        if regex.is_match("") {
            return Err(format!(
                "redaction.rule {kind:?}: pattern {pattern:?} matches where there is nothing"
            ));
        }
        Ok(Rule {
            kind: kind.clone(),
            what: format!("your own: {pattern}"),
            hint: pattern.clone(),
            pattern: pattern.clone(),
            check: Check::Form,
            lines: true,
            own: true,
            regex: regex.into(),
        })
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    pub(super) fn hint(&self) -> &str {
        &self.hint
    }

    pub(super) fn describe(&self) -> Kind<'_> {
        Kind {
            kind: &self.kind,
            what: &self.what,
            own: self.own,
        }
    }

    /// Calls `found` with the place of each secret.
    pub(super) fn find(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        let regex = self
            .regex
            .get_or_init(|| Regex::new(&self.pattern).expect("a test compiles every rule"));
        let mut at = 0;
        while let Some(captures) = regex.captures_at(text, at) {
            let (name, secret) = secret_of(regex, &captures);
            let mut range = trimmed(text, secret.range());
            let is_bare = matches!(name, Some("secret_bare" | "secret_pair_bare"));
            if self.check == Check::Random && is_bare {
                range.end = parameter_end(text, &range);
            }
            let candidate = Candidate {
                text,
                range: range.clone(),
                name_start: captures.get_match().start(),
                is_quoted: matches!(
                    name,
                    Some(
                        "secret" | "secret_single" | "secret_element" | "secret_pair" | "secret_pair_single"
                    )
                ),
            };
            if self.check.accepts(&candidate) {
                if is_bare && range.end == secret.end() {
                    // The pattern counts to a bound, the secret may not.
                    range.end = bare_end(text, range.end);
                }
                at = range.end.max(next_char(text, at));
                found(range);
            } else {
                // Another name may stand inside of what this one took for its value.
                at = secret.start().max(next_char(text, captures.get_match().start()));
            }
        }
    }
}

/// The group that is the secret, with its name; without one, the whole match.
fn secret_of<'r, 't>(regex: &'r Regex, captures: &Captures<'t>) -> (Option<&'r str>, Match<'t>) {
    regex
        .capture_names()
        .flatten()
        .filter(|name| name.starts_with("secret"))
        .find_map(|name| captures.name(name).map(|found| (Some(name), found)))
        .unwrap_or_else(|| (None, captures.get_match()))
}

/// Without the escapes around it: of a line end before a token, of the quote behind a value.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let (mut start, mut end) = (range.start, range.end);
    while let Some(escape) = text.get(start..end.min(start + 2))
        && matches!(escape, "\\n" | "\\r" | "\\t")
    {
        start += 2;
    }
    let is_before_quote = text[end..].starts_with(['"', '\'']);
    while is_before_quote && end > start && text.as_bytes()[end - 1] == b'\\' {
        end -= 1;
    }
    start..end
}

/// In a URL the next parameter may follow, or the host. A password may hold those signs, a token does not.
fn parameter_end(text: &str, range: &Range<usize>) -> usize {
    text[range.clone()]
        .find(['&', '@'])
        .map_or(range.end, |length| range.start + length)
}

fn bare_end(text: &str, from: usize) -> usize {
    let ends = |c: char| c.is_whitespace() || "\"'`,;|<>(){}[]\\".contains(c);
    text[from..].find(ends).map_or(text.len(), |length| from + length)
}

fn next_char(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(at + 1, |c| at + c.len_utf8())
}

/// Whether a built-in rule says that the secrets of this kind hold no white space.
pub(super) fn is_one_word(kind: &str) -> bool {
    static ONE_WORD: OnceLock<Vec<String>> = OnceLock::new();
    ONE_WORD
        .get_or_init(|| {
            built_in()
                .filter(|rule| !rule.lines)
                .map(|rule| rule.kind)
                .collect()
        })
        .iter()
        .any(|known| known == kind)
}
