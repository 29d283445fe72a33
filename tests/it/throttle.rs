//! Rate, order and circuit breaker of an endpoint, as its receiver sees them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    receivers::{Answer, Received, Receiver},
};

const LOOPBACK: [&str; 2] = ["--allow-net", "127.0.0.0/8"];

/// Sends numbered events of one type, in lists of up to 500, each in one request.
async fn submit(engine: &Engine, event_type: &str, numbers: std::ops::Range<u64>) {
    for first in numbers.clone().step_by(500) {
        let last = (first + 500).min(numbers.end);
        let subject = |n: u64| format!("s{}", n % 7);
        let events: Vec<Value> =
            (first..last).map(|n| json!({ "type": event_type, "subject": subject(n), "data": { "n": n, "s": n % 7 } })).collect();
        engine.ok("POST", "/v1/events", json!(events)).await;
    }
}

/// Returns the numbers in the order of their first arrival, with their subjects.
fn firsts(received: &[Received]) -> Vec<(u64, u64)> {
    let mut seen = BTreeMap::new();
    let mut order = Vec::new();
    for one in received {
        let id = one.header("webhook-id").expect("a webhook has an id").to_owned();
        if seen.insert(id, ()).is_none() {
            let body: Value = serde_json::from_slice(&one.body).expect("the standard body");
            order.push((body["data"]["s"].as_u64().expect("a subject"), body["data"]["n"].as_u64().expect("a number")));
        }
    }
    order
}

/// Checks the order of arrival while 5 % of the answers are failures and the engine is killed repeatedly.
async fn arrives_in_order(ordered: &str, events: u64, kills: usize) {
    let delivered = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&delivered);
    let receiver = Receiver::answering(move |received: &Received| {
        if received.number % 20 == 7 {
            return Answer::status(503);
        }
        taken.lock().expect("no code panics while it notes").push(received.clone());
        Answer::status(200)
    })
    .await;
    let mut engine = Engine::start_with(&[], &LOOPBACK);
    let hook = json!({
        "name": "crm", "url": receiver.url("/"), "events": ["order.*"], "ordered": ordered,
        "schedule": vec!["5ms"; 30], "breaker": { "failures": 0 },
    });
    engine.ok("POST", "/v1/endpoints", hook).await;
    submit(&engine, "order.created", 0..events).await;
    let (all, mut kills) = (events as usize, (1..=kills).map(|kill| events as usize * kill / (kills + 1)).peekable());
    // The webhooks are sent one after the other, and each failure delays the rest: on a busy machine this takes long.
    let deadline = std::time::Instant::now() + 4 * DEADLINE;
    let order = loop {
        let order = firsts(&delivered.lock().expect("no code panics while it notes"));
        if order.len() >= all {
            break order;
        }
        assert!(std::time::Instant::now() < deadline, "{} of {all} have arrived", order.len());
        if kills.next_if(|kill| order.len() >= *kill).is_some() {
            engine.kill();
            engine.launch();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(order.len(), all, "no event is lost");
    let mut last = BTreeMap::new();
    for (subject, n) in order {
        let key = if ordered == "subject" { subject } else { 0 };
        let before = last.insert(key, n);
        assert!(before.is_none_or(|before| before < n), "{n} arrived after {before:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_an_ordered_endpoint_arrive_in_order_through_failures_and_kills() {
    arrives_in_order("endpoint", 10_000, 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_subject_arrive_in_order_through_failures_and_kills() {
    arrives_in_order("subject", 2_100, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_respected_and_delays_no_other_endpoint() {
    let (slow, fast) = (Receiver::answering(|_| Answer::status(200)).await, Receiver::answering(|_| Answer::status(200)).await);
    let engine = Engine::start_with(&[], &LOOPBACK);
    let hook = |name: &str, receiver: &Receiver| json!({ "name": name, "url": receiver.url("/"), "events": ["*"] });
    let mut limited = hook("slow", &slow);
    limited["rate"] = json!("50/s");
    engine.ok("POST", "/v1/endpoints", limited).await;
    engine.ok("POST", "/v1/endpoints", hook("fast", &fast)).await;
    let all = 1_000;
    submit(&engine, "a.b", 0..all as u64).await;
    fast.wait_for_count(all, DEADLINE).await;
    let in_time = slow.received().len();
    slow.wait_for_count(all, DEADLINE).await;
    let arrivals: Vec<_> = slow.received().iter().map(|one| one.arrived).collect();
    // The webhooks of a tenth of a second may arrive at once, so the first ones are not counted.
    let burst = 5;
    let rate = (all - burst) as f64 / arrivals[all - 1].duration_since(arrivals[burst - 1]).as_secs_f64();
    println!(
        "{all} webhooks to an endpoint with 50/s: {rate:.1}/s; {in_time} of them when the other endpoint had received everything"
    );
    assert!((45.0..=52.5).contains(&rate), "{rate}/s");
    assert!(in_time < all / 2, "the other endpoint did not wait for this one");
}

/// Formats the received webhooks and the operational events, for failures of the test.
fn timeline(received: &[Received], news: &[Received]) {
    let first = received[0].arrived;
    let at = |one: &Received| one.arrived.saturating_duration_since(first).as_millis();
    let mut before = 0;
    for (nth, one) in received.iter().enumerate() {
        // A pause means that the breaker is open. Concurrent webhooks are recorded in any order.
        let pause = at(one).saturating_sub(before);
        if pause >= 100 {
            println!("{:>6} ms  attempt {}, after {pause} ms of silence", at(one), nth + 1);
        }
        before = before.max(at(one));
    }
    for one in news {
        println!("{:>6} ms  event: {}", at(one), one.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_probes_and_closes() {
    let back = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&back);
    let receiver = Receiver::answering(move |_| Answer::status(if answers.load(Ordering::SeqCst) { 200 } else { 503 })).await;
    let news = Receiver::answering(|_| Answer::status(200)).await;
    let engine = Engine::start_with(&[], &LOOPBACK);
    let hook = json!({
        "name": "crm", "url": receiver.url("/"), "events": ["order.*"], "schedule": vec!["1ms"; 40],
        "breaker": { "failures": 10, "wait": "200ms", "wait_max": "400ms" },
    });
    engine.ok("POST", "/v1/endpoints", hook).await;
    engine.endpoint("news", &news.url("/"), &["innesco.*"]).await;
    submit(&engine, "order.created", 0..500).await;
    news.wait_for_count(1, DEADLINE).await;
    let when_it_opened = receiver.received().len();
    // While the breaker is open, probes are sent one at a time: three probes take three waits.
    receiver.wait_for_count(when_it_opened + 3, DEADLINE).await;
    let tried = receiver.received().len();
    assert!(tried < 500, "most deliveries were not attempted: {tried}");
    back.store(true, Ordering::SeqCst);
    let told = |received: &Received| received.text();
    news.wait_for_count(2, DEADLINE).await;
    let told: Vec<String> = news.received().iter().map(told).collect();
    assert!(told[0].contains("innesco.endpoint.failing"), "{told:?}");
    assert!(told[1].contains("innesco.endpoint.recovered"), "{told:?}");
    timeline(&receiver.received(), &news.received());
    let dead = engine.get("/v1/deliveries?state=dead&limit=1").await;
    assert_eq!(dead["items"].as_array().map(Vec::len), Some(0), "no delivery is dead");
    engine.wait("/v1/deliveries?state=retrying&limit=1", "every delivery is delivered", |page| page["items"] == json!([])).await;
    engine.wait("/v1/deliveries?state=pending&limit=1", "every delivery is delivered", |page| page["items"] == json!([])).await;
}
