//! Benchmark plugin: an order becomes a dispatch note. The null relays do the same work natively, from the same source.

use innesco_sdk::prelude::*;

mod order;

struct DispatchNotes;

impl Plugin for DispatchNotes {
    const ON: &'static [&'static str] = &["order.created"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let order: order::Order = event.json()?;
        Ok(Webhook::to("receiver").json(&order::DispatchNote::of(&order))?.into())
    }
}

innesco_sdk::export!(DispatchNotes);
