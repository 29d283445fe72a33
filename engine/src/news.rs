//! The live feed of what happens now, for the developer's terminal.
//!
//! The feed may lose messages: a slow watcher misses some, and without a watcher no message is built. Facts that must not be lost
//! are in the store.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::broadcast;

use crate::domain::{
    delivery::{AttemptOutcome, Next},
    id::{DeliveryId, EventId, RunId},
    plugin::Digest,
    run::{LogLine, RunLog, RunOutcome, RunState},
    time::Timestamp,
};

/// Maximum number of messages that a slow watcher can be behind; it misses older ones.
const BACKLOG_MAX: usize = 1024;
/// Maximum number of log lines of one run in the feed, and of their bytes, so that the backlog stays small.
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
        /// The pattern most similar to its type, if one is similar.
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
        /// Lines of its source at which it was stopped, innermost first.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::LogLevel;

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
