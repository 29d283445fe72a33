//! Plugins: the list, and the pages of one plugin. Each tab of a plugin is a page with the same head.

pub mod compare;
pub mod limits;
pub mod list;
pub mod log;
pub mod one;
mod report;
pub mod runs;
pub mod settings;
pub mod state;
pub mod upload;
pub mod versions;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    response::Response,
    routing::{get, post},
};
use maud::{Markup, html};

use crate::{
    api::{Problem, path::Path as ApiPath, plugins},
    ui::{
        Ui, foreign,
        layout::{self, Head, Page, Place},
        parts::{self, Look, icon, segment, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::PluginView,
};

/// The pages of plugins.
pub fn routes() -> Router<Arc<Ui>> {
    Router::new()
        .route("/plugins", get(list::show))
        .route("/plugins/upload", get(upload::show).post(upload::upload))
        .route("/plugins/{plugin}", get(one::show))
        .route("/plugins/{plugin}/promote", get(one::to_page).post(versions::promote))
        .route("/plugins/{plugin}/rollback", get(one::to_page).post(versions::roll_back))
        .route("/plugins/{plugin}/disable", get(one::to_page).post(versions::disable))
        .route("/plugins/{plugin}/discard", get(one::to_page).post(versions::discard))
        .route("/plugins/{plugin}/enable", get(one::to_page).post(versions::enable))
        .route("/plugins/{plugin}/remove", get(one::to_page).post(versions::remove))
        .route("/plugins/{plugin}/runs", get(runs::show))
        .route("/plugins/{plugin}/runs/{run}/retry", post(runs::retry))
        .route("/plugins/{plugin}/runs/{run}/cancel", post(runs::cancel))
        .route("/plugins/{plugin}/retry-parked", post(runs::retry_parked))
        .route("/plugins/{plugin}/log", get(log::show))
        .route("/plugins/{plugin}/settings", get(settings::show).post(settings::save))
        .route("/plugins/{plugin}/state", get(state::show))
        .route("/plugins/{plugin}/state/delete", post(state::delete_value))
        .route("/plugins/{plugin}/state/clear", post(state::clear))
        .route("/plugins/{plugin}/limits", get(limits::show))
        .route("/plugins/{plugin}/compare", get(compare::show).post(compare::start))
        .route("/plugins/{plugin}/compare/{comparison}/cancel", post(compare::cancel))
}

/// Number of digits of a version that a page shows. The whole digest is on the plugin's page.
const DIGITS: usize = 6;

/// Returns the first digits of a version.
pub fn short(version: &str) -> &str {
    version.get(..DIGITS).unwrap_or(version)
}

/// Returns the path of a plugin's page.
fn path_of(name: &str) -> String {
    format!("/plugins/{}", segment(name))
}

/// Returns the path of a plugin's route in the API.
fn route_of(name: &str) -> String {
    format!("/v1/plugins/{}", segment(name))
}

/// Reads a plugin as the API shows it.
async fn read(ui: &Ui, visit: &Visit, name: String) -> Result<PluginView, Problem> {
    visit.sight("GET /v1/plugins/{plugin}")?;
    Ok(plugins::show(State(Arc::clone(&ui.api)), ApiPath(name)).await?.0)
}

/// A tab of a plugin's page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tab {
    Overview,
    Runs,
    Log,
    Settings,
    State,
    Limits,
}

/// Writes a page of a plugin: its head, its tabs, and the body of one tab.
async fn tab_page(ui: &Ui, visit: &Visit, plugin: &PluginView, tab: Tab, body: Markup) -> Response {
    let texts = visit.texts();
    let t = &texts.plugins;
    let path = path_of(&plugin.name);
    let tabs = [
        (Tab::Overview, t.overview, "", true),
        (Tab::Runs, t.runs, "/runs", visit.may("GET /v1/runs")),
        (Tab::Log, t.log, "/log", visit.may("GET /v1/runs/{run}")),
        (Tab::Settings, texts.frame.settings, "/settings", visit.may("GET /v1/plugins/{plugin}/config")),
        (Tab::State, texts.common.state, "/state", visit.may("GET /v1/plugins/{plugin}/state/keys")),
        (Tab::Limits, t.limits, "/limits", true),
    ];
    let version = html! { @if let Some(version) = &plugin.version { span.mono { (short(version)) } } };
    let head = Head {
        above: Some(("/plugins", texts.frame.plugins, html! { span.mono { (foreign::name(&plugin.name)) } })),
        title: foreign::name(&plugin.name),
        state: Some(Shown::of_plugin(&plugin.state, texts).chip(&version)),
        facts: (!plugin.description.is_empty()).then(|| html! { span.fact { (foreign::value(&plugin.description)) } }),
        actions: Some(actions(visit, plugin, &path)),
    };
    let body = html! {
        div #plugin-head data-live="plugins" { (head.show()) }
        nav #tabs.tabs aria-label=(t.parts) {
            @for (one, label, end, _) in tabs.into_iter().filter(|(.., may)| *may) {
                a href=(format!("{path}{end}")) aria-current=[(one == tab).then_some("page")] { (label) }
            }
        }
        (body)
    };
    layout::page(ui, visit, &Page::new(Place::Plugins, &plugin.name, body)).await
}

/// Writes the actions that a person may take on the plugin. The overview asks before an action that affects every event.
fn actions(visit: &Visit, plugin: &PluginView, path: &str) -> Markup {
    let t = &visit.texts().plugins;
    let ask = |what| with_query(path, "ask", Some(what));
    let serves = plugin.state == "serving";
    html! {
        @if visit.may("PUT /v1/plugins/{plugin}") { (parts::link_button(&with_query("/plugins/upload", "plugin", Some(&plugin.name)), Some("upload"), t.upload_short, Look::Plain)) }
        @if matches!(plugin.state.as_ref(), "disabled" | "held") && visit.may("POST /v1/plugins/{plugin}/enable") {
            (parts::action_away(visit, &format!("{path}/enable"), Some("play"), t.enable, Look::Plain, &html! {}))
        }
        @if serves && visit.may("POST /v1/plugins/{plugin}/disable") { (parts::link_button(&ask("disable"), Some("pause"), t.disable, Look::Plain)) }
        @if plugin.state != "candidate" && visit.may("DELETE /v1/plugins/{plugin}") {
            details.more-menu {
                summary.btn aria-label=(visit.texts().endpoint.more) title=(visit.texts().endpoint.more) { (icon("more")) }
                div.box {
                    (parts::link_button(&ask("rollback"), Some("replay"), t.roll_back, Look::Quiet))
                    (parts::link_button(&ask("remove"), Some("trash"), t.remove, Look::Danger))
                }
            }
        }
    }
}
