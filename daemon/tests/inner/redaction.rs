//! Redaction: what travels is redacted, what stands here is not, and other rules are no change of a row.

use std::sync::Arc;

use coditect_shared::digest::TableDigest;
use coditect_shared::hash::message_hash;
use coditect_shared::wire::{PullPage, PushAnswer, Rejection, Stub};
use coditect_shared::{MessageRecord, Origin, RecordRef, TaskRecord};
use coditect_sync::apply;
use coditect_sync::config::{Config, Redaction, RedactionRule};
use coditect_sync::policy::Policy;
use coditect_sync::verify;

use crate::desk::{Desk, TENANT, message};

const TASK: &str = "11111111-1111-4111-8111-111111111111";

/// A text with two secrets: one for the built-in rules, one for a rule of the user's own.
const TEXT: &str = "password=hunter2hunter2 and badge 123456 end";
const BUILT_IN: &str = "password=[REDACTED:password] and badge 123456 end";
const OWN_TOO: &str = "password=[REDACTED:password] and badge [REDACTED:acme-badge] end";

#[derive(Clone, Copy)]
enum Rules {
    Off,
    BuiltIn,
    OwnToo,
}

fn hold(desk: &mut Desk, rules: Rules) {
    let own = RedactionRule {
        kind: "acme-badge".into(),
        pattern: "badge (?<secret>[0-9]{6})".into(),
    };
    let redaction = Redaction {
        enabled: !matches!(rules, Rules::Off),
        rules: if matches!(rules, Rules::OwnToo) {
            vec![own]
        } else {
            Vec::new()
        },
        ..Redaction::default()
    };
    let config = Config {
        redaction,
        ..Config::default()
    };
    desk.context.policy = Arc::new(Policy::new(&config).unwrap());
}

/// All rows are looked at again, as after lost triggers.
fn look_again(desk: &Desk) {
    desk.exec(
        "INSERT INTO sync_queue (table_name, row_id, op) SELECT 'messages', id, 'scan' FROM messages;
         INSERT INTO sync_queue (table_name, row_id, op) SELECT 'task_tracking', id, 'scan' FROM task_tracking;",
    );
}

fn sent(desk: &Desk) -> Vec<&str> {
    desk.cloud
        .messages
        .values()
        .map(|record| record.content.as_str())
        .collect()
}

fn content(desk: &Desk) -> String {
    desk.text("SELECT content FROM messages")
}

/// The cloud's only message as another device sends it.
fn from_elsewhere(desk: &Desk, change: impl FnOnce(&mut MessageRecord)) -> MessageRecord {
    let (origin, before) = desk.cloud.messages.iter().next().unwrap();
    let mut record = MessageRecord {
        content_hash: None,
        reference: None,
        origin: Some(origin.clone()),
        ..before.clone()
    };
    change(&mut record);
    record
}

fn task(desk: &Desk, description: &str) {
    desk.task(TASK);
    desk.exec(&format!("UPDATE task_tracking SET description = '{description}'"));
}

fn pulled_task(desk: &mut Desk, description: &str, status: &str) -> PullPage {
    desk.cloud.head += 1;
    PullPage {
        tasks: vec![TaskRecord {
            id: TASK.into(),
            task_id: "1".into(),
            description: description.into(),
            status: status.into(),
            sync_cursor: Some(desk.cloud.head),
            ..TaskRecord::default()
        }],
        ..desk.page()
    }
}

