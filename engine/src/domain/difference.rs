//! What differs between two runs on the same input: the runs of two versions of a plugin on one recorded event.
//!
//! [`differences`] is a pure function. Each [`Difference`] has a [`Change`] (its cause) and an example from this event. Events
//! that differ for the same cause have equal changes, so a report groups by change: a thousand events whose text changed are one
//! line.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use super::{
    content,
    run::{Emitted, Requests, RunFailure, StateWrite, Webhook},
    time::Timestamp,
};

/// Maximum number of differences of one pair of runs. Further differences are left out.
const DIFFERENCES_MAX: usize = 50;
/// Maximum length of an example's value, in bytes. Longer values are cut.
const EXAMPLE_BYTES: usize = 200;
/// A JSON value that is nested deeper than `DEPTH_MAX`, or whose path is longer than `PATH_BYTES`, is compared as a whole.
const DEPTH_MAX: usize = 32;
const PATH_BYTES: usize = 200;

/// What a run returned.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    pub result: Result<&'a Requests, &'a RunFailure>,
    /// The writes of the run to its plugin's state. A run that fails writes nothing.
    pub writes: &'a [StateWrite],
}

/// One difference between two answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub change: Change,
    /// The old value, shortened. `None` if there was none.
    pub from: Option<String>,
    pub to: Option<String>,
}

/// The cause of a difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// The run ended differently. Each end is `ok`, or the outcome and code of a failure.
    Outcome {
        from: String,
        to: String,
    },
    /// Both runs failed with the same outcome and code, but with different messages.
    Message {
        code: String,
    },
    /// Both runs failed with the same outcome and code, but only one of the two failures is retried.
    Retryable {
        code: String,
    },
    WebhookAdded {
        to: String,
    },
    WebhookRemoved {
        to: String,
    },
    /// The same webhook goes to another endpoint.
    Target {
        from: String,
        to: String,
    },
    /// The same webhooks leave in another order.
    Order,
    /// A part of a webhook changed.
    Webhook {
        to: String,
        part: Part,
    },
    EventAdded {
        event_type: String,
    },
    EventRemoved {
        event_type: String,
    },
    /// A part of an emitted event changed.
    Event {
        event_type: String,
        part: Part,
    },
    /// A write to the plugin's state changed. Digits of the key are replaced by `#`, since most keys contain ids.
    State {
        key: String,
        how: How,
    },
}

/// A part of a webhook or of an emitted event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Type,
    Subject,
    /// How long after the run an emitted event is due.
    After,
    ContentType,
    Header {
        name: String,
        how: How,
    },
    Attribute {
        name: String,
        how: How,
    },
    /// A value in a JSON body, by JSON pointer; elements of lists are `*`. The empty path is the whole body.
    Body {
        path: String,
        how: How,
    },
}

/// How a value changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    Added,
    Removed,
    Changed,
    /// The value has another type: a number became a text, for example.
    Retyped {
        from: &'static str,
        to: &'static str,
    },
    /// The same members, headers or attributes in another order.
    Reordered,
    /// The same JSON value, written differently: with other white space, or `1.0` and `1.00`.
    Rewritten,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str("added"),
            Self::Removed => f.write_str("removed"),
            Self::Changed => f.write_str("changed"),
            Self::Retyped { from, to } => write!(f, "changed from {from} to {to}"),
            Self::Reordered => f.write_str("in another order"),
            Self::Rewritten => f.write_str("written differently"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type => f.write_str("type changed"),
            Self::Subject => f.write_str("subject changed"),
            Self::After => f.write_str("due time changed"),
            Self::ContentType => f.write_str("content type changed"),
            Self::Header { name, how } => write!(f, "header {name} {how}"),
            Self::Attribute { name, how } => write!(f, "attribute {name} {how}"),
            Self::Body { path, how } if path.is_empty() => write!(f, "body {how}"),
            Self::Body { path, how } => write!(f, "body {path} {how}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outcome { from, to } => write!(f, "outcome changed from {from} to {to}"),
            Self::Message { code } => write!(f, "message of {code} changed"),
            Self::Retryable { code } => write!(f, "whether {code} is retried changed"),
            Self::WebhookAdded { to } => write!(f, "webhook to {to} added"),
            Self::WebhookRemoved { to } => write!(f, "webhook to {to} removed"),
            Self::Target { from, to } => write!(f, "webhook goes to {to} instead of {from}"),
            Self::Order => f.write_str("webhooks in another order"),
            Self::Webhook { to, part } => write!(f, "webhook to {to}: {part}"),
            Self::EventAdded { event_type } => write!(f, "event {event_type} added"),
            Self::EventRemoved { event_type } => write!(f, "event {event_type} removed"),
            Self::Event { event_type, part } => write!(f, "event {event_type}: {part}"),
            Self::State { key, how } => write!(f, "state {key} {how}"),
        }
    }
}

