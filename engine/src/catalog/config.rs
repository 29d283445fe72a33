//! Follows the configuration that other nodes change: endpoints, plugin settings, sources and keys.
//!
//! [`ConfigVersions`] contains the announced version of the configuration. When this version grows, this loop reads the snapshots
//! again and marks the version as known. That releases the workers that wait for the version. There are two kinds of failure:
//!
//! - **The database is unreachable.** Workers wait, since this node may lack a change, and the loop soon reads again. Waiting costs
//!   the workers nothing, because they could not commit either.
//! - **A row cannot be read.** This node keeps its last configuration, and workers continue with it: one broken row must not stop
//!   every event. The loop reads again every few seconds, and logs the failure once.
//!
//! Runs need only endpoints and plugin settings. So a failure to read sources or keys delays no worker.

use std::{sync::Arc, time::Duration};

use super::{Catalog, Keys, Sources};
use crate::store::{self, ConfigVersions};

/// Pause between two readings while the database is unreachable.
const AWAY_RETRY: Duration = Duration::from_millis(500);
/// Pause between two readings while a row cannot be read. A change that is announced during the pause ends it.
const UNREADABLE_RETRY: Duration = Duration::from_secs(10);

/// Reads the configuration again whenever a new version is announced. Never ends.
pub async fn follow_config(versions: Arc<ConfigVersions>, catalog: Arc<Catalog>, sources: Arc<Sources>, keys: Arc<Keys>) {
    let mut before = Trouble::default();
    loop {
        let version = next_version(before, &versions).await;
        // The folder task loads plugins, which takes long. Nothing here waits for it.
        catalog.notify_plugins_changed();
        let reading = Reading {
            for_runs: [catalog.refresh_endpoints().await, catalog.refresh_plugin_configs().await],
            for_callers: [sources.refresh().await, keys.refresh().await],
        };
        before = apply(&reading, version, before, &versions);
    }
}

/// Results of one reading of the configuration.
struct Reading {
    /// Endpoints and plugin settings.
    for_runs: [Result<(), store::Error>; 2],
    /// Sources and keys.
    for_callers: [Result<(), store::Error>; 2],
}

impl Reading {
    fn errors(&self) -> impl Iterator<Item = &store::Error> {
        self.for_runs.iter().chain(&self.for_callers).filter_map(|read| read.as_ref().err())
    }

    fn trouble(&self) -> Trouble {
        Trouble { is_away: self.errors().any(store::Error::passes), is_unreadable: self.errors().any(|error| !error.passes()) }
    }

    /// Returns whether workers may continue: their configuration was read, or reading it again now would not help.
    fn suffices_for_runs(&self) -> bool {
        !self.for_runs.iter().any(|read| read.as_ref().is_err_and(store::Error::passes))
    }
}

/// The failures of the last reading. Both kinds of failure can occur together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trouble {
    is_away: bool,
    is_unreadable: bool,
}

impl Trouble {
    /// Returns the pause before the next reading. `None` waits until a change is announced.
    fn retry(self) -> Option<Duration> {
        match self {
            Self { is_away: true, .. } => Some(AWAY_RETRY),
            Self { is_unreadable: true, .. } => Some(UNREADABLE_RETRY),
            Self { is_away: false, is_unreadable: false } => None,
        }
    }
}

/// Waits until the configuration must be read, and returns the version that the reading will have.
async fn next_version(before: Trouble, versions: &ConfigVersions) -> i64 {
    match before.retry() {
        None => versions.changed().await,
        // While the database is unreachable, the announced version stays unknown, so waiting for a change would return at once.
        Some(retry) if before.is_away => {
            tokio::time::sleep(retry).await;
            versions.announced()
        }
        Some(retry) => tokio::time::timeout(retry, versions.changed()).await.unwrap_or_else(|_| versions.announced()),
    }
}

/// Releases workers if the reading suffices, and logs a new failure. Returns the current failures.
fn apply(reading: &Reading, version: i64, before: Trouble, versions: &ConfigVersions) -> Trouble {
    if reading.suffices_for_runs() {
        versions.set_known(version);
    }
    let unreadable = reading.errors().find(|error| !error.passes());
    if let (Some(error), false) = (unreadable, before.is_unreadable) {
        tracing::error!(
            %error,
            retry = ?UNREADABLE_RETRY,
            "changed configuration cannot be read; this node keeps the last one it could read, and tries again"
        );
    }
    reading.trouble()
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use tokio_util::sync::CancellationToken;

    use super::*;

    fn away() -> Result<(), store::Error> {
        Err(store::Error::Unavailable("no connection".to_owned()))
    }

    fn unreadable() -> Result<(), store::Error> {
        Err(store::Error::Internal("a row of another version".to_owned()))
    }

    fn read(endpoints: Result<(), store::Error>, keys: Result<(), store::Error>) -> Reading {
        Reading { for_runs: [endpoints, Ok(())], for_callers: [Ok(()), keys] }
    }

    /// Each case consists of the result of a reading, whether workers continue after it, and the pause before the next reading.
    #[test]
    fn an_unreachable_database_delays_workers_and_an_unreadable_row_does_not() {
        let cases = [
            (read(Ok(()), Ok(())), true, None),
            (read(away(), Ok(())), false, Some(AWAY_RETRY)),
            (read(Ok(()), away()), true, Some(AWAY_RETRY)),
            (read(unreadable(), Ok(())), true, Some(UNREADABLE_RETRY)),
            (read(Ok(()), unreadable()), true, Some(UNREADABLE_RETRY)),
            (read(unreadable(), away()), true, Some(AWAY_RETRY)),
            (read(away(), unreadable()), false, Some(AWAY_RETRY)),
        ];
        for (number, (reading, continues, retry)) in cases.into_iter().enumerate() {
            let versions = ConfigVersions::default();
            versions.announce(7);
            let trouble = apply(&reading, 7, Trouble::default(), &versions);
            let mut worker = pin!(versions.known(7));
            let is_ready = worker.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            assert_eq!((is_ready, trouble.retry()), (continues, retry), "case {number}");
        }
    }

    #[test]
    fn a_worker_that_waits_for_an_unreachable_database_can_be_stopped() {
        let (versions, stop) = (ConfigVersions::default(), CancellationToken::new());
        versions.announce(1);
        apply(&read(away(), Ok(())), 1, Trouble::default(), &versions);
        let mut worker = pin!(stop.run_until_cancelled(versions.known(1)));
        let mut poll = || worker.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll(), Poll::Pending);
        stop.cancel();
        assert_eq!(poll(), Poll::Ready(None));
    }
}