#[test]
fn every_text_is_sent_redacted_and_stands_here_as_it_was() {
    let mut desk = Desk::adopting(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, hash TEXT, session_id TEXT, role TEXT, content TEXT,
           agent_context TEXT, note TEXT, request_id TEXT);",
    );
    desk.exec(&format!(
        "INSERT INTO messages (hash, session_id, role, content, agent_context, note, request_id)
           VALUES ('h', 's password=hunter2hunter2', 'user', '{TEXT}', '{TEXT}', '{TEXT}', '{TEXT}')"
    ));
    task(&desk, TEXT);
    desk.exec(&format!(
        "UPDATE task_tracking SET active_form = '{TEXT}', project_id = 'pwd=hunter2hunter2'"
    ));
    let batch = desk.build().unwrap();
    let request: coditect_shared::wire::PushRequest = serde_json::from_slice(&batch.body).unwrap();
    let (record, task) = (&request.messages[0], &request.tasks[0]);
    assert_eq!(record.content, BUILT_IN);
    assert_eq!(record.metadata["agent_context"], BUILT_IN);
    assert_eq!(record.metadata["note"], BUILT_IN);
    assert_eq!(
        (task.description.as_str(), task.active_form.as_deref()),
        (BUILT_IN, Some(BUILT_IN))
    );
    // What rows are found by stays.
    assert_eq!(record.session_id, "s password=hunter2hunter2");
    assert_eq!(record.metadata["request_id"], TEXT);
    assert_eq!(task.project_id.as_deref(), Some("pwd=hunter2hunter2"));
    let hash = message_hash(TENANT, &record.session_id, BUILT_IN).to_string();
    assert_eq!(record.content_hash, Some(hash));
    assert_eq!(
        batch
            .records
            .iter()
            .map(|sent| sent.findings["password"])
            .sum::<u64>(),
        5
    );
    let stands =
        format!("messages WHERE content = '{TEXT}' AND agent_context = '{TEXT}' AND note = '{TEXT}'");
    assert_eq!(desk.count(&stands), 1);
    assert_eq!(
        desk.count(&format!("task_tracking WHERE description = '{TEXT}'")),
        1
    );
}

#[test]
fn a_mark_longer_than_its_secret_makes_no_text_too_long_for_its_column() {
    let mut desk = Desk::new();
    desk.task(TASK);
    let longest = format!("pwd=hunt2r {}", "x".repeat(244));
    desk.exec(&format!("UPDATE task_tracking SET active_form = '{longest}'"));
    let batch = desk.build().unwrap();
    let request: coditect_shared::wire::PushRequest = serde_json::from_slice(&batch.body).unwrap();
    assert_eq!(
        request.tasks[0].active_form.as_deref(),
        Some("[REDACTED:password]")
    );
}

#[test]
fn other_rules_send_nothing_again() {
    for (before, after) in [
        (Rules::Off, Rules::BuiltIn),
        (Rules::BuiltIn, Rules::Off),
        (Rules::BuiltIn, Rules::OwnToo),
    ] {
        let mut desk = Desk::new();
        hold(&mut desk, before);
        desk.say("s", TEXT);
        task(&desk, TEXT);
        assert_eq!(desk.push_all(), 2);
        hold(&mut desk, after);
        look_again(&desk);
        assert_eq!(desk.push_all(), 0);
        // An edit goes out under today's rules.
        desk.exec(&format!(
            "UPDATE messages SET content = '{TEXT}!'; UPDATE task_tracking SET status = 'completed'"
        ));
        assert_eq!(desk.push_all(), 2);
        assert_eq!(desk.cloud.messages.len(), 1);
    }
}

#[test]
fn what_a_stub_alone_told_of_is_compared_with_both_forms() {
    let mut desk = Desk::new();
    hold(&mut desk, Rules::Off);
    desk.say("s", TEXT);
    task(&desk, TEXT);
    desk.push_all();
    desk.exec("UPDATE sync_messages SET acked_version = NULL; UPDATE sync_tasks SET acked_version = NULL");
    hold(&mut desk, Rules::BuiltIn);
    look_again(&desk);
    assert_eq!(desk.push_all(), 0);
}

#[test]
fn a_row_sent_and_not_acknowledged_keeps_its_origin_under_other_rules() {
    let mut desk = Desk::new();
    desk.say("s", TEXT);
    let first = desk.build().unwrap();
    hold(&mut desk, Rules::OwnToo);
    let second = desk.build().unwrap();
    let request: coditect_shared::wire::PushRequest = serde_json::from_slice(&second.body).unwrap();
    let record = &request.messages[0];
    assert_eq!(record.content, OWN_TOO);
    let origin = record.origin.as_ref().unwrap();
    assert_eq!(Some(origin.content_hash), first.records[0].hash);
    assert_eq!(record.edit, Some(false));
}

