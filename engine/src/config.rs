//! Settings from flags, the environment and `innesco.toml`. If several of these have a setting, the first of them decides its
//! value. [`Config::check`] checks all values and groups them by the module that uses them.
//!
//! Every setting has a line in [`SETTINGS`] with its default and its meaning. `serve --check` prints the value and the origin of
//! each setting. An unknown key in the file is refused. An unknown `INNESCO_…` variable is ignored, because orchestrators set
//! such variables. If its name looks mistyped, it is logged.

use std::{env, fmt, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use ipnet::IpNet;
use url::Url;

use crate::{
    api::{self, ConnectionLimits, ForwardedHeader, Proxies},
    catalog::CatalogOptions,
    domain::{duration, given, name::nearest, plugin::Way, rate::Rate, retention::Retention},
    sandbox,
    store::{AdmissionLimits, StateLimits, VersionLimits},
    traces,
    ui::InForce,
};

/// One setting.
pub struct Setting {
    /// The key as it is written in `innesco.toml`. A dot separates the section from the name.
    pub key: &'static str,
    pub default: &'static str,
    /// Its meaning, with its unit.
    pub meaning: &'static str,
}

impl Setting {
    /// Returns the environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("INNESCO_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

/// Variables of the program that are not settings.
const OTHER_VARIABLES: [&str; 4] = ["INNESCO_ADMIN_KEY", "INNESCO_KEY", "INNESCO_LOG_LEVEL", "INNESCO_URL"];

/// Finds variables that look like a mistyped name, each with the name that was probably meant. Other unknown variables are not
/// reported: Kubernetes sets `INNESCO_SERVICE_HOST` and the like for a service of this name.
pub fn mistyped_variables(names: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    const PREFIX: &str = "INNESCO_";
    let known: Vec<String> = SETTINGS.iter().map(Setting::variable).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    // A name counts as mistyped if at most two of its letters are wrong, and at most a quarter of them. A short name with two
    // wrong letters is probably another program's.
    let meant = |name: &str| {
        let errors = |known: &String| strsim::damerau_levenshtein(&name[PREFIX.len()..], &known[PREFIX.len()..]);
        let near = known.iter().map(|known| (errors(known), known));
        near.filter(|(errors, known)| *errors <= 2 && errors * 4 <= known.len() - PREFIX.len()).min()
    };
    let unknown = names.into_iter().filter(|name| name.starts_with(PREFIX) && name.len() < 100 && !known.contains(name));
    unknown.filter_map(|name| meant(&name).map(|(_, known)| (name.clone(), known.clone()))).collect()
}

macro_rules! settings {
    ($($key:literal = $default:literal, $meaning:literal;)*) => {
        /// All settings.
        pub const SETTINGS: &[Setting] = &[$(Setting { key: $key, default: $default, meaning: $meaning }),*];
    };
}

settings! {
    "listen" = "127.0.0.1:8080", "address and port of the HTTP API";
    "data" = "innesco-data", "folder of the compile cache, the lock and, with sqlite, the store; used by one engine at a time";
    "master_key_file" = "", "file with the key that encrypts the secrets in the store; created at the first start. Default: master.key in the data folder";
    "plugins" = "plugins", "folder with the plugins' .wasm files";
    "store" = "sqlite", "the store: sqlite (a file in the data folder), or postgres://user:password@host/database (shared by many nodes)";
    "node.name" = "", "name of this node among others on the same Postgres; must stay the same across restarts. Default: generated once and stored in the data folder";
    "node.role" = "all", "role of this node: all, api (answers calls), or work (runs and sends)";
    "node.silence" = "30s", "time without a heartbeat after which the other nodes take over a node's work";
    "allow_net" = "", "private networks that webhooks may go to, such as 10.1.0.0/16, separated by commas";
    "external_url" = "", "URL under which third parties reach the engine, such as https://hooks.example.com; some senders sign it";
    "trusted_proxies" = "", "networks of the proxies in front of the engine, separated by commas; their reports of caller addresses are trusted";
    "forwarded_header" = "x-forwarded-for", "header in which trusted proxies report the caller: x-forwarded-for or forwarded";
    "log" = "text", "log format: text or json";
    "metrics" = "open", "who may read /metrics: open (every caller that reaches the port), or key (a key of the role metrics, read, operate or admin)";
    "drain" = "25s", "how long a stop waits for attempts in flight";
    "limits.body_bytes_max" = "8MiB", "maximum size of a request's body";
    "limits.body_time_max" = "30s", "maximum time for a request's body to arrive";
    "limits.connections_max" = "4096", "maximum number of connections to the HTTP API; at most half of the files that the process may open";
    "limits.head_time_max" = "10s", "maximum time for a request's head to arrive, and for the first request of a connection to start";
    "limits.idle_time_max" = "75s", "maximum time that a connection may wait for another request";
    "limits.backlog_max" = "1000000", "maximum number of events that wait for their runs; at the limit new events are refused";
    "limits.store_wait_max" = "2s", "maximum time of a commit; while commits take longer, new events are refused";
    "limits.subscribe_rate" = "120/h", "how often one key of the role subscribe may subscribe or unsubscribe; each time leaves rows in the store";
    "limits.plugin_bytes_max" = "64MiB", "maximum size of a plugin file";
    "plugin.deadline" = "1s", "maximum time of one run";
    "plugin.memory_max" = "64MiB", "maximum memory of one run";
    "plugin.output_max" = "0", "maximum size of a run's result; 0 means two and a half times limits.body_bytes_max, so that accepted events fit";
    "plugin.webhooks_max" = "1000", "maximum number of webhooks of one run";
    "plugin.events_max" = "1000", "maximum number of events that one run may emit";
    "plugin.state_max" = "64MiB", "maximum size of one plugin's state, keys and values together; a run that would exceed it fails";
    "plugin.state_keys_max" = "100000", "maximum number of state keys of one plugin";
    "plugin.scheduled_max" = "100000", "maximum number of events of one plugin that are due later";
    "plugin.log_lines_max" = "100", "maximum number of stored log lines of one run";
    "plugin.quarantine" = "10", "hold a plugin if the runs of one version trap or exceed a limit (deadline, memory, output) more often than this within a minute; 0: never";
    "plugin.versions_kept" = "20", "number of versions of each plugin that stay stored in addition to the serving version; an older version stays too if a stored run may have used it";
    "plugin.versions_bytes_max" = "256MiB", "maximum size of the versions of one plugin that stay stored in addition to the serving version";
    "plugin.threads" = "0", "threads that run events; 0 means one per core, at least 2";
    "plugin.slow_threads" = "0", "low-priority threads for deferred runs (new, slow, retried); 0 means half as many as cores, at least 1";
    "delivery.disable_after" = "5d", "disable an endpoint after this long without a success";
    "otel.endpoint" = "", "trace collector for OTLP/HTTP, such as http://127.0.0.1:4318; empty: none";
    "retention.delivered" = "7d", "retention of events whose runs are ok and whose webhooks were delivered or cancelled";
    "retention.dead" = "30d", "retention of events with a dead delivery or a parked run";
    "retention.unrouted" = "7d", "retention of events that matched no plugin and no subscription";
    "retention.audit" = "365d", "retention of the audit trail and finished jobs";
    "retention.size_max" = "0", "maximum size of the store; the log warns from 80 % on, and at the limit the oldest finished events are deleted early; 0 means no limit";
    "retention.dedupe_window" = "7d", "how long the ids of events are stored to detect duplicates";
}

/// Origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File,
    Environment(String),
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("innesco.toml"),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A setting that cannot be used. The text says where the setting is, what is wrong, and what would work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("innesco.toml cannot be read: {0}")]
    Toml(String),
    #[error("innesco.toml: no setting {key:?}{near}")]
    Unknown { key: String, near: String },
    /// The value is shown without passwords.
    #[error("{}{} {value:?} {wrong}", place(origin, key), if *origin == Origin::Flag { "" } else { " =" })]
    Value { origin: Origin, key: &'static str, value: String, wrong: String },
    /// The value is not shown, because it may be a secret.
    #[error("{} {bad}", place(origin, key))]
    Text { origin: Origin, key: &'static str, bad: given::BadText },
    #[error("{name} {wrong}")]
    Variable { name: String, wrong: String },
}

/// Returns a setting as its user wrote it.
fn place(origin: &Origin, key: &str) -> String {
    match origin {
        // `node.role` is `--role`, `allow_net` is `--allow-net`.
        Origin::Flag => format!("--{}", key.rsplit('.').next().unwrap_or(key).replace('_', "-")),
        _ => format!("{origin}: {key}"),
    }
}

/// Reads an environment variable, without blanks and line ends around it. Returns `None` if it is not set.
///
/// # Errors
/// The value is malformed: it is not text, or has a line end inside. Such a variable is not treated as unset.
pub fn variable(name: &str) -> Result<Option<String>, Error> {
    let wrong = |wrong: String| Error::Variable { name: name.to_owned(), wrong };
    match env::var(name) {
        Ok(text) => given::value(&text).map(|value| Some(value.to_owned())).map_err(|bad| wrong(bad.to_string())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(wrong("is not text in UTF-8; write it in that encoding".to_owned())),
    }
}

/// Like [`variable`], for a key of the API.
pub fn key_variable(name: &str) -> Result<Option<String>, Error> {
    let Some(text) = variable(name)? else { return Ok(None) };
    let key = given::key(&text).map_err(|bad| Error::Variable { name: name.to_owned(), wrong: bad.to_string() })?;
    Ok(Some(key.to_owned()))
}

/// Returns a setting's value without passwords.
fn shown(setting: &Setting, value: &str) -> String {
    // A text such as `host=db password=secret`, which is not a URL.
    match setting.key == "store" && !value.contains("://") && value.contains(['=', '@']) {
        true => "(not shown)".to_owned(),
        false => given::without_passwords(value),
    }
}

/// The given values before the check: one text per setting.
pub struct Raw(Vec<(&'static Setting, String, Origin)>);

impl Raw {
    /// Takes each setting from the first place that has it. Removes blanks and line ends around the value.
    pub fn gather(
        flags: &[(&str, String)],
        environment: impl Fn(&str) -> Result<Option<String>, Error>,
        file: Option<&str>,
    ) -> Result<Self, Error> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        let of = |setting: &'static Setting| {
            let find =
                |pairs: &[(String, String)]| pairs.iter().find(|(key, _)| key == setting.key).map(|(_, value)| value.clone());
            let flag = flags.iter().find(|(key, _)| *key == setting.key).map(|(_, value)| value.clone());
            let variable = setting.variable();
            let (text, origin) = if let Some(value) = flag {
                (value, Origin::Flag)
            } else if let Some(value) = environment(&variable)? {
                (value, Origin::Environment(variable))
            } else if let Some(value) = find(&file) {
                (value, Origin::File)
            } else {
                (setting.default.to_owned(), Origin::Default)
            };
            match given::value(&text) {
                Ok(value) => Ok((setting, value.to_owned(), origin)),
                Err(bad) => Err(Error::Text { origin, key: setting.key, bad }),
            }
        };
        SETTINGS.iter().map(of).collect::<Result<_, _>>().map(Self)
    }

    /// Iterates over every setting with its value, without passwords, and its origin.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, String, &Origin)> {
        self.0.iter().map(|(setting, value, origin)| (*setting, shown(setting, value), origin))
    }

    /// Returns every setting as the dashboard shows it.
    fn in_force(&self) -> Arc<[InForce]> {
        let from = |origin: &Origin| (*origin != Origin::Default).then(|| origin.to_string());
        self.iter().map(|(setting, value, origin)| InForce { key: setting.key, value, from: from(origin) }).collect()
    }

    /// Returns whether the settings file contains a password.
    pub fn file_holds_password(&self) -> bool {
        self.0.iter().any(|(setting, value, origin)| *origin == Origin::File && shown(setting, value) != *value)
    }

    fn read<T>(&self, key: &str, parse: impl FnOnce(&str) -> Option<T>, wrong: &str) -> Result<T, Error> {
        let (setting, value, origin) =
            self.0.iter().find(|(setting, ..)| setting.key == key).expect("every key read is in SETTINGS");
        parse(value).ok_or_else(|| Error::Value {
            origin: origin.clone(),
            key: setting.key,
            value: shown(setting, value),
            wrong: wrong.to_owned(),
        })
    }

    fn text(&self, key: &str) -> Result<String, Error> {
        self.read(key, |value| Some(value.to_owned()), "")
    }

    fn size(&self, key: &str) -> Result<usize, Error> {
        self.read(key, parse_size, "is not a size; write 8MiB")
    }

    fn duration(&self, key: &str) -> Result<Duration, Error> {
        self.read(key, duration::parse, "is not a duration; write 20s, 5m, 2h or 7d")
    }

    /// Reads a time limit, which must not be zero.
    fn time(&self, key: &str) -> Result<Duration, Error> {
        let some = |value: &str| duration::parse(value).filter(|time| !time.is_zero());
        self.read(key, some, "is not a duration above zero; write 10s or 2m")
    }

    fn number<T: FromStr>(&self, key: &str) -> Result<T, Error> {
        self.read(key, |value| value.parse().ok(), "is not a whole number; write 100")
    }
}

/// Reads the file as pairs of a dotted key and a text.
fn read_file(text: &str) -> Result<Vec<(String, String)>, Error> {
    let text = text.trim_start_matches('\u{feff}');
    // The error leaves out the line's text, which may contain a password.
    let wrong = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        Error::Toml(format!("line {line}: {}", error.message()))
    };
    let table: toml::Table = text.parse().map_err(wrong)?;
    let mut pairs = Vec::new();
    flatten("", &toml::Value::Table(table), &mut pairs);
    for (key, _) in &pairs {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            let near = nearest(key, SETTINGS.iter().map(|setting| setting.key));
            let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            return Err(Error::Unknown { key: key.clone(), near });
        }
    }
    Ok(pairs)
}

