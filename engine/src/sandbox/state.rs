//! A run's view of its plugin's state: the last commit plus its own writes. Nothing is written before the event commits.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::limits::{Limits, size, time};
use crate::domain::{
    recording::RecordedState,
    run::{StateRead, StateUse, StateWrite, StoredState},
    time::Timestamp,
};

/// The source of the last committed values.
pub trait StateSource: Send {
    /// Returns the value, even if it has expired.
    ///
    /// # Errors
    ///
    /// Only if the store cannot answer. The run is then tried again, which does not count against the plugin.
    fn get(&mut self, key: &str) -> Result<Option<StoredState>, anyhow::Error>;
}

/// The source for plugins without state, and for tests.
pub struct NoState;

impl StateSource for NoState {
    fn get(&mut self, _: &str) -> Result<Option<StoredState>, anyhow::Error> {
        Ok(None)
    }
}

/// Why a guest's call for state ends its run.
#[derive(Debug, thiserror::Error)]
pub enum StateRefused {
    #[error("uses a state key of {}; the limit is {}", size(*found), size(*limit))]
    KeyTooLong { found: usize, limit: usize },
    #[error("sets a state value of {}; the limit is {}", size(*found), size(*limit))]
    ValueTooLarge { found: usize, limit: usize },
    #[error("uses more than {limit} state keys in one run")]
    TooManyKeys { limit: usize },
    #[error("requests state in describe, which has none")]
    Describing,
    /// Not the plugin's fault.
    #[error("the state could not be read")]
    Unavailable(#[source] anyhow::Error),
}

/// One run's view of the state.
pub struct State {
    /// `None` while the plugin describes itself.
    source: Option<Box<dyn StateSource>>,
    /// When the run began: decides which values have expired.
    now: Timestamp,
    keys_max: usize,
    key_bytes_max: usize,
    value_bytes_max: usize,
    /// Values read from the source, so that a key has the same value during the whole run.
    seen: HashMap<String, Option<Vec<u8>>>,
    reads: Vec<StateRead>,
    writes: BTreeMap<String, (Option<Vec<u8>>, Option<Timestamp>)>,
    /// Time that the source took, and the part of it that [`Self::take_waited`] has returned.
    waited: Duration,
    taken: Duration,
}

impl State {
    pub fn new(source: Option<Box<dyn StateSource>>, now: Timestamp, limits: &Limits) -> Self {
        Self {
            source,
            now,
            keys_max: limits.state_keys,
            key_bytes_max: limits.state_key_bytes,
            value_bytes_max: limits.state_value_bytes,
            seen: HashMap::new(),
            reads: Vec::new(),
            writes: BTreeMap::new(),
            waited: Duration::ZERO,
            taken: Duration::ZERO,
        }
    }

    pub fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateRefused> {
        if let Some((written, expires_at)) = self.writes.get(key) {
            let exists = expires_at.is_none_or(|expires_at| self.now < expires_at);
            return Ok(written.clone().filter(|_| exists));
        }
        if let Some(seen) = self.seen.get(key) {
            return Ok(seen.clone());
        }
        self.admit(key)?;
        let source = self.source.as_mut().ok_or(StateRefused::Describing)?;
        if self.waited > Limits::STATE_WAIT {
            let text = format!("it took more than {} for one run", time(Limits::STATE_WAIT));
            return Err(StateRefused::Unavailable(anyhow::Error::msg(text)));
        }
        let asked = Instant::now();
        let answer = source.get(key);
        self.waited += asked.elapsed();
        let stored = answer.map_err(StateRefused::Unavailable)?;
        // Until an expired value is deleted, its version is recorded like that of any other value, because the commit compares
        // versions.
        let version = stored.as_ref().map_or(0, |stored| stored.version);
        let value = stored.filter(|stored| stored.exists_at(self.now)).map(|stored| stored.value);
        self.reads.push(StateRead { key: key.to_owned(), version });
        self.seen.insert(key.to_owned(), value.clone());
        Ok(value)
    }

    pub fn set(&mut self, key: String, value: Option<Vec<u8>>) -> Result<(), StateRefused> {
        self.write(key, value, None)
    }

    pub fn set_for(&mut self, key: String, value: Vec<u8>, lifetime: Duration) -> Result<(), StateRefused> {
        self.write(key, Some(value), Some(self.now.plus(lifetime)))
    }

    fn write(&mut self, key: String, value: Option<Vec<u8>>, expires_at: Option<Timestamp>) -> Result<(), StateRefused> {
        if let Some(value) = &value
            && value.len() > self.value_bytes_max
        {
            return Err(StateRefused::ValueTooLarge { found: value.len(), limit: self.value_bytes_max });
        }
        self.admit(&key)?;
        self.writes.insert(key, (value, expires_at));
        Ok(())
    }

    /// Refuses a key that is too long, or a new key beyond the limit.
    fn admit(&self, key: &str) -> Result<(), StateRefused> {
        if self.source.is_none() {
            return Err(StateRefused::Describing);
        }
        if key.len() > self.key_bytes_max {
            return Err(StateRefused::KeyTooLong { found: key.len(), limit: self.key_bytes_max });
        }
        let known = self.seen.contains_key(key) || self.writes.contains_key(key);
        let only_written = self.writes.keys().filter(|key| !self.seen.contains_key(*key)).count();
        if !known && self.seen.len() + only_written >= self.keys_max {
            return Err(StateRefused::TooManyKeys { limit: self.keys_max });
        }
        Ok(())
    }

