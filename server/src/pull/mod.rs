//! `GET /context/pull`: the user's rows above a cursor, of all devices, in the order of their commits.
//!
//! Rows, head and marks come from one snapshot, so that a reader who goes on from a page's cursor never misses a row
//! (P3). Rows whose present version the asking device pushed itself come as stubs. A page ends at a number of rows or
//! of bytes, whichever comes first, and holds at least one row.

mod query;
mod rows;

use axum::extract::{Query, State};
use axum::{Extension, Json};
use coditect_shared::limits::PULL_PAGE_BYTES;
use coditect_shared::wire::{PullPage, PullQuery, Stub};
use coditect_shared::{DeviceId, LinkRecord, MessageRecord, TaskRecord};
use serde_json::json;
use tokio_postgres::types::Type;

use crate::answer::RequestId;
use crate::app::AppState;
use crate::audit::reads::What;
use crate::auth::{Caller, Device};
use crate::error::{ApiError, tenant_gone};
use crate::history::{self, TenantHead};
use crate::routes::Doc;
use crate::tenant::TenantTx;

/// For the OpenAPI document.
pub(crate) fn doc() -> Doc {
    Doc::new("Rows above a cursor")
        .description("In cursor order over all tables; what the asking device pushed itself comes as stubs.")
        .device()
        .query::<PullQuery>()
        .json::<PullPage>(
            200,
            "One page; `has_more` says whether to go on from its `cursor`.",
        )
        .refuses(
            409,
            "`history_diverged`: the history that the device has seen is none of this server's.",
        )
}

