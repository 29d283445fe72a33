//! A receiver is dead while a million events arrive for it: what waits must not take memory or slow down other events, and is delivered
//! quickly once the receiver answers again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Place, ROUNDS,
    engine::Engine,
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, closed_loop, refused, sink, sink_at},
};

/// Number of events that wait for the dead receiver.
const WAITING: usize = 1_000_000;
/// The memory is read each time this many events wait.
const STEP: usize = 200_000;
const BATCH: usize = 100;
const EVENTS: usize = 20_000;
const TIME: Duration = Duration::from_secs(20);
const FILL_TIME: Duration = Duration::from_secs(600);
const DRAIN_TIME: Duration = Duration::from_secs(900);

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let folder = place.fresh()?;
    let engine = Engine::start(folder.path(), &[])?;
    let ledger = Ledger::new(2 * ROUNDS * EVENTS);
    let dead = refused().await?;
    engine.endpoint("healthy", &sink(&ledger).await?, &["order.*"]).await?;
    engine.endpoint("dead", &dead, &["late.*"]).await?;
    let [mut before, mut beside]: [[Figure; 3]; 2] = Default::default();
    for _ in 0..ROUNDS {
        measure(&engine, &ledger, &mut before).await;
    }

    let mut table = Table::new(&["events that wait", "memory MB", "accepted/s"]);
    table.row(["0".into(), engine.server.resident_mb().into(), "".into()]);
    let late = Ledger::new(WAITING);
    let batches = Target::batch(&engine.server.url, "late.created", BATCH);
    let mut waiting = 0;
    while waiting < WAITING {
        let phase = closed_loop(&batches, &late, 4, STEP, FILL_TIME).await;
        anyhow::ensure!(phase.len() == STEP, "only {} of {STEP} events were accepted in time", phase.len());
        waiting += STEP;
        let accepted = late.report(phase).accepted_per_second();
        table.row([waiting.to_string().into(), engine.server.resident_mb().into(), accepted.into()]);
    }
    table.print("Dead receiver: memory while its events wait");

    for _ in 0..ROUNDS {
        measure(&engine, &ledger, &mut beside).await;
    }
    sink_at(&late, &dead).await?;
    engine.resume("dead").await?;
    let (began, used) = (Instant::now(), engine.server.cpu());
    while late.count_arrived() < WAITING && began.elapsed() < DRAIN_TIME {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let arrived = late.count_arrived();
    let drained = Figure::from(arrived as f64 / began.elapsed().as_secs_f64());
    let cpu = (engine.server.cpu() - used).as_secs_f64() * 1e6 / arrived.max(1) as f64;

    let mut table = Table::new(&["64 callers, no plugin", "accepted/s", "delivered/s", "CPU µs/event", "memory MB"]);
    table.row(["before".into(), (&before[0]).into(), (&before[1]).into(), (&before[2]).into()]);
    table.row([format!("while {WAITING} events wait").into(), (&beside[0]).into(), (&beside[1]).into(), (&beside[2]).into()]);
    let ratio = |nth: usize| Cell::from(beside[nth].against(&before[nth]));
    table.row(["ratio".into(), ratio(0), ratio(1), ratio(2)]);
    table.row([
        "the receiver answers again".into(),
        "".into(),
        drained.clone().into(),
        cpu.into(),
        engine.server.peak_mb().into(),
    ]);
    let peak = before[1].median();
    table.row(["÷ before".into(), "".into(), (drained.median() / peak).into()]);
    table.row(["goal", "≥ 0.8", "≥ 0.8", "", "flat"].map(Cell::from));
    table.print("Dead receiver: other events, and the time after");
    println!("  {} of {WAITING} events were not delivered.\n", WAITING - arrived);
    Ok(())
}

/// Measures events to the healthy receiver: accepted and delivered a second, and processor time per event.
async fn measure(engine: &Engine, ledger: &Arc<Ledger>, figures: &mut [Figure; 3]) {
    let target = Target::new(&engine.server.url, "order.created");
    let used = engine.server.cpu();
    let phase = closed_loop(&target, ledger, 64, EVENTS, TIME).await;
    ledger.settled(&phase).await;
    let report = ledger.report(phase);
    figures[0].note(report.accepted_per_second());
    figures[1].note(report.delivered_per_second());
    figures[2].note((engine.server.cpu() - used).as_secs_f64() * 1e6 / report.count.max(1) as f64);
}
