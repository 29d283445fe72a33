//! The event stream: what this node does now, as server-sent events.
//!
//! The stream is the live feed ([`crate::news`]), so it may lose messages. It reports how many were lost. If you must not miss
//! anything, read the lists. At most [`WAITING_MAX`] messages per caller are buffered here. The feed buffers further messages, once
//! for all callers.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use hyper::body::{Body as HttpBody, Frame};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    broadcast::{Receiver, error::RecvError},
    mpsc,
};
use utoipa::IntoParams;

use super::{Api, auth::Caller, error::Problem, page::Query};
use crate::{
    clock,
    domain::{delivery::Next, id::Tag, name::Slug, pattern::Pattern},
    news::News,
    wire::{LogView, StreamView, values::values},
};

/// Maximum number of open streams.
const STREAMS_MAX: usize = 64;
/// Maximum number of messages that wait for one caller. Further messages wait in the feed, which drops the oldest.
const WAITING_MAX: usize = 16;
/// A comment is sent at this interval, so that both sides notice a broken connection. The caller's key is checked again at the same
/// time.
const PULSE: Duration = Duration::from_secs(5);

/// Limits the number of open streams.
pub struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

impl Streams {
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0)
            .try_acquire_owned()
            .map_err(|_| Problem::come_back(format!("{STREAMS_MAX} streams are open, the limit; close one, or try again later")))
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only events of this type or pattern, such as `order.*`, with their runs and attempts.
    #[param(value_type = Option<Pattern>)]
    pub r#type: Option<String>,
    /// Only attempts to the endpoint of this name.
    #[param(value_type = Option<Slug>)]
    pub endpoint: Option<String>,
    /// Only the plugin of this name: its runs and its versions.
    #[param(value_type = Option<Slug>)]
    pub plugin: Option<String>,
}

/// Selects messages of the feed.
#[derive(Default)]
struct Selection {
    pattern: Option<Pattern>,
    endpoint: Option<String>,
    plugin: Option<String>,
}

impl Selection {
    fn new(filter: Filter) -> Result<Self, Problem> {
        let pattern = filter.r#type.as_deref().map(Pattern::parse).transpose();
        let pattern = pattern.map_err(|bad| Problem::bad_request(format!("type: {bad}")))?;
        Ok(Self { pattern, endpoint: name("endpoint", filter.endpoint)?, plugin: name("plugin", filter.plugin)? })
    }

    /// Returns whether a message matches every filter. A message that lacks the property of a filter does not match.
    fn takes(&self, news: &News) -> bool {
        let (event_type, endpoint, plugin) = match news {
            News::Accepted { event_type, .. } | News::Unrouted { event_type, .. } => (Some(event_type), None, None),
            News::Ran { event_type, plugin, .. } => (Some(event_type), None, Some(plugin)),
            News::Attempted { event_type, endpoint, .. } => (Some(event_type), Some(endpoint), None),
            News::PluginServes { plugin, .. } | News::PluginGone { plugin } => (None, None, Some(plugin)),
            News::PluginFailed { .. } | News::Refused { .. } => (None, None, None),
        };
        let is = |wanted: &Option<String>, found: Option<&String>| wanted.is_none() || wanted.as_ref() == found;
        self.pattern.as_ref().is_none_or(|pattern| event_type.is_some_and(|text| pattern.matches(text)))
            && is(&self.endpoint, endpoint)
            && is(&self.plugin, plugin)
    }
}

/// Reads the name in a filter. The endpoint or plugin of this name may be created later.
fn name(filter: &str, given: Option<String>) -> Result<Option<String>, Problem> {
    let bad = given.as_deref().and_then(|text| Slug::parse(text).err());
    bad.map_or(Ok(given), |bad| Err(Problem::bad_request(format!("{filter}: {bad}"))))
}

/// The OpenAPI schema of a server-sent event with a [`StreamView`]: its lines are text, and the `data` line is JSON.
enum ServerSent {}

