//! A disk of a few megabytes that can be filled: where the machine lets us mount one.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Written at once while the disk is filled; the rest goes byte by byte.
const PIECE_BYTES: usize = 4096;

/// A file system of its own, mounted on a folder. Dropped, it is gone with all that is on it.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts it. None where that is not permitted: the test has nothing to stand on then.
    pub fn mount_on(folder: &Path, megabytes: u32) -> Option<SmallDisk> {
        let size = format!("size={megabytes}m,mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "coditect-test"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: a small disk cannot be mounted here");
            return None;
        }
        Some(SmallDisk {
            folder: folder.to_path_buf(),
        })
    }

    /// Takes all that is free.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("making the filler");
        for size in [PIECE_BYTES, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("removing the filler");
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that still runs has files open on it.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.folder)
            .stderr(Stdio::null())
            .status();
    }
}
