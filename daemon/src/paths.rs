//! Where the files of one workstation are. Nothing else in the program builds such a path.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use coditect_shared::hash::sha256;
use serde::Serialize;

use crate::config::{Config, expand_home};

/// Longest path that a unix socket can be bound to: `sun_path` holds 104 bytes on macOS, 108 on Linux, one of them
/// the closing NUL. The smaller number, so that one home works on either.
pub const SOCKET_PATH_MAX_BYTES: usize = 103;

/// Every path is absolute, so that a daemon does not depend on the folder that it was started in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// The folder that holds everything of this workstation, where one was named.
    pub home: Option<PathBuf>,
    pub config: PathBuf,
    /// The file that other programs write.
    pub context_db: PathBuf,
    /// The batch in flight and other state of our own.
    pub state_db: PathBuf,
    /// Who is logged in, without the secret.
    pub account: PathBuf,
    /// The secret, only after `login --insecure-storage`.
    pub credentials: PathBuf,
    pub socket: PathBuf,
    /// Held by the running daemon. It lies beside context.db, so that two homes cannot share one file.
    pub lock: PathBuf,
    /// Log files of the background service; a daemon in the foreground logs to standard error.
    pub log_dir: PathBuf,
    /// Why the socket is not where one would look for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_note: Option<String>,
}

/// What the machine says about its folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Of `coditect`, in the platform's configuration directory.
    pub config_dir: PathBuf,
    /// Of `coditect`, in the platform's data directory.
    pub data_dir: PathBuf,
    /// `$XDG_RUNTIME_DIR`: private to the user, gone at log-out.
    pub runtime_dir: Option<PathBuf>,
    pub temp_dir: PathBuf,
    pub uid: u32,
}

impl Platform {
    pub fn of_this_machine() -> anyhow::Result<Platform> {
        let dirs = directories::ProjectDirs::from("", "", "coditect")
            .context("this user has no home directory: set HOME, or name a folder with --home")?;
        Ok(Platform {
            config_dir: dirs.config_dir().to_path_buf(),
            data_dir: dirs.data_dir().to_path_buf(),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR")
                .map(PathBuf::from)
                .filter(|dir| dir.is_absolute()),
            temp_dir: std::env::temp_dir(),
            uid: rustix::process::geteuid().as_raw(),
        })
    }
}

impl Paths {
    /// The paths before the configuration was read: under `home` where one is given, else in the platform's folders.
    pub fn resolve(home: Option<&Path>, platform: &Platform) -> io::Result<Paths> {
        let home = home.map(std::path::absolute).transpose()?;
        let (config_dir, data_dir) = match &home {
            Some(home) => (home, home),
            None => (&platform.config_dir, &platform.data_dir),
        };
        let wished = match (&home, &platform.runtime_dir) {
            (None, Some(runtime)) => runtime.join("coditect/sync.sock"),
            (None, None) | (Some(_), _) => data_dir.join("sync.sock"),
        };
        let (socket, socket_note) = short_enough(wished, platform);
        Ok(Paths {
            config: config_dir.join("config.toml"),
            context_db: data_dir.join("context.db"),
            state_db: data_dir.join("state.db"),
            account: data_dir.join("account.json"),
            credentials: data_dir.join("credentials"),
            lock: lock_of(&data_dir.join("context.db")),
            log_dir: data_dir.join("log"),
            socket,
            socket_note,
            home,
        })
    }

    /// The same with the context.db of the configuration, whose relative paths start at its own folder.
    pub fn with_context_db(mut self, config: &Config) -> io::Result<Paths> {
        if let Some(configured) = &config.context_db {
            let folder = self.config.parent().unwrap_or(Path::new("/"));
            self.context_db = std::path::absolute(folder.join(expand_home(configured)))?;
        }
        if self.context_db.is_symlink() {
            // SQLite keeps its WAL beside the file itself; that is where to watch, and what to lock.
            self.context_db = std::fs::canonicalize(&self.context_db)?;
        }
        self.lock = lock_of(&self.context_db);
        Ok(self)
    }

    /// A command to type, for the same workstation as this one.
    pub fn command(&self, words: &str) -> String {
        match &self.home {
            Some(home) => format!(
                "coditect-sync --home {} {words}",
                quoted(&home.display().to_string())
            ),
            None => format!("coditect-sync {words}"),
        }
    }

    /// Makes the folders of all these files, closed to others where they are new.
    pub fn make_folders(&self) -> anyhow::Result<()> {
        for file in [&self.config, &self.context_db, &self.state_db, &self.socket] {
            if let Some(folder) = file.parent() {
                make_private_folder(folder)?;
            }
        }
        if self.socket_note.is_some() {
            // This one may lie in a folder that everybody writes to, where somebody else may have made it first.
            refuse_if_not_ours(self.socket.parent().unwrap_or(Path::new("/")))?;
        }
        Ok(())
    }
}

/// As a shell takes it for one word.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    match word.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Creates the folder and its parents with mode 0700; leaves one that exists as it is.
pub fn make_private_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("creating the folder {}", folder.display()))
}

