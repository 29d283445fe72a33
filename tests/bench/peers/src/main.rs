//! Other plugin engines do the work of the benchmark's plugin. This program reads lines from its input, each with a system and a number
//! of calls, and answers each line with the processor time of a call in microseconds. `calls.rs` starts it.
//!
//! Extism and QuickJS get only the event's data. The engine's plugins get the whole event.

use std::{
    hint::black_box,
    io::{BufRead as _, Write as _},
};

use anyhow::{Context as _, bail, ensure};
use extism::{CompiledPlugin, Manifest, Plugin, PluginBuilder, Wasm};
use rquickjs::{Ctx, Function, Module, Runtime, WriteOptions, module::WriteOptionsEndianness};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ORDER: &str = include_str!("../../order.json");
const SCRIPT: &str = include_str!("order.js");
/// Size of the result, in bytes: the note of every system has the same members.
const NOTE_BYTES: std::ops::RangeInclusive<usize> = 1_100..=1_300;

fn main() -> anyhow::Result<()> {
    let file = std::env::args_os().nth(1).context("usage: peers EXTISM-PLUGIN.wasm")?;
    let manifest = Manifest::new([Wasm::data(std::fs::read(file)?)]);
    let compiled = CompiledPlugin::new(PluginBuilder::new(manifest).with_wasi(false))?;
    let mut extism = Plugin::new_from_compiled(&compiled)?;
    let script = compile()?;
    let quickjs = rquickjs::Context::full(&Runtime::new()?)?;
    quickjs.with(|ctx| load(&ctx, &script).map(|handle| ctx.globals().set("handle", handle)))??;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (system, calls) = line.rsplit_once(' ').context("a line has a system and a number")?;
        let calls: u32 = calls.parse()?;
        let took = match system {
            "Extism, fresh" => measure(calls, || {
                let mut plugin = Plugin::new_from_compiled(&compiled)?;
                Ok(plugin.call::<&str, &[u8]>("handle", ORDER.trim_end())?.len())
            }),
            "Extism, reused" => measure(calls, || Ok(extism.call::<&str, &[u8]>("handle", ORDER.trim_end())?.len())),
            "QuickJS, fresh" => measure(calls, || {
                let context = rquickjs::Context::full(&Runtime::new()?)?;
                context.with(|ctx| call(&load(&ctx, &script)?))
            }),
            "QuickJS, reused" => measure(calls, || quickjs.with(|ctx| call(&ctx.globals().get("handle")?))),
            other => bail!("{other:?} is no system"),
        }?;
        println!("{took}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Returns the processor time of a call, in microseconds.
fn measure(calls: u32, mut call: impl FnMut() -> anyhow::Result<usize>) -> anyhow::Result<f64> {
    let before = processor_micros();
    for _ in 0..calls {
        let bytes = black_box(call()?);
        ensure!(NOTE_BYTES.contains(&bytes), "a note has {bytes} bytes");
    }
    Ok((processor_micros() - before) / f64::from(calls))
}

fn processor_micros() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Compiles the script once, so that a fresh context only loads it.
fn compile() -> anyhow::Result<Vec<u8>> {
    let context = rquickjs::Context::full(&Runtime::new()?)?;
    let options = WriteOptions { endianness: WriteOptionsEndianness::Native, ..WriteOptions::default() };
    Ok(context.with(|ctx| Module::declare(ctx, "order", SCRIPT)?.write(options))?)
}

fn load<'js>(ctx: &Ctx<'js>, script: &[u8]) -> anyhow::Result<Function<'js>> {
    // SAFETY: `compile` has written these bytes in this process.
    let declared = unsafe { Module::load(ctx.clone(), script)? };
    let (module, _) = declared.eval()?;
    Ok(module.get("handle")?)
}

fn call(handle: &Function<'_>) -> anyhow::Result<usize> {
    let note: String = handle.call((ORDER.trim_end(),))?;
    Ok(note.len())
}
