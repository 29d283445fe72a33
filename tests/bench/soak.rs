//! Load at half of the engine's peak rate for a given time, with a dead receiver among healthy ones. It shows whether memory, open files, the
//! log or latency grows.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

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
    println!(
        "  {:>7}  {:>8}  {:>6}  {:>7}  {:>8}  {:>8}  {:>6}  {:>8}",
        "after", "RSS MB", "files", "log kB", "p50 ms", "p99 ms", "lost", "sync ms"
    );
    let syncs = Syncs::start(folder.path())?;
    let start = Instant::now();
    let mut samples = Vec::new();
    while start.elapsed() < time {
        ledger.clear();
        syncs.take_slowest_ms();
        let phase = open_loop(&target, &ledger, rate, EVERY.min(time.saturating_sub(start.elapsed()))).await;
        ledger.settled(&phase).await;
        anyhow::ensure!(!engine.server.has_ended(), "the engine has ended");
        let (report, resident, files) = (ledger.report(phase), engine.server.resident_mb(), engine.server.open_files());
        let log = std::fs::metadata(folder.path().join("log"))?.len() as f64 / 1e3;
        println!(
            "  {:>6}s  {resident:>8.1}  {files:>6}  {log:>7.1}  {:>8.2}  {:>8.2}  {:>6}  {:>8.1}",
            start.elapsed().as_secs(),
            report.whole.p50,
            report.whole.p99,
            report.lost,
            syncs.take_slowest_ms()
        );
        samples.push([resident, files as f64, report.whole.p50, report.whole.p99]);
    }
    // A single sample is noisy, so a median of ten is compared with a median of ten.
    let (first, last) = (&samples[..samples.len().min(10)], &samples[samples.len().saturating_sub(10)..]);
    let ratio = |at: usize| {
        let median = |of: &[[f64; 4]]| {
            let mut sorted: Vec<f64> = of.iter().map(|sample| sample[at]).collect();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        };
        median(last) / median(first)
    };
    if !samples.is_empty() {
        let [resident, files, p50, p99] = [0, 1, 2, 3].map(ratio);
        println!(
            "\n  last ten samples ÷ first ten: RSS {resident:.2}, open files {files:.2}, p50 {p50:.2}, p99 {p99:.2}; peak RSS {:.0} MB\n",
            engine.server.peak_mb()
        );
    }
    Ok(())
}

/// Syncs another file beside the engine's files, twenty times a second, and keeps the longest time: how slow the disk was.
struct Syncs(Arc<AtomicU64>);

impl Syncs {
    fn start(folder: &Path) -> std::io::Result<Self> {
        let file = File::create(folder.join("syncs"))?;
        let slowest = Arc::new(AtomicU64::new(0));
        let noted = Arc::downgrade(&slowest);
        thread::spawn(move || {
            while let Some(slowest) = noted.upgrade() {
                let began = Instant::now();
                file.write_all_at(&[7; 4_096], 0).and_then(|()| file.sync_data()).expect("the disk takes a page");
                slowest.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                drop(slowest);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(Self(slowest))
    }

    /// Returns the longest sync since the last call, in milliseconds.
    fn take_slowest_ms(&self) -> f64 {
        self.0.swap(0, Ordering::Relaxed) as f64 / 1e3
    }
}
