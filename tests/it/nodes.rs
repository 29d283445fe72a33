//! Nodes over one Postgres: shared plugins, and what each node reports.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    crates,
    engine::{DEADLINE, Engine, client},
    receivers::Receiver,
};

/// Returns the same plugin in a file with other bytes: another version.
pub fn other_version(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0, 3, 1, b'v', 2]].concat()
}

fn digest(bytes: &[u8]) -> String {
    innesco::domain::plugin::Digest::of(bytes).to_string()
}

/// Returns what a node's entry in `/v1/nodes` reports of a plugin.
fn said_of<'a>(node: &'a Value, plugin: &str) -> Option<&'a Value> {
    node["plugins"].as_array().expect("plugins").iter().find(|said| said["name"] == plugin)
}

/// Waits until this many nodes report that this version of the plugin serves, or that they do not have the plugin.
async fn all_have(asked: &Engine, nodes: usize, plugin: &str, version: Option<&str>) {
    asked
        .wait("/v1/nodes", &format!("{nodes} nodes have {plugin} in the version {version:?}"), |page| {
            let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let fits = |node: &Value| match version {
                Some(version) => said_of(node, plugin).is_some_and(|said| said["version"] == version && said["error"].is_null()),
                None => said_of(node, plugin).is_none(),
            };
            items.len() == nodes && items.iter().all(fits)
        })
        .await;
}

