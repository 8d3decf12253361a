//! The data directory: where it is, who may pass through it, and that one process at a time runs it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where root keeps it; everybody else has a place of their own.
const ROOT_FOLDER: &str = "/var/lib/coditect";

/// What a process holds the directory for; written into the lock file, for the text and decision of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `serve`: until the end of the process.
    Serve,
    /// One command; it is over in a moment.
    Administration,
}

/// A directory that is there and can be written.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// The directory is ours until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

/// Whoever holds the directory now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// `None` while the holder has not yet written who it is.
    pub purpose: Option<Purpose>,
    pub pid: Option<u32>,
}

/// The platform's data directory for this program; `/var/lib/coditect` for root.
pub fn default_path() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_FOLDER));
    }
    let dirs = directories::ProjectDirs::from("", "", "coditect")
        .context("there is no home directory to put the data in: name a folder with --data-dir")?;
    Ok(dirs.data_dir().join("server"))
}

impl DataDir {
    /// Opens the directory and makes it if it is missing.
    pub fn open(path: &Path) -> anyhow::Result<DataDir> {
        // Root's private cluster runs as another user, who must be able to pass, though not to look around.
        let mode = if rustix::process::geteuid().is_root() {
            0o711
        } else {
            0o700
        };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("making the data directory {}", path.display()))?;
        // Absolute, since it is handed to programs that run elsewhere; and one name for one folder.
        let path = path
            .canonicalize()
            .with_context(|| format!("finding the data directory {}", path.display()))?;
        Ok(DataDir { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the directory, or says who has it.
    pub fn hold(&self, purpose: Purpose) -> anyhow::Result<Result<Held, Holder>> {
        let path = self.path.join("server.lock");
        let doing = || format!("locking {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(doing)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).with_context(doing)?;
                return Ok(Err(Holder::from_text(&text)));
            }
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                return Err(error).with_context(|| format!("{}: this file system knows no locks", doing()));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(doing),
        }
        file.set_len(0).with_context(doing)?;
        file.rewind().with_context(doing)?;
        writeln!(file, "{} {}", purpose.word(), std::process::id()).with_context(doing)?;
        Ok(Ok(Held { _file: file }))
    }
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Serve => "serve",
            Purpose::Administration => "administration",
        }
    }
}

impl Holder {
    fn from_text(text: &str) -> Holder {
        let (word, pid) = text.trim().split_once(' ').unwrap_or_default();
        let purpose = [Purpose::Serve, Purpose::Administration]
            .into_iter()
            .find(|purpose| purpose.word() == word);
        Holder {
            purpose,
            pid: pid.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_belongs_to_one_holder_who_is_named_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let held = dir.hold(Purpose::Serve).unwrap().unwrap();
        let holder = dir.hold(Purpose::Administration).unwrap().unwrap_err();
        assert_eq!(
            holder,
            Holder {
                purpose: Some(Purpose::Serve),
                pid: Some(std::process::id())
            }
        );
        drop(held);
        assert!(dir.hold(Purpose::Administration).unwrap().is_ok());
    }

    #[test]
    fn a_holder_that_has_not_yet_written_who_it_is_is_unknown() {
        assert_eq!(
            Holder::from_text(""),
            Holder {
                purpose: None,
                pid: None
            }
        );
    }
}
