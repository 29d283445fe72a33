//! The settings of a source. A [`Draft`] has the settings that the operator gave. [`Settings`] are complete, with the preset's
//! values for the others.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::{
    data::BodyAs,
    hmac::{Algorithm, Encoding, HmacRule, KeyEncoding, Place, Stamp},
    pick::{Path, Pick},
    preset::Preset,
    template::Template,
    verify::{Proofs, Rule},
};
use crate::domain::{
    duration,
    name::{Attributes, EventType, nearest},
    rate::Rate,
};

/// The settings that the operator gave; `None` or empty means the preset's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    pub preset: String,
    pub header: Option<String>,
    /// `header:NAME` or `body:/POINTER`.
    pub signature: Option<String>,
    pub secret_encoding: Option<String>,
    pub algorithm: Option<String>,
    pub encoding: Option<String>,
    pub prefix: Option<String>,
    pub template: Option<String>,
    pub list_key: Option<String>,
    /// `header:NAME`, or `list:KEY` in the list of `list_key`.
    pub timestamp: Option<String>,
    pub tolerance: Option<String>,
    pub username: Option<String>,
    /// `PLACE` or `PLACE=MEMBER`; see [`Challenge`].
    pub challenge: Option<String>,
    pub type_from: Option<String>,
    pub type_prefix: Option<String>,
    /// `header:NAME`, `body:/POINTER`, `digest` or `none`.
    pub dedupe: Option<String>,
    pub attributes: Vec<(String, String)>,
    pub methods: Vec<String>,
    pub content_types: Vec<String>,
    /// `auto`, `json`, `form`, `xml`, `text` or `bytes`.
    pub body_as: Option<String>,
    pub allow: Vec<String>,
    pub headers: Option<Vec<String>>,
    pub body_bytes_max: Option<u64>,
    pub rate: Option<String>,
    pub answer_status: Option<u16>,
    pub answer_body: Option<String>,
    pub answer_content_type: Option<String>,
}

/// The completed settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub preset: Preset,
    pub proofs: Proofs,
    pub challenge: Option<Challenge>,
    pub type_from: Option<Pick>,
    /// `None`: the source's name.
    pub type_prefix: Option<String>,
    pub dedupe: Dedupe,
    /// Attributes of the event, with the places of their values.
    pub attributes: Vec<(String, Pick)>,
    /// In upper case.
    pub methods: Vec<String>,
    /// In lower case, with `*` for any subtype; empty: all.
    pub content_types: Vec<String>,
    pub body_as: BodyAs,
    /// Networks from which requests are allowed; empty: all.
    pub allow: Vec<IpNet>,
    /// Names of the headers that are stored, in lower case; `None`: all headers without credentials.
    pub headers: Option<Vec<String>>,
    /// Maximum size of a body. The engine's limit applies too.
    pub body_bytes_max: Option<u64>,
    pub rate: Option<Rate>,
    pub answer: Answer,
}

/// How a duplicate of a request is detected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dedupe {
    /// By the sender's id. For a request without an id, [`Self::Digest`] applies. If the request is signed but the signature does
    /// not cover the id, the id and the digest decide together.
    Pick(Pick),
    /// By the signed text, if there is a signature.
    Digest,
    /// Duplicates are not detected.
    Off,
}

impl fmt::Display for Dedupe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pick(pick) => pick.fmt(f),
            Self::Digest => f.write_str("digest"),
            Self::Off => f.write_str("none"),
        }
    }
}

