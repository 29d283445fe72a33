//! `innesco send --wait`: follows one event until each of its runs and webhooks has ended.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;

use super::{
    client::Client,
    event,
    measure::count,
    output::{self, Printer},
};
use crate::wire::{DeliveryStoryView, EventStoryView};

/// Pause between two requests for the event. The pause doubles up to a maximum, because a webhook may wait for its retry for hours.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Waits, and prints runs and attempts as they end.
///
/// # Errors
/// If a run is parked, or a webhook is dead or cancelled.
pub fn until_settled(client: &Client, id: &str, out: &Printer) -> anyhow::Result<()> {
    let mut printed = Printed::default();
    let mut pause = PAUSE_MIN;
    let mut was_advised = false;
    loop {
        let (story, json) = event::history(client, id)?;
        let page = printed.news_of(&story, out);
        if !page.is_empty() && !out.for_script() {
            output::print(page.trim_start_matches('\n'))?;
            pause = PAUSE_MIN;
        }
        if is_settled(&story) {
            if out.for_script() {
                output::print(&json)?;
            }
            return verdict(&story);
        }
        if story.event.parts.deliveries.retrying > 0 && !out.for_script() && !std::mem::replace(&mut was_advised, true) {
            output::tell!("waiting for the next attempt; Ctrl-C ends only this command, not the retries");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn is_settled(story: &EventStoryView) -> bool {
    let parts = &story.event.parts;
    !parts.to_run && parts.runs.waiting == 0 && parts.deliveries.pending == 0 && parts.deliveries.retrying == 0
}

fn verdict(story: &EventStoryView) -> anyhow::Result<()> {
    let (event, parts) = (&story.event.event, &story.event.parts);
    let bad = [
        (parts.runs.parked, "run", "parked"),
        (parts.deliveries.dead, "webhook", "dead"),
        (parts.deliveries.cancelled, "webhook", "cancelled"),
    ];
    let bad: Vec<String> = bad
        .iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, noun, word)| format!("{} {word}", count(*number, noun)))
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    bail!("{event}: {}; see what to do with: innesco event show {event}", bad.join(", "))
}

/// The runs and attempts of an event that were already printed.
#[derive(Default)]
struct Printed {
    /// State and tries of each run, by id.
    runs: BTreeMap<String, (String, u32)>,
    /// State and number of attempts of each delivery, by id.
    deliveries: BTreeMap<String, (String, u32)>,
    emitted: usize,
    is_unrouted: bool,
}

impl Printed {
    /// Formats the runs and attempts that ended since the last request.
    fn news_of(&mut self, story: &EventStoryView, out: &Printer) -> String {
        let mut page = String::new();
        for run_story in &story.runs {
            let run = &run_story.run;
            let now = (run.state.to_string(), run.tries);
            if run.outcome.is_some() && self.runs.insert(run.id.clone(), now.clone()) != Some(now) {
                // Writing into a string cannot fail.
                let _ = event::write_run(&mut page, run_story, out);
            }
        }
        for delivery_story in &story.deliveries {
            let delivery = &delivery_story.delivery;
            let now = (delivery.state.to_string(), delivery.attempt_count);
            let before = self.deliveries.insert(delivery.id.clone(), now.clone());
            if delivery.state != "pending" && before.as_ref() != Some(&now) {
                let known = before.map_or(0, |(_, attempts)| attempts);
                let attempts = delivery_story.attempts.iter().filter(|attempt| attempt.n > known).cloned().collect();
                let _ = event::write_delivery(
                    &mut page,
                    &DeliveryStoryView { delivery: delivery.clone(), attempts, request: None },
                    out,
                );
            }
        }
        if story.emitted.len() > self.emitted {
            page.push_str(&format!("\nemitted   {}\n", story.emitted[self.emitted..].join("  ")));
            self.emitted = story.emitted.len();
        }
        if story.event.state == "unrouted" && !std::mem::replace(&mut self.is_unrouted, true) {
            page.push_str(&format!("\n{}\n", event::unrouted(story)));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{
            examples::{self, delivery, read, run, with},
            output::Reader,
        },
        *,
    };

    fn parts(changes: Value) -> Value {
        let mut parts = json!({
            "to_run": false,
            "runs": { "waiting": 0, "parked": 0 },
            "deliveries": { "total": 1, "pending": 0, "retrying": 0, "delivered": 0, "dead": 0, "cancelled": 0 },
        });
        for (pointer, number) in changes.as_object().unwrap() {
            *parts.pointer_mut(pointer).unwrap() = number.clone();
        }
        parts
    }

    fn event(changes: Value, more: Value) -> EventStoryView {
        read(with(with(examples::event(), json!({ "event": "evt_1", "parts": parts(changes) })), more))
    }

    #[test]
    fn waits_for_each_part_and_then_names_the_failed_ones() {
        for (changes, settled, failed) in [
            (json!({ "/to_run": true }), false, ""),
            (json!({ "/runs/waiting": 1 }), false, ""),
            (json!({ "/deliveries/pending": 1 }), false, ""),
            (json!({ "/deliveries/retrying": 1, "/deliveries/dead": 1 }), false, "1 webhook dead"),
            (json!({ "/deliveries/delivered": 1 }), true, ""),
            (json!({ "/runs/parked": 2 }), true, "2 runs parked"),
            (json!({ "/runs/parked": 1, "/deliveries/dead": 3 }), true, "1 run parked, 3 webhooks dead"),
            (json!({ "/deliveries/cancelled": 1 }), true, "1 webhook cancelled"),
        ] {
            let story = event(changes.clone(), json!({}));
            assert_eq!(is_settled(&story), settled, "{changes}");
            let said = verdict(&story).err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(said.is_empty(), failed.is_empty(), "{changes}: {said}");
            assert!(said.contains(failed), "{changes}: {said}");
        }
    }

    #[test]
    fn each_run_and_attempt_is_printed_once() {
        let out = Printer::of(Reader::Pipe, "2026-11-24T09:20:00Z");
        let attempt = |n: u32, status: u16| examples::attempt(json!({ "n": n, "status": status }));
        let webhook = |state: &str, attempts: Vec<Value>| {
            with(delivery(), json!({ "id": "dlv_1", "state": state, "attempt_count": attempts.len(), "attempts": attempts }))
        };
        let mut printed = Printed::default();
        let mut look = |runs: Vec<Value>, deliveries: Vec<Value>| {
            let text = printed.news_of(&event(json!({}), json!({ "runs": runs, "deliveries": deliveries })), &out);
            anstream::adapter::strip_str(&text).to_string()
        };
        let ran = || vec![run()];
        assert_eq!(look(vec![], vec![]), "");
        let first = look(ran(), vec![webhook("pending", vec![])]);
        assert!(first.contains("\nrun ") && !first.contains("webhook   →"), "{first}");
        let second = look(ran(), vec![webhook("retrying", vec![attempt(1, 503)])]);
        assert!(second.contains("503") && !second.contains("\nrun "), "{second}");
        assert_eq!(look(ran(), vec![webhook("retrying", vec![attempt(1, 503)])]), "");
        let third = look(ran(), vec![webhook("delivered", vec![attempt(1, 503), attempt(2, 200)])]);
        assert!(third.contains("200") && !third.contains("503"), "{third}");
    }
}
