//! `innesco endpoint`: manages the receivers of webhooks.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{
    answer::Answer,
    card::Card,
    change::with_unset,
    client::{Client, without_nulls},
    measure::{self, count, one_line},
    output::{self, Column, Printer, confirm, texts},
    wrong,
};
use crate::{
    domain::{duration, grace, signature::Scheme},
    files,
    wire::{DeliveryView, EndpointView, MatchesView, TestSend},
};

#[derive(clap::Subcommand)]
pub enum EndpointCommand {
    /// List all endpoints
    #[command(before_help = "Example:  innesco endpoint list")]
    List,
    /// Show one endpoint
    #[command(before_help = "Example:  innesco endpoint show crm")]
    Show {
        /// Endpoint name, or id ep_…
        endpoint: String,
    },
    /// Create an endpoint. The secret is printed once
    #[command(before_help = "Example:  innesco endpoint add crm https://crm.example.com/hook --events 'order.*'")]
    Add(Box<AddArgs>),
    /// Preview what an endpoint would receive: which of the last 1,000 events, and the body of the newest one
    #[command(before_help = "Example:  innesco endpoint preview --events 'order.*' --where channel=newsletter")]
    Preview {
        /// Event types to subscribe to, such as 'order.*'; can be repeated
        #[arg(long, value_name = "PATTERN", required = true)]
        events: Vec<String>,
        /// Only events with this attribute, or with this value in their JSON data; several values of the same name are alternatives
        #[arg(long = "where", value_name = "NAME=VALUE")]
        conditions: Vec<String>,
        /// Body format: standard ({type, timestamp, data}), cloudevents, or data (event data only) [default: standard]
        #[arg(long)]
        envelope: Option<String>,
        /// Body encoding: json, xml or form [default: json]
        #[arg(long)]
        format: Option<String>,
    },
    /// Change an endpoint; its waiting deliveries go to the new URL, under the same ids
    #[command(
        before_help = "Example:  innesco endpoint update crm https://crm.example.com/v2/hook\n          innesco endpoint update crm --timeout 5s --unset rate"
    )]
    Update(Box<UpdateArgs>),
    /// Remove an endpoint. An endpoint in use is removed only with --force
    #[command(before_help = "Example:  innesco endpoint remove crm")]
    Remove {
        /// Endpoint name, or id ep_…
        endpoint: String,
        /// Remove it even if deliveries wait for it (they are cancelled) or a serving plugin sends to it
        #[arg(long)]
        force: bool,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Pause an endpoint: its deliveries wait
    #[command(before_help = "Example:  innesco endpoint pause crm")]
    Pause {
        /// Endpoint name, or id ep_…
        endpoint: String,
    },
    /// Disable an endpoint: its deliveries become dead and can be retried later
    #[command(before_help = "Example:  innesco endpoint disable crm")]
    Disable {
        /// Endpoint name, or id ep_…
        endpoint: String,
    },
    /// Resume a paused or disabled endpoint, and send its waiting deliveries now
    #[command(before_help = "Example:  innesco endpoint resume crm")]
    Resume {
        /// Endpoint name, or id ep_…
        endpoint: String,
    },
    /// Send one test webhook now and print the answer. Nothing is recorded
    #[command(before_help = "Example:  innesco endpoint test crm --type order.created --data '{\"total\": 129.5}'")]
    Test {
        /// Endpoint name, or id ep_…
        endpoint: String,
        /// Event type of the test [default: innesco.test]
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Data of the test event, as JSON
        #[arg(long, value_name = "JSON", requires = "event_type")]
        data: Option<String>,
    },
    /// Create a new secret; the old one stays valid during a grace period
    #[command(before_help = "Example:  innesco endpoint rotate-secret crm --grace 2d")]
    RotateSecret {
        /// Endpoint name, or id ep_…
        endpoint: String,
        /// Grace period of the old secret [default: 24h, or 0 if a webhook can carry only one signature]
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
        /// New secret, if you choose it: whsec_…, whsk_…, or text of 16 to 256 characters [default: generated]
        #[arg(long, value_name = "SECRET")]
        secret: Option<String>,
        /// Do not ask for confirmation when the old secret ends at once
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
pub struct AddArgs {
    /// Name that plugins send to; cannot be changed later
    name: String,
    /// URL
    #[arg(value_name = "URL")]
    target: String,
    #[command(flatten)]
    members: Members,
    /// Secret, if you choose it: whsec_… for v1, whsk_… for v1a, else text of 16 to 256 characters [default: generated]
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
}

#[derive(clap::Args)]
pub struct UpdateArgs {
    /// Endpoint name, or id ep_…
    endpoint: String,
    /// New URL
    // An argument and not an option, because --url selects the engine in every command.
    #[arg(value_name = "URL")]
    target: Option<String>,
    #[command(flatten)]
    members: Members,
    /// Member to reset to its default, such as rate; or one entry to remove, such as headers.x-shop or where.data:/country; can be
    /// repeated
    #[arg(long, value_name = "MEMBER")]
    unset: Vec<String>,
}

/// Members of an endpoint that can be changed.
#[derive(clap::Args)]
struct Members {
    /// Event types to subscribe to, such as 'order.*'; can be repeated
    #[arg(long, value_name = "PATTERN")]
    events: Vec<String>,
    /// Only events with this attribute, such as channel=newsletter, or with this value in their JSON data, such as
    /// data:/country=IT; several values of the same name are alternatives
    #[arg(long = "where", value_name = "NAME=VALUE")]
    conditions: Vec<String>,
    /// Plugin that processes each event on its way to this endpoint
    #[arg(long)]
    plugin: Option<String>,
    /// Title: free text
    #[arg(long)]
    title: Option<String>,
    /// v1 (HMAC-SHA256), v1a (ed25519), github, stripe, woocommerce, shopify, token or none [default: v1]
    #[arg(long, value_name = "SCHEME")]
    signature: Option<String>,
    /// With --signature token: header that carries the secret [default: x-webhook-token]
    #[arg(long, value_name = "NAME")]
    token_header: Option<String>,
    /// Body format: standard ({type, timestamp, data}), cloudevents, or data (event data only) [default: standard]
    #[arg(long)]
    envelope: Option<String>,
    /// Body encoding: json, xml or form [default: json]
    #[arg(long)]
    format: Option<String>,
    /// PEM file of the client certificate, with its chain
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// PEM file of the certificate's key, not encrypted
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// Header on every webhook, such as 'authorization: Bearer …'; can be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Timeout of one attempt, 100ms to 60s [default: 20s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Wait before each attempt, counted from the previous one, such as 0s,5s,5m,1h [default: 0s,5s,5m,30m,2h,5h,10h,14h,20h,24h]
    #[arg(long, value_name = "DURATIONS", value_delimiter = ',')]
    schedule: Vec<String>,
    /// Maximum number of webhooks in flight [default: 64]
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<u32>,
    /// Maximum rate of attempts, such as 50/s or 1000/h [default: no limit]
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Send in the order of the events, either across the whole endpoint or within each subject
    #[arg(long, value_name = "WHAT", value_parser = ["endpoint", "subject"])]
    ordered: Option<String>,
    /// Failures in a row that open the circuit breaker; 0: it never opens [default: 20]
    #[arg(long, value_name = "COUNT")]
    breaker_failures: Option<u32>,
    /// First open time of the circuit breaker [default: 10s]
    #[arg(long, value_name = "DURATION")]
    breaker_wait: Option<String>,
    /// Longest open time of the circuit breaker [default: 5m]
    #[arg(long, value_name = "DURATION")]
    breaker_wait_max: Option<String>,
}

/// The members that `update --unset` accepts.
const UNSETTABLE: [&str; 16] = [
    "title",
    "events",
    "where",
    "plugin",
    "signature",
    "token_header",
    "envelope",
    "format",
    "client_certificate",
    "headers",
    "timeout",
    "schedule",
    "concurrency",
    "rate",
    "ordered",
    "breaker",
];

pub fn run(command: &EndpointCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        EndpointCommand::List => {
            let items = client.list(&["v1", "endpoints"], &[], usize::MAX)?;
            let columns: [Column<EndpointView>; 4] = [
                Column::text("name", |item| item.name.clone()),
                Column::state("state", |item| item.state.to_string()),
                Column::text("events", |item| texts(&item.events)),
                Column::text("url", |item| item.url.clone()),
            ];
            out.list(
                &items,
                &columns,
                "No endpoint yet. Add one with: innesco endpoint add crm https://crm.example.com/hook --events 'order.*'",
            )?;
        }
        EndpointCommand::Show { endpoint } => {
            out.answer(&client.get(&["v1", "endpoints", endpoint])?, |endpoint| card(endpoint, out).into_text())?;
        }
        EndpointCommand::Add(args) => {
            let answer = client.post(&["v1", "endpoints"], Some(&wanted(args)?))?;
            out.answer(&answer, |endpoint| revealed("added", endpoint, out).into_text())?;
        }
        EndpointCommand::Preview { events, conditions, envelope, format } => {
            let wanted = json!({ "events": events, "where": by_name(conditions)?, "envelope": envelope, "format": format });
            let answer = client.post(&["v1", "events", "match"], Some(&without_nulls(wanted)))?;
            out.answer(&answer, previewed)?;
        }
        EndpointCommand::Update(args) => {
            let change = changed(args)?;
            let answer: Answer<EndpointView> = client.patch(&["v1", "endpoints", &args.endpoint], &change)?;
            let retrying = !waiting(client, &answer.name, "retrying", 1)?.is_empty();
            out.answer(&answer, |endpoint| updated(endpoint, retrying, out).into_text())?;
        }
        EndpointCommand::Remove { endpoint, force, yes } => {
            let found: Answer<EndpointView> = client.get(&["v1", "endpoints", endpoint])?;
            // Without --force, the engine refuses the removal if deliveries wait.
            let waiting: usize = match force {
                false => 0,
                true => ["pending", "retrying"]
                    .iter()
                    .map(|state| waiting(client, endpoint, state, COUNTED_MAX).map(|items| items.len()))
                    .sum::<anyhow::Result<usize>>()?,
            };
            confirm(&removal(&found, waiting), *yes)?;
            let query: &[(&str, &str)] = if *force { &[("force", "true")] } else { &[] };
            client.delete_with::<IgnoredAny>(&["v1", "endpoints", endpoint], query)?;
            out.thing(&json!({ "removed": found.name }), |_| format!("removed {}", found.name))?;
        }
        EndpointCommand::Pause { endpoint } => {
            let answer = client.post(&["v1", "endpoints", endpoint, "pause"], None)?;
            out.answer(&answer, |found| {
                let mut card = card(found, out);
                card.remark(&format!("Its webhooks wait. To send them: innesco endpoint resume {endpoint}"));
                card.into_text()
            })?;
        }
        EndpointCommand::Disable { endpoint } => {
            let answer = client.post(&["v1", "endpoints", endpoint, "disable"], None)?;
            out.answer(&answer, |found| {
                let mut card = card(found, out);
                let again = format!("innesco delivery retry --dead --endpoint {endpoint}");
                card.remark(&format!("Its waiting webhooks are dead. To send them, resume the endpoint, then run: {again}"));
                card.into_text()
            })?;
        }
        EndpointCommand::Resume { endpoint } => {
            let answer = client.post(&["v1", "endpoints", endpoint, "resume"], None)?;
            out.answer(&answer, |endpoint| card(endpoint, out).into_text())?;
        }
        EndpointCommand::Test { endpoint, event_type, data } => {
            let data: Value = match data {
                Some(text) => {
                    serde_json::from_str(text).map_err(|error| wrong(format!("--data {text:?} is not JSON: {error}")))?
                }
                None => Value::Null,
            };
            let event = event_type.as_ref().map(|event_type| without_nulls(json!({ "type": event_type, "data": data })));
            let answer = client.post(&["v1", "endpoints", endpoint, "test"], event.as_ref())?;
            out.answer(&answer, |sent: &TestSend| tested(endpoint, sent))?;
            if !answer.delivered {
                bail!("{endpoint} did not accept the test; nothing was recorded");
            }
        }
        EndpointCommand::RotateSecret { endpoint, grace, secret, yes } => {
            let found: Answer<EndpointView> = client.get(&["v1", "endpoints", endpoint])?;
            let at_once = ends_at_once(&found, grace.as_deref());
            if at_once {
                confirm(
                    &format!(
                        "the current secret of {endpoint} becomes invalid at once; its receiver refuses webhooks until it has the new one"
                    ),
                    *yes,
                )?;
            }
            let body = json!({ "grace": grace, "secret": secret });
            let answer = client.post(&["v1", "endpoints", endpoint, "rotate-secret"], Some(&without_nulls(body)))?;
            out.answer(&answer, |endpoint| {
                let mut card = revealed("rotated", endpoint, out);
                card.below(&match grace {
                    _ if at_once => "the old secret is no longer valid".to_owned(),
                    grace => format!("the old secret stays valid for {}", grace.as_deref().unwrap_or(grace::DEFAULT)),
                });
                card.into_text()
            })?;
        }
    }
    Ok(())
}

/// Returns whether a rotation ends the old secret at once: the given grace period is zero, or no grace period is given and a
/// webhook can carry only one signature.
fn ends_at_once(endpoint: &EndpointView, grace: Option<&str>) -> bool {
    match (grace, Scheme::parse(&endpoint.signature)) {
        (Some(grace), _) => duration::parse(grace).is_some_and(|grace| grace.is_zero()),
        (None, Some(scheme)) => scheme != Scheme::None && !scheme.carries_several(),
        (None, None) => false,
    }
}

/// Maximum number of waiting deliveries counted before a removal. If this number is reached, the confirmation prompt says "more
/// than a thousand".
const COUNTED_MAX: usize = 1_000;

fn waiting(client: &Client, endpoint: &str, state: &str, most: usize) -> anyhow::Result<Vec<Answer<DeliveryView>>> {
    client.list(&["v1", "deliveries"], &[("endpoint", Some(endpoint)), ("state", Some(state))], most)
}

fn removal(endpoint: &EndpointView, waiting: usize) -> String {
    let waiting = match waiting {
        0 => String::new(),
        1 => " and cancels its waiting webhook".to_owned(),
        COUNTED_MAX.. => " and cancels its waiting webhooks, more than a thousand".to_owned(),
        more => format!(" and cancels its {}", count(more as u64, "waiting webhook")),
    };
    format!("this removes endpoint {} ({}){waiting}", endpoint.name, one_line(&endpoint.url))
}

/// Builds the request that creates an endpoint.
fn wanted(args: &AddArgs) -> anyhow::Result<Value> {
    let mut wanted = args.members.typed()?;
    wanted.insert("name".into(), args.name.as_str().into());
    wanted.insert("url".into(), args.target.as_str().into());
    if let Some(secret) = &args.secret {
        wanted.insert("secret".into(), secret.as_str().into());
    }
    Ok(wanted.into())
}

/// Builds the merge patch that changes an endpoint.
fn changed(args: &UpdateArgs) -> anyhow::Result<Value> {
    let mut change = args.members.typed()?;
    if let Some(url) = &args.target {
        change.insert("url".into(), url.as_str().into());
    }
    Ok(with_unset(change, &args.unset, &UNSETTABLE)?.into())
}

impl Members {
    /// Returns only the members given on the command line. So the others keep the engine's defaults, or their values before the
    /// change.
    fn typed(&self) -> anyhow::Result<Map<String, Value>> {
        let conditions = by_name(&self.conditions)?;
        let mut headers: Map<String, Value> = Map::new();
        for header in &self.headers {
            // The first `:` or `=` ends the name: values may contain both.
            let Some((name, value)) = header.split_once([':', '=']) else {
                return Err(wrong(format!(
                    "--header {header:?} has no value; write it as 'name: value', such as --header 'x-shop: 7'"
                )));
            };
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().into());
        }
        let client_certificate = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => json!({ "certificate": pem(certificate)?, "key": secret_pem(key)?.as_str() }),
            _ => Value::Null,
        };
        let breaker = without_nulls(json!({
            "failures": self.breaker_failures, "wait": self.breaker_wait, "wait_max": self.breaker_wait_max,
        }));
        let some = |condition: bool, value: Value| if condition { value } else { Value::Null };
        let Value::Object(typed) = without_nulls(json!({
            "title": self.title,
            "plugin": self.plugin,
            "signature": self.signature,
            "token_header": self.token_header,
            "envelope": self.envelope,
            "format": self.format,
            "client_certificate": client_certificate,
            "timeout": self.timeout,
            "concurrency": self.concurrency,
            "rate": self.rate,
            "ordered": self.ordered,
            "events": some(!self.events.is_empty(), json!(self.events)),
            "where": some(!conditions.is_empty(), conditions.into()),
            "headers": some(!headers.is_empty(), headers.into()),
            "schedule": some(!self.schedule.is_empty(), json!(self.schedule)),
            "breaker": some(breaker != json!({}), breaker),
        })) else {
            unreachable!("it is an object")
        };
        Ok(typed)
    }
}

