//! Talks to a running engine: finds it, sends requests, and explains what to do if it does not answer.

use std::{
    fmt,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use url::Url;

use super::{answer::Answer, measure, output, sdk, wrong};
use crate::{config, domain::given, files, wire::PageView};

/// The file in which `innesco dev` stores the address and key of its engine.
const LOCAL_FILE: &str = ".innesco/local.toml";
/// The default address of an engine.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Timeout for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Timeout for a complete answer. The engine gives up on a slow store sooner.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Timeout for an endless answer. The stream is opened again afterwards.
const STREAM_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Timeout for a connection to an engine on this machine, only to see whether it runs.
const DEV_ANSWER_MAX: Duration = Duration::from_millis(300);
/// Maximum number of items on one page of a list.
const PAGE: usize = 500;

/// Removes members that are `null`, so that the engine's defaults apply to them.
pub fn without_nulls(mut body: Value) -> Value {
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    body
}

/// Selects the engine.
#[derive(clap::Args, Default)]
pub struct Target {
    /// Address of the engine [default: INNESCO_URL, else the engine of `innesco dev` in this folder]
    // Distinct ids: commands have arguments called `url` and `key`, and clap would mix them up.
    #[arg(id = "engine_url", long = "url", global = true, value_name = "URL", help_heading = "Which engine")]
    url: Option<String>,
    /// API key [default: INNESCO_KEY, else the key of `innesco dev` in this folder]
    #[arg(id = "engine_key", long = "key", global = true, value_name = "KEY", help_heading = "Which engine")]
    key: Option<String>,
    /// Log each API request and its duration
    // Shown below a command's own options.
    #[arg(long, short, global = true, display_order = 990)]
    verbose: bool,
}

impl Target {
    /// Returns the first flag that selects an engine, if one is given.
    pub fn flag(&self) -> Option<&'static str> {
        match (&self.url, &self.key) {
            (Some(_), _) => Some("--url"),
            (None, Some(_)) => Some("--key"),
            (None, None) => None,
        }
    }
}

/// An address or a key, and where it came from, for error messages.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    value: String,
    origin: String,
}

/// Reads flags, then environment variables, then the file of `innesco dev`. The file's address and key belong together: its
/// address gets no other key, and its key is sent to no other address.
fn find(
    target: &Target,
    environment: impl Fn(&str) -> anyhow::Result<Option<String>>,
    local: impl FnOnce() -> anyhow::Result<Option<(PathBuf, Local)>>,
) -> anyhow::Result<(Found, Found)> {
    let typed = |flag: &Option<String>, name: &str, variable: &str, read: fn(&str) -> Result<&str, given::BadText>| {
        let (text, origin) = match flag {
            Some(text) => (Some(text.clone()), name),
            None => (
                environment(variable).map_err(|error| wrong(error.to_string()))?.filter(|text| !text.trim().is_empty()),
                variable,
            ),
        };
        let found = |text: String| {
            let value = read(&text).map_err(|bad| wrong(format!("{origin} {bad}")))?;
            anyhow::Ok(Found { value: value.to_owned(), origin: origin.to_owned() })
        };
        text.map(found).transpose()
    };
    let key = typed(&target.key, "--key", "INNESCO_KEY", given::key)?;
    let url = typed(&target.url, "--url", "INNESCO_URL", given::value)?;
    let (url, key) = match (url, key) {
        (Some(url), Some(key)) => return Ok((url, key)),
        missing => missing,
    };
    let left = local()?;
    match (url, key, left) {
        (None, None, Some((path, local))) => {
            let found = |value| Found { value, origin: shown(&path) };
            Ok((found(local.url), found(local.key)))
        }
        (Some(url), None, Some((path, local))) if local.url.trim_end_matches('/') == url.value.trim_end_matches('/') => {
            Ok((url, Found { value: local.key, origin: shown(&path) }))
        }
        (None, Some(key), Some((path, local))) if local.key == key.value => {
            Ok((Found { value: local.url, origin: shown(&path) }, key))
        }
        // The file may belong to another user, for example if it came with a repository.
        (None, Some(key), Some((path, local))) => Err(wrong(format!(
            "the key from {} is not sent to the address in {}, which has another key; give the address too, such as --url {}",
            key.origin,
            shown(&path),
            measure::one_line(&local.url),
        ))),
        (None, Some(key), None) => Ok((Found { value: DEFAULT_URL.to_owned(), origin: "by default".to_owned() }, key)),
        (None, None, None) => Err(wrong(
            "no engine is selected. Start one here with: innesco dev. Or give --url and --key, or set INNESCO_URL and INNESCO_KEY",
        )),
        (Some(url), _, _) => Err(wrong(format!(
            "{} needs a key: give --key, or set INNESCO_KEY. Its administrator creates one with: innesco keys create",
            url.value
        ))),
    }
}

