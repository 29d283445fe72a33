//! A plugin that is built with the first SDK loads. It runs on the same events as a plugin that is built with today's SDK.

use serde_json::{Value, json};

use crate::{
    crates,
    engine::{DEADLINE, Engine},
    receivers::{Received, Receiver},
};

fn body(one: &Received) -> Value {
    serde_json::from_slice(&one.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_the_first_sdk_runs_beside_one_of_todays_contract() {
    let (first, today) = (crates::wasm_of_the_first_sdk(), crates::wasm("ledger"));
    let uses = |file: &[u8], name: &str| file.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    assert!(uses(&first, "innesco:plugin/handler@1.0.0") && !uses(&first, "@1.1.0"), "it uses the first contract");
    assert!(uses(&today, "innesco:plugin/handler@1.1.0"), "the other one uses today's");

    let engine = Engine::start(&["ledger"]);
    engine.write_plugin("first_sdk.wasm", &first);
    engine
        .wait("/v1/plugins", "both serve", |page| {
            let plugins = page["items"].as_array().expect("plugins");
            plugins.len() == 2 && plugins.iter().all(|plugin| plugin["state"] == "serving")
        })
        .await;
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &[]).await;
    engine.endpoint("done", &receiver.url("/done"), &["first.done"]).await;
    engine.ok("PUT", "/v1/plugins/first-sdk/config", json!({ "greeting": "good day" })).await;
    for job in [1, 2] {
        let event = json!({ "type": "job.created", "channel": "web", "data": { "job": job } });
        let event = engine.ok("POST", "/v1/events", event).await["event"].as_str().expect("an id").to_owned();
        let story = engine.settled(&event).await;
        let runs = story["runs"].as_array().expect("runs");
        assert!(runs.len() == 2 && runs.iter().all(|run| run["outcome"] == "ok"), "{story:#}");
        let of_first = runs.iter().find(|run| run["plugin"] == "first-sdk").expect("it ran");
        assert_eq!((&of_first["webhooks"], &of_first["events"]), (&json!(1), &json!(1)));
        assert_eq!(of_first["log"][0]["message"], format!("job {job} is number {job}"));
    }
    // Each job causes three webhooks: one from each plugin, and one for the event that the plugin of the first SDK emits.
    let received = receiver.wait_for_count(6, DEADLINE).await;
    let mut sent: Vec<Value> = received.iter().filter(|one| one.header("x-sdk") == Some("first")).map(body).collect();
    sent.sort_by_key(|body| body["first_sdk"].as_u64());
    let expected = |job: u64| json!({ "first_sdk": job, "count": job, "greeting": "good day", "channel": "web" });
    assert_eq!(sent, [expected(1), expected(2)]);
    assert_eq!(received.iter().filter(|one| one.path == "/done").count(), 2);

    let event = engine.send("job.created", json!({ "job": 13 })).await;
    let story = engine.settled(&event).await;
    let refused =
        story["runs"].as_array().expect("runs").iter().find(|run| run["plugin"] == "first-sdk").expect("it ran").clone();
    assert_eq!((&refused["outcome"], &refused["code"]), (&json!("failed"), &json!("unlucky")), "{refused:#}");
}
