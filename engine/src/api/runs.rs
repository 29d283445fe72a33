//! Runs: list, read, retry, cancel.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api,
    error::Problem,
    events::event_id,
    millis,
    page::{Limit, Paging, Query, instant},
    path::Path,
};
use crate::{
    clock,
    domain::{
        event::Event,
        id::{EventId, RunId, Tag},
        name::{Slug, nearest},
        recording::{RecordedState, Recording},
        run::{LogLine, RunOutcome, RunState},
        time::Timestamp,
    },
    sandbox::Limits,
    store::{RecordedRun, RunFilter, StoredRun},
    wire::{LogView, PageView, RecordedEventView, RecordedStateView, RunLimitsView, RunRecordView, RunStoryView, RunView},
};

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only runs in this state.
    #[param(value_type = Option<RunState>)]
    pub state: Option<String>,
    /// Only runs with this outcome.
    #[param(value_type = Option<RunOutcome>)]
    pub outcome: Option<String>,
    /// Only runs of this plugin.
    #[param(value_type = Option<Slug>)]
    pub plugin: Option<String>,
    /// Only runs of this event.
    #[param(value_type = Option<EventId>)]
    pub event: Option<String>,
    /// Only runs of events of this type.
    pub r#type: Option<String>,
    /// Only runs of events accepted at this time or later.
    #[param(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    /// Only runs of events accepted before this time.
    #[param(value_type = Option<Timestamp>)]
    pub until: Option<String>,
    /// Maximum number of runs.
    #[param(value_type = Option<Limit>)]
    pub limit: Option<String>,
    /// The `next` of the previous page.
    #[param(value_type = Option<RunId>)]
    pub cursor: Option<String>,
}

/// List runs, newest event first, without their logs.
#[utoipa::path(
    get, path = "/v1/runs", operation_id = "list_runs", tag = "runs", params(Filter),
    responses((status = 200, description = "One page.", body = PageView<RunView>)),
    extensions(("x-problems" = json!(["not_found"]))),
)]
pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<RunView>>, Problem> {
    let tag = api.store.tag();
    let paging =
        Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| RunId::parse(text, tag).map(RunId::as_i64))?;
    let outcome =
        |text: &str| RunOutcome::parse(text).ok_or_else(|| not_one_of("outcome", text, &RunOutcome::ALL.map(RunOutcome::as_str)));
    let state = |text: &str| {
        let known = RunState::WORDS.into_iter().find(|word| *word == text);
        known.ok_or_else(|| not_one_of("state", text, &RunState::WORDS))
    };
    let plugin = |text: &str| Slug::parse(text).map_err(|bad| Problem::bad_request(format!("plugin is {text:?}: {bad}")));
    let filter = RunFilter {
        state: filter.state.as_deref().map(state).transpose()?,
        outcome: filter.outcome.as_deref().map(outcome).transpose()?,
        plugin: filter.plugin.as_deref().map(plugin).transpose()?,
        event: filter.event.as_deref().map(|text| event_id(&api, text)).transpose()?,
        event_type: filter.r#type,
        since: instant("since", filter.since.as_deref())?,
        until: instant("until", filter.until.as_deref())?,
    };
    let page = api.store.runs(filter, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|run| RunView::new(run, tag)).collect(),
        next: page.next.map(|id| RunId::from_i64(id).text(tag)),
    }))
}

pub fn not_one_of(name: &str, text: &str, words: &[&str]) -> Problem {
    let near = nearest(text, words.iter().copied()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Problem::bad_request(format!("{name} is {text:?}; it is one of {}{near}", words.join(", ")))
}

pub fn run_id(api: &Api, text: &str) -> Result<RunId, Problem> {
    RunId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("no run {text:?}")))
}

/// Read one run with its log.
#[utoipa::path(
    get, path = "/v1/runs/{run}", operation_id = "show_run", tag = "runs",
    params(("run" = RunId, Path, description = "Id of the run.")),
    responses((status = 200, description = "The run.", body = RunStoryView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<RunStoryView>, Problem> {
    let run = api.store.run(run_id(&api, &id)?).await?;
    Ok(Json(RunStoryView::new(&run, api.store.tag())))
}

/// Read everything that a run depended on, to repeat it elsewhere.
#[utoipa::path(
    get, path = "/v1/runs/{run}/record", operation_id = "show_run_record", tag = "runs",
    params(("run" = RunId, Path, description = "Id of the run.")),
    responses((status = 200, description = "The record.", body = RunRecordView)),
)]
pub async fn record(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<RunRecordView>, Problem> {
    let run = api.store.recorded_run(run_id(&api, &id)?).await?;
    let settings = match &run.recording {
        Some(recording) => api.store.plugin_config_at(&run.plugin, recording.settings).await?,
        None => None,
    };
    let limits = Some(RunLimitsView::new(&api.run_limits));
    Ok(Json(RunRecordView { limits, ..RunRecordView::new(&run, settings, api.store.tag()) }))
}

/// Read the limits of a run.
///
/// `innesco plugin test` runs plugins under these limits.
#[utoipa::path(
    get, path = "/v1/limits", operation_id = "show_run_limits", tag = "runs",
    responses((status = 200, description = "The limits.", body = RunLimitsView)),
)]
pub async fn limits(State(api): State<Arc<Api>>) -> Json<RunLimitsView> {
    Json(RunLimitsView::new(&api.run_limits))
}

