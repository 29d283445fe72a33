//! Tests of the sandbox with its guests: which files load, how each run ends, and which functions no guest can reach.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;

use support::{crates, guests};

use super::{
    child::Children,
    engine::{Compiler, Places},
    *,
};
use crate::domain::{
    content::Content,
    event::{Event, NewEvent},
    id::{EventId, Tag},
    name::{Attributes, EventType},
    plugin::Digest,
    run::{RunFailure, RunOutcome, StoredState},
    time::Timestamp,
};

/// The deadline of runs: enough for an unoptimised engine on a busy machine. Only an endless loop takes all of it.
const DEADLINE: Duration = Duration::from_secs(2);

/// One sandbox for all tests: its pools are large.
static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| sandbox(4, Places::offered()[0]));

/// Creates a sandbox that compiles in this process. A child process would run the current executable, which is this test program
/// and not the engine.
fn sandbox(threads: usize, places: Places) -> Sandbox {
    Sandbox::with_places(&Settings { threads, ..Settings::default() }, places, Compiler::Here).unwrap()
}

fn load(guest: &str) -> Result<Plugin, LoadError> {
    SANDBOX.load(&guests::wasm(guest), &NoCache)
}

fn refusal(bytes: &[u8]) -> String {
    SANDBOX.load(bytes, &NoCache).expect_err("this must not load").to_string()
}

