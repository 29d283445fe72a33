//! Untrusted text on every page of the dashboard: markup, long strings, text written from right to left, control characters. Each
//! page shows it as text and stays usable, and the browser sends nothing to other hosts.

use serde_json::{Value, json};
use support::browser::Browser;

use crate::{
    dashboard::{nothing_foreign_but, open, sign_in, sign_in_with},
    engine::{Engine, client},
    receivers::{Answer, Receiver},
};

/// Markup that would run script, load from another host, or close the elements around it.
const MARKUP: &str = "</title></textarea></pre></bdi>\"'><script>document.title='owned'</script><img src=http://evil.example/x \
    onerror=\"document.title='owned'\"><style>*{display:none}</style><form action=http://evil.example><meta http-equiv=refresh content='0;http://evil.example'>";
/// Characters that reverse the direction of a line, emoji made of several characters, and invisible characters.
const LETTERS: &str = "\u{202e}gnp.exe\u{2066}\u{200b} طلب رقم ٧٧٢ 👨‍👩‍👧 🎁 Z\u{351}\u{36b}\u{343}algo";
/// Largest page, in bytes.
const PAGE_BYTES_MAX: usize = 90_000;
const EVENTS: usize = 60;

/// Returns markup, letters and control characters together, of about this many bytes.
fn hostile(bytes: usize) -> String {
    format!("{MARKUP}{LETTERS}{}", "A\u{1}\u{202e}<&\"".repeat(bytes / 10))
}

