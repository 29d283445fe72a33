//! `innesco event`: lists events, shows their history, replays and cancels them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json, value::RawValue};

use super::{
    answer::Answer,
    client::{Client, without_nulls},
    job,
    measure::{self, count, one_line},
    output::{self, Column, DIM, Printer, Styled, confirm, indent},
    raw::pretty,
    run::{advice, plugin_and_version},
    tail, wrong,
};
use crate::{
    clock,
    domain::{duration, time::Timestamp},
    wire::{
        AttemptView, CancelledView, ChainView, DataView, DeliveryStoryView, DeliveryView, EventStoryView, EventView, LogView,
        PartsView, Replayed, RunStoryView,
    },
};

/// Maximum number of lines shown of an event's data.
const DATA_LINES: usize = 40;
/// Maximum number of characters shown of a receiver's answer.
const EXCERPT_CHARS: usize = 300;

#[derive(clap::Subcommand)]
pub enum EventCommand {
    /// List the newest events
    #[command(before_help = "Example:  innesco event list --state failed --since 2h")]
    List {
        /// Only events of this type or pattern, such as 'order.*'
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Only events from this source
        #[arg(long)]
        source: Option<String>,
        /// Only events to which the sender gave this id
        #[arg(long)]
        id: Option<String>,
        /// Only events with this subject
        #[arg(long)]
        subject: Option<String>,
        /// Only events in this state: waiting, retrying, failed, delivered, nothing-sent, unrouted
        #[arg(long)]
        state: Option<String>,
        /// Only events accepted since this time: 2h (ago), or 2026-01-31T09:30:00Z
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Only events accepted before this time
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
        /// Also list the engine's own events, innesco.*
        #[arg(long)]
        own: bool,
        /// Number of events
        #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
        limit: usize,
    },
    /// Print what the engine does, as it happens: events, runs, webhooks
    #[command(before_help = "Example:  innesco event tail --type 'order.*'")]
    Tail(tail::TailArgs),
    /// Show one event with its sender, runs, webhooks and the receivers' answers
    #[command(
        before_help = "Example:  innesco event show evt_k7q212\n          innesco event show evt_k7q212 --body > data.json"
    )]
    Show {
        /// Event id, evt_…
        event: String,
        /// Print only the event's data as it was received; the first 64 KiB on a terminal, otherwise all of it
        #[arg(long)]
        body: bool,
    },
    /// Run whole events again; their webhooks get new ids. To repeat only what failed, use run retry or delivery retry
    #[command(
        before_help = "Example:  innesco event replay evt_k7q212\n          innesco event replay --unrouted --type 'order.*' --since 2h"
    )]
    Replay {
        /// Event ids, evt_…
        #[arg(required_unless_present = "bulk", conflicts_with = "bulk", value_name = "EVENT")]
        events: Vec<String>,
        #[command(flatten)]
        bulk: Bulk,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Cancel the work that events still have to do: their waiting runs and webhooks, and events that are due later
    #[command(before_help = "Example:  innesco event cancel evt_k7q212")]
    Cancel {
        /// Event ids, evt_…
        #[arg(required = true, value_name = "EVENT")]
        events: Vec<String>,
    },
}

/// Filter of a bulk replay.
#[derive(clap::Args)]
#[group(id = "bulk", multiple = true)]
pub struct Bulk {
    /// All events that matched no plugin and no endpoint
    #[arg(long, conflicts_with = "state")]
    unrouted: bool,
    /// All events in this state
    #[arg(long)]
    state: Option<String>,
    /// All events of these types: order.created, order.*
    #[arg(long = "type", value_name = "PATTERN")]
    event_type: Option<String>,
    /// All events from this source
    #[arg(long)]
    source: Option<String>,
    /// All events accepted since this time: 2h (ago), or 2026-01-31T09:30:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// All events accepted before this time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
}

impl Bulk {
    const fn is_set(&self) -> bool {
        let Self { unrouted, state, event_type, source, since, until } = self;
        *unrouted || state.is_some() || event_type.is_some() || source.is_some() || since.is_some() || until.is_some()
    }
}

