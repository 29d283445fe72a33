//! The story of events and deliveries: the lists and details that the API shows.

use std::time::Duration;

use async_trait::async_trait;

use super::{Error, Page, PageRequest};
use crate::domain::{
    delivery::{Attempt, DeliveryState},
    event::{Event, EventState},
    id::{AttemptId, DeliveryId, EndpointId, EventId, RunId},
    name::Slug,
    plugin::Digest,
    run::{RunLog, RunOutcome, RunState},
    time::Timestamp,
};

/// Reads events and deliveries for the API. Each read sees one moment.
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

    /// Returns an event and the part of its story that begins at a place.
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
}

/// How long a read for the API may take. A filter that matches few of millions of rows has to look at all of them, and holds one of few
/// connections meanwhile.
pub const READ_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub event_type: Option<String>,
    pub source: Option<String>,
    pub state: Option<EventState>,
    /// Accepted at or after.
    pub since: Option<Timestamp>,
    /// Accepted before.
    pub until: Option<Timestamp>,
}

/// An event in a list.
#[derive(Clone, Debug)]
pub struct EventSummary {
    /// Without its data.
    pub event: Event,
    /// Length of its data.
    pub bytes: u64,
    pub state: EventState,
}

/// Runs in one part of an event's story. Each has a log of up to 64 KiB.
pub const STORY_RUNS: usize = 100;
/// Deliveries in one part of an event's story. An event can have 16,384.
pub const STORY_DELIVERIES: usize = 100;
/// Last attempts of each of these deliveries. Each has an excerpt of up to 4 KiB; a delivery's story has all of them.
pub const STORY_ATTEMPTS: usize = 10;
/// Emitted events in one part of an event's story: ids only.
pub const STORY_EMITTED: usize = 1_000;

/// Where a part of an event's story begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoryPlace {
    /// The first run, by its number in the event.
    pub run: u32,
    /// The first delivery, by its number in the event.
    pub delivery: u32,
    /// The last emitted event of the part before, by its id.
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
    /// Where the next part begins, if this is not all.
    pub next: Option<StoryPlace>,
}

impl EventStory {
    /// Cuts the rows to one part. One row more of each kind was read than a part holds, if there are more.
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
    /// The name of the endpoint it belongs to.
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
}

/// A delivery in a list.
#[derive(Clone, Debug)]
pub struct DeliverySummary {
    pub id: DeliveryId,
    pub endpoint: EndpointId,
    pub endpoint_name: String,
    pub event_type: String,
    pub round: u32,
    pub state: DeliveryState,
    pub attempts: u32,
    pub last: Option<StoredAttempt>,
}

/// A delivery with its attempts: all of them, or the last ones where it is part of an event's story.
#[derive(Clone, Debug)]
pub struct DeliveryStory {
    pub summary: DeliverySummary,
    pub attempts: Vec<StoredAttempt>,
}

#[derive(Clone, Debug)]
pub struct StoredAttempt {
    pub id: AttemptId,
    pub attempt: Attempt,
}
