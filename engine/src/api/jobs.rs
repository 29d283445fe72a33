//! Jobs: create, list, read and cancel bulk retries and replays. A worker executes them.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    Api, audit, body, endpoints,
    error::Problem,
    page::{Limit, Paging, Query},
    path::Path,
};
use crate::{
    clock,
    domain::{
        delivery::DeadReason,
        event::EventState,
        id::{JobId, Tag},
        job::{Ended, Job, JobState, ReplayFilter, RetryFilter, RunRetryFilter, Task},
        name::{Slug, nearest},
        pattern::Pattern,
        run::{RunOutcome, RunState},
        time::Timestamp,
    },
    wire::{CountView, JobView, PageView, RetryFilterView, values::schema},
};

/// Selects the deliveries of a bulk retry. Without members: all dead deliveries. With the state `retrying`, deliveries that wait
/// for their next attempt become due now.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryInput)]
struct Input {
    /// Only deliveries to this endpoint: id or name.
    endpoint: Option<String>,
    /// State of the deliveries; default `dead`.
    #[schema(value_type = Option<Ended>)]
    state: Option<String>,
    /// Only dead deliveries with this reason.
    #[schema(schema_with = reason_schema)]
    reason: Option<String>,
    /// Only events of matching types.
    #[schema(value_type = Option<Pattern>)]
    event_type: Option<String>,
    /// Only deliveries that died or were cancelled at this time or later.
    #[schema(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Only deliveries that died or were cancelled before this time.
    #[schema(value_type = Option<Timestamp>)]
    until: Option<String>,
}

/// Selects the deliveries of a bulk retry, as the body of the retry does. Without parameters: all dead deliveries.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Retried {
    /// Only deliveries to this endpoint: id or name.
    pub endpoint: Option<String>,
    /// State of the deliveries; default `dead`.
    #[param(value_type = Option<Ended>)]
    pub state: Option<String>,
    /// Only dead deliveries with this reason.
    #[param(value_type = Option<DeadReason>)]
    pub reason: Option<String>,
    /// Only events of matching types.
    #[param(value_type = Option<Pattern>)]
    pub event_type: Option<String>,
    /// Only deliveries that died or were cancelled at this time or later.
    #[param(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    /// Only deliveries that died or were cancelled before this time.
    #[param(value_type = Option<Timestamp>)]
    pub until: Option<String>,
}

impl From<Retried> for Input {
    fn from(Retried { endpoint, state, reason, event_type, since, until }: Retried) -> Self {
        Self { endpoint, state, reason, event_type, since, until }
    }
}

fn reason_schema() -> RefOr<Schema> {
    schema(json!({
        "anyOf": [{ "$ref": "#/components/schemas/DeadReason" }, { "type": "null" }],
        "description": "Only dead deliveries with this reason.",
        "x-beside": { "dependentSchemas": { "reason": { "anyOf": [
            { "properties": { "reason": { "type": "null" } } },
            { "properties": { "state": { "enum": [Ended::Dead.as_str(), null] } } },
        ] } } },
    }))
}

/// Selects the parked runs of a bulk retry. Without members: all parked runs.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RunRetryInput)]
struct RunsInput {
    /// Only runs of this plugin.
    #[schema(value_type = Option<Slug>)]
    plugin: Option<String>,
    /// Only runs with this outcome.
    #[schema(value_type = Option<RunOutcome>)]
    outcome: Option<String>,
    /// Only events of matching types.
    #[schema(value_type = Option<Pattern>)]
    event_type: Option<String>,
    /// Only events accepted at this time or later.
    #[schema(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Only events accepted before this time.
    #[schema(value_type = Option<Timestamp>)]
    until: Option<String>,
}

/// Selects the events of a bulk replay, by at least one member.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayInput)]
struct ReplayInput {
    /// Only events in this state, such as `unrouted` for those that matched no plugin and no endpoint.
    #[schema(schema_with = replayed_state_schema)]
    state: Option<String>,
    /// Only events of matching types.
    #[schema(value_type = Option<Pattern>)]
    event_type: Option<String>,
    /// Only events from this source.
    source: Option<String>,
    /// Only events accepted at this time or later.
    #[schema(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Only events accepted before this time.
    #[schema(value_type = Option<Timestamp>)]
    until: Option<String>,
}