fn event() -> Event {
    let mut attributes = Attributes::default();
    attributes.push("channel", "newsletter".into()).unwrap();
    Event {
        id: EventId::from_i64(41),
        accepted_at: Timestamp::from_millis(1_614_265_330_042),
        new: NewEvent {
            id: None,
            source: "shop".into(),
            event_type: EventType::parse("hostile.guest").unwrap(),
            subject: Some("order/7".into()),
            time: None,
            content: Content::new("application/json", Bytes::from_static(br#"{"id": 7}"#)).unwrap(),
            attributes: attributes.into(),
            depth: 0,
            cause: None,
            request: None,
        },
    }
}

/// A run with common defaults.
struct Run {
    event: Event,
    config: Arc<BTreeMap<String, String>>,
    limits: Limits,
    bound: bool,
}

impl Default for Run {
    fn default() -> Self {
        let limits = Limits { deadline: DEADLINE, ..Limits::default() };
        Self { event: event(), config: Arc::default(), limits, bound: false }
    }
}

impl Run {
    fn of(&self, plugin: &Plugin, state: impl StateSource + 'static) -> Result<Report, StateUnavailable> {
        let input = RunInput {
            event: &self.event,
            tag: Tag::from_random([1, 2, 3, 4]),
            config: &self.config,
            revision: 4,
            limits: &self.limits,
            bound: self.bound,
            now: Timestamp::from_millis(1_000),
        };
        plugin.run(input, Box::new(state))
    }

    fn report(&self, guest: &str) -> Report {
        self.of(&load(guest).unwrap(), NoState).unwrap()
    }

    fn failure(&self, guest: &str) -> RunFailure {
        self.report(guest).result.expect_err("this run must fail")
    }
}

fn body(report: &Report) -> &[u8] {
    &report.result.as_ref().expect("this run succeeds").webhooks[0].payload.body
}

#[test]
fn a_core_module_from_cargo_loads_and_runs() {
    let plugin = load("echo").unwrap();
    assert_eq!(&*plugin.manifest().name, "echo");
    assert_eq!(plugin.manifest().on[0].to_string(), "hostile.*");
    assert!(!plugin.uses_state() && !plugin.is_big());
    let report = Run::default().of(&plugin, NoState).unwrap();
    assert_eq!(body(&report), br#"{"id": 7}"#);
    assert_eq!(report.result.unwrap().webhooks[0].to.as_deref(), Some("receiver"));
    assert!(report.memory_peak >= 128 << 10 && report.memory_peak < 1 << 20, "{}", report.memory_peak);
}

#[test]
fn every_hostile_guest_ends_as_its_named_outcome() {
    for (guest, expected) in guests::HOSTILE {
        let report = Run::default().report(guest);
        let outcome = report.result.as_ref().map_or_else(|failure| failure.outcome, |_| RunOutcome::Ok);
        assert_eq!(outcome.as_str(), expected, "{guest}: {:?}", report.result.err());
    }
}

#[test]
fn messages_name_the_limit() {
    let cases = [
        ("endless-loop", "deadline: ran longer than its deadline of 2 s"),
        ("memory-bomb", "out_of_memory: requested 64.1 MiB of memory; its limit is 64 MiB"),
        ("several-memories", "out_of_memory: requested 64.2 MiB of memory; its limit is 64 MiB"),
        ("deep-recursion", "stack_overflow: nested its calls deeper than its stack of 512 KiB allows"),
        ("huge-output", "output_too_large: returned more than 20 MiB in one call"),
        ("ten-thousand-webhooks", "too_many_webhooks: returned 10000 webhooks; the limit is 1000"),
        ("panic", "panic: panicked at src/lib.rs:13:29: unlucky 13"),
        (
            "trap",
            "trap: stopped without a message: an abort, std::process::exit, or a panic without the SDK's hook. To end early return \
             Ok(Outcome::none()) or an Error",
        ),
        ("divide-by-zero", "trap: divided by zero"),
        ("out-of-bounds", "trap: accessed memory out of bounds; usually its stack is full, because of too deep recursion"),
        ("state-flood", "state_limit: uses more than 64 state keys in one run"),
        ("nameless-webhook", "no_endpoint: webhook 1: names no endpoint; set `to`"),
        ("failure", "crm-down: the CRM has no such customer yet"),
    ];
    for (guest, expected) in cases {
        let failure = Run::default().failure(guest);
        assert_eq!(format!("{}: {}", failure.code, failure.message), expected);
        assert_eq!(failure.retryable, guest == "failure", "{guest}");
    }
    for guest in ["wild-pointer", "bad-text"] {
        let failure = Run::default().failure(guest);
        assert_eq!((failure.outcome, failure.code.as_str()), (RunOutcome::BadOutput, "invalid_output"), "{}", failure.message);
    }
}

#[test]
fn an_endless_run_is_stopped_in_time_and_others_continue() {
    let (runaway, good) = (load("endless-loop").unwrap(), load("no-op").unwrap());
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let started = Instant::now();
            (Run::default().of(&runaway, NoState).unwrap(), started.elapsed())
        });
        while !slow.is_finished() {
            assert!(Run::default().of(&good, NoState).unwrap().result.is_ok());
        }
        let (report, took) = slow.join().unwrap();
        assert_eq!(report.result.unwrap_err().outcome, RunOutcome::Deadline);
        assert!(took >= DEADLINE, "the run ended before its deadline: {took:?}");
        assert!(took < Duration::from_secs(5), "the run ended long after its deadline: {took:?}");
    });
}

#[test]
fn a_lower_limit_applies_to_one_run() {
    let limits = Limits { memory_bytes: 64 << 10, ..Run::default().limits };
    let failure = Run { limits, ..Run::default() }.failure("no-op");
    assert_eq!(failure.message, "requested 128 KiB of memory; its limit is 64 KiB");
    assert_eq!(failure.outcome, RunOutcome::OutOfMemory);
}

#[test]
fn a_big_component_gets_more_memory() {
    let plugin = load("big").unwrap();
    assert!(plugin.is_big());
    let report = Run::default().of(&plugin, NoState).unwrap();
    assert!(report.result.is_ok() && report.memory_peak > 100 << 20, "{report:?}");
}

#[test]
fn a_log_flood_is_counted_and_the_run_continues() {
    let report = Run::default().report("log-flood");
    assert!(report.result.is_ok());
    assert_eq!((report.log.lines.len(), report.log.dropped), (100, 99_900));
}

