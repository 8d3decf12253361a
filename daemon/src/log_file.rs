//! A log in a file of bounded size, for service managers that keep no logs themselves (launchd).
//!
//! `FILE` is the newest; at its full size it becomes `FILE.1`, that `FILE.2`, and so on, and the oldest goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Size at which a file is full: some 30,000 lines, months of an ordinary daemon.
const FILE_BYTES_MAX: u64 = 5 << 20;

/// Files that are kept beside the newest one.
const OLD_FILES_MAX: u32 = 3;

/// The open log. Nobody else must write to its files.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl LogFile {
    /// Opens the file for appending. Only its owner can read it.
    pub(crate) fn open(path: &Path) -> io::Result<LogFile> {
        Self::open_with(path, FILE_BYTES_MAX)
    }

    fn open_with(path: &Path, bytes_max: u64) -> io::Result<LogFile> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        Ok(LogFile {
            path: path.to_path_buf(),
            bytes: file.metadata()?.len(),
            file,
            bytes_max,
        })
    }

    /// If it fails, the full file goes on growing: better than no log.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..OLD_FILES_MAX).rev() {
            match std::fs::rename(self.old(number), self.old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        std::fs::rename(&self.path, self.old(1))?;
        *self = Self::open_with(&self.path, self.bytes_max)?;
        Ok(())
    }

    fn old(&self, number: u32) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!(".{number}"));
        path.into()
    }
}

impl Write for LogFile {
    /// One call is one line: a file never begins or ends in the middle of one.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            let _ = self.rotate();
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_stays_bounded_keeps_whole_lines_and_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sync.log");
        let mut log = LogFile::open_with(&path, 100).unwrap();
        for n in 0..100 {
            log.write_all(format!("line {n} of the log\n").as_bytes())
                .unwrap();
        }
        drop(log);
        // A daemon that starts again goes on in the same file.
        LogFile::open_with(&path, 100)
            .unwrap()
            .write_all(b"after a restart\n")
            .unwrap();
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["sync.log", "sync.log.1", "sync.log.2", "sync.log.3"]);
        let mut text = String::new();
        for name in names.iter().rev() {
            let file = folder.path().join(name);
            let meta = std::fs::metadata(&file).unwrap();
            assert!(meta.len() <= 100, "{name} has {} bytes", meta.len());
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
            text.push_str(&std::fs::read_to_string(file).unwrap());
        }
        assert!(
            text.ends_with("line 98 of the log\nline 99 of the log\nafter a restart\n"),
            "{text}"
        );
        assert!(text.starts_with("line "), "{text}");
    }
}
