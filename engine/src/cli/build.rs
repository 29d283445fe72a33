//! Builds plugin crates with cargo, and passes on cargo's messages.

use std::{
    fmt, fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;

use super::project;
use crate::{
    clock,
    sandbox::{self, advice},
};

/// The compilation target of plugins.
const TARGET: &str = "wasm32-unknown-unknown";

/// A plugin's crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginCrate {
    pub name: String,
    pub folder: PathBuf,
}

/// The crates below a folder, and folders that only look like crates.
#[derive(Debug, Default)]
pub struct Found {
    pub crates: Vec<PluginCrate>,
    pub broken: Vec<anyhow::Error>,
}

impl PluginCrate {
    pub fn at(folder: &Path) -> anyhow::Result<Self> {
        let table = Self::manifest(folder)?;
        let name = table.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str());
        let name = name.with_context(|| {
            let manifest = folder.join("Cargo.toml");
            format!("{} has no package; give the crate of one plugin, such as plugins/my-first", manifest.display())
        })?;
        Ok(Self { name: name.to_owned(), folder: folder.to_owned() })
    }

    fn manifest(folder: &Path) -> anyhow::Result<toml::Table> {
        let manifest = folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                anyhow::anyhow!(
                    "{} is not a crate: it has no Cargo.toml. Create one with: innesco plugin new my-first",
                    folder.display()
                )
            }
            _ => anyhow::Error::new(error).context(format!("{} cannot be read", manifest.display())),
        })?;
        text.parse().map_err(|error: toml::de::Error| anyhow::anyhow!("{} is not TOML: {}", manifest.display(), error.message()))
    }

    /// Finds every crate directly below a folder, ordered by name.
    pub fn below(folder: &Path) -> anyhow::Result<Found> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", folder.display())),
        };
        let mut found = Found::default();
        for entry in entries {
            let path = entry?.path();
            if path.join("Cargo.toml").exists() {
                match Self::at(&path) {
                    Ok(plugin) => found.crates.push(plugin),
                    Err(error) => found.broken.push(error),
                }
            }
        }
        found.crates.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(found)
    }

    /// Builds the crate.
    ///
    /// Each crate is built separately. In one build, the crates of a workspace would share the features of their dependencies, so
    /// the same source could give other bytes and thus another version.
    pub fn build(&self) -> Result<Built, BuildFailed> {
        let began = clock::steady();
        let failed = |reason: String| BuildFailed { name: self.name.clone(), reason };
        let manifest = Self::manifest(&self.folder).map_err(|error| failed(format!("{error:#}")))?;
        project::provide_sdk_of(&self.folder, &manifest).map_err(|error| failed(format!("{error:#}")))?;
        let colour = if io::stdout().is_terminal() { "always" } else { "never" };
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let output = Command::new(cargo)
            .args(["build", "--release", "--target", TARGET, "--quiet", "--color", colour])
            .args(["--message-format", "json-render-diagnostics"])
            // A crate in a workspace cannot set these in its Cargo.toml. One codegen unit and LTO make runs a quarter faster. On an
            // old kernel, a small stack halves the time of runs (see `.cargo/config.toml`).
            .envs([
                ("CARGO_PROFILE_RELEASE_LTO", "true"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
                // Backtraces need this debug information. The engine strips it before compiling, so it only makes the file
                // larger.
                ("CARGO_PROFILE_RELEASE_DEBUG", "limited"),
                ("CARGO_PROFILE_RELEASE_STRIP", "none"),
                ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-C link-arg=-zstack-size=131072"),
            ])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(format!("cargo does not run ({error}). Install Rust from https://rustup.rs")))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
            return Err(failed(if text.contains("target may not be installed") {
                format!("{text}\n\nThe target is missing. Add it with: rustup target add {TARGET}")
            } else if let Some(advice) = advice::for_build(&text) {
                format!("{text}\n\n{advice}")
            } else {
                text
            }));
        }
        let wasm = String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| self.artifact(line)).next_back();
        let wasm = wasm.ok_or_else(|| {
            failed("the build wrote no .wasm file. Its Cargo.toml needs: [lib] crate-type = [\"cdylib\"]".to_owned())
        })?;
        let bytes = fs::read(&wasm).map_err(|error| failed(format!("{} cannot be read: {error}", wasm.display())))?;
        sandbox::check_built(&bytes).map_err(|error| failed(format!("its file would not load: {error}")))?;
        let bytes = bytes.len() as u64;
        Ok(Built { wasm, bytes, took: clock::steady().since(began), warning: output_warning(&self.folder) })
    }

    /// Returns the .wasm file named in a line of cargo's report, if it belongs to this crate.
    fn artifact(&self, line: &str) -> Option<PathBuf> {
        let message: Value = serde_json::from_str(line).ok()?;
        let manifest = fs::canonicalize(self.folder.join("Cargo.toml")).ok()?;
        let ours =
            message["reason"] == "compiler-artifact" && message["manifest_path"].as_str().map(Path::new) == Some(&manifest);
        let files = message["filenames"].as_array().filter(|_| ours)?;
        files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    }
}

