//! Counts over time: what happened to events, runs and attempts, per minute or per hour.
//!
//! Counts are stored in cells. A sheet holds the cells of one subject: either the 60 minutes of one hour, or the 24 hours of one
//! UTC day. So a table with one row per sheet stays small.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    id::{EndpointId, SourceId},
    name::Slug,
    time::Timestamp,
};

/// The subject of counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// The engine as a whole.
    Engine,
    Endpoint(EndpointId),
    Plugin(Slug),
    Source(SourceId),
}

impl About {
    /// Returns its key in the store.
    pub fn key(&self) -> String {
        match self {
            Self::Engine => "engine".to_owned(),
            Self::Endpoint(id) => format!("endpoint/{}", id.as_i64()),
            Self::Plugin(name) => format!("plugin/{name}"),
            Self::Source(id) => format!("source/{}", id.as_i64()),
        }
    }

    /// Reads the output of [`Self::key`].
    pub fn from_key(key: &str) -> Option<Self> {
        match key.split_once('/') {
            None => (key == "engine").then_some(Self::Engine),
            Some(("endpoint", id)) => id.parse().ok().map(|id| Self::Endpoint(EndpointId::from_i64(id))),
            Some(("plugin", name)) => Slug::parse(name).ok().map(Self::Plugin),
            Some(("source", id)) => id.parse().ok().map(|id| Self::Source(SourceId::from_i64(id))),
            Some(_) => None,
        }
    }
}

/// What happened in a period. Counts that do not apply to a subject stay 0: only the engine has latencies, only sources have
/// refused requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// New events.
    #[serde(skip_serializing_if = "is_zero")]
    pub accepted: u64,
    /// Requests that a source refused.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// Runs that ended, including failed ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub runs: u64,
    /// Runs that did not end with the outcome `ok`.
    #[serde(skip_serializing_if = "is_zero")]
    pub runs_failed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub delivered: u64,
    /// Deliveries that needed only one attempt.
    #[serde(skip_serializing_if = "is_zero")]
    pub first_try: u64,
    /// Attempts that did not deliver.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts_failed: u64,
    #[serde(skip_serializing_if = "Latencies::is_empty")]
    pub latencies: Latencies,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    /// Adds the counts of another period or another node.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.accepted, other.accepted),
            (&mut self.refused, other.refused),
            (&mut self.runs, other.runs),
            (&mut self.runs_failed, other.runs_failed),
            (&mut self.delivered, other.delivered),
            (&mut self.first_try, other.first_try),
            (&mut self.attempts_failed, other.attempts_failed),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
        self.latencies.add(&other.latencies);
    }
}

/// Times from the acceptance of an event to its delivery, counted in classes. The bound of each class is √2 times that of the
/// class before it, from 1 ms to about 25 minutes, so a percentile is exact to a factor of √2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latencies(Vec<u64>);

/// Number of classes. The last one has no bound.
const CLASSES: usize = 43;

impl Latencies {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    pub fn note(&mut self, latency: Duration) {
        let class = (0..CLASSES - 1).find(|class| latency <= bound(*class)).unwrap_or(CLASSES - 1);
        if self.0.len() <= class {
            self.0.resize(class + 1, 0);
        }
        self.0[class] = self.0[class].saturating_add(1);
    }

    fn add(&mut self, other: &Self) {
        // Counts that another version of the engine stored may have more classes than this version knows.
        let classes = other.0.len().min(CLASSES);
        if self.0.len() < classes {
            self.0.resize(classes, 0);
        }
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// Returns the bound that `percent` of all latencies do not exceed; `None` if no latency was counted.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u128 = self.0.iter().map(|count| u128::from(*count)).sum();
        if all == 0 {
            return None;
        }
        let wanted = (all * u128::from(percent)).div_ceil(100).max(1);
        let mut below = 0;
        for (class, count) in self.0.iter().enumerate() {
            below += u128::from(*count);
            if below >= wanted {
                return Some(bound(class));
            }
        }
        None
    }
}

/// Returns the largest latency of a class.
fn bound(class: usize) -> Duration {
    Duration::from_secs_f64(2f64.powf(class as f64 / 2.0) / 1000.0)
}

/// The size of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cell {
    /// Only the engine as a whole is counted by the minute.
    Minute,
    Hour,
}

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

impl Cell {
    pub const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    /// Length in milliseconds.
    pub const fn millis(self) -> i64 {
        match self {
            Self::Minute => MINUTE,
            Self::Hour => HOUR,
        }
    }

    /// Length of a sheet in milliseconds.
    pub const fn sheet_millis(self) -> i64 {
        match self {
            Self::Minute => HOUR,
            Self::Hour => DAY,
        }
    }

    /// Returns the start of the sheet that contains `at`, and the number of the cell in it.
    pub fn place(self, at: Timestamp) -> (Timestamp, u16) {
        let start = at.millis().div_euclid(self.sheet_millis()) * self.sheet_millis();
        let number = (at.millis() - start) / self.millis();
        (Timestamp::from_millis(start), u16::try_from(number).expect("a sheet has at most 60 cells"))
    }

    /// Returns the start of a cell.
    pub fn start(self, sheet: Timestamp, number: u16) -> Timestamp {
        Timestamp::from_millis(sheet.millis() + i64::from(number) * self.millis())
    }

    /// Returns a time. Sheets that begin before this time are no longer needed.
    pub fn kept_since(self, now: Timestamp) -> Timestamp {
        let longest = match self {
            Self::Minute => DAY,
            Self::Hour => 7 * DAY,
        };
        // The oldest bucket may begin in an older sheet.
        Timestamp::from_millis(now.millis() - longest - 2 * self.sheet_millis())
    }
}

