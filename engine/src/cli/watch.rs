//! Builds all plugin crates once, then each one when its source changes. The files go into a folder that an engine watches.

use std::{
    collections::BTreeSet,
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use notify::{EventKind, Watcher as _, event::ModifyKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    build::{BuildFailed, Built, PluginCrate},
    feed::say,
    measure,
    output::{self, RED, Styled, YELLOW, indent},
};
use crate::clock;

/// How long sources must be unchanged before a build.
const QUIET: Duration = Duration::from_millis(300);

/// Builds every crate. A failed crate is reported and skipped.
pub fn build_all(plugins: &Path, wasm: &Path) -> anyhow::Result<()> {
    let began = clock::steady();
    let found = PluginCrate::below(plugins)?;
    for error in &found.broken {
        output::show!("  {}   {error:#}", Styled(RED, "failed"));
    }
    let crates = found.crates;
    if crates.is_empty() {
        output::show!("  built    no crate under {}; create one with: innesco plugin new my-first", plugins.display());
    }
    if !crates.is_empty() && !wasm.exists() {
        let plugins = measure::count(crates.len() as u64, "plugin");
        output::show!("  building {plugins} for the first time, with dependencies: one to three minutes");
    }
    let bar = if std::io::stderr().is_terminal() {
        indicatif::ProgressBar::new(crates.len() as u64)
    } else {
        indicatif::ProgressBar::hidden()
    };
    let bar = bar.with_style(
        indicatif::ProgressStyle::with_template("  building {msg}  {pos} of {len}  {elapsed}").expect("the template is valid"),
    );
    bar.enable_steady_tick(Duration::from_millis(250));
    let mut built = Vec::new();
    for plugin in &crates {
        bar.set_message(plugin.name.clone());
        match plugin.build() {
            Ok(one) => {
                one.drop_into(wasm, &plugin.name)?;
                built.push(format!("{}  {}", plugin.name, measure::size(one.bytes)));
                if let Some(warning) = &one.warning {
                    bar.suspend(|| output::show!("  {}  {}: {warning}", Styled(YELLOW, "warning"), plugin.name));
                }
            }
            Err(error) => bar.suspend(|| {
                output::show!("  {}   {}\n{}", Styled(RED, "failed"), error.name, indent(&error.reason));
            }),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !built.is_empty() {
        output::show!("  built    {}   {}", built.join("   "), measure::took(clock::steady().since(began)));
    }
    clear_out(wasm, &crates)
}

/// Removes the files of crates that no longer exist, so that they no longer serve.
fn clear_out(wasm: &Path, crates: &[PluginCrate]) -> anyhow::Result<()> {
    for entry in fs::read_dir(wasm).into_iter().flatten().flatten() {
        let path = entry.path();
        let known = path.file_stem().is_some_and(|stem| crates.iter().any(|plugin| stem == plugin.name.as_str()));
        if !known && path.extension().is_some_and(|extension| extension == "wasm") {
            fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// Builds changed crates until `stop`. `serves` returns the version of a plugin that keeps serving when its build fails.
pub fn watch(
    plugins: PathBuf,
    wasm: PathBuf,
    serves: impl Fn(&str) -> Option<String> + Send + 'static,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    fs::create_dir_all(&plugins).with_context(|| format!("{} cannot be created", plugins.display()))?;
    // Absolute, because the watcher reports absolute paths.
    let plugins = fs::canonicalize(&plugins).with_context(|| format!("{} cannot be read", plugins.display()))?;
    let (watcher, mut edits) = edits(&plugins)?;
    tokio::spawn(async move {
        let _watcher = watcher;
        loop {
            let edited = tokio::select! {
                () = stop.cancelled() => return,
                edited = next_edits(&mut edits) => edited,
            };
            let found = match PluginCrate::below(&plugins) {
                Ok(found) => found,
                Err(error) => {
                    say("build", &format!("{error:#}"));
                    continue;
                }
            };
            for error in &found.broken {
                say("build", &format!("{}  {error:#}", Styled(RED, "failed")));
            }
            if found.broken.is_empty()
                && let Err(error) = clear_out(&wasm, &found.crates)
            {
                say("build", &format!("{error:#}"));
            }
            let touched = |plugin: &PluginCrate| edited.iter().any(|path| path.starts_with(&plugin.folder));
            for plugin in found.crates.into_iter().filter(touched) {
                if !wasm.join(format!("{}.wasm", plugin.name)).exists() {
                    say("build", &format!("{}  for the first time, with dependencies: one to three minutes", plugin.name));
                }
                let wasm = wasm.clone();
                let building = tokio::task::spawn_blocking(move || {
                    let built = plugin.build();
                    let dropped = built.as_ref().ok().map(|built| built.drop_into(&wasm, &plugin.name)).transpose();
                    (plugin, built, dropped)
                });
                // The panic hook has already reported the panic.
                let Ok((plugin, built, dropped)) = building.await else { continue };
                say("build", &told(&plugin, &built, serves(&plugin.name)));
                if let Err(error) = dropped {
                    say("build", &format!("{}  {error:#}", plugin.name));
                }
            }
        }
    });
    Ok(())
}

/// Formats the result of a build.
fn told(plugin: &PluginCrate, built: &Result<Built, BuildFailed>, serves: Option<String>) -> String {
    match built {
        Ok(built) => {
            let warning = built.warning.as_ref().map(|warning| format!("\n{}", indent(&Styled(YELLOW, warning).to_string())));
            let (took, size) = (measure::took(built.took), measure::size(built.bytes));
            format!("{}  {took}  {size}{}", plugin.name, warning.unwrap_or_default())
        }
        Err(failed) => {
            let serves = serves.map(|version| format!("; {}@{version} keeps serving", plugin.name)).unwrap_or_default();
            format!("{}  {}{serves}\n{}", plugin.name, Styled(RED, "failed"), indent(&failed.reason))
        }
    }
}

/// Starts watching. The channel returns every changed path.
fn edits(folder: &Path) -> anyhow::Result<(notify::RecommendedWatcher, mpsc::UnboundedReceiver<PathBuf>)> {
    let (changed, edits) = mpsc::unbounded_channel::<PathBuf>();
    let root = folder.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        // A build reads its sources, which must not start another build.
        if matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_))) {
            return;
        }
        for path in event.paths.into_iter().filter(|path| path.strip_prefix(&root).is_ok_and(is_source)) {
            // The receiver is dropped only when the program ends.
            let _ = changed.send(path);
        }
    })?;
    watcher.watch(folder, notify::RecursiveMode::Recursive).with_context(|| {
        format!("{} cannot be watched; its plugins are built now, and again at the next start of innesco dev", folder.display())
    })?;
    Ok((watcher, edits))
}

/// Waits for changes, and then until nothing has changed for a while.
async fn next_edits(edits: &mut mpsc::UnboundedReceiver<PathBuf>) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    paths.extend(edits.recv().await);
    while let Ok(Some(path)) = tokio::time::timeout(QUIET, edits.recv()).await {
        paths.insert(path);
    }
    paths
}