#[test]
fn a_bound_plugin_leaves_the_endpoint_out() {
    let bound = Run { bound: true, ..Run::default() };
    assert!(bound.report("nameless-webhook").result.is_ok());
    assert_eq!(bound.failure("echo").code, "endpoint_not_allowed");
}

#[test]
fn settings_reach_the_plugin() {
    let config = Arc::new(BTreeMap::from([("greeting".to_owned(), "ciao".to_owned())]));
    assert_eq!(body(&Run { config, ..Run::default() }.report("config")), b"ciao");
}

struct Stored(Result<i64, &'static str>);

impl StateSource for Stored {
    fn get(&mut self, _: &str) -> Result<Option<StoredState>, anyhow::Error> {
        self.0.map(|version| Some(StoredState { value: b"old".to_vec(), version, expires_at: None })).map_err(anyhow::Error::msg)
    }
}

#[test]
fn state_is_read_through_the_runs_own_writes() {
    let plugin = load("state").unwrap();
    assert!(plugin.uses_state());
    let report = Run::default().of(&plugin, Stored(Ok(7))).unwrap();
    assert_eq!(body(&report), b"new");
    let reads: Vec<_> = report.state.reads.iter().map(|read| (read.key.as_str(), read.version)).collect();
    assert_eq!(reads, [("n", 7)]);
    assert_eq!(report.state.writes[0].value.as_deref(), Some(&b"new"[..]));
}

/// A store that answers slowly.
struct Slow(Duration);

impl StateSource for Slow {
    fn get(&mut self, _: &str) -> Result<Option<StoredState>, anyhow::Error> {
        let asked = Instant::now();
        while asked.elapsed() < self.0 {
            std::thread::yield_now();
        }
        Ok(Some(StoredState { value: b"old".to_vec(), version: 7, expires_at: None }))
    }
}

#[test]
fn waiting_for_state_does_not_count_towards_the_deadline() {
    let run = Run { limits: Limits { deadline: Duration::from_millis(50), ..Limits::default() }, ..Run::default() };
    let report = run.of(&load("state").unwrap(), Slow(Duration::from_millis(150))).unwrap();
    assert_eq!(body(&report), b"new");
    let failure = run.of(&load("endless-loop").unwrap(), Slow(Duration::ZERO)).unwrap().result.expect_err("it never ends");
    assert_eq!(failure.outcome, RunOutcome::Deadline, "its own time still counts");
}

#[test]
fn a_deadline_of_processor_time_ends_only_a_run_that_uses_it() {
    let limits = Limits { deadline: Duration::from_millis(60), timed: Timed::Processor, ..Limits::default() };
    let (run, plugin) = (Run { limits, ..Run::default() }, load("endless-loop").unwrap());
    // With more threads than processors, each run reaches its deadline later, but with the same outcome.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let before = crate::clock::thread_cpu();
                let failure = run.of(&plugin, NoState).unwrap().result.expect_err("it never ends");
                assert_eq!(failure.outcome, RunOutcome::Deadline);
                assert!(crate::clock::thread_cpu() - before >= Duration::from_millis(60), "not before its deadline");
            });
        }
    });
}

#[test]
fn a_run_that_failed_writes_no_state() {
    let report = Run::default().report("state-flood");
    assert!(report.result.is_err() && report.state.writes.is_empty());
}

#[test]
fn an_unavailable_store_does_not_fail_the_run() {
    let unavailable = Run::default().of(&load("state").unwrap(), Stored(Err("disk gone"))).unwrap_err();
    assert_eq!(format!("{:#}", anyhow::Error::new(unavailable)), "the plugin's state could not be read: disk gone");
}

