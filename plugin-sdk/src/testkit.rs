//! Runs the plugin's real WebAssembly inside `cargo test`, under the limits of an engine. Native builds only.
//!
//! [`testing`](crate::testing) calls the plugin natively, which is fast and enough for most tests. The testkit tests what only the
//! compiled file has: deadline, memory, stack, pointers of 32 bits, and the exact text of a failure. The testkit needs the program
//! `innesco`, found through `PATH` or the variable `INNESCO`. It builds the crate of the running test once.
//!
//! ```no_run
//! use innesco_sdk::{testing, testkit};
//!
//! // A run that failed in an engine; `innesco run show RUN --as-test` wrote the file.
//! testkit::recorded("tests/runs/run_k7q212.json").run().expect_ok();
//!
//! // An event of this test.
//! let event = testing::event("order.created").data("application/json", "{").build();
//! let report = testkit::event(&event).config("threshold", "1000").run();
//! assert_eq!((report.outcome.as_str(), report.code.as_deref()), ("failed", Some("bad-payload")));
//! ```

use std::{
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{Emit, Event, Outcome, Webhook, testing::Line};

/// Reads the inputs of a recorded run from a file of this crate.
///
/// # Panics
///
/// If the file cannot be read.
pub fn recorded(file: impl AsRef<Path>) -> Test {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
    let fixture = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{} is not JSON: {error}", path.display()));
    Test(fixture)
}

/// Prepares a run on this event, without settings and state.
pub fn event(event: &Event) -> Test {
    let (data, bytes) = match std::str::from_utf8(&event.data) {
        Ok(text) => ("data", text.to_owned()),
        Err(_) => ("data_base64", base64(&event.data)),
    };
    let attributes: Vec<_> = event.attributes.iter().filter(|(name, _)| name != "innesco.accepted-at").collect();
    Test(json!({
        "fixture": 1,
        "settings": {},
        "state": [],
        "event": {
            "id": event.id,
            "source": event.source,
            "type": event.event_type,
            "subject": event.subject,
            "time": event.time,
            "accepted_at": event.accepted_at(),
            "content_type": event.content_type,
            "attributes": attributes,
            data: bytes,
        },
    }))
}

/// A run that has not started. Create one with [`recorded`] or [`event`].
#[derive(Clone, Debug)]
pub struct Test(Value);

impl Test {
    /// Sets a setting.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0["settings"][key.into()] = value.into().into();
        self
    }

    /// Sets a value of the plugin's state.
    pub fn with_state(mut self, key: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        let value = json!({ "key": key.into(), "value_base64": base64(value.as_ref()) });
        let all = self.0["state"].as_array().cloned().unwrap_or_default();
        let others = all.into_iter().filter(|one| one["key"] != value["key"]);
        self.0["state"] = others.chain([value.clone()]).collect();
        self
    }

    /// Sets the names of the endpoints that exist. Without this call every endpoint exists.
    pub fn endpoints<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.0["endpoints"] = names.into_iter().collect::<Vec<_>>().into();
        self
    }

    /// Runs the plugin as one that belongs to an endpoint. The webhooks of such a plugin name no endpoint.
    pub fn bound(mut self) -> Self {
        self.0["bound"] = true.into();
        self
    }

    /// Builds the crate, unless this test has built it, and runs the file.
    ///
    /// # Panics
    ///
    /// If `innesco` is missing, the crate does not build, or its file does not load.
    pub fn run(&self) -> Report {
        let file = built();
        let output = innesco(&["plugin", "test", &file.to_string_lossy(), "--run", "-", "--json"], &self.0.to_string());
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("innesco plugin test failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
        Report::read(&answer)
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// `ok`, `failed`, `trapped`, `deadline`, `out-of-memory` or `bad-output`.
    pub outcome: String,
    /// Why the run failed, as a short word for programs.
    pub code: Option<String>,
    /// Why the run failed, as a sentence for people.
    pub message: Option<String>,
    /// Whether an engine would retry the run.
    pub retryable: bool,
    /// The calls in progress when the run was stopped, as lines of source, innermost first.
    pub backtrace: Vec<String>,
    /// The webhooks and events that the run returned; empty unless the run ended `ok`.
    pub requests: Outcome,
    /// The state that the run wrote; `None` deletes a value.
    pub state: Vec<(String, Option<Vec<u8>>)>,
    /// The log lines of the run. A line can be compared with a text such as `info: order 7 is new`.
    pub log: Vec<Line>,
    /// Time from the start to the end of the run.
    pub duration: Duration,
    /// Peak memory.
    pub memory_bytes: u64,
}

impl Report {
    /// Returns the requests of a run that ended `ok`.
    ///
    /// # Panics
    ///
    /// If the run did not end `ok`. The panic shows the run's message, backtrace and log.
    #[track_caller]
    pub fn expect_ok(self) -> Outcome {
        assert!(self.outcome == "ok", "the run ended {self}");
        self.requests
    }

    fn read(answer: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let pairs = |value: &Value| -> Vec<(String, String)> {
            match value {
                Value::Object(members) => members.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect(),
                other => serde_json::from_value(other.clone()).unwrap_or_default(),
            }
        };
        let mut requests = Outcome::new();
        for one in list(&answer["webhooks"]) {
            let mut webhook =
                Webhook::onward().body(text(&one["content_type"]).unwrap_or_default(), bytes(&one, "body").unwrap_or_default());
            webhook.to = text(&one["to"]);
            webhook.event_type = text(&one["type"]);
            webhook.headers = pairs(&one["headers"]);
            requests = requests.webhook(webhook);
        }
        for one in list(&answer["events"]) {
            let mut event = Emit::new(text(&one["type"]).unwrap_or_default())
                .data(text(&one["content_type"]).unwrap_or_default(), bytes(&one, "data").unwrap_or_default());
            event.subject = text(&one["subject"]);
            event.attributes = pairs(&one["attributes"]);
            event.after = one["after_ms"].as_u64().map(Duration::from_millis);
            requests = requests.emit(event);
        }
        let line = |one: &Value| {
            Some(Line { level: text(&one["level"])?, message: text(&one["message"])?, fields: pairs(&one["fields"]) })
        };
        Self {
            outcome: text(&answer["outcome"]).unwrap_or_default(),
            code: text(&answer["code"]),
            message: text(&answer["message"]),
            retryable: answer["retryable"] == true,
            backtrace: list(&answer["backtrace"]).iter().filter_map(text).collect(),
            requests,
            state: list(&answer["state"]["writes"])
                .iter()
                .filter_map(|one| Some((text(&one["key"])?, bytes(one, "value"))))
                .collect(),
            log: list(&answer["log"]).iter().filter_map(line).collect(),
            duration: Duration::from_secs_f64(answer["duration_ms"].as_f64().unwrap_or_default().max(0.0) / 1_000.0),
            memory_bytes: answer["memory_bytes"].as_u64().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.outcome)?;
        if let Some(message) = &self.message {
            let code =
                self.code.as_deref().filter(|_| self.outcome == "failed").map(|code| format!("{code}: ")).unwrap_or_default();
            write!(f, ": {code}{message}")?;
        }
        self.backtrace.iter().try_for_each(|line| write!(f, "\n  at {line}"))?;
        self.log.iter().try_for_each(|line| write!(f, "\n  {}: {}", line.level, line.message))
    }
}

/// Returns the folder of the crate whose test runs.
fn folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).expect("cargo test sets CARGO_MANIFEST_DIR")
}

