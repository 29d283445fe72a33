//! The inputs of a run besides its event. They are stored with the run, so that the run can be repeated exactly, on any machine.
//!
//! A run is a function of its version, its event, the endpoint that it belongs to, its plugin's settings, and the state that it
//! read. The run's row has the first three. [`Recording`] has the other two, and the time that decides which values of state have
//! expired. If plugins get a further capability (such as HTTP requests), it needs a member here. Otherwise runs that use the
//! capability cannot be repeated.

use super::time::Timestamp;

/// Maximum size of the state that a recording stores: keys and values together, in bytes. A recording is written with every run,
/// so it must stay small compared with the event.
pub const STATE_BYTES_MAX: usize = 256 << 10;

/// The inputs of a run besides its event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Number of the revision of the plugin's settings. 0 means that the plugin had no settings.
    pub settings: i64,
    /// The wall clock when the run began: it decides which values of state have expired. A plugin cannot read it. `None` in runs
    /// that used no state, and in those of earlier engines.
    pub at: Option<Timestamp>,
    pub state: RecordedState,
}

/// The state that a run read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedState {
    /// The keys in the order of their first reads, with the committed values; `None` where no value existed.
    Read(Vec<(String, Option<Vec<u8>>)>),
    /// The state exceeded [`STATE_BYTES_MAX`], so it was not stored and the run cannot be repeated.
    TooLarge,
}

impl Default for RecordedState {
    fn default() -> Self {
        Self::Read(Vec::new())
    }
}

impl RecordedState {
    /// Records the state that a run read, unless it is too large.
    pub fn of(read: Vec<(String, Option<Vec<u8>>)>) -> Self {
        if read.iter().map(bytes_of).sum::<usize>() > STATE_BYTES_MAX {
            return Self::TooLarge;
        }
        Self::Read(read)
    }

    /// Returns the recorded keys and values; empty if they were too large.
    pub fn read(&self) -> &[(String, Option<Vec<u8>>)] {
        match self {
            Self::Read(read) => read,
            Self::TooLarge => &[],
        }
    }
}

fn bytes_of((key, value): &(String, Option<Vec<u8>>)) -> usize {
    key.len() + value.as_ref().map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_state_up_to_its_limit() {
        let value = |bytes| ("k".to_owned(), Some(vec![0; bytes]));
        for (what, read, recorded) in [
            ("no state", vec![], true),
            ("an absent value", vec![("k".to_owned(), None)], true),
            ("state of exactly the maximum size", vec![value(STATE_BYTES_MAX / 2 - 1), value(STATE_BYTES_MAX / 2 - 1)], true),
            (
                "state of one byte more than the maximum size",
                vec![value(STATE_BYTES_MAX / 2 - 1), value(STATE_BYTES_MAX / 2)],
                false,
            ),
        ] {
            let state = RecordedState::of(read.clone());
            assert_eq!(state, if recorded { RecordedState::Read(read) } else { RecordedState::TooLarge }, "{what}");
        }
    }
}
