//! Cases about plugins: which version serves, which versions keep their bytes, and settings.

use std::collections::BTreeMap;

use super::bench::{Bench, event, new_version, slug};
use crate::{
    clock,
    domain::{
        comparison::{Request, Share},
        job::JobState,
        plugin::{Digest, Halt, VersionState, Way},
        time::Timestamp,
    },
    store::{ConfigRevision, Error, NewVersion, PluginConfig, PluginRow, Proposal, Published, REVISIONS_MAX, VersionLimits},
};

const LIMITS: VersionLimits = VersionLimits { versions: 20, bytes: 1 << 20 };

async fn publish(bench: &Bench, new: &NewVersion, proposal: Proposal) -> Published {
    bench.store.publish(new.clone(), proposal, LIMITS).await.unwrap()
}

/// Returns the digests of the serving versions of all plugins.
async fn serving(bench: &Bench) -> Vec<Digest> {
    bench.store.serving().await.unwrap().iter().map(|row| row.version).collect()
}

/// Returns the digests and states of the stored versions of a plugin, newest first.
async fn stored(bench: &Bench, plugin: &str) -> Vec<(Digest, VersionState)> {
    let versions = bench.store.versions(&slug(plugin)).await.unwrap();
    versions.iter().map(|one| (one.version, one.state)).collect()
}

fn at(hour: i64) -> Timestamp {
    Timestamp::from_millis(hour * 3_600_000)
}

pub async fn the_latest_proposal_serves_and_survives_a_restart(bench: &Bench) {
    let (first, second) = (new_version("p", "1"), new_version("p", "2"));
    let (one, two) = (first.plugin.version, second.plugin.version);
    assert_eq!(publish(bench, &first, Proposal::AtStart).await, Published::Serves { from: None });
    assert_eq!(
        publish(bench, &second, Proposal::AtStart).await,
        Published::Serves { from: Some(one) },
        "an unknown version serves at once"
    );
    let bench = &bench.after_a_crash().await;
    assert_eq!(serving(bench).await, [two]);
    assert_eq!(bench.store.file(two).await.unwrap(), Some(second.file.clone()));
    assert_eq!(bench.store.file(one).await.unwrap(), Some(first.file.clone()), "the bytes of the replaced version stay");

    assert_eq!(publish(bench, &first, Proposal::AtStart).await, Published::Outdated, "a known file at start changes nothing");
    assert_eq!(publish(bench, &second, Proposal::AtStart).await, Published::Unchanged);
    assert_eq!(serving(bench).await, [two]);
    assert_eq!(publish(bench, &first, Proposal::Serve).await, Published::Serves { from: Some(two) }, "a written file serves");
    let other = new_version("q", "other");
    publish(bench, &other, Proposal::Serve).await;
    let bench = &bench.after_a_crash().await;
    assert_eq!(serving(bench).await, [one, other.plugin.version], "by name");
    assert_eq!(bench.store.file(two).await.unwrap(), Some(second.file.clone()));
    assert_eq!(bench.store.serving().await.unwrap()[0].author_version, "1");
    assert_eq!(bench.store.plugin_of(two).await.unwrap(), Some(slug("p")));
    assert_eq!(bench.store.plugin_of(Digest::of(b"never")).await.unwrap(), None);
    assert_eq!(bench.store.file(Digest::of(b"never")).await.unwrap(), None);
}

