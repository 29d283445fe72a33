//! Many nodes over one Postgres, while nodes are killed or stopped for long, the database fails, and connections to it are cut or
//! go silent. Every accepted event is delivered under one id and counted once; order and rate hold on any node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client},
    plugins::send_to_an_endpoint_that_is_being_created,
    postgres::PostgresServer,
    proxy::Proxy,
    receivers::{Answer, Received, Receiver},
};

const NODES: usize = 3;
const ROUNDS: usize = 18;
const CALLERS: usize = 6;
/// Heartbeat timeout: short, so that the other nodes take over quickly.
const SILENCE: Duration = Duration::from_secs(3);
/// Deadline for the other nodes to take over a node's work and to finish it.
const LONG: Duration = Duration::from_secs(180);

/// Nodes with a dedicated database, each with a connection that the test can cut.
pub struct Cluster {
    server: PostgresServer,
    database: String,
    lines: Vec<Proxy>,
    pub nodes: Vec<Engine>,
    key: tempfile::TempDir,
}

impl Cluster {
    pub async fn start(plugins: &[&str], roles: &[&str], durable: bool) -> Self {
        let server = PostgresServer::start(durable);
        let database = server.database();
        let key = tempfile::tempdir().expect("a folder for temporary files");
        let mut cluster = Self { server, database, lines: Vec::new(), nodes: Vec::new(), key };
        for role in roles {
            cluster.join(plugins, &[("INNESCO_NODE_ROLE", *role)]).await;
        }
        cluster
    }

    /// Starts one more node with these settings.
    pub async fn join(&mut self, plugins: &[&str], settings: &[(&str, &str)]) {
        let line = Proxy::to(self.server.socket()).await;
        let url = format!("postgres://innesco@{}/{}", line.address(), self.database);
        let key_file = self.key.path().join("master.key").display().to_string();
        let silence = format!("{}s", SILENCE.as_secs());
        let environment =
            [("INNESCO_STORE", url.as_str()), ("INNESCO_MASTER_KEY_FILE", &key_file), ("INNESCO_NODE_SILENCE", &silence)];
        let environment = [&environment, settings].concat();
        self.nodes.push(Engine::start_in(plugins, &["--allow-net", "127.0.0.0/8"], &environment));
        self.lines.push(line);
    }

