//! Sources and what they refused.

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

/// An address for third parties.
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
    /// Where its senders send to. With preset `none` the path is all the proof that it asks for. `null` for a key of the role `read`.
    pub path: Option<String>,
    /// The same with what stands before it, where `external_url` says so.
    pub url: Option<String>,
    /// What to mind.
    pub warning: Option<String>,
    /// The header that carries the signature or the token.
    pub header: Option<String>,
    #[schema(value_type = Option<Algorithm>)]
    pub algorithm: Option<Word>,
    #[schema(value_type = Option<Encoding>)]
    pub encoding: Option<Word>,
    pub prefix: Option<String>,
    /// What is signed.
    pub template: Option<String>,
    pub list_key: Option<String>,
    pub timestamp: Option<String>,
    /// How far a signed time may be from now.
    pub tolerance: Option<String>,
    pub username: Option<String>,
    /// Where the signature stands, if that is not a header.
    pub signature: Option<String>,
    /// How the secret becomes the key.
    #[schema(value_type = Option<SecretEncoding>)]
    pub secret_encoding: Option<Word>,
    /// The parameter whose value is repeated to senders that ask for it.
    pub challenge: Option<String>,
    /// Whether hubs with the right token are answered.
    pub has_verify_token: bool,
    /// Where the kind of event stands.
    pub type_from: Option<String>,
    /// What stands before it in the event's type.
    pub type_prefix: String,
    /// By what a repeat is known.
    pub dedupe: String,
    pub attributes: BTreeMap<String, String>,
    pub methods: Vec<String>,
    /// `[]`: all.
    pub content_types: Vec<String>,
    /// What bodies are read as.
    #[schema(value_type = BodyAs)]
    pub body_as: Word,
    /// `[]`: from anywhere.
    pub allow: Vec<String>,
    /// Which headers are kept; `null`: all but credentials.
    pub headers: Option<Vec<String>>,
    pub body_bytes_max: Option<u64>,
    pub rate: Option<String>,
    pub answer_status: u16,
    /// `null`: the event's id.
    pub answer_body: Option<String>,
    pub answer_content_type: String,
    /// How many secrets are known to it, those in their grace included.
    pub secrets: usize,
    /// How many addresses are taken, those in their grace included.
    pub addresses: usize,
    #[schema(value_type = Timestamp)]
    pub created_at: String,
    /// Since the engine started.
    pub accepted: u64,
    #[schema(value_type = Option<Timestamp>)]
    pub last_accepted_at: Option<String>,
    /// Since the engine started.
    pub refused: u64,
    /// The last of them, newest first.
    pub refusals: Vec<RefusalView>,
    /// Only in the reply that creates or rotates it.
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
    /// Who sent it.
    pub address: String,
    /// Why, for programs.
    #[schema(value_type = String)]
    pub reason: Word,
    /// Why, in words.
    pub detail: String,
}
