//! Capture: permanent triggers queue every change in the transaction that made it.
//!
//! A trigger names its own table, that table's key and `sync_*` tables, nothing else: another name, and the owner's
//! next rebuild or renaming of a column would fail. All of it is SQL of SQLite 3.8, since a trigger runs under
//! whatever SQLite the writer has.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _};

use crate::key::RawKey;
use crate::owner::Owner;
use crate::store::{set_value, value};

/// Rows that one step of the backfill queues: some milliseconds of the write lock.
const BACKFILL_ROWS: i64 = 2_000;

/// State of capture, for `status` and `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureHealth {
    Ok,
    /// Triggers that are missing or not as they should be.
    Broken(Vec<String>),
}

struct Trigger {
    name: &'static str,
    table: &'static str,
    sql: String,
}

pub fn health(conn: &Connection, owner: &Owner) -> rusqlite::Result<CaptureHealth> {
    let mut broken = Vec::new();
    for trigger in triggers(owner) {
        if !stands(conn, &trigger)? {
            broken.push(trigger.name.to_owned());
        }
    }
    Ok(if broken.is_empty() {
        CaptureHealth::Ok
    } else {
        CaptureHealth::Broken(broken)
    })
}

/// Makes every trigger stand as it should. One of the right name may hang on the wrong table after
/// `ALTER TABLE … RENAME`, so that name, table and text are compared.
pub fn install(tx: &Connection, owner: &Owner) -> rusqlite::Result<()> {
    for trigger in triggers(owner) {
        if stands(tx, &trigger)? {
            continue;
        }
        tx.execute_batch(&format!("DROP TRIGGER IF EXISTS {}", trigger.name))?;
        tx.execute_batch(&trigger.sql)?;
    }
    Ok(())
}

/// Marks that every row that stands in the file now is to be queued once.
pub fn begin_backfill(tx: &Connection) -> rusqlite::Result<()> {
    set_value(tx, "backfill_table", "messages")?;
    set_value(tx, "backfill_at", Value::Null)?;
    set_value(tx, "backfill_at2", Value::Null)
}

pub fn backfill_pending(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(value::<String>(conn, "backfill_table")?.is_some())
}

/// Queues the next rows, in the order of their keys; `true` when there are none left. Rows written meanwhile are
/// queued by the triggers too; folding makes one of both.
pub fn backfill_step(tx: &Connection, owner: &Owner) -> rusqlite::Result<bool> {
    let Some(table) = value::<String>(tx, "backfill_table")? else {
        return Ok(true);
    };
    let at: RawKey = value(tx, "backfill_at")?.unwrap_or(RawKey::Key(Value::Null));
    let at2: RawKey = value(tx, "backfill_at2")?.unwrap_or(RawKey::Key(Value::Null));
    // The first part and those that follow are statements of their own, so that each is a search and not a scan.
    let begun = at != RawKey::Key(Value::Null);
    let (source, next) = match table.as_str() {
        "messages" => {
            let key = owner.message_key();
            let rest = if begun {
                format!("WHERE {key} > ?1")
            } else {
                String::new()
            };
            (
                format!("SELECT {key}, NULL FROM messages {rest} ORDER BY {key}"),
                Some("task_tracking"),
            )
        }
        "task_tracking" => {
            let rest = if begun { "id > ?1" } else { "id IS NOT NULL" };
            (
                format!("SELECT id, NULL FROM task_tracking WHERE {rest} ORDER BY id"),
                Some("task_messages"),
            )
        }
        _ => {
            let rest = if begun {
                "(task_id, message_id) > (?1, ?2)"
            } else {
                "1"
            };
            (
                format!(
                    "SELECT task_id, message_id FROM task_messages
                     WHERE task_id IS NOT NULL AND message_id IS NOT NULL AND {rest} ORDER BY task_id, message_id"
                ),
                None,
            )
        }
    };
    let mut rows: Vec<(RawKey, RawKey)> = Vec::new();
    {
        // All parameters stand in every statement, so that one set of them fits all.
        let sql = format!("{source} LIMIT ?3 + 0 * (?1 IS NULL) + 0 * (?2 IS NULL)");
        let mut statement = tx.prepare_cached(&sql)?;
        let mut found = statement.query(rusqlite::params![at, at2, BACKFILL_ROWS])?;
        while let Some(row) = found.next()? {
            rows.push((row.get(0)?, row.get(1)?));
        }
    }
    let mut queue = tx.prepare_cached(
        "INSERT INTO sync_queue (table_name, row_id, row_id2, op) VALUES (?1, ?2, ?3, 'scan')",
    )?;
    for (key, key2) in &rows {
        queue.execute(rusqlite::params![table, key, key2])?;
    }
    match rows.pop() {
        Some((key, key2)) => {
            set_value(tx, "backfill_at", key)?;
            set_value(tx, "backfill_at2", key2)?;
            Ok(false)
        }
        None => {
            set_value(tx, "backfill_table", next)?;
            set_value(tx, "backfill_at", Value::Null)?;
            set_value(tx, "backfill_at2", Value::Null)?;
            Ok(next.is_none())
        }
    }
}

