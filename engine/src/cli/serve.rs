//! `innesco serve`: runs the engine.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::output;
use crate::{
    catalog::withdraw_first_key,
    config::{self, Config, LogForm, Raw, StoreAt},
    files,
    news::Feed,
    serve::Engine,
};

/// The default settings file; `--config` names another.
const SETTINGS_FILE: &str = "innesco.toml";

/// The part of `innesco serve --help` about settings that have no flag.
pub const MORE_SETTINGS: &str = "\
    Every setting can also be given as a variable or in the settings file: plugin.deadline is INNESCO_PLUGIN_DEADLINE, or deadline \
    below [plugin]. --check lists them all. INNESCO_ADMIN_KEY is the first admin key; INNESCO_LOG_LEVEL is the log level, such \
    as warn,innesco=info.";

/// Flags of `serve`; every other setting is in innesco.toml or the environment.
#[derive(clap::Args, Debug, Default)]
pub struct ServeArgs {
    /// Address and port of the HTTP API [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Folder of the store, the compile cache and the lock [default: innesco-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Folder with the plugins' .wasm files [default: plugins]
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<String>,
    /// Store: sqlite, or postgres://… for many nodes [default: sqlite]
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// Role of this node, with Postgres: all, api or work [default: all]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Private network that webhooks may go to; can be repeated
    #[arg(long, value_name = "CIDR")]
    pub allow_net: Vec<String>,
    /// Log format, text or json [default: text]
    #[arg(long, value_name = "FORM")]
    pub log: Option<String>,
    /// Settings file [default: innesco.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print every setting with its value and origin, then exit
    #[arg(long)]
    pub check: bool,
}

impl ServeArgs {
    /// Returns the settings from flags, environment and file, as they were typed.
    pub fn raw(&self) -> anyhow::Result<Raw> {
        let mut flags = Vec::new();
        let mut set = |key: &'static str, value: &Option<String>| flags.extend(value.clone().map(|value| (key, value)));
        set("listen", &self.listen);
        set("data", &self.data);
        set("plugins", &self.plugins);
        set("store", &self.store);
        set("node.role", &self.role);
        set("log", &self.log);
        set("allow_net", &(!self.allow_net.is_empty()).then(|| self.allow_net.join(",")));
        let path = self.config.as_deref().unwrap_or(Path::new(SETTINGS_FILE));
        let file = match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.config.is_none() => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                anyhow::bail!("{} is not text in UTF-8; save it in that encoding", path.display());
            }
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        Ok(Raw::gather(&flags, config::variable, file.as_deref())?)
    }

    /// Warns if the settings file has a password and other users may read it.
    fn warn_of_exposed_password(&self, raw: &Raw) {
        let file = self.config.as_deref().unwrap_or(Path::new(SETTINGS_FILE));
        if raw.file_holds_password() && files::others_may_read(file) {
            tracing::warn!(
                file = %file.display(),
                "settings file holds a password and is open to other users: set INNESCO_STORE instead, or take their access away with chmod o-rw"
            );
        }
    }
}

/// Selects the data folder, for commands that work on the folder and not through the API.
#[derive(clap::Args, Debug)]
pub struct Folder {
    /// Folder of the store [default: innesco-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Settings file [default: innesco.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Folder {
    /// Returns the settings of an engine that uses this folder.
    pub fn config(&self) -> anyhow::Result<Config> {
        let flags = ServeArgs { data: self.data.clone(), config: self.config.clone(), ..ServeArgs::default() };
        Ok(Config::check(&flags.raw()?)?)
    }
}

