//! Load at half of the engine's peak rate for a given time, with a dead receiver among healthy ones. It shows whether memory or latency grows.

use std::time::{Duration, Instant};

use super::{
    Place,
    engine::{self, Engine},
    load::{Ledger, Target, closed_loop, open_loop, refused, sink},
};

const EVERY: Duration = Duration::from_secs(30);
const PEAK_EVENTS: usize = 20_000;
const EVENTS_MAX: usize = 1_000_000;

pub async fn run(place: &Place, time: Duration) -> anyhow::Result<()> {
    let plugin = engine::bench_plugin();
    let folder = place.fresh()?;
    let ledger = Ledger::new(EVENTS_MAX);
    let mut engine = Engine::start(folder.path(), &[("bench-plugin", &plugin)])?;
    engine.endpoint("receiver", &sink(&ledger).await?, &[]).await?;
    // Only webhooks of the plugin to `receiver` are counted. The other endpoints only add load.
    let uncounted = Ledger::new(0);
    engine.endpoint("second", &sink(&uncounted).await?, &["order.*"]).await?;
    engine.endpoint("dead", &refused().await?, &["order.*"]).await?;
    let target = Target::new(&engine.server.url, "order.created");
    let warm = closed_loop(&target, &ledger, 64, 2_000, EVERY).await;
    ledger.settled(&warm).await;
    let peak = closed_loop(&target, &ledger, 64, PEAK_EVENTS, EVERY).await;
    ledger.settled(&peak).await;
    let peak = ledger.report(peak).delivered_per_second();
    let rate = ((peak / 2.0) as u32).max(1);
    println!(
        "peak {peak:.0} events/s to three endpoints, of which one is dead; soaking at {rate}/s for {} min\n",
        time.as_secs() / 60
    );
    println!("  {:>7}  {:>8}  {:>8}  {:>8}  {:>6}", "after", "RSS MB", "p50 ms", "p99 ms", "lost");
    let start = Instant::now();
    let mut samples = Vec::new();
    while start.elapsed() < time {
        ledger.clear();
        let phase = open_loop(&target, &ledger, rate, EVERY.min(time.saturating_sub(start.elapsed()))).await;
        ledger.settled(&phase).await;
        anyhow::ensure!(!engine.server.has_ended(), "the engine has ended");
        let (report, resident) = (ledger.report(phase), engine.server.resident_mb());
        println!(
            "  {:>6}s  {resident:>8.1}  {:>8.2}  {:>8.2}  {:>6}",
            start.elapsed().as_secs(),
            report.whole.p50,
            report.whole.p99,
            report.lost
        );
        samples.push((resident, report.whole.p99));
    }
    if let [first, .., last] = samples[..] {
        println!(
            "\n  last ÷ first: RSS {:.2}, p99 {:.2}; peak RSS {:.0} MB\n",
            last.0 / first.0,
            last.1 / first.1,
            engine.server.peak_mb()
        );
    }
    Ok(())
}