/// A client of one engine.
pub struct Client {
    url: Url,
    url_origin: String,
    key: Found,
    verbose: bool,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

/// A refusal of the engine, in the engine's words.
#[derive(Debug, thiserror::Error)]
pub struct Refused {
    pub status: u16,
    pub detail: String,
    /// JSON pointer to the wrong part of the request.
    pub pointer: Option<String>,
    /// When the same request may succeed.
    pub retry_after: Option<Duration>,
    /// Advice that only the client can give.
    advice: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if let Some(wait) = self.retry_after {
            write!(f, ". Try again in {}", measure::coarse(wait))?;
        }
        self.advice.iter().try_for_each(|advice| write!(f, ". {advice}"))
    }
}

impl Refused {
    #[cfg(test)]
    pub fn new(status: u16, detail: &str, pointer: Option<&str>) -> Self {
        Self { status, detail: detail.into(), pointer: pointer.map(str::to_owned), retry_after: None, advice: None }
    }
}

/// The members of a problem (RFC 9457) that commands show.
#[derive(Deserialize)]
struct Problem {
    detail: String,
    pointer: Option<String>,
}

/// The engine did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(String);

impl Client {
    /// Finds the engine by flags, else by environment variables, else by the file of `innesco dev` in this folder or above.
    pub fn find(target: &Target) -> anyhow::Result<Self> {
        let local = || match local_file() {
            Some(path) => Ok(read_local(&path)?.map(|local| (path, local))),
            None => Ok(None),
        };
        let (url, key) = find(target, |name| Ok(config::variable(name)?), local)?;
        Self::new(url, key, target.verbose)
    }