/// Returns whether a file below the plugin folder can affect a build. Output of builds and files of editors cannot.
fn is_source(below: &Path) -> bool {
    let Some(name) = below.file_name().and_then(|name| name.to_str()) else { return false };
    let inside = below.components().skip(1).any(|part| part.as_os_str() == "target")
        || below.components().any(|part| part.as_os_str().to_str().is_some_and(|part| part.starts_with('.')));
    // vim creates a file named 4913 to test whether it can write.
    !(inside || name.ends_with(['~', '#']) || name.ends_with(".swp") || name.ends_with(".tmp") || name == "4913")
        && name != "Cargo.lock"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_start_a_build() {
        for source in ["a/src/lib.rs", "a/Cargo.toml", "a/src/words.json", "a"] {
            assert!(is_source(Path::new(source)), "{source}");
        }
        for noise in ["a/target/x.wasm", "a/src/.lib.rs.swp", "a/src/lib.rs~", "a/.git/index", "a/src/4913", "a/Cargo.lock", ""] {
            assert!(!is_source(Path::new(noise)), "{noise}");
        }
    }

    #[test]
    fn formats_results_of_builds() {
        let plugin = PluginCrate { name: "order-router".into(), folder: "plugins/order-router".into() };
        let plain = |built, serves: Option<&str>| {
            anstream::adapter::strip_str(&told(&plugin, &built, serves.map(str::to_owned))).to_string()
        };
        let good = |warning: Option<&str>| {
            let warning = warning.map(str::to_owned);
            Ok(Built { wasm: PathBuf::new(), bytes: 57_800, took: Duration::from_millis(1_100), warning })
        };
        assert_eq!(plain(good(None), None), "order-router  1.1 s  58 kB");
        assert_eq!(plain(good(Some("src/lib.rs:1 prints")), None), "order-router  1.1 s  58 kB\n          src/lib.rs:1 prints");
        let failed =
            || Err(BuildFailed { name: "order-router".into(), reason: "error[E0425]: no\n --> src/lib.rs:21:12".into() });
        assert_eq!(
            plain(failed(), Some("3fa2c1")),
            "order-router  failed; order-router@3fa2c1 keeps serving\n          error[E0425]: no\n           --> src/lib.rs:21:12"
        );
        assert!(plain(failed(), None).starts_with("order-router  failed\n"));
    }

    #[test]
    fn removes_files_without_a_crate() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kept.wasm", "gone.wasm", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        clear_out(folder.path(), &[PluginCrate { name: "kept".into(), folder: PathBuf::new() }]).unwrap();
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["kept.wasm", "notes.txt"]);
    }

    #[tokio::test]
    async fn a_burst_of_changes_starts_one_build_and_reading_starts_none() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(root.join("a/src")).unwrap();
        let file = root.join("a/src/lib.rs");
        fs::write(&file, "old").unwrap();
        let (_watcher, mut edits) = edits(&root).unwrap();
        fs::read_to_string(&file).unwrap();
        for text in ["1", "2", "3"] {
            fs::write(&file, text).unwrap();
        }
        let paths = tokio::time::timeout(Duration::from_secs(20), next_edits(&mut edits)).await.expect("edits are noticed");
        assert_eq!(paths, BTreeSet::from([file.clone()]));
        fs::read_to_string(&file).unwrap();
        assert!(edits.try_recv().is_err(), "reading is not a change");
    }
}
