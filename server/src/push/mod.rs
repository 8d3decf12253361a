//! `POST /context/push`: a device's batch goes into PostgreSQL in one transaction, once.
//!
//! The way of a batch: [`intake`] checks each record alone; [`turns`] lets few pushes of a tenant at its head lock at
//! a time; [`lock`] locks the device and the head; [`load`] reads what the batch concerns; [`plan`] decides; [`write`]
//! writes set-wise. After the commit, and outside the transaction, listeners learn of the new head.
//!
//! Promises: the same batch sent twice changes nothing and gets the same answer (P2); cursors follow commit order (P3);
//! a bad record is refused alone (P10).

mod intake;
mod load;
mod lock;
pub mod plan;
pub mod turns;
mod write;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use coditect_shared::hash::sha256;
use coditect_shared::limits::PUSH_RECORDS_MAX;
use coditect_shared::wire::{PushAnswer, PushConflict, PushRequest};
use coditect_shared::{ContentHash, DeviceId};
use serde_json::json;
use tracing::Instrument as _;

use crate::answer::RequestId;
use crate::app::AppState;
use crate::auth::{Caller, Device};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::history;
use crate::routes::Doc;
use crate::rules::{Rule, holds};
use crate::tenant::TenantTx;

use intake::Intake;
use lock::{Committed, Head};

/// For the OpenAPI document.
pub(crate) fn doc() -> Doc {
    Doc::new("A device's batch")
        .description(
            "Stored in one transaction, once: the same bytes sent again get the stored answer. A bad record is refused alone, in `rejected`: session_id, active_form, project_id and hardware_id have at most 255 characters, task_id, role and client_version 50, a time 100, other texts 8 MiB, metadata 1 MiB; U+0000 is in none.",
        )
        .device()
        .body::<PushRequest>()
        .json::<PushAnswer>(200, "What became of the records.")
        .refuses(
            409,
            "`push_seq_conflict` (with the stored digest and answer), `push_seq_gap`, `push_seq_stale`, or `epoch_mismatch`.",
        )
}

/// The route.
pub async fn push(
    State(state): State<AppState>,
    caller: Caller,
    Device(device): Device,
    Extension(request_id): Extension<RequestId>,
    JsonBody {
        bytes,
        value: request,
    }: JsonBody<PushRequest>,
) -> Result<Response, ApiError> {
    check_envelope(&request)?;
    let sender = Sender {
        device,
        push_seq: request.push_seq,
        epoch: request.epoch,
        digest: sha256(&bytes),
        bytes: bytes.len(),
        request_id: request_id.0,
    };
    let intake = Intake::check(caller.tenant, request);
    let turn = state.turns.wait(caller.tenant).await?;
    // From here on a client that hangs up stops nothing: a commit that nobody waits for any more must still be told
    // to the user's other devices.
    let storing = async move {
        let stored = store(&state, &caller, &sender, intake).await?;
        drop(turn);
        if let Some(head) = stored.moved_to {
            state.heads.moved(caller.tenant, &caller.user, head);
        }
        Ok::<_, ApiError>(stored.answer)
    };
    let answer = tokio::spawn(storing.in_current_span())
        .await
        .map_err(anyhow::Error::from)??;
    Ok(([(CONTENT_TYPE, "application/json")], answer).into_response())
}

/// What is known of a push before its records are looked at.
struct Sender {
    device: DeviceId,
    push_seq: i64,
    epoch: i64,
    /// Of the body before compression.
    digest: ContentHash,
    bytes: usize,
    request_id: String,
}

struct Stored {
    /// As JSON, the same bytes for the same batch.
    answer: String,
    /// The user's new head, if this push moved it.
    moved_to: Option<i64>,
}

fn check_envelope(request: &PushRequest) -> Result<(), ApiError> {
    for (field, value) in [("epoch", request.epoch), ("push_seq", request.push_seq)] {
        if value < 1 {
            return Err(ApiError::invalid(
                field,
                format!("{value} is below 1, from which it counts"),
            ));
        }
    }
    let records = request.messages.len() + request.tasks.len() + request.task_messages.len();
    if records > PUSH_RECORDS_MAX {
        return Err(ApiError::TooLarge {
            message: format!("the batch has {records} records, at most {PUSH_RECORDS_MAX} are allowed"),
            limit: PUSH_RECORDS_MAX as u64,
        });
    }
    Ok(())
}

