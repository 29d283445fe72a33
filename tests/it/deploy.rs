//! What is shipped to deploy the engine with speaks of settings, flags, addresses and figures that there are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the workspace").to_owned()
}

fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("text")));
        }
    }
}

fn shipped() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&top().join("deploy"), &mut found);
    assert!(found.len() > 10, "{}", found.len());
    found
}

fn output(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(env!("CARGO_BIN_EXE_innesco"))
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The words of a text that begin with `prefix` and go on with what `belongs`.
fn words<'a>(text: &'a str, prefix: &str, belongs: fn(char) -> bool) -> BTreeSet<&'a str> {
    let begins = |place: usize| !text[..place].ends_with(|c: char| belongs(c) || c == '-' || c == '_');
    text.match_indices(prefix)
        .filter(|(place, _)| begins(*place))
        .map(|(place, _)| {
            let rest = &text[place + prefix.len()..];
            let length = rest.find(|c: char| !belongs(c)).unwrap_or(rest.len());
            &text[place..place + prefix.len() + length]
        })
        .collect()
}

#[test]
fn every_setting_that_is_shipped_is_one() {
    let settings: BTreeSet<String> = output(&["serve", "--check"])
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|key| format!("INNESCO_{}", key.replace('.', "_").to_ascii_uppercase()))
        .chain(["INNESCO_ADMIN_KEY", "INNESCO_LOG_LEVEL"].map(str::to_owned))
        .collect();
    assert!(settings.contains("INNESCO_STORE") && settings.contains("INNESCO_NODE_NAME"), "{settings:?}");
    let mut used = 0;
    for (path, text) in shipped() {
        for word in words(&text, "INNESCO_", |c| c.is_ascii_uppercase() || c == '_') {
            // `INNESCO_…`, of all of them.
            if word != "INNESCO_" {
                assert!(settings.contains(word), "{path}: there is no setting {word}");
                used += 1;
            }
        }
    }
    assert!(used > 20, "{used}");
}

#[test]
fn every_command_that_is_shipped_is_one() {
    let mut seen = 0;
    for (path, text) in shipped() {
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("innesco serve") else { continue };
            let help = output(&["serve", "--help"]);
            for flag in words(rest, "--", |c| c.is_ascii_lowercase() || c == '-') {
                assert!(help.contains(flag), "{path}: innesco serve has no {flag}");
            }
            seen += 1;
        }
    }
    assert!(seen > 1, "{seen}");
}

#[test]
fn every_figure_that_is_shipped_is_one() {
    let table = fs::read_to_string(top().join("engine/src/metrics.rs")).expect("the table of figures");
    let mut seen = 0;
    for (path, text) in shipped() {
        for word in words(&text, "innesco_", |c| c.is_ascii_lowercase() || c == '_') {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|ending| word.strip_suffix(ending)).unwrap_or(word);
            assert!(
                table.contains(&format!("\"{name}\"")) || table.contains(&format!("\"{word}\"")),
                "{path}: there is no figure {word}"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn manifests_are_what_they_say_and_ask_for_addresses_that_there_are() {
    let api: Value = serde_json::from_str(&output(&["openapi"])).expect("the document is JSON");
    for (path, text) in shipped().iter().filter(|(path, _)| path.ends_with(".yaml") || path.ends_with(".yml")) {
        let manifest: Value = serde_norway::from_str(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let container = &manifest["spec"]["template"]["spec"]["containers"][0];
        if container.is_null() {
            continue;
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let asked = container[probe]["httpGet"]["path"].as_str().expect("a path");
            assert!(api["paths"][asked]["get"].is_object(), "{path}: {probe} asks for {asked}");
        }
        let grace = manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().expect("a time");
        let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("a time");
        let drain = output(&["serve", "--check"]);
        let drain = drain.lines().find_map(|line| line.strip_prefix("drain ")).expect("the setting");
        let drain: u64 = drain.split_whitespace().next().and_then(|time| time.strip_suffix('s')?.parse().ok()).expect("seconds");
        assert!(grace > sleep + drain, "{path}: {grace} s are not enough for {sleep} s and {drain} s");
    }
}
