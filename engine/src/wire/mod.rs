//! The types of the API's answers in JSON. The handlers write these types and the commands read them, so the compiler finds a
//! renamed member on both sides. Conversions from the store's records are beside the handlers in `api/`.
//!
//! A reader may be older or newer than the engine:
//!
//! - **Unknown members are ignored.** A newer engine may add members. Words ([`Word`]) may be new, too: a reader shows them as
//!   they are.
//! - **A missing member is an error**, unless it may be `null`: then it reads as `null`. An engine never removes or renames a
//!   member of `/v1`, so a missing member means that the other side is not an engine, or is older than the reader.
//!
//! Bodies of requests are not here. Commands send only what the user typed, and the handlers refuse unknown members with a
//! problem that names them.

mod audit;
mod comparison;
mod delivery;
mod endpoint;
mod event;
mod job;
mod key;
mod node;
mod plugin;
mod run;
mod source;
mod stats;
mod stream;
pub mod values;
mod why;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{
    audit::AuditView,
    comparison::{ChangeView, ComparisonView, CostView, PercentilesView, ReportView, SampleView},
    delivery::{
        AttemptResultView, AttemptView, BodyView, DeliveryStoryView, DeliveryView, EndReason, LastView, RequestHeadView,
        SentRequestView, TestSend,
    },
    endpoint::{BreakerView, CertificateView, ConditionView, DISABLED, ENDPOINT_STATES, EndpointView, SubscriptionView},
    event::{
        AcceptedAll, AcceptedView, CancelledView, ChainView, DataView, DeliveryPartsView, EventStoryView, EventView,
        MatchSampleView, MatchedType, MatchesView, PartsView, Replayed, RequestView, RunPartsView, ScheduledView,
    },
    job::{CountView, JobView, RetryFilterView},
    key::KeyView,
    node::{NodePluginView, NodeView},
    plugin::{
        ClearedStateView, ConfigRevisionView, DeletedStateView, PluginConfigView, PluginState, PluginVersionView, PluginView,
        SettingProblemView, SettingView, StateKeyView, StateSizeView, StateValueView,
    },
    run::{LogView, RecordedEventView, RecordedStateView, RunLimitsView, RunRecordView, RunStoryView, RunView},
    source::{RefusalView, SourceView},
    stats::{BucketView, CountsView, StatsView},
    stream::StreamView,
    why::{WhyStepView, WhyView},
};

/// A word of a fixed list, such as a state. A reader keeps a word that it does not know.
pub type Word = Cow<'static, str>;

/// One page of a list.
#[derive(Deserialize, Serialize, ToSchema)]
#[schema(as = Page)]
pub struct PageView<T> {
    pub items: Vec<T>,
    /// Send this as `cursor` for the next page. A page can have fewer items than `limit` and still have a next page.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run() -> serde_json::Value {
        json!({
            "id": "run_k7q22a9", "event": "evt_k7q22a9", "type": "order.created", "plugin": "router", "version": null, "endpoint": null, "round": 0, "state": "done", "outcome": "ok",
            "code": null, "message": null, "tries": 1, "due": null, "duration_ms": 1, "memory_bytes": 0, "webhooks": 1, "events": 0,
            "settings_revision": 0, "log": [], "log_dropped": 0,
        })
    }

    #[test]
    fn unknown_members_and_words_of_a_newer_engine_are_accepted() {
        let mut newer = run();
        newer["cost"] = json!({ "fuel": 7 });
        newer["state"] = json!("postponed");
        let read: RunView = serde_json::from_value(newer).unwrap();
        assert_eq!((read.state.as_ref(), read.webhooks), ("postponed", 1));
    }

    #[test]
    fn a_missing_member_is_an_error_unless_it_may_be_null() {
        let without = |name: &str| {
            let mut run = run();
            run.as_object_mut().unwrap().remove(name).unwrap();
            serde_json::from_value::<RunView>(run).map(|run| run.code).map_err(|error| error.to_string())
        };
        assert_eq!(without("code"), Ok(None));
        assert_eq!(without("webhooks"), Err("missing field `webhooks`".to_owned()));
    }

    #[test]
    fn data_is_read_in_each_of_its_forms() {
        for (data, expected) in [
            (r#"{"data":{"a":[1,"b"]}}"#, Some(r#"{"a":[1,"b"]}"#)),
            (r#"{"data_base64":"AAE="}"#, None),
            (r#"{"newer":1}"#, Some("null")),
        ] {
            match (serde_json::from_str(data).unwrap(), expected) {
                (DataView::Json(json), Some(expected)) => assert_eq!(json.get(), expected),
                (DataView::Base64(text), None) => assert_eq!(text, "AAE="),
                _ => panic!("{data}"),
            }
        }
    }
}
