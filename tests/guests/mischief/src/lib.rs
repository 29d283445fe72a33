//! Test guest that misbehaves as its event type requests.

use std::{hint::black_box, time::Duration};

use innesco_sdk::prelude::*;

struct Mischief;

impl Plugin for Mischief {
    const ON: &'static [&'static str] = &["mischief.*"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let deed = event.event_type.strip_prefix("mischief.").unwrap_or_default();
        match deed {
            "loop" => loop {
                black_box(());
            },
            "memory" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(black_box(vec![1; 1 << 20]));
                }
            }
            "recursion" => Ok(Webhook::to("receiver").json(&json!({ "depth": descend(1) }))?.into()),
            "panic" => panic!("unlucky {}", 13),
            "output" => Ok(Webhook::to("receiver").body("text/plain", vec![b'x'; 32 << 20]).into()),
            "hoard" => {
                state::set(&event.id, b"for ever");
                Ok(Outcome::none())
            }
            "several" => Ok((0..250).map(|_| Webhook::to("receiver").body("text/plain", "x")).collect()),
            "poison" => Ok(Webhook::to("receiver").body("text/poison", "x").into()),
            "webhooks" => Ok((0..10_000).map(|_| Webhook::to("receiver").body("text/plain", "x")).collect()),
            "log" => {
                for line in 0..100_000 {
                    log::info!("line {line} of a flood");
                }
                Ok(Outcome::none())
            }
            "header" => Ok(Webhook::to("receiver").header("webhook-id", "forged").json(&json!({}))?.into()),
            "typo" => Ok(Webhook::to("reciever").json(&json!({}))?.into()),
            "state" => {
                state::set("large", vec![0; 1 << 20]);
                Ok(Outcome::none())
            }
            "fail" => Err(Error::permanent("no-luck", "it is not to be")),
            "data" => {
                let Order { customer } = event.json()?;
                if customer.age < 18 {
                    return Err(Error::permanent("too-young", format!("customer {} is too young", customer.name)));
                }
                Ok(Outcome::none())
            }
            "count" => {
                let (count, limit): (u32, u32) = (state::get_json("count")?.unwrap_or(0), config::get_as("limit")?);
                if count >= limit {
                    return Err(Error::permanent("limit", format!("{count} of {limit}")));
                }
                state::set_json("count", &(count + 1))?;
                Ok(Outcome::none())
            }
            "once" => {
                let seen = event.subject.as_deref().unwrap_or_default();
                if !state::once(seen, Duration::from_secs(3600)) {
                    log::info!(seen = seen, "not the first one");
                    return Ok(Outcome::none());
                }
                Ok(Webhook::to("receiver").json(&json!({ "first": seen }))?.into())
            }
            "again" => Ok(Emit::new("mischief.again").json(&json!({}))?.into()),
            // Counts runs in the state, so that the webhooks show the order of the runs.
            "nothing" if event.subject.is_some() => {
                let place = state::get_json::<u64>("place")?.unwrap_or(0);
                state::set_json("place", &(place + 1))?;
                let subject = event.subject.clone().unwrap_or_default();
                let webhook = Webhook::to("receiver").header("x-place", place.to_string()).header("x-subject", subject);
                Ok(webhook.json(&json!({}))?.into())
            }
            _ => Ok(Webhook::to("receiver").json(&json!({ "well": "behaved" }))?.into()),
        }
    }
}

#[derive(Deserialize)]
struct Order {
    customer: Customer,
}

#[derive(Deserialize)]
struct Customer {
    name: String,
    age: u32,
}

/// Recurses until the stack is full.
fn descend(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    if room[0] == u64::MAX { depth } else { descend(depth + 1) + room[63] }
}

innesco_sdk::export!(Mischief);
