//! Migration from one engine with SQLite to nodes on Postgres. It is interrupted repeatedly: no event is lost or duplicated,
//! the API returns the same as before, and waiting work continues.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client, store_is_a_file},
    postgres::PostgresServer,
    receivers::{Answer, Received, Receiver},
};

/// Number of unrouted events. They need many batches of a migration.
const MANY: usize = 6_000;
/// Number of events in flight when the engine is killed.
const BURST: usize = 500;
/// Scheduled events that are due shortly after the engine is killed, and the delay of all others.
const SOON: u64 = 10;
const FAR: u64 = 30 * 86_400_000;
/// Number of interruptions.
const CUTS: usize = 4;
/// Tolerance of due times, because two clocks are read one after the other.
const OFF_MAX: i64 = 2;

fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), &output.stderr].concat()).expect("text")
}

/// Returns every page of a list.
async fn all(engine: &Engine, path: &str) -> Vec<Value> {
    let (mut items, mut next) = (Vec::new(), None::<String>);
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let cursor = next.map(|next| format!("&cursor={next}")).unwrap_or_default();
        let page = engine.get(&format!("{path}{sign}limit=200{cursor}")).await;
        items.extend(page["items"].as_array().expect("a list").iter().cloned());
        match page["next"].as_str() {
            Some(more) => next = Some(more.to_owned()),
            None => return items,
        }
    }
}

/// Removes the due times from a history, because they are compared separately. Returns both.
fn without_due(mut story: Value) -> (Value, Vec<i64>) {
    let mut due = Vec::new();
    for list in ["runs", "deliveries"] {
        for one in story[list].as_array_mut().expect("a list") {
            let one = one.as_object_mut().expect("an object");
            if let Some(Value::String(at)) = one.remove("due") {
                due.push(at.parse::<jiff::Timestamp>().expect("an instant").as_second());
            }
        }
    }
    (story, due)
}

/// Everything that the API of an engine shows.
#[derive(Debug)]
struct Seen {
    lists: BTreeMap<&'static str, Vec<Value>>,
    stories: BTreeMap<String, (Value, Vec<i64>)>,
}

/// Lists of the API, each with the members that change over time without a request.
const LISTS: [(&str, &[&str]); 6] = [
    ("/v1/events", &[]),
    ("/v1/endpoints", &["failing_since"]),
    ("/v1/sources", &[]),
    ("/v1/keys", &["last_used_at"]),
    ("/v1/jobs", &[]),
    ("/v1/audit", &[]),
];

async fn look(engine: &Engine, events: &[String]) -> Seen {
    let mut lists = BTreeMap::new();
    for (path, changing) in LISTS {
        let mut items = all(engine, path).await;
        for item in &mut items {
            for member in changing {
                item.as_object_mut().expect("an object").remove(*member);
            }
        }
        lists.insert(path, items);
    }
    let mut stories = BTreeMap::new();
    for event in events {
        stories.insert(event.clone(), without_due(engine.get(&format!("/v1/events/{event}")).await));
    }
    Seen { lists, stories }
}

fn migrate(engine: &Engine, url: &str) -> std::process::Command {
    let mut command = engine.command();
    command.args(["migrate", "--from", "data", "--to", url]);
    command
}

