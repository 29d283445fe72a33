//! `innesco run show RUN --as-test`: writes a failed run as a test of its plugin's crate, and checks that the test fails as the run did.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{
    build::PluginCrate,
    client::{Client, shown},
    event::short,
    fixture::Fixture,
    mask::{Masks, Style},
    measure,
    output::{self, Printer},
    plugin::meant,
    plugin_test::Stage,
    project::Project,
    wrong,
};
use crate::{
    domain::run::RunFailure,
    wire::{EndpointView, RunRecordView, RunStoryView},
};

/// Paths in the crate: the file with the tests, and the folder with their inputs.
const TESTS: &str = "tests/recorded.rs";
const RUNS: &str = "tests/runs";

const HEADER: &str = "\
//! Failed runs, written by `innesco run show RUN --as-test`. Each test runs the plugin's WebAssembly on what the run received, under the
//! limits of an engine, and passes once the plugin handles it.

use innesco_sdk::testkit;
";

#[derive(clap::Args)]
pub struct AsTestArgs {
    /// Write the failed run as a test of its plugin's crate
    #[arg(long)]
    pub as_test: bool,
    /// With --as-test: the crate, by folder or by name [default: the crate in this folder, else the plugin's crate below plugins/]
    #[arg(long = "crate", value_name = "CRATE", requires = "as_test")]
    of: Option<PathBuf>,
    /// With --as-test: replace values, such as data.customer.*; can be repeated
    #[arg(long, value_name = "PATH", requires = "as_test")]
    mask: Vec<String>,
}