pub fn run(command: &EventCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        EventCommand::List { event_type, source, id, subject, state, since, until, own, limit } => {
            let (since, until) = instants(since, until)?;
            let query = [
                ("type", event_type.as_deref()),
                ("source", source.as_deref()),
                ("id", id.as_deref()),
                ("subject", subject.as_deref()),
                ("state", state.as_deref()),
                ("since", since.as_deref()),
                ("until", until.as_deref()),
                ("own", own.then_some("true")),
            ];
            let items = client.list(&["v1", "events"], &query, *limit)?;
            let columns: [Column<EventView>; 5] = [
                Column::text("event", |item| item.event.clone()),
                Column::text("type", |item| item.r#type.clone()),
                Column::state("state", worst),
                Column::text("source", |item| item.source.clone()),
                Column::time("accepted", |item| item.accepted_at.clone()),
            ];
            let nothing = match query.iter().any(|(_, value)| value.is_some()) {
                true => "No such event.",
                false => "No event yet. Send one with: innesco send order.created '{\"id\": 7}'",
            };
            out.list(&items, &columns, nothing)?;
        }
        EventCommand::Tail(args) => tail::run(args, client, out)?,
        EventCommand::Show { event, body: true } => {
            output::print_body(&client.get_bytes(&["v1", "events", event, "data"])?)?;
        }
        EventCommand::Show { event, .. } => {
            let whole = whole_story(client, event)?;
            let read = whole.read_story()?;
            out.exact(&whole.json(), || story(&read, whole.data.as_deref(), out))?;
        }
        EventCommand::Replay { bulk, yes, .. } if bulk.is_set() => replay_all(bulk, *yes, client, out)?,
        EventCommand::Replay { events, yes, .. } => {
            let what = match events.as_slice() {
                [one] => format!("this runs {one} again as a whole"),
                more => format!("this runs {} again as a whole", count(more.len() as u64, "event")),
            };
            confirm(&format!("{what}: {NEW_WEBHOOKS}"), *yes)?;
            for event in events {
                let answer = client.post(&["v1", "events", event, "replay"], None)?;
                out.answer(&answer, |replayed: &Replayed| {
                    format!("replaying {event}  replay {}; see the result with: innesco event show {event}", replayed.round)
                })?;
            }
        }
        EventCommand::Cancel { events } => {
            for event in events {
                let answer = client.post(&["v1", "events", event, "cancel"], None)?;
                out.answer(&answer, |done: &CancelledView| cancelled(event, done))?;
            }
        }
    }
    Ok(())
}

/// Formats what a cancellation changed.
fn cancelled(event: &str, done: &CancelledView) -> String {
    let CancelledView { event: _, events, waiting, runs, deliveries, scheduled, more } = done;
    let parts = [(waiting, "event that waited"), (runs, "run"), (deliveries, "webhook"), (scheduled, "event due later")];
    let plural = |number: u64, noun: &str| match (number, noun) {
        (2.., "event that waited") => format!("{number} events that waited"),
        (2.., "event due later") => format!("{number} events due later"),
        _ => count(number, noun),
    };
    let parts: Vec<String> =
        parts.iter().filter(|(number, _)| **number > 0).map(|(number, noun)| plural(**number, noun)).collect();
    let what = if parts.is_empty() { "nothing was waiting".to_owned() } else { format!("cancelled {}", parts.join(", ")) };
    let chain = match events {
        0 | 1 => String::new(),
        more => format!(", in a chain of {more} events"),
    };
    let rest = if *more { "; the chain has more events, which are unchanged" } else { "" };
    format!("{event}  {what}{chain}{rest}")
}

/// Formats the state of an event with the count of its parts: `retrying, 1 of 2 delivered`.
fn worst(event: &EventView) -> String {
    let PartsView { runs, deliveries, .. } = &event.parts;
    let mut text = event.state.to_string();
    if runs.parked > 0 {
        text.push_str(&format!(", {} parked", count(runs.parked, "run")));
    }
    if deliveries.delivered < deliveries.total {
        text.push_str(&format!(", {} of {} delivered", deliveries.delivered, deliveries.total));
    }
    text
}

/// The part of the confirmation prompt that says what a replay sends.
const NEW_WEBHOOKS: &str = "every plugin and every subscribed endpoint, also those that succeeded, with new webhooks under new ids, which \
     receivers take as new. To repeat only what failed, use innesco run retry or innesco delivery retry";

