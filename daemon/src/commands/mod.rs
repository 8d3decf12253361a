//! What each command does, one module each.

mod approval;
mod config;
mod consent;
mod daemon;
mod doctor;
mod ingest;
mod login;
mod logout;
mod manual;
mod paths;
mod pause;
mod projects;
mod quarantine;
mod redaction;
mod run;
mod service;
mod sessions;
mod show;
mod status;
mod sync;
mod tasks;
mod verify;
mod why;

use std::future::Future;

use anyhow::Context;

pub(crate) use config::run as config;
pub(crate) use manual::{completions, man};

use crate::account::Account;
use crate::cli::{Command, Setup};
use crate::client::Failure;
use crate::credential::{self, CredentialError, Secret};
use crate::output::Fault;

pub(crate) fn run(command: Command, setup: Setup) -> Result<(), Fault> {
    match command {
        Command::Run(_) => run::run(setup),
        Command::Login(args) => block_on(login::run(&args, &setup)),
        Command::Logout(args) => block_on(logout::run(args.json, &setup)),
        Command::Status(args) => block_on(status::run(&args, &setup)),
        Command::Sync(args) => block_on(sync::run(&args, &setup)),
        Command::Pause(args) => block_on(pause::pause(args.json, &setup)),
        Command::Resume(args) => block_on(pause::resume(args.json, &setup)),
        Command::Ingest(args) => ingest::run(args, &setup),
        Command::Sessions(args) => sessions::run(args, &setup),
        Command::Tasks(args) => tasks::run(args, &setup),
        Command::Show(args) => show::run(&args, &setup),
        Command::Projects(args) => block_on(projects::run(args, setup)),
        Command::Quarantine(args) => quarantine::run(&args, &setup),
        Command::Redaction(args) => redaction::run(&args, &setup),
        Command::Why(args) => why::run(&args, &setup),
        Command::Verify(args) => block_on(verify::run(args.json, &setup)),
        Command::Service(what) => service::run(&what, &setup),
        Command::Doctor(args) => block_on(doctor::run(args.json, &setup)),
        Command::Paths(args) => paths::run(args.json, &setup),
        Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
            unreachable!("it is run without a setup")
        }
    }
}

/// Commands wait for one thing at a time: one thread is enough.
fn block_on(command: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(command)
}

/// How a command ends that the server did not serve.
fn fault_of(failure: Failure) -> Fault {
    let text = failure.to_string();
    match failure {
        Failure::Unreachable { .. } | Failure::Busy { .. } => Fault::NotReachable(text),
        Failure::Unauthorized { .. } => Fault::NotLoggedIn(text),
        Failure::Server { .. }
        | Failure::Forbidden { .. }
        | Failure::TooLarge { .. }
        | Failure::Refused { .. } => Fault::failed(text),
    }
}

/// The account's token. Asking a keyring blocks, so that this runs on a thread of its own.
async fn load_token(account: &Account, setup: &Setup) -> Result<Option<Secret>, CredentialError> {
    let key = account.credential_key(&setup.paths.account);
    let (file, store) = (setup.paths.credentials.clone(), account.credential_store);
    tokio::task::spawn_blocking(move || credential::load(&file, &key, store))
        .await
        .expect("loading a secret does not panic")
}
