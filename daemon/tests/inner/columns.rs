//! Every column of a message survives the way from one file through a record into another.

use coditect_sync::owner::Found;
use proptest::prelude::*;
use rusqlite::types::Value;

use crate::desk::{Desk, TENANT};

const COLUMNS: [&str; 15] = [
    "session_id",
    "role",
    "content",
    "source_type",
    "source_file",
    "checkpoint",
    "timestamp",
    "extracted_at",
    "content_length",
    "has_code",
    "has_markdown",
    "agent_context",
    "plain",
    "counted",
    "measured",
];

/// The contract's table with three more columns, of no, of integer and of real affinity.
const TABLE: &str = "CREATE TABLE messages (id INTEGER PRIMARY KEY, hash TEXT UNIQUE NOT NULL, session_id TEXT,
    role TEXT NOT NULL, content TEXT NOT NULL, source_type TEXT, source_file TEXT, checkpoint TEXT, timestamp TEXT,
    extracted_at TEXT, content_length INTEGER, has_code INTEGER, has_markdown INTEGER, agent_context TEXT,
    plain, counted INTEGER DEFAULT 7, measured REAL DEFAULT 0.5)";

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>()
            .prop_filter("JSON has no infinity", |n| n.is_finite())
            .prop_map(Value::Real),
        "[^\0]{0,20}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Blob),
    ]
}

fn any_row() -> impl Strategy<Value = Vec<Value>> {
    let text = || "[^\0]{0,30}".prop_map(Value::Text);
    let session = prop_oneof![Just(Value::Null), text()];
    (
        session,
        "[a-z]{1,10}".prop_map(Value::Text),
        text(),
        prop::collection::vec(any_value(), 12),
    )
        .prop_map(|(session, role, content, rest)| [vec![session, role, content], rest].concat())
}

fn read(desk: &Desk) -> Vec<Value> {
    desk.owner
        .query_row(
            &format!("SELECT {} FROM messages", COLUMNS.join(", ")),
            [],
            |row| (0..COLUMNS.len()).map(|index| row.get(index)).collect(),
        )
        .unwrap()
}

fn write(desk: &Desk, row: &[Value], update: bool) {
    let sql = if update {
        format!(
            "UPDATE messages SET {}",
            COLUMNS.map(|name| format!("{name} = ?")).join(", ")
        )
    } else {
        format!(
            "INSERT INTO messages (hash, {}) VALUES ('h', {})",
            COLUMNS.join(", "),
            ["?"; COLUMNS.len()].join(", ")
        )
    };
    desk.owner.execute(&sql, rusqlite::params_from_iter(row)).unwrap();
}

/// What the first file sent last, as the second one gets it.
fn carry(from: &Desk, to: &mut Desk) {
    let record = from.cloud.messages.values().next().unwrap().clone();
    let text = serde_json::to_string(&record).unwrap();
    let page = to.page_of(serde_json::from_str(&text).unwrap());
    to.apply(&page);
    assert!(to.quarantine().is_empty(), "{:?}", to.quarantine());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_column_of_a_message_travels_in_an_insert_and_in_an_edit(first in any_row(), mut second in any_row()) {
        let (mut a, mut b) = (Desk::adopting(TABLE), Desk::adopting(TABLE));
        write(&a, &first, false);
        prop_assert_eq!(a.push_all(), 1);
        carry(&a, &mut b);
        prop_assert_eq!(read(&b), read(&a));

        // An edit keeps its session.
        second[0] = first[0].clone();
        write(&a, &second, true);
        a.push_all();
        carry(&a, &mut b);
        prop_assert_eq!(read(&b), read(&a));

        // What arrived is nobody's change: looking at all rows again sends nothing.
        b.store.write(|tx, _| coditect_sync::capture::begin_backfill(tx)).unwrap();
        b.backfill();
        prop_assert_eq!(b.push_all(), 0);
    }
}

#[test]
fn a_file_with_fewer_more_or_other_columns_sends_nothing_back() {
    for sql in [
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT)",
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT, own TEXT DEFAULT 'mine')",
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT, has_code INTEGER DEFAULT 0)",
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT, content_length TEXT)",
    ] {
        let (mut a, mut b) = (Desk::adopting(TABLE), Desk::adopting(sql));
        a.exec("INSERT INTO messages (hash, session_id, role, content, content_length, plain) VALUES ('h', 's', 'user', 'c', 1, x'00')");
        a.push_all();
        carry(&a, &mut b);
        b.store
            .write(|tx, _| coditect_sync::capture::begin_backfill(tx))
            .unwrap();
        b.backfill();
        assert_eq!(b.push_all(), 0, "{sql}");
    }
}

#[test]
fn a_row_that_cannot_travel_is_named_by_its_field() {
    let desk = Desk::new();
    desk.exec(
        "INSERT INTO messages (id, hash, role, content) VALUES (1, 'h', 'user', CAST(x'66ff' AS TEXT))",
    );
    let found = desk
        .store
        .owner()
        .read_message(desk.store.conn(), TENANT, &desk.context.policy.redactor, 1)
        .unwrap();
    let Found::Unfit(unfit) = found else {
        panic!("{found:?}")
    };
    assert!(unfit.refusal.message.starts_with("content"), "{unfit:?}");
}
