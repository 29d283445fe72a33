//! Config versions: makes workers wait until this process has read the configuration (endpoints, sources, keys, plugin settings)
//! that another node changed.
//!
//! The store announces the current config version with all work that it hands over. Before a worker runs an event, it waits until
//! this process has read that version. So an event sees every configuration change that was acknowledged before the event was
//! submitted, on any node. A store that belongs to one process announces nothing, so no worker waits.

use tokio::sync::watch;

/// The latest version that the store announced, and the latest that this process has read. Both only grow.
#[derive(Debug, Default)]
pub struct ConfigVersions {
    announced: watch::Sender<i64>,
    known: watch::Sender<i64>,
}

impl ConfigVersions {
    /// Announces `version`: the configuration in the store has this version or a later one.
    pub fn announce(&self, version: i64) {
        raise(&self.announced, version);
    }

    /// Reports that this process has read the configuration of `version` or a later one.
    pub fn set_known(&self, version: i64) {
        raise(&self.known, version);
    }

    /// Waits for the announcement of a version that this process has not read, and returns it.
    pub async fn changed(&self) -> i64 {
        let unknown = |announced: &i64| announced > &*self.known.borrow();
        let announced = self.announced.subscribe().wait_for(unknown).await.map(|announced| *announced);
        announced.expect("the sender lives as long as self")
    }

    /// Returns the latest version that was announced.
    pub fn announced(&self) -> i64 {
        *self.announced.borrow()
    }

    /// Waits until this process has read `version` or a later one.
    pub async fn known(&self, version: i64) {
        if *self.known.borrow() < version {
            let known = self.known.subscribe().wait_for(|known| *known >= version).await.map(drop);
            known.expect("the sender lives as long as self");
        }
    }
}

/// Raises a version. An earlier version that arrives late changes nothing.
fn raise(value: &watch::Sender<i64>, version: i64) {
    value.send_if_modified(|value| {
        let is_higher = version > *value;
        *value = version.max(*value);
        is_higher
    });
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// Polls once and returns the output if the future is ready.
    fn now<F: Future>(future: &mut Pin<&mut F>) -> Option<F::Output> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_worker_waits_for_the_announced_version_or_a_later_one() {
        let versions = ConfigVersions::default();
        assert!(now(&mut pin!(versions.known(0))).is_some(), "nothing was announced");
        versions.announce(3);
        let mut waits = pin!(versions.known(versions.announced()));
        for earlier in [1, 2] {
            versions.set_known(earlier);
            assert!(now(&mut waits).is_none(), "{earlier}");
        }
        versions.set_known(4);
        assert!(now(&mut waits).is_some());
    }

    #[test]
    fn versions_never_fall() {
        let versions = ConfigVersions::default();
        versions.announce(5);
        versions.announce(2);
        versions.set_known(5);
        versions.set_known(1);
        assert_eq!(versions.announced(), 5);
        assert!(now(&mut pin!(versions.known(5))).is_some());
        assert!(now(&mut pin!(versions.changed())).is_none(), "the announced version is known");
        versions.announce(6);
        assert_eq!(now(&mut pin!(versions.changed())), Some(6));
    }
}
