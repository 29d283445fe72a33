//! The live feed of what happens now, for the developer's terminal.
//!
//! The feed may lose messages: a slow watcher misses some, and without a watcher no message is built. Facts that must not be lost
//! are in the store.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::broadcast;

use crate::{
    clock,
    domain::{
        delivery::{AttemptOutcome, Next},
        id::{DeliveryId, EventId, RunId},
        plugin::Digest,
        run::{LogLine, RunLog, RunOutcome, RunState},
        time::Timestamp,
    },
};

/// Maximum number of messages that wait for a slow watcher. If the watcher is further behind, it misses the oldest messages.
const BACKLOG_MAX: usize = 1024;
/// Maximum number of log lines of one run in the feed, and maximum size of these lines in bytes, so that the backlog stays small.
const LOG_LINES_MAX: usize = 20;
const LOG_BYTES_MAX: usize = 4 << 10;

/// A message of the live feed.
#[derive(Clone, Debug)]
pub enum News {
    /// An event was accepted from a caller or a source, or a plugin's event was routed.
    Accepted {
        event: EventId,
        event_type: String,
        source: String,
    },
    /// No plugin and no endpoint subscribes to the event.
    Unrouted {
        event: EventId,
        event_type: String,
        /// The pattern that is most similar to the event's type, if any pattern is similar.
        nearest: Option<String>,
    },
    /// A source refused a request.
    Refused {
        source: String,
        address: IpAddr,
        reason: &'static str,
        detail: String,
    },
    Ran {
        run: RunId,
        event_type: String,
        plugin: String,
        version: Option<Digest>,
        outcome: RunOutcome,
        state: RunState,
        message: Option<String>,
        /// Lines of the plugin's source at which the run was stopped, innermost first.
        backtrace: Arc<[String]>,
        /// Name of the missing endpoint that the run waits for.
        wants: Option<String>,
        took: Duration,
        webhooks: usize,
        emitted: usize,
        log: ShownLog,
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
        /// Time of the attempt, by the same clock as [`Next::Retry`].
        now: Timestamp,
    },
    PluginServes {
        plugin: String,
        version: Digest,
        was: Option<Digest>,
        bytes: u64,
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

/// The first lines of a run's log, as many as the feed carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownLog {
    pub lines: Vec<LogLine>,
    /// Number of further lines.
    pub more: u64,
}

impl ShownLog {
    pub fn of(log: &RunLog) -> Self {
        let mut bytes = 0;
        let fits = |line: &&LogLine| {
            bytes += line.message.len();
            bytes <= LOG_BYTES_MAX
        };
        let lines: Vec<LogLine> = log.lines.iter().take(LOG_LINES_MAX).take_while(fits).cloned().collect();
        let more = (log.lines.len() - lines.len()) as u64 + log.dropped;
        Self { lines, more }
    }
}

/// Sends and receives the live feed.
#[derive(Clone)]
pub struct Feed {
    watchers: broadcast::Sender<Arc<News>>,
    /// When the last message was sent, with or without a watcher: milliseconds of the wall clock.
    last: Arc<AtomicI64>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { watchers: broadcast::Sender::new(BACKLOG_MAX), last: Arc::default() }
    }
}

impl Feed {
    /// Sends the result of `news`, if there is a watcher.
    pub fn send(&self, news: impl FnOnce() -> News) {
        self.last.store(clock::wall().millis(), Ordering::Release);
        if self.watchers.receiver_count() > 0 {
            // The last watcher may have left meanwhile.
            let _ = self.watchers.send(Arc::new(news()));
        }
    }

    pub fn listen(&self) -> broadcast::Receiver<Arc<News>> {
        self.watchers.subscribe()
    }

    /// Returns whether a message was sent at this time of the wall clock or later.
    pub fn has_sent_since(&self, time: Timestamp) -> bool {
        self.last.load(Ordering::Acquire) >= time.millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::LogLevel;

    #[test]
    fn the_feed_knows_that_it_sent_without_a_watcher() {
        let feed = Feed::default();
        let before = clock::wall();
        assert!(!feed.has_sent_since(before));
        feed.send(|| unreachable!("no watcher, no message"));
        assert!(feed.has_sent_since(before));
        assert!(!feed.has_sent_since(clock::wall().plus(Duration::from_secs(1))));
    }

    #[test]
    fn the_feed_carries_the_first_lines_of_a_log() {
        let log = |lengths: &[usize]| RunLog {
            lines: lengths
                .iter()
                .map(|length| LogLine { level: LogLevel::Info, message: "x".repeat(*length), fields: vec![] })
                .collect(),
            dropped: 2,
        };
        for (lengths, shown, more) in [
            (vec![], 0, 2),
            (vec![10, 20], 2, 2),
            (vec![1; LOG_LINES_MAX + 3], LOG_LINES_MAX, 5),
            (vec![LOG_BYTES_MAX, 1], 1, 3),
            (vec![LOG_BYTES_MAX + 1], 0, 3),
        ] {
            let found = ShownLog::of(&log(&lengths));
            assert_eq!((found.lines.len(), found.more), (shown, more), "{lengths:?}");
        }
    }
}
