//! `innesco send`: sends one event, or a file of events.

use std::{
    collections::BTreeMap,
    io::{BufRead, IsTerminal as _, Read as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    client::{Client, NoAnswer, Refused},
    measure::{self, count},
    output::{self, Printer},
    wait, wrong,
};
use crate::{
    clock,
    domain::{
        content::is_json,
        name::{Attributes, EventType},
        time::Timestamp,
    },
    random,
    wire::{AcceptedAll, AcceptedView},
};

/// Maximum number of events in one request, and maximum sum of their bytes. Both are well below an engine's default limits.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;
/// Number of tries for a batch while the engine is overloaded or unreachable.
const TRIES: u32 = 8;
/// Time between two progress lines when standard error is not a terminal.
const REPORT_EVERY: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct SendArgs {
    /// Event type, such as order.created
    #[arg(value_name = "TYPE", required_unless_present = "file")]
    event_type: Option<String>,
    /// Data: JSON, @FILE, or - for standard input
    #[arg(value_name = "DATA")]
    data: Option<String>,
    /// Source: the system that the event comes from
    #[arg(long, default_value = "cli")]
    source: String,
    /// Your id of the event; an event with the same source and id is accepted once
    #[arg(long)]
    id: Option<String>,
    /// Subject, such as the order's number
    #[arg(long)]
    subject: Option<String>,
    /// Attribute, such as channel=newsletter; can be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// Content type of the data, if it is not JSON
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Wait until every run and webhook of the event has ended, print them as they end, and exit with 1 if one failed
    #[arg(long, conflicts_with = "file")]
    wait: bool,
    /// Send a file of events instead, one JSON object per line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event_type", "data", "id", "subject", "attributes", "content_type"])]
    file: Option<String>,
    /// Start at this line of the file
    #[arg(long, value_name = "LINE", default_value_t = 1, requires = "file")]
    from_line: usize,
}

pub fn run(args: &SendArgs, client: impl FnOnce() -> anyhow::Result<Client>, out: &Printer) -> anyhow::Result<()> {
    if let Some(file) = &args.file {
        return send_file(file, args, &client()?, out);
    }
    let event = event(args, read_data(args.data.as_deref())?)?;
    let client = client()?;
    let answer = client.post_text(&["v1", "events"], event)?;
    out.answer(&answer, |accepted| receipt(accepted, args))?;
    if args.wait { wait::until_settled(&client, &answer.event, out) } else { Ok(()) }
}

/// Formats the receipt of an accepted event.
fn receipt(accepted: &AcceptedView, args: &SendArgs) -> String {
    let AcceptedView { event, id, duplicate, .. } = accepted;
    if *duplicate {
        return format!("duplicate of {event}  the id {id} from {} was accepted before", args.source);
    }
    format!("accepted {event}  {}  from {}", args.event_type.as_deref().unwrap_or_default(), args.source)
}

fn read_data(data: Option<&str>) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(data) = data else { return Ok(None) };
    if data == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("standard input cannot be read")?;
        return Ok(Some(bytes));
    }
    match data.strip_prefix('@') {
        Some(file) => std::fs::read(file).map(Some).with_context(|| format!("{file} cannot be read")),
        None => Ok(Some(data.as_bytes().to_vec())),
    }
}

/// Builds the event as JSON, its data byte for byte as given.
fn event(args: &SendArgs, data: Option<Vec<u8>>) -> anyhow::Result<String> {
    let event_type = args.event_type.as_deref().unwrap_or_default();
    EventType::parse(event_type).map_err(|bad| wrong(bad.to_string()))?;
    let mut event: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
    for (name, value) in [
        ("type", Some(event_type)),
        ("source", Some(&args.source)),
        ("id", args.id.as_deref()),
        ("subject", args.subject.as_deref()),
        ("datacontenttype", args.content_type.as_deref()),
    ] {
        if let Some(value) = value {
            event.insert(name, to_raw_value(value)?);
        }
    }
    let attributes = attributes(&args.attributes)?;
    for (name, value) in &attributes.0 {
        event.insert(name, to_raw_value(value)?);
    }
    if let Some(data) = data {
        if args.content_type.as_deref().is_none_or(is_json) {
            let text = String::from_utf8(data).map_err(|_| not_json("it is not UTF-8"))?;
            if text.trim().is_empty() {
                return Err(wrong("the data is empty; leave it out, or give JSON, such as '{\"id\": 7}'"));
            }
            let raw = RawValue::from_string(text.trim_start_matches('\u{feff}').trim().to_owned())
                .map_err(|error| not_json(&error.to_string()))?;
            event.insert("data", raw);
        } else {
            event.insert("data_base64", to_raw_value(&BASE64_STANDARD.encode(data))?);
        }
    }
    Ok(serde_json::to_string(&event)?)
}