/// A text that senders put into a question and expect in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub place: ChallengePlace,
    /// The member that holds the text, if the answer is a JSON object; `None`: the answer is the text alone, as plain text.
    pub member: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengePlace {
    Query(String),
    /// Name in lower case.
    Header(String),
    /// A place in the short body (JSON or a form) of a request that has no proof.
    Body(Path),
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (place, member) = match text.split_once('=') {
            Some((place, member)) => (place, Some(member)),
            None => (text, None),
        };
        let is_word =
            |word: &str| (1..=Settings::WORD_LEN_MAX).contains(&word.len()) && word.bytes().all(|c| matches!(c, b'!'..=b'~'));
        let place = match place.split_once(':')? {
            ("query", name) if is_word(name) => ChallengePlace::Query(name.to_owned()),
            ("header", name) => ChallengePlace::Header(header(name).ok()?),
            ("body", path) if is_word(path) => ChallengePlace::Body(Path::parse(path)?),
            _ => return None,
        };
        if !member.is_none_or(is_word) {
            return None;
        }
        Some(Self { place, member: member.map(str::to_owned) })
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            ChallengePlace::Query(name) => write!(f, "query:{name}")?,
            ChallengePlace::Header(name) => write!(f, "header:{name}")?,
            ChallengePlace::Body(path) => write!(f, "body:{path}")?,
        }
        self.member.as_ref().map_or(Ok(()), |member| write!(f, "={member}"))
    }
}

/// The answer to an accepted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A status from 200 to 299.
    pub status: u16,
    /// `None`: `{"accepted": "evt_…"}`.
    pub body: Option<String>,
    pub content_type: String,
}

/// A member with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {detail}")]
pub struct BadSetting {
    pub member: &'static str,
    pub detail: String,
}

fn bad(member: &'static str, detail: impl fmt::Display) -> BadSetting {
    BadSetting { member, detail: detail.to_string() }
}

impl Settings {
    /// Methods that a source can allow.
    pub const METHODS: [&'static str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    pub const ATTRIBUTES_MAX: usize = 16;
    /// Maximum number of entries of `allow`, `content_types` and `headers`.
    pub const LIST_MAX: usize = 64;
    /// Maximum size of one body, in bytes, regardless of the engine's limit.
    pub const BODY_BYTES_MAX: u64 = 1 << 30;
    /// Maximum size of the answer's body, in bytes.
    pub const ANSWER_BYTES_MAX: usize = 4096;
    /// Maximum difference between a signed time and now. Duplicates are detected for longer than this, so an old request that is
    /// sent again has no effect.
    pub const TOLERANCE_MAX: Duration = Duration::from_secs(24 * 3600);
    /// Maximum length of a header's name, and of the text before a signature, in bytes.
    const WORD_LEN_MAX: usize = 128;
}

impl Draft {
    /// Checks all settings.
    pub fn settle(&self) -> Result<Settings, BadSetting> {
        let preset = Preset::parse(&self.preset).ok_or_else(|| {
            let all = Preset::ALL.map(Preset::as_str);
            let near = nearest(&self.preset, all).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            bad("preset", format!("{:?} is not supported; write one of {}{near}", self.preset, all.join(", ")))
        })?;
        let proofs = self.proofs(preset)?;
        let (type_from, type_prefix) = preset.event_type();
        let type_from = match &self.type_from {
            Some(text) => Some(Pick::parse(text).map_err(|wrong| bad("type_from", wrong))?),
            None => type_from,
        };
        let type_prefix = match &self.type_prefix {
            Some(text) => Some(prefix_of_types(text)?),
            None => type_prefix.map(str::to_owned),
        };
        let dedupe = match self.dedupe.as_deref() {
            None => preset.dedupe(),
            Some("none") => Dedupe::Off,
            Some("digest") if proofs.sign() => Dedupe::Digest,
            Some("digest") => return Err(bad("dedupe", "nothing is signed here, so there is no digest")),
            Some(text) => Dedupe::Pick(Pick::parse(text).map_err(|wrong| bad("dedupe", format!("{wrong}, digest or none")))?),
        };
        Ok(Settings {
            preset,
            proofs,
            challenge: self.challenge()?,
            type_from,
            type_prefix,
            dedupe,
            attributes: self.attributes()?,
            methods: self.methods(preset)?,
            content_types: self.content_types()?,
            body_as: self.body_as()?,
            allow: list("allow", &self.allow, |text| network(text).ok_or("is not a network; write 192.0.2.0/24 or 2001:db8::1"))?,
            headers: self.headers.as_ref().map(|names| list("headers", names, header)).transpose()?,
            body_bytes_max: match self.body_bytes_max {
                Some(bytes) if !(1..=Settings::BODY_BYTES_MAX).contains(&bytes) => {
                    return Err(bad("body_bytes_max", format!("must be 1 to {}", Settings::BODY_BYTES_MAX)));
                }
                bytes => bytes.or(preset.body_bytes_max()),
            },
            rate: self.rate.as_deref().map(Rate::parse).transpose().map_err(|wrong| bad("rate", wrong))?,
            answer: self.answer(preset)?,
        })
    }

