//! API keys: what each role may do.

/// What an API key may do. Which role opens what is a table of the API (`api/access.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sends events.
    Publish,
    /// Reads what there is, without what is a secret by itself.
    Read,
    /// Subscribes, and sees and ends its own subscriptions: what an automation tool needs.
    Subscribe,
    /// Reads `/metrics` alone.
    Metrics,
    /// Runs the engine from day to day: deliveries, endpoints, sources.
    Operate,
    Admin,
}

impl Role {
    pub const ALL: [Self; 6] = [Self::Publish, Self::Read, Self::Subscribe, Self::Metrics, Self::Operate, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Subscribe => "subscribe",
            Self::Metrics => "metrics",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}
