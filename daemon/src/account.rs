//! `account.json`: who is logged in on this workstation, and where the secret is kept. The secret itself is not in it.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use coditect_shared::{DeviceId, TenantId, UserId, wire};
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use crate::credential::CredentialStore;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub server: Url,
    /// Made with the server's database; what a context.db is bound to, together with tenant and user.
    pub instance_id: Uuid,
    pub tenant_id: TenantId,
    /// The tenant's name.
    pub tenant: String,
    pub user_id: UserId,
    /// The user's e-mail.
    pub user: String,
    pub role: String,
    pub credential_store: CredentialStore,
    /// This workstation as the server knows it from a device login. It stays through later logins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in_device: Option<DeviceId>,
}

impl Account {
    pub fn new(server: Url, answer: wire::Account, credential_store: CredentialStore) -> Account {
        Account {
            server,
            instance_id: answer.instance_id,
            tenant_id: answer.tenant_id,
            tenant: answer.tenant,
            user_id: answer.user_id,
            user: answer.user,
            role: answer.role,
            credential_store,
            sign_in_device: None,
        }
    }

    /// `None`: nobody is logged in.
    pub fn load(path: &Path) -> anyhow::Result<Option<Account>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let account = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not understood: log in again, or remove it", path.display()))?;
        Ok(Some(account))
    }

    /// Replaces the file in one step, readable by its owner alone.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(self).context("rendering the account")?;
        json.push(b'\n');
        write_private(path, &json).with_context(|| format!("writing {}", path.display()))
    }

    /// Whether there was one to remove.
    pub fn remove(path: &Path) -> anyhow::Result<bool> {
        match std::fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("removing {}", path.display())),
        }
    }

    /// The account in words.
    pub fn whose(&self) -> String {
        format!("{} of {}, at {}", self.user, self.tenant, self.server)
    }

    /// The name of this account's secret. User and server are part of it, so that a crash between two logins cannot
    /// send one server's token to another; the path keeps two workstations of one user apart.
    pub fn credential_key(&self, account_path: &Path) -> String {
        format!("{}@{} {}", self.user_id, self.instance_id, account_path.display())
    }
}

/// Writes a file of mode 0600 so that a reader, also after a crash, finds the old content or the new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // A left-over of a crash may have another owner's mode: never write into it.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        // The rename is durable only with its folder.
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn account() -> Account {
        Account {
            server: "https://sync.acme.test".parse().unwrap(),
            instance_id: Uuid::from_u128(1),
            tenant_id: TenantId(Uuid::from_u128(2)),
            tenant: "acme".into(),
            user_id: Uuid::from_u128(3).into(),
            user: "a@acme.test".into(),
            role: "member".into(),
            credential_store: CredentialStore::File,
            sign_in_device: None,
        }
    }

    #[test]
    fn an_account_comes_back_as_saved_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("account.json");
        assert_eq!(Account::load(&path).unwrap(), None);
        account().save(&path).unwrap();
        account().save(&path).unwrap();
        assert_eq!(Account::load(&path).unwrap(), Some(account()));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(Account::remove(&path).unwrap());
        assert!(!Account::remove(&path).unwrap());
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("account.json");
        std::fs::write(&path, "{").unwrap();
        assert!(
            Account::load(&path)
                .unwrap_err()
                .to_string()
                .contains("log in again")
        );
    }
}