/// The time range of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Hour,
    Day,
    Week,
}

impl Last {
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|last| last.as_str() == text)
    }

    /// Returns the cells to read, the length of a bucket in milliseconds, and the number of buckets; `None` if no counts with
    /// this resolution exist.
    pub const fn buckets(self, about: &About) -> Option<(Cell, i64, i64)> {
        match (self, about) {
            (Self::Hour, About::Engine) => Some((Cell::Minute, MINUTE, 60)),
            (Self::Hour, _) => None,
            (Self::Day, About::Engine) => Some((Cell::Minute, 15 * MINUTE, 96)),
            (Self::Day, _) => Some((Cell::Hour, HOUR, 24)),
            (Self::Week, _) => Some((Cell::Hour, 2 * HOUR, 84)),
        }
    }
}

/// Returns the start of the oldest of `count` buckets, the last of which contains `now`.
pub fn first_bucket(now: Timestamp, length: i64, count: i64) -> Timestamp {
    Timestamp::from_millis((now.millis().div_euclid(length) - count + 1) * length)
}

/// Sums up cells in buckets of `length` milliseconds. The first bucket starts at `first`. Buckets without any cell are left out,
/// because nothing is known about them.
pub fn fold(cells: impl IntoIterator<Item = (Timestamp, Counts)>, first: Timestamp, length: i64) -> BTreeMap<Timestamp, Counts> {
    let mut buckets: BTreeMap<Timestamp, Counts> = BTreeMap::new();
    for (at, counts) in cells.into_iter().filter(|(at, _)| *at >= first) {
        let start = Timestamp::from_millis(at.millis().div_euclid(length) * length);
        buckets.entry(start).or_default().add(&counts);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn keys_read_back() {
        let all = [
            About::Engine,
            About::Endpoint(EndpointId::from_i64(7)),
            About::Plugin(Slug::parse("order-router").unwrap()),
            About::Source(SourceId::from_i64(1)),
        ];
        for about in all {
            assert_eq!(About::from_key(&about.key()), Some(about));
        }
        for key in ["", "endpoint", "endpoint/x", "plugin/No Slug", "other/1"] {
            assert_eq!(About::from_key(key), None, "{key}");
        }
    }

    #[test]
    fn percentiles_are_exact_to_their_class() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(50), None);
        for millis in [0, 1, 2, 2, 900] {
            latencies.note(Duration::from_millis(millis));
        }
        assert_eq!(latencies.percentile(50), Some(Duration::from_millis(2)));
        let p99 = latencies.percentile(99).unwrap();
        assert!((900..1_273).contains(&p99.as_millis()), "{p99:?}");
        latencies.note(Duration::from_secs(1 << 20));
        assert!(latencies.percentile(100).unwrap() > Duration::from_secs(1_400));
        let mut sum = Latencies::default();
        sum.add(&latencies);
        sum.add(&Latencies(vec![u64::MAX; CLASSES + 9]));
        assert_eq!(sum.0.len(), CLASSES);
        assert!(sum.percentile(50).is_some(), "no overflow");
    }

    #[test]
    fn cells_have_a_place_in_their_sheet() {
        for (cell, time, sheet, number) in [
            (Cell::Minute, "2026-11-24T09:14:59.999Z", "2026-11-24T09:00:00Z", 14),
            (Cell::Minute, "2026-11-24T09:00:00Z", "2026-11-24T09:00:00Z", 0),
            (Cell::Hour, "2026-11-24T23:59:59Z", "2026-11-24T00:00:00Z", 23),
            (Cell::Hour, "1969-12-31T23:00:00Z", "1969-12-31T00:00:00Z", 23),
        ] {
            let place = cell.place(at(time));
            assert_eq!(place, (at(sheet), number), "{time}");
            let start = cell.start(place.0, place.1);
            assert!(start <= at(time) && at(time).millis() < start.millis() + cell.millis(), "{time}");
        }
    }

    #[test]
    fn cells_add_up_to_buckets() {
        let one = |time: &str, accepted| (at(time), Counts { accepted, ..Counts::default() });
        let now = at("2026-11-24T09:31:00Z");
        let first = first_bucket(now, 15 * MINUTE, 3);
        assert_eq!(first, at("2026-11-24T09:00:00Z"));
        let cells = [
            one("2026-11-24T08:59:00Z", 100),
            one("2026-11-24T09:00:00Z", 1),
            one("2026-11-24T09:14:00Z", 2),
            one("2026-11-24T09:30:00Z", 4),
        ];
        let buckets: Vec<_> = fold(cells, first, 15 * MINUTE).into_iter().map(|(at, counts)| (at, counts.accepted)).collect();
        assert_eq!(buckets, [(first, 3), (at("2026-11-24T09:30:00Z"), 4)], "an unknown bucket is left out");
    }

    #[test]
    fn every_query_reads_only_sheets_that_still_exist() {
        let now = at("2026-11-24T00:00:30Z");
        for last in Last::ALL {
            assert_eq!(Last::parse(last.as_str()), Some(last));
            for about in [About::Engine, About::Source(SourceId::from_i64(1))] {
                let Some((cell, length, count)) = last.buckets(&about) else { continue };
                let oldest = cell.place(first_bucket(now, length, count)).0;
                assert!(oldest >= cell.kept_since(now), "{last:?} {about:?}");
            }
        }
    }
}
