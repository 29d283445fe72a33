//! `innesco send`: an event, or a file of them.

use std::io::{BufRead as _, Read as _};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use super::{client::Client, output::Printer};

/// Events in one request.
const BATCH: usize = 1_000;

#[derive(clap::Args)]
pub struct SendArgs {
    /// What happened, such as order.created
    #[arg(required_unless_present = "file")]
    event_type: Option<String>,
    /// Its data: JSON, @FILE, or - for standard input
    data: Option<String>,
    /// Who says so
    #[arg(long, default_value = "cli")]
    source: String,
    /// The sender's id; the same source and id are accepted once
    #[arg(long)]
    id: Option<String>,
    /// What it is about
    #[arg(long)]
    subject: Option<String>,
    /// An attribute, such as channel=newsletter; can be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// Of the data, where it is not JSON
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Send a file of events instead, one JSON object per line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event_type", "data", "id", "subject", "attributes", "content_type"])]
    file: Option<String>,
}

pub fn run(args: &SendArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    if let Some(file) = &args.file {
        return send_file(file, client);
    }
    let answer = client.post("/v1/events", Some(&event(args)?))?;
    let event_type = args.event_type.as_deref().unwrap_or_default();
    out.thing(&answer, |answer| {
        let id = answer["event"].as_str().unwrap_or_default();
        if answer["duplicate"] == true {
            format!("duplicate of {id}; nothing was accepted")
        } else {
            format!("accepted {id}  {event_type}  from {}", args.source)
        }
    })?;
    Ok(())
}

fn event(args: &SendArgs) -> anyhow::Result<Value> {
    let mut event = Map::new();
    let mut set = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            event.insert(name.to_owned(), value.into());
        }
    };
    set("type", args.event_type.as_deref());
    set("source", Some(&args.source));
    set("id", args.id.as_deref());
    set("subject", args.subject.as_deref());
    set("datacontenttype", args.content_type.as_deref());
    for attribute in &args.attributes {
        let Some((name, value)) = attribute.split_once('=') else {
            bail!("--attr {attribute}: write it as name=value, such as --attr channel=newsletter");
        };
        set(name, Some(value));
    }
    if let Some(data) = &args.data {
        let text = match (data.as_str(), data.strip_prefix('@')) {
            ("-", _) => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("standard input is not text")?;
                text
            }
            (_, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?,
            _ => data.clone(),
        };
        let value = match &args.content_type {
            Some(content_type) if !crate::domain::envelope::is_json(content_type) => Value::String(text),
            _ => serde_json::from_str(&text).map_err(|error| {
                anyhow::anyhow!("the data is not JSON ({error}); quote it, or say what it is with --content-type text/plain")
            })?,
        };
        event.insert("data".to_owned(), value);
    }
    Ok(Value::Object(event))
}

/// Sends line by line in batches; what was accepted before a mistake stays accepted, and the mistake's line is named.
fn send_file(file: &str, client: &Client) -> anyhow::Result<()> {
    let reader = std::fs::File::open(file).with_context(|| format!("{file} cannot be read"))?;
    let bar = indicatif::ProgressBar::new_spinner();
    let mut batch: Vec<String> = Vec::new();
    let (mut sent, mut duplicates) = (0, 0);
    let mut flush = |batch: &mut Vec<String>| -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let count = batch.len();
        let body = format!("[{}]", batch.join(","));
        let answer = client
            .ask("POST", "/v1/events", Some(body))
            .with_context(|| format!("{file}, lines {} to {}: not accepted; the {sent} before were", sent + 1, sent + count))?;
        duplicates += answer["items"].as_array().map_or(0, |items| items.iter().filter(|item| item["duplicate"] == true).count());
        sent += count;
        bar.set_message(format!("{sent} events"));
        bar.tick();
        batch.clear();
        Ok(())
    };
    for (number, line) in std::io::BufReader::new(reader).lines().enumerate() {
        let line = line.with_context(|| format!("{file}, line {} is not text", number + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        serde_json::from_str::<&serde_json::value::RawValue>(&line)
            .map_err(|error| anyhow::anyhow!("{file}, line {} is not JSON: {error}", number + 1))?;
        batch.push(line);
        if batch.len() == BATCH {
            flush(&mut batch)?;
        }
    }
    flush(&mut batch)?;
    bar.finish_and_clear();
    anstream::println!("accepted {} events, {duplicates} duplicates", sent - duplicates);
    Ok(())
}
