//! Decides what an event sets off (which plugins run on it, for themselves or for an endpoint, and which endpoints receive it
//! directly) and what a run's report turns into. Nothing here waits or writes.
//!
//! A webhook that a plugin sends to an endpoint with a plugin does not pass through that second plugin: plugins' webhooks go out byte
//! for byte. An endpoint's plugin stands between *events* and the endpoint.

use std::{sync::Arc, time::Duration};

use crate::{
    catalog::{PluginEntry, PluginTable},
    domain::{
        delivery::Payload,
        endpoint::{Endpoint, EndpointState},
        event::{DEPTH_MAX, Event},
        name::Slug,
        plugin::Digest,
        routing::EndpointTable,
        run::{Requests, RunFailure, RunLog, RunOutcome, RunState, StateUse, Webhook},
        time::Timestamp,
    },
    sandbox::Report,
    store::{Birth, NewDelivery, RunRecord},
};

/// One plugin that is to run on an event.
pub struct PlannedRun {
    pub plugin: Slug,
    /// `None` when no such plugin is known.
    pub entry: Option<Arc<PluginEntry>>,
    /// The endpoint that it belongs to.
    pub endpoint: Option<Arc<Endpoint>>,
}

/// What an event sets off.
pub struct Plan {
    pub runs: Vec<PlannedRun>,
    pub direct: Vec<NewDelivery>,
}

/// Decides it, once, at the event's first run.
pub fn plan(event: &Event, plugins: &PluginTable, endpoints: &EndpointTable) -> Plan {
    let mut runs: Vec<PlannedRun> = plugins
        .matching(&event.new.event_type)
        .map(|entry| PlannedRun { plugin: entry.row.name.clone(), entry: Some(Arc::clone(entry)), endpoint: None })
        .collect();
    let mut direct = Vec::new();
    for endpoint in endpoints.subscribers(&event.new) {
        if !endpoint.new.may_hear(&event.new) {
            continue;
        }
        match &endpoint.new.plugin {
            Some(plugin) => runs.push(PlannedRun {
                plugin: plugin.clone(),
                entry: plugins.get(plugin).cloned(),
                endpoint: Some(Arc::clone(endpoint)),
            }),
            None => direct.push(delivery(endpoint, event, None)),
        }
    }
    Plan { runs, direct }
}

fn delivery(endpoint: &Endpoint, event: &Event, payload: Option<Arc<Payload>>) -> NewDelivery {
    let birth = match endpoint.new.state {
        EndpointState::Active => Birth::Due,
        EndpointState::Paused => Birth::Held,
        EndpointState::Disabled(_) => Birth::Dead,
    };
    let ordering = endpoint.new.policy.ordering.map(|ordering| ordering.key(event.new.subject.as_deref()));
    NewDelivery { endpoint: endpoint.id, payload, birth, ordering }
}

/// Who ran, on what, for the how-manieth time.
pub struct RunIdentity<'a> {
    pub id: Option<crate::domain::id::RunId>,
    pub plugin: &'a Slug,
    pub version: Option<Digest>,
    pub endpoint: Option<&'a Arc<Endpoint>>,
    /// Tries, this one included.
    pub tries: u32,
}

impl RunIdentity<'_> {
    fn record(&self, state: RunState, outcome: Option<RunOutcome>) -> RunRecord {
        RunRecord {
            id: self.id,
            plugin: self.plugin.clone(),
            version: self.version,
            endpoint: self.endpoint.map(|endpoint| endpoint.id),
            state,
            outcome,
            failure: None,
            tries: self.tries,
            took: Duration::ZERO,
            memory_peak: 0,
            log: RunLog::default(),
            wants: None,
            deliveries: Vec::new(),
            emitted: Vec::new(),
            state_use: StateUse::default(),
            news: Vec::new(),
        }
    }

    /// A run that gets a row of its own before its first try.
    pub fn set_apart(&self, now: Timestamp) -> RunRecord {
        RunRecord { tries: self.tries - 1, ..self.record(RunState::Waiting { due: now }, None) }
    }

    /// A run whose plugin cannot run at all.
    pub fn not_loadable(&self, reason: &str) -> RunRecord {
        let failure = RunFailure {
            outcome: RunOutcome::NotLoadable,
            code: "not_loadable".into(),
            message: reason.to_owned(),
            retryable: false,
        };
        RunRecord { failure: Some(failure), ..self.record(RunState::Parked, Some(RunOutcome::NotLoadable)) }
    }

    /// What a report turns into.
    pub fn ran(&self, report: Report, event: &Event, endpoints: &EndpointTable, now: Timestamp) -> RunRecord {
        let Report { result, log, took, memory_peak, state } = report;
        let mut record = RunRecord { took, memory_peak, log, ..self.record(RunState::Done, Some(RunOutcome::Ok)) };
        match result.and_then(|requests| self.resolve(requests, event, endpoints, &mut record)) {
            Ok(()) => record.state_use = state,
            Err(failure) => {
                record.deliveries.clear();
                record.emitted.clear();
                record.state = RunState::after_failure(failure.retryable, self.tries, now);
                record.outcome = Some(failure.outcome);
                record.failure = Some(failure);
            }
        }
        record
    }

    /// Turns what a run asks for into deliveries and events.
    fn resolve(
        &self,
        requests: Requests,
        event: &Event,
        endpoints: &EndpointTable,
        record: &mut RunRecord,
    ) -> Result<(), RunFailure> {
        for (place, Webhook { to, payload }) in requests.webhooks.into_iter().enumerate() {
            let endpoint = match (&to, self.endpoint) {
                (Some(name), None) => match endpoints.named(name) {
                    Some(endpoint) => endpoint,
                    None => {
                        record.wants = Some(name.clone());
                        return Err(unknown_endpoint(place + 1, name, endpoints));
                    }
                },
                (None, Some(own)) => own,
                // The sandbox has refused these.
                (Some(_), Some(own)) => own,
                (None, None) => return Err(bad_output("no_endpoint", format!("webhook {} names no endpoint", place + 1))),
            };
            record.deliveries.push(delivery(endpoint, event, Some(Arc::new(payload))));
        }
        if !requests.emitted.is_empty() && event.new.depth >= DEPTH_MAX {
            return Err(bad_output(
                "chain_too_deep",
                format!(
                    "it emits an event from an event that is {DEPTH_MAX} deep already: a chain of events that cause each other ends here"
                ),
            ));
        }
        if let Some(place) = requests.emitted.iter().position(|emitted| emitted.event_type.is_ours()) {
            let message =
                format!("event {}: types that begin with innesco. are the engine's own; choose another prefix", place + 1);
            return Err(bad_output("reserved_type", message));
        }
        record.emitted = requests.emitted.into_iter().map(|emitted| emitted.into_event(event, self.plugin)).collect();
        Ok(())
    }
}

fn unknown_endpoint(number: usize, name: &str, endpoints: &EndpointTable) -> RunFailure {
    let advice = match endpoints.nearest(name) {
        Some(nearest) => format!("the nearest name is {nearest:?}"),
        None => "create it, and the run is tried again".to_owned(),
    };
    bad_output("unknown_endpoint", format!("webhook {number} goes to endpoint {name:?}, which does not exist; {advice}"))
}

fn bad_output(code: &str, message: String) -> RunFailure {
    RunFailure { outcome: RunOutcome::BadOutput, code: code.into(), message, retryable: false }
}
