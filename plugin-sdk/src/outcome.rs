//! The result of a run.

use crate::{Emit, Webhook};

/// The result of a run: webhooks, new events, or nothing. It takes effect as a whole, or not at all.
///
/// Return one webhook as `Ok(webhook.into())`, several as `Ok(webhooks.collect())`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub(crate) webhooks: Vec<Webhook>,
    pub(crate) events: Vec<Emit>,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Outcome {
    /// Returns an empty outcome: this plugin does nothing for the event.
    pub fn none() -> Self {
        Self::default()
    }

    /// Creates an empty outcome to add to.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a webhook.
    pub fn webhook(mut self, webhook: Webhook) -> Self {
        self.webhooks.push(webhook);
        self
    }

    /// Adds a new event.
    pub fn emit(mut self, event: Emit) -> Self {
        self.events.push(event);
        self
    }

    /// Adds an attribute for later versions of the engine. This version uses none.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Returns the webhooks.
    pub fn webhooks(&self) -> &[Webhook] {
        &self.webhooks
    }

    /// Returns the new events.
    pub fn events(&self) -> &[Emit] {
        &self.events
    }

    /// Returns whether the outcome is empty.
    pub fn is_none(&self) -> bool {
        self.webhooks.is_empty() && self.events.is_empty() && self.attributes.is_empty()
    }
}

impl From<Webhook> for Outcome {
    fn from(webhook: Webhook) -> Self {
        Self::new().webhook(webhook)
    }
}

impl From<Emit> for Outcome {
    fn from(event: Emit) -> Self {
        Self::new().emit(event)
    }
}

impl From<Vec<Webhook>> for Outcome {
    fn from(webhooks: Vec<Webhook>) -> Self {
        Self { webhooks, ..Self::default() }
    }
}

impl FromIterator<Webhook> for Outcome {
    fn from_iter<I: IntoIterator<Item = Webhook>>(webhooks: I) -> Self {
        Vec::from_iter(webhooks).into()
    }
}

impl FromIterator<Emit> for Outcome {
    fn from_iter<I: IntoIterator<Item = Emit>>(events: I) -> Self {
        Self { events: events.into_iter().collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_outcomes_from_webhooks_and_events() {
        let both = Outcome::new().webhook(Webhook::to("a")).emit(Emit::new("b"));
        assert_eq!((both.webhooks().len(), both.events().len()), (1, 1));
        assert_eq!(Outcome::from(Webhook::to("a")), ["a"].map(Webhook::to).into_iter().collect());
        assert_eq!(Outcome::from(Emit::new("b")), ["b"].map(Emit::new).into_iter().collect());
        assert_eq!(Outcome::from(vec![Webhook::to("a"), Webhook::to("b")]).webhooks().len(), 2);
        assert!(Outcome::none().is_none() && !both.is_none());
    }
}
