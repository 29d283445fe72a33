//! Why an endpoint did or did not receive an event. [`why`] follows one event on its way to one endpoint and names the link that
//! decided. The answer says where the event was stopped, what it waits for, or that it was delivered. The answer also says what
//! would change the result.
//!
//! The function does not read the store. The API fills in [`Situation`] from the store and the catalog. An event can reach an
//! endpoint in two ways: by the endpoint's subscription, perhaps through the endpoint's plugin, and by the webhook of any plugin.
//! `routing` judges both ways. If the event has no webhook to the endpoint, that judgement is the answer. Otherwise the answer is
//! the judgement of `sending` on the webhook.

mod routing;
mod sending;
#[cfg(test)]
mod tests;

use super::{
    breaker::Breaker,
    delivery::{AttemptOutcome, DeliveryState},
    endpoint::Endpoint,
    event::Event,
    id::{DeliveryId, EventId, RunId, Tag},
    name::Slug,
    pattern::Pattern,
    plugin::Halt,
    run::{RunOutcome, RunState},
    time::Timestamp,
};

/// Whether the event reached the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// The event continues without any action by a person.
    Waiting,
    /// The event does not continue until a person or another event changes something.
    Stopped,
}

impl Verdict {
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Waiting, Self::Stopped];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }
}

/// A link of the chain from an event to an endpoint. The variants are in the order of the chain. Each variant states what is true
/// if the event passes the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The endpoint exists.
    Endpoint,
    /// The event has been run.
    Event,
    /// The event's type matches the endpoint's subscription.
    Type,
    /// The conditions (`where`) of the subscription hold.
    Where,
    /// The endpoint may receive an `innesco.*` event, because the event is not about this endpoint and the endpoint belongs to an
    /// operator.
    OwnEvents,
    /// The type matches the manifest of a plugin.
    Manifest,
    /// The subscription, or the plugin, existed when the event was routed.
    Routing,
    /// The endpoint's own plugin let the event through.
    EndpointPlugin,
    /// A plugin ran and sent to the endpoint.
    Plugin,
    /// The endpoint is active.
    State,
    /// The endpoint's circuit breaker is closed.
    Breaker,
    /// The endpoint's rate allows another webhook.
    Rate,
    /// The endpoint's limit allows another concurrent webhook.
    Concurrency,
    /// If the endpoint is ordered, all webhooks that must go before this one are finished.
    Order,
    /// The next attempt of the webhook's schedule is due.
    Schedule,
    /// The webhook exists and was delivered.
    Delivery,
}

impl Link {
    pub const ALL: [Self; 16] = [
        Self::Endpoint,
        Self::Event,
        Self::Type,
        Self::Where,
        Self::OwnEvents,
        Self::Manifest,
        Self::Routing,
        Self::EndpointPlugin,
        Self::Plugin,
        Self::State,
        Self::Breaker,
        Self::Rate,
        Self::Concurrency,
        Self::Order,
        Self::Schedule,
        Self::Delivery,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Event => "event",
            Self::Type => "type",
            Self::Where => "where",
            Self::OwnEvents => "own-events",
            Self::Manifest => "manifest",
            Self::Routing => "routing",
            Self::EndpointPlugin => "endpoint-plugin",
            Self::Plugin => "plugin",
            Self::State => "state",
            Self::Breaker => "breaker",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Order => "order",
            Self::Schedule => "schedule",
            Self::Delivery => "delivery",
        }
    }
}

/// What is known about one event and one endpoint. All times are of the wall clock.
pub struct Situation<'a> {
    /// The store's tag, which is needed to write ids as text.
    pub tag: Tag,
    pub now: Timestamp,
    pub event: &'a Event,
    /// Whether the event waits to be run, for the first time or for a replay.
    pub to_run: bool,
    pub endpoint: Target<'a>,
    /// Every plugin that exists now.
    pub plugins: Vec<PluginFact>,
    /// The event's runs that belong to this endpoint or to no endpoint.
    pub runs: Vec<RunFact>,
    /// The event's webhooks to this endpoint.
    pub deliveries: Vec<DeliveryFact>,
    /// Plugins that recently sent to this endpoint by name, for this event or for any other event.
    pub senders: Vec<Slug>,
    /// How this process now treats the endpoint when it sends webhooks; `None` if this process sends nothing to it.
    pub standing: Option<Standing>,
}

/// The endpoint that the question is about.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    Exists(&'a Endpoint),
    Deleted { name: &'a str },
    Missing { name: &'a str, nearest: Option<&'a str> },
}

/// A plugin that exists now.
#[derive(Clone, Debug)]
pub struct PluginFact {
    pub name: Slug,
    pub on: Vec<Pattern>,
    /// Why the plugin does not run; `None` if it runs.
    pub halt: Option<Halt>,
}

/// A run of the event.
#[derive(Clone, Debug)]
pub struct RunFact {
    pub id: RunId,
    pub round: u32,
    pub plugin: Slug,
    /// Whether the run belongs to this endpoint.
    pub is_endpoints: bool,
    pub state: RunState,
    pub outcome: Option<RunOutcome>,
    pub message: Option<String>,
    /// Name of the missing endpoint that a parked run waits for.
    pub wants: Option<String>,
    pub tries: u32,
    pub webhooks: u32,
}