#[test]
fn a_row_that_nobody_has_heard_of_gets_the_origin_of_what_is_sent() {
    let mut desk = Desk::new();
    desk.say("s", TEXT);
    let context = &desk.context;
    desk.store
        .write(|tx, owner| coditect_sync::identity::identify_queued(tx, owner, context, 10))
        .unwrap();
    hold(&mut desk, Rules::OwnToo);
    desk.push_all();
    let (origin, record) = desk.cloud.messages.iter().next().unwrap();
    assert_eq!(record.origin, None);
    assert_eq!(origin.content_hash, message_hash(TENANT, "s", OWN_TOO));
}

#[test]
fn what_comes_back_redacted_takes_no_secret_from_a_message() {
    for rules in [Rules::BuiltIn, Rules::OwnToo, Rules::Off] {
        let mut desk = Desk::new();
        desk.say("s", TEXT);
        desk.push_all();
        hold(&mut desk, rules);
        // The same version, as after a new device id.
        let record = from_elsewhere(&desk, |_| ());
        let page = desk.page_of(record);
        desk.apply(&page);
        assert_eq!(content(&desk), TEXT);
        // Another device changed what stands around the text.
        let record = from_elsewhere(&desk, |record| record.role = "assistant".into());
        let page = desk.page_of(record);
        desk.apply(&page);
        assert_eq!(
            desk.count(&format!(
                "messages WHERE content = '{TEXT}' AND role = 'assistant'"
            )),
            1
        );
        // Another device redacted more of it.
        let record = from_elsewhere(&desk, |record| {
            record.content = OWN_TOO.into();
            record.role = "assistant".into();
        });
        let page = desk.page_of(record);
        desk.apply(&page);
        assert_eq!(content(&desk), TEXT);
        look_again(&desk);
        assert_eq!(desk.push_all(), 0, "what was pulled is not sent back");
        // Another text is another text.
        let record = from_elsewhere(&desk, |record| record.content = format!("{BUILT_IN} more"));
        let page = desk.page_of(record);
        desk.apply(&page);
        assert_eq!(content(&desk), format!("{BUILT_IN} more"));
    }
}

#[test]
fn a_redacted_text_in_a_column_of_its_own_takes_no_secret_either() {
    let mut desk = Desk::new();
    desk.say("s", "hello");
    desk.exec(&format!("UPDATE messages SET agent_context = '{TEXT}'"));
    desk.push_all();
    assert_eq!(
        desk.cloud.messages.values().next().unwrap().metadata["agent_context"],
        BUILT_IN
    );
    let record = from_elsewhere(&desk, |record| record.role = "assistant".into());
    let page = desk.page_of(record);
    desk.apply(&page);
    assert_eq!(
        desk.count(&format!(
            "messages WHERE agent_context = '{TEXT}' AND role = 'assistant'"
        )),
        1
    );
    look_again(&desk);
    assert_eq!(desk.push_all(), 0);
}

#[test]
fn a_redacted_version_that_was_held_takes_no_secret_when_it_is_released() {
    let mut desk = Desk::new();
    desk.say("s", TEXT);
    desk.push_all();
    desk.exec("UPDATE messages SET role = 'system'");
    let record = from_elsewhere(&desk, |record| record.role = "assistant".into());
    let page = desk.page_of(record);
    desk.apply(&page);
    assert_eq!(desk.count("sync_held"), 1);
    desk.exec("UPDATE messages SET role = 'user'");
    assert_eq!(desk.push_all(), 0);
    assert_eq!(
        desk.count(&format!(
            "messages WHERE content = '{TEXT}' AND role = 'assistant'"
        )),
        1
    );
    look_again(&desk);
    assert_eq!(desk.push_all(), 0);
}

