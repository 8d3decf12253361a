//! The command line: what can be asked, and who answers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::browse::{DeviceFilter, ProjectGlob, Since, SyncState};
use crate::commands;
use crate::config::{Config, ConfigError, Given, Overrides};
use crate::logging;
use crate::output::{Fault, remark};
use crate::paths::{Paths, Platform};

const EXAMPLES: &str = "\
Examples:
  coditect-sync login --server https://sync.acme.test   shows an address and a code to approve it with
  coditect-sync run                        the daemon, in the foreground
  coditect-sync service install            the same in the background, after each login
  coditect-sync ingest ~/.claude/projects  Claude Code's transcripts into context.db
  coditect-sync sync --wait                returns when everything is in the cloud, and here
  coditect-sync status --watch             how things stand, live
  coditect-sync verify                     proof that both sides hold the same

Results go to standard output, logs and remarks to standard error (level by RUST_LOG).
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 daemon or server not reachable, 4 not logged in.";

const SERVICE_EXAMPLES: &str = "\
On Linux a unit of systemd's user manager, on macOS an agent of launchd. It runs this very program, for the --home and
--context-db of this call.

Examples:
  coditect-sync service install
  coditect-sync service status
  journalctl --user -u coditect-sync        its log, on Linux";

const LOGIN_EXAMPLES: &str = "\
The file is bound to the account at the first login and stays so: one customer's sessions must not flow to another.

Without --token-stdin it shows an address and a code, and waits until somebody has approved it there in a browser. With
--json it prints them as one line of JSON, and the account as another. The login renews itself until it is ended: by
`logout`, or at the server.

Before the first upload it shows what would leave this machine, project by project, and asks; --yes skips the question.
Whoever pipes a token in where there is no terminal has decided: then the list is only a remark.

Examples:
  coditect-sync login --server https://sync.acme.test
  coditect-server token issue --user a@acme.test | coditect-sync login --server http://127.0.0.1:8377 --token-stdin
  coditect-sync login --server https://sync.acme.test --token-stdin --insecure-storage < token.txt";

const PROJECTS_NOTES: &str = "\
A pattern is a glob over the names of projects as `projects list` shows them, in exact case. One with a / in it, or that
begins with ~, is a folder: it names the projects whose sessions were held there, and to exclude also those beneath.
`*` stands for any part, (none) for rows without a project. `exclude` outweighs `include`; what neither names goes by
`default` in [projects] of config.toml: with default = \"exclude\", only what is included ever leaves this machine.

The pattern goes into config.toml, whose comments stay, and a running daemon takes it up at once.";

const WHY_EXAMPLES: &str = "\
Reads this file alone, with or without a daemon. The first line is the conclusion. Exit code 1 for a row that is not there.

Examples:
  coditect-sync why messages 17
  coditect-sync why task_tracking 0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9 --json
  coditect-sync why task_messages 0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9 17";

const SYNC_NOTES: &str = "\
With --wait the daemon first proves that everything committed before the call is captured, then waits until the
server has acknowledged it and everything in the cloud is here. Exit code 1 if that takes too long, 3 without a
daemon or a server, 4 without a login.";

const INGEST_EXAMPLES: &str = "\
Writes to the file as any other program does: with or without a daemon, which then sends what is new.

Examples:
  coditect-sync ingest ~/.claude/projects
  coditect-sync ingest ~/.claude/projects --follow
  coditect-sync ingest one.jsonl --json";

const SESSIONS_EXAMPLES: &str = "\
Reads the file alone: no daemon is needed. On a terminal ids are as short as they can be, in a pipe they are whole.

Examples:
  coditect-sync sessions --since 2d
  coditect-sync sessions --project 'acme/*' --status waiting
  coditect-sync sessions --json | jq -r '.[].session_id'";

const TASKS_EXAMPLES: &str = "\
Examples:
  coditect-sync tasks --status in_progress
  coditect-sync tasks 0a1b2c3d
  coditect-sync tasks --project 'acme/*' --since 2026-11-01 --json";

const SHOW_NOTES: &str = "\
Everything that user and assistant said is there in full; tool calls and their results are folded to a few lines unless
--full is given. Control characters are shown as pictures (␛ for escape), since they would steer the terminal; --json
has the texts as they are. On a terminal the transcript goes through $PAGER, or less.

Examples:
  coditect-sync show --last
  coditect-sync show 0a1b2c3d --full
  coditect-sync show 0a1b2c3d --json | jq -r '.messages[] | select(.role == \"user\").content'";

const REDACTION_NOTES: &str = "\
Secrets in messages and tasks are replaced by [REDACTED:kind] when they are sent; context.db keeps its text. What is
pulled from other machines never replaces a local text by its redacted form. Rules changed later send nothing again.

