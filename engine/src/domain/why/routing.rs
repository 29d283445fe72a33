//! Explains why an event led to no webhook for the endpoint. Looks at the endpoint's subscription, and at the plugins that could
//! have sent to the endpoint.

use super::{
    Link, RunFact, Situation, Step, Verdict, Why, passed,
    sending::{times, webhooks},
};
use crate::domain::{
    delivery::DeliveryState,
    endpoint::{Endpoint, Facts, Subscription},
    plugin::Halt,
    run::{Remedy, RunOutcome, RunState, remedy},
};

/// Maximum number of characters that are shown of a value or of a plugin's message.
const SHOWN_MAX: usize = 80;

/// Judges an endpoint that was deleted.
pub fn deleted(situation: &Situation<'_>, name: &str) -> Why {
    let delivered = situation.deliveries.iter().find_map(|one| match one.state {
        DeliveryState::Delivered { at } => Some((one.id, at)),
        _ => None,
    });
    if let Some((id, at)) = delivered {
        let reason = format!("{} was delivered before {name} was deleted", id.text(situation.tag));
        return Why { delivery: Some(id), ..Why::new(Verdict::Delivered, Link::Delivery, reason).at(at) };
    }
    let delivery = situation.deliveries.first().map(|one| one.id);
    let webhook = delivery.map(|id| format!(", so {} is not sent", id.text(situation.tag))).unwrap_or_default();
    let why = Why::new(Verdict::Stopped, Link::Endpoint, format!("{name} was deleted{webhook}"));
    let commands = [format!("innesco endpoint add {name} URL"), situation.replay()];
    Why { delivery, ..why.change("create it again; a replay then runs the whole event again, as new webhooks", commands) }
}

/// Judges an endpoint that never existed. A plugin may have sent to it.
pub fn missing(situation: &Situation<'_>, name: &str, nearest: Option<&str>) -> Why {
    if let Some(run) = situation.runs.iter().find(|run| run.wants.as_deref() == Some(name)) {
        let reason = format!("{} sends to {name}, which does not exist; its run is parked", run.plugin);
        let add = format!("innesco endpoint add {name} URL");
        return Why::new(Verdict::Stopped, Link::Endpoint, reason)
            .change("create the endpoint; the run is then tried again automatically", [add])
            .by_run(run.id);
    }
    let near = nearest.map(|near| format!("; the nearest name is {near}")).unwrap_or_default();
    Why::new(Verdict::Stopped, Link::Endpoint, format!("no endpoint has the name {name}{near}"))
        .change("see which endpoints exist", ["innesco endpoint list".to_owned()])
}

/// Judges both ways to the endpoint, and adds them to the chain. The answer is used only if the event has no webhook to the
/// endpoint.
pub fn judge(situation: &Situation<'_>, endpoint: &Endpoint, round: u32, chain: &mut Vec<Step>) -> Why {
    let has_webhook = super::sending::decisive(&situation.deliveries, round).is_some();
    let subscribed = subscription(situation, endpoint, round, has_webhook, chain);
    let mut by_plugins = plugins(situation, round);
    chain.extend(by_plugins.iter().map(|(_, why)| if has_webhook { passed(why.link, why.reason.clone()) } else { why.step() }));
    // The endpoint's own subscription explains more than a plugin that may never send to this endpoint. A plugin that sent to it
    // before, and whose run is not finished, explains more than the subscription.
    by_plugins.sort_by_key(|(rank, _)| *rank);
    let mut by_plugins = by_plugins.into_iter();
    match (by_plugins.next(), subscribed) {
        (Some((Rank::UnfinishedSender, why)), subscribed)
            if subscribed.as_ref().is_none_or(|own| own.link != Link::EndpointPlugin) =>
        {
            why
        }
        (_, Some(own)) => own,
        (Some((_, why)), None) => why,
        (None, None) => {
            let name = &endpoint.new.name;
            let reason = format!("{name} has no subscription, and no plugin runs on {}", situation.event.new.event_type);
            let why = Why::new(Verdict::Stopped, Link::Manifest, reason);
            if !has_webhook {
                chain.push(why.step());
            }
            let commands =
                [format!("innesco endpoint update {name} --events {}", situation.event.new.event_type), situation.replay()];
            why.change("subscribe the endpoint, or serve a plugin that sends to it; a replay then runs the whole event again, as new webhooks", commands)
        }
    }
}

