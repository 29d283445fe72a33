//! The plugin registry: which version of each plugin serves, and the bytes of the versions before it.
//!
//! The registry decides for every node of a store. Folders and uploads only propose versions ([`Proposal`]), so the same versions
//! serve after a restart, and an emptied folder removes no plugin. Two pure functions have the rules: what a proposal changes
//! ([`decide`]), and which versions lose their bytes ([`surplus`]).

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Error, NodePlugin, PluginRow,
    row::{Columns, Row},
};
use crate::domain::{
    name::Slug,
    plugin::{Digest, Halt, VersionState, Way},
    time::Timestamp,
};

/// Maximum number of versions of one plugin that have a row but no bytes. Beyond this number, the oldest of these rows are deleted.
pub(super) const VERSIONS_MAX: i64 = 1_000;
/// Maximum time from the replacement of a version to the end of its last run.
const RUN_MAX: Duration = Duration::from_secs(3600);

/// What a proposal is for, and when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// A file that was in the folder when the node started. The file may be older than the version that serves.
    AtStart,
    /// A file that was written while the node was running, or an upload. This version should serve.
    Serve,
    /// The version is only stored, and may be promoted later.
    Candidate,
}

/// Result of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// This version serves now, instead of `from`.
    Serves { from: Option<Digest> },
    /// This version was already serving.
    Unchanged,
    /// This version is a candidate.
    Candidate,
    /// The version was already known and does not serve. Nothing changed.
    Outdated,
}

/// A version that is proposed.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Its manifest and its digest. The row's settings are ignored, because settings belong to the plugin's name.
    pub plugin: PluginRow,
    pub file: Vec<u8>,
    pub way: Way,
    /// Name of the key, or the folder.
    pub by: String,
    pub at: Timestamp,
}

/// How many versions of a plugin keep their bytes, beside the one that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionLimits {
    /// This many of the newest versions keep their bytes. An older version keeps its bytes, too, if a stored run may name the
    /// version.
    pub versions: usize,
    /// Maximum size of all these versions together. The two versions that a rollback and a promotion need keep their bytes even
    /// beyond this size.
    pub bytes: u64,
}

impl Default for VersionLimits {
    fn default() -> Self {
        Self { versions: 20, bytes: 256 << 20 }
    }
}

/// A stored version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginVersion {
    pub version: Digest,
    pub plugin: Slug,
    pub state: VersionState,
    /// Time of its last proposal.
    pub at: Timestamp,
    /// Name of the key, or the folder. Empty if an older engine stored it.
    pub by: String,
    pub way: Way,
    pub author_version: String,
    pub description: String,
    pub on: Vec<String>,
    /// Name of its file in the plugin folder. Empty for an upload.
    pub file: String,
    pub bytes: u64,
    /// This number shows the order in which the plugin's versions began to serve: the last of them has the largest number. `None`
    /// if this version never served.
    pub served: Option<i64>,
    /// When it stopped serving.
    pub ended_at: Option<Timestamp>,
}

impl PluginVersion {
    /// The columns, in the order in which [`Self::read`] reads them. The `state` of a version whose bytes are not stored has no
    /// meaning.
    pub(super) const COLUMNS: &str = "version, plugin, CASE WHEN file IS NOT NULL THEN 'serving' WHEN candidate > 0 THEN 'candidate' ELSE 'kept' END, \
         published_at, author, way, author_version, description, patterns, file_name, bytes, served, ended_at";

    /// Selects the candidates of plugins without a serving version.
    pub(super) const CANDIDATES: &str = "WHERE candidate > 0 AND kept IS NOT NULL \
         AND plugin NOT IN (SELECT plugin FROM plugin_version WHERE file IS NOT NULL) ORDER BY plugin, published_at DESC, version";

    pub(super) fn read(row: &impl Row) -> Result<Self, Error> {
        let columns = Columns::named("plugin_version", row);
        let version = columns.bytes(0, "version")?.try_into().map_err(|_| columns.place.corrupt("version"))?;
        Ok(Self {
            version: Digest::from_bytes(version),
            plugin: columns.word(1, "plugin", |name| Slug::parse(name).ok())?,
            state: columns.word(2, "file", VersionState::parse)?,
            at: columns.time(3, "published_at")?,
            by: columns.text(4, "author")?.to_owned(),
            way: columns.word(5, "way", Way::parse)?,
            author_version: columns.text(6, "author_version")?.to_owned(),
            description: columns.text(7, "description")?.to_owned(),
            on: columns.place.json("patterns", columns.text(8, "patterns")?)?,
            file: columns.text(9, "file_name")?.to_owned(),
            bytes: columns.number(10, "bytes")?.unsigned_abs(),
            served: columns.optional_number(11, "served")?,
            ended_at: columns.optional_time(12, "ended_at")?,
        })
    }
}

