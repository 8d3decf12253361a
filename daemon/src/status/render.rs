//! A status for people. The first line says whether the work is safe; below stand whose file it is, what is not safe
//! and why, and what to do next.
//!
//! The page is a list of sections: a new thing to tell is a function and its place in `SECTIONS`.

use jiff::{SignedDuration, Timestamp};

use super::{Capture, State, Status};
use crate::credential::CredentialStore;
use crate::screen::{Paint, Screen, harmless};

/// Columns of a label, and of what stands before the text of a line.
const LABEL_WIDTH: usize = 9;
const TEXT_INDENT: usize = 2 + LABEL_WIDTH + 1;

/// In the order of the page. A section without anything to tell has no lines.
const SECTIONS: [Section; 14] = [
    account, credential, file, settings, following, sent, redacted, received, waiting, held, excluded,
    refused, error, next,
];

type Section = fn(&Status, Timestamp) -> Vec<Line>;

/// One line of the page, or several where the text is long. A line without a label belongs to the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    label: &'static str,
    text: String,
    paint: Paint,
    /// To be pasted: it is not broken where the screen ends.
    is_command: bool,
}

impl Line {
    pub fn new(label: &'static str, text: impl Into<String>) -> Line {
        Line {
            label,
            text: text.into(),
            paint: Paint::Plain,
            is_command: false,
        }
    }

    /// A command to paste, alone on its line.
    pub fn command(label: &'static str, text: impl Into<String>) -> Line {
        Line {
            is_command: true,
            ..Line::new(label, text).paint(Paint::Strong)
        }
    }

    pub fn paint(self, paint: Paint) -> Line {
        Line { paint, ..self }
    }
}

/// The text of `coditect-sync status`, several lines with a line end each. `now` tells ages.
pub fn render(status: &Status, now: Timestamp, screen: &Screen) -> String {
    let lines: Vec<Line> = SECTIONS
        .into_iter()
        .flat_map(|section| section(status, now))
        .collect();
    page(&title(status, now), &lines, screen)
}

/// A title, and lines below it.
pub fn page(title: &Line, lines: &[Line], screen: &Screen) -> String {
    let mut text = String::new();
    for (index, piece) in screen.wrapped(&harmless(&title.text), 0).iter().enumerate() {
        // The verdict is what the eye looks for.
        let (verdict, rest) = match index {
            0 => piece.split_at(piece.find(':').map_or(piece.len(), |at| at + 1)),
            _ => ("", piece.as_str()),
        };
        text.push_str(&screen.paint(title.paint, verdict));
        text.push_str(rest);
        text.push('\n');
    }
    text.push('\n');
    for line in lines {
        let label = format!("  {:<LABEL_WIDTH$} ", line.label);
        let line_screen = if line.is_command {
            Screen {
                width: None,
                ..*screen
            }
        } else {
            *screen
        };
        for (index, piece) in line_screen
            .wrapped(&harmless(&line.text), TEXT_INDENT)
            .iter()
            .enumerate()
        {
            let before = if index == 0 {
                label.as_str()
            } else {
                "            "
            };
            let shown = format!(
                "{}{}",
                screen.paint(Paint::Faint, before),
                screen.paint(line.paint, piece)
            );
            text.push_str(shown.trim_end());
            text.push('\n');
        }
    }
    text
}