    fn new(url: Found, key: Found, verbose: bool) -> anyhow::Result<Self> {
        let parsed = Url::parse(&url.value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let parsed = parsed.ok_or_else(|| {
            wrong(format!(
                "{:?} ({}) is not the address of an engine; write it like {DEFAULT_URL}",
                measure::one_line(&url.value),
                url.origin
            ))
        })?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("innesco/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX);
        if is_here(&parsed) {
            // Proxy variables are ignored: with a proxy, a request to this machine would leave the machine.
            http = http.no_proxy();
        }
        if parsed.scheme() == "http" {
            // Plain HTTP must work on a machine without certificates.
            http = http.tls_certs_only([]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { url: parsed, url_origin: url.origin, key, verbose, http: http.build()?, runtime })
    }

    pub fn get<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<Answer<T>> {
        Answer::read(self.ask("GET", self.address(path, &[]), None)?)
    }

    /// Like [`Self::get`], with a query.
    pub fn get_with<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Answer<T>> {
        Answer::read(self.ask("GET", self.address(path, query), None)?)
    }

    /// Like [`Self::get`], but returns the answer's text.
    pub fn get_text(&self, path: &[&str]) -> anyhow::Result<String> {
        self.get_text_with(path, &[])
    }

    pub fn get_text_with(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<String> {
        let address = self.address(path, query);
        let (status, retry_after, text) = self.exchange("GET", &address, None)?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        self.read("GET", &address, status, retry_after, &text).map(|answer| answer.to_string())
    }

    /// Passes each piece of an endless answer to `piece`, and `None` once a second. Returns when the engine ends the answer.
    pub fn follow(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        mut piece: impl FnMut(Option<&[u8]>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let address = self.address(path, query);
        self.runtime.block_on(async {
            let request = self.http.get(address.clone()).bearer_auth(&self.key.value).timeout(STREAM_MAX);
            let mut response = request.send().await.map_err(|error| self.no_answer(&error))?;
            let status = response.status().as_u16();
            if status != 200 {
                let text = response.text().await.map_err(|error| self.no_answer(&error))?;
                return self.read("GET", &address, status, None, &text).map(drop);
            }
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    chunk = response.chunk() => match chunk.map_err(|error| self.no_answer(&error))? {
                        Some(bytes) => piece(Some(&bytes))?,
                        None => return Ok(()),
                    },
                    _ = second.tick() => piece(None)?,
                }
            }
        })
    }

    pub fn post<T: DeserializeOwned>(&self, path: &[&str], body: Option<&Value>) -> anyhow::Result<Answer<T>> {
        Answer::read(self.ask("POST", self.address(path, &[]), body.map(Value::to_string))?)
    }

    /// Sends a body that is already JSON.
    pub fn post_text<T: DeserializeOwned>(&self, path: &[&str], body: String) -> anyhow::Result<Answer<T>> {
        Answer::read(self.ask("POST", self.address(path, &[]), Some(body))?)
    }

    /// Sends a merge patch.
    pub fn patch<T: DeserializeOwned>(&self, path: &[&str], change: &Value) -> anyhow::Result<Answer<T>> {
        Answer::read(self.ask("PATCH", self.address(path, &[]), Some(change.to_string()))?)
    }

    pub fn put<T: DeserializeOwned>(&self, path: &[&str], body: &Value) -> anyhow::Result<Answer<T>> {
        Answer::read(self.ask("PUT", self.address(path, &[]), Some(body.to_string()))?)
    }

    /// Sends the bytes of a file.
    pub fn put_file<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        content_type: &str,
        bytes: Vec<u8>,
    ) -> anyhow::Result<Answer<T>> {
        let address = self.address(path, query);
        let (status, retry_after, body) = self.exchange_bytes("PUT", &address, Some((content_type, bytes)))?;
        Answer::read(self.read("PUT", &address, status, retry_after, &String::from_utf8_lossy(&body))?)
    }

    pub fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<Answer<T>> {
        self.delete_with(path, &[])
    }

    pub fn delete_with<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Answer<T>> {
        Answer::read(self.ask("DELETE", self.address(path, query), None)?)
    }

    /// Gets an answer that is not JSON, byte for byte.
    pub fn get_bytes(&self, path: &[&str]) -> anyhow::Result<Bytes> {
        let address = self.address(path, &[]);
        let (status, retry_after, body) = self.exchange_bytes("GET", &address, None)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        self.read("GET", &address, status, retry_after, &String::from_utf8_lossy(&body)).map(|answer| answer.to_string().into())
    }

    /// Follows a list page by page until it has `wanted` items, or the list ends.
    pub fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, Option<&str>)],
        wanted: usize,
    ) -> anyhow::Result<Vec<Answer<T>>> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < wanted {
            let limit = (wanted - items.len()).min(PAGE).to_string();
            // Without a limit, pages have the engine's page size.
            let mut pairs: Vec<(&str, &str)> = Vec::new();
            pairs.extend((wanted < usize::MAX).then_some(("limit", limit.as_str())));
            pairs.extend(query.iter().filter_map(|(name, value)| value.map(|value| (*name, value))));
            pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = Answer::<PageView<Value>>::read(self.ask("GET", self.address(path, &pairs), None)?)?.into_thing();
            for item in page.items {
                items.push(Answer::read(item)?);
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        Ok(items)
    }

    /// Returns a client of the engine at this address, with a placeholder key.
    #[cfg(test)]
    pub fn at(url: &str) -> Self {
        // Fails only if another test has already installed the provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let found = |value: &str, origin: &str| Found { value: value.into(), origin: origin.into() };
        Self::new(found(url, "--url"), found("innk_x", "INNESCO_KEY"), false).expect("an address")
    }

    /// Returns the URL of a path of the engine, at the address that this command uses.
    pub fn address_of(&self, path: &str) -> String {
        format!("{}{path}", self.url.as_str().trim_end_matches('/'))
    }

    fn address(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut address = self.url.clone();
        if let Ok(mut segments) = address.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            address.query_pairs_mut().extend_pairs(query);
        }
        address
    }

    fn ask(&self, method: &str, address: Url, body: Option<String>) -> anyhow::Result<Value> {
        let (status, retry_after, text) = self.exchange(method, &address, body)?;
        self.read(method, &address, status, retry_after, &text)
    }

    /// Sends a request and returns status, `Retry-After` and body of the answer.
    fn exchange(&self, method: &str, address: &Url, body: Option<String>) -> anyhow::Result<(u16, Option<u64>, String)> {
        let body = body.map(|text| ("application/json", text.into_bytes()));
        let (status, retry_after, body) = self.exchange_bytes(method, address, body)?;
        Ok((status, retry_after, String::from_utf8_lossy(&body).into_owned()))
    }

    fn exchange_bytes(
        &self,
        method: &str,
        address: &Url,
        body: Option<(&str, Vec<u8>)>,
    ) -> anyhow::Result<(u16, Option<u64>, Bytes)> {
        let began = Instant::now();
        let answer = self.runtime.block_on(async {
            let mut request = self.http.request(method.parse()?, address.clone()).bearer_auth(&self.key.value);
            if let Some((content_type, body)) = body {
                request = request.header("content-type", content_type).body(body);
            }
            let response = request.send().await.map_err(|error| self.no_answer(&error))?;
            let status = response.status().as_u16();
            let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            let body = response.bytes().await.map_err(|error| self.no_answer(&error))?;
            anyhow::Ok((status, retry_after, body))
        });
        if self.verbose {
            let took = measure::took(began.elapsed());
            let status = answer.as_ref().map_or_else(|_| "no answer".to_owned(), |(status, ..)| status.to_string());
            output::tell!("{method} {address}  {status}  {took}  (address {}, key {})", self.url_origin, self.key.origin);
        }
        answer
    }

    fn no_answer(&self, error: &reqwest::Error) -> NoAnswer {
        let origin = &self.url_origin;
        let url = self.url.as_str().trim_end_matches('/');
        NoAnswer(if error.is_connect() {
            format!(
                "no engine answers at {url} ({origin}). Start one with: innesco dev, or innesco serve; or give another address with --url"
            )
        } else if error.is_timeout() {
            format!("{url} did not answer within {}; check its log, or try again", measure::coarse(ANSWER_MAX))
        } else {
            format!("the connection to {url} broke before the answer; check the result with: innesco event list")
        })
    }

    /// Returns the JSON of an answer, or an error.
    fn read(&self, method: &str, address: &Url, status: u16, retry_after: Option<u64>, text: &str) -> anyhow::Result<Value> {
        let answer: Option<Value> = if text.is_empty() { Some(Value::Null) } else { serde_json::from_str(text).ok() };
        if (200..300).contains(&status)
            && let Some(answer) = answer
        {
            return Ok(answer);
        }
        let problem = answer.and_then(|answer| Problem::deserialize(answer).ok());
        let Some(problem) = problem else {
            let begins = measure::cut(&measure::one_line(text), 100);
            anyhow::bail!(
                "{method} {address} was answered {status}, but not by an engine ({begins}). Check the address ({})",
                self.url_origin
            );
        };
        let advice = match status {
            401 => Some(format!("The key came from {}", self.key.origin)),
            403 => Some(format!(
                "The key came from {}; use a key with another role, or create one: innesco keys create",
                self.key.origin
            )),
            _ => None,
        };
        Err(Refused {
            status,
            detail: measure::one_line(problem.detail.trim_end_matches('.')),
            pointer: problem.pointer,
            retry_after: retry_after.map(Duration::from_secs),
            advice,
        }
        .into())
    }
}

