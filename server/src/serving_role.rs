//! The role `coditect_app`, as which requests are served: made by the owner, bound by row level security, and cut off
//! from statements that would hold locks without end.

use anyhow::{Context as _, bail};
use postgres_protocol::password::scram_sha_256;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::database::Address;

/// Name of the serving role.
pub const NAME: &str = "coditect_app";

/// Settings of the role, so that they hold on every connection, also through a pooler.
const SETTINGS: [(&str, &str); 3] = [
    // A push waits for the tenant's head row, which is held for milliseconds: after 5 s something is stuck, and the
    // client does better to come back (503).
    ("lock_timeout", "5s"),
    // Between two statements of a transaction we only compute. A server that was stopped in between (SIGSTOP, a
    // sleeping machine) must not keep a tenant's head row from the other servers.
    ("idle_in_transaction_session_timeout", "10s"),
    // The longest honest statement is the digest over all rows of one user, seconds for millions of them. What takes a
    // minute is lost, and its client gave up before.
    ("statement_timeout", "60s"),
];

/// How often a change of the role is tried again when another migration in the same cluster changes it too (roles
/// belong to all databases, our advisory lock to one).
const ATTEMPTS: u32 = 8;

/// Makes the role if it is missing, with the password of the serving URL, and gives it its settings.
///
/// # Errors
/// If it is missing and we may not make it; the text has the SQL for whoever may.
pub(crate) async fn ensure(owner: &Client, serving: Option<&Address>) -> anyhow::Result<()> {
    if let Some(user) = serving.and_then(Address::user)
        && user != NAME
    {
        bail!("the serving URL names the role {user}, but requests are served as {NAME}");
    }
    let mut attempt = 1;
    loop {
        match make_and_set(owner, serving).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt < ATTEMPTS && is_concurrent(&error) => attempt += 1,
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                return explain(owner, &error).await;
            }
            Err(error) => return Err(error).context("making the serving role"),
        }
    }
}

async fn make_and_set(owner: &Client, serving: Option<&Address>) -> Result<(), tokio_postgres::Error> {
    if !exists(owner).await? {
        // The verifier and not the password: statements can end up in PostgreSQL's log.
        let password = serving
            .and_then(Address::password)
            .map(|password| format!(" PASSWORD '{}'", scram_sha_256(password)))
            .unwrap_or_default();
        owner
            .batch_execute(&format!("{}{password}", create_sql()))
            .await?;
        tracing::info!(role = NAME, "made the serving role");
    }
    for (setting, value) in SETTINGS {
        // Only what differs: every ALTER ROLE of a cluster writes the same few rows.
        let entry = format!("{setting}={value}");
        let is_set = owner
            .query_typed_one(
                "SELECT $2 = ANY (coalesce(rolconfig, '{}')) FROM pg_roles WHERE rolname = $1",
                &[(&NAME, Type::TEXT), (&entry, Type::TEXT)],
            )
            .await?
            .get::<_, bool>(0);
        if !is_set {
            owner.batch_execute(&alter_sql(setting, value)).await?;
        }
    }
    Ok(())
}

async fn exists(owner: &Client) -> Result<bool, tokio_postgres::Error> {
    let row = owner
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)",
            &[(&NAME, Type::TEXT)],
        )
        .await?;
    Ok(row.get(0))
}

/// Whether another session made or changed the role in the same moment.
fn is_concurrent(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        [SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION].contains(error.code())
            || error.message().contains("concurrently updated")
    })
}

/// We may not do it: fatal for a missing role, a warning for its settings.
async fn explain(owner: &Client, refused: &tokio_postgres::Error) -> anyhow::Result<()> {
    let settings: String = SETTINGS
        .map(|(setting, value)| format!("\n  {};", alter_sql(setting, value)))
        .concat();
    if exists(owner).await.context("looking for the serving role")? {
        // Its own text is "db error"; what PostgreSQL says stands beneath it.
        let reason = refused
            .as_db_error()
            .map_or_else(|| refused.to_string(), |error| error.message().to_owned());
        tracing::warn!(
            "may not change the settings of the serving role ({reason}); have this run by a role that may:{settings}"
        );
        return Ok(());
    }
    bail!(
        "the serving role {NAME} does not exist and this role may not make it; have this run by one that may, then start again:\n  {} PASSWORD '…';{settings}",
        create_sql(),
    )
}

fn create_sql() -> String {
    format!("CREATE ROLE {NAME} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION")
}

fn alter_sql(setting: &str, value: &str) -> String {
    format!("ALTER ROLE {NAME} SET {setting} = '{value}'")
}
