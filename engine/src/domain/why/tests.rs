//! Each row of a table is one situation. It states the link that decides, whether the event continues without any action by a
//! person, and the command that would change the result.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::domain::{
    content::Content,
    delivery::{CancelReason, DeadReason},
    endpoint::{DisabledReason, EndpointState, HeldSecret, NewEndpoint, Ordering, Policy, Reach, Subscription},
    event::NewEvent,
    id::EndpointId,
    name::{Attributes, EventType},
    signature::{Scheme, Secret},
};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const EVENT: EventId = EventId::from_i64(7);
const CREATED: Timestamp = Timestamp::from_millis(1_000);
const ACCEPTED: Timestamp = Timestamp::from_millis(2_000);

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

fn event(event_type: &str) -> Event {
    let new = NewEvent {
        id: None,
        source: "shop".into(),
        event_type: EventType::parse(event_type).unwrap(),
        subject: Some("crm".into()),
        time: None,
        content: Content::of(&serde_json::json!({ "country": "FR", "total": 12.5 })),
        attributes: Arc::new(Attributes(vec![("channel".into(), "web".into())])),
        depth: 0,
        cause: None,
        request: None,
    };
    Event { id: EVENT, accepted_at: ACCEPTED, new }
}

fn endpoint(events: &[&str]) -> Endpoint {
    let new = NewEndpoint {
        name: slug("crm"),
        title: None,
        url: "https://crm.example/planted-credential".into(),
        subscription: Subscription {
            events: events.iter().map(|one| Pattern::parse(one).unwrap()).collect(),
            conditions: vec![],
        },
        plugin: None,
        scheme: Scheme::V1,
        secrets: vec![HeldSecret { secret: Secret::from_seed(Scheme::V1, [1; 32]), until: None }],
        policy: Policy::default(),
        state: EndpointState::Active,
    };
    Endpoint { id: EndpointId::from_i64(3), created_at: CREATED, failing_since: None, new }
}

/// A situation. Each row of a table changes a part of it.
struct Case {
    event: Event,
    to_run: bool,
    endpoint: Endpoint,
    target: fn(&Endpoint) -> Target<'_>,
    plugins: Vec<PluginFact>,
    runs: Vec<RunFact>,
    deliveries: Vec<DeliveryFact>,
    senders: Vec<Slug>,
    standing: Option<Standing>,
}

impl Case {
    /// Creates a situation with an `order.created` event, in which crm subscribes to `order.*`.
    fn new() -> Self {
        Self::subscribed(&["order.*"])
    }

    fn subscribed(events: &[&str]) -> Self {
        Self {
            event: event("order.created"),
            to_run: false,
            endpoint: endpoint(events),
            target: |endpoint| Target::Exists(endpoint),
            plugins: vec![],
            runs: vec![],
            deliveries: vec![],
            senders: vec![],
            standing: None,
        }
    }

    fn why(&self) -> Why {
        why(&Situation {
            tag: Tag::from_random([0; 4]),
            now: NOW,
            event: &self.event,
            to_run: self.to_run,
            endpoint: (self.target)(&self.endpoint),
            plugins: self.plugins.clone(),
            runs: self.runs.clone(),
            deliveries: self.deliveries.clone(),
            senders: self.senders.clone(),
            standing: self.standing,
        })
    }

    fn where_is(mut self, name: &str, allowed: &[&str]) -> Self {
        let allowed = allowed.iter().map(|one| (*one).to_owned()).collect();
        self.endpoint.new.subscription.conditions.push((name.to_owned(), allowed));
        self
    }

    fn event(mut self, event_type: &str) -> Self {
        self.event = event(event_type);
        self
    }

    fn endpoint(mut self, change: impl FnOnce(&mut Endpoint)) -> Self {
        change(&mut self.endpoint);
        self
    }

    fn state(self, state: EndpointState) -> Self {
        self.endpoint(|endpoint| endpoint.new.state = state)
    }

    fn plugin(mut self, name: &str, on: &str) -> Self {
        self.plugins.push(PluginFact { name: slug(name), on: vec![Pattern::parse(on).unwrap()], halt: None });
        self
    }

    fn halted(mut self, name: &str, halt: Halt) -> Self {
        self.plugins.push(PluginFact { name: slug(name), on: vec![Pattern::All], halt: Some(halt) });
        self
    }

    fn run(mut self, run: RunFact) -> Self {
        self.runs.push(run);
        self
    }

    fn sends(mut self, plugin: &str) -> Self {
        self.senders.push(slug(plugin));
        self
    }

