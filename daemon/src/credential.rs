//! Where the token is kept: the keyring of the operating system (Secret Service, Keychain); where there is none, only
//! on the user's word, a file that its owner alone can read.
//!
//! All calls block, for as long as a keyring that asks its user for a password takes.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::account::write_private;

/// The name under which the keyring shows our secrets.
const SERVICE: &str = "coditect-sync";

/// How long a keyring may take: its user may have to type a password.
const KEYRING_TIMEOUT: Duration = Duration::from_secs(60);

/// A token or key. Neither Debug nor Display show it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// What lets a workstation in: an access token that was piped in, alone; or a pair that a device login gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub access: Secret,
    pub refresh: Option<Secret>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialStore {
    Keyring,
    /// `credentials`, mode 0600.
    File,
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error(
        "no keyring can be used here ({reason}): start one (gnome-keyring, KeePassXC, KWallet), or allow a file that only you can read with --insecure-storage"
    )]
    NoKeyring { reason: String },
    #[error("the keyring refused: {reason}")]
    Keyring { reason: String },
    #[error("{path} can be read by others (mode {mode:03o}): run `chmod 600` on it, or log in again")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the secret's file {path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself. Only for the request that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// When the token ends, if it is one that says so (a JWT). Not checked by its signature: a hint only.
    pub fn expires_at(&self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::from_second(self.claims()?.exp).ok()
    }

    /// For how long the token was made, if it says so. Unlike its end, this asks no clock of ours.
    pub fn life(&self) -> Option<Duration> {
        let claims = self.claims()?;
        let secs = claims.exp.checked_sub(claims.iat?)?;
        u64::try_from(secs).ok().map(Duration::from_secs)
    }

    fn claims(&self) -> Option<Claims> {
        use base64::Engine as _;

        let payload = self.0.split('.').nth(1)?;
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload)
            .ok()?;
        serde_json::from_slice(&json).ok()
    }
}

/// Seconds since 1970.
#[derive(Deserialize)]
struct Claims {
    exp: i64,
    iat: Option<i64>,
}

/// A pair, as it is stored.
#[derive(Serialize, Deserialize)]
struct Pair {
    access_token: String,
    refresh_token: String,
}

impl Tokens {
    /// From what was stored: a pair, or an access token as it is.
    pub fn read(stored: &Secret) -> Tokens {
        match serde_json::from_str::<Pair>(&stored.0) {
            Ok(pair) => Tokens {
                access: Secret(pair.access_token),
                refresh: Some(Secret(pair.refresh_token)),
            },
            Err(_) => Tokens {
                access: stored.clone(),
                refresh: None,
            },
        }
    }

    /// To be stored, as one secret: a crash never leaves one half of another pair.
    pub fn to_secret(&self) -> Secret {
        let Some(refresh) = &self.refresh else {
            return self.access.clone();
        };
        let pair = Pair {
            access_token: self.access.0.clone(),
            refresh_token: refresh.0.clone(),
        };
        Secret(serde_json::to_string(&pair).expect("two texts render as JSON"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Stores the secret under `key`: in the file where the user allowed that, else in the keyring.
pub fn store(
    file: &Path,
    key: &str,
    secret: &Secret,
    insecure: bool,
) -> Result<CredentialStore, CredentialError> {
    if insecure {
        write_file(file, key, secret)?;
        return Ok(CredentialStore::File);
    }
    let secret = secret.clone();
    with_keyring(key, move |entry| entry.set_password(secret.expose()))?;
    Ok(CredentialStore::Keyring)
}

/// `None`: there is no secret under this key.
pub fn load(file: &Path, key: &str, store: CredentialStore) -> Result<Option<Secret>, CredentialError> {
    match store {
        CredentialStore::File => read_file(file, key),
        CredentialStore::Keyring => with_keyring(key, |entry| match entry.get_password() {
            Ok(text) => Ok(Some(Secret(text))),
            Err(keyring::Error::NoEntry) => Ok(None),
            Err(error) => Err(error),
        }),
    }
}

/// Forgets the secret; one that is not there is as good as forgotten.
pub fn delete(file: &Path, key: &str, store: CredentialStore) -> Result<(), CredentialError> {
    match store {
        CredentialStore::File => match std::fs::remove_file(file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(file_error(file, source)),
            Ok(()) | Err(_) => Ok(()),
        },
        CredentialStore::Keyring => with_keyring(key, |entry| match entry.delete_credential() {
            Ok(()) | Err(keyring::Error::NoEntry) => Ok(()),
            Err(error) => Err(error),
        }),
    }
}

/// Whether a keyring answers here, and if not, why. For `doctor`.
pub fn keyring_answers() -> Result<(), CredentialError> {
    with_keyring("probe", |entry| match entry.get_password() {
        Ok(_) | Err(keyring::Error::NoEntry) => Ok(()),
        Err(error) => Err(error),
    })
}

/// Runs on a thread of its own, so that a keyring which never answers costs a thread and not the caller.
fn with_keyring<T: Send + 'static>(
    key: &str,
    act: impl FnOnce(&keyring::Entry) -> keyring::Result<T> + Send + 'static,
) -> Result<T, CredentialError> {
    let (answer, answered) = mpsc::channel();
    let key = key.to_owned();
    std::thread::spawn(move || {
        // Nobody listens any more after the time-out; then the answer is dropped.
        let _ = answer.send(ask_keyring(&key, act));
    });
    match answered.recv_timeout(KEYRING_TIMEOUT) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(CredentialError::Keyring {
            reason: format!(
                "no answer in {} s; is it waiting to be unlocked?",
                KEYRING_TIMEOUT.as_secs()
            ),
        }),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(CredentialError::NoKeyring {
            reason: "its client failed".into(),
        }),
    }
}

fn ask_keyring<T>(
    key: &str,
    act: impl FnOnce(&keyring::Entry) -> keyring::Result<T>,
) -> Result<T, CredentialError> {
    if let Err(error) = keyring::Entry::store_status() {
        return Err(CredentialError::NoKeyring {
            reason: describe(error),
        });
    }
    let entry = keyring::Entry::new(SERVICE, key).map_err(|error| CredentialError::NoKeyring {
        reason: describe(&error),
    })?;
    act(&entry).map_err(|error| CredentialError::Keyring {
        reason: describe(&error),
    })
}

/// The platform's own words where there are some: "Platform failure" in front of them says nothing.
fn describe(error: &keyring::Error) -> String {
    if let keyring::Error::PlatformFailure(source) | keyring::Error::NoStorageAccess(source) = error {
        return source.to_string();
    }
    if let keyring::Error::BadDataFormat(..) = error {
        // Its text may hold what was stored.
        return "the stored secret is damaged".into();
    }
    error.to_string()
}

#[derive(Serialize, Deserialize)]
struct StoredSecret {
    key: String,
    secret: String,
}

fn write_file(file: &Path, key: &str, secret: &Secret) -> Result<(), CredentialError> {
    let stored = StoredSecret {
        key: key.to_owned(),
        secret: secret.expose().to_owned(),
    };
    let json = serde_json::to_vec(&stored).expect("two texts render as JSON");
    write_private(file, &json).map_err(|source| file_error(file, source))
}

fn read_file(file: &Path, key: &str) -> Result<Option<Secret>, CredentialError> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(file_error(file, source)),
    };
    let mode = std::fs::metadata(file)
        .map_err(|source| file_error(file, source))?
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(CredentialError::Exposed {
            path: file.to_path_buf(),
            mode,
        });
    }
    // The parser's error would quote the file: it is left out.
    let stored: Option<StoredSecret> = serde_json::from_slice(&text).ok();
    Ok(stored
        .filter(|stored| stored.key == key)
        .map(|stored| Secret(stored.secret)))
}

