//! Failed runs are retried with the repaired plugin. Other runs and webhooks of their events are not repeated.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    guests,
    receivers::{Received, Receiver},
};

/// Number of events of the bulk retry: more than one batch of the job.
const MANY: usize = 1_000;

/// Starts an engine with a good plugin and one with a bug, which run on the same events and send to the same receiver.
async fn engine_with_a_bug() -> (Engine, Receiver) {
    // Quarantine is off. Otherwise the plugin with a bug would be held, because it fails so often.
    let engine = Engine::start_in(&["mischief"], &["--allow-net", "127.0.0.0/8"], &[("INNESCO_PLUGIN_QUARANTINE", "0")]);
    serve(&engine, "trap").await;
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    (engine, receiver)
}

/// Makes this guest the serving version of the plugin `router`.
async fn serve(engine: &Engine, guest: &str) -> String {
    let bytes = guests::build(guest, "router", &["mischief.*"]);
    let version = innesco::domain::plugin::Digest::of(&bytes).to_string();
    engine.write_plugin("router.wasm", &bytes);
    engine
        .wait("/v1/plugins/router", "the plugin serves", |plugin| plugin["state"] == "serving" && plugin["version"] == version)
        .await;
    version
}

/// Separates the webhooks of the good plugin from those of the repaired one.
fn by_plugin(received: &[Received]) -> (Vec<&Received>, Vec<&Received>) {
    received.iter().partition(|one| one.text() != "hi")
}

fn cli(engine: &Engine, arguments: &[&str]) -> (bool, String) {
    let output = engine.command().args(arguments).output().expect("the program runs");
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
}

