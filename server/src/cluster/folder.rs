//! The folder of the private cluster: who owns it, whether that user can get there, and where the socket lies.
//!
//! PostgreSQL refuses to run as root, so under root the cluster belongs to an unprivileged user.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use coditect_shared::hash::sha256;

use crate::data_dir::DataDir;

/// Port of the cluster. No TCP port is opened; the number is part of the socket's name.
pub(super) const PORT: u16 = 5432;

/// Longest path of a unix socket: macOS takes 103 bytes, Linux 107.
const SOCKET_PATH_MAX: usize = 103;

/// Users that packages make for PostgreSQL, on Linux and macOS.
const POSTGRES_USERS: [&str; 2] = ["postgres", "_postgres"];

/// Whom the cluster's files belong to and its processes run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether this process must change to it, which only root can.
    pub(super) switch: bool,
}

/// `DATA_DIR/pg`, owned by the account and closed to everybody else.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) account: Account,
}

impl Folder {
    /// Makes the folder, gives it to its account, and proves that the account can get there.
    ///
    /// # Errors
    /// If we are root and there is no unprivileged user, or that user cannot pass one of the folders on the way; the
    /// text names it.
    pub(super) fn prepare(data_dir: &DataDir) -> anyhow::Result<Folder> {
        let path = data_dir.path().join("pg");
        let account = Account::choose(&path)?;
        account.refuse_unreachable(data_dir.path())?;
        make_private(&path, account)?;
        Ok(Folder { path, account })
    }

    /// The folder as it is, without making or changing anything; `None` if there is none.
    pub(super) fn existing(data_dir: &DataDir) -> Option<PathBuf> {
        let path = data_dir.path().join("pg");
        path.is_dir().then_some(path)
    }

    /// PostgreSQL's own data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// What PostgreSQL prints.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// Makes the folder of the socket, in which nobody but the account (and root) can reach it.
    ///
    /// It lies beside the data unless the path is longer than a socket's may be; then under the runtime or temporary
    /// folder, by a name made from the path.
    pub(super) fn make_socket_folder(&self) -> anyhow::Result<PathBuf> {
        let folder = socket_folder(&self.path, self.account.switch)?;
        make_private(&folder, self.account)?;
        Ok(folder)
    }

    /// A program, to be run as the account and apart from our terminal and environment.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.account.apply(&mut command);
        command
            .current_dir(&self.path)
            .stdin(Stdio::null())
            .env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            // PGDATA, PGPORT, PGOPTIONS and their kin would lead the programs elsewhere; our own hold secrets; and only we
            // talk to the service manager, to which PostgreSQL would report itself as ready too.
            let theirs = [&b"PG"[..], b"CODITECT_", b"NOTIFY_SOCKET", b"WATCHDOG_"];
            if theirs.iter().any(|start| name.as_bytes().starts_with(start)) {
                command.env_remove(name);
            }
        }
        command
    }
}

impl Account {
    fn choose(pg_folder: &Path) -> anyhow::Result<Account> {
        let us = rustix::process::geteuid();
        if !us.is_root() {
            return Ok(Account {
                uid: us.as_raw(),
                gid: rustix::process::getegid().as_raw(),
                switch: false,
            });
        }
        // Whoever has owned the files so far goes on to, whatever users come and go.
        if let Ok(owner) = std::fs::metadata(pg_folder)
            && owner.uid() != 0
        {
            return Ok(Account {
                uid: owner.uid(),
                gid: owner.gid(),
                switch: true,
            });
        }
        for name in POSTGRES_USERS {
            if let (Some(uid), Some(gid)) = (id("-u", name), id("-g", name))
                && uid != 0
            {
                return Ok(Account {
                    uid,
                    gid,
                    switch: true,
                });
            }
        }
        bail!(
            "PostgreSQL does not run as root, and there is no user `postgres` to run it as: make one (`useradd --system postgres`), run coditect-server as an unprivileged user, or give the URL of a database in CODITECT_DATABASE_URL"
        )
    }

    fn apply(self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;
        if self.switch {
            // Groups first, then the user; std drops the supplementary groups when root changes the user.
            command.gid(self.gid).uid(self.uid);
        }
    }

