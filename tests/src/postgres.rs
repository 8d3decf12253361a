//! Real PostgreSQL for tests: one throw-away cluster a test process, one database a test.
//!
//! The cluster listens on a unix socket in a short temporary folder and nowhere else. A shell supervises it: it waits
//! for the end of its standard input, which comes when this process ends in whatever way, then stops the cluster and
//! removes the folder. Each test gets a copy of a migrated template database, so that no test sees another's rows.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// The role that owns the database and its tables: no superuser, as on a managed service.
pub const OWNER: &str = "coditect_owner";

/// The role that serves: owns nothing, bypasses nothing.
pub const APP: &str = "coditect_app";

const SUPERUSER: &str = "postgres";
const TEMPLATE: &str = "coditect_template";

/// Sixteen tests at once with a pool and a process each stay below it.
const MAX_CONNECTIONS: u32 = 400;

/// A database of one test: migrated, empty, with an instance id of its own.
pub struct TestDatabase {
    /// The name inside the cluster.
    pub name: String,
    socket_folder: PathBuf,
}

struct Cluster {
    folder: PathBuf,
    /// Keeps the supervisor's standard input open as long as this process lives.
    _supervisor: Child,
}

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static NEXT_DATABASE: AtomicU32 = AtomicU32::new(1);

impl TestDatabase {
    /// A fresh database from the migrated template.
    pub async fn create() -> TestDatabase {
        Self::create_from(TEMPLATE).await
    }

    /// A fresh database without any table, for tests of the migrations themselves.
    pub async fn create_empty() -> TestDatabase {
        Self::create_from("template0").await
    }

    /// URL of the schema owner's connection.
    pub fn owner_url(&self) -> String {
        url(&self.socket_folder, OWNER, &self.name)
    }

    /// URL of the serving role's connection.
    pub fn app_url(&self) -> String {
        url(&self.socket_folder, APP, &self.name)
    }

    /// A connection that sees everything, since row level security does not bind superusers: for looking at what
    /// is really stored, whoever it belongs to.
    pub async fn look(&self) -> Client {
        connect(&self.socket_folder, SUPERUSER, &self.name).await
    }

    /// A connection of the schema owner.
    pub async fn as_owner(&self) -> Client {
        connect(&self.socket_folder, OWNER, &self.name).await
    }

    /// A connection of the serving role.
    pub async fn as_app(&self) -> Client {
        connect(&self.socket_folder, APP, &self.name).await
    }

    /// What `SELECT count(*) FROM …` says, seen by the superuser.
    pub async fn count(&self, from: &str) -> i64 {
        let row = self
            .look()
            .await
            .query_one(&format!("SELECT count(*) FROM {from}"), &[])
            .await;
        row.expect("counting rows").get(0)
    }

    async fn create_from(template: &str) -> TestDatabase {
        let cluster = CLUSTER.get_or_init(start_cluster).await;
        let name = format!("test_{}", NEXT_DATABASE.fetch_add(1, Ordering::Relaxed));
        connect(&cluster.folder, SUPERUSER, "postgres")
            .await
            .batch_execute(&format!(
                "CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER}"
            ))
            .await
            .expect("creating the test's database");
        let database = TestDatabase {
            name,
            socket_folder: cluster.folder.clone(),
        };
        if template == TEMPLATE {
            // Clients tell servers apart by it, so that no two databases may share the template's.
            database
                .look()
                .await
                .batch_execute("UPDATE server_instance SET instance_id = gen_random_uuid()")
                .await
                .expect("giving the test's database an instance id of its own");
        }
        database
    }
}

/// The folder of the PostgreSQL programs, the newest version first.
///
/// # Panics
/// If there is none, with what to install.
pub fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for root in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.trim_start_matches("postgresql@").parse().unwrap_or(0);
            let folder = entry.path().join("bin");
            if version >= 15 && folder.join("initdb").exists() {
                found.push((version, folder));
            }
        }
    }
    found.sort();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
    };
    found.pop().map(|(_, folder)| folder).or_else(on_path).expect(
        "these tests need PostgreSQL 15 or later: apt-get install postgresql, or brew install postgresql",
    )
}

/// A cluster of one test's own, which speaks TLS on 127.0.0.1 and wants passwords there.
pub struct TlsCluster {
    pub port: u16,
    cluster: Cluster,
}

/// Who may come in how: by the socket everybody, over TCP with TLS, or without by one role.
const TLS_HBA: &str = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n\
                       hostnossl all plain 127.0.0.1/32 scram-sha-256\n";

