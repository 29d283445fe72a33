//! A real browser for tests: Chromium, driven over WebDriver (W3C).
//!
//! If the browser is missing, the test fails and names the command that installs it. Each browser has its own empty profile and
//! sends nothing in the background. It records its console, violations of the content security policy, and every address that it
//! requests.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Deadline for each wait in a page. It is long, so that a busy machine does not fail a test.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time between two checks of a page.
const POLL: Duration = Duration::from_millis(50);

/// Name of the member in which WebDriver's messages hold the id of an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const INSTALL: &str = "install them: apt-get install chromium chromium-driver";

/// A browser with one window. Dropping it ends its processes.
pub struct Browser {
    client: Client,
    /// URL of this browser's session at the driver.
    session: String,
    profile: TempDir,
    driver: Child,
}

/// The browser's message about a command that it refused.
type Refused = String;

/// How often the driver is started if its port is taken.
const DRIVER_TRIES: usize = 5;

/// Starts the driver and returns its port. The driver takes a free port of IPv6, and then the same port of IPv4. If a connection of
/// another test has the second one, the driver ends; then this returns `None`.
fn start_driver() -> Option<(Child, String)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("chromedriver cannot be started ({error}); {INSTALL}"));
    let mut lines = BufReader::new(driver.stdout.take().expect("its output is piped")).lines();
    let port = lines.by_ref().find_map(|line| {
        let line = line.expect("its output is text");
        Some(line.split_once("started successfully on port ")?.1.trim_end_matches('.').to_owned())
    });
    let Some(port) = port else {
        driver.wait().expect("its end is known");
        return None;
    };
    // Reads the rest of the driver's output, so that the driver never blocks on a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    Some((driver, port))
}

impl Browser {
    /// Starts a browser with an empty profile.
    ///
    /// # Panics
    /// Chromium or its driver is not installed.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a browser with script disabled.
    ///
    /// # Panics
    /// See [`Self::start`].
    pub async fn start_without_script() -> Self {
        Self::start_with(&["--blink-settings=scriptEnabled=false"]).await
    }

