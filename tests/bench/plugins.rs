//! The life of a plugin: from the dropped file to the first delivered event, from the cache, its memory, and the end of a run that
//! never ends.

use std::{
    collections::HashMap,
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::ensure;
use innesco::sandbox::{CodeCache, Limits, NoCache, NoState, Plugin, RunInput, Sandbox, Settings};

use super::{
    Place, ROUNDS, calls,
    engine::{Engine, bench_plugin, rebuilt, stock_plugin},
    figures::{Figure, Table},
    load::{Ledger, Target, closed_loop, sink},
};

/// Number of plugins in the measurement of memory.
const PLUGINS: usize = 20;
const LOADS: usize = 50;
const DEADLINE: Duration = Duration::from_millis(100);
const TIME: Duration = Duration::from_secs(20);

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let mut next = versions_of(stock_plugin());
    let mut table = Table::new(&["a plugin built with plain cargo", "measured", "goal"]);
    let [mut serves, mut first, mut second]: [Figure; 3] = Default::default();
    let ledger = Ledger::new(2 * ROUNDS);
    let receiver = sink(&ledger).await?;
    for _ in 0..ROUNDS {
        let folder = place.fresh()?;
        let engine = Engine::start(folder.path(), &[])?;
        engine.endpoint("receiver", &receiver, &[]).await?;
        let dropped = Instant::now();
        fs::write(folder.path().join("plugins/bench-plugin.wasm"), next())?;
        engine.serves_plugins(1).await?;
        serves.note(dropped.elapsed().as_secs_f64() * 1e3);
        let target = Target::new(&engine.server.url, "order.created");
        for figure in [&mut first, &mut second] {
            let phase = closed_loop(&target, &ledger, 1, 1, TIME).await;
            ledger.settled(&phase).await;
            let report = ledger.report(phase);
            ensure!(report.lost == 0, "the event after the drop is not delivered");
            figure.note(report.whole.p50);
        }
    }
    table.row(["from the dropped file until it serves, ms".into(), serves.into(), "≤ 700".into()]);
    table.row(["first event after that, from sending to arrival, ms".into(), first.into(), "".into()]);
    table.row(["second event, ms".into(), second.into(), "".into()]);
    table.row(["load from the cache, ms".into(), from_cache(&next())?.into(), "≤ 0.2".into()]);
    let [idle, each] = memory(place, next).await?;
    let [_, each_own] = memory(place, versions_of(bench_plugin())).await?;
    table.row(["memory of an engine without plugins, MB".into(), idle.into(), "≤ 50".into()]);
    table.row(["memory of each plugin, MB".into(), each.into(), "≤ 0.5".into()]);
    table.row(["memory of each plugin of this repository, MB".into(), each_own.into(), "≤ 0.5".into()]);
    table.row(["endless loop: stopped after its deadline, ms".into(), overrun()?.into(), "≤ 5 (one tick)".into()]);
    table.print("The life of a plugin");
    Ok(())
}

/// Returns a function that returns another version of a plugin each time. Each one is compiled anew.
fn versions_of(mut file: Vec<u8>) -> impl FnMut() -> Vec<u8> {
    move || {
        file = rebuilt(std::mem::take(&mut file));
        file.clone()
    }
}

/// Returns the time in milliseconds to load compiled code.
fn from_cache(file: &[u8]) -> anyhow::Result<Figure> {
    let (sandbox, cache) = (Sandbox::new(Settings { threads: 2, ..Settings::default() })?, Memory::default());
    let version = *sandbox.load(file, &cache)?.digest();
    let mut figure = Figure::default();
    for _ in 0..LOADS {
        let began = Instant::now();
        drop::<Option<Plugin>>(sandbox.load_cached(&version, &cache)?);
        figure.note(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(figure)
}

/// Returns the resident memory of an idle engine, and the additional memory of each plugin, in megabytes. Both engines start with a
/// full cache.
async fn memory(place: &Place, mut next: impl FnMut() -> Vec<u8>) -> anyhow::Result<[f64; 2]> {
    let mut resident = [0.0; 2];
    for (count, resident) in [0, PLUGINS].into_iter().zip(&mut resident) {
        let files: Vec<_> = (0..count).map(|nth| named(&next(), nth)).collect();
        let plugins: Vec<_> = files.iter().map(|(name, file)| (name.as_str(), file.as_slice())).collect();
        let folder = place.fresh()?;
        let engine = Engine::start(folder.path(), &plugins)?;
        engine.serves_plugins(count).await?;
        drop(engine);
        let engine = Engine::start(folder.path(), &[])?;
        engine.serves_plugins(count).await?;
        *resident = engine.server.resident_mb();
    }
    let [idle, full] = resident;
    Ok([idle, (full - idle) / PLUGINS as f64])
}

/// Gives the benchmark's plugin another name, of the same length. Returns the name and the file.
fn named(file: &[u8], nth: usize) -> (String, Vec<u8>) {
    const OWN: &[u8] = b"bench-plugin";
    let name = format!("bench-plug{nth:02}");
    let mut file = file.to_vec();
    while let Some(at) = file.windows(OWN.len()).position(|window| window == OWN) {
        file[at..at + OWN.len()].copy_from_slice(name.as_bytes());
    }
    (name, file)
}

/// Returns the time in milliseconds between the deadline of a run that never ends and its end.
fn overrun() -> anyhow::Result<Figure> {
    let limits = Limits { deadline: DEADLINE, ..Limits::default() };
    let sandbox = Sandbox::new(Settings { threads: 2, ..Settings::default() })?;
    let plugin = sandbox.load(&support::guests::wasm("endless-loop"), &NoCache)?;
    let (mut figure, input) = (Figure::default(), calls::input()?);
    for _ in 0..10 {
        let input = RunInput { limits: &limits, ..input.run() };
        let report = plugin.run(input, Box::new(NoState))?;
        ensure!(report.result.is_err(), "an endless loop ended");
        figure.note((report.took.as_secs_f64() - DEADLINE.as_secs_f64()) * 1e3);
    }
    Ok(figure)
}

/// A cache in memory.
#[derive(Default)]
struct Memory(Mutex<HashMap<String, Vec<u8>>>);

impl CodeCache for Memory {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.lock().expect("no code panics while it holds it").get(key).cloned()
    }

    fn put(&self, key: &str, code: &[u8]) {
        self.0.lock().expect("no code panics while it holds it").insert(key.to_owned(), code.to_vec());
    }
}
