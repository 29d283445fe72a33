//! Throughput of an engine whose store is full of delivered webhooks, compared with an empty one, and the cost of deleting them.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Place, ROUNDS,
    engine::{Engine, bench_plugin},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, closed_loop, sink},
};

/// Each stored event has one delivery to each of these endpoints.
const ENDPOINTS: [&str; 5] = ["crm", "billing", "warehouse", "chat", "archive"];
/// Number of deliveries of a stored event.
pub const DELIVERIES: i64 = ENDPOINTS.len() as i64;
/// Time over which the events are spread; shorter than the age at which retention deletes them.
const SPREAD: Duration = Duration::from_secs(86_400);
/// Numbers of stored events. The first store is nearly empty, the others hold a million and ten million deliveries.
const SIZES: [i64; 3] = [2, 200_000, 2_000_000];
const EVENTS: usize = 20_000;
const WARM_UP: usize = 2_000;
/// Number of events that one call of [`measure`] sends.
pub const MEASURED: usize = WARM_UP + EVENTS;
const TIME: Duration = Duration::from_secs(20);

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let ledger = Ledger::new((SIZES.len() + 2) * ROUNDS * MEASURED + SIZES.len());
    let receiver = sink(&ledger).await?;
    let mut engines = Vec::new();
    for events in SIZES {
        let folder = stored(place, events, &ledger, &receiver).await?;
        engines.push((Engine::start(folder.path(), &[])?, folder));
    }
    let mut figures: [[Figure; 2]; SIZES.len()] = Default::default();
    for round in 0..ROUNDS {
        for nth in 0..SIZES.len() {
            let at = (nth + round) % SIZES.len();
            measure(&engines[at].0, &ledger, &mut figures[at]).await;
        }
    }
    let mut table =
        Table::new(&["64 callers, one plugin", "delivered/s", "÷ empty", "goal", "CPU µs/event", "÷ empty", "memory MB"]);
    for ((events, [rate, cpu]), (engine, _)) in SIZES.iter().zip(&figures).zip(&engines) {
        let name = format!("{} stored deliveries", events * DELIVERIES);
        let [empty_rate, empty_cpu] = &figures[0];
        let goal = if *events == SIZES[0] { "" } else { "≥ 0.9" };
        let memory = Cell::from(engine.server.resident_mb());
        table.row([
            name.into(),
            rate.into(),
            rate.against(empty_rate).into(),
            goal.into(),
            cpu.into(),
            cpu.against(empty_cpu).into(),
            memory,
        ]);
    }
    table.print("Stored deliveries: throughput");

    // The same store, with and without deletion of old events.
    let folder = engines.pop().context("the largest store is the last")?.1;
    drop(engines);
    let [mut still, mut leaving]: [[Figure; 2]; 2] = Default::default();
    let mut deleted = Figure::default();
    for _ in 0..ROUNDS {
        let engine = Engine::start(folder.path(), &[])?;
        measure(&engine, &ledger, &mut still).await;
        drop(engine);
        let short = [("INNESCO_RETENTION_DELIVERED", "1h"), ("INNESCO_RETENTION_DEAD", "1h")];
        let engine = Engine::start_with(folder.path(), &[], &short)?;
        let before = oldest(folder.path())?;
        measure(&engine, &ledger, &mut leaving).await;
        deleted.note((oldest(folder.path())? - before) as f64);
    }
    let mut table = Table::new(&["the largest store", "delivered/s", "CPU µs/event"]);
    table.row(["nothing is deleted".into(), (&still[0]).into(), (&still[1]).into()]);
    table.row(["old events are deleted".into(), (&leaving[0]).into(), (&leaving[1]).into()]);
    table.row(["ratio".into(), leaving[0].against(&still[0]).into(), leaving[1].against(&still[1]).into()]);
    table.row(["goal", "≥ 0.9", ""].map(Cell::from));
    table.print("Stored deliveries: the cost of retention");
    println!("  {deleted} events were deleted in each measurement.\n");
    Ok(())
}

/// Returns the position of the oldest stored event.
fn oldest(folder: &Path) -> anyhow::Result<i64> {
    let db = rusqlite::Connection::open(folder.join("data/innesco.db"))?;
    Ok(db.query_row("SELECT min(id) FROM event", [], |row| row.get(0))?)
}