impl Change {
    /// The kind of the change, for programs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Outcome { .. } => "outcome",
            Self::Message { .. } => "message",
            Self::Retryable { .. } => "retryable",
            Self::WebhookAdded { .. } => "webhook-added",
            Self::WebhookRemoved { .. } => "webhook-removed",
            Self::Target { .. } => "target",
            Self::Order => "order",
            Self::Webhook { part, .. } => match part {
                Part::Type => "type",
                Part::Subject => "subject",
                Part::After => "after",
                Part::ContentType => "content-type",
                Part::Header { .. } => "header",
                Part::Attribute { .. } => "attribute",
                Part::Body { .. } => "body",
            },
            Self::EventAdded { .. } => "event-added",
            Self::EventRemoved { .. } => "event-removed",
            Self::Event { .. } => "event",
            Self::State { .. } => "state",
        }
    }

    /// Returns whether an endpoint gets more or fewer webhooks.
    pub const fn changes_targets(&self) -> bool {
        matches!(self, Self::WebhookAdded { .. } | Self::WebhookRemoved { .. } | Self::Target { .. })
    }
}

/// Returns what differs between the answers of two versions to one event. The list is empty if the answers are equal. The order
/// of emitted events of different types does not count.
pub fn differences(before: Answer<'_>, after: Answer<'_>) -> Vec<Difference> {
    let (mut found, writes) = (Found::default(), (before.writes, after.writes));
    match (before.result, after.result) {
        (Ok(before), Ok(after)) => {
            found.webhooks(&before.webhooks, &after.webhooks);
            found.emitted(&before.emitted, &after.emitted);
            found.state(writes.0, writes.1);
        }
        (Err(before), Err(after)) if (before.outcome, &before.code) == (after.outcome, &after.code) => {
            let code = || ending(Err(after));
            if before.message != after.message {
                found.add(Change::Message { code: code() }, Some(before.message.clone()), Some(after.message.clone()));
            }
            if before.retryable != after.retryable {
                let word = |failure: &RunFailure| Some(if failure.retryable { "retried" } else { "parked" }.to_owned());
                found.add(Change::Retryable { code: code() }, word(before), word(after));
            }
        }
        (before, after) => {
            let message = |result: Result<&Requests, &RunFailure>| result.err().map(|failure| failure.message.clone());
            let change = Change::Outcome { from: ending(before), to: ending(after) };
            found.add(change, message(before), message(after));
        }
    }
    found.list
}

/// Describes the end of a run in a few words.
fn ending(result: Result<&Requests, &RunFailure>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(failure) => format!("{} ({})", failure.outcome, failure.code),
    }
}

#[derive(Default)]
struct Found {
    list: Vec<Difference>,
}

impl Found {
    fn add(&mut self, change: Change, from: Option<String>, to: Option<String>) {
        if self.list.len() < DIFFERENCES_MAX && !self.list.iter().any(|known| known.change == change) {
            self.list.push(Difference { change, from: from.map(shorten), to: to.map(shorten) });
        }
    }

    fn webhooks(&mut self, before: &[Webhook], after: &[Webhook]) {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let mut pairs = pair(before, after, target, &mut gone, &mut new);
        // A removed and an added webhook with the same content are one webhook that goes to another endpoint.
        gone.retain(|old| {
            let same = new.iter().position(|one: &&Webhook| same_content(old, one));
            match same.map(|place| new.remove(place)) {
                Some(one) => {
                    self.add(Change::Target { from: target(old), to: target(one) }, None, None);
                    false
                }
                None => true,
            }
        });
        for old in gone {
            self.add(Change::WebhookRemoved { to: target(old) }, Some(text(&old.payload.body)), None);
        }
        for one in new {
            self.add(Change::WebhookAdded { to: target(one) }, None, Some(text(&one.payload.body)));
        }
        let in_order = pairs.is_sorted_by_key(|(_, after, _)| *after);
        if !in_order {
            self.add(Change::Order, None, None);
        }
        pairs.sort_by_key(|(before, _, _)| *before);
        for (_, _, (old, one)) in pairs {
            self.webhook(old, one);
        }
    }

