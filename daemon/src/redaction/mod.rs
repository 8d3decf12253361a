//! Redaction: secrets in what is sent are replaced by `[REDACTED:kind]`, before hashing. The local row keeps its text.
//!
//! The rules stand in `rules.toml`; a user adds rules, and findings that are no secrets, in `config.toml`. A text is
//! scanned in linear time: one pass for the rules' hints, and one for each rule whose hint occurs. What is redacted
//! stays as it is when it is redacted again, on whatever device and under whatever rules.

mod fit;
mod rule;
mod value;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use coditect_shared::ContentHash;
use coditect_shared::hash::sha256;
use jiff::Timestamp;
use regex::{Regex, RegexSet};
use serde::{Deserialize, Serialize};

use crate::config;
pub use fit::fits;
use rule::Rule;

/// Replacing a secret can lay open another one that had no boundary before: texts with findings are scanned again,
/// so often at most.
const PASSES_MAX: usize = 8;

/// The kind in whose name a text goes as a whole: if findings are left after the last pass, none of it is sent. No rule
/// has this name, so that the mark may stand for a text with spaces.
const WHOLE_TEXT: &str = "whole-text";

/// Finds and replaces secrets.
#[derive(Debug)]
pub struct Redactor {
    /// The user's first, then the built-in ones.
    rules: Vec<Rule>,
    /// One for each rule, in the same order.
    hints: RegexSet,
    allow: RegexSet,
    fingerprint: ContentHash,
}

/// A secret in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding<'r> {
    pub kind: &'r str,
    /// In bytes.
    pub range: Range<usize>,
}

/// Findings by kind.
pub type Findings = BTreeMap<String, u64>;

/// What was redacted in rows that were sent, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redacted {
    /// When the first such row was sent, as far as it is known.
    pub since: Option<Timestamp>,
    /// Versions of rows: an edited row counts again.
    pub rows: u64,
    pub findings: u64,
    pub kinds: Findings,
}

impl Redacted {
    pub fn add(&mut self, other: &Redacted) {
        self.rows += other.rows;
        self.findings += other.findings;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(kind.clone()).or_default() += count;
        }
    }
}

/// A kind, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kind<'r> {
    pub kind: &'r str,
    pub what: &'r str,
    /// From `config.toml`.
    pub own: bool,
}

impl Default for Redactor {
    fn default() -> Redactor {
        Redactor::new(&config::Redaction::default()).expect("the built-in rules compile")
    }
}

impl Redactor {
    /// An error names the key, the value and what is wrong with it.
    pub fn new(config: &config::Redaction) -> Result<Redactor, String> {
        let mut rules = Vec::new();
        if config.enabled {
            for rule in &config.rules {
                rules.push(Rule::own(rule)?);
            }
            rules.extend(rule::built_in());
        }
        for pattern in &config.allow {
            if let Err(error) = Regex::new(pattern) {
                return Err(format!(
                    "redaction.allow: {pattern:?} is no regular expression: {}",
                    reason(&error)
                ));
            }
        }
        let set = |patterns: Vec<&str>, key: &str| {
            RegexSet::new(patterns).map_err(|error| format!("{key}: {}", reason(&error)))
        };
        Ok(Redactor {
            hints: set(rules.iter().map(Rule::hint).collect(), "redaction.rule")?,
            allow: set(
                config.allow.iter().map(String::as_str).collect(),
                "redaction.allow",
            )?,
            rules,
            fingerprint: fingerprint_of(config),
        })
    }

    /// Another one where the same text may be redacted in another way: under other settings, or by another program.
    pub fn fingerprint(&self) -> ContentHash {
        self.fingerprint
    }

