//! A source: an inbound address for third parties, with the rule that verifies its senders and turns their requests into events.
//!
//! A [`Draft`] holds only the settings that an operator has set, which are the differences from the preset. [`Draft::settle`]
//! turns it into complete and valid [`Settings`]. The draft is stored, so that an improved preset applies to all its sources
//! while the operator's choices stay.
//!
//! [`Source::verify`] decides whether a request is verified. [`Source::event`] turns it into an event, even if its body cannot be
//! read, so signed bytes are never lost. A duplicate is detected by the signed id, otherwise by the digest of the signed text. If
//! requests have a password or a token instead of a signature, a duplicate is detected only by the id whose place the operator
//! has set. Equal bodies do not count, because they may be two events, and losing an event is worse than having it twice.
//!
//! Headers and method reach plugins as attributes with a dot in the name (`http.header.…`). They are attributes because the
//! records of the plugin contract never change. No CloudEvents attribute can have a dot, so envelopes and subscriptions do not
//! see these attributes.

pub mod data;
mod hmac;
mod pick;
mod preset;
mod probe;
mod requests;
mod secret;
#[cfg(test)]
mod senders;
mod settings;
mod template;
mod twilio;
#[cfg(test)]
mod vectors;
mod verify;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use url::form_urlencoded;

use super::{
    endpoint::HeldSecret,
    event::NewEvent,
    id::SourceId,
    name::{Attributes, EventType, Slug},
    request::Request,
    signature::{self, Secret},
    time::Timestamp,
};

pub use self::{
    data::BodyAs,
    hmac::{Algorithm, Encoding, HmacRule, KeyEncoding, Place, Stamp},
    pick::{Path, Pick},
    preset::Preset,
    probe::Reply,
    requests::{REFUSALS_MAX, Refused, Requests},
    secret::{BadSecret, SECRET_LEN},
    settings::{Answer, BadSetting, Challenge, ChallengePlace, Dedupe, Draft, Settings},
    template::Template,
    verify::{Believed, Evidence, Incoming, Proofs, Refusal, Rule},
};

/// A source without an id.
#[derive(Clone, Debug)]
pub struct NewSource {
    /// Unique name. Never changes: events carry it as their `source`.
    pub name: Slug,
    /// Title: free text.
    pub title: Option<String>,
    /// The unguessable part of its address.
    pub token: Token,
    /// Previous tokens, newest first.
    pub former: Vec<FormerToken>,
    pub draft: Draft,
    pub settings: Settings,
    /// Newest first. Every valid secret is accepted.
    pub secrets: Vec<HeldSecret>,
    /// The token that a hub must send to verify the address.
    pub verify_token: Option<Secret>,
}

/// A stored source.
#[derive(Clone, Debug)]
pub struct Source {
    pub id: SourceId,
    pub created_at: Timestamp,
    pub new: NewSource,
}

/// The unguessable part of an address.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub const SEED_LEN: usize = 16;

    pub fn from_seed(seed: [u8; Self::SEED_LEN]) -> Self {
        Self(signature::hex(&seed))
    }

    /// Reads [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        (text.len() == 2 * Self::SEED_LEN && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A replaced token: its address stays valid until its grace period ends (steady clock).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerToken {
    pub token: Token,
    pub until: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(not shown)")
    }
}

/// Maximum number of valid secrets.
pub const SECRETS_MAX: usize = 5;
/// Maximum number of valid former addresses.
pub const FORMER_MAX: usize = 4;
/// Maximum number of stored headers of one request, and their total size in bytes.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Maximum length of an event's id, in bytes.
const ID_LEN_MAX: usize = 512;
/// The attribute with the reason why a body was stored as bytes.
const UNREAD: &str = "bodyerror";
/// The last part of the event type if the request gives no other.
const RECEIVED: &str = "received";
/// Headers that are never stored, because they carry a caller's credentials or describe the connection.
const NEVER_KEPT: [&str; 9] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl NewSource {
    /// Reads a secret with which the source's senders sign, or which they send.
    ///
    /// # Errors
    /// Explains what is wrong with it, without repeating it.
    pub fn secret(settings: &Settings, text: &str) -> Result<Secret, BadSecret> {
        secret::read(settings.preset, &settings.proofs, text)
    }

    /// Creates a secret for the source's senders.
    pub fn new_secret(settings: &Settings, seed: [u8; Secret::SEED_LEN]) -> Secret {
        secret::make(&settings.proofs, seed)
    }
}

