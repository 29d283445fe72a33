//! Maintenance: marks deliveries of disabled endpoints dead, requeues runs parked for a missing endpoint once it exists, deletes
//! expired state and old events, evicts old events from a full store, and records when keys were used. Maintenance works in
//! batches, so that no commit waits long for it.
//!
//! The creation of an endpoint requeues the runs that are parked for it. It can miss a run that is parked at the same moment, so
//! this task looks for such runs every second. Locks would be worse: each commit that parks such a run would wait for a lock on the
//! missing name, and the creation of an endpoint for which many runs wait would take too long.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Keys,
    clock,
    domain::{retention::Retention, time::Timestamp},
    store::{Error, Store},
};

/// How often maintenance runs.
const EVERY: Duration = Duration::from_secs(1);
/// Retention runs once in this many steps. The uses of keys are written just as often.
const RETIRE_EVERY: u32 = 60;
/// Maximum difference between the clocks of two nodes. Expired state stays this much longer, because on a node whose clock is slow
/// the state has not expired yet.
const SKEW_MAX: Duration = Duration::from_secs(60);
/// Pause between two batches, so that other commits get through.
const PAUSE: Duration = Duration::from_millis(30);
/// Percentage of its limit at which a store counts as nearly full.
const WARN_PERCENT: u64 = 80;

/// The maintenance task.
pub struct Maintenance {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    retention: Retention,
    /// Maximum number of bytes in the store. Above it the oldest finished events are evicted.
    bytes_max: Option<u64>,
    stop: CancellationToken,
    /// Steps so far.
    steps: u32,
    level: Level,
}

/// The result of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Deliveries of disabled or deleted endpoints that were marked dead or cancelled.
    pub closed: usize,
    /// Parked runs whose missing endpoint exists now.
    pub requeued: usize,
    /// Values of state that had expired and were deleted.
    pub expired: usize,
    /// Rows that retention checked.
    pub retired: usize,
    /// Events that were evicted from a full store.
    pub evicted: usize,
}

/// How full the store is. Each change is logged once.
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

impl Maintenance {
    pub fn new(
        store: Arc<dyn Store>,
        keys: Arc<Keys>,
        retention: Retention,
        bytes_max: Option<u64>,
        stop: CancellationToken,
    ) -> Self {
        Self { store, keys, retention, bytes_max, stop, steps: 0, level: Level::default() }
    }

    pub async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = self.step(clock::steady(), clock::wall()).await {
                tracing::debug!(%error, "maintenance failed; retrying");
            }
        }
        if let Err(error) = self.keys.write_uses().await {
            tracing::warn!(%error, "last uses of API keys not stored");
        }
    }

    /// Does everything that is due, batch by batch. `now` is the steady clock, `at` the wall clock.
    pub async fn step(&mut self, now: Timestamp, at: Timestamp) -> Result<Done, Error> {
        let retires = self.steps.is_multiple_of(RETIRE_EVERY);
        self.steps = self.steps.wrapping_add(1);
        let mut done = Done::default();
        loop {
            let closed = self.store.close_deliveries(at).await?;
            done.closed += closed;
            if !self.pause_before_next(closed).await {
                break;
            }
        }
        loop {
            let requeued = self.store.requeue_wanting(now).await?;
            done.requeued += requeued;
            if !self.pause_before_next(requeued).await {
                break;
            }
        }
        loop {
            let expired = self.store.expire_state(at.minus(SKEW_MAX)).await?;
            done.expired += expired;
            if !self.pause_before_next(expired).await {
                break;
            }
        }
        if !retires {
            return Ok(done);
        }
        loop {
            let retired = self.store.retire(self.retention, at).await?;
            done.retired += retired;
            if !self.pause_before_next(retired).await {
                break;
            }
        }
        if let Some(bytes_max) = self.bytes_max {
            done.evicted = self.make_room(bytes_max).await?;
        }
        // This write comes last. If the disk is full, it fails, and that must not prevent the deletion of old events.
        self.keys.write_uses().await?;
        Ok(done)
    }

    /// Pauses before the next batch; returns `false` if the last batch found nothing, or the engine stops.
    async fn pause_before_next(&self, found: usize) -> bool {
        if found == 0 || self.stop.is_cancelled() {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
        true
    }

    /// Evicts the oldest finished events from a full store. Returns the number of events.
    async fn make_room(&mut self, bytes_max: u64) -> Result<usize, Error> {
        let mut bytes = self.store.size().await?;
        let now = Level::of(bytes, bytes_max);
        let before = std::mem::replace(&mut self.level, now);
        if now == Level::NearlyFull && before < now {
            tracing::warn!(bytes, bytes_max, "store is nearly full; once it is full, the oldest finished events are evicted");
        }
        if now != Level::Full {
            return Ok(0);
        }
        let mut events = 0;
        let mut all_looked_at = false;
        while bytes >= bytes_max && !all_looked_at && !self.stop.is_cancelled() {
            let evicted = self.store.evict(bytes_max).await?;
            events += evicted.events;
            all_looked_at = evicted.looked_at == 0;
            bytes = self.store.size().await?;
            tokio::time::sleep(PAUSE).await;
        }
        if events > 0 {
            tracing::warn!(events, bytes, bytes_max, "store was full: the oldest finished events are evicted");
        }
        if all_looked_at && bytes >= bytes_max && before != now {
            tracing::error!(
                bytes,
                bytes_max,
                "store is full of unfinished events; raise retention.size_max or repair the failing receivers"
            );
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_nearly_full_from_80_percent_on() {
        assert_eq!(Level::of(79, 100), Level::Fine);
        assert_eq!(Level::of(80, 100), Level::NearlyFull);
        assert_eq!(Level::of(99, 100), Level::NearlyFull);
        assert_eq!(Level::of(100, 100), Level::Full);
        assert_eq!(Level::of(u64::MAX, u64::MAX), Level::Full, "no overflow");
    }
}
