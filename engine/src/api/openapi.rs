//! The OpenAPI document, generated from the code. Each handler describes itself in `#[utoipa::path]`, each shape in `ToSchema`.
//! This file adds what is common: allowed roles and general refusals.
//!
//! A new handler needs a doc comment (its first paragraph is the summary), `operation_id`, `tag`, its successful answers, and
//! under `x-problems` the codes of its specific [`Problem`](super::Problem)s. Codes that follow from a body, a path parameter, a query
//! or a key are added automatically. Schemas that `utoipa` cannot express are written in JSON: see [`crate::wire::values::schema`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::{
    access::{self, Callers},
    error::{self, Problem},
    events, intake, page,
};
use crate::wire::values::{self, AS_IT_IS};

/// Key in a member's schema. Its value is a constraint on other members, which `settle` moves to the enclosing schema.
const BESIDE: &str = "x-beside";
/// Key on an operation: the codes of its specific problems.
const PROBLEMS: &str = "x-problems";
/// Name of the only security scheme.
const KEY: &str = "key";

/// Groups of operations, in reading order.
const TAGS: &[(&str, &str)] = &[
    ("events", "Accept, list, inspect, replay and cancel events."),
    ("runs", "List, inspect, retry and cancel runs of plugins."),
    ("sources", "Addresses that verify webhooks from third parties."),
    ("endpoints", "Receivers of webhooks."),
    ("subscriptions", "Subscriptions that automation tools create and delete (REST hooks)."),
    ("deliveries", "List, inspect, retry and cancel deliveries."),
    ("plugins", "Plugins: state, settings, stored values."),
    ("comparisons", "What a candidate version of a plugin would change."),
    ("jobs", "Background jobs, such as bulk retries."),
    ("keys", "API keys."),
    ("audit", "Audit trail: who changed what, and with which result."),
    ("engine", "The engine: health, statistics, nodes, metrics and this document."),
];

const ABOUT: &str = "\
Events in, signed webhooks out, your WebAssembly in between.

Requests need a key: `Authorization: Bearer innk_…`. Operations without `security` need none. The role of the key \
decides what it may do: `publish` sends events, `read` reads, `subscribe` manages its own subscriptions, `metrics` reads the metrics, \
`operate` also manages deliveries, endpoints and sources, `admin` does everything. The `security` of an operation lists the roles that \
may call it.

Lists have pages: send the `next` of a page as `cursor` to read the page after it. On the last page `next` is `null`.

An error is an `application/problem+json`. Its `code` never changes its meaning, and its `detail` says what to do. In an answer a member without a value is `null`, not absent. New members may be added at any time.";

/// Read this document.
///
/// It is generated from the code of the engine that answers.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "read_openapi", tag = "engine",
    responses((status = 200, description = "This document.", content_type = "application/json", body = Object)),
)]
pub async fn show() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], text())
}

/// Returns the document as text.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| serde_json::to_string_pretty(&document()).expect("a JSON value has only keys that are text"));
    &TEXT
}

fn document() -> Value {
    let mut document = serde_json::to_value(super::all().into_openapi()).expect("utoipa's shapes are JSON");
    for (path, method, operation) in operations(&mut document) {
        if let Some(row) = access::of(&method, &path)
            && !row.callers.roles().is_empty()
        {
            operation.insert("security".into(), security(row.callers));
        }
    }

    let mut refusals = BTreeMap::new();
    for (_, method, operation) in operations(&mut document) {
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            absent_is_not_null(&mut parameter["schema"]);
        }
        let kinds = refused_for(operation, &method);
        let responses = operation.entry("responses").or_insert_with(|| json!({}));
        for (status, codes) in by_status(&kinds) {
            let name = codes.join("_or_");
            responses[status.as_str()] = json!({ "$ref": format!("#/components/responses/{name}") });
            refusals.entry(name).or_insert_with(|| refusal(status, &codes));
        }
    }
    for (name, schema) in unreached() {
        document["components"]["schemas"][name] = schema;
    }
    settle(&mut document);
    let answered = reached(&document, "responses");
    for (name, schema) in document["components"]["schemas"].as_object_mut().into_iter().flatten() {
        if answered.contains(name) {
            whole(schema);
        }
    }
    document["components"]["responses"] = json!(refusals);
    document["components"]["securitySchemes"] = json!({ KEY: {
        "type": "http", "scheme": "bearer",
        "description": "A key of this engine (`innesco keys create NAME --role ROLE`). Each operation \
                        lists the roles that may call it.",
    } });
    document["info"] = json!({
        "title": "Innesco", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT,
        "license": { "name": "Apache License 2.0", "identifier": "Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/", "description": "The engine that serves this document." }]);
    document["tags"] = TAGS.iter().map(|(name, description)| json!({ "name": name, "description": description })).collect();
    document
}

