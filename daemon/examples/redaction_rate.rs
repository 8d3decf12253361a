//! How fast texts are scanned, beside what hashing the same texts costs, and what is found in them.
//!
//! `cargo run --release --example redaction_rate -- CONTEXT_DB [--findings]`

#![expect(clippy::print_stdout, reason = "a measurement prints what it measured")]

use std::time::Instant;

use anyhow::Context as _;
use coditect_shared::hash::sha256;
use coditect_sync::redaction::{Findings, Redactor};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("the file is missing")?;
    let shows_findings = arguments.next().is_some();
    let conn = rusqlite::Connection::open(path)?;
    let mut statement = conn.prepare(
        "SELECT content FROM messages UNION ALL SELECT agent_context FROM messages WHERE agent_context IS NOT NULL
         UNION ALL SELECT description FROM task_tracking",
    )?;
    let texts: Vec<String> = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let bytes: usize = texts.iter().map(String::len).sum();
    let begun = Instant::now();
    let redactor = Redactor::default();
    println!("rules compiled in {:?}", begun.elapsed());
    rate("hashing", bytes, || {
        for text in &texts {
            std::hint::black_box(sha256(text.as_bytes()));
        }
    });
    for round in ["scanning, first round", "scanning"] {
        rate(round, bytes, || {
            for text in &texts {
                std::hint::black_box(redactor.findings(text));
            }
        });
    }
    let mut longest = (std::time::Duration::ZERO, 0);
    let mut counts = Findings::new();
    for (index, text) in texts.iter().enumerate() {
        let begun = Instant::now();
        let findings = redactor.findings(text);
        longest = longest.max((begun.elapsed(), text.len()));
        redactor.redact(text, &mut counts);
        for finding in findings.iter().filter(|_| shows_findings) {
            let start = text.floor_char_boundary(finding.range.start.saturating_sub(60));
            let end = text.ceil_char_boundary((finding.range.end + 10).min(text.len()));
            println!("{index} {}: {:?}", finding.kind, &text[start..end]);
        }
    }
    println!("the slowest text: {:?} for {} bytes", longest.0, longest.1);
    println!("{} texts, {bytes} bytes, findings {counts:?}", texts.len());
    Ok(())
}

fn rate(what: &str, bytes: usize, act: impl FnOnce()) {
    let begun = Instant::now();
    act();
    let took = begun.elapsed();
    let megabytes = bytes as f64 / 1e6;
    println!("{what}: {:.0} MB/s ({took:?})", megabytes / took.as_secs_f64());
}