    fn webhook(&mut self, before: &Webhook, after: &Webhook) {
        let to = target(before);
        let of = |part| Change::Webhook { to: to.clone(), part };
        let (old, new) = (&before.payload, &after.payload);
        if old.event_type != new.event_type {
            let shown = |payload: &super::delivery::Payload| payload.event_type.as_ref().map(ToString::to_string);
            self.add(of(Part::Type), shown(old), shown(new));
        }
        if old.content_type != new.content_type {
            self.add(of(Part::ContentType), Some(old.content_type.clone()), Some(new.content_type.clone()));
        }
        let part = |name: &str, how| Part::Header { name: name.to_owned(), how };
        self.pairs(&old.headers, &new.headers, |name, how| of(part(name, how)));
        let path = |path: String, how| of(Part::Body { path, how });
        self.bytes(&old.body, &new.body, content::is_json(&new.content_type), &path);
    }

    fn emitted(&mut self, before: &[Emitted], after: &[Emitted]) {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let of_type = |emitted: &Emitted| emitted.event_type.to_string();
        let pairs = pair(before, after, of_type, &mut gone, &mut new);
        for old in gone {
            self.add(Change::EventRemoved { event_type: of_type(old) }, Some(text(old.content.bytes())), None);
        }
        for one in new {
            self.add(Change::EventAdded { event_type: of_type(one) }, None, Some(text(one.content.bytes())));
        }
        for (_, _, (old, one)) in pairs {
            let event_type = of_type(old);
            let of = |part| Change::Event { event_type: event_type.clone(), part };
            if old.subject != one.subject {
                self.add(of(Part::Subject), old.subject.clone(), one.subject.clone());
            }
            if old.after != one.after {
                let shown = |emitted: &Emitted| Some(format!("{} ms", emitted.after.as_millis()));
                self.add(of(Part::After), shown(old), shown(one));
            }
            let content_type = |emitted: &Emitted| emitted.content.content_type().to_string();
            if content_type(old) != content_type(one) {
                self.add(of(Part::ContentType), Some(content_type(old)), Some(content_type(one)));
            }
            let part = |name: &str, how| Part::Attribute { name: name.to_owned(), how };
            self.pairs(&old.attributes.0, &one.attributes.0, |name, how| of(part(name, how)));
            let path = |path: String, how| of(Part::Body { path, how });
            self.bytes(old.content.bytes(), one.content.bytes(), content::is_json(&content_type(one)), &path);
        }
    }

