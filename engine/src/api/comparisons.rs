//! Comparisons of plugin versions: create, list, read, cancel. A worker runs them.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, audit, body,
    error::Problem,
    jobs::{instant, pattern, wrong},
    page::{Limit, Paging, Query},
    path::Path,
    plugins::{find, versions::not_chosen},
};
use crate::{
    catalog::{PluginState, chosen},
    clock,
    domain::{
        comparison::{Comparison, Cost, Group, Histogram, RUNS_MAX, Report, Request, Sample, Share},
        id::{ComparisonId, RunId, Tag},
        job::JobState,
        name::Slug,
        pattern::Pattern,
        time::Timestamp,
    },
    wire::{ChangeView, ComparisonView, CostView, PageView, PercentilesView, ReportView, SampleView},
};

/// Default number of recorded runs to compare.
const LAST: u64 = 10_000;

/// What to compare with the serving version.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ComparisonInput)]
struct Input {
    /// A stored version: its SHA-256, or the first digits of it; default: the newest candidate.
    candidate: Option<String>,
    /// Maximum number of recorded runs, newest first; default 10000. With `follow`, maximum number of new runs; default 1000000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    last: Option<u64>,
    /// Compare new runs as they end, instead of runs of the past. The comparison ends when another version serves, such as the
    /// candidate. A busy node skips runs, and counts the skipped ones.
    #[serde(default)]
    follow: bool,
    /// Percentage of the new runs to compare, with `follow`; default 100.
    #[schema(minimum = 1, maximum = 100)]
    share: Option<u8>,
    /// Only runs on events of matching types.
    #[schema(value_type = Option<Pattern>)]
    event_type: Option<String>,
    /// Only runs on events accepted at this time or later.
    #[schema(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Hide the values of examples.
    #[serde(default)]
    mask: bool,
}

impl Input {
    async fn check(self, api: &Api, name: &str) -> Result<Request, Problem> {
        let entry = find(api, name)?;
        if !matches!(entry.state, PluginState::Serving(_)) {
            return Err(Problem::conflict(format!("no version of {name} serves, so nothing can be compared with it")));
        }
        let versions = api.store.versions(&entry.row.name).await?;
        let digits = self.candidate.as_deref();
        let candidate =
            chosen(&versions, digits).map_err(|error| not_chosen(name, digits.unwrap_or_default(), error).at("/candidate"))?;
        let follow = match (self.follow, self.share) {
            (true, percent) => {
                Some(Share::new(percent.unwrap_or(100)).ok_or_else(|| wrong("share", "is a percentage, 1 to 100".to_owned()))?)
            }
            (false, None) => None,
            (false, Some(_)) => return Err(wrong("share", "needs follow: true".to_owned())),
        };
        let last = self.last.unwrap_or(if self.follow { RUNS_MAX } else { LAST });
        if !(1..=RUNS_MAX).contains(&last) {
            return Err(wrong("last", format!("compares 1 to {RUNS_MAX} runs")));
        }
        Ok(Request {
            plugin: entry.row.name.clone(),
            serving: entry.row.version,
            candidate: candidate.version,
            last,
            follow,
            events: pattern(self.event_type)?,
            since: instant("since", self.since)?,
            hides_values: self.mask,
        })
    }
}

/// Compare the serving version of a plugin with another one on recorded runs.
///
/// Both versions repeat the newest recorded runs, with the same event, settings and state. Nothing that they return takes effect.
/// With `follow`, they use new runs instead of past ones: after a new run has ended, both versions repeat it, until the candidate
/// serves or the comparison is cancelled. The comparison continues after a restart of the engine.
#[utoipa::path(
    post, path = "/v1/plugins/{plugin}/compare", operation_id = "compare_plugin", tag = "comparisons",
    params(("plugin" = Slug, Path, description = "Name of the plugin.")),
    request_body(content = Input, example = json!({ "candidate": "aa203d", "last": 10000 })),
    responses((status = 202, description = "The comparison.", body = ComparisonView)),
    extensions(("x-problems" = json!(["bad_value", "conflict"]))),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Extension<audit::Target>, Json<ComparisonView>), Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_value).await?;
    let request = input.check(&api, &name).await?;
    let view = ComparisonView::new(&api.store.create_comparison(request, clock::wall()).await?, api.store.tag());
    Ok((StatusCode::ACCEPTED, Extension(audit::Target(view.id.clone())), Json(view)))
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only comparisons in this state.
    #[param(value_type = Option<JobState>)]
    pub state: Option<String>,
    /// Maximum number of comparisons.
    #[param(value_type = Option<Limit>)]
    pub limit: Option<String>,
    /// The `next` of the previous page.
    #[param(value_type = Option<ComparisonId>)]
    pub cursor: Option<String>,
}

