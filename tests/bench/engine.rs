//! The engine as in production: the real binary with a data folder, a plugin folder and endpoints.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::process::Server;

pub const KEY: &str = "benchmark-6b0f6a1e3c9d4857a2e1f0b7c8d95a34";

pub struct Engine {
    pub server: Server,
    client: reqwest::Client,
}

impl Engine {
    /// Starts the engine in an empty folder, with these plugins (name, file).
    pub fn start(folder: &Path, plugins: &[(&str, &[u8])]) -> anyhow::Result<Self> {
        Self::start_with(folder, plugins, &[])
    }

    /// Like [`Self::start`], with these settings (variable, value).
    pub fn start_with(folder: &Path, plugins: &[(&str, &[u8])], settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("plugins"))?;
        for (name, file) in plugins {
            fs::write(folder.join("plugins").join(format!("{name}.wasm")), file)?;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_innesco"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", "plugins", "--allow-net", "127.0.0.0/8"])
            .env("INNESCO_ADMIN_KEY", KEY)
            .env("INNESCO_EXTERNAL_URL", "https://hooks.example.com")
            .env("INNESCO_LOG_LEVEL", "error")
            .envs(settings.iter().copied())
            .current_dir(folder)
            .stderr(Stdio::from(fs::File::create(folder.join("log"))?));
        let server = Server::start(command).with_context(|| {
            format!("the engine did not start; its log:\n{}", fs::read_to_string(folder.join("log")).unwrap_or_default())
        })?;
        Ok(Self { server, client: reqwest::Client::new() })
    }

    /// Creates an endpoint for events of `types`; without types, only plugins send to it.
    pub async fn endpoint(&self, name: &str, url: &str, types: &[&str]) -> anyhow::Result<()> {
        self.create(json!({ "name": name, "url": url, "events": types })).await
    }

    /// Creates an endpoint from its API representation.
    pub async fn create(&self, endpoint: Value) -> anyhow::Result<()> {
        self.call(reqwest::Method::POST, "/v1/endpoints", Some(endpoint)).await?;
        Ok(())
    }

    /// Sends the waiting webhooks of an endpoint at once.
    pub async fn resume(&self, endpoint: &str) -> anyhow::Result<()> {
        self.call(reqwest::Method::POST, &format!("/v1/endpoints/{endpoint}/resume"), None).await?;
        Ok(())
    }

    /// Creates a source with this preset and returns its address.
    pub async fn source(&self, name: &str, preset: &str) -> anyhow::Result<String> {
        // A source of some presets needs a secret that its sender creates; for the others the engine generates one.
        let secret = (preset == "twilio").then_some("a-secret-for-the-benchmark");
        let source = json!({ "name": name, "preset": preset, "secret": secret });
        let made = self.call(reqwest::Method::POST, "/v1/sources", Some(source)).await?;
        Ok(made["path"].as_str().context("a source has a path")?.to_owned())
    }

    /// Sends one event of this type, waits until its run has an outcome, and returns the run.
    pub async fn run_once(&self, event_type: &str) -> anyhow::Result<Value> {
        let event = json!({ "type": event_type, "data": {} });
        let answer = self.call(reqwest::Method::POST, "/v1/events", Some(event)).await?;
        let path = format!("/v1/events/{}", answer["event"].as_str().context("an accepted event has an id")?);
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let story = self.call(reqwest::Method::GET, &path, None).await?;
            let run = &story["runs"][0];
            if !run["outcome"].is_null() {
                return Ok(run.clone());
            }
            ensure!(Instant::now() < until, "the run has no outcome after 15 seconds: {story}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the engine knows this many endpoints, which another node may have created.
    pub async fn knows_endpoints(&self, count: usize) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        while self.count("/v1/endpoints?", usize::MAX).await? < count {
            ensure!(Instant::now() < until, "a node did not learn about the endpoints");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until no event waits for its runs.
    pub async fn nothing_waits(&self) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(120);
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/events?state=waiting&limit=500{cursor}");
            let page = self.call(reqwest::Method::GET, &path, None).await?;
            let to_run = page["items"].as_array().is_some_and(|items| items.iter().any(|event| event["parts"]["to_run"] == true));
            cursor = match (to_run, page["next"].as_str()) {
                (false, None) => return Ok(()),
                (false, Some(next)) => format!("&cursor={next}"),
                (true, _) => {
                    ensure!(Instant::now() < until, "events still wait for their runs");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    String::new()
                }
            };
        }
    }

    /// Waits until no delivery is in this state.
    pub async fn no_delivery_is(&self, state: &str) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(300);
        while self.count_deliveries(state, 1).await? > 0 {
            ensure!(Instant::now() < until, "deliveries are still {state}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits until this many plugins serve.
    pub async fn serves_plugins(&self, count: usize) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(300);
        loop {
            let page = self.call(reqwest::Method::GET, "/v1/plugins", None).await?;
            let serving =
                page["items"].as_array().map_or(0, |items| items.iter().filter(|one| one["state"] == "serving").count());
            if serving >= count {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{serving} of {count} plugins serve");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the id of the newest event.
    pub async fn newest_event(&self) -> anyhow::Result<String> {
        let page = self.call(reqwest::Method::GET, "/v1/events?limit=1", None).await?;
        Ok(page["items"][0]["event"].as_str().context("an event is stored")?.to_owned())
    }

    /// Returns the number of events.
    pub async fn count_events(&self) -> anyhow::Result<usize> {
        self.count("/v1/events?", usize::MAX).await
    }

    /// Returns the number of deliveries in this state, but at most `most`.
    pub async fn count_deliveries(&self, state: &str, most: usize) -> anyhow::Result<usize> {
        self.count(&format!("/v1/deliveries?state={state}&"), most).await
    }

    async fn count(&self, list: &str, most: usize) -> anyhow::Result<usize> {
        let first = format!("{list}limit={}", most.min(500));
        let (mut count, mut path) = (0, first.clone());
        loop {
            let page = self.call(reqwest::Method::GET, &path, None).await?;
            count += page["items"].as_array().map_or(0, Vec::len);
            match page["next"].as_str() {
                Some(next) if count < most => path = format!("{first}&cursor={next}"),
                _ => return Ok(count),
            }
        }
    }

    /// Pushes a version of a plugin, which serves at once unless it is a candidate. Returns the version.
    pub async fn push(&self, plugin: &str, file: Vec<u8>, is_candidate: bool) -> anyhow::Result<String> {
        let url = format!("{}/v1/plugins/{plugin}?candidate={is_candidate}", self.server.url);
        let answer = self.client.put(url).bearer_auth(KEY).body(file).send().await?.error_for_status()?;
        let pushed: Value = serde_json::from_str(&answer.text().await?)?;
        Ok(pushed["version"].as_str().context("a pushed version has a digest")?.to_owned())
    }

    /// Starts to compare the newest recorded runs of a plugin with a candidate. Returns the path of the comparison.
    pub async fn compare(&self, plugin: &str, candidate: &str, last: usize) -> anyhow::Result<String> {
        let request = json!({ "candidate": candidate, "last": last });
        let started = self.call(reqwest::Method::POST, &format!("/v1/plugins/{plugin}/compare"), Some(request)).await?;
        Ok(format!("/v1/comparisons/{}", started["id"].as_str().context("a comparison has an id")?))
    }

    /// Waits until a comparison has ended, and returns it.
    pub async fn compared(&self, comparison: &str) -> anyhow::Result<Value> {
        let until = Instant::now() + Duration::from_secs(300);
        loop {
            let one = self.call(reqwest::Method::GET, comparison, None).await?;
            if one["state"] != "running" {
                return Ok(one);
            }
            ensure!(Instant::now() < until, "the comparison does not end: {one}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self.client.request(method, format!("{}{path}", self.server.url)).bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

/// Builds another version of a plugin from the same source: its file differs, its code does not.
pub fn rebuilt(mut file: Vec<u8>) -> Vec<u8> {
    file.extend([0, 6, 4]);
    file.extend(b"notex");
    file
}

/// Builds the benchmark's plugin as its authors would, and returns its bytes.
pub fn bench_plugin() -> Vec<u8> {
    support::crates::wasm("bench-plugin")
}

/// Builds the benchmark's plugin as cargo builds a crate outside of this repository.
pub fn stock_plugin() -> Vec<u8> {
    support::crates::stock_wasm("bench-plugin")
}
