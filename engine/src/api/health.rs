//! Whether the process lives, and whether it is ready: for those who start, stop and balance it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::Api;

/// How long an answer of the store is good for: asking writes.
const FRESH: Duration = Duration::from_secs(1);

/// What the store last said.
#[derive(Default)]
pub struct LastProbe(Mutex<Option<(Instant, Option<String>)>>);

/// Whether the engine is ready, and why not.
#[derive(Serialize, ToSchema)]
pub struct Ready {
    ready: bool,
    reasons: Vec<String>,
}

/// Ask whether the process lives.
#[utoipa::path(
    get, path = "/healthz", operation_id = "is_alive", tag = "engine",
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain", example = json!("ok\n"))),
)]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// Ask whether the engine is ready: the store takes events, and nobody has told it to stop.
#[utoipa::path(
    get, path = "/readyz", operation_id = "is_ready", tag = "engine",
    responses(
        (status = 200, description = "It is.", body = Ready, example = json!({ "ready": true, "reasons": [] })),
        (status = 503, description = "It is not.", body = Ready, example = json!({
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
            let trouble = api.store.probe().await.err().map(|error| error.to_string());
            *last = Some((Instant::now(), trouble.clone()));
            trouble
        }
    }
}
