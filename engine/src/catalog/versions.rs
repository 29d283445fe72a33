//! Changes of plugins by request: push, promote, roll back, remove. A request is answered once this node serves the result.

use std::sync::Arc;

use super::{
    Catalog, PluginState,
    folder::{NotLoaded, row_of},
};
use crate::{
    clock,
    domain::{
        name::Slug,
        plugin::{Digest, Halt, VersionState, Way},
    },
    sandbox::Plugin,
    store::{self, NewVersion, PluginRow, PluginVersion, Proposal, Published, version_before},
};

/// Why a version was not accepted.
#[derive(Debug)]
pub enum NotPushed {
    /// Its bytes do not load. The text is the reason.
    NotLoaded(String),
    /// Its manifest has this name, not the requested one.
    OtherName(Slug),
    Store(store::Error),
}

impl From<store::Error> for NotPushed {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<NotLoaded> for NotPushed {
    fn from(error: NotLoaded) -> Self {
        Self::NotLoaded(error.reason)
    }
}

/// Who proposed a version, and how.
#[derive(Clone, Debug)]
pub struct Origin {
    pub way: Way,
    /// Name of the file in the plugin folder. Empty for an upload.
    pub file: String,
    /// Name of the key.
    pub by: String,
}

impl Catalog {
    /// Maximum size of a version, in bytes.
    pub fn plugin_bytes_max(&self) -> usize {
        self.sandbox.plugin_bytes_max()
    }

    /// Loads the bytes of a version of `plugin` and proposes it.
    ///
    /// # Errors
    /// After an error nothing has changed. The only exception is [`NotPushed::Store`]: the proposal may then have taken effect.
    pub async fn push(
        &self,
        plugin: &Slug,
        bytes: Vec<u8>,
        proposal: Proposal,
        origin: Origin,
    ) -> Result<(Digest, Published), NotPushed> {
        let loaded = {
            // Requests compile one file at a time. Meanwhile, a file of the plugin folder may be compiled, too.
            let _alone = self.pushing.lock().await;
            self.cache.forgive(&Digest::of(&bytes));
            self.load(&bytes)?
        };
        let version = *loaded.digest();
        let row = named(&loaded, plugin, &origin.file, bytes.len())?;
        let new = NewVersion { plugin: row, file: bytes, way: origin.way, by: origin.by, at: clock::wall() };
        let published = self.store.publish(new, proposal, self.options.versions).await?;
        self.forgive(plugin).await;
        self.follow().await?;
        Ok((version, published))
    }

    /// Makes a stored version serve.
    ///
    /// # Errors
    /// The errors of [`Self::push`], and [`store::Error::NotFound`] if its bytes were deleted meanwhile.
    pub async fn promote(&self, version: &PluginVersion, by: String) -> Result<Published, NotPushed> {
        let bytes = self.store.file(version.version).await?;
        let bytes = bytes.ok_or(store::Error::NotFound { what: "plugin version" })?;
        let origin = Origin { way: version.way, file: version.file.clone(), by };
        Ok(self.push(&version.plugin, bytes, Proposal::Serve, origin).await?.1)
    }

    /// Stops a plugin if `version` serves. The plugin's versions and settings stay. Returns whether the plugin was stopped.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn remove(&self, plugin: &Slug, version: Digest) -> Result<bool, store::Error> {
        let removed = self.store.withdraw(plugin, version, clock::wall()).await?;
        self.follow().await?;
        Ok(removed)
    }
}

impl Catalog {
    /// Holds a plugin on every node, because its version has broken its limits too often. Returns whether this call has held the
    /// plugin. On this node, the hold does not wait for [`Self::follow`], which may be busy with another plugin that takes long to
    /// load.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn hold_plugin(&self, row: &PluginRow) -> Result<bool, store::Error> {
        let held = self.store.set_halt(&row.name, row.version, Some(Halt::Held)).await?;
        if held {
            self.follow_row(&PluginRow { halt: Some(Halt::Held), ..row.clone() });
            self.notify_plugins_changed();
        }
        Ok(held)
    }

    /// Disables a plugin, or lets it run again. Returns whether this changed something.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn set_plugin_halt(&self, row: &PluginRow, halt: Option<Halt>) -> Result<bool, store::Error> {
        let changed = self.store.set_halt(&row.name, row.version, halt).await?;
        self.follow().await?;
        Ok(changed)
    }
}

/// Maximum number of versions that stay loaded although they do not serve. A comparison needs two, of which one usually serves.
const VERSIONS_LOADED: usize = 4;

