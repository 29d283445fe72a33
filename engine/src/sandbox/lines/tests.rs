//! Tests of the table of lines with real debug information.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{
    clock,
    domain::{
        content::Content,
        event::{Event, NewEvent},
        id::{EventId, Tag},
        name::EventType,
        run::RunOutcome,
        time::Timestamp,
    },
    sandbox::{Limits, NoCache, NoState, Plugin, Report, RunInput, Sandbox},
};

/// The test guest with faults, as a component with and without debug information.
fn faults() -> (Vec<u8>, Vec<u8>) {
    let component = crate::sandbox::load::encode(&support::crates::wasm("faults")).unwrap();
    let stripped = stripped(&component).into_owned();
    (component, stripped)
}

#[test]
fn a_stripped_component_has_the_same_code_and_no_names() {
    let (component, stripped) = faults();
    assert!(stripped.len() * 2 < component.len(), "{} of {} bytes", stripped.len(), component.len());
    wasmparser::Validator::new().validate_all(&stripped).unwrap();
    assert_eq!(super::stripped(&stripped), stripped, "nothing is left to strip");
    let code = |bytes: &[u8]| {
        let modules = parts::core_modules(bytes);
        modules.iter().map(|module| bytes[module.code.clone()].to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(code(&component), code(&stripped));
    for module in parts::core_modules(&stripped) {
        assert!(module.section("name").is_empty() && module.section(".debug_info").is_empty());
    }
}

#[test]
fn every_function_of_the_crate_has_lines() {
    let (component, stripped) = faults();
    let lines = Lines::read(build(&component, &stripped)).unwrap();
    let module = &parts::core_modules(&stripped)[0];
    let all: Vec<Line> = module.bodies.iter().flat_map(|body| lines.at(body.end as u32 - 1)).collect();
    assert!(all.iter().any(|line| line.file == "src/plain.rs" && line.line > 0 && line.function.starts_with("faults::plain::")));
    assert!(all.iter().all(|line| !line.file.starts_with('/')), "no path of this machine");
    assert!(lines.at(0).is_empty() && lines.at(u32::MAX).is_empty());
}

const SOURCES: [(&str, &str); 5] = [
    ("src/plain.rs", include_str!("../../../../tests/guests/faults/src/plain.rs")),
    ("src/inline.rs", include_str!("../../../../tests/guests/faults/src/inline.rs")),
    ("src/method.rs", include_str!("../../../../tests/guests/faults/src/method.rs")),
    ("src/closure.rs", include_str!("../../../../tests/guests/faults/src/closure.rs")),
    ("src/generic.rs", include_str!("../../../../tests/guests/faults/src/generic.rs")),
];

/// Returns the name, the file and the line of each fault.
fn all_faults() -> Vec<(&'static str, &'static str, usize)> {
    let of_file = |(file, text): (&'static str, &'static str)| {
        text.lines().enumerate().filter_map(move |(number, line)| Some((line.split_once("// fault: ")?.1, file, number + 1)))
    };
    SOURCES.into_iter().flat_map(of_file).collect()
}

fn run(plugin: &Plugin, name: &str) -> Report {
    let limits = Limits { deadline: Duration::from_millis(300), ..Limits::default() };
    let new = NewEvent {
        id: None,
        source: "shop".into(),
        event_type: EventType::parse(&format!("fault.{name}")).unwrap(),
        subject: None,
        time: None,
        content: Content::none(),
        attributes: Arc::default(),
        depth: 0,
        cause: None,
        request: None,
    };
    let event = Event { id: EventId::from_i64(41), accepted_at: Timestamp::from_millis(1), new };
    let tag = Tag::from_random([1, 2, 3, 4]);
    let input = RunInput {
        event: &event,
        tag,
        config: &Arc::default(),
        revision: 0,
        limits: &limits,
        bound: false,
        now: Timestamp::from_millis(0),
    };
    plugin.run(input, Box::new(NoState)).unwrap()
}

#[test]
fn a_hundred_faults_of_twenty_kinds_name_their_lines() {
    let plugin = Sandbox::in_process().load(&support::crates::wasm("faults"), &NoCache).unwrap();
    let faults = all_faults();
    assert_eq!(faults.len(), 100);
    let (mut wrong, mut outcomes) = (Vec::new(), BTreeMap::<&str, u32>::new());
    for (name, file, line) in faults {
        let report = run(&plugin, name);
        let outcome = report.result.as_ref().map_or_else(|failure| failure.outcome, |_| RunOutcome::Ok);
        *outcomes.entry(outcome.as_str()).or_default() += 1;
        // If the run stopped inside one of the guest's two tiny functions, the next line of the backtrace is its caller.
        let is_tiny = |text: &&String| text.starts_with("faults::hidden") || text.starts_with("faults::trap");
        let mut lines_of_guest = report.backtrace.iter().filter(|text| !is_tiny(text));
        let found = lines_of_guest.next().cloned().unwrap_or_default();
        // A loop is stopped at its head, which is the line above. A run with a full stack is stopped where the next call begins.
        let lines = if name.starts_with("loop") { line - 1..=line } else { line..=line };
        let expected = |text: &str| lines.clone().any(|line| text.contains(&format!("({file}:{line})")));
        let is_right = match name.starts_with("recursion") {
            true => lines_of_guest.next().is_some_and(|text| expected(text)),
            false => expected(&found),
        };
        if !is_right || !found.starts_with("faults::") {
            wrong.push(format!("{name}: {file}:{line}, but {:?} ({:?})", report.backtrace, report.result.err()));
        }
    }
    assert!(wrong.is_empty(), "{} of 100 are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), ["deadline", "out-of-memory", "trapped"], "{outcomes:?}");
}

#[test]
fn without_debug_information_functions_have_names_only() {
    let names = Sandbox::in_process().load(&without_sections(&support::crates::wasm("faults"), ".debug_"), &NoCache).unwrap();
    let report = run(&names, "unwrap_plain");
    assert_eq!(report.backtrace[..], ["faults::plain::unwrap_plain", "faults::Faults::handle"][..report.backtrace.len()]);
    let bare = without_sections(&without_sections(&support::crates::wasm("faults"), ".debug_"), "name");
    let report = run(&Sandbox::in_process().load(&bare, &NoCache).unwrap(), "unwrap_plain");
    assert!(report.backtrace.is_empty() && report.result.is_err());
}

/// Returns a core module without the custom sections whose names start with `beginning`.
fn without_sections(module: &[u8], beginning: &str) -> Vec<u8> {
    with_sections(module, |name, _| if name.starts_with(beginning) { None } else { Some(Vec::new()) })
}

/// Returns a core module with its custom sections changed. `change` returns the new content of a section. `None` removes the
/// section; an empty vector leaves it unchanged.
fn with_sections(module: &[u8], mut change: impl FnMut(&str, &[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut changed = module[..8].to_vec();
    let push_length = |bytes: &mut Vec<u8>, mut length: usize| {
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
    };
    for payload in wasmparser::Parser::new(0).parse_all(module) {
        let payload = payload.unwrap();
        let Some((id, range)) = payload.as_section() else { continue };
        let mut body = module[range].to_vec();
        if let wasmparser::Payload::CustomSection(section) = &payload {
            match change(section.name(), section.data()) {
                None => continue,
                Some(content) if content.is_empty() => {}
                Some(content) => {
                    body = Vec::new();
                    push_length(&mut body, section.name().len());
                    body.extend_from_slice(section.name().as_bytes());
                    body.extend_from_slice(&content);
                }
            }
        }
        changed.push(id);
        push_length(&mut changed, body.len());
        changed.extend_from_slice(&body);
    }
    changed
}

/// Builds the table of a core module as the loader does, and looks up offsets from all parts of the component in the table. Returns
/// the table's length, and the processor time that it took to build.
fn table_of(module: &[u8]) -> (usize, Duration) {
    let component = crate::sandbox::load::encode(module).unwrap();
    let stripped = stripped(&component).into_owned();
    let before = clock::thread_cpu();
    let table = build(&component, &stripped);
    let took = clock::thread_cpu() - before;
    let length = table.len();
    if let Some(lines) = Lines::read(table) {
        for offset in (0..stripped.len() as u32).step_by(97) {
            for line in lines.at(offset) {
                assert!(line.function.len() <= 200 && line.file.len() <= 250, "{line:?}");
            }
        }
    }
    (length, took)
}

/// Reading debug information must take less than this, even in an unoptimised build on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(8);

#[test]
fn changed_debug_information_costs_lines_at_worst() {
    let module = support::crates::wasm("faults");
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let changed = with_sections(&module, |name, content| {
            let mut content = content.to_vec();
            if name.starts_with(".debug_") {
                for _ in 0..random.random_range(1..200) {
                    let place = random.random_range(0..content.len());
                    match random.random_range(0..4) {
                        0 => content[place] = random.random(),
                        1 => content[place] = 0xff,
                        2 => content.truncate(place.max(1)),
                        _ => content.insert(place, random.random()),
                    }
                }
            }
            Some(content)
        });
        let (length, took) = table_of(&changed);
        assert!(length <= 8 << 20 && took < TOO_LONG, "input {seed}: {length} bytes in {took:?}");
    }
}

#[test]
fn endless_debug_information_ends_with_its_budget() {
    let module = support::crates::wasm("faults");
    // Each unit reads the same lines and abbreviations again, so the work is many times the size of the file.
    let endless = with_sections(&module, |name, content| match name {
        ".debug_info" => Some(content.repeat(200)),
        _ => Some(Vec::new()),
    });
    let (_, took) = table_of(&endless);
    assert!(took < TOO_LONG, "{took:?}");
    let plugin = Sandbox::in_process().load(&endless, &NoCache).unwrap();
    assert!(run(&plugin, "unwrap_plain").result.is_err(), "a plugin with endless debug information loads and runs");
}

#[test]
fn a_broken_table_gives_no_lines() {
    let (component, stripped) = faults();
    let table = build(&component, &stripped);
    assert!(Lines::read(Vec::new()).is_none() && Lines::read(b"code".to_vec()).is_none());
    for length in (0..table.len()).step_by(table.len() / 50) {
        if let Some(lines) = Lines::read(table[..length].to_vec()) {
            (0..stripped.len() as u32).step_by(997).for_each(|offset| drop(lines.at(offset)));
        }
    }
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..50 {
        let mut broken = table.clone();
        (0..100).for_each(|_| *random_of(&mut broken, &mut random) = 0xff);
        if let Some(lines) = Lines::read(broken) {
            (0..stripped.len() as u32).step_by(997).for_each(|offset| drop(lines.at(offset)));
        }
    }
}

fn random_of<'a>(bytes: &'a mut [u8], random: &mut StdRng) -> &'a mut u8 {
    let place = random.random_range(0..bytes.len());
    &mut bytes[place]
}

#[test]
fn debug_information_changes_nothing_that_the_compiler_sees() {
    let with = support::crates::wasm("faults");
    let without = without_sections(&without_sections(&with, ".debug_"), "name");
    let seen = |module: &[u8]| stripped(&crate::sandbox::load::encode(module).unwrap()).into_owned();
    assert_eq!(seen(&with), seen(&without));
}

/// Prints what debug information costs: time to load a file that is not in the cache, time of a run, time of a failed run.
#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn measures_the_cost_of_debug_information() {
    let with = support::crates::wasm("faults");
    let without = without_sections(&without_sections(&with, ".debug_"), "name");
    let sandbox = Sandbox::in_process();
    let (mut loads, mut runs, mut faults) = ([Duration::MAX; 2], [Duration::MAX; 2], [Duration::MAX; 2]);
    let timed = |least: &mut Duration, work: &mut dyn FnMut()| {
        let began = std::time::Instant::now();
        work();
        *least = (*least).min(began.elapsed());
    };
    let plugins = [&with, &without].map(|bytes| sandbox.load(bytes, &NoCache).unwrap());
    for _ in 0..15 {
        for (place, bytes) in [&with, &without].into_iter().enumerate() {
            timed(&mut loads[place], &mut || drop(sandbox.load(bytes, &NoCache).unwrap()));
            timed(&mut runs[place], &mut || (0..200).for_each(|_| drop(run(&plugins[place], "none"))));
            timed(&mut faults[place], &mut || (0..200).for_each(|_| drop(run(&plugins[place], "unwrap_plain"))));
        }
    }
    let (_, table) = table_of(&with);
    println!("with and without: load {loads:?}, 200 runs {runs:?}, 200 failed runs {faults:?}; table in {table:?}");
}
