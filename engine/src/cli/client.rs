//! Speaking to a running engine: finding it, asking it, and saying what to do when it does not answer.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::Value;
use url::Url;

use super::{measure, wrong};
use crate::{config, domain::given, files};

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

/// Flags, else environment, else what `innesco dev` left. What it left is a pair: its address gets no other key, and its key is sent to no
/// other address.
fn find(
    target: &Target,
    environment: impl Fn(&str) -> anyhow::Result<Option<String>>,
    local: impl FnOnce() -> anyhow::Result<Option<(PathBuf, Local)>>,
) -> anyhow::Result<(Found, Found)> {
    let typed = |flag: &Option<String>, name: &str, variable: &str, read: fn(&str) -> Result<&str, given::BadText>| {
        let (text, origin) = match flag {
            Some(text) => (Some(text.clone()), name),
            None => (environment(variable)?.filter(|text| !text.trim().is_empty()), variable),
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
        // The file may be somebody else's: one that came with a repository, for one.
        (None, Some(key), Some((path, local))) => Err(wrong(format!(
            "the key from {} is not sent to the address in {}, which was left with another key; name the engine as well, such as --url {}",
            key.origin,
            shown(&path),
            measure::one_line(&local.url),
        ))),
        (None, Some(key), None) => Ok((Found { value: DEFAULT_URL.to_owned(), origin: "by default".to_owned() }, key)),
        (None, None, None) => Err(wrong(
            "which engine? Start one here with: innesco dev. For another give --url and --key, or set INNESCO_URL and INNESCO_KEY",
        )),
        (Some(url), _, _) => Err(wrong(format!(
            "{} needs a key: give --key, or set INNESCO_KEY. Its administrator makes one with: innesco keys create",
            url.value
        ))),
    }
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

    /// As [`Self::get`], the answer as it was written.
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
        let (status, retry_after, text) = self.exchange(method, &address, body)?;
        self.read(method, &address, status, retry_after, &text)
    }

    /// Status, `Retry-After` and body of an answer.
    fn exchange(&self, method: &str, address: &Url, body: Option<String>) -> anyhow::Result<(u16, Option<u64>, String)> {
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
        answer
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

/// Reads a file that this user's `innesco dev` left, and no other.
fn read_local(path: &Path) -> anyhow::Result<Option<Local>> {
    let text =
        files::read_own_text(path).with_context(|| format!("{} is not used; --url and --key do without it", shown(path)))?;
    let Some(text) = text else { return Ok(None) };
    let table: Option<toml::Table> = text.trim_start_matches('\u{feff}').parse().ok();
    let value = |name: &str| table.as_ref()?.get(name)?.as_str();
    let url = value("url").and_then(|url| given::value(url).ok());
    let key = value("key").and_then(|key| given::key(key).ok());
    match (url, key) {
        (Some(url), Some(key)) => Ok(Some(Local { url: url.to_owned(), key: key.to_owned() })),
        _ => anyhow::bail!("{} is damaged; innesco dev writes it anew, and --url and --key do without it", shown(path)),
    }
}

/// The key that `innesco dev` used here before, so that its data folder can be opened again.
pub fn earlier_key() -> Option<String> {
    read_local(Path::new(LOCAL_FILE)).ok().flatten().map(|local| local.key)
}

/// Leaves word of an engine, readable by its owner alone.
pub fn write_local(local: &Local) -> anyhow::Result<()> {
    write_local_to(Path::new(LOCAL_FILE), local).with_context(|| format!("{LOCAL_FILE} cannot be written"))
}

/// What `innesco dev` makes in its folder.
pub fn made_by_dev(name: &str) -> bool {
    ["data", "plugins", "local.toml", "local.draft"].contains(&name)
}

fn write_local_to(path: &Path, local: &Local) -> std::io::Result<()> {
    files::own_folder(&files::folder_of(path), made_by_dev)?;
    let mut table = toml::Table::new();
    table.insert("url".into(), local.url.clone().into());
    table.insert("key".into(), local.key.clone().into());
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
        (PathBuf::from(LOCAL_FILE), Local { url: "http://127.0.0.1:8080".into(), key: "innk_local".into() })
    }

    fn found(target: &Target, variables: &[(&str, &str)], local: Option<&(PathBuf, Local)>) -> Result<[String; 4], String> {
        let variable = |name: &str| Ok(variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()));
        let left = || Ok(local.map(|(path, local)| (path.clone(), Local { url: local.url.clone(), key: local.key.clone() })));
        find(target, variable, left)
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
    fn an_address_that_was_left_gets_no_key_but_the_one_left_with_it() {
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
        assert_eq!(same, ["http://127.0.0.1:8080", LOCAL_FILE, "innk_local", "--key"], "the key that was left with it");
    }

    #[test]
    fn what_was_left_is_not_even_read_where_both_are_given() {
        let was_read = Cell::new(false);
        let target = target(Some("http://flag"), Some("innk_flag"));
        let local = || {
            was_read.set(true);
            anyhow::bail!("it is damaged")
        };
        assert!(find(&target, |_| Ok(None), local).is_ok() && !was_read.get());
    }

    #[test]
    fn a_key_is_one_word_without_what_an_editor_adds_to_it() {
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
            assert!(refused.starts_with(&format!("INNESCO_KEY has {named} in it; ")), "{refused}");
            assert!(!refused.contains("innk_"), "{refused}");
        }
    }

    #[test]
    fn no_engine_at_all() {
        let error = found(&target(None, None), &[("INNESCO_URL", ""), ("INNESCO_KEY", "\n")], None).unwrap_err();
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
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        let read = read_local(&path).unwrap().unwrap();
        assert_eq!((read.url.as_str(), read.key.as_str()), ("http://127.0.0.1:8080", "innk_local"));
        fs::write(&path, "url = 7").unwrap();
        assert!(read_local(&path).err().unwrap().to_string().ends_with("and --url and --key do without it"));
        fs::write(&path, "\u{feff}url = \"http://127.0.0.1:8080\\n\"\r\nkey = \" innk_local\"\r\n").unwrap();
        let read = read_local(&path).unwrap().unwrap();
        assert_eq!((read.url.as_str(), read.key.as_str()), ("http://127.0.0.1:8080", "innk_local"));
        for mode in [0o644, 0o660, 0o622] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = format!("{:#}", read_local(&path).err().unwrap());
            assert!(refused.contains("--url and --key do without it: other users may open it"), "{refused}");
        }
    }
}
