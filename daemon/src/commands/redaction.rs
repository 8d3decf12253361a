//! `redaction`: what would be taken out of a text, and what is looked for. Needs no daemon and no login.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::{Redaction, RedactionTest, Setup};
use crate::output::{self, Fault};
use crate::redaction::Redactor;
use crate::status::counted;

/// Characters of a secret that are shown, where it has at least four times as many.
const SHOWN_CHARS: usize = 4;

pub(super) fn run(args: &Redaction, setup: &Setup) -> Result<(), Fault> {
    let redactor = Redactor::new(&setup.config.redaction).map_err(Fault::Usage)?;
    match args {
        Redaction::Test(args) => test(args, &redactor),
        Redaction::List(args) => list(args.json, &redactor),
    }
}

#[derive(Debug, Serialize)]
struct Report<'r> {
    enabled: bool,
    findings: Vec<Finding<'r>>,
    kinds: BTreeMap<&'r str, u64>,
}

#[derive(Debug, Serialize)]
struct Finding<'r> {
    /// From 1.
    line: usize,
    kind: &'r str,
    /// The first characters of the secret.
    masked: String,
    /// Of the secret, in characters.
    length: usize,
}

fn test(args: &RedactionTest, redactor: &Redactor) -> Result<(), Fault> {
    let text = read(&args.file)?;
    let report = report(&text, redactor);
    match args.json {
        true => output::json(&report),
        false => output::text(&rendered(&report)),
    }
}

/// Bytes that are no UTF-8 are looked past: a row with such would not be sent.
fn read(file: &Path) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    match file.to_str() {
        Some("-") => std::io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .context("reading standard input")?,
        Some(_) | None => std::fs::File::open(file)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .with_context(|| format!("reading {}", file.display()))?,
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn report<'r>(text: &str, redactor: &'r Redactor) -> Report<'r> {
    let mut report = Report {
        enabled: !redactor.kinds().is_empty(),
        findings: Vec::new(),
        kinds: BTreeMap::new(),
    };
    let (mut line, mut counted_to) = (1, 0);
    for finding in redactor.findings(text) {
        line += text[counted_to..finding.range.start].matches('\n').count();
        counted_to = finding.range.start;
        let secret = &text[finding.range];
        *report.kinds.entry(finding.kind).or_default() += 1;
        report.findings.push(Finding {
            line,
            kind: finding.kind,
            masked: masked(secret),
            length: secret.chars().count(),
        });
    }
    report
}

/// The beginning of a secret, so that it is recognised by who knows it; of a short one less.
fn masked(secret: &str) -> String {
    let shown = SHOWN_CHARS.min(secret.chars().count() / 4);
    let start: String = secret.chars().take(shown).collect();
    format!("{}…", start.escape_debug())
}

fn rendered(report: &Report<'_>) -> String {
    if !report.enabled {
        return "redaction is off: `enabled = false` under [redaction] in config.toml".into();
    }
    if report.findings.is_empty() {
        return "nothing to redact".into();
    }
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!(
            "line {}: {}, {} ({})\n",
            finding.line,
            finding.kind,
            finding.masked,
            counted(finding.length as u64, "character", "characters")
        ));
    }
    let kinds: Vec<String> = report
        .kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let total = counted(report.findings.len() as u64, "finding", "findings");
    text.push_str(&format!("{total}: {}\n", kinds.join(", ")));
    text
}

fn list(json: bool, redactor: &Redactor) -> Result<(), Fault> {
    let kinds = redactor.kinds();
    if json {
        return output::json(&kinds);
    }
    if kinds.is_empty() {
        return output::text("redaction is off: `enabled = false` under [redaction] in config.toml");
    }
    let width = kinds.iter().map(|kind| kind.kind.len()).max().unwrap_or(0);
    let lines: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{:width$}  {}\n", kind.kind, kind.what))
        .collect();
    output::text(&lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_by_line_and_kind_and_never_whole() {
        let redactor = Redactor::default();
        let secret = "hunter2hunter2";
        let text = format!("one\npassword={secret}\n\nü pwd: \"{secret}\"\n");
        let report = report(&text, &redactor);
        let lines: Vec<usize> = report.findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 4]);
        let shown = rendered(&report);
        assert_eq!(
            shown,
            "line 2: password, hun… (14 characters)\nline 4: password, hun… (14 characters)\n2 findings: 2 password\n"
        );
        assert!(!serde_json::to_string(&report).unwrap().contains("hunter2"));
    }

    #[test]
    fn of_a_short_secret_hardly_anything_is_shown() {
        assert_eq!(masked("abc123!"), "a…");
        assert_eq!(masked("a"), "…");
        assert_eq!(masked("-----BEGIN PRIVATE KEY-----"), "----…");
    }
}