/// The transaction.
async fn store(
    state: &AppState,
    caller: &Caller,
    sender: &Sender,
    mut intake: Intake,
) -> Result<Stored, ApiError> {
    let tx = TenantTx::begin(&state.pool, caller.tenant, &caller.user).await?;
    let scope = lock::Scope { tx: &tx, caller };
    let (committed, head) = lock::lock(&scope, sender.device).await?;
    match judge(sender, &committed, &head) {
        Ok(Turn::New) => {}
        Ok(Turn::Again) => {
            let answer = lock::stored_answer(&scope, sender).await?;
            tx.rollback().await?;
            return Ok(Stored {
                answer,
                moved_to: None,
            });
        }
        Ok(Turn::OtherBatch(digest)) => {
            let answer = lock::stored_answer(&scope, sender).await?;
            tx.rollback().await?;
            return Err(push_seq_conflict(sender, digest, &answer));
        }
        Err(refusal) => {
            tx.rollback().await?;
            return Err(refusal);
        }
    }

    let known = load::known(&scope, &head, &intake.batch).await?;
    let plan = plan::plan(&intake.batch, known);
    let moved = plan.head > head.head;
    let after = if moved {
        history::Head {
            cursor: plan.head,
            mark: Some(format!("{:016x}", rand::random::<u64>())),
        }
    } else {
        history::head(&tx, caller).await?
    };
    let answer = intake.answer(&plan, &after, &head);
    let text = serde_json::to_string(&answer).map_err(anyhow::Error::from)?;
    let log = write::Log {
        cursor: after.cursor,
        mark: after.mark.filter(|_| moved),
        answer: &answer,
        text: &text,
    };
    write::write(&scope, sender, &head, &intake, &plan, log).await?;
    tx.commit().await?;
    Ok(Stored {
        answer: text,
        moved_to: moved.then_some(after.cursor),
    })
}

/// Where a batch stands in the count of its device.
enum Turn {
    New,
    /// Committed before: the same bytes.
    Again,
    /// Another batch was committed under this number.
    OtherBatch(ContentHash),
}

fn judge(sender: &Sender, committed: &Committed, head: &Head) -> Result<Turn, ApiError> {
    if sender.epoch != head.epoch {
        return Err(ApiError::Conflict {
            code: "epoch_mismatch",
            message: format!(
                "the batch is of epoch {}, the server is in epoch {}: pull first",
                sender.epoch, head.epoch
            ),
            details: json!({"epoch": head.epoch}),
        });
    }
    let last = committed.push_seq;
    let out_of_step = |code, what| ApiError::Conflict {
        code,
        message: format!(
            "push_seq {} {what}: the last one committed for this device is {last}",
            sender.push_seq
        ),
        details: json!({"push_seq": last}),
    };
    if sender.push_seq < last {
        return Err(out_of_step("push_seq_stale", "is past"));
    }
    if sender.push_seq - last > 1 {
        return Err(out_of_step("push_seq_gap", "leaves a gap"));
    }
    match committed.digest {
        Some(digest)
            if sender.push_seq == last && (digest == sender.digest || !holds(Rule::DigestCompared)) =>
        {
            Ok(Turn::Again)
        }
        Some(digest) if sender.push_seq == last => Ok(Turn::OtherBatch(digest)),
        Some(_) | None => Ok(Turn::New),
    }
}

fn push_seq_conflict(sender: &Sender, digest: ContentHash, answer: &str) -> ApiError {
    let details = serde_json::from_str::<PushAnswer>(answer)
        .and_then(|answer| serde_json::to_value(PushConflict { digest, answer }));
    match details {
        Ok(details) => ApiError::Conflict {
            code: "push_seq_conflict",
            message: format!("another batch was committed under push_seq {}", sender.push_seq),
            details,
        },
        Err(error) => ApiError::Internal(anyhow::Error::from(error).context("reading a stored answer")),
    }
}
