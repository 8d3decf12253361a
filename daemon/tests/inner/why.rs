//! `why`: the facts of one row and what they come to, for a row of each kind.

use coditect_sync::config::Sharing;
use coditect_sync::key::{KeyPart, RowKey, Table};
use coditect_sync::quarantine::{self, Refused};
use coditect_sync::state::State;
use coditect_sync::why::{self, Conclusion, Facts};
use rusqlite::types::Value;

use crate::desk::{Desk, message};
use crate::projects::{TASK, hold, say, settings};

fn look(desk: &Desk, key: &RowKey) -> Option<(Conclusion, Facts)> {
    let state_db = desk.path().with_file_name("state.db");
    why::look(desk.path(), &state_db, &desk.context.policy, key).unwrap()
}

fn conclusion(desk: &Desk, key: &RowKey) -> Option<Conclusion> {
    look(desk, key).map(|(conclusion, _)| conclusion)
}

#[test]
fn a_row_is_told_from_its_writing_to_its_deletion() {
    let mut desk = Desk::new();
    let id = say(&desk, "harbour", "v1");
    let key = RowKey::message(id);
    let (waits, facts) = look(&desk, &key).unwrap();
    assert_eq!(waits, Conclusion::ToSend);
    assert!(
        facts.exists && facts.queued.is_some() && facts.acknowledged.is_none(),
        "{facts:?}"
    );
    assert_eq!(facts.project.unwrap().name, "harbour");

    let batch = desk.build().unwrap();
    let mut state = State::open(&desk.path().with_file_name("state.db")).unwrap();
    state.put_batch(&batch).unwrap();
    let (on_its_way, facts) = look(&desk, &key).unwrap();
    assert_eq!((on_its_way, facts.in_flight), (Conclusion::InFlight, Some(1)));
    let answer = desk.cloud.take(&batch);
    desk.settle(&batch, &answer);
    state.clear_batch().unwrap();
    let (sent, facts) = look(&desk, &key).unwrap();
    assert_eq!(sent, Conclusion::Sent);
    let acknowledged = facts.acknowledged.unwrap();
    assert!(acknowledged.unchanged && acknowledged.at.cursor == 1 && facts.queued.is_none());

    desk.exec(&format!("UPDATE messages SET content = 'v2' WHERE id = {id}"));
    let (changed, facts) = look(&desk, &key).unwrap();
    assert_eq!(
        (changed, facts.acknowledged.unwrap().unchanged),
        (Conclusion::ToSend, false)
    );
    desk.exec(&format!("DELETE FROM messages WHERE id = {id}"));
    assert_eq!(
        conclusion(&desk, &key),
        Some(Conclusion::ToSend),
        "the deletion has not been looked at"
    );
    desk.push_all();
    assert_eq!(conclusion(&desk, &key), None, "no row bears this id any more");
    assert_eq!(conclusion(&desk, &RowKey::message(99)), None);
}

#[test]
fn what_stays_here_is_told_with_the_setting_or_the_reason() {
    let mut desk = Desk::new();
    hold(&mut desk, settings(Sharing::Exclude, &["har*"], &[]));
    let vault = RowKey::message(say(&desk, "vault", "gold"));
    assert_eq!(
        conclusion(&desk, &vault),
        Some(Conclusion::Excluded),
        "before it was looked at, too"
    );
    desk.push_all();
    let (stays, facts) = look(&desk, &vault).unwrap();
    assert_eq!(stays, Conclusion::Excluded);
    assert_eq!(facts.excluded.unwrap().project, "vault");
    assert_eq!(facts.project.unwrap().standing.setting, "default = \"exclude\"");

    let refused = RowKey::message(say(&desk, "harbour", "x"));
    let reason = Refused {
        code: "too_large",
        message: "content is too long",
    };
    quarantine::add_up(desk.store.conn(), &refused, b"x", &reason, "2026-01-01T00:00:00Z").unwrap();
    let (stays, facts) = look(&desk, &refused).unwrap();
    assert_eq!(
        (stays, facts.refused[0].code.as_str()),
        (Conclusion::Refused, "too_large")
    );
}

#[test]
fn a_link_that_waits_names_the_end_and_why() {
    let mut desk = Desk::new();
    hold(&mut desk, settings(Sharing::Include, &[], &["vault"]));
    let message = say(&desk, "vault", "gold");
    desk.task(TASK);
    desk.exec(&format!(
        "INSERT INTO task_messages VALUES ('{TASK}', {message}, 1), ('nobody', {message}, 1)"
    ));
    desk.push_all();
    let (waits, facts) = look(&desk, &RowKey::link(&Value::Text(TASK.into()), message)).unwrap();
    assert_eq!(waits, Conclusion::WaitsForEnd);
    assert_eq!(facts.waits_for, ["its message, whose project vault is excluded"]);
    let (_, facts) = look(&desk, &RowKey::link(&Value::Text("nobody".into()), message)).unwrap();
    assert_eq!(facts.waits_for[1], "its task, which is not in this file");
    hold(&mut desk, settings(Sharing::Include, &[], &[]));
    desk.push_all();
    let key = RowKey::link(&Value::Text(TASK.into()), message);
    assert_eq!(conclusion(&desk, &key), Some(Conclusion::Sent));
}

#[test]
fn tasks_pulled_rows_and_secrets_are_told() {
    let mut desk = Desk::new();
    desk.task(TASK);
    desk.push_all();
    let task = RowKey {
        table: Table::TaskTracking,
        key: KeyPart::Text(TASK.into()),
        key2: KeyPart::Null,
    };
    assert_eq!(conclusion(&desk, &task), Some(Conclusion::Sent));
    let mut from_elsewhere = message("s", "y");
    from_elsewhere.hardware_id = Some("lighthouse".into());
    let page = desk.page_of(from_elsewhere);
    desk.apply(&page);
    let pulled: i64 = desk
        .text("SELECT CAST(max(id) AS TEXT) FROM messages")
        .parse()
        .unwrap();
    let (sent, facts) = look(&desk, &RowKey::message(pulled)).unwrap();
    assert_eq!(
        (sent, facts.pulled_from.as_deref()),
        (Conclusion::Sent, Some("lighthouse"))
    );

    // In two parts, so that no scanner takes this file for a leak.
    let secret = desk.say("s", &format!("key {}{}", "AKIA", "QYLPMN5HFIQR7XYA"));
    let (_, facts) = look(&desk, &RowKey::message(secret)).unwrap();
    assert_eq!(facts.redacted.values().sum::<u64>(), 1, "{facts:?}");
}
