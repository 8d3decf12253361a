//! The server: inside the test's own process, or as the real program that can be killed and started again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coditect_server::app::{self, AppState};
use coditect_server::auth::{self, Caller, Role};
use coditect_server::database::Address;
use coditect_server::events;
use coditect_server::external::{self, External};
use coditect_server::keys::Issuer;
use coditect_server::membership::Memberships;
use coditect_server::patience::Patience;
use coditect_server::tls::Tls;
use coditect_shared::{TenantId, UserId};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::api::Api;
use crate::deadline::PATIENCE;
use crate::postgres::TestDatabase;
use crate::program::{Output, Running, output, program};

/// Life of a token unless a test asks for another: longer than any test.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// A server inside this process, on a port and a database of its own.
pub struct TestServer {
    /// `http://127.0.0.1:PORT`, or `https://localhost:PORT`.
    pub url: String,
    pub database: TestDatabase,
    pub state: AppState,
    data: TempDir,
    /// Dropped, the server stops.
    _stop: oneshot::Sender<()>,
}

impl TestServer {
    pub async fn start() -> TestServer {
        Self::start_on(TestDatabase::create().await).await
    }

    pub async fn start_on(database: TestDatabase) -> TestServer {
        Self::start_with(database, None, Patience::default()).await
    }

    /// A server with a patience of its own.
    pub async fn start_with_patience(patience: Patience) -> TestServer {
        Self::start_with(TestDatabase::create().await, None, patience).await
    }

    /// A server that speaks HTTPS, at `https://localhost:PORT`.
    pub async fn start_over_tls(tls: Tls) -> TestServer {
        Self::start_with(TestDatabase::create().await, Some(tls), Patience::default()).await
    }

    async fn start_with(database: TestDatabase, tls: Option<Tls>, patience: Patience) -> TestServer {
        let data = tempfile::tempdir().expect("making a data directory");
        let keys = Issuer::load_or_make(data.path()).expect("making the issuer's key");
        let serving: Address = database.app_url().parse().expect("the server reads our URLs");
        let instance: Uuid = database
            .look()
            .await
            .query_one("SELECT instance_id FROM server_instance", &[])
            .await
            .expect("reading the instance id")
            .get(0);
        let mut state = state(&serving, Arc::new(keys), instance);
        state.patience = patience;
        let (url, stop) = serve(&serving, state.clone(), tls).await;
        TestServer {
            url,
            database,
            state,
            data,
            _stop: stop,
        }
    }

    /// A second server of the same database, which knows of the first only through PostgreSQL.
    pub async fn beside(&self) -> SecondServer {
        let serving: Address = self
            .database
            .app_url()
            .parse()
            .expect("the server reads our URLs");
        let state = state(&serving, self.state.keys.clone(), self.state.instance_id);
        let (url, stop) = serve(&serving, state.clone(), None).await;
        SecondServer {
            url,
            state,
            _stop: stop,
        }
    }

    /// A second server of the same database that believes other issuers too.
    pub async fn beside_believing(&self, settings: Vec<external::Settings>) -> SecondServer {
        let serving: Address = self
            .database
            .app_url()
            .parse()
            .expect("the server reads our URLs");
        let mut state = state(&serving, self.state.keys.clone(), self.state.instance_id);
        state.external = External::new(settings).expect("these are issuers");
        let (url, stop) = serve(&serving, state.clone(), None).await;
        SecondServer {
            url,
            state,
            _stop: stop,
        }
    }

    /// A second server of the same database and data directory, which reads the issuer's keys for itself.
    pub async fn beside_in_the_data_directory(&self) -> SecondServer {
        let serving: Address = self
            .database
            .app_url()
            .parse()
            .expect("the server reads our URLs");
        let keys = Issuer::load_or_make(self.data.path()).expect("reading the issuer's keys");
        let state = state(&serving, Arc::new(keys), self.state.instance_id);
        let (url, stop) = serve(&serving, state.clone(), None).await;
        SecondServer {
            url,
            state,
            _stop: stop,
        }
    }

    /// A second server of the same database that believes no role for longer than a request: changes count at once.
    pub async fn beside_and_distrustful(&self) -> SecondServer {
        let serving: Address = self
            .database
            .app_url()
            .parse()
            .expect("the server reads our URLs");
        let mut state = state(&serving, self.state.keys.clone(), self.state.instance_id);
        state.memberships = Memberships::believed_for(Duration::ZERO);
        let (url, stop) = serve(&serving, state.clone(), None).await;
        SecondServer {
            url,
            state,
            _stop: stop,
        }
    }

    /// A tenant of this name, made directly in the database.
    pub async fn tenant(&self, name: &str) -> TenantId {
        let tenant = TenantId(Uuid::new_v4());
        self.database
            .look()
            .await
            .execute(
                "INSERT INTO tenants (tenant_id, name) VALUES ($1, $2)",
                &[&tenant.0, &name],
            )
            .await
            .expect("making a tenant");
        tenant
    }

    /// A user of the tenant, made directly in the database.
    pub async fn user(&self, tenant: TenantId, email: &str, role: Role) -> Caller {
        let id = Uuid::new_v4();
        let superuser = self.database.look().await;
        superuser
            .execute(
                "INSERT INTO users (tenant_id, id, email) VALUES ($1, $2, $3)",
                &[&tenant.0, &id, &email],
            )
            .await
            .expect("making a user");
        superuser
            .execute(
                "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3)",
                &[&tenant.0, &id, &role.as_str()],
            )
            .await
            .expect("making a membership");
        Caller {
            tenant,
            user: UserId::from(id),
            role,
            device: None,
        }
    }

