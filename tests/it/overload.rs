//! Overload: the engine refuses new events, loses no accepted event, and recovers automatically.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    engine::{DEADLINE, Engine, KEY, client, store_is_a_file},
    guests,
    namespace::has_rights,
    receivers::{Answer, Receiver},
    syscalls::Tampered,
};

/// Returns the answer to a caller: status, `Retry-After`, the problem.
async fn post(engine: &Engine, body: &Value) -> (u16, Option<String>, Value) {
    let url = format!("{}/v1/events", engine.url);
    let answer = client().post(url).bearer_auth(KEY).json(body).send().await.expect("the engine answers");
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().expect("a number").to_owned());
    (answer.status().as_u16(), retry_after, answer.json().await.expect("the answer is JSON"))
}

/// Sends events until one is refused, and returns the number of accepted events and the refusal.
async fn post_until_refused(engine: &Engine, body: &Value) -> (usize, Value) {
    let until = Instant::now() + DEADLINE;
    let mut taken = 0;
    loop {
        let (status, retry_after, answer) = post(engine, body).await;
        if status != 202 {
            assert_eq!((status, retry_after.as_deref(), &answer["code"]), (503, Some("1"), &json!("overloaded")), "{answer}");
            return (taken, answer);
        }
        taken += 1;
        assert!(Instant::now() < until, "{taken} requests were accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_too_long_refuses_and_recovers() {
    let test = "overload::a_store_that_takes_too_long_refuses_and_recovers";
    if !store_is_a_file() || !has_rights(test, "trace an engine") {
        // The test slows down the syncs of the engine. With Postgres, the database server syncs instead.
        return;
    }
    let engine = Engine::start_set(&[("INNESCO_LIMITS_STORE_WAIT_MAX", "100ms")]);
    let receiver = Receiver::answering(|_| Answer::status(200)).await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    let slow = Tampered::with(&engine, "fsync,fdatasync", "delay_enter=700000");
    let engine = Arc::new(engine);
    let (mut calls, mut taken, mut refused) = (JoinSet::new(), 0, Vec::new());
    let until = Instant::now() + DEADLINE;
    // The caller sends again every 50 ms, without waiting for earlier answers.
    while refused.is_empty() || !calls.is_empty() {
        if refused.is_empty() {
            let engine = Arc::clone(&engine);
            calls.spawn(async move { post(&engine, &json!({ "type": "a.b" })).await });
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while let Some(answered) = if refused.is_empty() { calls.try_join_next() } else { calls.join_next().await } {
            match answered.expect("no call panics") {
                (202, ..) => taken += 1,
                answer => refused.push(answer),
            }
        }
        assert!(Instant::now() < until, "{taken} calls were accepted");
    }
    for (status, retry_after, answer) in refused {
        let detail = answer["detail"].as_str().unwrap_or_default();
        assert_eq!((status, retry_after.as_deref(), &answer["code"]), (503, Some("1"), &json!("overloaded")), "{answer}");
        assert!(detail.contains("the store has not committed for more than 100 ms (limits.store_wait_max)"), "{detail}");
    }
    slow.end();
    let until = Instant::now() + DEADLINE;
    while post(&engine, &json!({ "type": "a.b" })).await.0 != 202 {
        assert!(Instant::now() < until, "the engine recovers automatically");
    }
    receiver.wait_for_count(taken + 1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_refuses_new_events_until_it_shrinks() {
    let engine = Engine::start_set(&[("INNESCO_LIMITS_BACKLOG_MAX", "300")]);
    engine.write_plugin("busy.wasm", &guests::build("busy", "busy", &["a.*"]));
    engine.wait("/v1/plugins/busy", "the plugin serves", |plugin| plugin["state"] == "serving").await;
    let receiver = Receiver::answering(|_| Answer::status(200)).await;
    engine.endpoint("crm", &receiver.url("/"), &["a.*"]).await;
    let list = json!(vec![json!({ "type": "a.b" }); 1_000]);
    let (lists, refused) = post_until_refused(&engine, &list).await;
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("more than 300 events wait to be run (limits.backlog_max)"), "{detail}");
    let until = Instant::now() + DEADLINE;
    while post(&engine, &json!({ "type": "a.c" })).await.0 != 202 {
        assert!(Instant::now() < until, "the engine recovers automatically");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    receiver.wait_for_count(lists * 1_000 + 1, DEADLINE).await;
}