fn flatten(prefix: &str, value: &toml::Value, pairs: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, pairs);
            }
        }
        toml::Value::Array(items) => {
            let texts: Vec<String> = items.iter().map(plain).collect();
            pairs.push((prefix.to_owned(), texts.join(",")));
        }
        other => pairs.push((prefix.to_owned(), plain(other))),
    }
}

fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Reads `8MiB`, `64KiB`, `100` (bytes).
fn parse_size(text: &str) -> Option<usize> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// Checked settings.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data: PathBuf,
    /// File with the key that encrypts the secrets in the store.
    pub master_key_file: PathBuf,
    pub catalog: CatalogOptions,
    pub store: StoreAt,
    pub node: NodeConfig,
    pub allow_net: Vec<IpNet>,
    /// URL under which third parties reach the engine.
    pub external_url: Option<Url>,
    pub proxies: Proxies,
    pub log: LogForm,
    pub metrics: api::Access,
    pub drain: Duration,
    pub body_bytes_max: usize,
    pub body_time_max: Duration,
    pub connections: ConnectionLimits,
    pub admission: AdmissionLimits,
    /// How often each key of the role `subscribe` may subscribe or unsubscribe.
    pub subscribe_rate: Rate,
    pub plugin_bytes_max: usize,
    pub run_limits: sandbox::Limits,
    /// A plugin is held if one of its versions breaks limits more often than this within a minute; 0 turns this off.
    pub quarantine: usize,
    pub run_threads: usize,
    pub slow_threads: usize,
    pub retention: Retention,
    pub disable_after: Duration,
    /// The trace collector, if any.
    pub otel: Option<Url>,
    /// Maximum size of the store, in bytes.
    pub store_bytes_max: Option<u64>,
    /// Every setting as the dashboard shows it.
    pub in_force: Arc<[InForce]>,
}

