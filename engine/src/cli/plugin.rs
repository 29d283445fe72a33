//! `innesco plugin`: creates, builds and lists plugins. The commands for their versions are in `versions.rs`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{
    build::{Built, PluginCrate},
    client::{self, Client, Refused, shown},
    compare::{self, Compare},
    event::short,
    measure::{self, count},
    output::{self, Column, Printer, Styled, YELLOW, confirm, texts},
    project::{Place, Project, from},
    raw::pretty,
    versions::{self, PushArgs},
    wrong,
};
use crate::{
    domain::name::{Slug, nearest},
    wire::{ClearedStateView, DeletedStateView, PluginConfigView, PluginView, StateKeyView, StateSizeView, StateValueView},
};

const MANIFEST: &str = include_str!("../../../plugin-sdk/template/Cargo.toml.tmpl");
const SOURCE: &str = include_str!("../../../plugin-sdk/template/lib.rs.tmpl");

#[derive(clap::Subcommand)]
pub enum PluginCommand {
    /// Create a plugin: a small crate with tests, ready to build
    #[command(before_help = "Example:  innesco plugin new my-first")]
    New {
        /// Name: lower-case letters, digits, dashes
        name: String,
    },
    /// Build a plugin crate to a .wasm file
    #[command(before_help = "Example:  innesco plugin build my-first --to /etc/innesco/plugins")]
    Build {
        /// Folder of the crate, or its name below plugins/ [default: the crate in this folder, or all crates below plugins/]
        plugin: Option<PathBuf>,
        /// Also copy the file into this folder, from which an engine loads it
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Run a plugin on one event, without an engine, and print what it returns
    #[command(before_help = "Example:  innesco plugin test order-router event.json --config threshold=500")]
    Test(super::plugin_test::TestArgs),
    /// List the plugins of a running engine
    #[command(before_help = "Example:  innesco plugin list")]
    List,
    /// Show a plugin
    #[command(before_help = "Example:  innesco plugin show order-router")]
    Show {
        /// Plugin name
        plugin: String,
    },
    /// Send a plugin file to the engine: it serves at once, on every node
    #[command(before_help = "Example:  innesco plugin push target/wasm32-unknown-unknown/release/order_router.wasm --candidate")]
    Push(PushArgs),
    /// List the stored versions of a plugin, newest first
    #[command(before_help = "Example:  innesco plugin versions order-router")]
    Versions {
        /// Plugin name
        plugin: String,
    },
    /// Show what another version would change, on recorded runs, before it serves
    #[command(
        before_help = "Example:  innesco plugin compare order-router --candidate order_router.wasm --gate failures=0,targets=same"
    )]
    Compare(Compare),
    /// Delete the bytes of a version that does not serve, and end its comparisons
    #[command(before_help = "Example:  innesco plugin discard order-router 3fa2c1")]
    Discard {
        /// Plugin name
        plugin: String,
        /// The version, or its first digits [default: the newest candidate]
        version: Option<String>,
    },
    /// Make a stored version of a plugin serve
    #[command(before_help = "Example:  innesco plugin promote order-router 3fa2c1")]
    Promote {
        /// Plugin name
        plugin: String,
        /// The version, or its first digits [default: the newest candidate]
        version: Option<String>,
    },
    /// Serve the previous version again
    #[command(before_help = "Example:  innesco plugin rollback order-router")]
    Rollback {
        /// Plugin name
        plugin: String,
    },
    /// Disable a plugin: it matches no new events, and its runs wait until it is enabled
    #[command(before_help = "Example:  innesco plugin disable order-router")]
    Disable {
        /// Plugin name
        plugin: String,
    },
    /// Enable a plugin that was disabled or held: its waiting runs continue
    #[command(before_help = "Example:  innesco plugin enable order-router")]
    Enable {
        /// Plugin name
        plugin: String,
    },
    /// Remove a plugin; its versions, settings and state stay
    #[command(before_help = "Example:  innesco plugin remove order-router")]
    Remove {
        /// Plugin name
        plugin: String,
        /// Remove it even if an endpoint names it or runs wait for it; such runs are parked until it is back
        #[arg(long)]
        force: bool,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Show the settings of a plugin, or change some
    #[command(before_help = "Example:  innesco plugin config order-router threshold=500 --unset big-orders")]
    Config {
        /// Plugin name; the plugin need not exist yet
        plugin: String,
        /// Settings to change
        #[arg(value_name = "NAME=VALUE")]
        set: Vec<String>,
        /// Setting to remove, so that its default applies; can be repeated
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
    },
    /// State of plugins: show its size, its keys or one value; delete one value or all
    #[command(
        before_help = "Example:  innesco plugin state\n          innesco plugin state bounce-guard --prefix bounces/\n          innesco plugin state bounce-guard bounces/anna@example.com --delete"
    )]
    State(StateArgs),
}

