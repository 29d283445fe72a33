//! Calls of a plugin alone, without a store and without HTTP: a fresh instance for each call, and one instance for all. The same work
//! in native code is the baseline. Other plugin engines can be measured beside it.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use innesco::{
    domain::{
        content::Content,
        event::{Event, NewEvent},
        id::{EventId, Tag},
        name::{Attributes, EventType},
        time::Timestamp,
    },
    sandbox::{Limits, NoCache, NoState, Plugin, RunInput, Sandbox, Settings},
};

use super::{
    ROUNDS,
    figures::{Cell, Figure, Table},
    load::ORDER,
    order::{DispatchNote, Order},
    process::own_cpu,
    reused::Reused,
};

/// Number of calls of one thread in a round.
const CALLS: u32 = 20_000;
/// Number of threads that call at the same time, and the title of the column.
const THREADS: [(usize, &str); 2] = [(1, "1 thread"), (2, "2 threads")];
/// The other plugin engines, by the names that their program knows.
const PEERS: [&str; 4] = ["Extism, fresh", "Extism, reused", "QuickJS, fresh", "QuickJS, reused"];
const REPOSITORY: &str = "plugin of this repository";

/// The work of one call.
enum Work {
    Native,
    /// A fresh instance for each call, in the engine's sandbox.
    Fresh(Box<Plugin>),
    /// One instance for all calls of a thread, in wasmtime alone.
    Reused(Box<Reused>),
}

impl Work {
    /// Prepares a thread to call.
    fn caller<'a>(&'a self, input: &'a Input) -> anyhow::Result<Box<dyn FnMut() -> anyhow::Result<usize> + 'a>> {
        Ok(match self {
            Self::Native => Box::new(|| {
                let order: Order = serde_json::from_slice(input.event.new.content.bytes())?;
                Ok(serde_json::to_vec(&DispatchNote::of(&order))?.len())
            }),
            Self::Fresh(plugin) => Box::new(|| {
                let result = plugin.run(input.run(), Box::new(NoState))?.result;
                let requests = result.map_err(|failure| anyhow::anyhow!(failure.message))?;
                Ok(requests.webhooks.first().map_or(0, |webhook| webhook.payload.body.len()))
            }),
            Self::Reused(guest) => {
                let mut instance = guest.instance()?;
                Box::new(move || instance.call(input.event.new.content.bytes()))
            }
        })
    }
}

/// What every call gets.
pub struct Input {
    event: Event,
    config: Arc<BTreeMap<String, String>>,
    limits: Limits,
}

impl Input {
    pub fn run(&self) -> RunInput<'_> {
        let Self { event, config, limits } = self;
        let tag = Tag::from_random([1, 2, 3, 4]);
        RunInput { event, tag, config, revision: 1, limits, bound: false, now: event.accepted_at }
    }
}

/// The engine's plugins, and the same work natively.
fn works() -> anyhow::Result<Vec<(&'static str, Work)>> {
    let sandbox = Sandbox::new(Settings { threads: 2, ..Settings::default() })?;
    let fresh = |file: &[u8]| anyhow::Ok(Work::Fresh(Box::new(sandbox.load(file, &NoCache)?)));
    let reused = |file: &[u8]| anyhow::Ok(Work::Reused(Box::new(Reused::compile(file)?)));
    let (own, stock) = (super::engine::bench_plugin(), super::engine::stock_plugin());
    Ok(vec![
        ("the same work natively", Work::Native),
        (REPOSITORY, fresh(&own)?),
        ("built with plain cargo", fresh(&stock)?),
        ("the first, one instance for all calls", reused(&own)?),
        ("the second, one instance for all calls", reused(&stock)?),
        ("plugin that does nothing", fresh(&support::guests::build("no-op", "no-op", &["*"]))?),
    ])
}

