//! Commands of operators: when a command is refused, and the text of the refusal. Each text says why and what to do instead.

use super::{endpoint::EndpointState, id::ATTEMPTS_MAX, job::JOBS_RUNNING_MAX, name::Slug};

/// Refuses to send to an endpoint that is disabled or deleted. A paused endpoint is accepted: its deliveries wait until it is
/// resumed.
///
/// `endpoint` is the endpoint's name, the word of its state, and whether it is deleted; `None` if the endpoint is no longer
/// stored.
pub fn may_send(endpoint: Option<(&str, &str, bool)>) -> Result<(), String> {
    match endpoint {
        None => Err("its endpoint was deleted; replay the event instead".into()),
        Some((name, _, true)) => Err(format!("the endpoint {name:?} was deleted; replay the event instead")),
        Some((name, state, false)) => match EndpointState::parse(state) {
            Some(EndpointState::Disabled(_)) => {
                Err(format!("the endpoint {name:?} is disabled; enable it first: innesco endpoint resume {name}"))
            }
            _ => Ok(()),
        },
    }
}

/// The use of an endpoint that is about to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointUse {
    /// Number of deliveries that wait for it, or are being sent.
    pub waiting: u64,
    /// Plugins that recently sent webhooks to the endpoint by its name, and how many of the endpoint's last webhooks each plugin
    /// sent.
    pub senders: Vec<(String, u64)>,
}

impl EndpointUse {
    /// Removes the plugins that are not among `serving`: such a plugin can no longer send to the endpoint.
    pub fn by(mut self, serving: &[Slug]) -> Self {
        self.senders.retain(|(plugin, _)| serving.iter().any(|name| **name == **plugin));
        self
    }
}

/// Refuses to delete an endpoint that is in use.
pub fn may_delete(name: &str, used: &EndpointUse) -> Result<(), String> {
    let EndpointUse { waiting, senders } = used;
    let waiting = match waiting {
        0 => None,
        1 => Some("1 delivery waits for it".to_owned()),
        more => Some(format!("{more} deliveries wait for it")),
    };
    let senders = senders.iter().map(|(plugin, count)| match count {
        1 => format!("the plugin {plugin} sent it 1 of its last webhooks"),
        count => format!("the plugin {plugin} sent it {count} of its last webhooks"),
    });
    let reasons: Vec<String> = waiting.into_iter().chain(senders).collect();
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "the endpoint {name:?} is in use: {}. Change it (innesco endpoint update {name}) or pause it (innesco endpoint pause {name}). To \
             delete it and cancel these webhooks: innesco endpoint remove {name} --force, or ?force=true",
            reasons.join(", ")
        )),
    }
}

/// Refuses another attempt of a delivery that has reached [`ATTEMPTS_MAX`].
pub fn may_attempt_again(attempts: i64) -> Result<(), String> {
    match attempts >= i64::from(ATTEMPTS_MAX) {
        true => Err(format!("it has had {ATTEMPTS_MAX} attempts, the maximum; replay the event instead")),
        false => Ok(()),
    }
}

/// Returns the refusal to cancel a finished delivery. `state` is the word of its state.
pub fn cancels_no_finished_delivery(state: &str) -> String {
    format!("it is already {state}; only a waiting delivery can be cancelled")
}

/// Returns the refusal to replay an event that still waits to be run.
pub fn replays_no_waiting_event() -> String {
    "it is still waiting to be run".into()
}

/// The facts about a run that decide whether a command is allowed.
#[derive(Clone, Copy, Debug)]
pub struct KnownRun {
    /// The run's row in the queue of runs, if it has one.
    pub queued: Option<QueuedRun>,
    pub ended_ok: bool,
    pub round: u32,
    /// The newest round of its event.
    pub newest_round: u32,
    /// Whether the run belongs to a deleted endpoint.
    pub is_orphan: bool,
}

/// A run's row in the queue of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuedRun {
    /// The run is due now or later.
    Waiting,
    /// A worker has claimed the run and may be executing it.
    Claimed,
    Parked,
}

/// What a retry does to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunRetry {
    /// The run's row in the queue becomes due.
    MakeDue,
    /// The run gets a row in the queue, which is due at once.
    Queue,
    /// The run is already being executed, so nothing changes.
    Nothing,
}

/// Decides what a retry does to a run.
///
/// # Errors
/// Returns why the retry is refused.
pub fn retry_run(run: KnownRun) -> Result<RunRetry, String> {
    if run.is_orphan {
        return Err("the endpoint that it belonged to was deleted; replay the event instead".into());
    }
    match run.queued {
        Some(QueuedRun::Waiting | QueuedRun::Parked) => Ok(RunRetry::MakeDue),
        Some(QueuedRun::Claimed) => Ok(RunRetry::Nothing),
        None if run.ended_ok => {
            Err("it ended ok, so it cannot be retried; to send its webhooks again as new ones, replay the event".into())
        }
        None if run.round < run.newest_round => {
            Err("its event was replayed since, and the replay ran this plugin again; retry the run of the replay".into())
        }
        None => Ok(RunRetry::Queue),
    }
}

