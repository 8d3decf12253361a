//! Creating and adopting files, and refusing those that cannot be used.

use coditect_shared::{TenantId, UserId};
use coditect_sync::store::{Store, StoreError};
use rusqlite::Connection;
use uuid::Uuid;

use crate::desk::{Desk, open};

const OWNERS: &str = "
    PRAGMA user_version = 42;
    CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT);
    CREATE TABLE log (n INTEGER);
    CREATE TRIGGER owners_log AFTER INSERT ON messages BEGIN INSERT INTO log VALUES (NEW.id); END;
    INSERT INTO messages (id, session_id, role, content) VALUES (7, 's', 'user', 'seven'), (3, 's', 'user', 'three');
";

fn refusal(sql: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("context.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let before = std::fs::read(&path).unwrap();
    let text = Store::open(&path).unwrap_err().to_string();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "a file that is refused stays as it was"
    );
    text
}

#[test]
fn a_file_that_another_program_made_is_adopted_with_its_settings_and_triggers_untouched() {
    let mut desk = Desk::adopting(OWNERS);
    assert_eq!(
        desk.text("SELECT CAST(user_version AS TEXT) FROM pragma_user_version"),
        "42"
    );
    assert_eq!(
        desk.text("SELECT journal_mode FROM pragma_journal_mode"),
        "delete"
    );
    assert_eq!(desk.count("log"), 2);
    assert_eq!(desk.count("sqlite_master WHERE name = 'owners_log'"), 1);
    assert_eq!(desk.push_all(), 2);
    assert_eq!(desk.count("messages"), 2);
    assert!(desk.cloud.idle.is_empty());
}

#[test]
fn rows_from_before_are_queued_once_in_the_order_of_their_keys() {
    let desk = Desk::adopting(OWNERS);
    let queued: Vec<i64> = desk
        .owner
        .prepare("SELECT row_id FROM sync_queue ORDER BY seq")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(queued, [3, 7]);
}

#[test]
fn a_backfill_in_parts_queues_every_row_of_every_table_once() {
    let mut desk = Desk::adopting(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT);
         CREATE TABLE task_tracking (id TEXT PRIMARY KEY, task_id TEXT, status TEXT) WITHOUT ROWID;
         CREATE TABLE task_messages (task_id TEXT, message_id INTEGER, sequence INTEGER, PRIMARY KEY (task_id, message_id));
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 4500)
           INSERT INTO messages SELECT i * 3, 's', 'user', 'text ' || i FROM n;
         INSERT INTO task_tracking SELECT 't' || id, 'x', 'pending' FROM messages;
         INSERT INTO task_messages SELECT 't' || id, id, 1 FROM messages;",
    );
    assert_eq!(desk.count("sync_queue"), 3 * 4500);
    assert_eq!(
        desk.count("(SELECT DISTINCT table_name, row_id, row_id2 FROM sync_queue)"),
        3 * 4500
    );
    desk.limits.rows = 1_000;
    assert_eq!(desk.push_all(), 3 * 4500);
    assert!(desk.cloud.idle.is_empty());
}

#[test]
fn opening_a_file_again_writes_nothing() {
    let desk = Desk::new();
    let witness = open(desk.path());
    let version = |witness: &Connection| {
        witness
            .query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let before = version(&witness);
    let again = Store::open(desk.path()).unwrap();
    assert!(again.binding().unwrap().is_some());
    assert_eq!(version(&witness), before);
}

#[test]
fn a_newer_schema_is_refused_with_what_to_do() {
    let desk = Desk::new();
    desk.exec("UPDATE sync_state SET value = 99 WHERE key = 'schema_version'");
    let error = Store::open(desk.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("update coditect-sync"), "{error}");
}

#[test]
fn what_cannot_be_captured_is_refused_by_name() {
    let view = "CREATE TABLE m (id INTEGER PRIMARY KEY, session_id, role, content); CREATE VIEW Messages AS SELECT * FROM m;";
    assert!(refusal(view).contains("view"), "{}", refusal(view));
    let no_role = "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, content TEXT)";
    assert!(refusal(no_role).contains("role"), "{}", refusal(no_role));
    let no_key = "CREATE TABLE messages (id INT PRIMARY KEY, session_id, role, content)";
    assert!(
        refusal(no_key).contains("INTEGER PRIMARY KEY"),
        "{}",
        refusal(no_key)
    );
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("context.db");
    std::fs::write(
        &path,
        "these are notes, not a database, and they are longer than a header of a page".repeat(20),
    )
    .unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::NotADatabase { .. }), "{error}");
}

