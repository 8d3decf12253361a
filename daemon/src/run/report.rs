//! How things stand, put together from the core and from what the files say.

use jiff::{SignedDuration, Timestamp};

use super::files::Facts;
use crate::account::Account;
use crate::paths::Paths;
use crate::status::{
    AccountStatus, Capture, DatabaseStatus, LastError, LicenseStatus, OutboxStatus, PullStatus, PushStatus,
    State, Status,
};
use crate::sync::{Core, Millis};

/// What has happened since the daemon started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub pushed: u64,
    pub pulled: u64,
    pub last_push: Option<Timestamp>,
    pub last_pull: Option<Timestamp>,
}

/// Where the parts of a status come from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub core: &'a Core,
    pub facts: Option<&'a Facts>,
    pub account: Option<&'a Account>,
    pub paths: &'a Paths,
    pub totals: &'a Totals,
}

/// The status now. `before` lends it the time at which an unchanged state began.
pub(super) fn status(sources: Sources<'_>, before: &Status, now: Timestamp, now_ms: Millis) -> Status {
    let Sources {
        core,
        facts,
        account,
        paths,
        totals,
    } = sources;
    let (state, view) = (core.state(), core.view());
    let unsafe_reason = unsafe_reason(core, facts, account.is_some());
    Status {
        state,
        since: if before.state == state { before.since } else { now },
        version: env!("CARGO_PKG_VERSION").into(),
        account: account
            .zip(facts)
            .map(|(account, facts)| AccountStatus::new(account, facts.device)),
        database: DatabaseStatus {
            path: paths.context_db.display().to_string(),
            capture: facts.map_or(Capture::Unverified, |facts| facts.capture),
            note: facts.and_then(|facts| facts.capture_note.clone()),
        },
        outbox: OutboxStatus {
            pending: view.pending,
            oldest_age_ms: facts.map_or(0, |facts| age_ms(facts, now)),
            quarantined: facts.map_or(0, |facts| facts.quarantined),
            held: view.held,
            links_parked: facts.map_or(0, |facts| facts.links_parked),
            links_waiting: facts.map_or(0, |facts| facts.links_waiting),
        },
        push: PushStatus {
            last_success_at: totals.last_push,
            rows_total: totals.pushed,
        },
        pull: PullStatus {
            cursor: view.cursor,
            head: core.head(),
            last_success_at: totals.last_pull,
            rows_total: totals.pulled,
        },
        license: LicenseStatus::default(),
        last_error: core.complaint().map(|complaint| LastError {
            code: complaint.code.clone(),
            message: complaint.message.clone(),
            // The same trouble again keeps the time at which it was first met.
            at: match &before.last_error {
                Some(last) if last.code == complaint.code => last.at,
                Some(_) | None => now,
            },
            count: complaint.count,
            retry_at: complaint.retry_at.map(|at| later(now, at.saturating_sub(now_ms))),
        }),
        safe_to_power_off: unsafe_reason.is_none(),
        unsafe_reason,
        next_step: next_step(state, core, facts),
        quarantine: facts.map(|facts| facts.notes.clone()).unwrap_or_default(),
    }
}

fn unsafe_reason(core: &Core, facts: Option<&Facts>, logged_in: bool) -> Option<String> {
    let view = core.view();
    let Some(facts) = facts else {
        return Some("context.db has not been looked at".into());
    };
    if !logged_in {
        return Some("nobody is logged in, so that nothing has a copy elsewhere".into());
    }
    if facts.capture != Capture::Ok {
        return Some("it is not known yet whether every change was noticed".into());
    }
    if view.pending > 0 || view.in_flight > 0 {
        let rows = view
            .pending
            .max(u64::try_from(view.in_flight).unwrap_or(u64::MAX));
        return Some(match rows {
            1 => "1 change is not in the cloud yet".into(),
            rows => format!("{rows} changes are not in the cloud yet"),
        });
    }
    if facts.refused > 0 {
        return Some(format!(
            "{} of this file's rows were refused and are only here",
            facts.refused
        ));
    }
    None
}

fn next_step(state: State, core: &Core, facts: Option<&Facts>) -> Option<String> {
    let code = core.complaint().map(|complaint| complaint.code.as_str());
    match state {
        State::NeedsLogin => {
            Some("run `coditect-sync login --server URL`; until then changes are queued here".into())
        }
        State::Paused => Some("run `coditect-sync resume`; until then changes are queued here".into()),
        State::Offline => {
            Some("nothing: it goes on by itself once the server answers; changes are queued here".into())
        }
        State::ReadOnly => {
            Some("ask an owner or admin of the tenant for the role member, which may push".into())
        }
        State::Blocked => Some(match code {
            Some("disk_full") => "free some disk space; it then goes on by itself".into(),
            Some("database_locked") => {
                "end the program that keeps context.db locked; it then goes on by itself".into()
            }
            Some(_) | None => {
                "run `coditect-sync doctor`, which names what is wrong and how to mend it".into()
            }
        }),
        State::Starting | State::Syncing | State::InSync => facts
            .filter(|facts| facts.quarantined > 0)
            .map(|_| "run `coditect-sync quarantine list`: some rows were refused".into()),
    }
}

/// `queued_at` is SQLite's CURRENT_TIMESTAMP: UTC, in whole seconds.
fn age_ms(facts: &Facts, now: Timestamp) -> u64 {
    let Some(text) = &facts.oldest_queued_at else {
        return 0;
    };
    let queued: Option<Timestamp> = format!("{}Z", text.replacen(' ', "T", 1)).parse().ok();
    queued.map_or(0, |queued| {
        u64::try_from(now.duration_since(queued).as_millis()).unwrap_or(0)
    })
}

fn later(now: Timestamp, ms: Millis) -> Timestamp {
    now.saturating_add(SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
        .unwrap_or(now)
}
