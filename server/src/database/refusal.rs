//! Why there is no connection to PostgreSQL, in words that say what to do: out of reach, not let in, or not trusted.

use std::error::Error as _;
use std::io;

use rustls::CertificateError;
use tokio_postgres::error::SqlState;

use super::{Address, Unreachable};

/// The error of a connection that was not made. [`Unreachable`] is among its causes only where a later try may do
/// better; what has to be mended first is no matter of waiting.
pub(super) fn explained(error: tokio_postgres::Error, address: &Address) -> anyhow::Error {
    if let Some(refused) = error.as_db_error() {
        // Class 28: authorization. Its own text is "db error"; what PostgreSQL says stands beneath it.
        if refused.code().code().starts_with("28") {
            return anyhow::anyhow!(
                "PostgreSQL lets nobody in at {address}: {}; check role and password of the URL, and pg_hba.conf",
                refused.message()
            );
        }
        if *refused.code() == SqlState::INVALID_CATALOG_NAME {
            return anyhow::anyhow!(
                "PostgreSQL has no such database at {address}: {}; make it with `createdb`, owned by the owner's role",
                refused.message()
            );
        }
    }
    match tls_fault(&error) {
        Some(fault) => anyhow::anyhow!("no trusted connection to PostgreSQL at {address}: {fault}"),
        None => anyhow::Error::new(error).context(Unreachable(address.to_string())),
    }
}

/// What is wrong with the other side's TLS, and the remedy.
fn tls_fault(error: &tokio_postgres::Error) -> Option<String> {
    let cause = error.source()?;
    if cause.to_string() == "server does not support TLS" {
        return Some(
            "the server does not offer TLS: switch it on there (ssl = on), or let the connection go in the clear with sslmode=disable"
                .to_owned(),
        );
    }
    let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
    let fault = inner.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::InvalidCertificate(why) = fault {
        Some(certificate_fault(why))
    } else {
        Some(fault.to_string())
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum of another crate grows; its own words do for the rest"
)]
fn certificate_fault(why: &CertificateError) -> String {
    let remedy = match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no trusted authority signed it: name the authority's certificate with sslrootcert=FILE in the URL, or --database-ca FILE"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host: use the name that it bears, or have one made for this name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has to be renewed there, or the clock here is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the clock here or there is wrong"
        }
        CertificateError::Other(_) => {
            "a certificate authority's own certificate does not do for a server: have it sign one"
        }
        _ => "have the server's certificate made anew",
    };
    format!("its certificate is refused ({why}): {remedy}")
}
