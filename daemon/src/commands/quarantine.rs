//! `quarantine`: rows that were refused, why, and another try. Works on the file, with or without a daemon.

use jiff::Timestamp;
use serde_json::json;

use crate::cli::{Quarantine, Setup};
use crate::output::{self, Fault};
use crate::quarantine::{self, Entry};
use crate::status::{age, counted};
use crate::store::Store;

pub(super) fn run(args: &Quarantine, setup: &Setup) -> Result<(), Fault> {
    match args {
        Quarantine::List(args) => list(args.json, setup),
        Quarantine::Retry(args) => retry(&args.ids, args.json, setup),
    }
}

fn list(json: bool, setup: &Setup) -> Result<(), Fault> {
    let entries = match open(setup)? {
        Some(store) => quarantine::list(store.conn()).map_err(anyhow::Error::new)?,
        None => Vec::new(),
    };
    if json {
        return output::json(&entries);
    }
    if entries.is_empty() {
        return output::text("nothing was refused");
    }
    let mut text = String::new();
    for entry in &entries {
        text.push_str(&line(entry, Timestamp::now()));
    }
    text.push_str("`coditect-sync quarantine retry [ID…]` tries again; a changed row is tried by itself\n");
    output::text(&text)
}

fn line(entry: &Entry, now: Timestamp) -> String {
    let by = match entry.direction.as_str() {
        "up" => "not sent",
        _ => "not written here",
    };
    let when = match entry.at.parse::<Timestamp>() {
        Ok(at) => format!("{} ago", age(now.duration_since(at))),
        Err(_) => entry.at.clone(),
    };
    format!(
        "#{} {} {}, {by}: {} ({}; {when})\n",
        entry.id, entry.table, entry.row, entry.message, entry.code
    )
}

fn retry(ids: &[i64], json: bool, setup: &Setup) -> Result<(), Fault> {
    let count = match open(setup)? {
        Some(mut store) => {
            let which = (!ids.is_empty()).then_some(ids);
            quarantine::retry(store.conn_mut(), which).map_err(anyhow::Error::new)?
        }
        None => 0,
    };
    if count < ids.len() {
        return Err(Fault::failed(format!(
            "{} of {} are not in quarantine (any more); `coditect-sync quarantine list` shows what is",
            ids.len() - count,
            ids.len()
        )));
    }
    match json {
        true => output::json(&json!({"retried": count})),
        false => output::text(&format!(
            "{} tried again",
            counted(count as u64, "row is", "rows are")
        )),
    }
}

/// None where there is no file: looking must not create one.
fn open(setup: &Setup) -> Result<Option<Store>, Fault> {
    if !setup.paths.context_db.exists() {
        return Ok(None);
    }
    Ok(Some(
        Store::open(&setup.paths.context_db).map_err(anyhow::Error::new)?,
    ))
}