#[test]
fn what_comes_back_redacted_takes_no_secret_from_a_task() {
    for (rules, description) in [
        (Rules::BuiltIn, BUILT_IN),
        (Rules::Off, BUILT_IN),
        (Rules::BuiltIn, OWN_TOO),
    ] {
        let mut desk = Desk::new();
        hold(&mut desk, rules);
        task(&desk, TEXT);
        // The same list was read on both devices, under whatever rules.
        let page = pulled_task(&mut desk, description, "pending");
        desk.apply(&page);
        assert_eq!(desk.push_all(), 0, "it is the same version");
        let page = pulled_task(&mut desk, description, "completed");
        desk.apply(&page);
        assert_eq!(
            desk.count(&format!(
                "task_tracking WHERE description = '{TEXT}' AND status = 'completed'"
            )),
            1
        );
        look_again(&desk);
        assert_eq!(desk.push_all(), 0);
        let page = pulled_task(&mut desk, &format!("{description} more"), "completed");
        desk.apply(&page);
        assert_eq!(
            desk.text("SELECT description FROM task_tracking"),
            format!("{description} more")
        );
    }
}

#[test]
fn a_pulled_row_is_not_sent_back_because_this_device_would_redact_it() {
    let mut desk = Desk::new();
    let page = desk.page_of(message("s", TEXT));
    desk.apply(&page);
    let page = pulled_task(&mut desk, TEXT, "pending");
    desk.apply(&page);
    look_again(&desk);
    assert_eq!(desk.push_all(), 0);
    assert_eq!(content(&desk), TEXT);
}

#[test]
fn p16_an_unchanged_row_counts_as_it_was_acknowledged() {
    let mut desk = Desk::new();
    desk.say("s", TEXT);
    task(&desk, TEXT);
    desk.push_all();
    let (origin, _) = desk.cloud.messages.iter().next().unwrap();
    let mut messages = TableDigest::default();
    messages.add_message(origin, message_hash(TENANT, "s", BUILT_IN));
    let mut tasks = TableDigest::default();
    tasks.add_task(TASK.parse().unwrap(), desk.cloud.tasks[TASK].parse().unwrap());
    for rules in [Rules::BuiltIn, Rules::OwnToo, Rules::Off] {
        hold(&mut desk, rules);
        let local = verify::local(desk.path(), &desk.context.policy.redactor).unwrap();
        assert_eq!((&local.messages, &local.tasks), (&messages, &tasks));
    }
    desk.exec("UPDATE messages SET content = 'changed without a trigger'");
    let local = verify::local(desk.path(), &desk.context.policy.redactor).unwrap();
    assert_ne!(local.messages, messages);
}

#[test]
fn a_row_purged_and_read_again_under_other_rules_sends_nothing() {
    let mut desk = Desk::new();
    let insert = format!(
        "INSERT INTO messages (session_id, role, content, hash) VALUES ('s', 'user', '{TEXT}', 'from the source')"
    );
    desk.exec(&insert);
    desk.push_all();
    desk.exec("DELETE FROM messages");
    desk.push_all();
    hold(&mut desk, Rules::OwnToo);
    desk.exec(&insert);
    assert_eq!(desk.push_all(), 0);
    assert_eq!(desk.count("sync_messages"), 1);
}

/// A file made anew reads what its former life had sent, under other rules, before it pulls.
fn read_anew(rules: Rules, here: &str, in_the_cloud: &str) -> (Desk, usize) {
    let mut desk = Desk::new();
    hold(&mut desk, rules);
    desk.exec(&format!(
        "INSERT INTO messages (session_id, role, content, hash) VALUES ('s', 'user', '{here}', 'from the source')"
    ));
    let page = desk.page_of(MessageRecord {
        hash: Some("from the source".into()),
        ..message("s", in_the_cloud)
    });
    desk.apply(&page);
    let sent = desk.push_all();
    (desk, sent)
}

