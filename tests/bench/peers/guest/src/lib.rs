//! An order becomes a dispatch note: the engine's benchmark plugin, for Extism.

use extism_pdk::{FnResult, plugin_fn};

#[path = "../../../plugin/src/order.rs"]
mod order;

#[plugin_fn]
pub fn handle(order: Vec<u8>) -> FnResult<Vec<u8>> {
    let order: order::Order = serde_json::from_slice(&order)?;
    Ok(serde_json::to_vec(&order::DispatchNote::of(&order))?)
}
