//! systemd: a unit of the user's own manager.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Context as _;

use super::{Change, Live, Order, run, text_of};

const UNIT: &str = "coditect-sync.service";

/// The unit as it is packaged, and the line in it that is replaced.
const TEMPLATE: &str = include_str!("../../../packaging/systemd/user/coditect-sync.service");
const TEMPLATE_START: &str = "ExecStart=%h/.local/bin/coditect-sync run\n";

/// Lines of the log that an error shows.
const LOG_LINES: &str = "12";

/// `$XDG_CONFIG_HOME/systemd/user/coditect-sync.service`.
pub(super) fn unit_path() -> anyhow::Result<PathBuf> {
    let dirs = directories::BaseDirs::new().context("this user has no home directory: set HOME")?;
    Ok(dirs.config_dir().join("systemd/user").join(UNIT))
}

pub(super) fn render(order: &Order) -> anyhow::Result<String> {
    let mut start = format!("ExecStart={}", quoted(text_of(&order.program)?, Place::Program));
    let places = [("--home", &order.home), ("--context-db", &order.context_db)];
    for (flag, path) in places {
        if let Some(path) = path {
            start.push_str(&format!(" {flag} {}", quoted(text_of(path)?, Place::Argument)));
        }
    }
    start.push_str(" run\n");
    Ok(TEMPLATE.replace(TEMPLATE_START, &start))
}

/// The program that a unit starts.
pub(super) fn program_of(unit: &str) -> Option<PathBuf> {
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
    let word = match command.strip_prefix('"') {
        None => command.split(' ').next()?.to_owned(),
        Some(rest) => {
            let mut word = String::new();
            let mut chars = rest.chars();
            loop {
                match chars.next()? {
                    '"' => break word,
                    '\\' => word.push(chars.next()?),
                    plain => word.push(plain),
                }
            }
        }
    };
    Some(PathBuf::from(word.replace("%%", "%")))
}

pub(super) fn refuse_if_absent() -> anyhow::Result<()> {
    systemctl(&["show", "--property=Version"]).map(drop).with_context(|| {
        "no systemd manager of this user runs here (it starts with a login session; for a user without one: \
         `sudo loginctl enable-linger USER`)"
    })
}

pub(super) fn start(change: Change) -> anyhow::Result<()> {
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", UNIT])?;
    let live = live()?;
    if live.is_running && change == Change::Unchanged {
        return Ok(());
    }
    // One that failed too often would not be started again before its time has passed. Of one that has not failed there
    // is nothing to reset.
    let _ = systemctl(&["reset-failed", UNIT]);
    // Not waited for: while context.db cannot be opened it goes on starting.
    systemctl(&["restart", "--no-block", UNIT]).map(drop)
}

pub(super) fn stop() -> anyhow::Result<()> {
    systemctl(&["disable", "--now", UNIT]).map(drop)
}

/// After the file has gone.
pub(super) fn forget() -> anyhow::Result<()> {
    // Left behind where no manager runs that could be told to disable it.
    let wanted = unit_path()?.with_file_name("default.target.wants").join(UNIT);
    match std::fs::remove_file(&wanted) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", wanted.display()));
        }
        Ok(()) | Err(_) => {}
    }
    if refuse_if_absent().is_ok() {
        systemctl(&["daemon-reload"])?;
        // Else a unit that failed would still be listed.
        let _ = systemctl(&["reset-failed", UNIT]);
    }
    Ok(())
}

pub(super) fn live() -> anyhow::Result<Live> {
    let shown = systemctl(&[
        "show",
        UNIT,
        "--property=FragmentPath,UnitFileState,ActiveState,SubState,MainPID,ActiveEnterTimestamp,StatusText",
    ])?;
    Ok(read(&shown))
}

/// From `systemctl show`.
fn read(shown: &str) -> Live {
    let value = |name: &str| {
        shown
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
            .filter(|value| !value.is_empty())
    };
    let state = value("ActiveState").unwrap_or_else(|| "unknown".to_owned());
    let waits_for_restart = value("SubState").is_some_and(|sub| sub.starts_with("auto-restart"));
    Live {
        enabled: value("UnitFileState").as_deref() == Some("enabled"),
        is_running: matches!(state.as_str(), "active" | "reloading"),
        is_failing: state == "failed" || waits_for_restart,
        state,
        pid: value("MainPID")
            .and_then(|pid| pid.parse().ok())
            .filter(|pid| *pid != 0),
        since: value("ActiveEnterTimestamp"),
        says: value("StatusText"),
        unit: value("FragmentPath").map(PathBuf::from),
    }
}

