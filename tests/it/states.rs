//! The state of an event is that of its worst part, with the number of its delivered webhooks.

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    receivers::{Answer, Receiver},
};

fn cli(engine: &Engine, arguments: &[&str]) -> String {
    let output = engine.command().args(arguments).output().expect("the program runs");
    String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_a_retried_delivery_is_retrying_and_shows_the_count() {
    let engine = Engine::start(&[]);
    let (works, fails) = (Receiver::start().await, Receiver::answering(|_| Answer::status(500)).await);
    engine.endpoint("works", &works.url("/"), &["order.*"]).await;
    let endpoint = json!({ "name": "fails", "url": fails.url("/"), "events": ["order.*"], "schedule": ["0s", "24h"] });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
    let event = engine.send("order.created", json!({ "id": 7 })).await;
    let path = format!("/v1/events/{event}");
    let story = engine.wait(&path, "one webhook arrives, one is retried", |story| {
        story["state"] == "retrying" && story["parts"]["deliveries"]["delivered"] == 1
    });
    let deliveries = &story.await["parts"]["deliveries"];
    assert_eq!((&deliveries["total"], &deliveries["retrying"], &deliveries["dead"]), (&json!(2), &json!(1), &json!(0)));
    let listed = engine.get("/v1/events?state=retrying").await;
    assert_eq!((&listed["items"][0]["event"], &listed["items"][0]["state"]), (&json!(event), &json!("retrying")));
    for state in ["waiting", "delivered", "failed", "nothing-sent", "unrouted"] {
        assert_eq!(engine.get(&format!("/v1/events?state={state}")).await["items"], json!([]), "{state}");
    }
    assert!(cli(&engine, &["event", "list"]).contains("\tretrying, 1 of 2 delivered\t"));
    assert!(cli(&engine, &["event", "show", &event]).contains("retrying, 1 of 2 delivered"));

    let failing = engine.get("/v1/deliveries?state=retrying").await["items"][0]["id"].as_str().expect("an id").to_owned();
    engine.ok("POST", &format!("/v1/deliveries/{failing}/cancel"), Value::Null).await;
    assert_eq!(engine.get(&path).await["state"], "delivered");
    assert!(cli(&engine, &["event", "list"]).contains("\tdelivered, 1 of 2 delivered\t"));
    let (status, answer) = engine.call("GET", "/v1/events?state=done", Value::Null).await;
    assert_eq!(status, 400);
    assert!(
        answer["detail"].as_str().unwrap().contains("waiting, retrying, failed, delivered, nothing-sent, unrouted"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_waiting_while_its_run_waits_for_its_next_try() {
    let engine = Engine::start(&["ledger"]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    // The run fails with a retryable error until the repair.
    let event = engine.send("job.created", json!({ "job": 3 })).await;
    let path = format!("/v1/events/{event}");
    let failed_once = |story: &Value| story["runs"][0]["outcome"] == "failed" && story["runs"][0]["state"] == "waiting";
    let story = engine.wait(&path, "the run has failed once", failed_once).await;
    assert_eq!((&story["state"], &story["parts"]["runs"]["waiting"]), (&json!("waiting"), &json!(1)), "{story:#}");
    let listed = engine.get("/v1/events?state=waiting&type=job.created").await;
    assert_eq!(listed["items"][0]["event"], json!(event));
    let repair = engine.send("job.repaired", json!({})).await;
    let done = engine
        .wait(&format!("/v1/events/{repair}"), "the repairing event has run", |story| story["state"] == "nothing-sent")
        .await;
    assert_eq!(done["parts"]["deliveries"]["total"], 0);
    // The automatic next try may already have run. In that case nothing is left to retry.
    let run = story["runs"][0]["id"].as_str().expect("an id");
    let (status, answer) = engine.call("POST", &format!("/v1/runs/{run}/retry"), Value::Null).await;
    assert!([202, 409].contains(&status), "{answer}");
    receiver.wait_for_count(1, DEADLINE).await;
    engine.wait(&path, "the webhook is delivered", |story| story["state"] == "delivered").await;
}