/// Decides for all nodes of a store which version of a plugin serves, and stores the bytes. Every change raises the config
/// version.
#[async_trait]
pub trait PluginRegistry {
    /// Proposes a version. [`decide`] contains the rule. A version that begins to serve replaces the version that served under the
    /// plugin's name. The bytes of the replaced version stay stored, within `limits`. This does not requeue parked runs: the node
    /// that has loaded the version does that.
    ///
    /// # Errors
    /// If the commit failed.
    async fn publish(&self, version: NewVersion, proposal: Proposal, limits: VersionLimits) -> Result<Published, Error>;

    /// Stops a plugin if `version` serves. The bytes and the settings stay. Returns whether the plugin was stopped.
    ///
    /// # Errors
    /// If the commit failed.
    async fn withdraw(&self, plugin: &Slug, version: Digest, at: Timestamp) -> Result<bool, Error>;

    /// Deletes the bytes of a version that does not serve, and cancels the running comparisons in which the version takes part. The
    /// version stays known, so an old file of this version that a node finds at its start changes nothing. [`may_discard`] contains
    /// the rule.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the version is needed; [`Error::NotFound`] if its bytes are not stored.
    async fn discard(&self, plugin: &Slug, version: Digest, at: Timestamp) -> Result<(), Error>;

    /// Disables, holds or enables a plugin. [`Halt::Held`] takes effect only if `version` serves and is not halted yet. Returns
    /// whether something changed. When a removed plugin comes back, it is no longer halted. The next version of a held plugin
    /// releases the plugin.
    ///
    /// # Errors
    /// If the commit failed.
    async fn set_halt(&self, plugin: &Slug, version: Digest, halt: Option<Halt>) -> Result<bool, Error>;

    /// Returns the plugins that serve, sorted by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn serving(&self) -> Result<Vec<PluginRow>, Error>;

    /// Returns the bytes of a version, or `None` if they are not stored.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn file(&self, version: Digest) -> Result<Option<Vec<u8>>, Error>;

    /// Returns the plugin of a version that was ever proposed, even if its bytes are gone.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it cannot be read.
    async fn plugin_of(&self, version: Digest) -> Result<Option<Slug>, Error>;

    /// Returns the versions of a plugin whose bytes are stored, newest first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn versions(&self, plugin: &Slug) -> Result<Vec<PluginVersion>, Error>;

    /// Returns the candidates of all plugins that have no serving version. They are sorted by plugin, the newest of each plugin
    /// first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot be read.
    async fn candidates(&self) -> Result<Vec<PluginVersion>, Error>;

    /// Counts the waiting runs of a plugin, at most `limit`.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn waiting_runs(&self, plugin: &Slug, limit: u32) -> Result<u64, Error>;

    /// Stores this node's report about its plugins, for the other nodes. A store of one process has no other nodes.
    ///
    /// # Errors
    /// If the commit failed.
    async fn report(&self, _plugins: Vec<NodePlugin>) -> Result<(), Error> {
        Ok(())
    }
}

/// What the registry knows of a proposed version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Never,
    Serves,
    /// The version has served or was a candidate.
    Before,
}

/// Returns what a proposal changes. The store adds the replaced version to [`Published::Serves`].
pub(super) const fn decide(known: Known, proposal: Proposal) -> Published {
    match (known, proposal) {
        (Known::Serves, _) => Published::Unchanged,
        (Known::Before, Proposal::AtStart) => Published::Outdated,
        (_, Proposal::Candidate) => Published::Candidate,
        (Known::Never, Proposal::AtStart) | (_, Proposal::Serve) => Published::Serves { from: None },
    }
}

/// Refuses to discard a version that is needed: the version that serves, and the version to which a rollback returns. `versions`
/// are the versions of the plugin whose bytes are stored.
///
/// # Errors
/// [`Error::Conflict`] with the reason; [`Error::NotFound`].
pub(super) fn may_discard(versions: &[PluginVersion], version: Digest) -> Result<(), Error> {
    let one = versions.iter().find(|one| one.version == version).ok_or(Error::NotFound { what: "version of the plugin" })?;
    let (plugin, short) = (&one.plugin, version.short());
    if one.state == VersionState::Serving {
        let text = format!("{plugin}@{short} serves; roll back, promote another version, or remove the plugin first");
        return Err(Error::Conflict(text));
    }
    if version_before(versions).is_some_and(|before| before.version == version) {
        let text = format!("{plugin}@{short} served last; innesco plugin rollback {plugin} would need it");
        return Err(Error::Conflict(text));
    }
    Ok(())
}

/// Returns the version to which a rollback returns: the version that served last among those that do not serve now.
pub fn version_before(versions: &[PluginVersion]) -> Option<&PluginVersion> {
    let served = versions.iter().filter(|one| one.state != VersionState::Serving && one.served.is_some());
    served.max_by_key(|one| one.served)
}

