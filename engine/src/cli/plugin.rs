//! `innesco plugin`: begin one, build it, see which serve.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::{
    build::{PluginCrate, size},
    client::{Client, Target},
    output::{self, Printer, text},
};
use crate::domain::name::Slug;

const MANIFEST: &str = include_str!("../../../plugin-sdk/template/Cargo.toml.tmpl");
const SOURCE: &str = include_str!("../../../plugin-sdk/template/lib.rs.tmpl");

#[derive(clap::Subcommand)]
pub enum PluginCommand {
    /// Begin a plugin: a small crate with a test, ready to build
    New { name: String },
    /// Build a plugin crate to a .wasm file
    Build {
        /// Its folder, or its name below plugins/ [default: this folder]
        plugin: Option<PathBuf>,
        /// Also drop the file into this folder
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// The plugins of a running engine
    List,
}

pub fn run(command: &PluginCommand, target: &Target, out: &Printer) -> anyhow::Result<()> {
    match command {
        PluginCommand::New { name } => new(name),
        PluginCommand::Build { plugin, to } => build(plugin.as_deref(), to.as_deref()),
        PluginCommand::List => {
            let items = Client::find(target)?.get("/v1/plugins")?["items"].as_array().cloned().unwrap_or_default();
            let columns: [output::Column; 5] = [
                ("plugin", |item| text(&item["name"])),
                ("version", |item| item["version"].as_str().map_or("-", |version| &version[..6]).to_owned()),
                ("state", |item| text(&item["state"])),
                ("on", |item| item["on"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")),
                ("error", |item| item["error"].as_str().unwrap_or_default().to_owned()),
            ];
            Ok(out.list(&items, &columns, "No plugin yet. Begin one with: innesco plugin new my-first")?)
        }
    }
}

fn new(name: &str) -> anyhow::Result<()> {
    Slug::parse(name)?;
    let sdk = find_sdk();
    let folder = match &sdk {
        Some(root) => root.join("plugins").join(name),
        None => PathBuf::from(name),
    };
    if folder.exists() {
        bail!("{} is there already; choose another name", shown(&folder));
    }
    let dependency = match &sdk {
        Some(_) => "{ path = \"../../plugin-sdk\" }".to_owned(),
        None => format!("{:?}", env!("CARGO_PKG_VERSION")),
    };
    let fill =
        |template: &str| template.replace("{{name}}", name).replace("{{struct}}", &camel(name)).replace("{{sdk}}", &dependency);
    fs::create_dir_all(folder.join("src")).with_context(|| format!("{} cannot be made", shown(&folder)))?;
    fs::write(folder.join("Cargo.toml"), fill(MANIFEST))?;
    fs::write(folder.join("src/lib.rs"), fill(SOURCE))?;

    let place = shown(&folder);
    anstream::println!("made {place}\n\n  Next:\n    edit {place}/src/lib.rs\n    cargo test --manifest-path {place}/Cargo.toml");
    match sdk {
        Some(_) => anstream::println!("    with innesco dev running it serves as soon as you save"),
        None => anstream::println!("    innesco plugin build {place} --to PLUGINS_FOLDER"),
    }
    Ok(())
}

/// The checkout that this folder lies in, if it has the SDK.
fn find_sdk() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().find(|folder| folder.join("plugin-sdk/Cargo.toml").exists()).map(Path::to_owned)
}

/// A path as it is typed from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    for part in name.split(['-', '_']) {
        let mut letters = part.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    // A type cannot begin with a digit.
    if camel.starts_with(|c: char| c.is_ascii_digit()) { format!("Plugin{camel}") } else { camel }
}

fn build(plugin: Option<&Path>, to: Option<&Path>) -> anyhow::Result<()> {
    let folder = match plugin {
        None => PathBuf::from("."),
        Some(path) if path.join("Cargo.toml").exists() => path.to_owned(),
        Some(name) => {
            let below = find_sdk().unwrap_or_default().join("plugins").join(name);
            if !below.join("Cargo.toml").exists() {
                bail!("there is no plugin crate at {} or {}", name.display(), shown(&below));
            }
            below
        }
    };
    let plugin = PluginCrate::at(&folder)?;
    let built = plugin.build()?;
    anstream::println!("built {}  {}  {:.1} s", plugin.name, size(built.bytes), built.took.as_secs_f64());
    match to {
        Some(folder) => anstream::println!("dropped into {}", shown(&built.drop_into(folder, &plugin.name)?)),
        None => {
            anstream::println!("{}\ncopy it into the plugin folder of an engine, or build with --to FOLDER", shown(&built.wasm))
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_types() {
        assert_eq!(camel("my-first"), "MyFirst");
        assert_eq!(camel("order_router"), "OrderRouter");
        assert_eq!(camel("7up"), "Plugin7up");
    }
}
