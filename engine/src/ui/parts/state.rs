//! States: always a shape, a word and a colour. Only this module translates the API's words for states into the reader's language.

use maud::{Markup, html};

use super::shape;
use crate::{
    domain::event::EventState,
    ui::{
        Ui,
        texts::{Formats, Texts},
    },
    wire::{DeliveryView, EventView, LastView, RunView},
};

/// The colour of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Ok,
    Calm,
    Wait,
    Bad,
    Held,
    Shadow,
}

impl Tone {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Calm => "calm",
            Self::Wait => "wait",
            Self::Bad => "bad",
            Self::Held => "held",
            Self::Shadow => "shadow",
        }
    }
}

/// Symbols of states in the sprite.
#[cfg(test)]
pub const SHAPES: [&str; 11] =
    ["s-ok", "s-pending", "s-none", "s-retry", "s-warn", "s-fail", "s-dead", "s-pause", "s-held", "s-shadow", "s-sub"];

/// A state as a page shows it.
#[derive(Clone, Copy)]
pub struct State {
    pub tone: Tone,
    pub shape: &'static str,
    pub word: &'static str,
}

const fn state(tone: Tone, shape: &'static str, word: &'static str) -> State {
    State { tone, shape, word }
}

/// Returns the state for a word that this version does not know. The word is shown unchanged, without a colour.
const fn other(word: &'static str) -> State {
    state(Tone::Calm, "s-none", word)
}

impl State {
    pub const fn ok(word: &'static str) -> Self {
        state(Tone::Ok, "s-ok", word)
    }

    pub const fn pending(word: &'static str) -> Self {
        state(Tone::Calm, "s-pending", word)
    }

    pub const fn calm(word: &'static str) -> Self {
        other(word)
    }

    pub const fn retrying(word: &'static str) -> Self {
        state(Tone::Wait, "s-retry", word)
    }

    pub const fn warning(word: &'static str) -> Self {
        state(Tone::Wait, "s-warn", word)
    }

    pub const fn failed(word: &'static str) -> Self {
        state(Tone::Bad, "s-fail", word)
    }

    pub const fn dead(word: &'static str) -> Self {
        state(Tone::Bad, "s-dead", word)
    }

    pub const fn paused(word: &'static str) -> Self {
        state(Tone::Held, "s-pause", word)
    }

    pub const fn held(word: &'static str) -> Self {
        state(Tone::Held, "s-held", word)
    }

    pub const fn shadow(word: &'static str) -> Self {
        state(Tone::Shadow, "s-shadow", word)
    }

    pub fn of_event(word: &str, texts: &Texts) -> Self {
        let words = &texts.states;
        match EventState::parse(word) {
            Some(EventState::Waiting) | None => Self::pending(words.event_waiting),
            Some(EventState::Retrying) => Self::retrying(words.event_retrying),
            Some(EventState::Failed) => Self::failed(words.event_failed),
            Some(EventState::Delivered) => Self::ok(words.event_delivered),
            Some(EventState::NothingSent) => Self::calm(words.event_nothing_sent),
            Some(EventState::Unrouted) => Self::calm(words.event_unrouted),
        }
    }

    /// Returns the state of an event that takes place later.
    pub fn of_scheduled(is_cancelled: bool, texts: &Texts) -> Self {
        match is_cancelled {
            true => Self::calm(texts.states.delivery_cancelled),
            false => Self::pending(texts.states.event_waiting),
        }
    }

    pub fn of_delivery(word: &str, texts: &Texts) -> Self {
        let words = &texts.states;
        match word {
            "retrying" => Self::retrying(words.delivery_retrying),
            "delivered" => Self::ok(words.delivery_delivered),
            "dead" => Self::dead(words.delivery_dead),
            "cancelled" => Self::calm(words.delivery_cancelled),
            _ => Self::pending(words.delivery_pending),
        }
    }

    /// Returns the state of a run, or its outcome once it is done.
    pub fn of_run(run: &RunView, texts: &Texts) -> Self {
        let words = &texts.states;
        match (run.state.as_ref(), run.outcome.as_deref()) {
            ("cancelled", _) => Self::calm(words.run_cancelled),
            ("waiting", None) => Self::pending(words.run_waiting),
            ("waiting", Some(_)) => Self::retrying(words.run_waiting),
            (_, Some(outcome)) => Self::of_outcome(outcome, texts),
            _ => Self::pending(words.run_waiting),
        }
    }

