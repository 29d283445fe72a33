//! `innesco source`: where webhooks of third parties come in.

use serde_json::{Map, Value, json};

use super::{
    client::Client,
    measure,
    output::{Column, DIM, Printer, Styled, confirm, text, texts},
    wrong,
};

#[derive(clap::Subcommand)]
pub enum SourceCommand {
    /// All sources
    #[command(before_help = "Example:  innesco source list")]
    List,
    /// One source, with who was refused last and why
    #[command(before_help = "Example:  innesco source show github")]
    Show {
        /// Its name, or its id, src_…
        source: String,
    },
    /// Add one; its secret is shown once
    #[command(before_help = "Example:  innesco source add github --preset github")]
    Add(Box<AddArgs>),
    /// Remove one; its address takes nothing any more
    #[command(before_help = "Example:  innesco source remove github")]
    Remove {
        /// Its name, or its id, src_…
        source: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Make a new secret; the old one is believed for a while
    #[command(before_help = "Example:  innesco source rotate-secret github --grace 2d")]
    RotateSecret {
        /// Its name, or its id, src_…
        source: String,
        /// For how long the old one is believed [default: 24h]
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
        /// The new secret, where its sender makes it
        #[arg(long, value_name = "SECRET")]
        secret: Option<String>,
    },
}

#[derive(clap::Args)]
pub struct AddArgs {
    /// Its fixed name, which its events carry
    name: String,
    /// Who sends: standard-webhooks, github, stripe, shopify, woocommerce, slack, twilio, gitlab, zendesk, gitea; or how they prove
    /// themselves: hmac, basic, bearer, header-token, none
    #[arg(long)]
    preset: String,
    /// What senders sign with or show, where they make it [default: a new one]
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Free text for people
    #[arg(long)]
    title: Option<String>,
    /// For hmac and header-token: the header with the signature or the token
    #[arg(long, value_name = "NAME")]
    header: Option<String>,
    /// For hmac: sha256, sha512 or sha1 [default: sha256]
    #[arg(long)]
    algorithm: Option<String>,
    /// For hmac: hex, base64 or base64url [default: hex]
    #[arg(long)]
    encoding: Option<String>,
    /// For hmac: what stands before the signature, such as sha256=
    #[arg(long)]
    prefix: Option<String>,
    /// For hmac: what is signed, such as {timestamp}.{body} [default: {body}]
    #[arg(long)]
    template: Option<String>,
    /// For hmac: where the signed time stands, such as header:x-time
    #[arg(long, value_name = "PLACE")]
    timestamp: Option<String>,
    /// How far a signed time may be from now [default: 5m]
    #[arg(long, value_name = "DURATION")]
    tolerance: Option<String>,
    /// For basic: the user [default: innesco]
    #[arg(long)]
    username: Option<String>,
    /// Where the kind of event stands: header:NAME, body:/POINTER or constant:TEXT
    #[arg(long, value_name = "PLACE")]
    type_from: Option<String>,
    /// What stands before it in the event's type [default: the source's name]
    #[arg(long, value_name = "PREFIX")]
    type_prefix: Option<String>,
    /// By what a repeat is known: header:NAME, body:/POINTER, digest or none
    #[arg(long, value_name = "PLACE")]
    dedupe: Option<String>,
    /// An attribute of its events and where its value stands, such as initiator=body:/initiated_by; can be repeated
    #[arg(long = "attribute", value_name = "NAME=PLACE")]
    attributes: Vec<String>,
    /// A method that is taken, such as GET; can be repeated [default: POST]
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// A network that requests may come from; can be repeated [default: anywhere]
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// How many are taken at most, such as 50/s [default: no limit]
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
}

pub fn run(command: &SourceCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        SourceCommand::List => {
            let items = client.list(&["v1", "sources"], &[], usize::MAX)?;
            let columns = [
                Column::text("name", |item| text(&item["name"])),
                Column::text("preset", |item| text(&item["preset"])),
                Column::text("accepted", |item| text(&item["accepted"])),
                Column::text("refused", |item| text(&item["refused"])),
                Column::time("last", |item| text(&item["last_accepted_at"])),
                Column::text("path", |item| text(&item["path"])),
            ];
            out.list(&items, &columns, "No source yet. Add one with: innesco source add github --preset github")?;
        }
        SourceCommand::Show { source } => {
            out.thing(&client.get(&["v1", "sources", source])?, |source| card(source, out))?;
        }
        SourceCommand::Add(args) => {
            let answer = client.post(&["v1", "sources"], Some(&wanted(args)?))?;
            out.thing(&answer, |source| secret_card("added", source, out))?;
        }
        SourceCommand::Remove { source, yes } => {
            let found = client.get(&["v1", "sources", source])?;
            let name = text(&found["name"]);
            confirm(&format!("whoever sends to source {name} is answered 404 from now on"), *yes)?;
            client.delete(&["v1", "sources", source])?;
            out.thing(&json!({ "removed": found["name"] }), |_| format!("removed {name}"))?;
        }
        SourceCommand::RotateSecret { source, grace, secret } => {
            let body = without_nulls(json!({ "grace": grace, "secret": secret }));
            let answer = client.post(&["v1", "sources", source, "rotate-secret"], Some(&body))?;
            out.thing(&answer, |source| {
                let old = format!("the old one is believed beside it for {}", grace.as_deref().unwrap_or("24h"));
                format!("{}\n            {old}", secret_card("rotated", source, out))
            })?;
        }
    }
    Ok(())
}

