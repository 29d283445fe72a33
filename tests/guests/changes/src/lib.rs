//! Test guest for comparisons: a plugin in many variants. Variant 00 is the base. Each other variant has one planted change of behaviour.
//!
//! The file contains the number of its variant as text: `variant 00`. A test replaces the digits in the file to get another version
//! without a build.

use innesco_sdk::prelude::*;

#[derive(Deserialize)]
struct Order {
    id: u64,
    total: u64,
    country: String,
}

static VARIANT: [u8; 10] = *b"variant 00";

/// Returns the number of the variant. The compiler must not know the number, so that it keeps all variants.
fn variant() -> u32 {
    let [.., tens, ones] = std::hint::black_box(&VARIANT);
    u32::from(tens - b'0') * 10 + u32::from(ones - b'0')
}

struct Changes;

impl Plugin for Changes {
    const ON: &'static [&'static str] = &["order.created"];
    const SETTINGS: &'static [Setting] = &[Setting::integer("threshold", "Orders over this total are big").default("500")];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let variant = variant();
        let mut order: Order = event.json()?;
        let threshold: u64 = config::get_as("threshold")?;
        let known: u64 = state::get_json("count")?.unwrap_or(0);
        let mut count = known + 1;
        match variant {
            1 if order.id.is_multiple_of(2) => return Err(Error::permanent("even", "even orders are refused")),
            2 if order.id.is_multiple_of(2) => panic!("even order {}", order.id),
            3 => return Err(Error::retryable("later", "not now")),
            4 => order.total += 1,
            5 => order.id += 1,
            6 => order.country = order.country.to_lowercase(),
            _ => {}
        }
        if variant == 7 {
            count += 1;
        }
        state::set_json(if variant == 8 { "counted" } else { "count" }, &count)?;
        if variant == 9 {
            state::set("seen", "yes");
        }
        let is_big = match variant {
            10 => order.total >= threshold,
            11 => order.total > threshold + 100,
            12 => true,
            13 => false,
            _ => order.total > threshold,
        };

        let mut body = json!({
            "id": order.id, "total": order.total, "country": order.country, "tags": ["new", "web"], "customer": { "name": "Ann" },
            // The inputs of the run that are not in the other members.
            "seen": [event.id, event.source, event.subject, event.time, event.attributes, event.content_type, threshold, known],
        });
        let members = body.as_object_mut().expect("an object");
        match variant {
            14 => drop(members.remove("tags")),
            15 => drop(members.insert("currency".into(), json!("EUR"))),
            16 => drop(members.insert("id".into(), json!(order.id.to_string()))),
            17 => drop(members.insert("tags".into(), json!(["new"]))),
            18 => drop(members.insert("tags".into(), json!(["new", "web", "shop"]))),
            19 => drop(members.insert("tags".into(), json!(["new", "app"]))),
            20 => drop(members.insert("customer".into(), json!({ "name": "Bob" }))),
            21 => drop(members.insert("customer".into(), json!({ "name": "Ann", "mail": "ann@example.com" }))),
            22 => drop(members.insert("customer".into(), Value::Null)),
            23 => drop(members.insert("total".into(), json!(order.total as f64 + 0.5))),
            _ => {}
        }
        let text = match variant {
            24 => body.to_string() + " ",
            25 => format!("[{body}]"),
            _ => body.to_string(),
        };
        let mut crm = Webhook::to(if variant == 26 { "erp" } else { "crm" }).header("x-kind", "order");
        crm = match variant {
            27 => crm.header("x-priority", "high"),
            28 => Webhook::to("crm"),
            29 => Webhook::to("crm").header("x-kind", "sale"),
            30 => crm.event_type("order.sold"),
            _ => crm,
        };
        crm = crm.body(if variant == 31 { "text/plain" } else { "application/json" }, text);
        log::info!("order {} of {}", order.id, event.source);
        let mut outcome = Outcome::new();
        if variant != 32 {
            outcome = outcome.webhook(crm.clone());
        }
        if variant == 33 {
            outcome = outcome.webhook(crm);
        }
        if is_big {
            let big = Emit::new(if variant == 34 { "order.huge" } else { "order.big" });
            let big = big.json(&json!({ "id": order.id, "count": if variant == 35 { 0 } else { 1 } }))?;
            outcome = outcome.emit(match variant {
                36 => big.subject("big"),
                37 => big.attribute("channel", "mail"),
                _ => big,
            });
        }
        if variant == 38 {
            outcome = outcome.emit(Emit::new("order.seen").json(&json!({}))?);
        }
        if variant == 39 {
            outcome = outcome.webhook(Webhook::to("slack").json(&json!({ "text": "an order" }))?);
        }
        if variant == 40 {
            outcome = outcome.webhook(Webhook::to("nowhere").json(&json!({}))?);
        }
        Ok(outcome)
    }
}

innesco_sdk::export!(Changes);