impl Source {
    /// Returns the part of the path after `/in/`.
    pub fn address(&self) -> String {
        self.address_with(&self.new.token)
    }

    fn address_with(&self, token: &Token) -> String {
        format!("{}-{}", self.new.name, token.as_str())
    }

    /// Returns the address of the source, and the previous addresses with the ends of their grace periods.
    pub fn addresses(&self) -> impl Iterator<Item = (String, Option<Timestamp>)> {
        let former = self.new.former.iter().map(|former| (self.address_with(&former.token), Some(former.until)));
        std::iter::once((self.address(), None)).chain(former)
    }

    /// Replaces the address. The current address stays valid until `grace` is over. An earlier address stays valid until then at
    /// most.
    pub fn rotate_address(&mut self, token: Token, now: Timestamp, grace: Duration) {
        let end = now.plus(grace);
        let new = &mut self.new;
        new.former.insert(0, FormerToken { token: std::mem::replace(&mut new.token, token), until: end });
        for former in &mut new.former {
            former.until = former.until.min(end);
        }
        new.former.retain(|former| now < former.until);
        new.former.truncate(FORMER_MAX);
    }

    /// Puts a new secret before the others. The earlier secrets stay valid until `grace` is over at most.
    pub fn rotate(&mut self, secret: Secret, now: Timestamp, grace: Duration) {
        let end = now.plus(grace);
        self.new.secrets.retain(|held| held.until.is_none_or(|until| now < until));
        for held in &mut self.new.secrets {
            held.until = Some(held.until.map_or(end, |until| until.min(end)));
        }
        self.new.secrets.insert(0, HeldSecret { secret, until: None });
        self.new.secrets.truncate(SECRETS_MAX);
    }

    /// Returns the secrets that are valid at this time (steady clock).
    fn secrets(&self, steady: Timestamp) -> Vec<String> {
        let holds = |held: &&HeldSecret| held.until.is_none_or(|until| steady < until);
        self.new.secrets.iter().filter(holds).map(|held| held.secret.reveal()).collect()
    }

    /// Checks the head of a request. Returns `None` if the body is needed. Then [`Self::verify`] decides. The steady clock
    /// `steady` decides which secrets are valid. The wall clock `wall` is compared with the senders' times.
    pub fn check_head(&self, head: &Incoming<'_>, steady: Timestamp, wall: Timestamp) -> Result<Option<Believed>, Refusal> {
        let secrets = self.secrets(steady);
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        self.new.settings.proofs.check_head(&secrets, head, wall)
    }

    /// Verifies that a request comes from one of the source's senders.
    pub fn verify(&self, request: &Incoming<'_>, steady: Timestamp, wall: Timestamp) -> Result<Believed, Refusal> {
        let secrets = self.secrets(steady);
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        self.new.settings.proofs.verify(&secrets, request, wall)
    }

    /// Creates the event of a verified request.
    pub fn event(&self, request: &Incoming<'_>, body: &Bytes, believed: &Believed) -> NewEvent {
        let settings = &self.new.settings;
        let data = self.data(request, body, believed);
        let json = data.as_json();
        let event_type = settings.type_from.as_ref().and_then(|pick| pick.from(request, json));
        let mut attributes = Attributes::default();
        for (name, pick) in &settings.attributes {
            if let Some(value) = pick.from(request, json) {
                // A value that no attribute can hold is still in the data.
                let _ = attributes.push(name, value.into_owned());
            }
        }
        if let Some(why) = &data.unread {
            let _ = attributes.push(UNREAD, cut(&why.to_string()));
        }
        NewEvent {
            id: self.repeat_id(request, json, believed).map(Into::into),
            source: Arc::from(&*self.new.name),
            event_type: self.event_type(event_type.as_deref()),
            subject: None,
            time: None,
            attributes: Arc::new(attributes),
            depth: 0,
            cause: None,
            request: Some(Arc::new(Request {
                method: request.method.to_owned(),
                query: request.query.to_owned(),
                headers: self.kept_headers(request),
                body: (data.rewritten && !body.is_empty()).then(|| body.clone()),
            })),
            content: data.content,
        }
    }

