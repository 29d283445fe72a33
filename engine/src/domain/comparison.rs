//! A comparison: what a candidate version of a plugin would change, counted over many recorded runs.
//!
//! The serving version and the candidate each repeat every recorded run. Nothing that they return takes effect. A comparison counts
//! the newest recorded runs. A comparison with `follow` counts new runs instead, as they end, until the candidate serves. A
//! comparison is a row with its request, its cursor and its report. The row is stored after each batch, so a comparison continues
//! after a restart. A [`Report`] has a limited size, regardless of how many runs it counts: at most [`GROUPS_MAX`] groups with
//! [`SAMPLES_MAX`] samples each, and histograms with a limited number of buckets.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    difference::{Change, Difference},
    id::ComparisonId,
    job::JobState,
    name::Slug,
    pattern::Pattern,
    plugin::Digest,
    time::Timestamp,
};

/// Maximum number of groups of a report. Further changes count under [`OTHER`].
pub const GROUPS_MAX: usize = 500;
/// Maximum number of samples of a group.
pub const SAMPLES_MAX: usize = 5;
/// The group of all changes beyond [`GROUPS_MAX`].
pub const OTHER: &str = "other changes";

/// Maximum number of running comparisons. It is small because comparisons compete for the processor.
pub const RUNNING_MAX: usize = 4;
/// Maximum number of runs of one comparison.
pub const RUNS_MAX: u64 = 1_000_000;

/// A percentage of runs. The id of a run decides whether the run is selected, so the selection is the same on every node and
/// after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u8);

impl Share {
    pub const ALL: Self = Self(100);

    /// Returns `None` unless `percent` is 1 to 100.
    pub fn new(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    pub const fn percent(self) -> u8 {
        self.0
    }

    /// Returns whether a run belongs to the share.
    pub const fn takes(self, run: i64) -> bool {
        // Multiplying by 2^64 / (golden ratio) spreads consecutive numbers evenly.
        let spread = (run.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        spread % 100 < self.0 as u64
    }
}

/// What to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub plugin: Slug,
    /// The version that served when the comparison was created.
    pub serving: Digest,
    pub candidate: Digest,
    /// Maximum number of runs: the newest ones or, with `follow`, the next ones.
    pub last: u64,
    /// `Some`: the comparison counts this share of new runs, as they end. `None`: it counts runs that ended before it was
    /// created.
    pub follow: Option<Share>,
    /// Only runs on events of these types.
    pub events: Option<Pattern>,
    /// Only runs on events accepted at or after this time.
    pub since: Option<Timestamp>,
    /// Whether the examples of the report omit values.
    pub hides_values: bool,
}

/// A comparison and what it has found so far.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub id: ComparisonId,
    pub request: Request,
    pub state: JobState,
    /// The last run that was checked. Runs are checked from new to old; with `follow`, from old to new.
    pub cursor: Option<i64>,
    pub report: Report,
    /// Why the comparison ended early, for example because a version no longer loads.
    pub problem: Option<String>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

/// What a comparison has found so far.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Report {
    /// Number of compared pairs of runs.
    pub compared: u64,
    pub same: u64,
    pub differ: u64,
    /// Pairs in which the serving version ended `ok` and the candidate did not.
    pub new_failures: u64,
    /// Pairs in which the candidate ended `ok` and the serving version did not.
    pub fixed_failures: u64,
    /// Pairs in which an endpoint gets more or fewer webhooks.
    pub targets_differ: u64,
    /// Recorded runs that cannot be repeated. They are not compared.
    pub not_repeatable: u64,
    /// Pairs in which a version read state that is not recorded. Both versions then read the current value of the state.
    pub read_current_state: u64,
    /// New runs that were left out because the node was busy.
    pub skipped: u64,
    /// The groups. The key is the text of the group's change.
    pub groups: BTreeMap<String, Group>,
    pub serving: Cost,
    pub candidate: Cost,
}

/// All differences with the same cause.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Group {
    /// The word of [`Change::kind`].
    pub kind: String,
    /// Number of runs.
    pub count: u64,
    pub samples: Vec<Sample>,
}

/// A difference in one run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sample {
    /// The run's row id.
    pub run: i64,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// Time and memory of one version's runs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Cost {
    pub time: Histogram,
    pub memory: Histogram,
}

/// Counts values in buckets that are 4 % wide, so a percentile is exact to 4 %.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Histogram(BTreeMap<u16, u64>);

/// Ratio of neighbouring buckets.
const GROWTH: f64 = 1.04;

impl Histogram {
    pub fn add(&mut self, value: u64) {
        let bucket = (value.max(1) as f64).ln() / GROWTH.ln();
        *self.0.entry(bucket.round() as u16).or_default() += 1;
    }

    /// Returns the value that `percent` of all values do not exceed; 0 if there are none.
    pub fn percentile(&self, percent: f64) -> f64 {
        let total: u64 = self.0.values().sum();
        let wanted = (total as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return GROWTH.powi(i32::from(*bucket));
            }
        }
        0.0
    }
}

