//! The acceptor: plans events before they are stored and runs their plugins, so that one commit stores an event together with its
//! results. This saves a commit, the queue row of the event, and several hand-overs between threads
//! (`docs/decisions/10-run-before-accept.md`).
//!
//! Nothing waits long for this. An event with plugins is run first only if it is alone in its request, if few events wait for a
//! thread, and if its results are there within [`EARLY_TIME`]. In all other cases the event is stored, and the runner takes it
//! afterwards.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    plan::{Plan, plan},
    reports::Reports,
    settler::note_conflict,
};
use crate::{
    catalog::Catalog,
    clock,
    domain::event::NewEvent,
    news::{Feed, News},
    store::{
        Accept, Accepted, Arrival, Arrived, EarlyCaller, Error, EventClaim, Handoff, Issued, Settled, Settlement, Settles, Store,
        weight,
    },
};

/// How long a request waits for the runs of its event before the event is stored without them.
const EARLY_TIME: Duration = Duration::from_millis(20);
/// Maximum number of events that are in the hand-off when another event is run early. Behind more events it would often wait in vain,
/// and under full load, threads and commits work better on many events at once.
const EARLY_MAX: usize = 16;
/// Maximum number of deliveries that are stored together with the events of one request. More would delay other requests, whose
/// events are stored in the same commit.
const DELIVERIES_MAX: usize = 128;

/// Accepts events, and runs them first if that takes no time.
#[derive(Clone)]
pub struct Acceptor {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub feed: Feed,
    pub reports: Arc<Reports>,
    /// Whether this process runs plugins and sends webhooks.
    pub works: bool,
}

#[async_trait]
impl Accept for Acceptor {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error> {
        let acceptor = self.clone();
        // In a separate task, so that accepted events are also reported if the caller does not wait for the answer.
        let accepted = tokio::spawn(Box::pin(async move { acceptor.accept_and_report(events).await })).await;
        accepted.map_err(|error| Error::Internal(format!("events could not be accepted: {error}")))?
    }
}

impl Acceptor {
    async fn accept_and_report(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Error> {
        let told: Vec<_> = events.iter().map(|event| (event.event_type.clone(), Arc::clone(&event.source))).collect();
        let arrived = self.store_all(events).await?;
        let mut accepted = Vec::with_capacity(arrived.len());
        for (one, (event_type, source)) in arrived.into_iter().zip(told) {
            accepted.push(one.accepted);
            if let Accepted::New(event) = one.accepted {
                self.feed.send(|| News::Accepted { event, event_type: event_type.to_string(), source: source.to_string() });
            }
            match one.settled {
                Some((settlement, Settled::Done)) => self.reports.settled(&settlement).await,
                Some((settlement, Settled::StateConflict(runs))) => {
                    note_conflict(&self.catalog, &settlement, &runs, clock::steady());
                }
                _ => {}
            }
        }
        Ok(accepted)
    }

    /// Stores all events or none, with the results that are known in time.
    async fn store_all(&self, events: Vec<NewEvent>) -> Result<Vec<Arrived>, Error> {
        let new = |events: Vec<NewEvent>| self.store.accept_arrivals(events.into_iter().map(Arrival::New).collect());
        if !self.works {
            return new(events).await;
        }
        match self.store_with_results(&events).await {
            // Results that the database refuses must not prevent their event, or another event of the same commit, from being
            // accepted. The settler then finds out which results are refused.
            Err(error) if !error.is_refusal() && !error.passes() => {
                tracing::debug!(%error, "events and their results not stored; the events are stored without results");
                new(events).await
            }
            arrived => arrived,
        }
    }

    async fn store_with_results(&self, events: &[NewEvent]) -> Result<Vec<Arrived>, Error> {
        let mut arrivals = Vec::with_capacity(events.len());
        let mut deliveries_left = DELIVERIES_MAX;
        for event in events {
            let Some(issued) = self.store.issue(event) else {
                arrivals.push(Arrival::New(event.clone()));
                continue;
            };
            let (plugins, endpoints) = (self.catalog.plugins(), self.catalog.endpoints());
            let Plan { runs, direct } = plan(&issued.event.new, &plugins, &endpoints);
            if runs.is_empty() && direct.len() <= deliveries_left {
                deliveries_left -= direct.len();
                let Issued { event, lease } = issued;
                let settles = Settles::Event { id: event.id, round: 0, lease };
                arrivals.push(Arrival::Settled(Settlement { settles, event, runs: Vec::new(), direct }));
                continue;
            }
            if events.len() == 1
                && let Some(arrived) = self.run(issued).await
            {
                return arrived;
            }
            arrivals.push(Arrival::New(event.clone()));
        }
        self.store.accept_arrivals(arrivals).await
    }

    /// Runs an event that is not stored yet, and stores it with its results. Returns `None` if the runs would take too long. Then
    /// nothing is stored.
    async fn run(&self, issued: Issued) -> Option<Result<Vec<Arrived>, Error>> {
        let queue = &self.handoff.events;
        if queue.len() >= EARLY_MAX {
            return None;
        }
        let Issued { event, lease } = issued;
        let slot = queue.reserve(&(), weight::event(&event.new))?;
        let (caller, answer) = EarlyCaller::new();
        let settings = self.handoff.settings.announced();
        queue.push_all([((), EventClaim { event, round: 0, lease, settings, slot, caller: Some(caller) })]);
        answer.within(EARLY_TIME).await
    }
}
