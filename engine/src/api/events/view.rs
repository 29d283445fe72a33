//! Events and their data as the API shows them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    domain::{
        event::{Event, Parts},
        id::Tag,
        trace::TraceParent,
    },
    store::{EventStory, EventSummary, ScheduledEvent, StoryPlace},
    wire::{
        ChainView, DataView, DeliveryPartsView, DeliveryStoryView, EventStoryView, EventView, PartsView, RequestView,
        RunPartsView, RunStoryView, ScheduledView,
    },
};

impl EventView {
    fn new(event: &Event, bytes: u64, parts: &Parts, tag: Tag) -> Self {
        let new = &event.new;
        Self {
            event: event.id.text(tag),
            id: event.public_id(tag),
            source: new.source.to_string(),
            r#type: new.event_type.to_string(),
            subject: new.subject.as_deref().map(str::to_owned),
            time: event.time(),
            accepted_at: event.accepted_at.to_string(),
            state: parts.state().as_str().into(),
            parts: PartsView::new(parts),
            depth: new.depth,
            cause: new.cause.map(|cause| cause.text(tag)),
            attributes: new.attributes.0.iter().cloned().collect(),
            content_type: new.content.content_type().to_string(),
            bytes,
        }
    }

    pub fn summary(summary: &EventSummary, tag: Tag) -> Self {
        Self::new(&summary.event, summary.bytes, &summary.parts, tag)
    }
}

impl PartsView {
    const fn new(parts: &Parts) -> Self {
        let Parts { to_run, unrouted: _, runs_waiting, runs_parked, pending, retrying, delivered, dead, cancelled } = *parts;
        Self {
            to_run,
            runs: RunPartsView { waiting: runs_waiting, parked: runs_parked },
            deliveries: DeliveryPartsView {
                total: pending + retrying + delivered + dead + cancelled,
                pending,
                retrying,
                delivered,
                dead,
                cancelled,
            },
        }
    }
}

impl DataView {
    fn new(event: &Event) -> Self {
        let content = &event.new.content;
        if let Some(json) = content.json() {
            return Self::Json(json.value().to_owned());
        }
        match std::str::from_utf8(content.bytes()) {
            Ok("") => Self::Json(RawValue::NULL.to_owned()),
            Ok(text) => Self::Json(to_raw_value(text).expect("text is always JSON")),
            Err(_) => Self::Base64(BASE64_STANDARD.encode(content.bytes())),
        }
    }
}

impl ChainView {
    fn new(EventSummary { event, bytes: _, parts }: &EventSummary, tag: Tag) -> Self {
        Self {
            event: event.id.text(tag),
            r#type: event.new.event_type.to_string(),
            subject: event.new.subject.as_deref().map(str::to_owned),
            source: event.new.source.to_string(),
            cause: event.new.cause.map(|cause| cause.text(tag)),
            state: parts.state().as_str().into(),
            accepted_at: event.accepted_at.to_string(),
        }
    }
}

impl ScheduledView {
    fn new(ScheduledEvent { id: _, due_at, cancelled_at, event }: &ScheduledEvent) -> Self {
        Self {
            r#type: event.event_type.to_string(),
            subject: event.subject.as_deref().map(str::to_owned),
            source: event.source.to_string(),
            due_at: due_at.to_string(),
            cancelled_at: cancelled_at.map(|at| at.to_string()),
        }
    }
}

impl EventStoryView {
    /// `nearest` returns the pattern that is most similar to an event type.
    pub fn new(story: &EventStory, nearest: impl FnOnce(&str) -> Option<String>, tag: Tag) -> Self {
        let event = &story.event;
        Self {
            event: EventView::new(event, event.new.content.bytes().len() as u64, &story.parts, tag),
            data: DataView::new(event),
            request: event.new.request.as_deref().map(RequestView::new),
            runs: story.runs.iter().map(|run| RunStoryView::new(run, tag)).collect(),
            deliveries: story.deliveries.iter().map(|delivery| DeliveryStoryView::new(delivery, tag)).collect(),
            emitted: story.emitted.iter().map(|id| id.text(tag)).collect(),
            scheduled: story.scheduled.iter().map(ScheduledView::new).collect(),
            chain: Vec::new(),
            chain_more: false,
            trace: None,
            nearest: story.parts.unrouted.then(|| nearest(&event.new.event_type)).flatten(),
            next: story
                .next
                .map(|StoryPlace { run, delivery, emitted, scheduled }| format!("{run}.{delivery}.{emitted}.{scheduled}")),
        }
    }

    /// Adds the chain to which the event belongs.
    pub fn with_chain(mut self, (chain, more): &(Vec<EventSummary>, bool), tag: Tag) -> Self {
        let trace = chain.iter().find_map(|link| TraceParent::of(&link.event.new));
        self.trace = trace.map(|parent| parent.trace.iter().map(|byte| format!("{byte:02x}")).collect());
        if chain.len() > 1 {
            self.chain = chain.iter().map(|summary| ChainView::new(summary, tag)).collect();
        }
        self.chain_more = *more;
        self
    }

    /// Returns a further part of the history, without the data, which the first part contained.
    pub fn without_data(self) -> Self {
        Self { data: DataView::Json(RawValue::NULL.to_owned()), request: None, ..self }
    }
}
