//! Amends settlements that the store refused, so that only the faulty runs lose their results and the rest of the event takes
//! effect. Each function here is pure: it takes the refused settlement and returns the amended one. The settler decides when to use
//! which function.

use crate::{
    domain::{id::CHILDREN_MAX, run::RunRecord, time::Timestamp},
    store::{Error, Settlement, Settles, StateFull},
};

/// Defers the runs at `places`, which lost a state conflict. They run again, one after another, and read the state anew.
pub fn state_conflict(settlement: Settlement, places: &[usize], now: Timestamp) -> Settlement {
    each_run(settlement, |place, run| if places.contains(&place) { run.defer(now) } else { run })
}

/// Parks the runs that send webhooks or schedule events, because the event would exceed its maximum number of children.
///
/// If the direct deliveries alone are too many, which takes many replays, this round sends nothing.
pub fn too_many(mut settlement: Settlement) -> Settlement {
    let adds = |run: &RunRecord| !run.deliveries().is_empty() || !run.scheduled().is_empty();
    if !settlement.runs.iter().any(adds) {
        let event = settlement.event.id.as_i64();
        tracing::error!(event, "the event has reached the maximum number of webhooks of an event; this replay sends none");
        settlement.direct.clear();
        settlement.runs.clear();
        return settlement;
    }
    let message = format!("the event would have more than {CHILDREN_MAX} webhooks or scheduled events over all its runs");
    each_run(settlement, |_, run| if adds(&run) { run.refuse("too_many_webhooks", message.clone()) } else { run })
}

/// Parks the runs that would exceed their plugin's limit of state. The message says how to free space.
pub fn state_full(settlement: Settlement, full: &[(usize, StateFull)]) -> Settlement {
    each_run(settlement, |place, run| {
        let Some((_, full)) = full.iter().find(|(full, _)| *full == place) else { return run };
        let plugin = &run.identity.plugin;
        if let StateFull::Scheduled { .. } = full {
            let message = format!(
                "plugin {plugin} would have {full}; raise the limit, or cancel events that caused some with `innesco event cancel \
                 EVENT`, then `innesco run retry RUN`"
            );
            return run.refuse("scheduled_limit", message);
        }
        let message = format!(
            "plugin {plugin} would keep {full}; have it delete what it no longer needs, raise the limit, or clear its state with \
             `innesco plugin state {plugin} --clear`, then `innesco run retry RUN`"
        );
        run.refuse("state_limit", message)
    })
}

/// Removes the results of plugins from a settlement that the store refuses even if it is alone in its batch. Returns `None` if the
/// settlement has no such results.
///
/// The runs of an event are deferred: each of them then runs and settles alone, so only the faulty run fails. A run that was
/// already alone is parked with the store's reason. Its log is removed, because any byte of the log may be the cause.
pub fn refused(settlement: Settlement, error: &Error, now: Timestamp) -> Option<Settlement> {
    let returned = |run: &RunRecord| run.outcome().is_some();
    if !settlement.runs.iter().any(returned) {
        return None;
    }
    let settles = settlement.settles;
    Some(each_run(settlement, |_, run| match settles {
        _ if !returned(&run) => run,
        Settles::Event { .. } => run.defer(now),
        Settles::Run { .. } => run.refuse("not_stored", format!("the store refuses the run's result: {error}")).without_log(),
    }))
}