/// A webhook of the event to this endpoint.
#[derive(Clone, Debug)]
pub struct DeliveryFact {
    pub id: DeliveryId,
    pub round: u32,
    /// The run that requested the webhook.
    pub run: Option<RunId>,
    pub state: DeliveryState,
    pub attempts: u32,
    pub last: Option<AttemptOutcome>,
    /// Whether a worker has claimed the webhook. If so, its due time is the end of the lease.
    pub is_claimed: bool,
    pub behind: Option<Behind>,
}

/// What must finish before an ordered webhook can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A webhook to the same endpoint; `attempts` counts its failed attempts.
    Delivery { id: DeliveryId, attempts: u32 },
    /// An event that was not run yet, or that still has a run in the queue.
    Event(EventId),
}

/// How a process treats an endpoint when it sends webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub breaker: Breaker,
    /// The time until which the endpoint's rate allows no webhook.
    pub rate_until: Option<Timestamp>,
    /// Maximum number of concurrent webhooks. It depends on the endpoint's policy and on how the receiver answers.
    pub at_once: usize,
    /// Webhooks that are being sent now, or that wait until the rate allows them.
    pub under_way: usize,
    /// Webhooks that wait in memory for their turn.
    pub waiting: usize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    pub verdict: Verdict,
    /// The link that decided.
    pub link: Link,
    /// What happened at this link, in a sentence without a full stop.
    pub reason: String,
    /// When the event was delivered, when its way ended, or when it continues.
    pub at: Option<Timestamp>,
    /// What would change the result, in a sentence without a full stop; `None` if nothing has to be done.
    pub change: Option<String>,
    /// The commands that make this change, in the order in which to run them.
    pub commands: Vec<String>,
    pub run: Option<RunId>,
    pub delivery: Option<DeliveryId>,
    /// The links that were checked.
    pub chain: Vec<Step>,
}

/// One link that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub link: Link,
    /// `None`: the event passed this link.
    pub stopped: Option<Verdict>,
    /// What was found at this link.
    pub found: String,
}

impl Why {
    fn new(verdict: Verdict, link: Link, reason: impl Into<String>) -> Self {
        let (change, commands, chain) = (None, Vec::new(), Vec::new());
        Self { verdict, link, reason: reason.into(), at: None, change, commands, run: None, delivery: None, chain }
    }

    fn at(self, at: Timestamp) -> Self {
        Self { at: Some(at), ..self }
    }

    fn change(self, change: impl Into<String>, commands: impl IntoIterator<Item = String>) -> Self {
        Self { change: Some(change.into()), commands: commands.into_iter().collect(), ..self }
    }

    fn by_run(self, run: RunId) -> Self {
        Self { run: Some(run), ..self }
    }

    fn step(&self) -> Step {
        let stopped = (self.verdict != Verdict::Delivered).then_some(self.verdict);
        Step { link: self.link, stopped, found: self.reason.clone() }
    }
}

/// Finds the link that decided whether the event reached the endpoint.
pub fn why(situation: &Situation<'_>) -> Why {
    let endpoint = match situation.endpoint {
        Target::Exists(endpoint) => endpoint,
        Target::Deleted { name } => return alone(routing::deleted(situation, name)),
        Target::Missing { name, nearest } => return alone(routing::missing(situation, name, nearest)),
    };
    let mut chain = vec![passed(Link::Endpoint, format!("{} exists", endpoint.new.name))];
    if situation.to_run {
        let waits = Why::new(Verdict::Waiting, Link::Event, "the event waits to be run; no plugin and no endpoint has it yet");
        chain.push(waits.step());
        return Why { chain, ..waits };
    }
    chain.push(passed(Link::Event, "the event was run".to_owned()));
    let round = situation.newest_round();
    let routed = routing::judge(situation, endpoint, round, &mut chain);
    let Some(delivery) = sending::decisive(&situation.deliveries, round) else {
        if let Some(earlier) = situation.deliveries.iter().find(|one| matches!(one.state, DeliveryState::Delivered { .. })) {
            chain.push(passed(Link::Delivery, format!("{} was delivered before the replay", earlier.id.text(situation.tag))));
        }
        return Why { chain, ..routed };
    };
    let judged = sending::judge(situation, endpoint, delivery, &mut chain);
    Why { delivery: Some(delivery.id), run: delivery.run, chain, ..judged }
}

fn alone(why: Why) -> Why {
    Why { chain: vec![why.step()], ..why }
}

const fn passed(link: Link, found: String) -> Step {
    Step { link, stopped: None, found }
}

impl Situation<'_> {
    /// Returns the newest round that has a run or a webhook.
    fn newest_round(&self) -> u32 {
        let rounds = self.runs.iter().map(|run| run.round).chain(self.deliveries.iter().map(|one| one.round));
        rounds.max().unwrap_or(0)
    }

    fn event_id(&self) -> String {
        self.event.id.text(self.tag)
    }

    fn replay(&self) -> String {
        format!("innesco event replay {}", self.event_id())
    }
}
