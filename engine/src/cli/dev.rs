//! `innesco dev`: runs an engine for plugin development. `watch.rs` builds the plugins, a test receiver (`receiver.rs`) verifies
//! their webhooks, and `feed.rs` prints the activity.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{
    build::PluginCrate,
    client::{self, Local},
    feed::{FeedPrinter, HeardSoFar, say},
    listen, measure,
    output::{self, RED, Styled},
    project,
    receiver::TestReceiver,
    serve::{self, ServeArgs},
    watch,
};
use crate::{
    config::Config,
    domain::{
        name::Slug,
        plugin::Way,
        run::{Remedy, RunState, remedy},
    },
    news::{Feed, News},
    serve::Engine,
    store::{PageRequest, RunFilter, Store, StoredRun},
    wire::StreamView,
};

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
    /// Private network that webhooks may go to, besides this machine; can be repeated
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
    let mut config = Config::check(&serve_args.raw()?)?;
    config.catalog.way = Way::Dev;
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
        // The ports are opened before the build, so that an address in use is reported at once.
        watch::build_all(&args.plugins, &wasm)?;
        std::fs::create_dir_all(&wasm).with_context(|| format!("{} cannot be created", wasm.display()))?;
        let earlier = client::earlier();
        let key = match &earlier {
            Some(local) => local.key.clone(),
            None => crate::catalog::new_key()?,
        };
        let feed = Feed::default();
        let mut news = feed.listen();
        let engine = Engine::open(config, listener.local_addr()?, None, feed).await?;
        engine.admit(&key).await?;
        let test_receiver =
            TestReceiver { address: receiver_address, store: Arc::clone(engine.store()), catalog: Arc::clone(engine.catalog()) };
        test_receiver.prepare(earlier.and_then(|local| local.receiver)).await?;
        let plugins = args.plugins.display().to_string();
        let url = format!("http://{}", listener.local_addr()?);
        client::write_local(&Local { url, key: key.clone(), plugins, receiver: Some(receiver_address) })?;
        let sign_in = engine.sign_in_link(&key)?;
        greet(&engine, args, listener.local_addr()?, receiver_address, &sign_in);
        // The greeting already lists the plugins that have loaded, so their messages are dropped.
        while news.try_recv().is_ok() {}

        let stop = CancellationToken::new();
        serve::stop_on_signal(stop.clone())?;
        let heard = HeardSoFar::default();
        let ear = {
            let heard = heard.clone();
            Arc::new(move |one| heard.put(one))
        };
        let receiving = listen::receive(receiver, test_receiver.judge(), ear, http::StatusCode::OK, stop.clone());
        tokio::spawn(follow(FeedPrinter::new(heard), test_receiver, news));
        tokio::spawn(receiving);
        let catalog = Arc::clone(engine.catalog());
        let serves = move |name: &str| catalog.plugins().get(name).map(|entry| entry.row.version.short());
        watch::watch(args.plugins.clone(), wasm, serves, stop.clone())?;
        engine.run(listener, stop).await
    })
}