/// Returns the schema of `state`. It also requires that at least one member of the input is set.
fn replayed_state_schema() -> RefOr<Schema> {
    let is_set = |member: &str| json!({ "required": [member], "properties": { member: { "type": "string" } } });
    schema(json!({
        "anyOf": [{ "$ref": "#/components/schemas/EventState" }, { "type": "null" }],
        "description": "Only events in this state, such as `unrouted` for those that matched no plugin and no endpoint.",
        "x-beside": { "anyOf": (["state", "event_type", "source", "since", "until"].map(is_set)) },
    }))
}

pub fn wrong(member: &str, detail: impl std::fmt::Display) -> Problem {
    Problem::bad_value(detail.to_string()).in_member(member)
}

pub fn instant(member: &str, text: Option<String>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let instant = Timestamp::parse_rfc3339(&text);
    instant
        .map(Some)
        .ok_or_else(|| wrong(member, format!("{text:?} is not a time; write RFC 3339, such as 2026-01-31T09:30:00Z")))
}

pub fn pattern(text: Option<String>) -> Result<Option<Pattern>, Problem> {
    text.map(|text| Pattern::parse(&text).map_err(|bad| wrong("event_type", bad))).transpose()
}

/// Reads a word of a fixed list.
fn word<T>(member: &str, text: Option<String>, read: fn(&str) -> Option<T>, words: &[&str]) -> Result<Option<T>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let near = || nearest(&text, words.iter().copied()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let read = read(&text).ok_or_else(|| wrong(member, format!("{text:?} is not one of {}{}", words.join(", "), near())));
    read.map(Some)
}

impl Input {
    fn check(self, api: &Api) -> Result<RetryFilter, Problem> {
        let ended = match &self.state {
            None => Ended::default(),
            Some(text) => Ended::parse(text).ok_or_else(|| {
                wrong(
                    "state",
                    format!(
                        "{text:?} deliveries cannot be retried in bulk; write one of {}",
                        Ended::ALL.map(Ended::as_str).join(", ")
                    ),
                )
            })?,
        };
        let reason = match &self.reason {
            None => None,
            Some(_) if ended != Ended::Dead => return Err(wrong("reason", "only dead deliveries have a reason; leave it out")),
            Some(text) => Some(DeadReason::parse(text).ok_or_else(|| {
                let all = DeadReason::ALL.map(DeadReason::as_str).join(", ");
                wrong("reason", format!("{text:?} is not a reason of dead deliveries; write one of {all}"))
            })?),
        };
        if ended == Ended::Retrying {
            for (member, given) in [("since", &self.since), ("until", &self.until)] {
                if given.is_some() {
                    return Err(wrong(member, "only deliveries that are dead or cancelled have such a time; leave it out"));
                }
            }
        }
        Ok(RetryFilter {
            endpoint: self.endpoint.map(|text| endpoints::find(api, &text).map(|endpoint| endpoint.id)).transpose()?,
            ended,
            reason,
            event_type: pattern(self.event_type)?,
            since: instant("since", self.since)?,
            until: instant("until", self.until)?,
        })
    }
}

impl RunsInput {
    fn check(self) -> Result<RunRetryFilter, Problem> {
        Ok(RunRetryFilter {
            plugin: self.plugin.map(|text| Slug::parse(&text).map_err(|bad| wrong("plugin", bad))).transpose()?,
            outcome: word("outcome", self.outcome, RunOutcome::parse, &RunOutcome::ALL.map(RunOutcome::as_str))?,
            event_type: pattern(self.event_type)?,
            since: instant("since", self.since)?,
            until: instant("until", self.until)?,
        })
    }
}

