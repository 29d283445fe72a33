//! The hand-off: queues in memory from a commit to the workers. New events, runs and deliveries reach a worker without a separate
//! claim.
//!
//! The store reserves a place before it commits and pushes after the commit. Work without a place is stored without a lease and
//! is claimed later. The store is the truth: losing the whole hand-off costs a restart, never an event.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{
    Alarm, Budget, ConfigVersions, DeliveryClaim, EventClaim, RunClaim, Tenure,
    lanes::{LaneLimits, Lanes, Slot, Width},
};
use crate::{
    domain::{id::EndpointId, name::Slug},
    metrics::QueueReading,
};

pub type EventSlot = Slot<(), EventClaim>;
pub type RunSlot = Slot<Slug, RunClaim>;
pub type DeliverySlot = Slot<EndpointId, DeliveryClaim>;

/// One lane: events are run in the order in which they were accepted.
const EVENTS: LaneLimits = LaneLimits {
    lane_count: 8_192,
    lane_bytes: 64 << 20,
    total_count: 8_192,
    total_bytes: 64 << 20,
    lane_count_min: 1,
    bytes_max: 64 << 20,
    width: Width::OPEN,
};

/// One lane per plugin, for runs that are retried or belong to a slow plugin.
const RUNS: LaneLimits = LaneLimits {
    lane_count: 64,
    lane_bytes: 16 << 20,
    total_count: 1_024,
    total_bytes: 64 << 20,
    lane_count_min: 1,
    bytes_max: 96 << 20,
    width: Width::SINGLE,
};

/// One lane per endpoint. The sender sets the width of a lane when it takes the first delivery, by the endpoint's policy and its
/// recent answers. Until then one delivery goes alone, since it may be one that others must not overtake.
const DELIVERIES: LaneLimits = LaneLimits {
    lane_count: 1_024,
    lane_bytes: 16 << 20,
    total_count: 16_384,
    total_bytes: 128 << 20,
    lane_count_min: 32,
    // Half as much again, for the first few deliveries of each endpoint. Many hanging receivers must not hold their number times
    // a full lane.
    bytes_max: 192 << 20,
    width: Width { concurrency: 1, places: 128 },
};

/// Bytes of run results (webhooks, events, state, logs) that the store has not yet committed. Threads that run plugins wait for
/// room. Room for four batches of the settler, so that the settler never waits for the plugins, and small enough for a small
/// machine.
const OUTCOME_BYTES: usize = 32 << 20;

/// Everything that the store passes to the workers, and the means to wake them.
#[derive(Clone)]
pub struct Handoff {
    pub events: Arc<Lanes<(), EventClaim>>,
    pub runs: Arc<Lanes<Slug, RunClaim>>,
    pub deliveries: Arc<Lanes<EndpointId, DeliveryClaim>>,
    /// Bytes of run results that wait for commit 2.
    pub outcomes: Arc<Budget>,
    /// When the claimer asks the store for due work without a lease.
    pub alarm: Arc<Alarm>,
    /// Notified when a job is created.
    pub jobs: Arc<Notify>,
    /// Which config version this process has read, and which it must read.
    pub settings: Arc<ConfigVersions>,
    /// Whether the leases in the hand-off are still valid.
    pub tenure: Arc<Tenure>,
}

impl Handoff {
    /// Returns how full each queue is now.
    pub fn queues(&self) -> Vec<QueueReading> {
        let queue = |name, (items, bytes, limit_bytes): (usize, usize, usize)| QueueReading {
            name,
            items: items as u64,
            bytes: bytes as u64,
            limit_bytes: limit_bytes as u64,
        };
        vec![
            queue("events", self.events.occupancy()),
            queue("runs", self.runs.occupancy()),
            queue("outcomes", self.outcomes.occupancy()),
            queue("deliveries", self.deliveries.occupancy()),
        ]
    }
}

impl Default for Handoff {
    fn default() -> Self {
        let room = Arc::new(Notify::new());
        Self {
            events: Lanes::new(EVENTS, Arc::clone(&room)),
            runs: Lanes::new(RUNS, Arc::clone(&room)),
            deliveries: Lanes::new(DELIVERIES, Arc::clone(&room)),
            outcomes: Budget::new(OUTCOME_BYTES),
            alarm: Arc::new(Alarm::new(room)),
            jobs: Arc::default(),
            settings: Arc::default(),
            tenure: Arc::default(),
        }
    }
}
