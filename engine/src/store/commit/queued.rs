//! Places a new queue row. If memory has room, the row gets a lease and also a place in memory. Otherwise the row is only in the
//! store until it is claimed.

use std::sync::Arc;

use super::After;
use crate::{
    clock,
    domain::{delivery::NewDelivery, event::Event, id::DeliveryId, time::Timestamp},
    store::{DeliveryClaim, EventClaim, LEASE, Lease, Local, settle::Placement, weight},
};

/// The columns `next_at` (steady clock) and `lease` of a new row in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    pub next_at: Timestamp,
    pub lease: Option<i64>,
}

impl Queued {
    fn leased(lease: Lease) -> Self {
        Self { next_at: lease.until, lease: Some(lease.token) }
    }

    fn due() -> Self {
        Self { next_at: clock::steady(), lease: None }
    }
}

impl After {
    /// Queues an event.
    pub fn queue_event<Own>(&mut self, local: &Local<Own>, token: impl FnOnce() -> i64, event: Arc<Event>) -> Queued {
        let Some(slot) = local.handoff.events.reserve(&(), weight::event(&event.new)) else {
            self.due_now();
            return Queued::due();
        };
        let lease = Lease { token: token(), until: clock::steady().plus(LEASE) };
        self.events.push(EventClaim { event, round: 0, lease, settings: 0, slot, caller: None });
        Queued::leased(lease)
    }

    /// Queues a new delivery of `event`. Returns `None` for a delivery that is never sent.
    pub fn queue_delivery<Own>(
        &mut self,
        local: &Local<Own>,
        token: impl FnOnce() -> i64,
        event: &Arc<Event>,
        (id, delivery): (DeliveryId, &NewDelivery),
        placement: Placement,
    ) -> Option<Queued> {
        let NewDelivery { endpoint, payload, .. } = delivery;
        let slot = match placement {
            Placement::Ended => return None,
            Placement::Held => None,
            Placement::Stored => {
                self.due_now();
                None
            }
            Placement::HandOver => {
                let slot = local.handoff.deliveries.reserve(endpoint, weight::waiting(event, payload.as_deref()));
                if slot.is_none() {
                    // The claimer of this node is notified once the queue has room.
                    self.overflow();
                }
                slot
            }
        };
        let Some(slot) = slot else { return Some(Queued::due()) };
        let lease = Lease { token: token(), until: clock::steady().plus(LEASE) };
        let (event, payload) = (Arc::clone(event), payload.clone());
        self.deliveries.push(DeliveryClaim { id, endpoint: *endpoint, event, payload, attempts: 0, lease, slot });
        Some(Queued::leased(lease))
    }
}