/// `1,234`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 row`, `2 rows`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// The largest unit that fits: `40 s`, `3 min`, `2 h`, `5 d`.
pub fn age(span: SignedDuration) -> String {
    let secs = span.as_secs().max(0);
    match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

fn title(status: &Status, now: Timestamp) -> Line {
    let state = match status.state {
        State::Starting => "starting",
        State::NeedsLogin => "login needed",
        State::Syncing => "syncing",
        State::InSync => "in sync",
        State::Offline => "offline",
        State::Paused => "paused",
        State::ReadOnly => "read only",
        State::Blocked => "blocked",
    };
    let span = now.duration_since(status.since);
    let since = match span.as_secs() {
        ..2 => "since just now".to_owned(),
        2.. => format!("for {}", age(span)),
    };
    let reason = status
        .unsafe_reason
        .as_deref()
        .unwrap_or("not everything written here is in the cloud");
    let everything = match status.outbox.excluded {
        0 => "everything written here is in the cloud",
        _ => "all but excluded projects is in the cloud",
    };
    let (paint, verdict) = match (status.safe_to_power_off, status.state) {
        (true, _) if status.outbox.quarantined > 0 => (
            Paint::Warning,
            "safe: everything written here is in the cloud, but rows from elsewhere were refused here"
                .to_owned(),
        ),
        (true, State::InSync | State::Syncing | State::Starting) => {
            (Paint::Good, format!("safe: {everything}"))
        }
        (true, State::NeedsLogin | State::Offline | State::Paused | State::ReadOnly | State::Blocked) => {
            (Paint::Warning, format!("safe so far: {everything}"))
        }
        (false, State::Starting | State::Syncing) => (Paint::Warning, format!("not safe yet: {reason}")),
        (false, _) => (Paint::Bad, format!("not safe: {reason}")),
    };
    Line::new("", format!("{verdict} ({state} {since})")).paint(paint)
}

fn account(status: &Status, _: Timestamp) -> Vec<Line> {
    let Some(account) = &status.account else {
        return vec![Line::new("account", "none: nobody is logged in")];
    };
    vec![
        Line::new(
            "account",
            format!("{} ({} of {})", account.user, account.role, account.tenant),
        ),
        Line::new("server", &account.server),
        Line::new("device", &account.device_id),
    ]
}

fn credential(status: &Status, _: Timestamp) -> Vec<Line> {
    let store = status.account.as_ref().map(|account| account.credential_store);
    match store {
        Some(CredentialStore::Keyring) => vec![Line::new("token", "in the keyring")],
        Some(CredentialStore::File) => {
            vec![Line::new(
                "token",
                "in a file that only you can read (--insecure-storage)",
            )]
        }
        None => Vec::new(),
    }
}

fn file(status: &Status, _: Timestamp) -> Vec<Line> {
    let mut lines = vec![Line::new("file", &status.database.path)];
    let (capture, paint) = match status.database.capture {
        Capture::Ok => (None, Paint::Plain),
        Capture::Unverified => (
            Some("not every change of it is proved to be noticed yet"),
            Paint::Warning,
        ),
        Capture::Broken => (Some("its changes are not noticed"), Paint::Bad),
    };
    let text = match (capture, &status.database.note) {
        (Some(capture), Some(note)) => format!("{capture}: {note}"),
        (Some(capture), None) => capture.to_owned(),
        (None, Some(note)) => note.clone(),
        (None, None) => return lines,
    };
    lines.push(Line::new("", text).paint(paint));
    lines
}

fn settings(status: &Status, _: Timestamp) -> Vec<Line> {
    let config = &status.config;
    let error = config
        .error
        .iter()
        .map(|text| Line::new("settings", text).paint(Paint::Warning));
    let note = config.note.iter().map(|text| Line::new("settings", text));
    error.chain(note).collect()
}

fn following(status: &Status, now: Timestamp) -> Vec<Line> {
    let ingest = &status.ingest;
    let Some(folder) = ingest.folder.as_ref().filter(|_| ingest.following) else {
        return Vec::new();
    };
    let mut text = format!(
        "{} in {folder}",
        counted(ingest.files, "transcript", "transcripts")
    );
    if ingest.files_unread > 0 {
        text.push_str(&format!(", {} still to be read", grouped(ingest.files_unread)));
    } else if let Some(at) = ingest.last_line_at {
        text.push_str(&format!(", the last line {} ago", age(now.duration_since(at))));
    }
    let mut lines = vec![Line::new("follows", text)];
    lines.extend(ingest.note.iter().map(|note| Line::new("", note)));
    lines.extend(
        ingest
            .error
            .iter()
            .map(|error| Line::new("", error).paint(Paint::Bad)),
    );
    lines
}

fn sent(status: &Status, now: Timestamp) -> Vec<Line> {
    let push = &status.push;
    vec![traffic(
        "sent",
        push.rows_total,
        "the last",
        push.last_success_at,
        now,
    )]
}

fn received(status: &Status, now: Timestamp) -> Vec<Line> {
    let pull = &status.pull;
    let mut line = traffic(
        "received",
        pull.rows_total,
        "last asked",
        pull.last_success_at,
        now,
    );
    if pull.cursor < pull.head {
        line.text.push_str(&format!(
            "; at {} of {}",
            grouped(pull.cursor.unsigned_abs()),
            grouped(pull.head.unsigned_abs())
        ));
    }
    vec![line]
}

fn traffic(label: &'static str, rows: u64, last: &str, at: Option<Timestamp>, now: Timestamp) -> Line {
    let text = match at {
        None => "nothing since the daemon started".to_owned(),
        Some(at) => format!(
            "{} since the daemon started, {last} {} ago",
            counted(rows, "row", "rows"),
            age(now.duration_since(at))
        ),
    };
    Line::new(label, text)
}

fn redacted(status: &Status, _: Timestamp) -> Vec<Line> {
    /// The most frequent kinds say what it is about.
    const KINDS_SHOWN: usize = 3;

    let redaction = &status.redaction;
    if redaction.rows == 0 {
        return Vec::new();
    }
    let mut kinds: Vec<(&String, &u64)> = redaction.kinds.iter().collect();
    kinds.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), *kind));
    let mut shown: Vec<String> = kinds
        .iter()
        .take(KINDS_SHOWN)
        .map(|(kind, count)| format!("{} {kind}", grouped(**count)))
        .collect();
    if kinds.len() > KINDS_SHOWN {
        shown.push("…".into());
    }
    let text = format!(
        "{} in {}: {}",
        counted(redaction.findings, "secret", "secrets"),
        counted(redaction.rows, "row", "rows"),
        shown.join(", ")
    );
    vec![Line::new("redacted", text)]
}

