//! Two engines: a small one for ordinary plugins, and a large one for components with an interpreter. Memories of instances are
//! reserved at start. A thread of the sandbox advances the engines' epochs, which enforce deadlines.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails,
    component::{HasSelf, Linker},
};

use super::{
    backtrace, bindings, child::Children, host::Host, limiter::Counts, limits::Limits, limits::Settings, memory::Memories, wasi,
};
use crate::threads;

/// Interval of deadline checks. A run ends at most one tick after its deadline, unless its deadline is shorter than [`IDLE_TICKS`].
const TICK: Duration = Duration::from_millis(5);
/// Number of ticks that come together while nothing runs, so that an idle engine seldom wakes.
const IDLE_TICKS: u32 = 10;

/// Compiles and runs plugins. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Sandbox {
    pub(super) settings: Arc<Settings>,
    pub(super) small: Arc<Pool>,
    pub(super) big: Arc<Pool>,
    pub(super) compiler: Compiler,
}

/// The place where files that are not in the cache are compiled.
#[derive(Clone)]
pub(super) enum Compiler {
    /// In a child process: a file can kill the child, but not the engine.
    Child(Arc<Children>),
    /// In this process: for the child itself, and tests.
    Here,
}

/// The sandbox cannot start on this machine.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start on this machine")]
pub struct SetupError(#[source] anyhow::Error);

impl Sandbox {
    /// Reserves memories (or works without reserved memories if there is no room) and starts the thread that enforces deadlines.
    /// The thread ends once the last clone and the last plugin have been dropped. Files are compiled in a child process of this
    /// program, so its `main` must begin as [`run_child`](super::run_child) requires.
    ///
    /// # Errors
    ///
    /// If the machine's processor or kernel lacks what the compiler needs.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let in_child = |places| Compiler::Child(Arc::new(Children::new(settings.clone(), places)));
        let with = |places| Self::with_places(&settings, places, in_child(places));
        with(Places::Cleared).or_else(|_| with(Places::Pooled)).or_else(|_| with(Places::OnDemand))
    }

    /// Creates a sandbox that compiles in this process. A child process would run the current executable, which is the test program
    /// and not the engine.
    #[cfg(test)]
    pub fn in_process() -> Self {
        Self::with_places(&Settings { threads: 2, ..Settings::default() }, Places::OnDemand, Compiler::Here)
            .expect("it can be set up")
    }

    /// Creates a sandbox whose plugins run in `places`.
    pub(super) fn with_places(settings: &Settings, places: Places, compiler: Compiler) -> Result<Self, SetupError> {
        let sandbox = Self::build(settings, places, Purpose::Run, compiler)?;
        keep_deadlines([&sandbox.small, &sandbox.big].map(Arc::downgrade)).map_err(|error| SetupError(error.into()))?;
        Ok(sandbox)
    }

    /// Creates a sandbox that only compiles, for a sandbox with `places`. The new sandbox reserves no memory for instances.
    pub(super) fn compiler(settings: &Settings, places: Places) -> Result<Self, SetupError> {
        Self::build(settings, places, Purpose::Compile, Compiler::Here)
    }

    fn build(settings: &Settings, places: Places, purpose: Purpose, compiler: Compiler) -> Result<Self, SetupError> {
        let pool = |kind| Pool::new(kind, settings, places, purpose).map(Arc::new).map_err(|error| SetupError(error.into()));
        Ok(Self { small: pool(Kind::Small)?, big: pool(Kind::Big)?, settings: Arc::new(settings.clone()), compiler })
    }
}

/// Where instances are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Places {
    /// Ordinary plugins run in memories that are reused: after a run, only the pages that it wrote are cleared (`memory.rs`).
    /// Interpreters run in a pool, because they begin with megabytes of data. Needs Linux 6.7.
    Cleared,
    /// In a pool whose address space is reserved at start.
    Pooled,
    /// Each instance is allocated separately, which is slower but possible everywhere.
    OnDemand,
}

