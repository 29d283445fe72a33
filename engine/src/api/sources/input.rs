//! What a caller may say of a source, and the document's words for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{
    PartialSchema as _, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    api::{
        Api, body, endpoints,
        error::Problem,
        intake::DEFAULT_SOURCE,
        openapi,
        values::{durations, schema, values, words},
    },
    domain::{
        endpoint::HeldSecret,
        name::{Attributes, Slug},
        signature::Secret,
        source::{
            Algorithm, BodyAs, Draft, Encoding, KeyEncoding as SecretEncoding, NewSource, Preset, Rule, SECRET_LEN, Settings,
            Source, Token,
        },
    },
};

/// Length of a title in characters.
const TITLE_LEN_MAX: usize = 200;

/// What a caller says of a source. Also what a change is merged into. Whatever is left out is as the preset has it.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SourceInput)]
pub struct Input {
    /// Unique and fixed: its events carry it as their `source`.
    #[schema(value_type = Slug)]
    name: String,
    /// Free text for people.
    #[schema(max_length = 200)]
    title: Option<String>,
    /// Who sends, or how they prove themselves.
    #[schema(value_type = Preset)]
    preset: String,
    /// What senders sign with, or show. Made at random unless given; the presets of senders that make it themselves need theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SourceSecret>)]
    secret: Option<String>,
    /// For `hmac` and `header-token`: the header that carries the signature or the token.
    header: Option<String>,
    /// For `hmac`: where the signature stands, `header:NAME` or `body:/POINTER`, in place of `header`.
    signature: Option<String>,
    /// For `hmac`: how the secret becomes the key; `text` (as it is) unless said otherwise.
    #[schema(value_type = Option<SecretEncoding>)]
    secret_encoding: Option<String>,
    /// For `hmac`: `sha256` unless said otherwise.
    #[schema(value_type = Option<Algorithm>)]
    algorithm: Option<String>,
    /// For `hmac`: `hex` unless said otherwise.
    #[schema(value_type = Option<Encoding>)]
    encoding: Option<String>,
    /// For `hmac`: what stands before the signature, such as `sha256=`.
    prefix: Option<String>,
    /// For `hmac`: what is signed, `{body}` unless said otherwise, such as `{timestamp}.{body}`. Also known: `{method}`, `{url}`,
    /// `{query}`, `{header:NAME}`, `{body:/POINTER}`.
    template: Option<String>,
    /// For `hmac`: where the header is a list such as `t=1,v1=ab`, the key of signatures in it.
    list_key: Option<String>,
    /// For `hmac`: where the signed time stands, `header:NAME`, `body:/POINTER` or `list:KEY`.
    timestamp: Option<String>,
    /// How far a signed time may be from now: 1s to 24h, 5m unless said otherwise.
    #[schema(value_type = Option<Tolerance>)]
    tolerance: Option<String>,
    /// For `basic`: the user; `innesco` unless said otherwise.
    username: Option<String>,
    /// `query:NAME`: a request without a proof that has this parameter is answered with its value (Dropbox: `query:challenge`, Microsoft
    /// Graph: `query:validationToken`).
    challenge: Option<String>,
    /// What a hub (Meta, Strava, WebSub) has to send as `hub.verify_token`, or as `hub.topic` where it sends no token, to be answered
    /// with its `hub.challenge`. Not shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<VerifyToken>)]
    verify_token: Option<String>,
    /// Where the kind of event stands: `header:NAME`, `body:/POINTER` or `constant:TEXT`.
    type_from: Option<String>,
    /// What stands before it in the event's type, with a dot between; the source's name unless the preset knows better.
    type_prefix: Option<String>,
    /// By what a repeat is known: `header:NAME`, `body:/POINTER`, `digest` (of what was signed) or `none`.
    dedupe: Option<String>,
    /// Attributes of the event, with where their values stand.
    #[serde(default)]
    #[schema(schema_with = attributes_schema)]
    attributes: BTreeMap<String, String>,
    /// `POST` alone unless said otherwise.
    #[serde(default)]
    #[schema(value_type = Vec<TakenMethod>, max_items = 5)]
    methods: Vec<String>,
    /// Which content types are taken, such as `application/json` or `text/*`; all unless said otherwise.
    #[serde(default)]
    #[schema(max_items = 64)]
    content_types: Vec<String>,
    /// What bodies are read as, whatever they say they are; `auto` (by their content type) unless set.
    #[schema(value_type = Option<BodyAs>)]
    body_as: Option<String>,
    /// Networks that requests may come from; anywhere unless said otherwise.
    #[serde(default)]
    #[schema(max_items = 64)]
    allow: Vec<String>,
    /// Which headers are kept beside the event; all but credentials unless said otherwise.
    #[schema(max_items = 64)]
    headers: Option<Vec<String>>,
    /// Bytes of one body, beside the engine's own limit.
    #[schema(minimum = 1, maximum = 1_073_741_824)]
    body_bytes_max: Option<u64>,
    /// No more than so many per second, minute or hour.
    #[schema(value_type = Option<endpoints::RateText>)]
    rate: Option<String>,
    /// The status that an accepted request is answered with; 200 unless said otherwise.
    #[schema(minimum = 200, maximum = 299)]
    answer_status: Option<u16>,
    /// The body of that answer; `{"accepted": "evt_…"}` unless said otherwise.
    #[schema(max_length = 4096)]
    answer_body: Option<String>,
    /// And its content type.
    answer_content_type: Option<String>,
}

