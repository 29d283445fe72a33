//! The hand-off: the in-memory queues between a commit and the workers. Through them, new events, runs and deliveries reach a
//! worker without a separate claim.
//!
//! The store reserves a slot before it commits an item, and pushes the item after the commit. Work without a slot is stored without
//! a lease and is claimed later. The store also has everything that is in the hand-off, so a process that loses its hand-off loses
//! no event.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{
    Alarm, Budget, ConfigVersions, DeliveryClaim, EventClaim, RunClaim, Tenure,
    queues::{QueueLimits, Queues, Slot, Width},
};
use crate::{
    domain::{id::EndpointId, name::Slug},
    metrics::QueueReading,
};

pub type EventSlot = Slot<(), EventClaim>;
pub type RunSlot = Slot<Slug, RunClaim>;
pub type DeliverySlot = Slot<EndpointId, DeliveryClaim>;

/// One queue: events are run in the order in which they were accepted.
const EVENTS: QueueLimits = QueueLimits {
    queue_count: 8_192,
    queue_bytes: 64 << 20,
    total_count: 8_192,
    total_bytes: 64 << 20,
    queue_count_min: 1,
    bytes_max: 64 << 20,
    width: Width::OPEN,
};

/// One queue per plugin, for runs that are retried or belong to a slow plugin.
const RUNS: QueueLimits = QueueLimits {
    queue_count: 64,
    queue_bytes: 16 << 20,
    total_count: 1_024,
    total_bytes: 64 << 20,
    queue_count_min: 1,
    bytes_max: 96 << 20,
    width: Width::SINGLE,
};

/// One queue per endpoint. When the sender takes the first delivery of a queue, it sets how many deliveries of the queue may be
/// sent at once (its width). The width depends on the endpoint's policy and its recent answers. Until then only one delivery is
/// sent at a time, because the endpoint's policy may forbid that others overtake it.
const DELIVERIES: QueueLimits = QueueLimits {
    queue_count: 1_024,
    queue_bytes: 16 << 20,
    total_count: 16_384,
    total_bytes: 128 << 20,
    queue_count_min: 32,
    // This is 64 MiB more than `total_bytes`, for the first few deliveries of each endpoint. This bounds the memory that deliveries
    // to many hanging receivers take.
    bytes_max: 192 << 20,
    width: Width { concurrency: 1, slots: 128 },
};

/// Maximum number of bytes of run results (webhooks, events, state, logs) that the store has not yet committed. Threads that run
/// plugins wait while this budget is full. The budget holds four batches, so that the settler never waits for plugins, and is small
/// enough for a small machine.
const OUTCOME_BYTES: usize = 32 << 20;

/// The queues from the store to the workers, and the means to wake the workers.
#[derive(Clone)]
pub struct Handoff {
    pub events: Arc<Queues<(), EventClaim>>,
    pub runs: Arc<Queues<Slug, RunClaim>>,
    pub deliveries: Arc<Queues<EndpointId, DeliveryClaim>>,
    /// Bytes of run results that wait to be settled.
    pub outcomes: Arc<Budget>,
    /// Decides when the claimer asks the store for due work that has no lease.
    pub alarm: Arc<Alarm>,
    /// Notified when a job is created.
    pub jobs: Arc<Notify>,
    /// The config version that this process has read, and the version that it must read.
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
            events: Queues::new(EVENTS, Arc::clone(&room)),
            runs: Queues::new(RUNS, Arc::clone(&room)),
            deliveries: Queues::new(DELIVERIES, Arc::clone(&room)),
            outcomes: Budget::new(OUTCOME_BYTES),
            alarm: Arc::new(Alarm::new(room)),
            jobs: Arc::default(),
            settings: Arc::default(),
            tenure: Arc::default(),
        }
    }
}
