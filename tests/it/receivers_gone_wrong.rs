//! Receivers that misbehave: each attempt ends with a named outcome in bounded time and memory, and delays no other receiver.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    receivers::{Hostile, Receiver},
};

async fn endpoint(engine: &Engine, name: &str, url: &str, timeout: &str) {
    let endpoint =
        json!({ "name": name, "url": url, "events": [format!("{name}.*")], "timeout": timeout, "schedule": ["0s", "1h"] });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
}

async fn first_attempt(engine: &Engine, event: &str) -> Value {
    let story = engine
        .wait(&format!("/v1/events/{event}"), "an attempt is recorded", |story| {
            story["deliveries"][0]["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty())
        })
        .await;
    story["deliveries"][0]["attempts"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_receiver_is_a_named_outcome_while_a_good_one_is_served() {
    let engine = Engine::start(&[]);
    let good = Receiver::start().await;
    endpoint(&engine, "good", &good.url("/"), "5s").await;

    let hang = Hostile::hang_before_headers().await;
    let drip = Hostile::drip(Duration::from_millis(200)).await;
    let endless = Hostile::endless_body().await;
    let reset = Hostile::reset().await;
    let metadata = Hostile::redirect_to("http://169.254.169.254/latest/meta-data/").await;
    let bad_tls = Hostile::bad_tls().await;
    let closed = Receiver::start().await.url("/");
    for (name, url, outcome, status) in [
        ("hang", hang.url("/"), "timed-out", Value::Null),
        ("drip", drip.url("/"), "answered", json!(200)),
        ("endless", endless.url("/"), "body-too-large", json!(200)),
        ("reset", reset.url("/"), "reset", Value::Null),
        ("redirect", metadata.url("/"), "answered", json!(302)),
        ("tls", bad_tls.url("/"), "tls-failed", Value::Null),
        ("refused", closed, "refused", Value::Null),
    ] {
        endpoint(&engine, name, &url, "1s").await;
        let began = Instant::now();
        let event = engine.send(&format!("{name}.x"), json!({})).await;
        let attempt = first_attempt(&engine, &event).await;
        assert_eq!((&attempt["outcome"], &attempt["status"]), (&json!(outcome), &status), "{name}: {attempt:#}");
        assert!(began.elapsed() < Duration::from_secs(20), "{name} took {:?}", began.elapsed());
        engine.send("good.x", json!({})).await;
    }
    good.wait_for_count(7, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_deliveries_to_a_hanging_receiver_delay_no_other_and_take_no_memory() {
    let engine = Engine::start(&[]);
    let hang = Hostile::hang_before_headers().await;
    let good = Receiver::start().await;
    endpoint(&engine, "hang", &hang.url("/"), "20s").await;
    endpoint(&engine, "good", &good.url("/"), "5s").await;
    let batch: Vec<Value> = (0..1000).map(|_| json!({ "type": "hang.x", "data": "x".repeat(1000) })).collect();
    engine.send("good.x", json!({})).await;
    good.wait_for_count(1, DEADLINE).await;
    let before = engine.memory_kib();
    for _ in 0..20 {
        engine.ok("POST", "/v1/events", json!(batch)).await;
    }
    for number in 0..20 {
        engine.send("good.x", json!({})).await;
        good.wait_for_count(2 + number, DEADLINE).await;
    }
    let grown = engine.memory_kib().saturating_sub(before);
    assert!(grown < 200 << 10, "20,000 waiting deliveries took {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_checked_again_at_every_connection() {
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    endpoint(&engine, "inside", &receiver.url("/"), "5s").await;
    engine.stop();
    // Starts the engine again on the same data folder, without an allowed network.
    engine.set_arguments(&[]);
    engine.launch();
    let event = engine.send("inside.x", json!({})).await;
    let attempt = first_attempt(&engine, &event).await;
    assert_eq!(attempt["outcome"], "blocked", "{attempt:#}");
    assert!(attempt["detail"].as_str().unwrap().contains("--allow-net 127.0.0.0/8"), "{attempt:#}");
    assert!(receiver.received().is_empty());
}
