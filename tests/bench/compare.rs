//! Measures a comparison of two versions of a plugin on many recorded runs: its speed, its memory, and its effect on a running load.
//! Also measures the effect of a plugin's debug information on throughput.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{
    Place, ROUNDS,
    engine::{Engine, bench_plugin, rebuilt},
    figures::{Cell, Figure, Table},
    load::{Ledger, ORDER, Target, closed_loop, closed_loop_over, open_loop, sink},
};

/// Number of recorded runs.
const RUNS: usize = 100_000;
/// Maximum time for recording the runs, for a slow machine.
const FILL_MAX: Duration = Duration::from_secs(300);
const RATE: u32 = 200;
/// Duration of one measurement of the running load. A comparison that ends earlier is started again.
const TIME: Duration = Duration::from_secs(8);
/// Number of events of one measurement of throughput.
const EVENTS: usize = 20_000;

/// Returns the data of an order that `order-router` understands, in addition to the benchmark's plugin.
fn order(total: u32) -> String {
    let (number, rest) = ORDER.trim_end().split_once(',').expect("the number comes first");
    format!(r#"{number},"id":"SO-2026-004711","total":{total},"country":"DE",{rest}"#)
}

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let folder = place.fresh()?;
    let router = support::crates::wasm("order-router");
    let ledger = Ledger::new(RUNS + 2 * ROUNDS * RATE as usize * TIME.as_secs() as usize + 1_000);
    let engine = Engine::start(folder.path(), &[("order-router", &router)])?;
    engine.endpoint("receiver", &sink(&ledger).await?, &[]).await?;
    // Every second order is big, so every second run asks for a webhook.
    let targets = [order(20), order(1_500)].map(|data| Target::with_data(&engine.server.url, "order.created", &data));
    closed_loop_over(&targets, &ledger, 64, RUNS, FILL_MAX).await;
    engine.nothing_waits().await?;
    engine.no_delivery_is("pending").await?;
    drop(engine);

    // Starts a new process, so that the peak memory does not include the recording.
    let engine = Engine::start(folder.path(), &[])?;
    let candidate = engine.push("order-router", rebuilt(router), true).await?;
    let [mut rate, mut cpu, mut start_mb, mut peak_mb] = std::array::from_fn(|_| Figure::default());
    for _ in 0..ROUNDS {
        let (began, used, resident) = (Instant::now(), engine.server.cpu(), engine.server.resident_mb());
        let one = engine.compared(&engine.compare("order-router", &candidate, RUNS).await?).await?;
        let (took, report) = (began.elapsed(), &one["report"]);
        ensure!(report["compared"] == RUNS && report["same"] == RUNS, "a rebuild differs, or runs are missing: {one}");
        rate.note(RUNS as f64 / took.as_secs_f64());
        cpu.note((engine.server.cpu() - used).as_secs_f64() * 1e6 / RUNS as f64);
        start_mb.note(resident);
        peak_mb.note(engine.server.peak_mb());
    }
    let mut table = Table::new(&["order-router, a rebuild of the same source", "", "goal"]);
    table.row(["pairs of runs per second".into(), rate.into(), "≥ 20k".into()]);
    table.row(["CPU µs per pair".into(), cpu.into()]);
    table.row(["memory before MB".into(), start_mb.into()]);
    table.row(["peak memory MB".into(), peak_mb.into(), "< 256".into()]);
    table.print(&format!("Compare: {RUNS} recorded runs"));

    // The running load has its own plugin and its own receiver.
    engine.push("bench-plugin", bench_plugin(), false).await?;
    let target = Target::with_data(&engine.server.url, "order.created", &order(20));
    let warm = closed_loop(&target, &ledger, 4, 1_000, TIME).await;
    ledger.settled(&warm).await;
    let [mut quiet, mut beside]: [[Figure; 2]; 2] = Default::default();
    let (mut lost, mut pairs) = (0, 0);
    for _ in 0..ROUNDS {
        lost += measure(&target, &ledger, &mut quiet).await;
        let stop = std::sync::atomic::AtomicBool::new(false);
        let comparisons = async {
            let mut pairs = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let one = engine.compared(&engine.compare("order-router", &candidate, RUNS).await?).await?;
                pairs += one["report"]["compared"].as_u64().unwrap_or(0);
            }
            anyhow::Ok(pairs)
        };
        let load = async {
            let lost = measure(&target, &ledger, &mut beside).await;
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            lost
        };
        let (compared, missing) = tokio::join!(comparisons, load);
        pairs += compared?;
        lost += missing;
    }
    let mut table = Table::new(&["one plugin, 200/s", "end to end p50 ms", "p99 ms", "p99 ÷ quiet", "goal"]);
    let row = |name: &str, figures: &[Figure; 2], ratio: Cell, goal: &str| {
        [Cell::from(name), (&figures[0]).into(), (&figures[1]).into(), ratio, goal.into()]
    };
    table.row(row("quiet", &quiet, "".into(), ""));
    table.row(row("beside a comparison", &beside, beside[1].against(&quiet[1]).into(), "≤ 1.5"));
    table.print("Compare: effect on a running load");
    println!("  {pairs} pairs were compared beside it; {lost} events did not reach the receiver.\n");
    Ok(())
}

async fn measure(target: &Target, ledger: &std::sync::Arc<Ledger>, figures: &mut [Figure; 2]) -> usize {
    let phase = open_loop(target, ledger, RATE, TIME).await;
    ledger.settled(&phase).await;
    let report = ledger.report(phase);
    figures[0].note(report.whole.p50);
    figures[1].note(report.whole.p99);
    report.lost
}

/// Measures throughput with a plugin that has debug information, and with the same plugin built without debug information.
pub async fn run_debug(place: &Place) -> anyhow::Result<()> {
    let files = [bench_plugin(), support::crates::wasm_without_debug("bench-plugin")];
    let sizes = files.each_ref().map(Vec::len);
    let [mut with, mut without]: [[Figure; 2]; 2] = Default::default();
    for round in 0..ROUNDS * 2 {
        let at = round % 2;
        let folder = place.fresh()?;
        let engine = Engine::start(folder.path(), &[("bench-plugin", &files[at])])?;
        let ledger = Ledger::new(EVENTS + 2_000);
        engine.endpoint("receiver", &sink(&ledger).await?, &[]).await?;
        let target = Target::new(&engine.server.url, "order.created");
        let warm = closed_loop(&target, &ledger, 64, 2_000, TIME).await;
        ledger.settled(&warm).await;
        let before = engine.server.cpu();
        let phase = closed_loop(&target, &ledger, 64, EVENTS, TIME).await;
        ledger.settled(&phase).await;
        let report = ledger.report(phase);
        let figures = if at == 0 { &mut with } else { &mut without };
        figures[0].note(report.delivered_per_second());
        figures[1].note((engine.server.cpu() - before).as_secs_f64() * 1e6 / report.count.max(1) as f64);
    }
    let mut table = Table::new(&["64 callers, one plugin", "file KB", "delivered/s", "CPU µs/event"]);
    for (name, size, [rate, cpu]) in [("with debug information", sizes[0], &with), ("without", sizes[1], &without)] {
        table.row([name.into(), (size / 1_000).to_string().into(), rate.into(), cpu.into()]);
    }
    let ratio = |place: usize| with[place].against(&without[place]);
    table.row(["ratio".into(), "".into(), ratio(0).into(), ratio(1).into()]);
    table.print("Debug information: throughput with a plugin that has it, and with one that has none");
    Ok(())
}
