//! Weights: how many bytes of memory a value takes while it waits for the store. The byte limits are only as exact as these sums.
//! So each sum names every field: if a field is added, the code does not compile until the field's weight is decided here.

use super::{Arrival, AttemptRecord, Settlement, accept};
use crate::domain::{
    delivery::{Attempt, NewDelivery, Payload},
    event::{Event, NewEvent},
    recording::Recording,
    run::{
        AfterFailure, Effects, Execution, LogLine, RunEnd, RunFailure, RunIdentity, RunLog, RunRecord, Scheduled, StateRead,
        StateUse, StateWrite,
    },
    sent::SentAs,
};

/// Weight of a row, its index entry and its value in memory, without its texts and bytes.
const ROW: usize = 256;
/// Weight of a list element without its texts: pointers, lengths, overhead of the allocator.
const ELEMENT: usize = 32;

/// Returns the weight of a settlement without its event, which has a separate slot in the hand-off.
pub fn settlement(settlement: &Settlement) -> usize {
    let Settlement { settles: _, event: _, runs, direct } = settlement;
    runs.iter().map(run).sum::<usize>() + direct.iter().map(delivery).sum::<usize>()
}

/// Returns the weight of an event to be stored, with its settlement.
pub fn arrival(arrival: &Arrival) -> usize {
    match arrival {
        Arrival::New(new) => event(new),
        Arrival::Settled(settled) => event(&settled.event.new) + settlement(settled),
    }
}

/// Returns the weight of a run's record.
pub fn run(record: &RunRecord) -> usize {
    let RunRecord { identity: RunIdentity { id: _, plugin, endpoint: _, tries_before: _ }, end } = record;
    let of_end = match end {
        RunEnd::Deferred { due: _ } => 0,
        RunEnd::Ok { execution, effects } => self::execution(execution) + self::effects(effects),
        RunEnd::Failed { execution, failure, then } => {
            let RunFailure { outcome: _, code, message, retryable: _ } = failure;
            execution.as_ref().map_or(0, self::execution) + code.len() + message.len() + after_failure(then)
        }
    };
    ROW + plugin.len() + of_end
}

fn execution(execution: &Execution) -> usize {
    let Execution { version: _, took: _, memory_peak: _, log: RunLog { lines, dropped: _ }, recording, backtrace } = execution;
    let Recording { settings: _, at: _, state } = recording;
    let of_read = |(key, value): &(String, Option<Vec<u8>>)| ELEMENT + key.len() + value.as_ref().map_or(0, Vec::len);
    let of_field = |(name, value): &(String, String)| ELEMENT + name.len() + value.len();
    let of_line =
        |LogLine { level: _, message, fields }: &LogLine| ELEMENT + message.len() + fields.iter().map(of_field).sum::<usize>();
    lines.iter().map(of_line).sum::<usize>()
        + state.read().iter().map(of_read).sum::<usize>()
        + backtrace.iter().map(|line| ELEMENT + line.len()).sum::<usize>()
}

fn effects(effects: &Effects) -> usize {
    let Effects { deliveries, emitted, scheduled, state_use: StateUse { reads, writes } } = effects;
    let of_read = |StateRead { key, version: _ }: &StateRead| ELEMENT + key.len();
    let of_write = |StateWrite { key, value, expires_at: _ }: &StateWrite| ROW + key.len() + value.as_ref().map_or(0, Vec::len);
    deliveries.iter().map(delivery).sum::<usize>()
        + emitted.iter().map(event).sum::<usize>()
        + scheduled.iter().map(|Scheduled { after: _, event }| self::event(event)).sum::<usize>()
        + reads.iter().map(of_read).sum::<usize>()
        + writes.iter().map(of_write).sum::<usize>()
}

fn after_failure(then: &AfterFailure) -> usize {
    match then {
        AfterFailure::Again { due: _ } => 0,
        AfterFailure::Parked { wants, notice } => wants.as_ref().map_or(0, String::len) + notice.as_deref().map_or(0, event),
    }
}

fn delivery(new: &NewDelivery) -> usize {
    let NewDelivery { endpoint: _, payload, initial_state: _, ordering: _ } = new;
    ROW + payload.as_deref().map_or(0, self::payload)
}

/// Returns the weight of an attempt that waits to be recorded.
pub fn attempt(record: &AttemptRecord) -> usize {
    let AttemptRecord { delivery: _, endpoint: _, lease: _, n: _, attempt, sent, next: _, notices } = record;
    let Attempt { at: _, outcome: _, latency: _, detail, excerpt, retry_after: _ } = attempt;
    let SentAs { url, scheme: _, token_header, envelope: _, format: _, headers } = sent;
    let of_header = |(name, value): &(String, String)| ELEMENT + name.len() + value.len();
    let of_sent = url.len() + token_header.as_ref().map_or(0, String::len) + headers.iter().map(of_header).sum::<usize>();
    ROW + of_sent + detail.as_ref().map_or(0, String::len) + excerpt.len() + notices.iter().map(event).sum::<usize>()
}

