//! The pages, one file each. A handler reads the data, writes the body of the page and calls [`layout::page`](super::layout::page).

pub mod deliveries;
pub mod endpoints;
pub mod event;
pub mod events;
pub mod now;
pub mod plugins;
pub mod retry_many;
pub mod search;
pub mod selected;
pub mod send;
pub mod settings;
pub mod sign_in;
pub mod sources;
pub mod wrong;