/// Returns whether an address is on this machine.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The address and key of the engine that `innesco dev` started.
#[derive(Clone)]
pub struct Local {
    pub url: String,
    pub key: String,
    /// The folder with the plugin crates, as given to `innesco dev`.
    pub plugins: String,
    /// The address of its test receiver.
    pub receiver: Option<SocketAddr>,
}

/// The default folder with the plugin crates.
pub const PLUGINS: &str = "plugins";

/// Finds the nearest file of `innesco dev`, in this folder or above.
fn local_file() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join(LOCAL_FILE)).find(|path| path.exists())
}

/// Returns a path relative to the current folder if it is in that folder, else unchanged.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Reads the file only if this user's `innesco dev` wrote it.
fn read_local(path: &Path) -> anyhow::Result<Option<Local>> {
    let text = files::read_own_text(path).with_context(|| format!("{} is ignored; use --url and --key instead", shown(path)))?;
    let Some(text) = text else { return Ok(None) };
    let table: Option<toml::Table> = text.trim_start_matches('\u{feff}').parse().ok();
    let value = |name: &str| table.as_ref()?.get(name)?.as_str();
    let url = value("url").and_then(|url| given::value(url).ok());
    let key = value("key").and_then(|key| given::key(key).ok());
    match (url, key) {
        (Some(url), Some(key)) => {
            let plugins = value("plugins").unwrap_or(PLUGINS).to_owned();
            let receiver = value("receiver").and_then(|address| address.parse().ok());
            Ok(Some(Local { url: url.to_owned(), key: key.to_owned(), plugins, receiver }))
        }
        _ => anyhow::bail!("{} is damaged; start innesco dev to write it again, or use --url and --key instead", shown(path)),
    }
}