impl Places {
    pub const ALL: [Self; 3] = [Self::Cleared, Self::Pooled, Self::OnDemand];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Pooled => "pooled",
            Self::OnDemand => "on-demand",
        }
    }

    /// Returns the places that this machine offers, the best first. `Places::Cleared` is missing on kernels before Linux 6.7.
    #[cfg(test)]
    pub fn offered() -> Vec<Self> {
        Self::ALL.into_iter().filter(|places| *places != Self::Cleared || Memories::new(1).is_ok()).collect()
    }
}

/// The purpose of an engine. If their places are the same, engines for both purposes compile a file to the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Run,
    Compile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Small,
    Big,
}

impl Kind {
    pub fn memory_bytes(self, limits: &Limits) -> usize {
        match self {
            Self::Small => limits.memory_bytes,
            Self::Big => limits.big_memory_bytes,
        }
    }

    /// A Rust component has three core instances, one memory, two tables; an interpreter has up to ten times as many.
    const fn counts(self) -> Counts {
        match self {
            Self::Small => Counts { instances: 16, memories: 2, tables: 8 },
            Self::Big => Counts { instances: 64, memories: 4, tables: 64 },
        }
    }
}

/// An engine with its pool and its linkers.
pub(super) struct Pool {
    pub engine: Engine,
    pub kind: Kind,
    /// Maximum memory of a run in this pool, regardless of its limits.
    pub memory_bytes_max: usize,
    pub counts: Counts,
    /// Links what the contract offers, and nothing else.
    pub linker: Linker<Host>,
    /// Links the contract and the restricted WASI, for components that import WASI.
    pub wasi_linker: Linker<Host>,
    permits: Permits,
}

impl Pool {
    fn new(kind: Kind, settings: &Settings, places: Places, purpose: Purpose) -> wasmtime::Result<Self> {
        let threads = settings.threads.clamp(1, 1024);
        // One more permit than concurrent runs, so that loading a plugin need not wait for a run to end.
        let permits = match kind {
            Kind::Small => threads + 1,
            Kind::Big => threads.min(4) + 1,
        };
        let memory_bytes_max = kind.memory_bytes(&settings.limits);
        let mut config = config();
        match (places, kind) {
            (Places::Cleared, Kind::Small) => cleared(&mut config, permits, purpose)?,
            (Places::Cleared, Kind::Big) | (Places::Pooled, _) if purpose == Purpose::Run => {
                pooled(&mut config, kind, permits as u32, memory_bytes_max);
            }
            (Places::Cleared | Places::Pooled, _) => {}
            (Places::OnDemand, _) => on_demand(&mut config, memory_bytes_max),
        }
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        bindings::Plugin::add_to_linker::<Host, HasSelf<Host>>(&mut linker, |host| host)?;
        let mut wasi_linker = linker.clone();
        wasi::add_to_linker(&mut wasi_linker)?;
        let permits = Permits { all: permits, free: Mutex::new(permits), freed: Condvar::new() };
        Ok(Self { engine, kind, memory_bytes_max, counts: kind.counts(), linker, wasi_linker, permits })
    }

    /// Waits for a permit. An exhausted pool refuses further instances, so nothing may be instantiated without a permit.
    pub fn permit(&self) -> Permit<'_> {
        self.permits.take()
    }
}

/// The permits of a pool.
struct Permits {
    all: usize,
    free: Mutex<usize>,
    freed: Condvar,
}

impl Permits {
    fn take(&self) -> Permit<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }

    fn are_free(&self) -> bool {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) == self.all
    }
}

/// A permit of a pool, returned on drop.
pub(super) struct Permit<'a>(&'a Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

/// Returns the number of ticks after which a run looks at the clock: its deadline, rounded up to whole ticks, at least one. The last tick
/// may come just before the deadline; the run then continues until the next one.
pub(super) fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_nanos().div_ceil(TICK.as_nanos());
    u64::try_from(ticks).unwrap_or(u64::MAX / 2).max(1)
}

