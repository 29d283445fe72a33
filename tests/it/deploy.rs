//! The deployment files name only settings, flags, addresses and metrics that exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine is in the workspace").to_owned()
}

fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the folder exists") {
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

/// Returns the words of a text that start with `prefix` and continue with matching characters.
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
fn every_named_setting_exists() {
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
            // A text that writes `INNESCO_…` means any setting.
            if word != "INNESCO_" {
                assert!(settings.contains(word), "{path}: no setting {word} exists");
                used += 1;
            }
        }
    }
    assert!(used > 20, "{used}");
}

#[test]
fn every_named_command_exists() {
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
fn every_named_metric_exists() {
    let table = fs::read_to_string(top().join("engine/src/metrics/table.rs")).expect("the table of metrics");
    let mut seen = 0;
    for (path, text) in shipped() {
        for word in words(&text, "innesco_", |c| c.is_ascii_lowercase() || c == '_') {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|ending| word.strip_suffix(ending)).unwrap_or(word);
            assert!(
                table.contains(&format!("\"{name}\"")) || table.contains(&format!("\"{word}\"")),
                "{path}: no metric {word} exists"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn manifests_are_valid_and_probe_existing_routes() {
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

/// Collects the values of a key anywhere in a manifest.
fn values<'a>(manifest: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match manifest {
        Value::Object(members) => {
            for (name, value) in members {
                if name == key {
                    found.push(value);
                }
                values(value, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| values(item, key, found)),
        _ => {}
    }
}

fn manifest(name: &str) -> Value {
    let text = fs::read_to_string(top().join("deploy").join(name)).expect("the manifest exists");
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Accepts `name:1.2.3-suite`, `name:15.18`, or a digest.
fn is_exact(image: &str) -> bool {
    let version = image.rsplit_once(':').map_or("", |(_, tag)| tag.split('-').next().unwrap_or_default());
    image.contains("@sha256:") || (version.contains('.') && version.split('.').all(|part| part.parse::<u32>().is_ok()))
}

#[test]
fn images_are_named_by_exact_version() {
    for (image, exact) in [
        ("haproxy:3.0.28", true),
        ("postgres:15.18-bookworm", true),
        ("haproxy:3", false),
        ("haproxy", false),
        ("haproxy:latest", false),
        ("registry.example:5000/haproxy", false),
        ("haproxy@sha256:00", true),
    ] {
        assert_eq!(is_exact(image), exact, "{image}");
    }
    let mut seen = 0;
    for (path, text) in shipped() {
        for line in text.lines().map(str::trim) {
            let image = line.strip_prefix("image: ").or_else(|| line.strip_prefix("FROM ")).map(|rest| rest.split(' ').next());
            let Some(image) = image.flatten() else { continue };
            // Two exceptions: the engine's image, and the base image that is chosen by digest for reproducible builds.
            if image == "innesco" || image == "${RUNTIME}" {
                continue;
            }
            assert!(is_exact(image), "{path}: {image} is not an exact version");
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen}");
}

#[test]
fn trusts_only_proxies_to_report_callers() {
    let mut seen = 0;
    for name in ["compose/compose.yaml", "kubernetes/config.yaml"] {
        let manifest = manifest(name);
        let mut found = Vec::new();
        values(&manifest, "INNESCO_TRUSTED_PROXIES", &mut found);
        for value in found {
            for net in value.as_str().expect("text").split(',') {
                let prefix = net.split_once('/').map_or(32, |(_, prefix)| prefix.parse::<u32>().expect("a prefix"));
                assert!(prefix >= 28, "{name}: {net} holds more than the addresses of one proxy");
                seen += 1;
            }
        }
    }
    assert!(seen >= 2, "{seen}");
    let compose = manifest("compose/compose.yaml");
    let balancer = &compose["services"]["balancer"]["networks"]["inside"]["ipv4_address"];
    assert_eq!(&compose["x-environment"]["INNESCO_TRUSTED_PROXIES"], balancer);
}

#[test]
fn third_parties_reach_only_source_addresses() {
    let ingress = manifest("kubernetes/ingress.yaml");
    let mut paths = Vec::new();
    values(&ingress, "path", &mut paths);
    assert_eq!(paths, ["/in/"]);
    let balancer = fs::read_to_string(top().join("deploy/compose/haproxy.cfg")).expect("the balancer's settings");
    let (_, third_parties) = balancer.split_once("frontend third_parties").expect("a separate port for third parties");
    assert!(third_parties.contains("deny deny_status 404 unless { path_beg /in/ }"), "{third_parties}");
}

#[test]
fn the_network_policy_opens_only_the_port_of_the_nodes() {
    let (policy, deployment) = (manifest("kubernetes/networkpolicy.yaml"), manifest("kubernetes/deployment.yaml"));
    let spec = &policy["spec"];
    assert_eq!(spec["podSelector"]["matchLabels"], deployment["spec"]["template"]["metadata"]["labels"]);
    assert_eq!(spec["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    let port = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["name"];
    let rules = spec["ingress"].as_array().expect("rules");
    for rule in rules {
        assert!(rule["from"].as_array().is_some_and(|from| !from.is_empty()), "a rule without `from` lets everybody in");
        assert_eq!(rule["ports"][0]["port"], *port);
    }
    let kustomization = manifest("kubernetes/kustomization.yaml");
    for resource in ["ingress.yaml", "networkpolicy.yaml", "service.yaml", "deployment.yaml"] {
        assert!(kustomization["resources"].as_array().expect("a list").contains(&resource.into()), "{resource}");
    }
}

#[test]
fn the_service_has_a_memory_limit_and_a_closed_umask() {
    let unit = fs::read_to_string(top().join("deploy/systemd/innesco.service")).expect("the unit");
    for line in ["UMask=0077", "StateDirectoryMode=0700", "MemoryMax="] {
        assert!(unit.lines().any(|one| one.starts_with(line)), "{line}");
    }
}

#[test]
fn packages_for_verification_are_locked_by_digest() {
    let folder = top().join("tests/verify");
    let lock = fs::read_to_string(folder.join("package-lock.json")).expect("the lock file");
    let lock: Value = serde_json::from_str(&lock).expect("JSON");
    let wanted: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("package.json")).expect("the packages")).expect("JSON");
    assert_eq!(lock["packages"][""]["dependencies"], wanted["dependencies"], "run npm install in tests/verify");
    for (name, package) in lock["packages"].as_object().expect("packages").iter().filter(|(name, _)| !name.is_empty()) {
        assert!(package["integrity"].as_str().is_some_and(|digest| digest.starts_with("sha512-")), "{name}");
        assert!(package["resolved"].is_null(), "{name}: a lock file without the names of registries fits every machine");
    }
}