/// A secret of a source.
pub enum SourceSecret {}
/// What a hub has to know.
enum VerifyToken {}
/// How far a signed time may be from now.
enum Tolerance {}
/// A method that a source can take.
enum TakenMethod {}
/// A change: [`Input`], of which anything may be left out.
pub enum Patch {}

values! {
    Preset, "Preset", words(
        "A sender, or a way to prove oneself: by the signature of Standard Webhooks (also Svix), one described in `header`, `algorithm`, \
         `encoding`, `prefix` and `template` (`hmac`), a password (`basic`), a token (`bearer`, `header-token`), or not at all (`none`: \
         whoever knows the address may send).",
        &Preset::ALL.map(Preset::as_str));
    Algorithm, "Algorithm", words("What a signature is made with.", &Algorithm::ALL.map(Algorithm::as_str));
    Encoding, "Encoding", words(
        "How a signature is written: `hex` in small letters, `base64url` without padding.", &Encoding::ALL.map(Encoding::as_str));
    SecretEncoding, "SecretEncoding", words(
        "How the text of a secret becomes the key: as it is, or decoded.", &SecretEncoding::ALL.map(SecretEncoding::as_str));
    SourceSecret, "SourceSecret", json!({
        "type": "string", "minLength": SECRET_LEN.start(), "maxLength": SECRET_LEN.end(),
        "description": "As its senders show it; for `standard-webhooks` `whsec_…`, or `whpk_…` where they sign by ed25519.",
    });
    VerifyToken, "VerifyToken", json!({
        "type": "string", "minLength": SECRET_LEN.start(), "maxLength": SECRET_LEN.end(),
        "description": "What a hub has to know that asks whether it may send here.",
    });
    Tolerance, "Tolerance", json!({
        "type": "string", "examples": ["5m"], "description": "How far a signed time may be from now: 1s to 24h.",
        "pattern": durations(&[("ms", 1000, 86_400_000), ("s", 1, 86_400), ("(m|min)", 1, 1440), ("h", 1, 24), ("d", 1, 1)]),
    });
    BodyAs, "BodyAs", words(
        "What bodies are read as: `json`, `form` (also multipart), `xml`, `text`, `bytes` (not read), or by their content type (`auto`).",
        &BodyAs::ALL.map(BodyAs::as_str));
    TakenMethod, "Method", words("A method of HTTP.", &Settings::METHODS);
    Patch, "SourcePatch", patch_schema();
}

