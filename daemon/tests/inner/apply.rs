//! Pulled pages meeting local changes: echo, held and waiting rows, quarantine, epochs.

use coditect_shared::wire::{PushAnswer, RecordVerdict, Rejection, Verdict};
use coditect_shared::{LinkRecord, MessageRecord, Origin, RecordRef, TaskRecord};
use coditect_sync::outbox;
use coditect_sync::state::State;
use coditect_sync::{apply, quarantine};

use crate::desk::{Desk, TENANT, message};

const TASK: &str = "11111111-1111-4111-8111-111111111111";

fn origin_of(record: &MessageRecord) -> Origin {
    record.origin_with(coditect_shared::hash::message_hash(
        TENANT,
        &record.session_id,
        &record.content,
    ))
}

/// The cloud's only message with another content, as another device's edit of it.
fn edited_elsewhere(desk: &Desk, content: &str) -> MessageRecord {
    let before = desk.cloud.messages.values().next().unwrap();
    MessageRecord {
        content: content.into(),
        content_hash: None,
        hash: None,
        reference: None,
        origin: Some(origin_of(before)),
        ..before.clone()
    }
}

fn release_held(desk: &mut Desk) {
    let context = &desk.context;
    assert!(apply::held_without_change(desk.store.conn()).unwrap());
    desk.store
        .write(|tx, owner| apply::release_held(tx, owner, context))
        .unwrap();
    assert!(!apply::held_without_change(desk.store.conn()).unwrap());
}

#[test]
fn p5_what_is_applied_is_not_queued_and_what_others_write_is() {
    let mut desk = Desk::new();
    let page = desk.page_of(message("s", "from elsewhere"));
    desk.apply(&page);
    assert_eq!(desk.count("sync_queue"), 0);
    desk.exec("UPDATE messages SET content = 'edited here'");
    assert_eq!(desk.count("sync_queue"), 1);
    assert_eq!(desk.push_all(), 1);
    assert_eq!(desk.cloud.messages.len(), 1);
}

#[test]
fn a_pulled_row_is_known_by_the_machine_that_wrote_it_and_a_row_of_this_file_by_none() {
    let mut desk = Desk::new();
    let from = |hardware: Option<&str>, content: &str| MessageRecord {
        hardware_id: hardware.map(str::to_owned),
        ..message("s", content)
    };
    let mut page = desk.page_of(from(Some("laptop"), "from the laptop"));
    page.messages.push(from(None, "from a machine without a name"));
    desk.apply(&page);
    desk.say("s", "from here");
    desk.push_all();
    let origins = "SELECT group_concat(coalesce(hardware_id, 'here'), '|') FROM (SELECT * FROM sync_messages ORDER BY ident)";
    let found: String = desk
        .store
        .conn()
        .query_row(origins, [], |row| row.get(0))
        .unwrap();
    assert_eq!(found, "laptop||here");
}

#[test]
fn p5_what_the_owners_trigger_makes_of_a_pulled_row_is_sent() {
    let mut desk = Desk::adopting(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT);
         CREATE TRIGGER redact AFTER INSERT ON messages WHEN NEW.content LIKE '%secret%'
           BEGIN UPDATE messages SET content = 'redacted' WHERE id = NEW.id; END;",
    );
    let mut page = desk.page_of(message("s", "a secret"));
    page.messages.push(message("s", "harmless"));
    desk.apply(&page);
    let batch = desk.build().unwrap();
    assert_eq!(batch.records.len(), 1);
    assert!(String::from_utf8_lossy(&batch.body).contains("redacted"));
}

#[test]
fn p12_a_row_changed_during_its_push_is_sent_again() {
    let mut desk = Desk::new();
    let id = desk.say("s", "v1");
    let batch = desk.build().unwrap();
    desk.exec(&format!("UPDATE messages SET content = 'v2' WHERE id = {id}"));
    let answer = desk.cloud.take(&batch);
    desk.settle(&batch, &answer);
    assert_eq!(desk.push_all(), 1);
    assert_eq!(desk.cloud.messages.values().next().unwrap().content, "v2");
}

#[test]
fn a_held_version_is_released_when_its_row_made_way_to_another() {
    let mut desk = Desk::new();
    let id = desk.say("s", "v1");
    desk.push_all();
    desk.exec(&format!("UPDATE messages SET content = 'v2' WHERE id = {id}"));
    let page = desk.page_of(edited_elsewhere(&desk, "v3"));
    desk.apply(&page);
    assert_eq!(desk.count("sync_held"), 1);
    desk.exec(&format!("DELETE FROM messages WHERE id = {id}"));
    desk.exec(&format!(
        "INSERT INTO messages (id, hash, session_id, role, content) VALUES ({id}, 'new', 's', 'user', 'new')"
    ));
    desk.push_all();
    release_held(&mut desk);
    assert_eq!(desk.count("sync_held"), 0);
    assert_eq!(desk.text("SELECT content FROM messages"), "new");
}

