//! One message to one endpoint.

use serde::Serialize;

use crate::Result;

/// One message to one endpoint. Its body leaves byte for byte; the engine signs, sends and retries it.
///
/// The endpoint's address and secrets are the operator's business: a plugin only knows its name. A name that does not
/// exist ends the run as `bad-output`, and the run is driven again once the endpoint is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Webhook {
    /// The endpoint's name; `None` in a plugin that belongs to an endpoint.
    pub to: Option<String>,
    /// The event type that the receiver is told; the event's own when `None`.
    pub event_type: Option<String>,
    /// What `body` is.
    pub content_type: String,
    /// What is sent, byte for byte.
    pub body: Vec<u8>,
    /// Headers beside the engine's own.
    pub headers: Vec<(String, String)>,
    /// Whatever later versions of the engine understand; none today.
    pub attributes: Vec<(String, String)>,
}

impl Webhook {
    /// A webhook to the endpoint of this name, with an empty body until one is given.
    pub fn to(endpoint: impl Into<String>) -> Self {
        Self { to: Some(endpoint.into()), ..Self::onward() }
    }

    /// A webhook onward to the endpoint that names this plugin as its own: the event is on its way there, and passes
    /// through. Such a plugin can send nowhere else.
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
    /// `bad-payload` for what JSON cannot say, such as a map whose keys are not text. `json!({…})` never fails.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(self.body("application/json", serde_json::to_vec(value)?))
    }

    /// Sets the body to these bytes.
    pub fn body(mut self, content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.content_type = content_type.into();
        self.body = bytes.into();
        self
    }

    /// Adds a header. Not those that are the engine's or the endpoint's: `authorization`, `cookie`, `host`, `content-*`,
    /// the signature, and what concerns the connection.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Tells the receiver another event type than the event's own.
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
    fn a_webhook_says_what_it_was_told() {
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
    fn what_json_cannot_say_is_an_error() {
        let unsayable = std::collections::HashMap::from([(vec![1], "a list is no key")]);
        assert_eq!(Webhook::to("crm").json(&unsayable).unwrap_err().code, "bad-payload");
    }
}