/// Time and memory of one run of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    pub time: Duration,
    /// Bytes.
    pub memory: u64,
    pub is_ok: bool,
}

impl Cost {
    fn add(&mut self, took: Took) {
        self.time.add(u64::try_from(took.time.as_nanos()).unwrap_or(u64::MAX));
        self.memory.add(took.memory);
    }
}

impl Report {
    /// Counts one pair of runs. `run` is the recorded run that both repeat.
    pub fn add(&mut self, run: i64, serving: Took, candidate: Took, differences: Vec<Difference>, hides_values: bool) {
        self.compared += 1;
        *(if differences.is_empty() { &mut self.same } else { &mut self.differ }) += 1;
        self.new_failures += u64::from(serving.is_ok && !candidate.is_ok);
        self.fixed_failures += u64::from(!serving.is_ok && candidate.is_ok);
        self.targets_differ += u64::from(differences.iter().any(|one| one.change.changes_targets()));
        self.serving.add(serving);
        self.candidate.add(candidate);
        for Difference { change, from, to } in differences {
            let (from, to) = if hides_values { (hidden(from), hidden(to)) } else { (from, to) };
            self.group(&change, Sample { run, from, to });
        }
    }

    fn group(&mut self, change: &Change, sample: Sample) {
        let mut name = change.to_string();
        let mut kind = change.kind();
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&name) {
            (name, kind) = (OTHER.to_owned(), "other");
        }
        let group = self.groups.entry(name).or_default();
        group.kind = kind.to_owned();
        group.count += 1;
        if group.samples.len() < SAMPLES_MAX {
            group.samples.push(sample);
        }
    }

    /// Returns the groups, the most frequent first.
    pub fn by_frequency(&self) -> Vec<(&str, &Group)> {
        let mut groups: Vec<_> = self.groups.iter().map(|(name, group)| (name.as_str(), group)).collect();
        groups.sort_by_key(|(name, group)| (std::cmp::Reverse(group.count), *name));
        groups
    }
}

fn hidden(value: Option<String>) -> Option<String> {
    value.map(|_| "…".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(micros: u64, is_ok: bool) -> Took {
        Took { time: Duration::from_micros(micros), memory: 1 << 20, is_ok }
    }

    fn change(to: &str) -> Difference {
        let change = Change::WebhookAdded { to: to.into() };
        Difference { change, from: None, to: Some("{\"a\":1}".into()) }
    }

    #[test]
    fn counts_pairs_and_groups_differences_by_cause() {
        let mut report = Report::default();
        report.add(1, took(10, true), took(10, true), Vec::new(), false);
        for run in 2..=9 {
            report.add(run, took(10, true), took(20, false), vec![change("crm")], false);
        }
        report.add(10, took(10, false), took(20, true), vec![change("slack"), change("crm")], false);
        assert_eq!((report.compared, report.same, report.differ), (10, 1, 9));
        assert_eq!((report.new_failures, report.fixed_failures, report.targets_differ), (8, 1, 9));
        let groups: Vec<_> = report.by_frequency().into_iter().map(|(name, group)| (name, group.count)).collect();
        assert_eq!(groups, [("webhook to crm added", 9), ("webhook to slack added", 1)]);
        let crm = &report.groups["webhook to crm added"];
        assert_eq!((crm.kind.as_str(), crm.samples.len(), crm.samples[0].run), ("webhook-added", SAMPLES_MAX, 2));
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
    }

    #[test]
    fn hides_values_on_request() {
        let mut report = Report::default();
        report.add(1, took(1, true), took(1, true), vec![change("crm")], true);
        let sample = &report.groups["webhook to crm added"].samples[0];
        assert_eq!((sample.from.as_deref(), sample.to.as_deref()), (None, Some("…")));
    }

    #[test]
    fn a_share_takes_its_percentage_of_runs() {
        assert_eq!((Share::new(0), Share::new(101)), (None, None));
        for percent in [1, 10, 50, 99, 100] {
            let share = Share::new(percent).unwrap();
            // Most events have one run, and run ids of two events are far apart.
            let taken = (1..=10_000).filter(|event| share.takes(event << 14)).count();
            assert!(taken.abs_diff(100 * usize::from(percent)) <= 100, "{percent} %: {taken}");
        }
    }

    #[test]
    fn groups_are_bounded() {
        let mut report = Report::default();
        for number in 0..GROUPS_MAX + 10 {
            report.add(1, took(1, true), took(1, true), vec![change(&format!("e{number}"))], false);
        }
        assert_eq!(report.groups.len(), GROUPS_MAX + 1);
        assert_eq!(report.groups[OTHER].count, 10);
    }

    #[test]
    fn percentiles_are_exact_to_a_few_percent() {
        let mut histogram = Histogram::default();
        assert!(histogram.percentile(50.0).abs() < f64::EPSILON);
        for value in 1..=1000 {
            histogram.add(value);
        }
        for (percent, expected) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1000.0)] {
            let found = histogram.percentile(percent);
            assert!((found / expected - 1.0_f64).abs() < 0.04, "{percent}: {found}");
        }
    }
}
