//! The claimer: brings back what is due and in nobody's hands: after a restart, for retries, and what found no room in memory.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    store::{Handoff, Store},
};

/// How often the store is asked although nothing rang. A lost wake-up costs this, never an event.
const POLL: Duration = Duration::from_secs(5);
/// How long to wait for room when what is due finds none.
const FULL: Duration = Duration::from_millis(500);

pub async fn run(store: Arc<dyn Store>, handoff: Handoff, stop: CancellationToken) {
    loop {
        let look = async {
            // Cleared before looking: whoever stores something due from here on rings.
            handoff.alarm.clear();
            let now = clock::steady();
            let claimed = store.claim_due(now).await?;
            let next = if claimed == 0 { store.next_due(now).await? } else { None };
            Ok::<_, crate::store::Error>((now, claimed, next))
        };
        let wait = match look.await {
            Ok((_, 1.., _)) => Wait::No,
            Ok((now, 0, Some(due))) if due <= now => Wait::ForRoom,
            Ok((_, 0, due)) => {
                if let Some(due) = due {
                    handoff.alarm.arm(due);
                }
                Wait::ForAlarm
            }
            Err(error) => {
                tracing::debug!(%error, "what is due could not be claimed; trying again");
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

enum Wait {
    No,
    ForRoom,
    ForAlarm,
}
