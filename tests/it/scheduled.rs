//! Events that take place later: they survive `kill -9`, arrive once, and are cancelled with their cause.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    crates,
    engine::{DEADLINE, Engine, KEY, client},
    receivers::{Received, Receiver},
};

/// A delay so long that no test waits for its end.
const FAR: u64 = 30 * 86_400_000;

fn cli(engine: &Engine, arguments: &[&str]) -> (bool, String) {
    let output = engine.command().args(arguments).output().expect("the program runs");
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
}

/// Returns a page of the dashboard.
async fn page(engine: &Engine, path: &str) -> String {
    // Installs the cryptography that every client needs.
    let _ = client();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let form = http.post(format!("{}/sign-in", engine.url)).header("content-type", "application/x-www-form-urlencoded");
    let signed_in = form.body(format!("key={KEY}")).send().await.expect("an answer");
    let cookie = signed_in.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("a value").to_owned();
    let page = http.get(format!("{}{path}", engine.url)).header("cookie", cookie).send().await.expect("an answer");
    assert_eq!(page.status(), 200);
    page.text().await.expect("a page")
}

async fn later(engine: &Engine, job: u64, millis: u64) -> String {
    engine.send("job.later", json!({ "job": job, "millis": millis })).await
}

fn job(one: &Received) -> u64 {
    let body: Value = serde_json::from_slice(&one.body).expect("JSON");
    body["data"]["job"].as_u64().expect("a job")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_event_survives_a_kill_and_arrives_once_when_it_is_due() {
    const SOON: u64 = 20;
    let receiver = Receiver::start().await;
    let mut engine = Engine::start(&["ledger"]);
    engine.endpoint("due", &receiver.url("/due"), &["job.due"]).await;
    let far = later(&engine, 99, FAR).await;
    let mut causes = Vec::new();
    for number in 0..SOON {
        causes.push(later(&engine, number, 500 + number * 100).await);
    }
    for event in causes.iter().chain([&far]) {
        engine.settled(event).await;
    }
    engine.kill();
    engine.launch();
    // The engine is killed repeatedly while events become due.
    for arrived in 1..5 {
        receiver.wait_for_count(arrived, DEADLINE).await;
        engine.kill();
        engine.launch();
    }
    let all: BTreeSet<u64> = (0..SOON).collect();
    let every = |received: &[Received]| received.iter().map(job).collect::<BTreeSet<_>>() == all;
    receiver.wait_for("every due event arrives", DEADLINE, every).await;
    let list = engine.get("/v1/events?type=job.due&limit=100").await;
    let events = list["items"].as_array().expect("events");
    assert_eq!(events.len() as u64, SOON, "each took place once");
    let caused: BTreeSet<&str> = events.iter().map(|event| event["cause"].as_str().expect("a cause")).collect();
    assert_eq!(caused, causes.iter().map(String::as_str).collect(), "each has its place in its chain");
    assert!(events.iter().all(|event| event["depth"] == 1 && event["source"] == "plugin/ledger"), "{list:#}");
    let story = engine.get(&format!("/v1/events/{}", causes[0])).await;
    assert_eq!((&story["scheduled"], story["emitted"].as_array().map(Vec::len)), (&json!([]), Some(1)), "{story:#}");
    assert_eq!(story["chain"][1]["type"], "job.due", "{story:#}");

    // The event that waits for 30 days is in the history of its cause.
    let story = engine.get(&format!("/v1/events/{far}")).await;
    let waits = &story["scheduled"][0];
    assert_eq!((&waits["type"], &waits["subject"], &waits["cancelled_at"]), (&json!("job.due"), &json!("99"), &Value::Null));
    let (_, shown) = cli(&engine, &["event", "show", &far]);
    assert!(shown.contains("later     job.due  99  due at "), "{shown}");
    let shown = page(&engine, &format!("/events/{far}")).await;
    assert!(shown.contains("Later ") && shown.contains("due at "), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_event_is_cancelled_with_its_cause_across_the_chain() {
    let receiver = Receiver::start().await;
    let engine = Engine::start(&["ledger"]);
    engine.endpoint("due", &receiver.url("/due"), &["job.due"]).await;
    let event = engine.send("job.chain", json!({ "job": 1, "millis": FAR })).await;
    let other = later(&engine, 2, FAR).await;
    engine.settled(&other).await;
    let path = format!("/v1/events/{event}");
    let story = engine.wait(&path, "the chain", |story| story["emitted"] != json!([])).await;
    let middle = format!("/v1/events/{}", story["emitted"][0].as_str().expect("an id"));
    engine.wait(&middle, "the event is scheduled", |story| story["scheduled"].as_array().is_some_and(|all| all.len() == 1)).await;

    let (done, said) = cli(&engine, &["event", "cancel", &event]);
    assert!(done && said.contains("cancelled 1 event due later, in a chain of 2 events"), "{said}");
    let story = engine.get(&middle).await;
    assert!(story["scheduled"][0]["cancelled_at"].is_string(), "{story:#}");
    let trail = engine.get("/v1/audit?action=event.cancel").await;
    assert_eq!((&trail["items"][0]["target"], &trail["items"][0]["status"]), (&json!(event), &json!(200)), "{trail:#}");
    let again = engine.ok("POST", &format!("{path}/cancel"), Value::Null).await;
    assert_eq!((&again["events"], &again["scheduled"]), (&json!(2), &json!(0)));
    let story = engine.get(&format!("/v1/events/{other}")).await;
    assert!(story["scheduled"][0]["cancelled_at"].is_null(), "another event is unchanged: {story:#}");
    let (status, answer) = engine.call("POST", "/v1/events/evt_none/cancel", Value::Null).await;
    assert_eq!((status, &answer["code"]), (404, &json!("not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_schedules_is_repeated_and_limited_like_any_other() {
    let environment = [("INNESCO_PLUGIN_SCHEDULED_MAX", "2"), ("INNESCO_PLUGIN_QUARANTINE", "0")];
    let engine = Engine::start_in(&["ledger"], &["--allow-net", "127.0.0.0/8"], &environment);
    let file = engine.data_folder().with_file_name("ledger.wasm");
    std::fs::write(&file, crates::wasm("ledger")).unwrap();
    let mut events = Vec::new();
    for number in 0..3 {
        let event = later(&engine, number, FAR).await;
        engine.settled(&event).await;
        events.push(event);
    }
    let run = engine.get(&format!("/v1/events/{}", events[2])).await["runs"][0].clone();
    assert_eq!((&run["state"], &run["code"]), (&json!("parked"), &json!("scheduled_limit")), "{run:#}");
    assert!(run["message"].as_str().is_some_and(|text| text.contains("plugin.scheduled_max")), "{run:#}");

    let run = engine.get(&format!("/v1/events/{}", events[0])).await["runs"][0]["id"].as_str().expect("an id").to_owned();
    let output = engine.command().args(["plugin", "test", "--json", "--run", &run]).arg(&file).output().expect("it runs");
    let repeated: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&repeated["outcome"], &repeated["events"][0]["after_ms"]), (&json!("ok"), &json!(FAR)), "{repeated:#}");
    let version = engine.get("/v1/plugins/ledger").await["version"].clone();
    let started = engine.ok("POST", "/v1/plugins/ledger/compare", json!({ "candidate": version })).await;
    let path = format!("/v1/comparisons/{}", started["id"].as_str().expect("an id"));
    let one = engine.wait(&path, "the comparison ends", |one| one["state"] != "running").await;
    assert_eq!((&one["report"]["compared"], &one["report"]["same"]), (&json!(3), &json!(3)), "{one:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_tested_under_the_limits_of_the_engine_that_is_asked() {
    let environment = [("INNESCO_PLUGIN_EVENTS_MAX", "0"), ("INNESCO_PLUGIN_DEADLINE", "20s")];
    let engine = Engine::start_in(&["ledger"], &["--allow-net", "127.0.0.0/8"], &environment);
    let file = engine.data_folder().with_file_name("ledger.wasm");
    std::fs::write(&file, crates::wasm("ledger")).unwrap();
    let event = later(&engine, 1, FAR).await;
    let run = engine.settled(&event).await["runs"][0].clone();
    assert_eq!(run["outcome"], "bad-output", "{run:#}");
    let run = run["id"].as_str().expect("an id");
    let limits = engine.get("/v1/limits").await;
    assert_eq!((&limits["events"], &limits["deadline_ms"]), (&json!(0), &json!(20_000)));
    assert_eq!(engine.get(&format!("/v1/runs/{run}/record")).await["limits"], limits);
    for asked in [["--event", &event], ["--run", run]] {
        let output = engine.command().args(["plugin", "test", "--json"]).args(asked).arg(&file).output().expect("it runs");
        let tested: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&tested["outcome"], &tested["code"]), (&json!("bad-output"), &json!("too_many_events")), "{tested:#}");
    }
}