#[derive(clap::Args)]
pub struct StateArgs {
    /// Plugin name; without one, the size of each plugin's state is listed
    plugin: Option<String>,
    /// Key of the value to show; without a key, the keys are listed
    key: Option<String>,
    /// Only keys that begin with this text
    #[arg(long, value_name = "TEXT", requires = "plugin", conflicts_with_all = ["key", "clear"])]
    prefix: Option<String>,
    /// Number of keys
    #[arg(long, short = 'n', default_value_t = 100, value_name = "COUNT")]
    limit: usize,
    /// Delete this value
    #[arg(long, requires = "key")]
    delete: bool,
    /// Delete all state of the plugin, as if it had never run
    #[arg(long, requires = "plugin", conflicts_with = "key")]
    clear: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

pub fn run(command: &PluginCommand, client: impl FnOnce() -> anyhow::Result<Client>, out: &Printer) -> anyhow::Result<()> {
    match command {
        PluginCommand::New { name } => {
            let here = std::env::current_dir().context("the current folder cannot be read")?;
            let made = new(name, &here)?;
            let is_dev_running = client::is_dev_running(&Project::around(&here).root);
            out.thing(&json!({ "name": name, "folder": made.folder }), |_| welcome(name, &made, &here, is_dev_running))?;
            Ok(())
        }
        PluginCommand::Build { plugin, to } => build(plugin.as_deref(), to.as_deref(), out),
        PluginCommand::Test(args) => super::plugin_test::run(args, client, out),
        PluginCommand::List => {
            let items = client()?.list(&["v1", "plugins"], &[], usize::MAX)?;
            let columns: [Column<PluginView>; 6] = [
                Column::text("plugin", |item| item.name.clone()),
                Column::text("version", |item| item.version.as_deref().map(short).unwrap_or_default()),
                Column::state("state", |item| item.state.to_string()),
                Column::text("on", |item| texts(&item.on)),
                Column::text("size", |item| if item.bytes > 0 { measure::size(item.bytes) } else { String::new() }),
                Column::text("about", |item| item.error.as_ref().unwrap_or(&item.description).clone()),
            ];
            out.list(&items, &columns, NO_PLUGIN)?;
            Ok(())
        }
        PluginCommand::Show { plugin } => versions::show(plugin, &client()?, out),
        PluginCommand::Push(args) => versions::push(args, &client()?, out),
        PluginCommand::Compare(args) => compare::run(args, &client()?, out),
        PluginCommand::Versions { plugin } => versions::list(plugin, &client()?, out),
        PluginCommand::Discard { plugin, version } => versions::discard(plugin, version.as_deref(), &client()?, out),
        PluginCommand::Promote { plugin, version } => versions::promote(plugin, version.as_deref(), &client()?, out),
        PluginCommand::Rollback { plugin } => versions::roll_back(plugin, &client()?, out),
        PluginCommand::Disable { plugin } => versions::set_halt(plugin, "disable", &client()?, out),
        PluginCommand::Enable { plugin } => versions::set_halt(plugin, "enable", &client()?, out),
        PluginCommand::Remove { plugin, force, yes } => versions::remove(plugin, *force, *yes, &client()?, out),
        PluginCommand::Config { plugin, set, unset } => config(&client()?, plugin, set, unset, out),
        PluginCommand::State(args) => state(args, &client()?, out),
    }
}

fn state(args: &StateArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let Some(plugin) = args.plugin.as_deref() else { return state_sizes(client, out) };
    let path = |rest: &'static [&'static str]| [&["v1", "plugins", plugin, "state"][..], rest].concat();
    match &args.key {
        None if args.clear => {
            confirm(&format!("this deletes all state of {plugin}, as if it had never run"), args.yes)?;
            let answer = client.delete(&path(&[]))?;
            out.answer(&answer, |cleared: &ClearedStateView| {
                format!("cleared the state of {plugin}: {}", count(cleared.keys, "key"))
            })?;
        }
        None => {
            let query = [("prefix", args.prefix.as_deref())];
            let items = client.list(&path(&["keys"]), &query, args.limit)?;
            let columns: [Column<StateKeyView>; 3] = [
                Column::text("key", |item| item.key.clone()),
                Column::text("size", |item| measure::size(item.bytes)),
                Column::time("expires", |item| item.expires_at.clone().unwrap_or_default()),
            ];
            out.list(&items, &columns, "No such key.")?;
        }
        Some(key) if args.delete => {
            confirm(&format!("this deletes what {plugin} stores under {key:?}"), args.yes)?;
            let answer = client.delete_with(&path(&["value"]), &[("key", key)])?;
            out.answer(&answer, |deleted: &DeletedStateView| format!("deleted {:?} of {plugin}", deleted.key))?;
        }
        Some(key) => {
            let answer = client.get_with(&path(&["value"]), &[("key", key)])?;
            out.answer(&answer, |value: &StateValueView| measure::lines(&value_text(value)))?;
        }
    }
    Ok(())
}

