//! The leases that this process holds, in memory. The file says which rows are leased. But to find the expired leases there, every
//! event and every delivery would have to enter an index and leave it again. Only this process gives out leases, so it knows them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use crate::{
    domain::{
        id::{DeliveryId, EndpointId},
        time::Timestamp,
    },
    store::{ClaimId, commit::After},
};

/// The leases of this process, by row. The lease of a row that was removed in the meantime may stay here until its end.
pub struct Leases(Mutex<Inner>);

struct Inner {
    rows: HashMap<ClaimId, Leased>,
    /// No lease ends earlier.
    earliest: Timestamp,
}

#[derive(Clone, Copy)]
struct Leased {
    until: Timestamp,
    /// The endpoint of a delivery.
    endpoint: Option<EndpointId>,
}

/// The leased deliveries of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeasedDeliveries {
    pub count: u64,
    pub first: Option<DeliveryId>,
}

impl Default for Leases {
    fn default() -> Self {
        Self(Mutex::new(Inner { rows: HashMap::new(), earliest: Timestamp::from_millis(i64::MAX) }))
    }
}

impl Leases {
    /// Records the leases that a transaction ended and gave out. Called after its commit, before its
    /// caller is answered and the claims are handed over.
    pub fn note(&self, after: &After) {
        let mut inner = self.lock();
        for row in &after.ended {
            inner.rows.remove(row);
        }
        for (_, delivery) in &after.cancelled {
            inner.rows.remove(&ClaimId::Delivery(*delivery));
        }
        for claim in &after.events {
            inner.insert(ClaimId::Event(claim.event.id), claim.lease.until, None);
        }
        for claim in &after.runs {
            inner.insert(ClaimId::Run(claim.id), claim.lease.until, None);
        }
        for claim in &after.deliveries {
            inner.insert(ClaimId::Delivery(claim.id), claim.lease.until, Some(claim.endpoint));
        }
        for (row, lease) in &after.skipped {
            inner.insert(*row, lease.until, None);
        }
    }

    /// Returns the rows whose leases have ended. They are known until [`Self::note`] removes them.
    pub fn expired(&self, now: Timestamp) -> Vec<ClaimId> {
        let mut inner = self.lock();
        if now < inner.earliest {
            return Vec::new();
        }
        inner.earliest = inner.rows.values().map(|leased| leased.until).min().unwrap_or(Timestamp::from_millis(i64::MAX));
        inner.rows.iter().filter(|(_, leased)| leased.until <= now).map(|(row, _)| *row).collect()
    }

    /// Returns the leased deliveries of each endpoint that has any.
    pub fn deliveries(&self) -> HashMap<EndpointId, LeasedDeliveries> {
        let mut found = HashMap::<_, LeasedDeliveries>::new();
        for (row, leased) in &self.lock().rows {
            let (ClaimId::Delivery(id), Some(endpoint)) = (row, leased.endpoint) else { continue };
            let deliveries = found.entry(endpoint).or_default();
            deliveries.count += 1;
            deliveries.first = deliveries.first.into_iter().chain([*id]).min();
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no code panics while it holds the leases")
    }
}

impl Inner {
    fn insert(&mut self, row: ClaimId, until: Timestamp, endpoint: Option<EndpointId>) {
        self.rows.insert(row, Leased { until, endpoint });
        self.earliest = self.earliest.min(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::id::{EventId, RunId},
        store::Lease,
    };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_lease_is_known_until_it_ends_and_is_noted() {
        let leases = Leases::default();
        let (event, run, delivery) =
            (ClaimId::Event(EventId::from_i64(1)), ClaimId::Run(RunId::from_i64(2)), DeliveryId::from_i64(3));
        let given = |row, until| (row, Lease { token: 7, until: at(until) });
        let skipped = vec![given(event, 10), given(run, 20), given(ClaimId::Delivery(delivery), 30)];
        let note = |ended: Vec<ClaimId>, skipped: Vec<(ClaimId, Lease)>, cancelled: Vec<(EndpointId, DeliveryId)>| {
            let mut after = After::cancelling(cancelled);
            (after.ended, after.skipped) = (ended, skipped);
            leases.note(&after);
        };
        note(vec![], skipped, vec![]);
        for (now, expected) in [(9, vec![]), (10, vec![event]), (15, vec![event]), (20, vec![event, run])] {
            let mut expired = leases.expired(at(now));
            expired.sort_by_key(|row| matches!(row, ClaimId::Run(_)));
            assert_eq!(expired, expected, "{now}");
        }
        note(vec![event], vec![given(event, 40)], vec![]);
        assert_eq!(leases.expired(at(20)), [run], "a row that is leased again has a new end");
        note(vec![run], vec![], vec![(EndpointId::from_i64(1), delivery)]);
        assert_eq!(leases.expired(at(39)), []);
        assert_eq!(leases.expired(at(40)), [event]);
        note(vec![event], vec![], vec![]);
        assert!(leases.lock().rows.is_empty(), "nothing is left over");
    }
}
