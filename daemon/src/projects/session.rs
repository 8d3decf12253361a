//! The project of a session and of its rows: the first that a row of it names.
//!
//! The owner's tables have no index by session. So the daemon notes each session's project when it looks at a row of it
//! (`sync_sessions`), and never has to search; commands, which may, read the rows as well.

use std::collections::HashMap;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::excluded;
use super::place::{Place, session_of, text_of};
use crate::owner::Owner;
use crate::store::table_exists;

/// The project of every session of this file, in one pass over it. Writes nothing, and needs none of our tables.
pub fn of_sessions(conn: &Connection, owner: &Owner) -> rusqlite::Result<HashMap<String, Place>> {
    let mut sessions: HashMap<String, Place> = HashMap::new();
    if table_exists(conn, "sync_sessions")? {
        let mut statement = conn.prepare_cached("SELECT session_id, project, folder FROM sync_sessions")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            sessions.insert(row.get(0)?, note_at(row, 1)?);
        }
    }
    let (messages, tasks) = (select_messages(owner), select_tasks(owner));
    let ordered = format!("{messages} ORDER BY {}", owner.message_key());
    for (sql, own_at) in [
        (ordered, own_of_message as fn(&Row<'_>) -> rusqlite::Result<Place>),
        (tasks, own_of_task),
    ] {
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let session = session_of(row.get_ref(0)?);
            if !session.is_empty() {
                fill(sessions.entry(session).or_default(), own_at(row)?);
            }
        }
    }
    Ok(sessions)
}