/// Formats a value for a person.
fn value_text(value: &StateValueView) -> String {
    match (&value.value, &value.value_base64) {
        (_, Some(base64)) => format!("(base64) {base64}"),
        (Some(json), None) if value.is_json => pretty(json.get()),
        (Some(text), None) => serde_json::from_str(text.get()).unwrap_or_default(),
        // A stored JSON `null` arrives here as `None`.
        (None, None) => "null".to_owned(),
    }
}

fn state_sizes(client: &Client, out: &Printer) -> anyhow::Result<()> {
    let mut items = Vec::new();
    for plugin in client.list::<PluginView>(&["v1", "plugins"], &[], usize::MAX)? {
        // A file that was never loaded as a plugin has no state.
        if plugin.version.is_some() {
            items.push(client.get(&["v1", "plugins", &plugin.name, "state"])?);
        }
    }
    let columns: [Column<StateSizeView>; 5] = [
        Column::text("plugin", |item| item.plugin.clone()),
        Column::text("keys", |item| item.keys.to_string()),
        Column::text("of", |item| item.keys_max.to_string()),
        Column::text("size", |item| measure::size(item.bytes)),
        Column::text("of", |item| measure::size(item.bytes_max)),
    ];
    Ok(out.list(&items, &columns, NO_PLUGIN)?)
}

fn config(client: &Client, plugin: &str, set: &[String], unset: &[String], out: &Printer) -> anyhow::Result<()> {
    let path = ["v1", "plugins", plugin, "config"];
    let answer = if set.is_empty() && unset.is_empty() {
        client.get::<PluginConfigView>(&path)?
    } else {
        let before = match client.get::<PluginConfigView>(&path) {
            Ok(answer) => answer.config.clone(),
            // A plugin that does not exist yet has no settings.
            Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 404) => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        client.put(&path, &json!(changed(before, set, unset)?))?
    };
    Ok(out.answer(&answer, settings)?)
}

/// Returns the settings after the changes of a command line.
pub(super) fn changed(
    mut config: BTreeMap<String, String>,
    set: &[String],
    unset: &[String],
) -> anyhow::Result<BTreeMap<String, String>> {
    for name in unset {
        if config.remove(name).is_none() {
            let near = nearest(name, config.keys().map(String::as_str));
            let near = near.map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
            return Err(wrong(format!("setting {name:?} has no value{near}")));
        }
    }
    for pair in set {
        let (name, value) = pair
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| wrong(format!("{pair:?} is not a setting; write NAME=VALUE, such as threshold=500")))?;
        config.insert(name.to_owned(), value.to_owned());
    }
    Ok(config)
}

