//! Automation tools subscribe and unsubscribe (REST hooks). For this each tool needs only a key of the role `subscribe`. Such a key
//! reaches only public addresses, so tests with a receiver use a key of the role `operate`.

use std::{
    collections::BTreeSet,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, client},
    flow::verify,
    receivers::{Answer, Received, Receiver},
};

/// A program with its key.
struct Program<'a> {
    engine: &'a Engine,
    key: String,
}

impl<'a> Program<'a> {
    async fn with_role(engine: &'a Engine, role: &str) -> Self {
        Self::named(engine, &format!("a {role} key"), role).await
    }

    async fn named(engine: &'a Engine, name: &str, role: &str) -> Self {
        let made = engine.ok("POST", "/v1/keys", json!({ "name": name, "role": role })).await;
        Self { engine, key: made["key"].as_str().expect("a key").to_owned() }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = client().request(method.parse().expect("a method"), format!("{}{path}", self.engine.url));
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.bearer_auth(&self.key).send().await.expect("the engine answers");
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.expect("text")).unwrap_or_default())
    }

    async fn subscribe(&self, url: &str, event: &str) -> (u16, Value) {
        self.call("POST", "/v1/subscriptions", json!({ "target_url": url, "event": event })).await
    }
}

fn id(subscription: &Value) -> &str {
    subscription["id"].as_str().unwrap_or_else(|| panic!("{subscription} has no id"))
}

