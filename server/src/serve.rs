//! `coditect-server serve`: from a data directory and perhaps a URL to a server that takes requests, and back.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::app::{self, AppState};
use crate::cluster::{self, Cluster};
use crate::config::{Database, Issuers, Options, SignInOptions, TlsFiles, Usage};
use crate::data_dir::{DataDir, Held, Purpose};
use crate::database::{Address, refuse_powerful_role};
use crate::external::External;
use crate::keys::{self, Issuer};
use crate::stop::StopSignal;
use crate::tls::{self, Tls};
use crate::{events, limits, migrate, supervisor};

/// How long we wait for an administration command, which has the data directory for a moment.
const COMMAND_ENDS: Duration = Duration::from_secs(30);

/// How often we look.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where clients come in, and whose tokens open.
struct Door {
    listener: TcpListener,
    tls: Option<Tls>,
    external: External,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(
    options: &Options,
    listen: SocketAddr,
    tls: &TlsFiles,
    issuers: &Issuers,
    sign_in: &SignInOptions,
    migrate: bool,
) -> anyhow::Result<()> {
    let mut stop = StopSignal::new()?;
    limits::raise_open_files();
    let data_dir = options.data_dir()?;
    let database = options.database()?;
    let held = hold(&data_dir).await?;
    let tls = tls.load()?;
    let external = issuers.load()?;
    // Bound first: a port that is taken is found out before a cluster is started for nothing.
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}"))?;
    if tls.is_none() && !listen.ip().is_loopback() {
        tracing::warn!(
            "requests and tokens come in the clear on {listen}: give --tls-cert and --tls-key, or let a proxy speak TLS"
        );
    }
    let address = listener.local_addr().context("asking for our own address")?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let public_url = options.public_url_of(&data_dir, scheme, address)?;
    let ready = |mut state: AppState| {
        sign_in.apply(&mut state.signin, &public_url);
        state
    };
    let door = Door {
        listener,
        tls,
        external,
    };
    match database {
        Database::External { serving, owner } => {
            let Some(serving) = serving else {
                return Err(Usage(
                    "serving needs the serving role's URL in CODITECT_DATABASE_URL".to_owned(),
                )
                .into());
            };
            tokio::select! {
                state = prepare(&data_dir, &serving, owner.as_ref(), migrate) => serve(door, ready(state?), stop).await,
                () = stop.came() => Ok(()),
            }
        }
        Database::Private => {
            supervisor::starting("starting PostgreSQL");
            let opened = tokio::select! {
                opened = Cluster::open(&data_dir, &held) => opened?,
                () = stop.came() => return cluster::stop_whatever_runs(&data_dir, &held).await,
            };
            with_cluster(opened, &data_dir, door, ready, migrate, stop).await
        }
    }
}

/// Serves from the private cluster, and stops it at the end, whatever the end is.
async fn with_cluster(
    mut cluster: Cluster,
    data_dir: &DataDir,
    door: Door,
    ready: impl FnOnce(AppState) -> AppState,
    migrate: bool,
    mut stop: StopSignal,
) -> anyhow::Result<()> {
    let (app, owner) = (cluster.socket().serving(), cluster.socket().owner());
    let serving = async {
        tokio::select! {
            state = prepare(data_dir, &app, Some(&owner), migrate) => {
                serve(door, ready(state?), stop).await
            }
            () = stop.came() => Ok(()),
        }
    };
    let served = tokio::select! {
        served = serving => served,
        () = cluster.keep_running() => Ok(()),
    };
    let stopped = cluster
        .stop()
        .await
        .context("stopping the private PostgreSQL cluster");
    tracing::info!("stopped");
    served.and(stopped)
}

/// Migrates, checks the serving role and reads what the state needs.
async fn prepare(
    data_dir: &DataDir,
    serving: &Address,
    owner: Option<&Address>,
    migrate: bool,
) -> anyhow::Result<AppState> {
    if migrate && let Some(owner) = owner {
        supervisor::starting("bringing the schema up to date");
        migrate::migrate(owner, Some(serving))
            .await
            .context("bringing the schema up to date")?;
    }
    if serving.is_open_to_eavesdroppers() {
        tracing::warn!(
            "the connection to PostgreSQL at {serving} is not encrypted; whoever is between can read it"
        );
    }
    let client = serving.connect().await?;
    refuse_powerful_role(&client).await?;
    migrate::expect_current(&client).await?;
    let instance_id: Uuid = client
        .query_typed_one("SELECT instance_id FROM server_instance", &[])
        .await
        .context("reading which database this is")?
        .get(0);
    let keys = Arc::new(Issuer::load_or_make(data_dir.path())?);
    let looking = keys.clone();
    // Ends with the process: keys are rotated by another one.
    tokio::spawn(async move { looking.keep_current(keys::LOOK_EVERY).await });
    let state = AppState::new(serving.pool()?, keys, instance_id);
    // Ends with the server, by the state's own signal.
    tokio::spawn(events::run(state.clone(), serving.clone()));
    Ok(state)
}

async fn serve(door: Door, mut state: AppState, mut stop: StopSignal) -> anyhow::Result<()> {
    let Door {
        listener,
        tls,
        external,
    } = door;
    state.external = external;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().context("asking for our own address")?;
    let pool = state.pool.clone();
    // Whoever started us may have closed our output; that is no reason not to serve.
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "listening on {scheme}://{address}").and_then(|()| stdout.flush());
    drop(stdout);
    tracing::info!(%address, scheme, "listening");
    if let Some(tls) = tls.clone() {
        // Ends with the process: the certificate counts as long as there are connections.
        tokio::spawn(async move { tls.keep_current(tls::LOOK_EVERY).await });
    }
    supervisor::ready(&format!("{scheme}://{address}"));
    tokio::select! {
        () = app::serve_with(listener, tls, state, stop.came()) => {}
        () = supervisor::keep_alive() => {}
    }
    pool.close();
    Ok(())
}

/// Takes the data directory, after a moment's patience with administration commands.
async fn hold(data_dir: &DataDir) -> anyhow::Result<Held> {
    let begun = Instant::now();
    loop {
        let holder = match data_dir.hold(Purpose::Serve)? {
            Ok(held) => return Ok(held),
            Err(holder) => holder,
        };
        let pid = holder
            .pid
            .map(|pid| format!(" (process {pid})"))
            .unwrap_or_default();
        if holder.purpose == Some(Purpose::Serve) {
            bail!(
                "another coditect-server{pid} runs with the data directory {}: stop it, or choose another --data-dir",
                data_dir.path().display(),
            );
        }
        if begun.elapsed() > COMMAND_ENDS {
            bail!(
                "an administration command{pid} has the data directory {} and does not end",
                data_dir.path().display()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