fn run_of<'a>(story: &'a Value, plugin: &str) -> &'a Value {
    let runs = story["runs"].as_array().expect("runs");
    runs.iter().find(|run| run["plugin"] == plugin).unwrap_or_else(|| panic!("no run of {plugin}: {story:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_is_retried_with_the_repaired_plugin_and_nothing_else_is_repeated() {
    let (engine, receiver) = engine_with_a_bug().await;
    let event = engine.send("mischief.nothing", json!({})).await;
    let path = format!("/v1/events/{event}");
    let story = engine.wait(&path, "one run is parked", |story| story["state"] == "failed").await;
    receiver.wait_for_count(1, DEADLINE).await;
    let parked = run_of(&story, "router");
    let run = parked["id"].as_str().expect("an id").to_owned();
    assert_eq!((&parked["event"], &parked["type"], &parked["tries"]), (&json!(event), &json!("mischief.nothing"), &json!(1)));

    // Every place that reports the failure names the command that repairs it.
    let (_, shown) = cli(&engine, &["event", "show", &event]);
    let remedy = format!("parked; after a fix: innesco run retry {run}");
    assert!(shown.contains(&remedy) && !shown.contains("event replay"), "{shown}");
    assert!(cli(&engine, &["run", "show", &run]).1.contains(&remedy));
    let (_, list) = cli(&engine, &["run", "list", "--state", "parked", "--plugin", "router"]);
    assert!(list.starts_with(&run) && list.lines().count() == 1, "{list}");
    let log = engine.log();
    let line = log.lines().find(|line| line.contains("run is parked")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&run) && line.contains("innesco run retry RUN"), "{line}");

    let version = serve(&engine, "one-webhook").await;
    let (done, said) = cli(&engine, &["run", "retry", &run]);
    assert!(done && said.contains(&run), "{said}");
    let received = receiver.wait_for_count(2, DEADLINE).await;
    let (good, repaired) = by_plugin(&received);
    assert_eq!((good.len(), repaired.len()), (1, 1));
    assert_ne!(good[0].header("webhook-id"), repaired[0].header("webhook-id"));
    let run = engine.wait(&format!("/v1/runs/{run}"), "the run is done", |run| run["state"] == "done").await;
    assert_eq!((&run["outcome"], &run["tries"], &run["version"]), (&json!("ok"), &json!(2), &json!(version)));
    let story = engine.get(&path).await;
    assert_eq!(run_of(&story, "mischief")["tries"], 1);
    let trail = engine.get("/v1/audit?action=run.retry").await;
    assert_eq!((&trail["items"][0]["target"], &trail["items"][0]["status"]), (&run["id"], &json!(202)));

    let (status, answer) = engine.call("POST", &format!("/v1/runs/{}/retry", run["id"].as_str().unwrap()), Value::Null).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "{answer}");
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_failed_runs_are_retried_once_each_across_a_kill() {
    let (mut engine, receiver) = engine_with_a_bug().await;
    engine.ok("POST", "/v1/events", json!(vec![json!({ "type": "mischief.nothing", "data": {} }); MANY])).await;
    let nothing = |page: &Value| page["items"] == json!([]);
    for path in ["/v1/events?state=waiting", "/v1/runs?state=waiting", "/v1/deliveries?state=pending"] {
        engine.wait(path, "everything has run and is sent", nothing).await;
    }
    receiver.wait_for_count(MANY, DEADLINE).await;
    serve(&engine, "one-webhook").await;

    let job = engine.ok("POST", "/v1/runs/retry", json!({ "plugin": "router", "outcome": "trapped" })).await;
    assert_eq!((&job["kind"], &job["state"], &job["total"]), (&json!("run.retry"), &json!("running"), &json!(MANY)));
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let seen = engine.wait(&path, "the job has started", |job| job["done"].as_u64() > Some(0)).await;
    engine.kill();
    println!("killed when {} of {MANY} were done", seen["done"]);
    engine.launch();
    let job = engine.wait(&path, "the job is done", |job| job["state"] == "done").await;
    assert_eq!((&job["done"], &job["failed"]), (&json!(MANY), &json!(0)), "{job}");
    for path in ["/v1/runs?state=waiting", "/v1/deliveries?state=pending", "/v1/deliveries?state=retrying"] {
        engine.wait(path, "everything has run and is sent", nothing).await;
    }
    assert_eq!(engine.get("/v1/runs?state=parked").await["items"], json!([]));

    let received = receiver.received();
    let (good, repaired) = by_plugin(&received);
    assert_eq!(good.len(), MANY, "the good plugin's webhooks are not repeated");
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for one in &repaired {
        *times.entry(one.header("webhook-id").expect("an id")).or_default() += 1;
    }
    assert_eq!(times.len(), MANY, "each retried run sent one webhook");
    // A webhook may arrive twice, under the same id, only if it was in flight, or received but not recorded, when the engine was
    // killed.
    assert!(times.values().all(|times| *times <= 2), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_is_settled_and_can_be_retried() {
    let (engine, receiver) = engine_with_a_bug().await;
    let event = engine.send("mischief.nothing", json!({})).await;
    let path = format!("/v1/events/{event}");
    let story = engine.wait(&path, "one run is parked", |story| story["state"] == "failed").await;
    let run = run_of(&story, "router")["id"].as_str().expect("an id").to_owned();
    let (done, said) = cli(&engine, &["run", "cancel", &run]);
    assert!(!done && said.contains("add --yes"), "{said}");
    assert!(cli(&engine, &["run", "cancel", &run, "--yes"]).0);
    let story = engine.get(&path).await;
    assert_eq!(run_of(&story, "router")["state"], "cancelled");
    assert_ne!(story["state"], "failed");
    let (status, answer) = engine.call("POST", &format!("/v1/runs/{run}/cancel"), Value::Null).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "{answer}");

    serve(&engine, "one-webhook").await;
    let (done, said) = cli(&engine, &["run", "retry", "--parked", "--yes"]);
    assert!(done && said.contains("done  0 runs due again"), "{said}");
    engine.ok("POST", &format!("/v1/runs/{run}/retry"), Value::Null).await;
    let received = receiver.wait_for_count(2, DEADLINE).await;
    assert_eq!(by_plugin(&received).1.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_its_endpoint_names_one_remedy_and_runs_once_the_endpoint_exists() {
    let engine = Engine::start(&["mischief"]);
    let receiver = Receiver::start().await;
    let event = engine.send("mischief.nothing", json!({})).await;
    let story = engine.settled(&event).await;
    let run = &story["runs"][0];
    assert_eq!((&run["state"], &run["code"], &run["wants"]), (&json!("parked"), &json!("unknown_endpoint"), &json!("receiver")));
    let (_, shown) = cli(&engine, &["event", "show", &event]);
    assert!(shown.contains("innesco endpoint add receiver URL"), "{shown}");
    assert!(!shown.contains("run retry") && !shown.contains("event replay"), "{shown}");
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    receiver.wait_for_count(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unrouted_events_are_replayed_once_an_endpoint_subscribes() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let mut wanted = Vec::new();
    for number in 0..3 {
        wanted.push(engine.send("order.created", json!({ "id": number })).await);
    }
    let other = engine.send("ticket.created", json!({})).await;
    for event in wanted.iter().chain([&other]) {
        engine.wait(&format!("/v1/events/{event}"), "the event is unrouted", |story| story["state"] == "unrouted").await;
    }
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    let (done, said) = cli(&engine, &["event", "replay", &other]);
    assert!(!done && said.contains("new webhooks under new ids") && said.contains("add --yes"), "{said}");
    let (done, said) = cli(&engine, &["event", "replay", "--unrouted", "--type", "order.*", "--since", "1h", "--yes"]);
    assert!(done && said.contains("done  3 events due again"), "{said}");
    receiver.wait_for_count(3, DEADLINE).await;
    for event in &wanted {
        engine.wait(&format!("/v1/events/{event}"), "the replayed event is routed", |story| story["state"] != "unrouted").await;
    }
    assert_eq!(engine.get(&format!("/v1/events/{other}")).await["state"], "unrouted");
    assert!(cli(&engine, &["event", "replay", &other, "--yes"]).0);
    let received = receiver.wait_for_count(4, DEADLINE).await;
    assert_eq!(received.iter().filter(|one| one.text().contains("ticket.created")).count(), 1);
    let trail = engine.get("/v1/audit?action=event.replay").await;
    assert_eq!(trail["items"].as_array().unwrap().len(), 2, "{trail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_an_invalid_command_on_runs() {
    let engine = Engine::start(&[]);
    for (method, path, body, expected, said) in [
        ("POST", "/v1/runs/retry", json!({ "outcome": "traped" }), 422, "did you mean trapped?"),
        ("POST", "/v1/runs/retry", json!({ "plugin": "Not A Name" }), 422, "plugin"),
        ("POST", "/v1/runs/retry", json!({ "since": "yesterday" }), 422, "since"),
        ("POST", "/v1/runs/retry", json!({ "event": "evt_1" }), 422, "event"),
        ("POST", "/v1/events/replay", json!({}), 422, "needs a filter"),
        ("POST", "/v1/events/replay", Value::Null, 422, "needs a filter"),
        ("POST", "/v1/events/replay", json!({ "state": "lost" }), 422, "is not one of"),
        ("GET", "/v1/runs?state=done.", Value::Null, 400, "it is one of"),
        ("GET", "/v1/runs?outcome=bad", Value::Null, 400, "it is one of"),
        ("GET", "/v1/runs/run_nothing", Value::Null, 404, "no run"),
        ("POST", "/v1/runs/run_nothing/retry", Value::Null, 404, "no run"),
    ] {
        let (status, answer) = engine.call(method, path, body.clone()).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(said), "{method} {path} {body}: {answer}");
    }
}
