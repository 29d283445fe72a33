//! Example of state: values that a plugin keeps from one event to the next.
//!
//! After three `mail.bounced` for one address the plugin emits one `contact.unreachable`. A `mail.delivered` resets the count.

use innesco_sdk::prelude::*;

/// Number of bounces after which an address counts as unreachable.
const BOUNCES_MAX: u8 = 3;
/// The maximum length of a mail address (RFC 5321).
const ADDRESS_BYTES_MAX: usize = 254;

#[derive(Deserialize)]
struct Mail {
    email: String,
}

struct BounceGuard;

impl Plugin for BounceGuard {
    const ON: &'static [&'static str] = &["mail.bounced", "mail.delivered"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let mail: Mail = event.json()?;
        let email = mail.email.trim().to_lowercase();
        if email.is_empty() || email.len() > ADDRESS_BYTES_MAX {
            let message = format!("email is {} bytes long; an address has 1 to {ADDRESS_BYTES_MAX}", email.len());
            return Err(Error::permanent("bad-payload", message));
        }

        let key = format!("bounces/{email}");
        let bounces: u8 = state::get_json(&key)?.unwrap_or(0);
        if event.event_type == "mail.delivered" {
            if bounces > 0 {
                state::delete(&key);
            }
            return Ok(Outcome::none());
        }
        // Once the event was emitted, the count stays the same: no further event is emitted and no state is written.
        if bounces >= BOUNCES_MAX {
            return Ok(Outcome::none());
        }
        let bounces = bounces + 1;
        state::set_json(&key, &bounces)?;
        if bounces < BOUNCES_MAX {
            return Ok(Outcome::none());
        }
        log::info!("bounce {bounces}: the address is unreachable");
        Ok(Emit::new("contact.unreachable").subject(&email).json(&json!({ "email": email, "bounces": bounces }))?.into())
    }
}

innesco_sdk::export!(BounceGuard);

#[cfg(test)]
mod tests {
    use innesco_sdk::testing;

    use super::*;

    /// Returns what the plugin emits for a series of mails. Each letter of `mails` is one mail: `b` bounced, `d` was delivered.
    fn emitted(engine: &mut testing::Engine, email: &str, mails: &str) -> Vec<Option<u64>> {
        let run = |mail| {
            let event_type = if mail == 'b' { "mail.bounced" } else { "mail.delivered" };
            let event = testing::event(event_type).json(json!({ "email": email })).build();
            let outcome = engine.run(&BounceGuard, &event).unwrap();
            outcome.events().first().map(|event| event.json_data()["bounces"].as_u64().unwrap())
        };
        mails.chars().map(run).collect()
    }

    #[test]
    fn emits_at_the_third_bounce_only() {
        let mut engine = testing::engine();
        assert_eq!(emitted(&mut engine, "anna@example.com", "bbbbb"), [None, None, Some(3), None, None]);
        assert_eq!(engine.state_json("bounces/anna@example.com"), Some(3));
    }

    #[test]
    fn a_delivered_mail_resets_the_count() {
        let mut engine = testing::engine();
        assert_eq!(emitted(&mut engine, "anna@example.com", "bbdbb"), [None; 5]);
        assert_eq!(emitted(&mut engine, "anna@example.com", "bdd"), [Some(3), None, None]);
        assert!(engine.state_keys().is_empty(), "a working address leaves no state");
        assert_eq!(emitted(&mut engine, "anna@example.com", "bbb"), [None, None, Some(3)]);
    }

    #[test]
    fn counts_per_address_and_ignores_case() {
        let mut engine = testing::engine();
        assert_eq!(emitted(&mut engine, "anna@example.com", "bb"), [None, None]);
        assert_eq!(emitted(&mut engine, "bruno@example.com", "b"), [None]);
        assert_eq!(emitted(&mut engine, " Anna@Example.com", "b"), [Some(3)]);
    }

    #[test]
    fn the_event_names_its_address() {
        let mut engine = testing::engine().with_state("bounces/anna@example.com", "2");
        let event = testing::event("mail.bounced").json(json!({ "email": "anna@example.com" })).build();
        let outcome = engine.run(&BounceGuard, &event).unwrap();
        assert_eq!(outcome.events()[0].event_type, "contact.unreachable");
        assert_eq!(outcome.events()[0].subject.as_deref(), Some("anna@example.com"));
    }

    #[test]
    fn a_mail_without_a_valid_address_is_a_bad_payload() {
        for email in [json!(null), json!(" "), json!("a".repeat(255))] {
            let event = testing::event("mail.bounced").json(json!({ "email": email })).build();
            assert_eq!(testing::run(&BounceGuard, &event).unwrap_err().code, "bad-payload");
        }
    }
}
