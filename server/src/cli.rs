//! The command line: arguments in, results on standard output, logs on standard error, an exit code.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use coditect_shared::DeviceId;
use jiff::SignedDuration;
use tracing_subscriber::EnvFilter;

use crate::admin;
use crate::auth::Role;
use crate::config::{DEFAULT_LISTEN, Issuers, Options, SignInOptions, TlsFiles, Usage};
use crate::database::Unreachable;
use crate::serve;
use crate::signin;
use crate::stop::StopSignal;

const PROGRAM: &str = "coditect-server";

/// Longest life of a token that the command line gives out: nobody can take one back before it expires.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How long an invitation works, for people.
const INVITATION_DAYS: u64 = signin::INVITATION_LIFE.as_secs() / (24 * 60 * 60);

/// Sync server for AI coding sessions: tenant-scoped rows in PostgreSQL.
#[derive(Parser, Debug)]
#[command(name = PROGRAM, version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server; prints `listening on http://ADDR` (https with a certificate) when it takes requests
    Serve {
        /// Where to listen; port 0 takes a free one
        #[arg(long, env = "CODITECT_LISTEN", value_name = "ADDR", default_value = DEFAULT_LISTEN)]
        listen: SocketAddr,
        #[command(flatten)]
        tls: TlsFiles,
        #[command(flatten)]
        issuers: Issuers,
        /// Leave the schema alone; refuse to start if it is not up to date
        #[arg(long)]
        no_migrate: bool,
        #[command(flatten)]
        sign_in: SignInOptions,
    },
    /// Bring the database's schema up to date
    Migrate,
    /// Customer organisations
    #[command(subcommand)]
    Tenant(Tenant),
    /// People of a tenant
    #[command(subcommand)]
    User(User),
    /// Devices that signed in
    #[command(subcommand)]
    Device(Device),
    /// Access tokens of the built-in issuer
    #[command(subcommand)]
    Token(Token),
    /// Keys of the built-in issuer of access tokens
    #[command(subcommand)]
    Key(Key),
    /// Print the URL with which psql reaches the database as its owner
    DatabaseUrl,
    /// Print what a shell needs to complete this program's arguments
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write those of all commands into a folder
    Man {
        /// The folder; it is made where it is missing
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
enum Tenant {
    /// Make a tenant
    Create { name: String },
    /// Change what holds for a tenant
    Set {
        /// Name or id
        name: String,
        /// Whether the first login by another issuer's token makes the user
        #[arg(long, value_name = "on|off", value_parser = switch, action = clap::ArgAction::Set)]
        first_login: bool,
    },
    /// Delete a tenant with all that is its own, for good; its audit record stays
    Delete {
        /// Name or id
        name: String,
        /// Say that it is meant
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Subcommand, Debug)]
enum User {
    /// Make a user in a tenant
    Create {
        email: String,
        /// Name of the tenant
        #[arg(long)]
        tenant: String,
        #[arg(long, value_enum, default_value = "member")]
        role: Role,
    },
    /// Let another issuer's subject be a user, without a first login that makes one
    Link {
        email: String,
        /// Name of the tenant
        #[arg(long)]
        tenant: String,
        /// As it stands in the tokens (iss)
        #[arg(long, value_name = "URL")]
        issuer: String,
        /// As it stands in the tokens (sub)
        #[arg(long)]
        subject: String,
    },
    /// Make a new link with which a user sets his password, in place of the former one
    Invite {
        email: String,
        /// Name of the tenant, where the address belongs to users of several
        #[arg(long)]
        tenant: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
enum Device {
    /// Show the devices that signed in
    List {
        /// Only those of one tenant, by name
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Approve the login of a device for a user, instead of the user himself
    Approve {
        /// The code that the device shows
        user_code: String,
        /// E-mail address of the user
        #[arg(long, value_name = "EMAIL")]
        user: String,
        /// Name of the tenant, where the address belongs to users of several
        #[arg(long)]
        tenant: Option<String>,
    },
    /// End a device's login: no new token for it from now on, the last ones end within 30 s
    Revoke {
        /// Id of the device, as `device list` shows it
        device: DeviceId,
    },
}

#[derive(Subcommand, Debug)]
enum Key {
    /// Let a new key sign; tokens of the old one stay good until they expire
    Rotate,
    /// Show the key that signs, and the retired ones whose tokens still count
    List,
}

#[derive(Subcommand, Debug)]
enum Token {
    /// Print an access token for a user
    Issue {
        /// E-mail address of the user
        #[arg(long, value_name = "EMAIL")]
        user: String,
        /// Name of the tenant, where the address belongs to users of several
        #[arg(long)]
        tenant: Option<String>,
        /// How long it is valid
        #[arg(long, default_value = "15m", value_parser = ttl)]
        ttl: Duration,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("starting the async runtime")),
    };
    match runtime.block_on(run_until_stopped(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// `serve` looks after signals itself; a command that is stopped leaves nothing running that it started.
async fn run_until_stopped(cli: Cli) -> anyhow::Result<()> {
    if matches!(cli.command, Command::Serve { .. }) {
        return run(&cli).await;
    }
    let mut stop = StopSignal::new()?;
    tokio::select! {
        done = run(&cli) => return done,
        () = stop.came() => {}
    }
    // The command is dropped by now, and with it its hold on the data directory.
    admin::clear_up(&cli.options).await?;
    anyhow::bail!("stopped by a signal before it was done")
}

async fn run(cli: &Cli) -> anyhow::Result<()> {
    let options = &cli.options;
    match &cli.command {
        Command::Serve {
            listen,
            tls,
            issuers,
            no_migrate,
            sign_in,
        } => serve::run(options, *listen, tls, issuers, sign_in, !no_migrate).await,
        Command::Migrate => {
            let done = admin::migrate(options).await?;
            print(options, &done, &format!("schema version {}", done.to))
        }
        Command::Tenant(Tenant::Create { name }) => {
            let made = admin::tenant::create(options, name).await?;
            print(
                options,
                &made,
                &format!("tenant {} {}", made.name, made.tenant_id),
            )
        }
        Command::Tenant(Tenant::Delete { name, yes }) => {
            let deleted = admin::tenant::delete(options, name, *yes).await?;
            print(
                options,
                &deleted,
                &format!("deleted tenant {} {}", deleted.name, deleted.tenant_id),
            )
        }
        Command::User(User::Create { email, tenant, role }) => {
            let made = admin::user::create(options, email, tenant, *role).await?;
            print(
                options,
                &made,
                &format!(
                    "user {} {} ({} of {})\nto set a password, within {INVITATION_DAYS} days: {}",
                    made.email, made.user_id, made.role, made.tenant, made.invitation.invitation_url
                ),
            )
        }
        Command::Tenant(Tenant::Set { name, first_login }) => {
            let set = admin::tenant::set_first_login(options, name, *first_login).await?;
            let word = if *first_login { "makes" } else { "does not make" };
            print(
                options,
                &set,
                &format!("the first login at {} {word} a user", set.name),
            )
        }
        Command::User(User::Link {
            email,
            tenant,
            issuer,
            subject,
        }) => {
            let linked = admin::user::link(options, email, tenant, issuer, subject).await?;
            print(
                options,
                &linked,
                &format!("{subject} of {issuer} is {email} of {}", linked.tenant),
            )
        }
        Command::User(User::Invite { email, tenant }) => {
            let made = admin::user::invite(options, email, tenant.as_deref()).await?;
            print(options, &made, &made.invitation_url)
        }
        Command::Device(Device::List { tenant }) => {
            let devices = admin::device::list(options, tenant.as_deref()).await?;
            let lines: Vec<String> = devices.iter().map(device_line).collect();
            print(
                options,
                &serde_json::json!({"devices": devices}),
                &lines.join("\n"),
            )
        }
        Command::Device(Device::Approve {
            user_code,
            user,
            tenant,
        }) => {
            let approved = admin::device::approve(options, user_code, user, tenant.as_deref()).await?;
            let line = format!(
                "approved {} (asked from {}) for {user}",
                approved.name, approved.address
            );
            print(options, &approved, &line)
        }
        Command::Device(Device::Revoke { device }) => {
            let revoked = admin::device::revoke(options, *device).await?;
            print(options, &revoked, &format!("revoked {device}"))
        }
        Command::Token(Token::Issue { user, tenant, ttl }) => {
            let issued = admin::token::issue(options, user, tenant.as_deref(), *ttl).await?;
            print(options, &issued, &issued.token)
        }
        Command::Key(command) => {
            let keys = match command {
                Key::Rotate => admin::key::rotate(options)?,
                Key::List => admin::key::list(options)?,
            };
            print(
                options,
                &serde_json::json!({"keys": keys}),
                &admin::key::lines(&keys),
            )
        }
        Command::DatabaseUrl => {
            let url = admin::database_url(options).await?;
            print(options, &serde_json::json!({"url": url}), &url)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), PROGRAM, &mut script);
            write_out(&script)
        }
        Command::Man { dir: Some(dir) } => pages(dir),
        Command::Man { dir: None } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command().disable_help_subcommand(true))
                .render(&mut page)
                .context("rendering the man page")?;
            write_out(&page)
        }
    }
}

fn device_line(device: &admin::device::Device) -> String {
    let state = match (&device.revoked_at, &device.revoked_reason) {
        (Some(at), Some(reason)) => format!("revoked {at} ({reason})"),
        (Some(_), None) | (None, _) => format!("seen {}", device.last_seen_at),
    };
    format!(
        "{}  {} of {}  {}  {state}",
        device.id, device.user, device.tenant, device.name
    )
}

/// One result on standard output: a JSON object, or a line for people.
fn print(options: &Options, result: &impl serde::Serialize, line: &str) -> anyhow::Result<()> {
    let text = if options.json {
        serde_json::to_string(result).context("writing JSON")?
    } else {
        line.to_owned()
    };
    writeln!(std::io::stdout().lock(), "{text}").context("writing to standard output")
}

fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    std::io::stdout()
        .lock()
        .write_all(bytes)
        .context("writing to standard output")
}

/// A man page for the program and one for each command.
fn pages(dir: &Path) -> anyhow::Result<()> {
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), dir));
    written.with_context(|| format!("writing man pages to {}", dir.display()))
}

