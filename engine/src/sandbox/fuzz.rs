//! Changes real plugin files at random, and compiles them like the child process of the engine, under the same limits.
//!
//! Many inputs share one child process, because a start costs as much as hundreds of inputs. The child process is this test
//! program, started again. The process ends once earlier inputs have left too much memory behind ([`LEFT_BYTES_MAX`]). If the
//! process dies, its last input runs again as the first input of a new process. That input counts as a death only if the new
//! process dies too. So every outcome belongs to one file.
//!
//! `INNESCO_FUZZ_INPUTS` sets how many inputs run (a few thousand by default), and `INNESCO_FUZZ_FIRST` sets the number of the
//! first input. Another `INNESCO_FUZZ_SEED` generates other inputs. `INNESCO_FUZZ_CORPUS` names a folder with further files from
//! which inputs are generated.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    panic,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use support::guests::{self, mutate::Mutator};

use super::{
    child::{self, Budget, Cause},
    engine::{Places, Sandbox},
    error::LoadError,
    limits::Settings,
};

const INPUTS: u64 = 3_000;
/// Address space that earlier inputs may leave behind in a process, in bytes. This is a sixth of the limit for loading a file, so
/// each input still has at least five sixths of that limit.
const LEFT_BYTES_MAX: u64 = 64 << 20;
/// A long run prints its counts after each group of this many inputs, so that an interrupted run also has results.
const REPORT_EVERY: u64 = 50_000;
/// The variable that makes this program the child. Its value is the number of the child's first input.
const FROM: &str = "INNESCO_FUZZ_FROM";
/// The variable with the end of the child's inputs: the number of its last input, plus one.
const TO: &str = "INNESCO_FUZZ_TO";
/// The outcome if code of the engine panicked. A panic in a WebAssembly parser is not a fault of the engine: the file is refused.
const OUR_PANIC: &str = "our-panic";
const PARSER_PANIC: &str = "parser-panic";
const GUESTS: [&str; 6] = ["echo", "config", "state", "wasi-sleep", "newer-unused", "panic"];

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: write a number")))
}

/// Returns the files to change: core modules as cargo writes them, and the components made from them.
fn corpus() -> Vec<Vec<u8>> {
    let modules = GUESTS.map(guests::wasm);
    let components = modules.iter().map(|module| super::load::encode(module).expect("a guest becomes a component"));
    let more = env::var("INNESCO_FUZZ_CORPUS").into_iter().flat_map(|folder| fs::read_dir(folder).expect("the corpus exists"));
    let more = more.map(|entry| fs::read(entry.expect("an entry").path()).expect("a file"));
    let mut corpus: Vec<_> = components.chain(more).collect();
    corpus.extend(modules);
    corpus
}

/// Returns the outcome of a refused input as one word.
fn outcome(error: &LoadError) -> &'static str {
    match error {
        LoadError::Empty | LoadError::Truncated { .. } => "truncated",
        LoadError::Invalid { .. } => "invalid",
        LoadError::TooDemanding { .. } => "too-demanding",
        LoadError::TooComplex { .. } => "too-complex",
        LoadError::NotAComponent { .. } => "not-a-component",
        LoadError::NotCompilable { .. } => "not-compilable",
        _ => "refused",
    }
}

/// Outcomes and costs of all inputs.
#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<String, u64>,
    slowest: Duration,
    memory_kib: u64,
    processes: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcomes, slowest, memory_kib, processes } = self;
        let inputs: u64 = outcomes.values().sum();
        write!(f, "{inputs} inputs in {processes} processes: {outcomes:?}; slowest {slowest:?}; most memory {memory_kib} KiB")
    }
}

