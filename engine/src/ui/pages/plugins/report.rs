//! The report of a comparison: counts first, then the differences by cause, the conditions for a promotion, and the cost of both
//! versions.

use maud::{Markup, html};

use super::{path_of, short};
use crate::{
    domain::plugin::VersionState,
    ui::{
        foreign,
        form::Fields,
        parts::{self, Look, columns, peek, shape, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{ChangeView, ComparisonView, PluginVersionView, PluginView, ReportView},
};

/// If the candidate takes at most this many times as long at p99 as the serving version, its time is no reason to ask before a
/// promotion.
const TIME_GROWTH_MAX: f64 = 1.2;

pub fn show(visit: &Visit, one: &ComparisonView) -> Markup {
    let t = &visit.texts().compare;
    let report = &one.report;
    html! {
        div #figures.section { (figures(visit, report)) }
        @if report.compared > 0 {
            div #found.with-side {
                div.section { h2 { (t.what_differs) } (changes(visit, &report.changes)) }
                div {
                    div.section { h2 { (t.gate) } (gate_list(visit, report)) }
                    div.section { h2 { (t.side_by_side) } (sides(visit, one)) }
                    (parts::command(&format!("innesco plugin compare {} {}", one.plugin, short(&one.candidate)), visit))
                }
            }
        } @else if one.state != "running" {
            (parts::empty("plugins", t.nothing_compared, &html! { p { (t.nothing_compared_why) } }, &html! {}))
        }
    }
}

/// A condition. If all conditions hold, a promotion asks no question.
struct Condition {
    holds: bool,
    words: &'static str,
    figure: String,
}

fn gate(visit: &Visit, report: &ReportView) -> Vec<Condition> {
    let (t, formats) = (&visit.texts().compare, visit.formats());
    let growth = growth(report);
    vec![
        Condition { holds: report.compared > 0, words: t.gate_compared, figure: formats.number(report.compared) },
        Condition { holds: report.new_failures == 0, words: t.gate_failures, figure: formats.number(report.new_failures) },
        Condition { holds: report.targets_differ == 0, words: t.gate_targets, figure: formats.number(report.targets_differ) },
        Condition { holds: growth <= TIME_GROWTH_MAX, words: t.gate_time, figure: format!("{} ×", formats.decimal(growth, 2)) },
    ]
}

/// Returns the candidate's time at p99 as a multiple of the serving version's.
fn growth(report: &ReportView) -> f64 {
    let (was, is) = (report.serving.time_ms.p99, report.candidate.time_ms.p99);
    if report.compared == 0 || was <= 0.0 { 1.0 } else { is / was }
}

fn gate_list(visit: &Visit, report: &ReportView) -> Markup {
    let t = &visit.texts().compare;
    html! {
        ul.gate {
            @for one in gate(visit, report) {
                li data-s=(if one.holds { "ok" } else { "bad" }) {
                    (shape(if one.holds { "s-ok" } else { "s-fail" }))
                    span.sr { (if one.holds { t.met } else { t.not_met }) }
                    span.grow { (one.words) } span.num { (one.figure) }
                }
            }
        }
    }
}

/// Writes the button that promotes the candidate, or why this is not possible. If a condition does not hold, the page asks first
/// and names the condition.
pub fn promotion(
    visit: &Visit,
    plugin: &PluginView,
    stored: &[PluginVersionView],
    one: &ComparisonView,
    fields: &Fields,
) -> Markup {
    let texts = visit.texts();
    let t = &texts.compare;
    let candidate = stored.iter().find(|version| version.version == one.candidate);
    let serves = candidate.is_some_and(|version| version.state == VersionState::Serving.as_str());
    let may = visit.may("POST /v1/plugins/{plugin}/promote");
    let label = format!("{} {}", texts.plugins.promote_now, short(&one.candidate));
    let hidden = html! { input type="hidden" name="version" value=(one.candidate); };
    let press =
        |look| parts::action_away(visit, &format!("{}/promote", path_of(&plugin.name)), Some("check"), &label, look, &hidden);
    let missed: Vec<&str> = gate(visit, &one.report).iter().filter(|one| !one.holds).map(|one| one.words).collect();
    html! {
        div #promotion.bar data-live="again" {
            @if serves { (Shown::ok(texts.plugins.serves_now).show()) }
            @else if one.state == "running" { span.muted { (t.first_ends) } }
            @else if !may || candidate.is_none() { span.muted { (if may { t.not_stored } else { t.needs_admin }) } }
            @else if missed.is_empty() { (press(Look::Primary)) }
            @else if fields.get("ask") == Some("promote") {
                @let buttons = html! { (press(Look::Danger)) (parts::link_button(&with_query(&visit.path, "ask", None), None, texts.common.cancel, Look::Quiet)) };
                (parts::note(Shown::warning(""), &html! { (t.not_met_says) " " b { (missed.join(", ")) } "." }, &buttons))
            } @else {
                (parts::link_button(&with_query(&visit.path, "ask", Some("promote")), None, &format!("{label}…"), Look::Plain))
            }
        }
    }
}

