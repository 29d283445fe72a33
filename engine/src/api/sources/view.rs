//! A source as the API shows it, with warnings about settings that make it weaker than its owner may think.

use crate::{
    api::{Api, access::Sight, body, error::Problem, sources::input::too_large},
    clock,
    domain::{
        duration,
        source::{HmacRule, Refused, Requests, Rule, Settings, Source, Stamp},
    },
    wire::{RefusalView, SourceView},
};

const ANYONE: &str =
    "senders prove nothing: anyone who knows the address can send. Choose a preset with a secret if its senders support one";

const BODY_IS_NOT_SIGNED: &str =
    "the signature does not cover the body: it proves that the sender made the token, not that the body is unchanged";

/// Returns warnings about settings that make a source weaker than its owner may think, or that refuse large bodies. `limit` is
/// the engine's `limits.body_bytes_max`.
fn warning(settings: &Settings, limit: usize) -> Option<String> {
    let mut all = Vec::new();
    match settings.proofs.main() {
        Rule::Nothing => all.push(ANYONE.to_owned()),
        Rule::Hmac(rule) if !rule.template.has_body() => all.push(BODY_IS_NOT_SIGNED.to_owned()),
        _ => {}
    }
    if let Some(bytes) = too_large(settings, limit) {
        all.push(format!(
            "body_bytes_max is {bytes}, but limits.body_bytes_max is {limit} and applies; raise limits.body_bytes_max"
        ));
    }
    let engine = limit.min(body::SOURCE_BODY_BYTES_MAX) as u64;
    let applies = settings.body_bytes_max.unwrap_or(u64::MAX).min(engine);
    if let Some(sent) = settings.preset.body_bytes_sent().filter(|sent| *sent > applies) {
        let name = settings.preset.as_str();
        let low = if applies < engine { "this source's body_bytes_max" } else { "limits.body_bytes_max" };
        all.push(format!("{name} sends bodies of up to {sent} bytes; those above {applies} are refused. Raise {low}"));
    }
    (!all.is_empty()).then(|| all.join(". "))
}