fn each_run(mut settlement: Settlement, mut change: impl FnMut(usize, RunRecord) -> RunRecord) -> Settlement {
    settlement.runs = settlement.runs.into_iter().enumerate().map(|(place, run)| change(place, run)).collect();
    settlement
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{
            event::Event,
            id::{EndpointId, EventId, RunId},
            run::{Effects, RunOutcome, RunState},
        },
        store::{
            Lease,
            conformance::bench::{direct, event, identity, parked, ran, ran_with, state_effects, webhook},
        },
    };

    const NOW: Timestamp = Timestamp::from_millis(5);
    const CRM: EndpointId = EndpointId::from_i64(3);
    const EVENT: EventId = EventId::from_i64(1);
    const LEASE: Lease = Lease { token: 9, until: NOW };

    /// Returns a settlement of four runs: one sends, one writes state, one failed, and one was deferred.
    fn settlement() -> Settlement {
        let sends = ran_with("sends", Effects { deliveries: vec![webhook(CRM, "x")], ..Effects::default() });
        let writes = ran_with("writes", state_effects(&[("k", 0)], &[("k", Some(b"1"))]));
        let runs = vec![sends, writes, parked("failed", RunOutcome::Trapped), identity("deferred").deferred(NOW)];
        let event = Arc::new(Event { id: EVENT, accepted_at: NOW, new: event("order.created") });
        Settlement { settles: Settles::Event { id: EVENT, round: 0, lease: LEASE }, event, runs, direct: vec![direct(CRM)] }
    }

    /// Returns the state and the failure code of each run of a settlement.
    fn states(settlement: &Settlement) -> Vec<(&'static str, Option<&str>)> {
        settlement.runs.iter().map(|run| (run.state().as_str(), run.failure().map(|failure| failure.code.as_str()))).collect()
    }

    const DONE: (&str, Option<&str>) = (RunState::WORDS[0], None);
    const DEFERRED: (&str, Option<&str>) = (RunState::WORDS[1], None);
    const TRAPPED: (&str, Option<&str>) = (RunState::WORDS[2], Some("broken"));

    #[test]
    fn only_the_runs_that_lost_a_race_are_deferred() {
        let amended = state_conflict(settlement(), &[1], NOW);
        assert_eq!(states(&amended), [DONE, DEFERRED, TRAPPED, DEFERRED]);
        assert_eq!((amended.runs[1].state(), amended.runs[1].tries()), (RunState::Waiting { due: NOW }, 0));
        assert_eq!(amended.direct.len(), 1, "the rest of the event takes effect");
    }

    #[test]
    fn too_many_webhooks_park_the_runs_that_send() {
        let amended = too_many(settlement());
        assert_eq!(states(&amended), [("parked", Some("too_many_webhooks")), DONE, TRAPPED, DEFERRED]);
        assert_eq!((amended.runs[0].deliveries().len(), amended.direct.len()), (0, 1));
    }

    #[test]
    fn too_many_direct_deliveries_send_nothing() {
        let without_webhooks = Settlement { runs: vec![ran("p")], direct: vec![direct(CRM); 3], ..settlement() };
        let amended = too_many(without_webhooks);
        assert_eq!((amended.runs.len(), amended.direct.len()), (0, 0));
    }

    #[test]
    fn too_much_state_parks_the_run_and_says_how_to_free_space() {
        let amended = state_full(settlement(), &[(1, StateFull::Keys { limit: 3 })]);
        assert_eq!(states(&amended), [DONE, ("parked", Some("state_limit")), TRAPPED, DEFERRED]);
        let message = &amended.runs[1].failure().unwrap().message;
        assert!(message.contains("3 keys") && message.contains("innesco plugin state writes --clear"), "{message}");
        assert!(amended.runs[1].writes().is_empty());
    }

    #[test]
    fn an_event_that_the_store_refuses_keeps_its_direct_deliveries() {
        let amended = refused(settlement(), &Error::Full, NOW).unwrap();
        assert_eq!(states(&amended), [DEFERRED; 4]);
        assert!(amended.runs.iter().all(|run| run.tries() == 0 && !run.has_effect()));
        assert_eq!(amended.direct.len(), 1);
        assert!(refused(amended, &Error::Full, NOW).is_none(), "no plugin's result is left to remove");
    }

    #[test]
    fn a_run_that_the_store_refuses_alone_is_parked_without_its_log() {
        let settles = Settles::Run { id: RunId::from_i64(7), round: 0, lease: LEASE };
        for (name, run) in [("sends", ran("p")), ("failed", parked("p", RunOutcome::Failed))] {
            let alone = Settlement { settles, runs: vec![run], direct: Vec::new(), ..settlement() };
            let amended = refused(alone, &Error::Full, NOW).unwrap();
            assert_eq!(states(&amended), [("parked", Some("not_stored"))], "{name}");
            assert_eq!(amended.runs[0].tries(), 1, "{name}");
        }
    }
}
