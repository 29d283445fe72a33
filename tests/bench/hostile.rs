//! Effect of hostile plugins on the events of a well-behaved one.

use std::{fmt::Write as _, time::Duration};

use support::guests;

use super::{
    Place, ROUNDS,
    engine::{self, Engine},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, open_loop, sink},
};

/// Events per second to the good plugin. The hostile plugins together get as many.
const RATE: u32 = 200;
const TIME: Duration = Duration::from_secs(3);

const HOSTILE: [&str; 4] = ["endless-loop", "memory-bomb", "trap", "log-flood"];

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let good = engine::bench_plugin();
    let guests = HOSTILE.map(|name| (name, guests::build(name, name, &[&format!("hostile.{name}")])));
    let mut plugins: Vec<(&str, &[u8])> = vec![("bench-plugin", &good)];
    plugins.extend(guests.iter().map(|(name, file)| (*name, &file[..])));
    let mut figures: [Figure; 4] = Default::default();
    let mut ends = String::new();
    let mut lost = 0;
    for round in 0..ROUNDS {
        let folder = place.fresh()?;
        let ledger = Ledger::new(20_000);
        // Without quarantine: a plugin that is held would not disturb others.
        let mut engine = Engine::start_with(folder.path(), &plugins, &[("INNESCO_PLUGIN_QUARANTINE", "0")])?;
        engine.serves_plugins(plugins.len()).await?;
        engine.endpoint("receiver", &sink(&ledger).await?, &[]).await?;
        let target = Target::new(&engine.server.url, "order.created");
        let warm = open_loop(&target, &ledger, RATE, Duration::from_secs(1)).await;
        ledger.settled(&warm).await;
        let phase = open_loop(&target, &ledger, RATE, TIME).await;
        ledger.settled(&phase).await;
        let quiet = ledger.report(phase);
        // Each hostile plugin runs once, so that the report can show how it ends.
        for name in HOSTILE {
            let run = engine.run_once(&format!("hostile.{name}")).await?;
            if round == 0 {
                let dropped = run["log_dropped"].as_u64().filter(|dropped| *dropped > 0);
                let dropped = dropped.map(|dropped| format!(", {dropped} lines dropped")).unwrap_or_default();
                let outcome = run["outcome"].as_str().unwrap_or_default();
                let millis = run["duration_ms"].as_f64().map(|ms| format!(" after {ms:.0} ms")).unwrap_or_default();
                write!(ends, "{}{name}: {outcome}{millis}{dropped}", if ends.is_empty() { "" } else { "; " })?;
            }
        }
        let others = Ledger::new(20_000);
        let attacks = HOSTILE.map(|name| Target::new(&engine.server.url, &format!("hostile.{name}")));
        let [a, b, c, d] = attacks.each_ref().map(|target| open_loop(target, &others, RATE / 4, TIME));
        let (phase, ..) = tokio::join!(open_loop(&target, &ledger, RATE, TIME), a, b, c, d);
        ledger.settled(&phase).await;
        let storm = ledger.report(phase);
        anyhow::ensure!(!engine.server.has_ended(), "the engine has ended");
        for (figure, value) in figures.iter_mut().zip([quiet.whole.p50, quiet.whole.p99, storm.whole.p50, storm.whole.p99]) {
            figure.note(value);
        }
        lost += quiet.lost + storm.lost;
    }
    let [quiet_p50, quiet_p99, storm_p50, storm_p99] = &figures;
    let mut table = Table::new(&["a good plugin's events", "quiet", "beside four hostile plugins", "ratio", "goal"]);
    let row = |name: &str, quiet: &Figure, storm: &Figure, goal: &str| {
        [Cell::from(name), quiet.into(), storm.into(), storm.against(quiet).into(), goal.into()]
    };
    table.row(row("end to end p50 ms", quiet_p50, storm_p50, ""));
    table.row(row("end to end p99 ms", quiet_p99, storm_p99, "≤ 3"));
    table.print("Hostile plugins: 200 good events a second, then as many hostile ones beside them");
    println!("  {ends}");
    println!("  {lost} good events did not arrive.\n");
    Ok(())
}