    fn delivery(mut self, state: DeliveryState) -> Self {
        let attempts = if matches!(state, DeliveryState::Pending { .. }) { 0 } else { 2 };
        let last = (attempts > 0).then_some(AttemptOutcome::Answered { status: 503 });
        let id = DeliveryId::from_i64(EVENT.children().0 + i64::try_from(self.deliveries.len()).unwrap());
        self.deliveries.push(DeliveryFact { id, round: 0, run: None, state, attempts, last, is_claimed: false, behind: None });
        self
    }

    fn pending(self) -> Self {
        self.delivery(DeliveryState::Pending { due: NOW })
    }

    fn retrying(self, due: Timestamp) -> Self {
        self.delivery(DeliveryState::Retrying { due })
    }

    fn last(mut self, change: impl FnOnce(&mut DeliveryFact)) -> Self {
        change(self.deliveries.last_mut().unwrap());
        self
    }

    fn standing(mut self, change: impl FnOnce(&mut Standing)) -> Self {
        let mut standing = Standing { breaker: Breaker::default(), rate_until: None, at_once: 8, under_way: 0, waiting: 0 };
        change(&mut standing);
        self.standing = Some(standing);
        self
    }
}

impl RunFact {
    fn of_endpoint(self) -> Self {
        Self { is_endpoints: true, ..self }
    }
}

fn run(plugin: &str, state: RunState, outcome: Option<RunOutcome>) -> RunFact {
    let (id, message) =
        (RunId::from_i64(EVENT.children().0), (outcome == Some(RunOutcome::Trapped)).then(|| "panicked".to_owned()));
    let tries = u32::from(outcome.is_some());
    RunFact { id, round: 0, plugin: slug(plugin), is_endpoints: false, state, outcome, message, wants: None, tries, webhooks: 0 }
}

fn ran(plugin: &str) -> RunFact {
    run(plugin, RunState::Done, Some(RunOutcome::Ok))
}

fn parked(plugin: &str, outcome: RunOutcome) -> RunFact {
    run(plugin, RunState::Parked, Some(outcome))
}

use Verdict::{Delivered, Stopped, Waiting};

/// What the answer must be: its verdict, its link, a part of the reason, and a part of a command (`""`: no command).
type Expected = (Verdict, Link, &'static str, &'static str);

fn check(name: &str, case: &Case, (verdict, link, reason, command): Expected) {
    let why = case.why();
    let all = format!("{name}: {why:#?}");
    assert_eq!((why.verdict, why.link), (verdict, link), "{all}");
    assert!(why.reason.contains(reason), "{all}");
    match command {
        "" => assert!(why.commands.is_empty(), "{all}"),
        command => assert!(why.commands.iter().any(|one| one.contains(command)) && why.change.is_some(), "{all}"),
    }
    assert!(!format!("{why:?}").contains("planted-credential"), "{all}");
    assert!(why.chain.iter().any(|step| step.link == link), "{all}");
}

