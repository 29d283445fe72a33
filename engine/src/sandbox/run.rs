//! One run: a fresh instance, one event, one outcome.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{Store, Trap};

use super::{
    bindings::exports::innesco::plugin::handler,
    engine::TICK,
    host::{Guest, Stopped},
    limits::Limits,
    load::Plugin,
    output,
    wasi::Wasi,
};
use crate::domain::{
    event::Event,
    id::Tag,
    run::{LogLevel, Requests, RunFailure, RunLog, RunOutcome, StateUse},
    time::Timestamp,
};

/// Where a run reads state from: values as they will be if it commits.
pub trait StateSource: Send {
    /// The value and its version.
    ///
    /// # Errors
    /// The engine cannot read state at the moment. The run is then no run at all.
    fn get(&mut self, key: &str) -> Result<Option<(Vec<u8>, i64)>, anyhow::Error>;
}

/// The engine could not read state for a run: nobody's fault but ours, and it does not count.
#[derive(Debug, thiserror::Error)]
#[error("state cannot be read: {0:#}")]
pub struct StateUnavailable(pub anyhow::Error);

/// What a run is given.
pub struct RunInput<'a> {
    pub event: &'a Event,
    /// Writes the event's id for those whose sender gave none.
    pub tag: Tag,
    pub config: Arc<BTreeMap<String, String>>,
    pub limits: Limits,
    /// The plugin runs for an endpoint of its own: its webhooks go there and name none.
    pub bound: bool,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    pub result: Result<Requests, RunFailure>,
    pub log: RunLog,
    pub took: Duration,
    /// Bytes of memory at its largest.
    pub memory_peak: u64,
    pub state: StateUse,
}

impl Plugin {
    /// Gives one event to a fresh instance. Never panics and always ends, whatever the guest does.
    pub fn run(&self, input: RunInput<'_>, state: Box<dyn StateSource>) -> Result<Report, StateUnavailable> {
        let started = Instant::now();
        let RunInput { event, tag, config, limits, bound } = input;
        let id = event.new.id.as_deref().map_or_else(|| event.id.text(tag), str::to_owned);
        let wasi = self.uses_wasi().then(|| {
            let time = event.new.time.as_deref().and_then(Timestamp::parse_rfc3339).unwrap_or(event.accepted_at);
            let seed = [id.as_bytes(), self.digest().as_bytes()].concat();
            Wasi::new(time, &seed, limits.log_bytes)
        });
        let guest = Guest::new(limits, config, state, wasi);
        let mut store = new_store(self, guest);
        let answer = call(self, &mut store, event, id);
        let took = started.elapsed();

        let mut guest = store.into_data();
        if let Some(wasi) = &guest.wasi {
            for line in wasi.printed().lines() {
                guest.push_log(LogLevel::Info, line);
            }
        }
        let result = match answer {
            Ok(Ok(outcome)) => output::check(outcome, event, &guest.limits, bound),
            Ok(Err(failure)) => Err(output::failure(failure)),
            Err(error) => Err(explain(&error, &mut guest).map_err(StateUnavailable)?),
        };
        let state = if result.is_ok() { guest.state_use } else { StateUse::default() };
        Ok(Report { result, log: guest.log, took, memory_peak: guest.memory.peak() as u64, state })
    }
}

/// A store that stops its guest at its limits. One per run: what a guest leaves behind goes with it.
pub fn new_store(plugin: &Plugin, guest: Guest) -> Store<Guest> {
    let limits = guest.limits;
    let mut store = Store::new(plugin.engine(), guest);
    store.limiter(|guest| &mut guest.memory);
    // One more, since the current tick has begun already.
    let ticks = limits.deadline.as_micros().div_ceil(TICK.as_micros()) + 1;
    store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX));
    // What a guest can make the host copy in one call. The rest of what it returns is measured in `output.rs`.
    store.set_hostcall_fuel(limits.output_bytes.saturating_add(HOSTCALL_SLACK));
    store
}

/// Lists cost the host more than their bytes: room for the records around the largest output that is let through.
const HOSTCALL_SLACK: usize = 1 << 20;

fn call(
    plugin: &Plugin,
    store: &mut Store<Guest>,
    event: &Event,
    id: String,
) -> wasmtime::Result<Result<handler::Outcome, handler::Failure>> {
    let new = &event.new;
    let event = handler::Event {
        id,
        source: new.source.to_string(),
        type_: new.event_type.to_string(),
        subject: new.subject.as_deref().map(str::to_owned),
        time: event.time(),
        content_type: new.content_type.to_string(),
        data: new.data.to_vec(),
        attributes: new.attributes.0.clone(),
    };
    let instance = plugin.instantiate(store)?;
    instance.innesco_plugin_handler().call_handle(store, &event)
}

/// Names what ended a run. `Err` if it was the engine.
pub fn explain(error: &wasmtime::Error, guest: &mut Guest) -> Result<RunFailure, anyhow::Error> {
    let limits = guest.limits;
    let failure = |outcome, code: &str, message: String| RunFailure { outcome, code: code.into(), message, retryable: false };
    match guest.stopped.take() {
        Some(Stopped::Unavailable(error)) => return Err(error),
        Some(Stopped::State(message)) => return Ok(failure(RunOutcome::BadOutput, "state_limit", message)),
        None => {}
    }
    if let Some(wanted) = guest.memory.refused() {
        let message = format!(
            "it needed more than its limit of {} MiB of memory (it asked for {} MiB)",
            limits.memory_bytes >> 20,
            wanted >> 20
        );
        return Ok(failure(RunOutcome::OutOfMemory, "out_of_memory", message));
    }
    Ok(match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => {
            failure(RunOutcome::Deadline, "deadline", format!("it ran longer than its deadline of {:?}", limits.deadline))
        }
        Some(Trap::StackOverflow) => {
            failure(RunOutcome::Trapped, "stack_overflow", "it used up its stack: too deep a recursion".into())
        }
        trap => match guest.log.lines.iter().rev().find(|line| line.message.starts_with("panicked at ")) {
            Some(panic) => failure(RunOutcome::Trapped, "panicked", panic.message.clone()),
            None if trap.is_none() && error.to_string().contains("hostcall") => {
                let message = format!("it passed more than {} MiB to the engine in one call", limits.output_bytes >> 20);
                failure(RunOutcome::BadOutput, "output_too_large", message)
            }
            // A guest's own stack lies at the bottom of its memory, so running over it is an access out of bounds.
            None if trap == Some(&Trap::MemoryOutOfBounds) => {
                let message =
                    "it reached for memory that it does not have; most often its stack is full, from too deep a recursion";
                failure(RunOutcome::Trapped, "out_of_bounds", message.into())
            }
            None => failure(RunOutcome::Trapped, "trapped", trap.map_or_else(|| error.to_string(), |trap| trap.to_string())),
        },
    })
}
