//! Where the server's data and database are, from arguments and environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::data_dir::{self, DataDir};
use crate::database::Address;
use crate::external::{self, External};
use crate::signin::{self, SignIn};
use crate::tls::Tls;

/// Where `serve` listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8377";

/// Where people reach a server that nobody told otherwise.
pub const DEFAULT_PUBLIC_URL: &str = "http://127.0.0.1:8377";

/// Where `serve` leaves its public address for administration commands, inside the data directory.
const PUBLIC_URL_FILE: &str = "public-url";

/// Options that every command takes, before or after its name.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Folder of the server's data: keys, and the private PostgreSQL cluster [default: the platform's, /var/lib/coditect for root]
    #[arg(long, global = true, env = "CODITECT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// PostgreSQL as the serving role coditect_app; without it a private cluster is run. The variable keeps a password out of the process list
    #[arg(
        long,
        global = true,
        env = "CODITECT_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<Url>,

    /// PostgreSQL as the owner of the schema, for migrations and administration
    #[arg(
        long,
        global = true,
        env = "CODITECT_OWNER_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    owner_database_url: Option<Url>,

    /// Certificate authority of PostgreSQL in PEM, where a URL names none with sslrootcert [default: those that this machine trusts]
    #[arg(long, global = true, env = "CODITECT_DATABASE_CA", value_name = "FILE")]
    database_ca: Option<PathBuf>,

    /// Where people's browsers reach the server, for links [default: http://ADDR of --listen; commands know that of the last `serve` with the same data directory]
    #[arg(long, global = true, env = "CODITECT_PUBLIC_URL", value_name = "URL", value_parser = signin::public_url)]
    public_url: Option<String>,

    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Issuers of access tokens beside the built-in one.
#[derive(clap::Args, Debug)]
pub struct Issuers {
    /// Take access tokens of this OpenID provider too, for services
    #[arg(long, env = "CODITECT_ISSUER", value_name = "URL", requires = "audience")]
    issuer: Option<String>,

    /// What its tokens must be meant for
    #[arg(long, env = "CODITECT_AUDIENCE", value_name = "AUD", requires = "issuer")]
    audience: Option<String>,

    /// Several providers, in TOML: [[issuer]] with url, audience = ["…"], and perhaps tenant, tenant_claim, role_claim, email_claim
    #[arg(long, env = "CODITECT_ISSUERS", value_name = "FILE")]
    issuers: Option<PathBuf>,
}

impl Issuers {
    /// Reads them.
    pub fn load(&self) -> anyhow::Result<External> {
        let mut settings = match &self.issuers {
            Some(file) => external::Settings::read(file)?,
            None => Vec::new(),
        };
        if let (Some(issuer), Some(audience)) = (&self.issuer, &self.audience) {
            settings.push(external::Settings::new(issuer, audience));
        }
        External::new(settings)
    }
}

/// Where the server's certificate is; without one it speaks plain HTTP.
#[derive(clap::Args, Debug)]
pub struct TlsFiles {
    /// Speak HTTPS (TLS 1.3) with this certificate chain in PEM. Read again when it changes, and at SIGHUP
    #[arg(long, env = "CODITECT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key in PEM, readable by its owner alone
    #[arg(long, env = "CODITECT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads them, if they are named.
    pub fn load(&self) -> anyhow::Result<Option<Tls>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Tls::load(cert, key).map(Some),
            (None, None) | (Some(_), None) | (None, Some(_)) => Ok(None),
        }
    }
}

/// How devices sign in at this server.
#[derive(clap::Args, Debug)]
pub struct SignInOptions {
    /// Life of the access tokens of devices; they are renewed by refresh tokens
    #[arg(long, env = "CODITECT_ACCESS_TOKEN_TTL", value_name = "TIME", default_value = "15m", value_parser = crate::cli::ttl)]
    access_token_ttl: Duration,

    /// Address of a proxy in front of the server, whose X-Forwarded-For is believed; may be given more than once
    #[arg(
        long,
        env = "CODITECT_TRUSTED_PROXIES",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    trusted_proxy: Vec<IpAddr>,
}

impl SignInOptions {
    /// Puts them to use, with the address in links.
    pub(crate) fn apply(&self, to: &mut SignIn, public_url: &str) {
        to.public_url = public_url.into();
        to.access_ttl = self.access_token_ttl;
        to.proxies = self.trusted_proxy.iter().map(IpAddr::to_canonical).collect();
    }
}

/// A URL that may hold a password, and shows it to nobody.
#[derive(Clone)]
struct Url(String);

/// Which database is meant.
#[derive(Clone, Debug)]
pub enum Database {
    /// The one under the data directory.
    Private,
    /// One that others run. Either role may be left out by commands that do not need it.
    External {
        serving: Option<Address>,
        owner: Option<Address>,
    },
}

/// The command line asks for something that it does not give what is needed for: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Options {
    /// The data directory, made if it is missing.
    pub fn data_dir(&self) -> anyhow::Result<DataDir> {
        let path = match &self.data_dir {
            Some(path) => path.clone(),
            None => data_dir::default_path()?,
        };
        DataDir::open(&path)
    }

    /// The database.
    pub fn database(&self) -> anyhow::Result<Database> {
        let serving = self.database_url.as_ref().filter(|url| !url.0.is_empty());
        let owner = self.owner_database_url.as_ref().filter(|url| !url.0.is_empty());
        if serving.is_none() && owner.is_none() {
            return Ok(Database::Private);
        }
        let parse = |url: Option<&Url>, name: &str| {
            url.map(|url| {
                Address::read(&url.0, self.database_ca.as_deref()).with_context(|| format!("reading {name}"))
            })
            .transpose()
        };
        Ok(Database::External {
            serving: parse(serving, "CODITECT_DATABASE_URL (--database-url)")?,
            owner: parse(owner, "CODITECT_OWNER_DATABASE_URL (--owner-database-url)")?,
        })
    }

    /// The address in links, of a server that listens at `address`. Left in the data directory, for commands that make
    /// links while the server runs.
    pub(crate) fn public_url_of(
        &self,
        data_dir: &DataDir,
        scheme: &str,
        address: SocketAddr,
    ) -> anyhow::Result<String> {
        let url = match &self.public_url {
            Some(url) => url.clone(),
            None => {
                let mut address = address;
                if address.ip().is_unspecified() {
                    address.set_ip(Ipv4Addr::LOCALHOST.into());
                    tracing::warn!(
                        "links lead to this machine alone: give the server's address with --public-url"
                    );
                }
                format!("{scheme}://{address}")
            }
        };
        let path = data_dir.path().join(PUBLIC_URL_FILE);
        std::fs::write(&path, &url).with_context(|| format!("writing {}", path.display()))?;
        Ok(url)
    }

    /// The address in links, for a command.
    pub(crate) fn public_url(&self, data_dir: &DataDir) -> String {
        let left = || std::fs::read_to_string(data_dir.path().join(PUBLIC_URL_FILE)).ok();
        let usable = |text: String| signin::public_url(text.trim()).ok();
        let known = self.public_url.clone().or_else(|| left().and_then(usable));
        known.unwrap_or_else(|| DEFAULT_PUBLIC_URL.to_owned())
    }

    /// The owner's URL as it was given, for the one command whose purpose is to show it.
    pub(crate) fn owner_url(&self) -> Option<&str> {
        self.owner_database_url
            .as_ref()
            .map(|url| url.0.as_str())
            .filter(|url| !url.is_empty())
    }
}

impl From<&str> for Url {
    fn from(text: &str) -> Url {
        Url(text.to_owned())
    }
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url(…)")
    }
}
