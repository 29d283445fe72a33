//! Operational events (`innesco.*`): what the engine reports about itself, as events that endpoints and plugins can subscribe to.
//!
//! Each is stored in the commit of the change it reports. It is never sent to the endpoint it is about (routing compares the subject),
//! and nothing that follows from it produces another one, so they cannot feed on themselves. A plugin that fails on every event is
//! reported once a minute.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::{
    content::Content,
    delivery::{AttemptOutcome, DeadReason},
    endpoint::{DisabledReason, Endpoint},
    event::{Event, NewEvent},
    id::{DeliveryId, Tag},
    name::EventType,
    run::RunFailure,
    time::Timestamp,
};

/// What every event of ours names as its source.
const SOURCE: &str = "innesco";

fn news(event_type: &str, subject: &str, data: &Value) -> NewEvent {
    NewEvent {
        id: None,
        source: SOURCE.into(),
        event_type: EventType::parse(event_type).expect("the names of our events are valid"),
        subject: Some(subject.into()),
        time: None,
        content: Content::of(data),
        attributes: Arc::default(),
        depth: 0,
        cause: None,
        request: None,
    }
}

/// An endpoint takes nothing any more.
pub fn endpoint_disabled(endpoint: &Endpoint, reason: DisabledReason, failing_since: Option<Timestamp>) -> NewEvent {
    let name = &endpoint.new.name;
    let data = json!({
        "endpoint": &**name,
        "reason": reason.as_str(),
        "failing_since": failing_since.map(|since| since.to_string()),
        "hint": format!("mend the receiver, then: innesco endpoint resume {name}, and retry what is dead"),
    });
    news("innesco.endpoint.disabled", name, &data)
}

/// A program's subscription has ended, and its endpoint with it.
pub fn endpoint_removed(endpoint: &Endpoint) -> NewEvent {
    let new = &endpoint.new;
    let events: Vec<String> = new.subscription.events.iter().map(ToString::to_string).collect();
    let data = json!({ "endpoint": &*new.name, "title": new.title, "events": events, "reason": DisabledReason::Gone.as_str() });
    news("innesco.endpoint.removed", &new.name, &data)
}

/// An endpoint has failed so often in a row that it is left alone for a while.
pub fn endpoint_failing(endpoint: &Endpoint, outcome: AttemptOutcome) -> NewEvent {
    let name = &endpoint.new.name;
    let failures = endpoint.new.policy.breaker.failures;
    let data = json!({ "endpoint": &**name, "last_outcome": outcome.to_string(), "failures_in_a_row": failures });
    news("innesco.endpoint.failing", name, &data)
}

/// An endpoint that was left alone answers again.
pub fn endpoint_recovered(endpoint: &Endpoint) -> NewEvent {
    let name = &endpoint.new.name;
    news("innesco.endpoint.recovered", name, &json!({ "endpoint": &**name }))
}

/// A delivery was given up.
pub fn delivery_dead(
    endpoint: &Endpoint,
    delivery: DeliveryId,
    event: &Event,
    reason: DeadReason,
    outcome: AttemptOutcome,
    attempts: u32,
    tag: Tag,
) -> Option<NewEvent> {
    if event.new.event_type.is_ours() {
        return None;
    }
    let name = &endpoint.new.name;
    let data = json!({
        "delivery": delivery.text(tag),
        "endpoint": &**name,
        "event": event.id.text(tag),
        "type": &*event.new.event_type,
        "reason": reason.as_str(),
        "last_outcome": outcome.to_string(),
        "attempts": attempts,
    });
    Some(news("innesco.delivery.dead", name, &data))
}

/// A run has failed for good and is parked.
pub fn plugin_failed(plugin: &str, event: &Event, failure: &RunFailure, tag: Tag) -> Option<NewEvent> {
    if event.new.event_type.is_ours() {
        return None;
    }
    let data = json!({
        "plugin": plugin,
        "event": event.id.text(tag),
        "type": &*event.new.event_type,
        "outcome": failure.outcome.as_str(),
        "code": failure.code,
        "message": failure.message,
    });
    Some(news("innesco.plugin.failed", plugin, &data))
}