/// `None`: logind does not say.
pub(super) fn linger() -> Option<bool> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    match run("loginctl", &["show-user", &uid, "--property=Linger", "--value"]) {
        Ok(said) => match said.trim() {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        },
        Err(_) => None,
    }
}

pub(super) fn log_tail() -> String {
    let lines = [
        "--user",
        "--unit",
        UNIT,
        "--lines",
        LOG_LINES,
        "--no-pager",
        "--output=cat",
    ];
    match run("journalctl", &lines) {
        Ok(text) if !text.trim().is_empty() => format!("its log ends so:\n{}", text.trim_end()),
        Ok(_) | Err(_) => format!("see `journalctl --user -u {UNIT}`"),
    }
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<String> {
    run("systemctl", &[&["--user", "--no-pager"], arguments].concat())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Program,
    Argument,
}

/// As systemd reads it back: in quotes, with `%` doubled, which would else begin a specifier; and `$` too, which would
/// begin a variable, but not in the program's own path, where it stands for itself.
fn quoted(word: &str, place: Place) -> String {
    let mut text = word.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%");
    if place == Place::Argument {
        text = text.replace('$', "$$");
    }
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(program: &str) -> Order {
        Order {
            program: program.into(),
            home: None,
            context_db: None,
            log: "/l".into(),
        }
    }

    #[test]
    fn the_packaged_unit_has_the_line_that_is_replaced() {
        assert_eq!(TEMPLATE.matches(TEMPLATE_START).count(), 1);
        let unit = render(&order("/opt/bin/coditect-sync")).unwrap();
        assert!(
            unit.contains("\nExecStart=\"/opt/bin/coditect-sync\" run\n"),
            "{unit}"
        );
        assert!(!unit.contains("%h/"), "{unit}");
    }

    #[test]
    fn odd_characters_reach_the_program_as_they_are() {
        let odd = Order {
            home: Some("/my $HOME \"x\" 100%".into()),
            context_db: Some(r"/a\b/c.db".into()),
            ..order("/my programs/100%/$x")
        };
        let unit = render(&odd).unwrap();
        let start = r#"ExecStart="/my programs/100%%/$x" --home "/my $$HOME \"x\" 100%%" --context-db "/a\\b/c.db" run"#;
        assert!(unit.lines().any(|line| line == start), "{unit}");
        assert_eq!(program_of(&unit), Some(odd.program));
        assert!(
            render(&order("/a\nExecStartPre=/bin/evil")).is_err(),
            "no line can be smuggled in"
        );
    }

    #[test]
    fn a_unit_that_somebody_else_wrote_is_read_too() {
        let unit = "[Service]\nExecStart=/usr/bin/coditect-sync run\n";
        assert_eq!(program_of(unit), Some("/usr/bin/coditect-sync".into()));
        assert_eq!(program_of("[Service]\n"), None);
    }

    #[test]
    fn what_systemctl_shows_is_understood() {
        let up = "UnitFileState=enabled\nActiveState=active\nSubState=running\nMainPID=7\nStatusText=in sync\n\
                  ActiveEnterTimestamp=Tue 2026-11-24 12:00:00 UTC\nFragmentPath=/u/c.service\n";
        let live = read(up);
        assert!(live.enabled && live.is_running && !live.is_failing);
        assert_eq!((live.pid, live.says.as_deref()), (Some(7), Some("in sync")));
        assert_eq!(live.unit, Some("/u/c.service".into()));
        let gone = read(
            "FragmentPath=\nUnitFileState=\nActiveState=inactive\nSubState=dead\nMainPID=0\nStatusText=\n",
        );
        assert!(!gone.enabled && !gone.is_running && !gone.is_failing);
        assert_eq!((gone.pid, gone.says, gone.unit), (None, None, None));
        assert!(read("ActiveState=activating\nSubState=auto-restart\n").is_failing);
        assert!(!read("ActiveState=activating\nSubState=start\n").is_failing);
    }
}
