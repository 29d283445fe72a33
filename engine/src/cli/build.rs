//! Building plugin crates: cargo does it, and says what is wrong in its own words.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What plugins are compiled to.
const TARGET: &str = "wasm32-unknown-unknown";

/// A crate that is a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginCrate {
    pub name: String,
    pub folder: PathBuf,
}

impl PluginCrate {
    pub fn at(folder: &Path) -> anyhow::Result<Self> {
        let manifest = folder.join("Cargo.toml");
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("{} is no crate: it has no Cargo.toml", folder.display()))?;
        let table: toml::Table = text.parse().with_context(|| format!("{} cannot be read", manifest.display()))?;
        let name = table.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str());
        let name = name.with_context(|| format!("{} names no package", manifest.display()))?.to_owned();
        Ok(Self { name, folder: folder.to_owned() })
    }

    /// Every crate directly below a folder, in the order of their names.
    pub fn below(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", folder.display())),
        };
        let mut crates = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.join("Cargo.toml").exists() {
                crates.push(Self::at(&path)?);
            }
        }
        crates.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(crates)
    }

    /// Builds it. On failure the error is cargo's own message, whole.
    pub fn build(&self) -> anyhow::Result<Built> {
        let began = Instant::now();
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let output = Command::new(cargo)
            .args(["build", "--release", "--target", TARGET, "--quiet", "--message-format", "json-render-diagnostics"])
            // What a plugin's own Cargo.toml cannot say where it lies in a workspace: one unit and LTO are worth a quarter of a run, a
            // small stack half of one (`.cargo/config.toml` says why).
            .envs([
                ("CARGO_PROFILE_RELEASE_LTO", "true"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
                ("CARGO_PROFILE_RELEASE_STRIP", "true"),
                ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-C link-arg=-zstack-size=131072"),
            ])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .context("cargo does not run; install Rust from https://rustup.rs")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
            if text.contains("target may not be installed") {
                bail!("{text}\n\nThe target is missing. Add it with: rustup target add {TARGET}");
            }
            bail!("{text}");
        }
        let wasm = String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| self.artifact(line)).next_back();
        let wasm = wasm.with_context(|| {
            format!("{} builds, but not to a .wasm file; its Cargo.toml needs: [lib] crate-type = [\"cdylib\"]", self.name)
        })?;
        let bytes = fs::metadata(&wasm).with_context(|| format!("{} cannot be read", wasm.display()))?.len();
        Ok(Built { wasm, bytes, took: began.elapsed() })
    }

    /// The .wasm file that a line of cargo's report is about, if it is this crate's.
    fn artifact(&self, line: &str) -> Option<PathBuf> {
        let message: Value = serde_json::from_str(line).ok()?;
        let manifest = fs::canonicalize(self.folder.join("Cargo.toml")).ok()?;
        let ours =
            message["reason"] == "compiler-artifact" && message["manifest_path"].as_str().map(Path::new) == Some(&manifest);
        let files = message["filenames"].as_array().filter(|_| ours)?;
        files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    }
}

/// A plugin file that cargo wrote.
pub struct Built {
    pub wasm: PathBuf,
    pub bytes: u64,
    pub took: Duration,
}

impl Built {
    /// Puts the file into a folder whole: under another name first, then renamed. Returns where it is.
    pub fn drop_into(&self, folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let (draft, place) = (folder.join(format!(".{name}.draft")), folder.join(format!("{name}.wasm")));
        fs::copy(&self.wasm, &draft)
            .and_then(|_| fs::rename(&draft, &place))
            .with_context(|| format!("{} cannot be written", place.display()))?;
        Ok(place)
    }
}

/// A size as people read it.
pub fn size(bytes: u64) -> String {
    format!("{} kB", bytes.div_ceil(1000))
}
