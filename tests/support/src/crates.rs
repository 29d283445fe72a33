//! Builds plugins for wasm32: those that are crates of the workspace, and the plugin that uses the first SDK.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Mutex},
};

/// Builds a plugin crate and returns the bytes of its file, as `innesco plugin build` writes it.
pub fn wasm(package: &str) -> Vec<u8> {
    static BUILT: LazyLock<Mutex<HashMap<String, Vec<u8>>>> = LazyLock::new(Mutex::default);
    // If another build panicked, that build's test has failed already. The other crates are still usable.
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    built.entry(package.to_owned()).or_insert_with(|| build(package, crate::root(), "guests", ["limited", "none"])).clone()
}

/// Like [`wasm`], without debug information and names.
pub fn wasm_without_debug(package: &str) -> Vec<u8> {
    build(package, crate::root(), "guests-stripped", ["none", "symbols"])
}

/// Builds the plugin of the first SDK, which is a separate workspace.
pub fn wasm_of_the_first_sdk() -> Vec<u8> {
    build("first-sdk", &crate::root().join("tests/guests/sdk-1.0"), "guests-first", ["none", "symbols"])
}

/// Like [`wasm`], but built as cargo builds a crate outside of this repository: with a stack of 1 MiB, and without the profile and
/// the flags of the workspace.
pub fn stock_wasm(package: &str) -> Vec<u8> {
    build_with(package, crate::root(), "guests-stock", |command| {
        let profile = [("LTO", "false"), ("CODEGEN_UNITS", "16"), ("DEBUG", "false"), ("STRIP", "none")];
        // Cargo reads flags from the current folder and its parents, so it runs in `/`, outside of the workspace.
        command.current_dir("/").envs(profile.map(|(name, value)| (format!("CARGO_PROFILE_RELEASE_{name}"), value)));
    })
}

/// Builds the library that makes each sync of a process longer. Returns its path.
pub fn slow_disk() -> PathBuf {
    let target = crate::kept_folder().join("slow-disk");
    cargo_build(&crate::root().join("Cargo.toml"), &target, &["--package", "slow-disk", "--release"]);
    target.join("release/libslow_disk.so")
}

/// Builds the program with other plugin engines, and its plugin for Extism. Returns their paths.
pub fn bench_peers() -> (PathBuf, PathBuf) {
    let (manifest, target) = (crate::root().join("tests/bench/peers/Cargo.toml"), crate::kept_folder().join("peers"));
    cargo_build(&manifest, &target, &["--locked", "--package", "peers", "--profile", "bench"]);
    let guest = ["--locked", "--package", "extism-guest", "--release", "--target", "wasm32-unknown-unknown"];
    cargo_build(&manifest, &target, &guest);
    (target.join("release/peers"), target.join("wasm32-unknown-unknown/release/extism_guest.wasm"))
}

fn cargo_build(manifest: &Path, target: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet"]).args(arguments).arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target);
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "{arguments:?} does not build");
}

fn build(package: &str, workspace: &Path, folder: &str, [debug, strip]: [&str; 2]) -> Vec<u8> {
    build_with(package, workspace, folder, |command| {
        // These variables replace parts of the workspace's profile, which is made for the engine.
        let profile = [("CARGO_PROFILE_RELEASE_DEBUG", debug), ("CARGO_PROFILE_RELEASE_STRIP", strip)];
        command.envs(profile).current_dir(workspace);
    })
}

fn build_with(package: &str, workspace: &Path, folder: &str, set: impl FnOnce(&mut Command)) -> Vec<u8> {
    // This is not the usual target folder, because the cargo process that runs the test may hold the lock of that folder.
    let target = crate::kept_folder().join(folder);
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--release", "--target", "wasm32-unknown-unknown", "--package", package, "--target-dir"]).arg(&target);
    command.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    set(&mut command);
    let output = command.output().expect("cargo runs");
    assert!(
        output.status.success(),
        "plugin {package} does not build (is the target there? rustup target add wasm32-unknown-unknown):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let file = target.join("wasm32-unknown-unknown/release").join(format!("{}.wasm", package.replace('-', "_")));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
