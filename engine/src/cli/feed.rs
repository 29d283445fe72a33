//! Prints the engine's live feed on a developer's terminal: one line per fact, newest last. Facts of a busy engine are counted
//! instead.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    event,
    listen::Heard,
    measure::{self, count},
    output::{self, RED, Styled, YELLOW, indent},
    run,
};
use crate::{
    domain::{
        delivery::{DeadReason, Next},
        id::Tag,
        run::{RunOutcome, RunState},
    },
    news::News,
};

/// Maximum number of facts printed per second, for routine facts and for failures. More are counted.
const ROUTINE_MAX: usize = 20;
const NOTABLE_MAX: usize = 40;
/// Maximum number of webhooks that the receiver got and the engine has not yet reported.
const HEARD_MAX: usize = 10_000;

/// Prints one aligned line per fact, with details below it.
pub fn say(what: &str, fact: &str) {
    anstream::println!("{}  {what:<8} {fact}", output::now());
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

/// Limits how many facts of one second are printed; the rest is counted.
#[derive(Default)]
struct Room {
    routine: usize,
    notable: usize,
    events: u64,
    runs: u64,
    webhooks: u64,
    plugins: u64,
    /// Facts lost because they came faster than they were printed.
    missed: u64,
}

impl Room {
    /// Reserves a line for one fact, or counts it.
    fn has_for(&mut self, news: &News) -> bool {
        let (taken, places) = if is_routine(news) { (&mut self.routine, ROUTINE_MAX) } else { (&mut self.notable, NOTABLE_MAX) };
        *taken += 1;
        if *taken <= places {
            return true;
        }
        *match news {
            News::Accepted { .. } => &mut self.events,
            News::Ran { .. } => &mut self.runs,
            News::Attempted { .. } => &mut self.webhooks,
            _ => &mut self.plugins,
        } += 1;
        false
    }

    /// Formats the number of unprinted facts.
    fn counted(&self) -> Option<String> {
        let kinds = [
            (self.events, "event"),
            (self.runs, "run"),
            (self.webhooks, "webhook"),
            (self.plugins, "plugin"),
            (self.missed, "other fact"),
        ];
        let counts: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| count(*n, noun)).collect();
        (!counts.is_empty()).then(|| format!("and {} more", counts.join(", ")))
    }
}

/// Returns whether a fact is routine, not a failure.
fn is_routine(news: &News) -> bool {
    match news {
        News::Accepted { .. } => true,
        News::Ran { outcome, .. } => *outcome == RunOutcome::Ok,
        News::Attempted { next, .. } => matches!(next, Next::Delivered),
        News::PluginServes { .. } | News::PluginFailed { .. } | News::PluginGone { .. } => false,
    }
}

/// Prints the engine's live feed.
pub struct FeedPrinter {
    pub tag: Tag,
    pub heard: HeardSoFar,
}

