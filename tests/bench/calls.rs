//! Calls of a plugin alone, without a store and without HTTP. Each event gets a fresh instance. The same work in native code is the
//! baseline.

use std::{collections::BTreeMap, sync::Arc, thread, time::Instant};

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
};

/// Number of calls of one thread in a round.
const CALLS: u32 = 20_000;
/// Number of threads that call at the same time, and the title of the column.
const THREADS: [(usize, &str); 2] = [(1, "1 thread"), (2, "2 threads")];

/// The work of one call.
enum Work {
    Native,
    Plugin(Box<Plugin>),
}

impl Work {
    fn call(&self, event: &Event, config: &Arc<BTreeMap<String, String>>, limits: &Limits) -> anyhow::Result<usize> {
        match self {
            Self::Native => {
                let order: Order = serde_json::from_slice(event.new.content.bytes())?;
                Ok(serde_json::to_vec(&DispatchNote::of(&order))?.len())
            }
            Self::Plugin(plugin) => {
                let tag = Tag::from_random([1, 2, 3, 4]);
                let input = RunInput { event, tag, config, revision: 1, limits, bound: false, now: event.accepted_at };
                let requests =
                    plugin.run(input, Box::new(NoState))?.result.map_err(|failure| anyhow::anyhow!(failure.message))?;
                Ok(requests.webhooks.first().context("it asks for a webhook")?.payload.body.len())
            }
        }
    }
}

pub fn run() -> anyhow::Result<()> {
    let sandbox = Sandbox::new(Settings { threads: 2, ..Settings::default() })?;
    let load = |file: &[u8]| anyhow::Ok(Work::Plugin(Box::new(sandbox.load(file, &NoCache)?)));
    let works = [
        ("the same work natively", Work::Native),
        ("plugin of this repository", load(&super::engine::bench_plugin())?),
        ("built with plain cargo", load(&super::engine::stock_plugin())?),
    ];
    let (event, config, limits) = (event()?, Arc::default(), Limits::default());
    let mut figures = vec![THREADS.map(|_| [Figure::default(), Figure::default()]); works.len()];
    for round in 0..=ROUNDS {
        for ((_, work), columns) in works.iter().zip(&mut figures) {
            let expected = work.call(&event, &config, &limits)?;
            for ((threads, _), [cpu, rate]) in THREADS.iter().zip(columns) {
                let (began, used) = (Instant::now(), own_cpu());
                thread::scope(|scope| {
                    let caller = || {
                        (0..CALLS).try_for_each(|_| {
                            ensure!(work.call(&event, &config, &limits)? == expected, "a call returned something else");
                            Ok(())
                        })
                    };
                    let callers: Vec<_> = (0..*threads).map(|_| scope.spawn(caller)).collect();
                    callers.into_iter().try_for_each(|caller| caller.join().expect("a caller does not panic"))
                })?;
                let calls = f64::from(CALLS) * *threads as f64;
                // The first round warms up.
                if round > 0 {
                    cpu.note((own_cpu() - used).as_secs_f64() * 1e6 / calls);
                    rate.note(calls / began.elapsed().as_secs_f64());
                }
            }
        }
    }
    let mut head = vec!["a fresh instance for each call".to_owned()];
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

fn event() -> anyhow::Result<Event> {
    Ok(Event {
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
    })
}
