//! Compares a task with its row in context.db, and writes it.

use jiff::Timestamp;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, ToSql as _, params_from_iter};

use super::context_db::{Cell, Columns, present};
use super::task::TaskRow;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Older,
    NothingToWrite,
}

/// Compares a task with what is stored. Equal fields are left alone whatever their `updated_at`; of two
/// versions that differ the later one stays, so that a shorter copy of a transcript, or another device's
/// newer version, is never undone.
pub(super) fn look_at_task(
    connection: &Connection,
    columns: &Columns,
    row: &TaskRow,
) -> anyhow::Result<Found> {
    let cells = present(task_cells(row), columns);
    let names: Vec<&str> = cells.iter().map(|(name, _)| *name).collect();
    let sql = format!("SELECT {} FROM task_tracking WHERE id = ?1", names.join(", "));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut stored = statement.query([row.id.to_string()])?;
    let Some(stored) = stored.next()? else {
        return Ok(Found::Absent);
    };
    let mut equal = true;
    for (index, (name, cell)) in cells.iter().enumerate() {
        equal &= *name == "updated_at" || same(stored.get_ref(index)?, &cell.to_sql()?);
    }
    if equal {
        return Ok(Found::NothingToWrite);
    }
    let text = |name: &str| -> Option<&str> {
        let index = names.iter().position(|column| *column == name)?;
        stored.get_ref(index).ok()?.as_str().ok()
    };
    let count = |name: &str| -> i64 {
        let index = names.iter().position(|column| *column == name);
        index.and_then(|index| stored.get(index).ok()).unwrap_or(0)
    };
    let counted = row.tool_success_count + row.tool_error_count + row.user_corrections;
    let ours = (
        age(row.updated_at.as_deref()),
        i64::from(counted),
        rank(row.status.as_str()),
        row.project_id.is_some(),
    );
    let theirs = (
        age(text("updated_at")),
        count("tool_success_count") + count("tool_error_count") + count("user_corrections"),
        rank(text("status").unwrap_or_default()),
        text("project_id").is_some(),
    );
    // Without the column nothing tells the age of a version, and what the transcript says counts.
    let newer = ours > theirs || !columns.contains("updated_at");
    Ok(if newer {
        Found::Older
    } else {
        Found::NothingToWrite
    })
}

/// A time to compare by; one that cannot be read is older than any other.
fn age(time: Option<&str>) -> Option<Timestamp> {
    time.and_then(|time| time.parse().ok())
}

fn rank(status: &str) -> u8 {
    match status {
        "completed" => 2,
        "in_progress" => 1,
        _ => 0,
    }
}

fn same(stored: rusqlite::types::ValueRef<'_>, ours: &ToSqlOutput<'_>) -> bool {
    match ours {
        ToSqlOutput::Borrowed(ours) => stored == *ours,
        ToSqlOutput::Owned(ours) => stored == ours.into(),
        _ => false,
    }
}

pub(super) fn update_task(connection: &Connection, columns: &Columns, row: &TaskRow) -> anyhow::Result<()> {
    let cells = present(task_cells(row), columns);
    let (key, rest): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(name, _)| *name == "id");
    let sets: Vec<String> = rest.iter().map(|(name, _)| format!("{name} = ?")).collect();
    let sql = format!("UPDATE task_tracking SET {} WHERE id = ?", sets.join(", "));
    let values = rest.iter().chain(&key).map(|(_, value)| value.as_ref());
    connection
        .prepare_cached(&sql)?
        .execute(params_from_iter(values))?;
    Ok(())
}

pub(super) fn task_cells(row: &TaskRow) -> Vec<Cell<'_>> {
    vec![
        ("id", Box::new(row.id.to_string())),
        ("task_id", Box::new(row.task_id.as_str())),
        ("description", Box::new(row.description.as_str())),
        ("active_form", Box::new(row.active_form.as_deref())),
        ("session_id", Box::new(row.session_id.as_str())),
        ("project_id", Box::new(row.project_id.as_deref())),
        ("status", Box::new(row.status.as_str())),
        ("outcome", Box::new(row.outcome)),
        ("outcome_score", Box::new(row.outcome_score)),
        ("tool_success_count", Box::new(row.tool_success_count)),
        ("tool_error_count", Box::new(row.tool_error_count)),
        ("user_corrections", Box::new(row.user_corrections)),
        ("started_at", Box::new(row.started_at.as_deref())),
        ("completed_at", Box::new(row.completed_at.as_deref())),
        ("updated_at", Box::new(row.updated_at.as_deref())),
    ]
}
