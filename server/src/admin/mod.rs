//! Administration: what the operator does on the command line, as the owner of the schema.
//!
//! The owner is bound by row level security too (it is forced), so these commands open the same tenant transactions as
//! requests do.

pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod key;
pub(crate) mod tenant;
pub(crate) mod token;
pub(crate) mod user;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use deadpool_postgres::Pool;
use tokio_postgres::types::Type;

use crate::cluster::{self, Cluster, Socket};
use crate::config::{Database, Options, Usage};
use crate::data_dir::{DataDir, Held, Purpose};
use crate::database::Address;
use crate::error::ApiError;
use crate::migrate::{self, Migrated};
use crate::tenant::TenantTx;

/// Who acts, in audit entries.
const ACTOR: &str = "administration";

/// How long a command waits for a server that is starting, or for another command to end.
const WAIT: Duration = Duration::from_secs(60);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Access to the database as its owner, for one command.
pub(crate) struct Administration {
    pub(crate) data_dir: DataDir,
    pub(crate) pool: Pool,
    /// The private cluster, where this command had to start it.
    started: Option<(Cluster, Held)>,
}

impl Administration {
    /// Reaches the database: the given one, or the private cluster, which is started for the time of the command if no
    /// server runs it. A private schema is brought up to date; that of others is not touched.
    pub(crate) async fn open(options: &Options) -> anyhow::Result<Administration> {
        let data_dir = options.data_dir()?;
        let (owner, started) = match options.database()? {
            Database::External { owner, .. } => (owner.ok_or_else(owner_missing)?, None),
            Database::Private => reach_private(&data_dir).await?,
        };
        let administration = Administration {
            data_dir,
            pool: owner.pool()?,
            started,
        };
        let ready = match &administration.started {
            Some((cluster, _)) => migrate::migrate(&owner, Some(&cluster.socket().serving()))
                .await
                .map(drop),
            None => migrate::expect_current(&owner.connect().await?).await,
        };
        match ready {
            Ok(()) => Ok(administration),
            Err(error) => administration.close(Err(error)).await,
        }
    }

    /// Ends what `open` began, and passes the command's result on.
    pub(crate) async fn close<T>(self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        self.pool.close();
        if let Some((cluster, _held)) = self.started {
            cluster.leave().await?;
        }
        result
    }
}

/// Brings the schema up to date.
pub(crate) async fn migrate(options: &Options) -> anyhow::Result<Migrated> {
    match options.database()? {
        Database::External { owner, serving } => {
            migrate::migrate(&owner.ok_or_else(owner_missing)?, serving.as_ref()).await
        }
        Database::Private => {
            let (owner, started) = reach_private(&options.data_dir()?).await?;
            let done = migrate::migrate(&owner, None).await;
            if let Some((cluster, _held)) = started {
                cluster.leave().await?;
            }
            done
        }
    }
}

/// The URL with which psql reaches the database as its owner.
pub(crate) async fn database_url(options: &Options) -> anyhow::Result<String> {
    match options.database()? {
        Database::External { .. } => Ok(options.owner_url().ok_or_else(owner_missing)?.to_owned()),
        Database::Private => {
            let data_dir = options.data_dir()?;
            if let Some(socket) = Socket::of_running(&data_dir).await? {
                return Ok(socket.owner_url());
            }
            tracing::warn!(
                "the private cluster does not run now: the URL works while `coditect-server serve` runs"
            );
            Ok(Socket::expected(&data_dir)?.owner_url())
        }
    }
}

/// After a command that was broken off: stops the private cluster, however far its start had come. If somebody else has
/// the data directory meanwhile, it is theirs to look after.
pub(crate) async fn clear_up(options: &Options) -> anyhow::Result<()> {
    if let Database::Private = options.database()?
        && let data_dir = options.data_dir()?
        && let Ok(held) = data_dir.hold(Purpose::Administration)?
    {
        cluster::stop_whatever_runs(&data_dir, &held).await?;
    }
    Ok(())
}

/// The owner's address of the private cluster: of the one that a server runs, else of one started for this command.
async fn reach_private(data_dir: &DataDir) -> anyhow::Result<(Address, Option<(Cluster, Held)>)> {
    let begun = Instant::now();
    loop {
        let holder = match data_dir.hold(Purpose::Administration)? {
            Ok(held) => {
                let cluster = Cluster::open(data_dir, &held).await?;
                return Ok((cluster.socket().owner(), Some((cluster, held))));
            }
            Err(holder) => holder,
        };
        // Another command's cluster may stop under us; a server's stays.
        if holder.purpose == Some(Purpose::Serve)
            && let Some(socket) = Socket::of_running(data_dir).await?
        {
            return Ok((socket.owner(), None));
        }
        if begun.elapsed() > WAIT {
            let pid = holder
                .pid
                .map(|pid| pid.to_string())
                .unwrap_or_else(|| "unknown".to_owned());
            bail!(
                "process {pid} holds the data directory {}, but its PostgreSQL did not answer within {} s",
                data_dir.path().display(),
                WAIT.as_secs(),
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Records what the command did, in the same transaction.
async fn audit(tx: &TenantTx, tenant: &str, action: &str, table: &str, row: &str) -> Result<(), ApiError> {
    tx.execute_typed(
        "INSERT INTO audit_log (tenant_id, actor, action, table_name, row_id)
         VALUES ($1::text::uuid, $2, $3, $4, $5)",
        &[
            (&tenant, Type::TEXT),
            (&ACTOR, Type::TEXT),
            (&action, Type::TEXT),
            (&table, Type::TEXT),
            (&row, Type::TEXT),
        ],
    )
    .await?;
    Ok(())
}

/// Administration sees its own errors whole: the operator is the one whom the log is for.
fn whole(error: ApiError) -> anyhow::Error {
    if let ApiError::Unavailable(cause) | ApiError::Internal(cause) = error {
        cause
    } else {
        anyhow::Error::new(error)
    }
}

fn owner_missing() -> anyhow::Error {
    anyhow::Error::new(Usage(
        "this command needs the owner's connection: give its URL in CODITECT_OWNER_DATABASE_URL".to_owned(),
    ))
}

async fn tx_for(pool: &Pool, tenant: coditect_shared::TenantId) -> anyhow::Result<TenantTx> {
    TenantTx::begin_for_tenant(pool, tenant)
        .await
        .map_err(whole)
        .context("beginning a transaction")
}
