//! Speaking to a running engine: finding it, asking it, and saying what to do when it does not answer.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Where `innesco dev` leaves word of its engine.
const LOCAL_FILE: &str = ".innesco/local.toml";

/// Which engine is meant.
#[derive(clap::Args)]
pub struct Target {
    /// Address of the engine [default: INNESCO_URL, else what `innesco dev` left here]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Key of its API [default: INNESCO_KEY, else what `innesco dev` left here]
    #[arg(long, global = true, value_name = "KEY")]
    key: Option<String>,
}

/// One engine.
pub struct Client {
    url: String,
    key: String,
    /// Where the key came from, for when it is refused.
    origin: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Finds the engine: flags, else environment, else what `innesco dev` left in this folder or one above.
    pub fn find(target: &Target) -> anyhow::Result<Self> {
        let local = local_file().map(|path| read_local(&path)).transpose()?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url =
            target.url.clone().or_else(|| variable("INNESCO_URL")).or_else(|| local.as_ref().map(|local| local.url.clone()));
        let keys = [
            (target.key.clone(), "--key".to_owned()),
            (variable("INNESCO_KEY"), "INNESCO_KEY".to_owned()),
            (local.map(|local| local.key), LOCAL_FILE.to_owned()),
        ];
        let key = keys.into_iter().find_map(|(key, origin)| key.map(|key| (key, origin)));
        let (Some(url), Some((key, origin))) = (url, key) else {
            bail!(
                "which engine? Start one here with: innesco dev. For another one give --url and --key, or set INNESCO_URL and INNESCO_KEY"
            );
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let http = reqwest::Client::builder().user_agent(concat!("innesco/", env!("CARGO_PKG_VERSION"))).build()?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), key, origin, http, runtime })
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask("GET", path, None)
    }

    pub fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.ask("POST", path, body.map(Value::to_string))
    }

    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.ask("DELETE", path, None)
    }

    /// Sends a body that is JSON already.
    pub fn ask(&self, method: &str, path: &str, body: Option<String>) -> anyhow::Result<Value> {
        let address = format!("{}{path}", self.url);
        self.runtime.block_on(async {
            let mut request = self.http.request(method.parse()?, &address).bearer_auth(&self.key);
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body);
            }
            let response = request.send().await.map_err(|error| {
                if error.is_builder() {
                    anyhow::anyhow!("{:?} is not the address of an engine; write it like http://127.0.0.1:8080", self.url)
                } else {
                    anyhow::anyhow!("no engine answers at {}; start one with: innesco dev, or innesco serve", self.url)
                }
            })?;
            let status = response.status();
            let text = response.text().await.with_context(|| format!("the answer of {} broke off", self.url))?;
            if status.as_u16() == 204 {
                return Ok(Value::Null);
            }
            let answer: Value = serde_json::from_str(&text)
                .with_context(|| format!("{address} answered {status} and no JSON: is that an engine?"))?;
            if status.is_success() {
                return Ok(answer);
            }
            let detail = answer["detail"].as_str().unwrap_or(&text);
            if status.as_u16() == 401 {
                bail!("{} refuses the key from {}: {detail}", self.url, self.origin);
            }
            bail!("{detail}")
        })
    }

    /// Follows a list from page to page until `wanted` items are there.
    pub fn list(&self, path: &str, query: &[(&str, Option<&str>)], wanted: usize) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < wanted {
            let limit = (wanted - items.len()).min(500).to_string();
            let mut serializer = url::form_urlencoded::Serializer::new(String::new());
            serializer.append_pair("limit", &limit);
            for (name, value) in query.iter().filter_map(|(name, value)| value.map(|value| (*name, value))) {
                serializer.append_pair(name, value);
            }
            if let Some(cursor) = &cursor {
                serializer.append_pair("cursor", cursor);
            }
            let mut page = self.get(&format!("{path}?{}", serializer.finish()))?;
            if let Some(more) = page["items"].as_array_mut() {
                items.append(more);
            }
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        Ok(items)
    }
}

/// What `innesco dev` leaves for the other commands.
pub struct Local {
    pub url: String,
    pub key: String,
}

/// The nearest one, from here upwards.
fn local_file() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join(LOCAL_FILE)).find(|path| path.exists())
}

fn read_local(path: &Path) -> anyhow::Result<Local> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is damaged; start innesco dev again", path.display()))?;
    let value = |name: &str| {
        table
            .get(name)
            .and_then(|value| value.as_str())
            .map(str::to_owned)
            .with_context(|| format!("{} has no {name}", path.display()))
    };
    Ok(Local { url: value("url")?, key: value("key")? })
}

/// The key that `innesco dev` used here before, so that its data folder can be opened again.
pub fn earlier_key() -> Option<String> {
    read_local(Path::new(LOCAL_FILE)).ok().map(|local| local.key)
}

/// Leaves word of an engine, readable by its owner alone.
pub fn write_local(local: &Local) -> anyhow::Result<()> {
    let path = Path::new(LOCAL_FILE);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut table = toml::Table::new();
    table.insert("url".into(), local.url.clone().into());
    table.insert("key".into(), local.key.clone().into());
    Ok(file.write_all(table.to_string().as_bytes())?)
}
