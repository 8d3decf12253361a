//! `service`: the daemon in the background, from now on and after each login.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::consent;
use crate::cli::{Service, ServiceInstall, Setup};
use crate::config::{Given, Overrides};
use crate::output::{self, Fault};
use crate::paths::{Paths, Platform};
use crate::service::{Change, Live, Manager, Order, Standing};

/// How long a start is waited for. It takes milliseconds, or as long as the file cannot be opened.
const START_WAIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) fn run(what: &Service, setup: &Setup) -> Result<(), Fault> {
    let manager = Manager::of_this_system();
    match what {
        Service::Install(args) => install(manager, args, setup),
        Service::Uninstall(args) => uninstall(manager, args.json, setup),
        Service::Status(args) => status(manager, args.json, setup),
    }
}

fn install(manager: Manager, args: &ServiceInstall, setup: &Setup) -> Result<(), Fault> {
    refuse_what_it_would_not_have(setup)?;
    let order = order(setup)?;
    let change = manager.write(&order)?;
    let unit = manager.unit_path()?;
    let mut told = match change {
        Change::Written => format!("installed: {}\n", unit.display()),
        Change::Replaced => format!("replaced, since it was another: {}\n", unit.display()),
        Change::Unchanged => format!("installed already: {}\n", unit.display()),
    };
    if args.no_start {
        let again = setup.command("service install");
        told.push_str(&format!("not started; `{again}` does that\n"));
        return match args.json {
            true => output::json(&json!({"change": change, "service": manager.standing(&order.program)?})),
            false => output::text(&told),
        };
    }
    if let Err(error) = manager.refuse_if_absent() {
        return Err(Fault::Failed(error.context(format!(
            "{} is written, but the service could not be started; once that is mended run `{}` again, and until then \
             `{}` in a terminal does the work",
            unit.display(),
            setup.command("service install"),
            setup.command("run"),
        ))));
    }
    let ran_before = manager.live()?.is_running;
    manager.start(change)?;
    let live = wait_until_up(manager)?;
    if !live.is_running {
        let says = live.says.map(|says| format!(": {says}")).unwrap_or_default();
        return Err(Fault::failed(format!(
            "the service is installed, but not up (it is {}{says}); {}",
            live.state,
            manager.log_tail(&order)
        )));
    }
    if args.json {
        return output::json(&json!({"change": change, "service": manager.standing(&order.program)?}));
    }
    told.push_str(match (ran_before, change) {
        (true, Change::Unchanged) => "it runs, and goes on undisturbed\n",
        (true, Change::Written | Change::Replaced) => "it was started again, and runs\n",
        (false, _) => "it was started, and runs now and after each login\n",
    });
    told.push_str(&describe(&live));
    told.push_str(linger_hint(&manager.standing(&order.program)?));
    output::text(&told)
}

/// The service has neither this shell's variables nor the options of this call, and must not send more than they say.
fn refuse_what_it_would_not_have(setup: &Setup) -> Result<(), Fault> {
    let said = consent::said_only_here(setup)?;
    if said.is_empty() {
        return Ok(());
    }
    let mut text = "nothing was installed: the service would go without what is said only here of what may leave; say it \
                    in the file, and leave it away here:"
        .to_owned();
    for (by, command) in said {
        let _ = write!(text, "\n  {by}: {command}");
    }
    Err(Fault::Usage(text))
}

