//! The dashboard in a real browser: signing in, finding and repairing an event, live updates, two languages, no script.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use support::browser::Browser;
use tokio::time::MissedTickBehavior;

use crate::{
    engine::{Engine, KEY, client},
    receivers::{Answer, Receiver},
};

/// Signs in as an admin.
pub async fn sign_in(browser: &Browser, engine: &Engine) {
    sign_in_with(browser, engine, KEY).await;
}

/// Signs in with a key.
pub async fn sign_in_with(browser: &Browser, engine: &Engine, key: &str) {
    browser.open(&format!("{}/sign-in", engine.url)).await;
    browser.fill("#f-key", key).await;
    browser.click(".sign-in button[type=submit]").await;
    browser.wait("#rail").await;
}

/// Opens a page of the engine.
pub async fn open(browser: &Browser, engine: &Engine, path: &str) {
    browser.open(&format!("{}{path}", engine.url)).await;
}

/// Waits until the page's stream is open.
pub async fn live(browser: &Browser) {
    browser.wait("html[data-stream=open]").await;
}

/// Fails if the console has an error, such as a violation of the content security policy, or if the browser requested an address of
/// another host.
pub async fn nothing_foreign(browser: &Browser, engine: &Engine) {
    nothing_foreign_but(browser, engine, |_| false).await;
}