In config.toml:
  [redaction]
  enabled = true                   # the default
  allow = ['^test-']               # findings that match are no secrets
  [[redaction.rule]]
  kind = \"acme-badge\"              # becomes [REDACTED:acme-badge]
  pattern = 'badge (?<secret>[0-9]{6})'";

const REDACTION_EXAMPLES: &str = "\
Of each finding the first characters and the length are shown, never the whole secret. Exit code 0, findings or not.

Examples:
  coditect-sync redaction test ~/.claude/projects/-home-me-work/3f2a.jsonl
  git diff | coditect-sync redaction test -
  coditect-sync redaction test --json notes.txt";

const CONFIG_SET_EXAMPLES: &str = "\
Examples:
  coditect-sync config set ingest.claude_projects true
  coditect-sync config set projects.exclude 'private-*,~/work/*'
  coditect-sync config set log.level debug";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  coditect-sync completions bash > ~/.local/share/bash-completion/completions/coditect-sync
  coditect-sync completions zsh > ~/.zfunc/_coditect-sync
  coditect-sync completions fish > ~/.config/fish/completions/coditect-sync.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  coditect-sync man | man -l -
  coditect-sync man --dir ~/.local/share/man/man1";

/// Keeps the sessions and task lists of your AI coding tools the same on all your machines.
///
/// Other programs write context.db; the daemon (`run`) notices every change, sends it to your server and brings what
/// your other machines sent. Offline nothing stops: the file is yours, the cloud catches up.
#[derive(Debug, Parser)]
#[command(name = "coditect-sync", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub place: Place,
    #[command(subcommand)]
    pub command: Command,
}

/// Which workstation is meant.
#[derive(Debug, Args)]
pub struct Place {
    /// Folder that holds everything of one workstation [default: the platform's folders]
    #[arg(
        long,
        global = true,
        env = "CODITECT_HOME",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub home: Option<PathBuf>,
    /// The file to keep in sync [env: CODITECT_CONTEXT_DB; default: config.toml's, else context.db in the data folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub context_db: Option<PathBuf>,
    /// A setting for this time, over config.toml and environment, such as ingest.claude_projects=true
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground (what systemd and launchd start)
    Run(Run),
    /// Have the daemon run in the background, from now on and after each login
    #[command(subcommand)]
    Service(Service),
    /// Log in to a server and bind context.db to the account
    Login(Login),
    /// Forget the token; the file stays as it is, and stays bound to its account
    Logout(Json),
    /// Show how things stand: account, what is safe, what is not and why, next step
    Status(Status),
    /// Sync now
    Sync(Sync),
    /// Stop sending and receiving until `resume`; changes are still noticed
    Pause(Json),
    /// Go on after `pause`
    Resume(Json),
    /// Read Claude Code transcripts into context.db; a second time it adds nothing
    Ingest(Ingest),
    /// List the sessions of this file, newest first
    Sessions(Sessions),
    /// List the tasks of this file, those of the newest session first
    Tasks(Tasks),
    /// Read a session: what was said, thought and done in it, in order
    Show(Show),
    /// See which projects are sent and which stay here, and decide it
    Projects(ProjectsArgs),
    /// Look at rows that were refused, or try them again
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// See what is taken out of texts before they leave the machine
    #[command(subcommand)]
    Redaction(Redaction),
    /// Tell how it stands with one row: sent, waiting, refused, excluded, and by what
    Why(Why),
    /// Prove that this file and the cloud hold the same, table by table
    Verify(Json),
    /// Look for what is wrong, and say how to mend it
    Doctor(Json),
    /// Print where all files are
    Paths(Json),
    /// Look at the settings, check config.toml, or change it
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what a shell needs to complete this program's arguments
    Completions(Completions),
    /// Print the man page, or write those of all commands into a folder
    Man(Man),
}

#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct Completions {
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = MAN_EXAMPLES)]
pub struct Man {
    /// The folder; it is made where it is missing
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the file that documents every key with its default
    Default,
    /// Show what holds, and whether that is the default or comes from file, environment or command line
    Show(Json),
    /// Read config.toml, or another file, and say what is wrong in it
    Check(ConfigCheck),
    /// Write a key into config.toml and leave the rest of it as it is
    Set(ConfigSet),
}

#[derive(Debug, Args)]
pub struct ConfigCheck {
    /// The file [default: config.toml of this workstation]
    pub file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = CONFIG_SET_EXAMPLES)]
pub struct ConfigSet {
    /// Such as ingest.claude_projects; `config show` lists all
    pub key: String,
    /// As in the file; quotes may be left out, and a list may be given with commas
    pub value: String,
}