fn run(engine: &Engine, words: &[&str]) -> String {
    let Output { status, stdout, stderr } = engine.command().args(words).output().expect("the program runs");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_subscribes_receives_and_unsubscribes() {
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let tool = Program::with_role(&engine, "operate").await;
    let url = receiver.url("/hooks/standard/1");
    let (status, made) = tool.subscribe(&url, "order.*").await;
    assert_eq!(
        (status, &made["target_url"], &made["event"], &made["state"]),
        (201, &json!(url), &json!("order.*"), &json!("active"))
    );

    // Repeated and concurrent requests get the same subscription. A request for another event or address gets another subscription.
    let (status, again) = tool.subscribe(&url, "order.*").await;
    assert_eq!((status, id(&again), &again["secret"]), (200, id(&made), &Value::Null));
    let other = receiver.url("/hooks/standard/2");
    let answers = tokio::join!(tool.subscribe(&other, "a.b"), tool.subscribe(&other, "a.b"), tool.subscribe(&other, "a.b"));
    let answers = [answers.0, answers.1, answers.2];
    let mut statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 201]);
    assert_eq!(answers.iter().map(|(_, one)| id(one)).collect::<BTreeSet<_>>().len(), 1, "{answers:?}");
    assert_ne!(id(&tool.subscribe(&url, "a.b").await.1), id(&answers[0].1));

    engine.send("contact.added", json!({})).await;
    engine.send("order.created", json!({ "id": 7 })).await;
    let received = receiver.wait_for_count(1, DEADLINE).await;
    assert_eq!(received[0].path, "/hooks/standard/1");
    verify(&made["secret"], &received[0]);
    let body: Value = serde_json::from_slice(&received[0].body).expect("JSON");
    assert_eq!((&body["type"], &body["data"]), (&json!("order.created"), &json!({ "id": 7 })));

    // A subscription is an endpoint like others, and shows which key created it.
    let name = made["endpoint"].as_str().expect("a name").to_owned();
    let endpoint = engine.get(&format!("/v1/endpoints/{name}")).await;
    assert_eq!((&endpoint["id"], &endpoint["on_gone"]), (&made["id"], &json!("remove")));
    let card = run(&engine, &["endpoint", "show", &name]);
    assert!(card.contains("subscribed with the key \"a operate key\"") && card.contains("removed: a program created"), "{card}");
    let audit = engine.get("/v1/audit?action=subscription.create").await;
    assert_eq!((&audit["items"][5]["key"], &audit["items"][5]["target"]), (&json!("a operate key"), &made["id"]), "{audit:#}");

    // When the subscription is deleted, its waiting deliveries are cancelled and its delivered ones stay.
    engine.ok("POST", &format!("/v1/endpoints/{name}/pause"), Value::Null).await;
    let event = engine.send("order.paid", json!({})).await;
    assert_eq!(engine.settled(&event).await["deliveries"][0]["state"], "pending");
    let path = format!("/v1/subscriptions/{}", id(&made));
    assert_eq!(tool.call("GET", &path, Value::Null).await.1["state"], "paused");
    assert_eq!(tool.call("DELETE", &path, Value::Null).await.0, 204);
    let (status, problem) = tool.call("DELETE", &path, Value::Null).await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{problem}");
    engine
        .wait(&format!("/v1/events/{event}"), "waiting deliveries are cancelled", |story| {
            story["deliveries"][0]["state"] == "cancelled"
        })
        .await;
    assert_eq!(engine.call("GET", &format!("/v1/endpoints/{name}"), Value::Null).await.0, 404);

    // The other subscriptions still exist, also after a restart.
    let key = tool.key;
    engine.kill();
    engine.launch();
    let tool = Program { engine: &engine, key };
    let (status, listed) = tool.call("GET", "/v1/subscriptions", Value::Null).await;
    let urls: BTreeSet<&str> =
        listed["items"].as_array().unwrap().iter().map(|one| one["target_url"].as_str().unwrap()).collect();
    assert_eq!((status, urls), (200, BTreeSet::from([url.as_str(), other.as_str()])));
    assert_eq!(tool.subscribe(&other, "a.b").await.0, 200);
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_answers_410_is_removed_and_its_deliveries_cancelled() {
    let engine = Engine::start(&[]);
    // The first delivery waits an hour for its retry.
    let receiver = Receiver::sequence(vec![Answer::status(503), Answer::status(410), Answer::status(200)]).await;
    let news = Receiver::start().await;
    engine.endpoint("news", &news.url("/"), &["innesco.endpoint.*"]).await;
    engine.endpoint("crm", &news.url("/crm"), &["order.*"]).await;
    let tool = Program::with_role(&engine, "operate").await;
    let (_, made) = tool.subscribe(&receiver.url("/"), "order.*").await;
    let name = made["endpoint"].as_str().expect("a name");
    engine.ok("PATCH", &format!("/v1/endpoints/{name}"), json!({ "schedule": ["0s", "1h"] })).await;
    // The endpoint is still a subscription after a person has changed it.
    assert_eq!(tool.call("GET", &format!("/v1/subscriptions/{}", id(&made)), Value::Null).await.0, 200);

    let of = async |event: &str| {
        let story = engine.get(&format!("/v1/events/{event}")).await;
        let deliveries = story["deliveries"].as_array().expect("deliveries").clone();
        deliveries.into_iter().find(|one| one["endpoint"] == made["id"]).expect("a delivery to the subscription")
    };
    let waiting = engine.send("order.created", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
    let gone = engine.send("order.paid", json!({})).await;
    receiver.wait_for_count(2, DEADLINE).await;
    engine
        .wait(&format!("/v1/endpoints/{}", id(&made)), "the subscription is removed", |answer| answer["code"] == "not_found")
        .await;
    let cancelled = |story: &Value| {
        let mut deliveries = story["deliveries"].as_array().into_iter().flatten();
        deliveries.any(|one| one["endpoint"] == made["id"] && one["state"] == "cancelled")
    };
    engine.wait(&format!("/v1/events/{waiting}"), "waiting deliveries are cancelled", cancelled).await;
    let last = of(&gone).await;
    assert_eq!((&last["state"], &last["reason"], &last["endpoint_name"]), (&json!("dead"), &json!("gone"), &json!(name)));
    assert_eq!(tool.call("GET", "/v1/subscriptions", Value::Null).await.1["items"], json!([]));

    let told = |all: &[Received]| all.iter().any(|one| one.text().contains("innesco.endpoint.removed"));
    let told = news.wait_for("the operator's endpoint is notified", DEADLINE, told).await;
    let told = told.iter().find(|one| one.path == "/").expect("news").text();
    assert!(told.contains(name) && told.contains("\"gone\""), "{told}");

    // Lists contain the engine's own events only on demand.
    let types = async |query: &str| {
        let page = engine.get(&format!("/v1/events?limit=100{query}")).await;
        let items = page["items"].as_array().unwrap().clone();
        items.iter().filter(|item| item["type"].as_str().unwrap().starts_with("innesco.")).count()
    };
    assert_eq!(types("").await, 0);
    assert!(types("&own=true").await >= 1 && types("&source=innesco").await >= 1);
    assert_eq!(types("&type=innesco.endpoint.removed").await, 1);
    assert_eq!(types("&type=innesco.endpoint.removed&own=false").await, 0);

    // An endpoint that is not a subscription stays. A program that wants more events subscribes again.
    news.wait_for("the other endpoint has both", DEADLINE, |all| all.iter().filter(|one| one.path == "/crm").count() == 2).await;
    let (status, new) = tool.subscribe(&receiver.url("/"), "order.*").await;
    assert_eq!((status, id(&new) == id(&made)), (201, false));
    engine.send("order.sent", json!({})).await;
    let received = receiver.wait_for_count(3, DEADLINE).await;
    verify(&new["secret"], &received[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_subscription_resumes_when_requested_again() {
    let engine = Engine::start_set(&[("INNESCO_DELIVERY_DISABLE_AFTER", "1s")]);
    let back = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&back);
    let receiver = Receiver::answering(move |_| Answer::status(if answers.load(Ordering::SeqCst) { 200 } else { 500 })).await;
    let tool = Program::with_role(&engine, "operate").await;
    let (_, made) = tool.subscribe(&receiver.url("/"), "order.*").await;
    let name = made["endpoint"].as_str().expect("a name");
    let change = json!({ "schedule": vec!["50ms"; 50], "breaker": { "failures": 0 } });
    engine.ok("PATCH", &format!("/v1/endpoints/{name}"), change).await;
    engine.send("order.created", json!("before")).await;
    engine
        .wait(&format!("/v1/endpoints/{name}"), "the delivery is dead", |endpoint| endpoint["disabled_reason"] == "failing")
        .await;
    back.store(true, Ordering::SeqCst);
    let (status, again) = tool.subscribe(&receiver.url("/"), "order.*").await;
    assert_eq!((status, id(&again), &again["state"]), (200, id(&made), &json!("active")));
    engine.send("order.created", json!("afterwards")).await;
    receiver
        .wait_for("the resumed subscription receives events", DEADLINE, |all| {
            all.iter().any(|one| one.text().contains("afterwards"))
        })
        .await;

    // A subscription that a person disabled stays disabled.
    engine.ok("POST", &format!("/v1/endpoints/{name}/disable"), Value::Null).await;
    assert_eq!(tool.subscribe(&receiver.url("/"), "order.*").await.1["state"], "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_bad_subscription_and_keeps_endpoints_of_people() {
    let engine = Engine::start(&[]);
    let tool = Program::with_role(&engine, "operate").await;
    let url = "http://127.0.0.1:9/hook";
    for (body, status, code, pointer) in [
        (json!({ "event": "a.b" }), 422, "bad_endpoint", Value::Null),
        (json!({ "target_url": url }), 422, "bad_endpoint", Value::Null),
        (json!({ "target_url": url, "event": "a.b", "secret": "x" }), 422, "bad_endpoint", Value::Null),
        (json!({ "target_url": url, "event": "order.*.x" }), 422, "bad_endpoint", json!("/event")),
        (json!({ "target_url": url, "event": "" }), 422, "bad_endpoint", json!("/event")),
        (json!({ "target_url": "hook", "event": "a.b" }), 422, "bad_endpoint", json!("/target_url")),
        (json!({ "target_url": "ftp://127.0.0.1/", "event": "a.b" }), 422, "bad_endpoint", json!("/target_url")),
        (json!({ "target_url": "https://169.254.169.254/", "event": "a.b" }), 422, "blocked_address", json!("/target_url")),
        (json!([url, "a.b"]), 422, "bad_endpoint", Value::Null),
    ] {
        let (answered, problem) = tool.call("POST", "/v1/subscriptions", body.clone()).await;
        let refused = (answered, problem["code"].as_str().unwrap_or_default(), &problem["pointer"]);
        assert_eq!(refused, (status, code, &pointer), "{body}: {problem}");
    }
    assert_eq!(engine.get("/v1/subscriptions").await["items"], json!([]), "nothing of it is stored");

    // An endpoint of a person is not a subscription, and the events of a subscription cannot be changed.
    engine.endpoint("crm", url, &["a.b"]).await;
    assert_eq!(tool.call("DELETE", "/v1/subscriptions/crm", Value::Null).await.0, 404);
    let (_, made) = tool.subscribe(url, "a.b").await;
    let path = format!("/v1/endpoints/{}", id(&made));
    for (member, value) in [("url", json!("http://127.0.0.1:9/other")), ("events", json!(["a.c"]))] {
        let (status, problem) = engine.call("PATCH", &path, json!({ member: value })).await;
        assert_eq!((status, &problem["pointer"]), (422, &json!(format!("/{member}"))), "{problem}");
    }
    // If an endpoint already has the name of a subscription, it does not become the subscription.
    let name = made["endpoint"].as_str().expect("a name").to_owned();
    assert_eq!(tool.call("DELETE", &format!("/v1/subscriptions/{}", id(&made)), Value::Null).await.0, 204);
    engine.endpoint(&name, "http://127.0.0.1:9/mine", &["*"]).await;
    let (status, problem) = tool.subscribe(url, "a.b").await;
    assert_eq!((status, &problem["code"]), (409, &json!("name_taken")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sees_and_deletes_only_its_own_subscriptions() {
    let mut engine = Engine::start(&[]);
    let (one, other) = (Program::named(&engine, "one", "subscribe").await, Program::named(&engine, "other", "subscribe").await);
    let url = "https://hooks.innesco-test.invalid/token";
    let (status, made) = one.subscribe(url, "order.*").await;
    assert_eq!((status, one.subscribe(url, "order.*").await.0), (201, 200), "{made}");
    // Another key that subscribes with the same URL and event gets another subscription. The answer reveals nothing of the first
    // one.
    let (status, others) = other.subscribe(url, "order.*").await;
    assert_eq!((status, id(&others) == id(&made)), (201, false), "{others}");
    let path = format!("/v1/subscriptions/{}", id(&made));
    for method in ["GET", "DELETE"] {
        let (status, problem) = other.call(method, &path, Value::Null).await;
        let never =
            other.call(method, "/v1/subscriptions/ep_0000000", Value::Null).await.1["detail"].as_str().unwrap().to_owned();
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{method}: {problem}");
        assert_eq!(
            problem["detail"],
            json!(never.replace("ep_0000000", id(&made))),
            "another key gets the same answer as for a subscription that never existed"
        );
    }
    let listed = async |program: &Program<'_>| {
        let (status, list) = program.call("GET", "/v1/subscriptions", Value::Null).await;
        assert_eq!(status, 200, "{list}");
        list["items"].as_array().unwrap().iter().map(|one| id(one).to_owned()).collect::<BTreeSet<_>>()
    };
    let ids = |all: &[&Value]| all.iter().map(|one| id(one).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(listed(&one).await, ids(&[&made]));
    assert_eq!(listed(&other).await, ids(&[&others]));
    let operator = Program::with_role(&engine, "operate").await;
    assert_eq!(listed(&operator).await, ids(&[&made, &others]));
    let reader = Program::with_role(&engine, "read").await;
    assert_eq!(listed(&reader).await, ids(&[&made, &others]));
    assert_eq!(reader.call("GET", &path, Value::Null).await.1["target_url"], "https://hooks.innesco-test.invalid/***");

    // After a change by an operator and a restart, the subscription still belongs to the key and reaches only what the key may
    // reach.
    let endpoint = format!("/v1/endpoints/{}", id(&made));
    let changed = engine.ok("PATCH", &endpoint, json!({ "title": "Zapier", "timeout": "5s" })).await;
    let keys = engine.get("/v1/keys").await;
    let key = keys["items"].as_array().unwrap().iter().find(|key| key["name"] == "one").expect("the key");
    assert_eq!((&changed["reach"], &changed["subscribed_by"]), (&json!("public"), &key["id"]));
    let (one_key, other_key) = (one.key, other.key);
    engine.kill();
    engine.launch();
    let (one, other) = (Program { engine: &engine, key: one_key }, Program { engine: &engine, key: other_key });
    assert_eq!(engine.get(&endpoint).await["reach"], "public");
    assert_eq!(other.call("DELETE", &path, Value::Null).await.0, 404);
    assert_eq!(one.call("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!((listed(&one).await, listed(&other).await), (ids(&[]), ids(&[&others])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_network_is_open_only_to_operators() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let tool = Program::with_role(&engine, "subscribe").await;
    for url in [receiver.url("/"), "https://127.0.0.1/".to_owned(), "https://localhost/".to_owned()] {
        let (status, problem) = tool.subscribe(&url, "order.*").await;
        assert_eq!((status, &problem["code"]), (422, &json!("blocked_address")), "{url}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("is not public") || detail.contains("is not a public address"), "{url}: {detail}");
        assert!(detail.contains("role operate") && !detail.contains("--allow-net"), "{url}: {detail}");
    }
    let (status, problem) = tool.subscribe("https://hooks.innesco-test.invalid/", "innesco.*").await;
    assert_eq!((status, &problem["pointer"]), (422, &json!("/event")), "the engine's own events are not for tools: {problem}");
    let operator = Program::with_role(&engine, "operate").await;
    let (status, made) = operator.subscribe(&receiver.url("/"), "order.*").await;
    assert_eq!((status, &engine.get(&format!("/v1/endpoints/{}", id(&made))).await["reach"]), (201, &json!("opened")));
    engine.send("order.created", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_subscribes_endlessly_is_limited_and_leaves_no_more_rows() {
    let engine = Engine::start_set(&[("INNESCO_LIMITS_SUBSCRIBE_RATE", "3/h")]);
    let (tool, other) = (Program::named(&engine, "one", "subscribe").await, Program::named(&engine, "other", "subscribe").await);
    let url = "https://hooks.innesco-test.invalid/1";
    let (status, made) = tool.subscribe(url, "order.*").await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(tool.call("DELETE", &format!("/v1/subscriptions/{}", id(&made)), Value::Null).await.0, 204);
    assert_eq!(tool.call("DELETE", "/v1/subscriptions/nonsense", Value::Null).await.0, 404, "refused requests count too");
    for _ in 0..20 {
        let request = client().post(format!("{}/v1/subscriptions", engine.url)).bearer_auth(&tool.key);
        let answer = request.json(&json!({ "target_url": url, "event": "order.*" })).send().await.expect("the engine answers");
        assert_eq!(answer.status(), 429);
        let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().expect("seconds");
        assert!((1..=1200).contains(&wait), "{wait}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], "rate_limited");
        assert!(
            problem["detail"].as_str().unwrap().contains("the limit of subscription changes, 3/h (limits.subscribe_rate)"),
            "{problem}"
        );
    }
    assert_eq!(
        tool.call("GET", "/v1/subscriptions", Value::Null).await.0,
        200,
        "a limited tool may still read its subscriptions"
    );
    assert_eq!(other.subscribe(url, "order.*").await.0, 201, "another key has a separate limit");
    let trail = engine.get("/v1/audit?key=one").await;
    assert_eq!(trail["items"].as_array().unwrap().len(), 3, "{trail:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_gets_samples_in_the_shape_of_its_webhooks() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    let zapier = Program::with_role(&engine, "subscribe").await;
    assert_eq!(zapier.call("GET", "/v1/subscriptions/samples", Value::Null).await, (200, json!([])));
    engine.endpoint("like-a-subscription", &receiver.url("/"), &["order.*"]).await;
    for id in 1..=4 {
        engine.send("order.created", json!({ "id": id, "price": "1.10" })).await;
    }
    engine.send("ticket.new", json!({})).await;
    engine.send("order.huge", json!({ "text": "x".repeat(70_000) })).await;
    let received = receiver.wait_for_count(5, DEADLINE).await;
    let (status, samples) = zapier.call("GET", "/v1/subscriptions/samples?event=order.*", Value::Null).await;
    let samples = samples.as_array().expect("a list").clone();
    assert_eq!((status, samples.len()), (200, 3));
    for (sample, id) in samples.iter().zip([4, 3, 2]) {
        assert_eq!(sample["data"]["id"], id, "samples are the newest events first, without the huge one");
        assert!(
            received.iter().any(|one| serde_json::from_slice::<Value>(&one.body).unwrap() == *sample),
            "a sample equals the webhook as it was sent: {sample}"
        );
    }
    assert_eq!(zapier.call("GET", "/v1/subscriptions/samples?event=order%20x", Value::Null).await.0, 400);
    assert_eq!(zapier.call("GET", "/v1/events", Value::Null).await.0, 403, "a key of the role subscribe reads no events");
}
