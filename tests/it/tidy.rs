//! The layout is tested like anything else: modules use only what is below them.

use std::{fs, path::Path};

/// From top to bottom; a module may use those in later rows, never its own row or an earlier one.
const ROWS: &[&[&str]] = &[
    &["cli"],
    &["serve"],
    &["config"],
    &["api", "ui", "work"],
    &["catalog"],
    &["store", "sandbox", "outbound", "news", "traces"],
    &["metrics"],
    &["clock", "files", "trust"],
    &["domain"],
];

fn row(module: &str) -> usize {
    ROWS.iter().position(|row| row.contains(&module)).unwrap_or_else(|| panic!("module {module} has no row in the picture"))
}

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source file")));
        }
    }
}

fn engine() -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// The names that follow `crate::` in a text, also inside braces.
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
        // Modes of files that are created, and the environment: each has one rule.
        only(".mode(0o", &["files.rs"]);
        only("env::var(", &["config.rs", "cli/build.rs", "sandbox/fuzz.rs", "store/postgres/simulation.rs"]);
        only("StatusCode::UNPROCESSABLE_ENTITY", &["api/error.rs"]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in engine() {
        assert!(text.starts_with("//!"), "{path} begins without saying what it answers for");
    }
}

/// Every `FILE::TEST` of a line, as the document writes it.
fn named_tests(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('`').skip(1).step_by(2).filter_map(|word| word.split_once(".rs::"))
}

/// The tests that a document names and that do not exist.
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
        // What both stores promise is a list of cases that a macro makes tests of.
        let has_tests = file.contains("/conformance/") || source.contains("#[test]") || source.contains("::test");
        let exists = has_tests && source.contains(&format!("fn {test}("));
        if exists { known += 1 } else { missing.push(format!("{document}: {file}.rs::{test} does not exist")) }
    }
    assert!(known > 0, "{document} names no test");
    missing
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
