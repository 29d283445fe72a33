//! Commands of operators: when one is refused, and the words for it. Each refusal says why and what to do instead.

use super::{endpoint::EndpointState, id::ATTEMPTS_MAX, job::JOBS_RUNNING_MAX};

/// Refuses to send to an endpoint that is disabled or deleted. A paused one is accepted: its deliveries wait until it is resumed.
///
/// `endpoint` is its name, the word of its state and whether it is deleted; `None` if nothing is stored of it any more.
pub fn may_send(endpoint: Option<(&str, &str, bool)>) -> Result<(), String> {
    match endpoint {
        None => Err("its endpoint was deleted; replay the event instead".into()),
        Some((name, _, true)) => Err(format!("the endpoint {name:?} was deleted; replay the event instead")),
        Some((name, state, false)) => match EndpointState::parse(state) {
            Some(EndpointState::Disabled(_)) => Err(format!(
                "the endpoint {name:?} is disabled and takes nothing; enable it first: innesco endpoint resume {name}"
            )),
            _ => Ok(()),
        },
    }
}

/// Refuses another attempt of a delivery that has had all it can have.
pub fn may_attempt_again(attempts: i64) -> Result<(), String> {
    match attempts >= i64::from(ATTEMPTS_MAX) {
        true => Err(format!("it has had {ATTEMPTS_MAX} attempts, more than that are not kept; replay the event instead")),
        false => Ok(()),
    }
}

/// Refuses to cancel a delivery that is finished, in the state of this word.
pub fn cancels_no_finished_delivery(state: &str) -> String {
    format!("it is {state} already; only a waiting delivery can be cancelled")
}

/// Refuses to replay an event that waits to be run.
pub fn replays_no_waiting_event() -> String {
    "it is still waiting to be run".into()
}

/// Refuses a job when this many are running.
pub fn may_start_job(running: usize) -> Result<(), String> {
    match running >= JOBS_RUNNING_MAX {
        true => Err(format!("{running} jobs are running, as many as can at once; wait until one is done, or cancel one")),
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
    fn limits_are_reached_exactly() {
        let most = i64::from(ATTEMPTS_MAX);
        assert_eq!(may_attempt_again(most - 1), Ok(()));
        assert!(may_attempt_again(most).is_err());
        assert_eq!(may_start_job(JOBS_RUNNING_MAX - 1), Ok(()));
        assert!(may_start_job(JOBS_RUNNING_MAX).is_err());
    }
}
