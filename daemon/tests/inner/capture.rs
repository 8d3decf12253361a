//! Triggers and the outbox under whatever the owner does to the tables.

use coditect_sync::capture::{CaptureHealth, health, install};
use coditect_sync::store::Store;

use crate::desk::Desk;

impl Desk {
    /// What a look does when the schema has changed.
    fn mend(&mut self) {
        self.store.repair_tables().unwrap();
        self.store.refresh_owner().unwrap();
        if health(self.store.conn(), self.store.owner()).unwrap() != CaptureHealth::Ok {
            self.store
                .write(|tx, owner| {
                    install(tx, owner)?;
                    coditect_sync::capture::begin_backfill(tx)
                })
                .unwrap();
        }
        self.backfill();
    }
}

#[test]
fn p1_a_rebuilt_table_is_captured_again_and_nothing_is_sent_twice() {
    let mut desk = Desk::new();
    desk.say("s", "one");
    desk.say("s", "two");
    assert_eq!(desk.push_all(), 2);
    desk.exec(
        "BEGIN;
         CREATE TABLE fresh (id INTEGER PRIMARY KEY, hash TEXT UNIQUE NOT NULL, session_id TEXT, role TEXT NOT NULL, content TEXT NOT NULL, mood TEXT);
         INSERT INTO fresh (id, hash, session_id, role, content) SELECT id, hash, session_id, role, content FROM messages;
         DROP TABLE messages;
         ALTER TABLE fresh RENAME TO messages;
         COMMIT;",
    );
    desk.say("s", "unseen");
    assert_eq!(desk.count("sync_queue"), 0, "no trigger saw it");
    desk.mend();
    assert_eq!(desk.push_all(), 1);
    desk.say("s", "three");
    assert_eq!(desk.push_all(), 1);
    assert!(desk.cloud.idle.is_empty(), "{:?}", desk.cloud.idle);
    assert_eq!(desk.cloud.messages.len(), 4);
}

#[test]
fn p1_triggers_that_hang_on_a_renamed_table_are_made_anew_on_the_right_one() {
    let mut desk = Desk::new();
    desk.exec("ALTER TABLE messages RENAME TO old; CREATE TABLE messages AS SELECT * FROM old WHERE 0;");
    desk.exec(
        "DROP TABLE messages;
         CREATE TABLE messages (id INTEGER PRIMARY KEY, hash TEXT UNIQUE, session_id TEXT, role TEXT, content TEXT);",
    );
    desk.mend();
    desk.say("s", "one");
    desk.exec("INSERT INTO old (hash, role, content) VALUES ('h', 'user', 'not ours')");
    assert_eq!(desk.push_all(), 1);
}

#[test]
fn p9_a_dropped_outbox_is_made_again_with_higher_numbers_and_the_owner_writes_on() {
    let mut desk = Desk::new();
    desk.say("s", "one");
    desk.push_all();
    desk.say("s", "two");
    let newest: i64 = desk
        .owner
        .query_row("SELECT max(seq) FROM sync_queue", [], |row| row.get(0))
        .unwrap();
    desk.build().unwrap();
    desk.exec("DROP TABLE sync_queue");
    let fails = desk.owner.execute(
        "INSERT INTO messages (hash, role, content) VALUES ('x', 'user', 'lost')",
        [],
    );
    assert!(fails.is_err(), "the triggers name the outbox");
    desk.mend();
    // A connection that only inserts finds out about a new schema no sooner than its next look at a table.
    assert_eq!(desk.count("messages"), 2);
    desk.say("s", "three");
    let first: i64 = desk
        .owner
        .query_row("SELECT min(seq) FROM sync_queue", [], |row| row.get(0))
        .unwrap();
    assert!(
        first > newest,
        "identities have seen up to {newest}, numbers begin at {first}"
    );
    assert_eq!(desk.push_all(), 2, "what was queued before is found again");
    assert_eq!(desk.cloud.messages.len(), 3);
    assert!(desk.cloud.idle.is_empty(), "{:?}", desk.cloud.idle);
}

#[test]
fn p14_a_file_without_identities_takes_up_a_new_device_id_and_asks_first() {
    for table in ["sync_messages", "sync_state"] {
        let mut desk = Desk::new();
        desk.say("s", "one");
        desk.push_all();
        let before = desk.context.device;
        desk.exec(&format!("DROP TABLE {table}"));
        let mut again = Store::open(desk.path()).unwrap();
        assert_ne!(again.device_id().unwrap(), before, "{table}");
        let recovering: Option<i64> = coditect_sync::store::value(again.conn(), "recovering").unwrap();
        assert_eq!(recovering, Some(1), "{table}");
        assert!(!again.repair_tables().unwrap());
    }
}

#[test]
fn columns_and_tables_in_other_case_and_a_key_of_another_name_are_captured() {
    let mut desk = Desk::adopting(
        "CREATE TABLE Messages (Nr INTEGER PRIMARY KEY, Session_ID TEXT, ROLE TEXT, Content TEXT, \"odd \"\"name\" TEXT);
         CREATE TABLE Task_Tracking (ID TEXT PRIMARY KEY, Task_Id TEXT, STATUS TEXT) WITHOUT ROWID;",
    );
    desk.exec(
        "INSERT INTO messages (session_id, role, content, \"odd \"\"name\") VALUES ('s', 'user', 'c', 'v');
         INSERT INTO task_tracking VALUES ('not a uuid', 't', 'pending');
         UPDATE task_tracking SET status = 'completed';",
    );
    assert_eq!(desk.push_all(), 2);
    let message = desk.cloud.messages.values().next().unwrap();
    assert_eq!(message.metadata["odd \"name"], "v");
}

#[test]
fn p10_keys_of_odd_types_stall_nobody() {
    let mut desk = Desk::adopting(
        "CREATE TABLE task_tracking (id, task_id TEXT, status TEXT);
         CREATE TABLE task_messages (task_id, message_id, sequence);
         INSERT INTO task_tracking VALUES (CAST(x'66ff6f' AS TEXT), 'bad', 'pending'), (x'00ff', 'blob', 'pending'),
           (1, 'int', 'pending'), ('1', 'text', 'pending'), (1.5, 'real', 'pending'), (NULL, 'null', 'pending');
         INSERT INTO task_messages VALUES (CAST(x'66ff6f' AS TEXT), 1, 1), (x'00ff', 'text', 1), (1, 2.5, NULL);",
    );
    desk.exec("INSERT INTO task_tracking VALUES (CAST(x'67ff6f' AS TEXT), 'bad', 'pending'), ('good', 'good', 'pending')");
    desk.push_all();
    assert!(desk.cloud.tasks.len() >= 5, "{:?}", desk.cloud.tasks);
}

#[test]
fn a_vacuum_changes_nothing() {
    let mut desk = Desk::new();
    for n in 0..10 {
        desk.say("s", &format!("{n}"));
    }
    desk.push_all();
    desk.exec("DELETE FROM messages WHERE id < 4; VACUUM;");
    desk.mend();
    desk.say("s", "after");
    assert_eq!(desk.push_all(), 1);
}
