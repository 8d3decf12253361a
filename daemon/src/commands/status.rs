//! `status`: the daemon's own words, or what the files say where no daemon runs.

use std::io::IsTerminal;

use jiff::Timestamp;

use super::daemon::Daemon;
use crate::account::Account;
use crate::cli::{self, Setup};
use crate::output::{self, Fault};
use crate::status::{Status, render};

/// Clears the screen and goes to its upper left corner.
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

pub(super) async fn run(args: &cli::Status, setup: &Setup) -> Result<(), Fault> {
    let daemon = Daemon::of(setup)?;
    let asked = match args.watch {
        true => daemon.watch(|status| show(&status, args)).await,
        false => match daemon.status().await {
            Ok(status) => return show(&status, args),
            Err(fault) => Err(fault),
        },
    };
    if let (Err(Fault::NotReachable(_)), false) = (&asked, args.json) {
        output::text(&without_daemon(setup))?;
    }
    asked
}

fn show(status: &Status, args: &cli::Status) -> Result<(), Fault> {
    if args.json {
        return output::json(status);
    }
    let mut text = render(status, Timestamp::now());
    if args.watch {
        if std::io::stdout().is_terminal() {
            output::raw(CLEAR_SCREEN)?;
        } else {
            text.push('\n');
        }
    }
    output::text(&text)
}

/// The daemon's state is not known; who is logged in is.
fn without_daemon(setup: &Setup) -> String {
    let account = match Account::load(&setup.paths.account) {
        Ok(Some(account)) => {
            format!(
                "{}, {} of {}, at {}",
                account.user, account.role, account.tenant, account.server
            )
        }
        Ok(None) => "none: nobody is logged in".into(),
        Err(error) => format!("not known: {error:#}"),
    };
    let path = &setup.paths.context_db;
    let file = match path.exists() {
        true => format!("{}; what is written meanwhile waits in it", path.display()),
        false => format!("{}, not there yet", path.display()),
    };
    format!("the daemon is not running\n\n  account   {account}\n  file      {file}\n")
}
