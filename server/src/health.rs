//! What load balancers and token verifiers ask without a token.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::jwk::JwkSet;
use serde_json::json;

use crate::app::AppState;

/// How long readiness waits for the database: below the 5 s and more that load balancers wait for the answer.
const READY_WAIT: Duration = Duration::from_secs(3);

/// The process runs and takes requests; says nothing about the database.
pub(crate) async fn alive() -> Response {
    Json(json!({"status": "healthy"})).into_response()
}

/// The database answers too; 503 else, so that a balancer sends requests elsewhere.
pub(crate) async fn ready(State(state): State<AppState>) -> Response {
    match tokio::time::timeout(READY_WAIT, ask_database(&state)).await {
        Ok(Ok(())) => Json(json!({"status": "healthy"})).into_response(),
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

fn unhealthy(error: &str) -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(json!({"status": "unhealthy", "error": error})),
    )
        .into_response()
}