    /// Compares headers or attributes, which are pairs of a name and a value.
    fn pairs(&mut self, before: &[(String, String)], after: &[(String, String)], change: impl Fn(&str, How) -> Change) {
        if before == after {
            return;
        }
        let by_name = |list: &[(String, String)]| {
            let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (name, value) in list {
                names.entry(name.to_ascii_lowercase()).or_default().push(value.clone());
            }
            names
        };
        let (old, new) = (by_name(before), by_name(after));
        let mut differs = false;
        for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
            let how = match (old.get(name), new.get(name)) {
                (Some(before), Some(after)) if before == after => continue,
                (Some(_), Some(_)) => How::Changed,
                (Some(_), None) => How::Removed,
                _ => How::Added,
            };
            differs = true;
            let shown = |values: Option<&Vec<String>>| values.map(|values| values.join(", "));
            self.add(change(name, how), shown(old.get(name)), shown(new.get(name)));
        }
        if !differs {
            let first = after.iter().zip(before).find(|(after, before)| after != before).map(|(after, _)| after.0.as_str());
            self.add(change(&first.unwrap_or_default().to_ascii_lowercase(), How::Reordered), None, None);
        }
    }

    fn bytes(&mut self, before: &[u8], after: &[u8], is_json: bool, change: &dyn Fn(String, How) -> Change) {
        if before == after {
            return;
        }
        let json = |bytes| if is_json { serde_json::from_slice::<Value>(bytes).ok() } else { None };
        let (Some(old), Some(new)) = (json(before), json(after)) else {
            return self.add(change(String::new(), How::Changed), Some(text(before)), Some(text(after)));
        };
        let known = self.list.len();
        self.values(&old, &new, &mut String::new(), 0, change);
        // The values are equal, so only their text differs.
        if self.list.len() == known && old == new {
            let how = if same_but_order(&old, before, after) { How::Reordered } else { How::Rewritten };
            self.add(change(String::new(), how), Some(text(before)), Some(text(after)));
        }
    }

    fn values(&mut self, before: &Value, after: &Value, path: &mut String, depth: usize, change: &dyn Fn(String, How) -> Change) {
        if before == after {
            return;
        }
        let is_too_far = depth >= DEPTH_MAX || path.len() >= PATH_BYTES;
        match (before, after) {
            (Value::Object(old), Value::Object(new)) if !is_too_far => self.members(old, new, path, depth, change),
            (Value::Array(old), Value::Array(new)) if !is_too_far => {
                let length = path.len();
                path.push_str("/*");
                for (old, new) in old.iter().zip(new) {
                    self.values(old, new, path, depth + 1, change);
                }
                for gone in old.iter().skip(new.len()) {
                    self.add(change(path.clone(), How::Removed), Some(gone.to_string()), None);
                }
                for one in new.iter().skip(old.len()) {
                    self.add(change(path.clone(), How::Added), None, Some(one.to_string()));
                }
                path.truncate(length);
            }
            _ => {
                let how = match (class(before), class(after)) {
                    (from, to) if from == to => How::Changed,
                    (from, to) => How::Retyped { from, to },
                };
                self.add(change(path.clone(), how), Some(before.to_string()), Some(after.to_string()));
            }
        }
    }

    fn members(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        path: &mut String,
        depth: usize,
        change: &dyn Fn(String, How) -> Change,
    ) {
        let length = path.len();
        let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
        for name in names {
            path.push('/');
            path.push_str(&name.replace('~', "~0").replace('/', "~1"));
            match (old.get(name), new.get(name)) {
                (Some(old), Some(new)) => self.values(old, new, path, depth + 1, change),
                (Some(old), None) => self.add(change(path.clone(), How::Removed), Some(old.to_string()), None),
                (None, new) => self.add(change(path.clone(), How::Added), None, new.map(ToString::to_string)),
            }
            path.truncate(length);
        }
    }

    fn state(&mut self, before: &[StateWrite], after: &[StateWrite]) {
        if before == after {
            return;
        }
        let by_key = |writes: &[StateWrite]| -> BTreeMap<String, (Option<Vec<u8>>, Option<Timestamp>)> {
            writes.iter().map(|write| (write.key.clone(), (write.value.clone(), write.expires_at))).collect()
        };
        let (old, new) = (by_key(before), by_key(after));
        for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
            let how = match (old.get(key), new.get(key)) {
                (Some(before), Some(after)) if before == after => continue,
                (Some(_), Some(_)) => How::Changed,
                (Some(_), None) => How::Removed,
                _ => How::Added,
            };
            let shown = |write: Option<&(Option<Vec<u8>>, Option<Timestamp>)>| {
                let (value, expires_at) = write?;
                let until = expires_at.map(|at| format!(" until {at}")).unwrap_or_default();
                Some(value.as_deref().map_or("deleted".to_owned(), |value| text(value) + &until))
            };
            self.add(Change::State { key: without_digits(key), how }, shown(old.get(key)), shown(new.get(key)));
        }
    }
}

type Pairs<'a, T> = Vec<(usize, usize, (&'a T, &'a T))>;

/// Pairs each item of `before` with the next free item of `after` that has the same key. Adds the items that have no partner to
/// `gone` and `new`.
fn pair<'a, T>(
    before: &'a [T],
    after: &'a [T],
    key: impl Fn(&T) -> String,
    gone: &mut Vec<&'a T>,
    new: &mut Vec<&'a T>,
) -> Pairs<'a, T> {
    let mut free: BTreeMap<String, std::collections::VecDeque<usize>> = BTreeMap::new();
    for (place, one) in after.iter().enumerate() {
        free.entry(key(one)).or_default().push_back(place);
    }
    let mut pairs = Vec::new();
    for (place, old) in before.iter().enumerate() {
        match free.get_mut(&key(old)).and_then(std::collections::VecDeque::pop_front) {
            Some(other) => pairs.push((place, other, (old, &after[other]))),
            None => gone.push(old),
        }
    }
    let mut rest: Vec<usize> = free.into_values().flatten().collect();
    rest.sort_unstable();
    new.extend(rest.into_iter().map(|place| &after[place]));
    pairs
}

