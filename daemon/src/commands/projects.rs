//! `projects`: what is sent, what stays here, and deciding it. Works on file and config.toml, with or without a daemon.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::daemon::Daemon;
use crate::browse::moment;
use crate::cli::{self, Projects, ProjectsArgs, Setup};
use crate::config::{self, Config, Overrides};
use crate::output::{self, Fault, remark};
use crate::paths::make_private_folder;
use crate::policy::Policy;
use crate::projects::{self, Counts, List, Overview, Project, ProjectFilter, with_patterns};
use crate::screen::{Align, Column, Paint, Screen};
use crate::status::{counted, grouped};

/// From this likeness on a name is taken for what was meant.
const LIKENESS_MIN: f64 = 0.6;

const COLUMNS: [Column; 9] = [
    column("PROJECT", Align::Left, 40),
    column("STATE", Align::Left, 8),
    column("SESSIONS", Align::Right, 12),
    column("MESSAGES", Align::Right, 12),
    column("TASKS", Align::Right, 12),
    column("SIZE", Align::Right, 9),
    column("NEWEST", Align::Left, 10),
    column("ROWS", Align::Left, 48),
    column("BY", Align::Left, usize::MAX),
];

pub(super) async fn run(args: ProjectsArgs, setup: Setup) -> Result<(), Fault> {
    match args.what {
        None => list(args.json, &setup),
        Some(Projects::List(args)) => list(args.json, &setup),
        Some(Projects::Include(args)) => decide(List::Include, &args, setup).await,
        Some(Projects::Exclude(args)) => decide(List::Exclude, &args, setup).await,
    }
}

fn list(json: bool, setup: &Setup) -> Result<(), Fault> {
    let overview = overview(setup)?;
    if json {
        return output::json(&overview.projects);
    }
    if overview.projects.is_empty() {
        return output::text(&super::sessions::nothing("project", setup));
    }
    output::text(&table_on(&Screen::of_stdout(), overview.projects.iter()))
}

/// The file by the settings that hold; nothing where there is no file.
pub(super) fn overview(setup: &Setup) -> Result<Overview, Fault> {
    read(&setup.paths.context_db, &filter(&setup.config)?)
}

pub(super) fn table<'a>(projects: impl Iterator<Item = &'a Project>) -> String {
    table_on(&Screen::PIPE, projects)
}

/// `3 sessions, 120 messages, 8 tasks, 1.2 MB`.
pub(super) fn amounts(counts: &Counts) -> String {
    format!(
        "{}, {}, {}, {}",
        counted(counts.sessions, "session", "sessions"),
        counted(counts.messages, "message", "messages"),
        counted(counts.tasks, "task", "tasks"),
        size(counts.bytes)
    )
}

async fn decide(into: List, args: &cli::ProjectPatterns, setup: Setup) -> Result<(), Fault> {
    let path = &setup.paths.config;
    let before = filter(&setup.config)?;
    for pattern in &args.patterns {
        projects::check_pattern(into.name(), pattern).map_err(|error| Fault::Usage(error.to_string()))?;
    }
    let changed = write(path, into, &args.patterns)?;
    let config = setup
        .overrides
        .over_file(path)
        .map_err(|error| Fault::Usage(error.to_string()))?
        .config;
    let after = filter(&config)?;
    let context_db = &setup.paths.context_db;
    let (was, is) = (read(context_db, &before)?, read(context_db, &after)?);
    let included = |overview: &Overview| -> BTreeSet<String> {
        overview.of(true).map(|project| project.project.clone()).collect()
    };
    let (was_included, is_included) = (included(&was), included(&is));
    let moved: Vec<&Project> = is
        .projects
        .iter()
        .filter(|project| was_included.contains(&project.project) != is_included.contains(&project.project))
        .collect();
    let running = match changed {
        true => Daemon::of(&setup)?.tell_if_running("reload").await?,
        false => false,
    };
    for pattern in &args.patterns {
        warn_if_unknown(into, pattern, &is)?;
    }
    if *config_list(&config, into)
        != *config_list(
            &Overrides::default()
                .over_file(path)
                .map_err(|error| Fault::Usage(error.to_string()))?
                .config,
            into,
        )
    {
        remark("the environment or the command line sets this list too, and outweighs the file");
    }
    if args.json {
        return output::json(&json!({
            "changed": changed,
            "file": path,
            "include": config.projects.include,
            "exclude": config.projects.exclude,
            "projects": moved,
            "daemon_running": running,
        }));
    }
    output::text(&told(into, &args.patterns, path, changed, &moved))
}

fn told(into: List, patterns: &[String], path: &Path, changed: bool, moved: &[&Project]) -> String {
    let list = into.name();
    let names = patterns.join(", ");
    let mut text = match changed {
        true => format!("{list}: {names}, in {}\n", path.display()),
        false => format!("{list}: {names} already, in {}\n", path.display()),
    };
    for project in moved {
        let rows = project.sent + project.pending + project.excluded;
        let rows = counted(rows, "row", "rows");
        text.push_str(&match project.standing.included {
            true => format!("  {}: {rows}, sent from now on\n", project.project),
            false => format!("  {}: {rows}, not sent from now on\n", project.project),
        });
    }
    if moved.is_empty() {
        text.push_str("  for what is in the file now this changes nothing\n");
    }
    let in_cloud: u64 = moved
        .iter()
        .filter(|project| !project.standing.included)
        .map(|project| project.sent)
        .sum();
    if in_cloud > 0 {
        text.push_str(&format!(
            "{} already sent, and stay in the cloud\n",
            counted(in_cloud, "of these rows was", "of these rows were")
        ));
    }
    text
}