pub async fn a_removed_plugin_stays_removed_until_it_is_proposed_again(bench: &Bench) {
    let (first, second) = (new_version("p", "1"), new_version("p", "2"));
    let (one, two) = (first.plugin.version, second.plugin.version);
    for new in [&first, &second] {
        publish(bench, new, Proposal::Serve).await;
    }
    let withdraw = async |bench: &Bench, version| bench.store.withdraw(&slug("p"), version, clock::wall()).await.unwrap();
    assert!(!withdraw(bench, one).await, "this version does not serve");
    assert_eq!(serving(bench).await, [two]);
    assert!(withdraw(bench, two).await);
    assert!(!withdraw(bench, two).await);
    let bench = &bench.after_a_crash().await;
    assert!(serving(bench).await.is_empty());
    for new in [&first, &second] {
        assert_eq!(publish(bench, new, Proposal::AtStart).await, Published::Outdated);
    }
    assert_eq!(stored(bench, "p").await.len(), 2, "the versions of a stopped plugin stay");
    assert_eq!(bench.store.plugins().await.unwrap().len(), 1, "the settings of a stopped plugin stay");
    assert_eq!(publish(bench, &second, Proposal::Serve).await, Published::Serves { from: None });
    assert_eq!(serving(bench).await, [two]);
}

pub async fn a_candidate_serves_only_once_it_is_promoted(bench: &Bench) {
    let (first, second) = (new_version("p", "1"), new_version("p", "2"));
    let (one, two) = (first.plugin.version, second.plugin.version);
    assert_eq!(publish(bench, &second, Proposal::Candidate).await, Published::Candidate);
    assert!(serving(bench).await.is_empty() && bench.store.plugins().await.unwrap().is_empty());
    let candidates = async || bench.store.candidates().await.unwrap().iter().map(|one| one.version).collect::<Vec<_>>();
    assert_eq!(candidates().await, [two]);
    publish(bench, &NewVersion { at: at(1), ..first.clone() }, Proposal::Serve).await;
    assert!(candidates().await.is_empty(), "a version of the plugin serves");
    assert_eq!(
        publish(bench, &first, Proposal::Candidate).await,
        Published::Unchanged,
        "a serving version does not become a candidate"
    );
    publish(bench, &NewVersion { at: at(2), ..second.clone() }, Proposal::Candidate).await;
    let bench = &bench.after_a_crash().await;
    assert_eq!(serving(bench).await, [one]);
    assert_eq!(stored(bench, "p").await, [(two, VersionState::Candidate), (one, VersionState::Serving)]);
    assert_eq!(
        publish(bench, &second, Proposal::AtStart).await,
        Published::Outdated,
        "a file found at start does not make a candidate serve"
    );

    let promoted = NewVersion { at: at(3), by: "ops".into(), way: Way::Upload, ..second.clone() };
    assert_eq!(publish(bench, &promoted, Proposal::Serve).await, Published::Serves { from: Some(one) });
    let versions = bench.store.versions(&slug("p")).await.unwrap();
    let [new, old] = &versions[..] else { panic!("{versions:?}") };
    assert_eq!((new.state, new.served, new.ended_at), (VersionState::Serving, Some(2), None));
    assert_eq!((new.at, &*new.by, new.way, new.bytes), (at(3), "ops", Way::Upload, second.file.len() as u64));
    assert_eq!((old.state, old.served, old.ended_at), (VersionState::Kept, Some(1), Some(at(3))));
    assert_eq!((&*old.description, &old.on[..], &*old.file), ("version 1", &["order.*".to_owned()][..], "p.wasm"));
}

pub async fn versions_beyond_the_limits_lose_their_bytes(bench: &Bench) {
    let version = |number: i64| NewVersion { at: at(number), ..new_version("p", &number.to_string()) };
    let limits = |versions, bytes| VersionLimits { versions, bytes };
    for number in 1..=4 {
        bench.store.publish(version(number), Proposal::Serve, limits(2, 1 << 20)).await.unwrap();
    }
    let left = |all: &[i64]| all.iter().map(|number| version(*number).plugin.version).collect::<Vec<_>>();
    let digests = async |bench: &Bench| stored(bench, "p").await.into_iter().map(|(version, _)| version).collect::<Vec<_>>();
    assert_eq!(digests(bench).await, left(&[4, 3, 2]), "the serving version and two more keep their bytes");
    assert_eq!(bench.store.file(version(1).plugin.version).await.unwrap(), None);
    assert_eq!(
        publish(bench, &version(1), Proposal::AtStart).await,
        Published::Outdated,
        "a version without bytes is still known"
    );

    // A stored event may have runs of every version that has served since the event was accepted.
    bench.accept(event("a")).await;
    let now = clock::wall();
    for number in 5..=7 {
        bench.store.publish(NewVersion { at: now, ..version(number) }, Proposal::Serve, limits(1, 1 << 20)).await.unwrap();
    }
    let after = digests(bench).await;
    assert!(left(&[7, 6, 5, 4]).iter().all(|version| after.contains(version)) && after.len() == 4, "{after:?}");
    bench.store.publish(NewVersion { at: now, ..version(8) }, Proposal::Candidate, limits(1, 1)).await.unwrap();
    assert_eq!(
        digests(bench).await.len(),
        3,
        "beside the serving version, the one before and the newest candidate stay at any size"
    );
}