/// Shows no values: URLs of the database and of the collector may contain a password. `serve --check` prints all values without
/// passwords.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// Where the store is.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreAt {
    /// A file in the data folder.
    Sqlite,
    /// The URL of a database, which may contain a password.
    Postgres(String),
}

impl StoreAt {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "sqlite" => Some(Self::Sqlite),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => Some(Self::Postgres(url.to_owned())),
            _ => None,
        }
    }
}

/// Writes the store without passwords.
impl fmt::Display for StoreAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("sqlite"),
            Self::Postgres(url) => f.write_str(&given::without_passwords(url)),
        }
    }
}

impl fmt::Debug for StoreAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The role and name of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// `None`: a name is generated once and stored in the data folder.
    pub name: Option<String>,
    pub role: NodeRole,
    pub silence: Duration,
}

/// The role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    All,
    /// Answers API requests.
    Api,
    /// Runs plugins and sends webhooks.
    Work,
}

impl NodeRole {
    const ALL: [Self; 3] = [Self::All, Self::Api, Self::Work];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Work => "work",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    pub const fn works(self) -> bool {
        matches!(self, Self::All | Self::Work)
    }

    pub const fn takes_calls(self) -> bool {
        matches!(self, Self::All | Self::Api)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    Text,
    Json,
}

impl Config {
    pub fn check(raw: &Raw) -> Result<Self, Error> {
        let wrong = "is not a store of this engine; write sqlite or postgres://user:password@host/database";
        let store = raw.read("store", StoreAt::parse, wrong)?;
        let role = raw.read("node.role", NodeRole::parse, "is not a role of a node; write all, api or work")?;
        if store == StoreAt::Sqlite {
            let wrong = "needs several nodes, which sqlite does not support; write all, or store = \"postgres://…\"";
            raw.read("node.role", |_| (role == NodeRole::All).then_some(()), wrong)?;
        }
        // A node sends one heartbeat per second. If less than three seconds without a heartbeat were allowed, a node that is busy
        // for a moment would lose its work.
        let silence = |value: &str| duration::parse(value).filter(|time| *time >= Duration::from_secs(3));
        let log = |value: &str| match value {
            "text" => Some(LogForm::Text),
            "json" => Some(LogForm::Json),
            _ => None,
        };
        let access = |value: &str| match value {
            "open" => Some(api::Access::Open),
            "key" => Some(api::Access::Key),
            _ => None,
        };
        let nets = |value: &str| {
            let nets = value.split(',').map(str::trim).filter(|net| !net.is_empty());
            nets.map(parse_net).collect::<Option<Vec<_>>>()
        };
        let cores = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        // 0 means a value that suits the machine.
        let threads = |key, suits| {
            Ok(match raw.number(key)? {
                0 => suits,
                threads => threads,
            })
        };
        let run_threads = threads("plugin.threads", cores)?;
        // With one thread per core, plugins that use their whole deadline could leave no processor time for the rest.
        let slow_threads = threads("plugin.slow_threads", cores / 2)?;
        let body_bytes_max = raw.size("limits.body_bytes_max")?;
        let output_bytes = match raw.size("plugin.output_max")? {
            // As JSON, a source's body can have twice its size (`domain/source/data.rs`). The plugin adds names and addresses.
            0 => body_bytes_max.saturating_mul(5) / 2,
            bytes => bytes,
        };
        let data = PathBuf::from(raw.text("data")?);
        let master_key_file = match raw.text("master_key_file")? {
            unset if unset.is_empty() => data.join("master.key"),
            path => path.into(),
        };
        Ok(Self {
            listen: raw.read("listen", |value| value.parse().ok(), "is not an address with a port; write 127.0.0.1:8080")?,
            data,
            master_key_file,
            catalog: CatalogOptions {
                folder: raw.text("plugins")?.into(),
                way: Way::File,
                versions: VersionLimits {
                    versions: raw.number("plugin.versions_kept")?,
                    bytes: raw.size("plugin.versions_bytes_max")? as u64,
                },
            },
            store,
            node: NodeConfig {
                name: Some(raw.text("node.name")?).filter(|name| !name.is_empty()),
                role,
                silence: raw.read("node.silence", silence, "is not a duration of at least 3s; write 30s")?,
            },
            allow_net: raw.read("allow_net", nets, "is not a list of networks; write 10.1.0.0/16 or 127.0.0.1")?,
            external_url: raw.read("external_url", external, "is not a URL; write https://hooks.example.com")?,
            proxies: Proxies {
                trusted: raw.read("trusted_proxies", nets, "is not a list of networks; write 10.1.0.0/16 or 127.0.0.1")?,
                header: raw.read(
                    "forwarded_header",
                    ForwardedHeader::parse,
                    "is not a header of proxies; write x-forwarded-for or forwarded",
                )?,
            },
            log: raw.read("log", log, "is not a log format; write text or json")?,
            metrics: raw.read("metrics", access, "is not a kind of access; write open or key")?,
            drain: raw.duration("drain")?,
            body_bytes_max,
            body_time_max: raw.time("limits.body_time_max")?,
            connections: ConnectionLimits {
                connections_max: raw.read("limits.connections_max", positive, "is not a number of connections; write 4096")?,
                head_time_max: raw.time("limits.head_time_max")?,
                idle_time_max: raw.time("limits.idle_time_max")?,
            },
            admission: AdmissionLimits {
                backlog_max: raw.read("limits.backlog_max", positive, "is not a number of events; write 1000000")?,
                store_wait_max: raw.time("limits.store_wait_max")?,
                state: StateLimits {
                    bytes_max: raw.size("plugin.state_max")? as u64,
                    keys_max: raw.number("plugin.state_keys_max")?,
                    scheduled_max: raw.number("plugin.scheduled_max")?,
                },
            },
            subscribe_rate: raw.read("limits.subscribe_rate", |text| Rate::parse(text).ok(), "is not a rate; write 120/h")?,
            plugin_bytes_max: raw.size("limits.plugin_bytes_max")?,
            run_limits: sandbox::Limits {
                deadline: raw.duration("plugin.deadline")?,
                memory_bytes: raw.size("plugin.memory_max")?,
                output_bytes,
                webhooks: raw.number("plugin.webhooks_max")?,
                events: raw.number("plugin.events_max")?,
                log_lines: raw.number("plugin.log_lines_max")?,
                ..sandbox::Limits::default()
            },
            quarantine: raw.number("plugin.quarantine")?,
            disable_after: raw.duration("delivery.disable_after")?,
            run_threads,
            slow_threads,
            retention: Retention {
                delivered: raw.duration("retention.delivered")?,
                dead: raw.duration("retention.dead")?,
                unrouted: raw.duration("retention.unrouted")?,
                audit: raw.duration("retention.audit")?,
                dedupe: raw.duration("retention.dedupe_window")?,
            },
            otel: raw.read("otel.endpoint", traces::parse_endpoint, "is not a collector; write http://127.0.0.1:4318")?,
            in_force: raw.in_force(),
            store_bytes_max: match raw.size("retention.size_max")? {
                0 => None,
                bytes => Some(bytes as u64),
            },
        })
    }
}

/// Reads `external_url`. Returns `Some(None)` for an empty text, and `None` for a text that cannot be used.
fn external(text: &str) -> Option<Option<Url>> {
    if text.is_empty() {
        return Some(None);
    }
    let url = Url::parse(text).ok()?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    (matches!(url.scheme(), "https" | "http") && url.has_host() && plain).then_some(Some(url))
}

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number| *number > 0)
}

