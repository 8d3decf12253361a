//! `logout`: forgets the token. The file stays bound: its rows are one customer's, and must not flow to another.

use std::time::Duration;

use serde_json::json;

use super::daemon::Daemon;
use crate::account::Account;
use crate::cli::Setup;
use crate::client::access;
use crate::client::sign_in::SignIn;
use crate::credential::{self, Tokens};
use crate::output::{self, Fault, remark};

/// How long the server may take to hear of it: logging out works offline.
const TELL_FOR: Duration = Duration::from_secs(5);

pub(super) async fn run(json: bool, setup: &Setup) -> Result<(), Fault> {
    let Some(account) = Account::load(&setup.paths.account)? else {
        return if json {
            output::json(&json!({"logged_out": null}))
        } else {
            output::text("nobody was logged in")
        };
    };
    let device = revoked(&account, setup).await;
    // First what makes this a login: if the keyring fails now, the token is unused at least.
    Account::remove(&setup.paths.account)?;
    let key = account.credential_key(&setup.paths.account);
    let _lock = access::lock(&setup.paths.credentials).await?;
    let forgotten = credential::delete(&setup.paths.credentials, &key, account.credential_store);
    Daemon::of(setup)?.tell_if_running("reload").await?;
    if device == Some(false) {
        remark(
            "the server could not be told: there this device counts as logged in until somebody revokes it",
        );
    }
    if let Err(error) = forgotten {
        return Err(Fault::failed(format!(
            "logged out, but the token could not be removed: {error}"
        )));
    }
    if json {
        return output::json(&json!({"logged_out": account.user, "device_revoked": device}));
    }
    output::text(&format!(
        "logged out {}; {} keeps its rows, and stays bound to that account",
        account.user,
        setup.paths.context_db.display()
    ))
}

/// Tells the server, if the login is one that it can end. `None`: it is not.
async fn revoked(account: &Account, setup: &Setup) -> Option<bool> {
    let stored = super::load_token(account, setup).await.ok()??;
    let (refresh, device) = (Tokens::read(&stored).refresh?, account.sign_in_device?);
    let sign_in = SignIn::new(&account.server, device, setup.ca_file().as_deref()).ok()?;
    let told = tokio::time::timeout(TELL_FOR, sign_in.revoke(&refresh)).await;
    Some(matches!(told, Ok(Ok(()))))
}
