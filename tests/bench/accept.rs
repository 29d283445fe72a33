//! Rate of accepted events, compared with the sync rate of the same disk. No endpoint subscribes, so nothing is sent.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    Place, ROUNDS,
    engine::{Engine, bench_plugin},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, closed_loop, open_loop, sink},
};

const TIME: Duration = Duration::from_millis(1_200);
const CALLERS: usize = 256;
const EVENTS_MAX: usize = 400_000;
/// Events a second that do not overlap.
const SINGLY: u32 = 50;

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let (mut raw, mut one, mut many) = (Figure::default(), Figure::default(), Figure::default());
    let (mut one_ms, mut many_ms) = (Figure::default(), Figure::default());
    let (mut one_ratio, mut many_ratio) = (Figure::default(), Figure::default());
    for _ in 0..ROUNDS {
        let folder = place.fresh()?;
        let engine = Engine::start(folder.path(), &[])?;
        let ledger = Ledger::new(EVENTS_MAX);
        let target = Target::new(&engine.server.url, "order.created");
        closed_loop(&target, &ledger, 16, 1_000, TIME).await;
        let before = syncs_per_second(folder.path())?;
        let alone = ledger.report(closed_loop(&target, &ledger, 1, EVENTS_MAX, TIME).await);
        let between = syncs_per_second(folder.path())?;
        let crowd = ledger.report(closed_loop(&target, &ledger, CALLERS, EVENTS_MAX, TIME).await);
        let after = syncs_per_second(folder.path())?;
        // The speed of a shared disk drifts, so each rate is compared with the sync rate just before and just after.
        raw.note(between);
        one_ratio.note(alone.accepted_per_second() / f64::midpoint(before, between));
        many_ratio.note(crowd.accepted_per_second() / f64::midpoint(between, after));
        one.note(alone.accepted_per_second());
        one_ms.note(alone.accept.p99);
        many.note(crowd.accepted_per_second());
        many_ms.note(crowd.accept.p99);
    }
    let mut table = Table::new(&["", "per second", "p99 ms", "÷ raw syncs", "goal"]);
    table.row(["raw 4 KiB write + fdatasync".into(), raw.into()]);
    let row = |name: &str, rate: &Figure, p99: &Figure, ratio: &Figure, goal: &str| {
        [Cell::from(name), rate.into(), p99.into(), ratio.into(), goal.into()]
    };
    table.row(row("accepted, 1 caller", &one, &one_ms, &one_ratio, "≥ 0.9"));
    table.row(row("accepted, 256 callers", &many, &many_ms, &many_ratio, "≥ 35"));
    table.print("Accept: events stored on the disk, compared with the syncs of the disk");
    // Each accept waits for a sync, so one caller cannot be faster than the disk.
    if one_ratio.highest() > 1.05 {
        println!(
            "  NOT VALID: one caller was faster than the raw syncs. The raw syncs waited for a processor, not for the disk: run it again"
        );
        println!("  on a machine that does nothing else. Both ratios of this table are too high.\n");
    }
    run_slow(place).await
}

/// The same on a disk that takes a millisecond more for a sync, as the disks of clouds do. There a commit for each event shows its price.
async fn run_slow(place: &Place) -> anyhow::Result<()> {
    let (plugin, slow) = (bench_plugin(), support::crates::slow_disk());
    let slow = slow.to_str().context("the path of the build is text")?;
    let [mut raw, mut one, mut many, mut one_ratio, mut many_ratio]: [Figure; 5] = Default::default();
    let [mut singly, mut together, mut singly_ratio, mut together_ratio]: [Figure; 4] = Default::default();
    for _ in 0..ROUNDS {
        let folder = place.fresh()?;
        let engine = Engine::start_with(folder.path(), &[("bench-plugin", &plugin)], &[("LD_PRELOAD", slow)])?;
        let ledger = Ledger::new(EVENTS_MAX);
        let receiver = sink(&ledger).await?;
        engine.endpoint("receiver", &receiver, &[]).await?;
        engine.serves_plugins(1).await?;
        let (ignored, delivered) = ("ignored", "order.created");
        let load = async |event_type, callers| {
            let target = Target::new(&engine.server.url, event_type);
            closed_loop(&target, &ledger, callers, EVENTS_MAX, TIME).await
        };
        load(ignored, 16).await;
        let mut program = Command::new(std::env::current_exe()?);
        let counted = program.arg("raw-syncs").arg(folder.path()).env("LD_PRELOAD", slow).output()?;
        let syncs: f64 = String::from_utf8(counted.stdout)?.trim().parse().context("the raw syncs are not counted")?;
        raw.note(syncs);
        for (callers, rate, ratio) in [(1, &mut one, &mut one_ratio), (CALLERS, &mut many, &mut many_ratio)] {
            let per_second = ledger.report(load(ignored, callers).await).accepted_per_second();
            rate.note(per_second);
            ratio.note(per_second / syncs);
        }
        // The events do not overlap, so each has its own commits.
        let target = Target::new(&engine.server.url, delivered);
        let phase = open_loop(&target, &ledger, SINGLY, TIME).await;
        ledger.settled(&phase).await;
        let alone = 1_000.0 / ledger.report(phase).whole.p50;
        let phase = load(delivered, CALLERS).await;
        ledger.settled(&phase).await;
        let crowd = ledger.report(phase).delivered_per_second();
        singly.note(alone);
        together.note(crowd);
        singly_ratio.note(alone / syncs);
        together_ratio.note(crowd / alone);
    }
    let mut table = Table::new(&["a sync takes 1 ms longer", "per second", "÷", "", "goal"]);
    let row = |name: &str, rate: &Figure, ratio: &Figure, to: &str, goal: &str| {
        [Cell::from(name), rate.into(), ratio.into(), to.into(), goal.into()]
    };
    table.row(["raw 4 KiB write + fdatasync".into(), Cell::from(&raw)]);
    table.row(row("accepted, 1 caller", &one, &one_ratio, "raw syncs", "≥ 0.9"));
    table.row(row("accepted, 256 callers", &many, &many_ratio, "raw syncs", "≥ 35"));
    table.row(row("delivered through a plugin, one event after another", &singly, &singly_ratio, "raw syncs", ""));
    table.row(row("delivered through a plugin, 256 callers", &together, &together_ratio, "one after another", "≥ 20"));
    table.print("Accept: a disk with slow syncs");
    Ok(())
}

/// Returns the highest rate that any log could reach: writes a preallocated file in blocks of 4 KiB, and syncs each block before the next one.
pub fn syncs_per_second(folder: &Path) -> anyhow::Result<f64> {
    const PAGES: u64 = 1_024;
    let file = File::create(folder.join("raw"))?;
    let page = [7; 4_096];
    for at in 0..PAGES {
        file.write_all_at(&page, at * 4_096)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_millis(500) {
        file.write_all_at(&page, count % PAGES * 4_096)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
