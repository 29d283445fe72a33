//! The form that creates or changes an endpoint. The API checks the input. A fault is shown under its field.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::{
    actions::{page_of, said, send_test},
    one::read,
    secret, title_of,
};
use crate::{
    api::{Problem, events, page::Query as ApiQuery},
    domain::{
        endpoint::Ordering,
        envelope::{Envelope, Format},
        signature::Scheme,
    },
    ui::{
        Ui, foreign,
        form::{Fields, Form},
        layout::{self, Head, Page, Place},
        parts::{self, Field, Look, icon, json, segment, state::State as Shown},
        visit::Visit,
    },
    wire::{EndpointView, MatchesView},
};

/// Values of the attribute `initiator`: who triggered an event.
const INITIATORS: [&str; 4] = ["public", "admin", "api", "system"];
/// Number of newest events that are read to suggest types.
const SEEN: usize = 200;
/// Number of types that are suggested.
const SUGGESTED: usize = 6;
/// The route of the API that makes the preview.
const PREVIEW: &str = "POST /v1/events/match";
/// Fields behind "More settings".
const MORE: [&str; 13] = [
    "envelope",
    "signature",
    "token_header",
    "headers",
    "conditions",
    "plugin",
    "timeout",
    "schedule",
    "concurrency",
    "rate",
    "ordered",
    "failures",
    "wait",
];

/// The content of the form's fields.
#[derive(Debug, Default, PartialEq)]
struct Values {
    texts: BTreeMap<&'static str, String>,
    initiators: Vec<String>,
}

/// The fields whose content is a single text.
const TEXTS: [&str; 20] = [
    "title",
    "name",
    "url",
    "events",
    "channel",
    "format",
    "envelope",
    "signature",
    "token_header",
    "headers",
    "conditions",
    "plugin",
    "timeout",
    "schedule",
    "concurrency",
    "rate",
    "ordered",
    "failures",
    "wait",
    "wait_max",
];

impl Values {
    fn of_fields(fields: &Fields) -> Self {
        let texts = TEXTS.into_iter().map(|name| (name, fields.get(name).unwrap_or_default().to_owned())).collect();
        Self { texts, initiators: fields.all("initiator").map(str::to_owned).collect() }
    }

    fn of_endpoint(view: &EndpointView) -> Self {
        let mut conditions = view.r#where.clone();
        let channel = conditions.get("channel").filter(|all| all.len() == 1).map(|all| all[0].clone());
        if channel.is_some() {
            conditions.remove("channel");
        }
        let initiators =
            conditions.get("initiator").filter(|all| all.iter().all(|one| INITIATORS.contains(&one.as_str()))).cloned();
        if initiators.is_some() {
            conditions.remove("initiator");
        }
        let lines = |pairs: Vec<(String, String)>, mark: &str| {
            pairs.into_iter().map(|(name, value)| format!("{name}{mark}{value}")).collect::<Vec<_>>().join("\n")
        };
        let conditions = conditions.into_iter().map(|(name, values)| (name, values.join(", "))).collect();
        let headers = view.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let texts = [
            ("title", view.title.clone().unwrap_or_default()),
            ("name", view.name.clone()),
            ("url", view.url.clone()),
            ("events", view.events.join(" ")),
            ("channel", channel.unwrap_or_default()),
            ("format", view.format.to_string()),
            ("envelope", view.envelope.to_string()),
            ("signature", view.signature.to_string()),
            ("token_header", view.token_header.clone().unwrap_or_default()),
            ("headers", lines(headers, ": ")),
            ("conditions", lines(conditions, " = ")),
            ("plugin", view.plugin.clone().unwrap_or_default()),
            ("timeout", view.timeout.clone()),
            ("schedule", view.schedule.clone().unwrap_or_default().join(" ")),
            ("concurrency", view.concurrency.to_string()),
            ("rate", view.rate.clone().unwrap_or_default()),
            ("ordered", view.ordered.as_deref().unwrap_or_default().to_owned()),
            ("failures", view.breaker.failures.to_string()),
            ("wait", view.breaker.wait.clone()),
            ("wait_max", view.breaker.wait_max.clone()),
        ];
        Self { texts: texts.into(), initiators: initiators.unwrap_or_default() }
    }

