//! The engine in this process, and a client that allocates nothing during a request.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use innesco::{
    config::{Config, Raw},
    news::Feed,
    serve,
};
use serde_json::{Value, json};
use stats_alloc::Region;
use tokio_util::sync::CancellationToken;

const KEY: &str = "key_worst_0123456789abcdef0123456789abcdef";
/// Deadline of one request. An engine in this build reads 8 MiB within a few seconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// The cost of one request.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub bytes: usize,
    pub allocations: usize,
}

/// A route of the OpenAPI document.
pub struct Route {
    pub method: String,
    pub path: String,
    pub has_body: bool,
    /// The content type of the request's body.
    pub kind: String,
    /// The members of the request's body.
    pub fields: Vec<String>,
    /// The names of the route's query parameters.
    pub parameters: Vec<String>,
}

pub struct Engine {
    address: SocketAddr,
    routes: Vec<Route>,
    sources: std::cell::Cell<usize>,
    _home: tempfile::TempDir,
}

/// Waits until no other test uses the engine, and returns it.
pub fn turn() -> MutexGuard<'static, Engine> {
    static ENGINE: LazyLock<Mutex<Engine>> = LazyLock::new(|| Mutex::new(Engine::start()));
    ENGINE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(home.path().join("plugins")).expect("a plugin folder");
        let set = |key: &'static str, name: &str| (key, home.path().join(name).display().to_string());
        let external_url = ("external_url", "https://hooks.example.com".to_owned());
        let flags = [set("data", "data"), set("plugins", "plugins"), external_url];
        let config = Config::check(&Raw::gather(&flags, |_| Ok(None), None).expect("settings")).expect("good settings");
        let (told, hears) = std::sync::mpsc::channel();
        // The engine's thread runs as long as this process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let address = listener.local_addr().expect("an address");
                let engine = serve::Engine::open(config, address, Some(KEY.to_owned()), Feed::default()).await.expect("it opens");
                told.send(address).expect("the test waits");
                engine.run(listener, CancellationToken::new()).await.expect("it runs");
            });
        });
        let address = hears.recv_timeout(DEADLINE).expect("the engine opens");
        let document: Value = serde_json::from_str(innesco::api::openapi::text()).expect("JSON");
        let engine = Self { address, routes: routes(&document), sources: std::cell::Cell::new(0), _home: home };
        let made = engine.call("POST", "/v1/endpoints", &json!({ "name": "crm", "url": "https://crm.example.com/" }));
        assert!(made.starts_with("HTTP/1.1 201"), "{made}");
        engine
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Returns a path with a value for each parameter.
    pub fn filled(&self, path: &str) -> String {
        let mut filled = String::new();
        for part in path.split('/').skip(1) {
            filled.push('/');
            filled.push_str(match part {
                "{endpoint}" => "crm",
                part => part.trim_matches(['{', '}']),
            });
        }
        filled
    }

    /// Creates a source and returns its address.
    pub fn source(&self, preset: &str) -> String {
        let number = self.sources.replace(self.sources.get() + 1);
        let mut input = json!({ "name": format!("source-{number}"), "preset": preset });
        if innesco::domain::source::Preset::parse(preset).is_some_and(|preset| preset.secret_is_theirs()) {
            input["secret"] = "0123456789abcdef".into();
        }
        if preset == "hmac" {
            input["header"] = "x-signature".into();
        }
        let made = self.call("POST", "/v1/sources", &input);
        let (_, body) = made.split_once("\r\n\r\n").expect("an answer");
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{made}"));
        body["path"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// Sends a small request and returns the answer as text.
    fn call(&self, method: &str, path: &str, body: &Value) -> String {
        let mut stream = self.ask(method, path, &[("content-type", "application/json")], body.to_string().as_bytes());
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer as text");
        answer
    }

    /// Sends an event; returns its id if it was accepted.
    pub fn accepted(&self, headers: &[(&str, &str)], body: &[u8]) -> Option<String> {
        let mut answer = String::new();
        self.ask("POST", "/v1/events", headers, body).read_to_string(&mut answer).expect("an answer as text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let body: Value = serde_json::from_str(body).ok()?;
        head.starts_with("HTTP/1.1 202").then(|| body["event"].as_str().expect("an id").to_owned())
    }

    pub fn get(&self, path: &str) -> Work {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Work {
        self.send("POST", path, headers, body)
    }

    /// Sends a request, reads the whole answer, and returns the allocations that were made meanwhile.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Work {
        let head = head(method, path, headers, body.len());
        let region = Region::new(super::ALLOCATOR);
        let mut stream = self.deliver(&head, body);
        let mut answer = [0; 4096];
        let mut first = None;
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < DEADLINE, "{method} {path:.80} is not answered within {DEADLINE:?}");
            match stream.read(&mut answer) {
                Ok(0) => break,
                Ok(length) => drop(first.get_or_insert((length, answer))),
                // If the engine refuses a request before all of it has arrived, the answer may be lost.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{method} {path:.80} is not answered within {DEADLINE:?}: {error}"),
            }
        }
        let change = region.change();
        if let Some((length, answer)) = first {
            let answer = String::from_utf8_lossy(&answer[..length]);
            let status: u16 = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
            assert!(status < 500, "{method} {path:.80}: {answer}");
        }
        Work {
            bytes: change.bytes_allocated + change.bytes_reallocated.max(0).cast_unsigned(),
            allocations: change.allocations + change.reallocations,
        }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        self.deliver(&head(method, path, headers, body.len()), body)
    }

    fn deliver(&self, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
        // The engine may answer, and close the connection, before everything is sent.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        stream
    }
}

fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n");
    // A source may expect its proof in the same header in which the API expects the key.
    if !headers.iter().any(|(name, _)| *name == "authorization") {
        head.push_str(&format!("authorization: Bearer {KEY}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {}\r\n", value.trim_end()));
    }
    head.push_str("\r\n");
    head
}

fn routes(document: &Value) -> Vec<Route> {
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let content = operation["requestBody"]["content"].as_object();
            let (kind, body) = content
                .and_then(|content| content.iter().next())
                .map_or(("", &Value::Null), |(kind, body)| (kind.as_str(), body));
            let mut fields = Vec::new();
            members(document, &body["schema"], &mut fields);
            fields.sort();
            fields.dedup();
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let parameters = parameters.filter(|parameter| parameter["in"] == "query");
            let parameters = parameters.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect();
            routes.push(Route {
                method: method.to_uppercase(),
                path: path.clone(),
                has_body: content.is_some(),
                kind: kind.to_owned(),
                fields,
                parameters,
            });
        }
    }
    routes
}

/// Collects the names of an object's members, also through references and alternatives.
fn members(document: &Value, schema: &Value, found: &mut Vec<String>) {
    if let Some(place) = schema["$ref"].as_str().and_then(|place| place.strip_prefix('#')) {
        members(document, document.pointer(place).unwrap_or(&Value::Null), found);
    }
    found.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    for choice in ["oneOf", "anyOf", "allOf"] {
        for schema in schema[choice].as_array().into_iter().flatten() {
            members(document, schema, found);
        }
    }
}
