//! The claimer: claims due events, runs and deliveries that no worker holds. Such rows exist after a restart, for retries, and if
//! memory had no room for them.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    domain::time::Timestamp,
    store::{Error, Handoff, Store},
};

/// How often the store is asked without a wake-up. A lost wake-up delays work by at most this interval, and loses no event.
const POLL: Duration = Duration::from_secs(5);
/// How long to wait if due rows find no room, or if the store has failed.
const FULL: Duration = Duration::from_millis(500);

/// The condition that the next step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: there may be more to claim.
    No,
    /// Room in the hand-off: something is due and was not claimed.
    ForRoom,
    /// A wake-up: nothing is due.
    ForAlarm,
}

pub async fn run(store: Arc<dyn Store>, handoff: Handoff, stop: CancellationToken) {
    loop {
        let wait = match step(&*store, &handoff, clock::steady()).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::debug!(%error, "claiming failed; retrying");
                Wait::ForRoom
            }
        };
        let waiting = async {
            match wait {
                Wait::No => {}
                Wait::ForRoom => handoff.alarm.wait_for_room(FULL).await,
                Wait::ForAlarm => handoff.alarm.wait(POLL).await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = waiting => {}
        }
    }
}

/// Claims once, and sets the alarm for the next due row.
pub async fn step(store: &dyn Store, handoff: &Handoff, now: Timestamp) -> Result<Wait, Error> {
    // The alarm is cleared before the claim, so that a row that becomes due from here on sets it again.
    handoff.alarm.clear();
    if store.claim_due(now).await? > 0 {
        return Ok(Wait::No);
    }
    Ok(match store.next_due(now).await? {
        Some(due) if due <= now => Wait::ForRoom,
        due => {
            if let Some(due) = due {
                handoff.alarm.arm(due);
            }
            Wait::ForAlarm
        }
    })
}
