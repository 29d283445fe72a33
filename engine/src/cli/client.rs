//! Speaking to a running engine: finding it, asking it, and saying what to do when it does not answer.

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::Value;
use url::Url;

use super::{measure, wrong};

/// Where `innesco dev` leaves word of its engine.
const LOCAL_FILE: &str = ".innesco/local.toml";
/// Where an engine listens that was not told otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// For a connection to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// For a whole answer. The engine itself gives up on a store that hangs sooner.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Items of one page of a list.
const PAGE: usize = 500;

/// The body of a request without what was not said, so that the engine's defaults hold for it.
pub fn without_nulls(mut body: Value) -> Value {
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    body
}

/// Which engine is meant.
#[derive(clap::Args, Default)]
pub struct Target {
    /// Address of the engine [default: INNESCO_URL, else what `innesco dev` left here]
    // Ids of their own: commands have arguments called `url` and `key`, and clap would take one for the other.
    #[arg(id = "engine_url", long = "url", global = true, value_name = "URL", help_heading = "Which engine")]
    url: Option<String>,
    /// Key of its API [default: INNESCO_KEY, else what `innesco dev` left here]
    #[arg(id = "engine_key", long = "key", global = true, value_name = "KEY", help_heading = "Which engine")]
    key: Option<String>,
    /// Log each API request and its duration
    #[arg(long, short, global = true)]
    verbose: bool,
}

impl Target {
    #[cfg(test)]
    pub fn names_nothing(&self) -> bool {
        self.url.is_none() && self.key.is_none()
    }
}

/// An address or a key, and where it came from: for when it turns out to be wrong.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    value: String,
    origin: String,
}

/// Flags, else environment, else what `innesco dev` left. A key that was left for one engine is not shown to another.
fn find(
    target: &Target,
    environment: impl Fn(&str) -> Option<String>,
    local: Option<&(PathBuf, Local)>,
) -> anyhow::Result<(Found, Found)> {
    let given = |flag: &Option<String>, name: &str, variable: &str| {
        let flag = flag.clone().map(|value| Found { value, origin: name.to_owned() });
        let variable = || environment(variable).filter(|value| !value.is_empty()).map(|value| (value, variable.to_owned()));
        flag.or_else(|| variable().map(|(value, origin)| Found { value, origin }))
    };
    let left = |of: fn(&Local) -> &str| local.map(|(path, local)| Found { value: of(local).to_owned(), origin: shown(path) });
    let key = given(&target.key, "--key", "INNESCO_KEY");
    let url = given(&target.url, "--url", "INNESCO_URL").or_else(|| left(|local| &local.url));
    let url = match (url, &key) {
        (Some(url), _) => url,
        (None, Some(_)) => Found { value: DEFAULT_URL.to_owned(), origin: "by default".to_owned() },
        (None, None) => {
            return Err(wrong(
                "which engine? Start one here with: innesco dev. For another give --url and --key, or set INNESCO_URL and INNESCO_KEY",
            ));
        }
    };
    let same = |local: &Local| local.url.trim_end_matches('/') == url.value.trim_end_matches('/');
    let key = key.or_else(|| left(|local| &local.key).filter(|_| local.is_some_and(|(_, local)| same(local))));
    let key = key.ok_or_else(|| {
        wrong(format!(
            "{} needs a key: give --key, or set INNESCO_KEY. Its administrator makes one with: innesco keys create",
            url.value
        ))
    })?;
    Ok((url, key))
}

/// One engine.
pub struct Client {
    url: Url,
    url_origin: String,
    key: Found,
    verbose: bool,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

/// The engine's no, in its own words.
#[derive(Debug, thiserror::Error)]
pub struct Refused {
    pub status: u16,
    pub detail: String,
    /// JSON pointer to the part of the request that is wrong.
    pub pointer: Option<String>,
    /// When the same may succeed.
    pub retry_after: Option<Duration>,
    /// What to do about it, where the engine cannot know.
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

/// No answer came.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(String);

impl Client {
    /// Finds the engine: flags, else environment, else what `innesco dev` left in this folder or one above.
    pub fn find(target: &Target) -> anyhow::Result<Self> {
        let local = local_file().map(|path| read_local(&path).map(|local| (path, local))).transpose()?;
        let (url, key) = find(target, |name| std::env::var(name).ok(), local.as_ref())?;
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
            // A proxy that the environment names leads away from this machine.
            http = http.no_proxy();
        }
        if parsed.scheme() == "http" {
            // Without TLS, a machine that has no certificates is no obstacle.
            http = http.tls_certs_only([]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { url: parsed, url_origin: url.origin, key, verbose, http: http.build()?, runtime })
    }

