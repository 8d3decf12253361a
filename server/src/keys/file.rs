//! The file of the issuer's keys: `issuer.json` in the data directory, replaced as a whole and under a lock.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, KeyOperations, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey};
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};

use super::{Listed, RETIRED_SLACK, Signing};

const FILE_NAME: &str = "issuer.json";

/// What stands before the 32 bytes of an Ed25519 key in PKCS#8 (RFC 8410): version 0, the algorithm's identifier, and
/// the octet strings around the key.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The file's content.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    signing: Private,
    retired: Vec<Retired>,
}

#[derive(Serialize, Deserialize)]
struct Private {
    /// PKCS#8, as `openssl pkey` reads it.
    pem: String,
    created_at: Timestamp,
    /// The longest life of a token that it signed.
    max_ttl_secs: u64,
}

/// Of a key that signs no more, what checks its tokens.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Retired {
    pub(super) jwk: Jwk,
    created_at: Timestamp,
    retired_at: Timestamp,
    pub(super) removed_at: Timestamp,
}

/// What tells one state of the file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// The right to change the file, until this is dropped.
pub(super) struct Locked<'a> {
    data_dir: &'a Path,
    /// The directory itself bears the lock: another file would have to belong to somebody.
    _directory: File,
}

/// What the file holds, if there is one.
///
/// # Errors
/// If it cannot be read, is not understood, or may be read by others.
pub(super) fn read(data_dir: &Path) -> anyhow::Result<Option<(Record, Stamp)>> {
    let path = data_dir.join(FILE_NAME);
    let doing = || format!("reading the issuer's keys from {}", path.display());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(doing),
    };
    let metadata = file.metadata().with_context(doing)?;
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "the issuer's keys in {path} may be read by others (mode {mode:o}): run `chmod 600 {path}`, and `coditect-server key rotate` if they may have been seen",
            path = path.display(),
            mode = metadata.mode() & 0o777,
        );
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(doing)?;
    // The parser's own words would repeat a piece of the file.
    let record = serde_json::from_str(&text)
        .map_err(|error| anyhow::anyhow!("line {} is not understood", error.line()))
        .with_context(doing)?;
    Ok(Some((record, Stamp::from(&metadata))))
}

impl Locked<'_> {
    /// Waits for whoever changes the file now; that takes milliseconds.
    pub(super) fn take(data_dir: &Path) -> anyhow::Result<Locked<'_>> {
        let directory = File::open(data_dir)
            .and_then(|directory| directory.lock().map(|()| directory))
            .with_context(|| format!("locking {}", data_dir.display()))?;
        Ok(Locked {
            data_dir,
            _directory: directory,
        })
    }

    pub(super) fn read(&self) -> anyhow::Result<Option<(Record, Stamp)>> {
        read(self.data_dir)
    }

    /// Puts the file in place in one step: no crash leaves half of one.
    pub(super) fn write(&self, record: &Record) -> anyhow::Result<Stamp> {
        let path = self.data_dir.join(FILE_NAME);
        self.replace(&path, record)
            .with_context(|| format!("writing the issuer's keys to {}", path.display()))
    }

    fn replace(&self, path: &Path, record: &Record) -> anyhow::Result<Stamp> {
        let draft: PathBuf = self.data_dir.join(format!("{FILE_NAME}.new"));
        // One that a crash left behind may belong to somebody else.
        let _ = std::fs::remove_file(&draft);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        // Root administers a server that runs as another user, who must go on reading it.
        let owner = std::fs::metadata(path).or_else(|_| std::fs::metadata(self.data_dir))?;
        if rustix::process::geteuid().is_root() {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        let mut text = serde_json::to_string_pretty(record)?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(self.data_dir)?.sync_all()?;
        Ok(Stamp::from(&file.metadata()?))
    }
}

impl Stamp {
    pub(super) fn of(data_dir: &Path) -> Option<Stamp> {
        let metadata = std::fs::metadata(data_dir.join(FILE_NAME)).ok()?;
        Some(Stamp::from(&metadata))
    }
}

