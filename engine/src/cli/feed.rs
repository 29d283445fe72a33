//! Prints the live activity of an engine: one line per message, newest last. In a busy second, messages beyond a limit are only
//! counted. `innesco dev` gets the messages from the engine in its process. `innesco event tail` gets them from the event stream of
//! any engine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    event,
    listen::Heard,
    measure::{self, count, one_line},
    output::{self, DIM, RED, Styled, YELLOW, indent},
    run,
};
use crate::wire::StreamView;

/// Maximum number of routine messages, and of failures, that are printed per second. Further messages are only counted.
const ROUTINE_MAX: usize = 20;
const NOTABLE_MAX: usize = 40;
/// Maximum number of webhooks that the receiver got and the engine has not yet reported.
const HEARD_MAX: usize = 10_000;

/// Prints one aligned line, with details below it.
pub fn say(what: &str, fact: &str) {
    output::show!("{}  {what:<8} {fact}", output::now());
}

/// Webhooks that the receiver got, by webhook-id, until the engine reports them.
#[derive(Clone, Default)]
pub struct HeardSoFar(Arc<Mutex<HashMap<String, Heard>>>);

impl HeardSoFar {
    pub fn put(&self, heard: Heard) {
        let mut all = self.0.lock().expect("no code panics while it holds this lock");
        if all.len() < HEARD_MAX {
            all.insert(heard.id.clone(), heard);
        }
    }

    fn take(&self, id: &str) -> Option<Heard> {
        self.0.lock().expect("no code panics while it holds this lock").remove(id)
    }
}

/// Limits how many messages are printed in one second, and counts the rest.
#[derive(Default)]
struct Room {
    routine: usize,
    notable: usize,
    events: u64,
    runs: u64,
    webhooks: u64,
    plugins: u64,
    refused: u64,
    /// Messages lost because they came faster than they were printed.
    missed: u64,
}

impl Room {
    /// Returns whether this second has room to print the message. If not, counts it.
    fn has_for(&mut self, fact: &StreamView) -> bool {
        if let StreamView::Missed { count } = fact {
            self.missed += count;
            return false;
        }
        let (taken, places) = if is_routine(fact) { (&mut self.routine, ROUTINE_MAX) } else { (&mut self.notable, NOTABLE_MAX) };
        *taken += 1;
        if *taken <= places {
            return true;
        }
        *match fact {
            StreamView::Event { .. } => &mut self.events,
            StreamView::Refused { .. } => &mut self.refused,
            StreamView::Run { .. } => &mut self.runs,
            StreamView::Attempt { .. } => &mut self.webhooks,
            _ => &mut self.plugins,
        } += 1;
        false
    }

    /// Formats the number of unprinted messages.
    fn counted(&self) -> Option<String> {
        let kinds = [
            (self.events, "event"),
            (self.runs, "run"),
            (self.webhooks, "webhook"),
            (self.plugins, "plugin"),
            (self.refused, "refused request"),
            (self.missed, "other message"),
        ];
        let counts: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| count(*n, noun)).collect();
        (!counts.is_empty()).then(|| format!("and {} more", counts.join(", ")))
    }
}

/// Returns whether a message is routine, not a failure.
fn is_routine(fact: &StreamView) -> bool {
    match fact {
        StreamView::Event { .. } | StreamView::Unrouted { .. } => true,
        StreamView::Run { outcome, .. } => outcome == "ok",
        StreamView::Attempt { state, .. } => state == "delivered",
        _ => false,
    }
}

/// Prints messages, and counts those beyond the limit of a second.
#[derive(Default)]
pub struct FeedPrinter {
    pub heard: HeardSoFar,
    room: Room,
}

impl FeedPrinter {
    pub fn new(heard: HeardSoFar) -> Self {
        Self { heard, room: Room::default() }
    }

    /// Prints a message, unless this second has reached its limit.
    pub fn print(&mut self, fact: &StreamView) {
        if self.room.has_for(fact) {
            if let Some((what, text)) = self.fact(fact) {
                say(what, &text);
            }
        } else if let StreamView::Attempt { delivery, .. } = fact {
            self.heard.take(delivery);
        }
    }

    /// Prints the number of messages that were not printed in the second that ends now.
    pub fn end_second(&mut self) {
        if let Some(counted) = std::mem::take(&mut self.room).counted() {
            say("busy", &counted);
        }
    }

