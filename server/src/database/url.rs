//! A PostgreSQL URL, with what it says of encryption: `sslmode` and `sslrootcert` mean here what users of libpq expect of
//! the strictest form, and are taken out before the driver reads the rest, since it knows neither verification nor files.
//!
//! There are two ways only: verified (certificate and host name) or in the clear. Encrypted but not verified keeps out
//! nobody who could have listened in the first place; `require` and `verify-ca` are therefore taken for `verify-full`.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context as _, bail, ensure};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use url::form_urlencoded;

/// How the connection is kept from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    Off,
    Verified(Roots),
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those that the machine trusts.
    System,
    File(PathBuf),
}

/// What a URL says of encryption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ssl {
    mode: Option<String>,
    root_cert: Option<String>,
}

/// Reads a URL, or the `host=… user=…` form. `ca_file` counts where the URL names no `sslrootcert`.
///
/// # Errors
/// None of them repeats the text, which may hold a password.
pub(super) fn read(text: &str, ca_file: Option<&Path>) -> anyhow::Result<(Config, Encryption)> {
    let (rest, ssl) = take_ssl_out(text)?;
    let mut config =
        Config::from_str(&rest).map_err(|error| anyhow::anyhow!("this is no PostgreSQL URL: {error}"))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        bail!(
            "this PostgreSQL URL names no host; for a unix socket write postgresql://USER@/DATABASE?host=/FOLDER"
        );
    }
    let encryption = decide(&ssl, place(&config), ca_file)?;
    if encryption == Encryption::Off {
        config.ssl_mode(SslMode::Disable);
    } else {
        ensure!(
            !config.get_hosts().is_empty(),
            "this PostgreSQL URL has an address (hostaddr) but no host, whose name the certificate must bear: add host=NAME"
        );
        config.ssl_mode(SslMode::Require);
    }
    Ok((config, encryption))
}

/// Where a database is, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Socket,
    ThisMachine,
    Elsewhere,
}

/// The farthest of all the hosts that are named.
pub(super) fn place(config: &Config) -> Place {
    let loopback = |name: &str| {
        name == "localhost"
            || name
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    };
    let is_socket = |host: &Host| match host {
        Host::Tcp(_) => false,
        Host::Unix(_) => true,
    };
    let is_far = |host: &Host| match host {
        Host::Tcp(name) => !loopback(name),
        Host::Unix(_) => false,
    };
    let addresses = config.get_hostaddrs();
    if config.get_hosts().iter().any(is_far) || addresses.iter().any(|address| !address.is_loopback()) {
        Place::Elsewhere
    } else if addresses.is_empty() && config.get_hosts().iter().all(is_socket) {
        Place::Socket
    } else {
        Place::ThisMachine
    }
}

fn decide(ssl: &Ssl, place: Place, ca_file: Option<&Path>) -> anyhow::Result<Encryption> {
    let roots = || match ssl.root_cert.as_deref() {
        Some("system") => Roots::System,
        Some(file) => Roots::File(PathBuf::from(file)),
        None => ca_file.map_or(Roots::System, |file| Roots::File(file.to_path_buf())),
    };
    match (ssl.mode.as_deref(), place) {
        (Some(mode @ ("prefer" | "allow")), _) => bail!(
            "sslmode={mode} goes in the clear whenever somebody in between wishes so: use verify-full (with sslrootcert=FILE for a private authority), or disable"
        ),
        // A socket has no network that could be listened to, and no host name: as in libpq, the mode means nothing there.
        (None | Some("disable" | "require" | "verify-ca" | "verify-full"), Place::Socket) => {
            Ok(Encryption::Off)
        }
        (Some("disable"), Place::ThisMachine | Place::Elsewhere) => Ok(Encryption::Off),
        (Some("require" | "verify-ca" | "verify-full"), Place::ThisMachine | Place::Elsewhere) => {
            Ok(Encryption::Verified(roots()))
        }
        // Naming an authority says that it is to be asked for.
        (None, Place::ThisMachine) if ssl.root_cert.is_none() => Ok(Encryption::Off),
        (None, Place::ThisMachine | Place::Elsewhere) => Ok(Encryption::Verified(roots())),
        (Some(_), _) => bail!("sslmode is one of disable and verify-full"),
    }
}

/// The text without `sslmode` and `sslrootcert`, and what they said.
fn take_ssl_out(text: &str) -> anyhow::Result<(String, Ssl)> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        Ok(take_out_of_url(text))
    } else {
        take_out_of_pairs(text)
    }
}

impl Ssl {
    /// Takes one parameter if it is about encryption.
    fn take(&mut self, key: &str, value: &str) -> bool {
        let place = match key {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.root_cert,
            _ => return false,
        };
        // As in libpq an empty value is none.
        *place = Some(value.to_owned()).filter(|value| !value.is_empty());
        true
    }
}

fn take_out_of_url(text: &str) -> (String, Ssl) {
    let mut ssl = Ssl::default();
    let Some((front, query)) = text.split_once('?') else {
        return (text.to_owned(), ssl);
    };
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            // PostgreSQL's URLs know %XX, but no + for a space.
            let plain = pair.replace('+', "%2B");
            !form_urlencoded::parse(plain.as_bytes()).any(|(key, value)| ssl.take(&key, &value))
        })
        .collect();
    let mark = if rest.is_empty() { "" } else { "?" };
    (format!("{front}{mark}{}", rest.join("&")), ssl)
}

