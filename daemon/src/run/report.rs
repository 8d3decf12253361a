//! How things stand, put together from the core and from what the files say.

use jiff::{SignedDuration, Timestamp};

use super::files::Facts;
use super::following::Following;
use super::settings::Settings;
use crate::account::Account;
use crate::paths::Paths;
use crate::status::{
    self, AccountStatus, Capture, DatabaseStatus, LastError, LicenseStatus, OutboxStatus, PullStatus,
    PushStatus, Situation, Status, counted, grouped,
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
    pub settings: &'a Settings,
    pub following: &'a Following,
    pub totals: &'a Totals,
}

/// The status now. `before` lends it the time at which an unchanged state began.
pub(super) fn report(sources: Sources<'_>, before: &Status, now: Timestamp, now_ms: Millis) -> Status {
    let Sources {
        core,
        facts,
        account,
        paths,
        settings,
        following,
        totals,
    } = sources;
    let (state, view) = (core.state(), core.view());
    let unsafe_reason = unsafe_reason(core, facts, account.is_some());
    let next = status::next(Situation {
        state,
        code: core.complaint().map(|complaint| complaint.code.as_str()),
        quarantined: facts.map_or(0, |facts| facts.quarantined),
        server: account.map(|account| &account.server),
        paths,
    });
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
            excluded: facts.map_or(0, |facts| facts.excluded),
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
        redaction: facts.map(|facts| facts.redacted.clone()).unwrap_or_default(),
        license: LicenseStatus::default(),
        config: settings.status().clone(),
        ingest: following.status(),
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
        next_step: next.as_ref().map(|next| next.step.clone()),
        next_command: next.and_then(|next| next.command),
        quarantine: facts.map(|facts| facts.notes.clone()).unwrap_or_default(),
    }
}

fn unsafe_reason(core: &Core, facts: Option<&Facts>, logged_in: bool) -> Option<String> {
    let view = core.view();
    let Some(facts) = facts else {
        return Some("context.db has not been looked at".into());
    };
    if !logged_in {
        return Some(match (view.pending, view.epoch) {
            (0, 0) => "nobody is logged in, so that nothing of this file has a copy elsewhere".into(),
            (0, _) => {
                "nobody is logged in, so that what is written from now on gets no copy elsewhere".into()
            }
            (1, _) => "nobody is logged in, and 1 change is only here".into(),
            (rows, _) => format!("nobody is logged in, and {} changes are only here", grouped(rows)),
        });
    }
    if facts.capture != Capture::Ok {
        return Some("it is not known yet whether every change was noticed".into());
    }
    if core
        .complaint()
        .is_some_and(|complaint| complaint.code == status::SETTINGS_GONE)
    {
        return Some("nothing is sent, since config.toml is gone".into());
    }
    if view.pending > 0 || view.in_flight > 0 {
        let rows = view
            .pending
            .max(u64::try_from(view.in_flight).unwrap_or(u64::MAX));
        return Some(match rows {
            1 => "1 change is not in the cloud yet".into(),
            rows => format!("{} changes are not in the cloud yet", grouped(rows)),
        });
    }
    if facts.refused > 0 {
        let rows = counted(facts.refused, "row of this file was", "rows of this file were");
        return Some(format!(
            "{rows} refused, and only here; everything else is in the cloud"
        ));
    }
    None
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
