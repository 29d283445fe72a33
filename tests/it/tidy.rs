//! Checks of the source code: modules use only modules below them, named tests exist, and sentences name their subject.

use std::{collections::BTreeMap, fs, path::Path};

/// The modules from top to bottom. A module may use only modules in later rows, never in its own row or an earlier one.
const ROWS: &[&[&str]] = &[
    &["cli"],
    &["serve"],
    &["config"],
    &["ui"],
    &["api", "work"],
    &["catalog"],
    &["store", "sandbox", "outbound", "news", "traces"],
    &["metrics"],
    &["clock", "files", "random", "threads", "trust", "wire"],
    &["domain"],
];

fn row(module: &str) -> usize {
    ROWS.iter().position(|row| row.contains(&module)).unwrap_or_else(|| panic!("module {module} has no row in the picture"))
}

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    files(folder, &["rs"], found);
}

/// Collects the files with these extensions, with their text. Skips folders of builds and packages, and the copy of the first SDK, which
/// never changes.
fn files(folder: &Path, extensions: &[&str], found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the folder exists") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "sdk-1.0"].contains(&name) {
                files(&path, extensions, found);
            }
        } else if path.extension().and_then(|extension| extension.to_str()).is_some_and(|it| extensions.contains(&it)) {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source file")));
        }
    }
}

fn engine() -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// Returns the names that follow `crate::` in a text, also inside braces.
fn used(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (place, _) in text.match_indices("crate::") {
        let rest = &text[place + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                found.push(rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default().to_owned())
            }
            Some(list) => {
                let mut depth = 0;
                let mut name = String::new();
                let mut at_start = true;
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_start = true,
                        c if depth == 0 && at_start && (c.is_ascii_alphanumeric() || c == '_') => name.push(c),
                        _ if !name.is_empty() && depth == 0 => {
                            found.push(std::mem::take(&mut name));
                            at_start = false;
                        }
                        _ => {}
                    }
                    if (c == ',' || depth > 0) && !name.is_empty() {
                        found.push(std::mem::take(&mut name));
                        at_start = c == ',';
                    }
                }
                found.extend((!name.is_empty()).then_some(name));
            }
        }
    }
    found
}

#[test]
fn names_are_found_in_lists_too() {
    assert_eq!(used("use crate::{\n    clock,\n    domain::{id, name::{A, B}},\n    store,\n};"), ["clock", "domain", "store"]);
    assert_eq!(used("crate::store::Error"), ["store"]);
}

