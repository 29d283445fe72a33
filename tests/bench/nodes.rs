//! Measures one, two and three nodes on one Postgres: deliveries, and their cost for the database and the nodes. These share the cores
//! of this machine with the load and the receiver, so the first row that uses all cores is the limit.

use std::time::{Duration, Instant};

use super::{
    Place, ROUNDS,
    engine::Engine,
    figures::{Figure, Table},
    load::{Ledger, Target, closed_loop_over, sink},
    postgres::PostgresServer,
    process::{own_cpu, tree_cpu},
};

const NODES: [usize; 3] = [1, 2, 3];
const WARM_UP: usize = 1_000;
const EVENTS: usize = 10_000;
const CALLERS: usize = 96;
const TIME_MAX: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Figures {
    delivered: Figure,
    database: Figure,
    nodes: Figure,
    busy: Figure,
}

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let server = PostgresServer::start(true);
    let mut figures: [Figures; 3] = Default::default();
    let mut lost = 0;
    for round in 0..ROUNDS {
        for nth in 0..NODES.len() {
            let at = (nth + round) % NODES.len();
            lost += measure(place, &server, NODES[at], &mut figures[at]).await?;
        }
    }
    let head = ["nodes", "delivered/s", "÷ one node", "database CPU µs/event", "nodes CPU µs/event", "cores used"];
    let mut table = Table::new(&head);
    for (count, of) in NODES.iter().zip(&figures) {
        table.row([
            count.to_string().into(),
            (&of.delivered).into(),
            of.delivered.against(&figures[0].delivered).into(),
            (&of.database).into(),
            (&of.nodes).into(),
            (&of.busy).into(),
        ]);
    }
    table.print("Nodes: events in, one webhook each, over one Postgres that syncs every commit");
    println!("  {lost} of the accepted events were not delivered.\n");
    Ok(())
}

/// Measures this many nodes. Returns the number of lost events.
async fn measure(place: &Place, server: &PostgresServer, count: usize, figures: &mut Figures) -> anyhow::Result<usize> {
    let folder = place.fresh()?;
    let url = server.url(&server.database());
    let key = folder.path().join("master.key").display().to_string();
    let mut engines = Vec::new();
    for nth in 0..count {
        let home = folder.path().join(nth.to_string());
        engines.push(Engine::start_with(&home, &[], &[("INNESCO_STORE", &url), ("INNESCO_MASTER_KEY_FILE", &key)])?);
    }
    let ledger = Ledger::new(WARM_UP + EVENTS);
    engines[0].endpoint("receiver", &sink(&ledger).await?, &["order.*"]).await?;
    for engine in &engines {
        engine.knows_endpoints(1).await?;
    }
    let targets: Vec<_> = engines.iter().map(|engine| Target::new(&engine.server.url, "order.created")).collect();
    let warm = closed_loop_over(&targets, &ledger, CALLERS, WARM_UP, TIME_MAX).await;
    ledger.settled(&warm).await;

    let used = || {
        let nodes: Duration = engines.iter().map(|engine| engine.server.cpu()).sum();
        [tree_cpu(server.pid()), nodes, own_cpu()]
    };
    let (before, began) = (used(), Instant::now());
    let phase = closed_loop_over(&targets, &ledger, CALLERS, EVENTS, TIME_MAX).await;
    ledger.settled(&phase).await;
    let (after, took) = (used(), began.elapsed());
    let report = ledger.report(phase);
    let spent = |nth: usize| (after[nth] - before[nth]).as_secs_f64();
    let per_event = |seconds: f64| seconds * 1e6 / report.count.max(1) as f64;
    figures.delivered.note(report.delivered_per_second());
    figures.database.note(per_event(spent(0)));
    figures.nodes.note(per_event(spent(1)));
    figures.busy.note((0..3).map(spent).sum::<f64>() / took.as_secs_f64());
    Ok(report.lost)
}
