//! The hand-off: the passage in memory from a commit to the workers. New events, runs and deliveries reach a worker without a claim.
//!
//! The store reserves a place before it commits and pushes after the commit. Work that finds no place is stored without a lease and is
//! claimed later. The store is the truth: losing everything in here costs a restart, never an event.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{
    Alarm, Budget, ConfigVersions, DeliveryClaim, EventClaim, RunClaim, Tenure,
    lanes::{LaneLimits, Lanes, Slot, Width},
};
use crate::{
    domain::{id::EndpointId, name::Slug},
    metrics::Lane,
};

pub type EventSlot = Slot<(), EventClaim>;
pub type RunSlot = Slot<Slug, RunClaim>;
pub type DeliverySlot = Slot<EndpointId, DeliveryClaim>;

/// One lane: events are run in the order of their acceptance.
const EVENTS: LaneLimits = LaneLimits {
    lane_count: 8_192,
    lane_bytes: 64 << 20,
    total_count: 8_192,
    total_bytes: 64 << 20,
    lane_count_min: 1,
    bytes_max: 64 << 20,
    width: Width::OPEN,
};

/// A lane per plugin: runs that are tried again, or that belong to a slow plugin.
const RUNS: LaneLimits = LaneLimits {
    lane_count: 64,
    lane_bytes: 16 << 20,
    total_count: 1_024,
    total_bytes: 64 << 20,
    lane_count_min: 1,
    bytes_max: 96 << 20,
    width: Width::SINGLE,
};

/// A lane per endpoint. How wide each is the sender says when it takes the first, by the endpoint's policy and by how it answers;
/// until then one goes alone, as it may be one that others must not overtake.
const DELIVERIES: LaneLimits = LaneLimits {
    lane_count: 1_024,
    lane_bytes: 16 << 20,
    total_count: 16_384,
    total_bytes: 128 << 20,
    lane_count_min: 32,
    // Half as much again for the first few of each endpoint: what many hanging receivers hold must not be their number times a lane.
    bytes_max: 192 << 20,
    width: Width { concurrency: 1, places: 128 },
};

/// Bytes of what runs returned (webhooks, events, state, logs) and what the store has not yet taken. The threads that run plugins wait for
/// room: four batches of the settler, so that it never waits for them, and no more than a small machine can spare.
const OUTCOME_BYTES: usize = 32 << 20;

/// Everything that the store passes to the workers, and how it wakes them.
#[derive(Clone)]
pub struct Handoff {
    pub events: Arc<Lanes<(), EventClaim>>,
    pub runs: Arc<Lanes<Slug, RunClaim>>,
    pub deliveries: Arc<Lanes<EndpointId, DeliveryClaim>>,
    /// Bytes of run results that wait for commit 2.
    pub outcomes: Arc<Budget>,
    /// When to ask the store for due work that has no lease.
    pub alarm: Arc<Alarm>,
    /// Notified when a job is created.
    pub jobs: Arc<Notify>,
    /// Which version of the configuration this process knows, and which it has to know.
    pub settings: Arc<ConfigVersions>,
    /// Whether the leases in here still count.
    pub tenure: Arc<Tenure>,
}

impl Handoff {
    /// Returns how full each part is at this moment.
    pub fn lanes(&self) -> Vec<Lane> {
        let lane = |name, (items, bytes, limit_bytes): (usize, usize, usize)| Lane {
            name,
            items: items as u64,
            bytes: bytes as u64,
            limit_bytes: limit_bytes as u64,
        };
        vec![
            lane("events", self.events.occupancy()),
            lane("runs", self.runs.occupancy()),
            lane("outcomes", self.outcomes.occupancy()),
            lane("deliveries", self.deliveries.occupancy()),
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
