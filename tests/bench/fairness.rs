//! What a healthy receiver notices of a dead one and of a hanging one that get the same events.

use std::time::Duration;

use super::{
    Place, ROUNDS,
    engine::Engine,
    figures::{Figure, Table},
    load::{Ledger, Target, hanging, open_loop, refused, sink},
};

const RATE: u32 = 200;
const TIME: Duration = Duration::from_secs(3);
const BESIDE: [&str; 3] = ["alone", "beside a refused one", "beside a hanging one"];

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let mut figures: [(Figure, Figure); 3] = Default::default();
    let mut lost = 0;
    for round in 0..ROUNDS {
        for nth in 0..BESIDE.len() {
            let at = (nth + round) % BESIDE.len();
            let folder = place.fresh()?;
            let ledger = Ledger::new(4_000);
            let engine = Engine::start(folder.path(), &[])?;
            engine.endpoint("healthy", &sink(&ledger).await?, &["order.*"]).await?;
            match at {
                0 => {}
                1 => engine.endpoint("dead", &refused().await?, &["order.*"]).await?,
                _ => engine.endpoint("hanging", &hanging().await?, &["order.*"]).await?,
            }
            let target = Target::new(&engine.server.url, "order.created");
            let warm = open_loop(&target, &ledger, RATE, Duration::from_secs(1)).await;
            ledger.settled(&warm).await;
            let phase = open_loop(&target, &ledger, RATE, TIME).await;
            ledger.settled(&phase).await;
            let report = ledger.report(phase);
            lost += report.lost;
            figures[at].0.note(report.whole.p50);
            figures[at].1.note(report.whole.p99);
        }
    }
    let mut table = Table::new(&["healthy receiver", "end to end p50 ms", "p99 ms", "p99 ÷ alone", "goal"]);
    for (name, (p50, p99)) in BESIDE.iter().zip(&figures) {
        let goal = if *name == BESIDE[0] { "" } else { "≤ 2" };
        let cells = [p50.to_string(), p99.to_string(), p99.against(&figures[0].1).to_string(), goal.to_owned()];
        table.row([(*name).to_owned()].into_iter().chain(cells));
    }
    table.print("Fairness: 200 events a second to a healthy receiver and to a bad one");
    println!("  {lost} events did not reach the healthy receiver.\n");
    Ok(())
}
