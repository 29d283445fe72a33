//! What a webhook waits for, or how it ended.

use super::{Behind, DeliveryFact, Link, Situation, Standing, Step, Verdict, Why, passed};
use crate::domain::{
    breaker::Breaker,
    delivery::{AttemptOutcome, CancelReason, DeadReason, DeliveryState},
    endpoint::{DisabledReason, Endpoint, EndpointState},
};

/// Returns the webhook that decides: a dead webhook if there is one, otherwise a waiting one, otherwise a cancelled one,
/// otherwise a delivered one. Of earlier rounds, only waiting webhooks count.
pub fn decisive(deliveries: &[DeliveryFact], round: u32) -> Option<&DeliveryFact> {
    let rank = |one: &DeliveryFact| match one.state {
        DeliveryState::Dead { .. } => 0,
        DeliveryState::Pending { .. } | DeliveryState::Retrying { .. } => 1,
        DeliveryState::Cancelled { .. } => 2,
        DeliveryState::Delivered { .. } => 3,
    };
    deliveries.iter().filter(|one| rank(one) == 1 || one.round == round).min_by_key(|one| (rank(one), one.id))
}

/// Judges a webhook, and adds the links of sending to the chain.
pub fn judge(situation: &Situation<'_>, endpoint: &Endpoint, delivery: &DeliveryFact, chain: &mut Vec<Step>) -> Why {
    let id = delivery.id.text(situation.tag);
    let (name, retry) = (&endpoint.new.name, format!("innesco delivery retry {id}"));
    chain.push(passed(Link::Delivery, format!("{id} was created")));
    let judged = match delivery.state {
        DeliveryState::Delivered { at } => {
            let answer = delivery.last.map(|last| format!(": {}", answered(last))).unwrap_or_default();
            Why::new(Verdict::Delivered, Link::Delivery, format!("{id} was delivered{answer}")).at(at)
        }
        DeliveryState::Cancelled { at, reason } => {
            let by = match reason {
                Some(CancelReason::EndpointDeleted) => "because its endpoint was deleted",
                Some(CancelReason::ByHand) => "by hand",
                None => "before engines recorded the reason",
            };
            let change = Why::new(Verdict::Stopped, Link::Delivery, format!("{id} was cancelled {by}")).at(at);
            change.change("send it after all", [retry])
        }
        DeliveryState::Dead { at, reason } => dead(endpoint, &id, delivery, reason, retry).at(at),
        DeliveryState::Pending { due } | DeliveryState::Retrying { due } => match endpoint.new.state {
            EndpointState::Active => {
                chain.push(passed(Link::State, format!("{name} is active")));
                held(situation, endpoint, delivery, chain).unwrap_or_else(|| {
                    if !delivery.is_claimed && due > situation.now {
                        let tried = tried(delivery);
                        let waits =
                            Why::new(Verdict::Waiting, Link::Schedule, format!("{id} {tried}; its next attempt is not due yet"));
                        return waits.at(due).change("send it now", [retry]);
                    }
                    Why::new(Verdict::Waiting, Link::Delivery, format!("{id} is being sent, or is next"))
                })
            }
            EndpointState::Paused => Why::new(Verdict::Stopped, Link::State, format!("{name} is paused; {id} waits"))
                .change("resume the endpoint", [format!("innesco endpoint resume {name}")]),
            EndpointState::Disabled(reason) => {
                let reason = disabled(reason);
                Why::new(Verdict::Stopped, Link::State, format!("{name} is disabled ({reason}); {id} becomes dead"))
                    .change("resume the endpoint, then retry the delivery", [format!("innesco endpoint resume {name}"), retry])
            }
        },
    };
    chain.push(judged.step());
    judged
}

fn dead(endpoint: &Endpoint, id: &str, delivery: &DeliveryFact, reason: DeadReason, retry: String) -> Why {
    let name = &endpoint.new.name;
    let resume = format!("innesco endpoint resume {name}");
    let is_disabled = matches!(endpoint.new.state, EndpointState::Disabled(_));
    let (link, text) = match reason {
        DeadReason::Exhausted => {
            (Link::Schedule, format!("{id} is dead: it {}, and its schedule has no further attempt", tried(delivery)))
        }
        DeadReason::Gone => {
            (Link::State, format!("{id} is dead: the receiver answered 410 (gone), so it wants no more webhooks"))
        }
        DeadReason::EndpointDisabled => (Link::State, format!("{id} is dead: {name} was disabled")),
    };
    let why = Why::new(Verdict::Stopped, link, text);
    match is_disabled {
        true => why.change("repair the receiver and resume the endpoint, then retry the delivery", [resume, retry]),
        false => why.change("retry the delivery, once the receiver answers", [retry]),
    }
}