#[test]
fn no_instance_leaves_anything_to_the_next_thousand() {
    let stock = crates::stock_wasm("stock");
    for places in Places::offered() {
        let sandbox = sandbox(1, places);
        let of_text = |name| guests::build("secret", name, &["hostile.*"]);
        let plugins = [of_text("secret"), of_text("other"), stock.clone()].map(|file| sandbox.load(&file, &NoCache).unwrap());
        for number in 0..1000 {
            let mut run = Run::default();
            run.event.new.subject = (number % 5 == 2).then(|| "stop".into());
            let report = run.of(&plugins[number % 3], NoState).unwrap();
            if let Err(failure) = report.result {
                assert!(failure.message.contains("stopped in the middle"), "instance {number}, {places:?}: {failure:?}");
            }
        }
    }
}

#[test]
fn every_kind_of_memory_keeps_the_same_promises() {
    let sandboxes = Places::offered().into_iter().map(|places| sandbox(2, places)).collect::<Vec<_>>();
    for (sandbox, (guest, expected)) in sandboxes.iter().flat_map(|sandbox| guests::HOSTILE.map(|guest| (sandbox, guest))) {
        let plugin = sandbox.load(&guests::wasm(guest), &NoCache).unwrap();
        let report = Run::default().of(&plugin, NoState).unwrap();
        let outcome = report.result.as_ref().map_or_else(|failure| failure.outcome, |_| RunOutcome::Ok);
        assert_eq!(outcome.as_str(), expected, "{guest}: {:?}", report.result.err());
    }
}

#[test]
fn refusals_explain_why_and_what_to_do() {
    let cases = [
        ("no-sdk", "it was built without the SDK"),
        ("no-handler", "it exports no innesco:plugin/handler. Build a crate that calls innesco_sdk::export!(…)"),
        ("unknown-import", "it imports env.launch_missiles, which plugins cannot use: "),
        ("unknown-interface", "it imports acme:net/http@1.0.0, which plugins cannot use: "),
        (
            "newer-used",
            "it was built against contract 1.2.0 and uses state.keys; this engine supports 1.1.0. \
             Upgrade the engine, or build with innesco-sdk 1.1",
        ),
        ("wasm-bindgen", "it contains wasm-bindgen, which works only in browsers"),
        ("wasip1", "it is built for wasm32-wasip1. Build it for wasm32-unknown-unknown, or for wasm32-wasip2"),
        ("huge-minimum", "it exceeds a limit of plugins: it declares an initial memory of 4 GiB; the limit is 64 MiB"),
        ("endless-describe", "its describe function failed: it ran longer than its deadline of 1 s"),
        ("state-describe", "its describe function failed: it requests state in describe"),
    ];
    for (guest, expected) in cases {
        let found = refusal(&guests::wasm(guest));
        assert!(found.starts_with(expected), "{guest}: {found}");
    }
    let bad_name = refusal(&guests::build("no-op", "No Op", &["*"]));
    assert!(bad_name.starts_with("its manifest is not valid: name: \"No Op\" is not a name"), "{bad_name}");
    let bad_pattern = refusal(&guests::build("no-op", "no-op", &["order*"]));
    assert!(bad_pattern.starts_with("its manifest is not valid: on: \"order*\""), "{bad_pattern}");
}

