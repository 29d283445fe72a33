//! Why an endpoint did or did not receive an event.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Word;
use crate::domain::{
    id::{DeliveryId, EventId, RunId},
    time::Timestamp,
    why::{Link, Verdict},
};

/// The link that decided whether an event reached an endpoint.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Why)]
pub struct WhyView {
    #[schema(value_type = EventId)]
    pub event: String,
    /// The endpoint, as the request named it.
    pub endpoint: String,
    #[schema(value_type = Verdict)]
    pub verdict: Word,
    #[schema(value_type = Link)]
    pub link: Word,
    /// What happened at this link.
    pub reason: String,
    /// When the event was delivered, when its way ended, or when it continues.
    #[schema(value_type = Option<Timestamp>)]
    pub at: Option<String>,
    /// What would change the result. `null`: nothing has to be done.
    pub change: Option<String>,
    /// Commands that change the result, in the order in which to run them. Words in capitals are placeholders for your values.
    pub commands: Vec<String>,
    /// The run that decided, or the run that requested the webhook.
    #[schema(value_type = Option<RunId>)]
    pub run: Option<String>,
    #[schema(value_type = Option<DeliveryId>)]
    pub delivery: Option<String>,
    /// The links that were checked, in their order. Both ways to an endpoint are checked: its subscription, and the webhooks of
    /// plugins.
    pub chain: Vec<WhyStepView>,
}

/// One link of the chain from an event to an endpoint.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = WhyStep)]
pub struct WhyStepView {
    #[schema(value_type = Link)]
    pub link: Word,
    /// `waiting` or `stopped`; `null` if the event passed this link.
    #[schema(value_type = Option<Verdict>)]
    pub stopped: Option<Word>,
    /// What was found at this link.
    pub found: String,
}