fn attributes_schema() -> RefOr<Schema> {
    schema(json!({
        "type": "object", "maxProperties": Settings::ATTRIBUTES_MAX,
        "description": "Attributes of the event, with where their values stand: `header:NAME`, `body:/POINTER` or `constant:TEXT`.",
        "propertyNames": { "pattern": format!("^[a-z0-9]{{1,{}}}$", Attributes::NAME_LEN_MAX), "not": { "enum": Attributes::TAKEN } },
        "additionalProperties": { "type": "string" },
        "examples": [{ "initiator": "body:/initiated_by" }],
    }))
}

/// A merge patch of [`Input`]: nothing is needed, and `null` goes back to the default.
fn patch_schema() -> Value {
    let mut schema = serde_json::to_value(Input::schema()).expect("utoipa's shapes are JSON");
    openapi::settle(&mut schema);
    schema.as_object_mut().expect("an input is an object").remove("required");
    schema["description"] = json!("A change of a source: what is named is replaced, `null` goes back to the default.");
    let properties = schema["properties"].as_object_mut().expect("an input has members");
    // Fixed, and changed by rotation.
    properties.remove("name");
    properties.remove("secret");
    for (_, member) in properties.iter_mut().filter(|(name, _)| *name != "preset") {
        if member["additionalProperties"].is_object() {
            let value = member["additionalProperties"].take();
            member["additionalProperties"] = json!({ "anyOf": [value, { "type": "null" }] });
        }
        *member = json!({ "anyOf": [member, { "type": "null" }] });
    }
    schema
}

pub fn wrong(member: &str, detail: impl std::fmt::Display) -> Problem {
    Problem::bad_source(format!("{member}: {detail}")).at(format!("/{member}"))
}

/// Moves the members that [`Input`] and [`Draft`] have in common from one into the other; a member that is missing here does not compile.
macro_rules! moved {
    ($from:ident into $to:ident { $($more:tt)* }) => {
        $to {
            preset: $from.preset,
            header: $from.header,
            signature: $from.signature,
            secret_encoding: $from.secret_encoding,
            algorithm: $from.algorithm,
            encoding: $from.encoding,
            prefix: $from.prefix,
            template: $from.template,
            list_key: $from.list_key,
            timestamp: $from.timestamp,
            tolerance: $from.tolerance,
            username: $from.username,
            challenge: $from.challenge,
            type_from: $from.type_from,
            type_prefix: $from.type_prefix,
            dedupe: $from.dedupe,
            attributes: $from.attributes.into_iter().collect(),
            methods: $from.methods,
            content_types: $from.content_types,
            body_as: $from.body_as,
            allow: $from.allow,
            headers: $from.headers,
            body_bytes_max: $from.body_bytes_max,
            rate: $from.rate,
            answer_status: $from.answer_status,
            answer_body: $from.answer_body,
            answer_content_type: $from.answer_content_type,
            $($more)*
        }
    };
}

impl Input {
    /// What was said of a source.
    pub fn of(source: &Source) -> Self {
        let draft = source.new.draft.clone();
        moved!(draft into Input { name: source.new.name.to_string(), title: source.new.title.clone(), secret: None, verify_token: None })
    }