/// Judges the way through the endpoint's subscription. Returns `None` if the endpoint has no subscription. Also returns `None` if
/// the event has a webhook to the endpoint and the endpoint's plugin did not run.
fn subscription(
    situation: &Situation<'_>,
    endpoint: &Endpoint,
    round: u32,
    has_webhook: bool,
    chain: &mut Vec<Step>,
) -> Option<Why> {
    let (name, event) = (&endpoint.new.name, &situation.event.new);
    let Subscription { events, conditions: _ } = &endpoint.new.subscription;
    if events.is_empty() {
        chain.push(passed(Link::Type, format!("{name} has no subscription; only plugins send to it")));
        return None;
    }
    // A recorded run of the endpoint's plugin decides, even if the subscription has changed since.
    if let Some(run) = situation.runs.iter().find(|run| run.is_endpoints && run.round == round) {
        chain.push(passed(Link::Type, format!("{name} subscribed to {}", event.event_type)));
        let why = endpoint_plugin(situation, run);
        chain.push(if has_webhook { passed(why.link, format!("{} let it through", run.plugin)) } else { why.step() });
        return Some(why);
    }
    if has_webhook {
        if situation.deliveries.iter().any(|delivery| delivery.run.is_none()) {
            chain.push(passed(Link::Type, format!("{name} subscribed to {}", event.event_type)));
        }
        return None;
    }
    let why = mismatch(situation, endpoint, chain).unwrap_or_else(|| {
        let when = match endpoint.created_at > situation.event.accepted_at {
            true => format!("{name} was created after the event was accepted"),
            false => format!("{name} subscribes to it now, but did not when the event was run"),
        };
        Why::new(Verdict::Stopped, Link::Routing, when)
            .change("run the whole event again, as new webhooks, also to other endpoints", [situation.replay()])
    });
    chain.push(why.step());
    Some(why)
}

/// Returns which part of the subscription does not match the event.
fn mismatch(situation: &Situation<'_>, endpoint: &Endpoint, chain: &mut Vec<Step>) -> Option<Why> {
    let (name, event) = (&endpoint.new.name, &situation.event.new);
    let Subscription { events, conditions } = &endpoint.new.subscription;
    let replayed = "a replay then runs the whole event again, as new webhooks";
    let patterns: Vec<String> = events.iter().map(ToString::to_string).collect();
    if !events.iter().any(|pattern| pattern.matches(&event.event_type)) {
        let reason = format!("{name} subscribes to {}, and the event is {}", patterns.join(" and "), event.event_type);
        let flags: Vec<String> = patterns.iter().map(|pattern| format!("--events {}", quoted(pattern))).collect();
        let update = format!("innesco endpoint update {name} {} --events {}", flags.join(" "), event.event_type);
        return Some(
            Why::new(Verdict::Stopped, Link::Type, reason)
                .change(format!("subscribe to this type as well; {replayed}"), [update, situation.replay()]),
        );
    }
    chain.push(passed(Link::Type, format!("{name} subscribes to {}", patterns.join(" and "))));
    let facts = Facts::new(event);
    for (condition, allowed) in conditions {
        let value = facts.value(condition);
        if value.as_ref().is_some_and(|value| allowed.contains(value)) {
            chain.push(passed(Link::Where, format!("{condition} is {}", shown(&value.unwrap_or_default()))));
            continue;
        }
        let (has, update) = match value {
            Some(value) => {
                let flags =
                    allowed.iter().chain([&value]).map(|one| format!("--where {}", quoted(&format!("{condition}={one}"))));
                (shown(&value), flags.collect::<Vec<_>>().join(" "))
            }
            None => ("missing".to_owned(), format!("--unset {}", quoted(&format!("where.{condition}")))),
        };
        let reason = format!("{name} wants {condition} to be {}, and in the event it is {has}", allowed.join(" or "));
        let update = format!("innesco endpoint update {name} {update}");
        return Some(
            Why::new(Verdict::Stopped, Link::Where, reason)
                .change(format!("widen the condition; {replayed}"), [update, situation.replay()]),
        );
    }
    if !endpoint.new.may_hear(event) {
        let reason = match event.subject.as_deref() == Some(&*endpoint.new.name) {
            true => format!("the event is about {name}: an endpoint never receives an innesco.* event about itself"),
            false => format!("{name} is the subscription of a program: it receives no innesco.* events, which are for operators"),
        };
        let list = format!("innesco endpoint add NAME URL --events {}", event.event_type);
        return Some(
            Why::new(Verdict::Stopped, Link::OwnEvents, reason).change("subscribe another endpoint to such events", [list]),
        );
    }
    None
}