/// Asks the engine to replay all matching events, and watches the job.
fn replay_all(bulk: &Bulk, yes: bool, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let (since, until) = instants(&bulk.since, &bulk.until)?;
    let state = if bulk.unrouted { Some("unrouted".to_owned()) } else { bulk.state.clone() };
    let filter = without_nulls(json!({
        "state": state, "event_type": bulk.event_type, "source": bulk.source, "since": since, "until": until,
    }));
    let narrowed = job::narrowed(&[
        ("in the state", &state),
        ("of type", &bulk.event_type),
        ("from", &bulk.source),
        ("since", &bulk.since),
        ("before", &bulk.until),
    ]);
    confirm(&format!("this runs every event{narrowed} again as a whole: {NEW_WEBHOOKS}"), yes)?;
    let job = job::watch(client.post(&["v1", "events", "replay"], Some(&filter))?, client)?;
    Ok(out.answer(&job, job::summary)?)
}

/// An event's history, and separately its data as it is written: a `Value` cannot hold all JSON (long numbers, half surrogates).
struct WholeStory {
    story: Value,
    data: Option<String>,
}

impl WholeStory {
    fn read(text: &str) -> serde_json::Result<Self> {
        let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
        let data = members.remove("data").map(|data| data.get().to_owned());
        Ok(Self { story: serde_json::from_str(&serde_json::to_string(&members)?)?, data })
    }

    /// Returns the history with the data as one JSON text.
    fn json(&self) -> String {
        let story = self.story.to_string();
        match (&self.data, story.strip_prefix('{')) {
            (Some(data), Some(rest)) => format!("{{\"data\":{data},{rest}"),
            _ => story,
        }
    }

    /// Returns the history without the event's data.
    fn read_story(&self) -> anyhow::Result<EventStoryView> {
        Ok(Answer::<EventStoryView>::read(self.story.clone())?.into_thing())
    }
}

/// Returns an event's whole history, typed and as JSON.
pub fn history(client: &Client, event: &str) -> anyhow::Result<(EventStoryView, String)> {
    let whole = whole_story(client, event)?;
    Ok((whole.read_story()?, whole.json()))
}

/// Joins all parts of an event's history.
fn whole_story(client: &Client, event: &str) -> anyhow::Result<WholeStory> {
    let first = client.get_text(&["v1", "events", event])?;
    let mut whole = WholeStory::read(&first).context("the engine's answer cannot be read")?;
    let story = &mut whole.story;
    while let Some(cursor) = story["next"].as_str().map(str::to_owned) {
        let text = client.get_text_with(&["v1", "events", event], &[("cursor", &cursor)])?;
        let mut part = WholeStory::read(&text).context("the engine's answer cannot be read")?.story;
        for list in ["runs", "deliveries", "emitted", "scheduled"] {
            if let (Some(all), Some(more)) = (story[list].as_array_mut(), part[list].as_array_mut()) {
                all.append(more);
            }
        }
        story["next"] = part["next"].take();
    }
    Ok(whole)
}

/// Reads the flags `--since` and `--until`.
pub fn instants(since: &Option<String>, until: &Option<String>) -> anyhow::Result<(Option<String>, Option<String>)> {
    let read = |flag, text: &Option<String>| text.as_deref().map(|text| instant(flag, text, clock::wall())).transpose();
    Ok((read("--since", since)?, read("--until", until)?))
}

/// Reads `2h` as two hours ago, and everything else as RFC 3339.
pub fn instant(flag: &str, text: &str, now: Timestamp) -> anyhow::Result<String> {
    if let Some(ago) = duration::parse(text) {
        return Ok(now.minus(ago).to_string());
    }
    match Timestamp::parse_rfc3339(text) {
        Some(at) => Ok(at.to_string()),
        None => Err(wrong(format!(
            "{flag} {text:?} is not a time; write how long ago, such as 30m, 2h or 7d, or 2026-01-31T09:30:00Z"
        ))),
    }
}

/// Formats the history, to be read from top to bottom.
fn story(story: &EventStoryView, data: Option<&str>, out: &Printer) -> String {
    let mut page = String::new();
    // Writing into a string cannot fail.
    let _ = write_story(&mut page, story, data, out);
    page
}

