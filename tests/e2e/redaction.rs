//! Redaction: secrets of every kind in a transcript reach neither the wire nor the server's disk, and stay where they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coditect_sync::redaction::Redactor;
use coditect_tests::contents::settle;
use coditect_tests::daemon::Workstation;
use coditect_tests::proxy::Proxy;
use coditect_tests::secrets::{Sample, samples};
use coditect_tests::server::TestServer;
use coditect_tests::writer;
use serde_json::{Value, json};

use crate::pair::{sent, server};

const PUSH: &str = "POST /api/v1/context/push";

/// Stands in the transcript and is no secret: that it is found shows that a secret would be.
const PLAIN: &str = "the lighthouse keeper reads the tide table";

/// A transcript that holds every sample: said by the user, in a tool call, in its result, and in a list of tasks.
fn transcript(folder: &Path) -> PathBuf {
    let mut lines = vec![line("user", json!(PLAIN))];
    for (index, sample) in samples().iter().enumerate() {
        let call = format!("toolu_{index}");
        lines.push(line("user", json!(sample.text)));
        lines.push(line(
            "assistant",
            json!([{"type": "tool_use", "id": call, "name": "Write", "input": {"content": sample.text}}]),
        ));
        lines.push(line(
            "user",
            json!([{"type": "tool_result", "tool_use_id": call, "content": sample.text}]),
        ));
    }
    let todos: Vec<Value> = samples()
        .iter()
        .map(|sample| json!({"content": sample.text, "status": "pending", "activeForm": sample.text}))
        .collect();
    lines.push(line(
        "assistant",
        json!([{"type": "tool_use", "id": "toolu_todo", "name": "TodoWrite", "input": {"todos": todos}}]),
    ));
    let path = folder.join("5b1f0c2e-7a44-4d0b-9a55-1f6f4b3f0a77.jsonl");
    std::fs::write(&path, lines.concat()).unwrap();
    path
}

fn line(role: &str, content: Value) -> String {
    let line = json!({
        "type": role,
        "sessionId": "5b1f0c2e-7a44-4d0b-9a55-1f6f4b3f0a77",
        "uuid": uuid::Uuid::new_v4(),
        "timestamp": "2026-11-24T10:00:00.000Z",
        "cwd": "/home/ada/code/harbour",
        "message": {"role": role, "content": content},
    });
    format!("{line}\n")
}

/// The longest part of a secret that no way of quoting changes.
fn needle(sample: &Sample) -> &str {
    let parts = sample.secret.split(['\n', '\r', '\\', '"', '\'']);
    parts.max_by_key(|part| part.len()).unwrap()
}

/// All of the database as text: what `pg_dump` would write down.
async fn dump(server: &TestServer) -> String {
    let client = server.database.look().await;
    let tables = client
        .query(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
            &[],
        )
        .await
        .unwrap();
    let mut dump = String::new();
    for table in tables {
        let table: String = table.get(0);
        let rows = client
            .query(&format!("SELECT t::text FROM {table} t"), &[])
            .await
            .unwrap();
        for row in rows {
            dump.push_str(row.get(0));
            dump.push('\n');
        }
    }
    dump
}

async fn ingest(workstation: &Workstation, transcript: &Path) -> Value {
    let path = transcript.to_str().unwrap();
    workstation.cli(&["ingest", path, "--json"]).await.json()
}