    /// Returns the request for a preview.
    fn preview(&self) -> Value {
        json!({
            "events": self.words("events"), "where": self.conditions(), "envelope": self.texts.get("envelope").filter(|text| !text.is_empty()),
            "format": self.texts.get("format").filter(|text| !text.is_empty()),
        })
    }

    fn get(&self, name: &str) -> &str {
        self.texts.get(name).map_or("", String::as_str)
    }

    fn words(&self, name: &str) -> Vec<&str> {
        self.get(name).split([' ', ',', '\n', '\r', '\t']).filter(|word| !word.is_empty()).collect()
    }

    /// Returns the lines of a field as pairs of name and value, split at `mark`. A line without the mark becomes a name without a
    /// value, which the API refuses with an error about this name.
    fn pairs(&self, name: &str, mark: char) -> Vec<(String, String)> {
        let lines = self.get(name).lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .map(|line| line.split_once(mark).unwrap_or((line, "")))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// Returns the conditions of a subscription, from three fields: the list, who triggered the event, and the typed conditions.
    fn conditions(&self) -> Map<String, Value> {
        let list = |values: &str| -> Vec<String> {
            values.split(',').map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect()
        };
        let mut all: Map<String, Value> =
            self.pairs("conditions", '=').into_iter().map(|(name, values)| (name, json!(list(&values)))).collect();
        if !self.get("channel").is_empty() {
            all.insert("channel".to_owned(), json!([self.get("channel")]));
        }
        // If all initiators are chosen, no condition is set, because an event may lack the attribute.
        if !self.initiators.is_empty() && self.initiators.len() < INITIATORS.len() {
            all.insert("initiator".to_owned(), json!(self.initiators));
        }
        all
    }

    /// Returns the body of the API request that creates an endpoint, or that changes `before` to these values.
    fn request(&self, before: Option<&EndpointView>) -> Value {
        let text = |name: &str| match self.get(name) {
            "" => Value::Null,
            text => json!(text),
        };
        let number = |name: &str| self.get(name).parse::<u64>().map_or_else(|_| text(name), |number| json!(number));
        let merged = |new: Map<String, Value>, old: Vec<&String>| {
            // In a merge patch, an absent member stays unchanged. So every old member that the form no longer has must be null.
            let mut all: Map<String, Value> = old.into_iter().map(|name| (name.clone(), Value::Null)).collect();
            all.extend(new);
            Value::Object(all)
        };
        let old_conditions = before.map(|before| before.r#where.keys().collect()).unwrap_or_default();
        let old_headers = before.map(|before| before.headers.keys().collect()).unwrap_or_default();
        let headers =
            self.pairs("headers", ':').into_iter().map(|(name, value)| (name.to_ascii_lowercase(), json!(value))).collect();
        let schedule = match self.words("schedule") {
            words if words.is_empty() => Value::Null,
            words => json!(words),
        };
        let mut all = json!({
            "title": text("title"),
            "url": self.get("url"),
            "events": self.words("events"),
            "where": merged(self.conditions(), old_conditions),
            "plugin": text("plugin"),
            "signature": text("signature"),
            "headers": merged(headers, old_headers),
            "timeout": text("timeout"),
            "schedule": schedule,
            "concurrency": number("concurrency"),
            "rate": text("rate"),
            "ordered": text("ordered"),
            "breaker": { "failures": number("failures"), "wait": text("wait"), "wait_max": text("wait_max") },
            "envelope": text("envelope"),
            "format": text("format"),
            "token_header": text("token_header"),
        });
        if before.is_none() {
            all["name"] = match self.get("name") {
                "" => json!(name_of(self.get("title"))),
                name => json!(name),
            };
            without_nulls(&mut all);
        }
        all
    }
}

fn without_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(without_nulls);
    }
}

