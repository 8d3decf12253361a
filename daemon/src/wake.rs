//! A hint that something happened to context.db. The truth is `data_version`, which the loop polls anyway.
//!
//! The folder is watched, not the file: `-wal` vanishes at the last close and comes back as a new file.

use std::path::Path;
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Watches until dropped.
#[derive(Debug)]
pub struct Wake {
    _watcher: Option<RecommendedWatcher>,
    hint: Arc<Notify>,
}

impl Wake {
    /// Where watching is not possible (no more inotify watches, an odd file system) the loop's poll remains.
    pub fn on(context_db: &Path) -> Self {
        let hint = Arc::new(Notify::new());
        let watcher = watch(context_db, Arc::clone(&hint))
            .inspect_err(
                |error| tracing::warn!(%error, "cannot watch the folder of context.db; polling it instead"),
            )
            .ok();
        Self {
            _watcher: watcher,
            hint,
        }
    }

    /// Ends with the next change. One that came since the last call counts.
    pub async fn changed(&self) {
        self.hint.notified().await;
    }
}

fn watch(context_db: &Path, hint: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let name = context_db.file_name().unwrap_or_default().to_os_string();
    let folder = context_db
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns_us = match &event {
            // A lost event may have been ours.
            Err(_) => true,
            Ok(event) => is_write(event.kind) && event.paths.iter().any(|path| belongs_to(path, &name)),
        };
        if concerns_us {
            hint.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn is_write(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// The file itself, its -wal and its -journal; not -shm, which readers write too.
fn belongs_to(path: &Path, name: &std::ffi::OsStr) -> bool {
    let Some(file) = path.file_name() else {
        return false;
    };
    let (file, name) = (file.to_string_lossy(), name.to_string_lossy());
    file.strip_prefix(&*name)
        .is_some_and(|rest| matches!(rest, "" | "-wal" | "-journal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_to_the_file_and_its_journals_count() {
        let name = std::ffi::OsStr::new("context.db");
        for (path, counts) in [
            ("/a/context.db", true),
            ("/a/context.db-wal", true),
            ("/a/context.db-shm", false),
            ("/a/state.db", false),
        ] {
            assert_eq!(belongs_to(Path::new(path), name), counts, "{path}");
        }
    }
}