fn waiting(status: &Status, _: Timestamp) -> Vec<Line> {
    let outbox = &status.outbox;
    let mut lines = Vec::new();
    if outbox.pending > 0 {
        let oldest = SignedDuration::from_millis(i64::try_from(outbox.oldest_age_ms).unwrap_or(i64::MAX));
        let changes = counted(outbox.pending, "change", "changes");
        let text = format!("{changes} to send, the oldest for {}", age(oldest));
        lines.push(Line::new("waiting", text).paint(Paint::Warning));
    }
    let links = outbox.links_parked + outbox.links_waiting;
    if links > 0 {
        let count = counted(links, "link", "links");
        let text = format!("{count} of tasks to messages, until both ends are there");
        lines.push(Line::new("waiting", text));
    }
    lines
}

fn held(status: &Status, _: Timestamp) -> Vec<Line> {
    if status.outbox.held == 0 {
        return Vec::new();
    }
    let rows = counted(status.outbox.held, "row", "rows");
    let text = format!("{rows} from elsewhere, until your own change of the same row is settled");
    vec![Line::new("held", text).paint(Paint::Warning)]
}

fn excluded(status: &Status, _: Timestamp) -> Vec<Line> {
    if status.outbox.excluded == 0 {
        return Vec::new();
    }
    let rows = counted(status.outbox.excluded, "row", "rows");
    vec![Line::new(
        "private",
        format!("{rows} of excluded projects, only here (coditect-sync projects list)"),
    )]
}

fn refused(status: &Status, _: Timestamp) -> Vec<Line> {
    let total = status.outbox.quarantined;
    if total == 0 {
        return Vec::new();
    }
    let rows = counted(total, "row was", "rows were");
    let mut lines =
        vec![Line::new("refused", format!("{rows} set aside; the rest goes on without")).paint(Paint::Bad)];
    lines.extend(status.quarantine.iter().map(|note| {
        let text = format!(
            "#{} {} {}: {} ({})",
            note.id, note.table, note.row, note.message, note.code
        );
        Line::new("", text)
    }));
    let more = total.saturating_sub(status.quarantine.len() as u64);
    if more > 0 && !status.quarantine.is_empty() {
        lines.push(Line::new("", format!("and {} more", grouped(more))).paint(Paint::Faint));
    }
    lines
}

fn error(status: &Status, now: Timestamp) -> Vec<Line> {
    let Some(error) = &status.last_error else {
        return Vec::new();
    };
    let first = age(now.duration_since(error.at));
    let mut when = match error.count {
        0 | 1 => format!("{first} ago"),
        many => format!("{} times since {first} ago", grouped(many)),
    };
    if let Some(retry_at) = error.retry_at.filter(|at| *at > now) {
        when.push_str(&format!(", again in {}", age(retry_at.duration_since(now))));
    }
    vec![
        Line::new("trouble", &error.message).paint(Paint::Bad),
        Line::new("", format!("{}, {when}", error.code)).paint(Paint::Faint),
    ]
}

fn next(status: &Status, _: Timestamp) -> Vec<Line> {
    let step = status.next_step.iter().map(|step| Line::new("next", step));
    let label = if status.next_step.is_some() { "" } else { "next" };
    let command = status
        .next_command
        .iter()
        .map(|command| Line::command(label, command));
    step.chain(command).collect()
}

#[cfg(test)]
mod tests;
