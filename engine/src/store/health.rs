//! Health of the store: whether writes succeed, and how much work waits at each stage.

use std::time::Duration;

use async_trait::async_trait;

use super::Error;
use crate::metrics::{QueueReading, StageReading};

/// Reports the store's health.
#[async_trait]
pub trait Health {
    /// Returns the amount of waiting work at each stage, and the size of each file. This may count a million rows, so it should
    /// be called at most every few seconds.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn load(&self) -> Result<Load, Error>;

    /// Writes a small row. Returns `Ok` if that succeeded and no other write has failed recently.
    ///
    /// # Errors
    /// The error of the last failed commit, or of this write.
    async fn probe(&self) -> Result<(), Error>;
}

/// Amounts of waiting work and sizes.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Stages in the order in which an event passes them.
    pub stages: Vec<StageReading>,
    pub queues: Vec<QueueReading>,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    pub file_bytes: Vec<(&'static str, u64)>,
    /// Size of the disk that holds the store; 0 if the store is on another machine.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
}

impl Load {
    /// Returns how much work waits for the engine, and how long the oldest of it has waited. Parked runs and dead deliveries do not
    /// count, because they wait for a person. Scheduled events do not count, because they wait for their time.
    pub fn waiting(&self) -> (u64, Duration) {
        let stages = self.stages.iter().filter(|stage| ["events", "runs", "deliveries"].contains(&stage.name));
        stages.fold((0, Duration::ZERO), |(depth, oldest), stage| (depth + stage.depth, oldest.max(stage.oldest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_for_the_engine_counts_as_waiting() {
        let stage = |name, depth, seconds| StageReading { name, depth, oldest: Duration::from_secs(seconds) };
        let stages = vec![stage("events", 2, 5), stage("runs-parked", 9, 90), stage("deliveries", 3, 7), stage("dead", 4, 80)];
        assert_eq!(Load { stages, ..Load::default() }.waiting(), (5, Duration::from_secs(7)));
    }
}
