//! What is happening now, for whoever watches: the developer's terminal today, live pages later.
//!
//! Nobody may rely on it: a watcher that is too slow misses news, and without one nothing is even put together. What must not be
//! missed is in the store.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;

use crate::domain::{
    delivery::{AttemptOutcome, Next},
    id::{DeliveryId, EventId},
    plugin::Digest,
    run::{RunOutcome, RunState},
    time::Timestamp,
};

/// News that a slow watcher can be behind; older news is lost to it.
const BACKLOG_MAX: usize = 1024;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum News {
    Accepted {
        event: EventId,
        event_type: String,
        source: String,
    },
    Ran {
        event: EventId,
        plugin: String,
        version: Option<Digest>,
        outcome: RunOutcome,
        state: RunState,
        message: Option<String>,
        took: Duration,
        webhooks: usize,
        emitted: usize,
    },
    Attempted {
        delivery: DeliveryId,
        endpoint: String,
        outcome: AttemptOutcome,
        detail: Option<String>,
        latency: Duration,
        /// Counted from 1.
        attempt: u32,
        attempts_max: usize,
        next: Next,
        /// The clock that [`Next::Retry`] is measured by.
        now: Timestamp,
    },
    PluginServes {
        plugin: String,
        version: Digest,
        was: Option<Digest>,
        bytes: usize,
    },
    PluginFailed {
        file: String,
        /// The version that goes on serving, if any.
        keeps: Option<Digest>,
        message: String,
    },
    PluginGone {
        plugin: String,
    },
}

/// Where news is told and heard.
#[derive(Clone)]
pub struct Feed(broadcast::Sender<Arc<News>>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG_MAX))
    }
}

impl Feed {
    /// Tells what `news` makes, if anybody listens.
    pub fn tell(&self, news: impl FnOnce() -> News) {
        if self.0.receiver_count() > 0 {
            // The last listener may have left in between.
            let _ = self.0.send(Arc::new(news()));
        }
    }

    pub fn listen(&self) -> broadcast::Receiver<Arc<News>> {
        self.0.subscribe()
    }
}
