//! A store with a size limit: the oldest finished events are deleted, and the log reports it.

use serde_json::{Value, json};

use crate::engine::Engine;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_deletes_old_events_and_logs_it() {
    let mut engine = Engine::start(&[]);
    let mut events = Vec::new();
    for _ in 0..40 {
        events.push(engine.send("a.b", json!({ "text": "x".repeat(100_000) })).await);
    }
    engine.wait("/v1/events?state=waiting", "everything is run", |page| page["items"] == json!([])).await;
    assert!(engine.stop());
    let settings = engine.data_folder().parent().unwrap().join("innesco.toml");
    std::fs::write(settings, "[retention]\nsize_max = \"2MiB\"\n").unwrap();
    engine.launch();
    let page = engine
        .wait("/v1/events", "old events are deleted", |page| page["items"].as_array().is_some_and(|items| items.len() < 22))
        .await;
    let left: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|event| &event["event"]).collect();
    let youngest: Vec<Value> = events.iter().rev().take(left.len()).map(|event| json!(event)).collect();
    assert_eq!(left, youngest.iter().collect::<Vec<_>>(), "the oldest event was deleted");
    assert!(!left.is_empty(), "no more events than necessary were deleted");
    engine.wait("/readyz", "the log reports it", |_| engine.log().contains("store was full")).await;
    assert_eq!(engine.get("/readyz").await["ready"], true, "a full store leaves the engine ready");
}