#[test]
fn a_source_read_anew_under_other_rules_is_the_row_that_is_pulled() {
    for (rules, in_the_cloud) in [
        (Rules::BuiltIn, BUILT_IN),
        (Rules::OwnToo, BUILT_IN),
        (Rules::Off, BUILT_IN),
        (Rules::BuiltIn, OWN_TOO),
        (Rules::BuiltIn, TEXT),
    ] {
        let (desk, sent) = read_anew(rules, TEXT, in_the_cloud);
        assert_eq!((desk.count("messages"), sent), (1, 0), "{in_the_cloud}");
        assert_eq!(content(&desk), TEXT);
        let origin: Vec<u8> = desk
            .owner
            .query_row("SELECT origin_hash FROM sync_messages", [], |row| row.get(0))
            .unwrap();
        assert_eq!(origin, message_hash(TENANT, "s", in_the_cloud).as_bytes());
    }
}

#[test]
fn a_row_with_the_same_writers_hash_and_another_text_is_another_row() {
    for (here, in_the_cloud) in [
        (TEXT, "password=[REDACTED:password] and more"),
        ("one text", "another text"),
        (TEXT, "a text without any secret"),
    ] {
        let (desk, sent) = read_anew(Rules::BuiltIn, here, in_the_cloud);
        assert_eq!((desk.count("messages"), sent), (2, 1), "{in_the_cloud}");
    }
}

#[test]
fn a_row_that_may_be_in_the_cloud_already_is_not_taken_for_another() {
    let mut desk = Desk::new();
    desk.exec(&format!(
        "INSERT INTO messages (session_id, role, content, hash) VALUES ('s', 'user', '{TEXT}', 'from the source')"
    ));
    let batch = desk.build().unwrap();
    let page = desk.page_of(MessageRecord {
        hash: Some("from the source".into()),
        ..message("s", OWN_TOO)
    });
    desk.apply(&page);
    let answer = desk.cloud.take(&batch);
    desk.settle(&batch, &answer);
    assert_eq!(sent(&desk), [BUILT_IN]);
    assert_eq!(desk.count("messages"), 2);
}

#[test]
fn p10_a_refused_row_is_not_tried_again_because_of_other_rules() {
    let mut desk = Desk::new();
    desk.say("s", TEXT);
    let batch = desk.build().unwrap();
    let answer = PushAnswer {
        synced: 0,
        skipped: 0,
        rejected: vec![Rejection {
            reference: RecordRef::Number(0),
            code: "invalid_field".into(),
            message: "not like this".into(),
        }],
        verdicts: Vec::new(),
        cursor: 0,
        mark: None,
        epoch: 1,
        timestamp: String::new(),
    };
    desk.settle(&batch, &answer);
    hold(&mut desk, Rules::OwnToo);
    look_again(&desk);
    assert_eq!(desk.push_all(), 0);
    assert_eq!(desk.quarantine().len(), 1);
    desk.exec("UPDATE messages SET content = 'another text'");
    assert_eq!(desk.push_all(), 1);
}

#[test]
fn a_batch_that_arrived_before_the_rules_changed_is_settled_by_its_stub() {
    let mut desk = Desk::new();
    desk.say("s", TEXT);
    let batch = desk.build().unwrap();
    let origin = Origin {
        session_id: "s".into(),
        content_hash: batch.records[0].hash.unwrap(),
        occurrence: 0,
    };
    hold(&mut desk, Rules::OwnToo);
    desk.cloud.head = 1;
    let page = PullPage {
        own: vec![Stub::Message {
            content_hash: origin.content_hash,
            origin,
            sync_cursor: 1,
        }],
        device_push_seq: 1,
        ..desk.page()
    };
    let context = &desk.context;
    desk.store
        .write(|tx, owner| apply::apply_page(tx, owner, context, &page, std::slice::from_ref(&batch), 10))
        .unwrap();
    assert_eq!(desk.push_all(), 0);
}