/// Returns the contents of the file that the previous `innesco dev` wrote in this folder. The next `innesco dev` keeps the API key
/// in that file, and replaces the earlier receiver's address in its endpoints.
pub fn earlier() -> Option<Local> {
    read_local(Path::new(LOCAL_FILE)).ok().flatten()
}

/// Returns the folder with the plugin crates that the last `innesco dev` of this project watched.
pub fn watched(root: &Path) -> String {
    let local = read_local(&root.join(LOCAL_FILE)).ok().flatten();
    local.map_or_else(|| PLUGINS.to_owned(), |local| local.plugins)
}

/// Returns whether the `innesco dev` engine of this project accepts connections.
pub fn is_dev_running(root: &Path) -> bool {
    let url = read_local(&root.join(LOCAL_FILE)).ok().flatten().and_then(|local| Url::parse(&local.url).ok());
    let addresses = url.and_then(|url| url.socket_addrs(|| None).ok()).unwrap_or_default();
    addresses.iter().any(|address| TcpStream::connect_timeout(address, DEV_ANSWER_MAX).is_ok())
}

/// Writes address and key to a file that only its owner can read.
pub fn write_local(local: &Local) -> anyhow::Result<()> {
    write_local_to(Path::new(LOCAL_FILE), local).with_context(|| format!("{LOCAL_FILE} cannot be written"))
}

/// Returns whether `innesco dev` creates a file of this name in its folder.
pub fn made_by_dev(name: &str) -> bool {
    ["data", "plugins", "local.toml", "local.draft", ".gitignore", sdk::FOLDER, sdk::DRAFT, sdk::LOCK].contains(&name)
}

