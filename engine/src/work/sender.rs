//! The sender: takes deliveries, each endpoint's in turn, signs and sends them. What the other side did goes to the recorder.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::recorder::Recording;
use crate::{
    catalog::Catalog,
    clock,
    domain::{
        delivery::{Attempt, AttemptOutcome, after_attempt},
        endpoint::{Endpoint, EndpointState},
        envelope,
        retry::Schedule,
        signature,
    },
    outbound::{Outbound, Request},
    store::{AttemptRecord, DeliveryClaim, Handoff, SENDS_AT_ONCE, Store},
};

/// Webhooks on their way at once to an endpoint whose last attempt got no answer: enough to notice that it is back, too few to
/// tie up connections.
const SENDS_AT_ONCE_UNANSWERED: usize = 4;
/// A lease must outlast the exchange by this much, so that the record finds it still held.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

pub struct Sender {
    pub store: Arc<dyn Store>,
    pub handoff: Handoff,
    pub catalog: Arc<Catalog>,
    pub outbound: Arc<Outbound>,
    pub attempts: UnboundedSender<Recording>,
}

impl Sender {
    /// Runs until `stop`, then waits for the attempts that are under way.
    pub async fn run(self, stop: CancellationToken) {
        let sender = Arc::new(self);
        let under_way = TaskTracker::new();
        loop {
            let (claim, turn) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = sender.handoff.deliveries.next() => next,
            };
            let sender = Arc::clone(&sender);
            under_way.spawn(async move {
                sender.send(claim).await;
                drop(turn);
            });
        }
        under_way.close();
        under_way.wait().await;
    }

    /// One attempt.
    async fn send(&self, claim: DeliveryClaim) {
        let endpoints = self.catalog.endpoints();
        let takes = endpoints.get(claim.endpoint).filter(|endpoint| endpoint.new.state == EndpointState::Active);
        let Some(endpoint) = takes else { return self.give_back(claim).await };
        // A claim that waited so long for its turn that it would not outlast the exchange: it is due again when it ends.
        if claim.lease.until < clock::steady().plus(endpoint.new.policy.timeout + LEASE_MARGIN) {
            return;
        }
        let n = claim.attempts + 1;
        let attempt = match self.request(&claim, endpoint) {
            Ok(request) => self.outbound.send(request).await,
            Err(detail) => unsendable(detail),
        };
        let answered = attempt.outcome.status().is_some();
        let at_once = if answered { SENDS_AT_ONCE } else { SENDS_AT_ONCE_UNANSWERED };
        self.handoff.deliveries.set_concurrency(&claim.endpoint, at_once);

        let default;
        let schedule = match &endpoint.new.policy.schedule {
            Some(schedule) => &**schedule,
            None => {
                default = Schedule::default();
                &default
            }
        };
        let next = after_attempt(&attempt, n, schedule, clock::steady(), jitter());
        let record = AttemptRecord { delivery: claim.id, endpoint: claim.endpoint, lease: claim.lease, n, attempt, next };
        let recording = Recording {
            record,
            endpoint_name: endpoint.new.name.to_string(),
            attempts_max: schedule.waits().len(),
            slot: claim.slot,
        };
        // The recorder outlives every attempt.
        let _ = self.attempts.send(recording);
    }

    /// An endpoint that takes nothing (any more) leaves its deliveries in the store: they wait, or the keeper ends them.
    async fn give_back(&self, claim: DeliveryClaim) {
        if let Err(error) = self.store.release(vec![], vec![], vec![(claim.id, claim.lease)]).await {
            tracing::warn!(%error, "a delivery could not be given back; it waits for its lease to end");
        }
    }

    /// The signed request of one attempt. Signed per attempt, not per delivery: receivers reject old timestamps, and the last
    /// retry is hours later.
    fn request(&self, claim: &DeliveryClaim, endpoint: &Endpoint) -> Result<Request, String> {
        let url = Url::parse(&endpoint.new.url).map_err(|error| format!("the endpoint's URL cannot be used: {error}"))?;
        let (body, content_type) = match &claim.payload {
            Some(payload) => (payload.body.clone(), payload.content_type.as_str()),
            None => (Bytes::from(envelope::standard(&claim.event)), envelope::CONTENT_TYPE),
        };
        let id = claim.id.text(self.store.tag());
        let now = clock::wall();
        let signature = signature::signature(endpoint.signing_secrets(clock::steady()), &id, now, &body);

        let mut headers = HeaderMap::with_capacity(8);
        let own = claim.payload.as_ref().map(|payload| payload.headers.as_slice()).unwrap_or_default();
        // The endpoint's headers last: where both set one, its owner decides.
        for (name, value) in own.iter().chain(&endpoint.new.policy.headers) {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("{name:?} is not a header name"))?;
            let value =
                HeaderValue::try_from(value.as_str()).map_err(|_| format!("the value of header {name} cannot be sent"))?;
            headers.insert(name, value);
        }
        let content_type = HeaderValue::try_from(content_type).map_err(|_| "its content type cannot be sent".to_owned())?;
        let text = |text: String| HeaderValue::try_from(text).expect("ids, numbers and base64 are header values");
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(HeaderName::from_static("webhook-id"), text(id));
        headers.insert(HeaderName::from_static("webhook-timestamp"), text(now.seconds().to_string()));
        headers.insert(HeaderName::from_static("webhook-signature"), text(signature));
        headers.insert(HeaderName::from_static("innesco-depth"), HeaderValue::from(u16::from(claim.event.new.depth) + 1));
        Ok(Request { url, headers, body, timeout: endpoint.new.policy.timeout })
    }
}

/// An attempt that could not even begin: it counts, so that it is seen and ends.
fn unsendable(detail: String) -> Attempt {
    Attempt {
        at: clock::wall(),
        outcome: AttemptOutcome::Unreachable,
        latency: Duration::ZERO,
        detail: Some(detail),
        excerpt: Bytes::new(),
        retry_after: None,
    }
}

/// A number in 0..1 that differs from attempt to attempt.
fn jitter() -> f64 {
    let mut random = [0; 4];
    // Without randomness all retries lie in the middle: no harm.
    if getrandom::fill(&mut random).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)
}