    fn proofs(&self, preset: Preset) -> Result<Proofs, BadSetting> {
        let mut proofs = preset.proofs();
        let of_hmac: [(&'static str, bool); 8] = [
            ("signature", self.signature.is_some()),
            ("secret_encoding", self.secret_encoding.is_some()),
            ("algorithm", self.algorithm.is_some()),
            ("encoding", self.encoding.is_some()),
            ("prefix", self.prefix.is_some()),
            ("template", self.template.is_some()),
            ("list_key", self.list_key.is_some()),
            ("timestamp", self.timestamp.is_some()),
        ];
        if let Some((member, _)) = of_hmac.iter().find(|(_, given)| *given && preset != Preset::Hmac) {
            return Err(bad(member, "belongs to preset \"hmac\"; choose that preset, or leave it out"));
        }
        let rule = proofs.0.first_mut().expect("a preset has a proof");
        match (&mut *rule, &self.header) {
            (Rule::Hmac(_), None) if preset == Preset::Hmac && self.signature.is_none() => {
                return Err(bad("header", "is missing; give the header with the signature, such as x-signature"));
            }
            (Rule::Hmac(_), Some(_)) if self.signature.is_some() => {
                return Err(bad("signature", "has the same purpose as header; leave one of them out"));
            }
            (Rule::Hmac(hmac), Some(name)) if preset == Preset::Hmac => {
                hmac.place = Place::Header(header(name).map_err(|wrong| bad("header", format!("{name:?} {wrong}")))?);
            }
            (Rule::Token { header: known }, Some(name)) if preset == Preset::HeaderToken => {
                *known = header(name).map_err(|wrong| bad("header", format!("{name:?} {wrong}")))?;
            }
            (_, Some(_)) => return Err(bad("header", "belongs to the presets \"hmac\" and \"header-token\"; leave it out")),
            (_, None) => {}
        }
        match (&mut *rule, &self.username) {
            (Rule::Basic { username }, Some(name)) => {
                let plain = |c: char| !c.is_control() && c != ':';
                if name.is_empty() || name.len() > Settings::WORD_LEN_MAX || !name.chars().all(plain) {
                    return Err(bad("username", "must be 1 to 128 characters without a colon"));
                }
                username.clone_from(name);
            }
            (_, Some(_)) => return Err(bad("username", "belongs to preset \"basic\"; leave it out")),
            (_, None) => {}
        }
        if let Rule::Hmac(hmac) = rule
            && preset == Preset::Hmac
        {
            self.hmac(hmac)?;
        }
        self.tolerance(&mut proofs)?;
        Ok(proofs)
    }

    fn hmac(&self, rule: &mut HmacRule) -> Result<(), BadSetting> {
        if let Some(text) = &self.signature {
            rule.place = place(text).ok_or_else(|| {
                bad("signature", format!("{text:?} is not a place; write header:NAME or body:/POINTER (or body:$.path)"))
            })?;
        }
        if let Some(text) = &self.secret_encoding {
            let known = KeyEncoding::ALL.into_iter().find(|one| one.as_str() == text);
            rule.key =
                known.ok_or_else(|| bad("secret_encoding", format!("{text:?} is not known; write text, base64 or hex")))?;
        }
        if let Some(text) = &self.algorithm {
            let known = Algorithm::ALL.into_iter().find(|one| one.as_str() == text);
            rule.algorithm =
                known.ok_or_else(|| bad("algorithm", format!("{text:?} is not known; write sha256, sha512 or sha1")))?;
        }
        if let Some(text) = &self.encoding {
            let known = Encoding::ALL.into_iter().find(|one| one.as_str() == text);
            rule.encoding =
                known.ok_or_else(|| bad("encoding", format!("{text:?} is not known; write hex, base64 or base64url")))?;
        }
        let word = |member: &'static str, text: &String| {
            let visible = text.bytes().all(|c| matches!(c, b' '..=b'~'));
            let fits = text.len() <= Settings::WORD_LEN_MAX && visible;
            if fits { Ok(text.clone()) } else { Err(bad(member, "must be at most 128 visible ASCII characters")) }
        };
        if let Some(text) = &self.prefix {
            rule.prefix = word("prefix", text)?;
        }
        if let Some(text) = &self.template {
            rule.template = Template::parse(text).map_err(|wrong| bad("template", format!("{text:?} {wrong}")))?;
        }
        if let Some(text) = &self.list_key {
            rule.list_key = Some(word("list_key", text)?);
        }
        if let Some(text) = &self.timestamp {
            let known = match text.strip_prefix("list:") {
                Some(key) if rule.list_key.is_some() && !key.is_empty() => Some(Place::List(word("timestamp", &key.to_owned())?)),
                Some(_) => None,
                None => place(text),
            };
            let place = known.ok_or_else(|| {
                let text = format!("{text:?} is not a place; write header:NAME, body:/POINTER, or list:KEY beside a list_key");
                bad("timestamp", text)
            })?;
            rule.stamp = Some(Stamp { place, tolerance: super::preset::TOLERANCE_DEFAULT });
        }
        let signed_in_body = rule.template.has_body() && matches!(&rule.stamp, Some(Stamp { place: Place::Body(_), .. }));
        match (rule.template.has_timestamp() || signed_in_body, rule.stamp.is_some()) {
            (true, false) => {
                Err(bad("timestamp", "is missing: the template signs {timestamp}, so give its place, such as header:x-time"))
            }
            (false, true) => Err(bad("template", "must sign {timestamp}: a time that is not signed proves nothing")),
            _ => Ok(()),
        }
    }

