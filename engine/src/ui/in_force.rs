//! The settings that are in force: their values, and where each came from.

use maud::{Markup, html};

use super::{Ui, foreign, parts::columns, texts::Texts, visit::Visit};

/// A setting with its value.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The key as in the settings file, such as `plugin.deadline`.
    pub key: &'static str,
    /// The value, without passwords.
    pub value: String,
    /// Where the value came from, such as `innesco.toml`; `None` if it is the default.
    pub from: Option<String>,
}

/// Returns what a setting means. Pages show only the settings for which this function knows a meaning.
pub fn meaning(key: &str, texts: &Texts) -> Option<&'static str> {
    let t = &texts.in_force;
    Some(match key {
        "limits.body_bytes_max" => t.body_bytes,
        "limits.body_time_max" => t.body_time,
        "limits.connections_max" => t.connections,
        "limits.head_time_max" => t.head_time,
        "limits.idle_time_max" => t.idle_time,
        "limits.backlog_max" => t.backlog,
        "limits.store_wait_max" => t.store_wait,
        "limits.subscribe_rate" => t.subscribe_rate,
        "limits.plugin_bytes_max" => t.plugin_bytes,
        "plugin.deadline" => t.deadline,
        "plugin.memory_max" => t.memory,
        "plugin.output_max" => t.output,
        "plugin.webhooks_max" => t.webhooks,
        "plugin.events_max" => t.events,
        "plugin.state_max" => t.state,
        "plugin.state_keys_max" => t.state_keys,
        "plugin.log_lines_max" => t.log_lines,
        "plugin.quarantine" => t.quarantine,
        "plugin.versions_kept" => t.versions,
        "plugin.versions_bytes_max" => t.versions_bytes,
        "plugin.threads" => t.threads,
        "plugin.slow_threads" => t.slow_threads,
        "delivery.disable_after" => t.disable_after,
        "retention.delivered" => t.delivered,
        "retention.dead" => t.dead,
        "retention.unrouted" => t.unrouted,
        "retention.audit" => t.audit,
        "retention.size_max" => t.size,
        "retention.dedupe_window" => t.dedupe,
        _ => return None,
    })
}

/// Writes a table of the settings whose keys begin with one of `beginnings`.
pub fn table(visit: &Visit, ui: &Ui, label: &str, beginnings: &[&str]) -> Markup {
    let texts = visit.texts();
    let t = &texts.in_force;
    let is_meant = |key: &str| beginnings.iter().any(|beginning| key.starts_with(beginning));
    html! {
        table.rows role="table" aria-label=(label) {
            (columns(&[(label, ""), (t.value, "w144"), (t.setting, "w240"), (t.from, "w200")]))
            tbody role="rowgroup" {
                @for one in ui.about.settings.iter().filter(|one| is_meant(one.key)) {
                    @if let Some(meaning) = meaning(one.key, texts) {
                        tr id=(one.key) role="row" data-row tabindex="-1" {
                            td.pa.wrap role="cell" { (meaning) }
                            td.pb role="cell" { b { (foreign::value(&one.value)) } }
                            td.pc.mono.dim role="cell" { (one.key) }
                            td.pd.dim role="cell" { @match &one.from { Some(from) => (foreign::name(from)), None => (t.default) } }
                        }
                    }
                }
            }
        }
    }
}
