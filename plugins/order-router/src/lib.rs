//! Example of routing: the content of an event selects the endpoints that receive it.
//!
//! The operator sets the threshold and the endpoints: `innesco plugin config order-router threshold=500 country.IT=crm`.

use innesco_sdk::{
    prelude::*,
    serde::{Deserializer, de::Error as _},
};

#[derive(Deserialize)]
struct Order {
    id: Value,
    #[serde(deserialize_with = "amount")]
    total: f64,
    country: Option<String>,
}

#[derive(Serialize)]
struct Message<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<&'a str>,
}

struct OrderRouter;

impl Plugin for OrderRouter {
    const ON: &'static [&'static str] = &["order.created"];
    const SETTINGS: &'static [Setting] = &[
        Setting::number("threshold", "An order over this total is big").default("1000"),
        Setting::text("big-orders", "Endpoint for big orders").default("receiver"),
        Setting::text("country.*", "Endpoint for all orders from a country; for Italy, set country.IT"),
    ];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let order: Order = event.json()?;
        let country = order.country.as_deref();
        let threshold: f64 = config::get_as("threshold")?;

        let mut text = format!("Order {}", order.id.as_str().unwrap_or(&order.id.to_string()));
        let mut endpoints = Vec::new();
        if order.total > threshold {
            text += &format!(" over {threshold}");
            endpoints.push(config::get_as("big-orders")?);
        }
        endpoints.extend(country.and_then(|country| config::get(&format!("country.{country}"))));
        endpoints.dedup(); // one webhook, even if the rules for amount and country name the same endpoint

        endpoints.into_iter().map(|endpoint| Webhook::to(endpoint).json(&Message { text: &text, country })).collect()
    }
}

innesco_sdk::export!(OrderRouter);

/// Reads an amount that a shop sent as a number or as text: `1500`, `"1500.00"`.
fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    value
        .as_f64()
        .or_else(|| value.as_str()?.trim().parse().ok())
        .filter(|amount| amount.is_finite())
        .ok_or_else(|| D::Error::custom(format!("{value} is not an amount")))
}

#[cfg(test)]
mod tests {
    use innesco_sdk::testing;

    use super::*;

    fn order(data: Value) -> Event {
        testing::event("order.created").source("shop").json(data).build()
    }

    fn endpoints(outcome: &Outcome) -> Vec<&str> {
        outcome.webhooks().iter().filter_map(|webhook| webhook.to.as_deref()).collect()
    }

    #[test]
    fn a_big_order_goes_to_the_receiver() {
        let outcome = testing::run(&OrderRouter, &order(json!({ "id": 7, "total": 1500, "country": "IT" }))).unwrap();
        assert_eq!(endpoints(&outcome), ["receiver"]);
        assert_eq!(outcome.webhooks()[0].body, br#"{"text":"Order 7 over 1000","country":"IT"}"#);
    }

    #[test]
    fn sends_nothing_for_a_small_order_without_a_country_endpoint() {
        for total in [json!(1000), json!("999.99"), json!(0), json!(-5000)] {
            assert!(testing::run(&OrderRouter, &order(json!({ "id": 7, "total": total }))).unwrap().is_none());
        }
    }

    #[test]
    fn sends_every_order_of_a_country_to_its_endpoint() {
        let mut engine = testing::engine().config("country.IT", "milano").config("big-orders", "sales");
        let small = engine.run(&OrderRouter, &order(json!({ "id": "A-1", "total": "20.00", "country": "IT" }))).unwrap();
        assert_eq!(endpoints(&small), ["milano"]);
        assert_eq!(small.webhooks()[0].json_body()["text"], "Order A-1");
        let big = engine.run(&OrderRouter, &order(json!({ "id": "A-2", "total": "2000.00", "country": "IT" }))).unwrap();
        assert_eq!(endpoints(&big), ["sales", "milano"]);
    }

    #[test]
    fn sends_one_webhook_if_both_settings_name_the_same_endpoint() {
        let mut engine = testing::engine().config("country.IT", "receiver").config("threshold", "99.5");
        let outcome = engine.run(&OrderRouter, &order(json!({ "id": 7, "total": 100, "country": "IT" }))).unwrap();
        assert_eq!(endpoints(&outcome), ["receiver"]);
        assert_eq!(outcome.webhooks()[0].json_body()["text"], "Order 7 over 99.5");
    }

    #[test]
    fn an_invalid_amount_is_a_bad_payload() {
        for total in [json!("a lot"), json!("NaN"), json!("inf"), json!(null), json!([1500])] {
            let event = order(json!({ "id": 7, "total": total }));
            assert_eq!(testing::run(&OrderRouter, &event).unwrap_err().code, "bad-payload");
        }
    }
}