impl ReplayInput {
    fn check(self) -> Result<ReplayFilter, Problem> {
        let filter = ReplayFilter {
            state: word("state", self.state, EventState::parse, &EventState::ALL.map(EventState::as_str))?,
            event_type: pattern(self.event_type)?,
            source: self.source,
            since: instant("since", self.since)?,
            until: instant("until", self.until)?,
        };
        if filter.is_empty() {
            return Err(Problem::bad_value(
                "a replay sends new webhooks, so it needs a filter: set state, event_type, source, since or until",
            ));
        }
        Ok(filter)
    }
}

/// A job that was created.
type Created = (StatusCode, Extension<audit::Target>, Json<JobView>);

async fn start(api: &Api, task: Task) -> Result<Created, Problem> {
    let job = api.store.create_job(task, clock::wall()).await?;
    let view = JobView::new(&job, api.store.tag());
    Ok((StatusCode::ACCEPTED, Extension(audit::Target(view.id.clone())), Json(view)))
}

/// Start a bulk retry of deliveries, each under its own id.
///
/// The job continues after a restart of the engine and retries each delivery once. Deliveries of events that are accepted after
/// the creation of the job are not included.
#[utoipa::path(
    post, path = "/v1/deliveries/retry", operation_id = "retry_deliveries", tag = "jobs",
    request_body(content = Option<Input>, example = json!({ "endpoint": "crm", "since": "2026-01-31T09:30:00Z" })),
    responses((status = 202, description = "The job.", body = JobView)),
    extensions(("x-problems" = json!(["bad_value", "conflict", "not_found"]))),
)]
pub async fn retry_deliveries(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Created, Problem> {
    let input: Input = body::optional_json(&api, &headers, body, Problem::bad_value).await?.unwrap_or_default();
    start(&api, Task::RetryDeliveries(input.check(&api)?)).await
}

/// Count the deliveries that a bulk retry would retry now.
///
/// The count checks at most 100,000 deliveries.
#[utoipa::path(
    get, path = "/v1/deliveries/retry", operation_id = "count_retries", tag = "jobs", params(Retried),
    responses((status = 200, description = "Their number.", body = CountView)),
    extensions(("x-problems" = json!(["bad_value", "not_found"]))),
)]
pub async fn count_retries(State(api): State<Arc<Api>>, Query(retried): Query<Retried>) -> Result<Json<CountView>, Problem> {
    let filter = Input::from(retried).check(&api)?;
    Ok(Json(CountView { count: api.store.count_items(Task::RetryDeliveries(filter)).await? }))
}

/// Start a bulk retry of parked runs, with the plugin versions that serve now.
///
/// Other runs and webhooks of their events are not repeated. The job continues after a restart of the engine and retries each run
/// once. Runs of events that are accepted after the creation of the job are not included.
#[utoipa::path(
    post, path = "/v1/runs/retry", operation_id = "retry_runs", tag = "jobs",
    request_body(content = Option<RunsInput>, example = json!({ "plugin": "order-router", "since": "2026-01-31T09:30:00Z" })),
    responses((status = 202, description = "The job.", body = JobView)),
    extensions(("x-problems" = json!(["bad_value", "conflict"]))),
)]
pub async fn retry_runs(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Created, Problem> {
    let input: RunsInput = body::optional_json(&api, &headers, body, Problem::bad_value).await?.unwrap_or_default();
    start(&api, Task::RetryRuns(input.check()?)).await
}

/// Start a bulk replay of events through the current plugins and subscriptions.
///
/// Every event creates new deliveries with new ids, even for plugins and endpoints that already had the event. To repeat only
/// what failed, retry the runs or the deliveries. The job continues after a restart of the engine and replays each event once.
/// Events that are accepted after the creation of the job are not included.
#[utoipa::path(
    post, path = "/v1/events/replay", operation_id = "replay_events", tag = "jobs",
    request_body(content = ReplayInput, example = json!({ "state": "unrouted", "since": "2026-01-31T09:30:00Z" })),
    responses((status = 202, description = "The job.", body = JobView)),
    extensions(("x-problems" = json!(["bad_value", "conflict"]))),
)]
pub async fn replay_events(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Created, Problem> {
    let input: ReplayInput = body::optional_json(&api, &headers, body, Problem::bad_value).await?.unwrap_or_default();
    start(&api, Task::ReplayEvents(input.check()?)).await
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only jobs in this state.
    #[param(value_type = Option<JobState>)]
    pub state: Option<String>,
    /// Maximum number of jobs.
    #[param(value_type = Option<Limit>)]
    pub limit: Option<String>,
    /// The `next` of the previous page.
    #[param(value_type = Option<JobId>)]
    pub cursor: Option<String>,
}

/// List jobs, newest first.
#[utoipa::path(
    get, path = "/v1/jobs", operation_id = "list_jobs", tag = "jobs", params(Filter),
    responses((status = 200, description = "One page.", body = PageView<JobView>)),
)]
pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<JobView>>, Problem> {
    let tag = api.store.tag();
    let paging =
        Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| JobId::parse(text, tag).map(JobId::as_i64))?;
    let state = match &filter.state {
        None => None,
        Some(text) => Some(JobState::parse(text).ok_or_else(|| {
            Problem::bad_request(format!("state is {text:?}; it is one of {}", JobState::ALL.map(JobState::as_str).join(", ")))
        })?),
    };
    let page = api.store.jobs(state, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|job| JobView::new(job, tag)).collect(),
        next: page.next.map(|id| JobId::from_i64(id).text(tag)),
    }))
}

