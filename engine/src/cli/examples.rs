//! Complete answers for the tests of the commands. A test changes only the members that it checks.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Returns `base` with some members changed or added.
pub fn with(mut base: Value, changes: Value) -> Value {
    let (Value::Object(members), Value::Object(changes)) = (&mut base, changes) else { panic!("both are objects") };
    members.extend(changes);
    base
}

pub fn read<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("an answer with all its members")
}

pub fn event() -> Value {
    json!({
        "event": "evt_1", "id": "evt_1", "source": "shop", "type": "order.created", "subject": null,
        "time": "2026-11-24T09:14:02Z", "accepted_at": "2026-11-24T09:14:02.100Z", "state": "waiting", "parts": parts(json!({})), "depth": 0,
        "cause": null,
        "attributes": {}, "content_type": "application/json", "bytes": 10, "data": { "id": 7 }, "request": null, "runs": [],
        "deliveries": [], "emitted": [], "next": null,
    })
}

/// Returns the numbers of an event's parts; those that are not named are 0.
pub fn parts(named: Value) -> Value {
    let number = |name: &str| named[name].as_u64().unwrap_or(0);
    let states = ["pending", "retrying", "delivered", "dead", "cancelled"];
    let mut deliveries = json!({ "total": states.iter().map(|state| number(state)).sum::<u64>() });
    for state in states {
        deliveries[state] = number(state).into();
    }
    json!({ "to_run": false, "runs": { "waiting": number("waiting"), "parked": number("parked") }, "deliveries": deliveries })
}

pub fn run() -> Value {
    json!({
        "id": "run_1", "event": "evt_1", "type": "order.created", "plugin": "router", "version": null, "endpoint": null, "round": 0, "state": "done", "outcome": "ok", "code": null,
        "message": null, "wants": null, "tries": 1, "due": null, "duration_ms": 0.0, "memory_bytes": 0, "webhooks": 0, "events": 0, "settings_revision": 0, "log": [],
        "log_dropped": 0,
    })
}

pub fn delivery() -> Value {
    json!({
        "id": "dlv_1", "event": "evt_1", "endpoint": "ep_1", "endpoint_name": "crm", "type": "order.created", "round": 0,
        "state": "delivered", "reason": null, "attempt_count": 1, "due": null, "at": "2026-11-24T09:14:02Z", "last": null, "attempts": [],
    })
}

pub fn attempt(changes: Value) -> Value {
    let attempt = json!({
        "id": "att_1", "n": 1, "at": "2026-11-24T09:14:02Z", "outcome": "answered", "status": 200, "latency_ms": 1.8, "detail": null,
        "excerpt": "",
    });
    with(attempt, changes)
}

pub fn endpoint() -> Value {
    json!({
        "id": "ep_1", "name": "crm", "title": null, "url": "https://crm.example/hook", "events": ["order.*"], "where": {}, "plugin": null,
        "signature": "v1", "headers": {}, "timeout": "20s", "schedule": null, "concurrency": 64, "rate": null, "ordered": null,
        "breaker": { "failures": 5, "wait": "5s", "wait_max": "5m" }, "envelope": "standard", "format": "json",
        "client_certificate": null, "on_gone": "disable", "reach": "opened", "subscribed_by": null, "state": "active",
        "disabled_reason": null, "failing_since": null, "created_at": "2026-11-24T09:14:02Z",
    })
}

pub fn source() -> Value {
    let members = json!({
        "id": "src_1", "name": "shop", "title": null, "preset": "none", "path": "/in/shop-0", "url": null, "warning": null,
        "header": null, "algorithm": null, "encoding": null, "prefix": null, "template": null, "list_key": null, "timestamp": null,
        "tolerance": null, "username": null, "signature": null, "secret_encoding": null, "challenge": null, "has_verify_token": false,
        "type_from": null, "type_prefix": "shop", "dedupe": "digest", "attributes": {}, "methods": ["POST"], "content_types": [],
        "body_as": "auto", "allow": [], "headers": null, "body_bytes_max": null, "rate": null, "answer_status": 202,
        "answer_body": null, "answer_content_type": "application/json", "secrets": 0, "addresses": 1,
        "created_at": "2026-11-24T09:14:02Z", "accepted": 0, "last_accepted_at": null, "refused": 0, "refusals": [],
    });
    // Added separately, because `json!` cannot expand so deep an object in one piece.
    with(members, json!({ "proofs": [], "duplicates": 0 }))
}

pub fn key() -> Value {
    json!({
        "id": "key_1", "name": "shop", "role": "publish", "created_at": "2026-11-24T09:14:02Z", "expires_at": null, "expired": false,
        "last_used_at": null,
    })
}

pub fn job() -> Value {
    json!({
        "id": "job_1", "kind": "delivery.retry", "state": "done", "done": 0, "failed": 0, "total": null,
        "filter": {
            "endpoint": null, "state": "dead", "reason": null, "plugin": null, "outcome": null, "source": null, "event_type": null,
            "since": null, "until": null,
        },
        "created_at": "2026-11-24T09:14:02Z", "finished_at": null,
    })
}
