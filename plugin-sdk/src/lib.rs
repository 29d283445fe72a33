//! Write plugins for Innesco, the webhook engine.
//!
//! A plugin receives one event at a time and returns webhooks to named endpoints, new events, or nothing. The engine stores that
//! outcome, and signs, sends and retries the webhooks.
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
//! The parts in reading order: the trait ([`Plugin`]) and its input ([`Event`]); its result ([`Outcome`], made of [`Webhook`]s and
//! [`Emit`]s, or an [`Error`]); services of the engine ([`config`], [`state`], [`log`]); tests without an engine ([`testing`] calls
//! the plugin, [`testkit`] runs its WebAssembly; native builds only).
//!
//! # Guarantees
//!
//! - **A fresh instance for each event.** A `static` has its initial value in every run. Put values that must outlive a run into [`state`].
//! - **All or nothing.** Webhooks, emitted events and state writes of a run take effect together, or not at all.
//! - **At least once.** After a crash the same event may run again, so the same event should give the same outcome. A plugin has no
//!   clock and no randomness. It uses [`Event::time`] as the time, and [`Event::id`] as a stable id.
//! - **No other resources.** `SystemTime::now` and `thread::spawn` panic, `std::fs` returns errors, and the output of `println!`
//!   is discarded. The README lists replacements, also for `chrono`, `uuid`, `rand`, `reqwest` and `tokio`.
//! - **A failure loses nothing.** After an [`Error`], a panic or an exceeded limit the event stays in the store and can run
//!   again.

mod plugin;

mod event;

mod emit;
mod error;
mod outcome;
mod setting;
mod time;
mod webhook;

pub mod config;
pub mod log;
pub mod state;

#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
#[cfg(not(target_arch = "wasm32"))]
pub mod testkit;

#[cfg(not(target_arch = "wasm32"))]
mod rules;

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
    setting::Setting,
    time::Time,
    webhook::Webhook,
};

#[doc(no_inline)]
pub use serde;
#[doc(no_inline)]
pub use serde_json;

/// The usual imports of a plugin: `use innesco_sdk::prelude::*;`
pub mod prelude {
    pub use crate::{Emit, Error, Event, Outcome, Plugin, Result, Setting, Time, Webhook, config, log, state};
    #[doc(no_inline)]
    pub use serde::{Deserialize, Serialize};
    #[doc(no_inline)]
    pub use serde_json::{Value, json};
}

/// Compiles and runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles and runs the recipes. Only the repository contains them, not the published crate.
#[cfg(doctest)]
#[doc = include_str!("../../docs/recipes.md")]
struct Recipes;
