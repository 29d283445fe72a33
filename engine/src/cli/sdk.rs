//! The source code of the SDK, which this program contains until the crate is published. Plugins outside the repository are built
//! with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use toml::{Table, Value};

use crate::{domain::plugin::Digest, files};

/// Collects files of the SDK with their paths below its folder.
macro_rules! files_of_the_sdk {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../../plugin-sdk/", $path)))),*]
    };
}

const FILES: [(&str, &str); 24] = files_of_the_sdk![
    "README.md",
    "src/arena.rs",
    "src/bindings.rs",
    "src/config.rs",
    "src/emit.rs",
    "src/error.rs",
    "src/event.rs",
    "src/guest.rs",
    "src/host/imports.rs",
    "src/host/mod.rs",
    "src/host/stand_in.rs",
    "src/lib.rs",
    "src/log.rs",
    "src/outcome.rs",
    "src/plugin.rs",
    "src/rules.rs",
    "src/setting.rs",
    "src/state.rs",
    "src/testing.rs",
    "src/testkit.rs",
    "src/time.rs",
    "src/webhook.rs",
    "wit/plugin.wit",
    "Cargo.toml",
];
/// The manifest from which the SDK inherits in the repository.
const WORKSPACE: &str = include_str!("../../../Cargo.toml");

/// Names below the folder of `innesco dev`: the SDK, its draft, and the lock of the process that writes it.
pub const FOLDER: &str = "sdk";
pub const DRAFT: &str = "sdk.draft";
pub const LOCK: &str = "sdk.lock";
/// The file with the version and the digest of the written SDK.
const STAMP: &str = "VERSION";

/// Writes the SDK into the folder of `innesco dev`, unless the folder already has this version or a newer one. Returns the SDK's
/// folder.
pub fn refresh(home: &Path) -> anyhow::Result<PathBuf> {
    let place = home.join(FOLDER);
    write(home, &place).with_context(|| format!("the SDK cannot be written to {}", place.display()))?;
    Ok(place)
}

fn write(home: &Path, place: &Path) -> anyhow::Result<()> {
    let lock = files::open_or_create(&home.join(LOCK))?;
    // Two programs must not write at the same time. Closing the file releases the lock.
    lock.lock()?;
    let ours = stamp()?;
    let there = fs::read_to_string(place.join(STAMP)).unwrap_or_default();
    if there == ours || version(&there) > version(&ours) {
        return Ok(());
    }
    let draft = home.join(DRAFT);
    remove(&draft)?;
    for (path, text) in FILES {
        let file = draft.join(path);
        fs::create_dir_all(files::folder_of(&file))?;
        fs::write(file, if path == "Cargo.toml" { manifest(text)? } else { text.to_owned() })?;
    }
    fs::write(draft.join(STAMP), ours)?;
    remove(place)?;
    fs::rename(draft, place)?;
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the version and the digest of the SDK in this program.
fn stamp() -> anyhow::Result<String> {
    let mut all = manifest(WORKSPACE)?;
    for (path, text) in FILES {
        // Lengths separate the texts, so that different files never give the same bytes.
        all.push_str(&format!("{path} {}\n{text}", text.len()));
    }
    Ok(format!("{} {}\n", env!("CARGO_PKG_VERSION"), Digest::of(all.as_bytes())))
}

/// Returns the numbers of the version in a stamp. A missing or damaged stamp counts as older than every version.
fn version(stamp: &str) -> Vec<u64> {
    let version = stamp.split_whitespace().next().unwrap_or_default();
    version.split('.').map_while(|number| number.parse().ok()).collect()
}

/// Returns the SDK's manifest with its inherited values filled in, because outside the repository there is no workspace.
fn manifest(text: &str) -> anyhow::Result<String> {
    let workspace: Table = WORKSPACE.parse()?;
    let shared = |section: &str| workspace.get("workspace").and_then(|workspace| workspace.get(section));
    let is_inherited = |value: &Value| value.get("workspace").and_then(Value::as_bool) == Some(true);
    let mut manifest: Table = text.parse()?;
    if let Some(package) = manifest.get_mut("package").and_then(Value::as_table_mut) {
        for (name, value) in package.iter_mut().filter(|(_, value)| is_inherited(value)) {
            *value = shared("package").and_then(|package| package.get(name)).with_context(|| name.clone())?.clone();
        }
    }
    if let Some(lints) = manifest.get_mut("lints").filter(|lints| is_inherited(lints)) {
        *lints = shared("lints").context("lints")?.clone();
    }
    Ok(manifest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(folder: &Path, top: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => below(&path, top, found),
                false => found.push(path.strip_prefix(top).unwrap().display().to_string()),
            }
        }
    }

    #[test]
    fn every_file_of_the_sdk_is_included() {
        let top = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-sdk"));
        let mut files = Vec::new();
        below(top, top, &mut files);
        files.retain(|path| !path.starts_with("template/"));
        files.sort();
        let mut included = FILES.map(|(path, _)| path.to_owned());
        included.sort();
        assert_eq!(included.as_slice(), files);
    }

    #[test]
    fn the_manifest_inherits_nothing() {
        let (_, text) = FILES.iter().find(|(path, _)| *path == "Cargo.toml").unwrap();
        let manifest: Table = manifest(text).unwrap().parse().unwrap();
        assert!(!manifest.to_string().contains("workspace"), "{manifest}");
        assert_eq!(manifest["package"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("deny"));
    }

    #[test]
    fn replaces_another_sdk_but_no_newer_one() {
        let home = tempfile::tempdir().unwrap();
        let place = refresh(home.path()).unwrap();
        let ours = fs::read_to_string(place.join(STAMP)).unwrap();
        let changed = place.join("src/lib.rs");
        for (stamp, is_replaced) in [
            (ours.as_str(), false),
            ("0.0.9 of an older program", true),
            (&format!("{} of another build", env!("CARGO_PKG_VERSION")), true),
            ("999.0.0 of a newer program", false),
            ("", true),
        ] {
            fs::write(&changed, "old").unwrap();
            fs::write(place.join(STAMP), stamp).unwrap();
            refresh(home.path()).unwrap();
            assert_eq!(fs::read_to_string(&changed).unwrap() != "old", is_replaced, "{stamp:?}");
        }
        assert!(!home.path().join(DRAFT).exists());
    }
}