/// Returns what holds back a webhook of an active endpoint; `None` if only its schedule can hold it back.
fn held(situation: &Situation<'_>, endpoint: &Endpoint, delivery: &DeliveryFact, chain: &mut Vec<Step>) -> Option<Why> {
    let (name, policy) = (&endpoint.new.name, &endpoint.new.policy);
    let id = delivery.id.text(situation.tag);
    let due = match delivery.state {
        DeliveryState::Pending { due } | DeliveryState::Retrying { due } if !delivery.is_claimed => due,
        _ => situation.now,
    };
    if let Some(Standing { breaker, rate_until, .. }) = situation.standing {
        match breaker {
            Breaker::Open { until, .. } if due <= until => {
                let reason = format!(
                    "the circuit breaker of {name} is open after failures in a row; {id} waits, and then one webhook probes the receiver"
                );
                let open = Why::new(Verdict::Waiting, Link::Breaker, reason).at(until);
                return Some(
                    open.change("repair the receiver; see its answer to a test", [format!("innesco endpoint test {name}")]),
                );
            }
            Breaker::Probing { .. } if due <= situation.now && !delivery.is_claimed => {
                let reason = format!(
                    "the circuit breaker of {name} lets one webhook at a time through, to probe the receiver; {id} waits"
                );
                let probing = Why::new(Verdict::Waiting, Link::Breaker, reason);
                return Some(
                    probing.change("repair the receiver; see its answer to a test", [format!("innesco endpoint test {name}")]),
                );
            }
            Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Probing { .. } => {
                chain.push(passed(Link::Breaker, "the circuit breaker lets webhooks through".to_owned()));
            }
        }
        if let Some(until) = rate_until.filter(|until| due <= *until) {
            return Some(over_rate(endpoint, &id).at(until));
        }
    }
    if due <= situation.now
        && let Some(standing) = situation.standing
        && (standing.under_way > 0 || standing.waiting > 0)
    {
        if policy.rate.is_some() && (standing.waiting > 0 || standing.under_way >= standing.at_once) {
            return Some(over_rate(endpoint, &id));
        }
        if standing.under_way >= standing.at_once && !(delivery.is_claimed && standing.waiting == 0) && delivery.behind.is_none()
        {
            return Some(at_once(endpoint, &id, standing));
        }
    }
    match delivery.behind {
        Some(Behind::Delivery { id: first, attempts }) => {
            let first = first.text(situation.tag);
            let tried = if attempts > 0 { format!(", which failed {} so far", times(attempts)) } else { String::new() };
            let reason = format!("{name} is ordered: {id} waits behind {first}{tried}");
            let behind = Why::new(Verdict::Waiting, Link::Order, reason);
            Some(behind.change(
                format!("deliver {first}, or cancel it"),
                [format!("innesco delivery retry {first}"), format!("innesco delivery cancel {first}")],
            ))
        }
        Some(Behind::Event(first)) => {
            let first = first.text(situation.tag);
            let reason = format!("{name} is ordered: {id} waits until {first} has been run, whose webhooks may go first");
            Some(
                Why::new(Verdict::Waiting, Link::Order, reason)
                    .change(format!("see what {first} waits for"), [format!("innesco event show {first}")]),
            )
        }
        None => None,
    }
}

fn over_rate(endpoint: &Endpoint, id: &str) -> Why {
    let name = &endpoint.new.name;
    let rate = endpoint.new.policy.rate.map(|rate| format!(" ({rate})")).unwrap_or_default();
    let reason = format!("the rate of {name}{rate} is used up; {id} waits for its turn");
    Why::new(Verdict::Waiting, Link::Rate, reason)
        .change("raise the rate", [format!("innesco endpoint update {name} --rate RATE")])
}

fn at_once(endpoint: &Endpoint, id: &str, standing: Standing) -> Why {
    let (name, most) = (&endpoint.new.name, endpoint.new.policy.concurrency);
    let reason = format!("{} to {name} are under way, the maximum; {id} waits for its turn", webhooks(standing.under_way));
    let why = Why::new(Verdict::Waiting, Link::Concurrency, reason);
    match standing.at_once >= most {
        true => why.change("allow more at once", [format!("innesco endpoint update {name} --concurrency COUNT")]),
        // The receiver is slow or silent: the engine limits the number of concurrent webhooks until the receiver answers.
        false => why.change("see how the receiver answers", [format!("innesco endpoint test {name}")]),
    }
}

const fn disabled(reason: DisabledReason) -> &'static str {
    match reason {
        DisabledReason::ByHand => "by hand",
        DisabledReason::Gone => "it answered 410",
        DisabledReason::Failing => "nothing was delivered for too long",
    }
}

/// Returns a phrase such as `was tried 3 times, last: answered 503`.
fn tried(delivery: &DeliveryFact) -> String {
    match (delivery.attempts, delivery.last) {
        (0, _) => "was not tried yet".to_owned(),
        (attempts, None) => format!("was tried {}", times(attempts)),
        (attempts, Some(last)) => format!("was tried {}, last: {}", times(attempts), answered(last)),
    }
}

fn answered(outcome: AttemptOutcome) -> String {
    match outcome {
        AttemptOutcome::Answered { status } => format!("answered {status}"),
        other => other.as_str().to_owned(),
    }
}

pub fn times(number: u32) -> String {
    if number == 1 { "once".to_owned() } else { format!("{number} times") }
}

pub fn webhooks(number: usize) -> String {
    if number == 1 { "1 webhook".to_owned() } else { format!("{number} webhooks") }
}
