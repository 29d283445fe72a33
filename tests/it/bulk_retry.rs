//! Bulk retry: a job of the engine sends dead deliveries again, also across restarts of the engine.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    receivers::{Answer, Receiver},
};

/// Number of events: more than one batch of a job, and more than the engine processes between two polls.
const MANY: usize = 3_000;

/// Starts a receiver that fails until the flag is set.
async fn receiver() -> (Receiver, Arc<AtomicBool>) {
    let mended = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&mended);
    let receiver = Receiver::answering(move |_| Answer::status(if works.load(Ordering::SeqCst) { 200 } else { 500 })).await;
    (receiver, mended)
}

async fn endpoint(engine: &Engine, name: &str, receiver: &Receiver) {
    let endpoint = json!({
        "name": name, "url": receiver.url(&format!("/{name}")), "events": [format!("{name}.*")], "schedule": ["0s"],
        "breaker": { "failures": 0 },
    });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
}

/// Sends events whose deliveries all become dead.
async fn let_die(engine: &Engine, name: &str, count: usize) {
    let event = json!({ "type": format!("{name}.x"), "data": {} });
    let mut left = count;
    while left > 0 {
        let batch = left.min(1_000);
        engine.ok("POST", "/v1/events", json!(vec![event.clone(); batch])).await;
        left -= batch;
    }
    for path in ["/v1/events?state=waiting", "/v1/deliveries?state=pending", "/v1/deliveries?state=retrying"] {
        engine.wait(path, "all deliveries are dead", |page| page["items"] == json!([])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_continues_after_a_kill_and_retries_each_delivery_once() {
    let mut engine = Engine::start(&[]);
    let (receiver, mended) = receiver().await;
    endpoint(&engine, "crm", &receiver).await;
    let_die(&engine, "crm", MANY).await;
    let failed = receiver.received().len();
    mended.store(true, Ordering::SeqCst);

    let job = engine.ok("POST", "/v1/deliveries/retry", json!({ "endpoint": "crm" })).await;
    assert_eq!((&job["state"], &job["total"]), (&json!("running"), &json!(MANY)));
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let until = Instant::now() + DEADLINE;
    let seen = loop {
        let job = engine.get(&path).await;
        if job["done"].as_u64() > Some(0) {
            break job;
        }
        assert!(Instant::now() < until, "the job does not start: {job}");
    };
    engine.kill();
    println!("killed when {} of {MANY} were done", seen["done"]);
    engine.launch();
    let job = engine.wait(&path, "the job is done", |job| job["state"] == "done").await;
    assert_eq!((&job["done"], &job["failed"]), (&json!(MANY), &json!(0)), "{job}");
    engine.wait("/v1/deliveries?state=retrying", "everything is sent", |page| page["items"] == json!([])).await;
    assert_eq!(engine.get("/v1/deliveries?state=dead").await["items"], json!([]));

    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for one in receiver.received().iter().skip(failed) {
        *times.entry(one.header("webhook-id").unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(times.len(), MANY, "each webhook arrives under its own id");
    // A webhook may arrive twice only if, when the engine was killed, it was in flight or was received but not recorded.
    let doubled = times.values().filter(|times| **times > 1).count();
    assert!(doubled <= 512 && times.values().all(|times| *times <= 2), "{doubled} arrived more than once");
    assert_eq!(engine.get("/v1/jobs?state=running").await["items"], json!([]));
    assert_eq!(engine.get("/v1/jobs").await["items"][0]["id"], job["id"]);
    let trail = engine.get("/v1/audit?action=delivery.retry").await;
    assert_eq!(trail["items"][0]["target"], job["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_nothing_for_a_disabled_endpoint() {
    let engine = Engine::start(&[]);
    let gone = Arc::new(AtomicBool::new(true));
    let still_gone = Arc::clone(&gone);
    let receiver = Receiver::answering(move |_| Answer::status(if still_gone.load(Ordering::SeqCst) { 410 } else { 200 })).await;
    endpoint(&engine, "crm", &receiver).await;
    engine.send("crm.x", json!({})).await;
    let dead = engine.wait("/v1/deliveries?state=dead", "the delivery is dead", |page| page["items"] != json!([])).await;
    engine.wait("/v1/endpoints/crm", "the endpoint is disabled", |crm| crm["state"] == "disabled").await;
    let delivery = dead["items"][0]["id"].as_str().unwrap();
    for (path, body) in [
        (format!("/v1/deliveries/{delivery}/retry"), Value::Null),
        ("/v1/deliveries/retry".to_owned(), json!({ "endpoint": "crm" })),
    ] {
        let (status, answer) = engine.call("POST", &path, body).await;
        assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "{path}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains("innesco endpoint resume crm"), "{answer}");
    }
    let retry = |arguments: &[&str]| {
        let output = engine.command().args(["delivery", "retry"]).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = retry(&["--dead", "--yes"]);
    assert!(code == Some(0) && said.contains("0 webhooks due again; 1 not retried"), "{said}");
    gone.store(false, Ordering::SeqCst);
    engine.ok("POST", "/v1/endpoints/crm/resume", Value::Null).await;
    let (code, said) = retry(&["--dead", "--endpoint", "crm", "--reason", "gone", "--type", "crm.*", "--since", "1h", "--yes"]);
    assert!(code == Some(0) && said.contains("done  1 webhook due again"), "{said}");
    engine.wait("/v1/deliveries?state=delivered", "the retried webhook arrives", |page| page["items"][0]["id"] == delivery).await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_an_invalid_bulk_retry() {
    let engine = Engine::start(&[]);
    let cases = [
        (json!({ "endpoint": "missing" }), 404, "missing"),
        (json!({ "state": "delivered" }), 422, "write one of dead, cancelled, retrying"),
        (json!({ "reason": "bad mood" }), 422, "write one of exhausted"),
        (json!({ "state": "cancelled", "reason": "gone" }), 422, "only dead deliveries have a reason"),
        (json!({ "since": "yesterday" }), 422, "since"),
        (
            json!({ "state": "retrying", "since": "2026-01-31T09:30:00Z" }),
            422,
            "since: only deliveries that are dead or cancelled",
        ),
        (json!({ "event_type": "order created" }), 422, "event_type"),
        (json!({ "all": true }), 422, "all"),
        (json!([]), 422, "send a JSON object"),
    ];
    for (filter, expected, said) in cases {
        let (status, answer) = engine.call("POST", "/v1/deliveries/retry", filter.clone()).await;
        assert_eq!(status, expected, "{filter}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(said), "{filter}: {answer}");
    }
    let (status, _) = engine.call("GET", "/v1/jobs/job_nothing", Value::Null).await;
    assert_eq!(status, 404);
    let job = engine.ok("POST", "/v1/deliveries/retry", Value::Null).await;
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let began = Instant::now();
    engine.wait(&path, "a job without items is done at once", |job| job["state"] == "done" && job["total"] == 0).await;
    assert!(began.elapsed() < DEADLINE / 2 + Duration::from_secs(1));
    let (status, answer) = engine.call("POST", &format!("{path}/cancel"), Value::Null).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "{answer}");
}
