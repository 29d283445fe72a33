//! Reads and writes the columns of sources, which are the same in both stores. The token that makes an address unguessable is
//! sealed together with the secrets.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Error, Seal,
    columns::{Place, json, json_column},
};
use crate::domain::{
    endpoint::HeldSecret,
    id::SourceId,
    name::Slug,
    signature::Secret,
    source::{Draft, FormerToken, NewSource, Refused, Requests, Source, Token},
    time::Timestamp,
};

/// The column `draft`. A missing member has the preset's value.
#[derive(Default, Serialize, Deserialize)]
#[serde(remote = "Draft", default)]
struct DraftColumn {
    preset: String,
    header: Option<String>,
    signature: Option<String>,
    secret_encoding: Option<String>,
    algorithm: Option<String>,
    encoding: Option<String>,
    prefix: Option<String>,
    template: Option<String>,
    list_key: Option<String>,
    timestamp: Option<String>,
    tolerance: Option<String>,
    username: Option<String>,
    challenge: Option<String>,
    type_from: Option<String>,
    type_prefix: Option<String>,
    dedupe: Option<String>,
    attributes: Vec<(String, String)>,
    methods: Vec<String>,
    content_types: Vec<String>,
    body_as: Option<String>,
    allow: Vec<String>,
    headers: Option<Vec<String>>,
    body_bytes_max: Option<u64>,
    rate: Option<String>,
    answer_status: Option<u16>,
    answer_body: Option<String>,
    answer_content_type: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Drafted(#[serde(with = "DraftColumn")] Draft);

/// The column `sealed`, decrypted.
#[derive(Serialize, Deserialize)]
struct SealedColumn {
    token: String,
    /// Each secret with the end of its grace period in ms.
    secrets: Vec<(String, Option<i64>)>,
    /// Earlier tokens, each with the end of its grace period in ms.
    #[serde(default)]
    former: Vec<(String, i64)>,
    #[serde(default)]
    verify_token: Option<String>,
}

/// Returns the context that a source's secrets are bound to.
pub fn seal_context(name: &str) -> String {
    format!("source {name}")
}

pub fn sealed(source: &NewSource, seal: &Seal) -> Result<Vec<u8>, Error> {
    let secret = |held: &HeldSecret| (held.secret.reveal(), held.until.map(Timestamp::millis));
    let former = |former: &FormerToken| (former.token.as_str().to_owned(), former.until.millis());
    let column = SealedColumn {
        token: source.token.as_str().to_owned(),
        secrets: source.secrets.iter().map(secret).collect(),
        former: source.former.iter().map(former).collect(),
        verify_token: source.verify_token.as_ref().map(Secret::reveal),
    };
    let text = Zeroizing::new(json(&column));
    Ok(seal.seal(&seal_context(&source.name), text.as_bytes())?)
}

/// Returns the column `draft` of a source.
pub fn draft(source: &NewSource) -> String {
    json(&Drafted(source.draft.clone()))
}

/// The column `requests`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct RequestsColumn {
    accepted: u64,
    duplicates: u64,
    refused: u64,
    /// Wall clock, ms.
    last_accepted: Option<i64>,
    /// Each refusal with its time in milliseconds, the caller's address, the reason and the detail.
    refusals: Vec<(i64, IpAddr, String, String)>,
}

pub fn requests(requests: &Requests) -> String {
    let refusal = |one: &Refused| (one.at.millis(), one.address, one.reason.to_string(), one.detail.clone());
    json(&RequestsColumn {
        accepted: requests.accepted,
        duplicates: requests.duplicates,
        refused: requests.refused,
        last_accepted: requests.last_accepted.map(Timestamp::millis),
        refusals: requests.refusals.iter().map(refusal).collect(),
    })
}

/// Reads the column `requests` of the source with this id.
pub fn read_requests(id: i64, text: &str) -> Result<Requests, Error> {
    let column: RequestsColumn = json_column(&Place { table: "source", id }, "requests", text)?;
    let refusal = |(at, address, reason, detail): (i64, IpAddr, String, String)| Refused {
        at: Timestamp::from_millis(at),
        address,
        reason: reason.into(),
        detail,
    };
    Ok(Requests {
        accepted: column.accepted,
        duplicates: column.duplicates,
        refused: column.refused,
        last_accepted: column.last_accepted.map(Timestamp::from_millis),
        refusals: column.refusals.into_iter().map(refusal).collect(),
    })
}

/// Returns the column `requests` with `more` added.
pub fn more_requests(id: i64, stored: &str, more: Requests) -> Result<String, Error> {
    let mut all = read_requests(id, stored)?;
    all.add(more);
    Ok(requests(&all))
}

/// A source's row, with its secrets still sealed.
pub struct StoredSource {
    pub id: i64,
    pub name: String,
    pub title: Option<String>,
    pub draft: String,
    pub created_at: i64,
    pub sealed: Vec<u8>,
}

impl StoredSource {
    /// Returns the source. One of `seals` must open its secrets.
    pub fn read(self, seals: &[Arc<Seal>]) -> Result<Source, Error> {
        let place = Place { table: "source", id: self.id };
        let name = Slug::parse(&self.name).map_err(|_| place.corrupt("name"))?;
        let Drafted(draft) = json_column(&place, "draft", &self.draft)?;
        let settings = draft.settle().map_err(|_| place.corrupt("draft"))?;
        let context = seal_context(&name);
        let opened = seals.iter().find_map(|seal| seal.open(&context, &self.sealed)).ok_or_else(|| place.corrupt("sealed"))?;
        let SealedColumn { token: of_now, secrets, former, verify_token } =
            serde_json::from_slice(&opened).map_err(|_| place.corrupt("sealed"))?;
        let token = |text: &str| Token::parse(text).ok_or_else(|| place.corrupt("sealed"));
        let held = |(secret, until): (String, Option<i64>)| HeldSecret {
            secret: Secret::Text(secret),
            until: until.map(Timestamp::from_millis),
        };
        Ok(Source {
            id: SourceId::from_i64(place.id),
            created_at: Timestamp::from_millis(self.created_at),
            new: NewSource {
                name,
                title: self.title,
                token: token(&of_now)?,
                former: former
                    .into_iter()
                    .map(|(text, until)| Ok(FormerToken { token: token(&text)?, until: Timestamp::from_millis(until) }))
                    .collect::<Result<_, Error>>()?,
                draft,
                settings,
                secrets: secrets.into_iter().map(held).collect(),
                verify_token: verify_token.map(Secret::Text),
            },
        })
    }
}
