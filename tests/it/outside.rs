//! Plugin development outside the repository: an empty folder and the binary are enough.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use crate::engine::DEADLINE;

/// Deadline of a first build, which compiles the dependencies of the SDK.
const BUILD_DEADLINE: Duration = Duration::from_secs(600);

/// Returns a command that runs in this folder, without the variables that cargo sets for a test.
pub fn command(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG") || name.starts_with("INNESCO_")) {
        command.env_remove(name);
    }
    // The dependencies of the SDK are those of the workspace, so they are on this machine. The folder is kept between runs of the
    // test.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("outside");
    command.env("CARGO", env!("CARGO")).env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", target);
    command.env_remove("CARGO_MANIFEST_DIR").current_dir(folder);
    command
}

pub fn innesco(folder: &Path, arguments: &[&str]) -> Output {
    command(env!("CARGO_BIN_EXE_innesco"), folder).args(arguments).output().expect("the program runs")
}

pub fn ok(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A running `innesco dev`. Dropping it ends it.
pub struct Dev {
    child: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Dev {
    /// Starts `innesco dev` in this folder and waits until it serves.
    pub fn start(folder: &Path) -> Self {
        let mut dev = command(env!("CARGO_BIN_EXE_innesco"), folder);
        dev.args(["dev", "--listen", "127.0.0.1:0", "--receiver", "127.0.0.1:0"]);
        let mut child = dev.stdout(Stdio::piped()).spawn().expect("the program starts");
        let lines = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (output, heard) = (child.stdout.take().expect("its output is piped"), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                heard.0.lock().unwrap().push(line);
                heard.1.notify_all();
            }
        });
        let dev = Self { child, lines };
        dev.wait(0, "Try, in a second terminal", BUILD_DEADLINE);
        dev
    }

    /// Returns the number of lines that `innesco dev` has printed.
    pub fn count(&self) -> usize {
        self.lines.0.lock().unwrap().len()
    }

    /// Waits for a line with this text, from line `after` on, and returns the line.
    pub fn wait(&self, after: usize, text: &str, deadline: Duration) -> String {
        self.until(text, deadline, |lines| lines.iter().skip(after).find(|line| line.contains(text)).cloned())
    }

    /// Waits until this number of lines contain this text.
    pub fn wait_for_count(&self, count: usize, text: &str) {
        let have = |lines: &[String]| lines.iter().filter(|line| line.contains(text)).count() >= count;
        self.until(text, DEADLINE, |lines| have(lines).then_some(()));
    }

    /// Waits for a line that contains both texts, and returns the line after it.
    pub fn wait_for_next(&self, text: &str, other: &str) -> String {
        self.until(text, DEADLINE, |lines| {
            let found = lines.iter().position(|line| line.contains(text) && line.contains(other))?;
            lines.get(found + 1).cloned()
        })
    }

    /// Returns whether `innesco dev` has printed this text.
    pub fn has_printed(&self, text: &str) -> bool {
        self.lines.0.lock().unwrap().iter().any(|line| line.contains(text))
    }

    fn until<T>(&self, what: &str, deadline: Duration, find: impl Fn(&[String]) -> Option<T>) -> T {
        let until = Instant::now() + deadline;
        let mut lines = self.lines.0.lock().unwrap();
        loop {
            if let Some(found) = find(&lines) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {what:?}:\n{}", lines.join("\n"));
            lines = self.lines.1.wait_timeout(lines, left).unwrap().0;
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // The program may already have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_empty_folder_and_the_binary_are_enough() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let dev = Dev::start(folder);
    dev.wait(0, "no crate under plugins; create one with: innesco plugin new my-first", DEADLINE);

    let created = ok(&innesco(folder, &["plugin", "new", "my-first"]));
    assert!(created.starts_with("created my-first in plugins/my-first. Next:"), "{created}");
    assert!(created.contains("it is running: it builds and serves the plugin now"), "{created}");
    dev.wait(0, "my-first  for the first time", DEADLINE);
    dev.wait(0, "my-first@", BUILD_DEADLINE);
    ok(&innesco(folder, &["send", "order.created", r#"{"id": 8, "total": 150}"#]));
    dev.wait(0, "my-first saw order 8 of 150", DEADLINE);
    assert!(dev.wait(0, "→ receiver", DEADLINE).contains("200"));

    // A saved edit serves.
    let source = folder.join("plugins/my-first/src/lib.rs");
    let (seen, text) = (dev.count(), fs::read_to_string(&source).unwrap());
    fs::write(&source, text.replace("my-first saw order", "my-first has order")).unwrap();
    dev.wait(seen, "serving (was", BUILD_DEADLINE);
    ok(&innesco(folder, &["send", "order.created", r#"{"id": 9, "total": 150}"#]));
    dev.wait(seen, "my-first has order 9 of 150", DEADLINE);
    fs::write(&source, text).unwrap();

    // The tests of the crate pass with the printed command. Git ignores everything in the folder of `innesco dev`.
    assert!(created.contains("cargo test --package my-first"), "{created}");
    ok(&command(env!("CARGO"), folder).args(["test", "--package", "my-first"]).output().expect("cargo runs"));
    assert_eq!(fs::read_to_string(folder.join(".innesco/.gitignore")).unwrap(), "*\n");
    assert_eq!(fs::read_to_string(folder.join(".gitignore")).unwrap(), "/target\n");

    // After a clone the SDK is missing: a build writes it again.
    fs::remove_dir_all(folder.join(".innesco/sdk")).unwrap();
    let files = folder.join("files");
    ok(&innesco(&folder.join("plugins"), &["plugin", "build", "my-first", "--to", &files.display().to_string()]));
    assert!(files.join("my-first.wasm").exists() && folder.join(".innesco/sdk/Cargo.toml").exists());
}

/// In a folder with other Rust code, each new plugin is a separate workspace.
#[test]
fn a_plugin_beside_other_rust_code_builds_and_passes_its_tests() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    fs::create_dir(folder.join("src")).unwrap();
    fs::write(folder.join("src/lib.rs"), "").unwrap();
    fs::write(folder.join("Cargo.toml"), "[package]\nname = \"shop\"\nedition = \"2024\"\n\n[workspace]\n").unwrap();
    let created = ok(&innesco(folder, &["plugin", "new", "orders"]));
    assert!(created.contains("cargo test --manifest-path plugins/orders/Cargo.toml"), "{created}");
    let test = ["test", "--manifest-path", "plugins/orders/Cargo.toml"];
    ok(&command(env!("CARGO"), folder).args(test).output().expect("cargo runs"));
    ok(&innesco(folder, &["plugin", "build", "orders"]));
    ok(&command(env!("CARGO"), folder).arg("check").output().expect("cargo runs"));
}

#[test]
fn a_plugin_is_tested_without_an_engine_and_each_mistake_names_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // No other test may have a crate of this name: the tests share a target folder, in which cargo treats crates with the same
    // relative path as one crate.
    ok(&innesco(here, &["plugin", "new", "my-tested"]));
    fs::write(here.join("event.json"), r#"{"type": "order.created", "data": {"id": 8, "total": 150}}"#).unwrap();
    let page = ok(&innesco(here, &["plugin", "test", "my-tested", "event.json"]));
    assert!(
        page.starts_with("run       my-tested@") && page.contains("  1 webhook\nwebhook   → receiver  application/json\n"),
        "{page}"
    );
    let json = ok(&innesco(here, &["plugin", "test", "my-tested", "event.json", "--json"]));
    let run: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&run["outcome"], run["webhooks"].as_array().unwrap().len()), (&"ok".into(), 1), "{run:#}");

    // A failure names the line, and the exit code is 1.
    let source = here.join("plugins/my-tested/src/lib.rs");
    let good = fs::read_to_string(&source).unwrap();
    let bad = good.replacen("fn handle(&self, event: &Event) -> Result<Outcome> {", FAULTY, 1);
    assert_ne!(bad, good);
    fs::write(&source, &bad).unwrap();
    let failed = innesco(here, &["plugin", "test", "my-tested", "event.json"]);
    let page = String::from_utf8_lossy(&failed.stdout);
    let line = 1 + bad.lines().position(|line| line.contains("list[")).unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(page.contains(&format!("          at my_tested::MyTested::handle (src/lib.rs:{line})\n")), "{page}");
    assert_eq!(String::from_utf8_lossy(&failed.stderr), "the run ended trapped\n");

    let wasm = here.join("not.wasm");
    fs::write(&wasm, "text").unwrap();
    fs::write(here.join("no-event.json"), "{\"total\": 7}").unwrap();
    fs::write(&source, good.replacen("fn handle", "fn handel", 1)).unwrap();
    for (arguments, code, cure) in [
        (vec!["my-tsted", "event.json"], 1, "the nearest name is \"my-tested\""),
        (vec!["my-tested", "missing.json"], 1, "missing.json cannot be read: No such file"),
        (vec!["my-tested", "no-event.json"], 1, "no-event.json is no event; write one such as {\"type\": \"order.created\""),
        (vec!["not.wasm", "event.json"], 1, "Build a crate with innesco plugin build"),
        (vec!["my-tested", "event.json"], 1, "my-tested does not build"),
        (vec!["my-tested", "event.json", "--state", "count"], 2, "write KEY=VALUE, such as count=7"),
        (vec!["my-tested", "event.json", "--config", "threshold"], 2, "write NAME=VALUE, such as threshold=500"),
        (vec!["my-tested"], 2, "EVENT_FILE"),
    ] {
        let output = innesco(here, &[&["plugin", "test"][..], &arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(cure), "{arguments:?}: {:?} {said}", output.status);
    }

    // A build reports at once that its file would not load.
    let clock = "#[link(wasm_import_module = \"__wbindgen_placeholder__\")]
unsafe extern \"C\" {
    fn __wbg_getTime_14776bfb48a1bff9() -> f64;
}
";
    let with_clock = good.replacen(
        "let order: Order",
        "log::info!(\"{}\", unsafe { __wbg_getTime_14776bfb48a1bff9() });\n        let order: Order",
        1,
    ) + clock;
    let without_macro = good.replacen("innesco_sdk::export!(MyTested);", "", 1);
    for (text, cure) in [
        (with_clock, "its file would not load: it contains wasm-bindgen, which works only in browsers: chrono does that"),
        (
            without_macro,
            "its file would not load: it exports no innesco:plugin/handler. Build a crate that calls innesco_sdk::export!",
        ),
    ] {
        assert_ne!(text, good);
        fs::write(&source, text).unwrap();
        let output = innesco(here, &["plugin", "build", "my-tested"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(cure), "{:?} {said}", output.status);
    }
}

/// A `handle` that fails.
const FAULTY: &str = "fn handle(&self, event: &Event) -> Result<Outcome> {
        let list = vec![1, 2, 3];
        log::info!(\"{}\", list[event.id.len() + 3]);";