#[derive(Debug, Args)]
pub struct Json {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Log to this file, which is kept below 5 MB and set aside three times, and not to standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
#[command(after_help = SERVICE_EXAMPLES)]
pub enum Service {
    /// Write the unit of systemd or the agent of launchd, and start it; a second time it changes nothing
    Install(ServiceInstall),
    /// Stop the service and remove it; all data stays
    Uninstall(Json),
    /// Show whether it is installed and running; exit code 1 if not, 3 where no service manager can be asked
    Status(Json),
}

#[derive(Debug, Args)]
pub struct ServiceInstall {
    /// Only write the file; start nothing
    #[arg(long)]
    pub no_start: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = LOGIN_EXAMPLES)]
pub struct Login {
    /// The server's address [default: `server` in config.toml]
    #[arg(long, value_name = "URL")]
    pub server: Option<Url>,
    /// Read an access token from standard input, instead of a login by browser
    #[arg(long)]
    pub token_stdin: bool,
    /// Keep the token in a file that only you can read, for machines without a keyring
    #[arg(long)]
    pub insecure_storage: bool,
    /// Allow a server without TLS on another machine: token and rows can be read on the way
    #[arg(long)]
    pub allow_http: bool,
    /// Do not ask before the first upload
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Print address and code, then the account, each as a line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Print the body of GET /v1/status; with --watch one line for each change
    #[arg(long)]
    pub json: bool,
    /// Follow the changes until interrupted
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
#[command(after_help = SYNC_NOTES)]
pub struct Sync {
    /// Return only when everything committed before this call is in the cloud, and everything there is here
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most, such as 500ms, 30s, 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = INGEST_EXAMPLES)]
pub struct Ingest {
    /// Transcripts (.jsonl) or folders of them, such as ~/.claude/projects
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print the counts as JSON; with --follow one line for each round
    #[arg(long)]
    pub json: bool,
    /// Go on reading what is added, until interrupted
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
#[command(after_help = SESSIONS_EXAMPLES)]
pub struct Sessions {
    /// Only of projects whose name or folder matches the glob
    #[arg(long, value_name = "GLOB", allow_hyphen_values = true, value_parser = ProjectGlob::parse)]
    pub project: Option<ProjectGlob>,
    /// Only what has become of it: sent, waiting, excluded, refused, or local (nobody has logged in yet)
    #[arg(long, value_name = "STATE")]
    pub status: Option<SyncState>,
    /// Only what was written here, elsewhere, or on the machine of this name
    #[arg(long, value_name = "here|elsewhere|NAME", value_parser = parse_device)]
    pub device: Option<DeviceFilter>,
    /// Only where something happened since: an age such as 2d, or a date such as 2026-11-01
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<Since>,
    /// How many at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
    /// Do not page
    #[arg(long)]
    pub no_pager: bool,
}

#[derive(Debug, Args)]
#[command(after_help = TASKS_EXAMPLES)]
pub struct Tasks {
    /// Only of this session: its id, or how it begins
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// Only of projects whose name or folder matches the glob
    #[arg(long, value_name = "GLOB", allow_hyphen_values = true, value_parser = ProjectGlob::parse)]
    pub project: Option<ProjectGlob>,
    /// Only tasks that are pending, in_progress or completed
    #[arg(long, value_name = "STATUS", value_parser = ["pending", "in_progress", "completed"])]
    pub status: Option<String>,
    /// Only what was written here, elsewhere, or on the machine of this name
    #[arg(long, value_name = "here|elsewhere|NAME", value_parser = parse_device)]
    pub device: Option<DeviceFilter>,
    /// Only where something happened since: an age such as 2d, or a date such as 2026-11-01
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<Since>,
    /// How many at most
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
    /// Do not page
    #[arg(long)]
    pub no_pager: bool,
}

#[derive(Debug, Args)]
#[command(after_help = SHOW_NOTES)]
#[group(skip)]
pub struct Show {
    /// The session's id, or how it begins
    #[arg(
        value_name = "SESSION",
        required_unless_present = "last",
        conflicts_with = "last"
    )]
    pub session: Option<String>,
    /// The session in which something was said last
    #[arg(long)]
    pub last: bool,
    /// Print tool calls and their results in full
    #[arg(long)]
    pub full: bool,
    /// Print session, tasks and messages as JSON, in full
    #[arg(long)]
    pub json: bool,
    /// Do not page
    #[arg(long)]
    pub no_pager: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WHY_EXAMPLES)]
pub struct Why {
    /// messages, task_tracking or task_messages
    pub table: String,
    /// The row's id; of a link the task's and the message's
    #[arg(required = true, num_args = 1..=2, value_name = "ID")]
    pub ids: Vec<String>,
    /// Print the facts as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ProjectsArgs {
    #[command(subcommand)]
    pub what: Option<Projects>,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Projects {
    /// List the projects of this file: whether they are sent, by which setting, and what is where
    List(Json),
    /// Send these projects
    Include(ProjectPatterns),
    /// Keep these projects on this machine; what was sent before stays in the cloud
    Exclude(ProjectPatterns),
}

#[derive(Debug, Args)]
#[command(after_help = PROJECTS_NOTES)]
pub struct ProjectPatterns {
    /// Names of projects such as shop or 'acme-*'; folders such as '~/work/*'
    #[arg(required = true, value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// Show the refused rows and why they were refused
    List(Json),
    /// Try refused rows again: all of them, or the given numbers
    Retry(QuarantineRetry),
}

#[derive(Debug, Args)]
pub struct QuarantineRetry {
    /// Numbers as `quarantine list` shows them
    #[arg(value_name = "ID")]
    pub ids: Vec<i64>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = REDACTION_NOTES)]
