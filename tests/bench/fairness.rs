//! Effect on a healthy receiver of a dead and of a hanging receiver that get the same events, and of a hundred hanging receivers with
//! a thousand due retries each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{
    Place, ROUNDS,
    engine::Engine,
    figures::{Cell, Figure, Table},
    load::{Ledger, Report, Target, closed_loop, hanging, open_loop, refused, sink, turning},
};

const RATE: u32 = 200;
const TIME: Duration = Duration::from_secs(3);
/// Number of hanging endpoints, and number of retries that wait for each of them.
const HANGING: usize = 100;
const RETRIES: usize = 1_000;
/// Delay of the retries after their first attempt. After this time all of them are due.
const RETRY_AFTER: Duration = Duration::from_secs(60);
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
        let cells = [p50.into(), p99.into(), p99.against(&figures[0].1).into(), goal.into()];
        table.row([Cell::from(*name)].into_iter().chain(cells));
    }
    table.print("Fairness: 200 events a second to a healthy receiver and to a bad one");
    println!("  {lost} events did not reach the healthy receiver.\n");
    Ok(())
}

/// Measures without breakers, which would pause the hanging endpoints. Only the limit of concurrent webhooks per endpoint protects
/// the healthy one.
pub async fn run_backlog(place: &Place) -> anyhow::Result<()> {
    let folder = place.fresh()?;
    let engine = Engine::start(folder.path(), &[])?;
    let ledger = Ledger::new(40_000);
    engine.endpoint("healthy", &sink(&ledger).await?, &["order.*"]).await?;
    let turned = Arc::new(AtomicBool::new(false));
    let url = turning(Arc::clone(&turned)).await?;
    for nth in 0..HANGING {
        let retry = format!("{}s", RETRY_AFTER.as_secs());
        engine
            .create(json!({
                "name": format!("hanging-{nth}"), "url": url, "events": ["fill.*"], "schedule": ["0s", retry, "1h", "1h"],
                "timeout": "60s", "breaker": { "failures": 0 },
            }))
            .await?;
    }
    let target = Target::new(&engine.server.url, "order.created");
    let [mut quiet, mut busy]: [[Figure; 2]; 2] = Default::default();
    let warm = open_loop(&target, &ledger, RATE, Duration::from_secs(2)).await;
    ledger.settled(&warm).await;
    let mut lost = 0;
    for _ in 0..ROUNDS {
        let report = measure(&target, &ledger, &mut quiet).await;
        lost += report.lost;
    }
    let filled = Ledger::new(RETRIES);
    closed_loop(&Target::new(&engine.server.url, "fill.up"), &filled, 8, RETRIES, Duration::from_secs(120)).await;
    engine.no_delivery_is("pending").await?;
    turned.store(true, Ordering::Relaxed);
    // A retry may be due up to a fifth later than planned.
    tokio::time::sleep(RETRY_AFTER.mul_f64(1.3)).await;
    for _ in 0..ROUNDS {
        let report = measure(&target, &ledger, &mut busy).await;
        lost += report.lost;
    }
    let waiting = engine.count_deliveries("retrying", 10_000).await?;
    let mut table = Table::new(&["healthy receiver", "end to end p50 ms", "p99 ms", "p99 ÷ quiet", "goal"]);
    let row = |name: &str, figures: &[Figure; 2], ratio: Cell, goal: &str| {
        [Cell::from(name), (&figures[0]).into(), (&figures[1]).into(), ratio, goal.into()]
    };
    table.row(row("before", &quiet, "".into(), ""));
    table.row(row("beside them", &busy, busy[1].against(&quiet[1]).into(), "≤ 2"));
    table.print(
        "Fairness: 200 events a second to a healthy receiver, beside 100 hanging ones with 1,000 due retries each, no breaker",
    );
    println!("  {lost} events did not reach the healthy receiver; at the end at least {waiting} retries waited.\n");
    Ok(())
}

async fn measure(target: &Target, ledger: &Arc<Ledger>, figures: &mut [Figure; 2]) -> Report {
    let phase = open_loop(target, ledger, RATE, TIME).await;
    ledger.settled(&phase).await;
    let report = ledger.report(phase);
    figures[0].note(report.whole.p50);
    figures[1].note(report.whole.p99);
    report
}
