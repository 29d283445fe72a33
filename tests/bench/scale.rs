//! Measures an engine with many endpoints, patterns and plugins to which the events of the load do not go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Place, ROUNDS,
    dashboard::{PageTimes, Reader},
    engine::{Engine, bench_plugin},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, closed_loop, sink},
};

/// Numbers of endpoints, patterns and plugins.
struct Size {
    endpoints: usize,
    patterns: usize,
    plugins: usize,
}

const SMALL: Size = Size { endpoints: 10, patterns: 10, plugins: 1 };
const LARGE: Size = Size { endpoints: 10_000, patterns: 1_000, plugins: 500 };
/// Number of plugins of the engine whose start is measured.
const STARTED: usize = 100;
/// Number of endpoints that are created at the same time.
const CREATORS: usize = 16;
const EVENTS: usize = 20_000;
const TIME: Duration = Duration::from_secs(10);
const PAGES: [&str; 6] = ["/", "/events", "/deliveries", "/endpoints", "/endpoints?q=e9", "/plugins"];

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let ledger = Ledger::new(2 * ROUNDS * (EVENTS + 2_000));
    let receiver = sink(&ledger).await?;
    let mut sizes = Vec::new();
    for size in [&SMALL, &LARGE] {
        let folder = place.fresh()?;
        let engine = Arc::new(Engine::start(folder.path(), &borrowed(&plugins(size.plugins)))?);
        engine.endpoint("receiver", &receiver, &[]).await?;
        let began = Instant::now();
        fill(&engine, size, &receiver).await?;
        engine.serves_plugins(size.plugins).await?;
        println!("  {} endpoints and {} plugins after {:.0} s", size.endpoints, size.plugins, began.elapsed().as_secs_f64());
        drop(engine);
        let began = Instant::now();
        let engine = Engine::start(folder.path(), &[])?;
        engine.serves_plugins(size.plugins).await?;
        sizes.push((engine, folder, began.elapsed()));
    }
    let [mut rate, mut cpu]: [[Figure; 2]; 2] = Default::default();
    for round in 0..2 * ROUNDS {
        // The order alternates, so that neither engine always follows the other.
        let at = (round + round / 2) % 2;
        let engine = &sizes[at].0;
        let target = Target::new(&engine.server.url, "order.created");
        let warm = closed_loop(&target, &ledger, 64, 2_000, TIME).await;
        ledger.settled(&warm).await;
        let used = engine.server.cpu();
        let phase = closed_loop(&target, &ledger, 64, EVENTS, TIME).await;
        ledger.settled(&phase).await;
        let report = ledger.report(phase);
        rate[at].note(report.delivered_per_second());
        cpu[at].note((engine.server.cpu() - used).as_secs_f64() * 1e6 / report.count.max(1) as f64);
    }
    let name = |size: &Size| format!("{} endpoints, {} patterns, {} plugins", size.endpoints, size.patterns, size.plugins);
    let mut table = Table::new(&["64 callers, one plugin", &name(&SMALL), &name(&LARGE), "ratio", "goal"]);
    let ratio = |figures: &[Figure; 2]| figures[1].against(&figures[0]);
    table.row(["delivered/s".into(), (&rate[0]).into(), (&rate[1]).into(), ratio(&rate).into(), "≥ 0.9".into()]);
    table.row(["CPU µs/event".into(), (&cpu[0]).into(), (&cpu[1]).into(), ratio(&cpu).into(), "≤ 1.1".into()]);
    let [small, large] = [0, 1].map(|at| sizes[at].0.server.resident_mb().into());
    table.row(["memory MB".into(), small, large]);
    let [small, large] = [0, 1].map(|at| sizes[at].2.as_secs_f64().into());
    table.row(["start to all plugins ready s".into(), small, large]);
    table.print("Scale of the model");
    let mut start = Figure::default();
    let folder = place.fresh()?;
    let engine = Engine::start(folder.path(), &borrowed(&plugins(STARTED)))?;
    engine.serves_plugins(STARTED).await?;
    drop(engine);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let engine = Engine::start(folder.path(), &[])?;
        engine.serves_plugins(STARTED).await?;
        start.note(began.elapsed().as_secs_f64() * 1e3);
    }
    let mut table = Table::new(&["from the start of the process", "ms"]);
    table.row([format!("until {STARTED} compiled plugins serve").into(), (&start).into()]);
    table.print("Scale of the model: start");

    let mut table = Table::new(&["page", "small: CPU ms", "median ms", "large: CPU ms", "median ms", "p99 ms", "HTML kB"]);
    let readers = [Reader::sign_in(&sizes[0].0.server.url).await?, Reader::sign_in(&sizes[1].0.server.url).await?];
    for page in PAGES {
        let small = PageTimes::of(&sizes[0].0, &readers[0], page).await?;
        let large = PageTimes::of(&sizes[1].0, &readers[1], page).await?;
        let figures = [small.cpu, small.median, large.cpu, large.median, large.p99, large.kb];
        table.row(std::iter::once(page.into()).chain(figures.map(Cell::from)));
    }
    table.print("Scale of the model: pages of the dashboard");
    Ok(())
}

/// Returns the names and files of this many plugins: the benchmark's plugin, and others for events that never come.
fn plugins(count: usize) -> Vec<(String, Vec<u8>)> {
    let guest = |nth| (format!("p{nth}"), support::guests::build("no-op", &format!("p{nth}"), &[&format!("p{nth}.*")]));
    (1..count).map(guest).chain([("bench-plugin".into(), bench_plugin())]).collect()
}

fn borrowed(plugins: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    plugins.iter().map(|(name, file)| (name.as_str(), file.as_slice())).collect()
}

/// Creates the endpoints that the load never reaches.
async fn fill(engine: &Arc<Engine>, size: &Size, url: &str) -> anyhow::Result<()> {
    let mut creators = JoinSet::new();
    for first in 0..CREATORS {
        let (engine, url) = (Arc::clone(engine), url.to_owned());
        let (endpoints, patterns) = (size.endpoints, size.patterns);
        creators.spawn(async move {
            for nth in (1..endpoints).skip(first).step_by(CREATORS) {
                let events = [format!("t{}.*", nth % patterns)];
                engine.create(json!({ "name": format!("e{nth}"), "url": url, "events": events })).await?;
            }
            anyhow::Ok(())
        });
    }
    creators.join_all().await.into_iter().collect()
}