/// `key=value` pairs between spaces; a value may stand in quotes, and a backslash takes the next character as it is.
fn take_out_of_pairs(text: &str) -> anyhow::Result<(String, Ssl)> {
    let mut ssl = Ssl::default();
    let mut rest: Vec<&str> = Vec::new();
    let mut left = text.trim_start();
    while !left.is_empty() {
        let (key, after) = left
            .split_once('=')
            .context("this is no PostgreSQL URL: expected postgresql://… or pairs such as host=… user=…")?;
        let behind = after.trim_start();
        let (value, length) = value_of(behind)?;
        let (whole, next) = left.split_at(left.len() - behind.len() + length);
        if !ssl.take(key.trim(), &value) {
            rest.push(whole);
        }
        left = next.trim_start();
    }
    Ok((rest.join(" "), ssl))
}

/// The value at the beginning, and how many bytes it takes.
fn value_of(text: &str) -> anyhow::Result<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    let quoted = characters.next_if(|(_, c)| *c == '\'').is_some();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, at + 1)),
            c if !quoted && c.is_whitespace() => return Ok((value, at)),
            c => value.push(c),
        }
    }
    ensure!(!quoted, "this is no PostgreSQL URL: a quote is not closed");
    Ok((value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encryption(url: &str) -> Encryption {
        read(url, None).unwrap().1
    }

    fn file(name: &str) -> Encryption {
        Encryption::Verified(Roots::File(name.into()))
    }

    #[test]
    fn another_machine_is_reached_verified_or_by_explicit_wish_in_the_clear() {
        let system = Encryption::Verified(Roots::System);
        for (url, expected) in [
            ("postgresql://u@db.test/d", system.clone()),
            ("postgresql://u@10.0.0.1/d", system.clone()),
            ("postgresql://u@db.test/d?sslmode=verify-full", system.clone()),
            ("postgresql://u@db.test/d?sslmode=require", system.clone()),
            (
                "postgresql://u@db.test/d?sslmode=verify-ca&sslrootcert=system",
                system.clone(),
            ),
            ("postgresql://u@db.test/d?sslmode=disable", Encryption::Off),
            (
                "postgresql://u@db.test/d?sslrootcert=/etc/ca%20x.pem&sslmode=verify-full",
                file("/etc/ca x.pem"),
            ),
            ("postgres://u@db.test/d?sslrootcert=a+b", file("a+b")),
            (
                "host=db.test sslmode = verify-full sslrootcert='/a \\'b'",
                file("/a 'b"),
            ),
            ("host=db.test sslmode=disable user=u", Encryption::Off),
            ("postgresql://u@localhost/d", Encryption::Off),
            ("postgresql://u@127.0.0.1/d", Encryption::Off),
            ("postgresql://u@localhost/d?sslmode=verify-full", system.clone()),
            ("postgresql://u@localhost/d?sslrootcert=ca.pem", file("ca.pem")),
            ("host=localhost hostaddr=10.0.0.1", system),
            ("postgresql://u@/d?host=/run", Encryption::Off),
            ("postgresql://u@/d?host=/run&sslmode=verify-full", Encryption::Off),
        ] {
            assert_eq!(encryption(url), expected, "{url}");
        }
    }

    #[test]
    fn a_file_of_the_command_line_counts_where_the_url_names_none() {
        let with = |url: &str| read(url, Some(Path::new("own.pem"))).unwrap().1;
        assert_eq!(with("postgresql://u@db.test/d"), file("own.pem"));
        assert_eq!(with("postgresql://u@db.test/d?sslrootcert=x.pem"), file("x.pem"));
        assert_eq!(with("postgresql://u@localhost/d"), Encryption::Off);
        assert_eq!(
            with("postgresql://u@localhost/d?sslmode=verify-full"),
            file("own.pem")
        );
        assert_eq!(with("postgresql://u@db.test/d?sslmode=disable"), Encryption::Off);
    }

    #[test]
    fn the_rest_of_the_url_reaches_the_driver() {
        for url in [
            "postgresql://u:p%40s@h.test:6432/d?sslmode=disable&application_name=x&connect_timeout=3",
            "postgresql://u:p%40s@h.test:6432/d?application_name=x&sslmode=disable&connect_timeout=3",
            "host=h.test port=6432 user=u password='p@s' dbname=d sslmode='disable' application_name=x connect_timeout=3",
        ] {
            let (config, _) = read(url, None).unwrap();
            assert_eq!(config.get_password(), Some(&b"p@s"[..]), "{url}");
            assert_eq!((config.get_user(), config.get_dbname()), (Some("u"), Some("d")));
            assert_eq!(config.get_application_name(), Some("x"));
            assert_eq!(config.get_ports(), [6432]);
            assert_eq!(config.get_connect_timeout().map(|time| time.as_secs()), Some(3));
        }
    }

    #[test]
    fn what_would_be_weaker_than_it_looks_is_refused_with_the_remedy() {
        for (url, part) in [
            (
                "postgresql://u@h/d?sslmode=prefer",
                "sslmode=prefer goes in the clear",
            ),
            ("host=h sslmode=allow", "use verify-full"),
            ("postgresql://u@h/d?sslmode=on", "one of disable and verify-full"),
            ("user=u hostaddr=10.0.0.1", "add host=NAME"),
            ("postgresql://u@h/d?sslcert=x", "this is no PostgreSQL URL"),
        ] {
            let error = format!("{:#}", read(url, None).unwrap_err());
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn p15_a_url_that_cannot_be_read_is_not_repeated() {
        for bad in [
            "postgresql://u:hunter2@h:port/d",
            "postgresql://u:hunter2@h/d?nonsense=1",
            "postgresql://u:hunter2@h/d?sslmode=nonsense",
            "host=h password='hunter2",
            "u:hunter2",
        ] {
            let error = format!("{:#}", read(bad, None).unwrap_err());
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