/// Parses a network, or a single address.
fn parse_net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str) -> Result<Raw, Error> {
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let environment: Vec<(String, String)> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let variable = |name: &str| Ok(environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()));
        Raw::gather(&flags, variable, Some(file))
    }

    #[test]
    fn an_error_shows_a_flag_as_it_is_typed() {
        for (raw, error) in [
            (gather(&[("listen", "8181")], &[], ""), "--listen \"8181\" is not an address with a port; write 127.0.0.1:8080"),
            (
                gather(&[], &[("INNESCO_LISTEN", "8181")], ""),
                "INNESCO_LISTEN: listen = \"8181\" is not an address with a port; write 127.0.0.1:8080",
            ),
        ] {
            assert_eq!(Config::check(&raw.unwrap()).err().unwrap().to_string(), error);
        }
    }

    #[test]
    fn mistyped_variables_are_found_and_those_of_others_are_not() {
        let found = |name: &str| mistyped_variables([name.to_owned()]).pop().map(|(_, meant)| meant);
        for (name, meant) in [
            ("INNESCO_PLUGINDEADLINE", Some("INNESCO_PLUGIN_DEADLINE")),
            ("INNESCO_LISTN", Some("INNESCO_LISTEN")),
            ("INNESCO_ADMINKEY", Some("INNESCO_ADMIN_KEY")),
            ("INNESCO_PLUGIN_DEADLINE", None),
            ("INNESCO_SERVICE_HOST", None),
            ("INNESCO_SERVICE_PORT", None),
            ("INNESCO_PORT", None),
            ("INNESCO_PORT_8080_TCP_ADDR", None),
            ("INNESCO_", None),
            ("INNESC_LISTEN", None),
        ] {
            assert_eq!(found(name).as_deref(), meant, "{name}");
        }
    }

    #[test]
    fn flags_override_the_environment_which_overrides_the_file() {
        let raw = gather(
            &[("listen", "127.0.0.1:1")],
            &[("INNESCO_LISTEN", "127.0.0.1:2"), ("INNESCO_PLUGIN_DEADLINE", "2s")],
            "listen = \"127.0.0.1:3\"\nallow_net = [\"10.1.0.0/16\", \"127.0.0.1\"]\n[plugin]\ndeadline = \"3s\"\nwebhooks_max = 5\n",
        )
        .unwrap();
        let config = Config::check(&raw).unwrap();
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.run_limits.deadline, Duration::from_secs(2));
        assert_eq!(config.run_limits.webhooks, 5);
        assert_eq!(config.allow_net.len(), 2);
        let origins: Vec<String> = raw.iter().take(2).map(|(_, _, origin)| origin.to_string()).collect();
        assert_eq!(origins, ["flag", "default"]);
    }

    #[test]
    fn errors_name_origin_key_and_valid_values() {
        let check = |file: &str| gather(&[], &[], file).and_then(|raw| Config::check(&raw)).unwrap_err().to_string();
        assert_eq!(
            check("[limits]\nbody_bytes_max = \"8 megs\""),
            "innesco.toml: limits.body_bytes_max = \"8 megs\" is not a size; write 8MiB"
        );
        assert_eq!(check("lisen = \"x\""), "innesco.toml: no setting \"lisen\"; did you mean \"listen\"?");
        let broken = check("drain = \"1s\"\nstore = \"postgres://me:secret@db/events\n");
        assert!(broken.starts_with("innesco.toml cannot be read: line 2: "), "{broken}");
        assert!(!broken.contains("secret"), "{broken}");
    }

    /// By default, a plugin can return every accepted event, because the limit of results grows with the limit of bodies.
    #[test]
    fn the_limit_of_results_follows_the_limit_of_bodies() {
        const MIB: usize = 1 << 20;
        for (file, bytes) in [
            ("", 20 * MIB),
            ("[limits]\nbody_bytes_max = \"25MiB\"", 62 * MIB + MIB / 2),
            ("[limits]\nbody_bytes_max = \"64KiB\"", 160 << 10),
            ("[limits]\nbody_bytes_max = \"25MiB\"\n[plugin]\noutput_max = \"0\"", 62 * MIB + MIB / 2),
            ("[limits]\nbody_bytes_max = \"25MiB\"\n[plugin]\noutput_max = \"1MiB\"", MIB),
            ("[plugin]\noutput_max = \"100MiB\"", 100 * MIB),
        ] {
            let config = Config::check(&gather(&[], &[], file).unwrap()).unwrap();
            assert_eq!(config.run_limits.output_bytes, bytes, "{file}");
        }
    }

    #[test]
    fn removes_blanks_and_line_ends_around_values_of_every_origin() {
        for text in ["127.0.0.1:81\n", "127.0.0.1:81\r\n", " 127.0.0.1:81 ", "\u{feff}127.0.0.1:81", "127.0.0.1:81\t\r"] {
            let in_toml = format!("listen = {}\n", toml::Value::String(text.into()));
            for raw in [
                gather(&[("listen", text)], &[], ""),
                gather(&[], &[("INNESCO_LISTEN", text)], ""),
                gather(&[], &[], &in_toml),
                gather(&[], &[], &format!("\u{feff}{}", in_toml.replace('\n', "\r\n"))),
            ] {
                assert_eq!(Config::check(&raw.unwrap()).unwrap().listen.port(), 81, "{text:?}");
            }
        }
        let store = "postgres://me:secret@db/events\r\n";
        let config = Config::check(&gather(&[], &[("INNESCO_STORE", store)], "").unwrap()).unwrap();
        assert_eq!(config.store, StoreAt::Postgres(store.trim_end().into()));
        let refused = gather(&[], &[("INNESCO_STORE", "postgres://me:sec\nret@db/events")], "").err().unwrap().to_string();
        assert_eq!(
            refused, "INNESCO_STORE: store contains a line end; write it on one line, without invisible characters",
            "the error names the variable and does not repeat a possible secret"
        );
    }

    #[test]
    fn errors_and_lists_of_settings_show_no_password() {
        for store in [
            "postgres://me:secret@db/events?password=secret",
            "postgre://me:secret@db/events",
            "host=db password=secret",
            "postgres://me:12/secret@db/events",
            "me:secret@db",
        ] {
            let raw = gather(&[], &[("INNESCO_STORE", store)], "").unwrap();
            let listed: Vec<String> = raw.iter().map(|(setting, value, _)| format!("{} {value}", setting.key)).collect();
            let checked = format!("{:?}", Config::check(&raw).map_err(|error| error.to_string()));
            for text in [listed.join("\n"), checked] {
                assert!(!text.contains("secret"), "{store}: {text}");
            }
            assert!(!raw.file_holds_password());
        }
        let file = "[otel]\nendpoint = \"https://me:secret@collector.example\"\n";
        assert!(gather(&[], &[], file).unwrap().file_holds_password());
        assert!(!gather(&[], &[], "store = \"postgres://me@db/events\"").unwrap().file_holds_password());
    }

    #[test]
    fn a_store_is_a_file_or_a_database_url_shown_without_password() {
        let check = |file: &str| gather(&[], &[], file).and_then(|raw| Config::check(&raw));
        let config = check("store = \"postgres://me:secret@db/events\"\n[node]\nrole = \"api\"").unwrap();
        assert_eq!(config.store, StoreAt::Postgres("postgres://me:secret@db/events".into()));
        assert_eq!(config.node.role, NodeRole::Api);
        let shown = format!("{} {config:?}", config.store);
        assert!(shown.contains("postgres://me:***@db/events") && !shown.contains("secret"), "{shown}");
        let traced = check("[otel]\nendpoint = \"https://collector.example/secret\"").unwrap();
        assert!(traced.otel.is_some() && !format!("{traced:?}").contains("secret"), "{traced:?}");
        let refused = check("store = \"mysql://x\"").unwrap_err().to_string();
        assert!(refused.ends_with("write sqlite or postgres://user:password@host/database"), "{refused}");
        let refused = check("[node]\nrole = \"work\"").unwrap_err().to_string();
        assert!(refused.contains("which sqlite does not support"), "{refused}");
        let refused = check("[node]\nsilence = \"1s\"").unwrap_err().to_string();
        assert!(refused.contains("at least 3s"), "{refused}");
    }

    #[test]
    fn every_default_is_valid() {
        Config::check(&gather(&[], &[], "").unwrap()).unwrap();
    }
}
