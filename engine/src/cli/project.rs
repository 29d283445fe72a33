//! The folder in which plugins are developed: the repository, or any folder in which `innesco dev` or `innesco plugin new` ran.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use toml::Table;

use super::{client, sdk};
use crate::files;

/// The folder of `innesco dev` and of the SDK, below the project.
pub const HOME: &str = ".innesco";

/// The release profile of plugins: runs are a quarter faster, and failures show lines of source.
const PROFILE: &str = "\
# Makes plugins faster, and shows lines of their source when they fail.
[profile.release]
lto = true
codegen-units = 1
debug = \"limited\"
";
/// The configuration of cargo for the target of plugins.
const CARGO_CONFIG: &str = "\
# A plugin's stack lies before everything else in its memory. With the default of 1 MiB, each run costs twice as much
# where the engine runs on a Linux before 6.7.
[target.wasm32-unknown-unknown]
rustflags = [\"-C\", \"link-arg=-zstack-size=131072\"]
";

/// A folder in which plugins are developed.
#[derive(Debug, PartialEq, Eq)]
pub struct Project {
    pub root: PathBuf,
    /// Whether it is the repository, which has the SDK.
    pub is_checkout: bool,
    /// The folder with the plugin crates, absolute.
    pub plugins: PathBuf,
}

impl Project {
    /// Finds the project that contains this folder. A folder outside every project counts as a new project.
    pub fn around(here: &Path) -> Self {
        let is_home = |folder: &&Path| files::require_own(&folder.join(HOME)).is_ok();
        let checkout = here.ancestors().find(|folder| folder.join("plugin-sdk/Cargo.toml").exists());
        let root = checkout.or_else(|| here.ancestors().find(is_home)).unwrap_or(here);
        Self { root: root.to_owned(), is_checkout: checkout.is_some(), plugins: root.join(client::watched(root)) }
    }

    /// Provides the SDK to the crates here. The repository already contains it.
    pub fn provide_sdk(&self) -> anyhow::Result<()> {
        if !self.is_checkout {
            sdk::refresh(&open_home(&self.root)?)?;
        }
        Ok(())
    }

    /// Returns the dependency on the SDK, for the manifest of a crate in this folder.
    pub fn sdk_dependency(&self, folder: &Path) -> String {
        let sdk = if self.is_checkout { self.root.join("plugin-sdk") } else { self.root.join(HOME).join(sdk::FOLDER) };
        format!("{{ path = {:?} }}", from(folder, &sdk))
    }

    /// Makes a place for a new crate in this folder. The crate becomes a member of the workspace here. If no workspace exists, this
    /// creates one. If the folder belongs to other Rust code, the crate becomes a separate workspace. Returns what its manifest
    /// needs.
    pub fn place(&self, folder: &Path) -> anyhow::Result<Place> {
        if self.is_checkout {
            return Ok(Place::Member);
        }
        match workspace_above(folder) {
            Some((root, members)) if is_member(&members, folder.strip_prefix(&root).unwrap_or(folder)) => Ok(Place::Member),
            None if !self.root.join("Cargo.toml").exists() && self.plugins.starts_with(&self.root) => {
                let plugins = from(&self.root, &self.plugins);
                let manifest = format!(
                    "# The plugins share one lock file and one build folder.\n[workspace]\nresolver = \"3\"\n\
                     members = [{:?}]\nexclude = [{HOME:?}]\n\n{PROFILE}",
                    format!("{plugins}/*")
                );
                add(&self.root, "Cargo.toml", &manifest)?;
                extras(&self.root)?;
                Ok(Place::Member)
            }
            _ => {
                extras(folder)?;
                Ok(Place::Alone)
            }
        }
    }
}

/// The place of a new crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a workspace, whose manifest has the profile.
    Member,
    /// In a separate workspace.
    Alone,
}

impl Place {
    /// Returns the last part of the crate's manifest.
    pub fn manifest(self) -> String {
        match self {
            Self::Member => String::new(),
            Self::Alone => format!("\n# This crate is not a member of the workspace around it.\n[workspace]\n\n{PROFILE}"),
        }
    }
}

