//! Effect of deleting many old events on callers. The same load runs on the same full store: first while no old event may be
//! deleted, then while all may.

use std::time::Duration;

use super::{
    Place, ROUNDS,
    engine::Engine,
    figures::{Cell, Figure, Table},
    load::{Ledger, Report, Target, closed_loop, open_loop},
};

/// Number of old events, which are deleted in the second part.
const OLD: usize = 100_000;
const RATE: u32 = 200;
const TIME: Duration = Duration::from_secs(8);

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let [mut still, mut leaving, mut ratio] = std::array::from_fn(|_| [Figure::default(), Figure::default(), Figure::default()]);
    let mut left = Figure::default();
    for _ in 0..ROUNDS {
        let folder = place.fresh()?;
        let engine = Engine::start(folder.path(), &[])?;
        let ledger = Ledger::new(OLD);
        // No endpoint subscribes, so each event is finished after its runs.
        closed_loop(&Target::new(&engine.server.url, "order.created"), &ledger, 64, OLD, Duration::from_secs(300)).await;
        engine.nothing_waits().await?;
        let before = engine.count_events().await?;
        drop(engine);

        let quiet = measure(&Engine::start(folder.path(), &[])?).await;
        let short = [("INNESCO_RETENTION_UNROUTED", "1ms")];
        let engine = Engine::start_with(folder.path(), &[], &short)?;
        let busy = measure(&engine).await;
        left.note((before + quiet.count + busy.count).saturating_sub(engine.count_events().await?) as f64);
        for (nth, (quiet, busy)) in figures(&quiet).into_iter().zip(figures(&busy)).enumerate() {
            still[nth].note(quiet);
            leaving[nth].note(busy);
            ratio[nth].note(busy / quiet);
        }
    }
    let mut table = Table::new(&["accept, 200/s", "p50 ms", "p99 ms", "longest ms"]);
    let row =
        |name: &str, figures: &[Figure; 3]| [Cell::from(name), (&figures[0]).into(), (&figures[1]).into(), (&figures[2]).into()];
    table.row(row("nothing is deleted", &still));
    table.row(row("old events are deleted", &leaving));
    table.row(row("ratio", &ratio));
    table.print("Retention: how long a caller waits while old events are deleted");
    println!("  {left} events were deleted in {} s of it\n", TIME.as_secs());
    Ok(())
}

async fn measure(engine: &Engine) -> Report {
    let ledger = Ledger::new(RATE as usize * TIME.as_secs() as usize);
    let phase = open_loop(&Target::new(&engine.server.url, "order.created"), &ledger, RATE, TIME).await;
    ledger.report(phase)
}

fn figures(report: &Report) -> [f64; 3] {
    [report.accept.p50, report.accept.p99, report.accept.longest]
}