#[test]
fn a_version_held_for_a_row_whose_change_was_taken_back_is_applied() {
    let mut desk = Desk::new();
    let id = desk.say("s", "v1");
    desk.push_all();
    desk.exec(&format!("UPDATE messages SET content = 'v2' WHERE id = {id}"));
    let page = desk.page_of(edited_elsewhere(&desk, "v3"));
    desk.apply(&page);
    desk.exec(&format!("UPDATE messages SET content = 'v1' WHERE id = {id}"));
    assert_eq!(desk.push_all(), 0);
    assert_eq!(desk.text("SELECT content FROM messages"), "v3");
    assert_eq!(desk.count("sync_held"), 0);
}

fn rejecting(desk: &Desk, reference: i64) -> PushAnswer {
    PushAnswer {
        synced: 0,
        skipped: 0,
        rejected: vec![Rejection {
            reference: RecordRef::Number(reference),
            code: "invalid_field".into(),
            message: "not like this".into(),
        }],
        verdicts: vec![RecordVerdict {
            reference: RecordRef::Number(reference),
            verdict: Verdict::Rejected,
            cursor: None,
        }],
        cursor: desk.cloud.head,
        mark: None,
        epoch: 1,
        timestamp: String::new(),
    }
}

#[test]
fn p10_a_refused_row_is_kept_aside_by_its_content_and_tried_again_when_that_changes() {
    let mut desk = Desk::new();
    let id = desk.say("s", "bad");
    let batch = desk.build().unwrap();
    let answer = rejecting(&desk, 0);
    desk.settle(&batch, &answer);
    assert_eq!(desk.quarantine().len(), 1);
    desk.exec(&format!("UPDATE messages SET content = 'bad' WHERE id = {id}"));
    assert_eq!(desk.push_all(), 0, "the same content is not sent again");
    desk.exec(&format!("UPDATE messages SET content = 'good' WHERE id = {id}"));
    assert_eq!(desk.push_all(), 1);
    assert!(desk.quarantine().is_empty());
}

#[test]
fn p10_a_verdict_without_a_reason_ends_the_row_and_not_the_loop() {
    let mut desk = Desk::new();
    desk.say("s", "odd");
    let batch = desk.build().unwrap();
    let answer = PushAnswer {
        rejected: Vec::new(),
        ..rejecting(&desk, 0)
    };
    desk.settle(&batch, &answer);
    assert_eq!(desk.quarantine().len(), 1);
    assert_eq!(desk.push_all(), 0);
}

#[test]
fn a_retry_sends_refused_rows_and_applies_refused_pulls() {
    let mut desk = Desk::adopting(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT);
         CREATE TRIGGER picky BEFORE INSERT ON messages WHEN NEW.content = 'x' BEGIN SELECT RAISE(ABORT, 'no x'); END;",
    );
    let page = desk.page_of(message("s", "x"));
    desk.apply(&page);
    desk.exec("INSERT INTO messages (session_id, role, content) VALUES ('s', 'user', 'bad')");
    let batch = desk.build().unwrap();
    let answer = rejecting(&desk, 0);
    desk.settle(&batch, &answer);
    assert_eq!(desk.quarantine().len(), 2);
    assert!(
        desk.quarantine()[0].message.contains("no x"),
        "{:?}",
        desk.quarantine()
    );
    desk.exec("DROP TRIGGER picky");
    assert_eq!(quarantine::retry(desk.store.conn_mut(), None).unwrap(), 2);
    let context = &desk.context;
    desk.store
        .write(|tx, owner| apply::apply_released(tx, owner, context))
        .unwrap();
    assert_eq!(desk.push_all(), 1);
    assert!(desk.quarantine().is_empty(), "{:?}", desk.quarantine());
    assert_eq!(desk.count("messages"), 2);
}

#[test]
fn a_pulled_version_over_a_refused_row_ends_its_quarantine() {
    let mut desk = Desk::new();
    let id = desk.say("s", "v1");
    desk.push_all();
    desk.exec(&format!("UPDATE messages SET content = 'bad' WHERE id = {id}"));
    let batch = desk.build().unwrap();
    let answer = rejecting(&desk, 0);
    desk.settle(&batch, &answer);
    let page = desk.page_of(edited_elsewhere(&desk, "v3"));
    desk.apply(&page);
    assert_eq!(desk.text("SELECT content FROM messages"), "v3");
    assert!(desk.quarantine().is_empty(), "{:?}", desk.quarantine());
}

