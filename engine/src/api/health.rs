//! Liveness and readiness, for supervisors and balancers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::Api;
use crate::store::Error;

/// How long a probe of the store stays valid. A probe writes to the store.
const FRESH: Duration = Duration::from_secs(1);

/// Result of the last probe of the store.
#[derive(Default)]
pub struct LastProbe(Mutex<Option<(Instant, Option<String>)>>);

/// Whether the engine is ready, and if not, why.
#[derive(Serialize, ToSchema)]
pub struct Ready {
    ready: bool,
    pub reasons: Vec<String>,
}

/// Check whether the process is alive.
#[utoipa::path(
    get, path = "/healthz", operation_id = "is_alive", tag = "engine",
    responses((status = 200, description = "The process is alive.", body = String, content_type = "text/plain", example = json!("ok\n"))),
)]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// Check whether the engine is ready: the store accepts events, and the engine is not stopping.
#[utoipa::path(
    get, path = "/readyz", operation_id = "is_ready", tag = "engine",
    responses(
        (status = 200, description = "The engine is ready.", body = Ready, example = json!({ "ready": true, "reasons": [] })),
        (status = 503, description = "The engine is not ready.", body = Ready, example = json!({
            "ready": false, "reasons": ["the engine is stopping"],
        })),
    ),
)]
pub async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Ready>) {
    let mut reasons = Vec::new();
    if api.stopping.is_cancelled() {
        reasons.push("the engine is stopping".to_owned());
    }
    reasons.extend(store_trouble(&api).await);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready: reasons.is_empty(), reasons }))
}

async fn store_trouble(api: &Api) -> Option<String> {
    let mut last = api.last_probe.0.lock().await;
    match &*last {
        Some((at, trouble)) if at.elapsed() < FRESH => trouble.clone(),
        _ => {
            let failed = api.store.probe().await.err();
            let trouble = failed.as_ref().map(reason);
            let known = last.as_ref().is_some_and(|(_, before)| *before == trouble);
            if let (Some(error), false) = (failed, known) {
                tracing::warn!(%error, "store probe failed; /readyz answers 503 until it succeeds");
            }
            *last = Some((Instant::now(), trouble.clone()));
            trouble
        }
    }
}

/// Returns the public part of a failure. The database's own text names users, hosts and files, so only the log has it.
fn reason(error: &Error) -> String {
    match error {
        Error::Full | Error::Overloaded(_) => error.to_string(),
        _ => "the store is unavailable; see the log of the engine".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_database_stays_in_the_log() {
        let words = "FATAL: password authentication failed for user \"innesco\" at 10.1.2.3";
        for error in [Error::Unavailable(words.into()), Error::Internal(words.into()), Error::Sealed(words.into())] {
            assert_eq!(reason(&error), "the store is unavailable; see the log of the engine");
        }
        assert!(reason(&Error::Full).contains("disk"));
    }
}