/// A failed build, with cargo's whole message.
#[derive(Debug)]
pub struct BuildFailed {
    pub name: String,
    pub reason: String,
}

impl fmt::Display for BuildFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not build\n{}", self.name, self.reason)
    }
}

impl std::error::Error for BuildFailed {}

/// A plugin file that cargo wrote.
pub struct Built {
    pub wasm: PathBuf,
    pub bytes: u64,
    pub took: Duration,
    /// A warning if the crate prints, because a plugin has no output.
    pub warning: Option<String>,
}

impl Built {
    /// Copies the file into a folder atomically: writes it under another name, then renames it. Returns its path.
    pub fn drop_into(&self, folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        let draft = folder.join(format!(".{name}.{}.draft", std::process::id()));
        let place = folder.join(format!("{name}.wasm"));
        fs::copy(&self.wasm, &draft)
            .and_then(|_| fs::rename(&draft, &place))
            .inspect_err(|_| drop(fs::remove_file(&draft)))
            .with_context(|| format!("{} cannot be written", place.display()))?;
        Ok(place)
    }
}

/// Maximum number of source files that are searched, and maximum size of one, in bytes.
const SOURCES_MAX: usize = 200;
const SOURCE_BYTES_MAX: u64 = 1 << 20;

/// Returns a warning if a crate prints outside its tests. A plugin has no standard output, so the text would be lost.
fn output_warning(folder: &Path) -> Option<String> {
    let mut folders = vec![folder.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() && folders.len() < SOURCES_MAX {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && sources.len() < SOURCES_MAX {
                sources.push(path);
            }
        }
    }
    sources.sort();
    sources.iter().find_map(|path| {
        let is_small = fs::metadata(path).is_ok_and(|file| file.len() <= SOURCE_BYTES_MAX);
        let text = fs::read_to_string(path).ok().filter(|_| is_small)?;
        let (line, name) = printing_line(&text)?;
        let place = path.strip_prefix(folder).unwrap_or(path).display();
        Some(format!("{place}:{line} uses {name}, whose output is discarded; use log::info!, which is stored with the run"))
    })
}