/// List comparisons, newest first.
#[utoipa::path(
    get, path = "/v1/comparisons", operation_id = "list_comparisons", tag = "comparisons", params(Filter),
    responses((status = 200, description = "One page.", body = PageView<ComparisonView>)),
)]
pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<ComparisonView>>, Problem> {
    let tag = api.store.tag();
    let paging = Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| {
        ComparisonId::parse(text, tag).map(ComparisonId::as_i64)
    })?;
    let words = JobState::ALL.map(JobState::as_str).join(", ");
    let state = filter.state.as_deref().map(|text| {
        JobState::parse(text).ok_or_else(|| Problem::bad_request(format!("state is {text:?}; it is one of {words}")))
    });
    let page = api.store.comparisons(state.transpose()?, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|one| ComparisonView::new(one, tag)).collect(),
        next: page.next.map(|id| ComparisonId::from_i64(id).text(tag)),
    }))
}

fn comparison_id(api: &Api, text: &str) -> Result<ComparisonId, Problem> {
    ComparisonId::parse(text, api.store.tag()).ok_or_else(|| Problem::not_found(format!("no comparison {text:?}")))
}

/// Read a comparison with its report so far.
#[utoipa::path(
    get, path = "/v1/comparisons/{comparison}", operation_id = "show_comparison", tag = "comparisons",
    params(("comparison" = ComparisonId, Path, description = "Id of the comparison.")),
    responses((status = 200, description = "The comparison.", body = ComparisonView)),
)]
pub async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<ComparisonView>, Problem> {
    let found = api.store.comparison(comparison_id(&api, &id)?).await?;
    Ok(Json(ComparisonView::new(&found, api.store.tag())))
}

/// Cancel a comparison.
///
/// Its report so far stays.
#[utoipa::path(
    post, path = "/v1/comparisons/{comparison}/cancel", operation_id = "cancel_comparison", tag = "comparisons",
    params(("comparison" = ComparisonId, Path, description = "Id of the comparison.")),
    responses((status = 200, description = "The comparison.", body = ComparisonView)),
    extensions(("x-problems" = json!(["conflict"]))),
)]
pub async fn cancel(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<ComparisonView>, Problem> {
    let found = api.store.cancel_comparison(comparison_id(&api, &id)?, clock::wall()).await?;
    Ok(Json(ComparisonView::new(&found, api.store.tag())))
}

impl ComparisonView {
    fn new(one: &Comparison, tag: Tag) -> Self {
        let Comparison { id, request, state, cursor: _, report, problem, created_at, finished_at } = one;
        Self {
            id: id.text(tag),
            plugin: request.plugin.to_string(),
            serving: request.serving.to_string(),
            candidate: request.candidate.to_string(),
            state: state.as_str().into(),
            problem: problem.clone(),
            last: request.last,
            follow: request.follow.is_some(),
            share: request.follow.map(Share::percent),
            event_type: request.events.as_ref().map(ToString::to_string),
            since: request.since.map(|at| at.to_string()),
            mask: request.hides_values,
            created_at: created_at.to_string(),
            finished_at: finished_at.map(|at| at.to_string()),
            report: ReportView::new(report, tag),
        }
    }
}

impl ReportView {
    fn new(report: &Report, tag: Tag) -> Self {
        Self {
            compared: report.compared,
            same: report.same,
            differ: report.differ,
            new_failures: report.new_failures,
            fixed_failures: report.fixed_failures,
            targets_differ: report.targets_differ,
            not_repeatable: report.not_repeatable,
            read_current_state: report.read_current_state,
            skipped: report.skipped,
            changes: report.by_frequency().into_iter().map(|(change, group)| ChangeView::new(change, group, tag)).collect(),
            serving: CostView::new(&report.serving),
            candidate: CostView::new(&report.candidate),
        }
    }
}

impl ChangeView {
    fn new(change: &str, group: &Group, tag: Tag) -> Self {
        let sample = |Sample { run, from, to }: &Sample| {
            let run = RunId::from_i64(*run);
            SampleView { run: run.text(tag), event: run.event().text(tag), from: from.clone(), to: to.clone() }
        };
        Self {
            change: change.to_owned(),
            kind: group.kind.clone(),
            count: group.count,
            samples: group.samples.iter().map(sample).collect(),
        }
    }
}

impl CostView {
    fn new(cost: &Cost) -> Self {
        let of = |histogram: &Histogram, scale: f64| {
            let percentile = |percent| (histogram.percentile(percent) * scale * 1e4).round() / 1e4;
            PercentilesView { p50: percentile(50.0), p99: percentile(99.0) }
        };
        Self { time_ms: of(&cost.time, 1e-6), memory_bytes: of(&cost.memory, 1.0) }
    }
}
