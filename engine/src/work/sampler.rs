//! Adds the counts of this process to the statistics in the store. A crash loses at most the counts since the last write. Events,
//! runs and deliveries do not depend on these counts.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    domain::time::Timestamp,
    metrics::Tally,
    store::{Error, Store},
};

/// How often counts are written.
const EVERY: Duration = Duration::from_secs(10);

pub struct Sampler<'a> {
    store: Arc<dyn Store>,
    tally: &'a Tally,
}

impl<'a> Sampler<'a> {
    pub fn new(store: Arc<dyn Store>, tally: &'a Tally) -> Self {
        Self { store, tally }
    }

    pub async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            if let Err(error) = self.step(clock::wall()).await {
                tracing::debug!(%error, "statistics not stored; retrying");
            }
        }
        if let Err(error) = self.step(clock::wall()).await {
            tracing::warn!(%error, "last statistics not stored");
        }
    }

    /// Writes what was counted since the last step. `at` is the wall clock.
    async fn step(&self, at: Timestamp) -> Result<(), Error> {
        let counts = self.tally.take();
        let stored = self.store.add_counts(counts.clone(), at).await;
        if stored.is_err() {
            self.tally.give_back(counts);
        }
        stored
    }
}
