//! `innesco delivery`: lists, retries and cancels deliveries.

use serde_json::json;

use super::{
    answer::Answer,
    client::Client,
    event, job,
    measure::{self, count, one_line},
    output::{self, Column, DIM, Printer, Styled, confirm},
};
use crate::{
    clock,
    domain::job::Ended,
    wire::{CountView, DeliveryStoryView, DeliveryView, SentRequestView},
};

#[derive(clap::Subcommand)]
pub enum DeliveryCommand {
    /// List the newest deliveries
    #[command(before_help = "Example:  innesco delivery list --state dead --endpoint crm")]
    List {
        /// Only deliveries to this endpoint
        #[arg(long)]
        endpoint: Option<String>,
        /// Only deliveries of this event
        #[arg(long)]
        event: Option<String>,
        /// Only deliveries in this state: pending, retrying, delivered, dead, cancelled
        #[arg(long)]
        state: Option<String>,
        /// Only deliveries of events accepted since this time: 2h (ago), or 2026-01-31T09:30:00Z
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Number of deliveries
        #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Show one delivery with every attempt, and what was sent
    #[command(
        before_help = "Example:  innesco delivery show dlv_k7q212\n          innesco delivery show dlv_k7q212 --body > body.json"
    )]
    Show {
        /// Delivery id, dlv_…; receivers see it as webhook-id
        delivery: String,
        /// Print only the body as it was sent; the first 64 KiB on a terminal, otherwise all of it
        #[arg(long, conflicts_with = "curl")]
        body: bool,
        /// Print a curl command that sends the same request; secrets are ***
        #[arg(long)]
        curl: bool,
    },
    /// Send deliveries again now, under the same webhook-id
    #[command(
        before_help = "Example:  innesco delivery retry dlv_k7q212\n          innesco delivery retry --dead --endpoint crm --since 2h\n          innesco delivery retry --waiting --endpoint crm"
    )]
    Retry {
        /// Delivery ids, dlv_…
        #[arg(required_unless_present = "bulk", conflicts_with = "bulk", value_name = "DELIVERY")]
        deliveries: Vec<String>,
        #[command(flatten)]
        bulk: Bulk,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Cancel waiting deliveries
    #[command(before_help = "Example:  innesco delivery cancel dlv_k7q212")]
    Cancel {
        /// Delivery ids, dlv_…
        #[arg(required = true, value_name = "DELIVERY")]
        deliveries: Vec<String>,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// Filter of a bulk retry.
#[derive(clap::Args)]
pub struct Bulk {
    /// All dead deliveries
    #[arg(long, group = "bulk")]
    dead: bool,
    /// All cancelled deliveries
    #[arg(long, group = "bulk")]
    cancelled: bool,
    /// All deliveries that wait for their next attempt
    #[arg(long, group = "bulk")]
    waiting: bool,
    /// With --dead, --cancelled or --waiting: only to this endpoint
    #[arg(long, requires = "bulk")]
    endpoint: Option<String>,
    /// With --dead: only with this reason: exhausted, gone, endpoint-disabled
    #[arg(long, requires = "dead")]
    reason: Option<String>,
    /// With --dead, --cancelled or --waiting: only these event types: order.created, order.*
    #[arg(long = "type", requires = "bulk", value_name = "PATTERN")]
    event_type: Option<String>,
    /// With --dead or --cancelled: only since this time: 2h (ago), or 2026-01-31T09:30:00Z
    #[arg(long, requires = "bulk", conflicts_with = "waiting", value_name = "WHEN")]
    since: Option<String>,
    /// With --dead or --cancelled: only before this time
    #[arg(long, requires = "bulk", conflicts_with = "waiting", value_name = "WHEN")]
    until: Option<String>,
}

impl Bulk {
    /// Returns the state of the deliveries to retry; `None` if no filter was given.
    fn state(&self) -> Option<&'static str> {
        [(self.dead, Ended::Dead), (self.cancelled, Ended::Cancelled), (self.waiting, Ended::Retrying)]
            .into_iter()
            .find_map(|(chosen, state)| chosen.then_some(state.as_str()))
    }
}

pub fn run(command: &DeliveryCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        DeliveryCommand::List { endpoint, event, state, since, limit } => {
            let since = since.as_deref().map(|text| event::instant("--since", text, clock::wall())).transpose()?;
            let query = [
                ("endpoint", endpoint.as_deref()),
                ("event", event.as_deref()),
                ("state", state.as_deref()),
                ("since", since.as_deref()),
            ];
            let items = client.list(&["v1", "deliveries"], &query, *limit)?;
            let columns: [Column<DeliveryView>; 8] = [
                Column::text("delivery", |item| item.id.clone()),
                Column::text("type", |item| item.r#type.clone()),
                Column::text("endpoint", |item| item.endpoint_name.clone()),
                Column::state("state", |item| item.state.to_string()),
                Column::text("attempts", |item| item.attempt_count.to_string()),
                Column::text("last", last_attempt),
                Column::time("at, or next at", |item| item.at.clone().or(item.due.clone()).unwrap_or_default()),
                Column::text("event", |item| item.event.clone()),
            ];
            out.list(&items, &columns, "No such delivery.")?;
        }
        DeliveryCommand::Show { delivery, body: true, .. } => {
            output::print_body(&client.get_bytes(&["v1", "deliveries", delivery, "body"])?)?;
        }
        DeliveryCommand::Show { delivery, curl: true, .. } => {
            let story: Answer<DeliveryStoryView> = client.get(&["v1", "deliveries", delivery])?;
            let request =
                story.request.as_ref().ok_or_else(|| anyhow::anyhow!("the engine has no record of a request of {delivery}"))?;
            output::print(&curl_command(request, delivery))?;
        }
        DeliveryCommand::Show { delivery, .. } => {
            out.answer(&client.get(&["v1", "deliveries", delivery])?, |story| page(story, out))?;
        }
        DeliveryCommand::Retry { bulk, yes, .. } if bulk.state().is_some() => retry_all(bulk, *yes, client, out)?,
        DeliveryCommand::Retry { deliveries, yes, .. } => {
            for delivery in deliveries {
                let story: Answer<DeliveryStoryView> = client.get(&["v1", "deliveries", delivery])?;
                if story.delivery.state == "delivered" {
                    confirm(&format!("{delivery} is delivered; this sends it again, under the same webhook-id"), *yes)?;
                }
                let answer = client.post(&["v1", "deliveries", delivery, "retry"], None)?;
                out.answer(&answer, |story: &DeliveryStoryView| {
                    format!("retrying {delivery}  → {}", story.delivery.endpoint_name)
                })?;
            }
        }
        DeliveryCommand::Cancel { deliveries, yes } => {
            let what = match deliveries.as_slice() {
                [one] => format!("this cancels {one}"),
                more => format!("this cancels {}", count(more.len() as u64, "webhook")),
            };
            confirm(&what, *yes)?;
            for delivery in deliveries {
                let answer = client.post(&["v1", "deliveries", delivery, "cancel"], None)?;
                out.answer(&answer, |story: &DeliveryStoryView| {
                    format!("cancelled {delivery}  → {}", story.delivery.endpoint_name)
                })?;
            }
        }
    }
    Ok(())
}

/// Returns the result of the last attempt.
fn last_attempt(delivery: &DeliveryView) -> String {
    let last = delivery.last.as_ref();
    last.map(|last| output::attempt(&last.outcome, last.status).1).unwrap_or_default()
}

fn page(story: &DeliveryStoryView, out: &Printer) -> String {
    let mut page = String::new();
    // Writing into a string cannot fail.
    let _ = event::write_delivery(&mut page, story, out);
    let DeliveryView { id, event, r#type, run, .. } = &story.delivery;
    let mut page = page.trim().to_owned();
    if let Some(SentRequestView { head, .. }) = &story.request {
        page.push_str(&format!("\n\nrequest   {} {}", one_line(&head.method), one_line(&head.url)));
        for (name, value) in &head.headers {
            page.push_str(&format!("\n          {}", Styled(DIM, format!("{}: {}", one_line(name), one_line(value)))));
        }
        let bytes = measure::size(head.body_bytes);
        page.push_str(&format!("\n          body of {bytes}: innesco delivery show {id} --body"));
    }
    let maker = run.as_ref().map(|run| format!(", made by {run}")).unwrap_or_default();
    format!("{page}\n\nfrom event {event}, {}{maker}: innesco event show {event}", r#type)
}

/// Returns a command that sends a request again, from a shell.
fn curl_command(request: &SentRequestView, delivery: &str) -> String {
    let SentRequestView { head, body } = request;
    let mut lines = vec![format!("curl -X {} {}", quoted(&head.method), quoted(&head.url))];
    lines.extend(head.headers.iter().map(|(name, value)| format!("  -H {}", quoted(&format!("{name}: {value}")))));
    let (before, data) = match &body.text {
        Some(text) if body.is_whole => (String::new(), quoted(text)),
        _ => (format!("innesco delivery show {delivery} --body > {delivery}.body\n"), format!("@{delivery}.body")),
    };
    lines.push(format!("  --data-binary {data}"));
    format!("{before}{}", lines.join(" \\\n"))
}

/// Quotes a text for a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Asks the engine to retry all matching deliveries, and watches the job.
fn retry_all(bulk: &Bulk, yes: bool, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let state = bulk.state().unwrap_or_default();
    let (since, until) = event::instants(&bulk.since, &bulk.until)?;
    let filter = json!({
        "state": state,
        "endpoint": bulk.endpoint,
        "reason": bulk.reason,
        "event_type": bulk.event_type,
        "since": since,
        "until": until,
    });
    let narrowed = job::narrowed(&[
        ("to", &bulk.endpoint),
        ("because of", &bulk.reason),
        ("of type", &bulk.event_type),
        ("since", &bulk.since),
        ("before", &bulk.until),
    ]);
    // Waiting deliveries need no confirmation, because they would be sent anyway, only later.
    if !bulk.waiting {
        let query = [
            ("state", Some(state)),
            ("endpoint", bulk.endpoint.as_deref()),
            ("reason", bulk.reason.as_deref()),
            ("event_type", bulk.event_type.as_deref()),
            ("since", since.as_deref()),
            ("until", until.as_deref()),
        ];
        let query: Vec<(&str, &str)> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let found: Answer<CountView> = client.get_with(&["v1", "deliveries", "retry"], &query)?;
        let number = found.count.map(|number| format!(" ({number})")).unwrap_or_default();
        confirm(&format!("this sends every {state} delivery{narrowed} again{number}, under the same webhook-id"), yes)?;
    }
    let job = job::watch(client.post(&["v1", "deliveries", "retry"], Some(&filter))?, client)?;
    Ok(out.answer(&job, job::summary)?)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{
        super::{
            examples::{attempt, delivery, read, with},
            output::Reader,
        },
        *,
    };

    #[test]
    fn shows_a_delivery_with_its_attempts() {
        let changes = json!({
            "id": "dlv_2", "event": "evt_1", "endpoint_name": "crm", "attempts": [attempt(json!({ "latency_ms": 9.1 }))],
        });
        let story: DeliveryStoryView = read(with(delivery(), changes));
        let out = Printer::of(Reader::Person, "2026-11-24T09:20:00Z");
        let expected = "\
webhook   → crm  ● delivered  dlv_2
          09:14:02  200  9.1 ms

from event evt_1, order.created: innesco event show evt_1";
        assert_eq!(anstream::adapter::strip_str(&page(&story, &out)).to_string(), expected);
    }

    fn request(changes: Value) -> Value {
        let request = json!({
            "method": "POST", "url": "https://crm.example/it's", "headers": { "innesco-type": "order.created", "x-key": "***" },
            "body_bytes": 9, "body": { "content_type": "application/json", "text": "{\"a\":\"'\"}", "base64": null, "is_whole": true },
        });
        with(request, changes)
    }

    #[test]
    fn a_delivery_shows_its_request_and_its_run() {
        let changes = json!({ "id": "dlv_2", "run": "run_9", "request": request(json!({})) });
        let out = Printer::of(Reader::Person, "2026-11-24T09:20:00Z");
        let expected = "\
request   POST https://crm.example/it's
          innesco-type: order.created
          x-key: ***
          body of 9 bytes: innesco delivery show dlv_2 --body

from event evt_1, order.created, made by run_9: innesco event show evt_1";
        let page = page(&read(with(delivery(), changes)), &out);
        let page = anstream::adapter::strip_str(&page).to_string();
        assert!(page.ends_with(expected), "{page}");
    }

    #[test]
    fn a_curl_command_is_quoted_for_a_shell() {
        let curl = |changes| curl_command(&read(request(changes)), "dlv_2");
        let expected = r#"curl -X 'POST' 'https://crm.example/it'\''s' \
  -H 'innesco-type: order.created' \
  -H 'x-key: ***' \
  --data-binary '{"a":"'\''"}'"#;
        assert_eq!(curl(json!({})), expected);
        let cut = json!({ "body": { "content_type": "text/plain", "text": "a", "base64": null, "is_whole": false } });
        let cut = curl(cut);
        assert!(
            cut.starts_with("innesco delivery show dlv_2 --body > dlv_2.body\ncurl ")
                && cut.ends_with("--data-binary @dlv_2.body")
        );
    }

    #[test]
    fn last_attempts() {
        let last = |last| last_attempt(&read(with(delivery(), json!({ "last": last }))));
        assert_eq!(last(json!(null)), "");
        assert_eq!(last(json!({ "outcome": "answered", "status": 503 })), "503");
        assert_eq!(last(json!({ "outcome": "blocked", "status": null })), "blocked");
    }
}