pub async fn a_halted_plugin_runs_again_when_it_is_enabled(bench: &Bench) {
    use Halt::{Disabled, Held};
    let (first, second) = (new_version("p", "1"), new_version("p", "2"));
    let (one, two) = (first.plugin.version, second.plugin.version);
    publish(bench, &first, Proposal::Serve).await;
    let set = async |bench: &Bench, version, halt| bench.store.set_halt(&slug("p"), version, halt).await.unwrap();
    let halt = async |bench: &Bench| bench.store.serving().await.unwrap()[0].halt;
    assert!(!set(bench, one, None).await && !set(bench, two, Some(Held)).await, "another version serves");
    assert!(set(bench, one, Some(Held)).await);
    assert!(!set(bench, one, Some(Held)).await, "once");
    let bench = &bench.after_a_crash().await;
    assert_eq!(halt(bench).await, Some(Held));
    publish(bench, &second, Proposal::Serve).await;
    assert_eq!(halt(bench).await, None, "another version releases it");
    assert!(set(bench, two, Some(Held)).await && set(bench, two, Some(Disabled)).await, "a person may disable a held plugin");
    assert!(!set(bench, two, Some(Held)).await, "a disabled plugin is not held");
    publish(bench, &first, Proposal::Serve).await;
    assert_eq!(halt(bench).await, Some(Disabled), "another version does not enable it");
    assert!(set(bench, one, None).await);
    assert_eq!(halt(bench).await, None);
    set(bench, one, Some(Disabled)).await;
    bench.store.withdraw(&slug("p"), one, clock::wall()).await.unwrap();
    publish(bench, &first, Proposal::Serve).await;
    assert_eq!(halt(bench).await, None, "a removed plugin comes back enabled");
}

pub async fn a_plugin_keeps_its_configuration_across_versions(bench: &Bench) {
    let config = BTreeMap::from([("limit".to_owned(), "7".to_owned()), ("text".to_owned(), "\"é\"".to_owned())]);
    let row = |name: &str, version: &str| {
        let mut new = new_version(name, version);
        new.plugin.config = BTreeMap::from([("ignored".into(), "by publishing".into())]);
        new
    };
    publish(bench, &row("p", "1"), Proposal::Serve).await;
    publish(bench, &row("o", "1"), Proposal::Serve).await;
    bench.store.set_plugin_config(&slug("p"), config.clone(), "ops".to_owned(), clock::wall()).await.unwrap();
    publish(bench, &row("p", "2"), Proposal::Serve).await;
    let after = bench.after_a_crash().await;
    let plugins = after.store.plugins().await.unwrap();
    assert_eq!(plugins.iter().map(|row| &*row.name).collect::<Vec<_>>(), ["o", "p"]);
    assert_eq!(format!("{:?}", plugins[1]), format!("{:?}", PluginRow { config, revision: 1, ..row("p", "2").plugin }));
    assert_eq!(plugins[0].config, BTreeMap::new());
}

