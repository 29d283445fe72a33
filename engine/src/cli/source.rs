//! `innesco source`: manages the addresses that receive webhooks of third parties.

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::{
    answer::Answer,
    card::Card,
    change::with_unset,
    client::{Client, without_nulls},
    measure::one_line,
    output::{Column, Printer, confirm, texts},
    wrong,
};
use crate::{
    domain::{duration, grace},
    wire::SourceView,
};

#[derive(clap::Subcommand)]
pub enum SourceCommand {
    /// List all sources
    #[command(before_help = "Example:  innesco source list")]
    List,
    /// Show one source, with its last refused requests and the reasons
    #[command(before_help = "Example:  innesco source show github")]
    Show {
        /// Source name, or id src_…
        source: String,
    },
    /// Create a source. The secret is printed once
    #[command(before_help = "Example:  innesco source add github --preset github")]
    Add(Box<AddArgs>),
    /// Change a source; its address and its secret stay
    #[command(
        before_help = "Example:  innesco source update github --allow 192.0.2.0/24\n          innesco source update github --unset allow"
    )]
    Update(Box<UpdateArgs>),
    /// Remove a source; requests to its address get 404
    #[command(before_help = "Example:  innesco source remove github")]
    Remove {
        /// Source name, or id src_…
        source: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Create a new secret; the old one stays valid during a grace period
    #[command(before_help = "Example:  innesco source rotate-secret github --grace 2d")]
    RotateSecret {
        /// Source name, or id src_…
        source: String,
        /// Grace period of the old secret [default: 24h]
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
        /// New secret, if the sender creates it
        #[arg(long, value_name = "SECRET")]
        secret: Option<String>,
    },
    /// Create a new address; the old one stays valid during a grace period
    #[command(before_help = "Example:  innesco source rotate-address campaign --grace 2d")]
    RotateAddress {
        /// Source name, or id src_…
        source: String,
        /// Grace period of the old address; 0s ends it at once [default: 24h]
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
        /// Do not ask for confirmation when the old address ends at once
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
pub struct AddArgs {
    /// Name, which the events carry; cannot be changed later
    name: String,
    /// Sender: standard-webhooks, github, stripe, shopify, woocommerce, slack, twilio, gitlab, zendesk, gitea, meta, zoom,
    /// strava, linear, mailgun; or method: hmac, basic, bearer, header-token, none
    #[arg(long)]
    preset: String,
    /// Secret that the sender created: a signing secret, a token or a password [default: generated]
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    #[command(flatten)]
    members: Members,
}

#[derive(clap::Args)]
pub struct UpdateArgs {
    /// Source name, or id src_…
    source: String,
    /// Another sender or method, as for `source add`; the answer has a new secret
    #[arg(long)]
    preset: Option<String>,
    #[command(flatten)]
    members: Members,
    /// Member to reset to its default, such as rate; or one entry to remove, such as attributes.initiator; can be repeated
    #[arg(long, value_name = "MEMBER")]
    unset: Vec<String>,
}

/// Members of a source that can be changed.
#[derive(clap::Args)]
struct Members {
    /// Title: free text
    #[arg(long)]
    title: Option<String>,
    /// For hmac and header-token: header with the signature or the token
    #[arg(long, value_name = "NAME")]
    header: Option<String>,
    /// For hmac: place of the signature if not a header, such as body:/signature
    #[arg(long, value_name = "PLACE")]
    signature: Option<String>,
    /// For hmac: encoding of the secret: text, base64 or hex [default: text]
    #[arg(long, value_name = "ENCODING")]
    secret_encoding: Option<String>,
    /// For hmac: algorithm, sha256, sha512 or sha1 [default: sha256]
    #[arg(long)]
    algorithm: Option<String>,
    /// For hmac: encoding of the signature, hex, base64 or base64url [default: hex]
    #[arg(long)]
    encoding: Option<String>,
    /// For hmac: prefix of the signature, such as sha256=
    #[arg(long)]
    prefix: Option<String>,
    /// For hmac: signed text, such as {timestamp}.{body} [default: {body}]
    #[arg(long)]
    template: Option<String>,
    /// For hmac: name of the signature in a list header such as t=1,v1=ab
    #[arg(long, value_name = "KEY")]
    list_key: Option<String>,
    /// For hmac: place of the signed time, such as header:x-time, body:/time or list:t
    #[arg(long, value_name = "PLACE")]
    timestamp: Option<String>,
    /// Maximum difference between the signed time and now [default: 5m]
    #[arg(long, value_name = "DURATION")]
    tolerance: Option<String>,
    /// For basic: user name [default: innesco]
    #[arg(long)]
    username: Option<String>,
    /// Token that a hub (Meta, Strava, WebSub) sends as hub.verify_token before its first webhook
    #[arg(long, value_name = "TOKEN")]
    verify_token: Option<String>,
    /// Place of the text that the engine sends back when senders verify the address, such as query:challenge; with =MEMBER after
    /// the place, the answer is JSON with the text in that member
    #[arg(long, value_name = "PLACE")]
    challenge: Option<String>,
    /// Place of the event type: header:NAME, body:/POINTER or constant:TEXT
    #[arg(long, value_name = "PLACE")]
    type_from: Option<String>,
    /// Prefix of the event type [default: the source's name]
    #[arg(long, value_name = "PREFIX")]
    type_prefix: Option<String>,
    /// Place of the id that identifies duplicates: header:NAME, body:/POINTER, digest or none
    #[arg(long, value_name = "PLACE")]
    dedupe: Option<String>,
    /// Format of bodies, overriding their content type: auto, json, form, xml, text or bytes
    #[arg(long, value_name = "KIND")]
    body_as: Option<String>,
    /// Attribute of the events, and the place of its value, such as initiator=body:/initiated_by; can be repeated
    #[arg(long = "attribute", value_name = "NAME=PLACE")]
    attributes: Vec<String>,
    /// Allowed method, such as GET; can be repeated [default: POST]
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Network from which requests are allowed; can be repeated [default: all]
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// Rate limit, such as 50/s [default: none]
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Allowed content type, such as application/json or 'text/*'; can be repeated [default: all]
    #[arg(long = "content-type", value_name = "TYPE")]
    content_types: Vec<String>,
    /// Header that is stored with the event; can be repeated [default: all but credentials]
    #[arg(long = "store-header", value_name = "NAME")]
    headers: Vec<String>,
    /// Maximum size of a body, in bytes [default: the engine's limit]
    #[arg(long, value_name = "BYTES")]
    body_bytes_max: Option<u64>,
    /// Status of the answer to an accepted request [default: 200]
    #[arg(long, value_name = "STATUS")]
    answer_status: Option<u16>,
    /// Body of that answer [default: {"accepted": "evt_…"}]
    #[arg(long, value_name = "TEXT")]
    answer_body: Option<String>,
    /// Content type of that answer
    #[arg(long, value_name = "TYPE")]
    answer_content_type: Option<String>,
}

/// The members that `update --unset` accepts.
const UNSETTABLE: [&str; 28] = [
    "title",
    "header",
    "signature",
    "secret_encoding",
    "algorithm",
    "encoding",
    "prefix",
    "template",
    "list_key",
    "timestamp",
    "tolerance",
    "username",
    "challenge",
    "verify_token",
    "type_from",
    "type_prefix",
    "dedupe",
    "attributes",
    "methods",
    "content_types",
    "body_as",
    "allow",
    "headers",
    "body_bytes_max",
    "rate",
    "answer_status",
    "answer_body",
    "answer_content_type",
];

pub fn run(command: &SourceCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        SourceCommand::List => {
            let items = client.list(&["v1", "sources"], &[], usize::MAX)?;
            let columns: [Column<SourceView>; 6] = [
                Column::text("name", |item| item.name.clone()),
                Column::text("preset", |item| item.preset.to_string()),
                Column::text("accepted", |item| item.accepted.to_string()),
                Column::text("refused", |item| item.refused.to_string()),
                Column::time("last", |item| item.last_accepted_at.clone().unwrap_or_default()),
                Column::text("path", |item| item.path.clone().unwrap_or_default()),
            ];
            out.list(&items, &columns, "No source yet. Add one with: innesco source add github --preset github")?;
        }
        SourceCommand::Show { source } => {
            out.answer(&client.get(&["v1", "sources", source])?, |source| card(source, client, out).into_text())?;
        }
        SourceCommand::Add(args) => {
            let answer = client.post(&["v1", "sources"], Some(&wanted(args)?))?;
            out.answer(&answer, |source| revealed("added", source, args.secret.as_deref(), (client, out)).into_text())?;
        }
        SourceCommand::Update(args) => {
            let answer = client.patch(&["v1", "sources", &args.source], &changed(args)?)?;
            out.answer(&answer, |source| revealed("updated", source, None, (client, out)).into_text())?;
        }
        SourceCommand::Remove { source, yes } => {
            let found: Answer<SourceView> = client.get(&["v1", "sources", source])?;
            let name = &found.name;
            confirm(&format!("this removes source {name}; its senders get 404"), *yes)?;
            client.delete::<IgnoredAny>(&["v1", "sources", source])?;
            out.thing(&json!({ "removed": name }), |_| format!("removed {name}"))?;
        }
        SourceCommand::RotateSecret { source, grace, secret } => {
            let body = without_nulls(json!({ "grace": grace, "secret": secret }));
            let answer = client.post(&["v1", "sources", source, "rotate-secret"], Some(&body))?;
            out.answer(&answer, |source| {
                let mut card = revealed("rotated", source, secret.as_deref(), (client, out));
                card.remark(&match grace {
                    grace if is_over(grace.as_deref()) => "The old secret is no longer valid.".to_owned(),
                    grace => format!("The old secret stays valid for {}.", grace.as_deref().unwrap_or(grace::DEFAULT)),
                });
                card.into_text()
            })?;
        }
        SourceCommand::RotateAddress { source, grace, yes } => {
            let at_once = is_over(grace.as_deref());
            if at_once {
                confirm(&format!("this replaces the address of source {source}; senders to the old one get 404"), *yes)?;
            }
            let answer =
                client.post(&["v1", "sources", source, "rotate-address"], Some(&without_nulls(json!({ "grace": grace }))))?;
            out.answer(&answer, |source| {
                let mut card = card(source, client, out).after("rotated");
                card.remark(&match grace {
                    _ if at_once => "The old address is no longer valid.".to_owned(),
                    grace => format!(
                        "The old address stays valid for {}. Give the new one to its senders before then.",
                        grace.as_deref().unwrap_or(grace::DEFAULT)
                    ),
                });
                card.into_text()
            })?;
        }
    }
    Ok(())
}

/// Builds the request that creates a source.
fn wanted(args: &AddArgs) -> anyhow::Result<Value> {
    let mut wanted = args.members.typed()?;
    wanted.insert("name".into(), args.name.as_str().into());
    wanted.insert("preset".into(), args.preset.as_str().into());
    if let Some(secret) = &args.secret {
        wanted.insert("secret".into(), secret.as_str().into());
    }
    Ok(wanted.into())
}

/// Builds the merge patch that changes a source.
fn changed(args: &UpdateArgs) -> anyhow::Result<Value> {
    let mut change = args.members.typed()?;
    if let Some(preset) = &args.preset {
        change.insert("preset".into(), preset.as_str().into());
    }
    Ok(with_unset(change, &args.unset, &UNSETTABLE)?.into())
}

impl Members {
    /// Returns only the members given on the command line. So the others keep the engine's defaults, or their values before the
    /// change.
    fn typed(&self) -> anyhow::Result<Map<String, Value>> {
        let mut attributes = Map::new();
        for attribute in &self.attributes {
            let Some((name, place)) = attribute.split_once('=') else {
                return Err(wrong(format!(
                    "--attribute {attribute:?} has no place; write it as NAME=PLACE, such as --attribute initiator=body:/initiated_by"
                )));
            };
            attributes.insert(name.to_owned(), place.into());
        }
        let some = |values: &[String]| if values.is_empty() { Value::Null } else { json!(values) };
        let Value::Object(typed) = without_nulls(json!({
            "title": self.title,
            "header": self.header,
            "signature": self.signature,
            "secret_encoding": self.secret_encoding,
            "list_key": self.list_key,
            "verify_token": self.verify_token,
            "challenge": self.challenge,
            "algorithm": self.algorithm,
            "encoding": self.encoding,
            "prefix": self.prefix,
            "template": self.template,
            "timestamp": self.timestamp,
            "tolerance": self.tolerance,
            "username": self.username,
            "type_from": self.type_from,
            "type_prefix": self.type_prefix,
            "dedupe": self.dedupe,
            "body_as": self.body_as,
            "rate": self.rate,
            "attributes": if attributes.is_empty() { Value::Null } else { attributes.into() },
            "methods": some(&self.methods),
            "allow": some(&self.allow),
            "content_types": some(&self.content_types),
            "headers": some(&self.headers),
            "body_bytes_max": self.body_bytes_max,
            "answer_status": self.answer_status,
            "answer_body": self.answer_body,
            "answer_content_type": self.answer_content_type,
        })) else {
            unreachable!("it is an object")
        };
        Ok(typed)
    }
}

fn card(source: &SourceView, client: &Client, out: &Printer) -> Card {
    let mut card = Card::new(format!("{}  {}", one_line(&source.name), one_line(&source.preset)));
    match (&source.path, &source.url) {
        (None, _) => card.line("address", "not shown to a key of the role read"),
        (Some(_), Some(url)) => card.line("address", one_line(url)),
        (Some(path), None) => {
            card.line("address", client.address_of(&one_line(path)));
            card.below("as this command reaches the engine; for senders elsewhere, set external_url");
        }
    }
    match source.addresses.saturating_sub(1) {
        0 => {}
        1 => card.below("and the previous one, until its grace period ends"),
        more => card.below(&format!("and the {more} previous ones, until their grace periods end")),
    }
    card.known("warning", source.warning.as_deref());
    card.known("title", source.title.as_deref());
    if !source.proofs.is_empty() {
        card.line("proof", texts(&source.proofs));
    }
    card.known("signed", source.template.as_deref());
    if let Some(tolerance) = &source.tolerance {
        card.line("window", format!("signed within {}", one_line(tolerance)));
    }
    let prefix = match source.type_prefix.as_str() {
        "" => String::new(),
        prefix => format!("{}.", one_line(prefix)),
    };
    let kind = source.type_from.as_ref().map_or("received".to_owned(), |place| format!("… by {}", one_line(place)));
    card.line("type", format!("{prefix}{kind}"));
    card.line(
        "repeats",
        match source.dedupe.as_str() {
            "none" => "not detected".to_owned(),
            by => format!("detected by {}", one_line(by)),
        },
    );
    for (name, place) in &source.attributes {
        card.line("attribute", format!("{name} from {}", one_line(place)));
    }
    if source.has_verify_token {
        card.line("questions", "hubs that send the verify token are answered");
    }
    card.known("challenge", source.challenge.as_deref());
    card.line("methods", texts(&source.methods));
    if !source.content_types.is_empty() {
        card.line("types", texts(&source.content_types));
    }
    if *source.body_as != *"auto" {
        card.line("body as", one_line(&source.body_as));
    }
    if let Some(bytes) = source.body_bytes_max {
        card.line("body", format!("at most {bytes} bytes"));
    }
    if let Some(headers) = &source.headers {
        card.line("stores", if headers.is_empty() { "no headers".to_owned() } else { texts(headers) });
    }
    if let Some(body) = &source.answer_body {
        let kind = if body.is_empty() { String::new() } else { format!(", {}", one_line(&source.answer_content_type)) };
        card.line("answers", format!("{}{kind}, {} bytes", source.answer_status, body.len()));
    } else if source.answer_status != 200 {
        card.line("answers", source.answer_status.to_string());
    }
    if !source.allow.is_empty() {
        card.line("allow", texts(&source.allow));
    }
    if let Some(rate) = &source.rate {
        card.line("rate", format!("at most {}", one_line(rate)));
    }
    let duplicates = if source.duplicates == 0 { String::new() } else { format!(", {} of them duplicates", source.duplicates) };
    card.line("accepted", format!("{}{duplicates}", source.accepted));
    card.line("refused", source.refused.to_string());
    for refusal in &source.refusals {
        let at = out.time(&refusal.at);
        card.below(&format!("{at}  {}  {}", one_line(&refusal.address), one_line(&refusal.detail)));
    }
    card.line("created", out.time(&source.created_at));
    card.line("id", one_line(&source.id));
    card
}

/// Returns a card with the new secret, unless the caller gave it.
fn revealed(verb: &str, source: &SourceView, given: Option<&str>, (client, out): (&Client, &Printer)) -> Card {
    let mut card = card(source, client, out).after(verb);
    if let Some(secret) = source.secret.as_ref().filter(|_| given.is_none()) {
        card.secret(secret);
    }
    card
}

/// Returns whether a grace period ends at once.
fn is_over(grace: Option<&str>) -> bool {
    grace.and_then(duration::parse).is_some_and(|grace| grace.is_zero())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            examples::{read, source, with},
            output::Reader,
            typed as args,
        },
        *,
    };

    #[test]
    fn sends_only_the_typed_members() {
        let least = wanted(&args(&["github", "--preset", "github"])).unwrap();
        assert_eq!(least, json!({ "name": "github", "preset": "github" }));
        let full = args(&["crm", "--preset", "none", "--attribute", "initiator=body:/by", "--method", "GET", "--method", "POST"]);
        let expected = json!({
            "name": "crm", "preset": "none", "attributes": { "initiator": "body:/by" }, "methods": ["GET", "POST"],
        });
        assert_eq!(wanted(&full).unwrap(), expected);
        assert!(wanted(&args(&["a", "--preset", "none", "--attribute", "initiator"])).is_err());
    }

    #[test]
    fn a_change_sends_only_the_typed_members() {
        for (typed, expected) in [
            (vec!["shop", "--type-prefix", "woo"], json!({ "type_prefix": "woo" })),
            (
                vec!["shop", "--preset", "hmac", "--allow", "192.0.2.0/24", "--unset", "rate", "--unset", "verify-token"],
                json!({ "preset": "hmac", "allow": ["192.0.2.0/24"], "rate": null, "verify_token": null }),
            ),
            (
                vec!["shop", "--attribute", "by=body:/by", "--unset", "attributes.channel"],
                json!({ "attributes": { "by": "body:/by", "channel": null } }),
            ),
        ] {
            assert_eq!(changed(&args(&typed)).unwrap(), expected, "{typed:?}");
        }
        assert!(changed(&args(&["shop"])).unwrap_err().to_string().starts_with("nothing to change"));
        for member in UNSETTABLE {
            assert_eq!(changed(&args(&["shop", "--unset", member])).unwrap(), json!({ member: null }));
        }
    }

    #[test]
    fn only_a_generated_secret_is_shown() {
        let made = read::<SourceView>(with(source(), json!({ "secret": "a-secret-of-mine" })));
        let out = Printer::of(Reader::Person, "2026-11-24T09:14:02Z");
        for (given, shown) in [(None, true), (Some("a-secret-of-mine"), false)] {
            let text = revealed("added", &made, given, (&Client::at("http://127.0.0.1:8080"), &out)).into_text();
            assert_eq!(text.contains("a-secret-of-mine"), shown, "{text}");
        }
    }

    #[test]
    fn a_card_lists_proofs_and_settings_that_are_not_the_default() {
        let out = Printer::of(Reader::Person, "2026-11-24T09:14:02Z");
        let client = Client::at("http://127.0.0.1:8080");
        let lines = |changes: serde_json::Value| -> Vec<String> {
            let text = card(&read(with(source(), changes)), &client, &out).into_text();
            anstream::adapter::strip_str(&text).to_string().lines().map(|line| line.trim().to_owned()).collect()
        };
        let plain = lines(json!({ "answer_status": 200 }));
        for (changes, shown) in [
            (
                json!({ "proofs": ["header:webhook-signature", "header:x-gitlab-token"] }),
                "proof     header:webhook-signature header:x-gitlab-token",
            ),
            (json!({ "proofs": ["body:/signature"] }), "proof     body:/signature"),
            (json!({ "has_verify_token": true }), "questions hubs that send the verify token are answered"),
            (json!({ "challenge": "query:challenge" }), "challenge query:challenge"),
            (json!({ "content_types": ["application/json", "text/*"] }), "types     application/json text/*"),
            (json!({ "body_as": "json" }), "body as   json"),
            (json!({ "body_bytes_max": 1000 }), "body      at most 1000 bytes"),
            (json!({ "headers": ["x-topic"] }), "stores    x-topic"),
            (json!({ "headers": [] }), "stores    no headers"),
            (json!({ "answer_status": 202 }), "answers   202"),
            (json!({ "answer_status": 200, "answer_body": "" }), "answers   200, 0 bytes"),
            (
                json!({ "answer_status": 200, "answer_body": "ok", "answer_content_type": "text/plain" }),
                "answers   200, text/plain, 2 bytes",
            ),
        ] {
            let all = lines(with(json!({ "answer_status": 200 }), changes));
            assert_eq!(all.iter().filter(|line| !plain.contains(line)).collect::<Vec<_>>(), [shown]);
        }
    }

    #[test]
    fn a_card_lists_every_address() {
        let source = |addresses: u64| {
            read(with(
                source(),
                json!({ "name": "shop", "path": "/in/shop-0", "url": null, "dedupe": "none", "addresses": addresses }),
            ))
        };
        let out = Printer::of(Reader::Person, "2026-11-24T09:14:02Z");
        let client = Client::at("http://127.0.0.1:8080");
        let of = |addresses: u64| {
            anstream::adapter::strip_str(&revealed("added", &source(addresses), None, (&client, &out)).into_text()).to_string()
        };
        assert!(
            of(1).starts_with(
                "added shop  none\n  address   http://127.0.0.1:8080/in/shop-0\n            as this command reaches the engine"
            ),
            "{}",
            of(1)
        );
        assert!(of(1).contains("\n  repeats   not detected\n"), "{}", of(1));
        assert!(of(2).contains("\n            and the previous one, until its grace period ends\n"), "{}", of(2));
        assert!(of(3).contains("and the 2 previous ones, until their grace periods end"), "{}", of(3));
    }
}
