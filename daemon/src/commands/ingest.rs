//! `ingest`: transcripts into context.db, with a progress bar where somebody looks at one.

use std::io::IsTerminal;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::block_on;
use crate::cli::{self, Setup};
use crate::ingest::{Follower, Progress, Report, Told};
use crate::output::{self, Fault, remark};
use crate::status::{counted, grouped};

/// Damaged parts and unreadable files that are told one by one; `--json` has more.
const DAMAGE_SHOWN_MAX: usize = 10;

pub(super) fn run(args: cli::Ingest, setup: &Setup) -> Result<(), Fault> {
    setup.paths.make_folders()?;
    if !args.follow {
        let report = once(&args, setup)?;
        return show(&report, args.json);
    }
    let mut follower = Follower::open(&setup.paths.context_db, args.paths)?;
    let json = args.json;
    let first = with_progress(|progress| follower.catch_up(progress))?;
    show(&first, json)?;
    remark("following; Ctrl-C ends it");
    block_on(follow(follower, json))
}

fn once(args: &cli::Ingest, setup: &Setup) -> anyhow::Result<Report> {
    with_progress(|progress| {
        crate::ingest::ingest(crate::ingest::Options {
            context_db: &setup.paths.context_db,
            paths: &args.paths,
            progress,
        })
    })
}

fn with_progress(
    work: impl FnOnce(&mut dyn FnMut(Progress)) -> anyhow::Result<Report>,
) -> anyhow::Result<Report> {
    if !std::io::stderr().is_terminal() {
        return work(&mut |_| {});
    }
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {eta}")
        .expect("the template is well-formed")
        .progress_chars("=> ");
    let bar = ProgressBar::new(0).with_style(style);
    let result = work(&mut |now: Progress| {
        bar.set_length(now.bytes_total);
        bar.set_position(now.bytes_done);
        bar.set_message(format!(
            "{} of {} files",
            grouped(now.files_done),
            grouped(now.files_total)
        ));
    });
    bar.finish_and_clear();
    result
}

/// Until SIGINT or SIGTERM.
async fn follow(mut follower: Follower, json: bool) -> Result<(), Fault> {
    let stopper = follower.stopper();
    let mut interrupted = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let stop_itself = stopper.clone();
    let mut following = tokio::task::spawn_blocking(move || {
        let mut told = Ok(());
        follower.follow(&mut |what| {
            match what {
                Told::Round(report) if report.wrote() && told.is_ok() => told = show(report, json),
                Told::Trouble(error) => remark(&format!("{error:#}; trying again")),
                Told::Round(_) | Told::Progress(_) | Told::Found { .. } | Told::Watching { .. } => {}
            }
            if told.is_err() {
                stop_itself.stop();
            }
        });
        told
    });
    loop {
        tokio::select! {
            ended = &mut following => return ended.context("following transcripts")?,
            _ = interrupted.recv() => stopper.stop(),
            _ = terminated.recv() => stopper.stop(),
        }
    }
}

fn show(report: &Report, json: bool) -> Result<(), Fault> {
    match json {
        true => output::json(report),
        false => output::text(&summary(report)),
    }
}

fn summary(report: &Report) -> String {
    let mut text = format!(
        "read {} of {}: {}\n",
        counted(report.files, "transcript", "transcripts"),
        counted(report.sessions, "session", "sessions"),
        counted(report.records, "record", "records")
    );
    let mut row = |name: &str, seen: u64, new: u64, changed: Option<u64>| {
        let changed = changed
            .map(|count| format!(", {} changed", grouped(count)))
            .unwrap_or_default();
        text.push_str(&format!(
            "  {name:<9} {:>9}, {} new{changed}\n",
            grouped(seen),
            grouped(new)
        ));
    };
    row("messages", report.messages.seen, report.messages.inserted, None);
    row(
        "tasks",
        report.tasks.seen,
        report.tasks.inserted,
        Some(report.tasks.updated),
    );
    row("links", report.links.seen, report.links.inserted, None);
    if report.damaged_total > 0 {
        let parts = counted(report.damaged_total, "damaged part was", "damaged parts were");
        text.push_str(&format!("  {parts} passed over or mended; the rest was read\n"));
    }
    for part in report.damaged.iter().take(DAMAGE_SHOWN_MAX) {
        text.push_str(&format!(
            "    {} at byte {}, {} bytes: {}\n",
            part.file, part.offset, part.bytes, part.reason
        ));
    }
    for unreadable in report.unreadable.iter().take(DAMAGE_SHOWN_MAX) {
        text.push_str(&format!(
            "  could not be read: {}: {}\n",
            unreadable.file, unreadable.reason
        ));
    }
    text
}
