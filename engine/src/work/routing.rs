//! Decides what an event sets off (which plugins run on it, for themselves or for an endpoint, and which endpoints receive it
//! directly) and what a run's report turns into. Nothing here waits or writes.
//!
//! A webhook that a plugin sends to an endpoint with a plugin does not pass through that second plugin: plugins' webhooks go out byte
//! for byte. An endpoint's plugin stands between *events* and the endpoint.

use std::sync::Arc;

use crate::{
    catalog::{PluginEntry, PluginTable},
    domain::{
        delivery::NewDelivery,
        endpoint::Endpoint,
        event::{DEPTH_MAX, Event},
        name::Slug,
        plugin::Digest,
        routing::EndpointTable,
        run::{Effects, Execution, Requests, RunFailure, RunIdentity, RunOutcome, RunRecord, StateUse, Webhook},
        time::Timestamp,
    },
    sandbox::Report,
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
            None => direct.push(NewDelivery::new(endpoint, event, None)),
        }
    }
    Plan { runs, direct }
}

/// Records how a plugin's execution ended: resolves what it asks for into what takes effect, or parks the run.
pub fn ran(
    identity: RunIdentity,
    version: Digest,
    report: Report,
    event: &Event,
    bound: Option<&Endpoint>,
    endpoints: &EndpointTable,
    now: Timestamp,
) -> RunRecord {
    let Report { result, log, took, memory_peak, state } = report;
    let execution = Execution { version, took, memory_peak, log };
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
    /// Name of the missing endpoint, if that is the reason.
    wants: Option<String>,
}

/// Turns what a run asks for into deliveries and events.
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
        let endpoint = match (to, bound) {
            // The sandbox refuses a name from a plugin that belongs to an endpoint.
            (_, Some(bound)) => bound,
            (Some(name), None) => match endpoints.named(&name) {
                Some(endpoint) => endpoint,
                None => return Err(unknown_endpoint(place + 1, name, endpoints)),
            },
            (None, None) => return Err(bad_output("no_endpoint", format!("webhook {} names no endpoint", place + 1))),
        };
        deliveries.push(NewDelivery::new(endpoint, event, Some(Arc::new(payload))));
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
        let message = format!("event {}: types that begin with innesco. are the engine's own; choose another prefix", place + 1);
        return Err(bad_output("reserved_type", message));
    }
    let emitted = requests.emitted.into_iter().map(|emitted| emitted.into_event(event, plugin)).collect();
    Ok(Effects { deliveries, emitted, state_use })
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