/// Returns the roles that may use a route, as alternatives.
fn security(callers: Callers) -> Value {
    let open = matches!(callers, Callers::Figures(_)).then(|| json!({}));
    open.into_iter().chain(callers.roles().iter().map(|(role, _)| json!({ KEY: [role.as_str()] }))).collect()
}

/// Returns the shapes that `utoipa` does not find: shapes that only parameters use, and the shapes of [`refusal`].
fn unreached() -> [(String, Value); 6] {
    [
        values::named::<error::Body<'_>>(),
        values::named::<intake::Depth>(),
        values::named::<intake::HeaderText>(),
        values::named::<intake::SpecVersion>(),
        values::named::<page::Limit>(),
        values::named::<events::StoryCursor>(),
    ]
}

/// Iterates over every operation with its path and method.
fn operations(document: &mut Value) -> impl Iterator<Item = (String, axum::http::Method, &mut Map<String, Value>)> {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        item.as_object_mut().into_iter().flatten().filter_map(move |(method, operation)| {
            let method = method.to_ascii_uppercase().parse().ok()?;
            Some((path.clone(), method, operation.as_object_mut()?))
        })
    })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Removes `null` from a parameter's schema: a parameter is present or absent.
fn absent_is_not_null(schema: &mut Value) {
    let ways = schema["oneOf"].as_array().map_or(&[][..], Vec::as_slice);
    if let [one, null] = ways
        && null["type"] == "null"
    {
        *schema = one.clone();
    }
    if let Some([one, null]) = schema["type"].as_array().map(Vec::as_slice)
        && null == "null"
    {
        schema["type"] = one.clone();
    }
}

/// Returns the codes of all problems of an operation: its specific ones, and those that follow from its input.
fn refused_for(operation: &mut Map<String, Value>, method: &axum::http::Method) -> BTreeSet<String> {
    let own = operation.remove(PROBLEMS).unwrap_or_default();
    let own: Vec<_> = own.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let takes = |place: &str| {
        operation.get("parameters").and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| one["in"] == place))
    };
    let secured = operation.contains_key("security");
    let sets: [(bool, &[&str]); 7] = [
        (true, &own),
        (takes("path"), &["bad_request", "not_found"]),
        (takes("query"), &["bad_request"]),
        (operation.contains_key("requestBody"), &["bad_json", "bad_request", "body_too_large", "overloaded", "request_timeout"]),
        // A route that needs a key reads the store.
        (secured, &["unauthorized", "key_expired", "forbidden", "internal", "overloaded", "store_unavailable"]),
        (secured && !method.is_safe(), &["store_full"]),
        (secured && method.is_safe(), &["query_too_slow"]),
    ];
    sets.iter().filter(|(holds, _)| *holds).flat_map(|(_, codes)| codes.iter().map(ToString::to_string)).collect()
}

fn by_status(codes: &BTreeSet<String>) -> BTreeMap<StatusCode, Vec<&str>> {
    let mut by_status: BTreeMap<StatusCode, Vec<&str>> = BTreeMap::new();
    for code in codes {
        let kind = Problem::KINDS.iter().find(|kind| kind.code == code);
        let kind = kind.unwrap_or_else(|| panic!("{code:?} in {PROBLEMS} is not the code of a problem"));
        by_status.entry(kind.status).or_default().push(kind.code);
    }
    by_status
}

fn refusal(status: StatusCode, codes: &[&str]) -> Value {
    let titles: Vec<_> = Problem::KINDS.iter().filter(|kind| codes.contains(&kind.code)).map(|kind| kind.title).collect();
    let mut response = json!({
        "description": format!("{}.", titles.join(", or: ")),
        "content": { "application/problem+json": { "schema": { "allOf": [
            { "$ref": "#/components/schemas/Problem" },
            { "properties": { "code": { "enum": codes }, "status": { "const": status.as_u16() } } },
        ] } } },
    });
    match status {
        StatusCode::UNAUTHORIZED => {
            response["headers"] = json!({ "WWW-Authenticate": {
                "description": "The authentication scheme.", "required": true, "schema": { "const": "Bearer" },
            } });
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            response["headers"] = json!({ "Retry-After": {
                "description": "Seconds after which to retry.", "required": true, "schema": { "type": "integer", "minimum": 1 },
            } });
        }
        _ => {}
    }
    response
}

