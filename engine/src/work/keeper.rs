//! The keeper: ends what waits for endpoints that take nothing any more, and lets old events go. A batch at a time, so that it
//! never holds up a commit that someone waits for.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    store::{Error, Retention, Store},
};

/// How often there may be something to bury.
const BURY_EVERY: Duration = Duration::from_secs(1);
/// How often something may have become old enough.
const RETIRE_EVERY: u32 = 60;
/// Between two batches, so that other commits come in between.
const PAUSE: Duration = Duration::from_millis(20);

pub async fn run(store: Arc<dyn Store>, retention: Retention, stop: CancellationToken) {
    let mut round: u32 = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(BURY_EVERY) => {}
        }
        let retire = round.is_multiple_of(RETIRE_EVERY);
        round = round.wrapping_add(1);
        if let Err(error) = keep(&*store, retention, retire, &stop).await {
            tracing::debug!(%error, "upkeep did not succeed; it is tried again");
        }
    }
}

async fn keep(store: &dyn Store, retention: Retention, retire: bool, stop: &CancellationToken) -> Result<(), Error> {
    while store.bury(clock::wall()).await? > 0 && !stop.is_cancelled() {
        tokio::time::sleep(PAUSE).await;
    }
    while retire && store.retire(retention, clock::wall()).await? > 0 && !stop.is_cancelled() {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
