//! What kind of disk a file lies on.

use std::path::Path;

use anyhow::ensure;

/// Bytes that this user can still write where `path` is or will be. `None`: the system does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(nearest(path)).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses a place on a network file system: SQLite's locks and its shared memory do not reach other machines there,
/// and two programs on two machines would damage the file.
pub fn refuse_network(path: &Path) -> anyhow::Result<()> {
    ensure!(
        !is_network(nearest(path)),
        "{} lies on a network file system, where SQLite's locks do not hold: \
         choose a place on a disk of this machine (--home, --context-db)",
        path.display()
    );
    Ok(())
}

/// The path itself, or the nearest folder above it that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors()
        .find(|there| there.exists())
        .unwrap_or(Path::new("/"))
}

#[cfg(target_os = "linux")]
fn is_network(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| is_network_type(stat.f_type as u64 & 0xffff_ffff))
}

/// Magic numbers of statfs(2). FUSE is not among them: it may be anything, and is mostly local.
#[cfg(target_os = "linux")]
fn is_network_type(magic: u64) -> bool {
    const NFS: u64 = 0x6969;
    const SMB: u64 = 0x517b;
    const CIFS: u64 = 0xff53_4d42;
    const SMB2: u64 = 0xfe53_4d42;
    const AFS: u64 = 0x5346_414f;
    const CODA: u64 = 0x7375_7245;
    const CEPH: u64 = 0x00c3_6400;
    [NFS, SMB, CIFS, SMB2, AFS, CODA, CEPH].contains(&magic)
}

#[cfg(target_os = "macos")]
fn is_network(path: &Path) -> bool {
    /// Of sys/mount.h: the file system is stored locally.
    const MNT_LOCAL: u32 = 0x1000;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_flags & MNT_LOCAL == 0)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn is_network(_path: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_yet_to_be_made_is_judged_by_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/context.db");
        assert_eq!(nearest(&file), folder.path());
        assert!(free_bytes(&file).unwrap() > 0);
        refuse_network(&file).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn network_file_systems_are_told_by_their_magic_numbers() {
        const EXT4: u64 = 0xef53;
        const TMPFS: u64 = 0x0102_1994;
        const OVERLAY: u64 = 0x794c_7630;
        for local in [EXT4, TMPFS, OVERLAY] {
            assert!(!is_network_type(local), "{local:x}");
        }
        for network in [0x6969, 0xff53_4d42, 0xfe53_4d42] {
            assert!(is_network_type(network), "{network:x}");
        }
    }
}
