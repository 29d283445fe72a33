//! Runs the real binary for tests: started on a free port with separate folders, called over HTTP, killed and restarted.
//!
//! With `STORE=postgres` in the environment, every engine uses a separate Postgres database, so that the same tests run on the
//! other store.

use std::{
    path::PathBuf,
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::process::Server;
use tempfile::TempDir;

use crate::postgres::PostgresServer;

pub const KEY: &str = "tests-only-6b0f6a1e3c9d4857a2e1f0b7c8d95a34";
/// Deadline for everything that a test waits for. It is long, so that a busy machine does not fail a test. A passing test
/// never waits so long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Creates an HTTP client for tests. Installs a provider of cryptography first, which a client needs even for plain HTTP.
pub fn client() -> reqwest::Client {
    // Only the first call installs the provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// The server with the databases of all engines, if requested.
static SERVER: LazyLock<Option<PostgresServer>> = LazyLock::new(|| match std::env::var("STORE").as_deref() {
    Err(_) | Ok("sqlite") => None,
    Ok("postgres") => Some(PostgresServer::start(false)),
    Ok(other) => panic!("STORE={other:?}: write sqlite or postgres"),
});

/// Returns whether the stores are files. Tests about the files of a store are skipped if they are not.
pub fn store_is_a_file() -> bool {
    SERVER.is_none()
}

/// One engine with separate folders.
pub struct Engine {
    server: Option<Server>,
    pub url: String,
    home: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// The URL of its database, if its store is in Postgres.
    database: Option<String>,
    /// The command that starts the engine, such as `unshare`; empty for none.
    wrapper: Vec<String>,
    client: reqwest::Client,
}

impl Engine {
    /// Starts an engine that may send to loopback addresses, with these plugins in its folder.
    pub fn start(plugins: &[&str]) -> Self {
        Self::start_with(plugins, &["--allow-net", "127.0.0.0/8"])
    }

    pub fn start_with(plugins: &[&str], arguments: &[&str]) -> Self {
        Self::start_in(plugins, arguments, &[])
    }

    /// Like [`Self::start`], with these settings.
    pub fn start_set(settings: &[(&str, &str)]) -> Self {
        Self::start_in(&[], &["--allow-net", "127.0.0.0/8"], settings)
    }

    /// Like [`Self::start`], with these environment variables.
    pub fn start_in(plugins: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(home.path().join("plugins")).expect("a plugin folder");
        let mut engine = Self {
            server: None,
            url: String::new(),
            home,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            database: SERVER.as_ref().map(|server| server.url(&server.database())),
            wrapper: Vec::new(),
            client: client(),
        };
        for plugin in plugins {
            engine.drop_in(plugin);
        }
        engine.launch();
        engine
    }

    /// Sets the arguments of the next start.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// Sets the program that starts the engine next time.
    pub fn set_wrapper(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Sets the environment of the next start.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Copies a plugin into the folder atomically, under its final name.
    pub fn drop_in(&self, plugin: &str) {
        self.write_plugin(&format!("{plugin}.wasm"), &super::crates::wasm(plugin));
    }

    pub fn write_plugin(&self, file: &str, bytes: &[u8]) {
        let draft = self.home.path().join("draft");
        std::fs::write(&draft, bytes).expect("the draft is written");
        std::fs::rename(draft, self.plugin_folder().join(file)).expect("the draft is renamed");
    }

    pub fn plugin_folder(&self) -> PathBuf {
        self.home.path().join("plugins")
    }

    pub fn data_folder(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_innesco"));
        command.env("INNESCO_ADMIN_KEY", KEY).env("INNESCO_URL", &self.url).env("INNESCO_KEY", KEY).current_dir(self.home.path());
        command
    }

    /// Starts the process and waits until it prints its address.
    pub fn launch(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("the log can be written");
        let mut command = self.command();
        if let [program, arguments @ ..] = &self.wrapper[..] {
            let engine = std::mem::replace(&mut command, Command::new(program));
            command.args(arguments).arg(engine.get_program()).current_dir(self.home.path());
            command.envs(engine.get_envs().filter_map(|(name, value)| Some((name, value?))));
        }
        command
            .envs(self.database.iter().map(|url| ("INNESCO_STORE", url)))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", "plugins"])
            .args(&self.arguments)
            .stderr(log);
        let server = Server::start(command).unwrap_or_else(|error| panic!("{error}; its log:\n{}", self.log()));
        self.url = server.url.clone();
        self.server = Some(server);
    }

    /// Executes one statement directly in the engine's store. The caller writes the statement for SQLite and for Postgres.
    pub fn execute_in_store(&self, sqlite: &str, postgres: &str) {
        match (&*SERVER, &self.database) {
            (Some(server), Some(url)) => {
                let (_, name) = url.rsplit_once('/').expect("an address ends in the database's name");
                server.ask(name, postgres).expect("the database does it");
            }
            _ => {
                let db = rusqlite::Connection::open(self.data_folder().join("innesco.db")).expect("the store is a file");
                db.busy_timeout(DEADLINE).expect("a time to wait");
                db.execute_batch(sqlite).expect("the file takes it");
            }
        }
    }

    /// Returns the number that a statement reads directly from the engine's store. Both stores understand the statement.
    pub fn number_in_store(&self, sql: &str) -> i64 {
        match (&*SERVER, &self.database) {
            (Some(server), Some(url)) => {
                let (_, name) = url.rsplit_once('/').expect("an address ends in the database's name");
                server.ask(name, sql).expect("the database answers").parse().expect("a number")
            }
            _ => {
                let db = rusqlite::Connection::open(self.data_folder().join("innesco.db")).expect("the store is a file");
                db.busy_timeout(DEADLINE).expect("a time to wait");
                db.query_row(sql, [], |row| row.get(0)).expect("the file has it")
            }
        }
    }

    pub fn log_file(&self) -> PathBuf {
        self.home.path().join("log")
    }

    pub fn log(&self) -> String {
        let file = self.log_file();
        if file.is_file() { std::fs::read_to_string(file).unwrap_or_default() } else { String::new() }
    }

    /// Sends `kill -9`.
    pub fn kill(&mut self) {
        if self.server.is_none() {
            return;
        }
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("a process");
        if let Some(mut server) = self.server.take() {
            // A process that has already ended accepts no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            server.wait();
        }
    }

    /// Sends `kill -TERM`, and waits for the end of the engine. Returns whether the engine ended successfully.
    pub fn stop(&mut self) -> bool {
        let mut server = self.server.take().expect("the engine runs");
        match server.terminate(DEADLINE) {
            Some(status) => status.success(),
            None => panic!("the engine did not stop within {DEADLINE:?}; its log:\n{}", self.log()),
        }
    }

    pub fn pid(&self) -> u32 {
        let started = self.server.as_ref().expect("the engine runs").pid();
        // A wrapper may start the engine as its child instead of becoming it.
        let child = std::fs::read_to_string(format!("/proc/{started}/task/{started}/children")).unwrap_or_default();
        match child.trim().parse() {
            Ok(child) if !self.wrapper.is_empty() => child,
            _ => started,
        }
    }

    /// Returns the number of open files of the engine, connections included.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the engine runs").count()
    }

    /// Returns the resident memory in KiB, from the kernel.
    pub fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Returns the peak of the resident memory in KiB since the process began.
    pub fn memory_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the engine runs");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel says how much");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(KEY)
    }

    /// Sends JSON and returns the status with the answer.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.request(method, path);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the engine answers");
        let status = response.status().as_u16();
        let text = response.text().await.expect("the answer is text");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Like [`Self::call`], but fails the test if the answer is not a success.
    pub async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path} answered {status}: {answer}\n{}", self.log());
        answer
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ok("GET", path, Value::Null).await
    }

    /// Creates an endpoint and returns the answer, which has the secret.
    pub async fn endpoint(&self, name: &str, url: &str, events: &[&str]) -> Value {
        self.ok("POST", "/v1/endpoints", json!({ "name": name, "url": url, "events": events })).await
    }

    /// Sends one event and returns its `evt_…`.
    pub async fn send(&self, event_type: &str, data: Value) -> String {
        let answer = self.ok("POST", "/v1/events", json!({ "type": event_type, "data": data })).await;
        answer["event"].as_str().expect("an event id").to_owned()
    }

    /// Polls until the answer satisfies the condition.
    pub async fn wait(&self, path: &str, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            // What the test waits for may not exist yet, so the request is also repeated after an error.
            let (_, answer) = self.call("GET", path, Value::Null).await;
            if condition(&answer) {
                return answer;
            }
            assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}. {path} says:\n{answer:#}\nlog:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for something that the API does not show.
    pub async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let until = Instant::now() + DEADLINE;
        while !condition() {
            assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}; the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every event has been run. Deliveries, and further tries of runs, may still wait.
    pub async fn all_run(&self) {
        let until = Instant::now() + DEADLINE;
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("/v1/events?state=waiting&limit=500{cursor}")).await;
            let to_run = page["items"].as_array().expect("items").iter().any(|event| event["parts"]["to_run"] == true);
            cursor = match (to_run, page["next"].as_str()) {
                (false, None) => return,
                (false, Some(next)) => format!("&cursor={next}"),
                (true, _) => String::new(),
            };
            assert!(Instant::now() < until, "events wait to be run:\n{page:#}\nlog:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every run of an event has an outcome, and returns its history.
    pub async fn settled(&self, event: &str) -> Value {
        self.wait(&format!("/v1/events/{event}"), "the event is settled", |story| {
            let runs = story["runs"].as_array().expect("runs");
            story["parts"]["to_run"] == false && runs.iter().all(|run| run["state"] != "waiting" || !run["outcome"].is_null())
        })
        .await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the engine's log:\n{}", self.log());
        }
        self.kill();
    }
}
