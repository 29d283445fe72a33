//! `innesco endpoint`: where webhooks go.

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::{
    client::Client,
    output::{self, Printer, confirm, text},
};

#[derive(clap::Subcommand)]
pub enum EndpointCommand {
    /// All endpoints
    List,
    /// One endpoint
    Show { endpoint: String },
    /// Add one; its secret is shown once
    Add {
        /// Its fixed name, to which plugins send
        name: String,
        /// Where it is
        url: String,
        /// Events that it receives directly, such as order.*; can be repeated
        #[arg(long, value_name = "PATTERN")]
        events: Vec<String>,
        /// Only events with this attribute, such as channel=newsletter; several values of one name are alternatives
        #[arg(long = "where", value_name = "NAME=VALUE")]
        conditions: Vec<String>,
        /// The plugin through which each event passes on its way here
        #[arg(long)]
        plugin: Option<String>,
        /// Free text for people
        #[arg(long)]
        title: Option<String>,
        /// v1 (HMAC-SHA256) or v1a (ed25519)
        #[arg(long)]
        signature: Option<String>,
        /// A header on every webhook, such as authorization=Bearer…; can be repeated
        #[arg(long = "header", value_name = "NAME=VALUE")]
        headers: Vec<String>,
    },
    /// Remove one; what waits for it is cancelled
    Remove {
        endpoint: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Hold its webhooks back for now
    Pause { endpoint: String },
    /// Send again, also what waited; enables a disabled one
    Resume { endpoint: String },
    /// Make a new secret; the old one goes on signing for a while
    RotateSecret {
        endpoint: String,
        /// For how long the old one goes on signing
        #[arg(long, default_value = "24h")]
        grace: String,
    },
}

pub fn run(command: &EndpointCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let at = |endpoint: &str, verb: &str| format!("/v1/endpoints/{endpoint}{verb}");
    match command {
        EndpointCommand::List => {
            let items = client.get("/v1/endpoints")?["items"].as_array().cloned().unwrap_or_default();
            let columns: [output::Column; 4] = [
                ("name", |item| text(&item["name"])),
                ("state", |item| text(&item["state"])),
                ("events", |item| list(&item["events"])),
                ("url", |item| text(&item["url"])),
            ];
            out.list(
                &items,
                &columns,
                "No endpoint yet. Add one with: innesco endpoint add crm https://crm.example.com/hook --events 'order.*'",
            )?;
        }
        EndpointCommand::Show { endpoint } => out.thing(&client.get(&at(endpoint, ""))?, card)?,
        EndpointCommand::Add { name, url, events, conditions, plugin, title, signature, headers } => {
            let mut grouped: Map<String, Value> = Map::new();
            for condition in conditions {
                let (name, value) = pair("--where", condition)?;
                let values = grouped.entry(name).or_insert_with(|| json!([]));
                values.as_array_mut().expect("it was made an array").push(value.into());
            }
            let headers: Map<String, Value> = headers
                .iter()
                .map(|header| pair("--header", header).map(|(name, value)| (name, value.into())))
                .collect::<Result<_, _>>()?;
            let endpoint = json!({
                "name": name, "url": url, "events": events, "where": grouped, "plugin": plugin, "title": title,
                "signature": signature, "headers": headers,
            });
            out.thing(&client.post("/v1/endpoints", Some(&endpoint))?, secret_card)?;
        }
        EndpointCommand::Remove { endpoint, yes } => {
            confirm(&format!("endpoint {endpoint} is removed, and what waits for it is cancelled"), *yes)?;
            client.delete(&at(endpoint, ""))?;
            out.thing(&json!({ "removed": endpoint }), |_| format!("removed {endpoint}"))?;
        }
        EndpointCommand::Pause { endpoint } => out.thing(&client.post(&at(endpoint, "/pause"), None)?, card)?,
        EndpointCommand::Resume { endpoint } => out.thing(&client.post(&at(endpoint, "/resume"), None)?, card)?,
        EndpointCommand::RotateSecret { endpoint, grace } => {
            let answer = client.post(&at(endpoint, "/rotate-secret"), Some(&json!({ "grace": grace })))?;
            out.thing(&answer, secret_card)?;
        }
    }
    Ok(())
}

fn pair(flag: &str, text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => bail!("{flag} {text}: write it as name=value"),
    }
}

fn list(values: &Value) -> String {
    let texts: Vec<String> = values.as_array().into_iter().flatten().map(text).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
}

fn card(endpoint: &Value) -> String {
    let mut lines =
        vec![format!("{}  {}  {}", text(&endpoint["name"]), output::state(&text(&endpoint["state"])), text(&endpoint["url"]))];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<10} {value}"));
    line("events", list(&endpoint["events"]));
    for (name, values) in endpoint["where"].as_object().into_iter().flatten() {
        line("where", format!("{name} is {}", list(values)));
    }
    for name in ["plugin", "title", "signature", "public_key", "disabled_reason", "timeout", "id"] {
        if !endpoint[name].is_null() {
            line(name, text(&endpoint[name]));
        }
    }
    lines.join("\n")
}

fn secret_card(endpoint: &Value) -> String {
    format!(
        "{}\n  {:<10} {}\n             copy it now: it is not shown again",
        card(endpoint),
        "secret",
        text(&endpoint["secret"])
    )
}
