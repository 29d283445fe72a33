//! Who may do what until when, and who has done what.

use std::{io::Write as _, net::TcpStream};

use serde_json::{Value, json};

use crate::engine::{DEADLINE, Engine, KEY, client};

/// Asks with another key than the tests' own.
async fn get_with(engine: &Engine, key: &str, path: &str) -> (u16, Value) {
    let answer = client().get(format!("{}{path}", engine.url)).bearer_auth(key).send().await.expect("the engine answers");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

fn cli(engine: &Engine, arguments: &[&str]) -> (bool, String) {
    let output = engine.command().args(arguments).output().expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_expires_and_shows_when_it_was_used() {
    let mut engine = Engine::start(&[]);
    let create = async |name: &str, expires: Value| {
        engine.call("POST", "/v1/keys", json!({ "name": name, "role": "read", "expires": expires })).await
    };
    let (_, short) = create("short", json!("50ms")).await;
    let until = std::time::Instant::now() + DEADLINE;
    let refused = loop {
        let (status, answer) = get_with(&engine, short["key"].as_str().unwrap(), "/v1/events").await;
        if status != 200 {
            break (status, answer);
        }
        assert!(std::time::Instant::now() < until, "it does not expire");
    };
    assert_eq!((refused.0, &refused.1["code"]), (401, &json!("key_expired")), "{}", refused.1);
    assert!(refused.1["detail"].as_str().unwrap().starts_with("the key \"short\" expired at 2"), "{}", refused.1);
    for bad in [json!("yesterday"), json!("2020-01-01T00:00:00Z"), json!(7)] {
        let (status, answer) = create("bad", bad.clone()).await;
        assert_eq!(status, 422, "{bad}: {answer}");
    }
    let (_, long) = create("long", json!("90d")).await;
    create("unused", Value::Null).await;
    assert_eq!(get_with(&engine, long["key"].as_str().unwrap(), "/v1/events").await.0, 200);
    let shown = |keys: &Value, name: &str, member: &str| {
        let found = keys["items"].as_array().unwrap().iter().find(|key| key["name"] == name).unwrap();
        found[member].clone()
    };
    let keys = engine.get("/v1/keys").await;
    let used = shown(&keys, "long", "last_used_at");
    assert!(used.is_string() && shown(&keys, "unused", "last_used_at").is_null(), "{keys:#}");
    assert_eq!([shown(&keys, "short", "expired"), shown(&keys, "long", "expired")], [json!(true), json!(false)]);
    assert!(shown(&keys, "unused", "expires_at").is_null());

    assert!(engine.stop());
    engine.launch();
    assert_eq!(shown(&engine.get("/v1/keys").await, "long", "last_used_at"), used, "a stop writes it down");

    let (made, said) = cli(&engine, &["keys", "create", "shop", "--role", "publish", "--expires", "90d"]);
    assert!(made && said.contains("until 2"), "{said}");
    let (listed, said) = cli(&engine, &["keys", "list"]);
    let line = said.lines().find(|line| line.contains("\tlong\t")).unwrap_or_default();
    assert!(listed && line.ends_with(used.as_str().unwrap()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_admin_key_does_not_count_as_the_last_one() {
    let mut engine = Engine::start(&[]);
    let keys = engine.get("/v1/keys").await;
    let only = keys["items"][0]["id"].as_str().unwrap().to_owned();
    let fading = json!({ "name": "fading", "role": "admin", "expires": "1ms" });
    engine.ok("POST", "/v1/keys", fading).await;
    engine.wait("/v1/keys", "it has expired", |keys| keys["items"][1]["expired"] == true).await;
    let (status, answer) = engine.call("DELETE", &format!("/v1/keys/{only}"), Value::Null).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "{answer}");
    assert!(engine.stop());
    engine.launch();
    assert_eq!(engine.get("/v1/keys").await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_trail() {
    let engine = Engine::start(&[]);
    let reader = engine.ok("POST", "/v1/keys", json!({ "name": "reader", "role": "read" })).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let crm = json!({ "name": "crm", "url": "http://127.0.0.1:9/", "events": ["*"], "secret": secret });
    let crm = engine.ok("POST", "/v1/endpoints", crm).await;
    engine.ok("PATCH", "/v1/endpoints/crm", json!({ "title": "Our CRM" })).await;
    let (status, _) = engine.call("PATCH", "/v1/endpoints/crm", json!({ "url": "nonsense" })).await;
    assert_eq!(status, 422);
    engine.send("a.b", json!({})).await;
    engine.ok("POST", "/v1/endpoints/crm/pause", Value::Null).await;
    engine.ok("DELETE", "/v1/endpoints/crm", Value::Null).await;
    engine.get("/v1/endpoints").await;
    let refused = client().delete(format!("{}/v1/endpoints/crm", engine.url)).bearer_auth(reader["key"].as_str().unwrap());
    assert_eq!(refused.send().await.unwrap().status(), 403);

    let trail =
        engine.wait("/v1/audit", "what came of the last change is noted", |trail| trail["items"][0]["status"].is_number()).await;
    let shown: Vec<String> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!(entry["key"], "admin");
            format!("{} {} {}", entry["action"].as_str().unwrap(), entry["target"].as_str().unwrap(), entry["status"])
        })
        .collect();
    let created = format!("endpoint.create {} 201", crm["id"].as_str().unwrap());
    let made = format!("key.create {} 201", reader["id"].as_str().unwrap());
    let expected = [
        "endpoint.delete crm 204",
        "endpoint.pause crm 200",
        "endpoint.update crm 422",
        "endpoint.update crm 200",
        &created,
        &made,
    ];
    assert_eq!(shown, expected);
    assert!(!trail.to_string().contains(secret) && !trail.to_string().contains(KEY));

    let updates = engine.get("/v1/audit?action=endpoint.update&key=admin&limit=1").await;
    assert_eq!(updates["items"][0]["status"], 422);
    let rest = engine.get(&format!("/v1/audit?action=endpoint.update&cursor={}", updates["next"].as_str().unwrap())).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["items"][0]["status"]), (1, &json!(200)));
    assert_eq!(engine.get("/v1/audit?until=2020-01-01T00:00:00Z").await["items"], json!([]));
    assert_eq!(get_with(&engine, reader["key"].as_str().unwrap(), "/v1/audit").await.0, 403, "not for every reader");
    let (listed, said) = cli(&engine, &["audit", "--since", "1h", "--action", "endpoint.delete"]);
    assert!(listed && said.lines().count() == 1 && said.contains("\tadmin\tendpoint.delete\tcrm\t204"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_begun_is_in_the_trail_whatever_becomes_of_it() {
    let mut engine = Engine::start(&[]);
    // A request whose body never comes to its end.
    let mut stream = TcpStream::connect(engine.url.trim_start_matches("http://")).unwrap();
    let request = format!(
        "POST /v1/endpoints HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{\"name\": "
    );
    stream.write_all(request.as_bytes()).unwrap();
    let begun = |trail: &Value| trail["items"][0]["action"] == "endpoint.create" && trail["items"][0]["status"].is_null();
    engine.wait("/v1/audit", "it is noted before it is made", begun).await;
    engine.kill();
    engine.launch();
    assert!(begun(&engine.get("/v1/audit").await), "without a result: the engine ended in between");
    let (_, said) = cli(&engine, &["audit"]);
    assert!(said.contains("the engine ended"), "{said}");

    // A caller that leaves does not keep what came of it out of the trail.
    let mut stream = TcpStream::connect(engine.url.trim_start_matches("http://")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    engine.wait("/v1/audit", "the next one is noted", |trail| trail["items"].as_array().unwrap().len() == 2).await;
    drop(stream);
    engine.wait("/v1/audit", "and what came of it", |trail| trail["items"][0]["status"] == 400).await;
}