    /// Returns the part of a verified request that becomes the event's data. This is only the part that the proof covers.
    fn data(&self, request: &Incoming<'_>, body: &Bytes, believed: &Believed) -> data::Data {
        let rewritten = |body_as: BodyAs, bytes: String| {
            let read = data::read(body_as, None, "", &bytes.into());
            data::Data { rewritten: true, ..read }
        };
        match &believed.evidence {
            Evidence::Whole => {
                let vouched = self.new.settings.proofs.get(believed.by).vouches_for_query();
                data::read(
                    self.new.settings.body_as,
                    request.header("content-type"),
                    if vouched { request.query } else { "" },
                    body,
                )
            }
            Evidence::Payload(payload) => rewritten(BodyAs::Json, payload.clone()),
            Evidence::Form(pairs) => {
                let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
                rewritten(BodyAs::Form, form)
            }
        }
    }

    fn event_type(&self, given: Option<&str>) -> EventType {
        let name = &self.new.name;
        let prefix = self.new.settings.type_prefix.as_deref().unwrap_or(name);
        let typed = |given: &str| {
            let text = if prefix.is_empty() { given.to_owned() } else { format!("{prefix}.{given}") };
            EventType::parse(&text).ok().filter(|event_type| event_type.is_plain() && !event_type.is_ours())
        };
        let given = given.and_then(|given| typed(given).or_else(|| typed(&plain(given))));
        let received = || EventType::parse(&format!("{name}.{RECEIVED}")).expect("a name and a word are a type");
        given.or_else(|| if prefix.is_empty() { None } else { typed(RECEIVED) }).unwrap_or_else(received)
    }

    /// Returns the id by which a duplicate of this request is detected. `None` means that a repeated request is a new event.
    fn repeat_id(&self, request: &Incoming<'_>, json: Option<&str>, believed: &Believed) -> Option<String> {
        let digest = believed.digest.map(|digest| signature::hex(&digest));
        let whole = |digest: &str| format!("sha256:{digest}");
        let pick = match &self.new.settings.dedupe {
            Dedupe::Off => return None,
            Dedupe::Digest => return digest.as_deref().map(whole),
            Dedupe::Pick(pick) => pick,
        };
        let id = match (&believed.id, pick) {
            // The id comes from the signed text, never from an unsigned header.
            (Some(id), Pick::Header(names)) if names.iter().any(|name| name == "webhook-id") => Some(id.clone()),
            _ => match (pick.from(request, json), digest.as_deref()) {
                (Some(id), Some(digest)) if !self.new.settings.proofs.get(believed.by).covers(pick) => {
                    Some(format!("{id}-{}", &digest[..16]))
                }
                (Some(id), _) => Some(id.into_owned()),
                (None, digest) => digest.map(whole),
            },
        }?;
        let fits = id.len() <= ID_LEN_MAX && !id.chars().any(char::is_control);
        Some(if fits { id } else { whole(&signature::hex(&sha256(id.as_bytes()))) })
    }

    fn kept_headers(&self, request: &Incoming<'_>) -> Vec<(String, String)> {
        let settings = &self.new.settings;
        let secret = |name: &str| settings.proofs.secret_headers().any(|secret| secret == name);
        let wanted = |name: &str| match &settings.headers {
            Some(names) => names.iter().any(|one| one == name),
            None => true,
        };
        let mut room = HEADER_BYTES_MAX;
        let mut kept = Vec::new();
        for (name, value) in request.headers {
            let bytes = name.len() + value.len();
            if NEVER_KEPT.contains(&name.as_str()) || secret(name) || !wanted(name) || bytes > room {
                continue;
            }
            room -= bytes;
            kept.push((name.clone(), value.clone()));
            if kept.len() == HEADERS_MAX {
                break;
            }
        }
        kept
    }

    /// Returns whether requests from this address are allowed.
    pub fn admits(&self, address: IpAddr) -> bool {
        let allow = &self.new.settings.allow;
        let address = address.to_canonical();
        allow.is_empty() || allow.iter().any(|net| net.contains(&address))
    }
}

/// Makes text a valid attribute value: without control characters, and not too long.
fn cut(text: &str) -> String {
    let mut end = text.len().min(Attributes::VALUE_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Converts a sender's word for the kind of an event to an event type: `orders/create` becomes `orders.create`, `Push Hook`
/// becomes `push_hook`.
fn plain(given: &str) -> String {
    let letter = |c: char| match c {
        '/' | ':' | '.' => '.',
        c if c.is_ascii_alphanumeric() || c == '-' || c == '_' => c.to_ascii_lowercase(),
        _ => '_',
    };
    given.trim().chars().map(letter).collect()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).into()
}
