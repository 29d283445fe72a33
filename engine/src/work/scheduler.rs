//! The scheduler: accepts events that plugins scheduled, once they are due. It reads the next due time once per [`EVERY`], so an
//! event is late by at most that time. It writes only if an event is due. Every node has a scheduler, and the store gives each
//! event to only one of them.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    domain::time::Timestamp,
    store::{Error, Store},
};

/// How often the scheduler looks for due events.
const EVERY: Duration = Duration::from_millis(500);
/// Pause between two batches, so that other commits get through.
const PAUSE: Duration = Duration::from_millis(20);

pub async fn run(store: Arc<dyn Store>, stop: CancellationToken) {
    loop {
        let accepted = step(&*store, clock::wall()).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "scheduled events not accepted; trying again");
            0
        });
        let pause = if accepted == 0 { EVERY } else { PAUSE };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Accepts one batch of the events that are due at `at`. Returns the number of accepted events.
pub async fn step(store: &dyn Store, at: Timestamp) -> Result<usize, Error> {
    match store.next_scheduled().await? {
        Some(due) if due <= at => store.accept_scheduled(at).await,
        _ => Ok(0),
    }
}