fn not_json(why: &str) -> anyhow::Error {
    wrong(format!(
        "the data is not JSON ({why}); put it in single quotes, or give its content type, such as --content-type text/plain"
    ))
}

fn attributes(pairs: &[String]) -> anyhow::Result<Attributes> {
    /// Members of an event that are not attributes. Most of them have a separate flag or argument.
    const OWN: [&str; 7] = ["type", "source", "id", "subject", "data", "datacontenttype", "time"];
    let mut attributes = Attributes::default();
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(wrong(format!(
                "--attr {pair:?} has no value; write it as name=value, such as --attr channel=newsletter"
            )));
        };
        if OWN.contains(&name) {
            return Err(wrong(format!(
                "--attr {pair:?}: {name} is a member of every event, not an attribute; see innesco help send"
            )));
        }
        attributes.push(name, value.to_owned()).map_err(|bad| wrong(format!("--attr {pair:?}: {bad}")))?;
    }
    Ok(attributes)
}

/// One line of a file, ready to send.
struct Line {
    number: usize,
    event: String,
}

/// Progress through a file.
#[derive(Default)]
struct Tally {
    accepted: u64,
    duplicates: u64,
    /// The line up to which every event is accepted.
    last_line: usize,
}

/// Sends a file line by line in batches. Events before an error stay accepted, and the error names its line.
fn send_file(file: &str, args: &SendArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let (mut reader, length): (Box<dyn BufRead>, u64) = if file == "-" {
        (Box::new(std::io::stdin().lock()), 0)
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("{file} cannot be read"))?;
        let length = opened.metadata().map_or(0, |metadata| metadata.len());
        (Box::new(std::io::BufReader::new(opened)), length)
    };
    let mut progress = Progress::new(length);
    let salt = u64::from_le_bytes(random::bytes()?);
    let mut tally = Tally { last_line: args.from_line.saturating_sub(1), ..Tally::default() };
    let (mut batch, mut bytes, mut number) = (Vec::new(), 0, 0);
    let mut read_bytes = 0;
    let mut text = String::new();
    loop {
        text.clear();
        let length = reader.read_line(&mut text).with_context(|| format!("{file}, line {} cannot be read", number + 1))?;
        (number, read_bytes) = (number + 1, read_bytes + length as u64);
        if length > 0 && (number < args.from_line || text.trim().is_empty()) {
            continue;
        }
        if length > 0 {
            let event = complete(text.trim(), &args.source, &format!("{salt:016x}-{number}"));
            let event = match event {
                Ok(event) => event,
                Err(why) => {
                    // The lines before the error are sent, so that the message can say where to continue.
                    send_batch(client, file, &batch, &mut tally)?;
                    bail!("{}", failure_text(file, number, &why, &tally));
                }
            };
            bytes += event.len();
            batch.push(Line { number, event });
        }
        if batch.len() == BATCH || bytes >= BATCH_BYTES || length == 0 {
            send_batch(client, file, &batch, &mut tally)?;
            progress.report(read_bytes, &tally);
            (batch, bytes) = (Vec::new(), 0);
        }
        if length == 0 {
            break;
        }
    }
    progress.end();
    let Tally { accepted, duplicates, .. } = tally;
    out.thing(&json!({ "accepted": accepted, "duplicates": duplicates }), |_| {
        let duplicates = if duplicates > 0 { format!("  {}", count(duplicates, "duplicate")) } else { String::new() };
        format!("accepted {}{duplicates}", count(accepted, "event"))
    })?;
    Ok(())
}