    pub fn of_outcome(outcome: &str, texts: &Texts) -> Self {
        let words = &texts.states;
        match outcome {
            "ok" => Self::ok(words.run_ok),
            "trapped" => Self::failed(words.run_trapped),
            "deadline" => Self::failed(words.run_deadline),
            "out-of-memory" => Self::failed(words.run_out_of_memory),
            "bad-output" => Self::failed(words.run_bad_output),
            "not-loadable" => Self::failed(words.run_not_loadable),
            _ => Self::failed(words.run_failed),
        }
    }

    /// Returns the state of an endpoint. `is_failing` means that nothing was delivered to the endpoint for a while.
    pub fn of_endpoint(word: &str, is_failing: bool, texts: &Texts) -> Self {
        let words = &texts.states;
        match word {
            "paused" => Self::paused(words.endpoint_paused),
            "disabled" => Self::dead(words.endpoint_disabled),
            _ if is_failing => Self::retrying(words.endpoint_failing),
            _ => Self::ok(words.endpoint_active),
        }
    }

    pub fn of_plugin(word: &str, texts: &Texts) -> Self {
        let words = &texts.states;
        match word {
            "candidate" => Self::shadow(words.plugin_candidate),
            "disabled" => Self::dead(words.plugin_disabled),
            "held" => Self::held(words.plugin_held),
            "not-loadable" => Self::failed(words.plugin_not_loadable),
            _ => Self::ok(words.plugin_serving),
        }
    }

    /// Writes shape and word.
    pub fn show(self) -> Markup {
        self.with(&html! {})
    }

    /// Writes shape and word, then a muted count.
    pub fn with(self, after: &Markup) -> Markup {
        html! { span.s data-s=(self.tone.as_str()) { (shape(self.shape)) span { (self.word) } @if !after.0.is_empty() { " " span.n { (after) } } } }
    }

    /// Writes the chip beside a heading.
    pub fn chip(self, after: &Markup) -> Markup {
        html! {
            span.s.chip data-s=(self.tone.as_str()) {
                (shape(self.shape)) span { (self.word) @if !after.0.is_empty() { ", " span.n { (after) } } }
            }
        }
    }

    /// Writes the word alone, for lines that already show the shape.
    pub fn word(self) -> Markup {
        html! { span.w data-s=(self.tone.as_str()) { (self.word) } }
    }

    /// Writes the shape alone, for the line of a story. Screen readers get the word.
    pub fn mark(self) -> Markup {
        html! { span.mark data-s=(self.tone.as_str()) { (shape(self.shape)) } }
    }
}

/// Returns how many of an event's deliveries have arrived: `2 of 4`. Empty for an event without deliveries.
pub fn delivered_of(event: &EventView, texts: &Texts, formats: &Formats) -> Markup {
    let deliveries = &event.parts.deliveries;
    if deliveries.total == 0 {
        return html! {};
    }
    html! { ((texts.states.of)(&formats.number(deliveries.delivered), &formats.number(deliveries.total))) }
}

/// Returns what a receiver answered last (`503`), or why no answer came (`timed out`).
pub fn answer(last: &LastView, texts: &Texts) -> String {
    outcome(&last.outcome, last.status, texts)
}

/// Returns the outcome of an attempt in words, or the status of its answer.
pub fn outcome(outcome: &str, status: Option<u16>, texts: &Texts) -> String {
    let words = &texts.states;
    let word = match outcome {
        "answered" => words.answered,
        "timed-out" => words.timed_out,
        "refused" => words.refused,
        "reset" => words.reset,
        "unreachable" => words.unreachable,
        "name-not-found" => words.name_not_found,
        "blocked" => words.blocked,
        "tls-failed" => words.tls_failed,
        "body-too-large" => words.body_too_large,
        other => other,
    };
    status.filter(|_| outcome == "answered").map_or_else(|| word.to_owned(), |status| status.to_string())
}

/// Returns whether a delivery is in trouble: it is dead, or waits for another try.
pub fn is_trouble(delivery: &DeliveryView) -> bool {
    matches!(delivery.state.as_ref(), "dead" | "retrying")
}

/// Writes the tries of a delivery as dots: done, next, planned.
pub fn dots(done: u32, planned: u32) -> Markup {
    const DOTS_MAX: u32 = 12;
    html! {
        span.dots aria-hidden="true" {
            @for place in 0..planned.min(DOTS_MAX) {
                @if place < done { i.done {} } @else if place == done { i.next {} } @else { i {} }
            }
        }
    }
}

/// Returns the number of attempts that an endpoint's schedule allows.
pub fn planned(ui: &Ui, endpoint: &str) -> u32 {
    let endpoints = ui.api.catalog.endpoints();
    let schedule = endpoints.named(endpoint).and_then(|endpoint| endpoint.new.policy.schedule.clone()).unwrap_or_default();
    u32::try_from(schedule.waits().len()).unwrap_or(u32::MAX)
}
