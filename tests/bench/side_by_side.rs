//! The main table: two null relays and the engine, without a plugin and with one of two builds, under the same load, alternating.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Context as _;

use super::{
    Place, ROUNDS,
    engine::{self, Engine},
    figures::{Cell, Figure, Table},
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
pub enum System {
    Memory,
    Durable,
    Direct,
    Plugin,
    Stock,
}

impl System {
    const ALL: [Self; 5] = [Self::Memory, Self::Durable, Self::Direct, Self::Plugin, Self::Stock];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "null relay",
            Self::Durable => "durable null relay",
            Self::Direct => "engine, no plugin",
            Self::Plugin => "engine, one plugin",
            Self::Stock => "engine, stock plugin",
        }
    }

    /// Starts a fresh process, a relay or the engine, in an empty folder. The process sends everything to `target`.
    pub async fn start(self, folder: &Path, target: &str, plugins: &Plugins) -> anyhow::Result<Server> {
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
pub struct Plugins {
    /// Built like the plugins of this repository.
    pub own: Vec<u8>,
    /// Built as cargo builds a crate by default.
    pub stock: Vec<u8>,
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
    ("64 callers   accept p50 ms", |round| round.c64.report.accept.p50, ""),
    ("64 callers   accept p99 ms", |round| round.c64.report.accept.p99, ""),
    ("64 callers   → arrival p50 ms", |round| round.c64.report.onward.p50, ""),
    ("64 callers   → arrival p99 ms", |round| round.c64.report.onward.p99, ""),
    ("64 callers   CPU µs/event", |round| round.c64.server_cpu, "≤ 1.5"),
    ("256 callers  delivered/s", |round| round.c256.report.delivered_per_second(), "≥ 0.8"),
    ("256 callers  accept p50 ms", |round| round.c256.report.accept.p50, ""),
    ("256 callers  accept p99 ms", |round| round.c256.report.accept.p99, ""),
    ("256 callers  → arrival p50 ms", |round| round.c256.report.onward.p50, ""),
    ("256 callers  → arrival p99 ms", |round| round.c256.report.onward.p99, ""),
    ("256 callers  CPU µs/event", |round| round.c256.server_cpu, "≤ 1.5"),
    ("200/s        end to end p50 ms", |round| round.open.report.whole.p50, "+ 0.2 ms"),
    ("200/s        end to end p99 ms", |round| round.open.report.whole.p99, "≤ 1.3"),
    ("200/s        CPU µs/event", |round| round.open.server_cpu, ""),
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
        let mut cells = vec![Cell::from(*name)];
        cells.extend(figures.iter().map(|system| Cell::from(&system[nth])));
        cells.extend([direct, with_plugin, with_stock].map(|system| system[nth].against(&durable[nth]).into()));
        cells.push((*goal).into());
        table.row(cells);
    }
    table.print("Side by side: an order of 1 KB in, transformed, signed and delivered");
    for remark in remarks {
        println!("  {remark}");
    }
    println!("  The load and the sink take {own} µs of the same processors per event.\n");
    Ok(())
}

/// Parts of the engine's peak rate, in percent.
const PARTS: [u32; 3] = [25, 50, 75];
const PART_TIME: Duration = Duration::from_secs(5);

/// Measures the latency of the durable relay and of the engine at fixed rates, which are parts of the engine's peak rate.
pub async fn run_rates(place: &Place) -> anyhow::Result<()> {
    let plugins = Plugins { own: engine::bench_plugin(), stock: engine::stock_plugin() };
    let systems = [System::Durable, System::Direct, System::Plugin, System::Stock];
    let mut figures = vec![vec![[Figure::default(), Figure::default(), Figure::default()]; PARTS.len()]; systems.len()];
    let mut peak = None;
    for round in 0..ROUNDS {
        for nth in 0..systems.len() {
            // The first measured system is an engine with a plugin; its peak rate decides all rates.
            let at = (nth + round + 2) % systems.len();
            let folder = place.fresh()?;
            let ledger = Ledger::new(1_000_000);
            let server = systems[at].start(folder.path(), &sink(&ledger).await?, &plugins).await?;
            let target = Target::new(&server.url, "order.created");
            let warm = closed_loop(&target, &ledger, 64, WARM_UP, CLOSED_MAX).await;
            ledger.settled(&warm).await;
            if peak.is_none() {
                let phase = closed_loop(&target, &ledger, 64, EVENTS, CLOSED_MAX).await;
                ledger.settled(&phase).await;
                peak = Some(ledger.report(phase).delivered_per_second());
            }
            for (part, [p50, p99, cpu]) in PARTS.iter().zip(&mut figures[at]) {
                let used = server.cpu();
                let rate = (peak.unwrap_or(0.0) * f64::from(*part) / 100.0) as u32;
                let phase = open_loop(&target, &ledger, rate.max(1), PART_TIME).await;
                ledger.settled(&phase).await;
                let report = ledger.report(phase);
                p50.note(report.whole.p50);
                p99.note(report.whole.p99);
                cpu.note((server.cpu() - used).as_secs_f64() * 1e6 / report.count.max(1) as f64);
            }
        }
    }
    let mut table = Table::new(&["", "end to end p50 ms", "÷ relay", "p99 ms", "÷ relay", "CPU µs/event", "÷ relay"]);
    for (nth, part) in PARTS.iter().enumerate() {
        for (system, rows) in systems.iter().zip(&figures) {
            let name = format!("{part} %  {}", system.name());
            let cells = rows[nth].iter().zip(&figures[0][nth]).flat_map(|(own, relay)| [own.into(), own.against(relay).into()]);
            table.row(std::iter::once(Cell::from(name)).chain(cells));
        }
    }
    let peak = peak.unwrap_or(0.0);
    table.print(&format!("Fixed rates: parts of {peak:.0} events a second, the peak rate of the engine with one plugin"));
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
