//! `doctor`: measures, has it judged, and prints.

use jiff::Timestamp;
use serde_json::json;

use super::daemon::Daemon;
use crate::account::Account;
use crate::cli::Setup;
use crate::client::Client;
use crate::credential::{self, CredentialStore, Secret, Tokens};
use crate::doctor::{self, Finding, Level};
use crate::output::{self, Fault};
use coditect_shared::DeviceId;
use uuid::Uuid;

pub(super) async fn run(json: bool, setup: &Setup) -> Result<(), Fault> {
    let path = setup.paths.context_db.clone();
    let mut findings = tokio::task::spawn_blocking(move || doctor::file(&path))
        .await
        .map_err(anyhow::Error::new)?;
    let start = setup.command("run");
    findings.push(match Daemon::of(setup)?.status().await {
        Ok(status) => doctor::judge_daemon(Some(&status), &start),
        Err(Fault::NotReachable(_)) => doctor::judge_daemon(None, &start),
        Err(fault) => Finding::problem("daemon", fault.to_string(), "stop it, and start it again"),
    });
    findings.extend(account(setup).await);
    let bad = findings.iter().any(|finding| finding.level == Level::Problem);
    match json {
        true => output::json(&json!({"ok": !bad, "findings": findings}))?,
        false => output::text(&page(&findings))?,
    }
    match bad {
        true => Err(Fault::failed("there are problems, see above")),
        false => Ok(()),
    }
}

/// From the account to the server that knows it, as far as it goes.
async fn account(setup: &Setup) -> Vec<Finding> {
    let log_in = setup.command("login --server URL");
    let account = match Account::load(&setup.paths.account) {
        Ok(Some(account)) => account,
        Ok(None) => {
            return vec![
                Finding::warning("account", "nobody is logged in", log_in),
                keyring(CredentialStore::File).await,
            ];
        }
        Err(error) => return vec![Finding::problem("account", format!("{error:#}"), log_in)],
    };
    let who = format!("{}, {} of {}", account.user, account.role, account.tenant);
    let mut findings = vec![
        Finding::ok("account", who),
        keyring(account.credential_store).await,
    ];
    let Some(token) = token(&account, setup, &mut findings).await else {
        return findings;
    };
    let tokens = Tokens::read(&token);
    findings.push(match tokens.refresh {
        Some(_) => Finding::ok("token", "one that renews itself"),
        None => doctor::judge_token(tokens.access.expires_at(), Timestamp::now()),
    });
    server(&account, &token, setup, &mut findings).await;
    findings
}

/// A keyring is needed only where the token is in it.
async fn keyring(needed: CredentialStore) -> Finding {
    let answers = tokio::task::spawn_blocking(credential::keyring_answers).await;
    match (answers, needed) {
        (Ok(Ok(())), _) => Finding::ok("keyring", "answers"),
        (Ok(Err(error)), CredentialStore::Keyring) => Finding::problem(
            "keyring",
            error.to_string(),
            "unlock or start it, or log in again with --insecure-storage",
        ),
        (Ok(Err(_)), CredentialStore::File) => Finding::ok("keyring", "none, and none is needed"),
        (Err(error), _) => Finding::problem(
            "keyring",
            error.to_string(),
            "report this as a fault of coditect-sync",
        ),
    }
}

async fn token(account: &Account, setup: &Setup, findings: &mut Vec<Finding>) -> Option<Secret> {
    let again = "log in again: coditect-sync login --server URL";
    match super::load_token(account, setup).await {
        Ok(Some(token)) => return Some(token),
        Ok(None) => findings.push(Finding::problem(
            "token",
            "there is none where it should be",
            again,
        )),
        Err(error) => findings.push(Finding::problem("token", error.to_string(), again)),
    }
    None
}

async fn server(account: &Account, token: &Secret, setup: &Setup, findings: &mut Vec<Finding>) {
    let ca_file = setup.ca_file();
    let client = match Client::of_account(
        account,
        &setup.paths,
        DeviceId(Uuid::nil()),
        token,
        ca_file.as_deref(),
    ) {
        Ok(client) => client,
        Err(error) => {
            findings.push(Finding::problem(
                "server",
                format!("{error:#}"),
                "install the system's CA certificates, or name a file of them with `ca_file` in config.toml",
            ));
            return;
        }
    };
    match client.probe().await {
        Ok(probe) => {
            let known = probe.account;
            findings.push(match known.instance_id == account.instance_id {
                true => Finding::ok(
                    "server",
                    format!("{} answers (version {})", account.server, known.server_version),
                ),
                false => Finding::problem(
                    "server",
                    format!(
                        "another server than the one logged in to answers at {}",
                        account.server
                    ),
                    "log in at the right address",
                ),
            });
            findings.push(doctor::judge_clock(probe.date.as_deref(), Timestamp::now()));
        }
        Err(failure) => findings.push(Finding::problem(
            "server",
            format!("{}: {failure}", account.server),
            "check network, address and log-in; nothing is lost meanwhile",
        )),
    }
}

fn page(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        text.push_str(&format!("{mark:<8} {:<9} {}\n", finding.check, finding.message));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:<18} -> {remedy}\n", ""));
        }
    }
    text
}
