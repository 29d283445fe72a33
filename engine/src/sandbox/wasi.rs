//! A restricted WASI for ready-made components (wasm32-wasip2, JavaScript, Python).
//!
//! It has no files, arguments, environment or sockets. What the guest writes to standard output and error becomes lines of the
//! run's log. The clock stays at the event's time, and a wait ends at once: a guest that could sleep would occupy a worker beyond
//! its deadline. Random numbers are derived from the event and the plugin's version, so that a run can be repeated.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView, async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{
        self, DynPollable, OutputStream, Pollable, StreamResult,
        bindings::clocks::{monotonic_clock, wall_clock},
    },
};

use super::{host::Host, limits::Limits, log::SharedLog};
use crate::domain::{plugin::Digest, run::LogLevel, time::Timestamp};

/// Maximum number of host resources of a guest: streams, pollables. Each costs memory of the host.
const RESOURCES_MAX: usize = 1000;
/// Maximum number of random bytes of one call.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// WASI's part of one run.
pub struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    now: Timestamp,
    streams: [LogStream; 2],
}

impl Wasi {
    pub fn new(log: &SharedLog, event_id: &str, digest: &Digest, now: Timestamp) -> Self {
        let streams = [LogLevel::Info, LogLevel::Warn].map(|level| LogStream::new(level, log.clone()));
        let mut random =
            StdRng::from_seed(Sha256::new().chain_update(digest.as_bytes()).chain_update(event_id).finalize().into());
        let mut builder = WasiCtx::builder();
        builder
            .stdout(streams[0].clone())
            .stderr(streams[1].clone())
            .insecure_random_seed(u128::from(random.next_u64()))
            .insecure_random(StdRng::from_rng(&mut random))
            .secure_random(random)
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_ip_name_lookup(false)
            .allow_tcp(false)
            .allow_udp(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self { ctx: builder.build(), table, now, streams }
    }

    /// Writes an unfinished line to the log.
    pub fn finish(&self) {
        self.streams.iter().for_each(LogStream::end_line);
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.as_mut().expect("components linked with WASI run with it");
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

/// Adds WASI, and replaces its clocks by clocks that do not advance.
pub fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    wall_clock::add_to_linker::<Host, HasStillClocks>(linker, still_clocks)?;
    monotonic_clock::add_to_linker::<Host, HasStillClocks>(linker, still_clocks)?;
    linker.allow_shadowing(false);
    Ok(())
}

struct HasStillClocks;

impl HasData for HasStillClocks {
    type Data<'a> = StillClocks<'a>;
}

fn still_clocks(host: &mut Host) -> StillClocks<'_> {
    let wasi = host.wasi.as_mut().expect("components linked with WASI run with it");
    StillClocks { table: &mut wasi.table, now: wasi.now }
}

/// Clocks that show the event's time during the whole run.
struct StillClocks<'a> {
    table: &'a mut ResourceTable,
    now: Timestamp,
}

impl wall_clock::Host for StillClocks<'_> {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        let millis = u64::try_from(self.now.millis()).unwrap_or(0);
        Ok(wall_clock::Datetime { seconds: millis / 1000, nanoseconds: (millis % 1000) as u32 * 1_000_000 })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: 1_000_000 })
    }
}

impl monotonic_clock::Host for StillClocks<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::try_from(self.now.millis()).unwrap_or(0).saturating_mul(1_000_000))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000)
    }

    fn subscribe_instant(&mut self, _: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let ready = self.table.push(Ready)?;
        p2::subscribe(self.table, ready)
    }

    fn subscribe_duration(&mut self, _: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(0)
    }
}

struct Ready;

#[async_trait]
impl Pollable for Ready {
    async fn ready(&mut self) {}
}

/// Standard output or error: each line goes to the run's log.
#[derive(Clone)]
struct LogStream {
    level: LogLevel,
    log: SharedLog,
    line: Arc<Mutex<Vec<u8>>>,
}

impl LogStream {
    fn new(level: LogLevel, log: SharedLog) -> Self {
        Self { level, log, line: Arc::default() }
    }

    fn take_in(&self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            let room = Limits::LOG_LINE_BYTES.saturating_sub(line.len());
            line.extend_from_slice(&part[..part.len().min(room)]);
            drop(line);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&self) {
        let line = std::mem::take(&mut *self.line.lock().unwrap_or_else(PoisonError::into_inner));
        let text = String::from_utf8_lossy(&line);
        if !text.trim_end().is_empty() {
            self.log.write(self.level, text.trim_end());
        }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take_in(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take_in(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