/// Judges a run of the endpoint's own plugin that led to no webhook.
fn endpoint_plugin(situation: &Situation<'_>, run: &RunFact) -> Why {
    let plugin = &run.plugin;
    let own = format!("{plugin}, the endpoint's plugin,");
    unfinished(situation, run, Link::EndpointPlugin, &own).unwrap_or_else(|| {
        Why::new(Verdict::Stopped, Link::EndpointPlugin, format!("{own} ran and returned no webhook"))
            .change("see its log", [format!("innesco run show {}", run.id.text(situation.tag))])
            .by_run(run.id)
    })
}

/// How much a plugin explains. The variant that explains most is first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The plugin's run is not finished. Either the plugin sent to the endpoint before, or the run waits for the endpoint.
    UnfinishedSender,
    Unfinished,
    /// The plugin sent to the endpoint before, but not for this event.
    Sender,
    /// The plugin ran on the event.
    Ran,
    /// The plugin is not known to send to the endpoint.
    Other,
}

/// Judges the way through each plugin that ran, or that would run.
fn plugins(situation: &Situation<'_>, round: u32) -> Vec<(Rank, Why)> {
    let mut found = Vec::new();
    let runs = situation.runs.iter().filter(|run| !run.is_endpoints && (run.round == round || is_open(run)));
    let sends = |plugin: &str| situation.senders.iter().any(|sender| **sender == *plugin);
    for run in runs.clone() {
        if situation.deliveries.iter().any(|delivery| delivery.run == Some(run.id)) {
            continue;
        }
        let plugin = &run.plugin;
        match unfinished(situation, run, Link::Plugin, plugin) {
            Some(why) => found.push((if sends(plugin) { Rank::UnfinishedSender } else { Rank::Unfinished }, why)),
            None => {
                let sent = match run.webhooks {
                    0 => "sent nothing".to_owned(),
                    number => format!("sent {}, none of them to this endpoint", webhooks(number as usize)),
                };
                let why = Why::new(Verdict::Stopped, Link::Plugin, format!("{plugin} ran and {sent}")).by_run(run.id);
                let rank = if sends(plugin) { Rank::Sender } else { Rank::Ran };
                found.push((rank, why.change("see its log", [format!("innesco run show {}", run.id.text(situation.tag))])));
            }
        }
    }
    for plugin in &situation.plugins {
        if runs.clone().any(|run| run.plugin == plugin.name) {
            continue;
        }
        let (name, event_type) = (&plugin.name, &situation.event.new.event_type);
        let patterns: Vec<String> = plugin.on.iter().map(ToString::to_string).collect();
        if plugin.on.iter().any(|pattern| pattern.matches(event_type)) && plugin.halt == Some(Halt::Disabled) {
            let why = Why::new(Verdict::Stopped, Link::Manifest, format!("{name} is disabled, so it matches no events"));
            let rank = if sends(name) { Rank::Sender } else { Rank::Other };
            let enable = [format!("innesco plugin enable {name}"), situation.replay()];
            found.push((rank, why.change("enable it; a replay then runs the whole event again, as new webhooks", enable)));
        } else if plugin.on.iter().any(|pattern| pattern.matches(event_type)) {
            let reason = format!("{name} runs on {} now, but did not when the event was run", patterns.join(" and "));
            let why = Why::new(Verdict::Stopped, Link::Routing, reason);
            let rank = if sends(name) { Rank::Sender } else { Rank::Other };
            found.push((
                rank,
                why.change("run the whole event again, as new webhooks, also to other endpoints", [situation.replay()]),
            ));
        } else if sends(name) {
            let reason = format!(
                "{name}, which sends to this endpoint, runs on {}, and the event is {event_type}",
                patterns.join(" and ")
            );
            let why = Why::new(Verdict::Stopped, Link::Manifest, reason);
            found.push((
                Rank::Other,
                why.change(
                    "add the type to the plugin's `ON`; a replay then runs the whole event again, as new webhooks",
                    [format!("innesco plugin show {name}"), situation.replay()],
                ),
            ));
        }
    }
    found
}

