//! Notices: operational events (`innesco.*`) about the engine itself, which endpoints and plugins can subscribe to.
//!
//! Each notice is stored in the commit of the change that it reports. A notice is never sent to the endpoint that it is about
//! (routing compares the subject). The runs and deliveries of a notice produce no further notices, so notices cannot multiply. A
//! plugin that fails on every event is reported at most once a minute.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::{
    content::Content,
    delivery::{AttemptOutcome, DeadReason},
    endpoint::{DisabledReason, Endpoint},
    event::{Event, NewEvent},
    id::{DeliveryId, Tag},
    name::EventType,
    plugin::Digest,
    run::RunFailure,
    time::Timestamp,
};

/// The source of every operational event.
const SOURCE: &str = "innesco";

fn notice(event_type: &str, subject: &str, data: &Value) -> NewEvent {
    NewEvent {
        id: None,
        source: SOURCE.into(),
        event_type: EventType::parse(event_type).expect("the names of operational events are valid"),
        subject: Some(subject.into()),
        time: None,
        content: Content::of(data),
        attributes: Arc::default(),
        depth: 0,
        cause: None,
        request: None,
    }
}

/// Reports a disabled endpoint.
pub fn endpoint_disabled(endpoint: &Endpoint, reason: DisabledReason, failing_since: Option<Timestamp>) -> NewEvent {
    let name = &endpoint.new.name;
    let data = json!({
        "endpoint": &**name,
        "reason": reason.as_str(),
        "failing_since": failing_since.map(|since| since.to_string()),
        "hint": format!("repair the receiver, then: innesco endpoint resume {name}, and innesco delivery retry --dead --endpoint {name}"),
    });
    notice("innesco.endpoint.disabled", name, &data)
}

/// Reports a subscription that was removed together with its endpoint.
pub fn endpoint_removed(endpoint: &Endpoint) -> NewEvent {
    let new = &endpoint.new;
    let events: Vec<String> = new.subscription.events.iter().map(ToString::to_string).collect();
    let data = json!({ "endpoint": &*new.name, "title": new.title, "events": events, "reason": DisabledReason::Gone.as_str() });
    notice("innesco.endpoint.removed", &new.name, &data)
}

/// Reports an endpoint whose circuit breaker opened.
pub fn endpoint_failing(endpoint: &Endpoint, outcome: AttemptOutcome) -> NewEvent {
    let name = &endpoint.new.name;
    let failures = endpoint.new.policy.breaker.failures;
    let data = json!({ "endpoint": &**name, "last_outcome": outcome.to_string(), "failures_in_a_row": failures });
    notice("innesco.endpoint.failing", name, &data)
}

/// Reports an endpoint whose circuit breaker closed again.
pub fn endpoint_recovered(endpoint: &Endpoint) -> NewEvent {
    let name = &endpoint.new.name;
    notice("innesco.endpoint.recovered", name, &json!({ "endpoint": &**name }))
}

/// Reports a dead delivery; `None` if it carries an operational event.
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
    Some(notice("innesco.delivery.dead", name, &data))
}

/// Reports a plugin that is held because a version of it broke its limits too often; `None` if the last run was on an operational event.
pub fn plugin_quarantined(plugin: &str, version: Digest, event: &Event, failure: &RunFailure) -> Option<NewEvent> {
    if event.new.event_type.is_ours() {
        return None;
    }
    let data = json!({
        "plugin": plugin,
        "version": version.to_string(),
        "last_outcome": failure.outcome.as_str(),
        "message": failure.message,
        "hint": format!("its runs wait; release them with: innesco plugin rollback {plugin}, or promote a repaired version, or innesco plugin enable {plugin}"),
    });
    Some(notice("innesco.plugin.quarantined", plugin, &data))
}

/// Reports a parked run; `None` if it ran on an operational event.
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
    Some(notice("innesco.plugin.failed", plugin, &data))
}