/// Like [`nothing_foreign`], but allows some errors.
pub async fn nothing_foreign_but(browser: &Browser, engine: &Engine, is_allowed: impl Fn(&str) -> bool) {
    let errors: Vec<String> = browser.errors().await.into_iter().filter(|error| !is_allowed(error)).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let ours = |url: &String| {
        url.starts_with(&engine.url) || url.starts_with("data:") || url.starts_with("chrome") || url.starts_with("about:")
    };
    let foreign: Vec<String> = browser.requests().await.into_iter().filter(|url| !ours(url)).collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

/// Starts a receiver that answers 500 until the flag is set.
pub async fn breakable() -> (Receiver, Arc<AtomicBool>) {
    let works = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&works);
    let receiver = Receiver::answering(move |_| Answer::status(if answers.load(Ordering::Relaxed) { 200 } else { 500 })).await;
    (receiver, works)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_signs_in_and_a_wrong_one_is_explained() {
    let engine = Engine::start(&[]);
    let publish = engine.ok("POST", "/v1/keys", json!({ "name": "shop", "role": "publish" })).await;
    let browser = Browser::start().await;
    open(&browser, &engine, "/events?state=failed").await;
    browser.wait_address("/sign-in?back=").await;
    browser.fill("#f-key", "innk_wrong").await;
    browser.click(".sign-in button[type=submit]").await;
    browser.wait_for(".error", "not known here").await;
    browser.fill("#f-key", publish["key"].as_str().expect("a key")).await;
    browser.click(".sign-in button[type=submit]").await;
    browser.wait_for(".error", "the role publish").await;
    browser.fill("#f-key", KEY).await;
    browser.click(".sign-in button[type=submit]").await;
    browser.wait_address("/events?state=failed").await;
    browser.wait_for("main", "No event matches").await;
    browser.click("form[action='/sign-out'] button").await;
    browser.wait_address("/sign-in").await;
    open(&browser, &engine, "/events").await;
    browser.wait_address("/sign-in").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_webhook_appears_live_and_is_retried() {
    let engine = Engine::start(&[]);
    let (receiver, works) = breakable().await;
    engine.endpoint("crm", &receiver.url("/"), &["order.*"]).await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/events").await;
    live(&browser).await;
    let event = engine.send("order.created", json!({ "total": "1500.00" })).await;
    // The list was empty, so its first row appears without a click.
    browser.wait_for("#rows", "retrying").await;
    browser.click(&format!("#{event} .go")).await;
    browser.wait_for("h1", "order.created").await;
    live(&browser).await;
    browser.wait_for("#story", "500").await;
    works.store(true, Ordering::Relaxed);
    browser.click("#story form[action$='/retry'] button").await;
    browser.wait_for("#story", "delivered, 200").await;
    browser.wait_for(".chip", "delivered, 1 of 1").await;
    assert!(browser.address().await.contains(&event), "the page was not left");
    browser.click("a.peek[href*='open=data']").await;
    browser.wait_for("#received pre", "\"1500.00\"").await;
    // For another event, all parts that have not been delivered yet are cancelled together.
    works.store(false, Ordering::Relaxed);
    let event = engine.send("order.created", json!({ "total": "7.00" })).await;
    open(&browser, &engine, &format!("/events/{event}")).await;
    live(&browser).await;
    browser.wait_for("#story", "retrying").await;
    browser.click("#event-bar a[href*='ask=cancel']").await;
    browser.click("#event-bar form[action$='/cancel'] button").await;
    browser.wait_for("#event-bar .said", "1 part cancelled").await;
    browser.wait_for("#story", "All of its webhooks were cancelled.").await;
    browser.wait_for(".chip", "nothing sent").await;
    assert!(!browser.has("#event-bar a[href*='ask=cancel']").await, "nothing is left to cancel");
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_role_read_sees_no_button_that_changes_something() {
    let engine = Engine::start(&[]);
    let (receiver, _works) = breakable().await;
    engine.endpoint("crm", &receiver.url("/secret-path"), &["order.*"]).await;
    let event = engine.send("order.created", json!({})).await;
    let read = engine.ok("POST", "/v1/keys", json!({ "name": "looker", "role": "read" })).await;
    let browser = Browser::start().await;
    sign_in_with(&browser, &engine, read["key"].as_str().expect("a key")).await;
    open(&browser, &engine, &format!("/events/{event}")).await;
    let delivery = browser.wait_for("#story", "retrying").await;
    assert!(!delivery.contains("Retry now"), "{delivery}");
    assert!(!browser.has("main form[method=post]").await);
    let id = browser.run("return document.querySelector('[id^=dlv_]').id").await;
    open(&browser, &engine, &format!("/events/{event}?open=request-{}", id.as_str().expect("an id"))).await;
    let panel = browser.wait_for(".panel", "POST").await;
    assert!(panel.contains("***") && !browser.source().await.contains("secret-path"), "{panel}");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_work_without_script() {
    let engine = Engine::start(&[]);
    let (receiver, works) = breakable().await;
    engine.endpoint("crm", &receiver.url("/"), &["order.*"]).await;
    let event = engine.send("order.created", json!({ "total": 7 })).await;
    engine.wait(&format!("/v1/events/{event}"), "the webhook failed once", |story| story["state"] == "retrying").await;
    let browser = Browser::start_without_script().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/events").await;
    browser.click(&format!("#{event} .go")).await;
    browser.click("a.peek[href*='open=data']").await;
    browser.wait_for("#received pre", "\"total\": 7").await;
    works.store(true, Ordering::Relaxed);
    browser.click("#story form[action$='/retry'] button").await;
    browser.wait_for("#story", "sent again").await;
    engine.wait(&format!("/v1/events/{event}"), "the webhook is delivered", |story| story["state"] == "delivered").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_choice_of_italian_is_remembered() {
    let engine = Engine::start(&[]);
    engine.send("order.created", json!({})).await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    browser.click("button[name=lang]").await;
    browser.wait_for("#rail", "Adesso").await;
    open(&browser, &engine, "/events").await;
    browser.wait_for("h1", "Eventi").await;
    browser.wait_for("#rows", "senza destinazione").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn untrusted_text_is_shown_as_text() {
    let engine = Engine::start(&[]);
    let hostile = "<script>document.title='owned'</script>\u{202e}gnp.exe\u{0}";
    let event = json!({
        "type": "export.finished", "source": "erp", "id": "x".repeat(200), "subject": hostile.trim_end_matches('\0'),
        "data": { "note": hostile, "title": "طلب رقم ٧٧٢ – القاهرة", "emoji": "👨‍👩‍👧 🎁", "export": "A".repeat(1_000_000) },
    });
    let (status, answer) = engine.call("POST", "/v1/events", event).await;
    assert_eq!(status, 202, "{answer}");
    let id = answer["event"].as_str().expect("an id").to_owned();
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    for path in ["/".to_owned(), "/events".to_owned(), format!("/events/{id}?open=data"), format!("/events/{id}?open=data&raw=1")]
    {
        open(&browser, &engine, &path).await;
        browser.wait("#rail").await;
        assert!(!browser.run("return document.title").await.as_str().expect("a title").contains("owned"), "{path}");
        let bytes = browser.source().await.len();
        assert!(bytes < 190_000, "{path} has {bytes} bytes");
    }
    let shown = browser.page_text().await;
    assert!(shown.contains("<script>") && shown.contains("U+202E"), "{shown}");
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_other_sessions_and_foreign_hosts_are_refused() {
    let engine = Engine::start(&[]);
    let event = engine.send("order.created", json!({})).await;
    let http = client_without_redirects();
    let form = |fields: &str| {
        let request = http.post(format!("{}/sign-in", engine.url)).header("content-type", "application/x-www-form-urlencoded");
        request.body(fields.to_owned())
    };
    let signed_in = form(&format!("key={KEY}")).send().await.expect("an answer");
    assert_eq!(signed_in.status(), 303);
    let cookie = signed_in.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().expect("a value").to_owned();
    let page = http.get(format!("{}/events", engine.url)).header("cookie", &cookie).send().await.expect("an answer");
    assert_eq!(page.status(), 200);
    for (name, part) in [
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert!(page.headers()[name].to_str().expect("text").contains(part), "{name}");
    }
    // A form without the token of the session does nothing.
    let replay = http.post(format!("{}/events/{event}/replay", engine.url)).header("cookie", &cookie);
    let refused =
        replay.header("content-type", "application/x-www-form-urlencoded").body("token=wrong").send().await.expect("an answer");
    assert_eq!(refused.status(), 403);
    let story: Value = engine.get(&format!("/v1/events/{event}")).await;
    assert_eq!(story["deliveries"].as_array().map(Vec::len), Some(0), "{story}");
    let elsewhere = form(&format!("key={KEY}")).header("origin", "http://evil.example").send().await.expect("an answer");
    assert_eq!((elsewhere.status().as_u16(), elsewhere.headers().contains_key("set-cookie")), (403, false));
    let rebound = http.get(format!("{}/events", engine.url)).header("host", "evil.example").header("cookie", &cookie);
    assert_eq!(rebound.send().await.expect("an answer").status(), 421);
    // A changed cookie is refused.
    let changed =
        http.get(format!("{}/events", engine.url)).header("cookie", format!("{cookie}x")).send().await.expect("an answer");
    assert_eq!(changed.status(), 303);
    // A program that asks for a missing route still gets a problem in JSON, not a page.
    let missing = client().get(format!("{}/nothing", engine.url)).send().await.expect("an answer");
    assert_eq!(missing.headers()["content-type"], "application/problem+json");
}

/// Returns a client that shows redirects instead of following them.
pub fn client_without_redirects() -> reqwest::Client {
    // This call installs the cryptography provider that every client needs.
    let _ = client();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_key_and_survives_a_restart() {
    let mut engine = Engine::start(&[]);
    let made = engine.ok("POST", "/v1/keys", json!({ "name": "anna", "role": "admin" })).await;
    let browser = Browser::start().await;
    sign_in_with(&browser, &engine, made["key"].as_str().expect("a key")).await;
    assert!(engine.stop());
    // The engine now has another port. Browsers send a cookie to every port of its host.
    engine.launch();
    open(&browser, &engine, "/events").await;
    browser.wait_for("h1", "Events").await;
    engine.ok("DELETE", &format!("/v1/keys/{}", made["id"].as_str().expect("an id")), Value::Null).await;
    open(&browser, &engine, "/events").await;
    browser.wait_address("/sign-in").await;
    browser.close().await;
}

/// Runs in every page: makes its event stream available to the test, and collects the layout shifts that the browser saw.
const WATCH: &str = "
    window.moved = [];
    window.watcher = new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) {
            const place = ({ x, y, width, height }) => `${x},${y} ${width}x${height}`;
            const of = ({ node, previousRect, currentRect }) =>
                `${(node?.outerHTML ?? node?.textContent)?.slice(0, 200)} from ${place(previousRect)} to ${place(currentRect)}`;
            window.moved.push(`${entry.value}: ${entry.sources.map(of).join(' | ')}`);
        }
    });
    window.watcher.observe({ type: 'layout-shift' });
    const Stream = window.EventSource;
    window.EventSource = class extends Stream {
        constructor(address) { super(address); window.stream = this; }
    };";

/// Signals that everything has changed and waits until the page has updated, `TIMES` times.
const UPDATES: &str = "const root = document.documentElement;
    return (async () => {
        for (let time = 0; time < TIMES; time += 1) {
            const before = root.dataset.refreshed;
            window.stream.dispatchEvent(new MessageEvent('changed', { data: 'events deliveries plugins sources' }));
            while (root.dataset.refreshed === before) await new Promise((done) => setTimeout(done, 10));
        }
    })();";

/// Focuses the element `CSS`, selects the title, opens all details, and remembers this state. From then on, nothing may move.
const HOLD: &str = "window.watcher.takeRecords();
    window.moved.length = 0;
    window.focused = document.querySelector('CSS');
    window.focused.focus();
    for (const details of document.querySelectorAll('main details')) details.open = true;
    window.opened = document.querySelectorAll('main details[open], main [aria-expanded=true]').length;
    getSelection().selectAllChildren(document.querySelector('h1'));
    window.selected = getSelection().toString();";

/// Returns which parts of the state from [`HOLD`] were lost, and what has moved.
const LOST: &str = "return [
    document.activeElement === window.focused ? '' : `the focus is on ${document.activeElement.outerHTML.slice(0, 200)}`,
    window.selected && getSelection().toString() === window.selected ? '' : `selected is ${getSelection()}`,
    document.querySelectorAll('main details[open], main [aria-expanded=true]').length === window.opened ? '' : 'something was closed',
    ...window.moved.map((moved) => `moved ${moved}`),
].filter((lost) => lost);";

/// Number of updates that each page takes in the test of live pages.
const UPDATES_NUMBER: usize = 100;

async fn send_many(engine: &Engine, number: usize) {
    let events: Vec<Value> = (0..number).map(|number| json!({ "type": "order.created", "data": { "n": number } })).collect();
    engine.ok("POST", "/v1/events", Value::Array(events)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_updates_shift_nothing_and_keep_the_focus() {
    let engine = Arc::new(Engine::start(&["order-router"]));
    let (failing, opened) = fill(&engine).await;
    crate::dashboard_sources::fill(&engine).await;
    engine.all_run().await;
    let browser = Browser::start().await;
    browser.run_in_every_page(WATCH).await;
    sign_in(&browser, &engine).await;
    // Sends 200 events a second, if the machine allows it, until the test ends.
    let sender = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let events: Vec<Value> = (0..20).map(|number| json!({ "type": "order.created", "data": { "n": number } })).collect();
            loop {
                pace.tick().await;
                // A busy engine may refuse some events.
                engine.call("POST", "/v1/events", Value::Array(events.clone())).await;
            }
        }
    });
    // Each page, and the element that has the focus on it.
    let pages = [
        ("/", "#newest a.go"),
        ("/events", "tr:nth-child(3) a.go"),
        (&format!("/events/{failing}?open=data,{opened}"), "#received .peek"),
        ("/deliveries", "tr:nth-child(3) a.go"),
        ("/endpoints", "#rows a.go"),
        ("/endpoints/sales-slack?open=week", "#endpoint-head form button"),
        ("/plugins", "a.go"),
        ("/plugins/order-router", "main a"),
        ("/sources", "#rows a.go"),
        ("/sources/shop", "#source-head form button"),
    ];
    let mut found = Vec::new();
    for (path, focused) in pages {
        open(&browser, &engine, path).await;
        live(&browser).await;
        browser.wait(focused).await;
        if path.contains("open=week") {
            // The first attempt within a bucket of time adds a row to the open table.
            browser.wait("#week tbody tr").await;
        }
        browser.run(&HOLD.replace("CSS", focused)).await;
        // The updates run in parts, because the driver ends a script after 30 seconds.
        for _ in 0..10 {
            browser.run(&UPDATES.replace("TIMES", &(UPDATES_NUMBER / 10).to_string())).await;
        }
        for lost in browser.run(LOST).await.as_array().expect("a list") {
            eprintln!("{path}: {lost}");
            found.push(format!("{path}: {lost}"));
        }
    }
    sender.abort();
    nothing_foreign(&browser, &engine).await;
    browser.close().await;
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_events_wait_behind_a_row_that_counts_them() {
    let engine = Engine::start(&[]);
    send_many(&engine, 60).await;
    engine.all_run().await;
    let browser = Browser::start().await;
    sign_in(&browser, &engine).await;
    open(&browser, &engine, "/events").await;
    live(&browser).await;
    for _ in 0..4 {
        send_many(&engine, 10).await;
    }
    browser.wait_for(".held-row", "40 new events").await;
    browser.click(".held-row").await;
    browser.wait(".held-row[hidden]").await;
    // The list of the first page updates without a click.
    open(&browser, &engine, "/").await;
    live(&browser).await;
    let newest = engine.send("order.paid", json!({})).await;
    browser.wait(&format!("#newest a[href$='{newest}']")).await;
    // A new problem would move everything below it, so the page shows it only after a click. A solved problem is also removed only
    // after a click.
    let file = engine.plugin_folder().join("legacy.wasm");
    engine.write_plugin("legacy.wasm", b"no plugin");
    browser.wait_for("#needs .held-row:not([hidden])", "1 need you now").await;
    assert!(!browser.has("#needs .need").await);
    browser.click("#needs .held-row").await;
    browser.wait_for("#needs .need", "legacy.wasm").await;
    browser.wait("#needs .held-row[hidden]").await;
    std::fs::remove_file(file).expect("the file is removed");
    browser.wait_for("#needs .held-row:not([hidden])", "nothing needs you now").await;
    browser.wait("#needs .need.gone").await;
    browser.click("#needs .held-row").await;
    browser.wait_for("#needs", "Nothing needs you.").await;
    browser.close().await;
}

/// Pages for `make screenshots`, as name and path.
const PICTURES: [(&str, &str); 30] = [
    ("plugin-runs", "/plugins/order-router/runs"),
    ("plugin-log", "/plugins/changes/log"),
    ("plugin-settings", "/plugins/order-router/settings"),
    ("plugin-state", "/plugins/changes/state"),
    ("plugin-limits", "/plugins/order-router/limits"),
    ("plugin-upload", "/plugins/upload?plugin=order-router"),
    ("plugin-candidate", "/plugins/changes"),
    ("plugin-compare-start", "/plugins/changes/compare"),
    ("settings-limits", "/settings/limits"),
    ("settings-jobs", "/settings/jobs"),
    ("sources", "/sources"),
    ("source", "/sources/shop"),
    ("source-new", "/sources/new?preset=woocommerce"),
    ("now", "/"),
    ("events", "/events"),
    ("events-filter-hides-all", "/events?state=failed&source=stripe"),
    ("event-send", "/events/send"),
    ("search", "/search?q=nothing-here"),
    ("deliveries", "/deliveries"),
    ("endpoints", "/endpoints"),
    ("endpoint", "/endpoints/crm-contacts"),
    ("endpoint-failing", "/endpoints/sales-slack?open=week"),
    ("endpoint-new", "/endpoints/new"),
    ("endpoint-delete", "/endpoints/sales-slack/delete"),
    ("retry-many", "/deliveries/retry?endpoint=sales-slack&state=retrying"),
    ("plugins", "/plugins"),
    ("plugin", "/plugins/order-router"),
    ("settings-keys", "/settings/keys"),
    ("settings-audit", "/settings/audit"),
    ("settings-nodes", "/settings/nodes"),
];

/// Writes screenshots of every page, light, dark and phone-sized, into the folder that `SCREENSHOTS` names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes pictures; run with `make screenshots`"]
async fn screenshots() {
    let folder = PathBuf::from(std::env::var_os("SCREENSHOTS").expect("SCREENSHOTS names a folder"));
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let engine = Engine::start(&["order-router", "changes"]);
    let browser = Browser::start().await;
    browser.set_zone("Europe/Rome").await;
    sign_in(&browser, &engine).await;
    take(&browser, &engine, &folder, "first-run", "/").await;
    let pages = all_pages(&engine).await;
    for (name, path) in &pages {
        take(&browser, &engine, &folder, name, path).await;
    }
    let path = |wanted: &str| &pages.iter().find(|(name, _)| name == wanted).expect("a page").1;
    for (name, path, dark) in [("event-readme-light", path("event-open"), false), ("now-readme-dark", path("now"), true)] {
        browser.show_as(1200, dark).await;
        open(&browser, &engine, path).await;
        browser.wait("main").await;
        browser.screenshot_window(&folder.join(format!("{name}.png"))).await;
    }
    let failing = path("event");
    browser.show_as(1280, false).await;
    browser.click("button[name=lang]").await;
    take(&browser, &engine, &folder, "event-italian", failing).await;
    browser.close().await;
}

/// Fills an engine with data of every kind, and returns the names and paths of all pages that show it.
pub async fn all_pages(engine: &Engine) -> Vec<(String, String)> {
    let (failing, opened) = fill(engine).await;
    crate::dashboard_sources::fill(engine).await;
    let comparison = crate::dashboard_plugins::fill(engine).await;
    let mut pages: Vec<(String, String)> = vec![("sign-in".into(), "/sign-in".into())];
    pages.push(("plugin-compare".into(), format!("/plugins/changes/compare?id={comparison}&open=change-0")));
    pages.extend(PICTURES.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())));
    pages.push(("event".into(), format!("/events/{failing}")));
    pages.push(("event-open".into(), format!("/events/{failing}?open=data,{opened}")));
    pages.push(("event-cancel".into(), format!("/events/{failing}?ask=cancel")));
    pages.push(("events-selected".into(), format!("/events/replay?event={failing}")));
    pages.push(("event-missing".into(), "/events/evt_none".into()));
    let job = engine.ok("POST", "/v1/events/replay", json!({ "event_type": "order.paid" })).await;
    pages.push(("job-replay".into(), format!("/jobs/{}", job["id"].as_str().expect("an id"))));
    pages
}

async fn take(browser: &Browser, engine: &Engine, folder: &std::path::Path, name: &str, path: &str) {
    for (look, width, dark) in [("light", 1280, false), ("dark", 1280, true), ("phone", 390, false)] {
        browser.show_as(width, dark).await;
        open(browser, engine, path).await;
        browser.wait("main").await;
        browser.screenshot(&folder.join(format!("{name}-{look}.png"))).await;
    }
}

/// Fills an engine with events in every state. Returns the id of an event with a failed part, and the id of a part to open on its
/// page.
async fn fill(engine: &Engine) -> (String, String) {
    // The receivers answer until the tests end.
    let good = Box::leak(Box::new(Receiver::start().await));
    let bad = Receiver::answering(|_| Answer::status(503).body("upstream connect error or disconnect/reset before headers"));
    let bad = Box::leak(Box::new(bad.await));
    engine.endpoint("receiver", &good.url("/"), &[]).await;
    engine.send("order.created", json!("no order")).await;
    engine.endpoint("crm-contacts", &good.url("/"), &["order.created", "contact.subscribe"]).await;
    engine.endpoint("analytics", &good.url("/"), &["*"]).await;
    engine.endpoint("sales-slack", &bad.url("/"), &["order.created"]).await;
    for number in 0..20 {
        let (kind, data) = match number % 4 {
            0 => ("contact.subscribe", json!({ "email": "giulia.ferri@example.org" })),
            1 => ("github.push", json!({ "ref": "refs/heads/main" })),
            2 => ("order.paid", json!({ "id": number })),
            _ => ("product.renamed", json!({ "title": "🎁 Geschenk-Set «Frühling»" })),
        };
        engine
            .ok(
                "POST",
                "/v1/events",
                json!({ "type": kind, "source": "shop", "subject": format!("order/{number}"), "data": data }),
            )
            .await;
    }
    let order = json!({ "id": 10482, "total": "1500.00", "currency": "EUR", "country": "IT", "customer": { "email": "giulia.ferri@example.org", "vat": null } });
    let sent = json!({ "type": "order.created", "source": "shop", "id": "A-10482", "subject": "order/10482", "channel": "web", "data": order });
    let answer = engine.ok("POST", "/v1/events", sent).await;
    let event = answer["event"].as_str().expect("an id").to_owned();
    let routed = |story: &Value| -> Option<String> {
        let run = story["runs"].as_array()?.iter().find(|run| run["plugin"] == "order-router" && run["outcome"] == "ok")?;
        Some(run["id"].as_str()?.to_owned())
    };
    let has_failed = |story: &Value| {
        let deliveries = story["deliveries"].as_array();
        deliveries.is_some_and(|all| all.iter().any(|one| one["state"] == "retrying")) && routed(story).is_some()
    };
    let story = engine.wait(&format!("/v1/events/{event}"), "one delivery failed", has_failed).await;
    let failed = story["deliveries"].as_array().expect("deliveries").iter().find(|one| one["state"] == "retrying").expect("one");
    let id = failed["id"].as_str().expect("an id").to_owned();
    (event, format!("answer-{id},diff-{}", routed(&story).expect("a run")))
}
