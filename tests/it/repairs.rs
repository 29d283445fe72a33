//! Repairs of endpoints: a wrong URL costs no webhook, and nothing arrives under a second id.

use std::{collections::BTreeSet, process::Output};

use serde_json::{Value, json};

use crate::{
    engine::Engine,
    receivers::{Answer, Receiver},
};

const MANY: usize = 100;

/// A receiver whose only right path is `/right`.
async fn receiver() -> Receiver {
    Receiver::answering(|request| Answer::status(if request.path == "/right" { 200 } else { 404 })).await
}

/// Runs a command of the program and returns what it prints on both streams.
fn run(engine: &Engine, words: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = engine.command().args(words).output().expect("the program runs");
    let text = String::from_utf8([stdout, stderr].concat()).expect("text");
    (status.code().expect("it exits"), text)
}

fn done(engine: &Engine, words: &[&str]) -> String {
    let (code, said) = run(engine, words);
    assert_eq!(code, 0, "{words:?}: {said}");
    said
}

/// The ids of all deliveries in a state.
async fn ids(engine: &Engine, state: &str) -> BTreeSet<String> {
    let page = engine.get(&format!("/v1/deliveries?state={state}&limit=500")).await;
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// An endpoint with a wrong URL, whose deliveries wait an hour for their second attempt.
async fn wrong_url(engine: &Engine, receiver: &Receiver) {
    let endpoint = json!({
        "name": "crm", "url": receiver.url("/wrong"), "events": ["order.*"], "schedule": ["0s", "1h"],
        "breaker": { "failures": 0 },
    });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_a_wrong_url_costs_no_webhook() {
    let engine = Engine::start(&[]);
    let receiver = receiver().await;
    wrong_url(&engine, &receiver).await;
    engine.ok("POST", "/v1/events", json!(vec![json!({ "type": "order.created", "data": {} }); MANY])).await;
    let path = format!("/v1/deliveries?state=retrying&limit={MANY}");
    engine.wait(&path, "all wait for their next try", |page| page["items"].as_array().map(Vec::len) == Some(MANY)).await;
    let first = ids(&engine, "retrying").await;

    let said = done(&engine, &["endpoint", "update", "crm", &receiver.url("/right"), "--title", "The CRM"]);
    assert!(said.contains(&receiver.url("/right")) && said.contains("The CRM"), "{said}");
    assert!(said.contains("innesco delivery retry --waiting --endpoint crm"), "{said}");
    let said = done(&engine, &["delivery", "retry", "--waiting", "--endpoint", "crm"]);
    assert!(said.contains(&format!("done  {MANY} webhooks due again")), "{said}");
    let path = format!("/v1/deliveries?state=delivered&limit={MANY}");
    engine.wait(&path, "all are delivered", |page| page["items"].as_array().map(Vec::len) == Some(MANY)).await;

    let right: Vec<String> = receiver
        .received()
        .iter()
        .filter(|request| request.path == "/right")
        .map(|request| request.header("webhook-id").unwrap().to_owned())
        .collect();
    assert_eq!(right.len(), MANY, "each arrives once");
    assert_eq!(right.into_iter().collect::<BTreeSet<_>>(), first, "under its first id");
    let one = first.iter().next().unwrap();
    let (code, said) = run(&engine, &["delivery", "retry", one]);
    assert!(code == 2 && said.contains("is delivered; this sends it again") && said.contains("--yes"), "{said}");
    assert_eq!(receiver.received().len(), 2 * MANY, "nothing was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_sends_at_once_what_waits_for_its_next_try() {
    let engine = Engine::start(&[]);
    let receiver = receiver().await;
    wrong_url(&engine, &receiver).await;
    engine.send("order.created", json!({})).await;
    engine.wait("/v1/deliveries?state=retrying", "it waits", |page| page["items"] != json!([])).await;
    done(&engine, &["endpoint", "pause", "crm"]);
    done(&engine, &["endpoint", "update", "crm", &receiver.url("/right")]);
    done(&engine, &["endpoint", "resume", "crm"]);
    engine.wait("/v1/deliveries?state=delivered", "it is delivered", |page| page["items"] != json!([])).await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_only_what_is_named() {
    let engine = Engine::start(&[]);
    let receiver = receiver().await;
    let add = ["--events", "order.*", "--rate", "50/s", "--header", "x-a: 1", "--header", "x-b: 2", "--breaker-failures", "3"];
    let url = receiver.url("/right");
    done(&engine, &[&["endpoint", "add", "crm", &url][..], &add].concat());
    let before = engine.get("/v1/endpoints/crm").await;
    assert_eq!(before["breaker"]["failures"], 3);
    done(&engine, &["endpoint", "update", "crm", "--unset", "rate", "--unset", "headers.x-a", "--timeout", "5s"]);
    let mut expected = before.clone();
    expected["rate"] = Value::Null;
    expected["timeout"] = json!("5s");
    expected["headers"].as_object_mut().unwrap().remove("x-a");
    assert_eq!(engine.get("/v1/endpoints/crm").await, expected);
    engine.send("order.created", json!({})).await;
    engine.until("the webhook arrives", || !receiver.received().is_empty()).await;
    let received = &receiver.received()[0];
    assert_eq!((received.header("x-a"), received.header("x-b")), (None, Some("2")), "the other header kept its value");

    let (code, said) = run(&engine, &["endpoint", "update", "crm"]);
    assert!(code == 2 && said.contains("nothing to change"), "{said}");
    let said = done(&engine, &["endpoint", "update", "crm", "--signature", "github"]);
    assert!(said.contains("copy it now"), "a new signature has a new secret: {said}");

    done(&engine, &["source", "add", "shop", "--preset", "github", "--answer-status", "204", "--rate", "5/s"]);
    let before = engine.get("/v1/sources/shop").await;
    done(&engine, &["source", "update", "shop", "--allow", "192.0.2.0/24", "--unset", "rate"]);
    let mut expected = before.clone();
    expected["rate"] = Value::Null;
    expected["allow"] = json!(["192.0.2.0/24"]);
    assert_eq!(engine.get("/v1/sources/shop").await, expected);
    let trail = engine.get("/v1/audit").await;
    let actions: Vec<_> = trail["items"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert!(actions.contains(&"endpoint.update") && actions.contains(&"source.update"), "{actions:?}");
}