    pub fn get(&self, path: &[&str]) -> anyhow::Result<Value> {
        self.ask("GET", self.address(path, &[]), None)
    }

    pub fn get_with(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.ask("GET", self.address(path, query), None)
    }

    pub fn post(&self, path: &[&str], body: Option<&Value>) -> anyhow::Result<Value> {
        self.ask("POST", self.address(path, &[]), body.map(Value::to_string))
    }

    /// Sends a body that is JSON already.
    pub fn post_text(&self, path: &[&str], body: String) -> anyhow::Result<Value> {
        self.ask("POST", self.address(path, &[]), Some(body))
    }

    pub fn delete(&self, path: &[&str]) -> anyhow::Result<Value> {
        self.ask("DELETE", self.address(path, &[]), None)
    }

    /// Follows a list from page to page until `wanted` items are there, or it ends.
    pub fn list(&self, path: &[&str], query: &[(&str, Option<&str>)], wanted: usize) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < wanted {
            let limit = (wanted - items.len()).min(PAGE).to_string();
            // Whoever wants everything takes it in pages of the engine's size.
            let mut pairs: Vec<(&str, &str)> = Vec::new();
            pairs.extend((wanted < usize::MAX).then_some(("limit", limit.as_str())));
            pairs.extend(query.iter().filter_map(|(name, value)| value.map(|value| (*name, value))));
            pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let mut page = self.ask("GET", self.address(path, &pairs), None)?;
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
        let began = Instant::now();
        let answer = self.runtime.block_on(async {
            let mut request = self.http.request(method.parse()?, address.clone()).bearer_auth(&self.key.value);
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body);
            }
            let response = request.send().await.map_err(|error| self.no_answer(&error))?;
            let status = response.status().as_u16();
            let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            let text = response.text().await.map_err(|error| self.no_answer(&error))?;
            anyhow::Ok((status, retry_after, text))
        });
        if self.verbose {
            let took = measure::took(began.elapsed());
            let status = answer.as_ref().map_or_else(|_| "no answer".to_owned(), |(status, ..)| status.to_string());
            anstream::eprintln!("{method} {address}  {status}  {took}  (address {}, key {})", self.url_origin, self.key.origin);
        }
        let (status, retry_after, text) = answer?;
        self.read(method, &address, status, retry_after, &text)
    }

    fn no_answer(&self, error: &reqwest::Error) -> NoAnswer {
        let origin = &self.url_origin;
        let url = self.url.as_str().trim_end_matches('/');
        NoAnswer(if error.is_connect() {
            format!(
                "no engine answers at {url} ({origin}). Start one with: innesco dev, or innesco serve; or name another with --url"
            )
        } else if error.is_timeout() {
            format!("{url} took more than {} to answer; look at its log, or try again", measure::coarse(ANSWER_MAX))
        } else {
            format!("the answer of {url} broke off; whether it was done shows: innesco event list")
        })
    }

    /// What an answer comes to: its JSON, or why not.
    fn read(&self, method: &str, address: &Url, status: u16, retry_after: Option<u64>, text: &str) -> anyhow::Result<Value> {
        let answer: Option<Value> = if text.is_empty() { Some(Value::Null) } else { serde_json::from_str(text).ok() };
        if (200..300).contains(&status)
            && let Some(answer) = answer
        {
            return Ok(answer);
        }
        let problem = answer.filter(|answer| answer["detail"].is_string());
        let Some(problem) = problem else {
            let begins = measure::cut(&measure::one_line(text), 100);
            anyhow::bail!(
                "{method} {address} was answered {status} and not as an engine answers ({begins}). Is that address ({}) an engine's?",
                self.url_origin
            );
        };
        let advice = match status {
            401 => Some(format!("The key came from {}", self.key.origin)),
            403 => Some(format!("The key came from {}; use one with another role, or: innesco keys create", self.key.origin)),
            _ => None,
        };
        Err(Refused {
            status,
            detail: measure::one_line(problem["detail"].as_str().unwrap_or_default().trim_end_matches('.')),
            pointer: problem["pointer"].as_str().map(str::to_owned),
            retry_after: retry_after.map(Duration::from_secs),
            advice,
        }
        .into())
    }
}

/// Whether an address is this machine's own.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
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

/// A path as it is typed from here.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn read_local(path: &Path) -> anyhow::Result<Local> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", shown(path)))?;
    let table: Option<toml::Table> = text.parse().ok();
    let value = |name: &str| table.as_ref()?.get(name)?.as_str().map(str::to_owned);
    match (value("url"), value("key")) {
        (Some(url), Some(key)) => Ok(Local { url, key }),
        _ => anyhow::bail!("{} is damaged; innesco dev writes it anew, and --url and --key do without it", shown(path)),
    }
}

