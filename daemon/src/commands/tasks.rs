//! `tasks`: what was to be done, and what came of it, session by session.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::sessions::{id_chars, name_of, nothing, paint_of, short, when};
use super::show::resolve;
use crate::browse::{Browser, Task, TaskFilter, moment};
use crate::cli::{Setup, Tasks};
use crate::output::{self, Fault, Paged};
use crate::screen::{Align, Column, Paint, Screen};
use crate::status::{age, grouped};

const COLUMNS: [Column; 8] = [
    column("SESSION", 36),
    column("STATUS", 12),
    column("OUTCOME", 12),
    column("LAST", 16),
    column("TOOK", 8),
    column("PROJECT", 28),
    column("SYNC", 10),
    column("TASK", usize::MAX),
];

pub(super) fn run(args: Tasks, setup: &Setup) -> Result<(), Fault> {
    let browser = Browser::open(&setup.paths.context_db)?;
    let session = match (&args.session, &browser) {
        (Some(prefix), Some(browser)) => Some(resolve(browser, prefix, setup)?),
        (_, _) => None,
    };
    let filter = TaskFilter {
        project: args.project,
        status: args.status,
        device: args.device,
        since: args.since,
        session,
    };
    let all = match browser {
        Some(browser) => browser.tasks(&filter).map_err(anyhow::Error::new)?,
        None => Vec::new(),
    };
    let shown = &all[..all.len().min(args.limit.unwrap_or(usize::MAX))];
    if args.json {
        return output::json(&shown);
    }
    if all.is_empty() {
        return output::text(&nothing("task", setup));
    }
    let screen = Screen::of_stdout();
    let mut text = screen.table(&COLUMNS, &rows(shown, &screen, Timestamp::now()));
    if shown.len() < all.len() {
        text.push_str(&format!(
            "and {} more\n",
            grouped((all.len() - shown.len()) as u64)
        ));
    }
    let mut out = Paged::open(screen.width.is_some() && !args.no_pager);
    out.write(&text)?;
    out.finish()
}

pub(super) fn paint_of_status(status: &str) -> Paint {
    match status {
        "completed" => Paint::Good,
        "in_progress" => Paint::Warning,
        _ => Paint::Plain,
    }
}

fn rows(tasks: &[Task], screen: &Screen, now: Timestamp) -> Vec<Vec<(String, Paint)>> {
    let session = |task: &Task| task.session_id.clone().unwrap_or_default();
    let ids: BTreeSet<&str> = tasks
        .iter()
        .filter_map(|task| task.session_id.as_deref())
        .collect();
    let chars = id_chars(&ids, screen);
    let plain = |text: String| (text, Paint::Plain);
    let mut before = None;
    tasks
        .iter()
        .map(|task| {
            let session = short(&session(task), chars);
            // On a terminal a session is named once, so that its tasks stand together.
            let again = screen.width.is_some() && before.as_ref() == Some(&session);
            before = Some(session.clone());
            vec![
                (if again { String::new() } else { session }, Paint::Strong),
                (task.status.clone(), paint_of_status(&task.status)),
                (
                    task.outcome.clone().unwrap_or_default(),
                    match task.outcome.as_deref() {
                        Some("error") => Paint::Bad,
                        Some("partial") => Paint::Warning,
                        Some(_) | None => Paint::Plain,
                    },
                ),
                plain(when(task.last_at(), now)),
                plain(took(task)),
                plain(task.project.clone().unwrap_or_default()),
                (name_of(task.sync).to_owned(), paint_of(task.sync)),
                plain(task.description.clone()),
            ]
        })
        .collect()
}

fn took(task: &Task) -> String {
    let (start, end) = (
        moment(task.started_at.as_deref()),
        moment(task.completed_at.as_deref()),
    );
    match start.zip(end) {
        Some((start, end)) if end >= start => age(end.duration_since(start)),
        Some(_) | None => String::new(),
    }
}

const fn column(name: &'static str, max: usize) -> Column {
    Column {
        name,
        align: Align::Left,
        max,
    }
}
