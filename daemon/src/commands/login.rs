//! `login`: gets tokens, by device login or piped in; asks the server whom they speak for, stores the secret, binds the
//! file, and writes the account last: a step that fails leaves nothing behind that the daemon would take for a login.

use std::io::{IsTerminal, Read};

use anyhow::Context;
use coditect_shared::DeviceId;
use jiff::Timestamp;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::daemon::Daemon;
use super::{approval, consent, fault_of};
use crate::account::Account;
use crate::cli::{self, Setup};
use crate::client::sign_in::SignIn;
use crate::client::{Client, access, is_loopback};
use crate::credential::{self, CredentialStore, Secret, Tokens};
use crate::disk;
use crate::output::{self, Fault, remark};
use crate::status::age;
use crate::store::{Store, StoreError};

/// Longest token that is read; header lines end at 8 KB with most servers.
const TOKEN_MAX_BYTES: u64 = 16 * 1024;

pub(super) async fn run(args: &cli::Login, setup: &Setup) -> Result<(), Fault> {
    let server = args.server.as_ref().or(setup.config.server.as_ref());
    let server = server.ok_or_else(|| Fault::Usage("which server? name it with --server URL".into()))?;
    check_server(server, args.allow_http).map_err(Fault::Usage)?;
    if args.token_stdin {
        let tokens = Tokens {
            access: read_token()?,
            refresh: None,
        };
        return with_tokens(args, setup, server, &tokens, None).await;
    }
    let (sign_in, device) = sign_in(server, setup)?;
    let tokens = approval::wait_for(&sign_in, args.json).await?;
    let done = with_tokens(args, setup, server, &tokens, Some(device)).await;
    if done.is_err()
        && let Some(refresh) = &tokens.refresh
    {
        // Nothing was stored: nobody has these tokens.
        let _ = sign_in.revoke(refresh).await;
    }
    done
}

/// The device that signs in: the same as at the last login of this workstation, or a new one.
fn sign_in(server: &Url, setup: &Setup) -> Result<(SignIn, DeviceId), Fault> {
    let before = Account::load(&setup.paths.account).unwrap_or_default();
    let known = before.and_then(|before| before.sign_in_device);
    let device = known.unwrap_or_else(|| DeviceId(Uuid::new_v4()));
    Ok((SignIn::new(server, device, setup.ca_file().as_deref())?, device))
}

async fn with_tokens(
    args: &cli::Login,
    setup: &Setup,
    server: &Url,
    tokens: &Tokens,
    sign_in_device: Option<DeviceId>,
) -> Result<(), Fault> {
    // The device is that of the file, which is not touched before the server has agreed.
    let client = Client::new(
        server,
        DeviceId(Uuid::nil()),
        &tokens.access,
        setup.ca_file().as_deref(),
    )?;
    let answer = client.account().await.map_err(fault_of)?;

    disk::refuse_network(&setup.paths.context_db)?;
    let leaving = consent::before_first_upload(setup, server, &answer, args.yes)?;
    setup.paths.make_folders()?;
    let before = Account::load(&setup.paths.account).unwrap_or_default();
    let mut store = Store::open(&setup.paths.context_db).map_err(store_fault)?;
    let (instance, tenant, user) = (answer.instance_id, answer.tenant_id, answer.user_id.clone());
    if store.binding().map_err(anyhow::Error::new)?.is_some() {
        // Somebody else's file is refused before the former token is replaced.
        store.bind(instance, tenant, &user).map_err(store_fault)?;
    }
    let mut account = Account::new(server.clone(), answer, CredentialStore::Keyring);
    account.sign_in_device = sign_in_device;
    let key = account.credential_key(&setup.paths.account);
    let secret = tokens.to_secret();
    let kept = access::lock(&setup.paths.credentials).await?;
    account.credential_store =
        credential::store(&setup.paths.credentials, &key, &secret, args.insecure_storage)
            .map_err(anyhow::Error::new)?;
    drop(kept);
    // A new file is bound only now: without a place for the token it must stay free for another account.
    store.bind(instance, tenant, &user).map_err(store_fault)?;
    store.name_binding(&account.whose()).map_err(anyhow::Error::new)?;
    account.save(&setup.paths.account)?;
    if let Some(before) = before {
        forget_former(&before, &account, setup);
    }
    let running = Daemon::of(setup)?.tell_if_running("reload").await?;
    report(args, setup, &account, tokens, running, &leaving)
}

