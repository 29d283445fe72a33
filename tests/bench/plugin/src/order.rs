//! The work that every system of the benchmark does for every event: it turns an order of about 1 KB into a note of about 1.2 KB.
//!
//! It is compiled into the plugin and into the null relays, so that only their environment differs.

use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
pub struct Order {
    /// The event's number, by which the receiver looks up when the event was sent. It comes first, so that it is found quickly.
    seq: u64,
    number: String,
    currency: String,
    customer: Customer,
    ship_to: Address,
    items: Vec<Item>,
    shipping: f64,
    gift: bool,
    note: Option<String>,
}

#[derive(Deserialize)]
struct Customer {
    id: u64,
    first_name: String,
    last_name: String,
    email: String,
    newsletter: bool,
}

#[derive(Deserialize)]
struct Address {
    street: String,
    zip: String,
    city: String,
    country: String,
}

#[derive(Deserialize)]
struct Item {
    sku: String,
    title: String,
    quantity: u32,
    price: f64,
}

#[derive(Serialize)]
pub struct DispatchNote<'a> {
    seq: u64,
    kind: &'static str,
    reference: String,
    recipient: Recipient<'a>,
    address: [String; 3],
    lines: Vec<Line<'a>>,
    totals: Totals<'a>,
    flags: Vec<&'static str>,
    remark: &'a str,
}

#[derive(Serialize)]
struct Recipient<'a> {
    customer: u64,
    name: String,
    email: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    position: usize,
    sku: &'a str,
    text: String,
    quantity: u32,
    unit_price: f64,
    amount: f64,
}

#[derive(Serialize)]
struct Totals<'a> {
    pieces: u32,
    goods: f64,
    shipping: f64,
    amount: f64,
    currency: &'a str,
}

impl<'a> DispatchNote<'a> {
    pub fn of(order: &'a Order) -> Self {
        let Order { customer, ship_to, items, .. } = order;
        let line = |(at, item): (usize, &'a Item)| Line {
            position: at + 1,
            sku: &item.sku,
            text: format!("{} x {}", item.quantity, item.title.to_uppercase()),
            quantity: item.quantity,
            unit_price: item.price,
            amount: cents(f64::from(item.quantity) * item.price),
        };
        let lines: Vec<Line> = items.iter().enumerate().map(line).collect();
        let goods = cents(lines.iter().map(|line| line.amount).sum());
        let flags = [(order.gift, "gift"), (customer.newsletter, "newsletter"), (goods > 250.0, "insured")];
        Self {
            seq: order.seq,
            kind: "dispatch-note",
            reference: format!("{}/{}", order.number, customer.id),
            recipient: Recipient {
                customer: customer.id,
                name: format!("{} {}", customer.first_name, customer.last_name),
                email: &customer.email,
            },
            address: [ship_to.street.clone(), format!("{} {}", ship_to.zip, ship_to.city), ship_to.country.to_uppercase()],
            totals: Totals {
                pieces: items.iter().map(|item| item.quantity).sum(),
                goods,
                shipping: order.shipping,
                amount: cents(goods + order.shipping),
                currency: &order.currency,
            },
            lines,
            flags: flags.into_iter().filter_map(|(set, flag)| set.then_some(flag)).collect(),
            remark: order.note.as_deref().unwrap_or_default(),
        }
    }
}

fn cents(amount: f64) -> f64 {
    (amount * 100.0).round() / 100.0
}