pub enum Redaction {
    /// Show what would be redacted in a text, without the secrets themselves
    Test(RedactionTest),
    /// Show what is looked for: each kind, and what it is
    List(Json),
}

#[derive(Debug, Args)]
#[command(after_help = REDACTION_EXAMPLES)]
pub struct RedactionTest {
    /// A text or a transcript (.jsonl); `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// What every command works with.
#[derive(Debug)]
pub struct Setup {
    pub paths: Paths,
    pub config: Config,
    /// What the environment and the command line say, for when config.toml is read anew.
    pub overrides: Overrides,
}

impl Setup {
    /// A command to type, for the same home as this one.
    pub fn command(&self, words: &str) -> String {
        self.paths.command(words)
    }

    /// Whom to trust instead of the machine's authorities.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.config.ca_file(&self.paths.config)
    }
}

/// Runs the program named by the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut log_file = None;
    let mut level = "warn";
    if let Command::Run(args) = &cli.command {
        // A daemon tells its life; a command only what goes wrong.
        level = "info";
        log_file.clone_from(&args.log_file);
    }
    match logging::start(level, log_file.as_deref()).and_then(|()| execute(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fault::OutputClosed) => ExitCode::SUCCESS,
        Err(fault) => {
            if log_file.is_some() {
                // Nobody reads standard error there.
                tracing::error!("{fault}");
            }
            remark(&format!("error: {fault}"));
            ExitCode::from(fault.exit_code())
        }
    }
}

fn execute(cli: Cli) -> Result<(), Fault> {
    // What mends a wrong configuration must not need a right one, and a package is built where there is none.
    if let Command::Config(command) = cli.command {
        return commands::config(command, &cli.place);
    }
    if let Command::Completions(args) = &cli.command {
        return commands::completions(args);
    }
    if let Command::Man(args) = &cli.command {
        return commands::man(args);
    }
    commands::run(cli.command, set_up(&cli.place)?)
}

fn set_up(place: &Place) -> Result<Setup, Fault> {
    let paths = place.paths()?;
    let overrides = place.overrides()?;
    let config = overrides.over_file(&paths.config).map_err(usage)?.config;
    let paths = paths.with_context_db(&config).map_err(no_folders)?;
    Ok(Setup {
        paths,
        config,
        overrides,
    })
}

impl Place {
    /// The paths before the configuration was read.
    pub(crate) fn paths(&self) -> Result<Paths, Fault> {
        // An empty variable is as good as none, which is how service managers and shells unset one.
        let variable = std::env::var_os("CODITECT_HOME").filter(|value| !value.is_empty());
        let home = self.home.clone().or(variable.map(PathBuf::from));
        Paths::resolve(home.as_deref(), &Platform::of_this_machine()?).map_err(no_folders)
    }

    pub(crate) fn overrides(&self) -> Result<Overrides, Fault> {
        let given = Given {
            context_db: self.context_db.clone(),
            set: self.set.clone(),
        };
        Overrides::new(std::env::vars_os(), &given).map_err(usage)
    }
}

fn usage(error: ConfigError) -> Fault {
    Fault::Usage(error.to_string())
}

fn no_folders(error: std::io::Error) -> Fault {
    Fault::Failed(anyhow::Error::new(error).context("finding the folders"))
}

fn parse_device(text: &str) -> Result<DeviceFilter, std::convert::Infallible> {
    Ok(DeviceFilter::parse(text))
}

fn parse_since(text: &str) -> Result<Since, String> {
    Since::parse(text, jiff::Timestamp::now(), jiff::tz::TimeZone::system())
}

/// `500ms`, `30s`, `5m`, `1h30m`; a bare number means seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = match text.parse::<u32>() {
        Ok(secs) => jiff::SignedDuration::from_secs(i64::from(secs)),
        Err(_) => text
            .parse()
            .map_err(|_| "expected a time such as 500ms, 30s or 5m".to_owned())?,
    };
    match Duration::try_from(span) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err("expected a time above zero".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_home_is_taken_before_and_after_the_command() {
        for args in [
            &["x", "--home", "/h", "status"][..],
            &["x", "status", "--home", "/h"],
        ] {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.place.home, Some(PathBuf::from("/h")));
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "0s", "-3s", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