#[test]
fn changed_files_end_in_a_refusal_or_in_a_plugin() {
    let (inputs, seed) = (number("INNESCO_FUZZ_INPUTS", INPUTS), number("INNESCO_FUZZ_SEED", 1));
    let first = number("INNESCO_FUZZ_FIRST", 0);
    let (mut tally, mut next, end) = (Tally::default(), first, first + inputs);
    while next < end {
        let began = next;
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "sandbox::fuzz::as_a_child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FROM, next.to_string())
            .env(TO, end.to_string())
            .env("RAYON_NUM_THREADS", "1")
            // A backtrace maps the debug symbols of the whole program.
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        tally.processes += 1;
        let words = child.stderr.take().unwrap();
        let words = std::thread::spawn(move || std::io::read_to_string(words).unwrap_or_default());
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // Skips the lines of the test harness.
            let Some(line) = line.split("=> ").nth(1) else { continue };
            let [input, outcome, micros, peak] = line.split(' ').collect::<Vec<_>>().try_into().expect("four words");
            assert_eq!(input, next.to_string(), "each input has one line");
            *tally.outcomes.entry(outcome.to_owned()).or_default() += 1;
            tally.slowest = tally.slowest.max(Duration::from_micros(micros.parse().unwrap()));
            tally.memory_kib = tally.memory_kib.max(peak.parse().unwrap());
            next += 1;
            if (next - first).is_multiple_of(REPORT_EVERY) {
                println!("seed {seed}, {tally}");
            }
        }
        let status = child.wait().unwrap();
        let words = words.join().unwrap();
        assert!(status.success() || status.signal().is_some(), "the child broke off at input {next}: {words}");
        assert!(next > began || !status.success(), "the child did nothing: {words}");
        if status.signal().is_some() && next == began {
            let cause = Cause::of_death(status, &words, Budget::of(0));
            println!("input {next} of seed {seed}: {cause:?} ({status})");
            *tally.outcomes.entry("died".to_owned()).or_default() += 1;
            next += 1;
        }
    }
    println!("seed {seed}, {tally}");
    assert_eq!(tally.outcomes.values().sum::<u64>(), inputs);
    assert_eq!(tally.outcomes.get(OUR_PANIC), None, "code of the engine panicked");
    // Each of these outcomes must be reached by some input. Otherwise the random changes are too coarse.
    for reached in ["loads", "invalid", "not-a-component", "too-demanding"] {
        assert!(tally.outcomes.contains_key(reached), "no input reached {reached:?}: {tally}");
    }
}

#[test]
#[ignore = "the child of the test above"]
fn as_a_child() {
    let (from, to, seed) = (number(FROM, u64::MAX), number(TO, 0), number("INNESCO_FUZZ_SEED", 1));
    if from == u64::MAX {
        return;
    }
    let corpus = corpus();
    let budget = Budget::of(0);
    child::limit_memory(budget).unwrap();
    // The place of the last panic. Paths of the engine's code are relative to the workspace.
    let panicked = Arc::new(Mutex::new(None));
    let note = Arc::clone(&panicked);
    panic::set_hook(Box::new(move |panic| {
        eprintln!("{panic}");
        let is_ours = panic.location().is_none_or(|location| location.file().starts_with("engine/"));
        *note.lock().unwrap() = Some(if is_ours { OUR_PANIC } else { PARSER_PANIC });
    }));
    let work = move || {
        let sandbox = Sandbox::compiler(&Settings { threads: 1, ..Settings::default() }, Places::Pooled).unwrap();
        // The first file causes allocations that the compiler and the allocator keep from then on.
        sandbox.compile(&corpus[0]).unwrap();
        let fresh = child::mapped_bytes();
        for input in from..to {
            // Each input has a separate generator, so that one input can be repeated alone.
            let bytes = Mutator::new(corpus.clone(), seed.wrapping_mul(1 << 32).wrapping_add(input)).file();
            child::limit_cpu(used_cpu() + budget.cpu).unwrap();
            let began = used_cpu();
            let result = sandbox.compile(&bytes);
            let took = used_cpu() - began;
            let panic = panicked.lock().unwrap().take();
            let word = panic.unwrap_or_else(|| result.as_ref().err().map_or("loads", outcome));
            if panic.is_some() {
                assert!(matches!(result, Err(LoadError::TooComplex { .. })), "a panic is a refusal by name");
            }
            println!("=> {input} {word} {} {}", took.as_micros(), peak_kib());
            if child::mapped_bytes() > fresh + LEFT_BYTES_MAX {
                break;
            }
        }
        std::io::stdout().flush().unwrap();
    };
    std::thread::Builder::new().stack_size(child::STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

/// Returns the peak memory of this process, as the kernel reports it.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Returns the processor time of all threads of this process.
fn used_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec as u32)
}