/// Makes a name from a title. The page's script does the same while the title is typed.
fn name_of(title: &str) -> String {
    let mut name = String::new();
    for character in title.chars() {
        if character.is_ascii_alphanumeric() {
            name.push(character.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(64);
    name.trim_end_matches('-').to_owned()
}

/// A fault: the field under which it is shown, and what is wrong.
struct Fault {
    field: Option<&'static str>,
    detail: String,
}

impl Fault {
    fn of(problem: &Problem) -> Self {
        let member = problem.pointer().unwrap_or_default().trim_start_matches('/');
        let mut parts = member.split('/');
        let field = match (parts.next(), parts.next()) {
            (Some("where"), _) => Some("conditions"),
            (Some("breaker"), Some("wait")) => Some("wait"),
            (Some("breaker"), Some("wait_max")) => Some("wait_max"),
            (Some("breaker"), _) => Some("failures"),
            (Some(name), _) => TEXTS.into_iter().find(|known| *known == name),
            _ => None,
        };
        let prefix = problem.detail().split(": ").next().unwrap_or_default();
        let is_prefixed = !member.is_empty() && member.replace('/', ".").starts_with(prefix);
        let detail =
            if is_prefixed { &problem.detail()[(prefix.len() + 2).min(problem.detail().len())..] } else { problem.detail() };
        Self { field, detail: detail.to_owned() }
    }
}

/// The form for one endpoint.
struct Sheet<'a> {
    ui: &'a Ui,
    visit: &'a Visit,
    values: Values,
    /// The endpoint to change.
    before: Option<&'a EndpointView>,
    fault: Option<Fault>,
}

pub async fn new(State(ui): State<Arc<Ui>>, visit: Visit) -> Result<Response, Problem> {
    visit.sight("POST /v1/endpoints")?;
    let texts = [("format", Format::default().as_str().to_owned()), ("envelope", Envelope::default().as_str().to_owned())];
    let values = Values { texts: texts.into(), initiators: INITIATORS.map(str::to_owned).to_vec() };
    Sheet { ui: &ui, visit: &visit, values, before: None, fault: None }.show().await
}

pub async fn create(State(ui): State<Arc<Ui>>, headers: HeaderMap, form: Form) -> Result<Response, Problem> {
    let visit = &form.visit;
    visit.sight("POST /v1/endpoints")?;
    let mut values = Values::of_fields(&form.fields);
    if let Some(added) = form.fields.get("add") {
        add(&mut values, added);
    }
    if form.fields.is_set("add") || form.fields.is_set("preview") {
        return Sheet { ui: &ui, visit, values, before: None, fault: None }.show().await;
    }
    match ui.act(visit, Method::POST, "/v1/endpoints", Some(&values.request(None))).await {
        Ok(endpoint) => {
            let name = endpoint["name"].as_str().unwrap_or_default();
            let test = match form.fields.is_set("test") {
                true => send_test(&ui, visit, name).await.ok(),
                false => None,
            };
            secret::show_once(&ui, &headers, &endpoint, test, secret::Why::Created)
        }
        Err(problem) if problem.status().is_client_error() && problem.status() != StatusCode::FORBIDDEN => {
            Sheet { ui: &ui, visit, values, before: None, fault: Some(Fault::of(&problem)) }.show().await
        }
        Err(problem) => Err(problem),
    }
}

pub async fn edit(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    visit.sight("PATCH /v1/endpoints/{endpoint}")?;
    let (endpoint, _) = read(&ui, &visit, &name).await?;
    let values = Values::of_endpoint(&endpoint);
    Sheet { ui: &ui, visit: &visit, values, before: Some(&endpoint), fault: None }.show().await
}

pub async fn change(
    State(ui): State<Arc<Ui>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    form: Form,
) -> Result<Response, Problem> {
    let visit = &form.visit;
    let (endpoint, _) = read(&ui, visit, &name).await?;
    let mut values = Values::of_fields(&form.fields);
    if let Some(added) = form.fields.get("add") {
        add(&mut values, added);
    }
    if form.fields.is_set("add") || form.fields.is_set("preview") {
        return Sheet { ui: &ui, visit, values, before: Some(&endpoint), fault: None }.show().await;
    }
    let path = format!("/v1/endpoints/{}", segment(&endpoint.name));
    match ui.act(visit, Method::PATCH, &path, Some(&values.request(Some(&endpoint)))).await {
        // A change of the signature creates a new secret.
        Ok(changed) if changed["secret"].is_string() => secret::show_once(&ui, &headers, &changed, None, secret::Why::Rotated),
        Ok(_) => Ok(said(&page_of(&endpoint.name), &endpoint.name, "changed")),
        Err(problem) if problem.status().is_client_error() && problem.status() != StatusCode::FORBIDDEN => {
            Sheet { ui: &ui, visit, values, before: Some(&endpoint), fault: Some(Fault::of(&problem)) }.show().await
        }
        Err(problem) => Err(problem),
    }
}

fn add(values: &mut Values, event_type: &str) {
    let events = values.texts.entry("events").or_default();
    if !events.split_whitespace().any(|known| known == event_type) {
        *events = format!("{events} {event_type}").trim().to_owned();
    }
}

impl Sheet<'_> {
    async fn show(self) -> Result<Response, Problem> {
        let (visit, texts) = (self.visit, self.visit.texts());
        let t = &texts.webhook;
        let seen = self.seen().await?;
        let title = if self.before.is_some() { t.edit_title } else { t.new_title };
        let page = self.before.map(|endpoint| page_of(&endpoint.name));
        let head = Head {
            above: Some(match (&page, self.before) {
                (Some(page), Some(endpoint)) => (page.as_str(), title_of(endpoint), html! { (title) }),
                _ => ("/endpoints", texts.endpoints.title, html! { (title) }),
            }),
            title: html! { (title) },
            state: None,
            facts: Some(html! { (t.what_it_is) }),
            actions: None,
        };
        let action = page.as_ref().map_or_else(|| "/endpoints/new".to_owned(), |page| format!("{page}/edit"));
        let body = html! {
            (head.show())
            div.with-side.wide-side {
            form.form #webhook method="post" action=(action) data-whole {
                (parts::hidden(visit))
                // The Enter key in a field presses the form's first button. This hidden one saves.
                button.sr type="submit" tabindex="-1" aria-hidden="true" {}
                @if let Some(fault) = &self.fault {
                    @let known = fault.field.is_some();
                    (parts::note(Shown::failed(""), &html! { p { b { (t.not_saved) } @if !known { " " (foreign::value(&fault.detail)) } } }, &html! {}))
                }
                (self.line("title", t.title, Some(t.title_hint), "CRM"))
                @match self.before {
                    None => (self.line("name", t.name, Some(t.name_hint), "crm")),
                    Some(endpoint) => div.field { span.label { (t.name) } code { (foreign::name(&endpoint.name)) } p.hint { (t.name_fixed) } },
                }
                (self.line("url", t.url, Some(t.url_hint), "https://crm.example.org/hook"))
                (self.line("events", t.events, Some(t.events_hint), "order.* contact.subscribe"))
                @if !seen.is_empty() {
                    p.row.suggest { span.muted { (t.seen) } @for (kind, number) in &seen { button type="submit" name="add" value=(kind) { (foreign::name(kind)) " " span.n { (visit.formats().number(*number)) } } } }
                }
                (self.line("channel", t.list, Some(t.list_hint), t.all_lists))
                fieldset.field {
                    legend.label { (t.triggered_by) }
                    div.row {
                        @for (word, label) in INITIATORS.into_iter().zip([t.by_contact, t.by_admin, t.by_api, t.by_system]) {
                            label.tick { input type="checkbox" name="initiator" value=(word) checked[self.is_initiator(word)]; (label) }
                        }
                    }
                    p.hint { (t.triggered_hint) }
                }
                fieldset.field {
                    legend.label { (t.format) }
                    div.row { @for format in Format::ALL { label.tick { input type="radio" name="format" value=(format.as_str()) checked[self.values.get("format") == format.as_str()]; (match format { Format::Form => t.format_form, Format::Json => "JSON", Format::Xml => "XML" }) } } }
                }
                @let is_open = self.fault.as_ref().and_then(|fault| fault.field).is_some_and(|field| MORE.contains(&field) || field == "wait_max");
                details.more-fields open[is_open] {
                    summary { (icon("chevron")) (t.more) }
                    (self.more())
                }
                div.acts {
                    @if self.before.is_some() {
                        button.btn.primary type="submit" { (t.save) }
                    } @else {
                        button.btn.primary type="submit" { (t.create) }
                        button.btn type="submit" name="test" value="on" { (icon("arrow")) (t.create_and_test) }
                    }
                    @if visit.may(PREVIEW) { button.btn.no-script type="submit" name="preview" value="on" formnovalidate { (t.preview) } }
                    (parts::link_button(page.as_deref().unwrap_or("/endpoints"), None, texts.common.cancel, Look::Quiet))
                }
            }
            @if visit.may(PREVIEW) { div.side #preview { (self.preview().await?) } }
            }
        };
        Ok(layout::page(self.ui, visit, &Page::new(Place::Endpoints, title, body)).await)
    }

    /// Writes what the endpoint will receive, and which of the last events it would have received.
    async fn preview(&self) -> Result<Markup, Problem> {
        let (texts, formats) = (self.visit.texts(), self.visit.formats());
        let t = &texts.webhook;
        let found = match self.ui.act(self.visit, Method::POST, "/v1/events/match", Some(&self.values.preview())).await {
            Ok(found) => serde_json::from_value::<MatchesView>(found).map_err(|error| Problem::internal(error.to_string()))?,
            Err(problem) if problem.status().is_client_error() => {
                return Ok(html! { h2 { (t.receives) } p.muted { (foreign::value(problem.detail())) } });
            }
            Err(problem) => return Err(problem),
        };
        Ok(html! {
            div.section {
                h2 { (t.receives) }
                @match &found.sample {
                    None => p.muted { (t.receives_none) },
                    Some(sample) => {
                        div.panel {
                            div.cap { span.mono { "POST " (foreign::cut(self.values.get("url"))) } span.muted { (foreign::name(&sample.content_type)) } }
                            @match &sample.body {
                                Some(body) => { @let (body, _) = json::pretty(body, &formats); pre.code tabindex="0" { (body) } },
                                None => p.code.muted { (t.not_text) },
                            }
                        }
                        p.hint { ((t.made_from)(&foreign::isolated(&sample.r#type))) " " a.mono href=(format!("/events/{}", sample.event)) { (sample.event) } }
                    }
                }
            }
            div.section {
                h3 { ((t.would_have)(&formats.number(found.matched), &formats.number(found.checked))) }
                dl.policy.counts {
                    @for one in &found.types { div { dt.mono { (foreign::name(&one.r#type)) } dd.num { (formats.number(one.count)) } } }
                }
            }
        })
    }

    fn is_initiator(&self, word: &str) -> bool {
        // No condition means every initiator.
        self.values.initiators.is_empty() || self.values.initiators.iter().any(|one| one == word)
    }

    fn error(&self, name: &str) -> Option<&str> {
        self.fault.as_ref().filter(|fault| fault.field == Some(name)).map(|fault| fault.detail.as_str())
    }

    fn field<'b>(&'b self, name: &'b str, label: &'b str, hint: Option<&str>) -> Field<'b> {
        Field { name, label, hint: hint.map(|hint| html! { (hint) }), error: self.error(name) }
    }

    fn line(&self, name: &str, label: &str, hint: Option<&str>, placeholder: &str) -> Markup {
        let field = self.field(name, label, hint);
        let is_first = matches!(name, "title") && self.fault.is_none() && self.before.is_none();
        field.around(&html! {
            input type="text" id=(field.id()) name=(name) value=(self.values.get(name)) placeholder=(placeholder) dir="auto" autocomplete="off" spellcheck="false"
                aria-invalid=[field.error.map(|_| "true")] aria-describedby=[field.described()] autofocus[field.error.is_some() || is_first];
        })
    }

    fn lines(&self, name: &str, label: &str, hint: &str) -> Markup {
        let field = self.field(name, label, Some(hint));
        field.around(&html! {
            textarea id=(field.id()) name=(name) rows="3" dir="auto" spellcheck="false" aria-invalid=[field.error.map(|_| "true")]
                aria-describedby=[field.described()] autofocus[field.error.is_some()] { (self.values.get(name)) }
        })
    }

    /// Writes the settings that most webhooks leave at their defaults.
    fn more(&self) -> Markup {
        let t = &self.visit.texts().webhook;
        let envelopes = [
            (Envelope::Standard.as_str(), t.envelope_standard),
            (Envelope::CloudEvents.as_str(), t.envelope_cloudevents),
            (Envelope::Data.as_str(), t.envelope_data),
        ];
        let signatures: Vec<(&str, &str)> = Scheme::ALL.iter().map(|scheme| (scheme.as_str(), scheme.as_str())).collect();
        let chosen = match self.values.get("signature") {
            "" => Scheme::default().as_str(),
            signature => signature,
        };
        let orders =
            [("", t.order_none), (Ordering::Endpoint.as_str(), t.order_endpoint), (Ordering::Subject.as_str(), t.order_subject)];
        html! {
            (self.field("envelope", t.envelope, None).choice(&envelopes, self.values.get("envelope")))
            (self.field("signature", t.signature, Some(t.signature_hint)).choice(&signatures, chosen))
            (self.line("token_header", t.token_header, Some(t.token_header_hint), "x-webhook-token"))
            (self.lines("headers", t.headers, t.headers_hint))
            (self.lines("conditions", t.conditions, t.conditions_hint))
            (self.line("plugin", t.plugin, Some(t.plugin_hint), ""))
            (self.line("timeout", t.timeout, Some(t.timeout_hint), "20s"))
            (self.line("schedule", t.schedule, Some(t.schedule_hint), "0s 5s 5m 30m 2h 5h 10h 14h 20h 24h"))
            (self.line("concurrency", t.concurrency, None, "64"))
            (self.line("rate", t.rate, Some(t.rate_hint), "50/s"))
            (self.field("ordered", t.order, None).choice(&orders, self.values.get("ordered")))
            (self.line("failures", t.failures, Some(t.failures_hint), "20"))
            (self.line("wait", t.wait, None, "10s"))
            (self.line("wait_max", t.wait_max, None, "5m"))
        }
    }

    /// Returns the types of the newest events, except types that the form already names, each with its number of events.
    async fn seen(&self) -> Result<Vec<(String, u64)>, Problem> {
        if self.visit.sight("GET /v1/events").is_err() {
            return Ok(Vec::new());
        }
        let newest = events::Filter { limit: Some(SEEN.to_string()), ..events::Filter::default() };
        let newest = events::list(State(Arc::clone(&self.ui.api)), ApiQuery(newest)).await?.0.items;
        let mut numbers: BTreeMap<String, u64> = BTreeMap::new();
        for event in newest {
            *numbers.entry(event.r#type).or_default() += 1;
        }
        let named = self.values.words("events");
        let mut seen: Vec<(String, u64)> =
            numbers.into_iter().filter(|(kind, _)| !named.contains(&kind.as_str()) && !kind.starts_with("innesco.")).collect();
        seen.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        seen.truncate(SUGGESTED);
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_from_titles() {
        for (title, name) in [("CRM contacts", "crm-contacts"), ("  Slack — sales!", "slack-sales"), ("طلب", ""), ("A  B", "a-b")]
        {
            assert_eq!(name_of(title), name, "{title}");
        }
        assert_eq!(name_of(&"x y".repeat(60)).len(), 64);
    }

    #[test]
    fn a_new_endpoint_has_only_the_members_that_were_typed() {
        let fields = Fields::parse(
            b"title=CRM&url=https%3A%2F%2Fcrm.example.org&events=order.*%2C+a.b&channel=web&initiator=api&headers=X-Env%3A+shop&concurrency=8",
        );
        let request = Values::of_fields(&fields).request(None);
        let expected = json!({
            "name": "crm", "title": "CRM", "url": "https://crm.example.org", "events": ["order.*", "a.b"],
            "where": { "channel": ["web"], "initiator": ["api"] }, "headers": { "x-env": "shop" }, "concurrency": 8, "breaker": {},
        });
        assert_eq!(request, expected);
    }

    #[test]
    fn choosing_every_initiator_sets_no_condition() {
        let fields = Fields::parse(b"initiator=public&initiator=admin&initiator=api&initiator=system");
        assert!(Values::of_fields(&fields).conditions().is_empty());
    }

    #[test]
    fn a_fault_is_shown_under_its_field() {
        for (problem, field, detail) in [
            (Problem::bad_endpoint("10 is private").in_member("url"), Some("url"), "10 is private"),
            (Problem::bad_endpoint("it is long").at("/breaker/wait"), Some("wait"), "it is long"),
            (Problem::bad_endpoint("x has no value").in_member("where"), Some("conditions"), "x has no value"),
            (Problem::conflict("too many: 10000"), None, "too many: 10000"),
        ] {
            let fault = Fault::of(&problem);
            assert_eq!((fault.field, fault.detail.as_str()), (field, detail));
        }
    }
}