#[test]
fn explains_events_that_led_to_no_webhook() {
    let cases: Vec<(&str, Case, Expected)> = vec![
        ("not run yet", Case { to_run: true, ..Case::new() }, (Waiting, Link::Event, "waits to be run", "")),
        (
            "no such endpoint",
            Case { target: |_| Target::Missing { name: "crmm", nearest: Some("crm") }, ..Case::new() },
            (Stopped, Link::Endpoint, "the nearest name is crm", "endpoint list"),
        ),
        (
            "a plugin wants an endpoint that does not exist",
            Case { target: |_| Target::Missing { name: "crmm", nearest: None }, ..Case::new() }
                .run(RunFact { wants: Some("crmm".into()), ..parked("router", RunOutcome::BadOutput) }),
            (Stopped, Link::Endpoint, "router sends to crmm", "endpoint add crmm URL"),
        ),
        (
            "the endpoint was deleted",
            Case { target: |_| Target::Deleted { name: "crm" }, ..Case::new() },
            (Stopped, Link::Endpoint, "was deleted", "endpoint add crm URL"),
        ),
        (
            "delivered, then deleted",
            Case { target: |_| Target::Deleted { name: "crm" }, ..Case::new() }.delivery(DeliveryState::Delivered { at: NOW }),
            (Delivered, Link::Delivery, "before crm was deleted", ""),
        ),
        (
            "the endpoint subscribes to another type",
            Case::new().event("invoice.paid"),
            (
                Stopped,
                Link::Type,
                "subscribes to order.*, and the event is invoice.paid",
                "--events 'order.*' --events invoice.paid",
            ),
        ),
        (
            "the attribute has another value",
            Case::new().where_is("channel", &["mail"]),
            (
                Stopped,
                Link::Where,
                "wants channel to be mail, and in the event it is web",
                "--where channel=mail --where channel=web",
            ),
        ),
        (
            "the event lacks the attribute",
            Case::new().where_is("initiator", &["admin"]),
            (Stopped, Link::Where, "it is missing", "--unset where.initiator"),
        ),
        (
            "another value in the data",
            Case::new().where_is("channel", &["web"]).where_is("data:/country", &["IT", "DE"]),
            (Stopped, Link::Where, "wants data:/country to be IT or DE, and in the event it is FR", "--where data:/country=FR"),
        ),
        (
            "an operational event about the endpoint itself",
            Case::subscribed(&["innesco.*"]).event("innesco.endpoint.failing"),
            (Stopped, Link::OwnEvents, "about crm", "endpoint add NAME URL"),
        ),
        (
            "an operational event for a program",
            Case::subscribed(&["innesco.*"])
                .event("innesco.endpoint.failing")
                .endpoint(|endpoint| endpoint.new.name = slug("sub-1"))
                .endpoint(|endpoint| endpoint.new.policy.reach = Reach::Public),
            (Stopped, Link::OwnEvents, "for operators", "endpoint add NAME URL"),
        ),
        (
            "the endpoint was created after the event",
            Case::new().endpoint(|endpoint| endpoint.created_at = later(0)),
            (Stopped, Link::Routing, "created after the event was accepted", "event replay"),
        ),
        (
            "the endpoint subscribed after the event was run",
            Case::new(),
            (Stopped, Link::Routing, "did not when the event was run", "event replay"),
        ),
        (
            "the run of the endpoint's plugin is parked",
            Case::new().run(parked("redact", RunOutcome::Trapped).of_endpoint()),
            (Stopped, Link::EndpointPlugin, "redact, the endpoint's plugin, ended as trapped: panicked", "run retry"),
        ),
        (
            "the endpoint's plugin does not load",
            Case::new().run(parked("redact", RunOutcome::NotLoadable).of_endpoint()),
            (Stopped, Link::EndpointPlugin, "not-loadable", "plugin show redact"),
        ),
        (
            "the endpoint's plugin returned no webhook",
            Case::new().run(ran("redact").of_endpoint()),
            (Stopped, Link::EndpointPlugin, "returned no webhook", "run show"),
        ),
        (
            "the run of the endpoint's plugin waits for its next try",
            Case::new().run(run("redact", RunState::Waiting { due: later(10) }, Some(RunOutcome::Failed)).of_endpoint()),
            (Waiting, Link::EndpointPlugin, "was tried once", "run retry"),
        ),
        (
            "no endpoint and no plugin subscribes",
            Case::subscribed(&[]),
            (Stopped, Link::Manifest, "no plugin runs on order.created", "--events order.created"),
        ),
        (
            "a plugin that sends to the endpoint runs on other types",
            Case::subscribed(&[]).plugin("router", "invoice.*").sends("router"),
            (Stopped, Link::Manifest, "router, which sends to this endpoint, runs on invoice.*", "event replay"),
        ),
        (
            "the plugin was added after the event was run",
            Case::subscribed(&[]).plugin("router", "order.*"),
            (Stopped, Link::Routing, "router runs on order.* now", "event replay"),
        ),
        (
            "the plugin sent nothing",
            Case::subscribed(&[]).plugin("router", "order.*").run(ran("router")),
            (Stopped, Link::Plugin, "router ran and sent nothing", "run show"),
        ),
        (
            "the plugin sent to others",
            Case::subscribed(&[]).run(RunFact { webhooks: 2, ..ran("router") }),
            (Stopped, Link::Plugin, "sent 2 webhooks, none of them to this endpoint", "run show"),
        ),
        (
            "the plugin's run is parked",
            Case::subscribed(&[]).run(parked("router", RunOutcome::Trapped)),
            (Stopped, Link::Plugin, "router ended as trapped: panicked", "run retry"),
        ),
        (
            "the plugin waits for another endpoint",
            Case::subscribed(&[]).run(RunFact { wants: Some("erp".into()), ..parked("router", RunOutcome::BadOutput) }),
            (Stopped, Link::Plugin, "bad-output", "endpoint add erp URL"),
        ),
        (
            "the plugin has not run",
            Case::subscribed(&[]).run(run("router", RunState::Waiting { due: NOW }, None)),
            (Waiting, Link::Plugin, "has not run yet", ""),
        ),
        (
            "the plugin is held",
            Case::subscribed(&[]).halted("router", Halt::Held).run(run("router", RunState::Waiting { due: NOW }, None)),
            (Stopped, Link::Plugin, "router is held; its run waits", "plugin enable router"),
        ),
        (
            "the plugin is disabled",
            Case::subscribed(&[]).halted("router", Halt::Disabled),
            (Stopped, Link::Manifest, "router is disabled", "plugin enable router"),
        ),
        (
            "the run was cancelled",
            Case::subscribed(&[]).run(run("router", RunState::Cancelled, Some(RunOutcome::Failed))),
            (Stopped, Link::Plugin, "was cancelled", "run retry"),
        ),
    ];
    for (name, case, expected) in cases {
        check(name, &case, expected);
    }
}

