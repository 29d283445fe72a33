//! `innesco plugin compare`: what a candidate version of a plugin would change, on recorded runs.

use std::{
    fs,
    io::{IsTerminal as _, stderr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{
    answer::Answer,
    client::{Client, shown},
    event::{instants, short},
    measure::{self, count},
    output::{self, DIM, Printer, RED, Styled},
    wrong,
};
use crate::wire::{ChangeView, ComparisonView, PluginVersionView, ReportView};

/// Time between two requests for the progress.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Time between two progress lines when standard error is not a terminal.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Maximum number of printed changes, and of printed samples of each change.
const CHANGES_SHOWN: usize = 20;
const SAMPLES_SHOWN: usize = 3;

#[derive(clap::Args)]
pub struct Compare {
    /// Plugin name
    plugin: String,
    /// Version to compare with the serving one: a .wasm file (it is pushed as a candidate), a stored version, or its first digits [default: the newest candidate]
    #[arg(long, value_name = "FILE|VERSION")]
    candidate: Option<String>,
    /// Maximum number of runs to compare: the newest recorded runs [default: 10000], or with --follow the next runs [default:
    /// 1000000]
    #[arg(long, value_name = "COUNT")]
    last: Option<u64>,
    /// Compare new runs as they end, until the candidate serves; interrupting this command does not end the comparison
    #[arg(long)]
    follow: bool,
    /// With --follow: compare only this share of the runs, such as 10%
    #[arg(long, requires = "follow", value_name = "PERCENT", value_parser = percent)]
    share: Option<u8>,
    /// Only runs on these event types: order.created, order.*
    #[arg(long = "type", value_name = "PATTERN")]
    event_type: Option<String>,
    /// Only runs on events accepted since this time: 2h (ago), or 2026-01-31T09:30:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Fail unless all rules hold: failures=0 (new failures), differ=0 (runs that differ), targets=same (endpoints of webhooks),
    /// p99<=1.2x (time of a run)
    #[arg(long, value_name = "RULES", value_delimiter = ',')]
    gate: Vec<String>,
    /// Hide the values of examples
    #[arg(long)]
    mask: bool,
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| (1..=100).contains(percent));
    number.ok_or_else(|| "write a percentage from 1% to 100%".to_owned())
}

/// A rule that a report must meet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    /// Maximum number of new failures.
    Failures(u64),
    /// Maximum number of runs that differ.
    Differ(u64),
    /// No endpoint gets more or fewer webhooks.
    TargetsSame,
    /// The 99th percentile of the candidate's run times, divided by that of the serving version, is at most this.
    P99(f64),
}

impl Gate {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let factor = |text: &str| text.trim().strip_suffix('x')?.parse::<f64>().ok().filter(|factor| *factor > 0.0);
        let rule = match text.trim().split_once("<=") {
            Some(("p99", limit)) => factor(limit).map(Self::P99),
            Some(("failures", limit)) => number(limit).map(Self::Failures),
            Some(("differ", limit)) => number(limit).map(Self::Differ),
            Some(_) => None,
            None => match text.trim().split_once('=') {
                Some(("failures", limit)) => number(limit).map(Self::Failures),
                Some(("differ", limit)) => number(limit).map(Self::Differ),
                Some(("targets", "same")) => Some(Self::TargetsSame),
                _ => None,
            },
        };
        rule.ok_or_else(|| {
            wrong(format!("{text:?} is not a rule of --gate; write failures=0, differ=0, targets=same or p99<=1.2x"))
        })
    }

    /// Returns why the report does not meet the rule.
    fn broken(self, report: &ReportView) -> Option<String> {
        let at_most = |found: u64, limit: u64, what: &str| (found > limit).then(|| format!("{found} {what}, allowed {limit}"));
        match self {
            Self::Failures(limit) => at_most(report.new_failures, limit, "new failures"),
            Self::Differ(limit) => at_most(report.differ, limit, "runs differ"),
            Self::TargetsSame => {
                (report.targets_differ > 0).then(|| format!("targets differ in {}", count(report.targets_differ, "run")))
            }
            Self::P99(limit) => {
                let (before, after) = (report.serving.time_ms.p99, report.candidate.time_ms.p99);
                (after > before * limit)
                    .then(|| format!("p99 is {:.2}x, allowed {limit}x", after / before.max(f64::MIN_POSITIVE)))
            }
        }
    }
}

