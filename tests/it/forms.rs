//! Formats of webhooks: envelopes, encodings, signatures of other senders, as a receiver and the API see them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    engine::{DEADLINE, Engine},
    receivers::{Answer, Identity, Received, Receiver},
};

/// Returns HMAC-SHA256 in hex and in base64.
fn hmac(key: &str, content: &[u8]) -> (String, String) {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(content);
    let bytes = mac.finalize().into_bytes();
    (bytes.iter().map(|byte| format!("{byte:02x}")).collect(), BASE64_STANDARD.encode(bytes))
}

/// Creates an endpoint with this name and path for all events, and returns the answer.
async fn endpoint(engine: &Engine, receiver: &Receiver, name: &str, members: Value) -> Value {
    let mut body = json!({ "name": name, "url": receiver.url(&format!("/{name}")), "events": ["*"] });
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    engine.ok("POST", "/v1/endpoints", body).await
}

fn at<'a>(received: &'a [Received], name: &str) -> &'a Received {
    let path = format!("/{name}");
    received.iter().rfind(|one| one.path == path).unwrap_or_else(|| panic!("nothing arrived at {name}: {received:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_in_the_format_of_each_endpoint() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let forms = [
        ("plain", json!({})),
        ("cloud", json!({ "envelope": "cloudevents" })),
        ("bare", json!({ "envelope": "data" })),
        ("xml", json!({ "format": "xml" })),
        ("form", json!({ "envelope": "data", "format": "form" })),
    ];
    for (name, members) in &forms {
        endpoint(&engine, &receiver, name, members.clone()).await;
    }
    let raw = r#"{"type":"order.created","id":"o-1","source":"shop","time":"2026-01-31T09:30:00Z","subject":"order/7","channel":"web","data":{"total": 1.50, "tags":["a","b c"]}}"#;
    let accepted = engine.request("POST", "/v1/events").header("content-type", "application/json").body(raw).send().await;
    assert_eq!(accepted.unwrap().status(), 202);
    let received = receiver.wait_for_count(forms.len(), DEADLINE).await;
    for (name, content_type, body) in [
        (
            "plain",
            "application/json",
            r#"{"type":"order.created","timestamp":"2026-01-31T09:30:00Z","data":{"total": 1.50, "tags":["a","b c"]}}"#,
        ),
        (
            "cloud",
            "application/cloudevents+json",
            r#"{"specversion":"1.0","id":"o-1","source":"shop","type":"order.created","time":"2026-01-31T09:30:00Z","datacontenttype":"application/json","subject":"order/7","channel":"web","data":{"total": 1.50, "tags":["a","b c"]}}"#,
        ),
        ("bare", "application/json", r#"{"total": 1.50, "tags":["a","b c"]}"#),
        (
            "xml",
            "application/xml",
            r#"<?xml version="1.0" encoding="UTF-8"?><webhook><type>order.created</type><timestamp>2026-01-31T09:30:00Z</timestamp><data><total>1.50</total><tags>a</tags><tags>b c</tags></data></webhook>"#,
        ),
        ("form", "application/x-www-form-urlencoded", "total=1.50&tags%5B0%5D=a&tags%5B1%5D=b+c"),
    ] {
        let one = at(&received, name);
        assert_eq!((one.header("content-type"), one.text().as_str()), (Some(content_type), body), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_other_senders_verify_during_a_rotation() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let schemes = ["github", "stripe", "woocommerce", "shopify", "token", "none"];
    let mut secrets = Vec::new();
    for name in schemes {
        let members = match name {
            "token" => json!({ "signature": name, "token_header": "X-Api-Key", "secret": "a text of my own" }),
            _ => json!({ "signature": name }),
        };
        let made = endpoint(&engine, &receiver, name, members).await;
        secrets.push(made["secret"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!((secrets[4].as_str(), secrets[5].as_str()), ("a text of my own", ""), "the caller's secret, and none");

    // Checks the proof of each webhook against the valid `keys`, newest key first.
    let check = |received: &[Received], keys: &[&[String]]| {
        let body = at(received, "none").body.clone();
        for (place, name) in schemes.iter().enumerate() {
            let (one, key) = (at(received, name), &keys[0][place]);
            assert!(one.header("webhook-id").unwrap().starts_with("dlv_"), "{name}");
            let time = one.header("webhook-timestamp").unwrap();
            let stripe = |keys: &[&[String]]| {
                let stamped = [time.as_bytes(), b".", &body].concat();
                keys.iter().fold(format!("t={time}"), |value, keys| format!("{value},v1={}", hmac(&keys[place], &stamped).0))
            };
            let (header, expected) = match *name {
                "github" => ("x-hub-signature-256", format!("sha256={}", hmac(key, &body).0)),
                "stripe" => ("stripe-signature", stripe(keys)),
                "woocommerce" => ("x-wc-webhook-signature", hmac(key, &body).1),
                "shopify" => ("x-shopify-hmac-sha256", hmac(key, &body).1),
                _ => ("x-api-key", key.clone()),
            };
            assert_eq!(one.header(header), (*name != "none").then_some(expected.as_str()), "{name}");
            assert_eq!(one.header("webhook-signature"), None, "{name}");
        }
    };
    engine.send("a.b", json!({ "x": 1 })).await;
    check(&receiver.wait_for_count(schemes.len(), DEADLINE).await, &[&secrets]);

    let mut rotated = Vec::new();
    for name in &schemes[..5] {
        let answer = engine.ok("POST", &format!("/v1/endpoints/{name}/rotate-secret"), json!({})).await;
        rotated.push(answer["secret"].as_str().unwrap().to_owned());
    }
    rotated.push(String::new());
    engine.send("a.b", json!({ "x": 2 })).await;
    check(&receiver.wait_for_count(2 * schemes.len(), DEADLINE).await, &[&rotated, &secrets]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_invalid_endpoints() {
    let engine = Engine::start(&[]);
    let (own, other) = (Identity::client("own"), Identity::client("other"));
    let certificate = json!({ "certificate": own.pem(), "key": own.key_pem() });
    let url = "https://crm.example/";
    for (members, pointer, said) in [
        (json!({ "envelope": "soap" }), "/envelope", "\"soap\" is not known; write standard, cloudevents or data"),
        (json!({ "format": "yaml" }), "/format", "\"yaml\" is not known; write json, xml or form"),
        (json!({ "signature": "v2" }), "/signature", "write v1, v1a, github, stripe, woocommerce, shopify, token or none"),
        (json!({ "token_header": "x-api-key" }), "/token_header", "needs the signature \"token\""),
        (json!({ "signature": "token", "token_header": "Content-Type" }), "/token_header", "is not an allowed header"),
        (json!({ "signature": "token", "token_header": "a b" }), "/token_header", "is not an allowed header"),
        (
            json!({ "signature": "github", "headers": { "X-Hub-Signature-256": "sha256=00" } }),
            "/headers",
            "carries the endpoint's signature (github)",
        ),
        (json!({ "signature": "github", "secret": "short" }), "/secret", "is 16 to 256 ASCII characters"),
        (json!({ "signature": "none", "secret": "a text of my own" }), "/secret", "does not fit the signature none"),
        (json!({ "signature": "v1", "secret": "a text of my own" }), "/secret", "a secret is \"whsec_\""),
        (
            json!({ "client_certificate": { "certificate": own.pem(), "key": other.key_pem() } }),
            "/client_certificate",
            "client_certificate.key: does not belong to the first certificate",
        ),
        (
            json!({ "client_certificate": { "certificate": "x", "key": own.key_pem() } }),
            "/client_certificate",
            "client_certificate.certificate: is not PEM",
        ),
        (
            json!({ "url": "http://127.0.0.1:9/", "client_certificate": certificate }),
            "/client_certificate",
            "the URL must begin with https://",
        ),
    ] {
        let mut body = json!({ "name": "crm", "url": url });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let (status, problem) = engine.call("POST", "/v1/endpoints", body).await;
        assert_eq!((status, problem["code"].as_str()), (422, Some("bad_endpoint")), "{members}: {problem}");
        assert_eq!(problem["pointer"], pointer, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
        assert!(!problem.to_string().contains("PRIVATE KEY-----\n"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presents_the_client_certificate_to_receivers_that_require_it() {
    let (server, known) = (Identity::self_signed("localhost"), Identity::client("known"));
    let receiver = Receiver::with_mutual_tls(&server, &known, |_| Answer::status(200)).await;
    let trusted = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&trusted, server.pem()).unwrap();
    let engine = Engine::start_set(&[("SSL_CERT_FILE", trusted.path().to_str().unwrap())]);
    let url = format!("https://localhost:{}/", receiver.address().port());
    let certificate = json!({ "certificate": known.pem(), "key": known.key_pem() });
    engine.ok("POST", "/v1/endpoints", json!({ "name": "bank", "url": url, "client_certificate": certificate })).await;
    engine.ok("POST", "/v1/endpoints", json!({ "name": "anonymous", "url": url })).await;
    let known = engine.ok("POST", "/v1/endpoints/bank/test", Value::Null).await;
    assert_eq!((&known["delivered"], &known["status"]), (&json!(true), &json!(200)), "{known}");
    let anonymous = engine.ok("POST", "/v1/endpoints/anonymous/test", Value::Null).await;
    assert_eq!((&anonymous["delivered"], &anonymous["outcome"]), (&json!(false), &json!("tls-failed")), "{anonymous}");
    assert!(anonymous["detail"].as_str().unwrap().contains("requires a client certificate"), "{anonymous}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_keeps_other_members_and_shows_no_key() {
    let engine = Engine::start(&[]);
    let (own, other) = (Identity::client("own"), Identity::client("other"));
    let certificate = |of: &Identity, key: String| json!({ "certificate": of.pem(), "key": key });
    let body = json!({
        "name": "bank", "url": "https://bank.example/", "signature": "token", "token_header": "X-Api-Key", "envelope": "data",
        "format": "xml", "client_certificate": certificate(&own, own.key_pem()),
    });
    let made = engine.ok("POST", "/v1/endpoints", body).await;
    let members = |endpoint: &Value| {
        ["signature", "token_header", "envelope", "format"].map(|name| endpoint[name].as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(members(&made), ["token", "x-api-key", "data", "xml"]);
    let shown = &made["client_certificate"];
    assert_eq!((shown["sha256"].as_str().unwrap().len(), &shown["key"]), (64, &json!("(not shown)")));

    let change = async |patch: Value| engine.ok("PATCH", "/v1/endpoints/bank", patch).await;
    let titled = change(json!({ "title": "Our bank" })).await;
    assert_eq!((members(&titled), &titled["client_certificate"], &titled["secret"]), (members(&made), shown, &Value::Null));
    // A new certificate needs its key. Only an unchanged certificate keeps the stored key.
    let renewed = change(json!({ "client_certificate": certificate(&other, other.key_pem()) })).await;
    assert_ne!(&renewed["client_certificate"], shown);
    let (status, problem) = engine
        .call("PATCH", "/v1/endpoints/bank", json!({ "client_certificate": certificate(&own, "(not shown)".into()) }))
        .await;
    assert_eq!((status, problem["pointer"].as_str()), (422, Some("/client_certificate")), "{problem}");
    let same = change(json!({ "client_certificate": certificate(&other, "(not shown)".into()) })).await;
    assert_eq!(same["client_certificate"], renewed["client_certificate"]);

    // Another signature needs another secret, and removes the token's header.
    let github = change(json!({ "signature": "github", "secret": "It's a Secret to Everybody" })).await;
    assert_eq!(members(&github), ["github", "-", "data", "xml"]);
    assert_eq!(github["secret"], "It's a Secret to Everybody");
    let (status, problem) = engine.call("PATCH", "/v1/endpoints/bank", json!({ "secret": "It's a Secret to the Bank" })).await;
    assert_eq!((status, problem["pointer"].as_str()), (422, Some("/secret")), "{problem}");
    let (status, problem) = engine.call("POST", "/v1/endpoints/bank/rotate-secret", json!({ "grace": "1h" })).await;
    assert_eq!((status, problem["pointer"].as_str()), (422, Some("/grace")), "{problem}");

    let none = change(json!({ "signature": "none", "client_certificate": null, "envelope": null, "format": null })).await;
    assert_eq!(members(&none), ["none", "-", "standard", "json"]);
    assert_eq!((&none["secret"], &none["client_certificate"]), (&Value::Null, &Value::Null));
    assert_eq!(engine.call("POST", "/v1/endpoints/bank/rotate-secret", json!({})).await.0, 409);
    let signed = change(json!({ "signature": "v1" })).await;
    assert!(signed["secret"].as_str().unwrap().starts_with("whsec_"));
    assert!(!engine.log().contains("BEGIN"), "{}", engine.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_send_an_event_refuses_invalid_json() {
    let engine = Engine::start(&[]);
    let send = async |body: &'static str| {
        let request = engine.request("POST", "/v1/events").header("content-type", "application/json").header("ce-type", "a.b");
        request.body(body).send().await.unwrap()
    };
    assert_eq!(send("{\"a\":1}").await.status(), 202);
    assert_eq!(send("").await.status(), 202);
    let refused = send("{\"a\":").await;
    assert_eq!(refused.status(), 400);
    let problem: Value = refused.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().starts_with("the body is not valid application/json"), "{problem}");
}