fn stands(conn: &Connection, trigger: &Trigger) -> rusqlite::Result<bool> {
    let found: Option<(String, String)> = conn
        .prepare_cached("SELECT tbl_name, sql FROM sqlite_master WHERE type = 'trigger' AND name = ?1")?
        .query_row([trigger.name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.is_some_and(|(table, sql)| table.eq_ignore_ascii_case(trigger.table) && sql == trigger.sql))
}

fn triggers(owner: &Owner) -> Vec<Trigger> {
    let message = owner.message_key();
    let single = |names: [&'static str; 3], table: &'static str, key: &str| {
        let [insert, update, delete] = names;
        [
            trigger(
                insert,
                table,
                "INSERT",
                &queue(table, &format!("NEW.{key}"), "NULL", "'ins'"),
            ),
            // A changed key is the end of one row and the beginning of another.
            trigger(
                update,
                table,
                "UPDATE",
                &format!(
                    "INSERT INTO sync_queue (table_name, row_id, op) SELECT '{table}', OLD.{key}, 'del' \
                     WHERE OLD.{key} IS NOT NEW.{key}; {}",
                    queue(
                        table,
                        &format!("NEW.{key}"),
                        "NULL",
                        &format!("CASE WHEN OLD.{key} IS NEW.{key} THEN 'upd' ELSE 'ins' END")
                    )
                ),
            ),
            trigger(
                delete,
                table,
                "DELETE",
                &queue(table, &format!("OLD.{key}"), "NULL", "'del'"),
            ),
        ]
    };
    let link = |row: &str, op: &str| {
        queue(
            "task_messages",
            &format!("{row}.task_id"),
            &format!("{row}.message_id"),
            op,
        )
    };
    let mut all = Vec::with_capacity(9);
    all.extend(single(
        ["sync_messages_ins", "sync_messages_upd", "sync_messages_del"],
        "messages",
        &message,
    ));
    all.extend(single(
        ["sync_tasks_ins", "sync_tasks_upd", "sync_tasks_del"],
        "task_tracking",
        "id",
    ));
    all.push(trigger(
        "sync_links_ins",
        "task_messages",
        "INSERT",
        &link("NEW", "'ins'"),
    ));
    all.push(trigger(
        "sync_links_upd",
        "task_messages",
        "UPDATE",
        &format!("{} {}", link("OLD", "'upd'"), link("NEW", "'upd'")),
    ));
    all.push(trigger(
        "sync_links_del",
        "task_messages",
        "DELETE",
        &link("OLD", "'del'"),
    ));
    all
}

fn trigger(name: &'static str, table: &'static str, event: &str, body: &str) -> Trigger {
    let sql = format!(
        "CREATE TRIGGER {name} AFTER {event} ON {table} \
         WHEN NOT EXISTS (SELECT 1 FROM sync_applying) BEGIN {body} END"
    );
    Trigger { name, table, sql }
}

fn queue(table: &str, key: &str, key2: &str, op: &str) -> String {
    format!(
        "INSERT INTO sync_queue (table_name, row_id, row_id2, op) VALUES ('{table}', {key}, {key2}, {op});"
    )
}