#[test]
fn arrows_point_down_only() {
    let mut wrong = Vec::new();
    for (path, text) in engine() {
        let inside = path.split("/src/").nth(1).expect("below src");
        let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if module == "lib" || module == "main" {
            continue;
        }
        for name in used(&text) {
            if name != module && row(&name) <= row(module) {
                wrong.push(format!("{inside} uses {name}, which is not below {module}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_thing_is_in_its_place_only() {
    let mut wrong = Vec::new();
    for (path, text) in engine() {
        let inside = path.split("/src/").nth(1).expect("below src").to_owned();
        let mut only = |what: &str, homes: &[&str]| {
            if text.contains(what) && !homes.iter().any(|home| inside.starts_with(home)) {
                wrong.push(format!("{inside} has {what:?}, whose place is {}", homes.join(", ")));
            }
        };
        only("rusqlite", &["store/sqlite/"]);
        only("SystemTime::now", &["clock.rs"]);
        only("wasmtime::", &["sandbox/"]);
        only("getrandom::", &["random.rs"]);
        only("rand::rng()", &[]);
        // Only these files set the modes of created files or read the environment.
        only(".mode(0o", &["files.rs"]);
        only(
            "env::var(",
            &["config.rs", "cli/build.rs", "sandbox/fuzz.rs", "store/postgres/simulation.rs", "work/tests/instructions.rs"],
        );
        // Other ways to print panic if the output cannot be written.
        only("anstream::std", &["cli/output.rs"]);
        only(
            "println!(",
            &[
                "cli/build.rs",
                "sandbox/fuzz.rs",
                "sandbox/lines/tests.rs",
                "sandbox/memory.rs",
                "store/postgres/simulation.rs",
                "work/tests/instructions.rs",
            ],
        );
        only("StatusCode::UNPROCESSABLE_ENTITY", &["api/error.rs"]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn statements_shift_ids_by_the_bits_of_children_and_attempts() {
    let bits = [innesco::domain::id::CHILD_BITS, innesco::domain::id::ATTEMPT_BITS].map(|bits| bits.to_string());
    let mut shifts = 0;
    for (path, text) in engine().iter().filter(|(path, _)| path.contains("/src/store/")) {
        for shift in ["id << ", "id >> ", "id + 1) << "] {
            for (place, _) in text.match_indices(shift) {
                let number: String = text[place + shift.len()..].chars().take_while(char::is_ascii_digit).collect();
                assert!(number.is_empty() || bits.contains(&number), "{path} shifts an id by {number} bits instead of {bits:?}");
                shifts += usize::from(!number.is_empty());
            }
        }
    }
    assert!(shifts > 0, "no statement shifts an id");
}

#[test]
fn log_lines_of_the_documentation_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(top.join("docs/operations.md")).expect("the document");
    let (_, section) = text.split_once("### Log\n").expect("the section");
    let code: String = engine().into_iter().map(|(_, text)| text).collect();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let lines: Vec<&str> = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)).collect();
    assert!(lines.len() > 5, "{lines:?}");
    let missing: Vec<_> = lines.iter().filter(|line| !code.contains(&format!("\"{line}"))).collect();
    assert!(missing.is_empty(), "no log message begins with {missing:?}");
}

#[test]
fn every_file_describes_itself() {
    for (path, text) in engine() {
        assert!(text.starts_with("//!"), "{path} begins without a `//!` description");
    }
}

/// Returns every `FILE::TEST` that a line of a document names.
fn named_tests(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('`').skip(1).step_by(2).filter_map(|word| word.split_once(".rs::"))
}

/// Returns the tests that a document names and that do not exist.
fn missing_tests(top: &Path, document: &str, text: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut known = 0;
    for (file, test) in text.lines().flat_map(named_tests).filter(|named| *named != ("FILE", "TEST")) {
        let path = match file.strip_prefix("engine/") {
            Some(inside) => top.join("engine/src").join(inside),
            None if file.contains('/') => top.join(file),
            None => top.join("tests/it").join(file),
        };
        let source = fs::read_to_string(path.with_extension("rs")).unwrap_or_default();
        // In these files, a macro turns a list of cases into tests for both stores.
        let has_tests = file.contains("/conformance/") || source.contains("#[test]") || source.contains("::test");
        let exists = has_tests && source.contains(&format!("fn {test}("));
        if exists { known += 1 } else { missing.push(format!("{document}: {file}.rs::{test} does not exist")) }
    }
    assert!(known > 0, "{document} names no test");
    missing
}

#[test]
fn the_table_of_memory_adds_up_and_names_settings_that_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(top.join("docs/operations.md")).expect("the document");
    let (_, section) = text.split_once("### Memory\n").expect("the section");
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let (mut sum, mut total) = (0, None);
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('*')).collect();
        let [what, limit, mib] = cells.as_slice() else { panic!("{row} has three cells") };
        let mib: u64 = mib.parse().unwrap_or_else(|_| panic!("{row}: a number of MiB"));
        if *what == "together" {
            total = Some(mib)
        } else {
            sum += mib
        }
        for name in limit.split('`').skip(1).step_by(2) {
            assert!(innesco::config::SETTINGS.iter().any(|setting| setting.key == name), "{row}: no setting {name}");
        }
    }
    assert_eq!(total, Some(sum));
}

#[test]
fn documents_name_tests_that_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |document: &str| fs::read_to_string(top.join(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
    let (threats, promises) = (read("docs/security.md"), read("tests/README.md"));
    let mut wrong = missing_tests(&top, "docs/security.md", &threats);
    wrong.extend(missing_tests(&top, "tests/README.md", &promises));
    let rows = threats.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
    let untested = rows.filter(|row| named_tests(row).next().is_none() && !row.contains("no test"));
    wrong.extend(untested.map(|row| format!("no test is named, and no reason why not: {row}")));
    let unproved = promises.lines().filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit());
    assert_eq!(unproved.filter(|row| named_tests(row).next().is_some()).count(), 8, "each of the eight promises names its tests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Phrases that hide the subject of a sentence, or that only this project understands. Each has a bar, so that the test does not
/// find the phrase in this list.
const VAGUE: [&str; 39] = [
    "who|ever",
    "what|ever",
    "nob|ody",
    "some|body",
    "f|or want of",
    "f|or so long as",
    "su|ch as it is",
    "a|s good as",
    "like|wise",
    "wh|at came of",
    "wh|at comes of",
    "wh|at became of",
    "wh|at becomes of",
    "i|s told of",
    "a|re told of",
    "w|as told of",
    "how-m|aniet",
    "how-m|anieth",
    "o|f its own",
    "o|f their own",
    "on|e's own",
    "b|y itself",
    "b|y themselves",
    "s|et apart",
    "dr|ive again",
    "dri|ves again",
    "dri|ven again",
    "dr|ive it",
    "dri|ves it",
    "dri|ves the run",
    "dri|ves runs",
    "dri|ves a run",
    "g|o on",
    "go|es on",
    "go|ing on",
    "t|ake up",
    "ta|kes up",
    "ta|ken up",
    "ho|lds over",
];

/// Returns the words of a text without line breaks and comment signs. Parts of an identifier are words too, so names of tests count.
fn words_of(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches(['/', '!', '#', '*']));
    let joined = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ").to_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || c == '\'' || c == '-';
    let spaced: String = joined.chars().map(|c| if is_part(c) { c } else { ' ' }).collect();
    format!(" {} ", spaced.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn vague_phrases(text: &str) -> Vec<String> {
    let words = words_of(text);
    VAGUE.iter().map(|phrase| phrase.replace('|', "")).filter(|phrase| words.contains(&format!(" {phrase} "))).collect()
}

#[test]
fn vague_phrases_are_found_across_lines_and_in_names() {
    let split = ["/// The store keeps what came\n    ///", "of it."].join(" ");
    assert_eq!(vague_phrases(&split), ["wh|at came of".replace('|', "")]);
    assert_eq!(vague_phrases(&["fn no", "body_waits() {}"].concat()), ["no|body".replace('|', "")]);
    assert!(vague_phrases("/// The engine resumes automatically. Each file has its own mode.").is_empty());
}

#[test]
fn sentences_name_their_subject() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for folder in ["engine", "plugin-sdk", "plugins", "tests", "docs", "deploy"] {
        files(&top.join(folder), &["rs", "md"], &mut found);
    }
    for page in ["README.md", "ARCHITECTURE.md"] {
        found.push((top.join(page).display().to_string(), fs::read_to_string(top.join(page)).expect("a page")));
    }
    let base = format!("{}/", top.display());
    let vague: BTreeMap<&str, Vec<String>> = found
        .iter()
        .map(|(path, text)| (path.strip_prefix(&base).expect("below the top"), vague_phrases(text)))
        .filter(|(_, phrases)| !phrases.is_empty())
        .collect();
    assert!(vague.is_empty(), "name the subject instead: {vague:#?}");
}
