//! Retention: how long finished events, audit entries, jobs and deleted endpoints are stored.

use std::time::Duration;

use super::time::Timestamp;

/// Retention times of finished items.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// An event whose runs are all ok and whose deliveries were delivered or cancelled.
    pub delivered: Duration,
    /// An event with a dead delivery or a parked run.
    pub dead: Duration,
    /// An event without a run and without a delivery.
    pub unrouted: Duration,
    /// An entry of the audit trail, and a job that has ended.
    pub audit: Duration,
    /// How long the pair (`source`, `id`) of an event is remembered, to detect duplicates.
    pub dedupe: Duration,
}

/// Times for tests. Those of an engine are settings (`config.rs`).
#[cfg(test)]
impl Default for Retention {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            delivered: Duration::from_secs(7 * DAY),
            dead: Duration::from_secs(30 * DAY),
            unrouted: Duration::from_secs(7 * DAY),
            audit: Duration::from_secs(365 * DAY),
            dedupe: Duration::from_secs(7 * DAY),
        }
    }
}

impl Retention {
    /// Returns the longest of the retention times of events and of their ids.
    pub fn longest(&self) -> Duration {
        self.delivered.max(self.dead).max(self.unrouted).max(self.dedupe)
    }
}

/// Minimum time for which a deleted endpoint is stored. It is stored longer while an event exists that was accepted before the
/// deletion: a delivery of that event must find its endpoint in order to be cancelled.
pub const DELETED_ENDPOINT_KEPT: Duration = Duration::from_secs(3600);
/// Maximum difference between the clocks of two nodes. If one node accepts an event and another node then deletes the event's
/// endpoint, the event's time may be later than the deletion's, by at most this much.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Returns a time. An endpoint that was deleted before this time may be removed from the store. `oldest_event` is the time at
/// which the oldest stored event was accepted.
pub fn endpoints_forgotten_before(now: Timestamp, oldest_event: Option<Timestamp>) -> Timestamp {
    let aged = now.minus(DELETED_ENDPOINT_KEPT);
    oldest_event.map_or(aged, |oldest| aged.min(oldest.minus(CLOCKS_DIFFER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_endpoint_outlives_every_event_from_before_its_deletion() {
        let at = Timestamp::from_millis;
        let now = at(10_000_000);
        let aged = now.minus(DELETED_ENDPOINT_KEPT);
        for (oldest_event, expected) in
            [(None, aged), (Some(now), aged), (Some(at(1_000_000)), at(1_000_000).minus(CLOCKS_DIFFER))]
        {
            assert_eq!(endpoints_forgotten_before(now, oldest_event), expected, "{oldest_event:?}");
        }
    }
}
