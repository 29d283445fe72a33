//! Test guest that is built with the first SDK, and uses everything that it has: settings, state, log lines, webhooks, events, failures.

use innesco_sdk::prelude::*;
use innesco_sdk::{config, log, state};

#[derive(Deserialize)]
struct Job {
    job: u64,
}

struct FirstSdk;

impl Plugin for FirstSdk {
    const ON: &'static [&'static str] = &["job.created"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let Job { job } = event.json()?;
        if job == 13 {
            return Err(Error::permanent("unlucky", "this job is refused"));
        }
        let count = state::get_json::<u64>("count")?.unwrap_or(0) + 1;
        state::set_json("count", &count)?;
        state::set("old", "1");
        state::delete("old");
        log::info!("job {job} is number {count}");
        let greeting = config::get("greeting").unwrap_or("hello".to_owned());
        let body = json!({ "first_sdk": job, "count": count, "greeting": greeting, "channel": event.attribute("channel") });
        let webhook = Webhook::to("receiver").header("x-sdk", "first").json(&body)?;
        let emit = Emit::new("first.done").subject(job.to_string()).json(&json!({ "job": job }))?.attribute("channel", "first");
        Ok(Outcome::new().webhook(webhook).emit(emit))
    }
}

innesco_sdk::export!(FirstSdk);
