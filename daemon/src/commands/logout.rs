//! `logout`: forgets the token. The file stays bound: its rows are one customer's, and must not flow to another.

use serde_json::json;

use super::daemon::Daemon;
use crate::account::Account;
use crate::cli::Setup;
use crate::credential;
use crate::output::{self, Fault};

pub(super) async fn run(json: bool, setup: &Setup) -> Result<(), Fault> {
    let Some(account) = Account::load(&setup.paths.account)? else {
        return if json {
            output::json(&json!({"logged_out": null}))
        } else {
            output::text("nobody was logged in")
        };
    };
    // First what makes this a login: if the keyring fails now, the token is unused at least.
    Account::remove(&setup.paths.account)?;
    let key = account.credential_key(&setup.paths.account);
    let forgotten = credential::delete(&setup.paths.credentials, &key, account.credential_store);
    Daemon::of(setup)?.tell_if_running("reload").await?;
    if let Err(error) = forgotten {
        return Err(Fault::failed(format!(
            "logged out, but the token could not be removed: {error}"
        )));
    }
    if json {
        return output::json(&json!({"logged_out": account.user}));
    }
    output::text(&format!(
        "logged out {}; {} keeps its rows, and stays bound to that account",
        account.user,
        setup.paths.context_db.display()
    ))
}
