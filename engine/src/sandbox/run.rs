//! One call into a fresh instance, and how it ended.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use super::{
    advice, backtrace,
    bindings::{self, PluginPre, innesco::plugin::types},
    diagnose,
    engine::{Pool, ticks},
    host::Host,
    limiter::{Limiter, OutOfMemory},
    limits::{Limits, Timed, size, time},
    load::Plugin,
    log::{SharedLog, printable},
    output::{self, Addressing, Breach},
    state::{State, StateRefused, StateSource},
    wasi::Wasi,
};
use crate::{
    clock,
    domain::{
        event::Event,
        id::Tag,
        plugin::Digest,
        recording::{RecordedState, Recording},
        run::{Requests, RunFailure, RunLog, RunOutcome, StateUse},
        time::Timestamp,
    },
};

/// Attribute with the time of acceptance, for plugins. This name contains a dot, so it can never be the name of an attribute that a
/// sender gave.
const ACCEPTED_AT: &str = "innesco.accepted-at";

/// The input of a run.
#[derive(Clone, Copy)]
pub struct RunInput<'a> {
    pub event: &'a Event,
    /// The store's tag: part of the id that the engine gives to an event whose sender gave none.
    pub tag: Tag,
    /// The plugin's settings, and the number of their revision.
    pub config: &'a Arc<BTreeMap<String, String>>,
    pub revision: i64,
    pub limits: &'a Limits,
    /// Whether the plugin belongs to an endpoint. Then its webhooks leave `to` out; otherwise each webhook has `to`.
    pub bound: bool,
    /// The wall clock, which decides which values of state have expired. The plugin cannot read it.
    pub now: Timestamp,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub result: Result<Requests, RunFailure>,
    pub log: RunLog,
    /// Time from the start of the instance to the end of the call.
    pub took: Duration,
    /// Peak memory, in bytes.
    pub memory_peak: u64,
    /// Lines of the plugin's source at which the run was stopped, innermost first; empty unless it was stopped.
    pub backtrace: Arc<[String]>,
    /// Reads and writes of state; the writes are empty unless the run ended `ok`.
    pub state: StateUse,
    /// The settings and the state that it read, in addition to the event.
    pub recording: Recording,
}