fn figures(visit: &Visit, report: &ReportView) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.compare;
    let figure = |name: &str, value: String, say: String| {
        html! { div.figure { p.name { (name) } p.value { (value) } p.say { (say) } } }
    };
    html! {
        div.figures {
            (figure(t.same, formats.number(report.same), (t.of_compared)(&formats.number(report.compared))))
            (figure(t.differ, formats.number(report.differ), (t.in_ways)(&formats.number(report.changes.len() as u64))))
            (figure(t.new_failures, formats.number(report.new_failures), (t.and_fewer)(&formats.number(report.fixed_failures))))
            (figure(t.time, formats.millis(report.candidate.time_ms.p99), (t.was)(&formats.millis(report.serving.time_ms.p99))))
        }
        @if report.not_repeatable > 0 { p.hint { ((t.not_repeatable)(&formats.number(report.not_repeatable))) } }
        @if report.read_current_state > 0 { p.hint { ((t.current_state)(&formats.number(report.read_current_state))) } }
        @if report.skipped > 0 { p.hint { ((t.skipped)(&formats.number(report.skipped))) } }
    }
}

/// Writes the differences, grouped by cause. A group opens to show its samples.
fn changes(visit: &Visit, changes: &[ChangeView]) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.compare;
    if changes.is_empty() {
        return html! { p.calm-line { (Shown::ok(t.all_same).show()) } };
    }
    html! {
        ul.changes {
            @for (number, one) in changes.iter().enumerate() {
                @let id = format!("change-{number}");
                @let is_open = parts::opened(visit).any(|open| open == id);
                li id=(id) data-row data-s="shadow" {
                    div.row {
                        (shape("s-shadow")) span.grow { (foreign::value(&one.change)) }
                        span.muted { ((t.runs)(&formats.number(one.count))) }
                        (peek(visit, &id, t.samples))
                    }
                    @if is_open { @for sample in &one.samples {
                        div.panel {
                            div.cap { a.mono href=(format!("/events/{}#{}", sample.event, sample.run)) { (sample.event) } }
                            pre.code.diff tabindex="0" {
                                @if let Some(from) = &sample.from { del.l { (foreign::code(from)) } }
                                @if let Some(to) = &sample.to { ins.l { (foreign::code(to)) } }
                            }
                        }
                    } }
                }
            }
        }
    }
}

/// Writes the cost of both versions.
fn sides(visit: &Visit, one: &ComparisonView) -> Markup {
    let (t, formats) = (&visit.texts().compare, visit.formats());
    let (from, to) = (&one.report.serving, &one.report.candidate);
    let bytes = |bytes: f64| formats.bytes(bytes as u64);
    let rows = [
        (t.time_p50, formats.millis(from.time_ms.p50), formats.millis(to.time_ms.p50)),
        (t.time, formats.millis(from.time_ms.p99), formats.millis(to.time_ms.p99)),
        (t.memory_p50, bytes(from.memory_bytes.p50), bytes(to.memory_bytes.p50)),
        (t.memory, bytes(from.memory_bytes.p99), bytes(to.memory_bytes.p99)),
    ];
    html! {
        table.rows.keep role="table" aria-label=(t.side_by_side) {
            (columns(&[("", ""), (short(&one.serving), "w80 num"), (short(&one.candidate), "w80 num")]))
            tbody role="rowgroup" {
                @for (name, from, to) in rows {
                    tr role="row" { td.pa role="cell" { (name) } td.pb.num role="cell" { (from) } td.pd.num role="cell" { (to) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{CostView, PercentilesView};

    fn report(compared: u64, was: f64, is: f64) -> ReportView {
        let cost =
            |p99| CostView { time_ms: PercentilesView { p50: p99, p99 }, memory_bytes: PercentilesView { p50: 1.0, p99: 1.0 } };
        ReportView {
            compared,
            same: compared,
            differ: 0,
            new_failures: 0,
            fixed_failures: 0,
            targets_differ: 0,
            not_repeatable: 0,
            read_current_state: 0,
            skipped: 0,
            changes: Vec::new(),
            serving: cost(was),
            candidate: cost(is),
        }
    }

    #[test]
    fn growth_needs_compared_runs_with_a_time() {
        for (report, expected) in
            [(report(0, 1.0, 9.0), 1.0), (report(5, 0.0, 9.0), 1.0), (report(5, 2.0, 3.0), 1.5), (report(5, 2.0, 1.0), 0.5)]
        {
            assert!((growth(&report) - expected).abs() < 1e-9, "{expected}");
        }
    }
}
