//! `innesco event`: what happened, and everything that followed from it.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    client::Client,
    output::{self, DIM, Printer, Styled, text},
};

#[derive(clap::Subcommand)]
pub enum EventCommand {
    /// The newest events
    List {
        /// Only this type
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Only from this source
        #[arg(long)]
        source: Option<String>,
        /// Only in this state: waiting, done, failed, unrouted
        #[arg(long)]
        state: Option<String>,
        /// Only accepted at or after (RFC 3339)
        #[arg(long)]
        since: Option<String>,
        /// Only accepted before (RFC 3339)
        #[arg(long)]
        until: Option<String>,
        /// How many
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
    },
    /// Everything about one event: who sent it, what ran, what was sent, what came back
    Show { event: String },
    /// Run an event again through today's plugins and subscriptions: new webhooks under new ids
    Replay { event: String },
}

pub fn run(command: &EventCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        EventCommand::List { event_type, source, state, since, until, limit } => {
            let query = [
                ("type", event_type.as_deref()),
                ("source", source.as_deref()),
                ("state", state.as_deref()),
                ("since", since.as_deref()),
                ("until", until.as_deref()),
            ];
            let mut items = client.list("/v1/events", &query, *limit)?;
            for item in &mut items {
                item["accepted_at"] = out.time(&text(&item["accepted_at"])).into();
            }
            let columns: [output::Column; 5] = [
                ("accepted", |item| text(&item["accepted_at"])),
                ("event", |item| text(&item["event"])),
                ("type", |item| text(&item["type"])),
                ("state", |item| text(&item["state"])),
                ("source", |item| text(&item["source"])),
            ];
            out.list(&items, &columns, "No event yet. Send one with: innesco send order.created '{\"id\": 7}'")?;
        }
        EventCommand::Show { event } => out.thing(&client.get(&format!("/v1/events/{event}"))?, story)?,
        EventCommand::Replay { event } => {
            let answer = client.post(&format!("/v1/events/{event}/replay"), None)?;
            out.thing(&answer, |answer| {
                format!("replaying {event} (replay {})\nsee what comes of it: innesco event show {event}", answer["round"])
            })?;
        }
    }
    Ok(())
}

/// The whole story, to be read from top to bottom.
fn story(story: &Value) -> String {
    let mut page = String::new();
    // Writing into a string cannot fail.
    let _ = write_story(&mut page, story);
    page
}

fn write_story(page: &mut String, story: &Value) -> std::fmt::Result {
    writeln!(page, "{}  {}  {}", text(&story["event"]), text(&story["type"]), output::state(&text(&story["state"])))?;
    let mut line = |name: &str, value: &Value| match value {
        Value::Null => Ok(()),
        value => writeln!(page, "  {} {}", Styled(DIM, format!("{name:<10}")), text(value)),
    };
    line("source", &story["source"])?;
    if story["id"] != story["event"] {
        line("id", &story["id"])?;
    }
    line("subject", &story["subject"])?;
    line("time", &output::local_time(&text(&story["time"])).into())?;
    line("cause", &story["cause"])?;
    for (name, value) in story["attributes"].as_object().into_iter().flatten() {
        line(name, value)?;
    }
    line("data", &story["data"])?;
    line("data", &story["data_base64"])?;

    for run in story["runs"].as_array().into_iter().flatten() {
        write_run(page, run)?;
    }
    for delivery in story["deliveries"].as_array().into_iter().flatten() {
        write_delivery(page, delivery)?;
    }
    let emitted: Vec<String> = story["emitted"].as_array().into_iter().flatten().map(text).collect();
    if !emitted.is_empty() {
        writeln!(page, "\nemitted   {}", emitted.join("  "))?;
    }
    Ok(())
}

fn write_run(page: &mut String, run: &Value) -> std::fmt::Result {
    let version = run["version"].as_str().map(|version| format!("@{}", &version[..6.min(version.len())])).unwrap_or_default();
    let outcome = run["outcome"].as_str().unwrap_or("waiting");
    write!(page, "\nrun       {}{version}  {}", text(&run["plugin"]), output::state(outcome))?;
    if let Some(endpoint) = run["endpoint"].as_str() {
        write!(page, "  for {endpoint}")?;
    }
    writeln!(page, "  {} ms  {} webhooks, {} events", run["duration_ms"], run["webhooks"], run["events"])?;
    if let Some(message) = run["message"].as_str() {
        writeln!(page, "          {message}")?;
    }
    if run["state"] == "parked" {
        writeln!(page, "          the event is kept; after a fix it can be replayed")?;
    }
    for line in run["log"].as_array().into_iter().flatten() {
        writeln!(page, "          {} {}", Styled(DIM, format!("{:<5}", text(&line["level"]))), text(&line["message"]))?;
    }
    if let Some(dropped @ 1..) = run["log_dropped"].as_u64() {
        writeln!(page, "          … and {dropped} more lines that were not kept")?;
    }
    Ok(())
}

/// One delivery with its attempts.
pub fn write_delivery(page: &mut String, delivery: &Value) -> std::fmt::Result {
    let state = text(&delivery["state"]);
    write!(page, "\nwebhook   {}  → {}  {}", text(&delivery["id"]), text(&delivery["endpoint_name"]), output::state(&state))?;
    match (delivery["reason"].as_str(), delivery["due"].as_str()) {
        (Some(reason), _) => writeln!(page, "  {reason}")?,
        (_, Some(due)) if state == "retrying" => writeln!(page, "  next at {}", output::local_time(due))?,
        _ => writeln!(page)?,
    }
    for attempt in delivery["attempts"].as_array().into_iter().flatten() {
        let outcome = output::attempt(&text(&attempt["outcome"]), attempt["status"].as_u64());
        let at = output::local_time(&text(&attempt["at"]));
        writeln!(page, "          {}  {outcome}  {} ms  attempt {}", Styled(DIM, at), attempt["latency_ms"], attempt["n"])?;
        if let Some(detail) = attempt["detail"].as_str() {
            writeln!(page, "                    {detail}")?;
        }
        let excerpt = text(&attempt["excerpt"]);
        if let Some(first) = excerpt.lines().next().filter(|line| !line.is_empty()) {
            writeln!(
                page,
                "                    {}",
                Styled(DIM, format!("answered: {}", first.chars().take(100).collect::<String>()))
            )?;
        }
    }
    Ok(())
}
