use std::path::Path;

use super::super::{AccountStatus, LastError, QuarantineNote};
use super::*;

fn shown(status: &Status, now: Timestamp) -> String {
    render(status, now, &Screen::PIPE)
}

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
safe: everything written here is in the cloud (in sync for 3 min)

  account   a@acme.test (member of acme)
  server    https://sync.acme.test/
  device    d
  token     in the keyring
  file      /h/context.db
  sent      1,234 rows since the daemon started, the last 80 s ago
  received  nothing since the daemon started
";
    assert_eq!(shown(&in_sync(), at(180)), expected);
}

#[test]
fn every_state_has_a_title_of_its_own() {
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
        let text = shown(&Status { state, ..in_sync() }, at(1));
        let title = text.lines().next().unwrap().to_owned();
        assert!(!titles.contains(&title), "{title}");
        titles.push(title);
    }
}

#[test]
fn a_terminal_gets_colours_its_own_width_and_the_same_words() {
    let mut status = in_sync();
    status.next_step = Some("one step after the other, and so on and on".into());
    status.next_command = Some("coditect-sync --home /a/rather/long/path/to/it doctor".into());
    let narrow = Screen {
        width: Some(44),
        height: None,
        colours: true,
    };
    let text = render(&status, at(1), &narrow);
    assert!(text.starts_with("\x1b[32msafe:\x1b[0m everything"), "{text}");
    assert!(
        text.contains("\x1b[1mcoditect-sync --home /a/rather/long/path/to/it doctor\x1b[0m"),
        "{text}"
    );
    let plain = regex::Regex::new("\x1b\\[[0-9]*m")
        .unwrap()
        .replace_all(&text, "")
        .into_owned();
    let fits = |line: &str| line.chars().count() <= 44 || line.contains("coditect-sync");
    assert!(plain.lines().all(fits), "{plain}");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&plain), words(&shown(&status, at(1))));
}

#[test]
fn a_server_or_a_file_cannot_steer_the_terminal() {
    let mut status = in_sync();
    status.account.as_mut().unwrap().tenant = "acme\x1b[2J".into();
    assert!(!shown(&status, at(1)).contains('\x1b'));
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
    status.next_step = Some("look at what was refused".into());
    status.next_command = Some("coditect-sync quarantine list".into());
    let text = shown(&status, at(100));
    for expected in [
        "not every change of it is proved",
        "3 changes to send, the oldest for 11 min",
        "1 row from elsewhere",
        "2 links of tasks",
        "1 row was set aside",
        "#4 messages 17: content has 20,000,000 bytes (too_large)",
        "trouble   the server is not reachable: connection refused\n",
        "unreachable, 7 times since 3 s ago, again in 8 s",
        "not safe: 3 changes are only here (",
        "next      look at what was refused\n            coditect-sync quarantine list\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
    }
}

#[test]
fn p11_a_refused_row_is_not_called_safe() {
    let mut status = in_sync();
    status.outbox.quarantined = 1;
    assert!(shown(&status, at(0)).contains("but rows from elsewhere were refused"));
}

#[test]
fn insecure_storage_is_named() {
    let mut status = in_sync();
    status.account.as_mut().unwrap().credential_store = CredentialStore::File;
    assert!(shown(&status, at(0)).contains("insecure-storage"));
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

#[test]
fn rows_of_excluded_projects_are_named_and_the_rest_is_safe() {
    let mut status = in_sync();
    status.outbox.excluded = 3;
    let text = shown(&status, at(1));
    assert!(
        text.starts_with("safe: all but excluded projects is in the cloud"),
        "{text}"
    );
    assert!(
        text.contains("  private   3 rows of excluded projects, only here"),
        "{text}"
    );
}

#[test]
fn settings_that_do_not_hold_are_told() {
    let mut status = in_sync();
    status.config.error = Some("/h/config.toml, line 7: unknown key; the former settings hold".into());
    status.config.note = Some("context_db waits".into());
    let text = shown(&status, at(0));
    assert!(text.contains("settings  /h/config.toml, line 7"), "{text}");
    assert!(text.contains("settings  context_db waits"), "{text}");
}

#[test]
fn what_was_redacted_is_counted_in_one_line() {
    let mut status = in_sync();
    assert!(!shown(&status, at(1)).contains("redacted"));
    status.redaction.rows = 2;
    status.redaction.findings = 8;
    let kinds = [("a", 1), ("b", 4), ("c", 1), ("d", 2)];
    status.redaction.kinds = kinds.map(|(kind, count)| (kind.to_owned(), count)).into();
    let text = shown(&status, at(1));
    assert!(
        text.contains("  redacted  8 secrets in 2 rows: 4 b, 2 d, 1 a, …\n"),
        "{text}"
    );
}