/// Why this address is not logged in to.
fn check_server(server: &Url, allow_http: bool) -> Result<(), String> {
    let example = "an address such as https://sync.acme.test is expected";
    match server.scheme() {
        "https" => {}
        "http" if is_loopback(server) || allow_http => {}
        "http" => {
            return Err(format!(
                "{server} has no TLS: on the way there token and rows can be read by others; use https, or --allow-http on a network that you trust"
            ));
        }
        other => return Err(format!("{other} is no protocol of a server: {example}")),
    }
    if server.host().is_none() {
        return Err(format!("{server} names no machine: {example}"));
    }
    if !server.username().is_empty() || server.password().is_some() {
        return Err(format!("leave user and password out of the address: {example}"));
    }
    if server.query().is_some() || server.fragment().is_some() {
        return Err(format!(
            "leave everything after ? and # out of the address: {example}"
        ));
    }
    Ok(())
}

fn read_token() -> Result<Secret, Fault> {
    let stdin = std::io::stdin();
    let mut text = String::new();
    if stdin.is_terminal() {
        remark("paste the access token and press Enter:");
        stdin.read_line(&mut text).context("reading the token")?;
    } else {
        stdin
            .lock()
            .take(TOKEN_MAX_BYTES)
            .read_to_string(&mut text)
            .context("reading the token")?;
    }
    let token = text.trim();
    if token.is_empty() {
        return Err(Fault::Usage("standard input holds no token".into()));
    }
    Ok(Secret::new(token))
}

fn store_fault(error: StoreError) -> Fault {
    Fault::Failed(anyhow::Error::new(error))
}

/// A secret that the new login does not replace, since it has another name or place.
fn forget_former(before: &Account, now: &Account, setup: &Setup) {
    let (former, present) = (
        before.credential_key(&setup.paths.account),
        now.credential_key(&setup.paths.account),
    );
    let replaced = before.credential_store == now.credential_store
        && (former == present || before.credential_store == CredentialStore::File);
    if replaced {
        return;
    }
    if let Err(error) = credential::delete(&setup.paths.credentials, &former, before.credential_store) {
        remark(&format!("the former token stays where it was: {error}"));
    }
}

fn report(
    args: &cli::Login,
    setup: &Setup,
    account: &Account,
    tokens: &Tokens,
    running: bool,
    leaving: &Value,
) -> Result<(), Fault> {
    // Tokens that renew themselves have no end that concerns anybody.
    let expires_at = match &tokens.refresh {
        Some(_) => None,
        None => tokens.access.expires_at(),
    };
    if args.json {
        let result = json!({
            "account": account,
            "token_expires_at": expires_at,
            "daemon_running": running,
            "leaving": leaving,
        });
        return output::json(&result);
    }
    let mut text = format!(
        "logged in as {} ({} of {}) at {}\n",
        account.user, account.role, account.tenant, account.server
    );
    let place = match account.credential_store {
        CredentialStore::Keyring => "the keyring".to_owned(),
        CredentialStore::File => format!("{}, which only you can read", setup.paths.credentials.display()),
    };
    text.push_str(&format!(
        "{} is bound to this account; the token is in {place}\n",
        setup.paths.context_db.display()
    ));
    if let Some(expires_at) = expires_at {
        let left = expires_at.duration_since(Timestamp::now());
        text.push_str(&format!("the token is valid for {}\n", age(left)));
    }
    match running {
        true => text.push_str("the daemon goes on with it"),
        false => text.push_str(&format!("next: {}", setup.command("run"))),
    }
    output::text(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p15_plain_http_is_for_this_machine_unless_allowed() {
        let check = |url: &str, allow| check_server(&url.parse().unwrap(), allow);
        for good in [
            "https://sync.acme.test",
            "http://127.0.0.1:8377",
            "http://localhost:1",
            "http://[::1]:1",
        ] {
            assert_eq!(check(good, false), Ok(()), "{good}");
        }
        for lan in [
            "http://10.0.0.7:8377",
            "http://localhost.evil.test",
            "http://sync.acme.test",
        ] {
            assert!(check(lan, false).unwrap_err().contains("--allow-http"), "{lan}");
            assert_eq!(check(lan, true), Ok(()), "{lan}");
        }
        for bad in [
            "ftp://x",
            "https://a:b@x",
            "https://x/?q=1",
            "https://x/#f",
            "unix:/x",
        ] {
            assert!(check(bad, true).is_err(), "{bad}");
        }
    }
}
