//! The only way to a connection for tenant data: a transaction that belongs to one tenant and user.
//!
//! [`TenantTx`] promises (P7): whatever runs inside sees and writes rows of that tenant (and, in context tables, of
//! that user) alone, since row level security compares with what was set here; the settings end with the transaction;
//! and a connection whose transaction did not end properly is closed and never handed to the next request.

use std::ops::Deref;

use coditect_shared::ids::{TenantId, UserId};
use deadpool_postgres::{Object, Pool};
use tokio_postgres::Client;

use crate::error::ApiError;

/// An open transaction of one tenant. Dropped without [`TenantTx::commit`] or [`TenantTx::rollback`] (an error, a
/// panic, a request that the client gave up) the connection is closed, and PostgreSQL rolls back.
///
/// It derefs to the client for `query_typed`, `execute_typed` and `batch_execute`. Use no named prepared statement:
/// a pooler in transaction mode (PgBouncer before 1.21) would hand it to somebody else.
pub struct TenantTx {
    /// Taken out by the end of the transaction, whichever it is.
    connection: Option<Object>,
}

impl TenantTx {
    /// Begins a read-write transaction (READ COMMITTED).
    ///
    /// # Errors
    /// 503 if the pool gives no connection in time or PostgreSQL is away.
    pub async fn begin(pool: &Pool, tenant: TenantId, user: &UserId) -> Result<TenantTx, ApiError> {
        Self::open(pool, "READ COMMITTED READ WRITE", tenant, Some(user)).await
    }

    /// Begins a read-only transaction that sees one snapshot throughout (REPEATABLE READ), for answers whose parts
    /// must fit together, such as rows and head of a pull.
    pub async fn begin_snapshot(pool: &Pool, tenant: TenantId, user: &UserId) -> Result<TenantTx, ApiError> {
        Self::open(pool, "REPEATABLE READ READ ONLY", tenant, Some(user)).await
    }

    /// Begins a read-write transaction of a tenant as a whole, for administration: no user is set, so context tables
    /// show and take nothing.
    pub async fn begin_for_tenant(pool: &Pool, tenant: TenantId) -> Result<TenantTx, ApiError> {
        Self::open(pool, "READ COMMITTED READ WRITE", tenant, None).await
    }

    /// For transactions that look rows up by key or read on in the order of an index: the planner takes no other way,
    /// however few rows it believes to be there. What is right for ten rows is ruinous for the million that its
    /// statistics do not know of yet.
    ///
    /// # Errors
    /// As any statement. It can be sent together with the first one.
    pub async fn by_index(&self) -> Result<(), ApiError> {
        self.batch_execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
             SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_material = off",
        )
        .await?;
        Ok(())
    }

    /// Commits.
    ///
    /// # Errors
    /// Also if an earlier statement failed and its error was swallowed: PostgreSQL answers `COMMIT` of a failed
    /// transaction with a quiet rollback, which must never pass for success.
    pub async fn commit(self) -> Result<(), ApiError> {
        // `SELECT` is refused in a failed transaction, and what follows it in the same message is not run then.
        self.end("SELECT; COMMIT").await
    }

    /// Gives up what was done and returns the connection to the pool, for refusals that are no accident.
    pub async fn rollback(self) -> Result<(), ApiError> {
        self.end("ROLLBACK").await
    }

    async fn open(
        pool: &Pool,
        mode: &'static str,
        tenant: TenantId,
        user: Option<&UserId>,
    ) -> Result<TenantTx, ApiError> {
        let tx = TenantTx {
            connection: Some(pool.get().await?),
        };
        // SET LOCAL takes no parameters, and Citus hands SET LOCAL on to its workers but not set_config(). Both values
        // are safe inside quotes: a UUID that we render, and a user id whose type admits no quote or backslash.
        let user = user
            .map(|user| format!("; SET LOCAL app.user_id = '{user}'"))
            .unwrap_or_default();
        tx.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {mode}; SET LOCAL app.tenant_id = '{tenant}'{user}"
        ))
        .await?;
        Ok(tx)
    }

    async fn end(mut self, statement: &'static str) -> Result<(), ApiError> {
        self.batch_execute(statement).await?;
        // Only now is the connection clean; until here a failure or cancellation closes it by Drop.
        drop(self.connection.take());
        Ok(())
    }
}

impl Deref for TenantTx {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.connection
            .as_ref()
            .expect("the connection is taken only by the end of the transaction")
    }
}

impl Drop for TenantTx {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Detached from the pool and dropped: the socket closes and the server rolls back.
            drop(Object::take(connection));
        }
    }
}