pub fn job_id(api: &Api, text: &str) -> Result<JobId, Problem> {
    JobId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("no job {text:?}")))
}

/// Read the progress of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{job}", operation_id = "show_job", tag = "jobs",
    params(("job" = JobId, Path, description = "Id of the job.")),
    responses((status = 200, description = "The job.", body = JobView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    let job = api.store.job(job_id(&api, &id)?).await?;
    Ok(Json(JobView::new(&job, api.store.tag())))
}

/// Cancel a job.
///
/// Its completed work stays.
#[utoipa::path(
    post, path = "/v1/jobs/{job}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("job" = JobId, Path, description = "Id of the job.")),
    responses((status = 200, description = "The job.", body = JobView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    let job = api.store.cancel_job(job_id(&api, &id)?, clock::wall()).await?;
    Ok(Json(JobView::new(&job, api.store.tag())))
}

impl JobView {
    pub fn new(job: &Job, tag: Tag) -> Self {
        Self {
            id: job.id.text(tag),
            kind: job.task.kind().into(),
            state: job.state.as_str().into(),
            done: job.done,
            failed: job.failed,
            total: job.total,
            filter: RetryFilterView::new(&job.task, tag),
            created_at: job.created_at.to_string(),
            finished_at: job.finished_at.map(|at| at.to_string()),
        }
    }
}

impl RetryFilterView {
    fn new(task: &Task, tag: Tag) -> Self {
        let text = |at: &Option<Timestamp>| at.map(|at| at.to_string());
        let pattern = |event_type: &Option<Pattern>| event_type.as_ref().map(ToString::to_string);
        match task {
            Task::RetryDeliveries(RetryFilter { endpoint, ended, reason, event_type, since, until }) => Self {
                endpoint: endpoint.map(|endpoint| endpoint.text(tag)),
                state: Some(ended.as_str().into()),
                reason: reason.map(|reason| reason.as_str().into()),
                event_type: pattern(event_type),
                since: text(since),
                until: text(until),
                ..Self::default()
            },
            Task::RetryRuns(RunRetryFilter { plugin, outcome, event_type, since, until }) => Self {
                state: Some(RunState::Parked.as_str().into()),
                plugin: plugin.as_ref().map(ToString::to_string),
                outcome: outcome.map(|outcome| outcome.as_str().into()),
                event_type: pattern(event_type),
                since: text(since),
                until: text(until),
                ..Self::default()
            },
            Task::ReplayEvents(ReplayFilter { state, event_type, source, since, until }) => Self {
                state: state.map(|state| state.as_str().into()),
                source: source.clone(),
                event_type: pattern(event_type),
                since: text(since),
                until: text(until),
                ..Self::default()
            },
        }
    }
}
