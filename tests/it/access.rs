//! Roles, expiry of keys, and the audit trail.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::TcpStream,
    process::Command,
};

use innesco::{
    api::access::{self, Callers},
    domain::key::Role,
};
use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client},
    receivers::Receiver,
};

/// Sends a request with this key instead of the key of the tests.
async fn get_with(engine: &Engine, key: &str, path: &str) -> (u16, Value) {
    let answer = client().get(format!("{}{path}", engine.url)).bearer_auth(key).send().await.expect("the engine answers");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// Returns the text of an answer, or only its beginning if the answer has no end.
async fn text_of(mut answer: reqwest::Response) -> String {
    if answer.headers().get("content-type").is_some_and(|value| value == "text/event-stream") {
        let begin = answer.chunk().await.expect("a stream").unwrap_or_default();
        return String::from_utf8_lossy(&begin).into_owned();
    }
    answer.text().await.expect("text")
}

fn cli(engine: &Engine, arguments: &[&str]) -> (bool, String) {
    let output = engine.command().args(arguments).output().expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).expect("text"))
}

/// Creates a key of each role.
async fn a_key_of_each_role(engine: &Engine) -> BTreeMap<&'static str, String> {
    let mut keys = BTreeMap::new();
    for role in Role::ALL.map(Role::as_str) {
        let made = engine.ok("POST", "/v1/keys", json!({ "name": format!("{role} key"), "role": role })).await;
        keys.insert(role, made["key"].as_str().expect("a key").to_owned());
    }
    keys
}

