//! `innesco stats`: counts over time.

use super::{
    client::Client,
    output::{Column, Printer},
};
use crate::wire::{BucketView, CountsView, StatsView};

#[derive(clap::Args)]
pub struct StatsArgs {
    /// How far back: 1h (by the minute, whole engine only), 24h or 7d
    #[arg(long, default_value = "24h", value_name = "TIME")]
    last: String,
    /// Only this endpoint
    #[arg(long, value_name = "NAME", group = "about")]
    endpoint: Option<String>,
    /// Only this plugin
    #[arg(long, value_name = "NAME", group = "about")]
    plugin: Option<String>,
    /// Only this source
    #[arg(long, value_name = "NAME", group = "about")]
    source: Option<String>,
}

pub fn run(args: &StatsArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let about = [("endpoint", &args.endpoint), ("plugin", &args.plugin), ("source", &args.source)];
    let about = about.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let query: Vec<(&str, &str)> = std::iter::once(("last", args.last.as_str())).chain(about).collect();
    let answer = client.get_with::<StatsView>(&["v1", "stats"], &query)?;
    Ok(out.answer(&answer, |stats| shown(stats, out))?)
}

/// Returns a table of the buckets in which something happened, and a line with their sum.
fn shown(stats: &StatsView, out: &Printer) -> String {
    let columns: [Column<BucketView>; 9] = [
        Column::time("from", |item| item.at.clone()),
        Column::text("events", |item| item.counts.accepted.to_string()),
        Column::text("runs", |item| item.counts.runs.to_string()),
        Column::text("failed", |item| item.counts.runs_failed.to_string()),
        Column::text("delivered", |item| item.counts.delivered.to_string()),
        Column::text("on first try", |item| first_try(&item.counts)),
        Column::text("failed attempts", |item| item.counts.attempts_failed.to_string()),
        Column::text("p50", |item| latency(item.counts.p50_ms)),
        Column::text("p99", |item| latency(item.counts.p99_ms)),
    ];
    let busy: Vec<&BucketView> = stats.buckets.iter().filter(|bucket| !is_quiet(&bucket.counts)).collect();
    let total = sum(stats);
    if busy.is_empty() {
        return format!("{total}\n");
    }
    format!("{}\n\n{total}\n", out.table(&busy, &columns))
}

fn is_quiet(counts: &CountsView) -> bool {
    [counts.accepted, counts.refused, counts.runs, counts.delivered, counts.attempts_failed] == [0; 5]
}

fn sum(stats: &StatsView) -> String {
    let CountsView { accepted, refused, runs, runs_failed, delivered, attempts_failed, .. } = stats.total;
    if is_quiet(&stats.total) {
        return format!("Nothing happened in the last {}.", stats.last);
    }
    let refused = if refused == 0 { String::new() } else { format!(", {refused} refused requests") };
    let first = first_try(&stats.total);
    let first = if first.is_empty() { first } else { format!(" ({first} on first try)") };
    let times = match (stats.total.p50_ms, stats.total.p99_ms) {
        (Some(p50), Some(p99)) => format!("; from event to delivery: p50 {}, p99 {}", latency(Some(p50)), latency(Some(p99))),
        _ => String::new(),
    };
    format!(
        "Last {}: {accepted} events{refused}, {runs} runs ({runs_failed} failed), {delivered} delivered{first}, {attempts_failed} failed attempts{times}",
        stats.last
    )
}

/// Returns the share of deliveries that needed one attempt, rounded down: 100 % means all.
fn first_try(counts: &CountsView) -> String {
    match counts.delivered {
        0 => String::new(),
        delivered => format!("{} %", u128::from(counts.first_try) * 100 / u128::from(delivered)),
    }
}

fn latency(millis: Option<f64>) -> String {
    match millis {
        None => String::new(),
        Some(millis) if millis < 10.0 => format!("{millis:.1} ms"),
        Some(millis) if millis < 10_000.0 => format!("{millis:.0} ms"),
        Some(millis) => format!("{:.0} s", millis / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{examples::read, output::Reader},
        *,
    };

    fn counts(delivered: u64, first_try: u64) -> Value {
        json!({
            "at": "2026-11-24T09:00:00.000Z", "accepted": 5, "refused": 0, "runs": 4, "runs_failed": 1, "delivered": delivered,
            "first_try": first_try, "attempts_failed": 2, "p50_ms": 2.83, "p99_ms": 46341.0,
        })
    }

    #[test]
    fn busy_buckets_and_their_sum_are_shown() {
        let quiet = json!({
            "at": "2026-11-24T08:00:00.000Z", "accepted": 0, "refused": 0, "runs": 0, "runs_failed": 0, "delivered": 0, "first_try": 0,
            "attempts_failed": 0, "p50_ms": null, "p99_ms": null,
        });
        let stats: StatsView =
            read(json!({ "last": "24h", "bucket_s": 900, "total": counts(3, 2), "buckets": [quiet, counts(3, 2)] }));
        let text = shown(&stats, &Printer::of(Reader::Pipe, "2026-11-24T09:20:00Z"));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("66 %\t2\t2.8 ms\t46 s"), "{text}");
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "Last 24h: 5 events, 4 runs (1 failed), 3 delivered (66 % on first try), 2 failed attempts; from event to delivery: p50 2.8 ms, p99 46 s"
        );
        let nothing: StatsView = read(json!({ "last": "1h", "bucket_s": 60, "total": quiet, "buckets": [] }));
        assert_eq!(shown(&nothing, &Printer::of(Reader::Pipe, "2026-11-24T09:20:00Z")), "Nothing happened in the last 1h.\n");
    }
}
