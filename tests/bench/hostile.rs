//! Effect of hostile plugins on the events of a well-behaved one.

use std::{fmt::Write as _, time::Duration};

use wit_component::{StringEncoding, embed_component_metadata};

use super::{
    Place, ROUNDS,
    engine::{self, Engine},
    figures::{Cell, Figure, Table},
    load::{Ledger, Target, open_loop, sink},
};

/// Events per second to the good plugin. The hostile plugins together get as many.
const RATE: u32 = 200;
const TIME: Duration = Duration::from_secs(3);

/// The name of each hostile plugin, and the body of its `handle` as WebAssembly text.
const HOSTILE: [(&str, &str); 4] = [
    ("loop", "(loop $on (br $on))"),
    (
        "bomb",
        "(loop $on (drop (memory.grow (i32.const 16)))
           (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1)) (br $on))",
    ),
    ("trap", "(unreachable)"),
    (
        "flood",
        "(local $line i32)
         (loop $on (call $log (i32.const 512) (i32.const 4) (i32.const 516) (i32.const 32))
           (br_if $on (i32.lt_u (local.tee $line (i32.add (local.get $line) (i32.const 1))) (i32.const 100000))))",
    ),
];

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let good = engine::bench_plugin();
    let guests = HOSTILE.iter().map(|(name, body)| Ok((*name, guest(name, body)?))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut plugins: Vec<(&str, &[u8])> = vec![("bench-plugin", &good)];
    plugins.extend(guests.iter().map(|(name, file)| (*name, &file[..])));
    let mut figures: [Figure; 4] = Default::default();
    let mut ends = String::new();
    let mut lost = 0;
    for round in 0..ROUNDS {
        let folder = place.fresh()?;
        let ledger = Ledger::new(20_000);
        let mut engine = Engine::start(folder.path(), &plugins)?;
        engine.endpoint("receiver", &sink(&ledger).await?, &[]).await?;
        let target = Target::new(&engine.server.url, "order.created");
        let warm = open_loop(&target, &ledger, RATE, Duration::from_secs(1)).await;
        ledger.settled(&warm).await;
        let phase = open_loop(&target, &ledger, RATE, TIME).await;
        ledger.settled(&phase).await;
        let quiet = ledger.report(phase);
        // Each hostile plugin runs once, so that the report can show how it ends.
        for (name, _) in &guests {
            let run = engine.run_once(&format!("hostile.{name}")).await?;
            if round == 0 {
                let dropped = run["log_dropped"].as_u64().filter(|dropped| *dropped > 0);
                let dropped = dropped.map(|dropped| format!(", {dropped} lines dropped")).unwrap_or_default();
                let outcome = run["outcome"].as_str().unwrap_or("no end in 15 s");
                let millis = run["duration_ms"].as_f64().map(|ms| format!(" after {ms:.0} ms")).unwrap_or_default();
                write!(ends, "{}{name}: {outcome}{millis}{dropped}", if ends.is_empty() { "" } else { "; " })?;
            }
        }
        let others = Ledger::new(20_000);
        let attacks = HOSTILE.map(|(name, _)| Target::new(&engine.server.url, &format!("hostile.{name}")));
        let [a, b, c, d] = attacks.each_ref().map(|target| open_loop(target, &others, RATE / 4, TIME));
        let (phase, ..) = tokio::join!(open_loop(&target, &ledger, RATE, TIME), a, b, c, d);
        ledger.settled(&phase).await;
        let storm = ledger.report(phase);
        anyhow::ensure!(!engine.server.has_ended(), "the engine has ended");
        for (figure, value) in figures.iter_mut().zip([quiet.whole.p50, quiet.whole.p99, storm.whole.p50, storm.whole.p99]) {
            figure.note(value);
        }
        lost += quiet.lost + storm.lost;
    }
    let [quiet_p50, quiet_p99, storm_p50, storm_p99] = &figures;
    let mut table = Table::new(&["a good plugin's events", "quiet", "beside four hostile plugins", "ratio", "goal"]);
    let row = |name: &str, quiet: &Figure, storm: &Figure, goal: &str| {
        [Cell::from(name), quiet.into(), storm.into(), storm.against(quiet).into(), goal.into()]
    };
    table.row(row("end to end p50 ms", quiet_p50, storm_p50, ""));
    table.row(row("end to end p99 ms", quiet_p99, storm_p99, "≤ 3"));
    table.print("Hostile plugins: 200 good events a second, then as many hostile ones beside them");
    println!("  {ends}");
    println!("  {lost} good events did not arrive.\n");
    Ok(())
}

/// Builds a plugin file without the SDK: it runs on `hostile.NAME`, and `handle` executes `body`.
fn guest(name: &str, body: &str) -> anyhow::Result<Vec<u8>> {
    // The manifest in the layout of the canonical ABI: five pairs of address and length, then the list of one pattern.
    let texts = format!("{name}1hostilehostile.{name}");
    let length = u32::try_from(name.len())?;
    let manifest = [2048, length, 2048 + length, 1, 2049 + length, 7, 1064, 1, 0, 0, 2056 + length, 8 + length];
    let manifest: String =
        manifest.iter().flat_map(|word: &u32| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module
          (import "innesco:plugin/log@1.0.0" "write" (func $log (param i32 i32 i32 i32)))
          (memory (export "memory") 2)
          (data (i32.const 512) "info{}")
          (data (i32.const 1024) "{manifest}")
          (data (i32.const 2048) "{texts}")
          (global $free (mut i32) (i32.const 16384))
          (func (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $bytes i32) (result i32)
            (global.get $free)
            (global.set $free (i32.and (i32.add (i32.add (global.get $free) (local.get $bytes)) (i32.const 7)) (i32.const -8))))
          (func (export "innesco:plugin/handler@1.0.0#describe") (result i32) (i32.const 1024))
          ;; Returns an empty outcome: all of its bytes at 8192 are zero.
          (func (export "innesco:plugin/handler@1.0.0#handle") (param $event i32) (result i32) {body} (i32.const 8192)))"#,
        "x".repeat(32)
    );
    let mut module = wat::parse_str(&text)?;
    let mut resolve = wit_parser::Resolve::default();
    let wit = include_str!("../../plugin-sdk/wit/plugin.wit");
    let package = resolve.push_str("plugin.wit", wit)?;
    let world = resolve.select_world(&[package], Some("plugin"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}