/// Adds missing members to an event. With an id, a repeat after a broken connection is detected as a duplicate.
fn complete(text: &str, source: &str, id: &str) -> Result<String, String> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|error| {
        format!("is not an event as a JSON object, such as {{\"type\": \"order.created\", \"data\": {{}}}} ({error})")
    })?;
    let mut lacks = String::new();
    for (name, value) in [("source", source), ("id", id)] {
        if !members.contains_key(name) {
            lacks.push_str(&format!("\"{name}\":{},", Value::from(value)));
        }
    }
    if members.is_empty() {
        return Err("is an empty object; an event has at least a type".to_owned());
    }
    let inside = text.strip_prefix('{').expect("what was read as an object begins with a brace");
    Ok(format!("{{{lacks}{inside}"))
}

fn failure_text(file: &str, line: usize, why: &str, tally: &Tally) -> String {
    let before = match tally.accepted {
        0 => "Nothing was accepted".to_owned(),
        accepted => format!("{} before it {} accepted", count(accepted, "event"), if accepted == 1 { "is" } else { "are" }),
    };
    format!("{file}, line {line}: {why}. {before}; after a fix: innesco send --file {file} --from-line {}", tally.last_line + 1)
}

fn send_batch(client: &Client, file: &str, batch: &[Line], tally: &mut Tally) -> anyhow::Result<()> {
    let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(()) };
    let body = format!("[{}]", batch.iter().map(|line| line.event.as_str()).collect::<Vec<_>>().join(","));
    for tries in 1.. {
        let error = match client.post_text::<AcceptedAll>(&["v1", "events"], body.clone()) {
            Ok(answer) => {
                let duplicates = answer.items.iter().filter(|item| item.duplicate).count() as u64;
                tally.accepted += answer.items.len() as u64 - duplicates;
                tally.duplicates += duplicates;
                tally.last_line = last.number;
                return Ok(());
            }
            Err(error) => error,
        };
        let wait = wait_after(&error, tries, tally);
        match wait {
            Some(wait) if tries < TRIES => {
                output::tell!("{error:#}; trying again in {}", measure::coarse(wait));
                std::thread::sleep(wait);
            }
            _ => {
                let (line, why) = blame(&error, batch).unwrap_or((first.number, format!("{error:#}")));
                bail!("{}", failure_text(file, line, &why, tally));
            }
        }
    }
    unreachable!("the loop ends only by returning")
}

/// Returns how long to wait for an engine that is overloaded, or that has just become unreachable.
fn wait_after(error: &anyhow::Error, tries: u32, tally: &Tally) -> Option<Duration> {
    let doubled = Duration::from_secs(1 << tries.min(5));
    match error.downcast_ref::<Refused>() {
        Some(refused) if matches!(refused.status, 429 | 503) => Some(refused.retry_after.unwrap_or(doubled)),
        Some(_) => None,
        None => (error.is::<NoAnswer>() && tally.accepted > 0).then_some(doubled),
    }
}

/// Returns the line that the engine refused, and the reason.
fn blame(error: &anyhow::Error, batch: &[Line]) -> Option<(usize, String)> {
    let refused = error.downcast_ref::<Refused>()?;
    let place = refused.pointer.as_deref()?.split('/').nth(1)?;
    let line = batch.get(place.parse::<usize>().ok()?)?;
    let why = refused.detail.strip_prefix(&format!("items[{place}].")).unwrap_or(&refused.detail);
    Some((line.number, why.to_owned()))
}

/// Shows the progress: on a terminal as a bar, otherwise with a line every few seconds.
struct Progress {
    bar: Option<indicatif::ProgressBar>,
    reported: Timestamp,
}

impl Progress {
    fn new(length: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let style = "{wide_bar} {bytes} of {total_bytes}  {msg}  {elapsed}, {eta} to go";
        let bar = terminal.then(|| match length {
            0 => indicatif::ProgressBar::new_spinner(),
            length => indicatif::ProgressBar::new(length)
                .with_style(indicatif::ProgressStyle::with_template(style).expect("the template is valid")),
        });
        Self { bar, reported: clock::steady() }
    }

    fn report(&mut self, bytes: u64, tally: &Tally) {
        let events = count(tally.accepted + tally.duplicates, "event");
        match &self.bar {
            Some(bar) => {
                bar.set_position(bytes);
                bar.set_message(events);
            }
            None if clock::steady().since(self.reported) >= REPORT_EVERY => {
                self.reported = clock::steady();
                output::tell!("{events} so far");
            }
            None => {}
        }
    }

