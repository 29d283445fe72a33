//! `innesco dev`: runs an engine for plugin development. `watch.rs` builds the plugins, a test receiver prints their webhooks,
//! and `feed.rs` prints what happens.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{
    build::PluginCrate,
    client::{self, Local},
    feed::{FeedPrinter, HeardSoFar},
    listen, measure,
    output::{RED, Styled},
    project,
    serve::{self, ServeArgs},
    watch,
};
use crate::{
    config::Config,
    domain::{
        endpoint::{Endpoint, EndpointState, HeldSecret, NewEndpoint, Policy, Subscription},
        name::Slug,
        pattern::Pattern,
        signature::{Scheme, Secret, Verifier},
    },
    news::Feed,
    random,
    serve::Engine,
    store::Store,
};

/// Endpoints of the example plugins, created at the test receiver.
const ENDPOINTS: [(&str, &[&str]); 4] = [("receiver", &["contact.unreachable"]), ("slack", &[]), ("crm", &[]), ("mailer", &[])];

#[derive(clap::Args)]
pub struct DevArgs {
    /// Address and port of the HTTP API
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: String,
    /// Address and port of the test receiver
    #[arg(long, default_value = "127.0.0.1:9099", value_name = "ADDRESS:PORT")]
    receiver: SocketAddr,
    /// Folder with the plugin crates
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    plugins: PathBuf,
    /// Private network, beside this machine, that webhooks may go to; can be repeated
    #[arg(long, value_name = "CIDR")]
    allow_net: Vec<String>,
}

pub fn run(args: &DevArgs) -> anyhow::Result<()> {
    let home = project::open_home(Path::new(""))?;
    let wasm = home.join("plugins");
    let serve_args = ServeArgs {
        listen: Some(args.listen.clone()),
        data: Some(home.join("data").display().to_string()),
        plugins: Some(wasm.display().to_string()),
        allow_net: [String::from("127.0.0.0/8"), String::from("::1/128")].into_iter().chain(args.allow_net.clone()).collect(),
        ..ServeArgs::default()
    };
    let config = Config::check(&serve_args.raw()?)?;
    serve::runtime()?.block_on(async {
        let listener = serve::listen(config.listen)?;
        let receiver = tokio::net::TcpListener::bind(args.receiver).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
                "the receiver cannot listen on {}: another program uses it. Choose another with --receiver",
                args.receiver
            ),
            _ => anyhow::anyhow!("the receiver cannot listen on {}: {error}. Choose another with --receiver", args.receiver),
        })?;
        let receiver_address = receiver.local_addr()?;
        // After the ports: an address in use is reported at once, not after a build.
        watch::build_all(&args.plugins, &wasm)?;
        std::fs::create_dir_all(&wasm).with_context(|| format!("{} cannot be created", wasm.display()))?;
        let key = match client::earlier_key() {
            Some(key) => key,
            None => crate::catalog::new_key()?,
        };
        let feed = Feed::default();
        let mut news = feed.listen();
        let engine = Engine::open(config, listener.local_addr()?, None, feed).await?;
        engine.admit(&key).await?;
        let store = Arc::clone(engine.store());
        wire(&*store, receiver_address).await?;
        engine.catalog().refresh_endpoints().await?;
        let plugins = args.plugins.display().to_string();
        client::write_local(&Local { url: format!("http://{}", listener.local_addr()?), key, plugins })?;
        greet(&engine, args, listener.local_addr()?, receiver_address);
        // Plugins that loaded before the live feed started are in the greeting.
        while news.try_recv().is_ok() {}

        let stop = CancellationToken::new();
        serve::stop_on_signal(stop.clone())?;
        let heard = HeardSoFar::default();
        let verifiers = verifiers(&store.endpoints().await?);
        let ear = {
            let heard = heard.clone();
            Arc::new(move |one| heard.put(one))
        };
        let receiving = listen::receive(
            receiver,
            Arc::new(move |path| verifiers.get(path).cloned().unwrap_or_default()),
            ear,
            http::StatusCode::OK,
            stop.clone(),
        );
        let (printer, tag) = (FeedPrinter::new(heard), store.tag());
        tokio::spawn(printer.follow(tag, news));
        tokio::spawn(receiving);
        let catalog = Arc::clone(engine.catalog());
        let serves = move |name: &str| catalog.plugins().get(name).map(|entry| entry.row.version.short());
        watch::watch(args.plugins.clone(), wasm, serves, stop.clone())?;
        engine.run(listener, stop).await
    })
}

/// Creates missing endpoints, and points all of them at the receiver.
async fn wire(store: &dyn Store, receiver: SocketAddr) -> anyhow::Result<()> {
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
        let seed = random::bytes()?;
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
                policy: Policy::default(),
                state: EndpointState::Active,
            })
            .await?;
    }
    Ok(())
}

/// Returns the verifiers for each path.
fn verifiers(endpoints: &[Endpoint]) -> HashMap<String, Vec<Verifier>> {
    let of = |endpoint: &Endpoint| {
        let secrets = endpoint.new.secrets.iter().map(|held| held.secret.reveal());
        let verifiers = secrets.filter_map(|secret| Verifier::parse(&secret).ok()).collect();
        (format!("/{}", endpoint.new.name), verifiers)
    };
    endpoints.iter().map(of).collect()
}

fn greet(engine: &Engine, args: &DevArgs, listener: SocketAddr, receiver: SocketAddr) {
    let table = engine.catalog().plugins();
    let names: Vec<&str> = ENDPOINTS.iter().map(|(name, _)| *name).collect();
    anstream::println!("  plugins  {} serving, built from {}/ (watching)", table.iter().count(), args.plugins.display());
    for (file, reason) in table.broken() {
        anstream::println!("  plugin   {}  {}", Styled(RED, format!("{file} is not loaded")), measure::lines(reason));
    }
    anstream::println!("  engine   http://{listener}     data in .innesco/data, SQLite");
    anstream::println!("  receiver http://{receiver}     prints and verifies webhooks to the endpoints {}", names.join(", "));
    let innesco = program();
    let crates = PluginCrate::below(&args.plugins).map(|found| found.crates).unwrap_or_default();
    anstream::println!("\n  Try, in a second terminal:");
    if let Some(first) = crates.iter().find(|plugin| plugin.name == "order-router").or(crates.first()) {
        anstream::println!("    edit {}/src/lib.rs and save: live in about two seconds", first.folder.display());
    }
    anstream::println!(
        "    {innesco} plugin new my-first
    {innesco} send order.created '{{\"id\": 7, \"total\": 1500, \"country\": \"IT\"}}'
"
    );
}

/// Returns how to call this program here: by name if the shell finds it, otherwise by path.
fn program() -> String {
    let named =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("innesco").exists()));
    if named {
        return "innesco".to_owned();
    }
    let (Ok(program), Ok(here)) = (std::env::current_exe(), std::env::current_dir()) else { return "innesco".to_owned() };
    program.strip_prefix(here).unwrap_or(&program).display().to_string()
}
