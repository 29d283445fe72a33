//! `innesco dev`: the shortest way from an edited plugin to a changed webhook. Builds every crate under plugins/, serves them with a
//! receiver beside it, prints what happens, and builds again what is edited.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use notify::Watcher as _;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    build::{PluginCrate, size},
    client::{self, Local},
    listen::{self, Heard},
    output::{self, DIM, RED, Styled, YELLOW},
    serve::{self, ServeArgs},
};
use crate::{
    clock,
    config::Config,
    domain::{
        delivery::{DeadReason, Next},
        endpoint::{Endpoint, EndpointState, HeldSecret, NewEndpoint, Policy, Subscription},
        id::Tag,
        name::Slug,
        pattern::Pattern,
        run::{RunOutcome, RunState},
        signature::{Scheme, Secret, Verifier},
    },
    news::{Feed, News},
    serve::Engine,
    store::Store,
};

/// Endpoints that are made for a newcomer, all at the receiver beside the engine: those that the example plugins send to.
const ENDPOINTS: [(&str, &[&str]); 4] = [("receiver", &["contact.unreachable"]), ("slack", &[]), ("crm", &[]), ("mailer", &[])];
/// Lines in one second; more are counted and not printed.
const LINES_MAX: usize = 40;
/// How long a crate must be left alone before it is built.
const QUIET: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub struct DevArgs {
    /// Address and port of the HTTP API
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: String,
    /// Address and port of the receiver
    #[arg(long, default_value = "127.0.0.1:9099", value_name = "ADDRESS:PORT")]
    receiver: std::net::SocketAddr,
    /// Folder whose crates are plugins
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    plugins: PathBuf,
}

pub fn run(args: &DevArgs) -> anyhow::Result<()> {
    let home = Path::new(".innesco");
    let wasm = home.join("plugins");
    build_all(&args.plugins, &wasm)?;

    let serve_args = ServeArgs {
        listen: Some(args.listen.clone()),
        data: Some(home.join("data").display().to_string()),
        plugins: Some(wasm.display().to_string()),
        allow_net: vec!["127.0.0.0/8".into(), "::1/128".into()],
        ..ServeArgs::default()
    };
    let config = Config::check(&serve_args.raw()?)?;
    serve::runtime()?.block_on(async {
        let listener = serve::listen(config.listen).await?;
        let receiver = tokio::net::TcpListener::bind(args.receiver)
            .await
            .with_context(|| format!("the receiver cannot listen on {}; choose another with --receiver", args.receiver))?;
        let key = match client::earlier_key() {
            Some(key) => key,
            None => crate::api::new_key()?,
        };
        let feed = Feed::default();
        let mut news = feed.listen();
        let engine = Engine::open(config, Some(key.clone()), feed).await?;
        let store = Arc::clone(engine.store());
        wire(&*store, receiver.local_addr()?).await?;
        engine.catalog().refresh_endpoints().await?;
        client::write_local(&Local { url: format!("http://{}", listener.local_addr()?), key })?;
        greet(&engine, args, &listener)?;
        // What loaded before anyone could ask is in the greeting.
        while news.try_recv().is_ok() {}

        let stop = CancellationToken::new();
        serve::stop_on_signal(stop.clone())?;
        let heard: Arc<Mutex<HashMap<String, Heard>>> = Arc::default();
        let verifiers = verifiers(&store.endpoints().await?);
        let ear = {
            let heard = Arc::clone(&heard);
            Arc::new(move |one: Heard| {
                let mut heard = heard.lock().expect("no code panics while it holds what was heard");
                if heard.len() < 10_000 {
                    heard.insert(one.id.clone(), one);
                }
            })
        };
        let receiving = listen::receive(
            receiver,
            Arc::new(move |path| verifiers.get(path).cloned().unwrap_or_default()),
            ear,
            http::StatusCode::OK,
            stop.clone(),
        );
        let teller = Teller { tag: store.tag(), heard };
        tokio::spawn(async move { teller.tell(news).await });
        tokio::spawn(receiving);
        watch(args.plugins.clone(), wasm, stop.clone())?;
        engine.run(listener, stop).await
    })
}

