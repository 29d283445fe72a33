//! Problems that need a person now: failing and disabled endpoints, parked runs, refused plugin files. The rail shows their
//! number, and the first page lists them. The problems are read from the store at most once a second, for all visitors together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::Ui;
use crate::{
    api::Problem,
    domain::{
        breaker::Breaker,
        endpoint::{DisabledReason, Endpoint, EndpointState},
        id::EndpointId,
        run::RunState,
        time::Timestamp,
    },
    store::{Backlog, PageRequest, RunFilter},
};

/// How long the problems are reused after they were read.
const FRESH: Duration = Duration::from_secs(1);
/// Maximum number of parked runs that are counted. If there are more, pages show "over 200".
pub const PARKED_COUNTED_MAX: usize = 200;

/// Maximum number of failing endpoints whose waiting webhooks are counted. More are not shown on the first page.
const BACKLOGS_MAX: usize = 20;

/// A problem that needs a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// No webhook has been delivered to the endpoint for a while.
    Failing {
        endpoint: String,
        since: Timestamp,
        /// Number of webhooks that wait; `None` if they are too many to count, or if more endpoints fail than are counted.
        waiting: Option<u64>,
        /// When the next one is sent, if the circuit breaker holds back the others.
        next: Option<Timestamp>,
    },
    /// The engine disabled the endpoint.
    Disabled { endpoint: String, reason: DisabledReason },
    /// Runs of one version of a plugin are parked.
    Parked { plugin: String, version: Option<String>, number: u64, message: Option<String> },
    /// A file in the plugin folder is not loaded.
    Refused { plugin: String, why: String },
}

/// All problems that need a person, the worst first.
#[derive(Debug, Default)]
pub struct Needs {
    pub all: Vec<Need>,
}

impl Needs {
    /// Returns the number of failing endpoints.
    pub fn failing(&self) -> u64 {
        self.all.iter().filter(|need| matches!(need, Need::Failing { .. })).count() as u64
    }
}

/// The problems as they were last read, and when that was.
#[derive(Default)]
pub struct LastNeeds(Mutex<Option<(Instant, Arc<Needs>)>>);

/// Returns the problems that need a person, as they were at most a second ago.
///
/// # Errors
/// If the store does not answer.
pub async fn now(ui: &Ui) -> Result<Arc<Needs>, Problem> {
    // The lock is held while the store is read, so that concurrent visitors share one read.
    let mut last = ui.needs.0.lock().await;
    if let Some((at, needs)) = &*last
        && at.elapsed() < FRESH
    {
        return Ok(Arc::clone(needs));
    }
    let needs = Arc::new(read(ui).await?);
    *last = Some((Instant::now(), Arc::clone(&needs)));
    Ok(needs)
}

async fn read(ui: &Ui) -> Result<Needs, Problem> {
    let (store, catalog) = (&ui.api.store, &ui.api.catalog);
    let mut all = Vec::new();
    let failing: HashMap<EndpointId, Timestamp> = store.failing_endpoints().await?.into_iter().collect();
    let endpoints = catalog.endpoints();
    let counted: Vec<EndpointId> = failing.keys().copied().take(BACKLOGS_MAX).collect();
    let backlogs: HashMap<EndpointId, Backlog> = counted.iter().copied().zip(store.backlogs(&counted).await?).collect();
    let is_well = |one: &Endpoint| one.new.state == EndpointState::Active && !failing.contains_key(&one.id);
    let mut unwell: Vec<_> = endpoints.iter().filter(|endpoint| !is_well(endpoint)).collect();
    unwell.sort_by(|one, other| one.new.name.cmp(&other.new.name));
    for endpoint in unwell {
        let name = || endpoint.new.name.to_string();
        match (endpoint.new.state, failing.get(&endpoint.id)) {
            (EndpointState::Active, Some(since)) => {
                let next = catalog.standing(endpoint.id).and_then(|standing| match standing.breaker {
                    Breaker::Open { until, .. } => Some(until),
                    _ => None,
                });
                let waiting = backlogs.get(&endpoint.id).and_then(|backlog| backlog.waiting);
                all.push(Need::Failing { endpoint: name(), since: *since, waiting, next });
            }
            (EndpointState::Disabled(reason), _) if reason != DisabledReason::ByHand => {
                all.push(Need::Disabled { endpoint: name(), reason });
            }
            _ => {}
        }
    }
    let filter = RunFilter { state: Some(RunState::Parked.as_str()), ..RunFilter::default() };
    let parked = store.runs(filter, PageRequest { cursor: None, limit: PARKED_COUNTED_MAX }).await?;
    let mut by_version: BTreeMap<(String, Option<String>), (u64, Option<String>)> = BTreeMap::new();
    for run in &parked.items {
        let place = (run.plugin.to_string(), run.version.map(|version| version.to_string()));
        let entry = by_version.entry(place).or_insert_with(|| (0, run.message.clone()));
        entry.0 += 1;
    }
    for ((plugin, version), (number, message)) in by_version {
        all.push(Need::Parked { plugin, version, number, message });
    }
    let table = catalog.plugins();
    for entry in table.iter() {
        if let Some(why) = &entry.refused {
            all.push(Need::Refused { plugin: entry.row.name.to_string(), why: why.clone() });
        }
    }
    for (file, why) in table.broken() {
        all.push(Need::Refused { plugin: file.to_owned(), why: why.to_owned() });
    }
    Ok(Needs { all })
}
