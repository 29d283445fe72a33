//! Maintenance: marks deliveries of disabled endpoints dead, requeues runs parked for a missing endpoint once it exists, removes old
//! events, makes room in a full store, and records when keys were used. It works in batches, so no commit waits for it for long.
//!
//! Creating an endpoint requeues the runs parked for it. A run that is parked at that very moment would be missed, so this task looks
//! for such runs every second. Locks were tried instead: one commit of many then waits for one name, and an endpoint that many runs
//! wait for takes too long to create.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Keys,
    clock,
    domain::retention::Retention,
    store::{Error, Store},
};

/// How often there may be something to bury or to drive.
const EVERY: Duration = Duration::from_secs(1);
/// How often something may have become old enough, and the uses of keys are written: in rounds.
const RETIRE_EVERY: u32 = 60;
/// Between two batches, so that other commits come in between.
const PAUSE: Duration = Duration::from_millis(20);
/// Hundredths of its limit from which on a store that fills up is worth a warning.
const WARN_PERCENT: u64 = 80;

/// What the keeper keeps.
pub struct Keeper {
    pub store: Arc<dyn Store>,
    pub keys: Arc<Keys>,
    pub retention: Retention,
    /// What the store may hold; past it the oldest finished events leave before their time.
    pub bytes_max: Option<u64>,
    pub stop: CancellationToken,
}

/// How full the store is. Each change is said once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Fine,
    NearlyFull,
    Full,
}

impl Level {
    fn of(bytes: u64, bytes_max: u64) -> Self {
        match u128::from(bytes) * 100 {
            hundredths if hundredths >= u128::from(bytes_max) * 100 => Self::Full,
            hundredths if hundredths >= u128::from(bytes_max) * u128::from(WARN_PERCENT) => Self::NearlyFull,
            _ => Self::Fine,
        }
    }
}

impl Keeper {
    pub async fn run(self) {
        let mut round: u32 = 0;
        let mut level = Level::default();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
            let retire = round.is_multiple_of(RETIRE_EVERY);
            round = round.wrapping_add(1);
            if let Err(error) = self.keep(retire, &mut level).await {
                tracing::debug!(%error, "upkeep did not succeed; it is tried again");
            }
        }
        if let Err(error) = self.keys.write_uses().await {
            tracing::warn!(%error, "the last uses of the keys are not noted");
        }
    }

    async fn keep(&self, retire: bool, level: &mut Level) -> Result<(), Error> {
        while self.store.close_deliveries(clock::wall()).await? > 0 && !self.stop.is_cancelled() {
            tokio::time::sleep(PAUSE).await;
        }
        while self.store.requeue_wanting(clock::steady()).await? > 0 && !self.stop.is_cancelled() {
            tokio::time::sleep(PAUSE).await;
        }
        if !retire {
            return Ok(());
        }
        while self.store.retire(self.retention, clock::wall()).await? > 0 && !self.stop.is_cancelled() {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(bytes_max) = self.bytes_max {
            self.keep_within(bytes_max, level).await?;
        }
        // Last: what cannot be written on a full disk must not keep old events from making room.
        self.keys.write_uses().await
    }

    async fn keep_within(&self, bytes_max: u64, level: &mut Level) -> Result<(), Error> {
        let mut bytes = self.store.size().await?;
        let now = Level::of(bytes, bytes_max);
        let before = std::mem::replace(level, now);
        if now == Level::NearlyFull && before < now {
            tracing::warn!(
                bytes,
                bytes_max,
                "the store is nearly full; once it is, the oldest finished events leave before their time"
            );
        }
        if now != Level::Full {
            return Ok(());
        }
        let mut left = 0;
        let mut all_looked_at = false;
        while bytes >= bytes_max && !all_looked_at && !self.stop.is_cancelled() {
            let evicted = self.store.evict(bytes_max).await?;
            left += evicted.events;
            all_looked_at = evicted.looked_at == 0;
            bytes = self.store.size().await?;
            tokio::time::sleep(PAUSE).await;
        }
        if left > 0 {
            tracing::warn!(
                events = left,
                bytes,
                bytes_max,
                "the store was full: the oldest finished events have left before their time"
            );
        }
        if all_looked_at && bytes >= bytes_max && before != now {
            tracing::error!(
                bytes,
                bytes_max,
                "the store is full of what is not finished; raise retention.size_max, or let it be delivered"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_full_a_store_is() {
        assert_eq!(Level::of(79, 100), Level::Fine);
        assert_eq!(Level::of(80, 100), Level::NearlyFull);
        assert_eq!(Level::of(99, 100), Level::NearlyFull);
        assert_eq!(Level::of(100, 100), Level::Full);
        assert_eq!(Level::of(u64::MAX, u64::MAX), Level::Full, "no overflow");
    }
}