    fn end(&self) {
        self.bar.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> SendArgs {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: SendArgs,
        }
        let words = std::iter::once("send").chain(line.split(' ').filter(|word| !word.is_empty()));
        <Only as clap::Parser>::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).args
    }

    fn built(line: &str, data: Option<&[u8]>) -> Result<String, String> {
        event(&args(line), data.map(<[u8]>::to_vec)).map_err(|error| error.to_string())
    }

    #[test]
    fn data_is_sent_as_typed() {
        let event = built("order.created", Some(b" {\"z\": 1500.00, \"a\": 12345678901234567890123} \n")).unwrap();
        assert_eq!(
            event,
            "{\"data\":{\"z\": 1500.00, \"a\": 12345678901234567890123},\"source\":\"cli\",\"type\":\"order.created\"}"
        );
        let event = built("x --content-type application/octet-stream", Some(&[0xff, 0x00])).unwrap();
        assert_eq!(
            event,
            "{\"data_base64\":\"/wA=\",\"datacontenttype\":\"application/octet-stream\",\"source\":\"cli\",\"type\":\"x\"}"
        );
        let event = built("x --id 7 --subject s --source shop --attr channel=a=b --attr initiator=api", None).unwrap();
        assert_eq!(
            event,
            "{\"channel\":\"a=b\",\"id\":\"7\",\"initiator\":\"api\",\"source\":\"shop\",\"subject\":\"s\",\"type\":\"x\"}"
        );
    }

    #[test]
    fn errors_name_the_wrong_argument() {
        let cases = [
            (
                built("order|created", None),
                "\"order|created\" is not an event type: use letters, digits and the other characters of a URI, except * and the comma, 255 at most",
            ),
            (
                built("x --attr channel", None),
                "--attr \"channel\" has no value; write it as name=value, such as --attr channel=newsletter",
            ),
            (
                built("x --attr id=7", None),
                "--attr \"id=7\": id is a member of every event, not an attribute; see innesco help send",
            ),
            (
                built("x", Some(b"{id: 7}")),
                "the data is not JSON (key must be a string at line 1 column 2); put it in single quotes, \
                 or give its content type, such as --content-type text/plain",
            ),
        ];
        for (built, sentence) in cases {
            assert_eq!(built.unwrap_err(), sentence);
        }
    }

    #[test]
    fn receipts() {
        let args = args("order.created --id 7");
        let answer =
            |duplicate: bool| AcceptedView { id: "7".into(), source: "cli".into(), event: "evt_4f2k9".into(), duplicate };
        assert_eq!(receipt(&answer(false), &args), "accepted evt_4f2k9  order.created  from cli");
        assert_eq!(receipt(&answer(true), &args), "duplicate of evt_4f2k9  the id 7 from cli was accepted before");
    }

    #[test]
    fn completes_lines_with_missing_members() {
        assert_eq!(complete("{\"type\": \"x\"}", "cli", "1-1").unwrap(), "{\"source\":\"cli\",\"id\":\"1-1\",\"type\": \"x\"}");
        let whole = "{\"id\":\"a\",\"source\":\"s\",\"type\":\"x\",\"data\":1.0}";
        assert_eq!(complete(whole, "cli", "1-1").unwrap(), whole);
        assert!(complete("[1]", "cli", "1-1").is_err());
        assert!(complete("{}", "cli", "1-1").is_err());
    }

    #[test]
    fn the_error_names_the_faulty_line() {
        let batch: Vec<Line> = [3, 5].map(|number| Line { number, event: "{}".into() }).into();
        let refused = Refused::new(400, "items[1].type is \"order created\": use letters", Some("/1/type"));
        let (line, why) = blame(&refused.into(), &batch).unwrap();
        let tally = Tally { accepted: 2, duplicates: 0, last_line: 2 };
        assert_eq!(
            failure_text("events.jsonl", line, &why, &tally),
            "events.jsonl, line 5: type is \"order created\": use letters. 2 events before it are accepted; \
             after a fix: innesco send --file events.jsonl --from-line 3"
        );
    }

    #[test]
    fn waits_only_for_temporary_errors() {
        let tally = Tally::default();
        let wait = |status| wait_after(&Refused::new(status, "", None).into(), 1, &tally);
        assert_eq!(wait(503), Some(Duration::from_secs(2)));
        assert_eq!(wait(429), Some(Duration::from_secs(2)));
        assert_eq!(wait(400), None);
    }
}