/// Retry a run now, with the plugin version that serves.
///
/// Other runs and webhooks of the event are not repeated. The run may be parked, waiting or cancelled.
#[utoipa::path(
    post, path = "/v1/runs/{run}/retry", operation_id = "retry_run", tag = "runs",
    params(("run" = RunId, Path, description = "Id of the run.")),
    responses((status = 202, description = "The run is due.", body = RunStoryView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn retry(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<(StatusCode, Json<RunStoryView>), Problem> {
    api.store.retry_run(run_id(&api, &id)?, clock::steady()).await?;
    Ok((StatusCode::ACCEPTED, show(State(api), Path(id)).await?))
}

/// Cancel a run that waits or is parked.
#[utoipa::path(
    post, path = "/v1/runs/{run}/cancel", operation_id = "cancel_run", tag = "runs",
    params(("run" = RunId, Path, description = "Id of the run.")),
    responses((status = 200, description = "The cancelled run.", body = RunStoryView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<RunStoryView>, Problem> {
    api.store.cancel_run(run_id(&api, &id)?).await?;
    show(State(api), Path(id)).await
}

impl RunView {
    fn new(run: &StoredRun, tag: Tag) -> Self {
        let due = match run.state {
            RunState::Waiting { due } => Some(due),
            RunState::Done | RunState::Parked | RunState::Cancelled => None,
        };
        Self {
            id: run.id.text(tag),
            event: run.id.event().text(tag),
            r#type: run.event_type.clone(),
            plugin: run.plugin.to_string(),
            version: run.version.map(|version| version.to_string()),
            endpoint: run.endpoint.clone(),
            round: run.round,
            state: run.state.as_str().into(),
            outcome: run.outcome.map(|outcome| outcome.as_str().into()),
            code: run.code.clone(),
            message: run.message.clone(),
            wants: run.wants.clone(),
            tries: run.tries,
            due: due.map(|due| clock::as_wall(due).to_string()),
            duration_ms: millis(run.took),
            memory_bytes: run.memory_peak,
            webhooks: run.webhooks,
            events: run.emitted,
            settings_revision: run.settings,
        }
    }
}

impl RunLimitsView {
    fn new(limits: &Limits) -> Self {
        Self {
            deadline_ms: u64::try_from(limits.deadline.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: limits.memory_bytes as u64,
            big_memory_bytes: limits.big_memory_bytes as u64,
            output_bytes: limits.output_bytes as u64,
            webhooks: limits.webhooks as u64,
            events: limits.events as u64,
            log_lines: limits.log_lines as u64,
        }
    }
}

impl RunRecordView {
    fn new(run: &RecordedRun, settings: Option<BTreeMap<String, String>>, tag: Tag) -> Self {
        let Event { id, accepted_at, new } = &run.event;
        let around = new.request.as_ref().map(|request| request.attributes()).unwrap_or_default();
        let state = run.recording.as_ref().map(|recording| recording.state.read()).unwrap_or_default();
        let not_repeatable = match &run.recording {
            None if run.version.is_none() => Some("the plugin was not executed"),
            None => Some("an earlier version of the engine executed it and recorded nothing"),
            Some(Recording { state: RecordedState::TooLarge, .. }) => {
                Some("it read more than 256 KiB of state, which is not recorded")
            }
            Some(_) if settings.is_none() => Some("that revision of the plugin's settings is no longer kept"),
            Some(_) => None,
        };
        Self {
            run: run.id.text(tag),
            plugin: run.plugin.to_string(),
            version: run.version.map(|version| version.to_string()),
            outcome: run.outcome.map(|outcome| outcome.as_str().into()),
            bound: run.endpoint.is_some(),
            event: RecordedEventView {
                event: id.text(tag),
                id: run.event.public_id(tag),
                source: new.source.to_string(),
                r#type: new.event_type.to_string(),
                subject: new.subject.as_deref().map(str::to_owned),
                time: run.event.time(),
                accepted_at: accepted_at.to_string(),
                depth: new.depth,
                content_type: new.content.content_type().to_string(),
                attributes: new.attributes.0.iter().cloned().chain(around).collect(),
                data_base64: BASE64_STANDARD.encode(new.content.bytes()),
            },
            settings_revision: run.recording.as_ref().map(|recording| recording.settings),
            settings,
            at: run.recording.as_ref().and_then(|recording| recording.at).map(|at| at.to_string()),
            state: state
                .iter()
                .map(|(key, value)| RecordedStateView {
                    key: key.clone(),
                    value_base64: value.as_ref().map(|value| BASE64_STANDARD.encode(value)),
                })
                .collect(),
            not_repeatable: not_repeatable.map(str::to_owned),
            limits: None,
        }
    }
}

impl RunStoryView {
    pub fn new(run: &StoredRun, tag: Tag) -> Self {
        Self {
            run: RunView::new(run, tag),
            backtrace: run.backtrace.clone(),
            log: run.log.lines.iter().map(LogView::new).collect(),
            log_dropped: run.log.dropped,
        }
    }
}

impl LogView {
    pub fn new(line: &LogLine) -> Self {
        Self { level: line.level.as_str().into(), message: line.message.clone(), fields: line.fields.iter().cloned().collect() }
    }
}