    fn tolerance(&self, proofs: &mut Proofs) -> Result<(), BadSetting> {
        let Some(text) = &self.tolerance else { return Ok(()) };
        let stamps = proofs.0.iter_mut().filter_map(|rule| match rule {
            Rule::Hmac(HmacRule { stamp, .. }) => stamp.as_mut(),
            _ => None,
        });
        let mut stamps = stamps.peekable();
        if stamps.peek().is_none() {
            return Err(bad("tolerance", "has no meaning here, because no time is signed; leave it out"));
        }
        let range = Duration::from_secs(1)..=Settings::TOLERANCE_MAX;
        let tolerance = duration::parse(text).filter(|tolerance| range.contains(tolerance));
        let tolerance =
            tolerance.ok_or_else(|| bad("tolerance", format!("{text:?} is not a tolerance; write 1s to 24h, such as 5m")))?;
        stamps.for_each(|stamp| stamp.tolerance = tolerance);
        Ok(())
    }

    fn attributes(&self) -> Result<Vec<(String, Pick)>, BadSetting> {
        if self.attributes.len() > Settings::ATTRIBUTES_MAX {
            return Err(bad("attributes", format!("at most {}", Settings::ATTRIBUTES_MAX)));
        }
        let mut names = Attributes::default();
        let pick = |(name, text): &(String, String)| {
            names.push(name, String::new()).map_err(|wrong| bad("attributes", wrong))?;
            let pick = Pick::parse(text).map_err(|wrong| bad("attributes", format!("{name}: {wrong}")))?;
            Ok((name.clone(), pick))
        };
        self.attributes.iter().map(pick).collect()
    }