/// Builds every crate; one that fails is told and left out.
fn build_all(plugins: &Path, wasm: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let crates = PluginCrate::below(plugins)?;
    if crates.is_empty() {
        anstream::println!("  built    no crate under {}; begin one with: innesco plugin new my-first", plugins.display());
    }
    if !crates.is_empty() && !wasm.exists() {
        anstream::println!("  building {} plugins for the first time, with what they need: about a minute", crates.len());
    }
    let bar = indicatif::ProgressBar::new(crates.len() as u64).with_style(
        indicatif::ProgressStyle::with_template("  building {msg} {wide_bar} {pos}/{len}").expect("the template is valid"),
    );
    let mut built = Vec::new();
    for plugin in &crates {
        bar.set_message(plugin.name.clone());
        match plugin.build() {
            Ok(one) => {
                one.drop_into(wasm, &plugin.name)?;
                built.push(format!("{} {}", plugin.name, size(one.bytes)));
            }
            Err(error) => bar.suspend(|| {
                anstream::println!("  {}    {}\n{}", Styled(RED, "failed"), plugin.name, indent(&format!("{error:#}")))
            }),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !built.is_empty() {
        anstream::println!("  built    {}   {:.1} s", built.join("   "), began.elapsed().as_secs_f64());
    }
    // A crate that is no longer there serves no longer.
    for entry in std::fs::read_dir(wasm).into_iter().flatten().flatten() {
        let path = entry.path();
        let known = path.file_stem().is_some_and(|stem| crates.iter().any(|plugin| stem == plugin.name.as_str()));
        if !known && path.extension().is_some_and(|extension| extension == "wasm") {
            std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// Makes the endpoints that are missing, and points all of ours at the receiver.
async fn wire(store: &dyn Store, receiver: std::net::SocketAddr) -> anyhow::Result<()> {
    let existing = store.endpoints().await?;
    for (name, events) in ENDPOINTS {
        let url = format!("http://{receiver}/{name}");
        if let Some(endpoint) = existing.iter().find(|endpoint| &*endpoint.new.name == name) {
            if endpoint.new.url != url {
                let mut moved = endpoint.clone();
                moved.new.url = url;
                store.update_endpoint(moved).await?;
            }
            continue;
        }
        let mut seed = [0; Secret::SEED_LEN];
        getrandom::fill(&mut seed)?;
        let events = events.iter().map(|pattern| Pattern::parse(pattern)).collect::<Result<_, _>>()?;
        store
            .create_endpoint(NewEndpoint {
                name: Slug::parse(name)?,
                title: None,
                url,
                subscription: Subscription { events, conditions: Vec::new() },
                plugin: None,
                scheme: Scheme::V1,
                secrets: vec![HeldSecret { secret: Secret::from_seed(Scheme::V1, seed), until: None }],
                policy: Policy { timeout: Policy::TIMEOUT_DEFAULT, headers: Vec::new(), schedule: None },
                state: EndpointState::Active,
            })
            .await?;
    }
    Ok(())
}

/// Path → what its webhooks are verified with.
fn verifiers(endpoints: &[Endpoint]) -> HashMap<String, Vec<Verifier>> {
    let of = |endpoint: &Endpoint| {
        let secrets = endpoint.new.secrets.iter().map(|held| held.secret.reveal());
        let verifiers = secrets.filter_map(|secret| Verifier::parse(&secret).ok()).collect();
        (format!("/{}", endpoint.new.name), verifiers)
    };
    endpoints.iter().map(of).collect()
}

fn greet(engine: &Engine, args: &DevArgs, listener: &tokio::net::TcpListener) -> anyhow::Result<()> {
    let table = engine.catalog().plugins();
    let names: Vec<&str> = ENDPOINTS.iter().map(|(name, _)| *name).collect();
    anstream::println!("  plugins  {} serving, built from {}/ (watching)", table.iter().count(), args.plugins.display());
    for (file, reason) in table.broken() {
        anstream::println!("  plugin   {}  {}", Styled(RED, format!("{file} is not loaded")), reason);
    }
    anstream::println!("  engine   http://{}     data in .innesco/data, SQLite", listener.local_addr()?);
    anstream::println!(
        "  receiver http://{}     prints and verifies what the endpoints {} are sent",
        args.receiver,
        names.join(", ")
    );
    let innesco = program();
    anstream::println!(
        "
  Try, in a second terminal:
    {innesco} send order.created '{{\"id\": 7, \"total\": 1500, \"country\": \"IT\"}}'
    edit {}/order-router/src/lib.rs and save: live in about two seconds
    {innesco} plugin new my-first
",
        args.plugins.display(),
    );
    Ok(())
}

/// How this program is called from here: by its name where the shell finds it, else by its path.
fn program() -> String {
    let named =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("innesco").exists()));
    if named {
        return "innesco".to_owned();
    }
    let (Ok(program), Ok(here)) = (std::env::current_exe(), std::env::current_dir()) else { return "innesco".to_owned() };
    program.strip_prefix(here).unwrap_or(&program).display().to_string()
}

/// Builds again what is edited.
fn watch(plugins: PathBuf, wasm: PathBuf, stop: CancellationToken) -> anyhow::Result<()> {
    let (changed, mut changes) = mpsc::unbounded_channel::<PathBuf>();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if matches!(event.kind, notify::EventKind::Access(_)) {
            return;
        }
        for path in event.paths {
            // The receiver of this is gone only when the program ends.
            let _ = changed.send(path);
        }
    })?;
    std::fs::create_dir_all(&plugins)?;
    watcher
        .watch(&plugins, notify::RecursiveMode::Recursive)
        .with_context(|| format!("{} cannot be watched", plugins.display()))?;
    tokio::spawn(async move {
        let _watcher = watcher;
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return,
                Some(path) = changes.recv() => path,
            };
            let mut paths = vec![first];
            while let Ok(Some(path)) = tokio::time::timeout(QUIET, changes.recv()).await {
                paths.push(path);
            }
            let crates = PluginCrate::below(&plugins).unwrap_or_default();
            let edited: Vec<PluginCrate> =
                crates.into_iter().filter(|plugin| paths.iter().any(|path| is_source_of(path, plugin))).collect();
            let wasm = wasm.clone();
            let building = tokio::task::spawn_blocking(move || edited.iter().for_each(|plugin| rebuild(plugin, &wasm)));
            // Its panic has been reported by the panic hook already.
            let _ = building.await;
        }
    });
    Ok(())
}

