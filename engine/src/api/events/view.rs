//! Events, their data and their runs as the API shows them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    api::millis,
    clock,
    domain::{
        event::{Event, EventState},
        id::Tag,
        run::{LogLine, RunState},
    },
    store::{EventStory, EventSummary, StoredRun, StoryPlace},
    wire::{DataView, DeliveryStoryView, EventStoryView, EventView, LogView, RequestView, RunView},
};

impl EventView {
    fn new(event: &Event, bytes: u64, state: EventState, tag: Tag) -> Self {
        let new = &event.new;
        Self {
            event: event.id.text(tag),
            id: event.public_id(tag),
            source: new.source.to_string(),
            r#type: new.event_type.to_string(),
            subject: new.subject.as_deref().map(str::to_owned),
            time: event.time(),
            accepted_at: event.accepted_at.to_string(),
            state: state.as_str().into(),
            depth: new.depth,
            cause: new.cause.map(|cause| cause.text(tag)),
            attributes: new.attributes.0.iter().cloned().collect(),
            content_type: new.content.content_type().to_string(),
            bytes,
        }
    }

    pub fn summary(summary: &EventSummary, tag: Tag) -> Self {
        Self::new(&summary.event, summary.bytes, summary.state, tag)
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

impl EventStoryView {
    pub fn new(story: &EventStory, tag: Tag) -> Self {
        let event = &story.event;
        Self {
            event: EventView::new(event, event.new.content.bytes().len() as u64, story.state, tag),
            data: DataView::new(event),
            request: event.new.request.as_deref().map(RequestView::new),
            runs: story.runs.iter().map(|run| RunView::new(run, tag)).collect(),
            deliveries: story.deliveries.iter().map(|delivery| DeliveryStoryView::new(delivery, tag)).collect(),
            emitted: story.emitted.iter().map(|id| id.text(tag)).collect(),
            next: story.next.map(|StoryPlace { run, delivery, emitted }| format!("{run}.{delivery}.{emitted}")),
        }
    }

    /// Returns a further part of the story without the data: its reader has that already.
    pub fn without_data(self) -> Self {
        Self { data: DataView::Json(RawValue::NULL.to_owned()), request: None, ..self }
    }
}

impl RunView {
    fn new(run: &StoredRun, tag: Tag) -> Self {
        let due = match run.state {
            RunState::Waiting { due } => Some(due),
            RunState::Done | RunState::Parked => None,
        };
        let line = |line: &LogLine| LogView { level: line.level.as_str().into(), message: line.message.clone() };
        Self {
            id: run.id.text(tag),
            plugin: run.plugin.to_string(),
            version: run.version.map(|version| version.to_string()),
            endpoint: run.endpoint.clone(),
            round: run.round,
            state: run.state.as_str().into(),
            outcome: run.outcome.map(|outcome| outcome.as_str().into()),
            code: run.code.clone(),
            message: run.message.clone(),
            tries: run.tries,
            due: due.map(|due| clock::as_wall(due).to_string()),
            duration_ms: millis(run.took),
            memory_bytes: run.memory_peak,
            webhooks: run.webhooks,
            events: run.emitted,
            log: run.log.lines.iter().map(line).collect(),
            log_dropped: run.log.dropped,
        }
    }
}