impl Catalog {
    /// Returns a version of a plugin, whether or not it serves. The inner error says why it cannot run.
    pub async fn version(&self, name: &Slug, version: Digest) -> Result<Result<Arc<Plugin>, String>, store::Error> {
        if let Some(entry) = self.plugins().get(name)
            && let PluginState::Serving(plugin) = &entry.state
            && entry.row.version == version
        {
            return Ok(Ok(Arc::clone(plugin)));
        }
        let mut loaded = self.versions.lock().await;
        if let Some(plugin) = loaded.iter().find(|plugin| *plugin.digest() == version && plugin.manifest().name == *name) {
            return Ok(Ok(Arc::clone(plugin)));
        }
        let Some(file) = self.store.file(version).await? else {
            return Ok(Err(format!("version {} of {name} is not stored", version.short())));
        };
        Ok(match self.load(&file) {
            Err(NotLoaded { reason, .. }) => Err(reason),
            Ok(plugin) if plugin.manifest().name != *name => Err(format!("the file is of plugin {}", plugin.manifest().name)),
            Ok(plugin) => {
                let plugin = Arc::new(plugin);
                // Drops the version that was loaded first; it can be loaded again.
                if loaded.len() >= VERSIONS_LOADED {
                    loaded.remove(0);
                }
                loaded.push(Arc::clone(&plugin));
                Ok(plugin)
            }
        })
    }
}

/// Returns the row of a plugin that must have this name.
fn named(loaded: &Plugin, name: &Slug, file: &str, bytes: usize) -> Result<PluginRow, NotPushed> {
    let row = row_of(loaded, file, bytes);
    if row.name == *name { Ok(row) } else { Err(NotPushed::OtherName(row.name)) }
}

/// Why no version was chosen.
#[derive(Debug, PartialEq, Eq)]
pub enum NotChosen {
    /// No version is a candidate.
    None,
    /// No stored version begins with these digits.
    Unknown,
    /// Several stored versions begin with these digits.
    Ambiguous(Vec<Digest>),
}

/// Chooses the version whose digest begins with `digits`. Without `digits`, chooses the newest candidate. `versions` are newest
/// first.
pub fn chosen<'v>(versions: &'v [PluginVersion], digits: Option<&str>) -> Result<&'v PluginVersion, NotChosen> {
    let Some(digits) = digits else {
        return versions.iter().find(|one| one.state == VersionState::Candidate).ok_or(NotChosen::None);
    };
    let begins: Vec<&PluginVersion> = versions.iter().filter(|one| one.version.to_string().starts_with(digits)).collect();
    match begins[..] {
        [] => Err(NotChosen::Unknown),
        [one] => Ok(one),
        _ => Err(NotChosen::Ambiguous(begins.iter().map(|one| one.version).collect())),
    }
}

/// Returns the version that served before the serving one. If none serves, returns the version that served last.
pub fn previous(versions: &[PluginVersion]) -> Option<&PluginVersion> {
    version_before(versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn version(digits: &str, state: VersionState, served: Option<i64>) -> PluginVersion {
        PluginVersion {
            version: Digest::parse(&format!("{digits:0<64}")).unwrap(),
            plugin: Slug::parse("p").unwrap(),
            state,
            at: Timestamp::from_millis(0),
            by: String::new(),
            way: Way::Upload,
            author_version: String::new(),
            description: String::new(),
            on: Vec::new(),
            file: String::new(),
            bytes: 1,
            served,
            ended_at: None,
        }
    }

    #[test]
    fn a_version_is_chosen_by_its_first_digits_or_as_the_newest_candidate() {
        use VersionState::{Candidate, Kept, Serving};
        let all = [
            version("ab2", Serving, Some(3)),
            version("cd", Candidate, None),
            version("ef", Candidate, None),
            version("ab1", Kept, Some(2)),
        ];
        let text = |digits: Option<&str>| chosen(&all, digits).map(|one| one.version.to_string()[..3].to_owned());
        assert_eq!(text(None), Ok("cd0".to_owned()));
        assert_eq!(text(Some("ef")), Ok("ef0".to_owned()));
        assert_eq!(text(Some(&all[3].version.to_string())), Ok("ab1".to_owned()));
        assert_eq!(text(Some("ff")), Err(NotChosen::Unknown));
        assert_eq!(text(Some("ab")), Err(NotChosen::Ambiguous(vec![all[0].version, all[3].version])));
        assert_eq!(chosen(&all[..1], None), Err(NotChosen::None));
    }

    #[test]
    fn the_previous_version_is_the_one_that_began_to_serve_last() {
        use VersionState::{Candidate, Kept, Serving};
        let three = [version("3", Kept, Some(5)), version("2", Serving, Some(6)), version("1", Kept, Some(1))];
        assert_eq!(previous(&three), Some(&three[0]));
        let removed = [version("2", Kept, Some(2)), version("1", Kept, Some(1))];
        assert_eq!(previous(&removed), Some(&removed[0]), "a removed plugin returns to the version that served last");
        assert_eq!(previous(&[version("1", Serving, Some(1)), version("2", Candidate, None)]), None);
    }
}
