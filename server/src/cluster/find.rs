//! Finds the PostgreSQL programs of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

/// Oldest major version that we run on: `UNIQUE NULLS NOT DISTINCT` came with 15.
const OLDEST_MAJOR: u32 = 15;

/// Names a folder with the programs that is looked at before all others.
const BINDIR_VARIABLE: &str = "CODITECT_PG_BINDIR";

/// Folders in which installers put one version beside another; `*` stands for one of them.
const INSTALLED: [&str; 8] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
    "/opt/local/lib/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// The folder of one installation, and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) bin: PathBuf,
    pub(super) version: (u32, u32),
}

/// The newest installation, or the newest of the major version that an existing cluster needs.
///
/// # Errors
/// If there is none; the text says what to install.
pub(super) fn programs(needed_major: Option<u32>) -> anyhow::Result<Programs> {
    let mut found: Vec<Programs> = Vec::new();
    for bin in folders() {
        if let Some(version) = version_in(&bin) {
            found.push(Programs { bin, version });
        }
    }
    choose(&found, needed_major)
}

fn choose(found: &[Programs], needed_major: Option<u32>) -> anyhow::Result<Programs> {
    let fits = |programs: &&Programs| match needed_major {
        Some(major) => programs.version.0 == major,
        None => programs.version.0 >= OLDEST_MAJOR,
    };
    // The first of equal ones: what the user put in front (variable, PATH) wins.
    if let Some(best) = found
        .iter()
        .filter(fits)
        .rev()
        .max_by_key(|programs| programs.version)
    {
        return Ok(best.clone());
    }
    let seen = if found.is_empty() {
        "none was found".to_owned()
    } else {
        let list: Vec<String> = found
            .iter()
            .map(|programs| {
                format!(
                    "{}.{} in {}",
                    programs.version.0,
                    programs.version.1,
                    programs.bin.display()
                )
            })
            .collect();
        format!("found only {}", list.join(", "))
    };
    match needed_major {
        Some(major) => bail!(
            "the database in the data directory was made by PostgreSQL {major}, and its programs are needed to run it ({seen}): install them (Debian and Ubuntu: `apt install postgresql-{major}`, macOS: `brew install postgresql@{major}`), or bring the data up to a newer version with pg_upgrade"
        ),
        None => bail!(
            "the programs of PostgreSQL {OLDEST_MAJOR} or later are needed ({seen}): install them (Debian and Ubuntu: `apt install postgresql`, Fedora: `dnf install postgresql-server`, macOS: `brew install postgresql@17`), name their folder in {BINDIR_VARIABLE}, or give the URL of a database in CODITECT_DATABASE_URL"
        ),
    }
}

/// Where to look, in the order of preference, without repeats.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os(BINDIR_VARIABLE)
        .map(PathBuf::from)
        .into_iter()
        .collect();
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    if let Some(line) = first_line(Command::new("pg_config").arg("--bindir")) {
        folders.push(PathBuf::from(line));
    }
    folders.extend(INSTALLED.iter().flat_map(|pattern| expand(pattern)));
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| {
        folder.is_absolute() && seen.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone()))
    });
    folders
}

/// The folders that a pattern with at most one `*` stands for.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![PathBuf::from(pattern)];
    };
    let (parent, start) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(Path::new(parent)) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.path().join(after.trim_start_matches('/')))
        .collect();
    found.sort();
    found
}

/// The version of the server program in a folder, if both programs that we need are there.
fn version_in(bin: &Path) -> Option<(u32, u32)> {
    let server = bin.join("postgres");
    if !server.is_file() || !bin.join("initdb").is_file() {
        return None;
    }
    parse_version(&first_line(Command::new(server).arg("--version"))?)
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` to (15, 18); a beta or development version counts as
/// minor 0.
fn parse_version(line: &str) -> Option<(u32, u32)> {
    let number = line.split_once("(PostgreSQL) ")?.1.split(' ').next()?;
    let major: String = number.chars().take_while(char::is_ascii_digit).collect();
    let minor: String = number[major.len()..]
        .strip_prefix('.')
        .unwrap_or("")
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((major.parse().ok()?, minor.parse().unwrap_or(0)))
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(std::process::Stdio::null()).output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .map(str::to_owned)?;
    output.status.success().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs_of(bin: &str, version: (u32, u32)) -> Programs {
        Programs {
            bin: bin.into(),
            version,
        }
    }

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some((15, 18))
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 17.2"), Some((17, 2)));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some((18, 0)));
        assert_eq!(parse_version("mysqld 8"), None);
    }

    #[test]
    fn the_newest_installation_wins_and_the_first_of_equal_ones() {
        let found = [
            programs_of("/a", (16, 2)),
            programs_of("/b", (17, 1)),
            programs_of("/c", (17, 1)),
        ];
        assert_eq!(choose(&found, None).unwrap().bin, Path::new("/b"));
    }

    #[test]
    fn an_existing_cluster_is_run_by_its_own_major_version() {
        let found = [programs_of("/a", (16, 2)), programs_of("/b", (17, 1))];
        assert_eq!(choose(&found, Some(16)).unwrap().bin, Path::new("/a"));
        let error = choose(&found, Some(15)).unwrap_err().to_string();
        assert!(
            error.contains("postgresql-15") && error.contains("17.1 in /b"),
            "{error}"
        );
    }

    #[test]
    fn without_a_usable_installation_the_text_says_what_to_install() {
        let error = choose(&[programs_of("/old", (13, 4))], None)
            .unwrap_err()
            .to_string();
        for part in [
            "13.4 in /old",
            "apt install postgresql",
            "brew install",
            "CODITECT_DATABASE_URL",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(
            choose(&[], None)
                .unwrap_err()
                .to_string()
                .contains("none was found")
        );
    }
}