/// Formats the settings of a plugin: the declared ones, then others with a value, then what is wrong.
fn settings(view: &PluginConfigView) -> String {
    let declared = view.settings.iter().map(|setting| {
        let value = match (view.config.get(&setting.name), &setting.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => format!("{default} (default)"),
            (None, None) if setting.required => "missing".to_owned(),
            (None, None) => "not set".to_owned(),
        };
        [setting.name.clone(), value, setting.r#type.to_string(), setting.description.clone()]
    });
    let is_declared = |name: &str| view.settings.iter().any(|setting| setting.name == name);
    let others = view.config.iter().filter(|(name, _)| !is_declared(name));
    let others = others.map(|(name, value)| [name.clone(), value.clone(), String::new(), String::new()]);
    let rows: Vec<[String; 4]> = declared.chain(others).map(|row| row.map(|cell| measure::one_line(&cell))).collect();
    let width = |place: usize| rows.iter().map(|row| row[place].chars().count()).max().unwrap_or(0);
    let (names, values, types) = (width(0), width(1), width(2));
    let mut lines: Vec<String> = rows
        .iter()
        .map(|[name, value, kind, about]| {
            format!("{name:<names$}  {value:<values$}  {kind:<types$}  {about}").trim_end().to_owned()
        })
        .collect();
    if lines.is_empty() {
        lines.push(format!("{} has no settings", view.plugin));
    }
    lines.extend(view.problems.iter().map(|problem| format!("problem: {}", measure::one_line(&problem.detail))));
    if let Some(last) = view.revisions.first() {
        lines.push(format!("revision {} by {} at {}", last.revision, last.by, last.at));
    }
    lines.join("\n")
}

const NO_PLUGIN: &str = "No plugin yet. Create one with: innesco plugin new my-first";

/// A new crate.
struct Made {
    folder: PathBuf,
    place: Place,
}

fn new(name: &str, here: &Path) -> anyhow::Result<Made> {
    crate_name(name)?;
    let project = Project::around(here);
    let folder = project.plugins.join(name);
    if folder.exists() {
        bail!("{} already exists; choose another name", from(here, &folder));
    }
    project.provide_sdk()?;
    let place = project.place(&folder)?;
    let dependency = project.sdk_dependency(&folder);
    let fill =
        |template: &str| template.replace("{{name}}", name).replace("{{struct}}", &camel(name)).replace("{{sdk}}", &dependency);
    // The manifest comes last: `innesco dev` builds a folder as soon as it has one.
    let write = || {
        fs::create_dir_all(folder.join("src"))?;
        fs::write(folder.join("src/lib.rs"), fill(SOURCE))?;
        fs::write(folder.join("Cargo.toml"), fill(MANIFEST) + &place.manifest())
    };
    write().with_context(|| format!("{} cannot be written", from(here, &folder)))?;
    Ok(Made { folder, place })
}

/// Formats the message about a new crate, with the next three commands.
fn welcome(name: &str, made: &Made, here: &Path, is_dev_running: bool) -> String {
    let place = from(here, &made.folder);
    let test = match made.place {
        Place::Member => format!("cargo test --package {name}"),
        Place::Alone => format!("cargo test --manifest-path {place}/Cargo.toml"),
    };
    let what =
        if is_dev_running { "it is running: it builds and serves the plugin now" } else { "serve it, and rebuild on every save" };
    let next = [
        [format!("edit {place}/src/lib.rs"), "the plugin and its tests".to_owned()],
        [test, "test it without an engine".to_owned()],
        ["innesco dev".to_owned(), what.to_owned()],
    ];
    let width = next.iter().map(|[command, _]| command.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = next.iter().map(|[command, what]| format!("  {command:<width$}   {what}")).collect();
    format!("created {name} in {place}. Next:\n\n{}", lines.join("\n"))
}

/// Checks a plugin's name, which is also the name of its crate.
fn crate_name(name: &str) -> anyhow::Result<()> {
    /// Names that cargo refuses, or that hide a crate which every plugin needs.
    const TAKEN: [&str; 57] = [
        "alloc",
        "core",
        "proc-macro",
        "proc_macro",
        "std",
        "test",
        "serde",
        "serde_json",
        "innesco-sdk",
        "innesco_sdk",
        "abstract",
        "as",
        "async",
        "await",
        "become",
        "box",
        "break",
        "const",
        "continue",
        "crate",
        "do",
        "dyn",
        "else",
        "enum",
        "extern",
        "false",
        "final",
        "fn",
        "for",
        "gen",
        "if",
        "impl",
        "in",
        "let",
        "loop",
        "macro",
        "match",
        "mod",
        "move",
        "mut",
        "override",
        "priv",
        "pub",
        "ref",
        "return",
        "self",
        "static",
        "struct",
        "super",
        "trait",
        "true",
        "try",
        "type",
        "typeof",
        "unsafe",
        "use",
        "where",
    ];
    Slug::parse(name).map_err(|bad| wrong(bad.to_string()))?;
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong(format!(
            "{name:?} starts with a digit, which a crate's name cannot; try {:?}",
            format!("plugin-{name}")
        )));
    }
    if TAKEN.contains(&name) {
        return Err(wrong(format!("{name:?} is a reserved name in Rust; try {:?}", format!("my-{}", name.replace('_', "-")))));
    }
    Ok(())
}

fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    for part in name.split(['-', '_']) {
        let mut letters = part.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

fn build(plugin: Option<&Path>, to: Option<&Path>, out: &Printer) -> anyhow::Result<()> {
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    let project = Project::around(&here);
    let crates = meant(plugin, &project, &here)?;
    for plugin in &crates {
        let built = plugin.build()?;
        let dropped = to.map(|folder| built.drop_into(folder, &plugin.name)).transpose()?;
        let thing = json!({
            "name": plugin.name,
            "file": dropped.as_ref().unwrap_or(&built.wasm),
            "bytes": built.bytes,
        });
        out.thing(&thing, |_| line(plugin, &built, dropped.as_deref()))?;
        if let Some(warning) = &built.warning {
            output::tell!("{} {warning}", Styled(YELLOW, format!("warning: {}:", plugin.name)));
        }
    }
    if to.is_none() && !out.for_script() {
        let name = if crates.len() == 1 { format!(" {}", crates[0].name) } else { String::new() };
        output::print(&format!("Copy it into an engine's plugin folder, or run: innesco plugin build{name} --to DIR"))?;
    }
    Ok(())
}

fn line(plugin: &PluginCrate, built: &Built, dropped: Option<&Path>) -> String {
    let place = dropped.map_or_else(|| shown(&built.wasm), |place| format!("copied to {}", shown(place)));
    format!("built {}  {}  {}  {place}", plugin.name, measure::size(built.bytes), measure::took(built.took))
}

/// Finds the crates that a command builds.
pub(super) fn meant(plugin: Option<&Path>, project: &Project, here: &Path) -> anyhow::Result<Vec<PluginCrate>> {
    let Some(typed) = plugin else {
        let own = PluginCrate::at(here);
        let all = PluginCrate::below(&project.plugins)?;
        return match own {
            // The project's own crate is not a plugin, even if its Cargo.toml has a package.
            Ok(own) if all.crates.is_empty() || project.root != here => Ok(vec![own]),
            _ if !all.crates.is_empty() => Ok(all.crates),
            own => Ok(vec![own?]),
        };
    };
    if here.join(typed).join("Cargo.toml").exists() {
        return Ok(vec![PluginCrate::at(&here.join(typed))?]);
    }
    let all = PluginCrate::below(&project.plugins)?.crates;
    let name = typed.to_string_lossy();
    match all.iter().find(|plugin| plugin.name == name || plugin.folder == project.plugins.join(typed)) {
        Some(plugin) => Ok(vec![plugin.clone()]),
        None => {
            let near = nearest(&name, all.iter().map(|plugin| plugin.name.as_str()));
            let near = near.map(|near| format!("; the nearest name is {near:?}")).unwrap_or_default();
            bail!("no plugin crate {name:?} here or in {}{near}", from(here, &project.plugins))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConfigRevisionView, SettingProblemView, SettingView};

    #[test]
    fn names_become_types() {
        assert_eq!(camel("my-first"), "MyFirst");
        assert_eq!(camel("order_router2"), "OrderRouter2");
    }

    #[test]
    fn refuses_invalid_names() {
        let cases = [
            ("7up", "\"7up\" starts with a digit, which a crate's name cannot; try \"plugin-7up\""),
            ("self", "\"self\" is a reserved name in Rust; try \"my-self\""),
            ("serde_json", "\"serde_json\" is a reserved name in Rust; try \"my-serde-json\""),
        ];
        for (name, sentence) in cases {
            assert_eq!(crate_name(name).unwrap_err().to_string(), sentence);
        }
        assert!(crate_name("../up").is_err());
        assert!(crate_name("my-first").is_ok());
    }

    #[test]
    fn creates_a_plugin_in_the_checkout_or_in_any_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (checkout, outside) = (folder.path().join("checkout"), folder.path().join("outside"));
        fs::create_dir_all(checkout.join("plugin-sdk")).unwrap();
        fs::create_dir_all(checkout.join("docs")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(checkout.join("plugin-sdk/Cargo.toml"), "").unwrap();

        let made = new("my-first", &checkout.join("docs")).unwrap();
        assert_eq!(made.folder, checkout.join("plugins/my-first"));
        let manifest = fs::read_to_string(made.folder.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"my-first\"") && manifest.contains("{ path = \"../../plugin-sdk\" }"), "{manifest}");
        let source = fs::read_to_string(made.folder.join("src/lib.rs")).unwrap();
        assert!(source.contains("struct MyFirst;"), "{source}");
        assert!(!manifest.contains("{{") && !source.contains("{{name}}") && !source.contains("{{struct}}"));
        let expected = "\
created my-first in plugins/my-first. Next:

  edit plugins/my-first/src/lib.rs   the plugin and its tests
  cargo test --package my-first      test it without an engine
  innesco dev                        serve it, and rebuild on every save";
        assert_eq!(welcome("my-first", &made, &checkout, false), expected);

        let error = new("my-first", &checkout).err().unwrap().to_string();
        assert_eq!(error, "plugins/my-first already exists; choose another name");

        let made = new("my-first", &outside).unwrap();
        assert_eq!(made.folder, outside.join("plugins/my-first"));
        let manifest = fs::read_to_string(made.folder.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("innesco-sdk = { path = \"../../.innesco/sdk\" }"), "{manifest}");
        assert!(made.folder.join("../../.innesco/sdk/src/lib.rs").exists());
        assert!(welcome("my-first", &made, &outside, true).contains("it is running: it builds and serves the plugin now"));
        let second = new("second", &made.folder).unwrap();
        assert_eq!(second.folder, outside.join("plugins/second"), "beside the first, from inside it");

        // In a folder with other Rust code, the crate becomes a separate workspace, with the profile in its manifest.
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("Cargo.toml"), "[workspace]\nmembers = [\"app\"]\n").unwrap();
        let made = new("my-first", &other).unwrap();
        let manifest = fs::read_to_string(made.folder.join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        assert!(manifest["workspace"].as_table().unwrap().is_empty());
        assert_eq!(manifest["profile"]["release"]["lto"].as_bool(), Some(true));
        assert!(welcome("my-first", &made, &other, false).contains("cargo test --manifest-path plugins/my-first/Cargo.toml"));
    }

    #[test]
    fn changes_of_settings_are_applied_to_those_that_are_set() {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let before = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let after = changed(before.clone(), &texts(&["a=x=y", "c="]), &texts(&["b"])).unwrap();
        assert_eq!(after.into_iter().collect::<Vec<_>>(), [("a".into(), "x=y".into()), ("c".into(), String::new())]);
        let error = |set: &[&str], unset: &[&str]| changed(before.clone(), &texts(set), &texts(unset)).unwrap_err().to_string();
        assert_eq!(error(&["threshold"], &[]), "\"threshold\" is not a setting; write NAME=VALUE, such as threshold=500");
        assert_eq!(error(&[], &["c"]), "setting \"c\" has no value");
    }

    #[test]
    fn shows_settings_with_defaults_and_problems() {
        let setting = |name: &str, default: Option<&str>, required| SettingView {
            name: name.into(),
            r#type: "number".into(),
            default: default.map(str::to_owned),
            description: format!("About {name}"),
            required,
        };
        let view = PluginConfigView {
            plugin: "order-router".into(),
            revision: 2,
            config: BTreeMap::from([("old".to_owned(), "x".to_owned())]),
            settings: vec![setting("threshold", Some("1000"), false), setting("team", None, true)],
            problems: vec![SettingProblemView { pointer: "/team".into(), detail: "setting \"team\" is required".into() }],
            revisions: vec![ConfigRevisionView { revision: 2, at: "2026-01-31T09:30:00.000Z".into(), by: "ops".into() }],
        };
        let expected = "\
threshold  1000 (default)  number  About threshold
team       missing         number  About team
old        x
problem: setting \"team\" is required
revision 2 by ops at 2026-01-31T09:30:00.000Z";
        assert_eq!(settings(&view), expected);
    }

    #[test]
    fn selects_the_crates_to_build() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        for name in ["one", "two"] {
            fs::create_dir_all(here.join("plugins").join(name)).unwrap();
            fs::write(here.join("plugins").join(name).join("Cargo.toml"), format!("[package]\nname = \"{name}\"\n")).unwrap();
        }
        let project = Project::around(here);
        let names = |typed: Option<&str>, here: &Path| {
            meant(typed.map(Path::new), &project, here)
                .map(|crates| crates.into_iter().map(|plugin| plugin.name).collect::<Vec<_>>().join(" "))
                .map_err(|error| error.to_string())
        };
        assert_eq!(names(None, here).unwrap(), "one two");
        assert_eq!(names(None, &here.join("plugins/one")).unwrap(), "one");
        assert_eq!(names(Some("two"), here).unwrap(), "two");
        assert_eq!(names(Some("plugins/two"), here).unwrap(), "two");
        assert_eq!(
            names(Some("twoo"), here).unwrap_err(),
            "no plugin crate \"twoo\" here or in plugins; the nearest name is \"two\""
        );
    }
}