/// Fills an engine with hostile text in every place that takes foreign text. Returns the paths of pages that show it.
async fn fill(engine: &Engine) -> Vec<String> {
    let short = format!("{MARKUP}{LETTERS}");
    let shown = short.clone();
    let receiver = Receiver::answering(move |_| Answer::status(500).header("x-reason", "<b>").body(hostile(1_000_000))).await;
    let long_url = format!("{}?q=%3Cb%3E'&x={}", receiver.url("/"), "a".repeat(1500));
    let channels: Vec<String> = vec![short.clone(), hostile(100)];
    // A text for members that allow at most 512 bytes and no control characters.
    let line = format!("{LETTERS}{}", "A\u{202e}<&\"".repeat(40));
    let fit = |text: &str| text.chars().take(190).collect::<String>();
    for number in 0..40 {
        let title = fit(&format!("{number}{LETTERS}{MARKUP}"));
        let new = json!({ "name": format!("bad-{number}"), "title": title, "url": long_url, "events": ["never.sent"], "where": { "channel": channels } });
        engine.ok("POST", "/v1/endpoints", new).await;
    }
    let new = json!({ "name": "bad", "title": fit(MARKUP), "url": long_url, "events": ["*"], "breaker": { "failures": 0 }, "headers": { "x-note": "<script>alert(1)</script>" } });
    engine.ok("POST", "/v1/endpoints", new).await;
    let data =
        json!({ "note": hostile(1_000_000), short.as_str(): short, "list": vec![hostile(200); 2_000], "total": hostile(10_000) });
    let mut event = String::new();
    for number in 0..EVENTS {
        // The last event is the largest.
        let data = if number + 1 == EVENTS { data.clone() } else { json!({ "id": 1, "total": 2000, "note": short }) };
        let sent = json!({
            "type": "order.created", "source": short, "id": format!("{number}{shown}"), "subject": line, "channel": short, "data": data,
        });
        let (status, answer) = engine.call("POST", "/v1/events", sent).await;
        assert_eq!(status, 202, "{answer}");
        answer["event"].as_str().expect("an id").clone_into(&mut event);
    }
    let source = engine.ok("POST", "/v1/sources", json!({ "name": "shop", "preset": "bearer", "title": fit(&short) })).await;
    let address = format!("{}{}", engine.url, source["path"].as_str().expect("a path"));
    for token in ["<script>document.title='owned'</script>", source["secret"].as_str().expect("a secret")] {
        let request = client().post(&address).header("authorization", format!("Bearer {token}"));
        let request =
            request.header("user-agent", "<script>document.title='owned'</script>").header("content-type", "text/plain");
        request.body(hostile(2_000)).send().await.expect("an answer");
    }
    engine.ok("POST", "/v1/keys", json!({ "name": "<script>document.title='owned'</script>", "role": "read" })).await;
    let story = engine
        .wait(&format!("/v1/events/{event}"), "its run ended and its webhook failed", |story| {
            story["deliveries"][0]["attempt_count"].as_u64() >= Some(1) && story["runs"][0]["state"] == "parked"
        })
        .await;
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    let (delivery, run) = (text(&story["deliveries"][0]["id"]), text(&story["runs"][0]["id"]));
    let encoded = "%3Cscript%3Edocument.title%3D'owned'%3C%2Fscript%3E%E2%80%AEgnp";
    let mut paths: Vec<String> = [
        "/",
        "/events",
        "/deliveries",
        "/deliveries/retry?endpoint=bad&state=retrying",
        "/endpoints",
        "/endpoints/new",
        "/endpoints/bad",
        "/endpoints/bad?open=week",
        "/endpoints/bad/edit",
        "/endpoints/bad/rotate",
        "/endpoints/bad/delete",
        "/plugins",
        "/plugins/order-router",
        "/sources",
        "/sources/shop",
        "/sources/new",
        "/settings/keys",
        "/settings/audit",
        "/settings/nodes",
    ]
    .map(str::to_owned)
    .into();
    for open in ["", "data", "data&raw=1", &format!("answer-{delivery}"), &format!("request-{delivery}"), &format!("log-{run}")] {
        paths.push(format!("/events/{event}?open={open}"));
    }
    for path in [
        "/search?q=",
        "/events?type=",
        "/events/send?type=",
        "/events?subject=",
        "/events?id=",
        "/events?source=",
        "/events?state=",
        "/events?since=",
        "/deliveries?event=",
        "/deliveries?endpoint=",
        "/endpoints?q=",
        "/settings/audit?action=",
        "/events/",
        "/endpoints/",
        "/plugins/",
        "/sources/",
        "/jobs/",
    ] {
        paths.push(format!("{path}{encoded}"));
    }
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn untrusted_text_is_text_on_every_page() {
    let engine = Engine::start(&["order-router"]);
    let paths = fill(&engine).await;
    let browser = Browser::start().await;
    let mut found = Vec::new();
    sign_in(&browser, &engine).await;
    for path in &paths {
        check(&browser, &engine, path, &mut found).await;
    }
    nothing_foreign_but(&browser, &engine, is_refused).await;
    // The pages that a key of the role `read` sees are written by other code.
    let read = engine.ok("POST", "/v1/keys", json!({ "name": "looker", "role": "read" })).await;
    sign_in_with(&browser, &engine, read["key"].as_str().expect("a key")).await;
    browser.show_as(390, true).await;
    for path in &paths {
        check(&browser, &engine, path, &mut found).await;
    }
    nothing_foreign_but(&browser, &engine, is_refused).await;
    browser.close().await;
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

/// Returns whether an error of the console is a page with the reason of a refusal: of a hostile address, such as an unknown state, or
/// of an address that the role may not open.
fn is_refused(error: &str) -> bool {
    let is_hostile = error.contains("%3Cscript%3E") && error.contains("responded with a status of 4");
    is_hostile || error.contains("responded with a status of 403")
}

/// Opens a page, and notes it if untrusted text did anything, if it is too large, or if it is wider than the window.
async fn check(browser: &Browser, engine: &Engine, path: &str, found: &mut Vec<String>) {
    open(browser, engine, path).await;
    browser.wait("#rail").await;
    let mut note = |is_good: bool, fault: String| {
        if !is_good {
            eprintln!("{path} {fault}");
            found.push(format!("{path} {fault}"));
        }
    };
    let title = browser.run("return document.title").await;
    note(!title.as_str().expect("a title").starts_with("owned"), format!("has the title {title}"));
    let made =
        "return document.querySelectorAll('main :is(script, img, style, iframe, meta, [onerror]), form[action*=evil]').length";
    note(browser.run(made).await == 0, "has elements from untrusted text".to_owned());
    let bare = "const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); const found = [];
        while (walk.nextNode()) if (/[\\u0000-\\u0008\\u000b-\\u001f\\u202a-\\u202e]/.test(walk.currentNode.data)) found.push(walk.currentNode.data.slice(0, 80));
        return found;";
    let bare = browser.run(bare).await;
    note(bare == json!([]), format!("has characters that hide: {bare}"));
    let bytes = browser.run("return fetch(location.href, { headers: { accept: 'text/html' } }).then((answer) => answer.blob()).then((page) => page.size)").await;
    note(bytes.as_u64().is_some_and(|bytes| bytes < PAGE_BYTES_MAX as u64), format!("has {bytes} bytes"));
    let wider = browser.run("return document.documentElement.scrollWidth - innerWidth").await;
    note(wider.as_i64().is_some_and(|more| more <= 0), format!("is wider than the window by {wider}"));
}
