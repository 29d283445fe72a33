//! WASI for guests that bring it: nothing to reach, and nothing that differs from run to run. No files, environment, arguments or
//! sockets; the clock stands at the event's time; randomness follows from the event and the version; output goes to the run's log.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wasmtime_wasi::{
    Deterministic, HostMonotonicClock, HostWallClock, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView,
    p2::pipe::MemoryOutputPipe,
};

use crate::domain::time::Timestamp;

/// Bytes of random numbers before they repeat.
const RANDOM_BYTES: usize = 4096;

/// The WASI side of one run.
pub struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    output: MemoryOutputPipe,
}

impl Wasi {
    pub fn new(time: Timestamp, seed: &[u8], output_bytes: usize) -> Self {
        let output = MemoryOutputPipe::new(output_bytes);
        let random = |purpose: u8| Deterministic::new(stream(seed, purpose));
        let mut builder = WasiCtxBuilder::new();
        builder
            .stdout(output.clone())
            .stderr(output.clone())
            .wall_clock(Standing(time))
            .monotonic_clock(Standing(time))
            .secure_random(random(0))
            .insecure_random(random(1))
            .insecure_random_seed(u128::from_le_bytes(stream(seed, 2)[..16].try_into().expect("it is longer than 16 bytes")))
            .max_random_size(64 << 10)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        Self { ctx: builder.build(), table: ResourceTable::new(), output }
    }

    pub fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }

    /// What the guest printed, as far as it was kept.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.output.contents()).into_owned()
    }
}

/// Random bytes that follow from `seed` alone.
fn stream(seed: &[u8], purpose: u8) -> Vec<u8> {
    let block = |counter: u8| Sha256::new().chain_update([purpose, counter]).chain_update(seed).finalize();
    (0..=u8::MAX).take(RANDOM_BYTES / 32).flat_map(block).collect()
}

/// A clock that stands.
struct Standing(Timestamp);

impl HostWallClock for Standing {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.millis()).unwrap_or(0))
    }
}

impl HostMonotonicClock for Standing {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}
