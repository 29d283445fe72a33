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
use crate::store::Error;

/// How long an answer of the store is good for: asking writes.
const FRESH: Duration = Duration::from_secs(1);

/// What the last probe of the store found.
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

/// Returns what anyone may know of a failure. The words of the database name users, hosts and files, so they go to the log alone.
fn reason(error: &Error) -> String {
    match error {
        Error::Full | Error::Overloaded(_) => error.to_string(),
        _ => "the store cannot be used at the moment; the log of the engine says why".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_database_stay_in_the_log() {
        let words = "FATAL: password authentication failed for user \"innesco\" at 10.1.2.3";
        for error in [Error::Unavailable(words.into()), Error::Internal(words.into()), Error::Sealed(words.into())] {
            assert_eq!(reason(&error), "the store cannot be used at the moment; the log of the engine says why");
        }
        assert!(reason(&Error::Full).contains("disk"));
    }
}