    /// All kinds, in the order in which they are preferred. None: redaction is off.
    pub fn kinds(&self) -> Vec<Kind<'_>> {
        self.rules.iter().map(Rule::describe).collect()
    }

    /// Secrets in a text, in its order and without overlaps.
    pub fn findings(&self, text: &str) -> Vec<Finding<'_>> {
        let mut found = Vec::new();
        if self.rules.is_empty() {
            return found;
        }
        for part in outside_marks(text) {
            self.scan(&text[part.clone()], part.start, &mut found);
        }
        found
    }

    /// The text as it may leave the machine. What was found is added to `counts`.
    pub fn redact<'t>(&self, text: &'t str, counts: &mut Findings) -> Cow<'t, str> {
        let mut redacted = Cow::Borrowed(text);
        for _ in 0..PASSES_MAX {
            let findings = self.findings(&redacted);
            if findings.is_empty() {
                return redacted;
            }
            for finding in &findings {
                *counts.entry(finding.kind.to_owned()).or_default() += 1;
            }
            redacted = Cow::Owned(replaced(&redacted, &findings));
        }
        if self.findings(&redacted).is_empty() {
            return redacted;
        }
        *counts.entry(WHOLE_TEXT.to_owned()).or_default() += 1;
        Cow::Owned(mark(WHOLE_TEXT))
    }

    fn scan<'r>(&'r self, part: &str, offset: usize, found: &mut Vec<Finding<'r>>) {
        // Whether there is any is told faster than which ones, and nearly always there is none.
        if !self.hints.is_match(part) {
            return;
        }
        let hints = self.hints.matches(part);
        let mut spans: Vec<(Range<usize>, usize)> = Vec::new();
        for index in hints.iter() {
            self.rules[index].find(part, |range| {
                if !self.allow.is_match(&part[range.clone()]) {
                    spans.push((range, index));
                }
            });
        }
        // Where findings overlap, both go, under the kind that stands first.
        spans.sort_by_key(|(range, index)| (range.start, *index));
        let mut merged: Vec<(Range<usize>, usize)> = Vec::new();
        for (range, index) in spans {
            match merged.last_mut() {
                Some((last, kind)) if range.start < last.end => {
                    last.end = last.end.max(range.end);
                    *kind = (*kind).min(index);
                }
                Some(_) | None => merged.push((range, index)),
            }
        }
        found.extend(merged.into_iter().map(|(range, index)| Finding {
            kind: self.rules[index].kind(),
            range: range.start + offset..range.end + offset,
        }));
    }
}

fn fingerprint_of(config: &config::Redaction) -> ContentHash {
    let own: Vec<(&str, &str)> = config
        .rules
        .iter()
        .map(|rule| (rule.kind.as_str(), rule.pattern.as_str()))
        .collect();
    // What is no rule but code changes with the version.
    let program = (env!("CARGO_PKG_VERSION"), rule::BUILT_IN_TEXTS);
    sha256(
        serde_json::json!([config.enabled, own, config.allow, program])
            .to_string()
            .as_bytes(),
    )
}

/// What stands in a secret's place.
pub fn mark(kind: &str) -> String {
    format!("{MARK_START}{kind}]")
}

const MARK_START: &str = "[REDACTED:";

/// Longest kind in a mark: longer texts in its form are texts.
const KIND_MAX_CHARS: usize = 40;

/// Whether a text holds the mark of a redaction.
pub fn is_marked(text: &str) -> bool {
    marks(text).next().is_some()
}

/// The marks in a text, and the kind of each.
fn marks(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    text.match_indices(MARK_START).filter_map(|(start, _)| {
        let kind_start = start + MARK_START.len();
        let rest = &text[kind_start..];
        let length = rest
            .bytes()
            .take(KIND_MAX_CHARS + 1)
            .position(|byte| byte == b']')?;
        let kind = rest.get(..length).filter(|kind| is_kind(kind))?;
        Some((start..kind_start + length + 1, kind))
    })
}

/// Lower-case letters, digits and hyphens.
fn is_kind(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= KIND_MAX_CHARS && text.bytes().all(plain)
}

/// What is redacted is no secret any more, and no part of one: each part between two marks is looked at alone.
fn outside_marks(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    let marks = marks(text).map(|(range, _)| range);
    marks
        .chain(std::iter::once(text.len()..text.len()))
        .map(move |mark| {
            let part = start..mark.start;
            start = mark.end;
            part
        })
        .filter(|part| !part.is_empty())
}

fn replaced(text: &str, findings: &[Finding<'_>]) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut end = 0;
    for finding in findings {
        redacted.push_str(&text[end..finding.range.start]);
        redacted.push_str(&mark(finding.kind));
        end = finding.range.end;
    }
    redacted.push_str(&text[end..]);
    redacted
}

/// The regex crate draws the pattern over several lines; its last one says what is wrong.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}
