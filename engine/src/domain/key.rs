//! The roles of API keys.

/// The role of an API key. A table of the API (`api/access.rs`) maps routes to roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sends events.
    Publish,
    /// Reads everything but secrets.
    Read,
    /// Creates, sees and deletes its own subscriptions, for automation tools.
    Subscribe,
    /// Reads only `/metrics`.
    Metrics,
    /// Daily operation: deliveries, endpoints, sources.
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