    fn methods(&self, preset: Preset) -> Result<Vec<String>, BadSetting> {
        if self.methods.is_empty() {
            return Ok(preset.methods().iter().map(|method| (*method).to_owned()).collect());
        }
        if self.methods.len() > Settings::METHODS.len() {
            return Err(bad("methods", format!("at most {}", Settings::METHODS.len())));
        }
        let mut methods = list("methods", &self.methods, |text| {
            let method = text.to_ascii_uppercase();
            let known = Settings::METHODS.contains(&method.as_str());
            let is_head = method == "HEAD";
            let why = if is_head {
                "requests create no event and are always answered with 200; leave it out"
            } else {
                "is not allowed; write GET, POST, PUT, PATCH or DELETE"
            };
            known.then_some(method).ok_or(why)
        })?;
        methods.sort();
        methods.dedup();
        Ok(methods)
    }

    fn content_types(&self) -> Result<Vec<String>, BadSetting> {
        list("content_types", &self.content_types, |text| {
            let plain = |c: u8| c.is_ascii_alphanumeric() || b"!#$&-^_.+*/".contains(&c);
            let fits = text.len() <= Settings::WORD_LEN_MAX && text.matches('/').count() == 1 && text.bytes().all(plain);
            fits.then(|| text.to_ascii_lowercase()).ok_or("is not a content type; write application/json or text/*")
        })
    }

    fn body_as(&self) -> Result<BodyAs, BadSetting> {
        let Some(text) = &self.body_as else { return Ok(BodyAs::Auto) };
        BodyAs::parse(text).ok_or_else(|| {
            bad("body_as", format!("{text:?} is not known; write one of {}", BodyAs::ALL.map(BodyAs::as_str).join(", ")))
        })
    }

    fn challenge(&self) -> Result<Option<Challenge>, BadSetting> {
        let Some(text) = &self.challenge else { return Ok(None) };
        Challenge::parse(text).map(Some).ok_or_else(|| {
            let text = format!(
                "{text:?} is not a place; write query:NAME, header:NAME or body:/POINTER, and =MEMBER after it if senders expect JSON, such \
                 as query:challenge or body:/challenge=challenge"
            );
            bad("challenge", text)
        })
    }