/// The key that `innesco dev` used here before, so that its data folder can be opened again.
pub fn earlier_key() -> Option<String> {
    read_local(Path::new(LOCAL_FILE)).ok().map(|local| local.key)
}

/// Leaves word of an engine, readable by its owner alone.
pub fn write_local(local: &Local) -> anyhow::Result<()> {
    write_local_to(Path::new(LOCAL_FILE), local).with_context(|| format!("{LOCAL_FILE} cannot be written"))
}

fn write_local_to(path: &Path, local: &Local) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut table = toml::Table::new();
    table.insert("url".into(), local.url.clone().into());
    table.insert("key".into(), local.key.clone().into());
    // A new file, whatever the mode of an earlier one, that takes its place whole.
    let draft = path.with_extension("draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?.write_all(table.to_string().as_bytes())?;
    fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn target(url: Option<&str>, key: Option<&str>) -> Target {
        Target { url: url.map(str::to_owned), key: key.map(str::to_owned), verbose: false }
    }

    fn local() -> (PathBuf, Local) {
        (PathBuf::from(LOCAL_FILE), Local { url: "http://127.0.0.1:8080".into(), key: "innk_local".into() })
    }

    fn found(target: &Target, variables: &[(&str, &str)], local: Option<&(PathBuf, Local)>) -> Result<[String; 4], String> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        find(target, variable, local)
            .map(|(url, key)| [url.value, url.origin, key.value, key.origin])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_file() {
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
    fn a_local_key_is_not_shown_to_another_engine() {
        let local = local();
        assert!(found(&target(Some("http://127.0.0.1:8080/"), None), &[], Some(&local)).is_ok());
        let error = found(&target(Some("https://elsewhere.example"), None), &[], Some(&local)).unwrap_err();
        assert_eq!(
            error,
            "https://elsewhere.example needs a key: give --key, or set INNESCO_KEY. Its administrator makes one with: innesco keys create"
        );
    }

    #[test]
    fn no_engine_at_all() {
        let error = found(&target(None, None), &[("INNESCO_URL", "")], None).unwrap_err();
        assert_eq!(
            error,
            "which engine? Start one here with: innesco dev. For another give --url and --key, or set INNESCO_URL and INNESCO_KEY"
        );
    }

    fn client(url: &str) -> anyhow::Result<Client> {
        // Fails only where it was done before.
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
        for bad in ["localhost:8080", "ftp://host", "http://", "x"] {
            let error = self::client(bad).err().expect(bad).to_string();
            assert_eq!(error, format!("{bad:?} (--url) is not the address of an engine; write it like http://127.0.0.1:8080"));
        }
    }

    #[test]
    fn answers_that_are_no() {
        let client = client("http://127.0.0.1:8080").unwrap();
        let read = |status, retry_after, text: &str| {
            let address = client.address(&["v1", "events"], &[]);
            client.read("GET", &address, status, retry_after, text).unwrap_err().to_string()
        };
        let detail = |detail: &str| format!("{{\"detail\": \"{detail}\"}}");
        assert_eq!(read(401, None, &detail("the key is not known")), "the key is not known. The key came from INNESCO_KEY");
        assert_eq!(
            read(403, None, &detail("it needs the role admin.")),
            "it needs the role admin. The key came from INNESCO_KEY; use one with another role, or: innesco keys create"
        );
        assert_eq!(read(503, Some(5), &detail("the disk is full")), "the disk is full. Try again in 5 s");
        assert_eq!(
            read(200, None, "<html>\u{1b}[2J"),
            "GET http://127.0.0.1:8080/v1/events was answered 200 and not as an engine answers (<html>\\u{1b}[2J). \
             Is that address (--url) an engine's?"
        );
        assert_eq!(client.read("DELETE", &client.url, 204, None, "").unwrap(), Value::Null);
    }

    #[test]
    fn nobody_listens() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = client(&format!("http://127.0.0.1:{port}")).unwrap().get(&["v1"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "no engine answers at http://127.0.0.1:{port} (--url). Start one with: innesco dev, or innesco serve; \
                 or name another with --url"
            )
        );
    }

    #[test]
    fn what_dev_leaves_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCAL_FILE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "old").unwrap();
        write_local_to(&path, &local().1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = read_local(&path).unwrap();
        assert_eq!((read.url.as_str(), read.key.as_str()), ("http://127.0.0.1:8080", "innk_local"));
        fs::write(&path, "url = 7").unwrap();
        assert!(read_local(&path).err().unwrap().to_string().ends_with("and --url and --key do without it"));
    }
}
