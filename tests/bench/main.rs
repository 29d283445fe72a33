//! `make bench`: the engine compared with minimal programs, in one run on one machine.
//!
//! Absolute figures depend on the machine more than on the engine, so every scenario runs the compared programs alternately in
//! the same minutes, and prints ratios. No figure makes the benchmark fail. `docs/bench.md` explains each figure.

use support::{postgres, process};

mod load;
mod wire;

mod engine;
#[path = "plugin/src/order.rs"]
mod order;
mod relay;

mod accept;
mod attacks;
mod calls;
mod charts;
mod compare;
mod counts;
mod dashboard;
mod dead;
mod fairness;
mod figures;
mod hostile;
mod nodes;
mod plugins;
mod retention;
mod reused;
mod scale;
mod shapes;
mod side_by_side;
mod soak;
mod stored;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::json;

/// The allocator of the engine, so that the processor time of the relays can be compared with the engine's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of alternating rounds. A round that another program disturbed differs from the others.
const ROUNDS: usize = 3;
const DEFAULT: [&str; 20] = [
    "relay",
    "rates",
    "shapes",
    "counts",
    "calls",
    "peers",
    "plugins",
    "accept",
    "hostile",
    "attacks",
    "fairness",
    "backlog",
    "dead",
    "retention",
    "compare",
    "debug",
    "dashboard",
    "scale",
    "stored",
    "nodes",
];

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    // The sandbox starts this program again to compile a plugin.
    if arguments.next().is_some_and(|first| first == innesco::sandbox::CHILD_COMMAND) {
        return Ok(innesco::sandbox::run_child(arguments));
    }
    // `cargo bench` adds a flag.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["null-relay", target] => relay::serve(target.to_owned(), None),
        ["null-relay", target, folder] => relay::serve(target.to_owned(), Some(folder.as_ref())),
        ["raw-syncs", folder] => {
            println!("{}", accept::syncs_per_second(folder.as_ref())?);
            Ok(())
        }
        ["charts", results, folder] => charts::draw(results.as_ref(), folder.as_ref()),
        ["soak", minutes] => {
            let minutes: u64 = minutes.parse().with_context(|| format!("{minutes:?} is not a number of minutes"))?;
            run(async |place| soak::run(place, Duration::from_secs(60 * minutes)).await)
        }
        ref scenarios => {
            let scenarios = if scenarios.is_empty() { &DEFAULT } else { scenarios };
            if let Some(unknown) = scenarios.iter().find(|name| !DEFAULT.contains(name)) {
                bail!("there is no scenario {unknown:?}; choose from {}, or soak MINUTES", DEFAULT.join(", "));
            }
            run(async |place| {
                for scenario in scenarios {
                    match *scenario {
                        "relay" => side_by_side::run(place).await?,
                        "rates" => side_by_side::run_rates(place).await?,
                        "shapes" => shapes::run(place).await?,
                        "counts" => counts::run(place).await?,
                        "calls" => calls::run()?,
                        "peers" => calls::run_peers()?,
                        "plugins" => plugins::run(place).await?,
                        "accept" => accept::run(place).await?,
                        "hostile" => hostile::run(place).await?,
                        "attacks" => attacks::run(place).await?,
                        "retention" => retention::run(place).await?,
                        "compare" => compare::run(place).await?,
                        "debug" => compare::run_debug(place).await?,
                        "dashboard" => dashboard::run(place).await?,
                        "scale" => scale::run(place).await?,
                        "stored" => stored::run(place).await?,
                        "dead" => dead::run(place).await?,
                        "backlog" => fairness::run_backlog(place).await?,
                        "nodes" => nodes::run(place).await?,
                        _ => fairness::run(place).await?,
                    }
                }
                Ok(())
            })
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Folders for the scenarios.
struct Place {
    /// The parent of these folders, on the disk that is measured.
    folder: tempfile::TempDir,
}

impl Place {
    /// Creates a new empty folder.
    fn fresh(&self) -> anyhow::Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(&self.folder)?)
    }
}

fn run(scenarios: impl AsyncFnOnce(&Place) -> anyhow::Result<()>) -> anyhow::Result<()> {
    install_cryptography();
    // The default is the folder of the build, because /tmp is often in memory, where a sync costs nothing.
    let disk = std::env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    std::fs::create_dir_all(&disk)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&disk);
    let place = Place { folder: folder.with_context(|| format!("no folder can be created in {}", disk.display()))? };
    let cores = std::thread::available_parallelism()?;
    let load = process::load_average();
    println!("{cores} cores, load {load} at the start, {ROUNDS} alternating rounds, mimalloc everywhere");
    // On a busy machine, a process waits for a processor after each sync. The durable relay syncs most in
    // relation to its work, so the wait slows it most, and the engine looks better than it is.
    if load > cores.get() as f64 {
        println!("OTHER PROGRAMS ARE RUNNING: do not trust rates, latencies and their ratios; CPU per event is roughly right");
    }
    println!("figures are medians (lowest–highest); a ratio is taken within each round\n");
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(scenarios(&place))?;
    let load_at_end = process::load_average();
    println!("load {load_at_end} at the end");
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let processor =
        read("/proc/cpuinfo").lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()));
    let machine = json!({
        "cores": cores, "processor": processor, "kernel": read("/proc/sys/kernel/osrelease").trim(), "rounds": ROUNDS,
        "load_at_start": load, "load_at_end": load_at_end,
    });
    let file = disk.join("bench.json");
    figures::write_all(&file, &machine)?;
    println!("all values of all rounds are in {}", file.display());
    Ok(())
}

/// The HTTP client needs a cryptography provider even for plain HTTP.
fn install_cryptography() {
    // Only the first call installs the provider. Later calls fail, which is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
