//! Ways into PostgreSQL: the owner's single connection for migrations and administration, the pool of the serving role,
//! and the refusal of a serving role that row level security would not hold.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};

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

/// How one role reaches one database. Debug and Display show host, database and role, never the password.
#[derive(Clone)]
pub struct Address(Arc<Config>);

/// PostgreSQL did not answer, or let nobody in: the command line's exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL is not reachable at {0}")]
pub struct Unreachable(pub String);

impl FromStr for Address {
    type Err = anyhow::Error;

    /// Reads `postgresql://USER:PASSWORD@HOST/DATABASE` or the `host=… user=…` form.
    fn from_str(url: &str) -> anyhow::Result<Address> {
        // The text itself may hold a password, so no error repeats it.
        let config = Config::from_str(url).map_err(|error| match sslmode_of(url) {
            Some(mode @ ("verify-ca" | "verify-full" | "allow")) => no_tls(mode),
            Some(_) | None => anyhow::anyhow!("this is no PostgreSQL URL: {error}"),
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(no_tls("require"));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            bail!(
                "this PostgreSQL URL names no host; for a unix socket write postgresql://USER@/DATABASE?host=/FOLDER"
            );
        }
        Ok(Address::from(config))
    }
}

impl From<Config> for Address {
    fn from(mut config: Config) -> Address {
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_WAIT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_SILENCE);
        }
        if config.get_application_name().is_none() {
            config.application_name("coditect-server");
        }
        Address(Arc::new(config))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, host) in self.0.get_hosts().iter().enumerate() {
            f.write_str(if n > 0 { "," } else { "" })?;
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(folder) => write!(f, "{}", folder.display())?,
            }
            let ports = self.0.get_ports();
            if let Some(port) = ports.get(n).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        let name = |part: Option<&str>| part.unwrap_or("(default)").to_owned();
        write!(
            f,
            " (database {}, role {})",
            name(self.0.get_dbname()),
            name(self.0.get_user())
        )
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Address {
    /// One connection, driven by a task of its own until the client is dropped.
    ///
    /// # Errors
    /// [`Unreachable`], with the reason beneath it.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let (client, connection) = self
            .0
            .connect(NoTls)
            .await
            .map_err(|error| anyhow::Error::new(error).context(Unreachable(self.to_string())))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok(client)
    }

    /// A pool; connections are made when they are first needed.
    pub fn pool(&self) -> anyhow::Result<Pool> {
        let manager = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        Pool::builder(Manager::from_config(Config::clone(&self.0), NoTls, manager))
            .runtime(Runtime::Tokio1)
            .max_size(POOL_SIZE)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(CONNECT_WAIT))
            .build()
            .context("making the connection pool")
    }

    /// For a connection that is driven by hand.
    pub(crate) fn config(&self) -> &Config {
        &self.0
    }

    /// Whether rows travel to another machine in the clear.
    pub(crate) fn is_open_to_eavesdroppers(&self) -> bool {
        self.0.get_hosts().iter().any(|host| match host {
            Host::Tcp(name) => {
                name != "localhost"
                    && !name
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
            Host::Unix(_) => false,
        })
    }

    pub(crate) fn password(&self) -> Option<&[u8]> {
        self.0.get_password()
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.0.get_user()
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

fn no_tls(mode: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "sslmode={mode} is not supported by this version: reach PostgreSQL on this machine or through a tunnel, with sslmode=disable"
    )
}

fn sslmode_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("sslmode=")?;
    rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p15_an_address_shows_no_password() {
        let address: Address = "postgresql://coditect_app:hunter2@db.test:6432/coditect"
            .parse()
            .unwrap();
        for shown in [address.to_string(), format!("{address:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("db.test:6432"), "{shown}");
        }
    }

    #[test]
    fn p15_a_url_that_cannot_be_read_is_not_repeated() {
        for bad in [
            "postgresql://u:hunter2@h:port/d",
            "postgresql://u:hunter2@h/d?nonsense=1",
            "u:hunter2",
        ] {
            let error = format!("{:#}", bad.parse::<Address>().unwrap_err());
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn tls_that_this_version_cannot_do_is_refused_and_not_ignored() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = format!("postgresql://u@h/d?sslmode={mode}")
                .parse::<Address>()
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!("sslmode={mode} is not supported")),
                "{error}"
            );
        }
        assert!("postgresql://u@h/d?sslmode=disable".parse::<Address>().is_ok());
    }

    #[test]
    fn only_another_machine_is_out_of_our_hands() {
        let open = |url: &str| url.parse::<Address>().unwrap().is_open_to_eavesdroppers();
        assert!(open("postgresql://u@db.test/d") && open("postgresql://u@10.0.0.1/d"));
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