    /// Waits until every node answers and the store accepts writes.
    async fn ready(&self) {
        for node in &self.nodes {
            let until = Instant::now() + DEADLINE;
            loop {
                let answer = node.request("GET", "/readyz").send().await;
                if answer.is_ok_and(|answer| answer.status() == 200) {
                    break;
                }
                assert!(Instant::now() < until, "a node does not become ready; its log:\n{}", node.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn signal(node: &Engine, signal: Signal) {
    kill_process(Pid::from_raw(node.pid().cast_signed()).expect("a process"), signal).expect("the node can get a signal");
}

/// The events whose acceptance the callers have seen.
#[derive(Default)]
struct Ledger {
    accepted: Mutex<BTreeSet<u64>>,
    broken: AtomicU64,
}

/// Sends jobs as one caller, to one node after another, and continues after errors.
async fn call(
    urls: Arc<Mutex<Vec<String>>>,
    number: usize,
    ledger: Arc<Ledger>,
    next: Arc<AtomicU64>,
    stopped: tokio::sync::watch::Receiver<bool>,
) {
    let client = client();
    for turn in number.. {
        if *stopped.borrow() {
            return;
        }
        let url = urls.lock().unwrap()[turn % NODES].clone();
        let job = next.fetch_add(1, Ordering::Relaxed);
        let event = json!({ "type": "job.created", "id": format!("job-{job}"), "data": { "job": job } });
        let asked = client.post(format!("{url}/v1/events")).bearer_auth(KEY).json(&event).timeout(Duration::from_secs(2));
        match asked.send().await {
            Ok(answer) if answer.status() == 202 => drop(ledger.accepted.lock().unwrap().insert(job)),
            _ => drop(ledger.broken.fetch_add(1, Ordering::Relaxed)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn body(one: &Received) -> Value {
    serde_json::from_slice(&one.body).expect("a JSON body")
}

fn job(one: &Received) -> Option<u64> {
    let body = body(one);
    body["job"].as_u64().or_else(|| body["data"]["job"].as_u64())
}

fn audit(one: &Received) -> Option<u64> {
    body(one)["audit"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_nodes_the_database_and_connections_fail() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (set SEED to repeat the moments)");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);

    let receiver = Receiver::answering(|received| Answer::status(if received.number % 5 == 0 { 503 } else { 200 })).await;
    let mut cluster = Cluster::start(&["ledger"], &["all"; NODES], true).await;
    for (name, events) in [("receiver", json!([])), ("done", json!(["job.done"]))] {
        let endpoint = json!({
            "name": name, "url": receiver.url(&format!("/{name}")), "events": events, "schedule": vec!["200ms"; 50],
        });
        cluster.nodes[0].ok("POST", "/v1/endpoints", endpoint).await;
    }
    cluster.nodes[2]
        .wait("/v1/nodes", "all nodes are live", |page| page["items"].as_array().is_some_and(|all| all.len() == NODES))
        .await;
    cluster.nodes[0].send("job.repaired", json!({})).await;

    let ledger = Arc::new(Ledger::default());
    let next = Arc::new(AtomicU64::new(0));
    let urls = Arc::new(Mutex::new(cluster.nodes.iter().map(|node| node.url.clone()).collect::<Vec<_>>()));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| tokio::spawn(call(Arc::clone(&urls), number, Arc::clone(&ledger), Arc::clone(&next), stopped.clone())))
        .collect();
    let (mut kills, mut stops, mut crashes, mut cuts, mut silences) = (0, 0, 0, 0, 0);
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..800))).await;
        let which = random.random_range(0..NODES);
        match round % 6 {
            1 => {
                // The node is stopped for longer than the heartbeat timeout.
                signal(&cluster.nodes[which], Signal::STOP);
                tokio::time::sleep(SILENCE + Duration::from_secs(3)).await;
                signal(&cluster.nodes[which], Signal::CONT);
                stops += 1;
            }
            3 => {
                cluster.server.crash(Duration::from_millis(random.random_range(0..1_000)));
                crashes += 1;
            }
            4 => {
                // A node that is committing does not learn whether its commit succeeded.
                cluster.lines[which].cut();
                cuts += 1;
            }
            5 => {
                // The node is alive, but the other nodes receive no heartbeat from it.
                cluster.lines[which].set_silent(true);
                tokio::time::sleep(SILENCE + Duration::from_secs(3)).await;
                cluster.lines[which].set_silent(false);
                silences += 1;
            }
            _ => {
                cluster.nodes[which].kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                cluster.nodes[which].launch();
                urls.lock().unwrap()[which] = cluster.nodes[which].url.clone();
                kills += 1;
            }
        }
    }
    stop.send(true).unwrap();
    for caller in callers {
        caller.await.unwrap();
    }
    cluster.ready().await;

    let accepted = ledger.accepted.lock().unwrap().clone();
    let arrived =
        |path: &str, all: &[Received]| -> BTreeSet<u64> { all.iter().filter(|one| one.path == path).filter_map(job).collect() };
    let received = receiver
        .wait_for("both webhooks of every accepted job arrive", LONG, |all| {
            accepted.is_subset(&arrived("/receiver", all)) && accepted.is_subset(&arrived("/done", all))
        })
        .await;
    let node = &cluster.nodes[0];
    for state in ["pending", "retrying"] {
        node.wait(&format!("/v1/deliveries?state={state}"), "no delivery waits", |page| page["items"] == json!([])).await;
    }
    node.wait("/v1/events?state=waiting", "every event is run", |page| page["items"] == json!([])).await;
    assert_eq!(node.get("/v1/deliveries?state=dead").await["items"], json!([]), "no delivery is dead");
    assert_eq!(node.get("/v1/events?state=failed").await["items"], json!([]), "no run is parked");

    // Each webhook has one id: a repeat has the same id.
    let mut names: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
    for one in receiver.received().iter() {
        if let Some(job) = job(one) {
            let id = one.header("webhook-id").expect("an id").to_owned();
            names.entry((one.path.clone(), job)).or_default().insert(id);
        }
    }
    let renamed: Vec<_> = names.iter().filter(|(_, ids)| ids.len() != 1).collect();
    assert!(renamed.is_empty(), "sent under two ids: {renamed:?}");
    let stored = names.keys().filter(|(path, _)| path == "/receiver").count();
    node.send("job.audit", json!({})).await;
    let all = receiver.wait_for("the audit", LONG, |all| all.iter().any(|one| audit(one).is_some())).await;
    let counted = all.iter().find_map(audit).unwrap();

    let missing = |path: &str| accepted.difference(&arrived(path, &received)).count();
    let lost = missing("/receiver") + missing("/done");
    let delivered = received.iter().filter(|one| one.number % 5 != 0).filter_map(job).count();
    println!(
        "ledger: {kills} kills, {stops} stops, {crashes} crashes of the database, {cuts} cuts and {silences} silences of a line, \
         {} accepted, {} refused or cut off, {stored} stored, {} webhooks, {delivered} deliveries seen, {} duplicates, \
         lost = {lost}, counted {counted}",
        accepted.len(),
        ledger.broken.load(Ordering::Relaxed),
        names.len(),
        delivered.saturating_sub(names.len()),
    );
    assert_eq!(lost, 0, "nothing accepted is lost");
    assert_eq!(counted as usize, stored, "the count in the plugin's state is exact");
    assert!(accepted.len() > ROUNDS, "there was a load: {}", accepted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn order_and_rate_hold_across_nodes() {
    const EVENTS: usize = 60;
    let receiver = Receiver::answering(|received| Answer::status(if received.number % 9 == 0 { 503 } else { 200 })).await;
    let cluster = Cluster::start(&[], &["all"; NODES], false).await;
    let schedule = vec!["100ms"; 50];
    for (name, policy) in [("ordered", json!({ "ordered": true })), ("slow", json!({ "rate": "20/s" }))] {
        let mut endpoint =
            json!({ "name": name, "url": receiver.url(&format!("/{name}")), "events": ["step"], "schedule": schedule });
        endpoint.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
        cluster.nodes[0].ok("POST", "/v1/endpoints", endpoint).await;
    }
    for number in 0..EVENTS {
        cluster.nodes[number % NODES].send("step", json!({ "number": number })).await;
    }
    let delivered = |path: &str, all: &[Received]| -> Vec<u64> {
        let good = all.iter().filter(|one| one.path == path && one.number % 9 != 0);
        good.map(|one| body(one)["data"]["number"].as_u64().unwrap()).collect()
    };
    let all = receiver
        .wait_for("every event arrives at both endpoints", LONG, |all| {
            ["/ordered", "/slow"].iter().all(|path| delivered(path, all).into_iter().collect::<BTreeSet<_>>().len() == EVENTS)
        })
        .await;
    let order = delivered("/ordered", &all);
    assert!(order.is_sorted(), "webhooks arrive in the order in which their events were accepted: {order:?}");
    let times: Vec<Instant> = all.iter().filter(|one| one.path == "/slow").map(|one| one.arrived).collect();
    let took = times[times.len() - 1].duration_since(times[0]);
    // The limiter lets the webhooks of a tenth of a second through at once, so the first few are not counted.
    let least = Duration::from_millis(50) * (times.len() as u32 - 4);
    assert!(took >= least, "{} in {took:?}, and no faster than 20 a second", times.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn api_nodes_and_work_nodes_cooperate() {
    let receiver = Receiver::start().await;
    let mut cluster = Cluster::start(&[], &["api", "work"], false).await;
    let [api, work] = &cluster.nodes[..] else { unreachable!("two nodes") };
    api.endpoint("crm", &receiver.url("/crm"), &["*"]).await;
    for number in 0..20 {
        api.send("a", json!({ "number": number })).await;
    }
    receiver.wait_for_count(20, DEADLINE).await;
    let (status, _) = work.call("POST", "/v1/events", json!({ "type": "a", "data": {} })).await;
    assert_eq!(status, 404, "a work node answers no calls of the API");
    assert_eq!(work.call("GET", "/readyz", Value::Null).await.0, 200, "a work node answers /readyz");
    let nodes = api.get("/v1/nodes").await;
    let roles: BTreeSet<&str> = nodes["items"].as_array().unwrap().iter().map(|node| node["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["api", "work"].into());
    let listed = api.command().args(["node", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("work") && listed.contains("api"), "{listed}");
    assert!(cluster.nodes[1].stop(), "the engine exits with 0");
    cluster.nodes[0]
        .wait("/v1/nodes", "the stopped node is no longer listed", |page| {
            page["items"].as_array().is_some_and(|all| all.len() == 1)
        })
        .await;
}

/// Once any node has answered a change, every event that is sent after that sees the change, on every node.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_on_one_node_sees_earlier_changes_on_another() {
    const ROUNDS: usize = 30;
    let receiver = Receiver::start().await;
    let cluster = Cluster::start(&["mischief"], &["all"; 2], false).await;
    let [one, two] = &cluster.nodes[..] else { unreachable!("two nodes") };
    for round in 0..ROUNDS {
        one.endpoint(&format!("crm-{round}"), &receiver.url("/"), &[&format!("made.{round}")]).await;
        two.send(&format!("made.{round}"), json!({})).await;
    }
    receiver.wait_for_count(ROUNDS, DEADLINE).await;
    assert_eq!(two.get("/v1/events?state=unrouted").await["items"], json!([]), "each event found its endpoint");
    for round in 0..ROUNDS {
        one.ok("POST", &format!("/v1/endpoints/crm-{round}/pause"), Value::Null).await;
        two.send(&format!("made.{round}"), json!({})).await;
    }
    two.all_run().await;
    let pending = two.get("/v1/deliveries?state=pending&limit=100").await;
    assert_eq!(pending["items"].as_array().map(Vec::len), Some(ROUNDS), "each delivery waits for its endpoint: {pending}");
    assert_eq!(receiver.received().len(), ROUNDS);

    let execute_in_store = |sql: &str| drop(cluster.server.ask(&cluster.database, sql).expect("the database does it"));
    send_to_an_endpoint_that_is_being_created(one, two, execute_in_store).await;
}