/// Refuses to cancel a run that is not in the queue.
///
/// # Errors
/// Returns why the command is refused.
pub fn cancel_run(run: KnownRun) -> Result<(), String> {
    match run.queued {
        Some(_) => Ok(()),
        None if run.ended_ok => Err("it already ended ok; only a waiting or parked run can be cancelled".into()),
        None => Err("it is already cancelled".into()),
    }
}

/// Refuses a new job while the maximum number of jobs is running.
pub fn may_start_job(running: usize) -> Result<(), String> {
    match running >= JOBS_RUNNING_MAX {
        true => Err(format!("{running} jobs are running, the maximum; wait until one is done, or cancel one")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disabled_or_deleted_endpoint_refuses_and_says_what_to_do() {
        for (endpoint, expected) in [
            (Some(("crm", "active", false)), None),
            (Some(("crm", "paused", false)), None),
            (Some(("crm", "disabled", false)), Some("innesco endpoint resume crm")),
            (Some(("crm", "disabled-gone", false)), Some("innesco endpoint resume crm")),
            (Some(("crm", "active", true)), Some("the endpoint \"crm\" was deleted; replay the event instead")),
            (None, Some("replay the event instead")),
        ] {
            let refusal = may_send(endpoint).err();
            assert_eq!(refusal.is_some(), expected.is_some(), "{endpoint:?}: {refusal:?}");
            assert!(refusal.unwrap_or_default().ends_with(expected.unwrap_or_default()), "{endpoint:?}");
        }
    }

    #[test]
    fn an_endpoint_in_use_is_not_deleted() {
        let serving = [Slug::parse("router").unwrap()];
        let used = |waiting, senders: &[(&str, u64)]| EndpointUse {
            waiting,
            senders: senders.iter().map(|(plugin, count)| ((*plugin).to_owned(), *count)).collect(),
        };
        for (used, expected) in [
            (used(0, &[]), None),
            (used(0, &[("gone", 9)]), None),
            (used(1, &[]), Some("is in use: 1 delivery waits for it. Change it")),
            (used(100, &[]), Some("is in use: 100 deliveries wait for it. Change it")),
            (used(0, &[("router", 1)]), Some("is in use: the plugin router sent it 1 of its last webhooks. Change it")),
            (
                used(2, &[("gone", 9), ("router", 7)]),
                Some("is in use: 2 deliveries wait for it, the plugin router sent it 7 of its last webhooks. Change it"),
            ),
        ] {
            let refused = may_delete("crm", &used.clone().by(&serving)).err();
            assert_eq!(refused.is_some(), expected.is_some(), "{used:?}: {refused:?}");
            assert!(refused.unwrap_or_default().contains(expected.unwrap_or_default()), "{used:?}");
        }
    }

    #[test]
    fn a_run_is_retried_or_cancelled_unless_it_is_done() {
        let known = KnownRun { queued: None, ended_ok: false, round: 0, newest_round: 0, is_orphan: false };
        let queued = |queued| KnownRun { queued: Some(queued), ..known };
        let ended_ok = KnownRun { ended_ok: true, ..known };
        let replayed = KnownRun { newest_round: 1, ..known };
        let orphan = KnownRun { is_orphan: true, ..queued(QueuedRun::Parked) };
        for (what, run, retry, may_cancel) in [
            ("a parked run", queued(QueuedRun::Parked), Ok(RunRetry::MakeDue), true),
            ("a waiting run", queued(QueuedRun::Waiting), Ok(RunRetry::MakeDue), true),
            ("a run that is being executed", queued(QueuedRun::Claimed), Ok(RunRetry::Nothing), true),
            ("cancelled", known, Ok(RunRetry::Queue), false),
            ("a run that ended ok", ended_ok, Err("ended ok"), false),
            ("a run cancelled by a replay", replayed, Err("replayed since"), false),
            ("a run of a deleted endpoint", orphan, Err("was deleted"), true),
        ] {
            match (retry_run(run), retry) {
                (Ok(done), Ok(expected)) => assert_eq!(done, expected, "{what}"),
                (Err(refusal), Err(expected)) => assert!(refusal.contains(expected), "{what}: {refusal}"),
                (done, expected) => panic!("{what}: {done:?}, not {expected:?}"),
            }
            assert_eq!(cancel_run(run).is_ok(), may_cancel, "{what}");
        }
    }

    #[test]
    fn refuses_at_the_limit_and_not_one_below_it() {
        let most = i64::from(ATTEMPTS_MAX);
        assert_eq!(may_attempt_again(most - 1), Ok(()));
        assert!(may_attempt_again(most).is_err());
        assert_eq!(may_start_job(JOBS_RUNNING_MAX - 1), Ok(()));
        assert!(may_start_job(JOBS_RUNNING_MAX).is_err());
    }
}
