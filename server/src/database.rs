//! Ways into PostgreSQL: the owner's single connection for migrations and administration, the pool of the serving role,
//! and the refusal of a serving role that row level security would not hold.

mod refusal;
mod url;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls;
use url::{Encryption, Place, Roots};

/// Most connections of one server process. PostgreSQL with two cores is busy with far fewer; more would only queue
/// inside PostgreSQL, at some 10 MB each.
const POOL_SIZE: usize = 16;

/// How long a request waits for a connection before it is told to come back (503).
const POOL_WAIT: Duration = Duration::from_secs(5);

/// How long making a connection may take; a local one takes milliseconds, one over TLS and a continent under 2 s.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// After how long without an acknowledgement a TCP connection counts as dead (a half-open one would else hang for the
/// 15 minutes that kernels take by default).
const TCP_SILENCE: Duration = Duration::from_secs(30);

/// A socket with TLS around it; the crate that makes it does not name it.
type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// How one role reaches one database. Debug and Display show host, database and role, never the password.
#[derive(Clone)]
pub struct Address {
    config: Arc<Config>,
    /// Trusts nobody where the connection is not encrypted, and is not asked then.
    connector: MakeRustlsConnect,
}

/// PostgreSQL did not answer: the command line's exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL is not reachable at {0}")]
pub struct Unreachable(pub String);

impl FromStr for Address {
    type Err = anyhow::Error;

    /// As [`Address::read`], without a certificate file.
    fn from_str(url: &str) -> anyhow::Result<Address> {
        Address::read(url, None)
    }
}

impl From<Config> for Address {
    /// For what needs no encryption: a socket, or this machine.
    fn from(config: Config) -> Address {
        Address::with(config, RootCertStore::empty())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, host) in self.config.get_hosts().iter().enumerate() {
            f.write_str(if n > 0 { "," } else { "" })?;
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(folder) => write!(f, "{}", folder.display())?,
            }
            let ports = self.config.get_ports();
            if let Some(port) = ports.get(n).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        let name = |part: Option<&str>| part.unwrap_or("(default)").to_owned();
        write!(
            f,
            " (database {}, role {})",
            name(self.config.get_dbname()),
            name(self.config.get_user())
        )
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Address {
    /// Reads `postgresql://USER:PASSWORD@HOST/DATABASE` or the `host=… user=…` form, with `sslmode` and `sslrootcert`.
    /// `ca_file` has the authority that is trusted where the URL names none.
    ///
    /// # Errors
    /// If the URL cannot be read (it is not repeated, since it may hold a password) or a certificate file cannot.
    pub fn read(url: &str, ca_file: Option<&Path>) -> anyhow::Result<Address> {
        let (config, encryption) = url::read(url, ca_file)?;
        let roots = match encryption {
            Encryption::Off => RootCertStore::empty(),
            Encryption::Verified(roots) => trusted(&roots)?,
        };
        Ok(Address::with(config, roots))
    }

    fn with(mut config: Config, roots: RootCertStore) -> Address {
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_WAIT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_SILENCE);
        }
        if config.get_application_name().is_none() {
            config.application_name("coditect-server");
        }
        Address {
            config: Arc::new(config),
            connector: MakeRustlsConnect::new(client_config(roots)),
        }
    }

    /// One connection, driven by a task of its own until the client is dropped.
    ///
    /// # Errors
    /// As [`Address::open`].
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let (client, connection) = self.open().await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok(client)
    }

    /// One connection that the caller drives.
    ///
    /// # Errors
    /// [`Unreachable`] with the reason beneath it if PostgreSQL does not answer; else why it lets us not in, or we do not
    /// trust it, with the remedy.
    pub(crate) async fn open(&self) -> anyhow::Result<(Client, Connection<Socket, Encrypted>)> {
        self.config
            .connect(self.connector.clone())
            .await
            .map_err(|error| refusal::explained(error, self))
    }

    /// A pool; connections are made when they are first needed.
    pub fn pool(&self) -> anyhow::Result<Pool> {
        let manager = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        Pool::builder(Manager::from_config(
            Config::clone(&self.config),
            self.connector.clone(),
            manager,
        ))
        .runtime(Runtime::Tokio1)
        .max_size(POOL_SIZE)
        .wait_timeout(Some(POOL_WAIT))
        .create_timeout(Some(CONNECT_WAIT))
        .build()
        .context("making the connection pool")
    }

    /// Whether rows travel to another machine in the clear.
    pub(crate) fn is_open_to_eavesdroppers(&self) -> bool {
        url::place(&self.config) == Place::Elsewhere && self.config.get_ssl_mode() == SslMode::Disable
    }

    pub(crate) fn password(&self) -> Option<&[u8]> {
        self.config.get_password()
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.config.get_user()
    }
}

