//! Following what happens now: the event stream, `innesco event tail`, and `innesco send --wait`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver as Lines},
    },
};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    engine::{DEADLINE, Engine, client},
    receivers::{Answer, Receiver},
};

/// An open event stream.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(engine: &Engine, query: &str) -> Self {
        let response = engine.request("GET", &format!("/v1/stream{query}")).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = Self { response, text: String::new() };
        while !stream.text.contains(": connected") {
            assert!(stream.more().await, "the stream ended");
        }
        stream
    }

    /// Reads more of the stream. Returns `false` at its end.
    async fn more(&mut self) -> bool {
        let chunk = tokio::time::timeout(DEADLINE, self.response.chunk()).await.expect("a pulse at least").expect("a stream");
        chunk.inspect(|bytes| self.text.push_str(std::str::from_utf8(bytes).expect("text"))).is_some()
    }

    /// Reads until messages of these kinds have arrived. Returns all messages so far.
    async fn until(&mut self, kinds: &[&str]) -> Vec<Value> {
        loop {
            let whole = self.text.rfind("\n\n").map_or("", |end| &self.text[..end]);
            let read = |line: &str| serde_json::from_str(line.strip_prefix("data: ")?).ok();
            let messages: Vec<Value> = whole.lines().filter_map(read).collect();
            if kinds.iter().all(|kind| messages.iter().any(|message| message["kind"] == *kind)) {
                return messages;
            }
            assert!(self.more().await, "the stream ended: {}", self.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_shows_what_happens_to_the_events_that_it_selects() {
    let engine = Engine::start(&["order-router"]);
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["order.*", "logo.changed"]).await;
    let mut stream = Stream::open(&engine, "?type=order.*").await;
    engine.send("logo.changed", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
    let event = engine.send("order.created", json!({ "id": 7, "total": 5 })).await;
    // A webhook may arrive before its run is reported.
    let messages = stream.until(&["run", "attempt"]).await;
    assert!(
        messages.iter().all(|message| message["event"] == json!(event) && message["type"] == "order.created"),
        "{messages:?}"
    );
    assert_eq!(messages[0]["kind"], "event", "{messages:?}");
    let attempt = messages.iter().find(|message| message["kind"] == "attempt").expect("the webhook was awaited");
    assert_eq!((&attempt["endpoint"], &attempt["status"], &attempt["state"]), (&json!("crm"), &json!(200), &json!("delivered")));

    let (status, problem) = engine.call("GET", "/v1/stream?type=order.*.x", Value::Null).await;
    assert_eq!((status, problem["code"].as_str()), (400, Some("bad_request")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_with_its_key_and_delays_no_stop() {
    let mut engine = Engine::start(&[]);
    let key = engine.ok("POST", "/v1/keys", json!({ "name": "watcher", "role": "read" })).await;
    let bearer = key["key"].as_str().expect("a new key").to_owned();
    let response = client().get(format!("{}/v1/stream", engine.url)).bearer_auth(bearer).send().await.expect("an answer");
    let mut revoked = Stream { response, text: String::new() };
    assert!(revoked.more().await);
    let mut stays = Stream::open(&engine, "").await;
    engine.ok("DELETE", &format!("/v1/keys/{}", key["id"].as_str().expect("an id")), Value::Null).await;
    let ending = async { while revoked.more().await {} };
    tokio::time::timeout(DEADLINE, ending).await.expect("the stream ends");
    assert!(stays.more().await, "a pulse");
    assert!(engine.stop(), "{}", engine.log());
    while stays.more().await {}
}

/// A running command, with the lines that it prints.
struct Printing {
    child: Child,
    lines: Lines<String>,
}

impl Printing {
    fn start(engine: &Engine, url: &str, arguments: &[&str]) -> Self {
        let mut command = engine.command();
        let mut child = command
            .env("INNESCO_URL", url)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let (sender, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let to = sender.clone();
        std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).all(|line| to.send(line).is_ok()));
        std::thread::spawn(move || BufReader::new(err).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines }
    }

    /// Waits for a line with these words, and returns it.
    fn until(&self, words: &[&str]) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no line with {words:?}"));
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes connections on to the engine at `target`. Returns the address for callers.
async fn forward_to(target: Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let address = target.lock().unwrap().trim_start_matches("http://").to_owned();
            tokio::spawn(async move {
                // Without an engine, the caller sees a closed connection.
                let mut engine = TcpStream::connect(address).await?;
                tokio::io::copy_bidirectional(&mut caller, &mut engine).await
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_what_happens_and_survives_a_restart_of_the_engine() {
    let mut engine = Engine::start(&[]);
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["order.*"]).await;
    // The engine has another port after each start; its callers keep one address.
    let target = Arc::new(Mutex::new(engine.url.clone()));
    let url = forward_to(Arc::clone(&target)).await;
    let tail = Printing::start(&engine, &url, &["event", "tail"]);
    tail.until(&["connected"]);
    let event = engine.send("order.created", json!({ "id": 7 })).await;
    tail.until(&["event", &event, "order.created"]);
    tail.until(&["webhook", "crm", "200"]);

    engine.kill();
    tail.until(&["the stream ended"]);
    engine.launch();
    target.lock().unwrap().clone_from(&engine.url);
    tail.until(&["connected"]);
    let event = engine.send("order.paid", json!({ "id": 7 })).await;
    tail.until(&["event", &event, "order.paid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn send_with_wait_prints_the_parts_of_its_event_and_fails_with_them() {
    let engine = Engine::start(&["order-router"]);
    let (works, fails) = (Receiver::start().await, Receiver::answering(|_| Answer::status(500)).await);
    engine.endpoint("works", &works.url("/"), &["order.*", "bill.*"]).await;
    let once = json!({ "name": "fails", "url": fails.url("/"), "events": ["bill.*"], "schedule": ["0s"] });
    engine.ok("POST", "/v1/endpoints", once).await;
    let send = |event_type: &str| {
        let output = engine.command().args(["send", event_type, r#"{"id": 7, "total": 5}"#, "--wait"]).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = send("order.created");
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("accepted evt_") || out.starts_with("evt_"), "{out}");
    for part in ["run ", "order-router@", "webhook", "works", "delivered", "200"] {
        assert!(out.contains(part), "no {part:?} in:\n{out}");
    }
    let (code, out, err) = send("bill.sent");
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("fails") && out.contains("500") && out.contains("works"), "{out}");
    assert!(err.contains("1 webhook dead; see what to do with: innesco event show evt_"), "{err}");
}
