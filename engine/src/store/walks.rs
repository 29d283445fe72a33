//! How far retention has come. Every store walks over its events in the same ways, each from the oldest on.

/// Where the walks stand; they start anew with the process.
#[derive(Clone, Copy, Default)]
pub struct Walks {
    pub delivered: Walk,
    pub unrouted: Walk,
    pub rest: Walk,
    pub relief: Walk,
}

/// Behind which event a walk stands, and whether it has found nothing more to look at.
#[derive(Clone, Copy, Default)]
pub struct Walk {
    pub cursor: i64,
    pub ended: bool,
}