    /// Checks everything. `before` is the source that is being changed.
    pub fn check(self, api: &Api, before: Option<&Source>) -> Result<NewSource, Problem> {
        let name = Slug::parse(&self.name).map_err(|bad| wrong("name", bad))?;
        if &*name == "innesco" || &*name == DEFAULT_SOURCE && before.is_none() {
            return Err(wrong(
                "name",
                "is the source of the engine's own events or of events sent to /v1/events; choose another",
            ));
        }
        if self.title.as_ref().is_some_and(|title| title.chars().count() > TITLE_LEN_MAX) {
            return Err(wrong("title", format!("must be at most {TITLE_LEN_MAX} characters")));
        }
        let (title, given, verify_token) = (self.title, self.secret, self.verify_token);
        let draft = moved!(self into Draft {});
        let settings = draft.settle().map_err(|bad| wrong(bad.member, bad.detail))?;
        if *settings.proofs.main() == Rule::Twilio && api.inbound.external_url.is_none() {
            let text = "Twilio signs the address that it sends to; set external_url in the engine's settings to what it knows, such as \
                        https://hooks.example.com";
            return Err(wrong("preset", text));
        }
        let same_limit = before.is_some_and(|before| before.new.settings.body_bytes_max == settings.body_bytes_max);
        if let Some(bytes) = too_large(api, &settings).filter(|_| !same_limit) {
            let text = format!(
                "{bytes} is more than limits.body_bytes_max, which is {}; raise that in the engine's settings first (sources take {} \
                 bytes at most), or leave this out",
                api.body_bytes_max,
                body::SOURCE_BODY_BYTES_MAX
            );
            return Err(wrong("body_bytes_max", text));
        }
        let verify_token = verify_token.map(|text| verify_token_of(&text)).transpose()?;
        // A secret is read in the way of its proofs.
        let same_kind = |before: &&Source| before.new.settings.preset == settings.preset;
        let secrets = match (before.filter(same_kind), given.as_deref()) {
            (Some(before), None) => before.new.secrets.clone(),
            (Some(_), Some(_)) => {
                return Err(wrong("secret", "is changed with rotate-secret, so that the old one is believed for a while"));
            }
            (None, None) if !settings.proofs.have_secret() => Vec::new(),
            (None, given) => vec![HeldSecret { secret: secret(given, &settings)?, until: None }],
        };
        let (token, former) = match before {
            Some(before) => (before.new.token.clone(), before.new.former.clone()),
            None => (new_token()?, Vec::new()),
        };
        Ok(NewSource { name, title, token, former, draft, settings, secrets, verify_token })
    }
}

/// The body limit of a source, where the engine reads no bodies of that size to sources.
pub fn too_large(api: &Api, settings: &Settings) -> Option<u64> {
    let limit = api.body_bytes_max.min(body::SOURCE_BODY_BYTES_MAX);
    settings.body_bytes_max.filter(|bytes| usize::try_from(*bytes).map_or(true, |bytes| bytes > limit))
}

fn verify_token_of(text: &str) -> Result<Secret, Problem> {
    let fits = SECRET_LEN.contains(&text.len()) && !text.chars().any(char::is_control);
    let detail = format!("must be {} to {} bytes without control characters", SECRET_LEN.start(), SECRET_LEN.end());
    if fits { Ok(Secret::Text(text.to_owned())) } else { Err(wrong("verify_token", detail)) }
}

/// To verify with: the caller's, or one made at random where its senders can be told.
pub fn secret(given: Option<&str>, settings: &Settings) -> Result<Secret, Problem> {
    match given {
        Some(_) if !settings.proofs.have_secret() => {
            Err(wrong("secret", format!("has no use with preset \"{}\"; leave it out", settings.preset.as_str())))
        }
        Some(text) => NewSource::secret(settings, text).map_err(|bad| wrong("secret", bad)),
        None if settings.preset.secret_is_theirs() => Err(wrong(
            "secret",
            format!("is missing: {} makes it, and shows it where the webhook is set up", settings.preset.as_str()),
        )),
        None => Ok(NewSource::new_secret(settings, random()?)),
    }
}

/// What makes another address unguessable.
pub fn new_token() -> Result<Token, Problem> {
    Ok(Token::from_seed(random()?))
}

fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no randomness");
        Problem::internal("the system gives no randomness for a secret")
    })?;
    Ok(bytes)
}