fn write_local_to(path: &Path, local: &Local) -> std::io::Result<()> {
    files::own_folder(&files::folder_of(path), made_by_dev)?;
    let mut table = toml::Table::new();
    table.insert("url".into(), local.url.clone().into());
    table.insert("key".into(), local.key.clone().into());
    table.insert("plugins".into(), local.plugins.clone().into());
    if let Some(receiver) = local.receiver {
        table.insert("receiver".into(), receiver.to_string().into());
    }
    files::replace(path, &[table.to_string().as_bytes()])
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn target(url: Option<&str>, key: Option<&str>) -> Target {
        Target { url: url.map(str::to_owned), key: key.map(str::to_owned), verbose: false }
    }

    fn local() -> (PathBuf, Local) {
        (
            PathBuf::from(LOCAL_FILE),
            Local {
                url: "http://127.0.0.1:8080".into(),
                key: "innk_local".into(),
                plugins: "crates".into(),
                receiver: "127.0.0.1:9099".parse().ok(),
            },
        )
    }

    fn found(target: &Target, variables: &[(&str, &str)], local: Option<&(PathBuf, Local)>) -> Result<[String; 4], String> {
        let variable = |name: &str| Ok(variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()));
        let left = || Ok(local.map(|(path, local)| (path.clone(), local.clone())));
        find(target, variable, left)
            .map(|(url, key)| [url.value, url.origin, key.value, key.origin])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_override_the_environment_which_overrides_the_file() {
        let local = local();
        let variables = [("INNESCO_URL", "http://env"), ("INNESCO_KEY", "innk_env")];
        let all = found(&target(Some("http://flag"), Some("innk_flag")), &variables, Some(&local)).unwrap();
        assert_eq!(all, ["http://flag", "--url", "innk_flag", "--key"]);
        let two = found(&target(None, None), &variables, Some(&local)).unwrap();
        assert_eq!(two, ["http://env", "INNESCO_URL", "innk_env", "INNESCO_KEY"]);
        let one = found(&target(None, None), &[], Some(&local)).unwrap();
        assert_eq!(one, ["http://127.0.0.1:8080", LOCAL_FILE, "innk_local", LOCAL_FILE]);
        let key_alone = found(&target(None, Some("innk_flag")), &[], None).unwrap();
        assert_eq!(key_alone, [DEFAULT_URL, "by default", "innk_flag", "--key"]);
    }

    #[test]
    fn a_local_key_is_not_sent_to_another_engine() {
        let local = local();
        assert!(found(&target(Some("http://127.0.0.1:8080/"), None), &[], Some(&local)).is_ok());
        let error = found(&target(Some("https://elsewhere.example"), None), &[], Some(&local)).unwrap_err();
        assert_eq!(
            error,
            "https://elsewhere.example needs a key: give --key, or set INNESCO_KEY. Its administrator creates one with: innesco keys create"
        );
    }

    #[test]
    fn a_local_address_gets_only_its_key() {
        let local = local();
        for (target, variables, origin) in [
            (target(None, None), vec![("INNESCO_KEY", "innk_admin")], "INNESCO_KEY"),
            (target(None, Some("innk_admin")), vec![], "--key"),
        ] {
            let refused = found(&target, &variables, Some(&local)).unwrap_err();
            let expected = format!("the key from {origin} is not sent to the address in {LOCAL_FILE}, ");
            assert!(refused.starts_with(&expected) && refused.ends_with("such as --url http://127.0.0.1:8080"), "{refused}");
        }
        let same = found(&target(None, Some("innk_local")), &[], Some(&local)).unwrap();
        assert_eq!(same, ["http://127.0.0.1:8080", LOCAL_FILE, "innk_local", "--key"], "the key in the same file");
    }

    #[test]
    fn the_local_file_is_not_read_if_address_and_key_are_given() {
        let was_read = Cell::new(false);
        let target = target(Some("http://flag"), Some("innk_flag"));
        let local = || {
            was_read.set(true);
            anyhow::bail!("it is damaged")
        };
        assert!(find(&target, |_| Ok(None), local).is_ok() && !was_read.get());
    }

    #[test]
    fn a_key_is_one_word_without_invisible_characters() {
        for text in ["innk_x\n", "innk_x\r\n", " innk_x ", "\u{feff}innk_x", "innk_x\t", "innk_x\u{a0}", "innk_x\u{200b}\n"] {
            let variables = [("INNESCO_URL", " http://env\r\n"), ("INNESCO_KEY", text)];
            assert_eq!(
                found(&target(None, None), &variables, None).unwrap()[..3],
                ["http://env", "INNESCO_URL", "innk_x"],
                "{text:?}"
            );
            let flags = target(Some("http://flag\r"), Some(text));
            assert_eq!(found(&flags, &[], None).unwrap()[..3], ["http://flag", "--url", "innk_x"], "{text:?}");
        }
        for (text, named) in
            [("innk_x\ninnk_y", "a line end"), ("Bearer innk_x", "a blank"), ("innk_\u{fc}", "the character U+00FC")]
        {
            let refused = found(&target(None, None), &[("INNESCO_KEY", text)], None).unwrap_err();
            assert!(refused.starts_with(&format!("INNESCO_KEY contains {named}; ")), "{refused}");
            assert!(!refused.contains("innk_"), "{refused}");
        }
    }

    #[test]
    fn explains_how_to_select_an_engine() {
        let error = found(&target(None, None), &[("INNESCO_URL", ""), ("INNESCO_KEY", "\n")], None).unwrap_err();
        assert_eq!(
            error,
            "no engine is selected. Start one here with: innesco dev. Or give --url and --key, or set INNESCO_URL and INNESCO_KEY"
        );
    }

    fn client(url: &str) -> anyhow::Result<Client> {
        // Fails only if another test has already installed the provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(
            Found { value: url.into(), origin: "--url".into() },
            Found { value: "innk_x".into(), origin: "INNESCO_KEY".into() },
            false,
        )
    }

    #[test]
    fn addresses_are_built_from_parts() {
        let client = client("http://127.0.0.1:8080/base/").unwrap();
        let address = client.address(&["v1", "events", "../keys?x"], &[("type", "order created"), ("limit", "2")]);
        assert_eq!(address.as_str(), "http://127.0.0.1:8080/base/v1/events/..%2Fkeys%3Fx?type=order+created&limit=2");
        assert_eq!(client.address_of("/in/shop-0"), "http://127.0.0.1:8080/base/in/shop-0");
        for bad in ["localhost:8080", "ftp://host", "http://", "x"] {
            let error = self::client(bad).err().expect(bad).to_string();
            assert_eq!(error, format!("{bad:?} (--url) is not the address of an engine; write it like http://127.0.0.1:8080"));
        }
    }

    #[test]
    fn explains_refusals() {
        let client = client("http://127.0.0.1:8080").unwrap();
        let read = |status, retry_after, text: &str| {
            let address = client.address(&["v1", "events"], &[]);
            client.read("GET", &address, status, retry_after, text).unwrap_err().to_string()
        };
        let detail = |detail: &str| format!("{{\"detail\": \"{detail}\"}}");
        assert_eq!(read(401, None, &detail("the key is not known")), "the key is not known. The key came from INNESCO_KEY");
        assert_eq!(
            read(403, None, &detail("it needs the role admin.")),
            "it needs the role admin. The key came from INNESCO_KEY; use a key with another role, or create one: innesco keys create"
        );
        assert_eq!(read(503, Some(5), &detail("the disk is full")), "the disk is full. Try again in 5 s");
        assert_eq!(
            read(200, None, "<html>\u{1b}[2J"),
            "GET http://127.0.0.1:8080/v1/events was answered 200, but not by an engine (<html>\\u{1b}[2J). \
             Check the address (--url)"
        );
        assert_eq!(client.read("DELETE", &client.url, 204, None, "").unwrap(), Value::Null);
    }

    #[test]
    fn explains_that_no_engine_answers() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = client(&format!("http://127.0.0.1:{port}")).unwrap().get::<Value>(&["v1"]).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!(
                "no engine answers at http://127.0.0.1:{port} (--url). Start one with: innesco dev, or innesco serve; \
                 or give another address with --url"
            )
        );
    }

    #[test]
    fn the_local_file_is_only_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCAL_FILE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "old").unwrap();
        write_local_to(&path, &local().1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        let read = read_local(&path).unwrap().unwrap();
        assert_eq!((read.url.as_str(), read.key.as_str()), ("http://127.0.0.1:8080", "innk_local"));
        fs::write(&path, "url = 7").unwrap();
        assert!(read_local(&path).err().unwrap().to_string().ends_with("use --url and --key instead"));
        fs::write(&path, "\u{feff}url = \"http://127.0.0.1:8080\\n\"\r\nkey = \" innk_local\"\r\n").unwrap();
        let read = read_local(&path).unwrap().unwrap();
        assert_eq!((read.url.as_str(), read.key.as_str()), ("http://127.0.0.1:8080", "innk_local"));
        for mode in [0o644, 0o660, 0o622] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = format!("{:#}", read_local(&path).err().unwrap());
            assert!(refused.contains("use --url and --key instead: other users may open it"), "{refused}");
        }
    }
}