impl From<&std::fs::Metadata> for Stamp {
    fn from(metadata: &std::fs::Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Record {
    /// With a first key.
    pub(super) fn first(now: Timestamp) -> anyhow::Result<Record> {
        Ok(Record {
            signing: Private::new(now)?,
            retired: Vec::new(),
        })
    }

    /// A new key signs; the old one's private half is forgotten.
    pub(super) fn rotate(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let (_, jwk) = self.signing()?;
        let old = std::mem::replace(&mut self.signing, Private::new(now)?);
        let kept = Duration::from_secs(old.max_ttl_secs) + RETIRED_SLACK;
        self.retired.insert(
            0,
            Retired {
                jwk,
                created_at: old.created_at,
                retired_at: now,
                removed_at: now.checked_add(kept).unwrap_or(Timestamp::MAX),
            },
        );
        Ok(())
    }

    pub(super) fn note_ttl(&mut self, ttl: Duration) {
        self.signing.max_ttl_secs = self.signing.max_ttl_secs.max(ttl.as_secs());
    }

    pub(super) fn remove_due(&mut self, now: Timestamp) {
        self.retired.retain(|key| key.removed_at > now);
    }

    /// The retired keys whose tokens still count.
    pub(super) fn retired_at(&self, now: Timestamp) -> impl Iterator<Item = &Retired> {
        self.retired.iter().filter(move |key| key.removed_at > now)
    }

    /// The key that signs, and its public half.
    pub(super) fn signing(&self) -> anyhow::Result<(Signing, Jwk)> {
        let key = EncodingKey::from_ed_pem(self.signing.pem.as_bytes())
            .context("the issuer's key is no Ed25519 private key in PKCS#8")?;
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).context("deriving the public key")?;
        // The thumbprint (RFC 7638) names the key by what it is, so that a kept and a new key cannot collide.
        let kid = jwk
            .thumbprint(ThumbprintHash::SHA256)
            .context("naming the public key")?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_operations = Some(vec![KeyOperations::Verify]);
        let max_ttl = Duration::from_secs(self.signing.max_ttl_secs);
        Ok((Signing { kid, key, max_ttl }, jwk))
    }

    pub(super) fn list(&self, now: Timestamp) -> Vec<Listed> {
        let kid = |jwk: &Jwk| jwk.common.key_id.clone().unwrap_or_default();
        let signing = self.signing().map(|(signing, _)| signing.kid).unwrap_or_default();
        let first = Listed {
            kid: signing,
            state: "signing",
            created_at: self.signing.created_at,
            retired_at: None,
            removed_at: None,
        };
        let retired = self.retired_at(now).map(|key| Listed {
            kid: kid(&key.jwk),
            state: "retired",
            created_at: key.created_at,
            retired_at: Some(key.retired_at),
            removed_at: Some(key.removed_at),
        });
        std::iter::once(first).chain(retired).collect()
    }
}

impl Private {
    /// A new key from the operating system's random numbers.
    fn new(now: Timestamp) -> anyhow::Result<Private> {
        let mut seed = [0_u8; 32];
        SysRng
            .try_fill_bytes(&mut seed)
            .context("drawing random numbers from the operating system")?;
        let der = STANDARD.encode([PKCS8_PREFIX.as_slice(), &seed].concat());
        Ok(Private {
            pem: format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n"),
            created_at: now,
            max_ttl_secs: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kids(record: &Record, now: Timestamp) -> usize {
        record.list(now).len()
    }

    #[test]
    fn a_retired_key_is_gone_when_its_time_has_come() {
        let now = Timestamp::now();
        let mut record = Record::first(now).unwrap();
        record.note_ttl(Duration::from_secs(900));
        record.note_ttl(Duration::from_secs(60));
        record.rotate(now).unwrap();
        let kept = Duration::from_secs(900) + RETIRED_SLACK;
        let just_before = now + kept - Duration::from_secs(1);
        assert_eq!((kids(&record, now), kids(&record, just_before)), (2, 2));
        assert_eq!(kids(&record, now + kept), 1);
        record.remove_due(just_before);
        assert_eq!(record.retired.len(), 1);
        record.remove_due(now + kept);
        assert!(record.retired.is_empty());
    }

    #[test]
    fn p15_a_file_that_is_not_understood_is_not_repeated() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let mut text = serde_json::to_string(&Record::first(Timestamp::now()).unwrap()).unwrap();
        text = text.replace("\"max_ttl_secs\":0", "\"max_ttl_secs\":\"hunter2\"");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = format!("{:#}", read(folder.path()).map(drop).unwrap_err());
        assert!(
            error.contains("line 1 is not understood") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
