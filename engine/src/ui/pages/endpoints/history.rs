//! The history of endpoints, from the statistics.

use std::collections::{BTreeMap, HashMap};

use crate::{
    api::Problem,
    clock,
    domain::{
        id::EndpointId,
        stats::{About, Counts, Last, first_bucket, fold},
        time::Timestamp,
    },
    ui::{Ui, parts::strip::Bar},
};

/// Counts of one endpoint in every bucket, oldest first, with the start of each bucket.
pub struct History {
    pub buckets: Vec<(Timestamp, Counts)>,
}

impl History {
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.buckets.iter().for_each(|(_, counts)| total.add(counts));
        total
    }

    /// Returns the share of delivered webhooks that were delivered on the first try, or `None` if none was delivered.
    pub fn first_try(&self) -> Option<f64> {
        let total = self.total();
        (total.delivered > 0).then(|| total.first_try as f64 / total.delivered as f64)
    }

    pub fn bars(&self) -> Vec<Bar> {
        self.buckets.iter().map(|(_, counts)| Bar { good: counts.delivered, bad: counts.attempts_failed }).collect()
    }
}

/// Reads the statistics of several things, such as endpoints, in the given order.
///
/// # Errors
/// If the store does not answer.
pub async fn of(ui: &Ui, about: &[About], last: Last) -> Result<Vec<History>, Problem> {
    let Some((cell, length, count)) = about.first().and_then(|about| last.buckets(about)) else { return Ok(Vec::new()) };
    let first = first_bucket(clock::wall(), length, count);
    let mut cells: HashMap<String, Vec<(Timestamp, Counts)>> = HashMap::new();
    for (about, at, counts) in ui.api.store.counts(about.to_vec(), cell, first).await? {
        cells.entry(about.key()).or_default().push((at, counts));
    }
    let mut history = |about: &About| {
        let mut known: BTreeMap<Timestamp, Counts> = fold(cells.remove(&about.key()).unwrap_or_default(), first, length);
        let starts = (0..count).map(|place| Timestamp::from_millis(first.millis() + place * length));
        History { buckets: starts.map(|at| (at, known.remove(&at).unwrap_or_default())).collect() }
    };
    Ok(about.iter().map(&mut history).collect())
}

/// Reads the statistics of endpoints.
///
/// # Errors
/// If the store does not answer.
pub async fn read(ui: &Ui, endpoints: &[EndpointId], last: Last) -> Result<HashMap<EndpointId, History>, Problem> {
    let about: Vec<About> = endpoints.iter().map(|id| About::Endpoint(*id)).collect();
    Ok(endpoints.iter().copied().zip(of(ui, &about, last).await?).collect())
}
