//! Sources and the requests that they refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    id::SourceId,
    name::Slug,
    source::{Algorithm, BodyAs, Encoding, KeyEncoding as SecretEncoding, Preset},
    time::Timestamp,
};

/// A source: an inbound address for third parties.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Source)]
pub struct SourceView {
    #[schema(value_type = SourceId)]
    pub id: String,
    #[schema(value_type = Slug)]
    pub name: String,
    pub title: Option<String>,
    #[schema(value_type = Preset)]
    pub preset: Word,
    /// Path of the source's address. With the preset `none`, the path is the only secret. `null` for a key of the role `read`.
    pub path: Option<String>,
    /// The complete address, if `external_url` is set.
    pub url: Option<String>,
    /// Warnings about a weak configuration.
    pub warning: Option<String>,
    /// Where the source looks for signatures or credentials: `header:NAME` or `body:/POINTER`. If a request has several of these,
    /// the first one in this list decides. Empty if the source verifies no requests.
    pub proofs: Vec<String>,
    /// Header of the first proof.
    pub header: Option<String>,
    #[schema(value_type = Option<Algorithm>)]
    pub algorithm: Option<Word>,
    #[schema(value_type = Option<Encoding>)]
    pub encoding: Option<Word>,
    pub prefix: Option<String>,
    /// Template of the signed text.
    pub template: Option<String>,
    pub list_key: Option<String>,
    pub timestamp: Option<String>,
    /// Maximum difference between the signed time and now.
    pub tolerance: Option<String>,
    pub username: Option<String>,
    /// Where the signature is, if it is not in a header.
    pub signature: Option<String>,
    /// Encoding of the key in the secret.
    #[schema(value_type = Option<SecretEncoding>)]
    pub secret_encoding: Option<Word>,
    /// Place of the text that the engine sends back when senders verify the address.
    pub challenge: Option<String>,
    /// Whether the source has a verify token. If so, it answers hubs that send this token.
    pub has_verify_token: bool,
    /// Where a request has the event type.
    pub type_from: Option<String>,
    /// Prefix of the event type.
    pub type_prefix: String,
    /// Where a request has the id that identifies duplicates.
    pub dedupe: String,
    pub attributes: BTreeMap<String, String>,
    pub methods: Vec<String>,
    /// Allowed content types; `[]`: all.
    pub content_types: Vec<String>,
    /// Format of bodies.
    #[schema(value_type = BodyAs)]
    pub body_as: Word,
    /// Networks from which requests are allowed; `[]`: all.
    pub allow: Vec<String>,
    /// Headers that are stored with the request; `null`: all headers except credentials.
    pub headers: Option<Vec<String>>,
    pub body_bytes_max: Option<u64>,
    pub rate: Option<String>,
    pub answer_status: u16,
    /// Body of the answer; `null`: the event's id.
    pub answer_body: Option<String>,
    pub answer_content_type: String,
    /// Number of valid secrets, including those in their grace period.
    pub secrets: usize,
    /// Number of valid addresses, including those in their grace period.
    pub addresses: usize,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// Number of accepted requests since the source was created, including duplicates.
    pub accepted: u64,
    #[schema(value_type = Option<Timestamp>)]
    pub last_accepted_at: Option<String>,
    /// Number of accepted requests whose event was already known.
    pub duplicates: u64,
    /// Number of refused requests since the source was created.
    pub refused: u64,
    /// The last refused requests, newest first.
    pub refusals: Vec<RefusalView>,
    /// Only in the answer to a request that creates or rotates the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub secret: Option<String>,
}

/// A request that a source refused.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Refusal)]
pub struct RefusalView {
    #[schema(value_type = Timestamp)]
    pub at: String,
    /// Address of the sender.
    pub address: String,
    /// Reason, for programs.
    #[schema(value_type = String)]
    pub reason: Word,
    /// Reason, for people.
    pub detail: String,
}
