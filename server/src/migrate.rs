//! Brings the schema up to date: numbered files, embedded in the program, forward only, each in one transaction.
//!
//! Two servers that start at once do not collide (an advisory lock), a file that was changed after it had been applied
//! is noticed (a checksum), and a schema newer than this program is refused.

use anyhow::{Context as _, bail};
use coditect_shared::hash::sha256;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::database::Address;
use crate::serving_role;

/// One file of `migrations-pg/`.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

/// All of them, in order; the position must be the number.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "identity",
        sql: include_str!("../../migrations-pg/0001_identity.sql"),
    },
    Migration {
        version: 2,
        name: "context",
        sql: include_str!("../../migrations-pg/0002_context.sql"),
    },
    Migration {
        version: 3,
        name: "context_planner",
        sql: include_str!("../../migrations-pg/0003_context_planner.sql"),
    },
    Migration {
        version: 4,
        name: "manage",
        sql: include_str!("../../migrations-pg/0004_manage.sql"),
    },
    Migration {
        version: 5,
        name: "first_login",
        sql: include_str!("../../migrations-pg/0005_first_login.sql"),
    },
    Migration {
        version: 6,
        name: "passwords",
        sql: include_str!("../../migrations-pg/0006_passwords.sql"),
    },
    Migration {
        version: 7,
        name: "sign_in",
        sql: include_str!("../../migrations-pg/0007_sign_in.sql"),
    },
];

/// Names our advisory lock among those of other programs in the same database: "codi" in ASCII.
const LOCK: i64 = 0x636f_6469;

/// The version this program works with.
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// What a run of [`migrate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Migrated {
    /// Version found; 0 is an empty database.
    pub from: i32,
    pub to: i32,
}

/// Makes the serving role if it may, then applies what is missing.
///
/// # Errors
/// If the database is newer than this program, an applied file was changed, the serving role is missing and may not be
/// made (the text has the SQL to run), or PostgreSQL refuses.
pub async fn migrate(owner: &Address, serving: Option<&Address>) -> anyhow::Result<Migrated> {
    let mut client = owner.connect().await?;
    serving_role::ensure(&client, serving).await?;
    let mut from = None;
    loop {
        let tx = client.transaction().await.context("beginning a transaction")?;
        tx.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])
            .await
            .context("waiting for another migration to end")?;
        tx.batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (
                 version    integer     PRIMARY KEY,
                 name       text        NOT NULL,
                 checksum   text        NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now()
             );
             GRANT SELECT ON schema_migrations TO coditect_app",
        )
        .await
        .context("making the table schema_migrations")?;
        let at = applied(tx.client()).await?;
        from.get_or_insert(at);
        let Some(next) = MIGRATIONS.get(at as usize) else {
            tx.commit().await.context("committing")?;
            return Ok(Migrated {
                from: from.unwrap_or(at),
                to: at,
            });
        };
        tx.batch_execute(next.sql)
            .await
            .with_context(|| format!("applying migration {:04} ({})", next.version, next.name))?;
        tx.execute_typed(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            &[
                (&next.version, Type::INT4),
                (&next.name, Type::TEXT),
                (&checksum_of(next), Type::TEXT),
            ],
        )
        .await
        .context("recording a migration")?;
        tx.commit().await.context("committing a migration")?;
        tracing::info!(version = next.version, name = next.name, "applied a migration");
    }
}

/// Refuses a database whose schema this program does not serve. Works as the serving role.
pub async fn expect_current(client: &Client) -> anyhow::Result<()> {
    let exists = client
        .query_typed_one("SELECT to_regclass('schema_migrations') IS NOT NULL", &[])
        .await
        .context("looking for the table schema_migrations")?
        .get::<_, bool>(0);
    let at = if exists { applied(client).await? } else { 0 };
    if at < VERSION {
        bail!(
            "the database has schema version {at}, this program needs {VERSION}: run `coditect-server migrate` with the owner's URL in CODITECT_OWNER_DATABASE_URL"
        );
    }
    Ok(())
}

/// The version found, after the files behind it were compared with ours.
async fn applied(client: &Client) -> anyhow::Result<i32> {
    let rows = client
        .query_typed(
            "SELECT version, name, checksum FROM schema_migrations ORDER BY version",
            &[],
        )
        .await
        .context("reading the table schema_migrations")?;
    for (index, row) in rows.iter().enumerate() {
        let (version, name, checksum): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        let Some(ours) = MIGRATIONS.get(index) else {
            bail!(
                "the database has schema version {}, this program knows {VERSION} at most: it was made by a newer coditect-server, use that one",
                rows.len(),
            );
        };
        if version != ours.version || checksum != checksum_of(ours) {
            bail!(
                "migration {version:04} ({name}) was applied in another form than this program has: the database was made by a different build"
            );
        }
    }
    Ok(rows.len() as i32)
}

fn checksum_of(migration: &Migration) -> String {
    sha256(migration.sql.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_from_one_without_gaps() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1, "{}", migration.name);
        }
    }
}
