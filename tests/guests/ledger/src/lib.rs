//! Test guest that uses everything that a run can do, so that a crash at any time interrupts something.
//!
//! `job.created` counts in state, sends one webhook and emits `job.done`. Every seventh job fails with a retryable error until a
//! `job.repaired` event has written `repaired` to the state. `job.audit` sends the count. `job.later` schedules `job.due`, and
//! `job.chain` emits `job.later`.

use innesco_sdk::prelude::*;

#[derive(Deserialize)]
struct Job {
    job: u64,
}

#[derive(Deserialize, Serialize)]
struct Later {
    job: u64,
    millis: u64,
}

/// A test replaces the digit in the file to get another version without a build. Each webhook shows the digit.
static VERSION: [u8; 9] = *b"version 0";

struct Ledger;

impl Plugin for Ledger {
    const ON: &'static [&'static str] = &["job.created", "job.audit", "job.repaired", "job.later", "job.chain"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let count = state::get_json::<u64>("count")?.unwrap_or(0);
        match event.event_type.as_str() {
            "job.audit" => Ok(Webhook::to("receiver").json(&json!({ "audit": count }))?.into()),
            "job.repaired" => {
                state::set("repaired", "yes");
                Ok(Outcome::none())
            }
            "job.chain" => Ok(Emit::new("job.later").json(&event.json::<Later>()?)?.into()),
            "job.later" => {
                let Later { job, millis } = event.json()?;
                let due = Emit::new("job.due").subject(job.to_string()).json(&json!({ "job": job }))?;
                Ok(due.after(std::time::Duration::from_millis(millis)).into())
            }
            _ => {
                let Job { job } = event.json()?;
                if job % 7 == 3 && state::get("repaired").is_none() {
                    return Err(Error::retryable("not-yet", "waits for job.repaired"));
                }
                state::set_json("count", &(count + 1))?;
                let version = char::from(std::hint::black_box(&VERSION)[8]);
                let webhook = Webhook::to("receiver").header("x-version", version.to_string()).json(&json!({ "job": job }))?;
                Ok(Outcome::new().webhook(webhook).emit(Emit::new("job.done").json(&json!({ "job": job }))?))
            }
        }
    }
}

innesco_sdk::export!(Ledger);
