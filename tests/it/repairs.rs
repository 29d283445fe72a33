//! Repairs of endpoints: a wrong URL loses no webhook, and nothing arrives under a second id.

use std::{collections::BTreeSet, process::Output};

use serde_json::{Value, json};

use crate::{
    engine::Engine,
    receivers::{Answer, Receiver},
};

const MANY: usize = 100;

/// Starts a receiver that accepts webhooks only at `/right`.
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

/// Returns the ids of all deliveries in a state.
async fn ids(engine: &Engine, state: &str) -> BTreeSet<String> {
    let page = engine.get(&format!("/v1/deliveries?state={state}&limit=500")).await;
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// Creates an endpoint with a wrong URL, whose deliveries wait an hour for their second attempt.
async fn wrong_url(engine: &Engine, receiver: &Receiver) {
    let endpoint = json!({
        "name": "crm", "url": receiver.url("/wrong"), "events": ["order.*"], "schedule": ["0s", "1h"],
        "breaker": { "failures": 0 },
    });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_a_wrong_url_loses_no_webhook() {
    let engine = Engine::start(&[]);
    let receiver = receiver().await;
    wrong_url(&engine, &receiver).await;
    engine.ok("POST", "/v1/events", json!(vec![json!({ "type": "order.created", "data": {} }); MANY])).await;
    let path = format!("/v1/deliveries?state=retrying&limit={MANY}");
    engine
        .wait(&path, "all deliveries wait for their next attempt", |page| page["items"].as_array().map(Vec::len) == Some(MANY))
        .await;
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
    assert_eq!(right.len(), MANY, "each webhook arrives once");
    assert_eq!(right.into_iter().collect::<BTreeSet<_>>(), first, "under its first id");
    let one = first.iter().next().unwrap();
    let (code, said) = run(&engine, &["delivery", "retry", one]);
    assert!(code == 2 && said.contains("is delivered; this sends it again") && said.contains("--yes"), "{said}");
    assert_eq!(receiver.received().len(), 2 * MANY, "nothing was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_sends_waiting_deliveries_at_once() {
    let engine = Engine::start(&[]);
    let receiver = receiver().await;
    wrong_url(&engine, &receiver).await;
    engine.send("order.created", json!({})).await;
    engine.wait("/v1/deliveries?state=retrying", "the webhook waits", |page| page["items"] != json!([])).await;
    done(&engine, &["endpoint", "pause", "crm"]);
    done(&engine, &["endpoint", "update", "crm", &receiver.url("/right")]);
    done(&engine, &["endpoint", "resume", "crm"]);
    engine.wait("/v1/deliveries?state=delivered", "the webhook is delivered", |page| page["items"] != json!([])).await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_only_the_named_members() {
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
    let trail = engine.get("/v1/audit?action=source.update&limit=1").await;
    assert_eq!(trail["items"][0]["members"], json!(["allow", "rate"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_in_use_is_deleted_only_by_force_and_its_runs_continue() {
    let engine = Engine::start(&["ledger"]);
    let receiver = receiver().await;
    engine.endpoint("receiver", &receiver.url("/right"), &[]).await;
    engine.endpoint("done", &receiver.url("/right"), &["job.done"]).await;
    engine.send("job.created", json!({ "job": 1 })).await;
    engine.wait("/v1/deliveries?state=delivered", "both arrive", |page| page["items"].as_array().map(Vec::len) == Some(2)).await;

    let (status, refused) = engine.call("DELETE", "/v1/endpoints/receiver", Value::Null).await;
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert_eq!((status, &refused["code"]), (409, &json!("conflict")), "{refused}");
    assert!(
        detail.contains("the plugin ledger sent it 1 of its last webhooks") && detail.contains("innesco endpoint pause"),
        "{detail}"
    );
    let (code, said) = run(&engine, &["endpoint", "remove", "receiver", "--yes"]);
    assert!(code == 1 && said.contains("--force"), "{said}");
    assert_eq!(engine.get("/v1/endpoints/receiver").await["name"], "receiver");

    let said = done(&engine, &["endpoint", "remove", "receiver", "--force", "--yes"]);
    assert!(said.contains("removed receiver"), "{said}");
    let second = engine.send("job.created", json!({ "job": 2 })).await;
    let story = engine.settled(&second).await;
    let run_view = &story["runs"][0];
    assert_eq!((&run_view["state"], &run_view["outcome"]), (&json!("done"), &json!("ok")), "{story}");
    let delivery = &story["deliveries"][0];
    assert_eq!(
        (&delivery["state"], &delivery["reason"], &delivery["endpoint_name"], &delivery["run"]),
        (&json!("cancelled"), &json!("endpoint-deleted"), &json!("receiver"), &run_view["id"])
    );
    let emitted = story["emitted"][0].as_str().expect("the rest of the run took effect").to_owned();
    engine
        .wait(&format!("/v1/events/{emitted}"), "what it emitted is delivered", |story| {
            story["deliveries"][0]["state"] == "delivered"
        })
        .await;
    let said = done(&engine, &["event", "show", &second]);
    assert!(said.contains("the endpoint was deleted"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_filters_by_values_in_the_data() {
    let engine = Engine::start(&[]);
    let receiver = receiver().await;
    let filter =
        ["--events", "order.*", "--where", "data:/country=IT", "--where", "data:/country=DE", "--where", "data:/vip=true"];
    let url = receiver.url("/right");
    let said = done(&engine, &[&["endpoint", "add", "crm", &url][..], &filter].concat());
    assert!(said.contains("data:/country is IT or DE"), "{said}");
    for (country, vip) in [("IT", true), ("FR", true), ("DE", false), ("DE", true)] {
        engine.send("order.created", json!({ "country": country, "vip": vip })).await;
    }
    engine.until("two webhooks arrive", || receiver.received().len() == 2).await;
    done(&engine, &["endpoint", "update", "crm", "--unset", "where.data:/vip"]);
    engine.send("order.created", json!({ "country": "IT", "vip": false })).await;
    engine.until("the third arrives", || receiver.received().len() == 3).await;
    let countries: Vec<String> = receiver
        .received()
        .iter()
        .map(|one| serde_json::from_slice::<Value>(&one.body).unwrap()["data"]["country"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(countries.iter().filter(|country| *country == "FR").count(), 0, "{countries:?}");
    let (status, refused) = engine.call("PATCH", "/v1/endpoints/crm", json!({ "where": { "data:country": ["IT"] } })).await;
    assert!(status == 422 && refused["detail"].as_str().unwrap().contains("write data:/country"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requests_of_a_delivery_are_shown() {
    let engine = Engine::start(&["order-router"]);
    let receiver = Receiver::answering(|request| Answer::status(if request.path == "/right" { 200 } else { 500 })).await;
    let endpoint = json!({
        "name": "crm", "url": receiver.url("/wrong?key=planted"), "events": ["order.*"], "schedule": ["0s", "1h"],
        "headers": { "authorization": "Bearer planted-header", "x-source": "innesco" }, "envelope": "cloudevents",
    });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
    let event = engine.send("order.created", json!({ "id": 7, "note": "é".repeat(40_000) })).await;
    let page = engine.wait("/v1/deliveries?state=retrying", "the webhook waits", |page| page["items"] != json!([])).await;
    let delivery = page["items"][0]["id"].as_str().unwrap().to_owned();
    let right = receiver.url("/right");
    done(&engine, &["endpoint", "update", "crm", &right, "--envelope", "standard"]);
    done(&engine, &["delivery", "retry", &delivery]);
    let path = format!("/v1/deliveries/{delivery}");
    let story = engine.wait(&path, "the webhook is delivered", |story| story["state"] == "delivered").await;

    let received = receiver.received();
    let attempts = story["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), received.len()), (2, 2));
    for (attempt, received) in attempts.iter().zip(&received) {
        let request = &attempt["request"];
        assert_eq!(request["method"], received.method.as_str());
        assert!(request["url"].as_str().unwrap().ends_with(&received.path), "{request}");
        assert_eq!(request["body_bytes"], received.body.len());
        let headers = request["headers"].as_object().unwrap();
        assert!(headers.len() > 6, "{headers:?}");
        for (name, value) in headers {
            let value = value.as_str().unwrap();
            let masked = ["authorization", "webhook-signature"].contains(&name.as_str());
            assert_eq!(Some(value), if masked { Some("***") } else { received.header(name) }, "{name}");
        }
        let whole = engine.request("GET", &format!("{path}/body?attempt={}", attempt["n"])).send().await.unwrap();
        assert_eq!(whole.headers()["content-type"], "application/octet-stream");
        assert_eq!(whole.headers()["x-content-type-options"], "nosniff");
        assert_eq!(whole.bytes().await.unwrap(), received.body, "byte for byte, in the format of that attempt");
    }
    let body = &story["request"]["body"];
    assert_eq!(
        (&body["content_type"], &body["is_whole"], &body["base64"]),
        (&json!("application/json"), &json!(false), &Value::Null)
    );
    assert!(received[1].text().starts_with(body["text"].as_str().unwrap()) && body["text"].as_str().unwrap().len() <= 64 << 10);
    assert_eq!(engine.call("GET", &format!("{path}/body?attempt=3"), Value::Null).await.0, 404);

    let output = |words: &[&str]| engine.command().args(words).output().expect("the program runs").stdout;
    assert_eq!(output(&["delivery", "show", &delivery, "--body"]), received[1].body);
    let data = engine.request("GET", &format!("/v1/events/{event}/data")).send().await.unwrap().bytes().await.unwrap();
    assert!(data.starts_with(b"{\"id\":7"));
    assert_eq!(output(&["event", "show", &event, "--body"]), data);
    let curl = String::from_utf8(output(&["delivery", "show", &delivery, "--curl"])).unwrap();
    assert!(curl.contains(&format!("curl -X 'POST' '{right}'")) && curl.contains("-H 'innesco-type: order.created'"), "{curl}");
    let shown = format!("{story} {curl}");
    assert!(!shown.contains("planted-header") && shown.contains("key=planted"), "an admin sees addresses, but no secret");
}
