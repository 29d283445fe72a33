//! A snapshot of all endpoints, for looking up an event's direct subscribers.

use std::{collections::HashMap, sync::Arc};

use super::{
    endpoint::{Endpoint, Facts},
    event::NewEvent,
    id::EndpointId,
    name::{Slug, nearest},
    pattern::PatternIndex,
};

/// Every committed endpoint, indexed by id, by name and by subscription.
#[derive(Clone, Debug, Default)]
pub struct EndpointTable {
    by_id: HashMap<EndpointId, Arc<Endpoint>>,
    by_name: HashMap<Slug, EndpointId>,
    subscribers: PatternIndex<EndpointId>,
    /// Names of deleted endpoints. Another endpoint may have the same name now.
    deleted: HashMap<Slug, EndpointId>,
}

impl EndpointTable {
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut table = Self::default();
        for endpoint in endpoints {
            for pattern in &endpoint.new.subscription.events {
                table.subscribers.insert(pattern, endpoint.id);
            }
            table.by_name.insert(endpoint.new.name.clone(), endpoint.id);
            table.by_id.insert(endpoint.id, Arc::new(endpoint));
        }
        table
    }

    /// Adds the names of deleted endpoints. If two deleted endpoints had the same name, the later one counts.
    pub fn with_deleted(mut self, deleted: impl IntoIterator<Item = (Slug, EndpointId)>) -> Self {
        for (name, id) in deleted {
            let last = self.deleted.entry(name).or_insert(id);
            *last = (*last).max(id);
        }
        self
    }

    pub fn get(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.by_id.get(&id)
    }

    pub fn named(&self, name: &str) -> Option<&Arc<Endpoint>> {
        // Only slugs are keys of the map, so other texts are not found.
        let slug = Slug::parse(name).ok()?;
        self.by_id.get(self.by_name.get(&slug)?)
    }

    /// Returns the deleted endpoint that had this name, unless an existing endpoint has the name now.
    pub fn deleted(&self, name: &str) -> Option<EndpointId> {
        let slug = Slug::parse(name).ok()?;
        if self.by_name.contains_key(&slug) { None } else { self.deleted.get(&slug).copied() }
    }

    /// Returns the endpoints that receive this event without a plugin's decision.
    pub fn subscribers(&self, event: &NewEvent) -> impl Iterator<Item = &Arc<Endpoint>> {
        let facts = Facts::new(event);
        self.subscribers
            .matching(&event.event_type)
            .into_iter()
            .filter_map(|id| self.by_id.get(&id))
            .filter(move |endpoint| endpoint.new.subscription.conditions_hold(&facts))
    }

    /// Returns the most similar name.
    pub fn nearest(&self, typed: &str) -> Option<&str> {
        nearest(typed, self.by_name.keys().map(|name| &**name))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.by_id.values()
    }
}
