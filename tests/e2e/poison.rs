//! P10: rows that cannot travel are put aside with the reason, and never stall the rest.

use coditect_tests::{deadline, writer};
use serde_json::Value;

use crate::pair::Pair;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_rows_that_cannot_travel_are_put_aside_and_the_rest_arrives() {
    let pair = Pair::start().await;
    let file = pair.a.open();
    let insert = |content: &str| {
        let sql = format!(
            "INSERT INTO messages (hash, session_id, role, content) VALUES (hex(randomblob(16)), 's', 'user', {content})"
        );
        file.execute(&sql, []).unwrap();
        file.last_insert_rowid()
    };
    let task = |columns: &str, values: &str| {
        let sql = format!(
            "INSERT INTO task_tracking (id, task_id, description{columns}) VALUES ('{}', '1', 'bad'{values})",
            uuid::Uuid::new_v4()
        );
        file.execute(&sql, []).unwrap();
    };
    insert("'good 1'");
    let huge = insert("hex(zeroblob(10000000))");
    insert("'good 2'");
    insert("'NUL' || char(0) || 'inside'");
    let mangled = insert("CAST(x'66ff6f' AS TEXT)");
    insert("'good 3'");
    task(", status", ", 'blocked'");
    task(", outcome_score", ", 2.0");
    task(", active_form", &format!(", '{}'", "x".repeat(256)));
    insert("'good 4'");
    let good = writer::task(&file, "s", "good").unwrap();
    writer::link(&file, &good, huge, 1).unwrap();

    pair.a.sync().await;
    pair.b.sync().await;
    let there = pair.b.open();
    assert_eq!(writer::count(&there, "messages"), 4);
    assert_eq!(writer::count(&there, "task_tracking"), 1);
    let status = pair.a.status().await.unwrap();
    assert_eq!(status["outbox"]["quarantined"], 6, "{status:#}");
    assert_eq!(status["outbox"]["pending"], 0, "{status:#}");
    assert_eq!(status["safe_to_power_off"], false, "{status:#}");

    let list = pair.a.cli(&["quarantine", "list", "--json"]).await.json();
    let codes = codes_of(&list);
    assert_eq!(
        codes,
        [
            "invalid_field",
            "invalid_field",
            "invalid_field",
            "invalid_field",
            "invalid_field",
            "too_large"
        ],
        "{list:#}"
    );

    // A row that its owner mends is tried by itself; so is the link that waited for it.
    file.execute("UPDATE messages SET content = 'short' WHERE id = ?1", [huge])
        .unwrap();
    file.execute("UPDATE messages SET content = 'whole' WHERE id = ?1", [mangled])
        .unwrap();
    pair.a.sync().await;
    pair.b.sync().await;
    assert_eq!(writer::count(&there, "messages"), 6);
    let link = async || writer::count(&there, "task_messages");
    deadline::until("the link that waited for it", link, |count| *count == 1).await;
    assert_eq!(pair.a.status().await.unwrap()["outbox"]["quarantined"], 4);

    // Trying again what is still wrong puts it aside again, and nothing else happens.
    let retried = pair.a.cli(&["quarantine", "retry", "--json"]).await.json();
    assert_eq!(retried["retried"], 4, "{retried:#}");
    pair.a.sync().await;
    assert_eq!(pair.a.status().await.unwrap()["outbox"]["quarantined"], 4);
    assert_eq!(
        writer::count(&file, "messages"),
        7,
        "the owner's rows are left as they are"
    );
}

fn codes_of(list: &Value) -> Vec<&str> {
    let mut codes: Vec<&str> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["code"].as_str().expect("a code"))
        .collect();
    codes.sort_unstable();
    codes
}
