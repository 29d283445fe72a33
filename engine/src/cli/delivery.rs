//! `innesco delivery`: webhooks on their way, and those that did not get there.

use super::{
    client::Client,
    event,
    output::{self, Printer, confirm, text},
};

#[derive(clap::Subcommand)]
pub enum DeliveryCommand {
    /// The newest deliveries
    List {
        /// Only to this endpoint
        #[arg(long)]
        endpoint: Option<String>,
        /// Only of this event
        #[arg(long)]
        event: Option<String>,
        /// Only in this state: pending, retrying, delivered, dead, cancelled
        #[arg(long)]
        state: Option<String>,
        /// How many
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
    },
    /// One delivery with every attempt
    Show { delivery: String },
    /// Send the same webhook again now, under the same id
    Retry { delivery: String },
    /// Call off a delivery that waits
    Cancel {
        delivery: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(command: &DeliveryCommand, client: &Client, out: &Printer) -> anyhow::Result<()> {
    match command {
        DeliveryCommand::List { endpoint, event, state, limit } => {
            let query = [("endpoint", endpoint.as_deref()), ("event", event.as_deref()), ("state", state.as_deref())];
            let items = client.list("/v1/deliveries", &query, *limit)?;
            let columns: [output::Column; 6] = [
                ("delivery", |item| text(&item["id"])),
                ("event", |item| text(&item["event"])),
                ("endpoint", |item| text(&item["endpoint_name"])),
                ("state", |item| text(&item["state"])),
                ("attempts", |item| text(&item["attempt_count"])),
                ("last", |item| match item["last"]["status"].as_u64() {
                    Some(status) => status.to_string(),
                    None => text(&item["last"]["outcome"]),
                }),
            ];
            out.list(&items, &columns, "No delivery.")?;
        }
        DeliveryCommand::Show { delivery } => {
            out.thing(&client.get(&format!("/v1/deliveries/{delivery}"))?, |story| {
                let mut page = String::new();
                // Writing into a string cannot fail.
                let _ = event::write_delivery(&mut page, story);
                page.trim_start().to_owned()
            })?;
        }
        DeliveryCommand::Retry { delivery } => {
            let answer = client.post(&format!("/v1/deliveries/{delivery}/retry"), None)?;
            out.thing(&answer, |answer| format!("retrying {delivery} to {}", text(&answer["endpoint_name"])))?;
        }
        DeliveryCommand::Cancel { delivery, yes } => {
            confirm(&format!("{delivery} will not be sent"), *yes)?;
            let answer = client.post(&format!("/v1/deliveries/{delivery}/cancel"), None)?;
            out.thing(&answer, |_| format!("cancelled {delivery}"))?;
        }
    }
    Ok(())
}