impl TlsCluster {
    /// Starts it with a certificate and its key (PEM); without them it offers no TLS.
    pub async fn start(pair: Option<(String, String)>) -> TlsCluster {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("finding a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        drop(listener);
        let cluster = tokio::task::spawn_blocking(move || {
            let mut options =
                format!("-c listen_addresses=127.0.0.1 -c port={port} -c hba_file={{}}/hba.conf");
            let mut files = vec![("hba.conf", TLS_HBA.to_owned())];
            if let Some((cert, key)) = pair {
                options += " -c ssl=on -c ssl_cert_file={}/tls.crt -c ssl_key_file={}/tls.key";
                files.extend([("tls.crt", cert), ("tls.key", key)]);
            }
            spawn_cluster(&options, &files)
        })
        .await
        .expect("starting PostgreSQL");
        TlsCluster { port, cluster }
    }

    /// As the superuser, by the socket.
    pub async fn run(&self, sql: &str) {
        let host = self.cluster.folder.to_string_lossy().replace('/', "%2F");
        let url = format!("postgresql://{SUPERUSER}@{host}:{}/postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls)
            .await
            .expect("connecting to the cluster's socket");
        tokio::spawn(connection);
        client.batch_execute(sql).await.expect("running a statement");
    }
}

async fn start_cluster() -> Cluster {
    let cluster = tokio::task::spawn_blocking(|| spawn_cluster("-c listen_addresses=", &[]))
        .await
        .expect("starting PostgreSQL");
    let superuser = connect(&cluster.folder, SUPERUSER, "postgres").await;
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {OWNER} LOGIN NOSUPERUSER NOBYPASSRLS CREATEROLE CREATEDB"
        ))
        .await
        .expect("creating the owner's role");
    superuser
        .batch_execute(&format!(
            "CREATE DATABASE {TEMPLATE} TEMPLATE template0 OWNER {OWNER}"
        ))
        .await
        .expect("creating the template database");
    let owner = url(&cluster.folder, OWNER, TEMPLATE)
        .parse()
        .expect("the server reads our URLs");
    coditect_server::migrate::migrate(&owner, None)
        .await
        .expect("migrating the template database");
    cluster
}

/// Starts a cluster with options, in which `{}` is its folder, and files in that folder, which only it may read.
fn spawn_cluster(options: &str, files: &[(&str, String)]) -> Cluster {
    let programs = programs();
    // Not $TMPDIR: the path of a unix socket has 107 characters at most.
    let folder = tempfile::Builder::new()
        .prefix("coditect-pg-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in("/tmp")
        .expect("making a folder for PostgreSQL")
        .keep();
    let mut supervisor = Command::new("/bin/sh");
    supervisor
        .arg("-c")
        .arg(SUPERVISE)
        .arg("supervise")
        .arg(&folder)
        .arg(format!(
            "-k {} {} -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
             -c max_connections={MAX_CONNECTIONS} -c unix_socket_permissions=0777",
            folder.display(),
            options.replace("{}", &folder.to_string_lossy()),
        ))
        .env("PATH", path_with(&programs))
        .env("LC_ALL", "C")
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A Ctrl-C at the terminal must not end the supervisor before it has cleaned up.
        .process_group(0);
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("writing a file for PostgreSQL");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("closing a file");
    }
    if rustix::process::geteuid().is_root() {
        // PostgreSQL refuses to run as root.
        let (uid, gid) = unprivileged_user();
        chown(&folder, Some(uid), Some(gid)).expect("handing the folder to PostgreSQL's user");
        for (name, _) in files {
            chown(folder.join(name), Some(uid), Some(gid)).expect("handing a file to PostgreSQL's user");
        }
        supervisor.uid(uid).gid(gid);
        // The serving processes of the tests run as root and must reach the socket; root may.
    }
    let mut child = supervisor
        .spawn()
        .expect("starting a shell to supervise PostgreSQL");
    let said = child.stdout.take().expect("the supervisor's output is piped");
    let mut first = String::new();
    BufReader::new(said)
        .read_line(&mut first)
        .expect("hearing from the supervisor");
    if first.trim() != "ready" {
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("PostgreSQL did not start in {}:\n{log}", folder.display());
    }
    Cluster {
        folder,
        _supervisor: child,
    }
}

/// Makes and starts the cluster, says so, waits for the end of standard input, and cleans up.
const SUPERVISE: &str = r#"
trap '' INT TERM HUP
initdb -D "$1/data" -U postgres -A trust -E UTF8 --locale=C --no-sync --no-instructions >"$1/log" 2>&1 &&
pg_ctl -D "$1/data" -o "$2" -l "$1/log" -w start >/dev/null 2>&1 &&
echo ready && exec >/dev/null && read -r _
if [ -f "$1/data/postmaster.pid" ]; then pg_ctl -D "$1/data" -m immediate stop >/dev/null 2>&1; rm -rf "$1"; fi
"#;

/// The user `postgres` where there is one, else `nobody`.
fn unprivileged_user() -> (u32, u32) {
    let id = |flag: &str, user: &str| -> Option<u32> {
        let output = Command::new("id").args([flag, user]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|user| Some((id("-u", user)?, id("-g", user)?)))
        .expect("running as root, PostgreSQL needs a user `postgres` or `nobody` to run as")
}

fn path_with(programs: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(programs.to_path_buf()).chain(std::env::split_paths(&rest));
    std::env::join_paths(folders).expect("a PATH made of a PATH")
}

fn url(socket_folder: &Path, role: &str, database: &str) -> String {
    let host = socket_folder.to_string_lossy().replace('/', "%2F");
    format!("postgresql://{role}@{host}/{database}")
}

async fn connect(socket_folder: &Path, role: &str, database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&url(socket_folder, role, database), NoTls)
        .await
        .expect("connecting to the test cluster");
    tokio::spawn(connection);
    client
}