values! {
    ServerSent, "ServerSentMessage" with StreamView, json!({
        "type": "object",
        "description": "A server-sent event. Its `event` is the `kind` of the message.",
        "required": ["event", "data"],
        "properties": {
            "event": { "type": "string" },
            "data": {
                "type": "string", "description": "A message.", "contentMediaType": "application/json",
                "contentSchema": { "$ref": "#/components/schemas/StreamMessage" },
            },
        },
    });
}

/// Follow the live activity.
///
/// Server-sent events: each message is one `data` line with a JSON object, and its `event` is the object's `kind`. The stream
/// begins with the next activity and has no end. It shows only the work of the node that you call; with several nodes, call each
/// of them. A caller that reads too slowly loses messages, and gets a message of the kind `missed` with the number of lost ones.
#[utoipa::path(
    get, path = "/v1/stream", operation_id = "follow_stream", tag = "engine", params(Filter),
    responses((status = 200, description = "Messages, as long as the connection lasts.", body = ServerSent, content_type = "text/event-stream")),
    extensions(("x-problems" = json!(["overloaded"]))),
)]
pub async fn follow(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    let selection = Selection::new(filter)?;
    let place = api.streams.place()?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let news = api.feed.listen();
    tokio::spawn(async move {
        let (tag, stopping) = (api.store.tag(), &api.stopping);
        let may_see = || api.keys.holds(&caller.key, clock::wall());
        tokio::select! {
            () = pump(&selection, tag, news, sender, PULSE, may_see) => {}
            () = stopping.cancelled() => {}
        }
        drop(place);
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Pieces(receiver))).into_response())
}

