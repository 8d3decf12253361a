//! `login_directory`: from a name or an address to the tenants that know it.

use anyhow::Context as _;
use coditect_shared::TenantId;
use coditect_shared::hash::sha256;
use deadpool_postgres::Pool;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// What is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Email,
    Tenant,
}

impl Kind {
    /// The value of the column `kind`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Email => "email",
            Kind::Tenant => "tenant",
        }
    }
}

/// The digest under which a text stands; case and surrounding space make no difference to people.
pub(crate) fn digest(text: &str) -> Vec<u8> {
    sha256(normal(text).as_bytes()).as_bytes().to_vec()
}

/// The spelling under which a text is known.
pub(crate) fn normal(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Where a text leads: tenants, with the user where it names one.
pub(crate) async fn look_up(
    pool: &Pool,
    kind: Kind,
    text: &str,
) -> anyhow::Result<Vec<(TenantId, Option<Uuid>)>> {
    let rows = pool
        .get()
        .await
        .context("connecting as the owner")?
        .query_typed(
            "SELECT tenant_id, user_id FROM login_lookup($1, $2)",
            &[(&kind.as_str(), Type::TEXT), (&digest(text), Type::BYTEA)],
        )
        .await
        .context("reading the login directory")?;
    Ok(rows
        .iter()
        .map(|row| (TenantId(row.get(0)), row.get(1)))
        .collect())
}
