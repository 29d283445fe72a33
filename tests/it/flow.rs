//! The path of an event from its acceptance to a signed webhook, and its history.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client},
    receivers::{Answer, Received, Receiver},
};

fn headers(received: &Received) -> HeaderMap {
    let pairs = received.headers.iter();
    pairs.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

/// Verifies a webhook with two independent libraries.
pub fn verify(secret: &Value, received: &Received) {
    let secret = secret.as_str().expect("a secret");
    let headers = headers(received);
    standardwebhooks::Webhook::new(secret).unwrap().verify(&received.body, &headers).expect("standardwebhooks accepts it");
    svix::webhooks::Webhook::new(secret).unwrap().verify(&received.body, &headers).expect("svix accepts it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_gets_its_events_signed() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let endpoint = engine.endpoint("crm", &receiver.url("/hook"), &["order.*"]).await;
    let narrow = json!({ "name": "news", "url": receiver.url("/news"), "events": ["*"], "where": { "channel": ["newsletter"] } });
    engine.ok("POST", "/v1/endpoints", narrow).await;

    let raw = r#"{"type":"order.created","id":"o-1","source":"shop","data":{"total": 1.50,  "z":[ ]}}"#;
    let accepted =
        engine.request("POST", "/v1/events").header("content-type", "application/json").body(raw).send().await.unwrap();
    assert_eq!(accepted.status(), 202);
    let accepted: Value = accepted.json().await.unwrap();
    let received = receiver.wait_for_count(1, DEADLINE).await;
    verify(&endpoint["secret"], &received[0]);
    assert!(received[0].text().contains(r#""data":{"total": 1.50,  "z":[ ]}"#), "byte for byte: {}", received[0].text());

    let again = engine.ok("POST", "/v1/events", json!({ "type": "order.created", "id": "o-1", "source": "shop" })).await;
    assert_eq!((&again["event"], &again["duplicate"]), (&accepted["event"], &json!(true)));

    engine.ok("POST", "/v1/events", json!({ "type": "contact.added", "channel": "newsletter" })).await;
    let received = receiver.wait_for_count(2, DEADLINE).await;
    assert_eq!(received[1].path, "/news");

    let unwanted = engine.send("unrouted.type", json!({})).await;
    let story = engine.settled(&unwanted).await;
    assert_eq!(story["state"], "unrouted");
}

#[tokio::test(flavor = "multi_thread")]
async fn ed25519_and_rotated_secrets_verify() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let old = engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    let new = engine.ok("POST", "/v1/endpoints/crm/rotate-secret", json!({ "grace": "1h" })).await;
    assert_ne!(old["secret"], new["secret"]);
    let asymmetric = json!({ "name": "ed", "url": receiver.url("/ed"), "events": ["*"], "signature": "v1a" });
    let asymmetric = engine.ok("POST", "/v1/endpoints", asymmetric).await;

    engine.send("a.b", json!({ "x": 1 })).await;
    let received = receiver.wait_for_count(2, DEADLINE).await;
    let plain = received.iter().find(|one| one.path == "/").expect("a webhook for crm");
    verify(&old["secret"], plain);
    verify(&new["secret"], plain);

    let ed = received.iter().find(|one| one.path == "/ed").expect("a webhook for ed");
    let public = asymmetric["public_key"].as_str().unwrap().strip_prefix("whpk_").unwrap();
    let decode = |text: &str| base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).unwrap();
    let key = ed25519_dalek::VerifyingKey::from_bytes(&decode(public).try_into().unwrap()).unwrap();
    let signature = ed.header("webhook-signature").unwrap().strip_prefix("v1a,").unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&decode(signature)).unwrap();
    let signed = format!("{}.{}.{}", ed.header("webhook-id").unwrap(), ed.header("webhook-timestamp").unwrap(), ed.text());
    key.verify_strict(signed.as_bytes(), &signature).expect("the public key verifies it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_receiver_is_tried_again_under_the_same_id() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::sequence(vec![Answer::status(500).body("no"), Answer::status(302), Answer::status(204)]).await;
    let endpoint = json!({ "name": "crm", "url": receiver.url("/"), "events": ["*"], "schedule": ["0s", "50ms", "50ms", "1h"] });
    let secret = engine.ok("POST", "/v1/endpoints", endpoint).await["secret"].clone();
    let event = engine.send("a.b", json!({})).await;

    let received = receiver.wait_for_count(3, DEADLINE).await;
    received.iter().for_each(|one| verify(&secret, one));
    let ids: Vec<_> = received.iter().map(|one| one.header("webhook-id").unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    let story = engine
        .wait(&format!("/v1/events/{event}"), "the webhook is delivered", |story| story["deliveries"][0]["state"] == "delivered")
        .await;
    let attempts = story["deliveries"][0]["attempts"].as_array().unwrap();
    let statuses: Vec<_> = attempts.iter().map(|attempt| attempt["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [500, 302, 204]);
    assert_eq!(attempts[0]["excerpt"], "no");

    // If an operator retries the delivery, the receiver gets the same id again.
    let id = story["deliveries"][0]["id"].as_str().unwrap();
    engine.ok("POST", &format!("/v1/deliveries/{id}/retry"), Value::Null).await;
    let received = receiver.wait_for_count(4, DEADLINE).await;
    assert_eq!(received[3].header("webhook-id"), Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_answers_410_is_disabled_and_can_be_resumed() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::sequence(vec![Answer::status(410), Answer::status(200)]).await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    engine.send("a.b", json!({})).await;
    engine.wait("/v1/endpoints/crm", "the endpoint is disabled", |endpoint| endpoint["disabled_reason"] == "gone").await;

    let event = engine.send("a.c", json!({})).await;
    let story = engine.settled(&event).await;
    assert_eq!(
        (&story["deliveries"][0]["state"], &story["deliveries"][0]["reason"]),
        (&json!("dead"), &json!("endpoint-disabled"))
    );

    engine.ok("POST", "/v1/endpoints/crm/resume", Value::Null).await;
    let id = story["deliveries"][0]["id"].as_str().unwrap();
    engine.ok("POST", &format!("/v1/deliveries/{id}/retry"), Value::Null).await;
    receiver.wait_for_count(2, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_requests_are_explained_and_change_nothing() {
    let engine = Engine::start_with(&[], &[]);
    for (method, path, body, status, code) in [
        ("POST", "/v1/events", json!([{ "type": "a.b" }, { "type": "not ok" }]), 400, "bad_event"),
        ("POST", "/v1/endpoints", json!({ "name": "x", "url": "https://10.0.0.7/" }), 422, "blocked_address"),
        ("POST", "/v1/endpoints", json!({ "name": "x", "url": "http://localhost:9/" }), 422, "blocked_address"),
        ("POST", "/v1/endpoints", json!({ "name": "X Y", "url": "https://example.com/" }), 422, "bad_endpoint"),
        ("POST", "/v1/endpoints", json!({ "name": "x", "url": "ftp://example.com/" }), 422, "bad_endpoint"),
        ("POST", "/v1/endpoints", json!({ "name": "x", "url": "https://example.com/", "hedaers": {} }), 422, "bad_endpoint"),
        ("GET", "/v1/events/evt_nothing", Value::Null, 404, "not_found"),
        ("GET", "/v1/events?state=odd", Value::Null, 400, "bad_request"),
        ("GET", "/v1/nowhere", Value::Null, 404, "not_found"),
        ("PUT", "/v1/events", Value::Null, 405, "method_not_allowed"),
    ] {
        let (answered, problem) = engine.call(method, path, body.clone()).await;
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{method} {path} {body}: {problem}");
        assert_eq!(problem["status"], status);
    }
    let wrong_type = engine.request("POST", "/v1/events").header("content-type", "text/xml").body("<a/>").send().await.unwrap();
    assert_eq!(wrong_type.status(), 415);
    let large = engine.request("POST", "/v1/events").body(vec![b' '; 9 << 20]).send().await.unwrap();
    assert_eq!(large.status(), 413);
    let problem: Value = large.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("8 MiB"), "{problem}");

    let client = client();
    let url = format!("{}/v1/events", engine.url);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(client.get(&url).bearer_auth("wrong").send().await.unwrap().status(), 401);
    assert_eq!(engine.get("/v1/events").await["items"], json!([]), "nothing was accepted");
    assert_eq!(engine.get("/v1/endpoints").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_have_roles() {
    let engine = Engine::start(&[]);
    let made = engine.ok("POST", "/v1/keys", json!({ "name": "shop", "role": "publish" })).await;
    let key = made["key"].as_str().unwrap();
    let client = client();
    let events = format!("{}/v1/events", engine.url);
    let publish = client.post(&events).bearer_auth(key).json(&json!({ "type": "a.b" })).send().await.unwrap();
    assert_eq!(publish.status(), 202);
    assert_eq!(client.get(&events).bearer_auth(key).send().await.unwrap().status(), 403);
    let id = made["id"].as_str().unwrap();
    engine.ok("DELETE", &format!("/v1/keys/{id}"), Value::Null).await;
    let revoked = client.post(&events).bearer_auth(key).json(&json!({ "type": "a.b" })).send().await.unwrap();
    assert_eq!(revoked.status(), 401);
    assert!(!engine.get("/v1/keys").await.to_string().contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_engine_does_not_touch_a_folder_in_use() {
    let engine = Engine::start(&[]);
    let output = engine.command().args(["serve", "--listen", "127.0.0.1:0", "--data", "data"]).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("is in use by another engine"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_work_in_flight() {
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::answering(|_| Answer::status(200).after(Duration::from_millis(300))).await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    for job in 0..50 {
        engine.send("a.b", json!({ "job": job })).await;
    }
    receiver.wait_for("some are under way", DEADLINE, |received| !received.is_empty()).await;
    assert!(engine.stop(), "the engine exits with 0: {}", engine.log());
    engine.launch();
    engine
        .wait("/v1/deliveries?state=delivered&limit=100", "all are delivered", |page| {
            page["items"].as_array().unwrap().len() == 50
        })
        .await;
    let mut ids: Vec<_> = receiver.received().iter().map(|one| one.header("webhook-id").unwrap().to_owned()).collect();
    ids.sort();
    let sent = ids.len();
    ids.dedup();
    assert_eq!((ids.len(), sent), (50, 50), "each webhook was sent once");
}
