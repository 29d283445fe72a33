//! Early runs: the plugins of an event run before the event is stored. The thread that ran them queues the event with its results for
//! the next commit, and the request waits for that commit. So the request is not woken in between.
//!
//! The request waits only a short time for the runs. Then it stores the event itself, without results. Exactly one of the two stores the
//! event: the one that first sets the flag that they share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Arrived, Error, EventSlot, Room, Settlement};

/// The results of an event that is not stored yet.
pub struct EarlyRun {
    pub settlement: Settlement,
    /// The event's place in the hand-off, held until the event is stored.
    pub slot: EventSlot,
    /// The bytes of the results in the budget, held until the event is stored.
    pub room: Room,
}

/// Takes the result of storing an event with its results.
pub type RunAnswer = oneshot::Sender<Result<RunStored, Error>>;

/// Result of storing an event with its results.
pub struct RunStored {
    pub arrived: Vec<Arrived>,
    /// What the run held until now.
    pub held: (EventSlot, Room),
}

/// The request whose event is run early, for the thread that runs it.
pub struct EarlyCaller {
    answer: RunAnswer,
    decided: Arc<AtomicBool>,
}

impl EarlyCaller {
    pub fn new() -> (Self, EarlyAnswer) {
        let (answer, stored) = oneshot::channel();
        let decided = Arc::<AtomicBool>::default();
        (Self { answer, decided: Arc::clone(&decided) }, EarlyAnswer { stored, decided })
    }

    /// Returns whether the request waits no longer.
    pub fn has_left(&self) -> bool {
        self.decided.load(Ordering::Acquire)
    }

    /// From now on, the request waits until the event is stored with its results. Returns `None` if the request waits no longer.
    pub fn keep(self) -> Option<RunAnswer> {
        (!self.decided.swap(true, Ordering::AcqRel)).then_some(self.answer)
    }
}

/// The wait of a request for the early run of its event.
pub struct EarlyAnswer {
    stored: oneshot::Receiver<Result<RunStored, Error>>,
    decided: Arc<AtomicBool>,
}

impl EarlyAnswer {
    /// Waits until the event is stored with its results. Returns `None` if there are no results within `time`. Then this event is not
    /// stored with results later either.
    pub async fn within(mut self, time: Duration) -> Option<Result<Vec<Arrived>, Error>> {
        let stored = match tokio::time::timeout(time, &mut self.stored).await {
            Ok(stored) => stored,
            Err(_) if !self.decided.swap(true, Ordering::AcqRel) => return None,
            // The store has the results.
            Err(_) => self.stored.await,
        };
        Some(stored.ok()?.map(|stored| stored.arrived))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Handoff;

    async fn stored() -> Result<RunStored, Error> {
        let handoff = Handoff::default();
        let held = (handoff.events.reserve(&(), 1).unwrap(), handoff.outcomes.reserve(1).await.unwrap());
        Ok(RunStored { arrived: Vec::new(), held })
    }

    #[tokio::test]
    async fn a_request_that_left_leaves_the_results_unused() {
        let (caller, answer) = EarlyCaller::new();
        assert!(!caller.has_left());
        assert!(answer.within(Duration::ZERO).await.is_none());
        assert!(caller.has_left());
        assert!(caller.keep().is_none());
    }

    #[tokio::test]
    async fn a_request_waits_for_results_that_are_being_stored() {
        let (caller, answer) = EarlyCaller::new();
        let to_store = caller.keep().unwrap();
        let storing = async {
            tokio::task::yield_now().await;
            assert!(to_store.send(stored().await).is_ok(), "the request still waits");
        };
        let (arrived, ()) = tokio::join!(answer.within(Duration::ZERO), storing);
        assert!(arrived.unwrap().is_ok());
    }

    #[tokio::test]
    async fn without_results_the_request_stores_the_event() {
        let (caller, answer) = EarlyCaller::new();
        drop(caller);
        assert!(answer.within(Duration::MAX).await.is_none(), "the run failed");
        let (caller, answer) = EarlyCaller::new();
        drop(caller.keep());
        assert!(answer.within(Duration::ZERO).await.is_none(), "the store was closed");
    }
}
