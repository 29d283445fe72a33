//! `kill -9` at random moments under load, while deliveries and runs wait for retries: every accepted event is delivered under
//! one id and counted once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client},
    receivers::{Answer, Receiver},
};

const ROUNDS: usize = 22;
const CALLERS: usize = 8;

/// The jobs whose acceptance the callers have seen.
#[derive(Default)]
struct Ledger {
    /// Each accepted job. The value is the id of its event, or `None` if the answer was cut off after the status.
    accepted: Mutex<BTreeMap<u64, Option<String>>>,
    broken: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_or_renamed_when_the_engine_is_killed() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (set SEED to repeat the moments)");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);

    // Every fifth request fails, so that there are always retries.
    let receiver = Receiver::answering(|received| Answer::status(if received.number % 5 == 0 { 503 } else { 200 })).await;
    let mut engine = Engine::start(&["ledger"]);
    for (name, events) in [("receiver", json!([])), ("done", json!(["job.done"]))] {
        let endpoint = json!({
            "name": name, "url": receiver.url(&format!("/{name}")), "events": events,
            "schedule": ["0s", "20ms", "50ms", "100ms", "200ms", "200ms", "200ms", "200ms", "200ms", "200ms", "200ms", "200ms"],
        });
        engine.ok("POST", "/v1/endpoints", endpoint).await;
    }

    let ledger = Arc::new(Ledger::default());
    let next = Arc::new(AtomicU64::new(0));
    for round in 0..ROUNDS {
        // In the first quarter of the rounds every seventh job fails. Its retries wait 1 s and then 10 s, so most rounds have
        // waiting runs.
        if round == ROUNDS / 4 {
            engine.send("job.repaired", json!({})).await;
        }
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| tokio::spawn(call(engine.url.clone(), Arc::clone(&ledger), Arc::clone(&next), stopped.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(5..250))).await;
        engine.kill();
        stop.send(true).unwrap();
        for caller in callers {
            caller.await.unwrap();
        }
        engine.launch();
    }

    // Every accepted job arrives twice: once from the plugin, and once from the event that the plugin emits.
    let events = ledger.accepted.lock().unwrap().clone();
    let accepted: BTreeSet<u64> = events.keys().copied().collect();
    let arrived = |path: &str, all: &[crate::receivers::Received]| -> BTreeSet<u64> {
        all.iter().filter(|one| one.path == path).filter_map(job).collect()
    };
    let received = receiver
        .wait_for("both webhooks of every accepted job arrive", DEADLINE, |all| {
            accepted.is_subset(&arrived("/receiver", all)) && accepted.is_subset(&arrived("/done", all))
        })
        .await;

    // Wait for the last records, then read the store.
    for state in ["pending", "retrying"] {
        engine.wait(&format!("/v1/deliveries?state={state}"), "no delivery waits", |page| page["items"] == json!([])).await;
    }
    engine.wait("/v1/events?state=waiting", "every event is run", |page| page["items"] == json!([])).await;
    let dead = engine.get("/v1/deliveries?state=dead").await;
    assert_eq!(dead["items"], json!([]), "no delivery is dead");

    // Each job that failed at first ran again, and its failure had no effects.
    let mut retried = 0;
    let whole = events.iter().filter_map(|(job, event)| Some((job, event.as_ref()?)));
    for (job, event) in whole.filter(|(job, _)| *job % 7 == 3) {
        let story = engine.get(&format!("/v1/events/{event}")).await;
        let runs = story["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), 1, "job {job}: {story:#}");
        assert_eq!((&runs[0]["outcome"], &runs[0]["state"]), (&json!("ok"), &json!("done")), "job {job}: {story:#}");
        retried += usize::from(runs[0]["tries"].as_u64().expect("a number") > 1);
    }

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

    // The plugin's count is exact: one per stored job, whether its 202 was received or cut off.
    let stored = names.keys().filter(|(path, _)| path == "/receiver").count();
    engine.send("job.audit", json!({})).await;
    let all = receiver.wait_for("the audit", DEADLINE, |all| all.iter().any(|one| audit(one).is_some())).await;
    let counted = all.iter().find_map(audit).unwrap();

    let missing = |path: &str| accepted.difference(&arrived(path, &received)).count();
    let lost = missing("/receiver") + missing("/done");
    let delivered = received.iter().filter(|one| one.number % 5 != 0).filter_map(job).count();
    let distinct = names.len();
    println!(
        "ledger: {} kills, {} accepted, {} cut off, {stored} stored, {retried} runs tried again, {distinct} webhooks, {delivered} deliveries seen, {} duplicates, lost = {lost}, counted {counted}",
        ROUNDS,
        accepted.len(),
        ledger.broken.load(Ordering::Relaxed),
        delivered.saturating_sub(distinct),
    );
    assert_eq!(lost, 0, "nothing accepted is lost");
    assert_eq!(counted as usize, stored, "the count in the plugin's state is exact");
    assert!(retried > 0, "runs failed at first and were tried again");
    assert!(accepted.len() > ROUNDS, "there was a load: {}", accepted.len());
}

fn body(one: &crate::receivers::Received) -> Value {
    serde_json::from_slice(&one.body).expect("a JSON body")
}

fn job(one: &crate::receivers::Received) -> Option<u64> {
    let body = body(one);
    body["job"].as_u64().or_else(|| body["data"]["job"].as_u64())
}

fn audit(one: &crate::receivers::Received) -> Option<u64> {
    body(one)["audit"].as_u64()
}

/// Sends jobs until stopped or until the engine dies.
async fn call(url: String, ledger: Arc<Ledger>, next: Arc<AtomicU64>, stopped: tokio::sync::watch::Receiver<bool>) {
    let client = client();
    while !*stopped.borrow() {
        let job = next.fetch_add(1, Ordering::Relaxed);
        let event = json!({ "type": "job.created", "id": format!("job-{job}"), "data": { "job": job } });
        let answer = client.post(format!("{url}/v1/events")).bearer_auth(KEY).json(&event).send().await;
        match answer {
            Ok(answer) if answer.status() == 202 => {
                // The job is accepted, even if the answer is cut off after its status.
                let event = answer.json::<Value>().await.ok().map(|answer| answer["event"].as_str().expect("an id").to_owned());
                ledger.accepted.lock().unwrap().insert(job, event);
            }
            _ => {
                ledger.broken.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}
