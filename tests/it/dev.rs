//! `innesco dev` prints everything that a plugin's author needs, and creates the endpoints that plugins send to.
//!
//! The tests put plugins into the folder of the engine as files that are built already, so that no test waits for a build.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    crates,
    dashboard::client_without_redirects,
    engine::{DEADLINE, client},
    nodes::other_version,
    outside::{Dev, innesco, ok},
};

/// Puts a plugin file into the folder of the engine, and waits until it serves.
fn serve(dev: &Dev, folder: &Path, plugin: &str, bytes: &[u8]) {
    let (seen, plugins) = (dev.count(), folder.join(".innesco/plugins"));
    fs::write(plugins.join(".draft"), bytes).unwrap();
    fs::rename(plugins.join(".draft"), plugins.join(format!("{plugin}.wasm"))).unwrap();
    dev.wait(seen, &format!("{plugin}@"), DEADLINE);
}

fn send(folder: &Path, event_type: &str, data: &str) {
    ok(&innesco(folder, &["send", event_type, data]));
}

#[test]
fn a_missing_endpoint_is_created_and_its_webhooks_verify() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let dev = Dev::start(folder);
    ok(&innesco(folder, &["plugin", "config", "order-router", "country.IT=accounting"]));
    serve(&dev, folder, "order-router", &crates::wasm("order-router"));
    send(folder, "order.created", r#"{"id": 7, "total": 5, "country": "IT"}"#);
    dev.wait(0, "accounting created at the test receiver, because order-router sends to it", DEADLINE);
    let webhook = dev.wait(0, "→ accounting", DEADLINE);
    assert!(webhook.contains("200") && webhook.contains("signature verified"), "{webhook}");
    assert!(!dev.has_printed("bad-output"), "the run that found the endpoint missing is not printed");

    // The test receiver also verifies webhooks to an endpoint that the user created there, with any signature.
    let receiver = receiver_of(folder);
    for signature in ["v1a", "github"] {
        let (name, seen) = (format!("mine-{signature}"), dev.count());
        let url = format!("{receiver}/hooks/{signature}");
        ok(&innesco(folder, &["endpoint", "add", &name, &url, "--events", signature, "--signature", signature]));
        send(folder, signature, "{}");
        let webhook = dev.wait(seen, &format!("→ {name}"), DEADLINE);
        assert!(webhook.contains("200") && webhook.contains("signature verified"), "{webhook}");
    }

    // After a restart the endpoints have the new address of the receiver.
    ok(&innesco(folder, &["endpoint", "update", "accounting", "--events", "invoice.*"]));
    drop(dev);
    let dev = Dev::start(folder);
    assert_ne!(receiver_of(folder), receiver);
    send(folder, "invoice.paid", "{}");
    send(folder, "github", "{}");
    for name in ["accounting", "mine-github"] {
        let webhook = dev.wait(0, &format!("→ {name}"), DEADLINE);
        assert!(webhook.contains("signature verified"), "{webhook}");
    }
}

/// Returns the URL of the test receiver.
fn receiver_of(folder: &Path) -> String {
    let local = fs::read_to_string(folder.join(".innesco/local.toml")).unwrap();
    let address = local.lines().find_map(|line| line.strip_prefix("receiver = ")).expect("its address is stored");
    format!("http://{}", address.trim_matches('"'))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_link_signs_in_to_the_dashboard_once() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(home.path());
    let line = dev.wait(0, "/sign-in/once/", DEADLINE);
    let link = line.split_whitespace().find(|word| word.contains("/sign-in/once/")).expect("a link");
    let http = client_without_redirects();
    for (to, signs_in) in [("/", true), ("/sign-in?link=used", false)] {
        let answer = http.get(link).send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().expect("text")), (303, to));
        assert_eq!(answer.headers().contains_key("set-cookie"), signs_in);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_prints_plugin_logs_unrouted_events_and_refused_requests() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let dev = Dev::start(folder);
    serve(&dev, folder, "bounce-guard", &crates::wasm("bounce-guard"));

    // The third bounce logs a line and emits an event, to which the receiver subscribes.
    for _ in 0..3 {
        send(folder, "mail.bounced", r#"{"email": "anna@example.com"}"#);
    }
    let log = dev.wait_for_next("bounce-guard@", "1 event");
    assert_eq!(log.trim(), "info  bounce 3: the address is unreachable");
    // On a busy machine the webhook, whose body names the type of its event, can be printed before the event.
    let emitted = dev.wait(0, "from plugin/bounce-guard", DEADLINE);
    assert!(emitted.contains("event") && emitted.contains("contact.unreachable"), "{emitted}");
    dev.wait(0, "→ receiver", DEADLINE);

    // An event without a subscriber is printed with the nearest pattern.
    send(folder, "mail.bouncd", "{}");
    dev.wait(0, "no plugin and no endpoint subscribes to mail.bouncd; the nearest pattern is mail.bounced", DEADLINE);

    // A request that a source refuses is printed.
    let source = ok(&innesco(folder, &["source", "add", "github", "--preset", "github", "--json"]));
    let source: Value = serde_json::from_str(&source).unwrap();
    let local = fs::read_to_string(folder.join(".innesco/local.toml")).unwrap();
    let url = local.lines().find_map(|line| line.strip_prefix("url = ")).unwrap().trim_matches('"');
    let url = format!("{url}{}", source["path"].as_str().expect("the path of the source"));
    let answer = client().post(url).header("content-type", "application/json").body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let why = dev.wait_for_next("github refused a request", "from 127.0.0.1");
    assert!(why.contains("x-hub-signature-256"), "{why}");
}

#[test]
fn parked_runs_of_a_repaired_plugin_are_mentioned() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let dev = Dev::start(folder);
    let wasm = crates::wasm("order-router");
    serve(&dev, folder, "order-router", &wasm);
    for _ in 0..2 {
        send(folder, "order.created", r#"{"total": 5}"#);
    }
    dev.wait_for_count(2, "parked; after a fix: innesco run retry run_");
    serve(&dev, folder, "order-router", &other_version(&wasm));
    dev.wait(0, "2 runs of order-router are parked; retry them with: innesco run retry --parked --plugin order-router", DEADLINE);
    ok(&innesco(folder, &["run", "retry", "--parked", "--plugin", "order-router", "--yes"]));
}
