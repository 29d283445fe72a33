//! The main table: two null relays and the engine, without a plugin and with one of two builds, under the same load, alternating.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Context as _;

use super::{
    Place, ROUNDS,
    engine::{self, Engine},
    figures::{Figure, Table},
    load::{Ledger, Report, Target, closed_loop, open_loop, sink},
    process::{Server, own_cpu},
};

const WARM_UP: usize = 2_000;
const EVENTS: usize = 20_000;
/// Time after which a closed loop ends, on a machine that is too slow for all events.
const CLOSED_MAX: Duration = Duration::from_secs(8);
const OPEN_RATE: u32 = 200;
const OPEN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Memory,
    Durable,
    Direct,
    Plugin,
    Stock,
}

impl System {
    const ALL: [Self; 5] = [Self::Memory, Self::Durable, Self::Direct, Self::Plugin, Self::Stock];

    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "null relay",
            Self::Durable => "durable null relay",
            Self::Direct => "engine, no plugin",
            Self::Plugin => "engine, one plugin",
            Self::Stock => "engine, stock plugin",
        }
    }

    /// Starts a fresh process, a relay or the engine, in an empty folder. The process sends everything to `target`.
    async fn start(self, folder: &Path, target: &str, plugins: &Plugins) -> anyhow::Result<Server> {
        let relay = |more: &[&Path]| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["null-relay", target]).args(more);
            Server::start(command)
        };
        match self {
            Self::Memory => relay(&[]),
            Self::Durable => relay(&[folder]),
            Self::Direct => {
                let engine = Engine::start(folder, &[])?;
                engine.endpoint("receiver", target, &["order.*"]).await?;
                Ok(engine.server)
            }
            Self::Plugin | Self::Stock => {
                let file = if self == Self::Plugin { &plugins.own } else { &plugins.stock };
                let engine = Engine::start(folder, &[("bench-plugin", file)])?;
                engine.endpoint("receiver", target, &[]).await?;
                Ok(engine.server)
            }
        }
    }
}

/// The plugin's file from the same source, built in two ways.
struct Plugins {
    /// Built like the plugins of this repository.
    own: Vec<u8>,
    /// Built as cargo builds a crate by default.
    stock: Vec<u8>,
}

/// The results of one phase.
struct Measured {
    report: Report,
    /// Microseconds of processor time per event: of the server, and of the harness.
    server_cpu: f64,
    own_cpu: f64,
}

/// Every row of the table: its name, its value in a round, and its goal relative to the durable relay.
type Row = (&'static str, fn(&Round) -> f64, &'static str);

struct Round {
    c64: Measured,
    c256: Measured,
    open: Measured,
    peak_mb: f64,
}