/// Parses conditions such as `channel=web`, and collects the values of each name.
fn by_name(given: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut conditions: Map<String, Value> = Map::new();
    for condition in given {
        let Some((name, value)) = condition.split_once('=') else {
            return Err(wrong(format!(
                "--where {condition:?} has no value; write it as name=value, such as --where channel=newsletter"
            )));
        };
        let values = conditions.entry(name).or_insert_with(|| json!([]));
        values.as_array_mut().expect("each member is an array").push(value.into());
    }
    Ok(conditions)
}

/// Formats what a subscription would have received.
fn previewed(found: &MatchesView) -> String {
    let headline = format!("would have received {} of the last {}", found.matched, count(found.checked, "event"));
    let mut card = Card::new(headline);
    for one in &found.types {
        card.line(&one.r#type, one.count.to_string());
    }
    if let Some(sample) = &found.sample {
        card.line("newest", one_line(&sample.event));
        card.line("as", one_line(&sample.content_type));
        card.known("body", sample.body.as_deref());
    }
    card.into_text()
}

fn pem(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// Reads a private key. Refuses a file that other users may read.
fn secret_pem(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let read = files::read_secret(file).and_then(|text| text.ok_or_else(|| io::ErrorKind::NotFound.into()));
    read.with_context(|| format!("{} cannot be read", file.display()))
}

fn card(endpoint: &EndpointView, out: &Printer) -> Card {
    let state = output::state(&endpoint.state);
    let name = one_line(&endpoint.name);
    let mut card = Card::new(format!("{name}  {state}  {}", one_line(&endpoint.url)));
    if let Some(reason) = &endpoint.disabled_reason {
        let reason = match &**reason {
            "gone" => "it answered 410 (gone)",
            "failing" => "no webhook succeeded for too long (delivery.disable_after)",
            _ => "disabled by a person",
        };
        card.line("why", format!("{reason}; enable it with: innesco endpoint resume {name}"));
    }
    card.known("warning", endpoint.warning.as_deref());
    card.known("title", endpoint.title.as_deref());
    card.line(
        "events",
        match endpoint.events.is_empty() {
            true => "no subscription; only webhooks that plugins send to it".to_owned(),
            false => texts(&endpoint.events),
        },
    );
    for (name, values) in &endpoint.r#where {
        card.line("where", format!("{name} is {}", values.join(" or ")));
    }
    card.known("plugin", endpoint.plugin.as_deref());
    // Defaults are not shown.
    if endpoint.envelope != "standard" || endpoint.format != "json" {
        card.line("body", format!("{} in {}", endpoint.envelope, endpoint.format));
    }
    let signature = one_line(&endpoint.signature);
    card.line(
        "signature",
        match &endpoint.token_header {
            Some(name) => format!("{signature}, in the header {}", one_line(name)),
            None => signature,
        },
    );
    card.known("verify", endpoint.public_key.as_deref());
    for (name, value) in &endpoint.headers {
        card.line("header", format!("{name}: {}", one_line(value)));
    }
    if let Some(certificate) = &endpoint.client_certificate {
        card.line("presents", format!("the certificate {}", one_line(certificate.sha256.as_deref().unwrap_or("-"))));
    }
    card.line("timeout", one_line(&endpoint.timeout));
    if let Some(rate) = &endpoint.rate {
        card.line("rate", format!("at most {}", one_line(rate)));
    }
    if let Some(ordered) = &endpoint.ordered {
        card.line("ordered", if ordered == "endpoint" { "one after the other" } else { "one after the other for each subject" });
    }
    if endpoint.on_gone == "remove" {
        card.line("on 410", "removed: a program created this subscription");
    }
    if let Some(since) = &endpoint.failing_since {
        card.line("failing", format!("since {}", out.time(since)));
    }
    if let Some(condition) = &endpoint.condition {
        let waiting =
            condition.waiting.map_or_else(|| "more than 10000 webhooks".to_owned(), |waiting| count(waiting, "webhook"));
        if condition.waiting != Some(0) {
            let since = condition.waiting_since.as_deref().map(|since| format!(", the oldest since {}", out.time(since)));
            card.line("waiting", format!("{waiting}{}", since.unwrap_or_default()));
        }
        match (&*condition.breaker, &condition.probe_at) {
            ("open", Some(at)) => card.line("breaker", format!("open; next probe at {}", out.time(at))),
            ("probing", _) => card.line("breaker", "probing: one webhook at a time"),
            _ => {}
        }
    }
    if let Some(schedule) = &endpoint.schedule {
        card.line("tried", format!("after {}", schedule.join(", ")));
    }
    card.line("created", out.time(&endpoint.created_at));
    card.line("id", one_line(&endpoint.id));
    card
}

/// Formats the result of a test.
fn tested(endpoint: &str, sent: &TestSend) -> String {
    let result = &sent.result;
    let outcome = output::attempt(&result.outcome, result.status);
    let latency = Duration::from_secs_f64(result.latency_ms.max(0.0) / 1000.0);
    let headline = format!("{} → {endpoint}  {outcome}  {}", one_line(&sent.event_type), measure::took(latency));
    let mut card = Card::new(headline);
    for (name, text) in
        [("why", result.detail.as_deref()), ("answer", Some(result.excerpt.as_str())), ("id", Some(sent.webhook_id.as_str()))]
    {
        card.known(name, text.filter(|text| !text.is_empty()));
    }
    card.into_text()
}

/// Returns a card of a changed endpoint. A change of the signature comes with a new secret.
fn updated(endpoint: &EndpointView, retrying: bool, out: &Printer) -> Card {
    let mut card = card(endpoint, out).after("updated");
    if let Some(secret) = &endpoint.secret {
        card.secret(secret);
    }
    if retrying {
        let name = one_line(&endpoint.name);
        card.remark(&format!(
            "Webhooks wait for their next attempt. To send them now: innesco delivery retry --waiting --endpoint {name}"
        ));
    }
    card
}

/// Returns a card with the new secret.
fn revealed(verb: &str, endpoint: &EndpointView, out: &Printer) -> Card {
    let mut card = card(endpoint, out).after(verb);
    match &endpoint.secret {
        Some(secret) => card.secret(secret),
        None => card.remark("  Unsigned: the receiver cannot verify the sender"),
    }
    card
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            examples::{endpoint, read, with},
            output::Reader,
            typed as args,
        },
        *,
    };

    #[test]
    fn sends_only_the_typed_members() {
        assert_eq!(
            wanted(&args(&["crm", "https://crm.example"])).unwrap(),
            json!({ "name": "crm", "url": "https://crm.example" })
        );
        let full = args(&[
            "crm",
            "https://crm.example",
            "--events",
            "order.*",
            "--where",
            "channel=a",
            "--where",
            "channel=b",
            "--header",
            "X-Shop: a=b",
            "--header",
            "x-env=live",
            "--timeout",
            "5s",
            "--schedule",
            "0s,5s",
        ]);
        let expected = json!({
            "name": "crm", "url": "https://crm.example", "events": ["order.*"], "where": { "channel": ["a", "b"] },
            "headers": { "x-shop": "a=b", "x-env": "live" }, "timeout": "5s", "schedule": ["0s", "5s"],
        });
        assert_eq!(wanted(&full).unwrap(), expected);
        let error = wanted(&args(&["crm", "https://crm.example", "--where", "channel"])).unwrap_err().to_string();
        assert_eq!(error, "--where \"channel\" has no value; write it as name=value, such as --where channel=newsletter");
    }

    #[test]
    fn a_change_sends_only_the_typed_members() {
        for (typed, expected) in [
            (vec!["crm", "https://crm.example/v2"], json!({ "url": "https://crm.example/v2" })),
            (vec!["crm", "--title", "CRM", "--unset", "rate"], json!({ "title": "CRM", "rate": null })),
            (
                vec!["crm", "--header", "X-A: 1", "--unset", "headers.x-b", "--breaker-failures", "0"],
                json!({ "headers": { "x-a": "1", "x-b": null }, "breaker": { "failures": 0 } }),
            ),
        ] {
            assert_eq!(changed(&args(&typed)).unwrap(), expected, "{typed:?}");
        }
        assert!(changed(&args(&["crm"])).unwrap_err().to_string().starts_with("nothing to change"));
        for member in UNSETTABLE {
            assert_eq!(changed(&args(&["crm", "--unset", member])).unwrap(), json!({ member: null }));
        }
    }

    #[test]
    fn an_update_shows_a_new_secret_and_how_to_send_waiting_webhooks() {
        let out = Printer::of(Reader::Person, "2026-11-24T09:14:02Z");
        let text = |changes: Value, retrying| {
            let card = updated(&read(with(endpoint(), changes)), retrying, &out);
            anstream::adapter::strip_str(&card.into_text()).to_string()
        };
        assert!(text(json!({}), false).starts_with("updated crm  ● active  https://crm.example/hook\n"));
        assert!(!text(json!({}), false).contains("secret"));
        assert!(text(json!({ "secret": "whsec_x" }), false).contains("secret    whsec_x"));
        assert!(text(json!({}), true).ends_with("To send them now: innesco delivery retry --waiting --endpoint crm"));
    }

    #[test]
    fn a_removal_is_described_before_it_happens() {
        let endpoint = read(with(endpoint(), json!({ "name": "crm", "url": "https://crm.example/hook" })));
        assert_eq!(removal(&endpoint, 0), "this removes endpoint crm (https://crm.example/hook)");
        assert_eq!(removal(&endpoint, 1), "this removes endpoint crm (https://crm.example/hook) and cancels its waiting webhook");
        assert_eq!(
            removal(&endpoint, 12),
            "this removes endpoint crm (https://crm.example/hook) and cancels its 12 waiting webhooks"
        );
    }

    #[test]
    fn a_rotation_warns_if_the_old_secret_ends_at_once() {
        for (signature, grace, at_once) in [
            ("v1", None, false),
            ("v1", Some("0s"), true),
            ("stripe", None, false),
            ("github", None, true),
            ("github", Some("1h"), false), // the engine refuses this
            ("none", None, false),
            ("of a later engine", None, false),
        ] {
            assert_eq!(
                ends_at_once(&read(with(endpoint(), json!({ "signature": signature }))), grace),
                at_once,
                "{signature} {grace:?}"
            );
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_read_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(file("bank.pem"), "a chain").unwrap();
        files::replace(Path::new(&file("bank.key")), &[b"a key"]).unwrap();
        std::fs::write(file("open.key"), "a key").unwrap();
        std::fs::set_permissions(file("open.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let with = |key: &str| {
            let (certificate, key) = (file("bank.pem"), file(key));
            wanted(&args(&["bank", "https://bank.example", "--client-certificate", &certificate, "--client-key", &key]))
        };
        assert_eq!(with("bank.key").unwrap()["client_certificate"], json!({ "certificate": "a chain", "key": "a key" }));
        assert_eq!(with("none.key").unwrap_err().to_string(), format!("{} cannot be read", file("none.key")));
        let refused = format!("{:#}", with("open.key").unwrap_err());
        assert!(refused.ends_with(&format!("chmod 600 {}", file("open.key"))), "{refused}");
    }

    #[test]
    fn a_card_shows_what_differs_from_the_defaults() {
        let bank = read(with(
            endpoint(),
            json!({
                "name": "bank", "url": "https://bank.example/", "events": ["*"], "where": {}, "signature": "token",
                "token_header": "x-api-key", "envelope": "cloudevents",
                "client_certificate": { "sha256": "00ff", "key": "(not shown)" },
            }),
        ));
        let out = Printer::of(Reader::Person, "2026-11-24T09:14:02Z");
        let expected = "\
bank  ● active  https://bank.example/
  events    *
  body      cloudevents in json
  signature token, in the header x-api-key
  presents  the certificate 00ff
  timeout   20s
  created   09:14:02, now
  id        ep_1";
        assert_eq!(anstream::adapter::strip_str(&card(&bank, &out).into_text()).to_string(), expected);
        let warned = card(&read(with(endpoint(), json!({ "warning": "no plugin \"x\" exists" }))), &out).into_text();
        assert!(warned.contains("no plugin \"x\" exists"), "{warned}");
        let unsigned = read(with(endpoint(), json!({ "signature": "none" })));
        let none = revealed("added", &unsigned, &out).into_text();
        assert!(none.ends_with("\n\n  Unsigned: the receiver cannot verify the sender"), "{none}");
        let subscribed = card(&read(with(endpoint(), json!({ "on_gone": "remove" }))), &out).into_text();
        assert!(subscribed.contains("removed: a program created this subscription"), "{subscribed}");
    }

    #[test]
    fn a_new_endpoint_shows_its_secret_once() {
        let endpoint = read(with(endpoint(), json!({ "where": { "channel": ["a", "b"] }, "secret": "whsec_x" })));
        let out = Printer::of(Reader::Person, "2026-11-24T09:14:02Z");
        let expected = "\
added crm  ● active  https://crm.example/hook
  events    order.*
  where     channel is a or b
  signature v1
  timeout   20s
  created   09:14:02, now
  id        ep_1

  secret    whsec_x
            copy it now: it is not shown again";
        assert_eq!(anstream::adapter::strip_str(&revealed("added", &endpoint, &out).into_text()).to_string(), expected);
    }
}
