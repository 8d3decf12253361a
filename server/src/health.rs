//! What load balancers and token verifiers ask without a token.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::jwk::JwkSet;

use crate::app::AppState;
use crate::routes::Doc;

/// How long readiness waits for the database: below the 5 s and more that load balancers wait for the answer.
const READY_WAIT: Duration = Duration::from_secs(3);

/// What a probe is told.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    /// `healthy` or `unhealthy`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

const HEALTHY: Health = Health {
    status: "healthy",
    error: None,
};

pub(crate) fn alive_doc() -> Doc {
    Doc::new("Whether the process runs").json::<Health>(200, "It does.")
}

pub(crate) fn ready_doc() -> Doc {
    Doc::new("Whether the database answers too")
        .json::<Health>(200, "It does.")
        .json::<Health>(503, "It does not.")
}

pub(crate) fn jwks_doc() -> Doc {
    Doc::new("Public keys of the access tokens").any_json(200, "A JSON Web Key Set (RFC 7517).")
}

/// The process runs and takes requests; says nothing about the database.
pub(crate) async fn alive() -> Response {
    Json(HEALTHY).into_response()
}

/// The database answers too; 503 else, so that a balancer sends requests elsewhere.
pub(crate) async fn ready(State(state): State<AppState>) -> Response {
    match tokio::time::timeout(READY_WAIT, ask_database(&state)).await {
        Ok(Ok(())) => Json(HEALTHY).into_response(),
        Ok(Err(cause)) => {
            tracing::warn!("not ready: {cause:#}");
            unhealthy("the database does not answer")
        }
        Err(_) => unhealthy("the database did not answer in time"),
    }
}

/// The public keys of our access tokens.
pub(crate) async fn jwks(State(state): State<AppState>) -> Json<JwkSet> {
    Json(state.keys.jwks())
}

async fn ask_database(state: &AppState) -> anyhow::Result<()> {
    let connection = state.pool.get().await?;
    connection.batch_execute("SELECT").await?;
    Ok(())
}

fn unhealthy(error: &'static str) -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(Health {
            status: "unhealthy",
            error: Some(error),
        }),
    )
        .into_response()
}
