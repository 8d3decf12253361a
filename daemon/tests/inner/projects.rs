//! Consent: which rows belong to which project, and that those of an excluded one are not sent.

use coditect_sync::projects::{self, NONE};
use coditect_sync::store::Store;
use rusqlite::types::Value;

use crate::desk::Desk;

#[test]
fn a_session_has_the_project_that_its_lowest_row_names_and_its_rows_follow_it() {
    let mut desk = Desk::new();
    desk.exec(
        r#"INSERT INTO messages (id, hash, session_id, role, content, source_file, agent_context) VALUES
             (1, 'a', 's', 'user', 'x', '-c-shop/s.jsonl', NULL),
             (2, 'b', 's', 'user', 'x', '-c-shop/s.jsonl', '{"project":"shop"}'),
             (3, 'c', 's', 'user', 'x', '-c-shop/s.jsonl', '{"agent":"a1","project":"other"}'),
             (4, 'd', 't', 'user', 'x', NULL, NULL),
             (5, 'e', 'u', 'user', 'x', '-c-lamp/u.jsonl', 'a1'),
             (6, 'f', NULL, 'user', 'x', NULL, NULL);
           INSERT INTO task_tracking (id, task_id, description, session_id, project_id) VALUES
             ('k1', '1', 'a', 't', 'toys'), ('k2', '1', 'a', 's', NULL), ('k3', '1', 'a', NULL, NULL);"#,
    );
    let all = projects::of_sessions(&desk.owner, desk.store.owner()).unwrap();
    let named: Vec<(&str, &str)> = ["s", "t", "u"]
        .map(|session| (session, all[session].name()))
        .into();
    assert_eq!(named, [("s", "shop"), ("t", "toys"), ("u", "-c-lamp")]);
    for (session, place) in &all {
        let one = projects::of_session(&desk.owner, desk.store.owner(), session).unwrap();
        assert_eq!(&one, place, "{session}");
    }
    // In the order in which they are sent, as the daemon looks at them.
    let judged = desk
        .store
        .write::<_, rusqlite::Error>(|tx, owner| {
            let mut names = Vec::new();
            for row in 1..=6 {
                let (_, place) = projects::judged_message(tx, owner, row)?.unwrap();
                names.push(place.name().to_owned());
            }
            for task in ["k1", "k2", "k3"] {
                let (_, place) = projects::judged_task(tx, owner, &Value::Text(task.into()))?.unwrap();
                names.push(place.name().to_owned());
            }
            Ok(names)
        })
        .unwrap();
    assert_eq!(judged[..3], ["-c-shop", "shop", "shop"]);
    assert_eq!(judged[3..6], [NONE, "-c-lamp", NONE]);
    assert_eq!(judged[6..], ["toys", "shop", NONE]);
    let place = projects::of_message(&desk.owner, desk.store.owner(), 3)
        .unwrap()
        .unwrap();
    assert_eq!((place.name(), place.own.as_deref()), ("shop", Some("other")));
    assert_eq!(
        projects::of_message(&desk.owner, desk.store.owner(), 99).unwrap(),
        None
    );
}

#[test]
fn a_file_of_the_former_schema_gets_the_new_tables_and_keeps_its_identities() {
    let mut desk = Desk::new();
    desk.say("s", "x");
    desk.push_all();
    let before = desk.text("SELECT group_concat(hex(origin_hash)) FROM sync_messages");
    desk.exec(
        "DROP TABLE sync_sessions; DROP TABLE sync_excluded;
         ALTER TABLE sync_messages DROP COLUMN hardware_id; ALTER TABLE sync_tasks DROP COLUMN hardware_id;
         UPDATE sync_state SET value = 1 WHERE key = 'schema_version';",
    );
    let store = Store::open(desk.path()).unwrap();
    assert_eq!(desk.count("sync_excluded"), 0);
    assert_eq!(
        desk.text("SELECT group_concat(hex(origin_hash)) FROM sync_messages"),
        before
    );
    assert_eq!(desk.count("sync_queue"), 0, "nothing is looked at anew");
    assert_eq!(store.device_id().unwrap(), desk.context.device);
}
