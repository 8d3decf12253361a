//! The private PostgreSQL cluster: made, run and stopped by the server for whoever has no database of their own.
//!
//! It lies under `DATA_DIR/pg`, has no TCP port, and is durable. It starts and stops with the server; one that outlived
//! a killed server is taken over by the next. Whoever opens it holds the data directory
//! ([`crate::data_dir::DataDir::hold`]), so that no two processes run one cluster.

mod find;
mod folder;
mod initdb;
mod postmaster;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_postgres::Config;
use tokio_postgres::error::SqlState;

use self::find::Programs;
use self::folder::{Folder, PORT};
use self::postmaster::{PidFile, Postmaster};
use crate::data_dir::{DataDir, Held};
use crate::database::Address;
use crate::serving_role;

/// The database in the cluster.
const DATABASE: &str = "coditect";

/// Who owns it and everything in it: no superuser, as on a managed service, but able to make the serving role.
const OWNER: &str = "coditect_owner";

/// The cluster's superuser, used to make the two above and nothing else.
const SUPERUSER: &str = "postgres";

/// How long a start may take. After a kill it replays up to 1 GB of log, and a slow disk takes a minute for that.
const START: Duration = Duration::from_secs(180);

/// From when on a start is reported as taking long.
const START_IS_SLOW: Duration = Duration::from_secs(5);

/// How often a start is tried that fails since processes of a killed run have not yet ended.
const START_ATTEMPTS: u32 = 15;

/// How long they are given to notice and end.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// How often we look whether the cluster has started.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// How often a server process that is gone is looked for while we serve.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// A cluster that answers.
#[derive(Debug)]
pub struct Cluster {
    folder: Folder,
    programs: Programs,
    socket: Socket,
    postmaster: Postmaster,
    /// Whether it ran already when we came.
    adopted: bool,
}

/// Where a cluster listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    folder: PathBuf,
    port: u16,
}

impl Cluster {
    /// Takes over the cluster of a data directory if it runs, else starts it, else makes it first.
    ///
    /// # Errors
    /// If no PostgreSQL programs are there (the text says what to install), the data directory cannot be used by the
    /// user that PostgreSQL runs as, or the start fails (the text has the end of PostgreSQL's log).
    pub async fn open(data_dir: &DataDir, _held: &Held) -> anyhow::Result<Cluster> {
        let folder = Folder::prepare(data_dir)?;
        let programs = find::programs(initdb::major_of(&folder)?)?;
        initdb::remove_drafts(&folder)?;
        if !folder.data().exists() {
            initdb::make(&folder, &programs, SUPERUSER).await?;
        }
        let (postmaster, socket, adopted) = run(&folder, &programs).await?;
        let cluster = Cluster {
            folder,
            programs,
            socket,
            postmaster,
            adopted,
        };
        cluster.make_database().await?;
        tracing::info!(
            pid = cluster.postmaster.pid(),
            socket = %cluster.socket.folder.display(),
            version = %format!("{}.{}", cluster.programs.version.0, cluster.programs.version.1),
            "{} the private PostgreSQL cluster",
            if cluster.adopted { "took over" } else { "started" },
        );
        Ok(cluster)
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Starts the server process again whenever it is gone (killed for want of memory, stopped by hand). Runs until it
    /// is dropped.
    pub async fn keep_running(&mut self) {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            if !self.postmaster.has_ended() {
                continue;
            }
            tracing::error!(
                pid = self.postmaster.pid(),
                "PostgreSQL has ended; starting it again"
            );
            match run(&self.folder, &self.programs).await {
                Ok((postmaster, _, _)) => self.postmaster = postmaster,
                Err(error) => tracing::error!("PostgreSQL does not start: {error:#}"),
            }
        }
    }

    /// Stops it.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.postmaster.stop().await?;
        // One more can run if we were interrupted while we started it again.
        stop_process_of(&self.folder.data()).await?;
        // Empty now; one in a shared temporary folder should not be left lying about.
        let _ = std::fs::remove_dir(&self.socket.folder);
        Ok(())
    }

    /// Leaves it as it was found: stops it unless it ran already when we came.
    pub async fn leave(self) -> anyhow::Result<()> {
        if self.adopted { Ok(()) } else { self.stop().await }
    }

    /// Makes the owner and the database, if they are missing.
    async fn make_database(&self) -> anyhow::Result<()> {
        let client = self.socket.address(SUPERUSER, "postgres").connect().await?;
        let row = client
            .query_typed_one(
                &format!(
                    "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = '{OWNER}'),
                            EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}')"
                ),
                &[],
            )
            .await
            .context("looking for the database")?;
        if !row.get::<_, bool>(0) {
            client
                .batch_execute(&format!("CREATE ROLE {OWNER} LOGIN NOSUPERUSER CREATEROLE"))
                .await
                .context("making the owner's role")?;
        }
        if !row.get::<_, bool>(1) {
            client
                .batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {OWNER}"))
                .await
                .context("making the database")?;
        }
        Ok(())
    }
}

impl Socket {
    /// The socket of a cluster that runs now, whoever started it; `None` if none answers.
    pub async fn of_running(data_dir: &DataDir) -> anyhow::Result<Option<Socket>> {
        let Some(folder) = Folder::existing(data_dir) else {
            return Ok(None);
        };
        let Some(file) = PidFile::read(&folder.join("data"))? else {
            return Ok(None);
        };
        let Some(socket) = socket_of(&file) else {
            return Ok(None);
        };
        Ok(match socket.ask().await {
            Answer::Ready => Some(socket),
            Answer::NotYet | Answer::Nobody | Answer::Broken(_) => None,
        })
    }

