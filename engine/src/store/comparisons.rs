//! Stored comparisons. Each comparison has a request, a cursor and a report. The comparison worker advances the comparisons.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Error, Page, PageRequest,
    columns::json,
    row::{Columns, Row},
};
use crate::domain::{
    comparison::{Comparison, Report, Request, Share},
    id::ComparisonId,
    job::JobState,
    name::Slug,
    pattern::Pattern,
    plugin::Digest,
    time::Timestamp,
};

/// Stores comparisons of plugin versions.
#[async_trait]
pub trait Comparisons {
    /// Creates a comparison, and wakes the worker of jobs.
    ///
    /// # Errors
    /// [`Error::Conflict`] if [`RUNNING_MAX`](crate::domain::comparison::RUNNING_MAX) comparisons are running.
    async fn create_comparison(&self, request: Request, at: Timestamp) -> Result<Comparison, Error>;

    /// Stores the progress of a running comparison: `now` replaces `before`. Returns `false`, and stores nothing, if the
    /// comparison has advanced or ended in the meantime.
    ///
    /// # Errors
    /// If the commit failed.
    async fn advance_comparison(&self, before: &Comparison, now: Comparison) -> Result<bool, Error>;

    /// Cancels a running comparison. Its report stays.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is not running; [`Error::NotFound`].
    async fn cancel_comparison(&self, id: ComparisonId, at: Timestamp) -> Result<Comparison, Error>;

    /// # Errors
    /// [`Error::NotFound`].
    async fn comparison(&self, id: ComparisonId) -> Result<Comparison, Error>;

    /// Returns one page of the comparisons, newest first.
    ///
    /// # Errors
    /// [`Error::TooSlow`] after [`READ_TIME_MAX`](super::READ_TIME_MAX).
    async fn comparisons(&self, state: Option<JobState>, page: PageRequest) -> Result<Page<Comparison>, Error>;
}

/// Decides whether another comparison may start.
///
/// # Errors
/// The reason for the refusal.
pub(super) fn may_start(running: u64) -> Result<(), Error> {
    if running >= crate::domain::comparison::RUNNING_MAX as u64 {
        return Err(Error::Conflict(format!("{running} comparisons are running already; wait until one ends, or cancel one")));
    }
    Ok(())
}

/// The refusal to cancel a comparison that has ended.
pub(super) fn has_ended(state: JobState) -> Error {
    Error::Conflict(format!("it is {} already; only a running comparison can be cancelled", state.as_str()))
}

/// The reason that is stored when a comparison ends because one of its versions was discarded.
pub(super) const DISCARDED: &str = "one of its versions was discarded";

/// The column `request`.
#[derive(Serialize, Deserialize)]
struct RequestColumn {
    last: u64,
    events: Option<String>,
    since: Option<i64>,
    hides_values: bool,
    /// Percentage of new runs to compare; missing if the comparison repeats past runs.
    #[serde(default)]
    follow: Option<u8>,
}

/// The columns, in the order in which [`read`] reads them.
pub(super) const COLUMNS: &str =
    "id, plugin, serving, candidate, request, state, cursor, report, problem, created_at, finished_at";

/// Returns the column `request`.
pub(super) fn request_to_column(request: &Request) -> String {
    json(&RequestColumn {
        last: request.last,
        events: request.events.as_ref().map(ToString::to_string),
        since: request.since.map(Timestamp::millis),
        hides_values: request.hides_values,
        follow: request.follow.map(Share::percent),
    })
}

/// Returns the column `report`.
pub(super) fn report_to_column(report: &Report) -> String {
    json(report)
}

pub(super) fn read(row: &impl Row) -> Result<Comparison, Error> {
    let columns = Columns::numbered("comparison", row)?;
    let digest = |column, name| {
        let bytes = columns.bytes(column, name)?.try_into().map_err(|_| columns.place.corrupt(name))?;
        Ok::<_, Error>(Digest::from_bytes(bytes))
    };
    let request: RequestColumn = columns.place.json("request", columns.text(4, "request")?)?;
    let follow = request.follow.map(|percent| Share::new(percent).ok_or_else(|| columns.place.corrupt("request"))).transpose()?;
    let events = request.events.map(|text| Pattern::parse(&text).map_err(|_| columns.place.corrupt("request")));
    Ok(Comparison {
        id: ComparisonId::from_i64(columns.id()),
        request: Request {
            plugin: columns.word(1, "plugin", |text| Slug::parse(text).ok())?,
            serving: digest(2, "serving")?,
            candidate: digest(3, "candidate")?,
            last: request.last,
            follow,
            events: events.transpose()?,
            since: request.since.map(Timestamp::from_millis),
            hides_values: request.hides_values,
        },
        state: columns.word(5, "state", JobState::parse)?,
        cursor: columns.optional_number(6, "cursor")?,
        report: columns.place.json("report", columns.text(7, "report")?)?,
        problem: columns.optional_text(8, "problem")?.map(str::to_owned),
        created_at: columns.time(9, "created_at")?,
        finished_at: columns.optional_time(10, "finished_at")?,
    })
}
