//! Monitoring: metrics, traces, the log, and the files shipped for them.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as OtelValue, trace::v1::Span,
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, KEY, client, store_is_a_file},
    receivers::{Answer, Receiver},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// The text of `/metrics`, parsed: every sample by its name with labels.
struct Figures {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Figures {
    async fn read(engine: &Engine) -> Self {
        let answer = client().get(format!("{}/metrics", engine.url)).send().await.expect("the engine answers");
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
        let text = answer.text().await.expect("the figures are text");
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("a sample has a value: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("a number: {line}")))
        });
        Self { samples: samples.collect(), text }
    }

    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("there is no {sample} in:\n{}", self.text))
    }

    /// Returns the names of families, from `# TYPE`.
    fn families(&self) -> BTreeSet<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
    }
}

/// Polls until the metrics satisfy the condition. Some metrics are updated only after the answer that a test has received.
async fn figures(engine: &Engine, what: &str, mut condition: impl FnMut(&Figures) -> bool) -> Figures {
    let until = std::time::Instant::now() + DEADLINE;
    loop {
        let figures = Figures::read(engine).await;
        if condition(&figures) {
            return figures;
        }
        assert!(std::time::Instant::now() < until, "{what}: not within {DEADLINE:?}:\n{}", figures.text);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Causes a little of every activity in an engine.
async fn busy(engine: &Engine, receiver: &Receiver) {
    engine.endpoint("receiver", &receiver.url("/ok"), &["good.*"]).await;
    let broken = json!({ "name": "broken", "url": receiver.url("/broken"), "events": ["bad.*"], "schedule": ["0s"] });
    engine.ok("POST", "/v1/endpoints", broken).await;
    engine.ok("POST", "/v1/events", json!({ "type": "good.one", "source": "shop", "id": "1" })).await;
    engine.ok("POST", "/v1/events", json!({ "type": "good.one", "source": "shop", "id": "1" })).await;
    engine.ok("POST", "/v1/events", json!({ "type": "good.two", "source": "https://shop.example/?token=s3cret" })).await;
    engine.send("bad.one", json!({})).await;
    engine.send("unrouted.type", json!({})).await;
    let failed = engine.send("mischief.fail", json!({})).await;
    engine.settled(&failed).await;
    let fine = engine.send("mischief.nothing", json!({})).await;
    engine.settled(&fine).await;
    assert_eq!(engine.call("POST", "/v1/events", json!({ "type": "not a type" })).await.0, 400);
}

fn answers(path: &str) -> Answer {
    Answer::status(if path.starts_with("/broken") { 503 } else { 200 })
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_survive_a_restart() {
    let mut engine = Engine::start(&["mischief"]);
    let receiver = Receiver::answering(|received| answers(&received.path)).await;
    busy(&engine, &receiver).await;
    figures(&engine, "everything is counted", |figures| {
        let has = |sample: &str, value: f64| figures.samples.get(sample).is_some_and(|found| *found == value);
        has("innesco_deliveries_delivered_total", 3.0) && has("innesco_deliveries_dead_total{reason=\"exhausted\"}", 1.0)
    })
    .await;
    engine.stop();
    engine.launch();
    let of = async |query: &str| engine.get(&format!("/v1/stats{query}")).await;
    let counts = |stats: &Value| {
        let total = &stats["total"];
        let names = ["accepted", "runs", "runs_failed", "delivered", "first_try", "attempts_failed"];
        names.map(|name| total[name].as_u64().expect("a count"))
    };
    for last in ["1h", "24h", "7d"] {
        let stats = of(&format!("?last={last}")).await;
        assert_eq!(counts(&stats), [6, 2, 1, 3, 3, 1], "{last}: {stats}");
        let buckets = stats["buckets"].as_array().unwrap();
        // A bucket may end while the test runs.
        assert!((1..=2).contains(&buckets.len()) || last == "1h", "{last}: {buckets:?}");
        assert_eq!(buckets.iter().map(|one| one["accepted"].as_u64().unwrap()).sum::<u64>(), 6);
        assert!(stats["total"]["p50_ms"].as_f64().unwrap() <= stats["total"]["p99_ms"].as_f64().unwrap());
    }
    assert_eq!(counts(&of("?endpoint=broken").await), [0, 0, 0, 0, 0, 1]);
    assert_eq!(counts(&of("?endpoint=receiver&last=7d").await), [0, 0, 0, 3, 3, 0]);
    assert_eq!(counts(&of("?plugin=mischief").await), [0, 2, 1, 0, 0, 0]);
    for (query, status, words) in [
        ("?last=2h", 400, "it is one of 1h, 24h, 7d"),
        ("?last=1h&plugin=mischief", 400, "use 24h or 7d"),
        ("?plugin=mischief&endpoint=broken", 400, "only one of"),
        ("?endpoint=receivr", 404, "the nearest name is \"receiver\""),
        ("?plugin=mischef", 404, "the nearest name is \"mischief\""),
    ] {
        let (found, problem) = engine.call("GET", &format!("/v1/stats{query}"), Value::Null).await;
        assert_eq!(found, status, "{query}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{query}: {problem}");
    }
    let output = engine.command().args(["stats", "--last", "1h"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Last 1h: 6 events, 2 runs (1 failed), 3 delivered (100 % on first try)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened_and_nothing_else() {
    let engine = Engine::start(&["mischief"]);
    let receiver = Receiver::answering(|received| answers(&received.path)).await;
    busy(&engine, &receiver).await;
    let figures = figures(&engine, "everything is counted", |figures| {
        let has = |sample: &str, value: f64| figures.samples.get(sample).is_some_and(|found| *found == value);
        has("innesco_deliveries_delivered_total", 3.0)
            && has("innesco_deliveries_dead_total{reason=\"exhausted\"}", 1.0)
            && has("innesco_queue_depth{stage=\"dead\"}", 1.0)
            && has("innesco_queue_depth{stage=\"events\"}", 0.0)
            // The store is read before the counters.
            && has("innesco_queue_depth{stage=\"deliveries\"}", 0.0)
    })
    .await;
    for (sample, value) in [
        ("innesco_events_accepted_total{source=\"shop\"}", 1.0),
        // A source without a plain name counts as `other`.
        ("innesco_events_accepted_total{source=\"other\"}", 1.0),
        ("innesco_events_accepted_total{source=\"api\"}", 4.0),
        ("innesco_events_duplicate_total", 1.0),
        ("innesco_events_unrouted_total", 1.0),
        ("innesco_requests_refused_total{code=\"bad_event\"}", 1.0),
        ("innesco_requests_refused_total{code=\"store_full\"}", 0.0),
        ("innesco_runs_total{outcome=\"failed\",plugin=\"mischief\"}", 1.0),
        ("innesco_runs_total{outcome=\"ok\",plugin=\"mischief\"}", 1.0),
        ("innesco_run_seconds_count{plugin=\"mischief\"}", 2.0),
        ("innesco_run_memory_peak_bytes_count{plugin=\"mischief\"}", 2.0),
        ("innesco_attempts_total{endpoint=\"receiver\",outcome=\"2xx\"}", 3.0),
        ("innesco_attempts_total{endpoint=\"broken\",outcome=\"5xx\"}", 1.0),
        ("innesco_attempt_seconds_count", 4.0),
        ("innesco_deliveries_created_total", 4.0),
        ("innesco_end_to_end_seconds_count", 3.0),
        ("innesco_queue_depth{stage=\"runs-parked\"}", 1.0),
        ("innesco_queue_depth{stage=\"deliveries\"}", 0.0),
        ("innesco_endpoints{state=\"active\"}", 2.0),
        ("innesco_plugins{state=\"serving\"}", 1.0),
        ("innesco_handoff_items{stage=\"deliveries\"}", 0.0),
        ("innesco_store_commit_failures_total", 0.0),
        ("innesco_store_queued_bytes", 0.0),
    ] {
        assert_eq!(figures.get(sample), value, "{sample} in:\n{}", figures.text);
    }
    let of_the_store: &[_] = match store_is_a_file() {
        true => &["innesco_store_file_bytes{file=\"wal\"}", "innesco_disk_bytes", "innesco_disk_free_bytes"],
        false => &["innesco_store_file_bytes{file=\"database\"}"],
    };
    for sample in [
        "innesco_store_commit_seconds_count{kind=\"promise\"}",
        "innesco_store_commit_jobs_count",
        "innesco_handoff_limit_bytes{stage=\"events\"}",
        "innesco_uptime_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
    ]
    .iter()
    .chain(of_the_store)
    {
        assert!(figures.get(sample) > 0.0, "{sample} in:\n{}", figures.text);
    }
    assert_eq!(figures.get(&format!("innesco_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);

    // Every family is explained, and the names follow Prometheus' conventions.
    let table: BTreeMap<&str, &str> = innesco::metrics::NAMES.iter().copied().collect();
    for family in figures.families() {
        let help = format!("# HELP {family} {}", table[family]);
        assert!(figures.text.contains(&help), "{family} is not explained");
        let kind = figures.text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {family} "))).unwrap();
        assert_eq!(kind == "counter", family.ends_with("_total"), "{family} is a {kind}");
    }
    assert_eq!(figures.families(), table.keys().copied().collect(), "every metric of the table exists");
    for hidden in ["s3cret", "example", "127.0.0.1", KEY, "whsec_"] {
        assert!(!figures.text.contains(hidden), "{hidden} is shown:\n{}", figures.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_can_require_a_key() {
    let mut engine = Engine::start(&[]);
    engine.stop();
    std::fs::write(engine.data_folder().with_file_name("innesco.toml"), "metrics = \"key\"\n").unwrap();
    engine.launch();
    let url = format!("{}/metrics", engine.url);
    assert_eq!(client().get(&url).send().await.unwrap().status(), 401);
    let publisher = engine.ok("POST", "/v1/keys", json!({ "name": "shop", "role": "publish" })).await;
    let with = |key: &str| client().get(&url).bearer_auth(key).send();
    assert_eq!(with(publisher["key"].as_str().unwrap()).await.unwrap().status(), 403);
    for role in ["metrics", "read", "operate"] {
        let able = engine.ok("POST", "/v1/keys", json!({ "name": role, "role": role })).await;
        assert_eq!(with(able["key"].as_str().unwrap()).await.unwrap().status(), 200, "{role}");
    }
}

/// Returns the spans that a collector received.
fn spans(collector: &Receiver) -> Vec<Span> {
    let requests = collector.received().into_iter().filter(|one| one.path == "/v1/traces");
    let decoded = requests.map(|one| ExportTraceServiceRequest::decode(one.body).expect("OTLP as protobuf"));
    decoded.flat_map(|request| request.resource_spans).flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|one| one.key == name)?.value.clone()?.value?;
    Some(match value {
        OtelValue::StringValue(text) => text,
        OtelValue::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_continues_from_the_caller_to_the_receiver() {
    let collector = Receiver::start().await;
    let receiver = Receiver::start().await;
    let mut engine = Engine::start(&["ledger"]);
    engine.stop();
    // The variables name a proxy, which the engine must not use.
    engine.set_environment(&[
        ("INNESCO_OTEL_ENDPOINT", &collector.url("")),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("http_proxy", "http://127.0.0.1:9"),
    ]);
    engine.launch();
    engine.endpoint("receiver", &receiver.url("/plugin"), &["job.created"]).await;
    engine.endpoint("done", &receiver.url("/done"), &["job.done"]).await;

    let sent = engine
        .request("POST", "/v1/events")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .header("tracestate", "shop=1")
        .header("tracestate", "other=2")
        .json(&json!({ "type": "job.created", "source": "shop", "data": { "job": 1 } }))
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 202);
    let event = sent.json::<Value>().await.unwrap()["event"].as_str().unwrap().to_owned();
    // One webhook comes from the plugin, one from the subscription, and one from the emitted event.
    let received = receiver.wait_for_count(3, DEADLINE).await;
    let mut parents = BTreeSet::new();
    for webhook in &received {
        let parent = webhook.header("traceparent").expect("a webhook continues the trace");
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"), "{parent}");
        assert_eq!(webhook.header("tracestate"), Some("shop=1,other=2"));
        parents.insert(parent[36..52].to_owned());
    }
    assert_eq!(parents.len(), 3, "each attempt has a separate span");
    assert!(!parents.contains(CALLER));

    // An event without a trace starts one; a malformed header is ignored.
    let bad = engine
        .request("POST", "/v1/events")
        .header("traceparent", "00-nonsense")
        .json(&json!({ "type": "job.created", "data": { "job": 1 } }));
    assert_eq!(bad.send().await.unwrap().status(), 202);
    let received = receiver.wait_for_count(6, DEADLINE).await;
    let own = received[3].header("traceparent").expect("a separate trace")[3..35].to_owned();
    assert_ne!(own, TRACE);
    assert!(received[3..].iter().all(|webhook| webhook.header("traceparent").unwrap()[3..35] == own));
    assert!(received[3..].iter().all(|webhook| webhook.header("tracestate").is_none()));

    let story = engine.get(&format!("/v1/events/{event}")).await;
    assert_eq!(story["attributes"]["traceparent"], format!("00-{TRACE}-{CALLER}-01"), "{story:#}");
    assert!(engine.stop(), "the engine exits with 0 and has sent its last spans");
    let all = spans(&collector);
    let mine: Vec<_> = all.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let named = |name: &str| -> Vec<&&Span> { mine.iter().filter(|span| span.name == name).collect() };
    let shown: Vec<_> = mine.iter().map(|span| (&span.name, hex(&span.span_id), hex(&span.parent_span_id))).collect();
    let [accept] = named("accept")[..] else { panic!("one accept: {shown:?}") };
    assert_eq!(hex(&accept.parent_span_id), CALLER);
    let runs = named("run");
    let run = runs.iter().find(|run| attribute(run, "innesco.event").as_deref() == Some(&event)).expect("the run of the event");
    assert_eq!((hex(&run.parent_span_id), attribute(run, "innesco.plugin").as_deref()), (hex(&accept.span_id), Some("ledger")));
    let attempts = named("attempt");
    assert_eq!(
        attempts.iter().map(|span| hex(&span.span_id)).collect::<BTreeSet<_>>(),
        parents,
        "the parents that receivers got"
    );
    for attempt in attempts {
        // The parent of the emitted event's webhook is the run. The parent of the other webhooks is `accept`.
        let emitted = attribute(attempt, "innesco.endpoint").as_deref() == Some("done");
        let parent = if emitted { &run.span_id } else { &accept.span_id };
        assert_eq!(hex(&attempt.parent_span_id), hex(parent), "{shown:?}");
        assert_eq!(attribute(attempt, "http.response.status_code").as_deref(), Some("200"));
    }
    for span in &mine {
        assert!(0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(
            span.start_time_unix_nano + 1_000_000 >= accept.start_time_unix_nano,
            "no span begins before its parent: {span:?}"
        );
    }
    let others: BTreeSet<_> = all.iter().map(|span| hex(&span.trace_id)).collect();
    assert_eq!(others, BTreeSet::from([TRACE.to_owned(), own]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_only_received_traces_continue() {
    let engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    engine.endpoint("receiver", &receiver.url("/"), &["*"]).await;
    engine.send("a.b", json!({})).await;
    let received = receiver.wait_for_count(1, DEADLINE).await;
    assert_eq!(received[0].header("traceparent"), None);
    // The attribute has precedence over the header, because it belongs to the event.
    let event = json!({ "type": "a.b", "traceparent": format!("00-{TRACE}-{CALLER}-00") });
    let other = format!("00-{}-{CALLER}-01", "1".repeat(32));
    assert_eq!(
        engine.request("POST", "/v1/events").header("traceparent", other).json(&event).send().await.unwrap().status(),
        202
    );
    let received = receiver.wait_for_count(2, DEADLINE).await;
    let parent = received[1].header("traceparent").unwrap();
    assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00") && !parent.contains(CALLER), "{parent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_each_failure_once_and_no_secret() {
    let receiver = Receiver::answering(|received| answers(&received.path).body("answer-s3cret")).await;
    let mut engine = Engine::start_with(&["mischief"], &["--allow-net", "127.0.0.0/8", "--log", "json"]);
    engine.stop();
    engine.set_environment(&[("INNESCO_LOG_LEVEL", "warn,innesco=trace")]);
    engine.launch();
    let hook = json!({
        "name": "broken", "url": format!("{}?token=query-s3cret", receiver.url("/broken")), "events": ["bad.*"],
        "schedule": ["0s", "10ms"], "headers": { "x-api-key": "header-s3cret" },
    });
    let made = engine.ok("POST", "/v1/endpoints", hook).await;
    let gone =
        json!({ "name": "gone", "url": "http://127.0.0.1:9/?token=query-s3cret", "events": ["gone.*"], "schedule": ["0s"] });
    engine.ok("POST", "/v1/endpoints", gone).await;
    let bad = engine.send("bad.one", json!({ "card": "body-s3cret" })).await;
    let unreachable = engine.send("gone.one", json!({ "card": "body-s3cret" })).await;
    let dead = |story: &Value| story["deliveries"][0]["state"] == "dead";
    engine.wait(&format!("/v1/events/{bad}"), "the delivery is dead", dead).await;
    engine.wait(&format!("/v1/events/{unreachable}"), "the delivery is dead", dead).await;
    for deed in ["fail", "panic", "typo"] {
        let event = engine.send(&format!("mischief.{deed}"), json!({ "card": "body-s3cret" })).await;
        engine.settled(&event).await;
    }
    assert_eq!(engine.call("POST", "/v1/events", json!({ "type": "not ok", "data": "body-s3cret" })).await.0, 400);
    assert!(engine.stop());

    let log = engine.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let said = |level: &str, message: &str| {
        let all = lines.iter().filter(|line| line["level"] == level);
        all.filter(|line| line["fields"]["message"].as_str().is_some_and(|text| text.starts_with(message))).count()
    };
    assert_eq!(said("WARN", "run is parked"), 3, "{log}");
    assert_eq!(said("WARN", "delivery is dead"), 2, "{log}");
    assert_eq!(said("DEBUG", "attempt failed; retrying later"), 1, "{log}");
    let loud = lines.iter().filter(|line| line["level"] == "WARN" || line["level"] == "ERROR").count();
    assert_eq!(
        loud, 5,
        "no other line is a warning or an error:
{log}"
    );
    let secret = made["secret"].as_str().expect("a secret");
    for hidden in ["s3cret", KEY, secret, "unlucky 13", "it is not to be", "?token"] {
        assert!(!log.contains(hidden), "{hidden} is in the log:\n{log}");
    }
}

/// Reads a file that is shipped for operators.
fn shipped(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the names of the engine's metrics in a query.
fn names(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("innesco_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Collects every `expr` in the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" || name == "definition" => found.push(text.clone()),
                    other => expressions(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alerts_use_existing_metrics() {
    let engine = Engine::start(&["mischief"]);
    let receiver = Receiver::answering(|received| answers(&received.path)).await;
    busy(&engine, &receiver).await;
    let figures = figures(&engine, "a delivery is dead", |figures| {
        figures.samples.get("innesco_deliveries_dead_total{reason=\"exhausted\"}").is_some_and(|dead| *dead == 1.0)
            && figures.samples.keys().any(|sample| sample.starts_with("innesco_attempts_total"))
    })
    .await;
    let exists = |name: &str| figures.samples.keys().any(|sample| sample.split('{').next() == Some(name));

    let dashboard: Value = serde_json::from_str(&shipped("deploy/grafana/innesco.json")).expect("the dashboard is JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 38), "Grafana 10 and later");
    assert_eq!(
        (&dashboard["title"], &dashboard["id"]),
        (&json!("Innesco"), &Value::Null),
        "an id could overwrite another dashboard"
    );
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    let alerts: Value = serde_norway::from_str(&shipped("deploy/prometheus/alerts.yml")).expect("the alerts are YAML");
    let rules: Vec<&Value> =
        alerts["groups"].as_array().expect("groups").iter().flat_map(|group| group["rules"].as_array().expect("rules")).collect();
    for rule in &rules {
        let text = |place: &Value| place.as_str().map(str::to_owned).unwrap_or_else(|| panic!("missing in {rule:#}"));
        asked.push(text(&rule["expr"]));
        assert!(
            text(&rule["annotations"]["summary"]).len() > 10 && text(&rule["annotations"]["todo"]).ends_with('.'),
            "{rule:#}"
        );
        text(&rule["alert"]);
    }
    assert!(rules.len() >= 6 && asked.len() > rules.len() + 12, "no query was found: {}", asked.len());
    for query in &asked {
        for name in names(query) {
            assert!(exists(&name), "{name}, of {query:?}, is not in /metrics:\n{}", figures.text);
        }
    }
    assert!(asked.iter().all(|query| !names(query).is_empty()), "each query uses a metric of the engine");
}
