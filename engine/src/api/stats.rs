//! Statistics: counts over time, of the engine or of one endpoint, plugin or source.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api, endpoints, error::Problem, millis, page::Query, plugins::find as find_plugin, runs::not_one_of,
    sources::find as find_source,
};
use crate::{
    clock,
    domain::{
        stats::{About, Counts, Last, first_bucket, fold},
        time::Timestamp,
    },
    wire::{BucketView, CountsView, StatsView},
};

/// What to count.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Default: `24h`. `1h` is for the whole engine only.
    #[param(value_type = Option<Last>)]
    last: Option<String>,
    /// Only this endpoint: id or name.
    endpoint: Option<String>,
    /// Only this plugin.
    plugin: Option<String>,
    /// Only this source: id or name.
    source: Option<String>,
}

/// Read statistics: counts over time.
///
/// The counts are those of the whole engine, or of one endpoint, plugin or source, summed over all nodes. Counts reach the store
/// every ten seconds.
#[utoipa::path(
    get, path = "/v1/stats", operation_id = "read_stats", tag = "engine", params(Filter),
    responses((status = 200, description = "The statistics.", body = StatsView)),
    extensions(("x-problems" = json!(["not_found"]))),
)]
pub async fn read(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<StatsView>, Problem> {
    let last = filter.last.as_deref().unwrap_or(Last::Day.as_str());
    let last = Last::parse(last).ok_or_else(|| not_one_of("last", last, &Last::ALL.map(Last::as_str)))?;
    Ok(Json(stats(&api, about(&api, &filter)?, last).await?))
}

/// Returns the statistics of one thing.
///
/// # Errors
/// If the counts are not as fine as `last` needs, or if the store cannot be read.
pub async fn stats(api: &Api, about: About, last: Last) -> Result<StatsView, Problem> {
    let (cell, length, count) = last.buckets(&about).ok_or_else(|| {
        Problem::bad_request("last is \"1h\", but endpoints, plugins and sources are counted by the hour; use 24h or 7d")
    })?;
    let first = first_bucket(clock::wall(), length, count);
    let cells = api.store.counts(vec![about], cell, first).await?;
    let buckets = fold(cells.into_iter().map(|(_, at, counts)| (at, counts)), first, length);
    let mut total = Counts::default();
    buckets.values().for_each(|counts| total.add(counts));
    Ok(StatsView {
        last: last.as_str().into(),
        bucket_s: length.unsigned_abs() / 1000,
        total: CountsView::new(&total),
        buckets: buckets.iter().map(|(at, counts)| BucketView::new(*at, counts)).collect(),
    })
}

/// Finds the thing that a filter names.
fn about(api: &Api, filter: &Filter) -> Result<About, Problem> {
    match (&filter.endpoint, &filter.plugin, &filter.source) {
        (None, None, None) => Ok(About::Engine),
        (Some(endpoint), None, None) => Ok(About::Endpoint(endpoints::find(api, endpoint)?.id)),
        (None, Some(plugin), None) => Ok(About::Plugin(find_plugin(api, plugin)?.row.name.clone())),
        (None, None, Some(source)) => Ok(About::Source(find_source(api, source)?.id)),
        _ => Err(Problem::bad_request("only one of endpoint, plugin and source can be given")),
    }
}

impl BucketView {
    fn new(at: Timestamp, counts: &Counts) -> Self {
        Self { at: at.to_string(), counts: CountsView::new(counts) }
    }
}

impl CountsView {
    pub fn new(counts: &Counts) -> Self {
        let percentile = |percent| counts.latencies.percentile(percent).map(millis);
        Self {
            accepted: counts.accepted,
            refused: counts.refused,
            runs: counts.runs,
            runs_failed: counts.runs_failed,
            delivered: counts.delivered,
            first_try: counts.first_try,
            attempts_failed: counts.attempts_failed,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }
}