/// Prints the live feed until it ends. Creates each missing endpoint to which a plugin sends.
async fn follow(mut printer: FeedPrinter, receiver: TestReceiver, mut news: broadcast::Receiver<Arc<News>>) {
    let tag = receiver.store.tag();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        let one = tokio::select! {
            one = news.recv() => one,
            _ = second.tick() => {
                printer.end_second();
                continue;
            }
        };
        match one {
            Ok(one) => {
                // The run is repeated with the new endpoint, and printed then.
                if let News::Ran { plugin, wants: Some(name), .. } = &*one
                    && provide(&receiver, plugin, name).await
                {
                    continue;
                }
                printer.print(&StreamView::new(&one, tag));
                if let News::PluginServes { plugin, .. } = &*one {
                    remind_of_parked_runs(&*receiver.store, plugin).await;
                }
            }
            Err(RecvError::Lagged(count)) => printer.print(&StreamView::Missed { count }),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Creates the missing endpoint that a plugin sent to. Returns whether it exists.
async fn provide(receiver: &TestReceiver, plugin: &str, name: &str) -> bool {
    let nearest = receiver.catalog.endpoints().nearest(name).map(str::to_owned);
    match receiver.create(name).await {
        Ok(created) => {
            if created {
                let near = nearest.map(|near| format!("; the nearest other name is {near}")).unwrap_or_default();
                say("endpoint", &format!("{name} created at the test receiver, because {plugin} sends to it{near}"));
            }
            true
        }
        Err(error) => {
            say("endpoint", &Styled(RED, format!("{name} cannot be created: {error:#}")).to_string());
            false
        }
    }
}

/// Maximum number of parked runs that are counted.
const PARKED_COUNTED_MAX: usize = 100;

/// Prints how to retry the parked runs of a repaired plugin, if it has any.
async fn remind_of_parked_runs(store: &dyn Store, plugin: &str) {
    let Ok(name) = Slug::parse(plugin) else { return };
    let filter = RunFilter { state: Some(RunState::Parked.as_str()), plugin: Some(name), ..RunFilter::default() };
    let page = PageRequest { cursor: None, limit: PARKED_COUNTED_MAX };
    let Ok(found) = store.runs(filter, page).await else { return };
    // Counts only the runs that an operator must retry. The engine requeues all other parked runs automatically.
    let is_retried_by_hand =
        |run: &&StoredRun| run.outcome.is_some_and(|outcome| remedy(outcome, run.wants.as_deref()) == Remedy::Retry);
    let number = found.items.iter().filter(is_retried_by_hand).count();
    if let Some(hint) = parked_hint(plugin, number, found.next.is_some()) {
        say("run", &hint);
    }
}

fn parked_hint(plugin: &str, number: usize, has_more: bool) -> Option<String> {
    let (runs, verb, them) = match (number, has_more) {
        (0, _) => return None,
        (1, false) => ("1 run".to_owned(), "is", "it"),
        (number, false) => (format!("{number} runs"), "are", "them"),
        (number, true) => (format!("over {number} runs"), "are", "them"),
    };
    Some(format!("{runs} of {plugin} {verb} parked; retry {them} with: innesco run retry --parked --plugin {plugin}"))
}

fn greet(engine: &Engine, args: &DevArgs, listener: SocketAddr, receiver: SocketAddr, sign_in: &str) {
    let table = engine.catalog().plugins();
    output::show!("  plugins  {} serving, built from {}/ (watching)", table.iter().count(), args.plugins.display());
    for (file, reason) in table.broken() {
        output::show!("  plugin   {}  {}", Styled(RED, format!("{file} is not loaded")), measure::lines(reason));
    }
    output::show!("  engine   http://{listener}     data in .innesco/data, SQLite");
    output::show!(
        "  receiver http://{receiver}     prints and verifies webhooks; endpoints that plugins send to are created here"
    );
    output::show!("  pages    http://{listener}{sign_in}     signs in once, within an hour");
    let innesco = program();
    let crates = PluginCrate::below(&args.plugins).map(|found| found.crates).unwrap_or_default();
    output::show!("\n  Try, in a second terminal:");
    if let Some(first) = crates.iter().find(|plugin| plugin.name == "order-router").or(crates.first()) {
        output::show!("    edit {}/src/lib.rs and save: live in about two seconds", first.folder.display());
    }
    output::show!(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_runs_of_a_repaired_plugin_are_counted() {
        assert_eq!(parked_hint("orders", 0, false), None);
        let command = "innesco run retry --parked --plugin orders";
        for (number, has_more, hint) in [
            (1, false, "1 run of orders is parked; retry it with: "),
            (3, false, "3 runs of orders are parked; retry them with: "),
            (100, true, "over 100 runs of orders are parked; retry them with: "),
        ] {
            assert_eq!(parked_hint("orders", number, has_more), Some(format!("{hint}{command}")));
        }
    }
}