/// Compares, prints the report, and fails if the report breaks a rule of `--gate`.
pub fn run(compare: &Compare, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let gates = compare.gate.iter().map(|text| Gate::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let (since, _) = instants(&compare.since, &None)?;
    let candidate = candidate(compare, client)?;
    let body = json!({
        "candidate": candidate, "last": compare.last, "event_type": compare.event_type, "since": since, "mask": compare.mask,
        "follow": compare.follow.then_some(true), "share": compare.share,
    });
    let started = client.post(&["v1", "plugins", &compare.plugin, "compare"], Some(&super::client::without_nulls(body)))?;
    let ended = watch(started, client)?;
    out.answer(&ended, page)?;
    if let Some(problem) = &ended.problem {
        bail!("the comparison ended early: {problem}");
    }
    let broken: Vec<String> = gates.iter().filter_map(|gate| gate.broken(&ended.report)).collect();
    if !broken.is_empty() {
        bail!("gate failed: {}", broken.join("; "));
    }
    Ok(())
}

/// Returns the version to compare. A file is pushed as a candidate first; other text is returned as typed.
fn candidate(compare: &Compare, client: &Client) -> anyhow::Result<Option<String>> {
    let Some(typed) = &compare.candidate else { return Ok(None) };
    let path = Path::new(typed);
    if !path.exists() && !typed.contains(['/', '.']) {
        return Ok(Some(typed.clone()));
    }
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", shown(path)))?;
    let (path, query) = (["v1", "plugins", &compare.plugin], [("candidate", "true")]);
    let stored: Answer<PluginVersionView> = client.put_file(&path, &query, "application/wasm", bytes)?;
    Ok(Some(stored.version.clone()))
}

/// Waits for the end of a comparison. Interrupting the wait does not stop the comparison.
pub fn watch(mut comparison: Answer<ComparisonView>, client: &Client) -> anyhow::Result<Answer<ComparisonView>> {
    let id = comparison.id.clone();
    let bar = (stderr().is_terminal() && !comparison.follow).then(|| indicatif::ProgressBar::new(comparison.last));
    if comparison.follow && comparison.state == "running" {
        output::tell!(
            "{id}  follows new runs until another version serves; interrupting this command does not end it\n\
             report: innesco comparison show {id}; end: innesco comparison cancel {id}"
        );
    }
    let mut said = Instant::now();
    while comparison.state == "running" {
        thread::sleep(ASK_EVERY);
        comparison = client.get(&["v1", "comparisons", &id])?;
        match &bar {
            Some(bar) => bar.set_position(comparison.report.compared),
            None if said.elapsed() >= SAY_EVERY => {
                said = Instant::now();
                output::tell!("{}", progress(&comparison));
            }
            None => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(comparison)
}

/// Formats the progress of a comparison in one line.
fn progress(one: &ComparisonView) -> String {
    let ReportView { compared, differ, new_failures, skipped, .. } = one.report;
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    format!("{}  running  {} compared, {differ} differ, {new_failures} new failures{skipped}", one.id, count(compared, "run"))
}

/// Formats a comparison: counts first, then the changes, most frequent first.
pub fn page(one: &ComparisonView) -> String {
    let report = &one.report;
    let mut lines = vec![format!(
        "{}  {} serving, {} candidate  {}",
        one.plugin,
        short(&one.serving),
        short(&one.candidate),
        output::state(&one.state)
    )];
    if report.compared == 0 && one.follow {
        lines.push("No run has ended since the comparison started.".to_owned());
    } else if report.compared == 0 {
        lines
            .push("The plugin has run on none of the chosen events. Earlier versions of the engine recorded no runs.".to_owned());
    } else {
        lines.push(format!("{}: {} same, {} differ", count(report.compared, "run"), report.same, report.differ));
        lines.push(format!("{} new failures, {} fixed failures", report.new_failures, report.fixed_failures));
    }
    if report.skipped > 0 {
        lines.push(format!("{} skipped: the engine was busy", count(report.skipped, "run")));
    }
    if report.not_repeatable > 0 {
        lines.push(format!(
            "{} left out: they read too much state, or their settings or endpoint no longer exist",
            count(report.not_repeatable, "run")
        ));
    }
    if report.read_current_state > 0 {
        lines.push(format!(
            "{} read state that was not recorded; both versions got its current value",
            count(report.read_current_state, "run")
        ));
    }
    if report.compared > 0 {
        let cost = |name: &str, cost: &crate::wire::CostView| {
            format!(
                "{name}  {:.3} ms p50, {:.3} ms p99, {} p99",
                cost.time_ms.p50,
                cost.time_ms.p99,
                measure::size(cost.memory_bytes.p99 as u64)
            )
        };
        lines.push(cost("serving  ", &report.serving));
        lines.push(cost("candidate", &report.candidate));
    }
    for change in report.changes.iter().take(CHANGES_SHOWN) {
        lines.push(String::new());
        lines.extend(group(change));
    }
    if let Some(more) = report.changes.len().checked_sub(CHANGES_SHOWN).filter(|more| *more > 0) {
        lines.push(format!("\n… and {}; --json shows all", count(more as u64, "more change")));
    }
    lines.join("\n")
}

fn group(change: &ChangeView) -> Vec<String> {
    let mut lines = vec![format!("{:>7}  {}", change.count, Styled(RED, measure::one_line(&change.change)))];
    for sample in change.samples.iter().take(SAMPLES_SHOWN) {
        let value =
            |value: &Option<String>| value.as_deref().map_or("–".to_owned(), |text| measure::cut(&measure::one_line(text), 60));
        let values = match (&sample.from, &sample.to) {
            (None, None) => String::new(),
            (from, to) => format!("  {} → {}", value(from), value(to)),
        };
        lines.push(Styled(DIM, format!("         {}  {}{values}", sample.event, sample.run)).to_string());
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::examples::read, *};

    fn report(changes: Value) -> Value {
        json!({
            "id": "cmp_1", "plugin": "router", "serving": "aa203dffff", "candidate": "91be07aabb", "state": "done", "problem": null,
            "last": 10000, "event_type": null, "since": null, "mask": false, "created_at": "2026-11-24T09:14:02Z",
            "finished_at": "2026-11-24T09:14:03Z",
            "report": {
                "compared": 1000, "same": 990, "differ": 10, "new_failures": 1, "fixed_failures": 2, "targets_differ": 3,
                "not_repeatable": 4, "read_current_state": 5, "changes": changes,
                "serving": { "time_ms": { "p50": 0.01, "p99": 0.02 }, "memory_bytes": { "p50": 1048576.0, "p99": 1048576.0 } },
                "candidate": { "time_ms": { "p50": 0.01, "p99": 0.03 }, "memory_bytes": { "p50": 1048576.0, "p99": 2097152.0 } },
            },
        })
    }

    #[test]
    fn a_report_shows_counts_then_changes() {
        let changes = json!([
            { "change": "webhook to crm: body /total changed", "kind": "body", "count": 9, "samples": [
                { "run": "run_1", "event": "evt_1", "from": "10", "to": "11" }] },
            { "change": "webhooks in another order", "kind": "order", "count": 1, "samples": [
                { "run": "run_2", "event": "evt_2", "from": null, "to": null }] },
        ]);
        let one: ComparisonView = read(report(changes));
        let expected = "\
router  aa203d serving, 91be07 candidate  ● done
1000 runs: 990 same, 10 differ
1 new failures, 2 fixed failures
4 runs left out: they read too much state, or their settings or endpoint no longer exist
5 runs read state that was not recorded; both versions got its current value
serving    0.010 ms p50, 0.020 ms p99, 1.0 MB p99
candidate  0.010 ms p50, 0.030 ms p99, 2.1 MB p99

      9  webhook to crm: body /total changed
         evt_1  run_1  10 → 11

      1  webhooks in another order
         evt_2  run_2";
        assert_eq!(anstream::adapter::strip_str(&page(&one)).to_string(), expected);
    }

    #[test]
    fn gates_are_read_and_checked() {
        let one: ComparisonView = read(report(json!([])));
        let broken = |text: &str| Gate::parse(text).unwrap().broken(&one.report);
        for (rule, expected) in [
            ("failures=1", None),
            ("failures=0", Some("1 new failures, allowed 0")),
            ("differ<=10", None),
            ("differ=9", Some("10 runs differ, allowed 9")),
            ("targets=same", Some("targets differ in 3 runs")),
            ("p99<=1.5x", None),
            ("p99<=1.2x", Some("p99 is 1.50x, allowed 1.2x")),
        ] {
            assert_eq!(broken(rule).as_deref(), expected, "{rule}");
        }
        for text in ["", "failures", "failures=no", "targets=other", "p99<=1.2", "p99<=-1x", "speed<=1x"] {
            assert!(Gate::parse(text).unwrap_err().to_string().contains("is not a rule of --gate"), "{text}");
        }
    }
}