const ROWS: &[Row] = &[
    ("64 callers   delivered/s", |round| round.c64.report.delivered_per_second(), "≥ 0.8"),
    ("             accept p50 ms", |round| round.c64.report.accept.p50, ""),
    ("             accept p99 ms", |round| round.c64.report.accept.p99, ""),
    ("             → arrival p50 ms", |round| round.c64.report.onward.p50, ""),
    ("             → arrival p99 ms", |round| round.c64.report.onward.p99, ""),
    ("             CPU µs/event", |round| round.c64.server_cpu, "≤ 1.5"),
    ("256 callers  delivered/s", |round| round.c256.report.delivered_per_second(), "≥ 0.8"),
    ("             accept p50 ms", |round| round.c256.report.accept.p50, ""),
    ("             accept p99 ms", |round| round.c256.report.accept.p99, ""),
    ("             → arrival p50 ms", |round| round.c256.report.onward.p50, ""),
    ("             → arrival p99 ms", |round| round.c256.report.onward.p99, ""),
    ("             CPU µs/event", |round| round.c256.server_cpu, "≤ 1.5"),
    ("200/s        end to end p50 ms", |round| round.open.report.whole.p50, "+ 0.2 ms"),
    ("             end to end p99 ms", |round| round.open.report.whole.p99, "≤ 1.3"),
    ("             CPU µs/event", |round| round.open.server_cpu, ""),
    ("peak memory MB", |round| round.peak_mb, ""),
];

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let plugins = Plugins { own: engine::bench_plugin(), stock: engine::stock_plugin() };
    let mut figures = vec![vec![Figure::default(); ROWS.len()]; System::ALL.len()];
    let mut own = Figure::default();
    let mut remarks = Vec::new();
    for round in 0..ROUNDS {
        // Each round starts with another system, so that no system is always the first or the last.
        for nth in 0..System::ALL.len() {
            let at = (nth + round) % System::ALL.len();
            let system = System::ALL[at];
            let result = measure(system, place, &plugins).await.with_context(|| system.name())?;
            for (figure, (_, read, _)) in figures[at].iter_mut().zip(ROWS) {
                figure.note(read(&result));
            }
            own.note(result.c64.own_cpu);
            for (phase, measured) in [("64 callers", &result.c64), ("256 callers", &result.c256), ("200/s", &result.open)] {
                let Report { lost, repeats, refusals, .. } = measured.report;
                if lost + repeats + refusals > 0 {
                    remarks.push(format!(
                        "round {}, {}, {phase}: {lost} did not arrive, {repeats} arrived again, {refusals} were refused at first",
                        round + 1,
                        system.name()
                    ));
                }
            }
        }
    }
    let [_, durable, direct, with_plugin, with_stock] = &figures[..] else { unreachable!("five systems") };
    let mut table = Table::new(&[
        "",
        System::Memory.name(),
        System::Durable.name(),
        System::Direct.name(),
        System::Plugin.name(),
        System::Stock.name(),
        "no plugin ÷ durable",
        "plugin ÷ durable",
        "stock ÷ durable",
        "goal",
    ]);
    for (nth, (name, _, goal)) in ROWS.iter().enumerate() {
        let mut cells = vec![(*name).to_owned()];
        cells.extend(figures.iter().map(|system| system[nth].to_string()));
        cells.extend([direct, with_plugin, with_stock].map(|system| system[nth].against(&durable[nth]).to_string()));
        cells.push((*goal).to_owned());
        table.row(cells);
    }
    table.print("Side by side: an order of 1 KB in, transformed, signed and delivered");
    for remark in remarks {
        println!("  {remark}");
    }
    println!("  The load and the sink take {own} µs of the same processors per event.\n");
    Ok(())
}

async fn measure(system: System, place: &Place, plugins: &Plugins) -> anyhow::Result<Round> {
    let folder = place.fresh()?;
    let open_events = (OPEN.as_secs_f64() * f64::from(OPEN_RATE)) as usize;
    let ledger = Ledger::new(WARM_UP + 2 * EVENTS + open_events);
    let server = system.start(folder.path(), &sink(&ledger).await?, plugins).await?;
    let target = Target::new(&server.url, "order.created");
    let warm = closed_loop(&target, &ledger, 64, WARM_UP, CLOSED_MAX).await;
    ledger.settled(&warm).await;
    let phase = async |callers: Option<usize>| {
        let before = (server.cpu(), own_cpu());
        let range = match callers {
            Some(callers) => closed_loop(&target, &ledger, callers, EVENTS, CLOSED_MAX).await,
            None => open_loop(&target, &ledger, OPEN_RATE, OPEN).await,
        };
        ledger.settled(&range).await;
        let after = (server.cpu(), own_cpu());
        let report = ledger.report(range);
        let per_event = |used: Duration| used.as_secs_f64() * 1e6 / report.count.max(1) as f64;
        Measured { server_cpu: per_event(after.0 - before.0), own_cpu: per_event(after.1 - before.1), report }
    };
    // The open loop runs first: cleaning up after a flood is not part of the cost of 200 events a second.
    let (open, c64, c256) = (phase(None).await, phase(Some(64)).await, phase(Some(256)).await);
    Ok(Round { c64, c256, open, peak_mb: server.peak_mb() })
}