/// Provides the SDK to a crate that has the path of a project's SDK in its manifest. The SDK may be missing or older than this
/// program, for example after a clone, because Git ignores it.
pub fn provide_sdk_of(folder: &Path, manifest: &Table) -> anyhow::Result<()> {
    let dependency = manifest.get("dependencies").and_then(|all| all.get("innesco-sdk"));
    let path = dependency.and_then(|sdk| sdk.get("path")).and_then(toml::Value::as_str);
    let suffix = Path::new(HOME).join(sdk::FOLDER);
    let Some(path) = path.map(Path::new).filter(|path| path.ends_with(&suffix)) else { return Ok(()) };
    let root = folder.join(path.ancestors().nth(2).unwrap_or(path));
    sdk::refresh(&open_home(&root)?).map(drop)
}

/// Creates the folder of `innesco dev`, if it does not exist. Git ignores everything in it, because it contains a key.
pub fn open_home(root: &Path) -> anyhow::Result<PathBuf> {
    let home = root.join(HOME);
    let open = || {
        files::own_folder(&home, client::made_by_dev)?;
        add(&home, ".gitignore", "*\n")
    };
    open().with_context(|| format!("{} cannot be created", home.display()))?;
    Ok(home)
}

/// Adds the files that belong next to a workspace's manifest.
fn extras(root: &Path) -> anyhow::Result<()> {
    let write = || {
        fs::create_dir_all(root.join(".cargo"))?;
        add(&root.join(".cargo"), "config.toml", CARGO_CONFIG)?;
        let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
        if !ignored.lines().any(|line| line.trim().trim_matches('/') == "target") {
            let line_break = if ignored.is_empty() || ignored.ends_with('\n') { "" } else { "\n" };
            let mut file = fs::File::options().append(true).create(true).open(root.join(".gitignore"))?;
            file.write_all(format!("{line_break}/target\n").as_bytes())?;
        }
        anyhow::Ok(())
    };
    write().with_context(|| format!("the files beside {} cannot be written", root.join("Cargo.toml").display()))
}