    /// Returns how long the run has waited for the source since the last call of this function. This is time of the store, not of
    /// the plugin.
    pub fn take_waited(&mut self) -> Duration {
        let waited = self.waited.saturating_sub(self.taken);
        self.taken = self.waited;
        waited
    }

    /// Returns the reads to check and the writes to apply when the event commits, and the values that the run read.
    pub fn take(&mut self) -> (StateUse, RecordedState) {
        let writes = std::mem::take(&mut self.writes).into_iter();
        let writes = writes.map(|(key, (value, expires_at))| StateWrite { key, value, expires_at }).collect();
        let (reads, mut seen) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.seen));
        let read = reads.iter().map(|read| (read.key.clone(), seen.remove(&read.key).flatten())).collect();
        (StateUse { reads, writes }, RecordedState::of(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    struct One;

    impl StateSource for One {
        fn get(&mut self, key: &str) -> Result<Option<StoredState>, anyhow::Error> {
            Ok(match key {
                "known" => Some(StoredState { value: b"old".to_vec(), version: 7, expires_at: None }),
                "short" => {
                    Some(StoredState { value: b"old".to_vec(), version: 8, expires_at: Some(NOW.plus(Duration::from_millis(1))) })
                }
                "expired" => Some(StoredState { value: b"old".to_vec(), version: 9, expires_at: Some(NOW) }),
                _ => None,
            })
        }
    }

    fn state(limits: &Limits) -> State {
        State::new(Some(Box::new(One)), NOW, limits)
    }

    #[test]
    fn reads_are_recorded_once_and_see_the_runs_own_writes() {
        let mut state = state(&Limits::default());
        assert_eq!(state.get("known").unwrap(), Some(b"old".to_vec()));
        assert_eq!(state.get("absent").unwrap(), None);
        state.set("known".into(), Some(b"new".to_vec())).unwrap();
        assert_eq!(state.get("known").unwrap(), Some(b"new".to_vec()));
        state.set("known".into(), None).unwrap();
        assert_eq!(state.get("known").unwrap(), None);
        let (used, recorded) = state.take();
        let reads: Vec<_> = used.reads.iter().map(|read| (read.key.as_str(), read.version)).collect();
        assert_eq!(reads, [("known", 7), ("absent", 0)]);
        assert_eq!(used.writes, [StateWrite { key: "known".into(), value: None, expires_at: None }]);
        let committed = [("known".to_owned(), Some(b"old".to_vec())), ("absent".to_owned(), None)];
        assert_eq!(recorded.read(), committed, "writes of the run are not recorded as reads");
    }

    #[test]
    fn a_value_expires_at_its_time_and_not_before() {
        let mut state = state(&Limits::default());
        assert_eq!((state.get("short").unwrap(), state.get("expired").unwrap()), (Some(b"old".to_vec()), None));
        state.set_for("mine".into(), b"x".to_vec(), Duration::from_secs(1)).unwrap();
        state.set_for("gone".into(), b"x".to_vec(), Duration::ZERO).unwrap();
        state.set_for("ages".into(), b"x".to_vec(), Duration::from_millis(u64::MAX)).unwrap();
        assert_eq!((state.get("mine").unwrap(), state.get("gone").unwrap()), (Some(b"x".to_vec()), None));
        let (used, recorded) = state.take();
        assert_eq!(used.reads.iter().map(|read| read.version).collect::<Vec<_>>(), [8, 9], "the version that is stored");
        assert_eq!(recorded.read()[1], ("expired".to_owned(), None), "what the run has seen");
        let ends: Vec<_> = used.writes.iter().map(|write| (write.key.as_str(), write.expires_at.unwrap().millis())).collect();
        assert_eq!(ends, [("ages", i64::MAX), ("gone", 1_000), ("mine", 2_000)]);
    }

    #[test]
    fn waiting_time_is_returned_once_and_limited() {
        let mut state = state(&Limits::default());
        state.get("a").unwrap();
        assert!(!state.take_waited().is_zero());
        assert!(state.take_waited().is_zero(), "the waited time is returned only once");
        state.waited = Limits::STATE_WAIT + Duration::from_secs(1);
        assert_eq!(state.get("a").unwrap(), None, "a known key needs no source");
        let refused = state.get("b").unwrap_err();
        assert!(matches!(&refused, StateRefused::Unavailable(cause) if cause.to_string().contains("60 s")), "{refused:?}");
    }

    #[test]
    fn every_limit_refuses() {
        let mut state = state(&Limits { state_keys: 2, state_key_bytes: 5, state_value_bytes: 3, ..Limits::default() });
        assert!(matches!(state.get("too-long"), Err(StateRefused::KeyTooLong { found: 8, limit: 5 })));
        assert!(matches!(state.set("a".into(), Some(vec![0; 4])), Err(StateRefused::ValueTooLarge { found: 4, limit: 3 })));
        state.set("a".into(), Some(vec![0; 3])).unwrap();
        state.get("b").unwrap();
        state.get("a").unwrap();
        assert!(matches!(state.get("c"), Err(StateRefused::TooManyKeys { limit: 2 })));
        assert!(matches!(state.set("c".into(), None), Err(StateRefused::TooManyKeys { limit: 2 })));
    }
}
