//! `GET /context/digest`: rows and digest of each table, by which `verify` proves equality (P16).
//!
//! PostgreSQL computes what [`coditect_shared::digest`] defines, over one snapshot, and sends 256 sums a table at most.

use axum::extract::State;
use axum::{Extension, Json};
use coditect_shared::digest::{BucketDigest, TableDigest};
use coditect_shared::wire::DigestAnswer;
use tokio_postgres::types::Type;

use crate::answer::RequestId;
use crate::app::AppState;
use crate::audit::reads::What;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::history;
use crate::routes::Doc;
use crate::tenant::TenantTx;

/// For the OpenAPI document.
pub(crate) fn doc() -> Doc {
    Doc::new("Digests of the user's rows")
        .description("By which a device proves that it holds the same: rows and digest of each table, by the first byte of the hash.")
        .json::<DigestAnswer>(200, "All of one snapshot.")
}

/// The route.
pub async fn digest(
    State(state): State<AppState>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
) -> Result<Json<DigestAnswer>, ApiError> {
    let tx = TenantTx::begin_snapshot(&state.pool, caller.tenant, &caller.user).await?;
    let (tenant, head, messages, tasks, task_messages) = tokio::try_join!(biased;
        history::tenant_head(&tx, &caller),
        history::head(&tx, &caller),
        table(&tx, &caller, MESSAGES),
        table(&tx, &caller, TASKS),
        table(&tx, &caller, LINKS),
    )?;
    tx.commit().await?;
    let rows = messages.rows + tasks.rows + task_messages.rows;
    let what = What {
        cursors: Some((0, head.cursor)),
        ..What::rows("context", usize::try_from(rows).map_err(anyhow::Error::from)?)
    };
    state.reads.note(&caller, &request_id.0, what).await?;
    Ok(Json(DigestAnswer {
        epoch: tenant.epoch,
        cursor: head.cursor,
        messages,
        tasks,
        task_messages,
    }))
}

/// Bucket and line of each row, in the very spelling of `coditect_shared::digest`.
const MESSAGES: &str = "
    SELECT left(content_hash, 2) AS bucket,
           origin_hash || ':' || origin_occurrence || ':' || content_hash || ':' || session_id AS line
      FROM context_messages WHERE tenant_id = $1 AND user_id = $2";

const TASKS: &str = "
    SELECT left(content_hash, 2) AS bucket, id || ':' || content_hash AS line
      FROM context_task_tracking WHERE tenant_id = $1 AND user_id = $2";

const LINKS: &str = "
    SELECT left(m.origin_hash, 2) AS bucket,
           l.task_id || ':' || m.origin_hash || ':' || m.origin_occurrence || ':' || coalesce(l.sequence::text, '')
               || ':' || m.session_id AS line
      FROM context_task_messages l
      JOIN context_messages m ON m.tenant_id = l.tenant_id AND m.id = l.message_id
     WHERE l.tenant_id = $1 AND l.user_id = $2 AND m.tenant_id = $1 AND m.user_id = $2";

async fn table(tx: &TenantTx, caller: &Caller, lines: &str) -> Result<TableDigest, ApiError> {
    let statement = format!(
        "SELECT bucket, count(*) AS rows,
                bit_xor(('x' || left(encode(sha256(convert_to(line, 'UTF8')), 'hex'), 16))::bit(64)::bigint) AS digest
           FROM ({lines}) lines
          GROUP BY bucket"
    );
    let rows = tx
        .query_typed(
            &statement,
            &[
                (&caller.tenant.0, Type::UUID),
                (&caller.user.as_str(), Type::TEXT),
            ],
        )
        .await?;
    let mut table = TableDigest::default();
    for row in rows {
        let (count, digest): (i64, i64) = (row.try_get("rows")?, row.try_get("digest")?);
        let bucket = BucketDigest {
            rows: u64::try_from(count).map_err(anyhow::Error::from)?,
            // The same 64 bits, which PostgreSQL reads as a signed number.
            digest: digest.cast_unsigned(),
        };
        table.rows += bucket.rows;
        table.digest ^= bucket.digest;
        table.buckets.insert(row.try_get("bucket")?, bucket);
    }
    Ok(table)
}
