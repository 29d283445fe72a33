//! The verdict on an executed run: turns the run's report into the record that the settler commits. Here each webhook gets its
//! endpoint, and if a request breaks a rule, the run is parked. Nothing here waits or writes.

use std::sync::Arc;

use crate::{
    domain::{
        delivery::NewDelivery,
        endpoint::Endpoint,
        event::{DEPTH_MAX, Event},
        name::Slug,
        plugin::Digest,
        routing::EndpointTable,
        run::{Effects, Execution, Requests, RunFailure, RunIdentity, RunOutcome, RunRecord, Scheduled, StateUse, Webhook},
        time::Timestamp,
    },
    sandbox::Report,
};

/// Records how a plugin's execution ended: resolves its requests into deliveries and events, or parks the run.
pub fn record(
    identity: RunIdentity,
    version: Digest,
    report: Report,
    event: &Event,
    bound: Option<&Endpoint>,
    endpoints: &EndpointTable,
    now: Timestamp,
) -> RunRecord {
    let Report { result, log, took, memory_peak, backtrace, state, recording } = report;
    let execution = Execution { version, took, memory_peak, log, recording, backtrace };
    let requests = match result {
        Ok(requests) => requests,
        Err(failure) => return identity.failed(execution, failure, now),
    };
    match resolve(requests, state, &identity.plugin, event, bound, endpoints) {
        Ok(effects) => identity.ok(execution, effects),
        Err(Refusal { failure, wants }) => identity.parked(Some(execution), failure, wants),
    }
}

/// Why a run's requests cannot take effect.
struct Refusal {
    failure: RunFailure,
    /// Name of the missing endpoint, if a missing endpoint is the reason.
    wants: Option<String>,
}

/// Returns the reason why the requests of a run would be refused, or `None` if they would be accepted.
pub fn refusal(
    requests: &Requests,
    plugin: &Slug,
    event: &Event,
    bound: Option<&Endpoint>,
    endpoints: &EndpointTable,
) -> Option<RunFailure> {
    resolve(requests.clone(), StateUse::default(), plugin, event, bound, endpoints).err().map(|refusal| refusal.failure)
}

/// Turns the requests of a run into deliveries and events.
fn resolve(
    requests: Requests,
    state_use: StateUse,
    plugin: &Slug,
    event: &Event,
    bound: Option<&Endpoint>,
    endpoints: &EndpointTable,
) -> Result<Effects, Refusal> {
    let mut deliveries = Vec::with_capacity(requests.webhooks.len());
    for (place, Webhook { to, payload }) in requests.webhooks.into_iter().enumerate() {
        let payload = Arc::new(payload);
        deliveries.push(match (to, bound) {
            // A plugin that belongs to an endpoint names no endpoint here: the sandbox has already refused such a name.
            (_, Some(bound)) => NewDelivery::new(bound, &event.new, Some(payload)),
            (Some(name), None) => match (endpoints.named(&name), endpoints.deleted(&name)) {
                (Some(endpoint), _) => NewDelivery::new(endpoint, &event.new, Some(payload)),
                // An operator has deleted the endpoint on purpose. This must not stop the rest of the run.
                (None, Some(deleted)) => NewDelivery::to_deleted(deleted, payload),
                (None, None) => return Err(unknown_endpoint(place + 1, name, endpoints)),
            },
            (None, None) => return Err(bad_output("no_endpoint", format!("webhook {} names no endpoint", place + 1))),
        });
    }
    if !requests.emitted.is_empty() && event.new.depth >= DEPTH_MAX {
        return Err(bad_output(
            "chain_too_deep",
            format!(
                "it emits an event, but its own event is already number {DEPTH_MAX} in a chain of events that cause each other"
            ),
        ));
    }
    if let Some(place) = requests.emitted.iter().position(|emitted| emitted.event_type.is_ours()) {
        let message =
            format!("event {}: types that begin with innesco. are reserved for the engine; choose another prefix", place + 1);
        return Err(bad_output("reserved_type", message));
    }
    let (mut emitted, mut scheduled) = (Vec::new(), Vec::new());
    for one in requests.emitted {
        let after = one.after;
        let event = one.into_event(event, plugin);
        if after.is_zero() {
            emitted.push(event);
        } else {
            scheduled.push(Scheduled { after, event });
        }
    }
    Ok(Effects { deliveries, emitted, scheduled, state_use })
}