/// Returns the endpoint of a webhook. The webhooks of an endpoint's own plugin name none.
fn target(webhook: &Webhook) -> String {
    webhook.to.clone().unwrap_or_else(|| "its endpoint".to_owned())
}

fn same_content(one: &Webhook, other: &Webhook) -> bool {
    let (one, other) = (&one.payload, &other.payload);
    (&one.event_type, &one.content_type, &one.headers, &one.body)
        == (&other.event_type, &other.content_type, &other.headers, &other.body)
}

/// Returns whether the texts of two equal values have the same bytes in another order. If so, only the order of members differs.
fn same_but_order(value: &Value, before: &[u8], after: &[u8]) -> bool {
    let mut sorted = [before.to_vec(), after.to_vec()];
    sorted.iter_mut().for_each(|bytes| bytes.sort_unstable());
    sorted[0] == sorted[1] && (value.is_object() || value.is_array())
}

const fn class(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Replaces each sequence of digits by `#`.
fn without_digits(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for letter in key.chars() {
        match letter {
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            other => text.push(other),
        }
    }
    text
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.len().min(EXAMPLE_BYTES + 4);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes: {}", bytes.len(), String::from_utf8_lossy(&bytes[..end])),
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > EXAMPLE_BYTES {
        text.truncate(text.floor_char_boundary(EXAMPLE_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::domain::{
        content::Content,
        delivery::Payload,
        name::{Attributes, EventType},
        run::RunOutcome,
    };

    /// What one run returned. Each test case changes one part of it.
    #[derive(Clone)]
    struct Ran {
        result: Result<Requests, RunFailure>,
        writes: Vec<StateWrite>,
    }

    impl Ran {
        fn answer(&self) -> Answer<'_> {
            Answer { result: self.result.as_ref(), writes: &self.writes }
        }
    }

    fn webhook(to: &str, body: &Value) -> Webhook {
        let payload = Payload {
            event_type: None,
            content_type: "application/json".into(),
            headers: vec![("x-one".into(), "1".into())],
            body: Bytes::from(body.to_string()),
        };
        Webhook { to: Some(to.into()), payload }
    }

    fn emitted(event_type: &str, data: &Value) -> Emitted {
        Emitted {
            after: Duration::ZERO,
            event_type: EventType::parse(event_type).unwrap(),
            subject: None,
            content: Content::new("application/json", Bytes::from(data.to_string())).unwrap(),
            attributes: Attributes(vec![("channel".into(), "web".into())]),
        }
    }

    fn failure(outcome: RunOutcome, code: &str, message: &str) -> RunFailure {
        RunFailure { outcome, code: code.into(), message: message.into(), retryable: false }
    }

    fn base() -> Ran {
        let requests = Requests {
            webhooks: vec![
                webhook("crm", &json!({ "id": 7, "text": "order 7", "items": [{ "sku": "a", "n": 1 }], "tags": ["x"] })),
                webhook("slack", &json!({ "text": "hello" })),
            ],
            emitted: vec![emitted("order.big", &json!({ "total": 10 }))],
        };
        let write = |key: &str, value: &[u8]| StateWrite { key: key.into(), value: Some(value.to_vec()), expires_at: None };
        Ran { result: Ok(requests), writes: vec![write("seen/1234", b"1"), write("total", b"5")] }
    }

    fn changes(before: &Ran, after: &Ran) -> Vec<String> {
        differences(before.answer(), after.answer()).into_iter().map(|difference| difference.change.to_string()).collect()
    }

    /// Returns the base with its requests changed.
    fn with(change: impl FnOnce(&mut Requests)) -> Ran {
        let mut ran = base();
        change(ran.result.as_mut().unwrap());
        ran
    }

    fn body(value: Value) -> Ran {
        with(|requests| requests.webhooks[0] = webhook("crm", &value))
    }

    #[test]
    fn equal_answers_have_no_difference() {
        assert_eq!(changes(&base(), &base()), Vec::<String>::new());
    }

    #[test]
    fn each_change_has_exactly_one_name() {
        let crm =
            |id: Value, text: Value, items: Value, tags: Value| json!({ "id": id, "text": text, "items": items, "tags": tags });
        let item = || json!([{ "sku": "a", "n": 1 }]);
        let cases: Vec<(&str, Ran)> = vec![
            ("webhook to crm removed", with(|requests| drop(requests.webhooks.remove(0)))),
            ("webhook to mail added", with(|requests| requests.webhooks.push(webhook("mail", &json!({}))))),
            ("webhook to slack added", with(|requests| requests.webhooks.push(webhook("slack", &json!({ "text": "again" }))))),
            ("webhook goes to mail instead of slack", with(|requests| requests.webhooks[1].to = Some("mail".into()))),
            ("webhooks in another order", with(|requests| requests.webhooks.swap(0, 1))),
            (
                "webhook to slack: type changed",
                with(|requests| {
                    requests.webhooks[1].payload.event_type = Some(EventType::parse("order.late").unwrap());
                }),
            ),
            (
                "webhook to slack: content type changed",
                with(|requests| {
                    requests.webhooks[1].payload.content_type = "application/json; charset=utf-8".into();
                }),
            ),
            (
                "webhook to slack: header x-two added",
                with(|requests| {
                    requests.webhooks[1].payload.headers.push(("X-Two".into(), "2".into()));
                }),
            ),
            ("webhook to slack: header x-one removed", with(|requests| requests.webhooks[1].payload.headers.clear())),
            (
                "webhook to slack: header x-one changed",
                with(|requests| {
                    requests.webhooks[1].payload.headers = vec![("x-one".into(), "2".into())];
                }),
            ),
            ("webhook to crm: body /text changed", body(crm(json!(7), json!("bestellung 7"), item(), json!(["x"])))),
            ("webhook to crm: body /id changed", body(crm(json!(8), json!("order 7"), item(), json!(["x"])))),
            (
                "webhook to crm: body /id changed from number to text",
                body(crm(json!("7"), json!("order 7"), item(), json!(["x"]))),
            ),
            ("webhook to crm: body /text changed from text to null", body(crm(json!(7), Value::Null, item(), json!(["x"])))),
            (
                "webhook to crm: body /items/*/n changed",
                body(crm(json!(7), json!("order 7"), json!([{ "sku": "a", "n": 2 }]), json!(["x"]))),
            ),
            (
                "webhook to crm: body /items/*/price added",
                body(crm(json!(7), json!("order 7"), json!([{ "sku": "a", "n": 1, "price": 3 }]), json!(["x"]))),
            ),
            ("webhook to crm: body /items/* removed", body(crm(json!(7), json!("order 7"), json!([]), json!(["x"])))),
            ("webhook to crm: body /tags/* added", body(crm(json!(7), json!("order 7"), item(), json!(["x", "y"])))),
            ("webhook to crm: body /tags changed from list to object", body(crm(json!(7), json!("order 7"), item(), json!({})))),
            (
                "webhook to crm: body /tags removed",
                body(json!({ "id": 7, "text": "order 7", "items": [{ "sku": "a", "n": 1 }] })),
            ),
            (
                "webhook to crm: body /a~1b added",
                body(json!({ "id": 7, "text": "order 7", "items": [{ "sku": "a", "n": 1 }], "tags": ["x"], "a/b": 1 })),
            ),
            ("webhook to crm: body changed from object to list", body(json!([1]))),
            ("event order.big removed", with(|requests| requests.emitted.clear())),
            ("event order.small added", with(|requests| requests.emitted.push(emitted("order.small", &json!({}))))),
            ("event order.big: subject changed", with(|requests| requests.emitted[0].subject = Some("7".into()))),
            ("event order.big: due time changed", with(|requests| requests.emitted[0].after = Duration::from_secs(60))),
            (
                "event order.big: attribute channel changed",
                with(|requests| {
                    requests.emitted[0].attributes = Attributes(vec![("channel".into(), "app".into())]);
                }),
            ),
            (
                "event order.big: attribute list added",
                with(|requests| {
                    requests.emitted[0].attributes.0.push(("list".into(), "b".into()));
                }),
            ),
            (
                "event order.big: body /total changed",
                with(|requests| {
                    requests.emitted[0] = emitted("order.big", &json!({ "total": 11 }));
                }),
            ),
            (
                "state total changed",
                Ran {
                    writes: vec![
                        base().writes[0].clone(),
                        StateWrite { key: "total".into(), value: Some(b"6".to_vec()), expires_at: None },
                    ],
                    ..base()
                },
            ),
            (
                "state total changed",
                Ran {
                    writes: vec![
                        base().writes[0].clone(),
                        StateWrite { expires_at: Some(Timestamp::from_millis(5)), ..base().writes[1].clone() },
                    ],
                    ..base()
                },
            ),
            ("state seen/# removed", Ran { writes: base().writes[1..].to_vec(), ..base() }),
            (
                "state total changed",
                Ran {
                    writes: vec![base().writes[0].clone(), StateWrite { key: "total".into(), value: None, expires_at: None }],
                    ..base()
                },
            ),
        ];
        for (expected, after) in &cases {
            assert_eq!(changes(&base(), after), [*expected]);
        }
    }

    #[test]
    fn names_json_that_is_only_reordered_or_rewritten() {
        let raw = |text: &str| with(|requests| requests.webhooks[1].payload.body = Bytes::from(text.to_owned()));
        let (one, other) = (raw(r#"{"a":1,"b":[2]}"#), raw(r#"{"b":[2],"a":1}"#));
        assert_eq!(changes(&one, &other), ["webhook to slack: body in another order"]);
        assert_eq!(changes(&one, &raw(r#"{"a": 1, "b": [2]}"#)), ["webhook to slack: body written differently"]);
        assert_eq!(changes(&one, &raw("no json")), ["webhook to slack: body changed"]);
    }

    #[test]
    fn a_changed_outcome_hides_the_differences_that_it_causes() {
        let failed = |message| Ran { result: Err(failure(RunOutcome::Failed, "bad-total", message)), writes: Vec::new() };
        let trapped = Ran { result: Err(failure(RunOutcome::Trapped, "panic", "at 7")), writes: Vec::new() };
        assert_eq!(changes(&base(), &trapped), ["outcome changed from ok to trapped (panic)"]);
        assert_eq!(changes(&trapped, &base()), ["outcome changed from trapped (panic) to ok"]);
        assert_eq!(changes(&failed("a"), &trapped), ["outcome changed from failed (bad-total) to trapped (panic)"]);
        assert_eq!(changes(&failed("a"), &failed("b")), ["message of failed (bad-total) changed"]);
        assert_eq!(changes(&failed("a"), &failed("a")), Vec::<String>::new());
        let retried = RunFailure { retryable: true, ..failure(RunOutcome::Failed, "bad-total", "a") };
        let retried = Ran { result: Err(retried), writes: Vec::new() };
        assert_eq!(changes(&failed("a"), &retried), ["whether failed (bad-total) is retried changed"]);
        assert_eq!(
            changes(&failed("b"), &retried),
            ["message of failed (bad-total) changed", "whether failed (bad-total) is retried changed"]
        );
    }

    #[test]
    fn values_keep_their_digits_and_examples_are_short() {
        let big = |text: &str| with(|requests| requests.webhooks[1].payload.body = Bytes::from(text.to_owned()));
        let (before, after) = (big(r#"{"n":9007199254740993}"#), big(r#"{"n":9007199254740992}"#));
        assert_eq!(changes(&before, &after), ["webhook to slack: body /n changed"]);
        let long = big(&json!({ "n": "x".repeat(1000) }).to_string());
        let found = differences(before.answer(), long.answer());
        assert!(found[0].to.as_ref().unwrap().len() < EXAMPLE_BYTES + 8, "{found:?}");
        assert_eq!(found[0].from.as_deref(), Some("9007199254740993"));
    }

    #[test]
    fn many_differences_are_cut() {
        let body = |extra: i64| json!((0..1000).map(|n| (format!("m{n}"), json!(n + extra))).collect::<Map<_, _>>());
        let one = with(|requests| requests.webhooks[0] = webhook("crm", &body(0)));
        let other = with(|requests| requests.webhooks[0] = webhook("crm", &body(1)));
        assert_eq!(changes(&one, &other).len(), DIFFERENCES_MAX);
    }

    #[test]
    fn only_webhooks_change_targets() {
        let target = |change: Change| change.changes_targets();
        assert!(target(Change::WebhookAdded { to: "a".into() }) && target(Change::WebhookRemoved { to: "a".into() }));
        assert!(target(Change::Target { from: "a".into(), to: "b".into() }));
        assert!(!target(Change::Order) && !target(Change::EventAdded { event_type: "a".into() }));
    }
}
