//! Innesco: events in, signed webhooks out, your WebAssembly in between.

pub mod api;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod files;
pub mod metrics;
pub mod news;
pub mod outbound;
pub mod random;
pub mod sandbox;
pub mod serve;
pub mod store;
pub mod threads;
pub mod traces;
pub mod trust;
pub mod ui;
pub mod wire;
pub mod work;