/// Writes a file unless it exists.
fn add(folder: &Path, name: &str, text: &str) -> std::io::Result<()> {
    match fs::File::create_new(folder.join(name)) {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Finds the nearest workspace above a crate, as cargo does, with its `workspace` table.
fn workspace_above(folder: &Path) -> Option<(PathBuf, Table)> {
    folder.ancestors().skip(1).find_map(|root| {
        let mut manifest: Table = fs::read_to_string(root.join("Cargo.toml")).ok()?.parse().ok()?;
        Some((root.to_owned(), manifest.remove("workspace")?.as_table()?.clone()))
    })
}

/// Returns whether a crate is a member of a workspace. `below` is the path of the crate, relative to the workspace.
fn is_member(workspace: &Table, below: &Path) -> bool {
    let texts = |name: &str| {
        let list = workspace.get(name).and_then(toml::Value::as_array).cloned().unwrap_or_default();
        list.into_iter().filter_map(|item| item.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let is_excluded = texts("exclude").iter().any(|path| below.starts_with(path.trim_start_matches("./")));
    !is_excluded && texts("members").iter().any(|pattern| covers(pattern.trim_start_matches("./"), below))
}

/// Returns whether a pattern of workspace members, such as `plugins/*`, names this path.
fn covers(pattern: &str, path: &Path) -> bool {
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let names: Vec<_> = path.components().filter_map(|part| part.as_os_str().to_str()).collect();
    let fits = |part: &str, name: &str| match part.split_once('*') {
        None => part == name,
        Some((head, tail)) => name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail),
    };
    parts.len() == names.len() && parts.iter().zip(names).all(|(part, name)| fits(part, name))
}

/// Returns a path relative to a folder, if both have a common parent.
pub fn from(here: &Path, path: &Path) -> String {
    if let Ok(below) = path.strip_prefix(here) {
        return below.display().to_string();
    }
    // A path that is not below `here` needs one `../` for each folder between `here` and the common parent.
    let shared = here.ancestors().find(|folder| path.starts_with(folder));
    let Some((shared, steps)) = shared.map(|shared| (shared, here.components().count() - shared.components().count())) else {
        return path.display().to_string();
    };
    let below = path.strip_prefix(shared).unwrap_or(path);
    format!("{}{}", "../".repeat(steps), below.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(files::folder_of(&path)).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn finds_the_project_from_inside() {
        let folder = folder_with(&[("mine/plugins/a/Cargo.toml", ""), ("repository/plugin-sdk/Cargo.toml", "")]);
        let mine = folder.path().join("mine");
        let found = Project::around(&mine.join("plugins/a"));
        assert_eq!(found.root, mine.join("plugins/a"), "nothing marks a project yet");
        open_home(&mine).unwrap();
        let found = Project::around(&mine.join("plugins/a"));
        assert_eq!(found, Project { root: mine.clone(), is_checkout: false, plugins: mine.join("plugins") });
        assert_eq!(fs::read_to_string(mine.join(".innesco/.gitignore")).unwrap(), "*\n");

        let repository = folder.path().join("repository");
        open_home(&repository.join("plugin-sdk")).unwrap();
        let found = Project::around(&repository.join("plugin-sdk"));
        assert_eq!((found.root, found.is_checkout), (repository, true), "the repository comes first");
    }

    #[test]
    fn a_crate_without_its_sdk_gets_it_back() {
        let folder = folder_with(&[("plugins/a/Cargo.toml", ""), ("b/Cargo.toml", "")]);
        let manifest = |path: &str| format!("[dependencies]\ninnesco-sdk = {{ path = {path:?} }}").parse().unwrap();
        for other in ["../../plugin-sdk", "/elsewhere/sdk"] {
            provide_sdk_of(&folder.path().join("b"), &manifest(other)).unwrap();
        }
        assert!(!folder.path().join(".innesco").exists());
        provide_sdk_of(&folder.path().join("plugins/a"), &manifest("../../.innesco/sdk")).unwrap();
        assert!(folder.path().join(".innesco/sdk/Cargo.toml").exists());
    }

    #[test]
    fn patterns_of_members_name_paths() {
        for (pattern, path, fits) in [
            ("plugins/*", "plugins/a", true),
            ("plugins/*", "plugins/a/b", false),
            ("plugins/a", "plugins/a", true),
            ("plugins/a-*", "plugins/a-b", true),
            ("plugins/a-*", "plugins/b", false),
            ("plugins/ab*b", "plugins/ab", false),
            ("*", "plugins/a", false),
            ("plugins/*/", "plugins/a", true),
        ] {
            assert_eq!(covers(pattern, Path::new(path)), fits, "{pattern} {path}");
        }
        let workspace: Table = "members = [\"./plugins/*\"]\nexclude = [\"plugins/old\"]".parse().unwrap();
        assert!(is_member(&workspace, Path::new("plugins/new")) && !is_member(&workspace, Path::new("plugins/old")));
    }

    /// Each case has the existing files, the place of a new crate among them, and the files that are added.
    #[test]
    fn a_new_crate_finds_its_place_among_other_rust_code() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Place, &'a [&'a str]);
        let cases: [Case<'_>; 5] = [
            (&[], Place::Member, &["Cargo.toml", ".cargo/config.toml", ".gitignore"]),
            (&[("Cargo.toml", "[workspace]\nmembers = [\"plugins/*\"]")], Place::Member, &[]),
            (
                &[("Cargo.toml", "[workspace]\nmembers = [\"app\"]")],
                Place::Alone,
                &["plugins/a/.cargo/config.toml", "plugins/a/.gitignore"],
            ),
            (
                &[("Cargo.toml", "[package]\nname = \"app\"")],
                Place::Alone,
                &["plugins/a/.cargo/config.toml", "plugins/a/.gitignore"],
            ),
            (&[(".gitignore", "/dist")], Place::Member, &["Cargo.toml", ".cargo/config.toml"]),
        ];
        for (files, place, added) in cases {
            let folder = folder_with(files);
            let project = Project::around(folder.path());
            assert_eq!(project.place(&folder.path().join("plugins/a")).unwrap(), place, "the place beside {files:?}");
            for file in added {
                assert!(folder.path().join(file).exists(), "beside {files:?}, {file} is missing");
            }
            for (file, text) in files {
                let now = fs::read_to_string(folder.path().join(file)).unwrap();
                assert!(now.starts_with(text), "beside {files:?}, {file} has lost its text");
                assert_eq!(now != *text, *file == ".gitignore", "beside {files:?}, only .gitignore gets more lines: {file}");
            }
        }
    }

    #[test]
    fn paths_are_shown_as_typed_from_here() {
        for (here, path, shown) in [
            ("/p", "/p/plugins/a", "plugins/a"),
            ("/p/plugins/a", "/p/.innesco/sdk", "../../.innesco/sdk"),
            ("/p/plugins", "/q", "../../q"),
        ] {
            assert_eq!(from(Path::new(here), Path::new(path)), shown);
        }
    }
}
