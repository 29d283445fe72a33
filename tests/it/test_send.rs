//! A test send: signed like a delivery, answered at once, not recorded.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    flow::verify,
    receivers::{Answer, Receiver},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_test_is_signed_answered_and_not_recorded() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::answering(|received| match received.number {
        0 | 1 => Answer::status(200).body("thanks"),
        _ => Answer::status(500).body("no"),
    })
    .await;
    let hook = json!({ "name": "crm", "url": receiver.url("/"), "events": ["order.*"], "breaker": { "failures": 2 } });
    let created = engine.ok("POST", "/v1/endpoints", hook).await;
    // A test works in every state of the endpoint.
    engine.ok("POST", "/v1/endpoints/crm/pause", Value::Null).await;
    let plain = engine.ok("POST", "/v1/endpoints/crm/test", Value::Null).await;
    assert_eq!(
        (&plain["delivered"], &plain["status"], &plain["excerpt"]),
        (&json!(true), &json!(200), &json!("thanks")),
        "{plain}"
    );
    engine.ok("POST", "/v1/endpoints/crm/resume", Value::Null).await;
    let own = json!({ "type": "order.created", "data": { "total": 129.5 } });
    engine.ok("POST", "/v1/endpoints/crm/test", own).await;
    for (received, event_type) in receiver.received().iter().zip(["innesco.test", "order.created"]) {
        verify(&created["secret"], received);
        let body: Value = serde_json::from_slice(&received.body).unwrap();
        assert_eq!(body["type"], event_type);
        assert!(received.header("webhook-id").unwrap().starts_with("test_"));
    }
    // Failures are not recorded: neither the breaker nor the endpoint's health changes.
    for _ in 0..5 {
        let failed = engine.ok("POST", "/v1/endpoints/crm/test", Value::Null).await;
        assert_eq!(
            (&failed["delivered"], &failed["outcome"], &failed["status"]),
            (&json!(false), &json!("answered"), &json!(500))
        );
    }
    assert_eq!(engine.get("/v1/events").await["items"], json!([]));
    assert_eq!(engine.get("/v1/deliveries").await["items"], json!([]));
    assert_eq!(engine.get("/v1/endpoints/crm").await["failing_since"], Value::Null);
    engine.send("order.created", json!({})).await;
    receiver.wait_for_count(8, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_explains_why_nothing_arrived() {
    let engine = Engine::start(&[]);
    let silent = Receiver::answering(|_| Answer::status(200).after(Duration::from_secs(30))).await;
    let hook = json!({ "name": "silent", "url": silent.url("/"), "timeout": "200ms" });
    engine.ok("POST", "/v1/endpoints", hook).await;
    let told = engine.ok("POST", "/v1/endpoints/silent/test", Value::Null).await;
    assert_eq!(
        (&told["delivered"], &told["outcome"], &told["status"]),
        (&json!(false), &json!("timed-out"), &Value::Null),
        "{told}"
    );
    let (status, refused) = engine.call("POST", "/v1/endpoints/silent/test", json!([{ "type": "a.b" }, { "type": "a.b" }])).await;
    assert_eq!((status, &refused["code"]), (413, &json!("batch_too_large")), "{refused}");
    let (status, refused) = engine.call("POST", "/v1/endpoints/silent/test", json!({ "type": "order created" })).await;
    assert_eq!((status, &refused["code"]), (400, &json!("bad_event")), "{refused}");
}