/// Builds the crate once, and returns its file.
fn built() -> PathBuf {
    static FILE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &*file {
        return file.clone();
    }
    let output = innesco(&["plugin", "build", &folder().to_string_lossy(), "--json"], "");
    let built = serde_json::from_slice::<Value>(&output.stdout).ok().and_then(|built| built["file"].as_str().map(PathBuf::from));
    let built = built.unwrap_or_else(|| panic!("the plugin does not build: {}", String::from_utf8_lossy(&output.stderr).trim()));
    *file = Some(built.clone());
    built
}

fn innesco(arguments: &[&str], input: &str) -> Output {
    let program = std::env::var("INNESCO").unwrap_or_else(|_| "innesco".to_owned());
    let run = || {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(folder()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // If writing fails, the program has ended early, and its output explains why.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    run().unwrap_or_else(|error| {
        panic!("the program {program:?} does not run ({error}); put innesco into PATH, or its path into the variable INNESCO")
    })
}

/// Returns bytes that the JSON holds either as text or in base64.
fn bytes(json: &Value, name: &str) -> Option<Vec<u8>> {
    let encoded = || from_base64(json[format!("{name}_base64")].as_str()?);
    json[name].as_str().map(|text| text.as_bytes().to_vec()).or_else(encoded)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { digit.into() } else { '=' });
        }
    }
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let text = text.trim_end_matches('=').as_bytes();
    for chunk in text.chunks(4) {
        let digits = chunk.iter().map(|byte| DIGITS.iter().position(|digit| digit == byte)).collect::<Option<Vec<_>>>()?;
        let number = digits.iter().fold(0, |number, digit| number << 6 | digit) << (6 * (4 - digits.len()));
        bytes.extend((0..digits.len() - 1).map(|place| (number >> (16 - 8 * place)) as u8));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn bytes_survive_base64() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (&[0xff, 0xfe, 0, 1], "//4AAQ==")]
        {
            assert_eq!(base64(bytes), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(from_base64("a*"), None);
    }

    #[test]
    fn a_report_has_everything_that_the_command_prints() {
        let report = Report::read(&json!({
            "outcome": "ok", "code": null, "message": null, "retryable": false, "backtrace": [], "duration_ms": 1.5, "memory_bytes": 7,
            "webhooks": [{ "to": "crm", "type": null, "content_type": "application/json", "headers": [["x-a", "1"]], "body": "{\"id\":7}" }],
            "events": [{ "type": "order.big", "subject": "7", "after_ms": 60000, "content_type": "a/b", "attributes": { "channel": "web" }, "data_base64": "//4=" }],
            "state": { "reads": [], "writes": [{ "key": "count", "value": "1" }, { "key": "old", "value": null }] },
            "log": [{ "level": "info", "message": "order 7" }],
        }));
        assert_eq!(report.log, ["info: order 7"]);
        assert_eq!(report.state, [("count".to_owned(), Some(b"1".to_vec())), ("old".to_owned(), None)]);
        assert_eq!((report.duration, report.memory_bytes), (Duration::from_micros(1500), 7));
        let requests = report.expect_ok();
        let webhook = Webhook::to("crm").header("x-a", "1").json(&json!({ "id": 7 })).unwrap();
        let emit = Emit::new("order.big")
            .subject("7")
            .data("a/b", [0xff, 0xfe])
            .attribute("channel", "web")
            .after(Duration::from_secs(60));
        assert_eq!(requests, Outcome::new().webhook(webhook).emit(emit));
    }

    #[test]
    fn a_failure_shows_its_message_backtrace_and_log() {
        let report = Report::read(&json!({
            "outcome": "failed", "code": "no-luck", "message": "it is not to be", "backtrace": ["a::b (src/lib.rs:7)"],
            "log": [{ "level": "info", "message": "order 7" }],
        }));
        assert_eq!(report.to_string(), "failed: no-luck: it is not to be\n  at a::b (src/lib.rs:7)\n  info: order 7");
    }

    #[test]
    fn an_event_becomes_a_fixture() {
        let test = event(&testing::event("a.b").accepted_at("2026-01-02T03:04:06Z").attribute("channel", "x").build())
            .config("threshold", "7")
            .with_state("k", "v")
            .with_state("k", "w")
            .endpoints(["crm"])
            .bound();
        assert_eq!(test.0["event"]["accepted_at"], "2026-01-02T03:04:06Z");
        assert_eq!(test.0["event"]["attributes"], json!([["channel", "x"]]));
        assert_eq!(
            (&test.0["settings"], &test.0["state"]),
            (&json!({ "threshold": "7" }), &json!([{ "key": "k", "value_base64": "dw==" }]))
        );
        assert_eq!((&test.0["endpoints"], &test.0["bound"]), (&json!(["crm"]), &json!(true)));
    }
}
