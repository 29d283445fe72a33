//! The OpenAPI document and the engine agree.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{crates, engine::Engine};

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Returns a path with a value for each parameter.
fn filled(path: &str) -> String {
    path.replace("{endpoint}", "crm").replace("{plugin}", "order-router").replace("{source}", "github").replace(['{', '}'], "")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_and_the_document_have_the_same_methods() {
    let engine = Engine::start(&[]);
    let document = engine.get("/openapi.json").await;
    for (path, item) in document["paths"].as_object().expect("paths") {
        // The settings of each source decide which of these methods it allows.
        if path == "/in/{source}" {
            continue;
        }
        let mut said: BTreeSet<_> = item.as_object().expect("operations").keys().map(|method| method.to_uppercase()).collect();
        if said.contains("GET") {
            said.insert("HEAD".to_owned());
        }
        for method in METHODS {
            let response = engine.request(method, &filled(path)).send().await.expect("an answer");
            let status = response.status();
            if said.contains(method) {
                assert_ne!(status, 405, "{method} {path}");
                continue;
            }
            assert_eq!(status, 405, "{method} {path}");
            let allowed = response.headers()["allow"].to_str().expect("text").split(',').map(|method| method.trim().to_owned());
            assert_eq!(allowed.collect::<BTreeSet<_>>(), said, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_request_is_accepted() {
    let engine = Engine::start(&["order-router"]);
    let document = engine.get("/openapi.json").await;
    let mut requests = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                let named = content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
                for example in named.chain(content.get("example")) {
                    requests.push((method.to_uppercase(), path, kind, example));
                }
            }
        }
    }
    assert!(requests.len() > 10, "{requests:?}");
    let source = engine.ok("POST", "/v1/sources", json!({ "name": "any", "preset": "none" })).await;
    let address =
        |path: &str| if path == "/in/{source}" { source["path"].as_str().expect("a path").to_owned() } else { filled(path) };
    // Short paths come first, so that a thing is created before it is changed.
    requests.sort_by_key(|(_, path, ..)| path.len());
    for (method, path, kind, example) in requests {
        let mut request = engine.request(&method, &address(path)).header("content-type", kind);
        let mut example = example.clone();
        // The document cannot know which versions are stored.
        for member in ["version", "candidate"] {
            if path.starts_with("/v1/plugins/") && example.get(member).is_some() {
                example[member] = engine.get("/v1/plugins/order-router").await["version"].clone();
            }
        }
        request = match &example {
            Value::String(_) if kind == "application/wasm" => request.body(crates::wasm("order-router")),
            Value::String(text) => request.header("ce-type", "logo.changed").body(text.clone()),
            example => request.body(example.to_string()),
        };
        let response = request.send().await.expect("an answer");
        let status = response.status();
        assert!(status.is_success(), "{method} {path} with {example}: {status} {}", response.text().await.unwrap_or_default());
    }
}

#[test]
fn the_command_prints_the_served_document() {
    let engine = Engine::start(&[]);
    let printed = engine.command().arg("openapi").output().expect("the command runs");
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    assert_eq!(runtime.block_on(engine.get("/openapi.json")), printed);
    assert_eq!(printed["openapi"], json!("3.1.0"));
}
