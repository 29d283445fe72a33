//! The endpoint's settings that an attempt used. The rest of the request follows from the event, the plugin's payload and the
//! attempt's time. So a store needs to record only these settings to show a request as it was sent.
//!
//! A record must never contain a secret. The endpoint's owner may see the URL; the code that shows the URL decides who else may.

use super::{
    endpoint::Endpoint,
    envelope::{Envelope, Format},
    signature::Scheme,
};

/// The endpoint's settings that an attempt used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentAs {
    pub url: String,
    pub scheme: Scheme,
    /// The header of [`Scheme::Token`], if it is not the default header.
    pub token_header: Option<String>,
    pub envelope: Envelope,
    pub format: Format,
    /// The endpoint's headers: names in lower case, and [`MASKED`] for a value that may be a credential.
    pub headers: Vec<(String, String)>,
}

/// Stands for a secret in a request that is shown.
pub const MASKED: &str = "***";

impl SentAs {
    pub fn of(endpoint: &Endpoint) -> Self {
        let new = &endpoint.new;
        let shown = |(name, value): &(String, String)| {
            (name.clone(), if header_may_be_shown(name) { value.clone() } else { MASKED.to_owned() })
        };
        Self {
            url: new.url.clone(),
            scheme: new.scheme,
            token_header: new.policy.token_header.clone(),
            envelope: new.policy.envelope,
            format: new.policy.format,
            headers: new.policy.headers.iter().map(shown).collect(),
        }
    }
}

/// Returns whether the value of an endpoint's header is certainly not a credential.
pub fn header_may_be_shown(name: &str) -> bool {
    ["accept", "accept-language", "x-source", "x-environment"].contains(&name)
}
