//! The passage in memory between a commit and the workers: what a commit wrote goes straight to whoever is to act on it.
//!
//! The store reserves a place before it commits and pushes after; what finds no place is stored without a lease and is claimed
//! later. The store is the truth: losing everything in here costs a restart, never an event.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::{
    Budget, DeliveryClaim, EventClaim, Lease, RunClaim,
    lanes::{LaneLimits, Lanes, Slot, Width},
};
use crate::{
    clock,
    domain::{id::EndpointId, name::Slug, time::Timestamp},
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

/// What the store hands to the workers, and how it wakes them.
#[derive(Clone)]
pub struct Handoff {
    pub events: Arc<Lanes<(), EventClaim>>,
    pub runs: Arc<Lanes<Slug, RunClaim>>,
    pub deliveries: Arc<Lanes<EndpointId, DeliveryClaim>>,
    /// What the workers hand back: bytes that wait for commit 2.
    pub outcomes: Arc<Budget>,
    /// When the store has to be asked for what is due and unclaimed.
    pub alarm: Arc<Alarm>,
    /// Rung when there is a new job.
    pub jobs: Arc<Notify>,
    /// How far what people set is known here.
    pub settings: Arc<Settings>,
    /// Whether what is held here still counts as this process's own.
    pub tenure: Arc<Tenure>,
}

impl Handoff {
    /// What it holds at this moment.
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

/// Wakes whoever claims what is due: at the earliest instant that anyone set, or at once when there is room again for
/// what could not be handed over.
pub struct Alarm {
    room: Arc<Notify>,
    at: AtomicI64,
    /// Something is held back until something else is done with.
    held_back: AtomicBool,
}

impl Alarm {
    /// Something became due at `due` and is claimed by nobody.
    pub fn set(&self, due: Timestamp) {
        if self.at.fetch_min(due.millis(), Ordering::SeqCst) > due.millis() {
            self.room.notify_one();
        }
    }

    /// Something is due and must wait until something else is done with; or no longer is.
    pub fn hold_back(&self, held_back: bool) {
        self.held_back.store(held_back, Ordering::SeqCst);
    }

    /// Something is done with: what was held back may be free now.
    pub fn let_go(&self) {
        if self.held_back.swap(false, Ordering::SeqCst) {
            self.set(clock::steady());
        }
    }

    /// As [`Self::set`], by the caller that waits: it need not be woken for what it knows.
    pub fn arm(&self, due: Timestamp) {
        self.at.fetch_min(due.millis(), Ordering::SeqCst);
    }

    /// Forgets what was set: the caller is about to look for itself.
    pub fn clear(&self) {
        self.at.store(i64::MAX, Ordering::SeqCst);
    }

    /// Waits until the alarm is due, somebody rings it, or `longest` has passed.
    pub async fn wait(&self, longest: Duration) {
        let due = Timestamp::from_millis(self.at.load(Ordering::SeqCst));
        let wait = due.since(clock::steady()).min(longest);
        // A timeout is as good as a ring: either way the caller looks.
        let _ = tokio::time::timeout(wait, self.room.notified()).await;
    }

    /// Waits for a ring, `longest` at most: for when what is due finds no room.
    pub async fn wait_for_room(&self, longest: Duration) {
        let _ = tokio::time::timeout(longest, self.room.notified()).await;
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
            alarm: Arc::new(Alarm { room, at: AtomicI64::new(i64::MAX), held_back: AtomicBool::new(false) }),
            jobs: Arc::default(),
            settings: Arc::default(),
            tenure: Arc::new(Tenure { from: AtomicI64::new(i64::MIN), until: AtomicI64::new(i64::MAX) }),
        }
    }
}

/// How far what people set (endpoints, sources, keys, plugins' settings) is known in this process, where others change it as well. The store
/// tells its version with everything that it hands over, and whoever runs an event waits until that is known: so an event that was
/// submitted after the answer to a change is run by it, on whichever nodes the two happened. A store that belongs to one process tells
/// nothing.
#[derive(Debug, Default)]
pub struct Settings {
    told: watch::Sender<i64>,
    known: watch::Sender<i64>,
}

impl Settings {
    /// They are at `version` at least.
    pub fn tell(&self, version: i64) {
        raise(&self.told, version);
    }

    /// What they were at `version` has been read, or what came later.
    pub fn know(&self, version: i64) {
        raise(&self.known, version);
    }

    /// Waits until they are at a version that is not known yet, and says which.
    pub async fn changed(&self) -> i64 {
        let unknown = |told: &i64| told > &*self.known.borrow();
        let told = self.told.subscribe().wait_for(unknown).await.map(|told| *told);
        told.expect("the sender is this one's own")
    }

    /// The latest version that was told of.
    pub fn told(&self) -> i64 {
        *self.told.borrow()
    }

    /// Waits until `version` is known, or a later one.
    pub async fn known(&self, version: i64) {
        if *self.known.borrow() < version {
            let known = self.known.subscribe().wait_for(|known| *known >= version).await.map(drop);
            known.expect("the sender is this one's own");
        }
    }
}

/// Versions only go up: what was read earlier may be told of later.
fn raise(value: &watch::Sender<i64>, version: i64) {
    value.send_if_modified(|value| {
        let is_news = version > *value;
        *value = version.max(*value);
        is_news
    });
}

/// For how long, and since which lease, the other processes on the same store take this one for alive. A process that was stopped for
/// a while finds here that its work has been taken over, before it does any of it. A store that belongs to one process leaves it
/// without an end.
#[derive(Debug)]
pub struct Tenure {
    /// The first lease token that counts.
    from: AtomicI64,
    until: AtomicI64,
}

impl Tenure {
    /// Leases given before `token` are lost.
    pub fn begin(&self, token: i64) {
        self.from.store(token, Ordering::SeqCst);
    }

    /// The others take this process for alive until then (steady clock), at least.
    pub fn extend(&self, until: Timestamp) {
        self.until.store(until.millis(), Ordering::SeqCst);
    }

    /// Whether what was leased is still to be acted on.
    pub fn covers(&self, lease: Lease, now: Timestamp) -> bool {
        lease.token >= self.from.load(Ordering::SeqCst) && now.millis() < self.until.load(Ordering::SeqCst)
    }
}
