//! Values that a process keeps in memory beside its store. They are not stored: the next process starts without them.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use super::{Handoff, ScheduledBounds, StateLimits, accept::minute, retention::Walks, secrets::Seals};
use crate::domain::{
    id::{EndpointId, Tag},
    name::Slug,
    time::Timestamp,
};

/// Values that a process keeps beside its store.
pub struct Local<Own> {
    pub tag: Tag,
    pub handoff: Handoff,
    pub state_limits: StateLimits,
    pub scheduled: ScheduledBounds,
    pub seals: Seals,
    /// Values that only this kind of store needs.
    pub own: Own,
    /// The last minute whose first event id is stored and committed.
    minute: AtomicI64,
    walks: Mutex<Walks>,
    /// For each endpoint, the last ordering key that the last claim checked. The next claim continues after this key.
    last_orders: Mutex<HashMap<EndpointId, i64>>,
}

impl<Own> Local<Own> {
    pub fn new(tag: Tag, handoff: Handoff, state_limits: StateLimits, seals: Seals, own: Own) -> Self {
        Self {
            tag,
            handoff,
            state_limits,
            scheduled: ScheduledBounds::default(),
            seals,
            own,
            minute: AtomicI64::new(i64::MIN),
            walks: Mutex::default(),
            last_orders: Mutex::default(),
        }
    }

    /// Returns how many waiting runs of a plugin would find a slot. If the plugin's name cannot be read, there is no limit, so that
    /// its rows are claimed and then reported as unreadable.
    pub fn room_for_runs(&self, plugin: &str) -> usize {
        Slug::parse(plugin).map_or(usize::MAX, |plugin| self.handoff.runs.room_for_stored(&plugin))
    }

    /// Returns whether the first event id of this instant's minute is committed.
    pub fn knows_minute(&self, at: Timestamp) -> bool {
        self.minute.load(Ordering::Relaxed) == minute(at)
    }

    /// Records, after the commit, that the first event id of this instant's minute is committed.
    pub fn note_minute(&self, at: Timestamp) {
        self.minute.store(minute(at), Ordering::Relaxed);
    }

    /// Returns the positions of the retention walks.
    pub fn walks(&self) -> MutexGuard<'_, Walks> {
        self.walks.lock().expect("no code panics while it holds the walks")
    }

    pub fn last_order(&self, endpoint: EndpointId) -> i64 {
        self.orders().get(&endpoint).copied().unwrap_or(i64::MIN)
    }

    pub fn note_order(&self, endpoint: EndpointId, ordering: i64) {
        self.orders().insert(endpoint, ordering);
    }

    fn orders(&self) -> MutexGuard<'_, HashMap<EndpointId, i64>> {
        self.last_orders.lock().expect("no code panics while it holds the orders")
    }
}