fn wait_until_up(manager: Manager) -> anyhow::Result<Live> {
    let begun = Instant::now();
    loop {
        let live = manager.live()?;
        if live.is_running || live.is_failing || begun.elapsed() > START_WAIT {
            return Ok(live);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn uninstall(manager: Manager, json: bool, setup: &Setup) -> Result<(), Fault> {
    let reachable = manager.refuse_if_absent();
    let ours = manager.unit_path()?;
    let used = match reachable {
        Ok(()) => manager.live()?.unit,
        Err(_) => None,
    };
    let known = ours.exists() || used.is_some();
    if reachable.is_ok() && known {
        manager.stop()?;
    }
    let removed = manager.remove()?;
    // It stays, but starts nothing any more.
    let packaged = used.filter(|used| *used != ours);
    let paths = &setup.paths;
    let kept: Vec<&PathBuf> = [
        &paths.context_db,
        &paths.state_db,
        &paths.config,
        &paths.account,
        &paths.credentials,
    ]
    .into_iter()
    .filter(|path| path.exists())
    .collect();
    if json {
        return output::json(&json!({"removed": removed, "stopped": packaged, "kept": kept}));
    }
    let mut text = match (removed, &packaged) {
        (true, _) => "the service is stopped and removed\n".to_owned(),
        (false, Some(unit)) => format!(
            "the service is stopped, and starts no more by itself; its file {} belongs to a package\n",
            unit.display()
        ),
        (false, None) => "no service is installed\n".to_owned(),
    };
    if let (true, Err(error)) = (removed, reachable) {
        let _ = writeln!(
            text,
            "a daemon that still runs goes on until it is stopped by hand: {error:#}"
        );
    }
    if !kept.is_empty() {
        text.push_str("kept, all of your data:\n");
        for path in kept {
            let _ = writeln!(text, "  {}", path.display());
        }
    }
    output::text(&text)
}

fn status(manager: Manager, json: bool, setup: &Setup) -> Result<(), Fault> {
    let standing = manager.standing(&order(setup)?.program)?;
    if json {
        output::json(&standing)?;
    } else {
        output::text(&table(&standing))?;
    }
    match &standing.live {
        None => Err(Fault::NotReachable(
            standing
                .trouble
                .unwrap_or_else(|| "the service manager does not answer".into()),
        )),
        Some(live) if live.is_running => Ok(()),
        Some(_) if standing.installed => Err(Fault::failed("the service does not run")),
        Some(_) => Err(Fault::failed(format!(
            "the service is not installed: run `{}`",
            setup.command("service install")
        ))),
    }
}

fn table(standing: &Standing) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let there = if standing.installed { "" } else { ", not there" };
    line("unit", &format!("{}{there}", standing.unit.display()));
    if let (Some(program), Some(is_this)) = (&standing.program, standing.is_this_program) {
        let note = match is_this {
            true => "this one",
            false => "another than this one; `service install` changes that",
        };
        line("program", &format!("{} ({note})", program.display()));
    }
    if let Some(live) = &standing.live {
        line("at login", if live.enabled { "started" } else { "not started" });
        let since = live
            .since
            .as_deref()
            .map(|since| format!(" since {since}"))
            .unwrap_or_default();
        let pid = live.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
        line("state", &format!("{}{since}{pid}", live.state));
        if let Some(says) = &live.says {
            line("says", says);
        }
    }
    if standing.installed {
        text.push_str(linger_hint(standing));
    }
    text
}

fn describe(live: &Live) -> String {
    let pid = live.pid.map(|pid| format!("process {pid}"));
    let parts: Vec<String> = pid.into_iter().chain(live.says.clone()).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("{}\n", parts.join(": ")),
    }
}

fn linger_hint(standing: &Standing) -> &'static str {
    match standing.linger {
        Some(false) => {
            "it stops when you log out; `loginctl enable-linger` keeps it running, also from the start of the machine on\n"
        }
        Some(true) | None => "",
    }
}

/// This program, for the same workstation as this call.
fn order(setup: &Setup) -> anyhow::Result<Order> {
    let program = std::env::current_exe()
        .and_then(std::fs::canonicalize)
        .context("finding this program's own file")?;
    let paths = &setup.paths;
    let nothing_named = Overrides::new(std::iter::empty::<(OsString, OsString)>(), &Given::default())?;
    let of_file = nothing_named.over_file(&paths.config)?.config;
    let unnamed =
        Paths::resolve(paths.home.as_deref(), &Platform::of_this_machine()?)?.with_context_db(&of_file)?;
    Ok(Order {
        program,
        home: paths.home.clone(),
        // What the configuration says it goes on to say; only what was named for this call has to be named again.
        context_db: (unnamed.context_db != paths.context_db).then(|| paths.context_db.clone()),
        log: paths.log_dir.join("coditect-sync.log"),
    })
}