    /// Proves by trying that the account can enter the folder: modes alone do not tell (access lists, mounts).
    fn refuse_unreachable(self, folder: &Path) -> anyhow::Result<()> {
        if !self.switch || self.can_enter(folder)? {
            return Ok(());
        }
        let mut ancestors: Vec<&Path> = folder.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if !self.can_enter(ancestor)? {
                bail!(
                    "the data directory {} cannot be used: PostgreSQL does not run as root, and the user that it runs as (uid {}) may not pass {}; allow it with `chmod o+x {}`, or choose another --data-dir",
                    folder.display(),
                    self.uid,
                    ancestor.display(),
                    ancestor.display(),
                );
            }
        }
        Ok(())
    }

    fn can_enter(self, folder: &Path) -> anyhow::Result<bool> {
        let mut command = Command::new("/bin/sh");
        self.apply(&mut command);
        // The folder is entered after the change of user, between fork and exec, and its refusal is spawn's error.
        let tried = command
            .args(["-c", ":"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .status();
        match tried {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error)
                .with_context(|| format!("trying to enter {} as uid {}", folder.display(), self.uid)),
        }
    }
}

/// Where the socket of a cluster lies.
fn socket_folder(pg_folder: &Path, root: bool) -> anyhow::Result<PathBuf> {
    let beside = pg_folder.join("run");
    if fits(&beside) {
        return Ok(beside);
    }
    let name = format!(
        "coditect-{}",
        &sha256(pg_folder.as_os_str().as_bytes()).to_string()[..16]
    );
    // Another user's runtime folder can stand in root's environment, after su.
    let runtime = if root {
        Some(PathBuf::from("/run"))
    } else {
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
    };
    [runtime, Some(std::env::temp_dir()), Some(PathBuf::from("/tmp"))]
        .into_iter()
        .flatten()
        .filter(|parent| parent.is_dir())
        .map(|parent| parent.join(&name))
        .find(|folder| fits(folder))
        .context("no folder is short enough for PostgreSQL's socket: choose a shorter --data-dir")
}

fn fits(folder: &Path) -> bool {
    folder.join(format!(".s.PGSQL.{PORT}")).as_os_str().len() <= SOCKET_PATH_MAX
}

/// Makes a folder that belongs to the account alone. One that is there must be so already: in a shared temporary folder
/// somebody else could have put it there first, and would then own our socket.
fn make_private(path: &Path, account: Account) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if account.switch {
                chown(path, Some(account.uid), Some(account.gid))
                    .with_context(|| format!("giving {} to uid {}", path.display(), account.uid))?;
            }
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("making the folder {}", path.display())),
    }
    let found = std::fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    let mode = found.permissions().mode() & 0o777;
    if !found.is_dir() || found.uid() != account.uid || mode & 0o077 != 0 {
        bail!(
            "{} must be a folder that belongs to uid {} alone (it belongs to uid {}, mode {mode:o}): remove it or give it back",
            path.display(),
            account.uid,
            found.uid(),
        );
    }
    Ok(())
}

/// What `id` says of a user. The system's user database has no other interface that works on both systems without C.
fn id(what: &str, user: &str) -> Option<u32> {
    let output = Command::new("id")
        .args([what, user])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_gives_a_short_folder_elsewhere() {
        let short = socket_folder(Path::new("/data/pg"), false).unwrap();
        assert_eq!(short, Path::new("/data/pg/run"));
        let long = Path::new("/data").join("x".repeat(120)).join("pg");
        let elsewhere = socket_folder(&long, false).unwrap();
        assert!(fits(&elsewhere), "{}", elsewhere.display());
        assert_eq!(elsewhere, socket_folder(&long, false).unwrap());
        assert_ne!(elsewhere, socket_folder(&long.join("y"), false).unwrap());
    }

    #[test]
    fn a_folder_that_others_could_enter_is_not_taken_for_private() {
        let parent = tempfile::tempdir().unwrap();
        let us = Account {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            switch: false,
        };
        let open = parent.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(
            make_private(&open, us)
                .unwrap_err()
                .to_string()
                .contains("mode 755")
        );
        let closed = parent.path().join("closed");
        make_private(&closed, us).unwrap();
        make_private(&closed, us).unwrap();
    }
}