    /// Where the cluster of a data directory will listen when it runs.
    pub fn expected(data_dir: &DataDir) -> anyhow::Result<Socket> {
        Ok(Socket {
            folder: Folder::prepare(data_dir)?.make_socket_folder()?,
            port: PORT,
        })
    }

    /// For migrations and administration.
    pub fn owner(&self) -> Address {
        self.address(OWNER, DATABASE)
    }

    /// For requests.
    pub fn serving(&self) -> Address {
        self.address(serving_role::NAME, DATABASE)
    }

    /// The owner's address as a URL that `psql` takes.
    pub fn owner_url(&self) -> String {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("host", &self.folder.to_string_lossy())
            .append_pair("port", &self.port.to_string())
            .finish();
        // libpq takes a plus sign for itself and not for a space.
        format!("postgresql://{OWNER}@/{DATABASE}?{}", query.replace('+', "%20"))
    }

    /// No password: the socket lies in a folder that only the cluster's user (and root) can enter, and whoever can
    /// enter it could read the data files as well. So `trust` asks for nothing that would be worth asking.
    fn address(&self, role: &str, database: &str) -> Address {
        let mut config = Config::new();
        config
            .host_path(&self.folder)
            .port(self.port)
            .user(role)
            .dbname(database);
        Address::from(config)
    }

    async fn ask(&self) -> Answer {
        match self.address(SUPERUSER, "postgres").connect().await {
            Ok(_) => Answer::Ready,
            Err(error) => Answer::from_error(error),
        }
    }
}

/// What a server says to a new connection.
enum Answer {
    Ready,
    /// Starting up, recovering, or shutting down.
    NotYet,
    /// Nobody listens.
    Nobody,
    Broken(anyhow::Error),
}

impl Answer {
    fn from_error(error: anyhow::Error) -> Answer {
        let Some(cause) = error.downcast_ref::<tokio_postgres::Error>() else {
            return Answer::Broken(error);
        };
        match cause.code() {
            Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => Answer::NotYet,
            Some(_) => Answer::Broken(error),
            // No answer at all: no socket, nobody behind it, or one that closed before it spoke.
            None => Answer::Nobody,
        }
    }
}

/// Stops the cluster of a data directory, whoever started it and however far it got.
pub async fn stop_whatever_runs(data_dir: &DataDir, _held: &Held) -> anyhow::Result<()> {
    match Folder::existing(data_dir) {
        Some(folder) => stop_process_of(&folder.join("data")).await,
        None => Ok(()),
    }
}

async fn stop_process_of(data: &Path) -> anyhow::Result<()> {
    match PidFile::read(data)? {
        Some(file) if file.is_alive() => Postmaster::adopt(file.pid).stop().await,
        Some(_) | None => Ok(()),
    }
}

/// Brings the cluster to where it answers: takes over the server process that runs, waits for one that starts or ends,
/// starts one where none is.
async fn run(folder: &Folder, programs: &Programs) -> anyhow::Result<(Postmaster, Socket, bool)> {
    let socket_folder = folder.make_socket_folder()?;
    let begun = Instant::now();
    let mut started: Option<Postmaster> = None;
    let mut attempts = 0;
    let mut told = false;
    loop {
        let file = PidFile::read(&folder.data())?;
        // Asked only when it says that it is ready: each refusal would leave a line in PostgreSQL's log.
        if let Some(file) = file.as_ref().filter(|file| file.ready)
            && let Some(socket) = socket_of(file)
        {
            match socket.ask().await {
                Answer::Ready => {
                    let ours = started.filter(|started| started.pid() == file.pid.as_raw_nonzero().get());
                    let adopted = ours.is_none();
                    return Ok((
                        ours.unwrap_or_else(|| Postmaster::adopt(file.pid)),
                        socket,
                        adopted,
                    ));
                }
                Answer::NotYet | Answer::Nobody => {}
                Answer::Broken(error) => {
                    return Err(error).context("the private PostgreSQL cluster refuses us");
                }
            }
        }
        if begun.elapsed() > START {
            bail!(
                "PostgreSQL did not start within {} s; {}",
                START.as_secs(),
                postmaster::log_tail(folder)
            );
        }
        if begun.elapsed() > START_IS_SLOW && !told {
            told = true;
            tracing::info!(
                "waiting for PostgreSQL, which may be recovering; its log is {}",
                folder.log().display()
            );
        }
        if started.as_mut().is_some_and(Postmaster::has_ended) {
            if attempts == START_ATTEMPTS || !postmaster::failed_for_leftovers(folder) {
                bail!(
                    "PostgreSQL ended while it was starting; {}",
                    postmaster::log_tail(folder)
                );
            }
            started = None;
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
        // One that runs but does not answer starts, recovers or ends; each comes to an end by itself.
        if started.is_none() && !file.as_ref().is_some_and(PidFile::is_alive) {
            postmaster::remove_stale_locks(&folder.data(), &socket_folder)?;
            attempts += 1;
            started = Some(Postmaster::start(programs, folder, &socket_folder)?);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn socket_of(file: &PidFile) -> Option<Socket> {
    Some(Socket {
        folder: file.socket_folder.clone()?,
        port: file.port?,
    })
}
