//! Tests of the whole engine: the real binary over HTTP, real receivers, real plugins built from source.

use support::{crates, guests, postgres, receivers};

mod engine;
mod proxy;

mod access;
mod as_test;
mod backup;
mod bulk_retry;
mod callers_gone_wrong;
mod clock_steps;
mod cluster;
mod compare;
mod crash;
mod dashboard;
mod dashboard_plugins;
mod dashboard_settings;
mod deploy;
mod dev;
mod disk;
mod files;
mod flow;
mod forms;
mod migrate;
mod monitoring;
mod namespace;
mod nodes;
mod openapi;
mod outcomes;
mod outside;
mod overload;
mod plugins;
mod receivers_gone_wrong;
mod recordings;
mod repairs;
mod retention;
mod rotation;
mod runs;
mod sources;
mod states;
mod stream;
mod subscriptions;
mod syscalls;
mod test_send;
mod throttle;
mod tidy;
mod why;
