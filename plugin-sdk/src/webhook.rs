//! A webhook that a plugin returns.

use serde::Serialize;

use crate::Result;

/// One message to one endpoint. The engine signs and sends the body byte for byte, with retries.
///
/// A plugin knows only the endpoint's name; the operator sets its address and secrets. If no endpoint of this name ever existed,
/// the run ends as `bad-output`, and is repeated once the endpoint is created. If the endpoint was deleted, the webhook is
/// cancelled and the rest of the run takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Webhook {
    /// Name of the endpoint; `None` if the plugin belongs to an endpoint.
    pub to: Option<String>,
    /// Event type for the receiver, in the header `innesco-type`; `None` means the event's own type.
    pub event_type: Option<String>,
    /// Content type of `body`.
    pub content_type: String,
    /// The message, byte for byte.
    pub body: Vec<u8>,
    /// Headers in addition to the engine's.
    pub headers: Vec<(String, String)>,
    /// Attributes for later versions of the engine. This version uses none.
    pub attributes: Vec<(String, String)>,
}

impl Webhook {
    /// Creates a webhook to this endpoint, with an empty body.
    pub fn to(endpoint: impl Into<String>) -> Self {
        Self { to: Some(endpoint.into()), ..Self::onward() }
    }

    /// Creates a webhook to the endpoint to which this plugin belongs. Such a plugin transforms the events on their way to its endpoint,
    /// and cannot send to another endpoint.
    pub fn onward() -> Self {
        Self {
            to: None,
            event_type: None,
            content_type: "application/octet-stream".to_owned(),
            body: Vec::new(),
            headers: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// Sets the body to this value as JSON.
    ///
    /// # Errors
    ///
    /// `bad-payload` if JSON cannot represent the value, such as a map whose keys are not text. `json!({…})` never fails.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(self.body("application/json", serde_json::to_vec(value)?))
    }

    /// Sets the body to these bytes.
    pub fn body(mut self, content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.content_type = content_type.into();
        self.body = bytes.into();
        self
    }

    /// Adds a header. Headers of the engine, the endpoint or the connection are not allowed: `authorization`, `cookie`, `host`,
    /// `content-*`, `innesco-*`, the signature.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the event type for the receiver. It is sent as the header `innesco-type`, and does not change the body.
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = Some(event_type.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_webhook_holds_its_parts() {
        let webhook = Webhook::to("crm")
            .json(&json!({ "id": 7 }))
            .unwrap()
            .header("x-tenant", "acme")
            .header("x-tenant", "again")
            .event_type("contact.updated");
        assert_eq!(webhook.to.as_deref(), Some("crm"));
        assert_eq!(webhook.event_type.as_deref(), Some("contact.updated"));
        assert_eq!((webhook.content_type.as_str(), webhook.body.as_slice()), ("application/json", br#"{"id":7}"#.as_slice()));
        assert_eq!(webhook.headers.len(), 2);
    }

    #[test]
    fn onward_names_no_endpoint() {
        assert_eq!(Webhook::onward().body("text/plain", "hello").to, None);
    }

    #[test]
    fn json_fails_for_a_value_that_json_cannot_represent() {
        let unsayable = std::collections::HashMap::from([(vec![1], "a list is not a key")]);
        assert_eq!(Webhook::to("crm").json(&unsayable).unwrap_err().code, "bad-payload");
    }
}