/// Replaces each schema marked with `AS_IT_IS` by the value of the mark, and moves each `BESIDE` to its enclosing schema.
pub fn settle(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(members) => {
            if let Some(Value::Object(schema)) = members.remove(AS_IT_IS) {
                members.extend(schema);
            }
            members.values_mut().for_each(settle);
            let properties = members.get_mut("properties").and_then(Value::as_object_mut);
            let asked: Vec<Value> = properties
                .into_iter()
                .flat_map(Map::values_mut)
                .filter_map(|member| member.as_object_mut()?.remove(BESIDE))
                .collect();
            asked.into_iter().for_each(|beside| merge(value, beside));
        }
        _ => {}
    }
}

/// Returns the schemas that are reached from a part (`responses` or `requestBody`) of any operation.
fn reached(document: &Value, part: &str) -> BTreeSet<String> {
    fn walk(document: &Value, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(document, item, found)),
            Value::Object(members) => {
                let name = members.get("$ref").and_then(|to| to.as_str()?.strip_prefix("#/components/schemas/"));
                if let Some(name) = name
                    && found.insert(name.to_owned())
                {
                    walk(document, &document["components"]["schemas"][name], found);
                }
                members.values().for_each(|member| walk(document, member, found));
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for item in document["paths"].as_object().into_iter().flat_map(Map::values) {
        for operation in item.as_object().into_iter().flat_map(Map::values) {
            walk(document, &operation[part], &mut found);
        }
    }
    found
}

/// Makes nullable members required. In an answer, a member that may be `null` is always present, and a member that may be absent
/// is never `null`.
fn whole(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(whole),
        Value::Object(members) => {
            let nullable = |schema: &Value| {
                let null = json!("null");
                schema["type"].as_array().is_some_and(|types| types.contains(&null))
                    || schema["oneOf"].as_array().is_some_and(|ways| ways.iter().any(|way| way["type"] == null))
            };
            let properties = members.get("properties").and_then(Value::as_object);
            let named: Vec<_> = properties.into_iter().flatten().filter(|(_, schema)| nullable(schema)).collect();
            let named: BTreeSet<String> = named.into_iter().map(|(name, _)| name.clone()).collect();
            if !named.is_empty() {
                let required = members.entry("required").or_insert_with(|| json!([]));
                let given = required.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
                *required = json!(given.chain(named).collect::<BTreeSet<String>>());
            }
            members.values_mut().for_each(whole);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns every operation with its id.
    fn said() -> (Value, Vec<(String, String, Value)>) {
        let mut document = document();
        let operations =
            operations(&mut document).map(|(path, method, operation)| (path, method, Value::from(operation.clone())));
        let operations = operations.map(|(path, method, operation)| (format!("{method} {path}"), path, operation)).collect();
        (document, operations)
    }

    /// Collects every schema with its examples.
    fn examples<'a>(value: &'a Value, found: &mut Vec<(&'a Value, &'a Value)>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| examples(item, found)),
            Value::Object(members) => {
                // Examples of a schema.
                found.extend(members.get("examples").and_then(Value::as_array).into_iter().flatten().map(|one| (value, one)));
                // Examples of a parameter or body.
                if let Some(schema) = members.get("schema") {
                    found.extend(members.get("example").map(|one| (schema, one)));
                    let named = members.get("examples").and_then(Value::as_object);
                    found.extend(named.into_iter().flat_map(Map::values).map(|one| (schema, &one["value"])));
                }
                let inside = members.iter().filter(|(name, _)| !["example", "examples"].contains(&name.as_str()));
                inside.for_each(|(_, member)| examples(member, found));
            }
            _ => {}
        }
    }

    #[test]
    fn another_library_reads_it_as_openapi_3_1() {
        let document = oas3::from_json(text()).expect("OpenAPI 3.1");
        assert!(document.openapi.starts_with("3.1."), "{}", document.openapi);
        assert!(document.operations().count() > 20);
    }

    #[test]
    fn every_operation_is_described() {
        let (document, operations) = said();
        let mut ids = BTreeSet::new();
        for (name, path, operation) in operations {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no id"));
            assert!(ids.insert(id.to_owned()), "{name}: {id} is the id of two operations");
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(summary.ends_with('.') && summary.len() < 120, "{name}: {summary:?}");
            let tags = operation["tags"].as_array().unwrap_or_else(|| panic!("{name} has no tag"));
            assert!(tags.iter().all(|tag| TAGS.iter().any(|(known, _)| tag == known)), "{name}: {tags:?}");
            assert!(operation["security"].is_array() || !path.starts_with("/v1/"), "{name} does not declare its keys");
            let statuses: Vec<_> = operation["responses"].as_object().expect("answers").keys().collect();
            assert!(statuses.iter().any(|status| status.starts_with('2')), "{name}: {statuses:?}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in &parameters {
                assert!(parameter["description"].is_string(), "{name}: {parameter}");
            }
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                assert!(parameters.iter().any(|one| one["name"] == part && one["in"] == "path"), "{name}: {part}");
            }
            for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                assert!(content["example"] != Value::Null || content["examples"].is_object(), "{name}: {kind} has no example");
            }
        }
        for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
            assert!(
                schema["description"].is_string() || schema["allOf"].is_array() || schema["oneOf"].is_array(),
                "{name}: {schema}"
            );
        }
    }

    #[test]
    fn no_mark_remains_and_every_reference_resolves() {
        let (document, _) = said();
        let text = document.to_string();
        assert!(!text.contains("\"x-"), "a mark remains");
        for (place, _) in text.match_indices("\"$ref\":\"#") {
            let pointer = text[place + 9..].split('"').next().unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{pointer} does not exist");
        }
        let (asked, answered) = (reached(&document, "requestBody"), reached(&document, "responses"));
        for both in asked.intersection(&answered) {
            let schema = &document["components"]["schemas"][both];
            assert!(schema["properties"].is_null(), "{both} is used in requests and answers, whose optional members differ");
        }
    }

    #[test]
    fn every_example_fits_its_schema() {
        let (document, _) = said();
        let mut found = Vec::new();
        examples(&document, &mut found);
        assert!(found.len() > 20, "{}", found.len());
        for (schema, example) in found {
            // The schema is put into the document's root, so that its references resolve.
            let mut rooted = json!({ "components": document["components"], "allOf": [schema] });
            rooted["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
            let fits = jsonschema::options().should_validate_formats(true).build(&rooted).expect("a schema");
            if let Err(error) = fits.validate(example) {
                panic!("{example} does not fit {schema}: {error}");
            }
        }
    }

    #[test]
    fn every_problem_belongs_to_an_operation() {
        let (document, operations) = said();
        let codes: Vec<_> = Problem::KINDS.iter().map(|kind| kind.code).collect();
        assert_eq!(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"], json!(codes));
        let answers: String = operations.iter().map(|(_, _, operation)| operation["responses"].to_string()).collect();
        // Skips the problem of a wrong method, which no operation of the document has.
        for code in codes.iter().filter(|code| **code != "method_not_allowed") {
            assert!(answers.contains(code), "no operation answers {code}");
        }
    }

    #[test]
    fn example_events_are_accepted() {
        let (_, operations) = said();
        let (_, _, accept) = operations.into_iter().find(|(name, _, _)| name == "POST /v1/events").expect("the operation");
        let mut taken = 0;
        for (kind, content) in accept["requestBody"]["content"].as_object().expect("bodies") {
            let named = content["examples"].as_object().into_iter().flat_map(Map::values).map(|one| &one["value"]);
            for example in named.chain(content.get("example")) {
                let binary = kind == "application/octet-stream";
                let body = if binary { example.as_str().expect("text").to_owned() } else { example.to_string() };
                let mut headers = axum::http::HeaderMap::new();
                headers.insert(header::CONTENT_TYPE, kind.parse().expect("a content type"));
                if binary {
                    headers.insert("ce-type", header::HeaderValue::from_static("a.b"));
                }
                let intake = super::super::intake::read(&headers, &body.into_bytes().into());
                taken += intake.unwrap_or_else(|problem| panic!("{example}: {problem:?}")).events.len();
            }
        }
        assert_eq!(taken, 8);
    }
}
