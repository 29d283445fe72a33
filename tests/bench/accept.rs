//! Rate of accepted events, compared with the sync rate of the same disk. No endpoint subscribes, so nothing is sent.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Place, ROUNDS,
    engine::Engine,
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, closed_loop},
};

const TIME: Duration = Duration::from_millis(1_200);
const CALLERS: usize = 256;
const EVENTS_MAX: usize = 400_000;

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
    Ok(())
}

/// Returns the highest rate that any log could reach: writes a preallocated file in blocks of 4 KiB, and syncs each block before the next one.
fn syncs_per_second(folder: &Path) -> anyhow::Result<f64> {
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