/// Measures one load: delivered events a second, and processor time of the server for each event.
pub async fn measure(engine: &Engine, ledger: &Arc<Ledger>, figures: &mut [Figure; 2]) {
    let target = Target::new(&engine.server.url, "order.created");
    let warm = closed_loop(&target, ledger, 64, WARM_UP, TIME).await;
    ledger.settled(&warm).await;
    let used = engine.server.cpu();
    let phase = closed_loop(&target, ledger, 64, EVENTS, TIME).await;
    ledger.settled(&phase).await;
    let report = ledger.report(phase);
    figures[0].note(report.delivered_per_second());
    figures[1].note((engine.server.cpu() - used).as_secs_f64() * 1e6 / report.count.max(1) as f64);
}

/// Returns the folder of an engine with one plugin, a source, and so many stored events, each with its deliveries. The load with type
/// `order.*` goes through the plugin to the receiver.
pub async fn stored(place: &Place, events: i64, ledger: &Arc<Ledger>, receiver: &str) -> anyhow::Result<tempfile::TempDir> {
    let (folder, plugin) = (place.fresh()?, bench_plugin());
    let mut engine = Engine::start(folder.path(), &[("bench-plugin", &plugin)])?;
    for name in ENDPOINTS {
        engine.endpoint(name, receiver, &["sample.*"]).await?;
    }
    engine.endpoint("receiver", receiver, &[]).await?;
    engine.source("github", "github").await?;
    let sample = Target::new(&engine.server.url, "sample.created");
    closed_loop(&sample, ledger, 1, 1, TIME).await;
    engine.nothing_waits().await?;
    engine.no_delivery_is("pending").await?;
    ensure!(engine.server.terminate(Duration::from_secs(30)).is_some(), "the engine does not stop");
    drop(engine);
    let filling = Instant::now();
    fill(&folder.path().join("data/innesco.db"), events).context("the store cannot be filled")?;
    println!("  {} deliveries stored in {:.0} s", events * DELIVERIES, filling.elapsed().as_secs_f64());
    Ok(folder)
}

/// Copies the only event of a store many times, with its deliveries and attempts. One delivery in a hundred is dead, one in a hundred is
/// cancelled.
fn fill(file: &Path, events: i64) -> anyhow::Result<()> {
    let db = rusqlite::Connection::open(file)?;
    let step = i64::try_from(SPREAD.as_millis())? / events;
    let numbers = format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})", events - 1);
    // The bits of ids are explained in engine/src/domain/id.rs.
    db.execute_batch(&format!(
        "PRAGMA synchronous = OFF; BEGIN IMMEDIATE;
         CREATE TEMP TABLE first AS SELECT id, accepted_at - {events} * {step} AS at FROM event;
         UPDATE event SET accepted_at = (SELECT at FROM first);
         {numbers} INSERT INTO event (id, accepted_at, source, caller_id, type, subject, time, content_type, attributes, depth, cause,
             codec, data, request, body)
         SELECT event.id + i, accepted_at + i * {step}, source, caller_id, 'sample.' || (i % 20), 'order/' || i, time, content_type,
             attributes, depth, cause, codec, data, request, body FROM n, event ORDER BY 1;
         UPDATE delivery SET at = (SELECT at FROM first);
         {numbers} INSERT INTO delivery (id, endpoint, round, state, reason, attempts, at, cancel_reason)
         SELECT ((first.id + i) << 14) | (delivery.id & 16383), endpoint, round,
             CASE i % 100 WHEN 7 THEN 'dead' WHEN 8 THEN 'cancelled' ELSE 'delivered' END,
             CASE i % 100 WHEN 7 THEN 'exhausted' END, attempts, delivery.at + i * {step}, NULL
         FROM n, first, delivery ORDER BY 1;
         UPDATE attempt SET at = (SELECT at FROM first);
         {numbers} INSERT INTO attempt (id, at, outcome, status, latency_us, detail, excerpt, retry_after_ms, sent)
         SELECT ((first.id + i) << 22) | (attempt.id & 4194303), attempt.at + i * {step}, outcome, status, latency_us, detail, excerpt,
             retry_after_ms, sent FROM n, first, attempt ORDER BY 1;
         DELETE FROM minute;
         INSERT INTO minute (minute, first_id) SELECT accepted_at / 60000, min(id) FROM event GROUP BY 1;
         COMMIT;",
    ))?;
    let stored: i64 = db.query_row("SELECT count(*) FROM delivery", [], |row| row.get(0))?;
    ensure!(stored == events * DELIVERIES, "{stored} deliveries are stored");
    Ok(())
}
