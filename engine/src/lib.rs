//! Innesco: events in, signed webhooks out, your WebAssembly in between.

pub mod clock;
pub mod domain;
pub mod news;
pub mod outbound;
pub mod store;