#[test]
fn explains_webhooks_that_wait_or_have_ended() {
    let at = NOW;
    let open = |seconds| Breaker::Open { until: later(seconds), wait: Duration::from_secs(10) };
    let ordered = |case: Case| case.endpoint(|endpoint| endpoint.new.policy.ordering = Some(Ordering::Endpoint));
    let disabled = EndpointState::Disabled(DisabledReason::ByHand);
    let other = DeliveryId::from_i64(EventId::from_i64(6).children().0);
    let cases: Vec<(&str, Case, Expected)> = vec![
        ("delivered", Case::new().delivery(DeliveryState::Delivered { at }), (Delivered, Link::Delivery, "was delivered", "")),
        (
            "exhausted",
            Case::new().delivery(DeliveryState::Dead { at, reason: DeadReason::Exhausted }),
            (Stopped, Link::Schedule, "was tried 2 times, last: answered 503", "delivery retry"),
        ),
        (
            "gone",
            Case::new()
                .state(EndpointState::Disabled(DisabledReason::Gone))
                .delivery(DeliveryState::Dead { at, reason: DeadReason::Gone }),
            (Stopped, Link::State, "410", "endpoint resume crm"),
        ),
        (
            "disabled",
            Case::new().state(disabled).delivery(DeliveryState::Dead { at, reason: DeadReason::EndpointDisabled }),
            (Stopped, Link::State, "was disabled", "endpoint resume crm"),
        ),
        (
            "dead because the endpoint was disabled, and active again",
            Case::new().delivery(DeliveryState::Dead { at, reason: DeadReason::EndpointDisabled }),
            (Stopped, Link::State, "was disabled", "delivery retry"),
        ),
        (
            "pending for a disabled endpoint",
            Case::new().state(disabled).pending(),
            (Stopped, Link::State, "by hand", "endpoint resume crm"),
        ),
        (
            "cancelled",
            Case::new().delivery(DeliveryState::Cancelled { at, reason: Some(CancelReason::ByHand) }),
            (Stopped, Link::Delivery, "cancelled by hand", "delivery retry"),
        ),
        (
            "paused",
            Case::new().state(EndpointState::Paused).pending(),
            (Stopped, Link::State, "is paused", "endpoint resume crm"),
        ),
        ("retrying", Case::new().retrying(later(300)), (Waiting, Link::Schedule, "not due yet", "delivery retry")),
        (
            "the breaker is open",
            Case::new().pending().standing(|standing| standing.breaker = open(10)),
            (Waiting, Link::Breaker, "is open", "endpoint test crm"),
        ),
        (
            "the breaker opens before the retry is due",
            Case::new().retrying(later(300)).standing(|standing| standing.breaker = open(10)),
            (Waiting, Link::Schedule, "not due yet", "delivery retry"),
        ),
        (
            "the breaker probes",
            Case::new().pending().standing(|standing| {
                standing.breaker = Breaker::Probing { wait: Duration::from_secs(10) };
            }),
            (Waiting, Link::Breaker, "one webhook at a time", "endpoint test crm"),
        ),
        (
            "the rate is used up for long",
            Case::new().pending().standing(|standing| standing.rate_until = Some(later(20))),
            (Waiting, Link::Rate, "is used up", "--rate"),
        ),
        (
            "the rate is used up for a moment",
            Case::new()
                .endpoint(|endpoint| endpoint.new.policy.rate = crate::domain::rate::Rate::parse("5/s").ok())
                .pending()
                .last(|delivery| delivery.is_claimed = true)
                .standing(|standing| (standing.under_way, standing.waiting) = (8, 3)),
            (Waiting, Link::Rate, "(5/s)", "--rate"),
        ),
        (
            "as many webhooks under way as the policy allows",
            Case::new()
                .endpoint(|endpoint| endpoint.new.policy.concurrency = 8)
                .pending()
                .standing(|standing| (standing.under_way, standing.waiting) = (8, 3)),
            (Waiting, Link::Concurrency, "8 webhooks to crm are under way", "--concurrency"),
        ),
        (
            "few webhooks at once, because the receiver does not answer",
            Case::new().pending().standing(|standing| (standing.at_once, standing.under_way) = (4, 4)),
            (Waiting, Link::Concurrency, "4 webhooks to crm are under way", "endpoint test crm"),
        ),
        (
            "behind an earlier webhook",
            ordered(Case::new().pending()).last(|delivery| {
                delivery.behind = Some(Behind::Delivery { id: other, attempts: 3 });
            }),
            (Waiting, Link::Order, "which failed 3 times so far", "delivery retry dlv_"),
        ),
        (
            "behind an event that has not been run",
            ordered(Case::new().pending()).last(|delivery| delivery.behind = Some(Behind::Event(EventId::from_i64(6)))),
            (Waiting, Link::Order, "has been run", "event show evt_"),
        ),
        (
            "being sent",
            Case::new().retrying(later(300)).last(|delivery| delivery.is_claimed = true),
            (Waiting, Link::Delivery, "is being sent, or is next", ""),
        ),
        ("due", Case::new().pending(), (Waiting, Link::Delivery, "is being sent, or is next", "")),
        (
            "one delivered, one dead",
            Case::new()
                .delivery(DeliveryState::Delivered { at })
                .delivery(DeliveryState::Dead { at, reason: DeadReason::Exhausted }),
            (Stopped, Link::Schedule, "is dead", "delivery retry"),
        ),
    ];
    for (name, case, expected) in cases {
        check(name, &case, expected);
    }
}