#[test]
fn a_link_waits_for_its_ends_in_both_directions() {
    let mut desk = Desk::new();
    desk.exec(&format!("INSERT INTO task_messages VALUES ('{TASK}', 1, 5)"));
    assert_eq!(desk.push_all(), 0);
    assert_eq!(desk.count("sync_links_parked"), 1);
    desk.say("s", "one");
    assert_eq!(desk.push_all(), 1);
    desk.task(TASK);
    assert_eq!(desk.push_all(), 2);
    assert_eq!(desk.count("sync_links_parked"), 0);

    let mut other = Desk::new();
    let record = desk.cloud.messages.values().next().unwrap().clone();
    let mut page = other.page();
    page.task_messages.push(LinkRecord {
        reference: None,
        task_id: TASK.to_uppercase(),
        message: origin_of(&record),
        sequence: Some(5),
        base: None,
        stamp: None,
        sync_cursor: Some(1),
        synced_at: None,
    });
    page.cursor = 1;
    other.cloud.head = 1;
    other.apply(&page);
    assert_eq!(other.count("sync_links_waiting"), 1);
    let mut page = other.page_of(record);
    page.tasks.push(TaskRecord {
        id: TASK.into(),
        task_id: "1".into(),
        status: "pending".into(),
        sync_cursor: Some(2),
        ..TaskRecord::default()
    });
    other.apply(&page);
    assert_eq!(other.count("sync_links_waiting"), 0);
    assert_eq!(other.count("task_messages WHERE sequence = 5"), 1);
    assert_eq!(other.count("sync_queue"), 0);
}

#[test]
fn links_follow_a_row_that_takes_the_place_of_another() {
    let mut desk = Desk::new();
    desk.task(TASK);
    let id = desk.say("s", "first");
    desk.exec(&format!("INSERT INTO task_messages VALUES ('{TASK}', {id}, 1)"));
    assert_eq!(desk.push_all(), 3);
    desk.exec(&format!(
        "DELETE FROM messages WHERE id = {id};
         INSERT INTO messages (id, hash, session_id, role, content) VALUES ({id}, 'n', 's', 'user', 'second');"
    ));
    assert_eq!(desk.push_all(), 2, "the new row and the link to it");
    assert_eq!(desk.cloud.links.len(), 2);
}

#[test]
fn a_batch_that_crosses_a_change_of_epoch_is_rendered_anew_and_both_digests_are_known() {
    let mut desk = Desk::new();
    desk.say("s", "one");
    let batch = desk.build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::open(&folder.path().join("state.db")).unwrap();
    state.put_batch(&batch).unwrap();
    let anew = outbox::with_epoch(&batch, 2).unwrap();
    state.put_batch(&anew).unwrap();
    assert_ne!(anew.digest, batch.digest);
    assert!(String::from_utf8_lossy(&anew.body).contains("\"epoch\":2"));
    assert_eq!(state.batch().unwrap().unwrap(), anew);
    assert_eq!(
        state.variant(&batch.digest.to_string()).unwrap().unwrap().body,
        batch.body
    );
}

#[test]
fn p2_a_batch_that_was_given_up_is_known_when_it_commits_late() {
    let mut desk = Desk::new();
    desk.say("s", "slow");
    let batch = desk.build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::open(&folder.path().join("state.db")).unwrap();
    state.put_batch(&batch).unwrap();
    state.retire_batch().unwrap();
    assert!(state.batch().unwrap().is_none());
    assert!(state.variant(&batch.digest.to_string()).unwrap().is_some());
    state.clear_batch().unwrap();
    assert!(state.variant(&batch.digest.to_string()).unwrap().is_none());
}

#[test]
fn a_state_file_that_is_no_database_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    std::fs::write(&path, "no database ".repeat(100)).unwrap();
    let state = State::open(&path).unwrap();
    assert!(state.batch().unwrap().is_none());
    assert!(folder.path().join("state.db.broken").exists());
}

#[test]
fn a_task_whose_time_of_update_alone_changed_is_not_sent() {
    let mut desk = Desk::new();
    desk.task(TASK);
    desk.push_all();
    desk.exec("UPDATE task_tracking SET updated_at = '2026-02-02'");
    assert_eq!(desk.push_all(), 0);
}