/// Whether the file is another one now.
fn write(path: &Path, into: List, patterns: &[String]) -> Result<bool, Fault> {
    let before = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Fault::failed(format!("reading {}: {error}", path.display()))),
    };
    let after = if before.trim().is_empty() {
        let list = serde_json::to_string(patterns).map_err(anyhow::Error::new)?;
        config::with_setting("", &format!("projects.{}", into.name()), &list)
    } else {
        with_patterns(&before, into, patterns)
    };
    let after = after.map_err(|reason| Fault::Usage(format!("{}: {reason}", path.display())))?;
    if after == before {
        return Ok(false);
    }
    // What cannot be read back is not written.
    let holding = Overrides::default().over_text(&after, path);
    holding.map_err(|error| Fault::Usage(error.to_string()))?;
    if let Some(folder) = path.parent() {
        make_private_folder(folder)?;
    }
    config::write_file(path, &after)?;
    Ok(true)
}

fn warn_if_unknown(into: List, pattern: &str, overview: &Overview) -> Result<(), Fault> {
    let alone = Config {
        projects: match into {
            List::Include => config::Projects {
                default: config::Sharing::Exclude,
                include: vec![pattern.to_owned()],
                exclude: Vec::new(),
            },
            List::Exclude => config::Projects {
                default: config::Sharing::Include,
                include: Vec::new(),
                exclude: vec![pattern.to_owned()],
            },
        },
        ..Config::default()
    };
    let wanted = matches!(into, List::Include);
    let filter = filter(&alone)?;
    if overview
        .projects
        .iter()
        .any(|project| filter.judge(&project.place()).included == wanted)
    {
        return Ok(());
    }
    let likeness =
        |project: &&Project| strsim::jaro_winkler(&project.project.to_lowercase(), &pattern.to_lowercase());
    let nearest = overview
        .projects
        .iter()
        .filter(|project| likeness(project) >= LIKENESS_MIN)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    remark(&match nearest {
        Some(nearest) => format!(
            "no project here is called {pattern:?} yet; did you mean {:?}?",
            nearest.project
        ),
        None => format!("no project here is called {pattern:?} yet"),
    });
    Ok(())
}

fn config_list(config: &Config, list: List) -> &Vec<String> {
    match list {
        List::Include => &config.projects.include,
        List::Exclude => &config.projects.exclude,
    }
}

fn filter(config: &Config) -> Result<ProjectFilter, Fault> {
    Ok(Policy::new(config).map_err(Fault::Usage)?.projects)
}

fn read(context_db: &Path, filter: &ProjectFilter) -> Result<Overview, Fault> {
    let Some((conn, owner)) = projects::open(context_db)? else {
        return Ok(Overview::empty());
    };
    let overview = Overview::read(&conn, &owner, filter);
    Ok(overview
        .map_err(|error| anyhow::Error::new(error).context(format!("reading {}", context_db.display())))?)
}

fn table_on<'a>(screen: &Screen, projects: impl Iterator<Item = &'a Project>) -> String {
    let plain = |text: String| (text, Paint::Plain);
    let rows: Vec<Vec<(String, Paint)>> = projects
        .map(|project| {
            let state = match project.standing.included {
                true => ("included".to_owned(), Paint::Good),
                false => ("excluded".to_owned(), Paint::Faint),
            };
            let rows = [
                (project.sent, "sent"),
                (project.pending, "to send"),
                (project.excluded, "only here"),
            ];
            let rows: Vec<String> = rows
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} {what}", grouped(*count)))
                .collect();
            vec![
                (project.project.clone(), Paint::Strong),
                state,
                plain(grouped(project.counts.sessions)),
                plain(grouped(project.counts.messages)),
                plain(grouped(project.counts.tasks)),
                plain(size(project.counts.bytes)),
                plain(day(project.newest.as_deref())),
                plain(rows.join(", ")),
                plain(project.standing.setting.clone()),
            ]
        })
        .collect();
    screen.table(&COLUMNS, &rows)
}

fn day(newest: Option<&str>) -> String {
    match moment(newest) {
        Some(at) => at.strftime("%Y-%m-%d").to_string(),
        None => newest.unwrap_or("").chars().take(10).collect(),
    }
}

/// `512 B`, `1.5 kB`, `20 MB`: in thousands, as disks are sold.
pub(super) fn size(bytes: u64) -> String {
    let mut rest = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if rest < 999.5 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ if rest < 9.95 => format!("{rest:.1} {unit}"),
                _ => format!("{rest:.0} {unit}"),
            };
        }
        rest /= 1000.0;
    }
    format!("{rest:.1} TB")
}

const fn column(name: &'static str, align: Align, max: usize) -> Column {
    Column { name, align, max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_easily() {
        let sizes = [0, 999, 1_000, 1_549, 20_000_000, 999_999, 3_000_000_000_000].map(size);
        assert_eq!(
            sizes,
            ["0 B", "999 B", "1.0 kB", "1.5 kB", "20 MB", "1.0 MB", "3.0 TB"]
        );
    }
}