/// Runs the migration until this many tables are done, then kills it. Returns whether it was unfinished.
fn cut(engine: &Engine, url: &str, tables: usize) -> bool {
    let mut child = migrate(engine, url).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    for line in lines.take(tables) {
        assert!(line.expect("text").contains(" rows  "), "it prints its progress");
    }
    // This fails if the process has already ended.
    let _ = child.kill();
    !child.wait().expect("it has ended").success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_postgres_and_continues_there() {
    if !store_is_a_file() {
        // This store is already on Postgres.
        return;
    }
    let works = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&works);
    let receiver = Receiver::answering(move |one| {
        Answer::status(match one.path.as_str() {
            "/dead" => 500,
            "/later" | "/flaky" if !mended.load(Ordering::SeqCst) => 503,
            _ => 200,
        })
    })
    .await;
    let mut engine = Engine::start(&["ledger", "mischief"]);
    let endpoint = async |engine: &Engine, name: &str, events: Value, schedule: Value| {
        let body = json!({
            "name": name, "url": receiver.url(&format!("/{name}")), "events": events, "schedule": schedule,
            "breaker": { "failures": 0 },
        });
        engine.ok("POST", "/v1/endpoints", body).await
    };
    for (name, events, schedule) in [
        ("receiver", json!([]), json!(["0s"])),
        ("crm", json!(["order.*"]), json!(["0s"])),
        ("dead", json!(["order.*"]), json!(["0s"])),
        ("later", json!(["order.*"]), json!(["0s", "1h"])),
        ("held", json!(["order.*"]), json!(["0s"])),
        ("gone", json!(["order.*"]), json!(["0s"])),
        ("flaky", json!(["flaky.*"]), json!(vec!["1s"; 50])),
        ("burst", json!(["burst.*"]), json!(["0s", "1s"])),
        ("due", json!(["job.due"]), json!(["0s", "1s"])),
    ] {
        endpoint(&engine, name, events, schedule).await;
    }
    engine.ok("POST", "/v1/endpoints/held/pause", Value::Null).await;
    let source = engine.ok("POST", "/v1/sources", json!({ "name": "forms", "preset": "none" })).await;
    let key = engine.ok("POST", "/v1/keys", json!({ "name": "shop", "role": "publish" })).await;

    // Creates items of every kind. `at_rest` lists the states in which their deliveries end.
    let mut events = Vec::new();
    let raw = r#"{"type":"order.created","id":"o-1","source":"shop","subject":"é","data": {"z": 1500.00, "a": 12345678901234567890123}}"#;
    let answer = engine.request("POST", "/v1/events").body(raw).header("content-type", "application/json").send().await.unwrap();
    let order = answer.json::<Value>().await.unwrap()["event"].as_str().unwrap().to_owned();
    events.push(order.clone());
    for number in 0..5 {
        let binary = json!({ "type": "order.file", "datacontenttype": "application/octet-stream", "data_base64": "/wAB", "channel": format!("c{number}") });
        events.push(engine.ok("POST", "/v1/events", binary).await["event"].as_str().unwrap().to_owned());
    }
    for job in [1, 2, 4] {
        events.push(engine.send("job.created", json!({ "job": job })).await);
    }
    let later =
        async |engine: &Engine, job: u64, millis: u64| engine.send("job.later", json!({ "job": job, "millis": millis })).await;
    let [far, next, cancelled] = [later(&engine, 90, FAR).await, later(&engine, 91, FAR).await, later(&engine, 92, FAR).await];
    events.extend([far.clone(), next.clone(), cancelled.clone()]);
    let (typo, fail) = (engine.send("mischief.typo", json!({})).await, engine.send("mischief.fail", json!({})).await);
    events.extend([typo.clone(), fail]);
    let at_rest = |story: &Value| {
        let runs = story["runs"].as_array().unwrap().iter().all(|run| run["state"] != "waiting");
        let deliveries = story["deliveries"].as_array().unwrap().iter().all(|one| match one["endpoint_name"].as_str().unwrap() {
            "later" => one["state"] == "retrying",
            "held" => one["state"] == "pending",
            "dead" => one["state"] == "dead",
            _ => one["state"] == "delivered",
        });
        story["parts"]["to_run"] == false && runs && deliveries
    };
    for event in &events {
        engine.wait(&format!("/v1/events/{event}"), "no work is left", at_rest).await;
    }
    engine.ok("POST", &format!("/v1/events/{cancelled}/cancel"), Value::Null).await;
    engine.ok("DELETE", "/v1/endpoints/gone?force=true", Value::Null).await;
    engine.ok("POST", "/v1/deliveries/retry", json!({ "endpoint": "dead" })).await;
    engine.wait("/v1/jobs", "the dead deliveries are retried", |page| page["items"][0]["state"] == "done").await;
    engine
        .wait("/v1/deliveries?endpoint=dead", "the retried deliveries are dead again", |page| {
            page["items"].as_array().unwrap().iter().all(|one| one["state"] == "dead" && one["attempt_count"] == 2)
        })
        .await;
    for batch in 0..MANY / 1_000 {
        let one =
            |number| json!({ "type": "bulk.x", "id": format!("bulk-{batch}-{number}"), "data": { "text": "x".repeat(300) } });
        engine.ok("POST", "/v1/events", (0..1_000).map(one).collect()).await;
    }
    engine.all_run().await;
    let before = look(&engine, &events).await;

    // Unfinished items: scheduled events, a waiting run, a delivery that is being retried, and a burst in between.
    let flaky = engine.send("flaky.x", json!({})).await;
    engine
        .wait(&format!("/v1/events/{flaky}"), "the delivery fails", |story| story["deliveries"][0]["state"] == "retrying")
        .await;
    let running = migrate(&engine, "postgres://missing@127.0.0.1:1/none").output().unwrap();
    let said = text(&running);
    assert!(
        running.status.code() == Some(1) && said.contains("stop the engine before") && said.contains("in use by another engine"),
        "{said}"
    );
    let mut soon = Vec::new();
    for job in 0..SOON {
        soon.push(later(&engine, job, 15_000 + job * 200).await);
    }
    for event in &soon {
        engine.settled(event).await;
    }
    let waits = engine.send("job.created", json!({ "job": 3 })).await;
    engine.wait(&format!("/v1/events/{waits}"), "its run fails once", |story| story["runs"][0]["tries"] == 1).await;
    engine.send("job.repaired", json!({})).await;
    let one = |number| json!({ "type": "burst.x", "id": format!("burst-{number}"), "data": { "number": number } });
    let burst = engine.ok("POST", "/v1/events", (0..BURST).map(one).collect()).await;
    engine.kill();
    let burst: Vec<String> =
        burst["items"].as_array().unwrap().iter().map(|one| one["event"].as_str().unwrap().to_owned()).collect();
    let sound = engine.command().args(["check", "--json", "--data", "data"]).output().unwrap();
    let sound: Value = serde_json::from_slice(&sound.stdout).expect("a report");

    let server = PostgresServer::start(false);
    let database = server.database();
    let url = server.url(&database);
    let taken = server.database();
    server.ask(&taken, "CREATE TABLE customers (id bigint)").unwrap();
    let refused = migrate(&engine, &server.url(&taken)).output().unwrap();
    assert!(refused.status.code() == Some(1) && text(&refused).contains("not empty"), "{}", text(&refused));
    let nowhere = engine.command().args(["migrate", "--from", "data"]).output().unwrap();
    assert!(nowhere.status.code() == Some(2) && text(&nowhere).contains("--to postgres://"), "{}", text(&nowhere));

    let mut cuts = 0;
    for tables in 1..=CUTS {
        cuts += usize::from(cut(&engine, &url, tables));
        let unfinished = server.ask(&database, "SELECT count(*) FROM meta WHERE key = 'layout'").unwrap() == "0";
        let moved: i64 = server.ask(&database, "SELECT count(*) FROM event").unwrap().parse().unwrap();
        println!("cut {tables}: unfinished {unfinished}, {moved} events are there");
    }
    assert!(cuts > 0, "the move was interrupted");
    if cuts == CUTS {
        engine.set_environment(&[("INNESCO_STORE", url.as_str())]);
        let early = engine
            .command()
            .args(["serve", "--listen", "127.0.0.1:0", "--data", "data", "--store", url.as_str()])
            .output()
            .unwrap();
        assert!(!early.status.success() && text(&early).contains("let innesco migrate finish"), "{}", text(&early));
    }
    let moved = migrate(&engine, &url).arg("--json").output().unwrap();
    assert!(moved.status.success(), "{}", text(&moved));
    let moved: Value = serde_json::from_slice(&moved.stdout).expect("an answer");
    assert!(moved["rows_before"].as_u64() >= Some(MANY as u64), "an interrupted move resumes: {moved:#}");
    for (table, what) in [("event", "events"), ("run", "runs"), ("attempt", "attempts"), ("api_key", "keys")] {
        assert_eq!(moved["tables"][table]["rows"], sound["counts"][what], "{table}");
    }
    assert_eq!(moved["tables"]["scheduled"]["rows"], SOON + 3, "no event was due before the engine was killed: {moved:#}");
    let again = migrate(&engine, &url).output().unwrap();
    assert!(again.status.success() && text(&again).contains("was already moved to"), "{}", text(&again));
    let old = engine.command().args(["serve", "--listen", "127.0.0.1:0", "--data", "data"]).output().unwrap();
    assert!(!old.status.success() && text(&old).contains("its events were moved to"), "{}", text(&old));

    // The first node uses the same folder, which has the master key and the plugins.
    engine.set_environment(&[("INNESCO_STORE", url.as_str())]);
    engine.launch();
    let after = look(&engine, &events).await;
    for (path, items) in &before.lists {
        // Lists begin with the newest item, and have more items now.
        let known = after.lists[path].len().checked_sub(items.len()).map(|newer| &after.lists[path][newer..]);
        assert_eq!(known, Some(items.as_slice()), "{path}");
    }
    for (event, (story, due)) in &before.stories {
        let (now, due_now) = &after.stories[event];
        assert_eq!(now, story, "{event}");
        assert_eq!(due_now.len(), due.len(), "{event}");
        assert!(due.iter().zip(due_now).all(|(then, now)| (then - now).abs() <= OFF_MAX), "{event}: {due:?} {due_now:?}");
    }

    // Waiting work continues.
    works.store(true, Ordering::SeqCst);
    let number = |one: &Received| serde_json::from_slice::<Value>(&one.body).expect("JSON")["data"]["number"].as_u64();
    let arrived = receiver
        .wait_for("every event of the burst arrives", DEADLINE, |all| {
            let numbers: BTreeSet<_> = all.iter().filter(|one| one.path == "/burst").filter_map(number).collect();
            numbers.len() == BURST
        })
        .await;
    let mut names: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for one in arrived.iter().filter(|one| one.path == "/burst") {
        names.entry(number(one).unwrap()).or_default().insert(one.header("webhook-id").unwrap().to_owned());
    }
    assert!(names.values().all(|ids| ids.len() == 1), "a webhook has the same id before and after the move");
    let delivered = |story: &Value| story["deliveries"][0]["state"] == "delivered";
    for event in burst.iter().chain([&flaky]) {
        engine.wait(&format!("/v1/events/{event}"), "the webhook is delivered", delivered).await;
    }
    engine.wait(&format!("/v1/events/{waits}"), "the waiting run has continued", delivered).await;
    engine.send("job.audit", json!({})).await;
    receiver.wait_for("the plugin's count", DEADLINE, |all| all.iter().any(|one| one.text() == r#"{"audit":4}"#)).await;
    let story = engine.get(&format!("/v1/events/{order}")).await;
    let later = story["deliveries"].as_array().unwrap().iter().find(|one| one["endpoint_name"] == "later").unwrap();
    engine.ok("POST", &format!("/v1/deliveries/{}/retry", later["id"].as_str().unwrap()), Value::Null).await;
    engine.ok("POST", "/v1/endpoints/held/resume", Value::Null).await;
    endpoint(&engine, "reciever", json!([]), json!(["0s"])).await;
    engine.wait(&format!("/v1/events/{typo}"), "the parked run has found its endpoint", delivered).await;
    engine
        .wait(&format!("/v1/events/{order}"), "every delivery except the dead one is delivered", |story| {
            let all = story["deliveries"].as_array().unwrap();
            all.len() == 5
                && all.iter().all(|one| (one["state"] == "dead") == (one["endpoint_name"] == "dead") && one["due"].is_null())
        })
        .await;

    // Each scheduled event takes place once. `look` has compared the due times of those that still wait; one of them is due now.
    server.ask(&database, "UPDATE scheduled SET due_at = 1 WHERE subject = '91'").unwrap();
    let due = |all: &[Received]| -> BTreeSet<String> {
        let due = all.iter().filter(|one| one.path == "/due");
        due.map(|one| one.header("webhook-id").unwrap().to_owned()).collect()
    };
    receiver.wait_for("every due event arrives", DEADLINE, |all| due(all).len() as u64 > SOON).await;
    engine.kill();
    engine.launch();
    engine.all_run().await;
    let took_place = all(&engine, "/v1/events?type=job.due").await;
    let mut causes: Vec<String> = took_place.iter().map(|event| event["cause"].as_str().unwrap().to_owned()).collect();
    causes.sort_unstable();
    let expected: BTreeSet<String> = soon.iter().chain([&next]).cloned().collect();
    assert_eq!(causes, Vec::from_iter(expected), "each due event took place once, and no other");
    assert_eq!(due(&receiver.received()).len() as u64, SOON + 1);
    for (event, cancelled) in [(&far, false), (&cancelled, true)] {
        let waits = engine.get(&format!("/v1/events/{event}")).await["scheduled"][0].clone();
        assert_eq!((waits["type"] == "job.due", waits["cancelled_at"].is_string()), (true, cancelled), "{waits:#}");
    }

    // The database knows the keys, the sources and the callers' ids. New ids follow the old ones.
    let shop = key["key"].as_str().unwrap();
    let repeated =
        client().post(format!("{}/v1/events", engine.url)).bearer_auth(shop).header("content-type", "application/json");
    let repeated: Value = repeated.body(raw).send().await.unwrap().json().await.unwrap();
    assert_eq!((&repeated["duplicate"], &repeated["event"]), (&json!(true), &json!(order)), "{repeated}");
    let path = source["path"].as_str().expect("the source's address");
    let taken = client().post(format!("{}{path}", engine.url)).json(&json!({ "a": 1 })).send().await.unwrap();
    assert_eq!(taken.status(), 200, "the source's address is unchanged");
    let new = engine.send("order.new", json!({})).await;
    assert!(before.lists["/v1/events"].iter().all(|one| one["event"].as_str().unwrap() < new.as_str()), "new ids are larger");
    let keys = all(&engine, "/v1/keys").await;
    let created = engine.ok("POST", "/v1/keys", json!({ "name": "new", "role": "read" })).await;
    assert!(
        keys.iter().all(|one| one["id"] != created["id"]) && KEY != created["key"],
        "the id of the new key differs from all earlier ones"
    );
    println!(
        "ledger: {cuts} cuts, {} rows before the last command, {} events",
        moved["rows_before"],
        before.lists["/v1/events"].len()
    );
}
