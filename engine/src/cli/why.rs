//! `innesco why`: explains why an endpoint did or did not receive an event.

use super::{
    client::Client,
    measure::one_line,
    output::{DIM, Printer, Styled, state},
};
use crate::wire::{WhyStepView, WhyView};

#[derive(clap::Args)]
pub struct WhyArgs {
    /// Event id, evt_…
    event: String,
    /// Endpoint name, or id ep_…
    #[arg(long)]
    endpoint: String,
}

pub fn run(args: &WhyArgs, client: &Client, out: &Printer) -> anyhow::Result<()> {
    let answer = client.get_with(&["v1", "events", &args.event, "why"], &[("endpoint", &args.endpoint)])?;
    Ok(out.answer(&answer, |why| page(why, out))?)
}

fn page(why: &WhyView, out: &Printer) -> String {
    let at = why.at.as_deref().map(|at| format!("  {}", out.time(at))).unwrap_or_default();
    let head = format!("{} → {}  {}{at}", why.event, one_line(&why.endpoint), state(&why.verdict));
    let mut lines = vec![head, format!("{}: {}", why.link, one_line(&why.reason)), String::new()];
    for WhyStepView { link, stopped, found } in &why.chain {
        let mark = state(stopped.as_deref().unwrap_or("ok")).1.chars().next().unwrap_or('●');
        lines.push(format!("  {mark} {}  {}", Styled(DIM, format!("{link:<15}")), one_line(found)));
    }
    if let Some(change) = &why.change {
        lines.push(format!("\nTo change it: {}", one_line(change)));
        lines.extend(why.commands.iter().map(|command| format!("  {}", one_line(command))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{examples::read, output::Reader},
        *,
    };

    #[test]
    fn the_link_that_decided_comes_first_and_the_commands_last() {
        let why: WhyView = read(json!({
            "event": "evt_1", "endpoint": "crm", "verdict": "stopped", "link": "where",
            "reason": "crm wants channel to be web, and in the event it is shop", "at": null,
            "change": "widen the condition", "commands": ["innesco endpoint update crm --where channel=web --where channel=shop"],
            "run": null, "delivery": null,
            "chain": [
                { "link": "type", "stopped": null, "found": "crm subscribes to order.*" },
                { "link": "where", "stopped": "stopped", "found": "crm wants channel to be web, and in the event it is shop" },
            ],
        }));
        let out = Printer::of(Reader::Person, "2026-11-24T09:20:00Z");
        let expected = "\
evt_1 → crm  ✕ stopped
where: crm wants channel to be web, and in the event it is shop

  ● type             crm subscribes to order.*
  ✕ where            crm wants channel to be web, and in the event it is shop

To change it: widen the condition
  innesco endpoint update crm --where channel=web --where channel=shop";
        assert_eq!(anstream::adapter::strip_str(&page(&why, &out)).to_string(), expected);
    }
}
