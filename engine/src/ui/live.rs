//! The event stream of a page: signals that something has changed. After a signal the page fetches its address again, so a signal
//! carries no data.
//!
//! Changes of plugins, endpoints and sources that cause no news, such as a deleted file, are noticed within five seconds.
//!
//! A page has one stream, and a stream sends at most one signal of each kind per second (per 300 ms on the page of an event). A
//! node knows only its own work, so with several nodes a stream signals every kind every five seconds.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::{Query, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{
            Receiver,
            error::{RecvError, TryRecvError},
        },
        mpsc,
    },
    time::Instant,
};

use super::{Ui, visit::Visit};
use crate::{
    api::Problem,
    catalog::SourceTable,
    clock,
    domain::{id::EventId, routing::EndpointTable, time::Timestamp},
    news::News,
};

/// Minimum time between two signals.
const PACE: Duration = Duration::from_secs(1);
const EVENT_PACE: Duration = Duration::from_millis(300);
/// Delay, in addition to the pace, after which the last signal is repeated. By then, the data that all pages share is newer than
/// the change, because it is at most [`PACE`] old.
const ECHO: Duration = Duration::from_millis(200);
/// Time between two signals of every kind, for the work of other nodes.
const OTHERS: Duration = Duration::from_secs(5);
/// Time for which a stream leaves news unread after it has read all of them. Without this rest, ten open pages would wake ten tasks for
/// every message.
const REST: Duration = Duration::from_millis(100);
/// The stream sends a message at least this often, so that a page notices a broken stream.
const PULSE: Duration = Duration::from_secs(2);

/// Kinds of signals. An element of a page names the kinds that it follows in `data-live`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changed {
    events: bool,
    deliveries: bool,
    plugins: bool,
    sources: bool,
}

impl Changed {
    const ALL: Self = Self { events: true, deliveries: true, plugins: true, sources: true };

    fn note(&mut self, news: &News) {
        match news {
            News::Accepted { .. } | News::Unrouted { .. } => self.events = true,
            News::Ran { .. } => (self.events, self.plugins) = (true, true),
            News::Attempted { .. } => (self.events, self.deliveries) = (true, true),
            News::PluginServes { .. } | News::PluginFailed { .. } | News::PluginGone { .. } => self.plugins = true,
            News::Refused { .. } => self.sources = true,
        }
    }

    fn add(&mut self, other: Self) {
        self.events |= other.events;
        self.deliveries |= other.deliveries;
        self.plugins |= other.plugins;
        self.sources |= other.sources;
    }

    fn words(self) -> String {
        let all =
            [(self.events, "events"), (self.deliveries, "deliveries"), (self.plugins, "plugins"), (self.sources, "sources")];
        all.into_iter().filter(|(is_set, _)| *is_set).map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    }
}

/// Which signals a page needs.
#[derive(Deserialize)]
pub struct Wanted {
    /// When the page was requested, in milliseconds of the wall clock.
    since: Option<i64>,
    /// The event whose signals the page needs. Without it, the page needs all signals.
    event: Option<String>,
}

/// Returns whether a change concerns an event. Every accepted event counts, because it may be an event that this one emitted.
fn is_about(news: &News, event: EventId) -> bool {
    match news {
        News::Accepted { .. } => true,
        News::Unrouted { event: id, .. } => *id == event,
        News::Ran { run, .. } => run.event() == event,
        News::Attempted { delivery, .. } => delivery.event() == event,
        _ => false,
    }
}

/// Streams signals until the session's key is revoked or the engine stops.
pub async fn follow(State(ui): State<Arc<Ui>>, visit: Visit, Query(wanted): Query<Wanted>) -> Result<Response, Problem> {
    let place = ui.api.streams.place()?;
    let event = wanted.event.and_then(|text| EventId::parse(&text, ui.api.store.tag()));
    let (sender, receiver) = mpsc::channel(2);
    let since = wanted.since.map(Timestamp::from_millis);
    tokio::spawn(pump(ui, visit, event, since, sender, place));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Pieces(receiver))).into_response())
}