/// Level by `RUST_LOG`; the database driver's notices are of no interest to operators.
fn log_to_stderr() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,tokio_postgres=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that cannot be written, on a full disk most likely, must not end the server: it would be told on standard
        // error, where it cannot be written either, and that is a panic.
        .log_internal_errors(false)
        .init();
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "coditect-server: {error:#}");
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() {
        2
    } else if error.downcast_ref::<Unreachable>().is_some() {
        3
    } else {
        1
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text
        .parse()
        .map_err(|_| "expected a time such as 15m, 90s or 2h".to_owned())?;
    let ttl = Duration::try_from(parsed).map_err(|_| "a token cannot expire before it is made".to_owned())?;
    if ttl.as_secs() == 0 || ttl > TOKEN_TTL_MAX {
        return Err(format!(
            "expected between 1 second and {} days",
            TOKEN_TTL_MAX.as_secs() / 86_400
        ));
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_data_directory_may_stand_before_and_after_the_command() {
        for line in [
            "coditect-server --data-dir /d tenant create acme",
            "coditect-server tenant create acme --data-dir /d",
        ] {
            assert!(format!("{:?}", Cli::try_parse_from(line.split(' ')).unwrap()).contains("\"/d\""));
        }
    }

    #[test]
    fn a_life_of_a_token_is_written_as_people_write_it() {
        assert_eq!(ttl("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(ttl("5s"), Ok(Duration::from_secs(5)));
        for bad in ["", "soon", "0s", "-5m", "1000d"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_exit_code_tells_wrong_usage_and_an_unreachable_database_apart() {
        assert_eq!(exit_code(&anyhow::Error::new(Usage("x".into())).context("y")), 2);
        assert_eq!(
            exit_code(
                &anyhow::anyhow!("refused")
                    .context(Unreachable("h".into()))
                    .context("y")
            ),
            3
        );
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 1);
    }
}
