//! What a run asks for.

use crate::{Emit, Webhook};

/// What a run asks for: webhooks, new events, or nothing. All of it takes effect, or none.
///
/// One webhook is `Ok(webhook.into())`, several are `Ok(webhooks.collect())`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub(crate) webhooks: Vec<Webhook>,
    pub(crate) events: Vec<Emit>,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Outcome {
    /// Nothing: the event is done as far as this plugin is concerned.
    pub fn none() -> Self {
        Self::default()
    }

    /// An outcome to add to.
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

    /// Adds an attribute: whatever later versions of the engine understand; none today.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// The webhooks asked for so far.
    pub fn webhooks(&self) -> &[Webhook] {
        &self.webhooks
    }

    /// The new events asked for so far.
    pub fn events(&self) -> &[Emit] {
        &self.events
    }

    /// Whether it asks for nothing.
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
    fn outcomes_come_from_what_they_hold() {
        let both = Outcome::new().webhook(Webhook::to("a")).emit(Emit::new("b"));
        assert_eq!((both.webhooks().len(), both.events().len()), (1, 1));
        assert_eq!(Outcome::from(Webhook::to("a")), ["a"].map(Webhook::to).into_iter().collect());
        assert_eq!(Outcome::from(Emit::new("b")), ["b"].map(Emit::new).into_iter().collect());
        assert_eq!(Outcome::from(vec![Webhook::to("a"), Webhook::to("b")]).webhooks().len(), 2);
        assert!(Outcome::none().is_none() && !both.is_none());
    }
}
