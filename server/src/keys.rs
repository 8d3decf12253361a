//! The key with which the built-in issuer signs access tokens: made at the first start, kept in the data directory,
//! readable by its owner alone, published at `/.well-known/jwks.json`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyOperations, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rand::TryRng as _;
use rand::rngs::SysRng;

/// Name of the private key's file inside the data directory.
const FILE_NAME: &str = "issuer.pem";

/// What stands before the 32 bytes of an Ed25519 key in PKCS#8 (RFC 8410): version 0, the algorithm's identifier, and
/// the octet strings around the key.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The issuer's key pair. Its Debug shows the key's id alone.
pub struct Issuer {
    pub(crate) kid: String,
    pub(crate) signing: EncodingKey,
    pub(crate) verifying: DecodingKey,
    jwk: Jwk,
}

impl Issuer {
    /// Reads the key of a data directory, or makes it if there is none.
    ///
    /// # Errors
    /// If the file cannot be read or made, holds no Ed25519 key, or is readable by others.
    pub fn load_or_make(data_dir: &Path) -> anyhow::Result<Issuer> {
        let path = data_dir.join(FILE_NAME);
        match std::fs::read(&path) {
            Ok(pem) => {
                refuse_if_others_may_read(&path)?;
                Issuer::from_pem(&pem).with_context(|| format!("reading the issuer key {}", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pem = make_pem()?;
                write_once(data_dir, &path, &pem)
                    .with_context(|| format!("writing the issuer key {}", path.display()))?;
                // Read back, since another process may have been first.
                let pem = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                Issuer::from_pem(&pem)
            }
            Err(error) => Err(error).with_context(|| format!("reading the issuer key {}", path.display())),
        }
    }

    /// The key pair of a PKCS#8 file.
    pub fn from_pem(pem: &[u8]) -> anyhow::Result<Issuer> {
        let signing = EncodingKey::from_ed_pem(pem).context("this is no Ed25519 private key in PKCS#8")?;
        let mut jwk =
            Jwk::from_encoding_key(&signing, Algorithm::EdDSA).context("deriving the public key")?;
        // The thumbprint (RFC 7638) names the key by what it is, so that a kept and a new key cannot collide.
        let kid = jwk
            .thumbprint(ThumbprintHash::SHA256)
            .context("naming the public key")?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_operations = Some(vec![KeyOperations::Verify]);
        let verifying = DecodingKey::from_jwk(&jwk).context("deriving the public key")?;
        Ok(Issuer {
            kid,
            signing,
            verifying,
            jwk,
        })
    }

    /// The public keys, as `/.well-known/jwks.json` answers.
    pub fn jwks(&self) -> JwkSet {
        JwkSet {
            keys: vec![self.jwk.clone()],
        }
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// A new private key from the operating system's random numbers, as PEM that `openssl pkey` reads.
fn make_pem() -> anyhow::Result<String> {
    let mut seed = [0_u8; 32];
    SysRng
        .try_fill_bytes(&mut seed)
        .context("drawing random numbers from the operating system")?;
    let der = STANDARD.encode([PKCS8_PREFIX.as_slice(), &seed].concat());
    Ok(format!(
        "-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n"
    ))
}

/// Writes the file in one step under its final name, unless it has appeared meanwhile: two first starts at once must
/// end with one key, and no crash may leave half of one.
fn write_once(data_dir: &Path, path: &Path, pem: &str) -> anyhow::Result<()> {
    let draft = data_dir.join(format!("{FILE_NAME}.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match linked {
        Ok(()) => Ok(File::open(data_dir)?.sync_all()?),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn refuse_if_others_may_read(path: &Path) -> anyhow::Result<()> {
    let mode = std::fs::metadata(path)
        .with_context(|| format!("looking at {}", path.display()))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        bail!(
            "the issuer key {path} may be read by others (mode {mode:o}): run `chmod 600 {path}`, and delete it to have a new one made if it may have been seen",
            path = path.display(),
            mode = mode & 0o777,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_then_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = Issuer::load_or_make(folder.path()).unwrap();
        let second = Issuer::load_or_make(folder.path()).unwrap();
        assert_eq!(first.jwks(), second.jwks());
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, [FILE_NAME], "nothing but the key is left");
    }

    #[test]
    fn p15_the_key_is_readable_by_its_owner_alone_and_refused_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let made = Issuer::load_or_make(folder.path()).unwrap();
        let path = folder.path().join(FILE_NAME);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Issuer::load_or_make(folder.path()).unwrap_err().to_string();
        assert!(error.contains("may be read by others (mode 640)"), "{error}");
        let shown = format!("{made:?}");
        assert!(shown.contains(&made.kid) && !shown.contains("signing"), "{shown}");
    }

    #[test]
    fn a_file_that_is_no_key_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        std::fs::write(&path, "not a key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Issuer::load_or_make(folder.path()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a key");
    }

    #[test]
    fn the_published_key_is_an_okp_key_without_its_private_half() {
        let folder = tempfile::tempdir().unwrap();
        let jwks = serde_json::to_value(Issuer::load_or_make(folder.path()).unwrap().jwks()).unwrap();
        let key = &jwks["keys"][0];
        assert_eq!(
            (key["kty"].as_str(), key["crv"].as_str()),
            (Some("OKP"), Some("Ed25519"))
        );
        assert!(key.get("d").is_none());
    }
}
