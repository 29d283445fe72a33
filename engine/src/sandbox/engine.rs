//! The two wasmtime engines: one for ordinary plugins, one with larger slots for those that bring a whole language with them.

use std::{thread, time::Duration};

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    component::{HasSelf, Linker},
};

use super::{Settings, bindings, host::Guest};

/// How often a running guest is asked whether its time is over.
pub const TICK: Duration = Duration::from_millis(5);
/// A component larger than this brings a language runtime (JavaScript, Python) and gets the larger slots.
const LARGE_FROM_BYTES: usize = 2 << 20;
/// Memory of one slot for those.
const LARGE_MEMORY_BYTES: usize = 256 << 20;
/// What a fresh instance finds cleaned by writing instead of by giving pages back: a stack of 128 KiB, statics, and the SDK's block
/// of 128 KiB. Each page touched behind it is faulted in and given back in every run, which interrupts the other processors.
const KEEP_RESIDENT_BYTES: usize = 320 << 10;

/// One engine with what its plugins may import.
pub struct Host {
    pub engine: Engine,
    /// The contract alone.
    pub plain: Linker<Guest>,
    /// The contract and a locked-down WASI.
    pub wasi: Linker<Guest>,
    /// Tells compiled code of one engine from another's.
    pub name: &'static str,
}

/// Both engines.
pub struct Engines {
    pub settings: Settings,
    small: Host,
    large: Host,
}

impl Engines {
    pub fn new(settings: Settings) -> wasmtime::Result<Self> {
        let small = Host::new("small", settings.threads.max(8), settings.limits.memory_bytes)?;
        let large = Host::new("large", settings.threads.max(4), settings.limits.memory_bytes.max(LARGE_MEMORY_BYTES))?;
        for host in [&small, &large] {
            start_ticking(&host.engine)?;
        }
        Ok(Self { settings, small, large })
    }

    pub fn for_size(&self, bytes: usize) -> &Host {
        if bytes > LARGE_FROM_BYTES { &self.large } else { &self.small }
    }
}

impl Host {
    fn new(name: &'static str, at_once: usize, memory: usize) -> wasmtime::Result<Self> {
        let engine = match Engine::new(&config(Some(pool(at_once, memory)))) {
            Ok(engine) => engine,
            Err(error) => {
                // Small address spaces (some containers) have no room for the pool; instances then cost a little more.
                tracing::warn!(%error, engine = name, "no room for a pool of instances; they are made one by one");
                Engine::new(&config(None))?
            }
        };
        let mut plain = Linker::new(&engine);
        bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut plain, |guest| guest)?;
        let mut wasi = Linker::new(&engine);
        bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut wasi, |guest| guest)?;
        wasmtime_wasi::p2::add_to_linker_sync(&mut wasi)?;
        Ok(Self { engine, plain, wasi, name })
    }
}

fn config(pool: Option<PoolingAllocationConfig>) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .memory_init_cow(true)
        .cranelift_opt_level(OptLevel::Speed)
        // The same event gives the same answer on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        // What nobody needs is not there to be attacked.
        .wasm_memory64(false)
        .wasm_backtrace_max_frames(None);
    if let Some(pool) = pool {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// Room for `at_once` plugins, each of a few core instances: a Rust plugin has one and the adapters around it.
fn pool(at_once: usize, memory: usize) -> PoolingAllocationConfig {
    let count = |each: usize| u32::try_from(at_once * each).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.max_memory_size(memory)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(16 << 10)
        // Fastest, but pages that were swapped out in between are not reset: a guest could see what another left.
        .pagemap_scan(Enabled::No)
        .table_elements(100_000)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .max_core_instances_per_component(16)
        .max_memories_per_component(8)
        .max_memories_per_module(8)
        .max_tables_per_component(16)
        .max_tables_per_module(16)
        .total_component_instances(count(1))
        .total_core_instances(count(16))
        .total_memories(count(8))
        .total_tables(count(16))
        .max_unused_warm_slots(count(1));
    pool
}

/// Advances the engine's epoch until the engine is gone. An OS thread: it must tick however busy everything else is.
fn start_ticking(engine: &Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    };
    thread::Builder::new().name("epoch".into()).spawn(tick).map(drop).map_err(wasmtime::Error::from)
}