/// The configuration of every engine: runs are deterministic and can be stopped.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(false)
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .max_wasm_stack(Limits::STACK_BYTES)
        .memory_init_cow(true)
        .wasm_backtrace_max_frames(Some(backtrace::RECORDED_MAX))
        // `lines` reads the debug information, once; the compiler never does.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // These features are disabled to reduce the attack surface, or because their results depend on the machine.
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_component_model_async(false);
    config
}

fn pooled(config: &mut Config, kind: Kind, permits: u32, memory_bytes: usize) {
    let counts = kind.counts();
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(permits)
        .total_core_instances(permits * counts.instances)
        .total_memories(permits * counts.memories)
        .total_tables(permits * counts.tables)
        .total_stacks(1)
        .max_core_instances_per_component(counts.instances)
        .max_memories_per_component(counts.memories)
        .max_memories_per_module(counts.memories)
        .max_tables_per_component(counts.tables)
        .max_tables_per_module(counts.tables)
        .max_memory_size(memory_bytes)
        // This much memory is reset by writing to it, instead of returning its pages to the kernel: a stack of 128 KiB, statics,
        // and the SDK's block of 128 KiB. Each page touched beyond that is faulted in and returned in every run, which costs more
        // than a whole small run. Measurements show that a larger value is slower.
        .linear_memory_keep_resident(320 << 10)
        .table_keep_resident(16 << 10)
        // The scan would leave content in pages that are not present (`memory.rs`).
        .pagemap_scan(Enabled::No);
    if kind == Kind::Big {
        pool.table_elements(100_000).max_component_instance_size(16 << 20).max_core_instance_size(16 << 20);
    }
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
}

/// Configures an engine for memories of which only the written pages are cleared. Initial data is copied into them: a mapped
/// image would have to be mapped again whenever another plugin uses the memory, and costs a page fault for each page that a run
/// writes.
fn cleared(config: &mut Config, permits: usize, purpose: Purpose) -> wasmtime::Result<()> {
    config.memory_init_cow(false).memory_reservation(Memories::RESERVED_BYTES).memory_guard_size(Memories::GUARD_BYTES);
    if purpose == Purpose::Run {
        config.with_host_memory(Arc::new(Memories::new(permits)?));
    }
    Ok(())
}

/// Configures an engine for machines whose address space is too small for a pool (39-bit processors, `ulimit -v`): an instance
/// reserves only its maximum size, so that its memory can grow in place.
fn on_demand(config: &mut Config, memory_bytes: usize) {
    config.memory_reservation(memory_bytes as u64).memory_guard_size(64 << 10).memory_reservation_for_growth(1 << 20);
}

/// Advances the epochs while one of the pools exists.
fn keep_deadlines(pools: [Weak<Pool>; 2]) -> io::Result<()> {
    let tick = move || {
        let mut together = 1;
        loop {
            thread::sleep(TICK * together);
            let alive: Vec<_> = pools.iter().filter_map(Weak::upgrade).collect();
            if alive.is_empty() {
                break;
            }
            for pool in &alive {
                (0..together).for_each(|_| pool.engine.increment_epoch());
            }
            together = if alive.iter().all(|pool| pool.permits.are_free()) { IDLE_TICKS } else { 1 };
        }
    };
    threads::spawn("epochs", tick)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_looks_at_the_clock_at_its_deadline() {
        assert_eq!(ticks(Duration::from_millis(5)), 1);
        assert_eq!(ticks(Duration::from_millis(6)), 2);
        assert_eq!(ticks(Duration::ZERO), 1);
        assert!(ticks(Duration::MAX) > 1 << 60);
    }

    #[test]
    fn a_permit_is_returned() {
        let permits = Permits { all: 1, free: Mutex::new(1), freed: Condvar::new() };
        thread::scope(|scope| {
            let first = permits.take();
            scope.spawn(|| drop(permits.take()));
            drop(first);
        });
        assert_eq!(*permits.free.lock().unwrap(), 1);
    }
}
