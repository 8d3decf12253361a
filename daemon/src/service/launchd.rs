//! launchd: an agent of the user. Written after launchd's manual pages and not yet run on macOS.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Change, Live, Order, run, text_of};

const LABEL: &str = "ai.coditect.sync";

/// The agent as it is packaged, and what is replaced in it.
const TEMPLATE: &str = include_str!("../../../packaging/launchd/ai.coditect.sync.plist");
const TEMPLATE_PROGRAM: &str = "        <string>@PROGRAM@</string>\n";
const TEMPLATE_LOG: &str = "@LOG@";

/// `~/Library/LaunchAgents/ai.coditect.sync.plist`.
pub(super) fn unit_path() -> anyhow::Result<PathBuf> {
    let dirs = directories::BaseDirs::new().context("this user has no home directory: set HOME")?;
    Ok(dirs
        .home_dir()
        .join("Library/LaunchAgents")
        .join(format!("{LABEL}.plist")))
}

pub(super) fn render(order: &Order) -> anyhow::Result<String> {
    let mut words = vec![text_of(&order.program)?];
    let places = [("--home", &order.home), ("--context-db", &order.context_db)];
    for (flag, path) in places {
        if let Some(path) = path {
            words.extend([flag, text_of(path)?]);
        }
    }
    let lines: String = words
        .into_iter()
        .map(|word| format!("        <string>{}</string>\n", escaped(word)))
        .collect();
    // The log first: a path may hold the other's mark.
    Ok(TEMPLATE
        .replace(TEMPLATE_LOG, &escaped(text_of(&order.log)?))
        .replace(TEMPLATE_PROGRAM, &lines))
}

/// The program that an agent starts.
pub(super) fn program_of(plist: &str) -> Option<PathBuf> {
    let (_, arguments) = plist.split_once("<key>ProgramArguments</key>")?;
    let (_, first) = arguments.split_once("<string>")?;
    let (text, _) = first.split_once("</string>")?;
    Some(PathBuf::from(
        text.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    ))
}

pub(super) fn refuse_if_absent() -> anyhow::Result<()> {
    launchctl(&["print", &domain()])
        .map(drop)
        .context("no launchd session of this user runs here (it starts with a login on the screen)")
}

pub(super) fn start(change: Change) -> anyhow::Result<()> {
    let runs = live().is_ok_and(|live| live.is_running);
    if runs && change == Change::Unchanged {
        return Ok(());
    }
    // launchd reads the file when it takes the agent up: one that it has must be given back first.
    let _ = launchctl(&["bootout", &target()]);
    let unit = unit_path()?;
    launchctl(&["enable", &target()])?;
    launchctl(&["bootstrap", &domain(), text_of(&unit)?]).map(drop)
}

pub(super) fn stop() -> anyhow::Result<()> {
    if live().is_ok_and(|live| live.enabled) {
        launchctl(&["bootout", &target()])?;
    }
    Ok(())
}

pub(super) fn live() -> anyhow::Result<Live> {
    // It fails for an agent that launchd does not have, which is an answer too.
    Ok(launchctl(&["print", &target()]).map_or_else(|_| Live::default(), |printed| read(&printed)))
}

/// From `launchctl print`, whose form is not promised by Apple: what cannot be read is left out.
fn read(printed: &str) -> Live {
    let value = |name: &str| {
        printed
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(" = "))
            .map(str::to_owned)
    };
    let state = value("state").unwrap_or_else(|| "unknown".to_owned());
    let is_running = state == "running";
    let failed_before = value("last exit code").is_some_and(|code| code != "0" && !code.starts_with('('));
    Live {
        enabled: true,
        is_running,
        is_failing: !is_running && failed_before,
        state,
        pid: value("pid").and_then(|pid| pid.parse().ok()),
        since: None,
        says: None,
        unit: None,
    }
}

/// The user's session on the screen.
fn domain() -> String {
    format!("gui/{}", rustix::process::geteuid().as_raw())
}

fn target() -> String {
    format!("{}/{LABEL}", domain())
}

fn launchctl(arguments: &[&str]) -> anyhow::Result<String> {
    run("launchctl", arguments)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_names_program_home_and_log_whatever_they_are_called() {
        let order = Order {
            program: "/a & b/<x>/coditect-sync".into(),
            home: Some("/my home".into()),
            context_db: None,
            log: "/l & m/@PROGRAM@.log".into(),
        };
        let plist = render(&order).unwrap();
        assert!(
            plist.contains(
                "<string>/a &amp; b/&lt;x&gt;/coditect-sync</string>\n        <string>--home</string>\n        \
                 <string>/my home</string>\n        <string>run</string>"
            ),
            "{plist}"
        );
        assert!(
            plist.contains("<string>/l &amp; m/@PROGRAM@.log</string>"),
            "{plist}"
        );
        assert_eq!(program_of(&plist), Some(order.program));
    }

    #[test]
    fn what_launchctl_prints_is_understood() {
        let live = read(
            "gui/501/ai.coditect.sync = {\n\tstate = running\n\tpid = 42\n\tlast exit code = (never exited)\n}",
        );
        assert!(live.is_running && !live.is_failing);
        assert_eq!(live.pid, Some(42));
        assert!(read("\tstate = waiting\n\tlast exit code = 1\n").is_failing);
    }
}