const fn is_open(run: &RunFact) -> bool {
    matches!(run.state, RunState::Waiting { .. } | RunState::Parked)
}

/// Judges a run that did not end `ok`. Returns `None` if the run ended `ok`.
fn unfinished(situation: &Situation<'_>, run: &RunFact, link: Link, who: &str) -> Option<Why> {
    let id = run.id.text(situation.tag);
    let retry = format!("innesco run retry {id}");
    let failed = || {
        let outcome = run.outcome.map_or("failed", RunOutcome::as_str);
        let message = run.message.as_deref().map(|message| format!(": {}", shown(message))).unwrap_or_default();
        format!("{outcome}{message}")
    };
    let why = match run.state {
        RunState::Done => return None,
        RunState::Waiting { .. } if halt(situation, run).is_some() => {
            let halt = halt(situation, run).map_or("", Halt::as_str);
            Why::new(Verdict::Stopped, link, format!("{} is {halt}; its run waits", run.plugin))
                .change("enable the plugin, after a fix if it fails", [format!("innesco plugin enable {}", run.plugin)])
        }
        RunState::Waiting { due } if run.tries == 0 => {
            let why = Why::new(Verdict::Waiting, link, format!("{who} has not run yet; its run is queued"));
            if due > situation.now { why.at(due) } else { why }
        }
        RunState::Waiting { due } => {
            let reason = format!("{who} was tried {}, last: {}; it is tried again", times(run.tries), failed());
            Why::new(Verdict::Waiting, link, reason).at(due).change("run it now", [retry])
        }
        RunState::Cancelled => {
            let why =
                Why::new(Verdict::Stopped, link, format!("the run of {who} was cancelled", who = who.trim_end_matches(',')));
            why.change("run it after all", [retry])
        }
        RunState::Parked => {
            let why = Why::new(Verdict::Stopped, link, format!("{who} ended as {}; its run is parked", failed()));
            match (remedy(run.outcome.unwrap_or(RunOutcome::Failed), run.wants.as_deref()), run.wants.as_deref()) {
                (Remedy::ItsEndpoint, Some(wants)) => why.change(
                    format!("create the endpoint {wants}; the run is then tried again automatically"),
                    [format!("innesco endpoint add {} URL", quoted(wants))],
                ),
                (Remedy::ItsPlugin, _) => why.change(
                    "serve a version that loads; the run is then tried again automatically",
                    [format!("innesco plugin show {}", run.plugin)],
                ),
                _ => why.change("repair the plugin, then retry the run", [retry]),
            }
        }
    };
    Some(why.by_run(run.id))
}

/// Returns why the plugin of a run does not run now; `None` if it runs.
fn halt(situation: &Situation<'_>, run: &RunFact) -> Option<Halt> {
    situation.plugins.iter().find(|plugin| plugin.name == run.plugin)?.halt
}

/// Returns the beginning of a text, on one line.
fn shown(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(SHOWN_MAX).collect();
    if line.len() < text.len() { format!("{line}…") } else { line }
}

/// Quotes a word for a shell, if needed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