/// Returns the versions whose bytes must be deleted. `versions` are all versions whose bytes are stored. A stored run belongs to a
/// stored event. So no stored run names a version that stopped serving more than [`RUN_MAX`] before the oldest stored event was
/// accepted.
pub(super) fn surplus(versions: &[PluginVersion], limits: VersionLimits, oldest_event: Option<Timestamp>) -> Vec<Digest> {
    let mut idle: Vec<&PluginVersion> = versions.iter().filter(|one| one.state != VersionState::Serving).collect();
    // Newest first. The time of a version is that of its last proposal, or the time at which it stopped serving if that was later.
    idle.sort_by_key(|one| std::cmp::Reverse(one.ended_at.max(Some(one.at))));
    let before = idle.iter().filter(|one| one.served.is_some()).max_by_key(|one| one.served).map(|one| one.version);
    let next = idle.iter().find(|one| one.state == VersionState::Candidate).map(|one| one.version);
    // A rollback needs the version that served last. A promotion needs the newest candidate.
    let is_needed = |one: &PluginVersion| limits.versions > 0 && [before, next].contains(&Some(one.version));
    idle.sort_by_key(|one| !is_needed(one));
    let may_have_runs = |one: &PluginVersion| match (one.ended_at, oldest_event) {
        (Some(ended), Some(oldest)) => ended.plus(RUN_MAX) >= oldest,
        _ => false,
    };
    let mut bytes = 0;
    let mut gone = Vec::new();
    for (place, one) in idle.iter().enumerate() {
        bytes += one.bytes;
        let fits = bytes <= limits.bytes && (place < limits.versions || may_have_runs(one));
        if !(is_needed(one) || fits) {
            gone.push(one.version);
            bytes -= one.bytes;
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_file_found_at_start_changes_nothing_and_any_other_proposal_wins() {
        use Known::{Before, Never, Serves};
        use Proposal::{AtStart, Candidate, Serve};
        const SERVES: Published = Published::Serves { from: None };
        for (known, proposal, expected) in [
            (Never, AtStart, SERVES),
            (Never, Serve, SERVES),
            (Never, Candidate, Published::Candidate),
            (Serves, AtStart, Published::Unchanged),
            (Serves, Serve, Published::Unchanged),
            (Serves, Candidate, Published::Unchanged),
            (Before, AtStart, Published::Outdated),
            (Before, Serve, SERVES),
            (Before, Candidate, Published::Candidate),
        ] {
            assert_eq!(decide(known, proposal), expected, "{known:?} {proposal:?}");
        }
    }

    /// Each version is named by a number, and was proposed at the hour with this number. It served until the hour `ended`.
    #[test]
    fn the_last_versions_stay_and_those_that_a_stored_run_may_name() {
        const HOUR: i64 = 3_600_000;
        let hour = |number: i64| Timestamp::from_millis(number * HOUR);
        let version = |(number, state, ended): &(u8, VersionState, Option<i64>)| PluginVersion {
            version: Digest::from_bytes([*number; 32]),
            plugin: Slug::parse("p").unwrap(),
            state: *state,
            at: hour(i64::from(*number)),
            by: "ops".into(),
            way: Way::File,
            author_version: String::new(),
            description: String::new(),
            on: Vec::new(),
            file: String::new(),
            bytes: 10,
            served: *ended,
            ended_at: ended.map(hour),
        };
        use VersionState::{Candidate, Kept, Serving};
        let all = [(1, Kept, Some(2)), (2, Kept, Some(4)), (3, Candidate, None), (4, Serving, None), (5, Candidate, None)];
        let limits = |versions, bytes| VersionLimits { versions, bytes };
        for (what, limits, oldest, expected) in [
            ("all versions fit", limits(4, 100), Some(0), &[][..]),
            ("the oldest version is surplus", limits(3, 100), Some(9), &[1]),
            ("a replaced version counts from its end", limits(2, 100), Some(9), &[3, 1]),
            ("a version that a stored run may name stays", limits(2, 100), Some(3), &[3]),
            ("without events no run names a version", limits(2, 100), None, &[3, 1]),
            ("the size limit comes first", limits(4, 20), Some(0), &[3, 1]),
            ("a limit of 0 versions", limits(0, 5), Some(9), &[5, 2, 3, 1]),
            ("the previous version and the newest candidate stay at any size", limits(1, 5), Some(0), &[3, 1]),
        ] {
            let versions: Vec<PluginVersion> = all.iter().map(version).collect();
            let gone: Vec<u8> =
                surplus(&versions, limits, oldest.map(hour)).iter().map(|version| version.as_bytes()[0]).collect();
            assert_eq!(gone, expected, "{what}");
        }
    }
}