/// Refuses to serve as a role that could read or write past row level security: a superuser, one with BYPASSRLS, one
/// that owns anything, or one that may become such a role.
pub async fn refuse_powerful_role(client: &Client) -> anyhow::Result<()> {
    // A role is what it is and what it may become by SET ROLE; pg_shdepend lists what a role owns in any database.
    let rows = client
        .query_typed(
            "SELECT r.rolname::text, r.rolname = current_user, r.rolsuper, r.rolbypassrls,
                    EXISTS (SELECT FROM pg_shdepend d
                             WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'),
                    session_user::text
               FROM pg_roles r
              WHERE r.rolname = current_user OR pg_has_role(current_user, r.oid, 'MEMBER')
              ORDER BY r.rolname = current_user DESC, r.rolname",
            &[],
        )
        .await
        .context("looking at the serving role")?;
    for row in rows {
        let (name, itself): (String, bool) = (row.get(0), row.get(1));
        let (superuser, bypass, owns): (bool, bool, bool) = (row.get(2), row.get(3), row.get(4));
        let session: String = row.get(5);
        let fault = match (superuser, bypass, owns) {
            (true, _, _) => "is a superuser",
            (_, true, _) => "has BYPASSRLS",
            (_, _, true) => "owns objects",
            (false, false, false) if itself && name != session => "is not the role that logged in",
            (false, false, false) => continue,
        };
        let who = if itself {
            format!("the serving role {name} {fault}")
        } else {
            format!("the serving role may become {name}, which {fault}")
        };
        bail!(
            "{who}: row level security would not bind it; serve as coditect_app (CODITECT_DATABASE_URL), which `coditect-server migrate` makes, and give the owner's URL in CODITECT_OWNER_DATABASE_URL"
        );
    }
    Ok(())
}

/// What we trust, as certificates.
fn trusted(roots: &Roots) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::File(path) => {
            for certificate in tls::read_certificates(path)? {
                store
                    .add(certificate)
                    .with_context(|| format!("trusting the certificates of {}", path.display()))?;
            }
        }
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            if store.add_parsable_certificates(found.certs).0 == 0 {
                bail!(
                    "this machine trusts no certificate authority, so that PostgreSQL's certificate cannot be checked: install ca-certificates, or name a file with sslrootcert=FILE"
                );
            }
        }
    }
    Ok(store)
}

fn client_config(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // What sslnegotiation=direct needs; else nobody asks.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p15_an_address_shows_no_password() {
        let address: Address = "postgresql://coditect_app:hunter2@db.test:6432/coditect?sslmode=disable"
            .parse()
            .unwrap();
        for shown in [address.to_string(), format!("{address:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("db.test:6432"), "{shown}");
        }
    }

    #[test]
    fn only_another_machine_is_out_of_our_hands() {
        let open = |url: &str| url.parse::<Address>().unwrap().is_open_to_eavesdroppers();
        assert!(open("postgresql://u@db.test/d?sslmode=disable"));
        assert!(open("postgresql://u@10.0.0.1/d?sslmode=disable"));
        for here in [
            "postgresql://u@localhost/d",
            "postgresql://u@127.0.0.1/d",
            "postgresql://u@/d?host=/run",
        ] {
            assert!(!open(here), "{here}");
        }
    }

    #[test]
    fn a_socket_folder_is_an_address() {
        let address: Address = "postgresql://coditect_app@/coditect?host=/run/coditect"
            .parse()
            .unwrap();
        assert_eq!(
            address.to_string(),
            "/run/coditect (database coditect, role coditect_app)"
        );
    }
}