/// Makes a node scan its folder twice: with an added file, and without it again. Waits for the visible effect of each scan.
async fn have_it_look(node: &Engine) {
    let reported = |page: &Value| {
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().any(|node| node["answers"] == true && said_of(node, "noise.wasm").is_some())
    };
    node.write_plugin("noise.wasm", b"noise");
    node.wait("/v1/nodes", "the node has scanned its folder", reported).await;
    std::fs::remove_file(node.plugin_folder().join("noise.wasm")).unwrap();
    node.wait("/v1/nodes", "the node has scanned its folder again", |page| !reported(page)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_the_folder_of_one_node_serves_on_all() {
    let first = crates::wasm("ledger");
    let second = other_version(&first);
    let (one, two) = (digest(&first), digest(&second));
    let receiver = Receiver::start().await;
    let mut cluster = Cluster::start(&[], &["api", "all"], false).await;
    cluster.nodes[0].endpoint("receiver", &receiver.url("/"), &[]).await;
    cluster.nodes[0].write_plugin("ledger.wasm", &first);
    all_have(&cluster.nodes[1], 2, "ledger", Some(&one)).await;
    // The first node executes no runs, and the second one has no plugin file.
    let event = cluster.nodes[1].send("job.created", json!({ "job": 1 })).await;
    receiver.wait_for_count(1, DEADLINE).await;
    assert_eq!(cluster.nodes[1].settled(&event).await["runs"][0]["version"], one);

    // A node that joins later gets the plugin at its start, in every role.
    cluster.join(&[], &[("INNESCO_NODE_ROLE", "work")]).await;
    all_have(&cluster.nodes[0], 3, "ledger", Some(&one)).await;
    let listed = cluster.nodes[0].command().args(["node", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.matches(&format!("ledger@{}", &one[..6])).count(), 3, "{listed}");

    // The plugin is replaced on another node, which never had the file.
    let written = Instant::now();
    cluster.nodes[1].write_plugin("ledger.wasm", &second);
    all_have(&cluster.nodes[0], 3, "ledger", Some(&two)).await;
    println!("ready on three nodes {:?} after it was written", written.elapsed());
    let shown = cluster.nodes[0].get("/v1/plugins/ledger").await;
    assert_eq!((&shown["version"], &shown["error"]), (&json!(two), &Value::Null));
    let event = cluster.nodes[0].send("job.created", json!({ "job": 2 })).await;
    receiver.wait_for_count(2, DEADLINE).await;
    assert_eq!(cluster.nodes[0].settled(&event).await["runs"][0]["version"], two);

    // The plugin is rolled back and removed over the API of a node that does not have the file.
    let rolled_back = cluster.nodes[0].ok("POST", "/v1/plugins/ledger/rollback", Value::Null).await;
    assert_eq!((&rolled_back["version"], &rolled_back["state"]), (&json!(one), &json!("serving")));
    all_have(&cluster.nodes[0], 3, "ledger", Some(&one)).await;
    cluster.nodes[0].ok("DELETE", "/v1/plugins/ledger", Value::Null).await;
    all_have(&cluster.nodes[0], 3, "ledger", None).await;
    assert_eq!(cluster.nodes[0].get("/v1/plugins").await["items"], json!([]));
    let event = cluster.nodes[1].send("job.created", json!({ "job": 3 })).await;
    cluster.nodes[1]
        .wait(&format!("/v1/events/{event}"), "no plugin and no endpoint subscribes to it", |story| story["state"] == "unrouted")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_different_files_agree_on_one_version() {
    let first = crates::wasm("ledger");
    let second = other_version(&first);
    let (one, two) = (digest(&first), digest(&second));
    let mut cluster = Cluster::start(&[], &["all", "all"], false).await;
    // Each node is stopped, gets a file that no node had before, and starts again. Such a file counts as newer, so it serves.
    for (number, bytes, version) in [(0, &first, &one), (1, &second, &two)] {
        assert!(cluster.nodes[number].stop());
        cluster.nodes[number].write_plugin("ledger.wasm", bytes);
        cluster.nodes[number].launch();
        all_have(&cluster.nodes[0], 2, "ledger", Some(version)).await;
    }
    // A file that was there at an earlier start counts as known, so it changes nothing.
    cluster.nodes[0].kill();
    cluster.nodes[0].launch();
    all_have(&cluster.nodes[1], 2, "ledger", Some(&two)).await;
    let log = cluster.nodes[0].log();
    assert!(log.contains("plugin file is not used"), "{log}");

    // Both nodes scan their folders and the store repeatedly, and nothing changes.
    for round in 0..3 {
        for node in &cluster.nodes {
            have_it_look(node).await;
        }
        let name = format!("round-{round}");
        cluster.nodes[round % 2].endpoint(&name, "http://127.0.0.1:9/", &[]).await;
        let other = &cluster.nodes[(round + 1) % 2];
        other
            .wait(&format!("/v1/endpoints/{name}"), "the settings reached every node", |endpoint| endpoint["name"] == name)
            .await;
        for node in &cluster.nodes {
            all_have(node, 2, "ledger", Some(&two)).await;
            assert_eq!(node.get("/v1/plugins/ledger").await["version"], two);
        }
    }
    let swaps = |node: &Engine| node.log().matches("plugin serves").count();
    // The first node served its own file, then the second node's file, and after a restart the second node's file again. The second
    // node served the first node's file, after a restart the first node's file again, and then its own file.
    assert_eq!(
        (swaps(&cluster.nodes[0]), swaps(&cluster.nodes[1])),
        (3, 3),
        "the serving version was replaced once for each change"
    );

    // After the old file is written again, its version serves again.
    cluster.nodes[0].write_plugin("ledger.wasm", &first);
    all_have(&cluster.nodes[1], 2, "ledger", Some(&one)).await;
    // Renaming a file changes nothing, and removing one changes nothing.
    let folder = cluster.nodes[0].plugin_folder();
    std::fs::rename(folder.join("ledger.wasm"), folder.join("book.wasm")).unwrap();
    std::fs::remove_file(cluster.nodes[1].plugin_folder().join("ledger.wasm")).unwrap();
    for node in &cluster.nodes {
        have_it_look(node).await;
    }
    all_have(&cluster.nodes[1], 2, "ledger", Some(&one)).await;
    std::fs::remove_file(folder.join("book.wasm")).unwrap();
    for node in &cluster.nodes {
        have_it_look(node).await;
    }
    all_have(&cluster.nodes[1], 2, "ledger", Some(&one)).await;
    // A removed plugin does not serve again after a restart.
    cluster.nodes[1].ok("DELETE", "/v1/plugins/ledger", Value::Null).await;
    all_have(&cluster.nodes[1], 2, "ledger", None).await;
    assert!(cluster.nodes[1].stop());
    cluster.nodes[1].write_plugin("ledger.wasm", &second);
    cluster.nodes[1].launch();
    all_have(&cluster.nodes[0], 2, "ledger", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_report_plugins_that_are_not_ready() {
    let mut cluster = Cluster::start(&["ledger"], &["api"], false).await;
    cluster.join(&[], &[("INNESCO_NODE_ROLE", "work"), ("INNESCO_LIMITS_PLUGIN_BYTES_MAX", "1KiB")]).await;
    let [api, work] = &cluster.nodes[..] else { unreachable!("two nodes") };
    let page = api
        .wait("/v1/nodes", "one node cannot load the plugin, and reports that", |page| {
            let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            items.iter().any(|node| said_of(node, "ledger").is_some_and(|said| !said["error"].is_null()))
        })
        .await;
    for node in page["items"].as_array().unwrap() {
        let said = said_of(node, "ledger").expect("each of them");
        if node["role"] == "work" {
            assert!(said["version"].is_null(), "{said}");
            assert!(said["error"].as_str().unwrap().contains("more than the limit of 1024"), "{said}");
        } else {
            assert_eq!(said["version"], digest(&crates::wasm("ledger")));
            assert!(said["error"].is_null());
        }
    }
    for (node, behind) in [(api, 0), (work, 1)] {
        let figures = client().get(format!("{}/metrics", node.url)).send().await.unwrap().text().await.unwrap();
        let lines: Vec<&str> = figures.lines().collect();
        for line in [
            "innesco_nodes{role=\"api\"} 1",
            "innesco_nodes{role=\"work\"} 1",
            "innesco_node_leases{node=\"other\"} 0",
            &format!("innesco_plugins_behind {behind}"),
        ] {
            assert!(lines.contains(&line), "{line} in:\n{figures}");
        }
        for item in page["items"].as_array().unwrap() {
            let name = item["name"].as_str().unwrap();
            for figure in ["leases", "oldest_seconds", "silent_seconds"] {
                let sample = format!("innesco_node_{figure}{{node=\"{name}\"}} ");
                assert!(lines.iter().any(|line| line.starts_with(&sample)), "{sample} in:\n{figures}");
            }
        }
    }
}
