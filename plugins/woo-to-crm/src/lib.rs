//! Example of fanning out: one WooCommerce order becomes a CRM contact and, once the order is paid, a call to a mail service.
//!
//! The optional settings `crm` (default `crm`) and `mailer` (default `mailer`) are the names of the endpoints.

use innesco_sdk::prelude::*;

/// A WooCommerce order, with only the members that this plugin reads. Amounts and quantities are passed on unchanged.
///
/// The other members have defaults, because `order.deleted` has only an id.
#[derive(Deserialize)]
struct Order {
    id: u64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    currency: String,
    #[serde(default)]
    total: Value,
    #[serde(default)]
    billing: Billing,
    #[serde(default)]
    line_items: Vec<LineItem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Billing {
    email: Option<String>,
    first_name: String,
    last_name: String,
    company: String,
    phone: String,
    country: String,
}

#[derive(Deserialize)]
struct LineItem {
    name: Option<String>,
    quantity: Value,
    total: Value,
}

struct WooToCrm;

impl Plugin for WooToCrm {
    const ON: &'static [&'static str] = &["woocommerce.order.*"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let order: Order = event.json()?;
        let Some(email) = order.billing.email.as_deref().filter(|email| !email.is_empty()) else {
            log::info!("order {} has no e-mail address", order.id);
            return Ok(Outcome::none());
        };

        let outcome = Outcome::new().webhook(contact(&order, email)?);
        match order.status.as_str() {
            "processing" | "completed" => Ok(outcome.webhook(mail(&order, email)?)),
            _ => Ok(outcome),
        }
    }
}

innesco_sdk::export!(WooToCrm);

fn contact(order: &Order, email: &str) -> Result<Webhook> {
    let contact = json!({
        "email": email,
        "first_name": order.billing.first_name,
        "last_name": order.billing.last_name,
        "company": order.billing.company,
        "phone": order.billing.phone,
        "country": order.billing.country,
        "last_order": { "id": order.id, "status": order.status, "total": order.total, "currency": order.currency },
    });
    Webhook::to(endpoint("crm")).event_type("contact.updated").json(&contact)
}

fn mail(order: &Order, email: &str) -> Result<Webhook> {
    let item = |item: &LineItem| json!({ "name": item.name, "quantity": item.quantity, "total": item.total });
    let mail = json!({
        "template": format!("order-{}", order.status),
        "to": { "email": email, "name": format!("{} {}", order.billing.first_name, order.billing.last_name).trim() },
        "variables": {
            "order": order.id,
            "total": order.total,
            "currency": order.currency,
            "items": order.line_items.iter().map(item).collect::<Vec<_>>(),
        },
    });
    // WooCommerce sends an event for each change of an order. The key ensures one mail per status.
    let key = format!("order-{}-{}", order.id, order.status);
    Webhook::to(endpoint("mailer")).header("idempotency-key", key).json(&mail)
}

fn endpoint(role: &str) -> String {
    config::get(role).unwrap_or(role.to_owned())
}

#[cfg(test)]
mod tests {
    use innesco_sdk::testing;

    use super::*;

    /// Returns a shortened order in WooCommerce's format, with this status.
    fn order(status: &str) -> Value {
        json!({
            "id": 727, "parent_id": 0, "number": "727", "order_key": "wc_order_58d2d042d1d", "created_via": "checkout",
            "status": status, "currency": "EUR", "date_created": "2026-03-22T16:28:02", "total": "29.35", "total_tax": "1.35",
            "customer_id": 0, "customer_note": "", "date_paid": null,
            "billing": {
                "first_name": "Anna", "last_name": "Rossi", "company": "", "address_1": "Via Roma 1", "city": "Milano",
                "postcode": "20121", "country": "IT", "email": "anna@example.com", "phone": "+39 333 1234567"
            },
            "line_items": [
                { "id": 315, "name": "Tea <loose>", "product_id": 93, "quantity": 2, "total": "6.00", "sku": "", "price": 3 },
                { "id": 316, "name": "Cup", "product_id": 22, "quantity": 1, "total": "12.00", "sku": "C-3", "price": 12 }
            ]
        })
    }

    fn run(data: Value) -> Outcome {
        testing::run(&WooToCrm, &testing::event("woocommerce.order.updated").json(data).build()).unwrap()
    }

    #[test]
    fn an_unpaid_order_only_updates_the_contact() {
        for status in ["pending", "on-hold", "cancelled", "refunded", "failed", "checkout-draft"] {
            let outcome = run(order(status));
            assert_eq!(outcome.webhooks().len(), 1, "{status}");
            assert_eq!(outcome.webhooks()[0].to.as_deref(), Some("crm"));
            let body = outcome.webhooks()[0].json_body();
            assert_eq!((&body["email"], &body["last_name"]), (&json!("anna@example.com"), &json!("Rossi")));
            assert_eq!(body["last_order"], json!({ "id": 727, "status": status, "total": "29.35", "currency": "EUR" }));
        }
    }

    #[test]
    fn a_paid_order_also_sends_a_mail() {
        for status in ["processing", "completed"] {
            let outcome = run(order(status));
            let mail = &outcome.webhooks()[1];
            assert_eq!(mail.to.as_deref(), Some("mailer"));
            assert_eq!(mail.headers, [("idempotency-key".to_owned(), format!("order-727-{status}"))]);
            let body = mail.json_body();
            assert_eq!(body["template"], format!("order-{status}"));
            assert_eq!(body["to"], json!({ "email": "anna@example.com", "name": "Anna Rossi" }));
            assert_eq!(body["variables"]["items"][0], json!({ "name": "Tea <loose>", "quantity": 2, "total": "6.00" }));
        }
    }

    #[test]
    fn an_order_without_an_address_sends_nothing() {
        assert!(run(json!({ "id": 727 })).is_none(), "deleted");
        for email in [json!(""), json!(null)] {
            let at_the_till = json!({ "id": 727, "status": "completed", "billing": { "email": email } });
            assert!(run(at_the_till).is_none());
        }
    }

    #[test]
    fn the_endpoints_are_settings() {
        let event = testing::event("woocommerce.order.created").json(order("processing")).build();
        let outcome = testing::engine().config("crm", "hubspot").config("mailer", "brevo").run(&WooToCrm, &event).unwrap();
        let endpoints: Vec<_> = outcome.webhooks().iter().map(|webhook| webhook.to.as_deref().unwrap()).collect();
        assert_eq!(endpoints, ["hubspot", "brevo"]);
    }
}