pub fn run() -> anyhow::Result<()> {
    let (works, input) = (works()?, input()?);
    let mut figures = vec![THREADS.map(|_| [Figure::default(), Figure::default()]); works.len()];
    for round in 0..=ROUNDS {
        for ((_, work), columns) in works.iter().zip(&mut figures) {
            for ((threads, _), [cpu, rate]) in THREADS.iter().zip(columns) {
                let (micros, per_second) = measure(work, &input, *threads)?;
                // The first round warms up.
                if round > 0 {
                    cpu.note(micros);
                    rate.note(per_second);
                }
            }
        }
    }
    let mut head = vec!["an order of 1 KB".to_owned()];
    for (_, threads) in THREADS {
        head.extend([format!("{threads}: CPU µs/call"), "÷ native".to_owned(), "calls/s".to_owned()]);
    }
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    let native = figures[0].clone();
    for ((name, _), columns) in works.iter().zip(&figures) {
        let mut cells = vec![Cell::from(*name)];
        for ([cpu, rate], [native, _]) in columns.iter().zip(&native) {
            cells.extend([cpu.into(), cpu.against(native).into(), rate.into()]);
        }
        table.row(cells);
    }
    table.print("Calls: an order of 1 KB becomes a dispatch note of 1.2 KB");
    Ok(())
}

/// Compares a call with other plugin engines. Their program is compiled first, which takes minutes.
pub fn run_peers() -> anyhow::Result<()> {
    let (works, input, mut peers) = (works()?, input()?, Peers::start()?);
    let names: Vec<&str> = works.iter().map(|(name, _)| *name).chain(PEERS).collect();
    let mut figures = vec![Figure::default(); names.len()];
    for round in 0..=ROUNDS {
        for (at, name) in names.iter().enumerate() {
            let micros = match works.get(at) {
                Some((_, work)) => measure(work, &input, 1)?.0,
                None => peers.measure(name)?,
            };
            if round > 0 {
                figures[at].note(micros);
            }
        }
    }
    let own = names.iter().position(|name| *name == REPOSITORY).expect("it is measured");
    let mut table = Table::new(&["1 thread", "CPU µs/call", "÷ native", "÷ plugin of this repository"]);
    for (name, figure) in names.iter().zip(&figures) {
        table.row([(*name).into(), figure.into(), figure.against(&figures[0]).into(), figure.against(&figures[own]).into()]);
    }
    table.print("Calls beside other plugin engines");
    Ok(())
}

/// Returns the processor time of a call in microseconds, and the calls per second of all threads.
fn measure(work: &Work, input: &Input, threads: usize) -> anyhow::Result<(f64, f64)> {
    let expected = work.caller(input)?()?;
    let (began, used) = (Instant::now(), own_cpu());
    thread::scope(|scope| {
        let caller = || {
            let mut call = work.caller(input)?;
            (0..CALLS).try_for_each(|_| {
                ensure!(call()? == expected, "a call returned something else");
                Ok(())
            })
        };
        let callers: Vec<_> = (0..threads).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().try_for_each(|caller| caller.join().expect("a caller does not panic"))
    })?;
    let calls = f64::from(CALLS) * threads as f64;
    Ok(((own_cpu() - used).as_secs_f64() * 1e6 / calls, calls / began.elapsed().as_secs_f64()))
}

/// The program with the other plugin engines: `tests/bench/peers`.
struct Peers {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peers {
    fn start() -> anyhow::Result<Self> {
        println!("  Extism and QuickJS are compiled, which takes minutes the first time.");
        let (program, guest) = support::crates::bench_peers();
        let mut process = Command::new(program).arg(guest).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = process.stdin.take().context("its input is piped")?;
        let answers = BufReader::new(process.stdout.take().context("its output is piped")?);
        Ok(Self { process, questions, answers })
    }

    /// Returns the processor time of a call in microseconds.
    fn measure(&mut self, system: &str) -> anyhow::Result<f64> {
        writeln!(self.questions, "{system} {CALLS}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        answer.trim().parse().with_context(|| format!("{system} does not work: {answer:?}"))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The process may already have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An order of 1 KB.
pub fn input() -> anyhow::Result<Input> {
    let event = Event {
        id: EventId::from_i64(7),
        accepted_at: Timestamp::from_millis(1_764_000_000_000),
        new: NewEvent {
            id: None,
            source: "shop".into(),
            event_type: EventType::parse("order.created").map_err(|error| anyhow::anyhow!(error.to_string()))?,
            subject: None,
            time: None,
            content: Content::new("application/json", ORDER.trim_end().into()).context("the order is JSON")?,
            attributes: Attributes::default().into(),
            depth: 0,
            cause: None,
            request: None,
        },
    };
    Ok(Input { event, config: Arc::default(), limits: Limits::default() })
}
