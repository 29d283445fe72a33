//! `innesco run`: lists, shows, retries and cancels runs of plugins.

use serde_json::json;

use super::{
    as_test::{self, AsTestArgs},
    client::Client,
    event, job,
    measure::{self, count},
    output::{Column, Printer, confirm},
};
use crate::{
    domain::run::{Remedy, RunOutcome, remedy},
    wire::{RunStoryView, RunView},
};

#[derive(clap::Subcommand)]
pub enum RunCommand {
    /// List the newest runs
    #[command(before_help = "Example:  innesco run list --state parked --plugin order-router")]
    List {
        /// Only runs in this state: waiting, done, parked, cancelled
        #[arg(long)]
        state: Option<String>,
        /// Only runs with this outcome: ok, failed, trapped, deadline, out-of-memory, bad-output, not-loadable
        #[arg(long)]
        outcome: Option<String>,
        /// Only runs of this plugin
        #[arg(long)]
        plugin: Option<String>,
        /// Only runs on this event
        #[arg(long)]
        event: Option<String>,
        /// Only runs on events of this type
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Only runs on events accepted since this time: 2h (ago), or 2026-01-31T09:30:00Z
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Only runs on events accepted before this time
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
        /// Number of runs
        #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Show one run with its log, or write it as a test
    #[command(
        before_help = "Example:  innesco run show run_k7q212\n          innesco run show run_k7q212 --as-test --mask 'data.customer.*'"
    )]
    Show {
        /// Run id, run_…
        run: String,
        #[command(flatten)]
        test: AsTestArgs,
    },
    /// Run failed runs again, with the plugin version that serves now; the event's other runs and webhooks are not repeated
    #[command(
        before_help = "Example:  innesco run retry run_k7q212\n          innesco run retry --parked --plugin order-router --since 2h"
    )]
    Retry {
        /// Run ids, run_…
        #[arg(required_unless_present = "parked", conflicts_with = "parked", value_name = "RUN")]
        runs: Vec<String>,
        #[command(flatten)]
        bulk: Bulk,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Cancel waiting or parked runs
    #[command(before_help = "Example:  innesco run cancel run_k7q212")]
    Cancel {
        /// Run ids, run_…
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<String>,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// Filter of a bulk retry.
#[derive(clap::Args)]
pub struct Bulk {
    /// All parked runs
    #[arg(long)]
    parked: bool,
    /// With --parked: only of this plugin
    #[arg(long, requires = "parked")]
    plugin: Option<String>,
    /// With --parked: only with this outcome: failed, trapped, deadline, out-of-memory, bad-output, not-loadable
    #[arg(long, requires = "parked")]
    outcome: Option<String>,
    /// With --parked: only on these event types: order.created, order.*
    #[arg(long = "type", requires = "parked", value_name = "PATTERN")]
    event_type: Option<String>,
    /// With --parked: only on events accepted since this time: 2h (ago), or 2026-01-31T09:30:00Z
    #[arg(long, requires = "parked", value_name = "WHEN")]
    since: Option<String>,
    /// With --parked: only on events accepted before this time
    #[arg(long, requires = "parked", value_name = "WHEN")]
    until: Option<String>,
}

pub fn run(command: &RunCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        RunCommand::List { state, outcome, plugin, event, event_type, since, until, limit } => {
            let (since, until) = event::instants(since, until)?;
            let query = [
                ("state", state.as_deref()),
                ("outcome", outcome.as_deref()),
                ("plugin", plugin.as_deref()),
                ("event", event.as_deref()),
                ("type", event_type.as_deref()),
                ("since", since.as_deref()),
                ("until", until.as_deref()),
            ];
            let items = client.list(&["v1", "runs"], &query, *limit)?;
            let columns: [Column<RunView>; 8] = [
                Column::text("run", |item| item.id.clone()),
                Column::text("plugin", plugin_and_version),
                Column::state("state", |item| item.state.to_string()),
                Column::state("outcome", |item| item.outcome.as_deref().unwrap_or_default().to_owned()),
                Column::text("tries", |item| item.tries.to_string()),
                Column::text("type", |item| item.r#type.clone()),
                Column::text("event", |item| item.event.clone()),
                Column::text("message", |item| item.message.clone().unwrap_or_default()),
            ];
            out.list(&items, &columns, "No such run.")?;
        }
        RunCommand::Show { run, test } if test.as_test => as_test::run(test, run, client, out)?,
        RunCommand::Show { run, .. } => out.answer(&client.get(&["v1", "runs", run])?, |run| page(run, out))?,
        RunCommand::Retry { bulk, yes, .. } if bulk.parked => retry_all(bulk, *yes, client, out)?,
        RunCommand::Retry { runs, .. } => {
            for run in runs {
                let answer = client.post(&["v1", "runs", run, "retry"], None)?;
                out.answer(&answer, |RunStoryView { run, .. }: &RunStoryView| {
                    format!("retrying {}  {}; see the result with: innesco run show {}", run.id, run.plugin, run.id)
                })?;
            }
        }
        RunCommand::Cancel { runs, yes } => {
            let what = match runs.as_slice() {
                [one] => format!("this cancels {one}; its plugin does not run again on this event"),
                more => {
                    format!("this cancels {}; their plugins do not run again on these events", count(more.len() as u64, "run"))
                }
            };
            confirm(&what, *yes)?;
            for run in runs {
                let answer = client.post(&["v1", "runs", run, "cancel"], None)?;
                out.answer(&answer, |RunStoryView { run, .. }: &RunStoryView| format!("cancelled {}  {}", run.id, run.plugin))?;
            }
        }
    }
    Ok(())
}

/// Formats the plugin of a run with the version that ran: `order-router@3fa2c1`.
pub fn plugin_and_version(run: &RunView) -> String {
    let version = run.version.as_deref().map(|version| format!("@{}", event::short(version))).unwrap_or_default();
    format!("{}{version}", run.plugin)
}

/// Returns what to do so that a parked run runs again, in one line.
pub fn advice(run: &str, outcome: &str, wants: Option<&str>) -> String {
    // An unknown outcome, from a newer engine, is assumed to need a person.
    let outcome = RunOutcome::parse(outcome).unwrap_or(RunOutcome::Failed);
    match (remedy(outcome, wants), wants) {
        (Remedy::ItsEndpoint, Some(name)) => {
            let name = measure::one_line(name);
            format!("parked until the endpoint {name} exists, then tried again automatically: innesco endpoint add {name} URL")
        }
        (Remedy::ItsPlugin, _) => {
            "parked until the plugin loads, then tried again automatically: see innesco plugin list".to_owned()
        }
        _ => format!("parked; after a fix: innesco run retry {run}"),
    }
}

fn page(story: &RunStoryView, out: &Printer) -> String {
    let mut page = String::new();
    // Writing into a string cannot fail.
    let _ = event::write_run(&mut page, story, out);
    let RunView { event, r#type, .. } = &story.run;
    format!("{}\n\non event {event}, {}: innesco event show {event}", page.trim(), measure::one_line(r#type))
}

/// Asks the engine to retry all matching runs, and watches the job.
fn retry_all(bulk: &Bulk, yes: bool, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let (since, until) = event::instants(&bulk.since, &bulk.until)?;
    let filter = json!({
        "plugin": bulk.plugin, "outcome": bulk.outcome, "event_type": bulk.event_type, "since": since, "until": until,
    });
    let narrowed = job::narrowed(&[
        ("of", &bulk.plugin),
        ("that ended", &bulk.outcome),
        ("on", &bulk.event_type),
        ("since", &bulk.since),
        ("before", &bulk.until),
    ]);
    confirm(&format!("this runs every parked run{narrowed} again, with the plugins that serve now"), yes)?;
    let job = job::watch(client.post(&["v1", "runs", "retry"], Some(&filter))?, client)?;
    Ok(out.answer(&job, job::summary)?)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            examples::{read, run, with},
            output::Reader,
        },
        *,
    };

    #[test]
    fn shows_a_run_with_its_remedy() {
        let changes = json!({
            "id": "run_2", "state": "parked", "outcome": "trapped", "message": "panicked at src/lib.rs:13:29: unlucky 13",
            "version": "91be07aabb", "duration_ms": 0.03, "backtrace": ["router::unlucky (src/lib.rs:13)"], "log": [{ "level": "info", "message": "order 13" }],
        });
        let story: RunStoryView = read(with(run(), changes));
        let out = Printer::of(Reader::Person, "2026-11-24T09:20:00Z");
        let expected = "\
run       router@91be07  ✕ trapped  0.03 ms  run_2
          panicked at src/lib.rs:13:29: unlucky 13
          at router::unlucky (src/lib.rs:13)
          parked; after a fix: innesco run retry run_2
          info  order 13

on event evt_1, order.created: innesco event show evt_1";
        assert_eq!(anstream::adapter::strip_str(&page(&story, &out)).to_string(), expected);
    }

    #[test]
    fn a_parked_run_shows_one_remedy() {
        assert_eq!(advice("run_2", "trapped", None), "parked; after a fix: innesco run retry run_2");
        assert_eq!(advice("run_2", "new-outcome", None), "parked; after a fix: innesco run retry run_2");
        let expected = "parked until the endpoint crm exists, then tried again automatically: innesco endpoint add crm URL";
        assert_eq!(advice("run_2", "bad-output", Some("crm")), expected);
        assert!(advice("run_2", "not-loadable", None).contains("until the plugin loads"));
    }
}