#[test]
fn names_the_kind_of_a_file_that_is_not_webassembly() {
    let huge = vec![0; 100 << 20];
    let code = SANDBOX.small.engine.precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
    let cases: [(&[u8], &str); 10] = [
        (b"", "it is empty"),
        (b"\0as", "it ends in the middle, after 3 B"),
        (b"hello, world, hello", "it is not WebAssembly but text. Build a crate"),
        (b"\x89PNG\r\n\x1a\n", "it is not WebAssembly but an image"),
        (b"\x7fELF\x02\x01\x01 and so on", "it is a native program"),
        (b"\n (module)", "it is WebAssembly text"),
        (b"\0asm\x07\0\0\0", "it is broken: its version of WebAssembly is unknown"),
        (&code, "it is compiled machine code, which is never loaded from a plugin folder"),
        (&huge, "it is 100 MiB; the limit is 64 MiB"),
        (&wat::parse_str("(component)").unwrap(), "it exports no innesco:plugin/handler"),
    ];
    for (bytes, expected) in cases {
        let found = refusal(bytes);
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn a_file_at_which_a_parser_panics_is_refused_by_name() {
    // An interface that names a type of its world: no tool writes this, and the parser panics on it.
    let types = wat::parse_str(
        r#"(component (@custom "wit-component-encoding" "\04\00")
            (type (component
                (type (component
                    (type bool)
                    (import "t" (type (eq 0)))
                    (type (instance (alias outer 1 1 (type)) (export "u" (type (eq 0)))))
                    (import "a:a/i" (instance (type 2)))))
                (export "a:a/w" (component (type 0)))))
            (export "w" (type 0)))"#,
    )
    .unwrap();
    let section = [&[16], &b"component-type:x"[..], &types].concat();
    let length = u8::try_from(section.len()).unwrap();
    let module = [&b"\0asm\x01\0\0\0\0"[..], &[length | 0x80, length >> 7], &section].concat();
    let error = SANDBOX.load(&module, &NoCache).unwrap_err();
    assert!(
        matches!(&error, LoadError::TooComplex { reason } if reason.starts_with("loading it crashed the compiler")),
        "{error}"
    );
}

#[test]
fn refuses_a_file_cut_at_any_byte() {
    let whole = guests::wasm("echo");
    for length in 1..whole.len() {
        let error = SANDBOX.load(&whole[..length], &NoCache).unwrap_err();
        // A file that is cut at the end of a section may be a complete module of another kind.
        assert!(!matches!(error, LoadError::Engine { .. } | LoadError::TooComplex { .. }), "{length}: {error}");
    }
    assert!(SANDBOX.load(&whole[..whole.len() / 2], &NoCache).unwrap_err().may_be_incomplete());
}

#[test]
fn a_flipped_byte_never_crashes_the_engine() {
    let whole = guests::wasm("echo");
    for place in (8..whole.len()).step_by(3) {
        let mut broken = whole.clone();
        broken[place] ^= 0x55;
        if let Ok(plugin) = SANDBOX.load(&broken, &NoCache) {
            let _ = Run::default().of(&plugin, NoState);
        }
    }
}

#[test]
fn a_newer_contract_works_if_nothing_new_is_used() {
    assert!(Run::default().report("newer-unused").result.is_ok());
}

#[test]
fn errors_list_exactly_the_functions_of_the_contract() {
    let mut resolve = wit_parser::Resolve::default();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-sdk/wit/plugin.wit");
    let package = resolve.push_str("plugin.wit", &std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(resolve.packages[package].name.to_string(), format!("innesco:plugin@{}", bindings::CONTRACT));
    let mut found = BTreeMap::new();
    for (name, id) in &resolve.packages[package].interfaces {
        let functions: Vec<_> = resolve.interfaces[*id].functions.keys().map(String::as_str).collect();
        found.insert(name.as_str(), functions);
    }
    found.remove("handler");
    let offered: BTreeMap<_, _> = bindings::OFFERED.iter().map(|(name, functions)| (*name, functions.to_vec())).collect();
    assert_eq!(found, offered);
}

#[derive(Default)]
struct Shelf {
    code: Mutex<HashMap<String, Vec<u8>>>,
    lines: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    too_complex: Mutex<HashMap<Digest, String>>,
}

impl CodeCache for Shelf {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.code.lock().unwrap().get(key).cloned()
    }

    fn put(&self, key: &str, code: &[u8]) {
        self.code.lock().unwrap().insert(key.to_owned(), code.to_vec());
    }

    fn put_lines(&self, key: &str, lines: &[u8]) {
        self.lines.lock().unwrap().insert(key.to_owned(), lines.to_vec());
    }

    fn lines(&self, key: &str) -> Option<ReadLines> {
        let (lines, key) = (Arc::clone(&self.lines), key.to_owned());
        Some(Box::new(move || lines.lock().unwrap().get(&key).cloned()))
    }

    fn too_complex(&self, digest: &Digest) -> Option<String> {
        self.too_complex.lock().unwrap().get(digest).cloned()
    }

    fn put_too_complex(&self, digest: &Digest, reason: &str) {
        self.too_complex.lock().unwrap().insert(*digest, reason.to_owned());
    }
}

#[test]
fn compiled_code_comes_back_from_the_cache() {
    let (shelf, bytes) = (Shelf::default(), guests::wasm("echo"));
    assert!(SANDBOX.load_cached(&Digest::of(&bytes), &shelf).unwrap().is_none());
    let first = SANDBOX.load(&bytes, &shelf).unwrap();
    let keys: Vec<_> = shelf.code.lock().unwrap().keys().cloned().collect();
    assert_eq!(keys.len(), 1);
    assert!(keys[0].starts_with(&first.digest().to_string()));
    let without_file = SANDBOX.load_cached(first.digest(), &shelf).unwrap().unwrap();
    for again in [SANDBOX.load(&bytes, &shelf).unwrap(), without_file] {
        assert_eq!(body(&Run::default().of(&again, NoState).unwrap()), br#"{"id": 7}"#);
    }
    // Code of another engine is not usable: the file is compiled again.
    shelf.put(&keys[0], b"not code");
    assert!(SANDBOX.load_cached(first.digest(), &shelf).unwrap().is_none());
    assert!(SANDBOX.load(&bytes, &shelf).is_ok());
    assert_ne!(shelf.get(&keys[0]).unwrap(), b"not code");
}

#[test]
fn cached_code_needs_no_child() {
    let (shelf, bytes) = (Shelf::default(), guests::wasm("echo"));
    SANDBOX.load(&bytes, &shelf).unwrap();
    // A child of this test program cannot compile anything, so this sandbox fails if it starts a child.
    let settings = Settings { threads: 1, ..Settings::default() };
    let places = Places::offered()[0];
    let children = Children::new(settings.clone(), places);
    let sandbox = Sandbox::with_places(&settings, places, Compiler::Child(Arc::new(children))).unwrap();
    assert!(sandbox.load(&bytes, &shelf).is_ok());
    let error = sandbox.load(&bytes, &NoCache).unwrap_err();
    assert!(matches!(&error, LoadError::NoLoader { .. }) && error.passes(), "{error}");
}

#[test]
fn a_file_that_is_too_complex_is_not_tried_again() {
    let (shelf, bytes) = (Shelf::default(), guests::wasm("echo"));
    shelf.put_too_complex(&Digest::of(&bytes), "loading it nests calls too deep");
    let error = SANDBOX.load(&bytes, &shelf).unwrap_err().to_string();
    assert!(
        error.starts_with("the file is damaged or too complex: loading it nests calls too deep. It is not tried again until"),
        "{error}"
    );
}

#[test]
fn wasi_has_a_fixed_clock_and_repeatable_random_numbers() {
    let report = Run::default().report("wasi-sleep");
    let again = Run::default().report("wasi-sleep");
    assert_eq!(report.log.lines[0].message, "awake");
    let (random, seconds) = body(&report).split_at(8);
    assert_eq!(i64::from_le_bytes(seconds.try_into().unwrap()), event().accepted_at.seconds());
    assert_eq!(body(&again), body(&report), "the same event gives the same numbers");
    let other = Event { id: EventId::from_i64(42), ..event() };
    let other = Run { event: other, ..Run::default() }.report("wasi-sleep");
    assert_ne!(&body(&other)[..8], random, "another event gives other numbers");
}

#[test]
fn wasi_resources_are_bounded() {
    let failure = Run::default().failure("wasi-hoard");
    assert_eq!(failure.outcome, RunOutcome::BadOutput, "{}", failure.message);
}

#[test]
fn permits_are_always_returned() {
    let plugin = load("trap").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| drop(Run::default().of(&plugin, NoState).unwrap())));
        }
    });
}