fn unknown_endpoint(number: usize, name: String, endpoints: &EndpointTable) -> Refusal {
    let advice = match endpoints.nearest(&name) {
        Some(nearest) => format!("the nearest name is {nearest:?}"),
        None => "create it, and the run is tried again".to_owned(),
    };
    let message = format!("webhook {number} goes to endpoint {name:?}, which does not exist; {advice}");
    Refusal { wants: Some(name), ..bad_output("unknown_endpoint", message) }
}

fn bad_output(code: &str, message: String) -> Refusal {
    Refusal { failure: RunFailure { outcome: RunOutcome::BadOutput, code: code.into(), message, retryable: false }, wants: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        domain::{
            delivery::InitialState,
            event::NewEvent,
            id::{EndpointId, EventId},
            name::Attributes,
            recording::Recording,
            run::{Emitted, LogLevel, LogLine, RunLog, RunState, StateRead, StateWrite},
        },
        store::conformance::bench::{endpoint, event, identity, payload},
    };

    const NOW: Timestamp = Timestamp::from_millis(5);

    fn table() -> EndpointTable {
        let new = |id, name| Endpoint { id: EndpointId::from_i64(id), new: endpoint(name), created_at: NOW, failing_since: None };
        let slug = |name| Slug::parse(name).unwrap();
        let deleted = [
            (slug("erp"), EndpointId::from_i64(7)),
            (slug("erp"), EndpointId::from_i64(6)),
            (slug("crm"), EndpointId::from_i64(8)),
        ];
        EndpointTable::new([new(1, "crm"), new(2, "slack")]).with_deleted(deleted)
    }

    fn webhook(to: Option<&str>) -> Webhook {
        Webhook { to: to.map(str::to_owned), payload: payload("x") }
    }

    fn emits(event_type: &str) -> Emitted {
        let NewEvent { event_type, subject: _, content, .. } = event(event_type);
        Emitted { after: Duration::ZERO, event_type, subject: None, content, attributes: Attributes::default() }
    }

    /// Returns the record of a run that made these webhooks and events. The run's event has this depth.
    fn recorded(webhooks: Vec<Webhook>, emitted: Vec<Emitted>, depth: u8, bound: Option<&str>) -> RunRecord {
        let state = StateUse {
            reads: vec![StateRead { key: "k".into(), version: 3 }],
            writes: vec![StateWrite { key: "k".into(), value: None, expires_at: None }],
        };
        let log = RunLog { lines: vec![LogLine { level: LogLevel::Info, message: "hello".into(), fields: vec![] }], dropped: 0 };
        let requests = Requests { webhooks, emitted };
        let recording = Recording { settings: 2, ..Recording::default() };
        let report = Report {
            result: Ok(requests),
            log,
            took: Duration::from_micros(7),
            memory_peak: 9,
            backtrace: Arc::default(),
            state,
            recording,
        };
        let event = Event { id: EventId::from_i64(1), accepted_at: NOW, new: NewEvent { depth, ..event("order.created") } };
        let table = table();
        let bound = bound.and_then(|name| table.named(name)).map(|endpoint| &**endpoint);
        record(identity("p"), Digest::of(b"p"), report, &event, bound, &table, NOW)
    }

    #[test]
    fn webhooks_go_to_the_endpoints_that_they_name() {
        let record = recorded(vec![webhook(Some("slack")), webhook(Some("crm"))], vec![emits("order.big")], 0, None);
        assert_eq!((record.state(), record.outcome(), record.tries()), (RunState::Done, Some(RunOutcome::Ok), 1));
        let endpoints: Vec<_> = record.deliveries().iter().map(|one| one.endpoint.as_i64()).collect();
        assert_eq!(endpoints, [2, 1], "in the plugin's order");
        assert_eq!((record.emitted().len(), record.reads().len(), record.writes().len()), (1, 1, 1));
        assert_eq!((&*record.emitted()[0].source, record.emitted()[0].depth), ("plugin/p", 1));
        let execution = record.execution().unwrap();
        assert_eq!((execution.version, execution.memory_peak, execution.log.lines.len()), (Digest::of(b"p"), 9, 1));
    }

    #[test]
    fn a_webhook_to_a_deleted_endpoint_is_cancelled_and_the_rest_of_the_run_takes_effect() {
        let record = recorded(vec![webhook(Some("erp")), webhook(Some("crm"))], vec![emits("order.big")], 0, None);
        assert_eq!((record.state(), record.emitted().len(), record.writes().len()), (RunState::Done, 1, 1));
        let births: Vec<_> = record.deliveries().iter().map(|one| (one.endpoint.as_i64(), one.initial_state)).collect();
        assert_eq!(
            births,
            [(7, InitialState::Cancelled), (1, InitialState::Due)],
            "the last deleted endpoint of a name counts, and only if no endpoint has the name now"
        );
    }

    #[test]
    fn a_bound_plugin_sends_to_its_endpoint_alone() {
        let record = recorded(vec![webhook(None)], vec![], 0, Some("crm"));
        assert_eq!(record.deliveries()[0].endpoint.as_i64(), 1);
    }

    #[test]
    fn a_request_that_breaks_a_rule_parks_the_run_without_effects() {
        for (code, wants, webhooks, emitted, depth) in [
            ("unknown_endpoint", Some("slick"), vec![webhook(Some("crm")), webhook(Some("slick"))], vec![], 0),
            ("no_endpoint", None, vec![webhook(None)], vec![], 0),
            ("chain_too_deep", None, vec![], vec![emits("order.big")], DEPTH_MAX),
            ("reserved_type", None, vec![], vec![emits("order.big"), emits("innesco.fake")], 0),
        ] {
            let record = recorded(webhooks, emitted, depth, None);
            let failure = record.failure().expect("it failed");
            assert_eq!((record.state(), failure.outcome, &*failure.code), (RunState::Parked, RunOutcome::BadOutput, code));
            assert_eq!(record.wants(), wants, "{code}");
            assert!(!record.has_effect() && record.reads().is_empty(), "{code}");
            assert!(record.execution().is_some(), "{code}: the log of the run is stored");
        }
    }

    #[test]
    fn plugin_tests_refuse_the_same_requests_with_the_same_text() {
        struct Asks(innesco_sdk::Outcome);
        impl innesco_sdk::Plugin for Asks {
            const ON: &'static [&'static str] = &["order.created"];

            fn handle(&self, _: &innesco_sdk::Event) -> innesco_sdk::Result<innesco_sdk::Outcome> {
                Ok(self.0.clone())
            }
        }
        let event = innesco_sdk::testing::event("order.created").build();
        let told = |outcome: innesco_sdk::Outcome| {
            let mut engine = innesco_sdk::testing::engine().endpoints(["crm", "slack"]);
            let error = engine.run(&Asks(outcome), &event).expect_err("the request is refused");
            (error.code, error.message)
        };
        let here = |webhooks, emitted| {
            let failure = recorded(webhooks, emitted, 0, None).failure().expect("it failed").clone();
            (failure.code, failure.message)
        };
        for name in ["slick", "warehouse"] {
            assert_eq!(told(innesco_sdk::Webhook::to(name).into()), here(vec![webhook(Some(name))], vec![]));
        }
        assert_eq!(told(innesco_sdk::Emit::new("innesco.fake").into()), here(vec![], vec![emits("innesco.fake")]));
    }

    #[test]
    fn an_unknown_endpoint_is_reported_with_the_nearest_name() {
        let message = |name| recorded(vec![webhook(Some(name))], vec![], 0, None).failure().unwrap().message.clone();
        assert!(message("slick").contains("the nearest name is \"slack\""), "{}", message("slick"));
        assert!(message("warehouse").contains("create it"), "{}", message("warehouse"));
    }
}
