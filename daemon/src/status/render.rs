//! A status for people: whose file it is, what is safe, what is not and why, and what to do next.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::{Capture, State, Status};
use crate::credential::CredentialStore;

/// The text of `coditect-sync status`, several lines with a line end each. `now` tells ages.
pub fn render(status: &Status, now: Timestamp) -> String {
    let mut page = Page::default();
    page.title(status, now);
    page.account(status);
    page.file(status);
    page.traffic(status, now);
    page.trouble(status, now);
    page.verdict(status);
    page.text
}

/// What the user can do, in the words of the daemon or else by the state.
pub fn next_step(status: &Status) -> Option<String> {
    if status.next_step.is_some() {
        return status.next_step.clone();
    }
    let by_state = match status.state {
        State::NeedsLogin => "log in: coditect-sync login --server URL",
        State::Paused => "coditect-sync resume goes on",
        State::Offline => "nothing: it goes on by itself when the server can be reached",
        State::ReadOnly => "make room on the disk, or make the file writable; it goes on by itself",
        State::Blocked => "coditect-sync doctor looks for the cause",
        State::Starting | State::Syncing | State::InSync => {
            let refused = status.outbox.quarantined > 0;
            return refused.then(|| "coditect-sync quarantine list shows what was refused and why".into());
        }
    };
    Some(by_state.into())
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

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn title(&mut self, status: &Status, now: Timestamp) {
        let state = match status.state {
            State::Starting => "starting",
            State::NeedsLogin => "nobody is logged in",
            State::Syncing => "syncing",
            State::InSync => "in sync",
            State::Offline => "offline",
            State::Paused => "paused",
            State::ReadOnly => "the file cannot be written",
            State::Blocked => "blocked",
        };
        let span = now.duration_since(status.since);
        let since = match span.as_secs() {
            ..2 => "just now".to_owned(),
            2.. => format!("for {}", age(span)),
        };
        self.raw(&format!("{state}, {since}  (coditect-sync {})", status.version));
        self.raw("");
    }

    fn account(&mut self, status: &Status) {
        let Some(account) = &status.account else {
            return self.line("account", "none");
        };
        let store = match account.credential_store {
            CredentialStore::Keyring => "the token is in the keyring",
            CredentialStore::File => "the token is in a file (insecure storage)",
        };
        self.line(
            "account",
            &format!(
                "{}, {} of {}, at {}",
                account.user, account.role, account.tenant, account.server
            ),
        );
        self.line("", &format!("device {}; {store}", account.device_id));
    }

    fn file(&mut self, status: &Status) {
        self.line("file", &status.database.path);
        let capture = match status.database.capture {
            Capture::Ok => None,
            Capture::Unverified => Some("not every change of it is proved to be noticed yet"),
            Capture::Broken => Some("its changes are not noticed"),
        };
        match (capture, &status.database.note) {
            (Some(capture), Some(note)) => self.line("", &format!("{capture}: {note}")),
            (Some(capture), None) => self.line("", capture),
            (None, Some(note)) => self.line("", note),
            (None, None) => {}
        }
    }

    fn traffic(&mut self, status: &Status, now: Timestamp) {
        let last = |at: Option<Timestamp>| match at {
            Some(at) => format!("last {} ago", age(now.duration_since(at))),
            None => "none since the start".into(),
        };
        let rows = |count| counted(count, "row", "rows");
        let sent = format!(
            "{}, {}",
            rows(status.push.rows_total),
            last(status.push.last_success_at)
        );
        self.line("sent", &sent);
        let place = match status.pull.cursor.cmp(&status.pull.head) {
            std::cmp::Ordering::Less => format!("at {} of {}", status.pull.cursor, status.pull.head),
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => {
                format!("at {}, the head", status.pull.cursor)
            }
        };
        let received = format!(
            "{}, {}; {place}",
            rows(status.pull.rows_total),
            last(status.pull.last_success_at)
        );
        self.line("received", &received);
    }

    fn trouble(&mut self, status: &Status, now: Timestamp) {
        let outbox = &status.outbox;
        if outbox.pending > 0 {
            let oldest = age(SignedDuration::from_millis(
                i64::try_from(outbox.oldest_age_ms).unwrap_or(i64::MAX),
            ));
            let changes = counted(outbox.pending, "change", "changes");
            self.line("waiting", &format!("{changes} to send, the oldest for {oldest}"));
        }
        if outbox.held > 0 {
            let rows = counted(outbox.held, "row", "rows");
            self.line(
                "held",
                &format!("{rows} from elsewhere, until your own change of the same row is settled"),
            );
        }
        let links = outbox.links_parked + outbox.links_waiting;
        if links > 0 {
            let count = counted(links, "link", "links");
            self.line(
                "links",
                &format!("{count} of tasks to messages wait for one of their ends"),
            );
        }
        if outbox.quarantined > 0 {
            let rows = counted(outbox.quarantined, "row was", "rows were");
            self.line("refused", &format!("{rows} refused; the rest goes on without"));
            for note in &status.quarantine {
                let text = format!(
                    "#{} {} {}: {} ({})",
                    note.id, note.table, note.row, note.message, note.code
                );
                self.line("", &text);
            }
        }
        if let Some(error) = &status.last_error {
            let mut when = match error.count {
                0 | 1 => format!("{} ago", age(now.duration_since(error.at))),
                many => format!(
                    "{} times, last {} ago",
                    grouped(many),
                    age(now.duration_since(error.at))
                ),
            };
            if let Some(retry_at) = error.retry_at.filter(|at| *at > now) {
                let _ = write!(when, ", again in {}", age(retry_at.duration_since(now)));
            }
            self.line("error", &format!("{} ({}; {when})", error.message, error.code));
        }
    }

    fn verdict(&mut self, status: &Status) {
        match (status.safe_to_power_off, &status.unsafe_reason) {
            (true, _) if status.outbox.quarantined > 0 => {
                self.line(
                    "safe",
                    "yes, but for what was refused: everything else that was written here is in the cloud",
                );
            }
            (true, _) => self.line("safe", "yes: everything that was written here is in the cloud"),
            (false, Some(reason)) => self.line("safe", &format!("no: {reason}")),
            (false, None) => self.line("safe", "no: not everything that was written here is in the cloud"),
        }
        if let Some(step) = next_step(status) {
            self.line("next", &step);
        }
    }

    fn line(&mut self, label: &str, text: &str) {
        self.raw(format!("  {label:<9} {text}").trim_end());
    }

    fn raw(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{AccountStatus, LastError, QuarantineNote};
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).unwrap()
    }

    fn in_sync() -> Status {
        let mut status = Status::starting(Path::new("/h/context.db"), at(0));
        status.state = State::InSync;
        status.account = Some(AccountStatus {
            server: "https://sync.acme.test/".into(),
            tenant_id: "t".into(),
            tenant: "acme".into(),
            user: "a@acme.test".into(),
            role: "member".into(),
            device_id: "d".into(),
            credential_store: CredentialStore::Keyring,
        });
        status.database.capture = Capture::Ok;
        status.safe_to_power_off = true;
        status.unsafe_reason = None;
        status.push.rows_total = 1234;
        status.push.last_success_at = Some(at(100));
        status.pull.cursor = 12;
        status.pull.head = 12;
        status
    }

    #[test]
    fn in_sync_reads_at_a_glance() {
        let expected = "\
in sync, for 3 min  (coditect-sync 0.1.0)

  account   a@acme.test, member of acme, at https://sync.acme.test/
            device d; the token is in the keyring
  file      /h/context.db
  sent      1,234 rows, last 80 s ago
  received  0 rows, none since the start; at 12, the head
  safe      yes: everything that was written here is in the cloud
";
        assert_eq!(render(&in_sync(), at(180)), expected);
    }

    #[test]
    fn every_state_has_a_title_of_its_own_and_trouble_has_a_next_step() {
        let mut titles = Vec::new();
        for state in [
            State::Starting,
            State::NeedsLogin,
            State::Syncing,
            State::InSync,
            State::Offline,
            State::Paused,
            State::ReadOnly,
            State::Blocked,
        ] {
            let text = render(&Status { state, ..in_sync() }, at(1));
            let title = text.lines().next().unwrap().to_owned();
            assert!(!titles.contains(&title), "{title}");
            titles.push(title);
            let calm = matches!(state, State::Starting | State::Syncing | State::InSync);
            assert_eq!(text.contains("\n  next "), !calm, "{text}");
        }
    }

    #[test]
    fn p11_whatever_is_not_safe_is_shown_whatever_the_state_says() {
        let mut status = in_sync();
        status.safe_to_power_off = false;
        status.unsafe_reason = Some("3 changes are only here".into());
        status.database.capture = Capture::Unverified;
        status.outbox.pending = 3;
        status.outbox.oldest_age_ms = 660_000;
        status.outbox.held = 1;
        status.outbox.links_waiting = 2;
        status.outbox.quarantined = 1;
        status.quarantine = vec![QuarantineNote {
            id: 4,
            table: "messages".into(),
            row: "17".into(),
            code: "too_large".into(),
            message: "content has 20,000,000 bytes".into(),
        }];
        status.last_error = Some(LastError {
            code: "unreachable".into(),
            message: "the server is not reachable: connection refused".into(),
            at: at(97),
            count: 7,
            retry_at: Some(at(108)),
        });
        let text = render(&status, at(100));
        for expected in [
            "not every change of it is proved",
            "3 changes to send, the oldest for 11 min",
            "1 row from elsewhere",
            "2 links of tasks",
            "1 row was refused",
            "#4 messages 17: content has 20,000,000 bytes (too_large)",
            "connection refused (unreachable; 7 times, last 3 s ago, again in 8 s)",
            "safe      no: 3 changes are only here",
            "next      coditect-sync quarantine list",
        ] {
            assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
        }
    }

    #[test]
    fn p11_a_refused_row_is_not_called_safe() {
        let mut status = in_sync();
        status.outbox.quarantined = 1;
        assert!(render(&status, at(0)).contains("safe      yes, but for what was refused"));
    }

    #[test]
    fn insecure_storage_is_named() {
        let mut status = in_sync();
        status.account.as_mut().unwrap().credential_store = CredentialStore::File;
        assert!(render(&status, at(0)).contains("insecure storage"));
    }

    #[test]
    fn numbers_and_ages_read_easily() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        let ages = [-5, 5, 119, 120, 7_199, 7_200, 172_800].map(|secs| age(SignedDuration::from_secs(secs)));
        assert_eq!(ages, ["0 s", "5 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }

    #[test]
    fn the_json_is_the_contracts() {
        let json = serde_json::to_value(in_sync()).unwrap();
        assert_eq!(json["state"], "in_sync");
        assert_eq!(json["since"], "2027-01-15T08:00:00Z");
        assert_eq!(json["account"]["credential_store"], "keyring");
        assert_eq!(json["database"]["capture"], "ok");
        assert_eq!(json["license"]["state"], "none");
        for (group, names) in [
            ("outbox", &["pending", "oldest_age_ms", "quarantined", "held"][..]),
            ("push", &["last_success_at", "rows_total"]),
            ("pull", &["cursor", "head", "last_success_at", "rows_total"]),
            ("license", &["session_id", "expires_at"]),
        ] {
            for name in names {
                assert!(json[group].get(name).is_some(), "{group}.{name}");
            }
        }
        assert!(json["last_error"].is_null());
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), in_sync());
    }
}
