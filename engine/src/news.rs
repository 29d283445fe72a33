//! The live feed of what happens now, for the developer's terminal.
//!
//! The feed may lose messages: a slow watcher misses some, and without a watcher no message is built. Facts that must not be lost
//! are in the store.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;

use crate::domain::{
    delivery::{AttemptOutcome, Next},
    id::{DeliveryId, EventId, RunId},
    plugin::Digest,
    run::{RunOutcome, RunState},
    time::Timestamp,
};

/// Maximum number of messages that a slow watcher can be behind; it misses older ones.
const BACKLOG_MAX: usize = 1024;

/// A message of the live feed.
#[derive(Clone, Debug)]
pub enum News {
    Accepted {
        event: EventId,
        event_type: String,
        source: String,
    },
    Ran {
        run: RunId,
        event_type: String,
        plugin: String,
        version: Option<Digest>,
        outcome: RunOutcome,
        state: RunState,
        message: Option<String>,
        /// Name of the missing endpoint that the run waits for.
        wants: Option<String>,
        took: Duration,
        webhooks: usize,
        emitted: usize,
    },
    Attempted {
        delivery: DeliveryId,
        event_type: String,
        endpoint: String,
        outcome: AttemptOutcome,
        detail: Option<String>,
        latency: Duration,
        /// Counted from 1.
        attempt: u32,
        attempts_max: usize,
        next: Next,
        /// The clock of [`Next::Retry`].
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
        /// The version that keeps serving, if any.
        keeps: Option<Digest>,
        message: String,
    },
    PluginGone {
        plugin: String,
    },
}

/// Sends and receives the live feed.
#[derive(Clone)]
pub struct Feed(broadcast::Sender<Arc<News>>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG_MAX))
    }
}

impl Feed {
    /// Sends the result of `news`, if there is a watcher.
    pub fn send(&self, news: impl FnOnce() -> News) {
        if self.0.receiver_count() > 0 {
            // The last watcher may have left meanwhile.
            let _ = self.0.send(Arc::new(news()));
        }
    }

    pub fn listen(&self) -> broadcast::Receiver<Arc<News>> {
        self.0.subscribe()
    }
}