/// The state could not be read, which is not the plugin's fault. The run is tried again, and this try does not count.
#[derive(Debug, thiserror::Error)]
#[error("the plugin's state could not be read")]
pub struct StateUnavailable(#[source] pub anyhow::Error);

impl StateUnavailable {
    pub(super) fn as_failure(&self) -> RunFailure {
        ended(RunOutcome::Trapped, "state_unavailable", self.to_string())
    }
}

impl Plugin {
    /// Runs the plugin on one event, in a fresh instance. Blocks until the end, and never panics.
    ///
    /// # Errors
    ///
    /// Only if `state` did not answer. Every result of the guest is in the report.
    pub fn run(&self, input: RunInput<'_>, state: Box<dyn StateSource>) -> Result<Report, StateUnavailable> {
        let (started, revision, at) = (Instant::now(), input.revision, Some(input.now));
        // The WebAssembly runtime may panic too. Then only this run fails.
        catch_unwind(AssertUnwindSafe(|| self.run_unguarded(input, state))).unwrap_or_else(|panic| {
            let message = format!("crashed the WebAssembly runtime: {}", panic_text(&*panic));
            Ok(Report {
                result: Err(ended(RunOutcome::Trapped, "engine_fault", message)),
                log: RunLog::default(),
                took: started.elapsed(),
                memory_peak: 0,
                backtrace: Arc::default(),
                state: StateUse::default(),
                recording: Recording { settings: revision, at, state: RecordedState::default() },
            })
        })
    }

    fn run_unguarded(&self, input: RunInput<'_>, state: Box<dyn StateSource>) -> Result<Report, StateUnavailable> {
        let RunInput { event, limits, .. } = input;
        let id = match &event.new.id {
            Some(id) => id.clone(),
            None => event.id.text(input.tag).into(),
        };
        let time = event.time();
        let mut around = event.new.request.as_ref().map(|request| request.attributes()).unwrap_or_default();
        // Without a time from the sender, `time` already is the time of acceptance.
        if event.new.time.is_some() {
            around.push((ACCEPTED_AT.to_owned(), event.accepted_at.to_string()));
        }
        let attributes = event.new.attributes.0.iter().chain(&around);
        let attributes: Vec<_> = attributes.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let given = types::Event {
            id: &id,
            source: &event.new.source,
            type_: &event.new.event_type,
            subject: event.new.subject.as_deref(),
            time: &time,
            content_type: event.new.content.content_type(),
            data: event.new.content.bytes(),
            attributes: &attributes,
        };
        let time_of_wasi = event.new.time.as_deref().and_then(Timestamp::parse_rfc3339).unwrap_or(event.accepted_at);
        let state = Some((state, input.now));
        let host = |log| self.guest.host(limits, log, input.config.clone(), state, &id, time_of_wasi);
        let (answer, facts) =
            self.guest.call(limits, host, |plugin, store| plugin.innesco_plugin_handler().call_handle(store, given));
        let addressing = if input.bound { Addressing::Bound } else { Addressing::Named };
        let mut backtrace = Arc::default();
        let result = match answer {
            Ok(Ok(outcome)) => output::requests(outcome, addressing, limits).map_err(RunFailure::from),
            Ok(Err(failure)) => Err(output::failure(failure)),
            Err(error) => {
                let offsets = backtrace::offsets(&error);
                let failure = facts.explain(error, limits)?;
                backtrace = self.source.backtrace(offsets);
                Err(failure)
            }
        };
        let mut state = facts.state;
        if result.is_err() {
            state.writes.clear();
        }
        let recording = Recording { settings: input.revision, at: Some(input.now), state: facts.read };
        let (took, memory_peak) = (facts.took, facts.memory_peak);
        Ok(Report { result, log: facts.log.take(), took, memory_peak, backtrace, state, recording })
    }
}

/// Compiled and linked code, and the pool in which it runs.
pub struct Guest {
    pub(super) pool: Arc<Pool>,
    pub(super) pre: PluginPre<Host>,
    pub(super) digest: Digest,
    /// Whether it was linked with WASI.
    pub(super) wasi: bool,
}

/// What the engine records about a call, besides its answer.
pub struct CallFacts {
    pub log: SharedLog,
    pub took: Duration,
    pub memory_peak: u64,
    pub state: StateUse,
    /// The committed state that it read.
    pub read: RecordedState,
}

impl Guest {
    /// Creates the data for one call of this guest.
    pub fn host(
        &self,
        limits: &Limits,
        log: SharedLog,
        config: Arc<BTreeMap<String, String>>,
        state: Option<(Box<dyn StateSource>, Timestamp)>,
        event_id: &str,
        now: Timestamp,
    ) -> Host {
        let wasi = self.wasi.then(|| Box::new(Wasi::new(&log, event_id, &self.digest, now)));
        let memory = self.pool.kind.memory_bytes(limits).min(self.pool.memory_bytes_max);
        let (source, began) = state.unzip();
        let state = State::new(source, began.unwrap_or(now), limits);
        Host { limiter: Limiter::new(memory, self.pool.counts), log, config, state, wasi }
    }

    /// Calls a fresh instance and drops it.
    pub fn call<T>(
        &self,
        limits: &Limits,
        host: impl FnOnce(SharedLog) -> Host,
        call: impl FnOnce(&bindings::Plugin, &mut Store<Host>) -> wasmtime::Result<T>,
    ) -> (wasmtime::Result<T>, CallFacts) {
        let log = SharedLog::new(limits);
        let permit = self.pool.permit();
        let (deadline, timed) = (limits.deadline, limits.timed);
        // Reading this clock is a system call.
        let used_before = if timed == Timed::Processor { clock::thread_cpu() } else { Duration::ZERO };
        let started = Instant::now();
        let mut store = Store::new(&self.pool.engine, host(log.clone()));
        store.limiter(|host| &mut host.limiter);
        store.set_epoch_deadline(ticks(deadline));
        let mut allowed = deadline;
        store.epoch_deadline_callback(move |mut store| {
            // Ticks may come in leaps, so they only say when to look at the clock. A slow store must not end a good run: the wait for
            // state extends its deadline.
            let waited = store.data_mut().state.take_waited();
            let used = match timed {
                Timed::Processor => clock::thread_cpu().saturating_sub(used_before),
                Timed::Elapsed => {
                    allowed += waited;
                    started.elapsed()
                }
            };
            match allowed.saturating_sub(used) {
                Duration::ZERO => Err(Trap::Interrupt.into()),
                left => Ok(UpdateDeadline::Continue(ticks(left))),
            }
        });
        store.set_hostcall_fuel(limits.output_bytes);
        let answer = self.pre.instantiate(&mut store).and_then(|plugin| call(&plugin, &mut store));
        let took = started.elapsed();
        let mut host = store.into_data();
        drop(permit);
        if let Some(wasi) = &host.wasi {
            wasi.finish();
        }
        let (state, read) = host.state.take();
        (answer, CallFacts { log, took, memory_peak: host.limiter.peak(), state, read })
    }
}

impl CallFacts {
    /// Converts the end of a call into its named outcome.
    pub fn explain(&self, error: wasmtime::Error, limits: &Limits) -> Result<RunFailure, StateUnavailable> {
        let error = match error.downcast::<StateRefused>() {
            Ok(StateRefused::Unavailable(cause)) => return Err(StateUnavailable(cause)),
            Ok(refused) => return Ok(Breach::new("state_limit", refused.to_string()).into()),
            Err(error) => error,
        };
        if let Some(out_of_memory) = error.downcast_ref::<OutOfMemory>() {
            return Ok(ended(RunOutcome::OutOfMemory, "out_of_memory", out_of_memory.to_string()));
        }
        if let Some(I32Exit(status)) = error.downcast_ref() {
            return Ok(ended(RunOutcome::Trapped, "exit", format!("called exit({status}) instead of returning")));
        }
        Ok(match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => {
                ended(RunOutcome::Deadline, "deadline", format!("ran longer than its deadline of {}", time(limits.deadline)))
            }
            Some(Trap::StackOverflow) => {
                let message = format!("nested its calls deeper than its stack of {} allows", size(Limits::STACK_BYTES));
                ended(RunOutcome::Trapped, "stack_overflow", message)
            }
            Some(trap) => match self.log.take_panic() {
                Some(panic) => {
                    let message = match advice::for_panic(&panic) {
                        Some(advice) => format!("{panic}: {advice}"),
                        None => panic,
                    };
                    ended(RunOutcome::Trapped, "panic", message)
                }
                None => ended(RunOutcome::Trapped, "trap", trap_text(*trap)),
            },
            None if error.root_cause().to_string().contains("fuel allocated for hostcalls") => {
                let message = format!("returned more than {} in one call", size(limits.output_bytes));
                Breach::new("output_too_large", message).into()
            }
            None => Breach::new("invalid_output", format!("passed an invalid value: {}", diagnose::chain(&error))).into(),
        })
    }
}

fn ended(outcome: RunOutcome, code: &str, message: String) -> RunFailure {
    RunFailure { outcome, code: code.to_owned(), message, retryable: false }
}

fn trap_text(trap: Trap) -> String {
    match trap {
        Trap::UnreachableCodeReached => {
            "stopped without a message: an abort, std::process::exit, or a panic without the SDK's hook. To end early return \
             Ok(Outcome::none()) or an Error"
                .to_owned()
        }
        Trap::IntegerDivisionByZero => "divided by zero".to_owned(),
        Trap::MemoryOutOfBounds => {
            "accessed memory out of bounds; usually its stack is full, because of too deep recursion".to_owned()
        }
        other => {
            let text = other.to_string();
            text.strip_prefix("wasm trap: ").unwrap_or(&text).to_owned()
        }
    }
}

/// Returns the text of a panic in the engine.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    printable(text.unwrap_or("it gives no reason"), Limits::MESSAGE_BYTES)
}
