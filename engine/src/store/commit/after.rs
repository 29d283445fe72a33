//! Actions after a commit: handing over claims, and waking waiting tasks.

use std::sync::Arc;

use crate::{
    clock,
    domain::{
        id::{DeliveryId, EndpointId},
        time::Timestamp,
    },
    store::{ClaimId, DeliveryClaim, EventClaim, Lease, Local, RunClaim, Seal},
};

/// Actions to take after a commit. Each step of the transaction adds its actions here. If the commit fails, they are dropped.
#[derive(Default)]
pub struct After {
    pub events: Vec<EventClaim>,
    pub runs: Vec<RunClaim>,
    pub deliveries: Vec<DeliveryClaim>,
    /// Leases that the transaction ended, for a store that keeps its leases in memory.
    pub ended: Vec<ClaimId>,
    /// Leases of rows that are not handed over, because they cannot be read.
    pub skipped: Vec<(ClaimId, Lease)>,
    /// When the last event of the transaction was accepted.
    pub accepted_at: Option<Timestamp>,
    /// The earliest instant at which an unclaimed row becomes due.
    due: Option<Timestamp>,
    /// Whether this process had no room for a due row.
    overflowed: bool,
    /// Whether the transaction finished a row for which other rows may wait.
    pub let_go: bool,
    pub new_job: bool,
    pub cancelled: Vec<(EndpointId, DeliveryId)>,
    /// The master key that the store is now sealed with.
    pub resealed: Option<Arc<Seal>>,
    /// Change in the number of bytes of stored payloads, for a store that counts them.
    pub bytes: i64,
}

impl After {
    /// Returns the actions that remove cancelled deliveries from memory.
    pub fn cancelling(cancelled: Vec<(EndpointId, DeliveryId)>) -> Self {
        Self { cancelled, ..Self::default() }
    }

    /// Records that an unclaimed row becomes due at `at`.
    pub fn due_at(&mut self, at: Timestamp) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Records that an unclaimed row is due now, and that other nodes may have room for it.
    pub fn due_now(&mut self) {
        self.due_at(clock::steady());
        self.overflowed = true;
    }

    /// Records that this node had no room for a row. The claimer of this node is woken when there is room again. Other nodes may
    /// have room now.
    pub fn overflow(&mut self) {
        self.overflowed = true;
    }

    /// Returns the number of claims.
    pub fn claims(&self) -> usize {
        self.events.len() + self.runs.len() + self.deliveries.len()
    }

    /// Returns the leases of all claims.
    pub fn tokens(&self) -> impl Iterator<Item = i64> {
        let events = self.events.iter().map(|claim| claim.lease.token);
        let runs = self.runs.iter().map(|claim| claim.lease.token);
        events.chain(runs).chain(self.deliveries.iter().map(|claim| claim.lease.token))
    }

    /// Hands over claims and wakes waiting tasks. Called after the commit. Returns whether a row must be announced to the other
    /// nodes, because they may have room for it.
    pub fn act<Own>(self, local: &Local<Own>) -> bool {
        let handoff = &local.handoff;
        if let Some(seal) = self.resealed {
            local.seals.commit(seal);
        }
        if let Some(at) = self.accepted_at {
            local.note_minute(at);
        }
        for (endpoint, id) in &self.cancelled {
            drop(handoff.deliveries.withdraw(endpoint, |claim| claim.id == *id));
        }
        // The latest announced version is at least the version that this transaction saw.
        let settings = handoff.settings.announced();
        if !self.events.is_empty() {
            handoff.events.push_all(self.events.into_iter().map(|claim| ((), EventClaim { settings, ..claim })));
        }
        if !self.runs.is_empty() {
            handoff.runs.push_all(self.runs.into_iter().map(|claim| (claim.plugin.clone(), RunClaim { settings, ..claim })));
        }
        if !self.deliveries.is_empty() {
            // All deliveries are pushed in one step. So if the first delivery of an ordered batch fails, all later ones can be
            // taken back.
            handoff.deliveries.push_all(self.deliveries.into_iter().map(|claim| (claim.endpoint, claim)));
        }
        if self.let_go || !self.cancelled.is_empty() {
            handoff.alarm.let_go();
        }
        if let Some(due) = self.due {
            handoff.alarm.set(due);
        }
        if self.new_job {
            handoff.jobs.notify_one();
        }
        self.overflowed
    }
}