/// Passes messages on until the caller leaves, or until `may_see` returns false. `may_see` is called at each `pulse`.
async fn pump(
    selection: &Selection,
    tag: Tag,
    mut news: Receiver<Arc<News>>,
    sender: mpsc::Sender<Bytes>,
    pulse: Duration,
    may_see: impl Fn() -> bool,
) {
    // The head of the answer is sent with its first bytes.
    let mut next = Some(Bytes::from_static(b": connected\n\n"));
    let mut pulse = tokio::time::interval(pulse);
    pulse.reset();
    loop {
        if let Some(bytes) = next.take()
            && sender.send(bytes).await.is_err()
        {
            return;
        }
        tokio::select! {
            // The key is checked first, so that a stream with a revoked key ends even while the feed is busy.
            biased;
            () = sender.closed() => return,
            _ = pulse.tick() => {
                if !may_see() {
                    return;
                }
                next = Some(Bytes::from_static(b": pulse\n\n"));
            }
            received = news.recv() => match received {
                Ok(one) if selection.takes(&one) => next = Some(message(&StreamView::new(&one, tag))),
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => next = Some(message(&StreamView::Missed { count })),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// Formats a message as a server-sent event.
fn message(view: &StreamView) -> Bytes {
    let json = serde_json::to_value(view).expect("a view is JSON");
    format!("event: {}\ndata: {json}\n\n", json["kind"].as_str().unwrap_or_default()).into()
}

/// The body of a stream.
struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

impl StreamView {
    pub fn new(news: &News, tag: Tag) -> Self {
        let millis = super::millis;
        match news {
            News::Accepted { event, event_type, source } => {
                Self::Event { event: event.text(tag), r#type: event_type.clone(), source: source.clone() }
            }
            News::Unrouted { event, event_type, nearest } => {
                Self::Unrouted { event: event.text(tag), r#type: event_type.clone(), nearest: nearest.clone() }
            }
            News::Refused { source, address, reason, detail } => Self::Refused {
                source: source.clone(),
                address: address.to_string(),
                reason: (*reason).into(),
                message: detail.clone(),
            },
            News::Ran {
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
            } => Self::Run {
                run: run.text(tag),
                event: run.event().text(tag),
                r#type: event_type.clone(),
                plugin: plugin.clone(),
                version: version.map(|version| version.to_string()),
                outcome: outcome.as_str().into(),
                state: state.as_str().into(),
                message: message.clone(),
                backtrace: backtrace.to_vec(),
                wants: wants.clone(),
                duration_ms: millis(*took),
                webhooks: *webhooks as u64,
                events: *emitted as u64,
                log: log.lines.iter().map(LogView::new).collect(),
                log_more: log.more,
            },
            News::Attempted { delivery, event_type, endpoint, outcome, detail, latency, attempt, attempts_max, next, now } => {
                Self::Attempt {
                    delivery: delivery.text(tag),
                    event: delivery.event().text(tag),
                    r#type: event_type.clone(),
                    endpoint: endpoint.clone(),
                    n: *attempt,
                    attempts_max: *attempts_max as u64,
                    outcome: outcome.as_str().into(),
                    status: outcome.status(),
                    detail: detail.clone(),
                    latency_ms: millis(*latency),
                    state: match next {
                        Next::Delivered => "delivered",
                        Next::Retry { .. } => "retrying",
                        Next::Dead(_) => "dead",
                    }
                    .into(),
                    reason: match next {
                        Next::Dead(reason) => Some(reason.as_str().into()),
                        _ => None,
                    },
                    next_in_ms: match next {
                        Next::Retry { due } => u64::try_from(due.since(*now).as_millis()).ok(),
                        _ => None,
                    },
                }
            }
            News::PluginServes { plugin, version, was, bytes } => Self::PluginServing {
                plugin: plugin.clone(),
                version: version.to_string(),
                was: was.map(|was| was.to_string()),
                bytes: *bytes,
            },
            News::PluginFailed { file, keeps, message } => {
                Self::PluginFailed { file: file.clone(), keeps: keeps.map(|keeps| keeps.to_string()), message: message.clone() }
            }
            News::PluginGone { plugin } => Self::PluginRemoved { plugin: plugin.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            delivery::AttemptOutcome,
            id::EventId,
            plugin::Digest,
            run::{RunOutcome, RunState},
            time::Timestamp,
        },
        news::{Feed, ShownLog},
    };

    fn selection(r#type: &str, endpoint: &str, plugin: &str) -> Selection {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Selection::new(Filter { r#type: given(r#type), endpoint: given(endpoint), plugin: given(plugin) }).unwrap()
    }

    fn all() -> [News; 7] {
        let event = EventId::from_i64(1);
        [
            News::Accepted { event, event_type: "order.created".into(), source: "shop".into() },
            News::Ran {
                run: event.run(0),
                event_type: "order.created".into(),
                plugin: "router".into(),
                version: Some(Digest::from_bytes([1; 32])),
                outcome: RunOutcome::Ok,
                state: RunState::Done,
                message: None,
                backtrace: Arc::default(),
                wants: None,
                took: Duration::from_millis(2),
                webhooks: 1,
                emitted: 0,
                log: ShownLog::default(),
            },
            News::Attempted {
                delivery: event.delivery(0),
                event_type: "order.created".into(),
                endpoint: "crm".into(),
                outcome: AttemptOutcome::Answered { status: 503 },
                detail: None,
                latency: Duration::from_millis(3),
                attempt: 1,
                attempts_max: 10,
                next: Next::Retry { due: Timestamp::from_millis(5_000) },
                now: Timestamp::from_millis(0),
            },
            News::PluginGone { plugin: "router".into() },
            News::PluginFailed { file: "x.wasm".into(), keeps: None, message: "it is damaged".into() },
            News::Unrouted { event, event_type: "order.created".into(), nearest: Some("order.*".into()) },
            News::Refused {
                source: "github".into(),
                address: [127, 0, 0, 1].into(),
                reason: "missing",
                detail: "no signature".into(),
            },
        ]
    }

    #[test]
    fn filters_select_messages_that_match_every_filter() {
        for (filter, expected) in [
            (("", "", ""), [true; 7]),
            (("order.*", "", ""), [true, true, true, false, false, true, false]),
            (("invoice.*", "", ""), [false; 7]),
            (("", "crm", ""), [false, false, true, false, false, false, false]),
            (("", "slack", ""), [false; 7]),
            (("", "", "router"), [false, true, false, true, false, false, false]),
            (("order.*", "", "router"), [false, true, false, false, false, false, false]),
            (("order.*", "crm", "router"), [false; 7]),
        ] {
            let selection = selection(filter.0, filter.1, filter.2);
            assert_eq!(all().each_ref().map(|news| selection.takes(news)), expected, "{filter:?}");
        }
        let none = || Filter { r#type: None, endpoint: None, plugin: None };
        for (filter, named) in [
            (Filter { r#type: Some("order.*.x".into()), ..none() }, "type: "),
            (Filter { endpoint: Some("x".repeat(60_000)), ..none() }, "endpoint: "),
            (Filter { plugin: Some("No Name".into()), ..none() }, "plugin: "),
        ] {
            assert!(Selection::new(filter).is_err_and(|problem| problem.detail().starts_with(named)), "{named}");
        }
    }

    #[test]
    fn each_message_is_one_line_that_its_reader_understands() {
        let tag = Tag::from_random([0; 4]);
        for (news, kind) in
            all().iter().zip(["event", "run", "attempt", "plugin-removed", "plugin-failed", "unrouted", "refused"])
        {
            let text = String::from_utf8(message(&StreamView::new(news, tag)).to_vec()).unwrap();
            let lines: Vec<&str> = text.split('\n').collect();
            let [event, data, "", ""] = lines.as_slice() else { panic!("{text}") };
            assert_eq!(*event, format!("event: {kind}"));
            let read: StreamView = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap()["kind"], kind);
            if let StreamView::Attempt { state, next_in_ms, status, .. } = read {
                assert_eq!((state.as_ref(), next_in_ms, status), ("retrying", Some(5_000), Some(503)));
            }
        }
        let newer: StreamView = serde_json::from_str(r#"{"kind":"weather","rain":true}"#).unwrap();
        assert!(matches!(newer, StreamView::Unknown));
    }

    #[tokio::test]
    async fn a_slow_caller_misses_messages_and_learns_how_many() {
        let feed = Feed::default();
        let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
        let (selection, tag) = (Selection::default(), Tag::from_random([0; 4]));
        let news = feed.listen();
        let pumping = tokio::spawn(async move { pump(&selection, tag, news, sender, PULSE, || true).await });
        tokio::task::yield_now().await;
        let many = 5_000;
        for number in 0..many {
            let event = EventId::from_i64(number);
            feed.send(|| News::Accepted { event, event_type: "order.created".into(), source: "shop".into() });
        }
        let (mut events, mut missed) = (0, 0);
        while events + missed < many {
            let text = String::from_utf8(receiver.recv().await.expect("more").to_vec()).unwrap();
            let Some(json) = text.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
            match serde_json::from_str(json).unwrap() {
                StreamView::Event { .. } => events += 1,
                StreamView::Missed { count } => missed += i64::try_from(count).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(events + missed, many);
        assert!(missed > 0 && events > 0, "{events} arrived, {missed} missed");
        drop(receiver);
        pumping.await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_ends_soon_after_its_key_was_revoked() {
        let feed = Feed::default();
        let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
        let (selection, news) = (Selection::default(), feed.listen());
        tokio::spawn(async move {
            pump(&selection, Tag::from_random([0; 4]), news, sender, Duration::from_millis(1), || false).await
        });
        assert_eq!(receiver.recv().await.as_deref(), Some(&b": connected\n\n"[..]));
        assert_eq!(receiver.recv().await, None);
    }

    #[test]
    fn streams_are_bounded() {
        let streams = Streams::default();
        let places: Vec<_> = std::iter::from_fn(|| streams.place().ok()).collect();
        assert_eq!(places.len(), STREAMS_MAX);
        assert!(streams.place().is_err_and(|problem| problem.detail().contains("64 streams")));
    }
}
