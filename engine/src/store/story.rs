//! The history of events and deliveries: the lists and details that the API shows.

use std::time::Duration;

use async_trait::async_trait;

use super::{Error, Page, PageRequest};
use crate::domain::{
    delivery::{Attempt, DeliveryState, Payload},
    event::{Event, EventState},
    id::{AttemptId, DeliveryId, EndpointId, EventId, RunId},
    name::Slug,
    plugin::Digest,
    run::{RunLog, RunOutcome, RunState},
    sent::SentAs,
    time::Timestamp,
};

/// Reads events and deliveries for the API. Each read is a consistent snapshot.
///
/// # Errors
/// Every read ends with [`Error::TooSlow`] after [`READ_TIME_MAX`], and with [`Error::Corrupt`] if a row cannot be read.
#[async_trait]
pub trait Story {
    /// Returns one page of the events, newest first.
    ///
    /// # Errors
    /// See the trait.
    async fn events(&self, filter: EventFilter, page: PageRequest) -> Result<Page<EventSummary>, Error>;

    /// Returns an event and one part of its history, beginning at `from`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn event(&self, id: EventId, from: StoryPlace) -> Result<EventStory, Error>;

    /// Returns one page of the deliveries, newest first.
    ///
    /// # Errors
    /// See the trait.
    async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<DeliverySummary>, Error>;

    /// Returns a delivery with all its attempts.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn delivery(&self, id: DeliveryId) -> Result<DeliveryStory, Error>;

    /// Returns a delivery with its event and what a plugin made of it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; see the trait.
    async fn whole_delivery(&self, id: DeliveryId) -> Result<WholeDelivery, Error>;
}

/// Longest time of a read for the API. A filter that matches few of millions of rows has to look at all of them, and occupies one
/// of few connections meanwhile.
pub const READ_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub event_type: Option<String>,
    pub source: Option<String>,
    /// The sender's id.
    pub id: Option<String>,
    pub subject: Option<String>,
    pub state: Option<EventState>,
    /// Accepted at this instant or later.
    pub since: Option<Timestamp>,
    /// Accepted before this instant.
    pub until: Option<Timestamp>,
}

/// One event in a list.
#[derive(Clone, Debug)]
pub struct EventSummary {
    /// Without its data.
    pub event: Event,
    /// Length of its data.
    pub bytes: u64,
    pub state: EventState,
}

/// Runs in one part of an event's history. Each has a log of up to 64 KiB.
pub const STORY_RUNS: usize = 100;
/// Deliveries in one part of an event's history. An event can have 16,384.
pub const STORY_DELIVERIES: usize = 100;
/// Last attempts shown of each of these deliveries. Each has an excerpt of up to 4 KiB. The history of one delivery shows all
/// attempts.
pub const STORY_ATTEMPTS: usize = 10;
/// Emitted events in one part of an event's history: ids only.
pub const STORY_EMITTED: usize = 1_000;

/// Place where a part of an event's history begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoryPlace {
    /// Number of the first run within the event.
    pub run: u32,
    /// Number of the first delivery within the event.
    pub delivery: u32,
    /// Id of the last emitted event of the previous part.
    pub emitted: i64,
}

/// An event with its runs, deliveries and emitted events, or one part of them.
#[derive(Clone, Debug)]
pub struct EventStory {
    pub event: Event,
    pub state: EventState,
    pub runs: Vec<StoredRun>,
    pub deliveries: Vec<DeliveryStory>,
    pub emitted: Vec<EventId>,
    /// Where the next part begins, if one exists.
    pub next: Option<StoryPlace>,
}

impl EventStory {
    /// Cuts the rows to one part. The store read one row more of each kind than a part holds, if one exists.
    pub(super) fn part(mut self, from: StoryPlace) -> Self {
        let more = self.runs.len() > STORY_RUNS || self.deliveries.len() > STORY_DELIVERIES || self.emitted.len() > STORY_EMITTED;
        self.runs.truncate(STORY_RUNS);
        self.deliveries.truncate(STORY_DELIVERIES);
        self.emitted.truncate(STORY_EMITTED);
        self.next = more.then(|| StoryPlace {
            run: self.runs.last().map_or(from.run, |run| run.id.k() + 1),
            delivery: self.deliveries.last().map_or(from.delivery, |one| one.summary.id.k() + 1),
            emitted: self.emitted.last().map_or(from.emitted, |id| id.as_i64()),
        });
        self
    }
}

/// A run as it is stored.
#[derive(Clone, Debug)]
pub struct StoredRun {
    pub id: RunId,
    pub round: u32,
    pub plugin: Slug,
    pub version: Option<Digest>,
    /// Name of the endpoint that the run belongs to.
    pub endpoint: Option<String>,
    pub state: RunState,
    pub outcome: Option<RunOutcome>,
    pub code: Option<String>,
    pub message: Option<String>,
    pub tries: u32,
    pub took: Duration,
    pub memory_peak: u64,
    pub webhooks: u32,
    pub emitted: u32,
    pub log: RunLog,
}

#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    pub endpoint: Option<EndpointId>,
    pub event: Option<EventId>,
    /// One of the words of [`DeliveryState::as_str`].
    pub state: Option<&'static str>,
    /// Of events accepted at or after.
    pub since: Option<Timestamp>,
}

/// One delivery in a list.
#[derive(Clone, Debug)]
pub struct DeliverySummary {
    pub id: DeliveryId,
    pub endpoint: EndpointId,
    pub endpoint_name: String,
    pub event_type: String,
    /// The run that made the webhook; `None` for an event that an endpoint receives directly, and for a webhook of an engine that did not
    /// record it.
    pub run: Option<RunId>,
    pub round: u32,
    pub state: DeliveryState,
    pub attempts: u32,
    pub last: Option<StoredAttempt>,
}

/// A delivery with its attempts. Inside an event's history only the last attempts are present.
#[derive(Clone, Debug)]
pub struct DeliveryStory {
    pub summary: DeliverySummary,
    pub attempts: Vec<StoredAttempt>,
}

#[derive(Clone, Debug)]
pub struct StoredAttempt {
    pub id: AttemptId,
    pub attempt: Attempt,
    /// `None` for an attempt of an engine that did not record it.
    pub sent: Option<SentAs>,
}

/// A delivery with everything that its requests are made of.
#[derive(Clone, Debug)]
pub struct WholeDelivery {
    pub story: DeliveryStory,
    pub event: Event,
    /// What a plugin made. `None` sends the event's data in the endpoint's envelope.
    pub payload: Option<Payload>,
}
