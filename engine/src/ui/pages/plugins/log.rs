//! What a plugin wrote to its log: the lines of its newest runs.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::Uri,
    response::Response,
};
use maud::{Markup, html};

use super::{Tab, path_of, read, tab_page};
use crate::{
    api::{
        Problem,
        page::Query as ApiQuery,
        path::Path as ApiPath,
        runs::{self, Filter},
    },
    ui::{
        Ui, foreign,
        form::Fields,
        parts::{self, Field, state::State as Shown},
        visit::Visit,
    },
    wire::{LogView, RunStoryView},
};

/// Number of newest runs whose lines are read. Each run costs one read of the store.
const RUNS: usize = 40;
/// Maximum number of lines on the page, and maximum length of a line in characters, so that the page stays small.
const LINES_MAX: usize = 150;
const LINE_CHARS_MAX: usize = 256;

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    let plugin = read(&ui, &visit, name).await?;
    visit.sight("GET /v1/runs/{run}")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let filter = Filter { plugin: Some(plugin.name.clone()), limit: Some(RUNS.to_string()), ..Filter::default() };
    let newest = runs::list(State(Arc::clone(&ui.api)), ApiQuery(filter)).await?.0.items;
    let mut stories = Vec::with_capacity(newest.len());
    for run in newest {
        // Retention may have deleted the run meanwhile. Its log is then left out.
        if let Ok(story) = runs::show(State(Arc::clone(&ui.api)), ApiPath(run.id)).await {
            stories.push(story.0);
        }
    }
    let (level, words) = (fields.get("level").unwrap_or_default(), fields.get("contains").unwrap_or_default());
    let texts = visit.texts();
    let t = &texts.plugins;
    let field = |name, label| Field { name, label, hint: None, error: None };
    let levels = [("", t.all_levels), ("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug")];
    let body = html! {
        form #log-filter.filters method="get" action=(format!("{}/log", path_of(&plugin.name))) data-whole role="search" {
            (field("level", t.level).choice(&levels, level))
            div.grow { (field("contains", t.contains).text(words, "")) }
            button.btn type="submit" { (texts.common.apply) }
        }
        div #log data-live="plugins" data-hold {
            @let lines = chosen(&stories, level, words);
            @if lines.is_empty() { (parts::empty("file", t.no_lines, &html! { p { (t.no_lines_why) } }, &html! {})) }
            @else { ol.lines { @for (run, line) in &lines { (written(&visit, run, line)) } } }
        }
        p #log-says.hint { ((t.log_says)(&visit.formats().number(RUNS as u64))) }
    };
    Ok(tab_page(&ui, &visit, &plugin, Tab::Log, body).await)
}

/// Returns the lines that contain some words, of one level or of all. The lines of a run stay in order.
fn chosen<'a>(stories: &'a [RunStoryView], level: &str, words: &str) -> Vec<(&'a RunStoryView, &'a LogView)> {
    let lines = stories.iter().flat_map(|story| story.log.iter().map(move |line| (story, line)));
    let fits = |(_, line): &(&RunStoryView, &LogView)| (level.is_empty() || line.level == level) && line.message.contains(words);
    lines.filter(fits).take(LINES_MAX).collect()
}

fn written(visit: &Visit, story: &RunStoryView, line: &LogView) -> Markup {
    let level = match line.level.as_ref() {
        "error" => Shown::failed("error").word(),
        "warn" => Shown::warning("warn").word(),
        other => html! { span.muted { (other) } },
    };
    let end = line.message.char_indices().nth(LINE_CHARS_MAX).map_or(line.message.len(), |(end, _)| end);
    html! {
        li.log-line data-row tabindex="-1" {
            (level)
            span.words { (foreign::code(&line.message[..end])) @if end < line.message.len() { span.esc { "… " (visit.formats().bytes(line.message.len() as u64)) } } }
            a.mono.dim href=(format!("/events/{}#{}", story.run.event, story.run.id)) { (foreign::name(&story.run.event)) }
        }
    }
}
