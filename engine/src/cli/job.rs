//! `innesco job`: lists, watches and cancels background jobs.

use std::{
    io::{IsTerminal as _, stderr},
    thread,
    time::{Duration, Instant},
};

use super::{
    answer::Answer,
    client::Client,
    measure::count,
    output::{self, Column, Printer, confirm},
};
use crate::wire::JobView;

/// Time between two requests for a job's progress.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Time between two progress lines when standard error is not a terminal.
const SAY_EVERY: Duration = Duration::from_secs(5);

#[derive(clap::Subcommand)]
pub enum JobCommand {
    /// List the newest jobs
    #[command(before_help = "Example:  innesco job list")]
    List {
        /// Only jobs in this state: running, done, cancelled
        #[arg(long)]
        state: Option<String>,
        /// Number of jobs
        #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Watch one job until it ends
    #[command(before_help = "Example:  innesco job watch job_k7q212")]
    Watch {
        /// Job id, job_…
        job: String,
    },
    /// Cancel a job; what it has done stays
    #[command(before_help = "Example:  innesco job cancel job_k7q212")]
    Cancel {
        /// Job id, job_…
        job: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(command: &JobCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        JobCommand::List { state, limit } => {
            let items = client.list(&["v1", "jobs"], &[("state", state.as_deref())], *limit)?;
            let columns: [Column<JobView>; 7] = [
                Column::text("job", |item| item.id.clone()),
                Column::text("does", |item| item.kind.to_string()),
                Column::state("state", |item| item.state.to_string()),
                Column::text("done", |item| item.done.to_string()),
                Column::text("failed", |item| item.failed.to_string()),
                Column::text("of", |item| item.total.map(|total| total.to_string()).unwrap_or_default()),
                Column::time("created", |item| item.created_at.clone()),
            ];
            out.list(&items, &columns, "No job.")?;
        }
        JobCommand::Watch { job } => {
            let job = watch(client.get(&["v1", "jobs", job])?, client)?;
            out.answer(&job, summary)?;
        }
        JobCommand::Cancel { job, yes } => {
            confirm(&format!("this cancels {job}; what it has done stays"), *yes)?;
            out.answer(&client.post(&["v1", "jobs", job, "cancel"], None)?, summary)?;
        }
    }
    Ok(())
}

/// Watches a job until it ends: with a bar on a terminal, otherwise with progress lines. Interrupting the wait does not stop the
/// job.
pub fn watch(mut job: Answer<JobView>, client: &Client) -> anyhow::Result<Answer<JobView>> {
    let id = job.id.clone();
    let bar = stderr().is_terminal().then(|| {
        let bar = job.total.map_or_else(indicatif::ProgressBar::no_length, indicatif::ProgressBar::new);
        bar.println(format!("{id}  continues if you interrupt this command; watch it again with: innesco job watch {id}"));
        bar
    });
    let mut said = Instant::now();
    while job.state == "running" {
        thread::sleep(ASK_EVERY);
        job = client.get(&["v1", "jobs", &id])?;
        match &bar {
            Some(bar) => bar.set_position(reached(&job)),
            None if said.elapsed() >= SAY_EVERY => {
                said = Instant::now();
                output::tell!("{}", summary(&job));
            }
            None => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(job)
}

/// Returns the number of items that the job has processed.
fn reached(job: &JobView) -> u64 {
    job.done + job.failed
}

/// Formats the state of a job in one line.
pub fn summary(job: &JobView) -> String {
    let (id, state, list) = (&job.id, &job.state, job.filter.state.as_deref());
    let (noun, verb, why, list) = match job.kind.as_ref() {
        "run.retry" => ("run", "retried", "its endpoint was deleted", list.map(|state| format!("run list --state {state}"))),
        "event.replay" => ("event", "replayed", "the event still waits to be run", Some("event list --state waiting".to_owned())),
        _ => (
            "webhook",
            "retried",
            "the endpoint is disabled or deleted, or all attempts are used up",
            list.map(|state| format!("delivery list --state {state}")),
        ),
    };
    let done = count(job.done, noun);
    let of = match job.total {
        Some(total) if job.state != "done" => format!(" of {total}"),
        _ => String::new(),
    };
    let list = list.map(|list| format!(" (innesco {list})")).unwrap_or_default();
    let failed = match job.failed {
        0 => String::new(),
        failed => format!("; {failed} not {verb}: {why}{list}"),
    };
    format!("{id}  {state}  {done}{of} due again{failed}")
}

/// Formats a filter for a question: ` to crm since 2h`.
pub fn narrowed(filter: &[(&str, &Option<String>)]) -> String {
    filter.iter().filter_map(|(word, value)| value.as_ref().map(|value| format!(" {word} {value}"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::examples::{job, read, with},
        *,
    };

    #[test]
    fn summarizes_a_job() {
        let job = |state: &str, failed: u64, total: Option<u64>| {
            let changes = json!({ "id": "job_1", "state": state, "done": 7, "failed": failed, "total": total });
            read::<JobView>(with(job(), changes))
        };
        assert_eq!(summary(&job("running", 0, Some(20))), "job_1  running  7 webhooks of 20 due again");
        assert_eq!(summary(&job("done", 0, Some(7))), "job_1  done  7 webhooks due again");
        assert_eq!(
            summary(&job("done", 2, None)),
            "job_1  done  7 webhooks due again; 2 not retried: the endpoint is disabled or deleted, or all \
             attempts are used up (innesco delivery list --state dead)"
        );
        assert_eq!(reached(&job("done", 2, None)), 9);
        let of_kind = |kind: &str, state: &str| {
            let mut changed = with(super::super::examples::job(), json!({ "id": "job_1", "kind": kind, "done": 1, "failed": 1 }));
            changed["filter"]["state"] = json!(state);
            summary(&read::<JobView>(changed))
        };
        assert_eq!(
            of_kind("run.retry", "parked"),
            "job_1  done  1 run due again; 1 not retried: its endpoint was deleted (innesco run list --state parked)"
        );
        assert_eq!(
            of_kind("event.replay", "unrouted"),
            "job_1  done  1 event due again; 1 not replayed: the event still waits to be run (innesco event list --state waiting)"
        );
    }
}
