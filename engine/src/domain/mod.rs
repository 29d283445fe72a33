//! The nouns and rules of Innesco.
//!
//! This module contains no I/O, async code, SQL, HTTP, clock or randomness. Times, random bytes and ids are arguments, so every
//! rule can be tested with a table of cases. Text from outside is parsed into these types once, at the boundary, and trusted
//! afterwards.

pub mod breaker;
pub mod certificate;
pub mod command;
pub mod comparison;
pub mod content;
pub mod delivery;
pub mod difference;
pub mod digits;
pub mod duration;
pub mod endpoint;
pub mod envelope;
pub mod event;
pub mod given;
pub mod grace;
pub mod id;
pub mod job;
pub mod key;
pub mod name;
pub mod parts;
pub mod pattern;
pub mod plugin;
pub mod quarantine;
pub mod rate;
pub mod recording;
pub mod request;
pub mod retention;
pub mod retry;
pub mod routing;
pub mod run;
pub mod sent;
pub mod setting;
pub mod signature;
pub mod source;
pub mod stats;
pub mod time;
pub mod trace;
pub mod why;