/// Returns the weight of a delivery that waits in memory.
pub fn waiting(event: &Event, payload: Option<&Payload>) -> usize {
    self::event(&event.new) + payload.map_or(0, self::payload)
}

/// Returns the weight of a webhook's content that a plugin made.
pub fn payload(payload: &Payload) -> usize {
    let Payload { event_type, content_type, headers, body } = payload;
    let of_header = |(name, value): &(String, String)| ELEMENT + name.len() + value.len();
    event_type.as_deref().map_or(0, str::len) + content_type.len() + headers.iter().map(of_header).sum::<usize>() + body.len()
}

/// Returns the weight of an event.
pub fn event(event: &NewEvent) -> usize {
    let NewEvent { id, source, event_type, subject, time: _, content, attributes, depth: _, cause: _, request } = event;
    let of_attribute = |(name, value): &(String, String)| ELEMENT + name.len() + value.len();
    accept::EVENT_WEIGHT
        + id.as_ref().map_or(0, |id| id.len())
        + source.len()
        + event_type.len()
        + subject.as_ref().map_or(0, |subject| subject.len())
        + content.content_type().len()
        + content.bytes().len()
        + attributes.0.iter().map(of_attribute).sum::<usize>()
        + request.as_ref().map_or(0, |request| request.weight())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{
            content::Content,
            id::EndpointId,
            name::Attributes,
            run::{LogLevel, RunOutcome},
        },
        store::conformance::bench::{direct, event as an_event, parked, parked_for, ran, ran_with, state_effects, webhook},
    };

    const MANY: usize = 10_000;

    #[test]
    fn everything_that_a_run_returns_is_weighed() {
        let text = "x".repeat(MANY);
        let endpoint = EndpointId::from_i64(1);
        let bare = ran("p");
        let emitted = NewEvent { content: Content::octets(text.clone().into()), ..an_event("a") };
        let attributed = NewEvent { attributes: Arc::new(Attributes(vec![("a".into(), text.clone())])), ..an_event("a") };
        let with_header = |mut delivery: NewDelivery| {
            let headers = vec![("x-a".to_owned(), text.clone())];
            delivery.payload = delivery.payload.map(|payload| Arc::new(Payload { headers, ..(*payload).clone() }));
            delivery
        };
        let with = |effects: Effects| ran_with("p", effects);
        let mut reported = parked("p", RunOutcome::Trapped);
        reported.set_notice(Some(emitted.clone()));
        let mut logged = ran("p");
        if let RunEnd::Ok { execution, .. } = &mut logged.end {
            execution.log.lines = vec![LogLine { level: LogLevel::Info, message: text.clone(), fields: vec![] }];
        }
        let mut with_fact = ran("p");
        if let RunEnd::Ok { execution, .. } = &mut with_fact.end {
            let fields = vec![("a".to_owned(), text.clone())];
            execution.log.lines = vec![LogLine { level: LogLevel::Info, message: String::new(), fields }];
        }
        let mut traced = ran("p");
        if let RunEnd::Ok { execution, .. } = &mut traced.end {
            execution.backtrace = Arc::from([text.clone()]);
        }
        let wanting = parked_for("p", &text);
        let returned = [
            ("a webhook's body", with(Effects { deliveries: vec![webhook(endpoint, &text)], ..Effects::default() })),
            ("a webhook's header", with(Effects { deliveries: vec![with_header(webhook(endpoint, ""))], ..Effects::default() })),
            ("an event's data", with(Effects { emitted: vec![emitted], ..Effects::default() })),
            ("an event's attributes", with(Effects { emitted: vec![attributed], ..Effects::default() })),
            ("a notice", reported),
            ("a log line", logged),
            ("a field of a log line", with_fact),
            ("a line of a backtrace", traced),
            ("a missing endpoint's name", wanting),
            ("a value of state", with(state_effects(&[], &[("k", Some(text.as_bytes()))]))),
            ("a key of state", with(state_effects(&[(&text, 0)], &[]))),
        ];
        for (what, record) in returned {
            assert!(run(&record) >= run(&bare) + MANY, "{what} weighs nothing");
        }
        assert!(delivery(&direct(endpoint)) >= ROW, "even an empty delivery weighs as much as a row");
    }
}