/// The project of one session. Searches the file for what has not been noted, which costs a pass over it at most.
pub fn of_session(conn: &Connection, owner: &Owner, session: &str) -> rusqlite::Result<Place> {
    let mut place = Place::default();
    if session.is_empty() {
        return Ok(place);
    }
    if table_exists(conn, "sync_sessions")? {
        place = noted(conn, session)?.unwrap_or_default();
    }
    let messages = format!(
        "{} WHERE session_id = ?1 ORDER BY {}",
        select_messages(owner),
        owner.message_key()
    );
    let tasks = format!("{} WHERE session_id = ?1", select_tasks(owner));
    for (sql, own_at) in [
        (
            messages,
            own_of_message as fn(&Row<'_>) -> rusqlite::Result<Place>,
        ),
        (tasks, own_of_task),
    ] {
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement.query([session])?;
        while place.project.is_none()
            && let Some(row) = rows.next()?
        {
            fill(&mut place, own_at(row)?);
        }
    }
    Ok(place)
}

/// The place of a message, by its own words and what is noted of its session; None if there is no such row.
pub fn of_message(conn: &Connection, owner: &Owner, row_id: i64) -> rusqlite::Result<Option<Place>> {
    let Some((session, own)) = read_message(conn, owner, row_id)? else {
        return Ok(None);
    };
    Ok(Some(of_row(noted(conn, &session)?.unwrap_or_default(), own)))
}

/// As `of_message`, of a task.
pub fn of_task(conn: &Connection, owner: &Owner, local_id: &Value) -> rusqlite::Result<Option<Place>> {
    let Some((session, own)) = read_task(conn, owner, local_id)? else {
        return Ok(None);
    };
    Ok(Some(of_row(noted(conn, &session)?.unwrap_or_default(), own)))
}

/// As `of_message`, with a search for what has not been noted, as `of_session`.
pub fn searched_message(conn: &Connection, owner: &Owner, row_id: i64) -> rusqlite::Result<Option<Place>> {
    let Some((session, own)) = read_message(conn, owner, row_id)? else {
        return Ok(None);
    };
    Ok(Some(of_row(of_session(conn, owner, &session)?, own)))
}

/// As `searched_message`, of a task.
pub fn searched_task(conn: &Connection, owner: &Owner, local_id: &Value) -> rusqlite::Result<Option<Place>> {
    let Some((session, own)) = read_task(conn, owner, local_id)? else {
        return Ok(None);
    };
    Ok(Some(of_row(of_session(conn, owner, &session)?, own)))
}

/// Session and place of a message that is looked at in order to be sent. What it tells of its session is noted.
pub fn judged_message(
    tx: &Connection,
    owner: &Owner,
    row_id: i64,
) -> rusqlite::Result<Option<(String, Place)>> {
    read_message(tx, owner, row_id)?
        .map(|(session, own)| note(tx, session, own))
        .transpose()
}

/// As `judged_message`, of a task.
pub fn judged_task(
    tx: &Connection,
    owner: &Owner,
    local_id: &Value,
) -> rusqlite::Result<Option<(String, Place)>> {
    read_task(tx, owner, local_id)?
        .map(|(session, own)| note(tx, session, own))
        .transpose()
}

/// Notes the sessions of the next messages above `after`, at most `limit`. Gives where to go on; None at the end.
pub(super) fn note_sessions(
    tx: &Connection,
    owner: &Owner,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Option<i64>> {
    let key = owner.message_key();
    let sql = format!(
        "{} WHERE {key} > ?1 ORDER BY {key} LIMIT ?2",
        select_messages(owner)
    );
    let mut found: Vec<(i64, String, Place)> = Vec::new();
    {
        let mut statement = tx.prepare_cached(&sql)?;
        let mut rows = statement.query(rusqlite::params![after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            found.push((
                row.get("row_key")?,
                session_of(row.get_ref(0)?),
                own_of_message(row)?,
            ));
        }
    }
    let last = found.last().map(|(row_id, _, _)| *row_id);
    for (_, session, own) in found {
        note(tx, session, own)?;
    }
    Ok(last)
}

/// Notes the sessions of all tasks: there are few.
pub(super) fn note_tasks(tx: &Connection, owner: &Owner) -> rusqlite::Result<()> {
    let mut found: Vec<(String, Place)> = Vec::new();
    {
        let mut statement = tx.prepare_cached(&select_tasks(owner))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            found.push((session_of(row.get_ref(0)?), own_of_task(row)?));
        }
    }
    for (session, own) in found {
        note(tx, session, own)?;
    }
    Ok(())
}

/// Notes what a row tells of its session, and gives the place of the row.
fn note(tx: &Connection, session: String, own: Place) -> rusqlite::Result<(String, Place)> {
    if session.is_empty() {
        return Ok((session, own));
    }
    let before = noted(tx, &session)?;
    let mut place = before.clone().unwrap_or_default();
    fill(&mut place, own.clone());
    match before {
        None => {
            tx.prepare_cached("INSERT INTO sync_sessions (session_id, project, folder) VALUES (?1, ?2, ?3)")?
                .execute(rusqlite::params![session, place.project, place.folder])?;
        }
        Some(before) if before != place => {
            tx.prepare_cached("UPDATE sync_sessions SET project = ?2, folder = ?3 WHERE session_id = ?1")?
                .execute(rusqlite::params![session, place.project, place.folder])?;
            // Rows that were judged without knowing.
            excluded::queue_session(tx, &session)?;
        }
        Some(_) => {}
    }
    Ok((session, of_row(place, own)))
}

/// The first to name something is believed.
fn fill(session: &mut Place, own: Place) {
    session.project = session.project.take().or(own.project);
    session.folder = session.folder.take().or(own.folder);
}

pub(super) fn of_row(session: Place, own: Place) -> Place {
    let differs = own.project.is_some() && session.project.is_some() && own.project != session.project;
    Place {
        own: own.project.clone().filter(|_| differs),
        project: session.project.or(own.project),
        // A row's own folder is the nearer one: a session may have been taken up elsewhere.
        folder: own.folder.or(session.folder),
    }
}

fn noted(conn: &Connection, session: &str) -> rusqlite::Result<Option<Place>> {
    conn.prepare_cached("SELECT project, folder FROM sync_sessions WHERE session_id = ?1")?
        .query_row([session], |row| note_at(row, 0))
        .optional()
}

fn note_at(row: &Row<'_>, first: usize) -> rusqlite::Result<Place> {
    Ok(Place {
        project: row.get(first)?,
        own: None,
        folder: row.get(first + 1)?,
    })
}

fn read_message(conn: &Connection, owner: &Owner, row_id: i64) -> rusqlite::Result<Option<(String, Place)>> {
    let sql = format!("{} WHERE {} = ?1", select_messages(owner), owner.message_key());
    conn.prepare_cached(&sql)?
        .query_row([row_id], |row| {
            Ok((session_of(row.get_ref(0)?), own_of_message(row)?))
        })
        .optional()
}

fn read_task(
    conn: &Connection,
    owner: &Owner,
    local_id: &Value,
) -> rusqlite::Result<Option<(String, Place)>> {
    let sql = format!("{} WHERE id IS ?1", select_tasks(owner));
    conn.prepare_cached(&sql)?
        .query_row([local_id], |row| {
            Ok((session_of(row.get_ref(0)?), own_of_task(row)?))
        })
        .optional()
}

/// Session, context, file and key. A file that another program made may lack columns.
pub(super) fn select_messages(owner: &Owner) -> String {
    let column = |name: &'static str| {
        if owner.has_message_column(name) {
            name
        } else {
            "NULL"
        }
    };
    format!(
        "SELECT session_id, {}, {}, {} AS row_key FROM messages",
        column("agent_context"),
        column("source_file"),
        owner.message_key()
    )
}

pub(super) fn own_of_message(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place::of_columns(
        text_of(row.get_ref(1)?),
        text_of(row.get_ref(2)?),
    ))
}

/// Session and project.
pub(super) fn select_tasks(owner: &Owner) -> String {
    let column = |name: &'static str| if owner.has_task_column(name) { name } else { "NULL" };
    format!(
        "SELECT {} AS session_id, {} FROM task_tracking",
        column("session_id"),
        column("project_id")
    )
}

pub(super) fn own_of_task(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        project: text_of(row.get_ref(1)?).map(str::to_owned),
        ..Place::default()
    })
}
