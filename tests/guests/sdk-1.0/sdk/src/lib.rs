//! Write plugins for Innesco, the webhook engine.
//!
//! A plugin is handed one event at a time and answers with what shall happen: webhooks to named endpoints, new events,
//! or nothing. The engine does the rest: it signs, sends, retries, and keeps everything that was decided.
//!
//! ```
//! use innesco_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     id: u64,
//!     total: f64,
//! }
//!
//! struct BigOrders;
//!
//! impl Plugin for BigOrders {
//!     const ON: &'static [&'static str] = &["order.created"];
//!
//!     fn handle(&self, event: &Event) -> Result<Outcome> {
//!         let order: Order = event.json()?;
//!         if order.total <= 1_000.0 {
//!             return Ok(Outcome::none());
//!         }
//!         let text = format!("Order {} over 1000", order.id);
//!         Ok(Webhook::to("sales-slack").json(&json!({ "text": text }))?.into())
//!     }
//! }
//!
//! innesco_sdk::export!(BigOrders);
//! ```
//!
//! In reading order: the trait ([`Plugin`]) and what it is given ([`Event`]); what it returns ([`Outcome`], made of
//! [`Webhook`]s and [`Emit`]s, or an [`Error`]); what it may ask the engine ([`config`], [`state`], [`log`]); and how it is
//! tried out without one ([`testing`](https://docs.rs/innesco-sdk), in native builds).
//!
//! # What holds
//!
//! - **Each event meets a fresh instance.** A `static` starts anew every time; what must outlive a run goes into [`state`].
//! - **All or nothing.** Webhooks, emitted events and state writes of a run take effect together, or none does.
//! - **At least once.** After a crash the same event may be run again, so the same event should lead to the same answer.
//!   There is no clock and no randomness: time is [`Event::time`], a stable id is [`Event::id`].
//! - **A failure loses nothing.** After an [`Error`], a panic or a breached limit the event is kept and can be run again.

mod plugin;

mod event;

mod emit;
mod error;
mod outcome;
mod webhook;

pub mod config;
pub mod log;
pub mod state;

#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

mod host;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[path = "bindings.rs"]
pub mod __bindings;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[path = "guest.rs"]
pub mod __guest;

#[cfg(any(test, all(target_arch = "wasm32", feature = "arena")))]
mod arena;

pub use crate::{
    emit::Emit,
    error::{Error, Result},
    event::Event,
    outcome::Outcome,
    plugin::Plugin,
    webhook::Webhook,
};

#[doc(no_inline)]
pub use serde;
#[doc(no_inline)]
pub use serde_json;

/// Everything that a plugin usually needs: `use innesco_sdk::prelude::*;`
pub mod prelude {
    pub use crate::{Emit, Error, Event, Outcome, Plugin, Result, Webhook, config, log, state};
    #[doc(no_inline)]
    pub use serde::{Deserialize, Serialize};
    #[doc(no_inline)]
    pub use serde_json::{Value, json};
}

/// The README's examples are compiled and run as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