fn is_source_of(path: &Path, plugin: &PluginCrate) -> bool {
    let folder = std::fs::canonicalize(&plugin.folder).unwrap_or_else(|_| plugin.folder.clone());
    let inside = path.strip_prefix(&folder).or_else(|_| path.strip_prefix(&plugin.folder));
    inside.is_ok_and(|inside| {
        !inside.starts_with("target") && path.extension().is_some_and(|extension| extension == "rs" || extension == "toml")
    })
}

fn rebuild(plugin: &PluginCrate, wasm: &Path) {
    match plugin.build().and_then(|built| built.drop_into(wasm, &plugin.name).map(|_| built)) {
        Ok(built) => say("build", &format!("{}  {:.1} s  {}", plugin.name, built.took.as_secs_f64(), size(built.bytes))),
        Err(error) => {
            say("build", &format!("{}  {}; what serves goes on serving", plugin.name, Styled(RED, "failed")));
            anstream::println!("{}", indent(&format!("{error:#}")));
        }
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("          {line}")).collect::<Vec<_>>().join("\n")
}

/// One line per fact, aligned.
fn say(what: &str, fact: &str) {
    let time = output::local_time(&clock::wall().to_string());
    anstream::println!("{}  {what:<8} {fact}", Styled(DIM, time));
}

/// Prints the engine's news.
struct Teller {
    tag: Tag,
    /// What the receiver heard, until the engine says that it was sent.
    heard: Arc<Mutex<HashMap<String, Heard>>>,
}