/// The body of the request that adds a source: only what was typed, so that the engine's defaults hold for the rest.
fn wanted(args: &AddArgs) -> anyhow::Result<Value> {
    let mut attributes = Map::new();
    for attribute in &args.attributes {
        let Some((name, place)) = attribute.split_once('=') else {
            return Err(wrong(format!(
                "--attribute {attribute:?} has no place; write it as NAME=PLACE, such as --attribute initiator=body:/initiated_by"
            )));
        };
        attributes.insert(name.to_owned(), place.into());
    }
    let some = |condition: bool, value: Value| if condition { value } else { Value::Null };
    Ok(without_nulls(json!({
        "name": args.name,
        "preset": args.preset,
        "secret": args.secret,
        "title": args.title,
        "header": args.header,
        "algorithm": args.algorithm,
        "encoding": args.encoding,
        "prefix": args.prefix,
        "template": args.template,
        "timestamp": args.timestamp,
        "tolerance": args.tolerance,
        "username": args.username,
        "type_from": args.type_from,
        "type_prefix": args.type_prefix,
        "dedupe": args.dedupe,
        "rate": args.rate,
        "attributes": some(!attributes.is_empty(), attributes.into()),
        "methods": some(!args.methods.is_empty(), json!(args.methods)),
        "allow": some(!args.allow.is_empty(), json!(args.allow)),
    })))
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    value
}

fn card(source: &Value, out: &Printer) -> String {
    let one_line = |value: &Value| measure::one_line(&text(value));
    let mut lines = vec![format!("{}  {}", one_line(&source["name"]), one_line(&source["preset"]))];
    let mut line = |name: &str, value: String| lines.push(format!("  {:<9} {value}", Styled(DIM, name)));
    let address = if source["url"].is_null() { &source["path"] } else { &source["url"] };
    line("address", one_line(address));
    for (name, member) in [("warning", "warning"), ("title", "title"), ("header", "header"), ("signed", "template")] {
        if !source[member].is_null() {
            line(name, one_line(&source[member]));
        }
    }
    if !source["tolerance"].is_null() {
        line("window", format!("signed within {}", one_line(&source["tolerance"])));
    }
    let place = if source["type_from"].is_null() { "always received".to_owned() } else { one_line(&source["type_from"]) };
    line("type", format!("{} after {:?}", place, text(&source["type_prefix"])));
    line("repeats", format!("known by {}", one_line(&source["dedupe"])));
    for (name, place) in source["attributes"].as_object().into_iter().flatten() {
        line("attribute", format!("{name} from {}", one_line(place)));
    }
    line("methods", texts(&source["methods"]));
    if texts(&source["allow"]) != "-" {
        line("allow", texts(&source["allow"]));
    }
    if !source["rate"].is_null() {
        line("rate", format!("at most {}", one_line(&source["rate"])));
    }
    line("accepted", text(&source["accepted"]));
    line("refused", text(&source["refused"]));
    for refusal in source["refusals"].as_array().into_iter().flatten() {
        let at = out.time(&text(&refusal["at"]));
        line("", format!("{at}  {}  {}", one_line(&refusal["address"]), one_line(&refusal["detail"])));
    }
    line("created", out.time(&text(&source["created_at"])));
    line("id", one_line(&source["id"]));
    lines.join("\n")
}

fn secret_card(verb: &str, source: &Value, out: &Printer) -> String {
    if source["secret"].is_null() {
        return format!("{verb} {}", card(source, out));
    }
    format!(
        "{verb} {}\n\n  {:<9} {}\n            copy it now: it is not shown again",
        card(source, out),
        Styled(DIM, "secret"),
        text(&source["secret"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> AddArgs {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: AddArgs,
        }
        <Only as clap::Parser>::try_parse_from(["add"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}")).args
    }

    #[test]
    fn only_what_was_typed_is_asked_for() {
        let least = wanted(&args(&["github", "--preset", "github"])).unwrap();
        assert_eq!(least, json!({ "name": "github", "preset": "github" }));
        let full = args(&["crm", "--preset", "none", "--attribute", "initiator=body:/by", "--method", "GET", "--method", "POST"]);
        let expected = json!({
            "name": "crm", "preset": "none", "attributes": { "initiator": "body:/by" }, "methods": ["GET", "POST"],
        });
        assert_eq!(wanted(&full).unwrap(), expected);
        assert!(wanted(&args(&["a", "--preset", "none", "--attribute", "initiator"])).is_err());
    }
}
