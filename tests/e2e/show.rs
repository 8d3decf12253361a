//! Sessions, tasks and transcripts on the command line: everything that was said can be read, wherever it was said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coditect_tests::daemon::Workstation;
use coditect_tests::writer;
use serde_json::Value;

use crate::pair::Pair;

/// Records that this reader may fail to read: those that are damaged in the real transcripts. Above that, it is the
/// reader that is damaged.
const UNREADABLE_MAX: usize = 60;

#[tokio::test]
async fn show_prints_every_text_of_the_sample() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/sample");
    assert!(every_text_is_shown(&sample).await > 40);
}

#[tokio::test]
async fn show_prints_every_text_of_the_real_transcripts() {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/transcripts/projects");
    if !real.exists() {
        eprintln!("skipped: there are no transcripts at {}", real.display());
        return;
    }
    assert!(every_text_is_shown(&real).await > 2_500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_says_on_which_machine_it_was_written_and_whether_it_is_sent() {
    let pair = Pair::start().await;
    writer::message(&pair.a.open(), "from-a", "said on A").unwrap();
    writer::task(&pair.a.open(), "from-a", "to be done on A").unwrap();
    pair.converge().await;
    pair.b.cli(&["pause"]).await.ok();
    writer::message(&pair.b.open(), "from-b", "said on B").unwrap();
    let list = async |arguments: &[&str]| {
        let arguments = [arguments, &["--json"]].concat();
        pair.b.cli(&arguments).await.json()
    };
    let ids = |list: &Value| -> Vec<String> {
        let sessions = list.as_array().unwrap().iter();
        sessions
            .map(|session| session["session_id"].as_str().unwrap().to_owned())
            .collect()
    };
    for (filter, expected) in [
        (&["--device", "here"][..], "from-b"),
        (&["--device", "elsewhere"], "from-a"),
        (&["--status", "waiting"], "from-b"),
        (&["--status", "sent"], "from-a"),
        (&["--project", "acme/*"], "from-a"),
    ] {
        let found = list(&[&["sessions"], filter].concat()).await;
        assert_eq!(ids(&found), [expected], "{filter:?}");
    }
    let tasks = list(&["tasks", "--device", "elsewhere"]).await;
    assert_eq!(tasks[0]["description"], "to be done on A");
    assert_eq!(tasks[0]["device"]["here"], false);
    assert_eq!(tasks[0]["sync"], "sent");
    assert_eq!(list(&["tasks", "--device", "here"]).await, serde_json::json!([]));
}

/// Ingests a folder of transcripts, and looks for each text of them in what `show` prints of its session; how many
/// there were.
async fn every_text_is_shown(folder: &Path) -> usize {
    let home = Workstation::new();
    home.cli(&["ingest", folder.to_str().unwrap()]).await.ok();
    let (texts, unreadable) = read_folder(folder);
    assert!(
        unreadable <= UNREADABLE_MAX,
        "{unreadable} records could not be read"
    );
    let mut count = 0;
    for (session, texts) in texts {
        let full = normal(&home.cli(&["show", &session, "--full"]).await.ok());
        let folded = normal(&home.cli(&["show", &session]).await.ok());
        for text in texts {
            let wanted = normal(&text.text);
            if wanted.is_empty() {
                continue;
            }
            count += 1;
            assert!(
                full.contains(&wanted),
                "show {session} --full lacks this: {wanted}"
            );
            assert!(
                text.by_tool || folded.contains(&wanted),
                "show {session} lacks this: {wanted}"
            );
        }
    }
    count
}

struct Text {
    text: String,
    /// A tool's input or result, which may be folded.
    by_tool: bool,
}

/// Texts by session, and how many records could not be read. It knows nothing of how `ingest` reads.
fn read_folder(folder: &Path) -> (BTreeMap<String, Vec<Text>>, usize) {
    let mut texts: BTreeMap<String, Vec<Text>> = BTreeMap::new();
    let mut unreadable = 0;
    for path in transcripts(folder) {
        // All that a subagent said (SESSION/subagents/NAME.jsonl) belongs to the session that it worked for; elsewhere a
        // record that names no session is of the one that the file is called by.
        let folder = path.parent().unwrap();
        let is_subagent = folder.ends_with("subagents");
        let called = match is_subagent {
            true => folder.parent().unwrap().file_name(),
            false => path.file_stem(),
        };
        let called = called.unwrap().to_str().unwrap().to_owned();
        let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        for line in content.split(['\n', '\0']) {
            let records = serde_json::Deserializer::from_str(line).into_iter::<Value>();
            for record in records {
                let Ok(record) = record else {
                    unreadable += 1;
                    break;
                };
                let named = record["sessionId"].as_str().filter(|_| !is_subagent);
                let session = named.unwrap_or(&called).to_owned();
                let mut found = Vec::new();
                read_record(&record, &mut found);
                if !found.is_empty() {
                    texts.entry(session).or_default().append(&mut found);
                }
            }
        }
    }
    (texts, unreadable)
}

fn transcripts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut transcripts(&path));
        } else if path.extension().is_some_and(|extension| extension == "jsonl") {
            found.push(path);
        }
    }
    found
}

fn read_record(record: &Value, found: &mut Vec<Text>) {
    match record["type"].as_str() {
        Some("user" | "assistant") => read_content(&record["message"]["content"], found),
        Some("summary") => said(&record["summary"], found),
        Some("system") => said(&record["content"], found),
        Some("attachment") if record["attachment"]["type"] == "queued_command" => {
            read_content(&record["attachment"]["prompt"], found);
        }
        Some(_) | None => {}
    }
}

fn read_content(content: &Value, found: &mut Vec<Text>) {
    said(content, found);
    for block in content.as_array().into_iter().flatten() {
        match block["type"].as_str() {
            Some("text") => said(&block["text"], found),
            Some("thinking") => said(&block["thinking"], found),
            Some("tool_use") => {
                by_tool(&block["name"], found);
                by_tool(&block["input"], found);
            }
            Some("tool_result") => {
                let parts = block["content"].as_array();
                for part in parts.into_iter().flatten().filter(|part| part["type"] == "text") {
                    by_tool(&part["text"], found);
                }
                if parts.is_none() {
                    by_tool(&block["content"], found);
                }
            }
            Some(_) => {}
            None => said(block, found),
        }
    }
}

fn said(value: &Value, found: &mut Vec<Text>) {
    if let Some(text) = value.as_str() {
        found.push(Text {
            text: text.to_owned(),
            by_tool: false,
        });
    }
}

/// Every string in a value.
fn by_tool(value: &Value, found: &mut Vec<Text>) {
    match value {
        Value::String(text) => found.push(Text {
            text: text.clone(),
            by_tool: true,
        }),
        Value::Array(items) => items.iter().for_each(|item| by_tool(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| by_tool(field, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Indentation aside, and with control characters as the pictures that stand for them on every output.
fn normal(text: &str) -> String {
    let pictured: String = text
        .replace("\r\n", "\n")
        .chars()
        .map(|c| match u32::from(c) {
            0x09 | 0x0A => c,
            code @ 0..0x20 => char::from_u32(0x2400 + code).unwrap(),
            0x7F => '\u{2421}',
            0x80..0xA0 => '\u{FFFD}',
            _ => c,
        })
        .collect();
    pictured.split_whitespace().collect::<Vec<_>>().join(" ")
}