    /// A token for a caller, which need not exist in the database.
    pub fn token(&self, caller: &Caller) -> String {
        self.token_issued_at(caller, Timestamp::now(), TOKEN_TTL)
    }

    /// A token issued at some time, so that it may have expired already.
    pub fn token_issued_at(&self, caller: &Caller, at: Timestamp, ttl: Duration) -> String {
        auth::issue(&self.state.keys, caller, at, ttl).expect("signing a token")
    }

    /// A device of a caller.
    pub fn api(&self, caller: &Caller) -> Api {
        Api::new(&self.url, &self.token(caller))
    }

    /// A tenant `acme` with one member, and a device of that member.
    pub async fn acme(&self) -> (Caller, Api) {
        let tenant = self.tenant("acme").await;
        let caller = self.user(tenant, "a@acme.test", Role::Member).await;
        let api = self.api(&caller);
        (caller, api)
    }
}

/// Another server of a [`TestServer`]'s database; tokens of either are good at both.
pub struct SecondServer {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    pub state: AppState,
    /// Dropped, the server stops.
    _stop: oneshot::Sender<()>,
}

fn state(serving: &Address, keys: Arc<Issuer>, instance: Uuid) -> AppState {
    AppState::new(serving.pool().expect("making a pool"), keys, instance)
}

async fn serve(serving: &Address, state: AppState, tls: Option<Tls>) -> (String, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listening");
    let address = listener.local_addr().expect("a bound socket has an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        // Either way it is time to go: nobody sends, the test drops its end.
        let _ = stopped.await;
    };
    let url = match &tls {
        Some(_) => format!("https://localhost:{}", address.port()),
        None => format!("http://{address}"),
    };
    tokio::spawn(app::serve_with(listener, tls, state.clone(), shutdown));
    tokio::spawn(events::run(state, serving.clone()));
    (url, stop)
}

/// The real `coditect-server` on a database of its own. Dropped, it is killed.
pub struct ServerProcess {
    /// Before the folder, so that the server is gone when that is removed.
    running: Option<Running>,
    pub database: TestDatabase,
    data: TempDir,
    /// Given to `serve` at each start.
    pub serve_arguments: Vec<String>,
    scheme: &'static str,
    /// Known from the first start on, and kept by every later one.
    address: Option<SocketAddr>,
}

impl ServerProcess {
    /// A server that runs, with a tenant `acme` and a member `a@acme.test`.
    pub async fn start() -> ServerProcess {
        let mut server = ServerProcess {
            running: None,
            database: TestDatabase::create().await,
            data: tempfile::tempdir().expect("making a data directory"),
            serve_arguments: Vec::new(),
            scheme: "http",
            address: None,
        };
        server.run().await;
        server.cli(&["tenant", "create", "acme"]).await.ok();
        server.create_user("a@acme.test").await;
        server
    }

    /// `http://127.0.0.1:PORT` (https, if it speaks that), the same across restarts.
    pub fn url(&self) -> String {
        format!(
            "{}://{}",
            self.scheme,
            self.address.expect("the server was started")
        )
    }

    /// Starts it, on the port it had before if it had one, and waits until it takes requests.
    pub async fn run(&mut self) {
        let listen = self
            .address
            .map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
        let mut command = self.command();
        command
            .args(["serve", "--listen", &listen])
            .args(&self.serve_arguments)
            .stdout(Stdio::piped());
        let mut running = Running::start(&mut command, &self.log_path());
        let stdout = running.child().stdout.take().expect("its output is piped");
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await.expect("reading the server's output");
        let said = line
            .as_deref()
            .and_then(|line| line.strip_prefix("listening on ")?.split_once("://"));
        let Some((scheme, address)) = said else {
            panic!("the server did not start: {line:?}\n{}", running.log());
        };
        self.scheme = if scheme == "https" { "https" } else { "http" };
        self.address = Some(address.parse().expect("the line ends in an address"));
        self.running = Some(running);
    }

    /// The server's command line, to be given its command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("coditect-server"));
        command
            .env("CODITECT_DATA_DIR", self.data.path())
            .env("CODITECT_DATABASE_URL", self.database.app_url())
            .env("CODITECT_OWNER_DATABASE_URL", self.database.owner_url())
            .env_remove("CODITECT_LISTEN")
            .env("RUST_LOG", "info");
        command
    }

    /// Runs an administration command to its end.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        output(self.command().args(arguments), "").await
    }

    /// A member of the tenant `acme`.
    pub async fn create_user(&self, email: &str) {
        self.cli(&["user", "create", email, "--tenant", "acme", "--role", "member"])
            .await
            .ok();
    }

    /// A token for a user, by default of an hour.
    pub async fn token(&self, email: &str) -> String {
        self.token_for(email, "1h").await
    }

    pub async fn token_for(&self, email: &str, ttl: &str) -> String {
        let printed = self.cli(&["token", "issue", "--user", email, "--ttl", ttl]).await;
        printed.ok().trim().to_owned()
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.running.take().expect("the server runs").kill().await;
    }

    /// SIGTERM, then the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        let running = self.running.take().expect("the server runs");
        running.terminate(PATIENCE).await
    }

    /// The running process.
    pub fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("the server runs")
    }

    fn log_path(&self) -> PathBuf {
        self.data.path().join("server.log")
    }
}