async fn pump(
    ui: Arc<Ui>,
    visit: Visit,
    event: Option<EventId>,
    since: Option<Timestamp>,
    sender: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
) {
    let mut news = ui.api.feed.listen();
    let pace = if event.is_some() { EVENT_PACE } else { PACE };
    // A change may have happened after the page was read and before its stream started.
    let is_old = since.is_some_and(|since| ui.api.feed.has_sent_since(since.minus(PACE)));
    let mut changed = if is_old { Changed::ALL } else { Changed::default() };
    // The kinds of changes that were signalled last. They are signalled once more, because the page may have read the store a
    // moment too early.
    let mut echo = Changed::default();
    let mut last_sent = Instant::now();
    let mut others_at = Instant::now() + OTHERS;
    let mut known = Known::now(&ui);
    let mut rest_until = Instant::now();
    if sender.send(Bytes::from_static(b"event: pulse\ndata:\n\n")).await.is_err() {
        return;
    }
    loop {
        let is_quiet = changed == Changed::default();
        let next = match (is_quiet, echo == Changed::default()) {
            (true, true) => last_sent + PULSE,
            (true, false) => last_sent + PACE + ECHO,
            (false, _) => last_sent + pace,
        };
        tokio::select! {
            biased;
            () = sender.closed() => return,
            () = ui.api.stopping.cancelled() => return,
            () = tokio::time::sleep_until(next) => {
                if !ui.api.keys.holds(&visit.key, clock::wall()) {
                    return;
                }
                let mut signalled = if is_quiet { std::mem::take(&mut echo) } else { std::mem::take(&mut changed) };
                // The page reads the configuration after this message, so the next comparison starts from this moment. Otherwise a
                // refused file that appears and is deleted between two comparisons would stay on the page, because only its
                // refusal is news.
                let now = Known::now(&ui);
                if !now.is_same(&known) {
                    (known, signalled) = (now, Changed::ALL);
                }
                if !is_quiet {
                    echo = signalled;
                }
                let message = match signalled.words() {
                    words if words.is_empty() => Bytes::from_static(b"event: pulse\ndata:\n\n"),
                    words => format!("event: changed\ndata: {words}\n\n").into(),
                };
                last_sent = Instant::now();
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep_until(others_at) => {
                let now = Known::now(&ui);
                if !now.is_same(&known) || has_others(&ui).await {
                    changed = Changed::ALL;
                }
                known = now;
                others_at = Instant::now() + OTHERS;
            }
            found = changes(&mut news, rest_until, event) => {
                let Some(found) = found else { return };
                changed.add(found);
                rest_until = Instant::now() + REST;
            }
        }
    }
}

/// Waits until the rest is over and a message is unread, and reads all of them. Returns what they change, or `None` if the feed has
/// ended.
async fn changes(news: &mut Receiver<Arc<News>>, rest_until: Instant, event: Option<EventId>) -> Option<Changed> {
    tokio::time::sleep_until(rest_until).await;
    let mut changed = Changed::default();
    let mut next = match news.recv().await {
        Ok(one) => Ok(one),
        Err(RecvError::Lagged(count)) => Err(TryRecvError::Lagged(count)),
        Err(RecvError::Closed) => return None,
    };
    loop {
        match next {
            Ok(one) if event.is_none_or(|event| is_about(&one, event)) => changed.note(&one),
            Ok(_) => {}
            Err(TryRecvError::Lagged(_)) => {
                *news = news.resubscribe();
                return Some(Changed::ALL);
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(changed),
        }
        next = news.try_recv();
    }
}

/// What a page knows of the configuration.
struct Known {
    endpoints: Arc<EndpointTable>,
    sources: Arc<SourceTable>,
    /// Names of plugins and files, and whether each is refused.
    plugins: Vec<(String, bool)>,
}

impl Known {
    fn now(ui: &Ui) -> Self {
        let plugins = ui.api.catalog.plugins();
        let entries = plugins.iter().map(|entry| (entry.row.name.to_string(), entry.refused.is_some()));
        Self {
            endpoints: ui.api.catalog.endpoints(),
            sources: ui.api.sources.table(),
            plugins: entries.chain(plugins.broken().map(|(file, _)| (file.to_owned(), true))).collect(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoints, &other.endpoints)
            && Arc::ptr_eq(&self.sources, &other.sources)
            && self.plugins == other.plugins
    }
}

/// Returns whether other nodes work on the same store.
async fn has_others(ui: &Ui) -> bool {
    ui.api.store.nodes().await.is_ok_and(|nodes| nodes.len() > 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_name_what_changed() {
        let mut changed = Changed::default();
        assert_eq!(changed.words(), "");
        changed.note(&News::PluginGone { plugin: "x".into() });
        assert_eq!(changed.words(), "plugins");
        changed.note(&News::Accepted { event: EventId::from_i64(1), event_type: "a".into(), source: "b".into() });
        assert_eq!(changed.words(), "events plugins");
        assert_eq!(Changed::ALL.words(), "events deliveries plugins sources");
    }
}