impl FeedPrinter {
    /// Prints until the feed ends.
    pub async fn print(self, mut news: Receiver<Arc<News>>) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut room = Room::default();
        loop {
            let one = tokio::select! {
                one = news.recv() => one,
                _ = second.tick() => {
                    if let Some(counted) = std::mem::take(&mut room).counted() {
                        say("busy", &counted);
                    }
                    continue;
                }
            };
            match one {
                Ok(one) if room.has_for(&one) => {
                    let (what, fact) = self.fact(&one);
                    say(what, &fact);
                }
                Ok(one) => self.forget(&one),
                Err(RecvError::Lagged(missed)) => room.missed += missed,
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn forget(&self, news: &News) {
        if let News::Attempted { delivery, .. } = news {
            self.heard.take(&delivery.text(self.tag));
        }
    }

    /// Formats a fact in two columns.
    fn fact(&self, news: &News) -> (&'static str, String) {
        match news {
            News::Accepted { event, event_type, source } => {
                ("event", format!("{}  {event_type}  from {}", event.text(self.tag), measure::one_line(source)))
            }
            News::Ran { run, plugin, version, outcome, state, message, wants, took, webhooks, emitted } => {
                let version = version.map(|version| format!("@{}", version.short())).unwrap_or_default();
                let word = Styled(output::look(outcome.as_str()).1, outcome);
                if *outcome == RunOutcome::Ok {
                    let asked = event::asked(*webhooks as u64, *emitted as u64);
                    return ("run", format!("{plugin}{version}  {word}  {}  {asked}", measure::took(*took)));
                }
                let message = measure::lines(message.as_deref().unwrap_or_default());
                let advice = match state {
                    RunState::Waiting { .. } => "it is tried again automatically".to_owned(),
                    _ => run::advice(&run.text(self.tag), outcome.as_str(), wants.as_deref()),
                };
                let mut lines = message.lines();
                let first = lines.next().unwrap_or_default();
                let below: Vec<&str> = lines.chain([advice.as_str()]).collect();
                ("run", format!("{plugin}{version}  {word}  {first}\n{}", indent(&below.join("\n"))))
            }
            News::Attempted { delivery, endpoint, outcome, detail, latency, attempt, attempts_max, next, now } => {
                let heard = self.heard.take(&delivery.text(self.tag));
                let word = output::attempt(outcome.as_str(), outcome.status());
                let mut fact = format!("→ {endpoint}  {word}");
                // A webhook that was never sent has no latency.
                if !latency.is_zero() {
                    fact.push_str(&format!("  {}", measure::took(*latency)));
                }
                if let Some(heard) = &heard {
                    fact.push_str(&format!("  {}", heard.verdict()));
                }
                if let Some(detail) = detail {
                    fact.push_str(&format!("  {}", measure::one_line(detail)));
                }
                let count = format!("attempt {attempt} of {attempts_max}");
                match next {
                    Next::Delivered if *attempt > 1 => fact.push_str(&format!("  {count}")),
                    Next::Delivered => {}
                    Next::Retry { due } => {
                        let wait = measure::coarse(due.since(*now).saturating_add(Duration::from_millis(500)));
                        fact.push_str(&format!("  {}", Styled(YELLOW, format!("{count}, next in {wait}"))));
                    }
                    Next::Dead(DeadReason::Gone) => fact
                        .push_str(&format!("  {}", Styled(RED, "the receiver answered 410 (gone): nothing more is sent to it"))),
                    Next::Dead(_) => fact.push_str(&format!("  {}", Styled(RED, format!("{count}, dead")))),
                }
                if let Some(heard) = heard.filter(|heard| !heard.body.is_empty()) {
                    fact.push_str(&format!("\n{}", indent(&heard.shown_body())));
                }
                ("webhook", fact)
            }
            News::PluginServes { plugin, version, was, bytes } => {
                let was = was.map(|was| format!(" (was {})", was.short())).unwrap_or_default();
                ("plugin", format!("{plugin}@{} serving{was}  {}", version.short(), measure::size(*bytes as u64)))
            }
            News::PluginFailed { file, keeps, message } => {
                let keeps = keeps.map(|keeps| format!("; {} keeps serving", keeps.short())).unwrap_or_default();
                let word = Styled(RED, format!("{file} is not loaded"));
                ("plugin", format!("{word}{keeps}\n{}", indent(&measure::lines(message))))
            }
            News::PluginGone { plugin } => ("plugin", format!("{plugin} no longer serves: its file was removed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::{
        delivery::AttemptOutcome,
        id::{DeliveryId, EventId},
        plugin::Digest,
        time::Timestamp,
    };

    fn printer() -> FeedPrinter {
        FeedPrinter { tag: Tag::from_random([0; 4]), heard: HeardSoFar::default() }
    }

    fn line_of(printer: &FeedPrinter, news: &News) -> String {
        let (what, fact) = printer.fact(news);
        anstream::adapter::strip_str(&format!("{what:<8} {fact}")).to_string()
    }

    fn ran(outcome: RunOutcome, state: RunState, message: Option<&str>) -> News {
        News::Ran {
            run: EventId::from_i64(1).run(2),
            plugin: "order-router".into(),
            version: Some(Digest::from_bytes([0x3f; 32])),
            outcome,
            state,
            message: message.map(str::to_owned),
            wants: None,
            took: Duration::from_micros(50),
            webhooks: 2,
            emitted: 0,
        }
    }

    fn attempted(outcome: AttemptOutcome, detail: Option<&str>, attempt: u32, next: Next) -> News {
        News::Attempted {
            delivery: DeliveryId::from_i64(7),
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
        let printer = printer();
        let id = EventId::from_i64(1).run(2).text(printer.tag);
        assert_eq!(
            line_of(&printer, &ran(RunOutcome::Ok, RunState::Done, None)),
            "run      order-router@3f3f3f  ok  0.05 ms  2 webhooks"
        );
        assert_eq!(
            line_of(&printer, &ran(RunOutcome::Trapped, RunState::Parked, Some("panicked at src/lib.rs:13:29: unlucky 13"))),
            format!(
                "run      order-router@3f3f3f  trapped  panicked at src/lib.rs:13:29: unlucky 13\n          \
                 parked; after a fix: innesco run retry {id}"
            )
        );
        let waiting = RunState::Waiting { due: Timestamp::from_millis(1) };
        assert!(
            line_of(&printer, &ran(RunOutcome::Failed, waiting, Some("busy")))
                .ends_with("busy\n          it is tried again automatically")
        );
        let News::Ran { run, plugin, version, outcome: _, state, message, wants: _, took, webhooks, emitted } =
            ran(RunOutcome::BadOutput, RunState::Parked, Some("webhook 1 goes to endpoint \"crm\", which does not exist"))
        else {
            panic!("a run")
        };
        let (outcome, wants) = (RunOutcome::BadOutput, Some("crm".to_owned()));
        let wanting = News::Ran { run, plugin, version, outcome, state, message, wants, took, webhooks, emitted };
        assert_eq!(
            line_of(&printer, &wanting).lines().skip(1).collect::<Vec<_>>(),
            ["          parked until the endpoint crm exists, then tried again automatically: innesco endpoint add crm URL"],
            "one advice"
        );
    }

    #[test]
    fn attempts() {
        let printer = printer();
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
        let printer = printer();
        let id = DeliveryId::from_i64(7).text(printer.tag);
        let body = Bytes::from_static(b"{\"text\": \"Order 7 over 1000\"}");
        printer.heard.put(Heard { path: "/crm".into(), id: id.clone(), event_type: None, verified: Some(Ok(())), body });
        let news = attempted(AttemptOutcome::Answered { status: 200 }, None, 1, Next::Delivered);
        assert_eq!(
            line_of(&printer, &news),
            "webhook  → crm  200  12 ms  signature verified\n          {\"text\": \"Order 7 over 1000\"}"
        );
        assert!(printer.heard.take(&id).is_none(), "it is printed once");
    }

    #[test]
    fn a_busy_second_is_counted_and_hides_no_failure() {
        let mut room = Room::default();
        let (good, bad) = (ran(RunOutcome::Ok, RunState::Done, None), ran(RunOutcome::Trapped, RunState::Parked, None));
        let accepted = News::Accepted { event: EventId::from_i64(1), event_type: "x".into(), source: "cli".into() };
        assert_eq!((0..ROUTINE_MAX + 5).filter(|_| room.has_for(&good)).count(), ROUTINE_MAX);
        assert!(!room.has_for(&accepted));
        assert!(room.has_for(&bad));
        assert_eq!(room.counted().unwrap(), "and 1 event, 5 runs more");
        assert_eq!(Room::default().counted(), None);
    }

    #[test]
    fn plugins() {
        let printer = printer();
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