pub async fn settings_are_numbered_revisions_and_wait_for_their_plugin(bench: &Bench) {
    let config = |value: i64| BTreeMap::from([("limit".to_owned(), value.to_string())]);
    assert_eq!(bench.store.plugin_config(&slug("p")).await.unwrap(), PluginConfig::default());
    let at = |value: i64| Timestamp::from_millis(value);
    for value in 1..=REVISIONS_MAX + 2 {
        let author = if value % 2 == 0 { "even" } else { "odd" };
        let revision = bench.store.set_plugin_config(&slug("p"), config(value), author.to_owned(), at(value)).await.unwrap();
        assert_eq!(revision, value);
    }
    bench.store.set_plugin_config(&slug("o"), config(7), "ops".to_owned(), at(7)).await.unwrap();
    let last = REVISIONS_MAX + 2;
    let found = bench.after_a_crash().await.store.plugin_config(&slug("p")).await.unwrap();
    assert_eq!(found.config, config(last));
    assert_eq!(found.revisions.len() as i64, REVISIONS_MAX);
    assert_eq!(found.revisions[0], ConfigRevision { number: last, at: at(last), author: "even".into() });
    assert_eq!(found.revisions.last().unwrap().number, 3);
    for (revision, expected) in
        [(0, Some(BTreeMap::new())), (2, None), (3, Some(config(3))), (last, Some(config(last))), (last + 1, None)]
    {
        assert_eq!(bench.store.plugin_config_at(&slug("p"), revision).await.unwrap(), expected, "{revision}");
    }
    publish(bench, &new_version("p", "1"), Proposal::Serve).await;
    let plugin = bench.store.plugins().await.unwrap().remove(0);
    assert_eq!(
        (plugin.config, plugin.revision),
        (config(last), last),
        "a new plugin has the settings that were stored before it existed"
    );
}

pub async fn a_discarded_version_loses_its_bytes_and_its_comparisons(bench: &Bench) {
    let [old, before, serving, candidate] = ["1", "2", "3", "4"].map(|number| new_version("p", number));
    for version in [&old, &before, &serving] {
        publish(bench, version, Proposal::Serve).await;
    }
    publish(bench, &candidate, Proposal::Candidate).await;
    let digest = |version: &NewVersion| version.plugin.version;
    let request = Request {
        plugin: slug("p"),
        serving: digest(&serving),
        candidate: digest(&candidate),
        last: 0,
        follow: Share::new(100),
        events: None,
        since: None,
        hides_values: false,
    };
    let following = bench.store.create_comparison(request.clone(), clock::wall()).await.unwrap();
    let other = Request { candidate: digest(&before), ..request };
    let other = bench.store.create_comparison(other, clock::wall()).await.unwrap();

    let discard =
        async |bench: &Bench, version: &NewVersion| bench.store.discard(&slug("p"), digest(version), clock::wall()).await;
    for (version, reason) in [(&serving, "serves"), (&before, "served last")] {
        let refused = discard(bench, version).await;
        assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains(reason)), "{refused:?}");
    }
    discard(bench, &candidate).await.unwrap();
    discard(bench, &old).await.unwrap();
    assert_eq!(discard(bench, &candidate).await, Err(Error::NotFound { what: "version of the plugin" }));
    assert_eq!(discard(bench, &new_version("q", "1")).await, Err(Error::NotFound { what: "version of the plugin" }));

    let bench = bench.after_a_crash().await;
    let left: Vec<_> = stored(&bench, "p").await.into_iter().map(|(version, _)| version).collect();
    assert!(left.len() == 2 && [&serving, &before].iter().all(|version| left.contains(&digest(version))), "{left:?}");
    assert_eq!(bench.store.file(digest(&candidate)).await.unwrap(), None);
    let ended = bench.store.comparison(following.id).await.unwrap();
    assert_eq!((ended.state, ended.problem.is_some()), (JobState::Cancelled, true));
    assert_eq!(bench.store.comparison(other.id).await.unwrap().state, JobState::Running, "another comparison continues");
    assert_eq!(publish(&bench, &candidate, Proposal::AtStart).await, Published::Outdated, "it is still known");
    assert!(matches!(publish(&bench, &candidate, Proposal::Serve).await, Published::Serves { .. }), "it can be pushed again");
}
