//! `sessions`: what stands in the file, by session. Reads the file alone, with or without a daemon.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::browse::{Browser, Session, SessionFilter, SyncState, moment};
use crate::cli::{Sessions, Setup};
use crate::output::{self, Fault, Paged};
use crate::screen::{Align, Column, Paint, Screen};
use crate::status::{age, grouped};

/// Characters of an id that are shown at least: enough to be typed again, and to be told from others tomorrow.
const ID_CHARS_MIN: usize = 8;

/// From this age on a date tells more than a number of days.
const RECENT: SignedDuration = SignedDuration::from_hours(14 * 24);

const COLUMNS: [Column; 8] = [
    column("SESSION", Align::Left, 36),
    column("LAST", Align::Left, 16),
    column("MESSAGES", Align::Right, 12),
    column("TASKS", Align::Right, 9),
    column("PROJECT", Align::Left, 28),
    column("FROM", Align::Left, 20),
    column("SYNC", Align::Left, 18),
    column("TITLE", Align::Left, usize::MAX),
];

pub(super) fn run(args: Sessions, setup: &Setup) -> Result<(), Fault> {
    let filter = SessionFilter {
        project: args.project,
        sync: args.status,
        device: args.device,
        since: args.since,
    };
    let all = match Browser::open(&setup.paths.context_db)? {
        Some(browser) => browser.sessions(&filter).map_err(anyhow::Error::new)?,
        None => Vec::new(),
    };
    let shown = &all[..all.len().min(args.limit.unwrap_or(usize::MAX))];
    if args.json {
        return output::json(&shown);
    }
    if all.is_empty() {
        return output::text(&nothing("session", setup));
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

/// What a list says that has nothing in it.
pub(super) fn nothing(what: &str, setup: &Setup) -> String {
    format!(
        "no {what} is in {}, or none that was asked for; Claude Code's come in with\n  {}\n",
        setup.paths.context_db.display(),
        setup.command("ingest ~/.claude/projects")
    )
}

/// Ids on a terminal as short as they can be typed again, in a pipe whole.
pub(super) fn id_chars(ids: &BTreeSet<&str>, screen: &Screen) -> usize {
    if screen.width.is_none() {
        return usize::MAX;
    }
    let sorted: Vec<&str> = ids.iter().copied().collect();
    let shared = |pair: &[&str]| {
        let same = pair[0].chars().zip(pair[1].chars()).take_while(|(a, b)| a == b);
        same.count()
    };
    let longest = sorted.windows(2).map(shared).max().unwrap_or(0);
    ID_CHARS_MIN.max(longest + 1)
}

pub(super) fn short(id: &str, chars: usize) -> String {
    match id {
        "" => "(none)".into(),
        id => id.chars().take(chars).collect(),
    }
}

/// When something happened, as it is told today.
pub(super) fn when(text: Option<&str>, now: Timestamp) -> String {
    let Some(at) = moment(text) else {
        return text.unwrap_or("unknown").to_owned();
    };
    match now.duration_since(at) {
        past if past.is_negative() || past > RECENT => at
            .to_zoned_datetime(TimeZone::system())
            .strftime("%Y-%m-%d")
            .to_string(),
        past => format!("{} ago", age(past)),
    }
}

pub(super) fn paint_of(state: SyncState) -> Paint {
    match state {
        SyncState::Sent => Paint::Good,
        SyncState::Waiting => Paint::Warning,
        SyncState::Refused => Paint::Bad,
        SyncState::Excluded | SyncState::Local => Paint::Faint,
    }
}

pub(super) fn name_of(state: SyncState) -> &'static str {
    match state {
        SyncState::Sent => "sent",
        SyncState::Waiting => "waiting",
        SyncState::Refused => "refused",
        SyncState::Excluded => "excluded",
        SyncState::Local => "local",
    }
}

fn rows(sessions: &[Session], screen: &Screen, now: Timestamp) -> Vec<Vec<(String, Paint)>> {
    let ids = sessions
        .iter()
        .map(|session| session.session_id.as_str())
        .collect();
    let chars = id_chars(&ids, screen);
    let plain = |text: String| (text, Paint::Plain);
    sessions
        .iter()
        .map(|session| {
            let tasks = match session.tasks.all() {
                0 => String::new(),
                all => format!("{}/{}", grouped(session.tasks.completed), grouped(all)),
            };
            let from: Vec<&str> = session.devices.iter().map(|device| device.name()).collect();
            let sync = &session.sync;
            let count = match sync.state {
                SyncState::Waiting => format!(" ({})", grouped(sync.waiting)),
                SyncState::Refused => format!(" ({})", grouped(sync.refused)),
                SyncState::Sent | SyncState::Excluded | SyncState::Local => String::new(),
            };
            vec![
                (short(&session.session_id, chars), Paint::Strong),
                plain(when(session.last_at.as_deref(), now)),
                plain(grouped(session.messages)),
                plain(tasks),
                plain(session.project.clone().unwrap_or_default()),
                plain(from.join(", ")),
                (format!("{}{count}", name_of(sync.state)), paint_of(sync.state)),
                plain(session.title.clone()),
            ]
        })
        .collect()
}

const fn column(name: &'static str, align: Align, max: usize) -> Column {
    Column { name, align, max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_on_a_terminal_are_as_short_as_they_can_be_typed_again() {
        let terminal = Screen {
            width: Some(80),
            ..Screen::PIPE
        };
        let far = BTreeSet::from(["0a1b2c3d-4e5f", "1a1b2c3d-4e5f"]);
        let near = BTreeSet::from(["0a1b2c3d-4e5f", "0a1b2c3d-4e60"]);
        assert_eq!(id_chars(&far, &terminal), 8);
        assert_eq!(short("0a1b2c3d-4e5f", id_chars(&near, &terminal)), "0a1b2c3d-4e5");
        assert_eq!(
            short("0a1b2c3d-4e5f", id_chars(&near, &Screen::PIPE)),
            "0a1b2c3d-4e5f"
        );
    }
}