fn configure(workstation: &Workstation, text: &str) {
    std::fs::write(workstation.home().join("config.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_planted_secrets_of_every_kind_reach_neither_the_wire_nor_the_servers_disk() {
    let (server, token) = server().await;
    let proxy = Proxy::before(&server.url).await;
    let mut a = Workstation::start(&proxy.url, &token).await;
    let folder = tempfile::tempdir().unwrap();
    let transcript = transcript(folder.path());
    ingest(&a, &transcript).await;
    a.sync().await;

    let dump = dump(&server).await;
    let wire: Vec<u8> = proxy
        .seen("")
        .iter()
        .flat_map(|seen| seen.text.to_vec())
        .collect();
    let wire = String::from_utf8_lossy(&wire);
    assert!(dump.contains(PLAIN) && wire.contains(PLAIN), "both would show it");
    for sample in samples() {
        let needle = needle(&sample);
        assert!(
            !dump.contains(needle),
            "{}: {needle:?} is in the database",
            sample.kind
        );
        assert!(!wire.contains(needle), "{}: {needle:?} was sent", sample.kind);
        let mark = format!("[REDACTED:{}]", sample.kind);
        assert!(dump.contains(&mark), "{mark} is not in the database");
    }

    // Here everything stands as it was.
    let here: Vec<String> = texts(&a);
    for sample in samples() {
        assert!(
            here.contains(&sample.text),
            "{}: {:?} is not here any more",
            sample.kind,
            sample.text
        );
    }
    let status = a.status().await.unwrap();
    let counted = &status["redaction"];
    assert!(
        counted["rows"].as_u64().unwrap() >= samples().len() as u64,
        "{counted:#}"
    );
    for sample in samples() {
        assert!(counted["kinds"][sample.kind].as_u64() >= Some(1), "{counted:#}");
    }
    assert!(a.cli(&["status"]).await.ok().contains("  redacted  "));

    // Another device gets the redacted rows, which send nothing back.
    let b = Workstation::start(&proxy.url, &token).await;
    settle(&[&a, &b]).await;
    let there = texts(&b);
    assert_eq!(there.len(), here.len());
    let redactor = Redactor::default();
    assert!(there.iter().all(|text| redactor.findings(text).is_empty()));
    assert!(there.iter().any(|text| text.contains("[REDACTED:jwt]")));

    // Other rules, a restart and a second reading send nothing; both sides stay equal.
    let pushes = proxy.seen(PUSH).len();
    for rules in [
        "[redaction]\nenabled = false\n",
        "[[redaction.rule]]\nkind = \"keeper\"\npattern = \"keeper\"\n",
    ] {
        a.kill().await;
        configure(&a, rules);
        a.run().await;
        ingest(&a, &transcript).await;
        a.open()
            .execute_batch(
                "INSERT INTO sync_queue (table_name, row_id, op) SELECT 'messages', id, 'scan' FROM messages",
            )
            .unwrap();
        settle(&[&a, &b]).await;
        assert_eq!(proxy.seen(PUSH).len(), pushes, "{rules}");
        for workstation in [&a, &b] {
            let proof = workstation.verify().await;
            assert_eq!(proof["equal"], true, "{proof:#}");
        }
    }
    assert_eq!(texts(&a), here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_with_different_rules_come_to_rest_and_keep_their_texts() {
    let (server, token) = server().await;
    let (mut a, b) = (Workstation::new(), Workstation::start(&server.url, &token).await);
    configure(&a, "[redaction]\nenabled = false\n");
    a.login(&server.url, &token).await.ok();
    a.run().await;
    let folder = tempfile::tempdir().unwrap();
    let transcript = transcript(folder.path());
    // Both read the same transcript; what the other sent is the same row, whatever it looks like.
    ingest(&a, &transcript).await;
    settle(&[&a, &b]).await;
    let before = sent(&b.status().await.unwrap());
    ingest(&b, &transcript).await;
    settle(&[&a, &b]).await;
    assert_eq!(texts(&a), texts(&b));
    assert_eq!(sent(&b.status().await.unwrap()), before);
    // An edit here, an edit there: each goes once.
    writer_edit(&a, "system");
    settle(&[&a, &b]).await;
    writer_edit(&b, "assistant");
    settle(&[&a, &b]).await;
    let rest = [sent(&a.status().await.unwrap()), sent(&b.status().await.unwrap())];
    settle(&[&a, &b]).await;
    assert_eq!(
        rest,
        [sent(&a.status().await.unwrap()), sent(&b.status().await.unwrap())]
    );
    assert_eq!(texts(&a), texts(&b));
    for workstation in [&a, &b] {
        let proof = workstation.verify().await;
        assert_eq!(proof["equal"], true, "{proof:#}");
    }
}

/// Changes what stands around the text of every row.
fn writer_edit(workstation: &Workstation, role: &str) {
    workstation
        .open()
        .execute("UPDATE messages SET role = ?1", [role])
        .unwrap();
}

fn texts(workstation: &Workstation) -> Vec<String> {
    let file = workstation.open();
    assert!(writer::count(&file, "messages") > 0);
    let mut statement = file
        .prepare("SELECT content FROM messages UNION ALL SELECT description FROM task_tracking ORDER BY 1")
        .unwrap();
    let texts = statement.query_map([], |row| row.get(0)).unwrap();
    texts.collect::<Result<_, _>>().unwrap()
}

/// Findings a thousand messages that may be false. The transcripts that lie beside the clone hold no secrets: whatever
/// is found in them is.
const FALSE_FINDINGS_PER_MILLE_MAX: usize = 1;

#[tokio::test]
async fn on_real_transcripts_less_than_one_message_in_a_thousand_is_redacted_for_nothing() {
    let transcripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/transcripts/projects");
    if !transcripts.is_dir() {
        eprintln!("skipped: there are no transcripts at {}", transcripts.display());
        return;
    }
    let workstation = Workstation::new();
    let path = transcripts.to_str().unwrap();
    let report = workstation.cli(&["ingest", path, "--json"]).await.json();
    let messages = usize::try_from(report["messages"]["inserted"].as_u64().unwrap()).unwrap();
    let redactor = Redactor::default();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts(&workstation) {
        for finding in redactor.findings(&text) {
            *found.entry(finding.kind.to_owned()).or_default() += 1;
        }
    }
    let total: usize = found.values().sum();
    eprintln!("{total} findings in {messages} messages: {found:?}");
    assert!(
        messages > 1_000 && total * 1_000 < messages * FALSE_FINDINGS_PER_MILLE_MAX,
        "{found:?}"
    );
}