/// Serves until a stop signal. The first signal drains, the second exits at once.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let raw = args.raw()?;
    let config = Config::check(&raw)?;
    let mistyped = config::mistyped_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
    if args.check {
        for (name, meant) in &mistyped {
            output::tell!("{name} is not a setting and is ignored; did you mean {meant}?");
        }
        for (setting, value, origin) in raw.iter() {
            output::show!("{:<24} {:<20} {:<12} {}", setting.key, value, origin.to_string(), setting.meaning);
        }
        return Ok(());
    }
    start_log(config.log, config::variable(LOG_LEVEL)?.as_deref())?;
    args.warn_of_exposed_password(&raw);
    for (variable, nearest) in &mistyped {
        tracing::warn!(variable, nearest, "environment variable is not a setting and is ignored");
    }
    // The key is read before anything is opened, because an unusable key must not leave a store without an administrator.
    let admin_key = config::key_variable("INNESCO_ADMIN_KEY")?;
    raise_file_limit();
    runtime()?.block_on(async {
        let listener = listen(config.listen)?;
        let address = listener.local_addr()?;
        let mut engine = Engine::open(config.clone(), address, admin_key, Feed::default()).await?;
        if let Some(key) = engine.new_admin_key.take() {
            let shown = output::print(&format!(
                "admin key  {key}\n           shown once; copy it now. A log that stores this output stores the key: replace it with\n           \
                 innesco keys create NAME --role admin, then innesco keys revoke admin"
            ));
            if let Err(error) = shown {
                withdraw_first_key(&**engine.store(), &key).await?;
                bail!("the new admin key cannot be written to standard output: {error}. The next start creates another");
            }
        }
        // Signals are handled before the address is printed: a program that reads the address may send a stop signal at once.
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        match &config.store {
            StoreAt::Sqlite => output::show!("engine     http://{address}  data in {}", config.data.display()),
            store => output::show!("engine     http://{address}  data in {store}"),
        }
        let plugins = engine.catalog().plugins().iter().count();
        output::show!("plugins    {plugins} in {} (watching)", config.catalog.folder.display());
        engine.run(listener, stop).await
    })
}

/// Creates a runtime with at least two worker threads, because a handler that blocks must not delay the others.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().thread_name("io").build()?)
}

/// Connections that may wait to be accepted. With the usual 128, a burst of callers loses some connections, which are retried
/// only after a second.
const BACKLOG: u32 = 4096;

/// Binds the address, or returns an error that says what to do.
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Without this, a restart cannot bind the address until the system has timed out the last connections.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("cannot listen on {address}: another program uses it. Choose another with --listen")
        }
        _ => anyhow::anyhow!("cannot listen on {address}: {error}. Choose another with --listen"),
    })
}

/// The variable with the log level.
const LOG_LEVEL: &str = "INNESCO_LOG_LEVEL";
const LOG_LEVEL_DEFAULT: &str = "warn,innesco=info";

fn start_log(form: LogForm, level: Option<&str>) -> anyhow::Result<()> {
    let level = level.filter(|level| !level.is_empty()).unwrap_or(LOG_LEVEL_DEFAULT);
    let filter = EnvFilter::try_new(level)
        .map_err(|_| anyhow::anyhow!("{LOG_LEVEL} = {level:?} is not a list of log levels; write {LOG_LEVEL_DEFAULT}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // Otherwise the log would panic in the thread whose line cannot be written, for example because its disk is full.
    let log = log.log_internal_errors(false);
    match form {
        LogForm::Text => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogForm::Json => {
            log.json().init();
            // A panic is logged as a line, so that a JSON log has only JSON lines.
            std::panic::set_hook(Box::new(|panic| {
                let place = panic.location().map(ToString::to_string).unwrap_or_default();
                tracing::error!(place, message = panic.payload_as_str().unwrap_or_default(), "a part of the engine panicked");
            }));
        }
    }
    Ok(())
}

/// Raises the limit of open files. Every connection needs a file, and many systems have a low soft limit.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "limit of open files could not be raised");
    }
}

/// The first SIGTERM or Ctrl-C drains; the second ends the process at once.
pub fn stop_on_signal(stop: CancellationToken) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                tracing::warn!("stopped at once; the next start continues the work in flight");
                std::process::exit(130);
            }
            tracing::info!("stopping: work in flight is finished first; a second signal stops at once");
            stop.cancel();
        }
    });
    Ok(())
}
