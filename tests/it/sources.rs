//! Sources: webhooks of third parties, as seen by senders and by operators.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    engine::{DEADLINE, Engine, client},
    receivers::Receiver,
};

fn mac(key: &str, content: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(content);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Creates a source and returns the answer.
async fn source(engine: &Engine, name: &str, preset: &str, members: Value) -> Value {
    let mut body = json!({ "name": name, "preset": preset });
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    engine.ok("POST", "/v1/sources", body).await
}

struct Sent {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Sent {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} is no JSON", self.text))
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the id of the event that the request became.
    fn event(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()["accepted"].as_str().expect("an event").to_owned()
    }
}

/// Sends without a key, because senders have none.
async fn send(engine: &Engine, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Sent {
    let mut request = client().request(method.parse().unwrap(), format!("{}{path}", engine.url)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("the engine answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Sent { status, headers, text: response.text().await.expect("text") }
}

fn path(source: &Value) -> &str {
    source["path"].as_str().expect("a path")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_github_are_verified_and_arrive_byte_for_byte() {
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let github = source(&engine, "github", "github", json!({})).await;
    let endpoint = json!({ "name": "crm", "url": receiver.url("/"), "events": ["github.*"], "envelope": "data" });
    engine.ok("POST", "/v1/endpoints", endpoint).await;
    let secret = github["secret"].as_str().unwrap();
    let body = "{\n  \"ref\": \"refs/heads/é\",  \"n\": 1.50 }";
    let signature = format!("sha256={}", hex(&mac(secret, body.as_bytes())));
    let headers = [
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("x-github-delivery", "72d3162e"),
        ("x-hub-signature-256", signature.as_str()),
        ("authorization", "Bearer of-another"),
    ];
    let event = send(&engine, "POST", path(&github), &headers, body).await.event();
    let received = receiver.wait_for_count(1, DEADLINE).await;
    assert_eq!((received[0].text().as_str(), received[0].header("content-type")), (body, Some("application/json")));
    let story = engine.get(&format!("/v1/events/{event}")).await;
    assert_eq!((&story["type"], &story["source"]), (&json!("github.push"), &json!("github")));
    let id = story["id"].as_str().unwrap();
    assert!(
        id.starts_with("72d3162e-") && id.len() == 25,
        "GitHub's id is not signed, so the event's id also has the digest: {id}"
    );
    let kept = &story["request"];
    assert_eq!((&kept["method"], &kept["query"], &kept["body"]), (&json!("POST"), &json!(""), &Value::Null));
    assert!(kept["headers"].as_array().unwrap().contains(&json!(["x-github-event", "push"])), "{kept}");
    assert!(!kept.to_string().contains("of-another"), "{kept}");

    // A captured request that is sent again is a duplicate and changes nothing, also after a restart.
    engine.kill();
    engine.launch();
    assert_eq!(send(&engine, "POST", path(&github), &headers, body).await.event(), event);
    assert_eq!(engine.get("/v1/events").await["items"].as_array().unwrap().len(), 1);

    // Every changed request is refused, and the answer does not help an attacker.
    for (changed, with) in
        [(body.replace("1.50", "1.51"), signature.clone()), (body.to_owned(), signature.replace("sha256=", "sha256=0"))]
    {
        let headers = [headers[0], headers[1], ("x-hub-signature-256", with.as_str())];
        let refused = send(&engine, "POST", path(&github), &headers, changed).await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "not_verified"));
        assert!(!refused.text.contains(secret) && !refused.text.contains(&signature[7..]), "{}", refused.text);
    }
    let unsigned = send(&engine, "POST", path(&github), &headers[..3], body).await;
    assert_eq!((unsigned.status, unsigned.code().as_str()), (401, "not_verified"));
    assert_eq!(send(&engine, "POST", "/in/github", &headers, body).await.status, 404, "the name alone is not an address");

    let shown = engine.get("/v1/sources/github").await;
    assert_eq!((&shown["refused"], &shown["duplicates"], &shown["secret"]), (&json!(3), &json!(1), &Value::Null));
    let refusals = shown["refusals"].as_array().unwrap();
    let reasons: Vec<_> = refusals.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["missing", "malformed", "mismatch"], "newest first");
    assert_eq!(refusals[0]["address"], "127.0.0.1");
    let figures = client().get(format!("{}/metrics", engine.url)).send().await.unwrap().text().await.unwrap();
    assert!(figures.contains("innesco_source_refusals_total{reason=\"mismatch\",source=\"github\"} 1"), "{figures}");
    assert!(!figures.contains(&path(&github)[4..]), "an address is a secret");
    assert!(!engine.log().contains(&path(&github)[11..]), "{}", engine.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_a_sources_requests_survive_a_restart() {
    let mut engine = Engine::start(&[]);
    let shop = source(&engine, "shop", "bearer", json!({})).await;
    let right = format!("Bearer {}", shop["secret"].as_str().unwrap());
    let headers = |value: &'static str| [("content-type", "application/json"), ("authorization", value)];
    let right = headers(right.leak());
    let counts = async |engine: &Engine| {
        let shown = engine.get("/v1/sources/shop").await;
        let refusals = shown["refusals"].as_array().unwrap().iter().map(|one| one["reason"].clone()).collect::<Vec<_>>();
        (json!([shown["accepted"], shown["refused"], refusals]), shown["last_accepted_at"].clone())
    };
    for n in 1..=3 {
        assert_eq!(send(&engine, "POST", path(&shop), &right, "{}").await.status, 200);
        assert_eq!(send(&engine, "POST", path(&shop), &headers("Bearer wrong"), "{}").await.status, 401);
        let before = counts(&engine).await;
        assert_eq!(before.0, json!([n, n, vec!["mismatch"; n]]));
        engine.stop();
        engine.launch();
        assert_eq!(counts(&engine).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sender_is_verified_by_its_preset() {
    let engine = Engine::start_set(&[("INNESCO_EXTERNAL_URL", "https://hooks.example.com/base/")]);
    let (json, form) = (("content-type", "application/json"), ("content-type", "application/x-www-form-urlencoded"));
    let secret = "a-secret-of-theirs";
    let now = jiff::Timestamp::now().as_second().to_string();
    let body = r#"{"id":"evt_1","type":"invoice.paid"}"#;
    let stamped = |stamp: &str, between: &str| mac(secret, [stamp, between, body].concat().as_bytes());
    let stripe = format!("t={now},v1={}", hex(&stamped(&now, ".")));
    let slack = format!("v0={}", hex(&mac(secret, format!("v0:{now}:{body}").as_bytes())));
    let base64 = BASE64_STANDARD.encode(mac(secret, body.as_bytes()));
    let rfc = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let zendesk = BASE64_STANDARD.encode(stamped(&rfc, ""));
    let gitea = hex(&mac(secret, body.as_bytes()));
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("innesco:{secret}")));
    let bearer = format!("Bearer {secret}");
    for (preset, members, headers, event_type) in [
        ("stripe", json!({}), vec![("stripe-signature", stripe.as_str())], "stripe.invoice.paid"),
        ("slack", json!({}), vec![("x-slack-signature", &slack), ("x-slack-request-timestamp", &now)], "slack.received"),
        (
            "shopify",
            json!({}),
            vec![("x-shopify-hmac-sha256", &base64), ("x-shopify-topic", "orders/create")],
            "shopify.orders.create",
        ),
        (
            "woocommerce",
            json!({}),
            vec![("x-wc-webhook-signature", &base64), ("x-wc-webhook-topic", "order.created")],
            "woocommerce.order.created",
        ),
        (
            "zendesk",
            json!({}),
            vec![("x-zendesk-webhook-signature", &zendesk), ("x-zendesk-webhook-signature-timestamp", &rfc)],
            "zendesk.invoice.paid",
        ),
        ("gitea", json!({}), vec![("x-gitea-signature", &gitea), ("x-gitea-event", "push")], "gitea.push"),
        ("gitlab", json!({}), vec![("x-gitlab-token", secret), ("x-gitlab-event", "Push Hook")], "gitlab.push_hook"),
        ("basic", json!({}), vec![("authorization", &basic)], "basic.received"),
        ("bearer", json!({}), vec![("authorization", &bearer)], "bearer.received"),
        (
            "header-token",
            json!({ "header": "X-Key", "type_from": "body:/type" }),
            vec![("x-key", secret)],
            "header-token.invoice.paid",
        ),
        ("hmac", json!({ "header": "X-Sig", "type_from": "constant:paid" }), vec![("x-sig", &gitea)], "hmac.paid"),
    ] {
        let mut members = members;
        members["secret"] = json!(secret);
        let made = source(&engine, preset, preset, members).await;
        assert_eq!(made["url"], format!("https://hooks.example.com/base{}", path(&made)), "{preset}");
        let signed = [vec![json], headers.clone()].concat();
        let answer = send(&engine, "POST", path(&made), &signed, body).await;
        assert_eq!(answer.status, 200, "{preset}: {}", answer.text);
        let accepted = engine.get("/v1/events?limit=1").await;
        assert_eq!(accepted["items"][0]["type"], event_type, "{preset}: {accepted}");
        // The first of these headers carries or completes the proof.
        let (last, _) = headers[0];
        let bad: Vec<_> = signed.iter().map(|(name, value)| (*name, if *name == last { "x" } else { *value })).collect();
        let refused = send(&engine, "POST", path(&made), &bad, body).await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "not_verified"), "{preset}: {}", refused.text);
    }

    // Twilio signs the address that was configured at Twilio.
    let twilio = source(&engine, "twilio", "twilio", json!({ "secret": secret })).await;
    let url = format!("{}?kind=sms", twilio["url"].as_str().unwrap());
    let mut sha1 = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    sha1.update(format!("{url}Bodyhi thereMessageStatussentTo+39").as_bytes());
    let signature = BASE64_STANDARD.encode(sha1.finalize().into_bytes());
    let with_query = format!("{}?kind=sms", path(&twilio));
    let fields = "To=%2B39&Body=hi+there&MessageStatus=sent";
    let headers = [form, ("x-twilio-signature", signature.as_str())];
    let answer = send(&engine, "POST", &with_query, &headers, fields).await;
    assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, "text/xml"), "TwiML that does nothing");
    assert!(answer.text.ends_with("<Response></Response>"), "{}", answer.text);
    let event = engine.get("/v1/events?limit=1").await["items"][0]["event"].as_str().expect("an event").to_owned();
    let story = engine.get(&format!("/v1/events/{event}")).await;
    assert_eq!(
        (&story["type"], &story["data"]["Body"], &story["request"]["query"]),
        (&json!("twilio.sent"), &json!("hi there"), &json!("kind=sms"))
    );
    assert_eq!(story["request"]["body"], fields, "stored unchanged");
    assert_eq!(send(&engine, "POST", path(&twilio), &headers, fields).await.status, 401, "another address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_form_reaches_the_right_endpoint_through_a_plugin() {
    let engine = Engine::start(&["campaign-events", "woo-to-crm"]);
    let receiver = Receiver::start().await;
    let endpoint = async |name: &str, chosen: Value| {
        let body = json!({ "name": name, "url": receiver.url(&format!("/{name}")), "events": ["contact.*"], "where": chosen });
        engine.ok("POST", "/v1/endpoints", body).await;
    };
    endpoint("editors", json!({ "channel": ["3"], "initiator": ["admin", "api"] })).await;
    endpoint("others", json!({ "channel": ["4"] })).await;
    let campaign = source(&engine, "campaign", "none", json!({})).await;
    assert!(campaign["warning"].as_str().unwrap().contains("senders prove nothing"), "{campaign}");
    let form = [("content-type", "application/x-www-form-urlencoded"), ("user-agent", "ActiveCampaign")];
    for (list, by) in [("3", "public"), ("3", "admin")] {
        let body = format!(
            "type=subscribe&list={list}&initiated_by={by}&contact%5Bemail%5D=anna%40example.com&contact%5Btags%5D%5B%5D=a"
        );
        send(&engine, "POST", path(&campaign), &form, body).await.event();
    }
    let received = receiver.wait_for_count(1, DEADLINE).await;
    assert_eq!(received[0].path, "/editors");
    let body: Value = serde_json::from_slice(&received[0].body).unwrap();
    assert_eq!(body["data"], json!({ "email": "anna@example.com", "list": "3", "sent_by": "ActiveCampaign" }));

    // WooCommerce first tests the address with an unsigned request. After that it signs its requests.
    engine.ok("POST", "/v1/endpoints", json!({ "name": "crm", "url": receiver.url("/crm") })).await;
    engine.ok("POST", "/v1/endpoints", json!({ "name": "mailer", "url": receiver.url("/mailer") })).await;
    let woo = source(&engine, "shop", "woocommerce", json!({})).await;
    let ping = send(&engine, "POST", path(&woo), &form, "webhook_id=7").await;
    assert_eq!((ping.status, ping.text.as_str()), (200, ""));
    let order = r#"{"id":7,"status":"processing","currency":"EUR","total":"129.50","billing":{"email":"anna@example.com"},"line_items":[]}"#;
    let signature = BASE64_STANDARD.encode(mac(woo["secret"].as_str().unwrap(), order.as_bytes()));
    let headers = [
        ("content-type", "application/json"),
        ("x-wc-webhook-topic", "order.created"),
        ("x-wc-webhook-delivery-id", "d1"),
        ("x-wc-webhook-signature", signature.as_str()),
    ];
    send(&engine, "POST", path(&woo), &headers, order).await.event();
    let received = receiver.wait_for_count(3, DEADLINE).await;
    let mut paths: Vec<_> = received.iter().map(|one| one.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/crm", "/editors", "/mailer"], "the other endpoints receive nothing");
    // WooCommerce gives two deliveries within one second the same delivery id.
    let other = order.replace("129.50", "7.00");
    let signature = BASE64_STANDARD.encode(mac(woo["secret"].as_str().unwrap(), other.as_bytes()));
    let again = [headers[0], headers[1], headers[2], ("x-wc-webhook-signature", signature.as_str())];
    send(&engine, "POST", path(&woo), &again, other).await.event();
    receiver.wait_for_count(5, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn special_requests_of_senders_are_handled() {
    let engine = Engine::start(&[]);
    let slack = source(&engine, "slack", "slack", json!({ "secret": "a-secret-of-theirs" })).await;
    let now = jiff::Timestamp::now().as_second().to_string();
    let body = r#"{"type":"url_verification","token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV"}"#;
    let signature = format!("v0={}", hex(&mac("a-secret-of-theirs", format!("v0:{now}:{body}").as_bytes())));
    let headers = [("content-type", "application/json"), ("x-slack-signature", &signature), ("x-slack-request-timestamp", &now)];
    let answer = send(&engine, "POST", path(&slack), &headers, body).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "3eZbrw1aBm2rZgRNFdxV"));
    let unsigned = send(&engine, "POST", path(&slack), &headers[..1], body).await;
    assert_eq!(unsigned.status, 401, "a stranger is not answered");

    let form = [("content-type", "application/x-www-form-urlencoded")];
    let checked = send(&engine, "POST", path(&slack), &form, "ssl_check=1&token=abc").await;
    assert_eq!((checked.status, checked.text.as_str()), (200, ""), "a check of the certificate needs no proof");
    assert_eq!(send(&engine, "POST", path(&slack), &form, "ssl_check=0&token=abc").await.status, 401);
    let command = "command=%2Fdo&text=hi";
    let signature = format!("v0={}", hex(&mac("a-secret-of-theirs", format!("v0:{now}:{command}").as_bytes())));
    let signed = [form[0], ("x-slack-signature", &signature), ("x-slack-request-timestamp", &now)];
    let shown = send(&engine, "POST", path(&slack), &signed, command).await;
    assert_eq!((shown.status, shown.text.as_str()), (200, ""), "Slack shows every other answer to its user");
    assert_eq!(engine.get("/v1/events").await["items"].as_array().unwrap().len(), 1, "the command alone is an event");

    // A hub registers with the right token. Neither its questions nor HEAD count as refusals, regardless of their number.
    let meta = source(&engine, "meta", "meta", json!({ "secret": "a-secret-of-theirs", "verify_token": "T-0123456789" })).await;
    assert_eq!((&meta["has_verify_token"], meta.to_string().contains("T-0123456789")), (&json!(true), false), "{meta}");
    let ask = async |token: &str| {
        let query = format!("{}?hub.mode=subscribe&hub.verify_token={token}&hub.challenge=PROBE123", path(&meta));
        let answer = send(&engine, "GET", &query, &[], "").await;
        let kind = answer.headers.get("x-content-type-options").map(|value| value.to_str().unwrap().to_owned());
        (answer.status, answer.text, kind)
    };
    let repeated = (200, "PROBE123".to_owned(), Some("nosniff".to_owned()));
    for _ in 0..32 {
        assert_eq!(ask("T-0123456789").await, repeated);
        assert_eq!(send(&engine, "HEAD", path(&meta), &[], "").await.status, 200);
    }
    assert_eq!(ask("other").await.0, 401);
    assert_eq!(send(&engine, "GET", path(&meta), &[], "").await.status, 405);
    engine.ok("PATCH", "/v1/sources/meta", json!({ "title": "Our app" })).await;
    assert_eq!(ask("T-0123456789").await, repeated, "another change leaves the token");
    let without = engine.ok("PATCH", "/v1/sources/meta", json!({ "verify_token": null })).await;
    assert_eq!((&without["has_verify_token"], ask("T-0123456789").await.0), (&json!(false), 405));

    let zoom = source(&engine, "zoom", "zoom", json!({ "secret": "a-secret-of-theirs" })).await;
    let body = r#"{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}"#;
    let signature = format!("v0={}", hex(&mac("a-secret-of-theirs", format!("v0:{now}:{body}").as_bytes())));
    let headers = [("content-type", "application/json"), ("x-zm-signature", &signature), ("x-zm-request-timestamp", &now)];
    let answer = send(&engine, "POST", path(&zoom), &headers, body).await;
    let hashed = hex(&mac("a-secret-of-theirs", b"qgg8vlvZRS6UYooatFL8Aw"));
    assert_eq!(answer.json(), json!({ "plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": hashed }));

    let any = source(&engine, "any", "none", json!({ "rate": "2/s", "methods": ["GET", "POST", "PUT"] })).await;
    let asked = [("webhook-request-origin", "eventemitter.example.com"), ("webhook-request-rate", "120")];
    let consent = send(&engine, "OPTIONS", path(&any), &asked, "").await;
    let header = |name: &str| consent.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!((consent.status, header("webhook-allowed-origin")), (200, Some("eventemitter.example.com".to_owned())));
    assert_eq!((header("webhook-allowed-rate"), header("allow")), (Some("120".to_owned()), Some("GET, POST, PUT".to_owned())));
    let got = send(&engine, "GET", &format!("{}?list=3&by=admin", path(&any)), &[], "").await.event();
    assert_eq!(engine.get(&format!("/v1/events/{got}")).await["data"], json!({ "list": "3", "by": "admin" }));
    assert_eq!(engine.get("/v1/events").await["items"].as_array().unwrap().len(), 2, "none of the questions is an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_become_data_and_nothing_signed_is_lost() {
    let engine = Engine::start(&[]);
    let any =
        source(&engine, "any", "none", json!({ "attributes": { "channel": "body:/order/list", "by": "header:x-by" } })).await;
    let sent = async |content_type: &str, body: &'static [u8]| {
        let headers = [("content-type", content_type), ("x-by", "admin")];
        let event = send(&engine, "POST", path(&any), &headers, body).await.event();
        engine.get(&format!("/v1/events/{event}")).await
    };
    let xml = sent("text/xml; charset=utf-8", b"<order id='7'><list>news</list><line>a</line><line>b</line></order>").await;
    assert_eq!(xml["data"], json!({ "order": { "@id": "7", "list": "news", "line": ["a", "b"] } }));
    assert_eq!(xml["attributes"], json!({ "channel": "news", "by": "admin" }));
    assert!(xml["request"]["body"].as_str().unwrap().starts_with("<order id='7'>"), "{xml}");
    let broken = sent("application/json", b"{\"a\":").await;
    assert_eq!((&broken["content_type"], &broken["data"]), (&json!("application/octet-stream"), &json!("{\"a\":")));
    assert_eq!(broken["request"]["headers"][0], json!(["content-type", "application/json"]), "the declared content type");
    let hostile = sent("text/xml", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>").await;
    assert_eq!(hostile["content_type"], "application/octet-stream");
    let bytes = sent("image/png", b"\x89PNG\xff").await;
    assert_eq!((&bytes["content_type"], &bytes["data_base64"]), (&json!("image/png"), &json!("iVBOR/8=")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_accepts_only_configured_requests() {
    let engine = Engine::start_set(&[("INNESCO_TRUSTED_PROXIES", "127.0.0.1")]);
    let members = json!({
        "allow": ["192.0.2.0/24", "127.0.0.1"], "content_types": ["application/json", "text/*"], "body_bytes_max": 10,
        "answer_status": 202, "answer_body": "<ok/>", "answer_content_type": "text/xml",
    });
    let strict = source(&engine, "strict", "none", members).await;
    let json = ("content-type", "application/json");
    let sent = async |method: &str, headers: &[(&str, &str)], body: &'static str| {
        send(&engine, method, path(&strict), headers, body).await
    };
    let good = sent("POST", &[json], "{}").await;
    let kind = good.headers["content-type"].to_str().unwrap();
    assert_eq!((good.status, good.text.as_str(), kind), (202, "<ok/>", "text/xml"));
    assert_eq!(sent("POST", &[("content-type", "text/plain")], "hi").await.status, 202);
    assert_eq!(sent("POST", &[json, ("x-forwarded-for", "203.0.113.1, 192.0.2.7")], "{}").await.status, 202);
    for (method, headers, body, status, code) in [
        ("POST", vec![json, ("x-forwarded-for", "192.0.2.7, 203.0.113.1")], "{}", 403, "address_not_allowed"),
        ("PUT", vec![json], "{}", 405, "method_not_allowed"),
        ("POST", vec![("content-type", "image/png")], "x", 415, "unsupported_media_type"),
        ("POST", vec![], "x", 415, "unsupported_media_type"),
        ("POST", vec![json, ("content-encoding", "gzip")], "{}", 415, "unsupported_media_type"),
        ("POST", vec![json], "{\"a\": 1234567}", 413, "body_too_large"),
        ("POST", vec![json, ("innesco-depth", "9")], "{}", 508, "loop_detected"),
    ] {
        let refused = sent(method, &headers, body).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{method} {headers:?}: {}", refused.text);
        let allow = refused.headers.get("allow").map(|value| value.to_str().unwrap());
        assert_eq!(allow, (status == 405).then_some("POST"));
    }
    let reasons: Vec<Value> =
        engine.get("/v1/sources/strict").await["refusals"].as_array().unwrap().iter().map(|one| one["reason"].clone()).collect();
    assert_eq!(reasons, ["depth", "body", "content-type", "content-type", "content-type", "method", "address"]);

    let slow = source(&engine, "slow", "none", json!({ "rate": "1/h" })).await;
    assert_eq!(send(&engine, "POST", path(&slow), &[json], "{}").await.status, 200);
    let refused = send(&engine, "POST", path(&slow), &[json], "{}").await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_requests_is_limited_and_blocks_no_other_caller() {
    let engine = Engine::start_set(&[("INNESCO_TRUSTED_PROXIES", "127.0.0.1")]);
    let made = source(&engine, "shop", "header-token", json!({ "secret": "a-secret-of-theirs" })).await;
    let sent = async |from: &str, token: &str| {
        let headers = [("x-forwarded-for", from), ("x-webhook-token", token), ("content-type", "application/json")];
        send(&engine, "POST", path(&made), &headers, "{}").await
    };
    let mut statuses = Vec::new();
    let until = std::time::Instant::now() + DEADLINE;
    while !statuses.contains(&429) {
        assert!(std::time::Instant::now() < until, "{statuses:?}");
        statuses.push(sent("203.0.113.1", "guess").await.status);
    }
    assert!(statuses.len() >= 30 && statuses[..statuses.len() - 1].iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!(sent("192.0.2.1", "a-secret-of-theirs").await.status, 200, "another caller");
    assert_eq!(
        sent("203.0.113.1", "a-secret-of-theirs").await.status,
        200,
        "a valid proof from the flooding address is still accepted"
    );
    assert_eq!(sent("203.0.113.1", "guess").await.status, 429, "wrong requests from the flooding address are still limited");
    let github = source(&engine, "github", "github", json!({ "secret": "a-secret-of-theirs" })).await;
    let signed = async |key: &str| {
        let signature = format!("sha256={}", hex(&mac(key, b"{}")));
        let headers = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-hub-signature-256", signature.as_str()),
            ("content-type", "application/json"),
        ];
        send(&engine, "POST", path(&github), &headers, "{}").await.status
    };
    while signed("another-secret").await != 429 {
        assert!(std::time::Instant::now() < until, "the limit of refused requests was never reached");
    }
    assert_eq!(
        signed("a-secret-of-theirs").await,
        200,
        "a verified request is accepted despite bad requests from the same address"
    );
    let shown = engine.get("/v1/sources/shop").await;
    assert_eq!(shown["refused"].as_u64().unwrap(), statuses.len() as u64 + 1);
    assert_eq!(shown["refusals"].as_array().unwrap().len(), 20, "bounded");
}

/// Sends only the head of a request whose body would be 8 MiB, and returns the status of the answer.
async fn status_without_body(engine: &Engine, to: &str, headers: &[(&str, &str)]) -> u16 {
    let address = engine.url.strip_prefix("http://").expect("a plain address");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("POST {to} HTTP/1.1\r\nhost: innesco\r\ncontent-length: 8388608\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).await.expect("the head is taken");
    let mut line = [0; 12];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut line)).await.expect("an answer without the body").expect("bytes");
    String::from_utf8_lossy(&line).split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_a_usable_proof_is_answered_before_its_body() {
    let engine = Engine::start_set(&[("INNESCO_EXTERNAL_URL", "https://hooks.example.com")]);
    let now = jiff::Timestamp::now().as_second().to_string();
    let many = ["v1,"; 15_000].join(" ");
    let hex = "00".repeat(32);
    let requests = [
        ("standard-webhooks", vec![("webhook-id", "a"), ("webhook-timestamp", &now), ("webhook-signature", &many)]),
        ("standard-webhooks", vec![("webhook-id", "a"), ("webhook-timestamp", "1"), ("webhook-signature", "v1,AAAA")]),
        ("github", vec![("x-github-event", "push")]),
        ("github", vec![("x-hub-signature-256", &hex)]),
        ("bearer", vec![("authorization", "Bearer of-another")]),
        ("basic", vec![("authorization", "Basic aW5uZXNjbzpub3Bl")]),
        ("header-token", vec![("x-webhook-token", "of-another")]),
        ("gitlab", vec![("x-gitlab-token", "of-another")]),
        ("woocommerce", vec![("content-type", "application/x-www-form-urlencoded")]),
        ("twilio", vec![("content-type", "application/x-www-form-urlencoded"), ("x-twilio-signature", "x")]),
    ];
    for (number, (preset, headers)) in requests.into_iter().enumerate() {
        let name = format!("{preset}-{number}");
        let members = if preset == "twilio" { json!({ "secret": "a-secret-of-theirs" }) } else { json!({}) };
        let made = source(&engine, &name, preset, members).await;
        assert_eq!(status_without_body(&engine, path(&made), &headers).await, 401, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_id_is_refused() {
    let engine = Engine::start(&[]);
    let made = source(&engine, "svix", "standard-webhooks", json!({})).await;
    let (secret, now) = (made["secret"].as_str().unwrap(), jiff::Timestamp::now().as_second().to_string());
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut hmac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    hmac.update(format!("msg_1.{now}.{{}}").as_bytes());
    let signature = format!("v1,{}", BASE64_STANDARD.encode(hmac.finalize().into_bytes()));
    let signed = [("svix-id", "msg_1"), ("svix-timestamp", now.as_str()), ("svix-signature", signature.as_str())];
    let event = send(&engine, "POST", path(&made), &signed, "{}").await.event();
    assert_eq!(send(&engine, "POST", path(&made), &signed, "{}").await.event(), event, "a repeat");
    for forged in ["forged-1", "forged-2"] {
        let refused = send(&engine, "POST", path(&made), &[&signed[..], &[("webhook-id", forged)]].concat(), "{}").await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "not_verified"), "{}", refused.text);
    }
    assert_eq!(engine.get("/v1/events").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_event_cannot_pass_for_one_of_a_source() {
    let engine = Engine::start(&[]);
    // Before the source exists, its name is free. If an event was published under this name earlier, the source can still use the
    // same id.
    let early = json!({ "type": "shop.order", "source": "shop", "id": "msg_1" });
    let published = engine.ok("POST", "/v1/events", early.clone()).await["event"].clone();
    let made = source(&engine, "shop", "standard-webhooks", json!({ "type_from": "constant:order" })).await;
    let key = BASE64_STANDARD.decode(made["secret"].as_str().unwrap().strip_prefix("whsec_").unwrap()).unwrap();
    let now = jiff::Timestamp::now().as_second().to_string();
    let mut hmac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    hmac.update(format!("msg_1.{now}.{{}}").as_bytes());
    let signature = format!("v1,{}", BASE64_STANDARD.encode(hmac.finalize().into_bytes()));
    let signed = [("webhook-id", "msg_1"), ("webhook-timestamp", now.as_str()), ("webhook-signature", signature.as_str())];
    let event = send(&engine, "POST", path(&made), &signed, "{}").await.event();
    assert_ne!(json!(event), published, "the source's event is another one");
    let story = engine.get(&format!("/v1/events/{event}")).await;
    assert_eq!((&story["source"], &story["type"], &story["id"]), (&json!("shop"), &json!("shop.order"), &json!("msg_1")));

    // Now the name belongs to the source: neither a single event nor a batch can use it.
    let good = json!({ "type": "a.b" });
    for (body, place) in [(early.clone(), "/source"), (json!([good, early]), "/1/source")] {
        let (status, problem) = engine.call("POST", "/v1/events", body).await;
        assert_eq!((status, &problem["code"], &problem["pointer"]), (400, &json!("bad_event"), &json!(place)), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("\"shop\" is the name of a source"), "{problem}");
    }
    for (taken, whose) in [("shop", "is the name of a source"), ("innesco", "belongs to the engine"), ("plugin/x", "belongs to")]
    {
        let headers = [("ce-specversion", "1.0"), ("ce-type", "a.b"), ("ce-source", taken), ("ce-id", "1")];
        let request = engine.request("POST", "/v1/events");
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status == 400 && text.contains(whose), "{taken}: {status} {text}");
    }
    assert_eq!(engine.get("/v1/events").await["items"].as_array().unwrap().len(), 2, "nothing of a refused batch was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_without_a_proof_costs_little_memory() {
    let engine = Engine::start_set(&[("INNESCO_EXTERNAL_URL", "https://hooks.example.com")]);
    let twilio = source(&engine, "twilio", "twilio", json!({ "secret": "a-secret-of-theirs" })).await;
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("x-twilio-signature", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    assert_eq!(send(&engine, "POST", path(&twilio), &headers, "a=1").await.status, 401);
    let before = engine.memory_kib();
    let refused = send(&engine, "POST", path(&twilio), &headers, "a&".repeat(500_000)).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "not_verified"), "{}", refused.text);
    assert!(refused.text.contains("more than 1000 fields"), "{}", refused.text);
    let grown = engine.memory_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "a form of 1 MB took {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_to_one_source_leave_room_for_others() {
    /// Number of bodies that fill one source's share of the memory.
    const FILL: usize = 256;
    let engine = Engine::start(&[]);
    let signature = format!("sha256={}", "00".repeat(32));
    let (slow, other) = (source(&engine, "slow", "github", json!({})).await, source(&engine, "other", "github", json!({})).await);
    let address = engine.url.strip_prefix("http://").unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: innesco\r\nx-hub-signature-256: {signature}\r\ncontent-length: 70000\r\n\r\n",
        path(&slow)
    );
    let mut held = Vec::new();
    for _ in 0..FILL {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'x'; 65_536]).await.unwrap();
        held.push(stream);
    }
    let to = async |source: &Value| {
        let headers = [("content-type", "application/json"), ("x-hub-signature-256", signature.as_str())];
        send(&engine, "POST", path(source), &headers, "{}").await.status
    };
    let until = std::time::Instant::now() + DEADLINE;
    while to(&slow).await != 503 {
        assert!(std::time::Instant::now() < until, "the source's share was never full");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(to(&other).await, 401, "another source reads its bodies");
    engine.send("still.served", json!({})).await;
    drop(held);
    while to(&slow).await == 503 {
        assert!(std::time::Instant::now() < until, "the share was never given back");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_are_valid_during_a_rotation() {
    let mut engine = Engine::start(&[]);
    let made = source(&engine, "github", "github", json!({})).await;
    let signed = async |engine: &Engine, secret: &str, delivery: &str| {
        let signature = format!("sha256={}", hex(&mac(secret, b"{}")));
        let headers =
            [("content-type", "application/json"), ("x-github-delivery", delivery), ("x-hub-signature-256", &signature)];
        send(engine, "POST", path(&made), &headers, "{}").await.status
    };
    let old = made["secret"].as_str().unwrap().to_owned();
    let rotated = engine.ok("POST", "/v1/sources/github/rotate-secret", json!({ "grace": "1h" })).await;
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert!(old != new && rotated["path"] == made["path"] && rotated["secrets"] == 2);
    engine.ok("POST", "/v1/keys/rekey", Value::Null).await;
    engine.stop();
    engine.launch();
    assert_eq!((signed(&engine, &old, "1").await, signed(&engine, &new, "2").await), (200, 200));
    engine.ok("POST", "/v1/sources/github/rotate-secret", json!({ "grace": "0s", "secret": "one-of-our-own" })).await;
    assert_eq!((signed(&engine, &old, "3").await, signed(&engine, &new, "4").await), (401, 401));
    assert_eq!(signed(&engine, "one-of-our-own", "5").await, 200);
    // No secret and no address is in clear text on the disk.
    engine.stop();
    for entry in std::fs::read_dir(engine.data_folder()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        let bytes = std::fs::read(&entry).unwrap();
        for secret in [new.as_str(), "one-of-our-own", &path(&made)[11..]] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{} holds {secret}", entry.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_addresses_are_valid_during_a_rotation() {
    let mut engine = Engine::start_set(&[("INNESCO_EXTERNAL_URL", "https://hooks.example.com")]);
    let made = source(&engine, "campaign", "none", json!({})).await;
    let sent = async |engine: &Engine, to: &str| send(engine, "POST", to, &[], "x").await.status;
    let (first, rotated) = (path(&made), engine.ok("POST", "/v1/sources/campaign/rotate-address", Value::Null).await);
    let second = path(&rotated);
    assert!(first != second && second.starts_with("/in/campaign-") && rotated["id"] == made["id"], "{rotated}");
    assert_eq!((&rotated["url"], &rotated["addresses"]), (&json!(format!("https://hooks.example.com{second}")), &json!(2)));
    // Both addresses are valid for a day, also after a restart and a change of the master key.
    engine.ok("POST", "/v1/keys/rekey", Value::Null).await;
    engine.kill();
    engine.launch();
    assert_eq!([sent(&engine, first).await, sent(&engine, second).await], [200, 200]);
    let changed = engine.ok("PATCH", "/v1/sources/campaign", json!({ "title": "The campaigns" })).await;
    assert_eq!((&changed["path"], &changed["addresses"]), (&json!(second), &json!(2)), "a change of anything else leaves them");

    // Without a grace period all earlier addresses end at once.
    let third = engine.ok("POST", "/v1/sources/campaign/rotate-address", json!({ "grace": "0s" })).await;
    assert_eq!([sent(&engine, first).await, sent(&engine, second).await, sent(&engine, path(&third)).await], [404, 404, 200]);
    let short = engine.ok("POST", "/v1/sources/campaign/rotate-address", json!({ "grace": "100ms" })).await;
    engine.wait("/v1/sources/campaign", "the grace is over", |source| source["addresses"] == 1).await;
    assert_eq!([sent(&engine, path(&third)).await, sent(&engine, path(&short)).await], [404, 200]);

    for bad in [json!({ "grace": "8d" }), json!({ "grace": "soon" })] {
        let (status, problem) = engine.call("POST", "/v1/sources/campaign/rotate-address", bad).await;
        assert_eq!((status, &problem["code"], &problem["pointer"]), (422, &json!("bad_value"), &json!("/grace")), "{problem}");
    }
    assert_eq!(engine.call("POST", "/v1/sources/none/rotate-address", Value::Null).await.0, 404);

    let run = |words: &[&str]| {
        let output = engine.command().args(words).output().expect("the program runs");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = run(&["source", "rotate-address", "campaign", "--grace", "2d"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("and the previous one") && said.contains("stays valid for 2d"), "{said}");
    let (code, said) = run(&["source", "rotate-address", "campaign", "--grace", "0s"]);
    assert!(code == Some(2) && said.contains("senders to the old one get 404"), "{said}");
    let (code, said) = run(&["source", "rotate-address", "campaign", "--grace", "0s", "--yes"]);
    assert!(code == Some(0) && said.contains("The old address is no longer valid"), "{said}");
    assert_eq!(sent(&engine, path(&short)).await, 404);
    assert!(!engine.log().contains(&second[13..]), "an address is a secret: {}", engine.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_created_changed_listed_and_removed() {
    let engine = Engine::start(&[]);
    let made = source(&engine, "crm", "hmac", json!({ "header": "X-Sig", "title": "Our CRM", "rate": "50/s" })).await;
    assert_eq!(
        (made["secret"].as_str().unwrap().len(), &made["header"], &made["template"]),
        (64, &json!("x-sig"), &json!("{body}"))
    );
    let change = json!({ "template": "{timestamp}.{body}", "timestamp": "header:X-Time", "rate": null });
    let changed = engine.ok("PATCH", "/v1/sources/crm", change).await;
    assert_eq!(
        (&changed["timestamp"], &changed["tolerance"], &changed["rate"]),
        (&json!("header:x-time"), &json!("5m"), &Value::Null)
    );
    assert_eq!((&changed["secret"], &changed["title"], &changed["path"]), (&Value::Null, &json!("Our CRM"), &made["path"]));
    let other = engine
        .ok("PATCH", "/v1/sources/crm", json!({ "preset": "bearer", "header": null, "template": null, "timestamp": null }))
        .await;
    assert!(other["secret"].as_str().unwrap() != made["secret"].as_str().unwrap(), "another preset, another secret");

    for (method, target, body, status, code, pointer) in [
        ("POST", "/v1/sources", json!({ "name": "crm", "preset": "none" }), 409, "name_taken", Value::Null),
        ("POST", "/v1/sources", json!({ "name": "a", "preset": "gitbuh" }), 422, "bad_source", json!("/preset")),
        ("POST", "/v1/sources", json!({ "name": "a", "preset": "stripe" }), 422, "bad_source", json!("/secret")),
        (
            "POST",
            "/v1/sources",
            json!({ "name": "a", "preset": "github", "secret": "short" }),
            422,
            "bad_source",
            json!("/secret"),
        ),
        (
            "POST",
            "/v1/sources",
            json!({ "name": "a", "preset": "none", "secret": "of-no-use" }),
            422,
            "bad_source",
            json!("/secret"),
        ),
        (
            "POST",
            "/v1/sources",
            json!({ "name": "a", "preset": "standard-webhooks", "secret": "no-whsec!" }),
            422,
            "bad_source",
            json!("/secret"),
        ),
        (
            "POST",
            "/v1/sources",
            json!({ "name": "a", "preset": "twilio", "secret": "a-secret-of-theirs" }),
            422,
            "bad_source",
            json!("/preset"),
        ),
        (
            "POST",
            "/v1/sources",
            json!({ "name": "a", "preset": "none", "body_bytes_max": 26_214_400 }),
            422,
            "bad_source",
            json!("/body_bytes_max"),
        ),
        (
            "POST",
            "/v1/sources",
            json!({ "name": "a", "preset": "meta", "secret": "a-secret-of-theirs", "verify_token": "short" }),
            422,
            "bad_source",
            json!("/verify_token"),
        ),
        ("POST", "/v1/sources", json!({ "name": "innesco", "preset": "none" }), 422, "bad_source", json!("/name")),
        ("POST", "/v1/sources", json!({ "name": "A", "preset": "none" }), 422, "bad_source", json!("/name")),
        ("PATCH", "/v1/sources/crm", json!({ "name": "other" }), 422, "bad_source", json!("/name")),
        ("PATCH", "/v1/sources/crm", json!({ "secret": "another-secret" }), 422, "bad_source", json!("/secret")),
        ("PATCH", "/v1/sources/crn", json!({}), 404, "not_found", Value::Null),
    ] {
        let (answered, problem) = engine.call(method, target, body.clone()).await;
        assert_eq!(
            (answered, problem["code"].as_str(), &problem["pointer"]),
            (status, Some(code), &pointer),
            "{body}: {problem}"
        );
    }
    let none = source(&engine, "any", "none", json!({})).await;
    assert_eq!(engine.call("POST", "/v1/sources/any/rotate-secret", Value::Null).await.0, 409);
    let github = source(&engine, "large", "github", json!({})).await;
    assert!(github["warning"].as_str().unwrap().contains("up to 26214400 bytes"), "{github}");
    assert_eq!(engine.call("DELETE", "/v1/sources/large", Value::Null).await.0, 204);
    let names: Vec<Value> =
        engine.get("/v1/sources").await["items"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["any", "crm"]);
    assert_eq!(engine.call("DELETE", "/v1/sources/any", Value::Null).await.0, 204);
    assert_eq!(send(&engine, "POST", path(&none), &[], "x").await.status, 404);
    let audit = engine.get("/v1/audit").await;
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(actions[0], "source.delete", "{actions:?}");
    assert!(actions.contains(&"source.rotate-secret") && actions.contains(&"source.update"), "{actions:?}");

    let run = |words: &[&str]| {
        let output = engine.command().args(words).output().expect("the program runs");
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, added, said) = run(&["source", "add", "github", "--preset", "github"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(added.contains("/in/github-") && added.contains("it is not shown again"), "{added}");
    assert!(run(&["source", "list"]).1.contains("github"));
    assert!(run(&["source", "rotate-secret", "github", "--grace", "1h"]).1.contains("The old secret stays valid for 1h"));
    assert!(run(&["source", "show", "github"]).1.contains("header:x-github-event"));
    assert_eq!(run(&["source", "remove", "github", "--yes"]).0, Some(0));
}
