//! Makes the cluster's files, once.

use anyhow::{Context as _, bail};

use super::find::Programs;
use super::folder::Folder;
use super::postmaster::{log_tail, open_log};

/// How the name of a cluster begins that is not yet whole; the number of the process that makes it follows.
const DRAFT: &str = "data.new.";

/// Makes an empty cluster. It appears under its name only when it is whole, since we and initdb may be killed halfway.
pub(super) async fn make(folder: &Folder, programs: &Programs, superuser: &str) -> anyhow::Result<()> {
    // A name of our own: the initdb of a killed server may still be at work in its draft.
    let draft = folder.path.join(format!("{DRAFT}{}", std::process::id()));
    tracing::info!(folder = %folder.data().display(), "making a PostgreSQL cluster");
    let log = open_log(folder)?;
    let mut command = tokio::process::Command::from(folder.command(&programs.bin.join("initdb")));
    let status = command
        .arg("-D")
        .arg(&draft)
        .args([
            "-U",
            superuser,
            "--auth-local=trust",
            "--auth-host=reject",
            "--no-instructions",
        ])
        // Checksums find what a disk silently changed. Locale C compares bytes: the same order on every system, and no
        // index goes bad with an update of the C library.
        .args(["--encoding=UTF8", "--locale=C", "--data-checksums"])
        .stdout(log.try_clone().context("sharing the log file")?)
        .stderr(log)
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("running {}", programs.bin.join("initdb").display()))?;
    if !status.success() {
        bail!("initdb failed ({status}); {}", log_tail(folder));
    }
    std::fs::rename(&draft, folder.data()).context("giving the new cluster its name")?;
    std::fs::File::open(&folder.path)
        .and_then(|file| file.sync_all())
        .context("syncing the cluster's folder")
}

/// Removes what earlier attempts left.
pub(super) fn remove_drafts(folder: &Folder) -> anyhow::Result<()> {
    let entries =
        std::fs::read_dir(&folder.path).with_context(|| format!("reading {}", folder.path.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(DRAFT)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            // An initdb that is still at work puts files back; it fails soon, and the next start removes the rest.
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove what an earlier attempt left");
        }
    }
    Ok(())
}

/// The major version that made the data; `None` if there is no data yet.
pub(super) fn major_of(folder: &Folder) -> anyhow::Result<Option<u32>> {
    let path = folder.data().join("PG_VERSION");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(
            text.trim()
                .parse()
                .with_context(|| format!("reading {}", path.display()))?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !folder.data().exists() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}