#[test]
fn a_file_stays_with_the_account_that_it_was_first_bound_to() {
    let mut desk = Desk::new();
    let user: UserId = "somebody.else".parse().unwrap();
    let error = desk
        .store
        .bind(Uuid::from_u128(1), TenantId(Uuid::from_u128(2)), &user)
        .unwrap_err();
    assert!(matches!(error, StoreError::BoundElsewhere { .. }), "{error}");
}

#[test]
fn everything_that_we_put_into_a_file_is_sql_of_sqlite_3_8() {
    let desk = Desk::new();
    let mut statement = desk
        .owner
        .prepare("SELECT type, sql FROM sqlite_master WHERE sql IS NOT NULL")
        .unwrap();
    let objects: Vec<(String, String)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(objects.len() > 20);
    for (kind, sql) in objects {
        // Comments are kept in the text, and are no words of SQL.
        let code: String = sql
            .lines()
            .map(|line| line.split("--").next().unwrap_or("").to_uppercase() + "\n")
            .collect();
        for newer in [
            "STRICT",
            "GENERATED",
            "ON CONFLICT DO",
            "JSON",
            "->",
            "RETURNING",
            "TRUE",
            "FALSE",
            "FILTER",
            "OVER ",
            "IIF",
            "WITH ",
        ] {
            assert!(!code.contains(newer), "{newer} in {sql}");
        }
        if kind == "trigger" {
            // The only parentheses are lists of columns and values, and the question whether we apply.
            for word in [
                "COALESCE(",
                "RANDOM(",
                "HEX(",
                "MAX(",
                "MIN(",
                "DATETIME(",
                "STRFTIME(",
                "LENGTH(",
            ] {
                assert!(!code.contains(word), "{word} in {sql}");
            }
        }
    }
}

#[test]
fn extra_columns_that_must_not_be_null_put_pulled_rows_aside_and_the_cursor_moves_on() {
    let mut desk = Desk::adopting(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT, colour TEXT NOT NULL)",
    );
    let page = desk.page_of(crate::desk::message("s", "from elsewhere"));
    desk.apply(&page);
    let entries = desk.quarantine();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].direction, "down");
    assert!(entries[0].message.contains("messages.colour"), "{entries:?}");
    assert_eq!(
        desk.text("SELECT CAST(value AS TEXT) FROM sync_state WHERE key = 'cursor'"),
        "1"
    );
    assert_eq!(desk.count("messages"), 0);
}

#[test]
fn conflict_clauses_of_the_owner_end_no_page_and_lose_no_row() {
    for clause in ["ROLLBACK", "IGNORE", "FAIL", "REPLACE"] {
        let mut desk = Desk::adopting(&format!(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT,
               content TEXT UNIQUE ON CONFLICT {clause});
             INSERT INTO messages (session_id, role, content) VALUES ('other', 'user', 'taken');"
        ));
        let mut page = desk.page_of(crate::desk::message("s", "taken"));
        page.messages.push(crate::desk::message("s", "free"));
        desk.apply(&page);
        assert_eq!(desk.quarantine().len(), 1, "{clause}: {:?}", desk.quarantine());
        assert_eq!(desk.count("messages WHERE content = 'free'"), 1, "{clause}");
        assert_eq!(desk.count("messages WHERE session_id = 'other'"), 1, "{clause}");
    }
}

#[test]
fn a_trigger_that_ignores_a_pulled_row_puts_it_aside() {
    let mut desk = Desk::adopting(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT);
         CREATE TRIGGER picky BEFORE INSERT ON messages WHEN NEW.content = 'no' BEGIN SELECT RAISE(IGNORE); END;",
    );
    let page = desk.page_of(crate::desk::message("s", "no"));
    desk.apply(&page);
    assert_eq!(desk.quarantine().len(), 1);
}