impl Teller {
    async fn tell(self, mut news: tokio::sync::broadcast::Receiver<Arc<News>>) {
        let (mut second, mut lines, mut silent) = (Instant::now(), 0, 0u64);
        loop {
            let one = match news.recv().await {
                Ok(one) => one,
                Err(RecvError::Lagged(missed)) => {
                    silent += missed;
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            if second.elapsed() > Duration::from_secs(1) {
                if silent > 0 {
                    say("busy", &format!("{silent} more lines not printed"));
                }
                (second, lines, silent) = (Instant::now(), 0, 0);
            }
            lines += 1;
            if lines > LINES_MAX {
                silent += 1;
                self.forget(&one);
            } else {
                self.line(&one);
            }
        }
    }

    fn forget(&self, news: &News) {
        if let News::Attempted { delivery, .. } = news {
            self.heard.lock().expect("no code panics while it holds what was heard").remove(&delivery.text(self.tag));
        }
    }

    fn line(&self, news: &News) {
        match news {
            News::Accepted { event, event_type, source } => {
                say("event", &format!("{}  {event_type}  from {source}", event.text(self.tag)));
            }
            News::Ran { event, plugin, version, outcome, state, message, took, webhooks, emitted } => {
                let version = version.map(|version| format!("@{}", version.short())).unwrap_or_default();
                let outcome_text = Styled(output::look(outcome.as_str()).1, outcome);
                if *outcome == RunOutcome::Ok {
                    let mut asked = format!("{webhooks} webhooks");
                    if *emitted > 0 {
                        asked.push_str(&format!(", {emitted} events"));
                    }
                    say("run", &format!("{plugin}{version}  {outcome_text}  {:.2} ms  {asked}", took.as_secs_f64() * 1000.0));
                    return;
                }
                say("run", &format!("{plugin}{version}  {outcome_text}  {}", message.as_deref().unwrap_or_default()));
                let advice = match state {
                    RunState::Waiting { .. } => "it is tried again by itself".to_owned(),
                    _ => format!("the event is kept; after a fix: innesco event replay {}", event.text(self.tag)),
                };
                anstream::println!("          {advice}");
            }
            News::Attempted { delivery, endpoint, outcome, detail, latency, attempt, attempts_max, next, now } => {
                let heard =
                    self.heard.lock().expect("no code panics while it holds what was heard").remove(&delivery.text(self.tag));
                let word = output::attempt(outcome.as_str(), outcome.status().map(u64::from));
                let mut fact = format!("→ {endpoint}  {word}  {:.1} ms", latency.as_secs_f64() * 1000.0);
                if let Some(heard) = &heard {
                    fact.push_str(&format!("  {}", heard.verdict()));
                }
                if let Some(detail) = detail {
                    fact.push_str(&format!("  {detail}"));
                }
                match next {
                    Next::Delivered => {}
                    Next::Retry { due } => {
                        let wait = due.since(*now).as_secs_f64().round();
                        fact.push_str(&format!(
                            "  {}",
                            Styled(YELLOW, format!("attempt {attempt} of {attempts_max}, next in {wait} s"))
                        ));
                    }
                    Next::Dead(DeadReason::Gone) => fact.push_str("  the endpoint is disabled: it wants no more"),
                    Next::Dead(_) => {
                        fact.push_str(&format!("  {}", Styled(RED, format!("attempt {attempt} of {attempts_max}, given up"))))
                    }
                }
                say("webhook", &fact);
                if let Some(heard) = heard {
                    anstream::println!("{}", indent(&heard.shown_body()));
                }
            }
            News::PluginServes { plugin, version, was, bytes } => {
                let was = was.map(|was| format!(" (was {})", was.short())).unwrap_or_default();
                say("plugin", &format!("{plugin}@{} serving{was}  {}", version.short(), size(*bytes as u64)));
            }
            News::PluginFailed { file, keeps, message } => {
                let keeps = keeps.map(|keeps| format!("; {} keeps serving", keeps.short())).unwrap_or_default();
                say("plugin", &format!("{}{keeps}\n          {message}", Styled(RED, format!("{file} is not loaded"))));
            }
            News::PluginGone { plugin } => say("plugin", &format!("{plugin} serves no more: its file was removed")),
        }
    }
}