/// Finds the first line of a source, before its tests, that prints. Returns its number and the macro.
fn printing_line(source: &str) -> Option<(usize, &'static str)> {
    const MACROS: [&str; 5] = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    let code = source.lines().take_while(|line| line.trim() != "#[cfg(test)]").enumerate();
    code.filter(|(_, line)| !line.trim_start().starts_with("//")).find_map(|(number, line)| {
        let is_called = |name: &&&str| {
            let is_whole = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            line.match_indices(**name).any(|(at, _)| is_whole(at))
        };
        MACROS.iter().find(is_called).map(|name| (number + 1, *name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_in(folder: &Path, name: &str, manifest: &str) {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("Cargo.toml"), manifest).unwrap();
    }

    #[test]
    fn finds_crates_beside_a_broken_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        crate_in(path, "b", "[package]\nname = \"two\"\n");
        crate_in(path, "a", "[package]\nname = \"zwei\"\n");
        crate_in(path, "broken", "[package\n");
        fs::create_dir(path.join("no-crate")).unwrap();
        let found = PluginCrate::below(path).unwrap();
        let names: Vec<&str> = found.crates.iter().map(|plugin| plugin.name.as_str()).collect();
        assert_eq!(names, ["two", "zwei"]);
        assert_eq!(found.broken.len(), 1);
        assert!(found.broken[0].to_string().contains("broken/Cargo.toml is not TOML: "), "{}", found.broken[0]);
        assert!(PluginCrate::below(&path.join("nowhere")).unwrap().crates.is_empty());
    }

    #[test]
    fn explains_a_folder_that_is_not_a_crate() {
        let folder = tempfile::tempdir().unwrap();
        let error = PluginCrate::at(folder.path()).unwrap_err().to_string();
        let shown = folder.path().display();
        assert_eq!(error, format!("{shown} is not a crate: it has no Cargo.toml. Create one with: innesco plugin new my-first"));
    }

    #[test]
    fn output_outside_tests_is_reported() {
        for (source, found) in [
            ("fn f() {\n    println!(\"x\");\n}", Some((2, "println!"))),
            ("fn f() { std::eprintln!(\"x\"); }", Some((1, "eprintln!"))),
            ("let total = dbg!(total);", Some((1, "dbg!"))),
            ("// println!(\"x\");\n    /// print!\nmy_print!()", None),
            ("fn f() {}\n\n#[cfg(test)]\nmod tests {\n    println!(\"x\");", None),
        ] {
            assert_eq!(printing_line(source), found, "{source}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(output_warning(folder.path()), None);
        fs::create_dir_all(folder.path().join("src/parts")).unwrap();
        fs::write(folder.path().join("src/lib.rs"), "mod parts;").unwrap();
        fs::write(folder.path().join("src/parts/mod.rs"), "\nprint!(\"x\")").unwrap();
        let warning = output_warning(folder.path()).unwrap();
        assert!(warning.starts_with("src/parts/mod.rs:2 uses print!, whose output is discarded"), "{warning}");
    }

    #[test]
    fn copies_a_file_atomically() {
        let folder = tempfile::tempdir().unwrap();
        let wasm = folder.path().join("my_first.wasm");
        fs::write(&wasm, b"\0asm").unwrap();
        let built = Built { wasm, bytes: 4, took: Duration::ZERO, warning: None };
        let to = folder.path().join("plugins");
        assert_eq!(built.drop_into(&to, "my-first").unwrap(), to.join("my-first.wasm"));
        built.drop_into(&to, "my-first").unwrap();
        let names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["my-first.wasm"], "no other file is left");
    }

    #[test]
    fn finds_the_file_in_cargos_report() {
        let folder = tempfile::tempdir().unwrap();
        crate_in(folder.path(), "a", "[package]\nname = \"a-b\"\n");
        let plugin = PluginCrate::at(&folder.path().join("a")).unwrap();
        let manifest = fs::canonicalize(folder.path().join("a/Cargo.toml")).unwrap();
        let line = |manifest: &Path| {
            serde_json::json!({ "reason": "compiler-artifact", "manifest_path": manifest, "filenames": ["/t/a_b.d", "/t/a_b.wasm"] })
                .to_string()
        };
        assert_eq!(plugin.artifact(&line(&manifest)), Some(PathBuf::from("/t/a_b.wasm")));
        assert_eq!(plugin.artifact(&line(Path::new("/other/Cargo.toml"))), None);
        assert_eq!(plugin.artifact("not json"), None);
    }
}