/// The route.
pub async fn pull(
    State(state): State<AppState>,
    caller: Caller,
    Device(device): Device,
    Extension(request_id): Extension<RequestId>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<PullPage>, ApiError> {
    let asked = query::parse(&pairs)?;
    let tx = TenantTx::begin_snapshot(&state.pool, caller.tenant, &caller.user).await?;
    let wanted = rows::Wanted {
        tx: &tx,
        caller: &caller,
        device,
        cursor: asked.query.cursor,
        limit: asked.limit,
        stubs: asked.query.stubs.unwrap_or_default(),
    };
    let ((), known, tenant, head, proof, messages, tasks, links) = tokio::try_join!(biased;
        tx.by_index(),
        device_row(&tx, &caller, device),
        history::tenant_head(&tx, &caller),
        history::head(&tx, &caller),
        proof(&tx, &caller, &asked),
        rows::messages(&wanted),
        rows::tasks(&wanted),
        rows::links(&wanted),
    )?;
    if let Some(reason) = diverged(&asked, tenant, &proof) {
        tx.rollback().await?;
        return Err(ApiError::Conflict {
            code: "history_diverged",
            message: reason,
            details: json!({"epoch": tenant.epoch, "head": head.cursor}),
        });
    }
    let (items, has_more) = cut(messages, tasks, links, asked.limit, PULL_PAGE_BYTES);
    let cursor = match items.last() {
        Some(last) if has_more => last.cursor,
        // Others' rows must not keep a device below the head for ever, so even an empty page ends there.
        Some(_) | None => head.cursor.max(asked.query.cursor),
    };
    let mark = if cursor == head.cursor {
        head.mark
    } else {
        history::mark_at(&tx, &caller, cursor).await?
    };
    tx.commit().await?;
    note(&state, &caller, device, &asked.query, known.as_ref()).await?;
    let first = items.first().map(|item| item.cursor);
    let last = items.last().map(|item| item.cursor);
    let rows = items.len();

    let mut page = PullPage {
        cursor,
        mark,
        head: head.cursor,
        has_more,
        device_push_seq: known.map_or(0, |known| known.push_seq),
        epoch: tenant.epoch,
        ..PullPage::default()
    };
    for item in items {
        match item.body {
            Body::Message(message) => page.messages.push(*message),
            Body::Task(task) => page.tasks.push(*task),
            Body::Link(link) => page.task_messages.push(link),
            Body::Own(stub) => page.own.push(stub),
            // Rows beyond the bytes of a page are cut off before they get here.
            Body::LeftOut => {}
        }
    }
    let what = What {
        cursors: first.zip(last),
        details: json!({
            "device_id": device,
            "messages": page.messages.len(),
            "tasks": page.tasks.len(),
            "task_messages": page.task_messages.len(),
            "own": page.own.len(),
        }),
        ..What::rows("context", rows)
    };
    state.reads.note(&caller, &request_id.0, what).await?;
    Ok(Json(page))
}

/// One row on its way into a page.
struct Item {
    cursor: i64,
    /// About how many bytes it takes in the page.
    weight: i64,
    body: Body,
}

enum Body {
    Message(Box<MessageRecord>),
    Task(Box<TaskRecord>),
    Link(LinkRecord),
    Own(Stub),
    /// So far behind in the page that its body was not read.
    LeftOut,
}

/// Merges the tables in cursor order and ends the page. The second value: whether there is more.
fn cut(
    messages: Vec<Item>,
    tasks: Vec<Item>,
    links: Vec<Item>,
    limit: usize,
    bytes: i64,
) -> (Vec<Item>, bool) {
    let mut all: Vec<Item> = messages;
    all.extend(tasks);
    all.extend(links);
    // Three sorted runs, which the sort detects and merges.
    all.sort_by_key(|item| item.cursor);
    let mut before = 0;
    let mut end = 0;
    for item in all.iter().take(limit) {
        // A row begins in the page as long as the page has room left; so the first always does.
        if before >= bytes || matches!(item.body, Body::LeftOut) {
            break;
        }
        before += item.weight;
        end += 1;
    }
    let has_more = end < all.len();
    all.truncate(end);
    (all, has_more)
}

/// The marks that are stored where the client showed one.
struct Proof {
    at_cursor: Option<String>,
    at_witness: Option<String>,
}

async fn proof(tx: &TenantTx, caller: &Caller, asked: &query::Asked) -> Result<Proof, ApiError> {
    let at_cursor = async {
        match &asked.query.mark {
            Some(_) => history::mark_at(tx, caller, asked.query.cursor).await,
            None => Ok(None),
        }
    };
    let at_witness = async {
        match &asked.witness {
            Some((cursor, _)) => history::mark_at(tx, caller, *cursor).await,
            None => Ok(None),
        }
    };
    let (at_cursor, at_witness) = tokio::try_join!(biased; at_cursor, at_witness)?;
    Ok(Proof {
        at_cursor,
        at_witness,
    })
}

/// Why the client's history is not a part of this one, if it is not.
fn diverged(asked: &query::Asked, tenant: TenantHead, proof: &Proof) -> Option<String> {
    let cursor = asked.query.cursor;
    if cursor > tenant.cursor {
        return Some(format!("cursor {cursor} is beyond the head {}", tenant.cursor));
    }
    // Nothing is covered at 0, whatever was shown with it.
    if cursor > 0 && asked.query.mark.is_some() && asked.query.mark != proof.at_cursor {
        return Some(format!("the mark at cursor {cursor} is none of this history"));
    }
    match &asked.witness {
        Some((cursor, _)) if *cursor > tenant.cursor => Some(format!(
            "the witness at cursor {cursor} is beyond the head {}",
            tenant.cursor
        )),
        Some((cursor, mark)) if *cursor > 0 && Some(mark) != proof.at_witness.as_ref() => {
            Some(format!("the witness at cursor {cursor} is none of this history"))
        }
        Some(_) | None => None,
    }
}

/// What is known of the asking device.
struct DeviceRow {
    push_seq: i64,
    pulled_cursor: i64,
}

async fn device_row(tx: &TenantTx, caller: &Caller, device: DeviceId) -> Result<Option<DeviceRow>, ApiError> {
    let row = tx
        .query_typed_opt(
            "SELECT push_seq, pulled_cursor FROM context_sync_cursors
              WHERE tenant_id = $1 AND user_id = $2 AND device_id = $3",
            &[
                (&caller.tenant.0, Type::UUID),
                (&caller.user.as_str(), Type::TEXT),
                (&device.0, Type::UUID),
            ],
        )
        .await?;
    row.map(|row| {
        Ok(DeviceRow {
            push_seq: row.try_get("push_seq")?,
            pulled_cursor: row.try_get("pulled_cursor")?,
        })
    })
    .transpose()
}

/// Registers the device, or notes how far it has come: what it asks from, it has. Nothing is written for a device
/// that stands still.
async fn note(
    state: &AppState,
    caller: &Caller,
    device: DeviceId,
    query: &PullQuery,
    known: Option<&DeviceRow>,
) -> Result<(), ApiError> {
    // A pull of stubs alone goes over what the device has long had.
    let stands_still = |known: &DeviceRow| known.pulled_cursor == query.cursor || query.stubs == Some(true);
    if known.is_some_and(stands_still) {
        return Ok(());
    }
    let tx = TenantTx::begin(&state.pool, caller.tenant, &caller.user).await?;
    // Losing this to a crash costs nothing, and the reader does not wait for the disk.
    tx.batch_execute("SET LOCAL synchronous_commit = off").await?;
    tx.execute_typed(
        "INSERT INTO context_sync_cursors (tenant_id, user_id, device_id, pulled_cursor, last_pulled_at)
         VALUES ($1, $2, $3, $4, clock_timestamp())
         ON CONFLICT (tenant_id, user_id, device_id) DO UPDATE
            SET pulled_cursor = excluded.pulled_cursor, last_pulled_at = excluded.last_pulled_at",
        &[
            (&caller.tenant.0, Type::UUID),
            (&caller.user.as_str(), Type::TEXT),
            (&device.0, Type::UUID),
            (&query.cursor, Type::INT8),
        ],
    )
    .await
    .map_err(tenant_gone)?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(weights: &[(i64, i64)]) -> Vec<Item> {
        let body = || {
            Body::Link(LinkRecord {
                reference: None,
                task_id: String::new(),
                message: coditect_shared::Origin {
                    session_id: String::new(),
                    content_hash: coditect_shared::hash::sha256(b""),
                    occurrence: 0,
                },
                sequence: None,
                base: None,
                stamp: None,
                sync_cursor: None,
                synced_at: None,
            })
        };
        weights
            .iter()
            .map(|(cursor, weight)| Item {
                cursor: *cursor,
                weight: *weight,
                body: body(),
            })
            .collect()
    }

    fn cursors((items, has_more): (Vec<Item>, bool)) -> (Vec<i64>, bool) {
        (items.iter().map(|item| item.cursor).collect(), has_more)
    }

    #[test]
    fn a_page_is_merged_in_cursor_order_and_ends_at_rows_or_bytes() {
        let three = || {
            (
                items(&[(1, 10), (5, 10)]),
                items(&[(2, 10)]),
                items(&[(3, 10), (4, 10)]),
            )
        };
        let page = |limit, bytes| {
            let (a, b, c) = three();
            cursors(cut(a, b, c, limit, bytes))
        };
        assert_eq!(page(10, 1000), (vec![1, 2, 3, 4, 5], false));
        assert_eq!(page(5, 1000), (vec![1, 2, 3, 4, 5], false));
        assert_eq!(page(2, 1000), (vec![1, 2], true));
        assert_eq!(page(10, 25), (vec![1, 2, 3], true));
    }

    #[test]
    fn a_page_holds_at_least_one_row_however_large_it_is() {
        let page = cut(items(&[(7, 1 << 40), (8, 1)]), Vec::new(), Vec::new(), 10, 1000);
        assert_eq!(cursors(page), (vec![7], true));
    }

    #[test]
    fn a_row_whose_body_was_not_read_ends_the_page() {
        let mut messages = items(&[(1, 10), (2, 10)]);
        messages[1].body = Body::LeftOut;
        assert_eq!(
            cursors(cut(messages, Vec::new(), Vec::new(), 10, 1000)),
            (vec![1], true)
        );
    }
}
