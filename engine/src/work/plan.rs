//! Plans an event: which plugins run on it, and which endpoints receive it directly. A plugin runs if it subscribes to the event,
//! or if it belongs to an endpoint that subscribes to the event. Nothing here waits or writes.
//!
//! A webhook that a plugin makes is sent unchanged. So if a plugin sends a webhook to an endpoint that has a plugin, too, the
//! endpoint's plugin does not see that webhook. An endpoint's plugin processes only *events* on their way to the endpoint.

use std::sync::Arc;

use crate::{
    catalog::{PluginEntry, PluginTable},
    domain::{delivery::NewDelivery, endpoint::Endpoint, event::NewEvent, name::Slug, routing::EndpointTable},
};

/// A plugin that runs on an event.
pub struct PlannedRun {
    pub plugin: Slug,
    /// `None` if no such plugin is known.
    pub entry: Option<Arc<PluginEntry>>,
    /// The endpoint that the run belongs to.
    pub endpoint: Option<Arc<Endpoint>>,
}

/// The runs and direct deliveries of an event.
pub struct Plan {
    pub runs: Vec<PlannedRun>,
    pub direct: Vec<NewDelivery>,
}

/// Plans an event on one snapshot. A run that is deferred or retried later is not planned again.
pub fn plan(event: &NewEvent, plugins: &PluginTable, endpoints: &EndpointTable) -> Plan {
    let mut runs: Vec<PlannedRun> = plugins
        .matching(&event.event_type)
        .map(|entry| PlannedRun { plugin: entry.row.name.clone(), entry: Some(Arc::clone(entry)), endpoint: None })
        .collect();
    let mut direct = Vec::new();
    for endpoint in endpoints.subscribers(event) {
        if !endpoint.new.may_hear(event) {
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