    async fn start_with(arguments: &[&str]) -> Self {
        // Only the first call installs the provider of cryptography. A client needs a provider even for plain HTTP.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let (driver, port) = (0..DRIVER_TRIES).find_map(|_| start_driver()).expect("the driver ends before it prints its port");
        let profile = tempfile::tempdir().expect("a temporary folder");
        let own = format!("--user-data-dir={}", profile.path().display());
        let given = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--lang=en-US",
            "--window-size=1280,900",
            &own,
        ];
        let arguments: Vec<&str> = given.into_iter().chain(arguments.iter().copied()).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let mut browser = Self { client: Client::new(), session: format!("http://127.0.0.1:{port}/session"), profile, driver };
        let made = browser
            .ask(Method::POST, "", wanted)
            .await
            .unwrap_or_else(|error| panic!("Chromium cannot be started ({error}); {INSTALL}"));
        browser.session = format!("{}/{}", browser.session, made["sessionId"].as_str().expect("a session"));
        browser
    }

    /// Sends one command to the driver and returns the value of the answer.
    async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value, Refused> {
        let mut request = self.client.request(method, format!("{}{path}", self.session));
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let is_done = answer.status().is_success();
        let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        match is_done {
            true => Ok(answer["value"].take()),
            false => Err(answer["value"]["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned()),
        }
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, Refused> {
        self.ask(Method::POST, path, body).await
    }

    async fn read(&self, path: &str) -> String {
        let value = self.ask(Method::GET, path, Value::Null).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Opens an address and waits until it has loaded.
    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await.unwrap_or_else(|error| panic!("{url} cannot be opened: {error}"));
    }

    /// Returns the address of the page.
    pub async fn address(&self) -> String {
        self.read("/url").await
    }

    /// Returns the current markup of the page.
    pub async fn source(&self) -> String {
        self.read("/source").await
    }

    /// Returns the path of an element in WebDriver's protocol, if the element exists.
    async fn find(&self, css: &str) -> Option<String> {
        let found = self.post("/element", json!({ "using": "css selector", "value": css })).await.ok()?;
        found[ELEMENT].as_str().map(|id| format!("/element/{id}"))
    }

    /// Returns the visible text of an element; empty if it does not exist.
    pub async fn text(&self, css: &str) -> String {
        let Some(element) = self.find(css).await else { return String::new() };
        let text = self.ask(Method::GET, &format!("{element}/text"), Value::Null).await;
        text.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Waits until an element exists, and returns its path in WebDriver's protocol.
    pub async fn wait(&self, css: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(element) = self.find(css).await {
                return element;
            }
            assert!(
                Instant::now() < until,
                "{css}: not within {DEADLINE:?} on {}:\n{}",
                self.address().await,
                self.page_text().await
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the visible text of an element contains `words`.
    pub async fn wait_for(&self, css: &str, words: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let text = self.text(css).await;
            if text.contains(words) {
                return text;
            }
            assert!(
                Instant::now() < until,
                "{words:?} in {css}: not within {DEADLINE:?} on {}; it has {text:?}. The page:\n{}",
                self.address().await,
                self.page_text().await
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the address contains `part`.
    pub async fn wait_address(&self, part: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            let address = self.address().await;
            if address.contains(part) {
                return;
            }
            assert!(Instant::now() < until, "the address {address} does not contain {part:?}:\n{}", self.page_text().await);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Returns whether an element exists now.
    pub async fn has(&self, css: &str) -> bool {
        self.find(css).await.is_some()
    }

    /// Returns the visible text of the page.
    pub async fn page_text(&self) -> String {
        self.text("body").await
    }

    /// Clicks an element. If a live update replaces the element at this moment, finds it again.
    pub async fn click(&self, css: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            let element = self.wait(css).await;
            match self.post(&format!("{element}/click"), json!({})).await {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < until, "{css} cannot be clicked: {error}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Replaces the text of a field.
    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.wait(css).await;
        for (step, body) in [("clear", json!({})), ("value", json!({ "text": text }))] {
            self.post(&format!("{field}/{step}"), body).await.unwrap_or_else(|error| panic!("{css} takes no text: {error}"));
        }
    }

    /// Chooses a file in the field of a form.
    pub async fn attach(&self, css: &str, file: &Path) {
        let field = self.wait(css).await;
        let body = json!({ "text": file.to_str().expect("a path that is text") });
        self.post(&format!("{field}/value"), body).await.unwrap_or_else(|error| panic!("{css} takes no file: {error}"));
    }

    /// Presses keys on the focused element.
    pub async fn press(&self, keys: &str) {
        let focused = self.ask(Method::GET, "/element/active", Value::Null).await.expect("a focused element");
        let element = focused[ELEMENT].as_str().expect("an element").to_owned();
        let pressed = self.post(&format!("/element/{element}/value"), json!({ "text": keys })).await;
        pressed.unwrap_or_else(|error| panic!("{keys:?} cannot be pressed: {error}"));
    }

    /// Runs script in the page and returns its value.
    pub async fn run(&self, script: &str) -> Value {
        let ran = self.post("/execute/sync", json!({ "script": script, "args": [] })).await;
        ran.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs script in every page from now on, before the page's own script.
    pub async fn run_in_every_page(&self, script: &str) {
        self.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await;
    }

    async fn devtools(&self, method: &str, parameters: Value) -> Value {
        let done = self.post("/goog/cdp/execute", json!({ "cmd": method, "params": parameters })).await;
        done.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Sets the width of the window, and whether the system prefers dark colours. From then on, nothing is animated.
    pub async fn show_as(&self, width: u32, dark: bool) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        let still = json!({ "name": "prefers-reduced-motion", "value": "reduce" });
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }, still] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Sets the time zone of the browser, such as `Europe/Rome`.
    pub async fn set_zone(&self, zone: &str) {
        self.devtools("Emulation.setTimezoneOverride", json!({ "timezoneId": zone })).await;
    }

    /// Writes a picture of the whole page.
    pub async fn screenshot(&self, file: &Path) {
        let height = self.run("return Math.max(document.documentElement.scrollHeight, 900)").await.as_u64().unwrap_or(900);
        let width = self.run("return innerWidth").await.as_u64().unwrap_or(1280);
        let size = json!({ "width": width, "height": height.min(6000), "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        self.screenshot_window(file).await;
    }

    /// Writes a picture of what the window shows.
    pub async fn screenshot_window(&self, file: &Path) {
        let picture = BASE64_STANDARD.decode(self.read("/screenshot").await).expect("base64");
        std::fs::write(file, picture).unwrap_or_else(|error| panic!("{} cannot be written: {error}", file.display()));
    }

    /// Returns the level and the message of each entry of a log since the last call.
    async fn log(&self, kind: &str) -> Vec<(String, String)> {
        let entries =
            self.post("/se/log", json!({ "type": kind })).await.unwrap_or_else(|error| panic!("the log {kind}: {error}"));
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        entries.as_array().into_iter().flatten().map(|entry| (text(entry, "level"), text(entry, "message"))).collect()
    }

    /// Returns the errors on the console since the last call, including violations of the content security policy.
    pub async fn errors(&self) -> Vec<String> {
        self.log("browser").await.into_iter().filter(|(level, _)| level == "SEVERE").map(|(_, message)| message).collect()
    }

    /// Returns the addresses that the browser requested since the last call.
    pub async fn requests(&self) -> Vec<String> {
        let messages = self.log("performance").await;
        let messages = messages.iter().filter_map(|(_, message)| serde_json::from_str::<Value>(message).ok());
        let of = |message: Value| match message["message"]["method"].as_str() {
            Some("Network.requestWillBeSent") => message["message"]["params"]["request"]["url"].as_str().map(str::to_owned),
            _ => None,
        };
        messages.filter_map(of).collect()
    }

    /// Ends the browser.
    pub async fn close(self) {
        // Dropping `self` ends the processes that are still running.
        let _ = self.ask(Method::DELETE, "", Value::Null).await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver may already have ended.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // A killed driver leaves its browser running. The browser is found by the profile in its command line.
        let profile = self.profile.path().display().to_string();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let number = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(rustix::process::Pid::from_raw);
            if let Some(number) = number.filter(|_| String::from_utf8_lossy(&line).contains(&profile)) {
                let _ = rustix::process::kill_process(number, rustix::process::Signal::KILL);
            }
        }
    }
}
