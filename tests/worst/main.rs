//! The most expensive requests: every route of the OpenAPI document receives expensive bodies, queries and headers, as large as its
//! limit allows. The cost is counted, never timed: the allocated bytes and the number of allocations must stay within a fixed
//! multiple of the bytes sent. Work without allocations exceeds the deadline of the requests: for example, comparing each pair of
//! items in 8 MiB takes minutes.
//!
//! The engine runs in this process, under a counting allocator. The tests take turns, so that each count belongs to one request.

mod bodies;
mod engine;

use std::alloc::System;

use serde_json::Value;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use self::{
    bodies::{Body, MANAGEMENT_BYTES, PUBLISH_BYTES, field_bodies, forms, json_bodies, other_bodies, signatures},
    engine::{Work, turn},
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocated bytes allowed for each byte sent. Every allocation counts, also one that is freed at once, and each growth of a list.
/// A JSON value of two bytes takes 32 bytes in memory, and a management request may be parsed into values twice.
const BYTES_PER_BYTE: usize = 160;
/// One allocation is allowed for this many bytes sent. Each node of a form or a document takes one or two allocations.
const BYTES_PER_ALLOCATION: usize = 2;
/// Cost allowed for every request, in addition to that for its bytes. Includes background work of the engine.
const BASE: Work = Work { bytes: 16 << 20, allocations: 50_000 };

/// Collects excessive costs, so that one run shows all of them.
#[derive(Default)]
struct Judge(Vec<String>);

impl Judge {
    fn judge(&mut self, what: &str, sent: usize, work: Work) {
        let most =
            Work { bytes: BASE.bytes + BYTES_PER_BYTE * sent, allocations: BASE.allocations + sent / BYTES_PER_ALLOCATION };
        println!("{what}: {sent} bytes sent, {} bytes in {} allocations", work.bytes, work.allocations);
        if work.bytes > most.bytes || work.allocations > most.allocations {
            self.0.push(format!("{what}: {sent} bytes sent; {work:?}, at most {most:?}"));
        }
    }

    fn verdict(self) {
        assert!(self.0.is_empty(), "requests that cost too much:\n{}", self.0.join("\n"));
    }
}

#[test]
fn events_cost_a_multiple_of_their_bytes() {
    let engine = turn();
    let mut judge = Judge::default();
    for body in json_bodies(PUBLISH_BYTES) {
        let work = engine.post("/v1/events", &[("content-type", "application/json")], &body.bytes);
        judge.judge(&format!("event: {}", body.name), body.bytes.len(), work);
    }
    for body in json_bodies(PUBLISH_BYTES).chain(forms(PUBLISH_BYTES)).chain(other_bodies(PUBLISH_BYTES)) {
        let headers = [("content-type", body.kind), ("ce-type", "worst.case"), ("ce-id", "1"), ("ce-source", "worst")];
        let work = engine.post("/v1/events", &headers, &body.bytes);
        judge.judge(&format!("event in binary mode: {}", body.name), body.bytes.len(), work);
    }
    judge.verdict();
}

#[test]
fn stored_events_are_shown_for_a_multiple_of_their_bytes() {
    let engine = turn();
    let mut judge = Judge::default();
    for body in json_bodies(PUBLISH_BYTES).chain(other_bodies(PUBLISH_BYTES)) {
        let headers = [("content-type", body.kind), ("ce-type", "worst.case"), ("ce-source", "shown")];
        let Some(event) = engine.accepted(&headers, &body.bytes) else { continue };
        let work = engine.get(&format!("/v1/events/{event}"));
        judge.judge(&format!("event shown: {}", body.name), body.bytes.len(), work);
    }
    judge.verdict();
}

#[test]
fn webhooks_of_a_source_cost_a_multiple_of_their_bytes() {
    let engine = turn();
    let mut judge = Judge::default();
    let address = engine.source("none");
    for body in json_bodies(PUBLISH_BYTES).chain(forms(PUBLISH_BYTES)).chain(other_bodies(PUBLISH_BYTES)) {
        let work = engine.post(&address, &[("content-type", body.kind)], &body.bytes);
        judge.judge(&format!("source: {}", body.name), body.bytes.len(), work);
    }
    judge.verdict();
}

#[test]
fn senders_without_a_proof_cost_a_multiple_of_their_bytes() {
    let engine = turn();
    let mut judge = Judge::default();
    let bodies: Vec<Body> = forms(PUBLISH_BYTES).take(2).collect();
    for preset in innesco::domain::source::Preset::ALL.map(innesco::domain::source::Preset::as_str) {
        for (number, (header, value)) in signatures().enumerate() {
            // A new source each time, because a caller that is refused too often is no longer checked.
            let address = engine.source(preset);
            let body = &bodies[number % bodies.len()];
            let headers = [("content-type", body.kind), (header, &value), ("webhook-id", "1"), ("svix-id", "1")];
            let now =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs().to_string();
            let stamps =
                ["webhook-timestamp", "svix-timestamp", "x-slack-request-timestamp", "x-zendesk-webhook-signature-timestamp"]
                    .map(|name| (name, now.as_str()));
            let work = engine.post(&address, &[&headers[..], &stamps].concat(), &body.bytes);
            judge.judge(&format!("{preset}, {header}: {}", body.name), body.bytes.len(), work);
        }
    }
    judge.verdict();
}

#[test]
fn management_requests_cost_a_multiple_of_their_bytes() {
    let engine = turn();
    let mut judge = Judge::default();
    for route in
        engine.routes().iter().filter(|route| route.has_body && route.path.starts_with("/v1/") && route.path != "/v1/events")
    {
        let path = engine.filled(&route.path);
        let bodies = json_bodies(MANAGEMENT_BYTES).chain(field_bodies(&route.fields, MANAGEMENT_BYTES));
        for body in bodies {
            let work = engine.send(&route.method, &path, &[("content-type", &route.kind)], &body.bytes);
            judge.judge(&format!("{} {}: {}", route.method, route.path, body.name), body.bytes.len(), work);
        }
        // A body that exceeds every limit is refused before it is read.
        let Body { bytes, .. } = json_bodies(2 * PUBLISH_BYTES).next().expect("a body");
        let work = engine.send(&route.method, &path, &[("content-type", &route.kind)], &bytes);
        // A plugin's file may be larger than this body, so the engine reads this body.
        let sent = if route.kind == "application/wasm" { bytes.len() } else { 0 };
        judge.judge(&format!("{} {}: too large", route.method, route.path), sent, work);
    }
    judge.verdict();
}

#[test]
fn paths_and_queries_cost_a_multiple_of_their_bytes() {
    const BYTES: usize = 60_000;
    let engine = turn();
    let mut judge = Judge::default();
    let queries = ["a&".repeat(BYTES / 2), "[a]".repeat(BYTES / 3), "%41".repeat(BYTES / 3), "=".repeat(BYTES)];
    for route in engine.routes() {
        // The test deletes nothing that other tests need.
        let plain = engine.filled(&route.path).replace("/crm", if route.method == "DELETE" { "/missing" } else { "/crm" });
        let long = "x".repeat(BYTES);
        let parameters = route
            .parameters
            .iter()
            .flat_map(|name| [format!("{name}={long}"), format!("{name}=1&").repeat(BYTES / (name.len() + 3))]);
        for query in queries.iter().cloned().chain(parameters) {
            let work = engine.send(&route.method, &format!("{plain}?{query}"), &[], b"");
            judge.judge(&format!("{} {}?{:.20}…", route.method, route.path, query), query.len(), work);
        }
        if let Some((before, after)) = route.path.split_once('{') {
            let after = after.split_once('}').map_or("", |(_, after)| after);
            let work = engine.send(&route.method, &format!("{before}{long}{after}"), &[], b"");
            judge.judge(&format!("{} {} with a long name", route.method, route.path), BYTES, work);
        }
    }
    judge.verdict();
}

/// Every route of the document is covered by one of the tests above.
#[test]
fn every_route_is_covered() {
    let engine = turn();
    let document: Value = serde_json::from_str(innesco::api::openapi::text()).expect("JSON");
    let documented =
        document["paths"].as_object().expect("paths").values().map(|item| item.as_object().map_or(0, serde_json::Map::len));
    assert_eq!(engine.routes().len(), documented.sum::<usize>());
    let with_body = engine.routes().iter().filter(|route| route.has_body).count();
    assert!(with_body > 10, "{with_body} routes take a body");
}
