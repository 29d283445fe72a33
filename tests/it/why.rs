//! `why` names what kept an event from an endpoint, over the API and on the command line.

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    guests,
    receivers::{Answer, Receiver},
};

/// Runs `why`, and checks the verdict, the link, a part of the reason and the first command.
async fn expect(engine: &Engine, event: &str, endpoint: &str, (verdict, link, reason, command): (&str, &str, &str, &str)) {
    let why = engine.get(&format!("/v1/events/{event}/why?endpoint={endpoint}")).await;
    assert_eq!((&why["verdict"], &why["link"]), (&json!(verdict), &json!(link)), "{why:#}");
    assert!(why["reason"].as_str().unwrap().contains(reason), "{why:#}");
    assert!(why["commands"][0].as_str().unwrap_or_default().contains(command), "{why:#}");
    assert!(why["chain"].as_array().unwrap().iter().any(|step| step["link"] == link), "{why:#}");
}

fn cli(engine: &Engine, arguments: &[&str]) -> (bool, String) {
    let output = engine.command().args(arguments).output().expect("the program runs");
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn why_names_the_link_that_decided() {
    let engine = Engine::start(&[]);
    engine.write_plugin("router.wasm", &guests::build("trap", "router", &["mischief.*"]));
    engine.wait("/v1/plugins/router", "the plugin serves", |plugin| plugin["state"] == "serving").await;
    let receiver = Receiver::answering(|request| Answer::status(if request.path == "/fails" { 500 } else { 200 })).await;
    engine.endpoint("works", &receiver.url("/works"), &["order.*"]).await;
    let narrow =
        json!({ "name": "narrow", "url": receiver.url("/"), "events": ["order.*"], "where": { "data:/country": ["IT"] } });
    engine.ok("POST", "/v1/endpoints", narrow).await;
    let fails = json!({ "name": "fails", "url": receiver.url("/fails"), "events": ["order.*"], "schedule": ["0s", "24h"] });
    engine.ok("POST", "/v1/endpoints", fails).await;
    engine.endpoint("later", &receiver.url("/later"), &["order.*"]).await;
    engine.ok("POST", "/v1/endpoints/later/pause", Value::Null).await;
    let strict = json!({ "name": "strict", "url": receiver.url("/fails"), "events": ["order.*"], "breaker": { "failures": 1, "wait": "1h", "wait_max": "1h" } });
    engine.ok("POST", "/v1/endpoints", strict).await;

    let event = engine.send("order.created", json!({ "country": "FR" })).await;
    engine
        .wait(&format!("/v1/events/{event}"), "one webhook is delivered, two are retried", |story| {
            let deliveries = &story["parts"]["deliveries"];
            deliveries["delivered"] == 1 && deliveries["retrying"] == 2
        })
        .await;
    expect(&engine, &event, "works", ("delivered", "delivery", "answered 200", "")).await;
    expect(&engine, &event, "narrow", ("stopped", "where", "in the event it is FR", "--where data:/country=FR")).await;
    expect(&engine, &event, "fails", ("waiting", "schedule", "last: answered 500", "innesco delivery retry dlv_")).await;
    expect(&engine, &event, "later", ("stopped", "state", "is paused", "innesco endpoint resume later")).await;
    expect(&engine, &event, "strict", ("waiting", "breaker", "is open", "innesco endpoint test strict")).await;
    expect(&engine, &event, "work", ("stopped", "endpoint", "the nearest name is works", "innesco endpoint list")).await;

    // The command that `why` names lets the webhook through.
    engine.ok("POST", "/v1/endpoints/later/resume", Value::Null).await;
    let path = format!("/v1/events/{event}/why?endpoint=later");
    engine.wait(&path, "the webhook is delivered", |why| why["verdict"] == "delivered").await;

    let broken = engine.send("mischief.nothing", json!({})).await;
    engine.wait(&format!("/v1/events/{broken}"), "the run is parked", |story| story["state"] == "failed").await;
    expect(&engine, &broken, "works", ("stopped", "type", "the event is mischief.nothing", "--events mischief.nothing")).await;
    engine.endpoint("plain", &receiver.url("/"), &[]).await;
    expect(&engine, &broken, "plain", ("stopped", "plugin", "router ended as trapped", "innesco run retry run_")).await;
    engine.ok("DELETE", "/v1/endpoints/plain?force=true", Value::Null).await;
    expect(&engine, &broken, "plain", ("stopped", "endpoint", "was deleted", "innesco endpoint add plain URL")).await;

    let (done, page) = cli(&engine, &["why", &event, "--endpoint", "narrow"]);
    assert!(done && page.contains("where: narrow wants data:/country to be IT") && page.contains("To change it"), "{page}");
    assert!(page.contains(&format!("innesco event replay {event}")), "{page}");
    let (done, page) = cli(&engine, &["why", "evt_nothere", "--endpoint", "narrow"]);
    assert!(!done && page.contains("evt_nothere"), "{page}");
    let (status, problem) = engine.call("GET", &format!("/v1/events/{event}/why"), Value::Null).await;
    assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_webhook_waits_behind_the_one_that_why_names() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::answering(|_| Answer::status(500)).await;
    let ordered = json!({
        "name": "ledger", "url": receiver.url("/"), "events": ["entry.*"], "ordered": "endpoint", "schedule": ["0s", "24h"],
        "breaker": { "failures": 0 },
    });
    engine.ok("POST", "/v1/endpoints", ordered).await;
    let first = engine.send("entry.made", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
    let story =
        engine.wait(&format!("/v1/events/{first}"), "the first webhook is retried", |story| story["state"] == "retrying").await;
    let before = story["deliveries"][0]["id"].as_str().expect("an id").to_owned();
    let second = engine.send("entry.made", json!({})).await;
    engine.settled(&second).await;
    let path = format!("/v1/events/{second}/why?endpoint=ledger");
    let why = engine.wait(&path, "the second webhook is held back", |why| why["link"] == "order").await;
    assert!(why["reason"].as_str().unwrap().contains(&before), "{why:#}");
    assert_eq!(why["commands"][1], json!(format!("innesco delivery cancel {before}")), "{why:#}");
    engine.ok("POST", &format!("/v1/deliveries/{before}/cancel"), Value::Null).await;
    engine.wait(&path, "the second webhook continues", |why| why["link"] == "schedule").await;
}