fn write_story(page: &mut String, story: &EventStoryView, data: Option<&str>, out: &Printer) -> fmt::Result {
    let event = &story.event;
    writeln!(page, "{}  {}  {}", event.event, one_line(&event.r#type), output::state(&worst(event)))?;
    let mut line = |name: &str, value: &str| writeln!(page, "  {:<7} {}", Styled(DIM, one_line(name)), one_line(value));
    line("from", &event.source)?;
    line("at", &out.time(&event.accepted_at))?;
    if event.id != event.event {
        line("id", &event.id)?;
    }
    let (time, accepted) = (Timestamp::parse_rfc3339(&event.time), Timestamp::parse_rfc3339(&event.accepted_at));
    if let (Some(time), Some(accepted)) = (time, accepted)
        && time.millis().abs_diff(accepted.millis()) > 1_000
    {
        line("time", &out.time(&event.time))?;
    }
    if let Some(subject) = &event.subject {
        line("subject", subject)?;
    }
    for (name, value) in &event.attributes {
        line(name, value)?;
    }
    if let Some(cause) = &event.cause {
        line("cause", &format!("{cause}, position {} in its chain", event.depth))?;
    }
    line("data", &format!("{}, {}", event.content_type, measure::size(event.bytes)))?;
    let base64 = match &story.data {
        DataView::Base64(text) => Some(text.as_str()),
        DataView::Json(_) => None,
    };
    write_data(page, data, base64)?;

    let rounds: BTreeSet<u32> =
        story.runs.iter().map(|one| one.run.round).chain(story.deliveries.iter().map(|one| one.delivery.round)).collect();
    for round in rounds {
        if round > 0 {
            writeln!(page, "\nreplay {round}")?;
        }
        for run in story.runs.iter().filter(|one| one.run.round == round) {
            write_run(page, run, out)?;
        }
        for delivery in story.deliveries.iter().filter(|one| one.delivery.round == round) {
            write_delivery(page, delivery, out)?;
        }
    }
    if story.chain.is_empty() && !story.emitted.is_empty() {
        writeln!(page, "\nemitted   {}", story.emitted.join("  "))?;
    }
    write_scheduled(page, story, out)?;
    write_chain(page, story)?;
    write_advice(page, story)
}

/// Writes the events that take place later.
fn write_scheduled(page: &mut String, story: &EventStoryView, out: &Printer) -> fmt::Result {
    for (place, one) in story.scheduled.iter().enumerate() {
        let subject = one.subject.as_deref().map(|subject| format!("  {}", one_line(subject))).unwrap_or_default();
        let by = one.source.strip_prefix("plugin/").map(|plugin| format!("  by {}", one_line(plugin))).unwrap_or_default();
        let state = match &one.cancelled_at {
            None => format!("due at {}", out.time(&one.due_at)),
            Some(at) => format!("cancelled at {}", out.time(at)),
        };
        let name = if place == 0 { "\nlater     " } else { "          " };
        writeln!(page, "{name}{}{subject}  {state}{}", one_line(&one.r#type), Styled(DIM, by))?;
    }
    Ok(())
}

/// Writes the event's chain of causes as a tree, and its trace.
fn write_chain(page: &mut String, story: &EventStoryView) -> fmt::Result {
    let mut children: BTreeMap<Option<&str>, Vec<&ChainView>> = BTreeMap::new();
    let known: BTreeSet<&str> = story.chain.iter().map(|link| link.event.as_str()).collect();
    for link in &story.chain {
        // The cause of the first event may be deleted.
        children.entry(link.cause.as_deref().filter(|cause| known.contains(cause))).or_default().push(link);
    }
    let mut next: Vec<(usize, &ChainView)> = children.get(&None).into_iter().flatten().rev().map(|link| (0, *link)).collect();
    if next.is_empty() {
        return Ok(());
    }
    let trace = story.trace.as_deref().map(|trace| format!("  trace {}", one_line(trace))).unwrap_or_default();
    writeln!(page, "\nchain{}", Styled(DIM, trace))?;
    while let Some((depth, link)) = next.pop() {
        let branch = if depth > 0 { "└ " } else { "" };
        let subject = link.subject.as_deref().map(|subject| format!("  {}", one_line(subject))).unwrap_or_default();
        let by = link.source.strip_prefix("plugin/").map(|plugin| format!("  by {}", one_line(plugin))).unwrap_or_default();
        let here = if link.event == story.event.event { "  ← this event" } else { "" };
        let (indent, state) = ("  ".repeat(depth), output::state(&link.state));
        writeln!(
            page,
            "  {indent}{branch}{}  {}{subject}  {state}{}{here}",
            one_line(&link.event),
            one_line(&link.r#type),
            Styled(DIM, by)
        )?;
        next.extend(children.get(&Some(link.event.as_str())).into_iter().flatten().rev().map(|link| (depth + 1, *link)));
    }
    if story.chain_more {
        writeln!(page, "  {}", Styled(DIM, "… and more events"))?;
    }
    Ok(())
}

fn write_data(page: &mut String, data: Option<&str>, base64: Option<&str>) -> fmt::Result {
    let data = match (data, base64) {
        (None, Some(base64)) => format!("(base64) {base64}"),
        (None | Some("null"), _) => return Ok(()),
        (Some(json), _) => serde_json::from_str::<String>(json).unwrap_or_else(|_| pretty(json)),
    };
    let data = measure::lines(&data);
    let lines: Vec<&str> = data.lines().take(DATA_LINES).collect();
    writeln!(page, "{}", indent(&lines.join("\n")))?;
    match data.lines().count() - lines.len() {
        0 => Ok(()),
        more => {
            writeln!(page, "          {}", Styled(DIM, format!("… {}; all of it with --json", count(more as u64, "more line"))))
        }
    }
}

/// Writes one run with its log.
pub fn write_run(page: &mut String, story: &RunStoryView, out: &Printer) -> fmt::Result {
    let run = &story.run;
    // A run that waits for its next try shows why it failed; one that was not tried yet, or was cancelled, shows its state.
    let word = match (run.state.as_ref(), run.outcome.as_deref()) {
        ("cancelled", _) | (_, None) => &run.state,
        (_, Some(outcome)) => outcome,
    };
    write!(page, "\nrun       {}  {}", plugin_and_version(run), output::state(word))?;
    if run.outcome.is_some() {
        write!(page, "  {}", took(run.duration_ms))?;
        if run.memory_bytes > 0 {
            write!(page, "  {}", measure::size(run.memory_bytes))?;
        }
    }
    if word == "ok" {
        write!(page, "  {}", asked(run.webhooks.into(), run.events.into()))?;
    }
    if let Some(endpoint) = &run.endpoint {
        write!(page, "  on the way to {endpoint}")?;
    }
    writeln!(page, "  {}", Styled(DIM, &run.id))?;
    if let Some(message) = &run.message {
        let code = run.code.as_ref().filter(|_| run.outcome.as_deref() == Some("failed"));
        let code = code.map(|code| format!("{code}: ")).unwrap_or_default();
        writeln!(page, "{}", indent(&measure::lines(&format!("{code}{message}"))))?;
    }
    for line in &story.backtrace {
        writeln!(page, "          at {}", measure::one_line(line))?;
    }
    match (run.state.as_ref(), &run.due, run.outcome.as_deref()) {
        ("waiting", Some(due), Some(_)) => {
            writeln!(page, "          tried {}; next try at {}", count(run.tries.into(), "time"), out.time(due))?;
        }
        ("parked", _, outcome) => {
            writeln!(page, "          {}", advice(&run.id, outcome.unwrap_or_default(), run.wants.as_deref()))?;
        }
        _ => {}
    }
    for line in &story.log {
        writeln!(page, "{}", log_line(line))?;
    }
    if story.log_dropped > 0 {
        writeln!(page, "          {}", Styled(DIM, format!("… {} dropped", count(story.log_dropped, "more line"))))?;
    }
    Ok(())
}

/// Formats a line that a plugin logged. It is printed below its run.
pub fn log_line(line: &LogView) -> String {
    let message = indent(&measure::lines(&line.message));
    let facts: String = line.fields.iter().map(|(name, value)| format!("  {}={}", one_line(name), one_line(value))).collect();
    format!("          {} {}{}", Styled(DIM, format!("{:<5}", one_line(&line.level))), message.trim_start(), Styled(DIM, facts))
}

/// Formats the result of a run: `2 webhooks`, `1 webhook, 1 event`, `nothing to send`.
pub fn asked(webhooks: u64, events: u64) -> String {
    let parts: Vec<String> =
        [(webhooks, "webhook"), (events, "event")].iter().filter(|(n, _)| *n > 0).map(|(n, noun)| count(*n, noun)).collect();
    if parts.is_empty() { "nothing to send".to_owned() } else { parts.join(", ") }
}

/// Returns the first six digits of a version.
pub fn short(version: &str) -> String {
    version.chars().take(6).collect()
}

/// Formats a duration. The API gives durations in milliseconds.
pub fn took(millis: f64) -> String {
    measure::took(Duration::from_secs_f64(millis.clamp(0.0, 1e12) / 1_000.0))
}

/// Writes one delivery with its attempts.
pub fn write_delivery(page: &mut String, story: &DeliveryStoryView, out: &Printer) -> fmt::Result {
    let delivery = &story.delivery;
    let attempts = delivery.attempt_count;
    write!(page, "\nwebhook   → {}  {}  {}", delivery.endpoint_name, output::state(&delivery.state), Styled(DIM, &delivery.id))?;
    match (delivery.reason.as_deref(), &delivery.due) {
        (Some("exhausted"), _) => writeln!(page, "  dead after {}", count(attempts.into(), "attempt"))?,
        (Some("gone"), _) => writeln!(page, "  the receiver answered 410 (gone)")?,
        (Some("endpoint-disabled"), _) => writeln!(page, "  the endpoint is disabled")?,
        (Some("endpoint-deleted"), _) => writeln!(page, "  the endpoint was deleted")?,
        (Some(reason), _) => writeln!(page, "  {}", one_line(reason))?,
        (None, Some(due)) if delivery.state == "retrying" => writeln!(page, "  next at {}", out.time(due))?,
        _ => writeln!(page)?,
    }
    for AttemptView { n, result, .. } in &story.attempts {
        let outcome = output::attempt(&result.outcome, result.status);
        let at = Styled(DIM, out.clock_time(&result.at));
        let number = if attempts > 1 { format!("  attempt {n}") } else { String::new() };
        writeln!(page, "          {at}  {outcome}  {}{number}", took(result.latency_ms))?;
        if let Some(detail) = &result.detail {
            writeln!(page, "{}", indent(&measure::lines(detail)))?;
        }
        let excerpt = measure::cut(&measure::lines(&result.excerpt), EXCERPT_CHARS);
        if !excerpt.trim().is_empty() {
            for line in indent(&excerpt).lines() {
                writeln!(page, "{}", Styled(DIM, line))?;
            }
        }
    }
    Ok(())
}

/// Reports that nothing subscribes to an event, with the nearest pattern.
pub fn unrouted(story: &EventStoryView) -> String {
    let near = story.nearest.as_deref().map(|near| format!("; the nearest pattern is {}", one_line(near))).unwrap_or_default();
    let event_type = one_line(&story.event.r#type);
    format!("No plugin and no endpoint subscribes to {event_type}{near}. See: innesco plugin list, innesco endpoint list")
}

/// Writes what the user can do now, if anything.
fn write_advice(page: &mut String, story: &EventStoryView) -> fmt::Result {
    let event = &story.event;
    let mut lines = Vec::new();
    for DeliveryView { id, endpoint_name, .. } in
        story.deliveries.iter().map(|story| &story.delivery).filter(|delivery| delivery.state == "dead")
    {
        lines.push(format!("Once {endpoint_name} answers again: innesco delivery retry {id}"));
    }
    if event.state == "unrouted" {
        lines.push(format!("{}\nOnce one does: innesco event replay {}", unrouted(story), event.event));
    }
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(page)?;
    lines.iter().try_for_each(|line| writeln!(page, "{line}"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            examples::{self, delivery, read, run, with},
            output::Reader,
        },
        *,
    };

    const NOW: &str = "2026-11-24T09:20:00Z";

    fn shown(event: &Value, reader: Reader) -> String {
        let data = event.get("data").map(Value::to_string);
        anstream::adapter::strip_str(&story(&read(event.clone()), data.as_deref(), &Printer::of(reader, NOW))).to_string()
    }

    fn attempt(n: u64, at: &str, status: u64, excerpt: &str) -> Value {
        examples::attempt(json!({ "n": n, "at": at, "status": status, "excerpt": excerpt }))
    }

    fn event() -> Value {
        with(
            examples::event(),
            json!({
                "event": "evt_4f2k9", "id": "order-7", "subject": "7", "state": "failed", "parts": examples::parts(json!({ "parked": 1, "delivered": 1, "retrying": 1, "dead": 1 })), "attributes": { "channel": "newsletter" },
                "runs": [
                    with(run(), json!({
                        "plugin": "order-router", "version": "3fa2c1aabb", "duration_ms": 0.05, "memory_bytes": 1_114_112,
                        "webhooks": 2, "log": [{ "level": "info", "message": "big\u{1b}[2J\norder" }], "log_dropped": 3,
                    })),
                    with(run(), json!({
                        "id": "run_2", "plugin": "slack-notify", "version": "91be07", "state": "parked", "outcome": "trapped", "code": "panic",
                        "message": "panicked at src/lib.rs:13:29: unlucky 13", "duration_ms": 0.03,
                    })),
                ],
                "deliveries": [
                    with(delivery(), json!({
                        "id": "dlv_1", "endpoint_name": "receiver",
                        "attempts": [attempt(1, "2026-11-24T09:14:02Z", 200, "{\"ok\":true}\n")],
                    })),
                    with(delivery(), json!({
                        "id": "dlv_2", "state": "retrying", "attempt_count": 2, "due": "2026-11-24T09:25:00Z",
                        "attempts": [
                            attempt(1, "2026-11-24T09:14:02Z", 503, "down"),
                            examples::attempt(json!({
                                "n": 2, "at": "2026-11-24T09:14:07Z", "outcome": "timed-out", "status": null, "latency_ms": 20_000.0,
                                "detail": "no answer within 20 s",
                            })),
                        ],
                    })),
                    with(delivery(), json!({
                        "id": "dlv_3", "round": 1, "state": "dead", "reason": "exhausted", "attempt_count": 10, "attempts": [],
                    })),
                ],
            }),
        )
    }

    #[test]
    fn a_story_reads_from_top_to_bottom() {
        let expected = "\
evt_4f2k9  order.created  ✕ failed, 1 run parked, 1 of 3 delivered
  from    shop
  at      09:14:02, 5 min ago
  id      order-7
  subject 7
  channel newsletter
  data    application/json, 10 bytes
          {
            \"id\": 7
          }

run       order-router@3fa2c1  ● ok  0.05 ms  1.1 MB  2 webhooks  run_1
          info  big\\u{1b}[2J
          order
          … 3 more lines dropped

run       slack-notify@91be07  ✕ trapped  0.03 ms  run_2
          panicked at src/lib.rs:13:29: unlucky 13
          parked; after a fix: innesco run retry run_2

webhook   → receiver  ● delivered  dlv_1
          09:14:02  200  1.8 ms
          {\"ok\":true}

webhook   → crm  ◔ retrying  dlv_2  next at 09:25:00, in 5 min
          09:14:02  503  1.8 ms  attempt 1
          down
          09:14:07  timed-out  20.0 s  attempt 2
          no answer within 20 s

replay 1

webhook   → crm  ✕ dead  dlv_3  dead after 10 attempts

Once crm answers again: innesco delivery retry dlv_3
";
        assert_eq!(shown(&event(), Reader::Person), expected);
    }

    #[test]
    fn a_chain_is_a_tree_with_its_trace() {
        let link = |event: &str, cause: Option<&str>, kind: &str, source: &str, state: &str| json!({ "event": event, "cause": cause, "type": kind, "subject": null, "source": source, "state": state, "accepted_at": "" });
        let chain = json!([
            link("evt_1", Some("evt_gone"), "order.created", "shop", "delivered"),
            link("evt_2", Some("evt_1"), "order.big", "plugin/router", "delivered"),
            link("evt_3", Some("evt_1"), "order.paid", "plugin/router", "failed"),
            link("evt_4", Some("evt_2"), "mail.sent", "plugin/mailer", "delivered"),
        ]);
        let changes =
            json!({ "event": "evt_4", "chain": chain, "chain_more": true, "trace": "4bf92f3577b34da6", "emitted": ["evt_5"] });
        let page = shown(&with(event(), changes), Reader::Pipe);
        let tree = "
chain  trace 4bf92f3577b34da6
  evt_1  order.created  delivered
    └ evt_2  order.big  delivered  by router
      └ evt_4  mail.sent  delivered  by mailer  ← this event
    └ evt_3  order.paid  failed  by router
  … and more events
";
        let plain = page.replace("● ", "").replace("✕ ", "");
        assert!(plain.contains(tree), "{page}");
        assert!(!page.contains("emitted   "), "{page}");
    }

    #[test]
    fn in_a_pipe_times_are_exact() {
        let text = shown(&event(), Reader::Pipe);
        assert!(text.contains("  at      2026-11-24T09:14:02.100Z\n"), "{text}");
        assert!(text.contains("next at 2026-11-24T09:25:00Z\n"), "{text}");
    }

    #[test]
    fn a_state_shows_the_worst_part_and_the_count() {
        let shown = |state: &str, parts: Value| {
            worst(&read(with(examples::event(), json!({ "state": state, "parts": examples::parts(parts) }))))
        };
        assert_eq!(shown("waiting", json!({})), "waiting");
        assert_eq!(shown("retrying", json!({ "delivered": 1, "retrying": 1 })), "retrying, 1 of 2 delivered");
        assert_eq!(shown("delivered", json!({ "delivered": 2 })), "delivered");
        assert_eq!(shown("failed", json!({ "parked": 1, "delivered": 1 })), "failed, 1 run parked");
        assert_eq!(shown("failed", json!({ "dead": 1 })), "failed, 0 of 1 delivered");
    }

    #[test]
    fn an_unrouted_event_is_explained() {
        let mut event = with(
            examples::event(),
            json!({
                "event": "evt_1", "id": "evt_1", "source": "cli", "type": "x", "state": "unrouted", "accepted_at": NOW, "time": NOW,
                "content_type": "application/octet-stream", "bytes": 2, "data_base64": "/wA=",
            }),
        );
        event.as_object_mut().unwrap().remove("data");
        let near = with(event.clone(), json!({ "nearest": "xy.*" }));
        assert!(shown(&near, Reader::Person).contains("subscribes to x; the nearest pattern is xy.*. See: "));
        let expected = "\
evt_1  x  – unrouted
  from    cli
  at      09:20:00, now
  data    application/octet-stream, 2 bytes
          (base64) /wA=

No plugin and no endpoint subscribes to x. See: innesco plugin list, innesco endpoint list
Once one does: innesco event replay evt_1
";
        assert_eq!(shown(&event, Reader::Person), expected);
    }

    #[test]
    fn data_is_shown_as_it_is_written() {
        let text =
            r#"{"event":"evt_1","data":{"z":1,"id":123456789012345678901234,"p":1.10,"half":"\ud83d","big":1e999},"bytes":1}"#;
        let whole = WholeStory::read(text).unwrap();
        assert_eq!(whole.story, json!({ "event": "evt_1", "bytes": 1 }));
        assert!(whole.json().contains(r#""data":{"z":1,"id":123456789012345678901234,"p":1.10,"half":"\ud83d","big":1e999}"#));
        let mut page = String::new();
        write_data(&mut page, whole.data.as_deref(), None).unwrap();
        for line in ["\"id\": 123456789012345678901234,", "\"p\": 1.10,", "\"half\": \"\\ud83d\",", "\"big\": 1e999"] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn long_data_is_cut() {
        let mut event = event();
        event["data"] = (0..60).collect::<Vec<u32>>().into();
        assert!(shown(&event, Reader::Person).contains("\n          … 22 more lines; all of it with --json\n"));
    }

    #[test]
    fn reads_times_as_ages_or_rfc_3339() {
        let now = Timestamp::parse_rfc3339(NOW).unwrap();
        assert_eq!(instant("--since", "2h", now).unwrap(), "2026-11-24T07:20:00.000Z");
        assert_eq!(instant("--since", "2026-11-24T10:00:00+01:00", now).unwrap(), "2026-11-24T09:00:00.000Z");
        assert_eq!(
            instant("--since", "noon", now).unwrap_err().to_string(),
            "--since \"noon\" is not a time; write how long ago, such as 30m, 2h or 7d, or 2026-01-31T09:30:00Z"
        );
    }

    #[test]
    fn formats_the_result_of_a_run() {
        assert_eq!(asked(2, 0), "2 webhooks");
        assert_eq!(asked(1, 1), "1 webhook, 1 event");
        assert_eq!(asked(0, 0), "nothing to send");
    }
}