#[test]
fn the_more_specific_explanation_comes_first() {
    // A plugin that ran on the event explains less than the endpoint's own subscription.
    let case = Case::new().where_is("channel", &["mail"]).run(RunFact { webhooks: 1, ..ran("router") });
    check("a plugin that sent elsewhere", &case, (Stopped, Link::Where, "channel", "--where"));
    let case = Case::new().where_is("channel", &["mail"]).run(parked("other", RunOutcome::Trapped));
    check("a parked plugin that never sent here", &case, (Stopped, Link::Where, "channel", "--where"));
    // A plugin that sent to this endpoint before, and failed, explains more.
    let case = Case::new().where_is("channel", &["mail"]).run(parked("router", RunOutcome::Trapped)).sends("router");
    check("a parked plugin that sends here", &case, (Stopped, Link::Plugin, "router ended as trapped", "run retry"));
    let links: Vec<_> = case.why().chain.iter().map(|step| (step.link, step.stopped.is_some())).collect();
    assert_eq!(
        links,
        [(Link::Endpoint, false), (Link::Event, false), (Link::Type, false), (Link::Where, true), (Link::Plugin, true)]
    );
}

#[test]
fn only_the_newest_round_and_waiting_webhooks_count() {
    let delivered = DeliveryState::Delivered { at: NOW };
    let replayed = || Case::new().delivery(delivered).run(RunFact { round: 1, ..ran("router") });
    check("a replay that the endpoint did not get", &replayed(), (Stopped, Link::Routing, "did not", "event replay"));
    assert!(replayed().why().chain.iter().any(|step| step.found.contains("was delivered before the replay")));
    let waits = replayed().retrying(later(5));
    check("a webhook of an earlier round", &waits, (Waiting, Link::Schedule, "not due yet", "delivery retry"));
}

#[test]
fn a_delivered_webhook_names_its_run() {
    let from = RunId::from_i64(EVENT.children().0);
    let case = Case::subscribed(&[]).run(RunFact { webhooks: 1, ..ran("router") }).delivery(DeliveryState::Delivered { at: NOW });
    let case = case.last(|delivery| delivery.run = Some(from));
    let why = case.why();
    assert_eq!((why.verdict, why.run, why.at), (Delivered, Some(from), Some(NOW)));
    assert!(why.chain.iter().all(|step| step.stopped.is_none()), "{why:#?}");
}

#[test]
fn values_in_commands_are_quoted_for_the_shell() {
    let case = Case::new().where_is("data:/country", &["Côte d'Ivoire"]);
    let why = case.why();
    assert_eq!(why.commands[0], r"innesco endpoint update crm --where 'data:/country=Côte d'\''Ivoire' --where data:/country=FR");
}