    /// Formats a message in two columns.
    fn fact(&self, fact: &StreamView) -> Option<(&'static str, String)> {
        Some(match fact {
            StreamView::Event { event, r#type, source } => {
                ("event", format!("{}  {}  from {}", one_line(event), one_line(r#type), one_line(source)))
            }
            StreamView::Unrouted { r#type, nearest, .. } => {
                let near = nearest.as_deref().map(|near| format!("; the nearest pattern is {}", one_line(near)));
                let text = format!("no plugin and no endpoint subscribes to {}{}", one_line(r#type), near.unwrap_or_default());
                ("unrouted", Styled(YELLOW, text).to_string())
            }
            StreamView::Refused { source, address, message, .. } => {
                let word = Styled(RED, format!("{} refused a request", one_line(source)));
                ("source", format!("{word} from {}\n{}", one_line(address), indent(&measure::lines(message))))
            }
            StreamView::Run {
                run,
                plugin,
                version,
                outcome,
                state,
                message,
                backtrace,
                wants,
                duration_ms,
                webhooks,
                events,
                log,
                log_more,
                ..
            } => {
                let mut log: Vec<String> = log.iter().map(event::log_line).collect();
                if *log_more > 0 {
                    let more = format!("… {}: innesco run show {}", count(*log_more, "more line"), one_line(run));
                    log.push(indent(&Styled(DIM, more).to_string()));
                }
                let name = versioned(plugin, version.as_deref());
                let word = Styled(output::look(outcome).1, one_line(outcome));
                if outcome == "ok" {
                    let asked = event::asked(*webhooks, *events);
                    log.insert(0, format!("{name}  {word}  {}  {asked}", event::took(*duration_ms)));
                    return Some(("run", log.join("\n")));
                }
                let message = measure::lines(message.as_deref().unwrap_or_default());
                let advice = match state.as_ref() {
                    "waiting" => "it is tried again automatically".to_owned(),
                    _ => run::advice(run, outcome, wants.as_deref()),
                };
                let mut lines = message.lines();
                let first = lines.next().unwrap_or_default();
                let backtrace: Vec<String> = backtrace.iter().map(|line| format!("at {}", one_line(line))).collect();
                let below: Vec<&str> = lines.chain(backtrace.iter().map(String::as_str)).chain([advice.as_str()]).collect();
                log.insert(0, format!("{name}  {word}  {first}\n{}", indent(&below.join("\n"))));
                ("run", log.join("\n"))
            }
            StreamView::Attempt {
                delivery,
                endpoint,
                n,
                attempts_max,
                outcome,
                status,
                detail,
                latency_ms,
                state,
                reason,
                next_in_ms,
                ..
            } => {
                let heard = self.heard.take(delivery);
                let mut fact = format!("→ {}  {}", one_line(endpoint), output::attempt(outcome, *status));
                // A webhook that was never sent has no latency.
                if *latency_ms > 0.0 {
                    fact.push_str(&format!("  {}", event::took(*latency_ms)));
                }
                if let Some(heard) = &heard {
                    fact.push_str(&format!("  {}", heard.verdict()));
                }
                if let Some(detail) = detail {
                    fact.push_str(&format!("  {}", one_line(detail)));
                }
                let count = format!("attempt {n} of {attempts_max}");
                match (state.as_ref(), next_in_ms, reason.as_deref()) {
                    ("delivered", ..) if *n > 1 => fact.push_str(&format!("  {count}")),
                    ("delivered", ..) => {}
                    (_, Some(next_in), _) => {
                        let wait = measure::coarse(Duration::from_millis(next_in.saturating_add(500)));
                        fact.push_str(&format!("  {}", Styled(YELLOW, format!("{count}, next in {wait}"))));
                    }
                    (_, _, Some("gone")) => fact
                        .push_str(&format!("  {}", Styled(RED, "the receiver answered 410 (gone): nothing more is sent to it"))),
                    _ => fact.push_str(&format!("  {}", Styled(RED, format!("{count}, {}", one_line(state))))),
                }
                if let Some(heard) = heard.filter(|heard| !heard.body.is_empty()) {
                    fact.push_str(&format!("\n{}", indent(&heard.shown_body())));
                }
                ("webhook", fact)
            }
            StreamView::PluginServing { plugin, version, was, bytes } => {
                let was = was.as_deref().map(|was| format!(" (was {})", event::short(was))).unwrap_or_default();
                ("plugin", format!("{} serving{was}  {}", versioned(plugin, Some(version)), measure::size(*bytes)))
            }
            StreamView::PluginFailed { file, keeps, message } => {
                let keeps = keeps.as_deref().map(|keeps| format!("; {} keeps serving", event::short(keeps))).unwrap_or_default();
                let word = Styled(RED, format!("{} is not loaded", one_line(file)));
                ("plugin", format!("{word}{keeps}\n{}", indent(&measure::lines(message))))
            }
            StreamView::PluginRemoved { plugin } => {
                ("plugin", format!("{} no longer serves: its file was removed", one_line(plugin)))
            }
            StreamView::Missed { .. } | StreamView::Unknown => return None,
        })
    }
}

/// Formats a plugin with the first digits of its version.
fn versioned(plugin: &str, version: Option<&str>) -> String {
    let version = version.map(|version| format!("@{}", event::short(version))).unwrap_or_default();
    format!("{}{version}", one_line(plugin))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        cli::listen::Verdict,
        domain::{
            delivery::{AttemptOutcome, DeadReason, Next},
            id::{DeliveryId, EventId, Tag},
            plugin::Digest,
            run::{LogLevel, LogLine, RunOutcome, RunState},
            time::Timestamp,
        },
        news::{News, ShownLog},
    };

    fn tag() -> Tag {
        Tag::from_random([0; 4])
    }

    fn line_of(printer: &FeedPrinter, news: &News) -> String {
        let (what, fact) = printer.fact(&StreamView::new(news, tag())).expect("it has a line");
        anstream::adapter::strip_str(&format!("{what:<8} {fact}")).to_string()
    }

    fn ran(outcome: RunOutcome, state: RunState, message: Option<&str>) -> News {
        News::Ran {
            run: EventId::from_i64(1).run(2),
            event_type: "order.created".into(),
            plugin: "order-router".into(),
            version: Some(Digest::from_bytes([0x3f; 32])),
            outcome,
            state,
            message: message.map(str::to_owned),
            backtrace: if outcome == RunOutcome::Trapped {
                Arc::from(["router::pick (src/lib.rs:13)".to_owned()])
            } else {
                Arc::default()
            },
            wants: None,
            took: Duration::from_micros(50),
            webhooks: 2,
            emitted: 0,
            log: ShownLog::default(),
        }
    }

    fn attempted(outcome: AttemptOutcome, detail: Option<&str>, attempt: u32, next: Next) -> News {
        News::Attempted {
            delivery: DeliveryId::from_i64(7),
            event_type: "order.created".into(),
            endpoint: "crm".into(),
            outcome,
            detail: detail.map(str::to_owned),
            latency: if outcome == AttemptOutcome::Blocked { Duration::ZERO } else { Duration::from_millis(12) },
            attempt,
            attempts_max: 10,
            next,
            now: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn runs() {
        let printer = FeedPrinter::default();
        let id = EventId::from_i64(1).run(2).text(tag());
        assert_eq!(
            line_of(&printer, &ran(RunOutcome::Ok, RunState::Done, None)),
            "run      order-router@3f3f3f  ok  0.05 ms  2 webhooks"
        );
        assert_eq!(
            line_of(&printer, &ran(RunOutcome::Trapped, RunState::Parked, Some("panicked at src/lib.rs:13:29: unlucky 13"))),
            format!(
                "run      order-router@3f3f3f  trapped  panicked at src/lib.rs:13:29: unlucky 13\n          at router::pick (src/lib.rs:13)\n          \
                 parked; after a fix: innesco run retry {id}"
            )
        );
        let waiting = RunState::Waiting { due: Timestamp::from_millis(1) };
        assert!(
            line_of(&printer, &ran(RunOutcome::Failed, waiting, Some("busy")))
                .ends_with("busy\n          it is tried again automatically")
        );
        let News::Ran {
            run,
            event_type,
            plugin,
            version,
            outcome: _,
            state,
            message,
            backtrace,
            wants: _,
            took,
            webhooks,
            emitted,
            log,
        } = ran(RunOutcome::BadOutput, RunState::Parked, Some("webhook 1 goes to endpoint \"crm\", which does not exist"))
        else {
            panic!("a run")
        };
        let (outcome, wants) = (RunOutcome::BadOutput, Some("crm".to_owned()));
        let wanting = News::Ran {
            run,
            event_type,
            plugin,
            version,
            outcome,
            state,
            message,
            backtrace,
            wants,
            took,
            webhooks,
            emitted,
            log,
        };
        assert_eq!(
            line_of(&printer, &wanting).lines().skip(1).collect::<Vec<_>>(),
            ["          parked until the endpoint crm exists, then tried again automatically: innesco endpoint add crm URL"],
            "one advice"
        );
    }

    #[test]
    fn a_log_is_printed_below_its_run() {
        let printer = FeedPrinter::default();
        let id = EventId::from_i64(1).run(2).text(tag());
        let logged = |mut news: News| {
            if let News::Ran { log, .. } = &mut news {
                let lines = vec![
                    LogLine { level: LogLevel::Info, message: "order 7".into(), fields: vec![("id".into(), "7".into())] },
                    LogLine { level: LogLevel::Warn, message: "two\nlines\u{1b}[2J".into(), fields: vec![] },
                ];
                *log = ShownLog { lines, more: 3 };
            }
            line_of(&printer, &news)
        };
        let log = format!(
            "          info  order 7  id=7\n          warn  two\n          lines\\u{{1b}}[2J\n          \
             … 3 more lines: innesco run show {id}"
        );
        let expected = format!("run      order-router@3f3f3f  ok  0.05 ms  2 webhooks\n{log}");
        assert_eq!(logged(ran(RunOutcome::Ok, RunState::Done, None)), expected);
        let failed = logged(ran(RunOutcome::Failed, RunState::Parked, Some("no stock")));
        assert!(failed.ends_with(&format!("parked; after a fix: innesco run retry {id}\n{log}")), "{failed}");
    }

    #[test]
    fn unrouted_events_and_refused_requests_are_printed() {
        let printer = FeedPrinter::default();
        let unrouted = |nearest: Option<&str>| {
            let (event, nearest) = (EventId::from_i64(1), nearest.map(str::to_owned));
            line_of(&printer, &News::Unrouted { event, event_type: "ordr.created".into(), nearest })
        };
        assert_eq!(unrouted(None), "unrouted no plugin and no endpoint subscribes to ordr.created");
        assert_eq!(
            unrouted(Some("order.*")),
            "unrouted no plugin and no endpoint subscribes to ordr.created; the nearest pattern is order.*"
        );
        let refused = News::Refused {
            source: "github".into(),
            address: [127, 0, 0, 1].into(),
            reason: "missing",
            detail: "the header is missing".into(),
        };
        assert_eq!(
            line_of(&printer, &refused),
            "source   github refused a request from 127.0.0.1\n          the header is missing"
        );
    }

    #[test]
    fn attempts() {
        let printer = FeedPrinter::default();
        let answered = |status| AttemptOutcome::Answered { status };
        let retry = Next::Retry { due: Timestamp::from_millis(4_900) };
        let cases = [
            (attempted(answered(503), None, 1, retry), "webhook  → crm  503  12 ms  attempt 1 of 10, next in 5 s"),
            (attempted(answered(200), None, 2, Next::Delivered), "webhook  → crm  200  12 ms  attempt 2 of 10"),
            (attempted(answered(200), None, 1, Next::Delivered), "webhook  → crm  200  12 ms"),
            (
                attempted(AttemptOutcome::Blocked, Some("10.0.0.7 is a private address"), 10, Next::Dead(DeadReason::Exhausted)),
                "webhook  → crm  blocked  10.0.0.7 is a private address  attempt 10 of 10, dead",
            ),
        ];
        for (news, line) in cases {
            assert_eq!(line_of(&printer, &news), line);
        }
    }

    #[test]
    fn prints_the_received_body_below_the_webhook() {
        let printer = FeedPrinter::default();
        let id = DeliveryId::from_i64(7).text(tag());
        let body = Bytes::from_static(b"{\"text\": \"Order 7 over 1000\"}");
        printer.heard.put(Heard { path: "/crm".into(), id: id.clone(), event_type: None, verdict: Verdict::Verified, body });
        let news = attempted(AttemptOutcome::Answered { status: 200 }, None, 1, Next::Delivered);
        assert_eq!(
            line_of(&printer, &news),
            "webhook  → crm  200  12 ms  signature verified\n          {\"text\": \"Order 7 over 1000\"}"
        );
        assert!(printer.heard.take(&id).is_none(), "a body is printed once");
    }

    #[test]
    fn a_busy_second_is_counted_and_hides_no_failure() {
        let mut room = Room::default();
        let view = |news: &News| StreamView::new(news, tag());
        let good = view(&ran(RunOutcome::Ok, RunState::Done, None));
        let bad = view(&ran(RunOutcome::Trapped, RunState::Parked, None));
        let accepted = view(&News::Accepted { event: EventId::from_i64(1), event_type: "x".into(), source: "cli".into() });
        assert_eq!((0..ROUTINE_MAX + 5).filter(|_| room.has_for(&good)).count(), ROUTINE_MAX);
        assert!(!room.has_for(&accepted));
        assert!(room.has_for(&bad));
        assert!(!room.has_for(&StreamView::Missed { count: 7 }), "a message above the limit is only counted");
        assert_eq!(room.counted().unwrap(), "and 1 event, 5 runs, 7 other messages more");
        assert_eq!(Room::default().counted(), None);
    }

    #[test]
    fn plugins() {
        let printer = FeedPrinter::default();
        let (new, old) = (Digest::from_bytes([0x91; 32]), Digest::from_bytes([0x3f; 32]));
        let serves = News::PluginServes { plugin: "order-router".into(), version: new, was: Some(old), bytes: 57_800 };
        assert_eq!(line_of(&printer, &serves), "plugin   order-router@919191 serving (was 3f3f3f)  58 kB");
        let failed = News::PluginFailed { file: "foo.wasm".into(), keeps: Some(old), message: "it exports nothing".into() };
        assert_eq!(
            line_of(&printer, &failed),
            "plugin   foo.wasm is not loaded; 3f3f3f keeps serving\n          it exports nothing"
        );
    }
}