impl SourceView {
    /// Returns the view of one source.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn new(api: &Api, source: &Source, sight: Sight) -> Result<Self, Problem> {
        let mut requests = api.inbound.watches.requests(&*api.store).await?;
        Ok(Self::with(api, source, requests.remove(&source.id).unwrap_or_default(), sight))
    }

    pub fn with(api: &Api, source: &Source, requests: Requests, sight: Sight) -> Self {
        let shows_address = sight == Sight::Whole;
        let (new, settings) = (&source.new, &source.new.settings);
        let hmac = match settings.proofs.main() {
            Rule::Hmac(rule) => Some(rule),
            _ => None,
        };
        let stamp = hmac.and_then(|rule| rule.stamp.as_ref());
        let username = match settings.proofs.main() {
            Rule::Basic { username } => Some(username.clone()),
            _ => None,
        };
        let refusal = |refused: Refused| RefusalView {
            at: refused.at.to_string(),
            address: refused.address.to_string(),
            reason: refused.reason.into_owned().into(),
            detail: refused.detail,
        };
        Self {
            id: source.id.text(api.store.tag()),
            name: new.name.to_string(),
            title: new.title.clone(),
            preset: settings.preset.as_str().into(),
            path: shows_address.then(|| format!("/in/{}", source.address())),
            url: api.inbound.url(source).filter(|_| shows_address),
            warning: warning(settings, api.body_bytes_max),
            proofs: settings.proofs.places(),
            header: settings.proofs.main().headers().first().map(|name| (*name).to_owned()),
            algorithm: hmac.map(|rule| rule.algorithm.as_str().into()),
            encoding: hmac.map(|rule| rule.encoding.as_str().into()),
            prefix: hmac.map(|rule| rule.prefix.clone()),
            template: hmac.map(|rule: &HmacRule| rule.template.to_string()),
            list_key: hmac.and_then(|rule| rule.list_key.clone()),
            timestamp: stamp.map(|stamp: &Stamp| stamp.place.to_string()),
            tolerance: stamp.map(|stamp| duration::write(stamp.tolerance)),
            username,
            signature: hmac.filter(|rule| rule.header().is_none()).map(|rule| rule.place.to_string()),
            secret_encoding: hmac.map(|rule| rule.key.as_str().into()),
            challenge: settings.challenge.as_ref().map(ToString::to_string),
            has_verify_token: new.verify_token.is_some(),
            type_from: settings.type_from.as_ref().map(ToString::to_string),
            type_prefix: settings.type_prefix.clone().unwrap_or_else(|| new.name.to_string()),
            dedupe: settings.dedupe.to_string(),
            attributes: settings.attributes.iter().map(|(name, pick)| (name.clone(), pick.to_string())).collect(),
            methods: settings.methods.clone(),
            content_types: settings.content_types.clone(),
            body_as: settings.body_as.as_str().into(),
            allow: settings.allow.iter().map(ToString::to_string).collect(),
            headers: settings.headers.clone(),
            body_bytes_max: settings.body_bytes_max,
            rate: settings.rate.map(|rate| rate.to_string()),
            answer_status: settings.answer.status,
            answer_body: settings.answer.body.clone(),
            answer_content_type: settings.answer.content_type.clone(),
            secrets: new.secrets.len(),
            addresses: source.addresses().filter(|(_, until)| until.is_none_or(|until| clock::steady() < until)).count(),
            created_at: source.created_at.to_string(),
            accepted: requests.accepted,
            last_accepted_at: requests.last_accepted.map(|at| at.to_string()),
            duplicates: requests.duplicates,
            refused: requests.refused,
            refusals: requests.refusals.into_iter().map(refusal).collect(),
            secret: None,
        }
    }

    /// Returns the view with the secret, for the one answer that may contain it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn revealing(api: &Api, source: &Source) -> Result<Self, Problem> {
        let secret = source.new.secrets.first().map(|held| held.secret.reveal());
        Ok(Self { secret, ..Self::new(api, source, Sight::Whole).await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::source::Draft;

    const MIB: usize = 1 << 20;

    /// A source whose sender may send more than the limit shows a warning that names the limit to raise.
    #[test]
    fn a_source_warns_of_bodies_that_are_too_large_for_it() {
        let raise = |sent: usize, applies: usize, name: &str, low: &str| {
            format!("{name} sends bodies of up to {sent} bytes; those above {applies} are refused. Raise {low}")
        };
        let engine = "limits.body_bytes_max";
        for (preset, own, limit, expected) in [
            ("github", None, 8 * MIB, Some(raise(25 * MIB, 8 * MIB, "github", engine))),
            ("github", None, 25 * MIB, None),
            ("github", None, 1 << 40, None),
            ("github", Some(MIB), 64 * MIB, Some(raise(25 * MIB, MIB, "github", "this source's body_bytes_max"))),
            ("github", Some(25 * MIB), 64 * MIB, None),
            ("gitlab", None, 8 * MIB, Some(raise(25 * MIB, 8 * MIB, "gitlab", engine))),
            ("gitlab", None, 25 * MIB, None),
            ("slack", None, MIB, None),
            ("stripe", Some(4 * MIB), 8 * MIB, None),
            (
                "stripe",
                Some(10 * MIB),
                8 * MIB,
                Some(format!(
                    "body_bytes_max is {}, but {engine} is {} and applies; raise limits.body_bytes_max",
                    10 * MIB,
                    8 * MIB
                )),
            ),
        ] {
            let draft = Draft { preset: preset.to_owned(), body_bytes_max: own.map(|bytes| bytes as u64), ..Draft::default() };
            assert_eq!(warning(&draft.settle().unwrap(), limit), expected, "{preset}, {own:?} of {limit}");
        }
    }

    #[test]
    fn a_source_warns_of_missing_proofs() {
        for (preset, said) in [
            ("none", Some("senders prove nothing")),
            ("strava", Some("senders prove nothing")),
            ("mailgun", Some("the signature does not cover the body")),
            ("linear", None),
            ("twilio", None),
            ("bearer", None),
        ] {
            let draft = Draft { preset: preset.to_owned(), ..Draft::default() };
            let warned = warning(&draft.settle().unwrap(), 8 * MIB);
            assert_eq!(warned.is_some(), said.is_some(), "{preset}");
            assert!(warned.unwrap_or_default().starts_with(said.unwrap_or_default()), "{preset}");
        }
    }
}
