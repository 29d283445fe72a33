//! State of plugins: reading it, clearing it, and its limits. Both stores keep [`StateSize`] exact: each change of state updates
//! it. [`Ledger`] decides what a run may add. A settlement (commit 2) writes state.

use std::{collections::HashMap, fmt};

use async_trait::async_trait;

use super::Error;
use crate::{
    clock,
    domain::{
        name::Slug,
        run::{RunRecord, StateWrite, StoredState},
        time::Timestamp,
    },
};

/// Reads and clears the state of plugins.
#[async_trait]
pub trait PluginState {
    /// Returns the last committed value, even if the value has expired and is not deleted yet.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn stored_state(&self, plugin: &Slug, key: &str) -> Result<Option<StoredState>, Error>;

    /// Returns the last committed value, unless it has expired.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn read_state(&self, plugin: &Slug, key: &str) -> Result<Option<StateValue>, Error> {
        let stored = self.stored_state(plugin, key).await?.filter(|stored| stored.exists_at(clock::wall()));
        Ok(stored.map(|stored| (stored.value, stored.version)))
    }

    /// Deletes one batch of values that expired before `at` (wall clock). Returns their number.
    ///
    /// This changes nothing for a run that begins at `at` or later, because the values have already expired for such a run. If an
    /// uncommitted run began before `at` and has already read one of the deleted values, it runs again.
    ///
    /// # Errors
    /// If the commit failed: nothing was deleted.
    async fn expire_state(&self, at: Timestamp) -> Result<usize, Error>;

    /// Returns the limits of each plugin's state.
    fn state_limits(&self) -> StateLimits;

    /// Returns the size of a plugin's state.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn state_size(&self, plugin: &Slug) -> Result<StateSize, Error>;

    /// Returns up to `most` of a plugin's keys that begin with `prefix` and come after `after`, in the order of their bytes.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn state_keys(&self, plugin: &Slug, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<StateKey>, Error>;

    /// Deletes one value. Returns whether it existed. If an uncommitted run has already read it, the run is repeated.
    ///
    /// # Errors
    /// If the commit failed: nothing was deleted.
    async fn delete_state(&self, plugin: &Slug, key: &str) -> Result<bool, Error>;

    /// Deletes one batch of a plugin's state. Returns the number of deleted keys; 0 means that none was left. If an
    /// uncommitted run has already read a deleted value, the run is repeated.
    ///
    /// # Errors
    /// If the commit failed: nothing was deleted.
    async fn clear_state(&self, plugin: &Slug) -> Result<usize, Error>;
}

/// A value of a plugin's state, and the version by which a settlement detects that the value has changed.
pub type StateValue = (Vec<u8>, i64);

/// A key of a plugin's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateKey {
    pub key: String,
    /// Size of its value.
    pub bytes: u64,
    /// When it expires (wall clock); `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// Limits of what one plugin stores: its state, most of which never expires, and the events that it has scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimits {
    /// Bytes of keys and values together. Default: 64 MiB, a thousand values of the largest size.
    pub bytes_max: u64,
    /// Default: 100,000. In addition to its bytes, each key costs a row and an index entry.
    pub keys_max: u64,
    /// Events that are due later. Default: 100,000. Each one takes space for its data, and retention does not delete the event
    /// that caused it.
    pub scheduled_max: u64,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { bytes_max: 64 << 20, keys_max: 100_000, scheduled_max: 100_000 }
    }
}

/// Size of a plugin's state: keys, and bytes of keys and values together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    pub keys: u64,
    pub bytes: u64,
}

/// The limit that a run would exceed, with the value of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFull {
    Bytes { limit: u64 },
    Keys { limit: u64 },
    Scheduled { limit: u64 },
}

impl fmt::Display for StateFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { limit } => write!(f, "more than {limit} bytes of state (plugin.state_max)"),
            Self::Keys { limit } => write!(f, "more than {limit} keys of state (plugin.state_keys_max)"),
            Self::Scheduled { limit } => write!(f, "more than {limit} events that are due later (plugin.scheduled_max)"),
        }
    }
}