fn file_error(file: &Path, source: io::Error) -> CredentialError {
    CredentialError::File {
        path: file.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn p15_a_secret_is_shown_by_neither_debug_nor_display() {
        let secret = Secret::new("hush");
        assert!(!format!("{secret:?} {secret}").contains("hush"));
    }

    #[test]
    fn a_token_that_says_when_it_ends_is_read() {
        let token = Secret::new("e30.eyJleHAiOjE4MDAwMDAwMDB9.c2ln");
        assert_eq!(token.expires_at().unwrap().as_second(), 1_800_000_000);
        for other in ["", "a.b.c", "opaque", "e30.e30.c2ln"] {
            assert_eq!(Secret::new(other).expires_at(), None, "{other}");
        }
    }

    #[test]
    fn the_life_of_a_token_is_read_without_a_clock() {
        let token = Secret::new("e30.eyJleHAiOjE4MDAwMDA5MDAsImlhdCI6MTgwMDAwMDAwMH0.c2ln");
        assert_eq!(token.life(), Some(Duration::from_secs(900)));
        assert_eq!(Secret::new("e30.eyJleHAiOjE4MDAwMDAwMDB9.c2ln").life(), None);
    }

    #[test]
    fn a_pair_and_a_token_alone_come_back_as_stored() {
        let (access, refresh) = (Secret::new("a.b.c"), Some(Secret::new("t.r")));
        for tokens in [
            Tokens {
                access: access.clone(),
                refresh,
            },
            Tokens {
                access,
                refresh: None,
            },
        ] {
            assert_eq!(Tokens::read(&tokens.to_secret()), tokens);
        }
    }

    #[test]
    fn p15_the_secrets_file_is_private_and_an_exposed_one_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let secret = Secret::new("hush");
        assert_eq!(store(&file, "k", &secret, true).unwrap(), CredentialStore::File);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load(&file, "k", CredentialStore::File).unwrap(), Some(secret));

        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(&file, "k", CredentialStore::File).unwrap_err();
        assert!(error.to_string().contains("mode 640"), "{error}");
    }

    #[test]
    fn a_secret_of_another_account_is_not_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        store(&file, "a@1", &Secret::new("hush"), true).unwrap();
        assert_eq!(load(&file, "a@2", CredentialStore::File).unwrap(), None);
        delete(&file, "a@1", CredentialStore::File).unwrap();
        delete(&file, "a@1", CredentialStore::File).unwrap();
        assert_eq!(load(&file, "a@1", CredentialStore::File).unwrap(), None);
    }

    #[test]
    fn p15_a_damaged_file_is_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        write_private(&file, b"{\"key\":\"k\",\"secret\":\"hush").unwrap();
        assert_eq!(load(&file, "k", CredentialStore::File).unwrap(), None);
    }
}