    fn answer(&self, preset: Preset) -> Result<Answer, BadSetting> {
        let status = self.answer_status.unwrap_or(200);
        if !(200..=299).contains(&status) {
            return Err(bad("answer_status", "must be 200 to 299, a success"));
        }
        let (body, content_type) = match (&self.answer_body, preset.answer()) {
            (None, Some((content_type, body))) => (Some(body.to_owned()), content_type),
            (Some(body), _) => (Some(body.clone()), "text/plain; charset=utf-8"),
            (None, None) => (None, "application/json"),
        };
        if body.as_ref().is_some_and(|body| body.len() > Settings::ANSWER_BYTES_MAX) {
            return Err(bad("answer_body", format!("must be at most {} bytes", Settings::ANSWER_BYTES_MAX)));
        }
        if self.answer_body.is_none() && self.answer_content_type.is_some() {
            return Err(bad("answer_content_type", "belongs to answer_body, which is missing; leave it out"));
        }
        let visible =
            |text: &String| text.bytes().all(|c| matches!(c, b' '..=b'~')) && (1..=Settings::WORD_LEN_MAX).contains(&text.len());
        if !self.answer_content_type.as_ref().is_none_or(visible) {
            return Err(bad("answer_content_type", "must be a content type of at most 128 plain characters"));
        }
        let content_type = self.answer_content_type.clone().unwrap_or_else(|| content_type.to_owned());
        Ok(Answer { status, body, content_type })
    }
}

/// Reads `header:NAME` or `body:/POINTER`.
fn place(text: &str) -> Option<Place> {
    match text.split_once(':')? {
        ("header", name) => header(name).ok().map(Place::Header),
        ("body", path) => Path::parse(path).map(Place::Body),
        _ => None,
    }
}

fn list<T, E: fmt::Display>(
    member: &'static str,
    items: &[String],
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, BadSetting> {
    if items.len() > Settings::LIST_MAX {
        return Err(bad(member, format!("at most {}", Settings::LIST_MAX)));
    }
    items.iter().map(|text| read(text.trim()).map_err(|wrong| bad(member, format!("{text:?} {wrong}")))).collect()
}

/// Reads the name of a header, in lower case.
fn header(name: &str) -> Result<String, &'static str> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&c);
    let fits = (1..=Settings::WORD_LEN_MAX).contains(&name.len()) && name.bytes().all(plain);
    fits.then(|| name.to_ascii_lowercase()).ok_or("is not the name of a header")
}

fn prefix_of_types(text: &str) -> Result<String, BadSetting> {
    let text = text.trim_end_matches('.');
    if text == "innesco" || text.starts_with("innesco.") {
        return Err(bad("type_prefix", "types that begin with innesco. are reserved for the engine; choose another"));
    }
    if !text.is_empty() {
        EventType::parse(text).map_err(|wrong| bad("type_prefix", wrong))?;
    }
    Ok(text.to_owned())
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(preset: &str) -> Draft {
        Draft { preset: preset.to_owned(), ..Draft::default() }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_preset_is_enough() {
        for preset in Preset::ALL.into_iter().filter(|preset| *preset != Preset::Hmac) {
            let settings = draft(preset.as_str()).settle().unwrap();
            assert_eq!((settings.preset, settings.proofs), (preset, preset.proofs()));
            assert_eq!(
                (settings.methods.as_slice(), settings.answer.status),
                (&*preset.methods().iter().map(|one| (*one).to_owned()).collect::<Vec<_>>(), 200)
            );
        }
    }

    #[test]
    fn a_signature_can_be_described() {
        let settings = Draft {
            header: some("X-Sig"),
            algorithm: some("sha512"),
            encoding: some("base64"),
            prefix: some("v1,"),
            template: some("{timestamp},{body}"),
            timestamp: some("header:X-Time"),
            tolerance: some("10m"),
            ..draft("hmac")
        };
        let proofs = settings.settle().unwrap().proofs;
        let Rule::Hmac(rule) = proofs.main().clone() else { panic!() };
        assert_eq!((rule.header().unwrap(), rule.algorithm, rule.encoding), ("x-sig", Algorithm::Sha512, Encoding::Base64));
        let stamp = Stamp { place: Place::Header("x-time".to_owned()), tolerance: Duration::from_secs(600) };
        assert_eq!((rule.prefix.as_str(), rule.stamp), ("v1,", Some(stamp)));
    }

    #[test]
    fn refuses_invalid_settings() {
        let hmac = || Draft { header: some("x-sig"), ..draft("hmac") };
        for (draft, member, said) in [
            (draft("gitbuh"), "preset", "did you mean \"github\"?"),
            (draft("hmac"), "header", "is missing"),
            (Draft { header: some("x"), ..draft("github") }, "header", "leave it out"),
            (Draft { header: some("x y"), ..draft("header-token") }, "header", "not the name of a header"),
            (Draft { template: some("{body}"), ..draft("stripe") }, "template", "belongs to preset \"hmac\""),
            (Draft { template: some("{timestamp}{body}"), ..hmac() }, "timestamp", "is missing"),
            (Draft { timestamp: some("header:x-t"), ..hmac() }, "template", "must sign {timestamp}"),
            (Draft { timestamp: some("list:t"), ..hmac() }, "timestamp", "beside a list_key"),
            (Draft { algorithm: some("md5"), ..hmac() }, "algorithm", "\"md5\""),
            (Draft { encoding: some("HEX"), ..hmac() }, "encoding", "\"HEX\""),
            (Draft { tolerance: some("5m"), ..draft("github") }, "tolerance", "no meaning"),
            (Draft { tolerance: some("2d"), ..draft("slack") }, "tolerance", "1s to 24h"),
            (Draft { username: some("a:b"), ..draft("basic") }, "username", "without a colon"),
            (Draft { username: some("a"), ..draft("bearer") }, "username", "belongs to preset \"basic\""),
            (Draft { type_from: some("type"), ..draft("none") }, "type_from", "is not a place"),
            (Draft { type_prefix: some("innesco"), ..draft("none") }, "type_prefix", "reserved for the engine"),
            (Draft { type_prefix: some("a b"), ..draft("none") }, "type_prefix", "is not an event type"),
            (Draft { dedupe: some("digest"), ..draft("bearer") }, "dedupe", "nothing is signed"),
            (Draft { dedupe: some("id"), ..draft("bearer") }, "dedupe", "digest or none"),
            (
                Draft { attributes: vec![("type".into(), "body:/a".into())], ..draft("none") },
                "attributes",
                "member of every event",
            ),
            (Draft { methods: vec!["TRACE".into()], ..draft("none") }, "methods", "\"TRACE\""),
            (Draft { methods: vec!["HEAD".into()], ..draft("none") }, "methods", "always answered"),
            (Draft { signature: some("x-sig"), ..draft("hmac") }, "signature", "header:NAME or body:/POINTER"),
            (Draft { signature: some("header:x-sig"), ..hmac() }, "signature", "leave one of them out"),
            (Draft { signature: some("header:x-sig"), ..draft("github") }, "signature", "belongs to preset \"hmac\""),
            (Draft { secret_encoding: some("rot13"), ..hmac() }, "secret_encoding", "text, base64 or hex"),
            (
                Draft { timestamp: some("body:/at"), template: some("{body:/token}"), ..hmac() },
                "template",
                "must sign {timestamp}",
            ),
            (Draft { challenge: some("challenge"), ..draft("none") }, "challenge", "query:NAME"),
            (Draft { challenge: some("query:"), ..draft("none") }, "challenge", "query:NAME"),
            (Draft { challenge: some("header:a b"), ..draft("none") }, "challenge", "query:NAME"),
            (Draft { challenge: some("body:challenge"), ..draft("none") }, "challenge", "body:/POINTER"),
            (Draft { challenge: some("query:a="), ..draft("none") }, "challenge", "=MEMBER"),
            (Draft { challenge: some("constant:a"), ..draft("none") }, "challenge", "query:NAME"),
            (Draft { methods: vec!["GET".into(); 6], ..draft("none") }, "methods", "at most 5"),
            (Draft { content_types: vec!["json".into()], ..draft("none") }, "content_types", "\"json\""),
            (Draft { body_as: some("yaml"), ..draft("none") }, "body_as", "\"yaml\" is not known; write one of auto, json, form"),
            (Draft { allow: vec!["10.0.0.0/33".into()], ..draft("none") }, "allow", "is not a network"),
            (Draft { headers: Some(vec!["a b".into()]), ..draft("none") }, "headers", "\"a b\""),
            (Draft { body_bytes_max: Some(0), ..draft("none") }, "body_bytes_max", "must be 1 to"),
            (Draft { rate: some("fast"), ..draft("none") }, "rate", "is not a rate"),
            (Draft { answer_status: Some(301), ..draft("none") }, "answer_status", "200 to 299"),
            (Draft { answer_content_type: some("a/b"), ..draft("none") }, "answer_content_type", "leave it out"),
        ] {
            let wrong = draft.settle().unwrap_err();
            assert_eq!(wrong.member, member, "{wrong}");
            assert!(wrong.detail.contains(said), "{wrong}");
        }
    }
}
