//! Example of attributes: a mail tool's form becomes an event with the attributes `channel` and `initiator`. Endpoints filter by
//! them.
//!
//! The plugin handles the events of a source whose sender posts forms as ActiveCampaign does:
//! `type=subscribe&list=3&initiated_by=admin&…`. The form arrives as JSON with the same names. The optional setting `list.3` is the
//! name of list 3.

use innesco_sdk::prelude::*;

#[derive(Deserialize)]
struct Form {
    /// `subscribe`, `unsubscribe`, `bounce`, …
    r#type: String,
    #[serde(default)]
    list: String,
    /// `public`, `admin`, `api` or `system`.
    #[serde(default)]
    initiated_by: String,
    contact: Contact,
}

#[derive(Deserialize)]
struct Contact {
    email: String,
}

struct CampaignEvents;

impl Plugin for CampaignEvents {
    const ON: &'static [&'static str] = &["campaign.received"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let form: Form = event.json()?;
        let channel = config::get(&format!("list.{}", form.list)).unwrap_or_else(|| form.list.clone());
        let data = json!({ "email": form.contact.email, "list": form.list, "sent_by": event.header("user-agent") });
        let emit = Emit::new(format!("contact.{}", form.r#type)).subject(form.contact.email).json(&data)?;
        Ok(emit.attribute("channel", channel).attribute("initiator", form.initiated_by).into())
    }
}

innesco_sdk::export!(CampaignEvents);

#[cfg(test)]
mod tests {
    use super::*;
    use innesco_sdk::testing;

    fn form(list: &str) -> Event {
        let data =
            json!({ "type": "subscribe", "list": list, "initiated_by": "admin", "contact": { "email": "anna@example.com" } });
        testing::event("campaign.received").json(data).attribute("http.header.user-agent", "mailer/1").build()
    }

    #[test]
    fn a_form_becomes_an_event_with_filter_attributes() {
        let outcome = testing::run(&CampaignEvents, &form("3")).unwrap();
        let event = &outcome.events()[0];
        assert_eq!((event.event_type.as_str(), event.subject.as_deref()), ("contact.subscribe", Some("anna@example.com")));
        let attributes = [("channel".to_owned(), "3".to_owned()), ("initiator".to_owned(), "admin".to_owned())];
        assert_eq!(event.attributes, attributes);
        assert_eq!(event.json_data()["sent_by"], "mailer/1");
    }

    #[test]
    fn a_list_can_have_a_name() {
        let mut engine = testing::engine().config("list.3", "newsletter");
        let outcome = engine.run(&CampaignEvents, &form("3")).unwrap();
        assert_eq!(outcome.events()[0].attributes[0].1, "newsletter");
    }

    #[test]
    fn a_form_of_another_shape_is_a_bad_payload() {
        let event = testing::event("campaign.received").json(json!({ "type": "subscribe" })).build();
        assert_eq!(testing::run(&CampaignEvents, &event).unwrap_err().code, "bad-payload");
    }
}