/// # Errors
/// If the run did not fail, cannot be repeated or depends on a masked value, or if the crate cannot be written.
pub fn run(args: &AsTestArgs, run: &str, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let masks = Masks::parse(&args.mask).map_err(|error| wrong(error.to_string()))?;
    let story = client.get::<RunStoryView>(&["v1", "runs", run])?.into_thing().run;
    let Some(outcome) = story.outcome.as_deref().filter(|outcome| *outcome != "ok") else {
        bail!("{run} has not failed; only a failed run can become a test");
    };
    let mut fixture = Fixture::new(client.get::<RunRecordView>(&["v1", "runs", run, "record"])?.into_thing())?;
    (fixture.code, fixture.message) = (story.code.clone(), story.message.clone());
    if story.code.as_deref() == Some("unknown_endpoint") {
        let all = client.list::<EndpointView>(&["v1", "endpoints"], &[], usize::MAX)?;
        fixture.endpoints = Some(all.into_iter().map(|endpoint| endpoint.into_thing().name).collect());
    }
    let plugin = plugin_crate(args.of.as_deref(), &story.plugin)?;
    let now = Ended::of(&plugin, &fixture);
    let mut notes = Vec::new();
    if !masks.is_empty() {
        fixture = masked(&fixture, &masks, &now)?;
    }
    match &now {
        Err(error) => notes.push(format!("the test was not tried: {error:#}")),
        Ok((_, Ended(None))) => {
            notes.push(format!("with the current source of {} the run ends ok, so the test passes", plugin.name));
        }
        Ok((_, Ended(Some(failure))))
            if failure.outcome.as_str() != outcome || (masks.is_empty() && story.message.as_ref() != Some(&failure.message)) =>
        {
            notes.push(format!(
                "with the current source of {} the run ends {}: {}",
                plugin.name, failure.outcome, failure.message
            ));
        }
        Ok(_) => {}
    }
    let is_tried = notes.is_empty();
    let name = test_name(&story.id);
    write(&plugin.folder, &name, &fixture)
        .with_context(|| format!("the test cannot be written into {}", shown(&plugin.folder)))?;
    let (tests, input) = (plugin.folder.join(TESTS), plugin.folder.join(RUNS).join(format!("{name}.json")));
    let thing = json!({ "test": name, "file": tests, "fixture": input, "fails_alike": is_tried, "notes": notes });
    out.thing(&thing, |_| {
        let alike = if is_tried { format!("It fails as the run did: {}.", ended(&fixture)) } else { String::new() };
        let next = format!("Next: cargo test --package {} --test recorded", plugin.name);
        [format!("wrote the test {name} to {}, and its input to {}", shown(&tests), shown(&input)), alike, next]
            .into_iter()
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    for note in notes {
        output::tell!("note: {note}");
    }
    Ok(())
}

/// How a run on a fixture ended. `None` means that it succeeded.
#[derive(PartialEq)]
struct Ended(Option<RunFailure>);

impl Ended {
    /// Builds the crate, and runs the plugin on the fixture.
    fn of(plugin: &PluginCrate, fixture: &Fixture) -> anyhow::Result<(Stage, Self)> {
        let stage = Stage::load(&plugin.folder, fixture.limits())?;
        let ended = Self::on(&stage, fixture)?;
        Ok((stage, ended))
    }

    fn on(stage: &Stage, fixture: &Fixture) -> anyhow::Result<Self> {
        Ok(Self(stage.run(&fixture.clone().given()?)?.result.err()))
    }

    /// Returns whether both runs ended for the same reason. Messages are not compared, because they may contain a masked value.
    fn is_alike(&self, other: &Self) -> bool {
        let reason = |Self(failure): &Self| {
            let failure = failure.as_ref()?;
            // Two panics are the same if they happened at the same place in the source. The message begins with that place.
            let place = failure.message.split(": ").next().unwrap_or_default();
            Some((failure.outcome, failure.code.clone(), if failure.code == "panic" { place.to_owned() } else { String::new() }))
        };
        reason(self) == reason(other)
    }
}

/// Replaces values so that a run on the fixture still fails for the same reason. Tries to replace them by constants first, then by
/// values of the same form.
fn masked(fixture: &Fixture, masks: &Masks, now: &anyhow::Result<(Stage, Ended)>) -> anyhow::Result<Fixture> {
    let shaped = fixture.masked(masks, Style::Shape);
    if let Some(path) = masks.unmatched() {
        bail!("--mask {path} names no value of this run; innesco event show prints its data");
    }
    // A message may quote a value, so a masked fixture never contains the message of the real run.
    let labelled = |mut fixture: Fixture, message: Option<String>| {
        fixture.message = message;
        fixture
    };
    let Ok((stage, real)) = now else { return Ok(labelled(shaped, None)) };
    if real.0.is_none() {
        return Ok(labelled(shaped, None));
    }
    let mut last = None;
    for fixture in [fixture.masked(masks, Style::Constant), shaped] {
        let ended = Ended::on(stage, &fixture)?;
        if ended.is_alike(real) {
            let message = ended.0.map(|failure| failure.message);
            return Ok(labelled(fixture, message));
        }
        last = ended.0;
    }
    let instead = last.map_or("ok".to_owned(), |failure| format!("{}: {}", failure.outcome, failure.message));
    bail!(
        "the failure depends on a masked value: without it the run ends {instead}. Nothing was written; mask less, or leave --mask out"
    )
}

/// Finds the crate of a plugin.
fn plugin_crate(typed: Option<&Path>, plugin: &str) -> anyhow::Result<PluginCrate> {
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    let project = Project::around(&here);
    let found = match typed {
        Some(typed) => meant(Some(typed), &project, &here)?,
        None => match PluginCrate::at(&here) {
            Ok(own) => vec![own],
            Err(_) => {
                meant(Some(Path::new(plugin)), &project, &here).context("name the crate of the plugin with --crate FOLDER")?
            }
        },
    };
    found.into_iter().next().context("no crate was found")
}

/// Returns the name of the test's function: the run's id.
fn test_name(run: &str) -> String {
    run.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Describes how a recorded run ended, in one line.
fn ended(fixture: &Fixture) -> String {
    let outcome = fixture.outcome.as_deref().unwrap_or("failed");
    match &fixture.message {
        Some(message) => format!("{outcome}: {}", measure::cut(&measure::one_line(message), 100)),
        None => outcome.to_owned(),
    }
}

/// Writes the fixture, and adds the test unless it exists.
fn write(folder: &Path, name: &str, fixture: &Fixture) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join(RUNS))?;
    fs::write(folder.join(RUNS).join(format!("{name}.json")), fixture.text())?;
    let path = folder.join(TESTS);
    let before = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::write(&path, HEADER)?;
            HEADER.to_owned()
        }
        Err(error) => return Err(error.into()),
    };
    if before.contains(&format!("fn {name}()")) {
        return Ok(());
    }
    let version = fixture.version.as_deref().map(|version| format!("@{}", short(version))).unwrap_or_default();
    let about = format!("{}{version} on {}: {}", fixture.plugin, measure::one_line(&fixture.event.r#type), ended(fixture));
    let test =
        format!("\n/// {about}\n#[test]\nfn {name}() {{\n    testkit::recorded(\"{RUNS}/{name}.json\").run().expect_ok();\n}}\n");
    fs::File::options().append(true).open(&path)?.write_all(test.as_bytes())?;
    Ok(())
}
