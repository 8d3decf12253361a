//! Before the first upload: what would leave this machine, and whether it may.

use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};

use anyhow::Context as _;
use coditect_shared::wire;
use serde_json::{Value, json};
use url::Url;

use super::projects::{amounts, overview, size, table};
use crate::cli::Setup;
use crate::config::{Source, expand_home};
use crate::ingest;
use crate::output::{Fault, remark};
use crate::paths::quoted;
use crate::projects::{self, Counts, Overview};
use crate::screen::one_line;
use crate::status::counted;
use crate::store;

/// Projects that are listed of those that are sent, and of those that stay.
const SHOWN_MAX: usize = 30;

/// What decides about what leaves, and in which form.
const DECISIVE: [&str; 2] = ["projects", "redaction"];

/// What this call's flags and variables say of what leaves, that a daemon without them would not do: each with who says
/// it, and the command that says it to all.
pub(super) fn said_only_here(setup: &Setup) -> Result<Vec<(String, String)>, Fault> {
    let settings = setup
        .overrides
        .only_here(&setup.paths.config, &DECISIVE)
        .map_err(|error| Fault::Usage(error.to_string()))?;
    let told = settings.into_iter().map(|setting| {
        let by = match setting.source {
            Source::Environment(name) => format!("the variable {name}"),
            Source::Flag(_) | Source::File | Source::Default => format!("--set {}", setting.key),
        };
        let value = match setting.value {
            Some(toml::Value::String(text)) => text,
            Some(value) => value.to_string(),
            None => String::new(),
        };
        let words = format!("config set {} {}", setting.key, quoted(&value));
        (by, setup.command(&words))
    });
    Ok(told.collect())
}

/// Asks, if nothing has been sent yet and somebody is there to answer; a no is an error. Also where nothing is here: all
/// that is written later goes without another question. Nothing has been stored before,
/// and nothing is then. Gives what would leave, for `--json`.
pub(super) fn before_first_upload(
    setup: &Setup,
    server: &Url,
    account: &wire::Account,
    yes: bool,
) -> Result<Value, Fault> {
    let overview = overview(setup)?;
    let leaving = json!({
        "sent": Counts::sum(overview.of(true)),
        "kept_here": Counts::sum(overview.of(false)),
        "projects": overview.projects,
    });
    if !overview.never_sent || is_of_another(setup, account)? {
        return Ok(leaving);
    }
    let user = one_line(&account.user);
    let is_empty = overview.projects.is_empty();
    let mut page = match is_empty {
        true => "nothing is here yet\n".to_owned(),
        false => page(&overview, server, account),
    };
    page.push_str(&from_now_on(setup, server, &user));
    for (by, command) in said_only_here(setup)? {
        page.push_str(&format!(
            "\nthis counts with {by}, which the daemon may not have; so that it does: {command}\n"
        ));
    }
    remark(&page);
    let allowed = yes
        || match terminal() {
            Some(terminal) => {
                let question = match overview.pending() {
                    0 => "go on?".to_owned(),
                    // The name is the server's word.
                    _ => format!("send these to {server} as {user}?"),
                };
                asked(terminal, &question)?
            }
            None => true,
        };
    if !allowed {
        return Err(Fault::failed(format!(
            "nothing was sent and nothing was stored. To keep projects on this machine, before you log in again:\n  \
             {}\n  {}",
            setup.command("projects exclude PATTERN"),
            setup.command("config set projects.default exclude   keeps all but what you include")
        )));
    }
    Ok(leaving)
}

/// What the answer lets happen later on, unasked.
fn from_now_on(setup: &Setup, server: &Url, user: &str) -> String {
    let mut text = format!(
        "\nfrom now on what is written to {} goes to {server} as {user}, except what [projects] excludes\n",
        setup.paths.context_db.display()
    );
    let ingest = &setup.config.ingest;
    if ingest.claude_projects {
        let folder = expand_home(&ingest.claude_projects_dir);
        text.push_str(&match ingest::amount(&folder) {
            Ok((files, bytes)) => format!(
                "the daemon takes in all of {} by itself: {}, {}\n",
                folder.display(),
                counted(files, "transcript", "transcripts"),
                size(bytes)
            ),
            Err(_) => format!("the daemon takes in all of {} by itself\n", folder.display()),
        });
    }
    text
}

/// A file that belongs to another account is refused later on, and nothing of it leaves.
fn is_of_another(setup: &Setup, account: &wire::Account) -> Result<bool, Fault> {
    let Some((conn, _)) = projects::open(&setup.paths.context_db)? else {
        return Ok(false);
    };
    let bound = store::bound_to(&conn).context("reading whom context.db belongs to")?;
    Ok(bound.is_some_and(|bound| {
        (bound.instance, bound.tenant, &bound.user)
            != (account.instance_id, account.tenant_id, &account.user_id)
    }))
}

fn page(overview: &Overview, server: &Url, account: &wire::Account) -> String {
    let mut text = format!(
        "what would leave this machine for {server}, as {} of {}:\n\n",
        one_line(&account.user),
        one_line(&account.tenant)
    );
    let listed = |included| -> String {
        let projects: Vec<_> = overview.of(included).collect();
        let mut list = table(projects.iter().copied().take(SHOWN_MAX));
        if projects.len() > SHOWN_MAX {
            list.push_str(&format!("and {} more\n", projects.len() - SHOWN_MAX));
        }
        list
    };
    text.push_str(&listed(true));
    text.push_str(&format!("in all {}\n", amounts(&Counts::sum(overview.of(true)))));
    if overview.of(false).next().is_some() {
        text.push_str("\nwhat stays here, by your settings:\n\n");
        text.push_str(&listed(false));
    }
    text
}

/// Where to ask: standard input may be the token. Nobody is asked who would not see what it is about.
fn terminal() -> Option<File> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    File::options().read(true).write(true).open("/dev/tty").ok()
}

/// The end of the input is a no, as is all that is no yes.
fn asked(mut terminal: File, question: &str) -> Result<bool, Fault> {
    let doing = "asking on the terminal";
    write!(terminal, "{question} [y/N] ").context(doing)?;
    let mut answer = String::new();
    BufReader::new(&terminal).read_line(&mut answer).context(doing)?;
    if !answer.ends_with('\n') {
        writeln!(terminal).context(doing)?;
    }
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