/// Sizes of the state that a batch of runs is about to change.
#[derive(Default)]
pub struct Ledger {
    /// Sizes by plugin. A plugin that is not listed has no state.
    pub sizes: HashMap<String, StateSize>,
    /// Bytes of the stored values, by plugin and key.
    pub values: HashMap<(String, String), u64>,
    /// Number of events that are due later, by plugin, counted up to the plugin's limit.
    pub scheduled: HashMap<String, u64>,
}

impl Ledger {
    /// Counts the writes and the scheduled events of the runs of one settlement. Returns the runs (by index) that would exceed a
    /// limit. If any run would exceed a limit, none of the runs is counted. Writes that do not increase the size are always
    /// admitted, so that a plugin at its limit can delete state.
    pub fn admit(&mut self, runs: &[RunRecord], limits: StateLimits) -> Vec<(usize, StateFull)> {
        let mut refused = Vec::new();
        let (mut sizes, mut values, mut scheduled) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (place, run) in runs.iter().enumerate() {
            let (plugin, writes) = (&run.identity.plugin, run.writes());
            if !run.scheduled().is_empty() {
                let before = scheduled.get(&**plugin).or_else(|| self.scheduled.get(&**plugin)).copied().unwrap_or_default();
                let after = before + run.scheduled().len() as u64;
                if after > limits.scheduled_max {
                    refused.push((place, StateFull::Scheduled { limit: limits.scheduled_max }));
                    continue;
                }
                scheduled.insert(plugin.to_string(), after);
            }
            if writes.is_empty() {
                continue;
            }
            let before = sizes.get(&**plugin).or_else(|| self.sizes.get(&**plugin)).copied().unwrap_or_default();
            let mut after = before;
            let mut changed: HashMap<(String, String), Option<u64>> = HashMap::new();
            for StateWrite { key, value, .. } in writes {
                let name = (plugin.to_string(), key.clone());
                let earlier = changed.get(&name).or_else(|| values.get(&name)).copied();
                let there = earlier.unwrap_or_else(|| self.values.get(&name).copied());
                let next = value.as_ref().map(|value| value.len() as u64);
                for (sign, bytes) in [(false, there), (true, next)].into_iter().filter_map(|(sign, one)| Some((sign, one?))) {
                    let bytes = bytes + key.len() as u64;
                    after = match sign {
                        true => StateSize { keys: after.keys + 1, bytes: after.bytes + bytes },
                        false => StateSize { keys: after.keys.saturating_sub(1), bytes: after.bytes.saturating_sub(bytes) },
                    };
                }
                changed.insert(name, next);
            }
            let full = if after.bytes > limits.bytes_max && after.bytes > before.bytes {
                Some(StateFull::Bytes { limit: limits.bytes_max })
            } else if after.keys > limits.keys_max && after.keys > before.keys {
                Some(StateFull::Keys { limit: limits.keys_max })
            } else {
                None
            };
            match full {
                Some(full) => refused.push((place, full)),
                None => {
                    sizes.insert(plugin.to_string(), after);
                    values.extend(changed);
                }
            }
        }
        if refused.is_empty() {
            self.sizes.extend(sizes);
            self.scheduled.extend(scheduled);
            for (name, value) in values {
                match value {
                    Some(bytes) => self.values.insert(name, bytes),
                    None => self.values.remove(&name),
                };
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        domain::run::{Effects, Scheduled},
        store::conformance::bench::{event, ran_with, state_effects},
    };

    const LIMITS: StateLimits = StateLimits { bytes_max: 20, keys_max: 3, scheduled_max: 2 };
    const BYTES: StateFull = StateFull::Bytes { limit: 20 };
    const KEYS: StateFull = StateFull::Keys { limit: 3 };

    fn writes(plugin: &str, writes: &[(&str, Option<&[u8]>)]) -> RunRecord {
        ran_with(plugin, state_effects(&[], writes))
    }

    /// Returns a ledger with a plugin `p` that stores one value of 9 bytes under a key of 1 byte.
    fn ledger() -> Ledger {
        Ledger {
            sizes: [("p".to_owned(), StateSize { keys: 1, bytes: 10 })].into(),
            values: [(("p".to_owned(), "a".to_owned()), 9)].into(),
            scheduled: HashMap::new(),
        }
    }

    #[test]
    fn a_run_exceeds_a_limit_only_by_adding() {
        let ten: &[u8] = &[0; 10];
        for (what, run, expected) in [
            ("fits exactly", writes("p", &[("b", Some(&ten[1..]))]), None),
            ("one byte too much", writes("p", &[("b", Some(ten))]), Some(BYTES)),
            ("a replaced value no longer counts", writes("p", &[("a", Some(ten)), ("b", Some(&ten[2..]))]), None),
            ("a deletion makes room", writes("p", &[("a", None), ("b", Some(ten)), ("c", Some(b""))]), None),
            ("one key too many", writes("p", &[("b", Some(b"")), ("c", Some(b"")), ("d", Some(b""))]), Some(KEYS)),
            (
                "two writes of one key count as one key",
                writes("p", &[("b", Some(b"")), ("b", Some(b"1")), ("c", Some(b""))]),
                None,
            ),
            ("another plugin has its own limit", writes("q", &[("b", Some(ten))]), None),
            ("the deletion of a missing key frees nothing", writes("p", &[("x", None)]), None),
        ] {
            let refused = ledger().admit(&[run], LIMITS);
            assert_eq!(refused.first().map(|one| one.1), expected, "{what}");
        }
    }

    #[test]
    fn state_over_its_limit_may_shrink_and_change() {
        let low = StateLimits { bytes_max: 5, keys_max: 0, scheduled_max: 0 };
        assert!(ledger().admit(&[writes("p", &[("a", Some(b"123456789"))])], low).is_empty(), "the same size");
        assert!(ledger().admit(&[writes("p", &[("a", Some(b"12345678"))])], low).is_empty());
        assert!(ledger().admit(&[writes("p", &[("a", None)])], low).is_empty());
        assert_eq!(ledger().admit(&[writes("p", &[("a", Some(b"1234567890"))])], low), [(0, StateFull::Bytes { limit: 5 })]);
    }

    #[test]
    fn events_that_are_due_later_are_limited_by_plugin() {
        let mut ledger = ledger();
        let later = |count: usize| {
            let one = || Scheduled { after: Duration::from_secs(60), event: event("later") };
            Effects { scheduled: (0..count).map(|_| one()).collect(), ..Effects::default() }
        };
        let full = StateFull::Scheduled { limit: 2 };
        assert_eq!(ledger.admit(&[ran_with("p", later(1)), ran_with("p", later(2))], LIMITS), [(1, full)]);
        assert_eq!(ledger.admit(&[ran_with("p", later(2))], LIMITS), [], "the refused settlement is not counted");
        assert_eq!(ledger.admit(&[ran_with("q", later(2))], LIMITS), [], "each plugin has its own limit");
        assert_eq!(ledger.admit(&[ran_with("p", later(1))], LIMITS), [(0, full)]);
    }

    #[test]
    fn runs_of_one_settlement_count_together() {
        let mut ledger = ledger();
        let half = || writes("p", &[("b", Some(b"1234"))]);
        let runs = [half(), writes("p", &[("c", Some(b"12345"))])];
        assert_eq!(ledger.admit(&runs, LIMITS), [(1, BYTES)], "only the run that exceeds the limit");
        assert_eq!(ledger.sizes["p"], StateSize { keys: 1, bytes: 10 }, "the refused settlement is not counted");
        assert_eq!(ledger.admit(&[half()], LIMITS), []);
        assert_eq!(ledger.sizes["p"], StateSize { keys: 2, bytes: 15 });
        assert_eq!(ledger.admit(&[writes("p", &[("b", None)])], LIMITS), []);
        assert_eq!(ledger.sizes["p"], StateSize { keys: 1, bytes: 10 });
    }
}
