//! `status`: the daemon's own words, or what the files say where no daemon runs.

mod watch;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::daemon::Daemon;
use crate::account::Account;
use crate::cli::{self, Setup};
use crate::output::{self, Fault};
use crate::screen::{Paint, Screen};
use crate::status::{Line, counted, page, render};

pub(super) async fn run(args: &cli::Status, setup: &Setup) -> Result<(), Fault> {
    let daemon = Daemon::of(setup)?;
    let asked = match args.watch {
        true => watch::run(args.json, &daemon, setup).await,
        false => match daemon.status().await {
            Ok(status) if args.json => return output::json(&status),
            Ok(status) => {
                let screen = Screen::of_stdout();
                return output::raw(&render(&status, Timestamp::now(), &screen));
            }
            Err(fault) => Err(fault),
        },
    };
    if let (Err(Fault::NotReachable(_)), false) = (&asked, args.json) {
        output::raw(&without_daemon(setup, &Screen::of_stdout()))?;
    }
    asked
}

/// The daemon's state is not known; who is logged in is, and what waits in the file.
fn without_daemon(setup: &Setup, screen: &Screen) -> String {
    let path = &setup.paths.context_db;
    let waiting = match path.exists() {
        true => waiting(path).ok(),
        false => None,
    };
    let reason = match waiting {
        Some(0) => "the daemon is not running, so that nothing new is noticed to be sent".to_owned(),
        Some(rows) => format!(
            "the daemon is not running, and {} not sent",
            counted(rows, "change is", "changes are")
        ),
        None => "the daemon is not running".into(),
    };
    let mut lines = match Account::load(&setup.paths.account) {
        Ok(Some(account)) => vec![
            Line::new(
                "account",
                format!("{} ({} of {})", account.user, account.role, account.tenant),
            ),
            Line::new("server", account.server.as_str()),
        ],
        Ok(None) => vec![Line::new("account", "none: nobody is logged in")],
        Err(error) => vec![Line::new("account", format!("not known: {error:#}")).paint(Paint::Warning)],
    };
    lines.push(match (path.exists(), waiting) {
        (false, _) => Line::new("file", format!("{}, not there yet", path.display())),
        (true, Some(0)) => Line::new(
            "file",
            format!("{}, all that was noticed is sent", path.display()),
        ),
        (true, _) => Line::new(
            "file",
            format!("{}; what is written meanwhile waits in it", path.display()),
        ),
    });
    lines.push(Line::new("next", "start the daemon"));
    lines.push(Line::command("", setup.command("run")));
    page(
        &Line::new("", format!("not safe: {reason}")).paint(Paint::Bad),
        &lines,
        screen,
    )
}

/// Changes in the outbox. The triggers fill it without a daemon too.
fn waiting(context_db: &std::path::Path) -> rusqlite::Result<u64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let file = Connection::open_with_flags(context_db, flags)?;
    file.query_row("SELECT count(*) FROM sync_queue", [], |row| {
        row.get::<_, i64>(0).map(i64::unsigned_abs)
    })
}
