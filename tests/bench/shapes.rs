//! The cost of an event by its shape: how many plugins run for it, how many endpoints receive it, and whether it comes alone or in a batch.

use std::time::Duration;

use super::{
    Place, ROUNDS,
    engine::{Engine, bench_plugin},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, closed_loop, sink},
};

const EVENTS: usize = 10_000;
const WARM_UP: usize = 1_000;
const TIME: Duration = Duration::from_secs(20);

struct Shape {
    name: &'static str,
    plugins: usize,
    /// Number of endpoints that receive each event.
    endpoints: usize,
    /// Number of events in a request.
    batch: usize,
}

const SHAPES: [Shape; 6] = [
    Shape { name: "no plugin", plugins: 0, endpoints: 1, batch: 1 },
    Shape { name: "no plugin, batches of 100", plugins: 0, endpoints: 1, batch: 100 },
    Shape { name: "no plugin, fan-out of 10", plugins: 0, endpoints: 10, batch: 1 },
    Shape { name: "one plugin", plugins: 1, endpoints: 1, batch: 1 },
    Shape { name: "one plugin, batches of 100", plugins: 1, endpoints: 1, batch: 100 },
    Shape { name: "three plugins, of which two do nothing", plugins: 3, endpoints: 1, batch: 1 },
];

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let mut figures: [[Figure; 3]; SHAPES.len()] = Default::default();
    for round in 0..ROUNDS {
        for nth in 0..SHAPES.len() {
            let at = (nth + round) % SHAPES.len();
            measure(place, &SHAPES[at], &mut figures[at]).await?;
        }
    }
    let mut table = Table::new(&["64 callers (batches: 4)", "events/s", "webhooks/s", "CPU µs/event", "÷ first row"]);
    for (shape, [events, webhooks, cpu]) in SHAPES.iter().zip(&figures) {
        table.row([shape.name.into(), events.into(), webhooks.into(), Cell::from(cpu), cpu.against(&figures[0][2]).into()]);
    }
    table.print("Shapes of an event");
    Ok(())
}

async fn measure(place: &Place, shape: &Shape, figures: &mut [Figure; 3]) -> anyhow::Result<()> {
    let folder = place.fresh()?;
    let mut plugins = Vec::new();
    if shape.plugins > 0 {
        plugins.push(("bench-plugin".to_owned(), bench_plugin()));
    }
    for nth in 1..shape.plugins {
        let name = format!("p{nth}");
        let file = support::guests::build("no-op", &name, &["order.created"]);
        plugins.push((name, file));
    }
    let files: Vec<(&str, &[u8])> = plugins.iter().map(|(name, file)| (name.as_str(), file.as_slice())).collect();
    let engine = Engine::start(folder.path(), &files)?;
    let ledger = Ledger::new(WARM_UP + EVENTS);
    let receiver = sink(&ledger).await?;
    // A plugin sends to `receiver`; without a plugin, the endpoints subscribe.
    let types: &[&str] = if shape.plugins == 0 { &["order.*"] } else { &[] };
    engine.endpoint("receiver", &receiver, types).await?;
    // Only the first webhook of an event is counted. The other endpoints send to a receiver that counts nothing.
    let uncounted = Ledger::new(0);
    let others = sink(&uncounted).await?;
    for nth in 1..shape.endpoints {
        engine.endpoint(&format!("receiver-{nth}"), &others, &["order.*"]).await?;
    }
    let target = Target::batch(&engine.server.url, "order.created", shape.batch);
    let target = if shape.batch == 1 { Target::new(&engine.server.url, "order.created") } else { target };
    let callers = if shape.batch == 1 { 64 } else { 4 };
    let warm = closed_loop(&target, &ledger, callers, WARM_UP, TIME).await;
    ledger.settled(&warm).await;
    let used = engine.server.cpu();
    let phase = closed_loop(&target, &ledger, callers, EVENTS, TIME).await;
    ledger.settled(&phase).await;
    engine.no_delivery_is("pending").await?;
    let report = ledger.report(phase);
    figures[0].note(report.delivered_per_second());
    figures[1].note(report.delivered_per_second() * shape.endpoints as f64);
    figures[2].note((engine.server.cpu() - used).as_secs_f64() * 1e6 / report.count.max(1) as f64);
    Ok(())
}