/// Returns every operation in the engine's OpenAPI document: method, path, and the allowed roles (`None` if no key is needed).
async fn operations(engine: &Engine) -> Vec<(String, String, Option<BTreeSet<String>>)> {
    let document = engine.get("/openapi.json").await;
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let ways = operation["security"].as_array();
            let roles = ways.map(|ways| ways.iter().filter_map(|way| Some(way["key"][0].as_str()?.to_owned())).collect());
            found.push((method.to_uppercase(), path.clone(), roles));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_allows_exactly_the_roles_of_the_table() {
    let engine = Engine::start_set(&[("INNESCO_METRICS", "key")]);
    let keys = a_key_of_each_role(&engine).await;
    let mut asked = 0;
    for (method, path, said) in operations(&engine).await {
        let row = access::of(&method.parse().expect("a method"), &path).unwrap_or_else(|| panic!("{method} {path} has no row"));
        let expected = match row.callers {
            Callers::Anyone | Callers::Senders => None,
            Callers::Keys(roles) | Callers::Figures(roles) => {
                Some(roles.iter().map(|(role, _)| role.as_str().to_owned()).collect::<BTreeSet<_>>())
            }
        };
        assert_eq!(said, expected, "the document and the table agree on {method} {path}");
        // The call has no body and addresses only things that do not exist, so it changes nothing even if it is allowed.
        let address = path.replace('{', "no-").replace('}', "");
        let ask = async |key: Option<&str>| {
            let mut request = client().request(method.parse().expect("a method"), format!("{}{address}", engine.url));
            if let Some(key) = key {
                request = request.bearer_auth(key);
            }
            let answer = request.send().await.expect("the engine answers");
            let status = answer.status().as_u16();
            (status, serde_json::from_str::<Value>(&text_of(answer).await).unwrap_or_default())
        };
        let Some(able) = expected else {
            for key in [None, Some("innk_nonsense"), Some(keys["publish"].as_str())] {
                let (status, answer) = ask(key).await;
                assert!(![401, 403].contains(&status), "{method} {path} with {key:?}: {status} {answer}");
            }
            continue;
        };
        for key in [None, Some("innk_nonsense")] {
            let (status, answer) = ask(key).await;
            assert_eq!((status, &answer["code"]), (401, &json!("unauthorized")), "{method} {path} with {key:?}: {answer}");
            let detail = answer["detail"].as_str().unwrap_or_default();
            assert!(
                able.iter().all(|role| detail.contains(role)) && detail.contains("innesco keys create NAME --role "),
                "{detail}"
            );
        }
        for (role, key) in &keys {
            let (status, answer) = ask(Some(key)).await;
            asked += 1;
            if able.contains(*role) {
                assert!(![401, 403].contains(&status), "{method} {path} as {role}: {status} {answer}");
                continue;
            }
            assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "{method} {path} as {role}: {answer}");
            let detail = answer["detail"].as_str().unwrap_or_default();
            assert!(detail.starts_with(&format!("the key \"{role} key\" has the role {role}; this needs ")), "{detail}");
            assert!(
                able.iter().all(|role| detail.contains(role)) && detail.contains("innesco keys create NAME --role "),
                "{detail}"
            );
        }
    }
    assert!(asked > 200, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_reads_secrets_beyond_its_rights() {
    let engine = Engine::start_in(
        &["order-router"],
        &["--allow-net", "127.0.0.0/8"],
        &[("INNESCO_METRICS", "key"), ("INNESCO_EXTERNAL_URL", "https://hooks.example.com")],
    );
    let receiver = Receiver::start().await;
    let keys = a_key_of_each_role(&engine).await;
    let subscribe = async |key: &str, path: &str| {
        let input = json!({ "target_url": format!("https://hooks.innesco-test.invalid/{path}"), "event": "order.*" });
        let request = client().post(format!("{}/v1/subscriptions", engine.url)).bearer_auth(key).json(&input);
        let answer: Value = request.send().await.expect("the engine answers").json().await.expect("JSON");
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let source = engine.ok("POST", "/v1/sources", json!({ "name": "open", "preset": "none" })).await;
    let address = source["path"].as_str().expect("a path").to_owned();
    let signing = "whsec_cGxhbnRlZC1wbGFudGVkLXBsYW50ZWQtcGxhbnRlZA==";
    let crm = json!({
        "name": "crm", "url": receiver.url("/planted-path?key=planted-query"), "events": ["order.*"], "secret": signing,
        "headers": { "authorization": "Bearer planted-header" },
    });
    engine.ok("POST", "/v1/endpoints", crm).await;
    engine.ok("PUT", "/v1/plugins/order-router/config", json!({ "big-orders": "planted-setting" })).await;
    let own = subscribe(&keys["subscribe"], "planted-own").await;
    let other = engine.ok("POST", "/v1/keys", json!({ "name": "other tool", "role": "subscribe" })).await;
    subscribe(other["key"].as_str().expect("a key"), "planted-other").await;
    // An event from a source and one from a caller, with runs, deliveries and attempts.
    let sent =
        client().post(format!("{}{address}", engine.url)).json(&json!({ "a": 1 })).send().await.expect("the engine answers");
    assert!(sent.status().is_success());
    let event = engine.send("order.created", json!({ "total": 1 })).await;
    receiver.wait_for_count(1, DEADLINE).await;
    let story = engine.settled(&event).await;
    let delivery = story["deliveries"][0]["id"].as_str().expect("a delivery").to_owned();
    let run = story["runs"][0]["id"].as_str().expect("a run").to_owned();
    let job = engine.ok("POST", "/v1/deliveries/retry", json!({})).await["id"].as_str().expect("a job").to_owned();
    let candidate = json!({ "candidate": engine.get("/v1/plugins/order-router").await["version"] });
    let comparison =
        engine.ok("POST", "/v1/plugins/order-router/compare", candidate).await["id"].as_str().expect("an id").to_owned();
    let inbound = engine.get("/v1/events?source=open").await["items"][0]["event"].as_str().expect("an event").to_owned();

    // Returns everything that a role can read, as one text.
    let seen = async |key: &str| {
        let mut text = String::new();
        for (method, path, _) in operations(&engine).await {
            if method != "GET" || path == "/openapi.json" {
                continue;
            }
            let things: Vec<&str> = match path.split_once('{').map(|(_, name)| name) {
                None => vec![""],
                Some(name) if name.starts_with("event}") => vec![&event, &inbound],
                Some(name) if name.starts_with("run}") => vec![&run],
                Some(name) if name.starts_with("delivery}") => vec![&delivery],
                Some(name) if name.starts_with("endpoint}") => vec!["crm", &own],
                Some(name) if name.starts_with("source}") => vec!["open"],
                Some(name) if name.starts_with("plugin}") => vec!["order-router"],
                Some(name) if name.starts_with("job}") => vec![&job],
                Some(name) if name.starts_with("comparison}") => vec![&comparison],
                Some(name) if name.starts_with("subscription}") => vec![&own],
                Some(name) => panic!("{path}: give a value for {{{name}"),
            };
            for thing in things {
                let filled = match (path.find('{'), path.find('}')) {
                    (Some(from), Some(until)) => format!("{}{thing}{}", &path[..from], &path[until + 1..]),
                    _ => path.clone(),
                };
                let request = client().get(format!("{}{filled}", engine.url)).bearer_auth(key);
                let answer = request.send().await.expect("the engine answers");
                text += &format!("\n{filled} {}\n{}", answer.status(), text_of(answer).await);
            }
        }
        text
    };
    let token = address.rsplit('-').next().expect("a token");
    let secrets: [(&str, &[&str]); 8] = [
        (token, &["operate", "admin"]),
        ("planted-path", &["operate", "admin"]),
        ("planted-query", &["operate", "admin"]),
        ("planted-own", &["subscribe", "operate", "admin"]),
        ("planted-other", &["operate", "admin"]),
        ("planted-setting", &["admin"]),
        ("planted-header", &[]),
        (signing, &[]),
    ];
    for (role, key) in &keys {
        let seen = seen(key).await;
        for (secret, able) in secrets {
            assert_eq!(seen.contains(secret), able.contains(role), "{role} and {secret}:\n{seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_change_nothing_cannot_fill_the_trail() {
    let engine = Engine::start(&[]);
    for _ in 0..30 {
        assert_eq!(engine.call("DELETE", "/v1/endpoints/nothing", Value::Null).await.0, 404);
    }
    engine.endpoint("crm", "http://127.0.0.1:9/", &["a.b"]).await;
    engine.ok("DELETE", "/v1/endpoints/crm", Value::Null).await;
    assert_eq!(engine.call("DELETE", "/v1/sources/nothing", Value::Null).await.0, 404);
    // The result of a call is recorded after its answer.
    let is_whole = |trail: &Value| {
        let items = trail["items"].as_array().expect("items");
        items.iter().all(|entry| entry["status"].is_number()) && items.len() == 13
    };
    let trail = engine.wait("/v1/audit", "the trail has ten refusals of one action, and all other entries", is_whole).await;
    let count = |action: &str, status: u16| {
        let items = trail["items"].as_array().expect("items");
        items.iter().filter(|entry| entry["action"] == action && entry["status"] == status).count()
    };
    assert_eq!((count("endpoint.delete", 404), count("endpoint.delete", 204), count("source.delete", 404)), (10, 1, 1));
}

#[test]
fn refuses_a_first_key_that_can_be_guessed() {
    let home = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(home.path().join("plugins")).expect("a plugin folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_innesco"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", "plugins"]).current_dir(home.path());
    let output = command.env("INNESCO_ADMIN_KEY", "correct-horse-battery").output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("INNESCO_ADMIN_KEY has 21 characters"), "{said}");
    assert!(said.contains("openssl rand -hex 32") && !said.contains("correct-horse"), "{said}");
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
        assert!(std::time::Instant::now() < until, "the key does not expire");
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
    assert_eq!(shown(&engine.get("/v1/keys").await, "long", "last_used_at"), used, "a stop stores the last use");

    let (made, said) = cli(&engine, &["keys", "create", "shop", "--role", "publish", "--expires", "90d"]);
    assert!(made && said.contains("until 2"), "{said}");
    for role in Role::ALL.map(Role::as_str) {
        let (made, said) = cli(&engine, &["keys", "create", &format!("{role}-tool"), "--role", role]);
        assert!(made && said.contains(role), "{said}");
    }
    let (made, said) = cli(&engine, &["keys", "create", "x", "--role", "operator"]);
    assert!(!made && Role::ALL.iter().all(|role| said.contains(role.as_str())), "{said}");
    let (listed, said) = cli(&engine, &["keys", "list"]);
    let line = said.lines().find(|line| line.contains("\tlong\t")).unwrap_or_default();
    let ending = &long["key"].as_str().unwrap()[long["key"].as_str().unwrap().len() - 4..];
    assert!(line.contains(&format!("\t{ending}\t")) && !line.contains(long["key"].as_str().unwrap()), "{line}");
    assert!(listed && line.ends_with(used.as_str().unwrap()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_admin_key_does_not_count_as_the_last_one() {
    let mut engine = Engine::start(&[]);
    let keys = engine.get("/v1/keys").await;
    let only = keys["items"][0]["id"].as_str().unwrap().to_owned();
    let fading = json!({ "name": "fading", "role": "admin", "expires": "1ms" });
    engine.ok("POST", "/v1/keys", fading).await;
    engine.wait("/v1/keys", "the admin key has expired", |keys| keys["items"][1]["expired"] == true).await;
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
    engine.ok("POST", &format!("/v1/endpoints/{}/pause", crm["id"].as_str().unwrap()), Value::Null).await;
    engine.ok("DELETE", "/v1/endpoints/crm?force=true", Value::Null).await;
    engine.get("/v1/endpoints").await;
    let refused = client().delete(format!("{}/v1/endpoints/crm", engine.url)).bearer_auth(reader["key"].as_str().unwrap());
    assert_eq!(refused.send().await.unwrap().status(), 403);

    let trail = engine
        .wait("/v1/audit", "the result of the last change is recorded", |trail| trail["items"][0]["status"].is_number())
        .await;
    let shown: Vec<String> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!(entry["key"], "admin");
            format!("{} {} {}", entry["action"].as_str().unwrap(), entry["target"].as_str().unwrap(), entry["status"])
        })
        .collect();
    let made = format!("key.create {} 201", reader["id"].as_str().unwrap());
    let expected = [
        "endpoint.delete crm 204",
        "endpoint.pause crm 200",
        "endpoint.update crm 422",
        "endpoint.update crm 200",
        "endpoint.create crm 201",
        &made,
    ];
    assert_eq!(shown, expected);
    assert!(!trail.to_string().contains(secret) && !trail.to_string().contains(KEY));

    let updates = engine.get("/v1/audit?action=endpoint.update&key=admin&limit=1").await;
    assert_eq!(updates["items"][0]["status"], 422);
    let rest = engine.get(&format!("/v1/audit?action=endpoint.update&cursor={}", updates["next"].as_str().unwrap())).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["items"][0]["status"]), (1, &json!(200)));
    assert_eq!(rest["items"][0]["members"], json!(["title"]), "an update lists the members that it sets");
    assert_eq!(engine.get("/v1/audit?until=2020-01-01T00:00:00Z").await["items"], json!([]));
    assert_eq!(
        get_with(&engine, reader["key"].as_str().unwrap(), "/v1/audit").await.0,
        403,
        "a key of the role read cannot read the trail"
    );
    let (listed, said) = cli(&engine, &["audit", "--since", "1h", "--action", "endpoint.delete"]);
    assert!(listed && said.lines().count() == 1 && said.contains("\tadmin\tendpoint.delete\tcrm\t204"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_started_change_is_in_the_trail() {
    let mut engine = Engine::start(&[]);
    // A request whose body never ends.
    let mut stream = TcpStream::connect(engine.url.trim_start_matches("http://")).unwrap();
    let request = format!(
        "POST /v1/endpoints HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{\"name\": "
    );
    stream.write_all(request.as_bytes()).unwrap();
    let begun = |trail: &Value| trail["items"][0]["action"] == "endpoint.create" && trail["items"][0]["status"].is_null();
    engine.wait("/v1/audit", "the change is recorded before it is made", begun).await;
    engine.kill();
    engine.launch();
    assert!(
        begun(&engine.get("/v1/audit").await),
        "the entry has no result, because the engine was killed before the change ended"
    );
    let (_, said) = cli(&engine, &["audit"]);
    assert!(said.contains("the engine stopped"), "{said}");

    // The result is recorded even if the caller disconnects.
    let mut stream = TcpStream::connect(engine.url.trim_start_matches("http://")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    engine.wait("/v1/audit", "the second change is recorded", |trail| trail["items"].as_array().unwrap().len() == 2).await;
    drop(stream);
    engine
        .wait("/v1/audit", "the second change has a result although its caller left", |trail| trail["items"][0]["status"] == 400)
        .await;
}