fn lock_of(context_db: &Path) -> PathBuf {
    let mut path = context_db.as_os_str().to_owned();
    path.push(".sync-lock");
    path.into()
}

fn short_enough(wished: PathBuf, platform: &Platform) -> (PathBuf, Option<String>) {
    let bytes = wished.as_os_str().as_bytes();
    if bytes.len() <= SOCKET_PATH_MAX_BYTES {
        return (wished, None);
    }
    let folder = match &platform.runtime_dir {
        Some(runtime) => runtime.join("coditect"),
        None => platform.temp_dir.join(format!("coditect-{}", platform.uid)),
    };
    let name = &sha256(bytes).to_string()[..16];
    let socket = folder.join(format!("{name}.sock"));
    let note = format!(
        "{} has {} bytes, a unix socket's path takes {SOCKET_PATH_MAX_BYTES}; a shorter --home brings it back",
        wished.display(),
        bytes.len(),
    );
    (socket, Some(note))
}

fn refuse_if_not_ours(folder: &Path) -> anyhow::Result<()> {
    let meta = std::fs::symlink_metadata(folder)
        .with_context(|| format!("looking at the folder {}", folder.display()))?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    anyhow::ensure!(
        ours,
        "{} belongs to somebody else or is open to others: remove it, or choose a shorter --home",
        folder.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform {
            config_dir: "/u/.config/coditect".into(),
            data_dir: "/u/.local/share/coditect".into(),
            runtime_dir: Some("/run/user/7".into()),
            temp_dir: "/tmp".into(),
            uid: 7,
        }
    }

    fn configuring(context_db: Option<&str>) -> Config {
        Config {
            context_db: context_db.map(PathBuf::from),
            ..Config::default()
        }
    }

    #[test]
    fn a_home_holds_everything() {
        let paths = Paths::resolve(Some(Path::new("/h")), &platform()).unwrap();
        for (path, expected) in [
            (&paths.config, "/h/config.toml"),
            (&paths.context_db, "/h/context.db"),
            (&paths.socket, "/h/sync.sock"),
            (&paths.state_db, "/h/state.db"),
            (&paths.account, "/h/account.json"),
        ] {
            assert_eq!(path, Path::new(expected));
        }
    }

    #[test]
    fn without_a_home_the_platforms_folders_are_used() {
        let paths = Paths::resolve(None, &platform()).unwrap();
        assert_eq!(paths.config, Path::new("/u/.config/coditect/config.toml"));
        assert_eq!(paths.context_db, Path::new("/u/.local/share/coditect/context.db"));
        assert_eq!(paths.socket, Path::new("/run/user/7/coditect/sync.sock"));
        let without_runtime = Platform {
            runtime_dir: None,
            ..platform()
        };
        let paths = Paths::resolve(None, &without_runtime).unwrap();
        assert_eq!(paths.socket, Path::new("/u/.local/share/coditect/sync.sock"));
    }

    #[test]
    fn a_configured_file_starts_at_the_folder_of_the_configuration() {
        let paths = Paths::resolve(Some(Path::new("/h")), &platform()).unwrap();
        for (configured, expected) in [
            (None, "/h/context.db"),
            (Some("other.db"), "/h/other.db"),
            (Some("/x/y.db"), "/x/y.db"),
        ] {
            let config = configuring(configured);
            let paths = paths.clone().with_context_db(&config).unwrap();
            assert_eq!(paths.context_db, Path::new(expected));
        }
    }

    #[test]
    fn a_link_to_the_file_stands_for_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::write(folder.join("real.db"), "").unwrap();
        std::os::unix::fs::symlink("real.db", folder.join("link.db")).unwrap();
        let paths = Paths::resolve(Some(Path::new("/h")), &platform()).unwrap();
        let link = folder.join("link.db");
        let linked = paths.with_context_db(&configuring(link.to_str())).unwrap();
        assert_eq!(linked.context_db, folder.join("real.db"));
        assert_eq!(linked.lock, folder.join("real.db.sync-lock"));
    }

    #[test]
    fn a_home_too_deep_for_a_socket_gets_a_short_one_and_says_so() {
        let deep = PathBuf::from(format!("/{}", "d".repeat(120)));
        let paths = Paths::resolve(Some(&deep), &platform()).unwrap();
        assert!(
            paths.socket.starts_with("/run/user/7/coditect"),
            "{}",
            paths.socket.display()
        );
        assert!(paths.socket.as_os_str().len() <= SOCKET_PATH_MAX_BYTES);
        assert!(paths.socket_note.unwrap().contains("has 131 bytes"));
        let other = PathBuf::from(format!("/{}", "e".repeat(120)));
        assert_ne!(
            Paths::resolve(Some(&other), &platform()).unwrap().socket,
            paths.socket
        );
    }

    #[test]
    fn a_home_with_spaces_can_be_pasted() {
        assert_eq!(quoted("/tmp/h-1"), "/tmp/h-1");
        assert_eq!(quoted("/my home"), "'/my home'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn new_folders_are_closed_to_others() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("a/b");
        let paths = Paths::resolve(Some(&home), &platform()).unwrap();
        paths.make_folders().unwrap();
        assert_eq!(std::fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
    }
}
