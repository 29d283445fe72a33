//! Changes real plugin files at random and loads them as the child process does, under its limits.
//!
//! A batch of inputs shares one process, which is this test program, started again. One that dies is noted with the input that it died
//! of, and the next input gets a new process. `INNESCO_FUZZ_INPUTS` sets how many there are (a few thousand by default),
//! `INNESCO_FUZZ_SEED` which, and `INNESCO_FUZZ_CORPUS` names a folder with more files to begin with.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use support::guests::{self, mutate::Mutator};

use super::{
    child::{self, Budget, Cause},
    engine::{Places, Sandbox},
    error::LoadError,
    limits::Settings,
};

const INPUTS: u64 = 3_000;
/// Inputs that share a process.
const BATCH: u64 = 5_000;
/// Tells this program that it is the child, and where to begin.
const FROM: &str = "INNESCO_FUZZ_FROM";
const GUESTS: [&str; 6] = ["echo", "config", "state", "wasi-sleep", "newer-unused", "panic"];

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: write a number")))
}

/// The files that are changed: core modules as cargo writes them, and the components that they become.
fn corpus() -> Vec<Vec<u8>> {
    let modules = GUESTS.map(guests::wasm);
    let components = modules.iter().map(|module| super::load::encode(module).expect("a guest becomes a component"));
    let more = env::var("INNESCO_FUZZ_CORPUS").into_iter().flat_map(|folder| fs::read_dir(folder).expect("the corpus is there"));
    let more = more.map(|entry| fs::read(entry.expect("an entry").path()).expect("a file"));
    let mut corpus: Vec<_> = components.chain(more).collect();
    corpus.extend(modules);
    corpus
}

/// What became of an input, as one word.
fn outcome(error: &LoadError) -> &'static str {
    match error {
        LoadError::Empty | LoadError::Truncated { .. } => "truncated",
        LoadError::Invalid { .. } => "invalid",
        LoadError::TooDemanding { .. } => "too-demanding",
        LoadError::TooComplex { .. } => "too-complex",
        LoadError::NotAComponent { .. } => "not-a-component",
        LoadError::NotCompilable { .. } => "not-compilable",
        LoadError::Engine { .. } => "panic",
        _ => "refused",
    }
}

#[test]
fn changed_files_end_in_a_refusal_or_in_a_plugin() {
    let (inputs, seed) = (number("INNESCO_FUZZ_INPUTS", INPUTS), number("INNESCO_FUZZ_SEED", 1));
    let mut outcomes = BTreeMap::<String, u64>::new();
    let (mut slowest, mut memory, mut next) = (Duration::ZERO, 0, 0);
    while next < inputs {
        let end = (next + BATCH).min(inputs);
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "sandbox::fuzz::as_a_child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FROM, next.to_string())
            .env("INNESCO_FUZZ_INPUTS", end.to_string())
            .env("RAYON_NUM_THREADS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let words = child.stderr.take().unwrap();
        let words = std::thread::spawn(move || std::io::read_to_string(words).unwrap_or_default());
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // Lines of the test harness are not for us.
            let Some(line) = line.split("=> ").nth(1) else { continue };
            let [outcome, micros, peak] = line.split(' ').collect::<Vec<_>>().try_into().expect("three words");
            *outcomes.entry(outcome.to_owned()).or_default() += 1;
            slowest = slowest.max(Duration::from_micros(micros.parse().unwrap()));
            memory = memory.max(peak.parse::<u64>().unwrap());
            next += 1;
        }
        let status = child.wait().unwrap();
        let words = words.join().unwrap();
        if next < end {
            let cause = Cause::of_death(status, &words, Budget::of(0));
            println!("input {next} of seed {seed}: {cause:?} ({status})");
            assert!(status.signal().is_some(), "the child ended without an input: {words}");
            *outcomes.entry("died".to_owned()).or_default() += 1;
            next += 1;
        }
    }
    println!("{inputs} inputs of seed {seed}: {outcomes:?}; slowest {slowest:?}; most memory {memory} KiB");
    assert_eq!(outcomes.values().sum::<u64>(), inputs);
    assert_eq!(outcomes.get("panic"), None, "a parser panicked");
    // Else the changes are so coarse that nothing behind the first check was tried.
    for reached in ["loads", "invalid", "not-a-component", "too-demanding"] {
        assert!(outcomes.contains_key(reached), "no input reached {reached:?}: {outcomes:?}");
    }
}

#[test]
#[ignore = "the child of the test above"]
fn as_a_child() {
    let (from, to, seed) = (number(FROM, u64::MAX), number("INNESCO_FUZZ_INPUTS", 0), number("INNESCO_FUZZ_SEED", 1));
    if from == u64::MAX {
        return;
    }
    let corpus = corpus();
    let budget = Budget::of(0);
    child::limit_memory(budget).unwrap();
    let work = move || {
        let sandbox = Sandbox::compiler(&Settings { threads: 1, ..Settings::default() }, Places::Pooled).unwrap();
        for input in from..to {
            // Each input has a generator of its own, so that one can be repeated alone.
            let bytes = Mutator::new(corpus.clone(), seed.wrapping_mul(1 << 32).wrapping_add(input)).next();
            child::limit_cpu(used_cpu() + budget.cpu).unwrap();
            let began = Instant::now();
            let result = sandbox.compile(&bytes);
            let word = result.as_ref().err().map_or("loads", outcome);
            println!("=> {word} {} {}", began.elapsed().as_micros(), peak_kib());
        }
        std::io::stdout().flush().unwrap();
    };
    std::thread::Builder::new().stack_size(child::STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

/// The most memory that this process had, from the kernel.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Processor time of all threads of this process.
fn used_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::from_secs(used.tv_sec.unsigned_abs())
}
