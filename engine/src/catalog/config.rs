//! Follows the configuration that other nodes change: endpoints, plugin settings, sources and keys.
//!
//! [`ConfigVersions`] says which version is announced. This loop reads the snapshots again and reports the version as known, so that
//! workers that wait for it go on. Two kinds of failure differ:
//!
//! - **The database is away.** Workers wait, since a change may be missing here; the loop reads again soon. They lose nothing by it: they
//!   cannot commit either.
//! - **A row cannot be read.** This node keeps what it read last and workers go on with it: one broken row must not stop every event. The
//!   loop reads again from time to time, and logs the failure once.
//!
//! Runs need endpoints and plugin settings only. A failure to read sources or keys therefore holds up no worker.

use std::{sync::Arc, time::Duration};

use super::{Catalog, Keys, Sources};
use crate::store::{self, ConfigVersions};

/// Between two readings while the database is away.
const AWAY_RETRY: Duration = Duration::from_millis(500);
/// Between two readings while a row cannot be read, unless a change is announced earlier.
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

/// What one reading of the configuration gave.
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

    /// Returns whether workers may go on: what they need was read, or reading it again now would not help.
    fn suffices_for_runs(&self) -> bool {
        !self.for_runs.iter().any(|read| read.as_ref().is_err_and(store::Error::passes))
    }
}

/// What was wrong with the last reading. Both can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trouble {
    is_away: bool,
    is_unreadable: bool,
}

impl Trouble {
    /// Returns how long to wait before the next reading, if no change is announced. `None`: until one is.
    fn retry(self) -> Option<Duration> {
        match self {
            Self { is_away: true, .. } => Some(AWAY_RETRY),
            Self { is_unreadable: true, .. } => Some(UNREADABLE_RETRY),
            Self { is_away: false, is_unreadable: false } => None,
        }
    }
}

/// Waits until the configuration has to be read, and returns the version that the reading will be good for.
async fn next_version(before: Trouble, versions: &ConfigVersions) -> i64 {
    match before.retry() {
        None => versions.changed().await,
        // The announced version stays unknown while the database is away, so waiting for a change would not wait at all.
        Some(retry) if before.is_away => {
            tokio::time::sleep(retry).await;
            versions.announced()
        }
        Some(retry) => tokio::time::timeout(retry, versions.changed()).await.unwrap_or_else(|_| versions.announced()),
    }
}

/// Lets workers go on if the reading suffices, and logs a new failure. Returns what is wrong now.
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

    /// A reading, whether workers go on after it, and when the next one follows.
    #[test]
    fn an_absent_database_holds_workers_up_and_an_unreadable_row_does_not() {
        let cases = [
            (read(Ok(()), Ok(())), true, None),
            (read(away(), Ok(())), false, Some(AWAY_RETRY)),
            (read(Ok(()), away()), true, Some(AWAY_RETRY)),
            (read(unreadable(), Ok(())), true, Some(UNREADABLE_RETRY)),
            (read(Ok(()), unreadable()), true, Some(UNREADABLE_RETRY)),
            (read(unreadable(), away()), true, Some(AWAY_RETRY)),
            (read(away(), unreadable()), false, Some(AWAY_RETRY)),
        ];
        for (number, (reading, goes_on, retry)) in cases.into_iter().enumerate() {
            let versions = ConfigVersions::default();
            versions.announce(7);
            let trouble = apply(&reading, 7, Trouble::default(), &versions);
            let mut worker = pin!(versions.known(7));
            let is_ready = worker.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            assert_eq!((is_ready, trouble.retry()), (goes_on, retry), "case {number}");
        }
    }

    #[test]
    fn a_worker_that_waits_for_an_absent_database_can_be_stopped() {
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
