//! Previews what an endpoint would receive: which of the newest events its subscription selects, and the body of the newest one.
//! Nothing is sent or stored.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    input::{subscription, word},
    schema::conditions_schema,
};
use crate::{
    api::{Api, body, error::Problem},
    domain::{
        endpoint::{Facts, Subscription},
        envelope::{self, Envelope, Format},
        pattern::Pattern,
    },
    store::{EventFilter, EventSummary, PageRequest, StoryPlace},
    wire::{MatchSampleView, MatchedType, MatchesView},
};

/// Number of the newest events that are checked.
const CHECKED_MAX: usize = 1_000;
/// Number of events that one read of the store returns.
const PAGE: usize = 500;
/// Maximum number of events whose data is read to check conditions on it. Each costs one read of the store.
const DATA_READ_MAX: usize = 100;
/// Largest data that is read, in bytes.
const DATA_BYTES_MAX: u64 = 64 << 10;
/// Maximum number of types that the answer names.
const TYPES_MAX: usize = 20;

/// The part of an endpoint that decides what it receives.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MatchInput)]
struct Input {
    /// Event types that the endpoint subscribes to.
    #[serde(default)]
    #[schema(value_type = Vec<Pattern>, max_items = 100)]
    events: Vec<String>,
    #[serde(default)]
    #[schema(schema_with = conditions_schema)]
    r#where: BTreeMap<String, Vec<String>>,
    /// Body format; default `standard`.
    #[schema(value_type = Option<Envelope>)]
    envelope: Option<String>,
    /// Body encoding; default `json`.
    #[schema(value_type = Option<Format>)]
    format: Option<String>,
}

/// Preview what an endpoint would receive.
///
/// Checks the last 1,000 events and returns how many of them a subscription would have selected, by type, and the body of the
/// newest selected one. Nothing is sent or stored. If a condition needs the data of events, the data of at most 100 of them is
/// read, and then fewer events are checked. Events with more than 64 KiB of data do not fulfil such a condition here, and are not
/// used as the sample.
#[utoipa::path(
    post, path = "/v1/events/match", operation_id = "match_events", tag = "endpoints",
    request_body(content = Input, example = json!({ "events": ["order.*"], "where": { "channel": ["web"] }, "format": "json" })),
    responses((status = 200, description = "What it would have received.", body = MatchesView)),
    extensions(("x-problems" = json!(["bad_endpoint"]))),
)]
pub async fn preview(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Json<MatchesView>, Problem> {
    let input: Input = body::json(&api, &headers, body, Problem::bad_endpoint).await?;
    let wanted = subscription(input.events, input.r#where)?;
    let envelope = word("envelope", input.envelope.as_deref(), &Envelope::ALL, Envelope::as_str)?;
    let format = word("format", input.format.as_deref(), &Format::ALL, Format::as_str)?;
    let found = find(&api, &wanted).await?;
    let newest = found.matched.iter().find(|summary| summary.bytes <= DATA_BYTES_MAX);
    let sample = match newest {
        Some(summary) => sample(&api, summary, envelope, format).await?,
        None => None,
    };
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    for summary in &found.matched {
        *numbers.entry(&summary.event.new.event_type).or_default() += 1;
    }
    let mut types: Vec<MatchedType> =
        numbers.into_iter().map(|(event_type, count)| MatchedType { r#type: event_type.to_owned(), count }).collect();
    types.sort_by_key(|one| std::cmp::Reverse(one.count));
    types.truncate(TYPES_MAX);
    Ok(Json(MatchesView { checked: found.checked, matched: found.matched.len() as u64, types, sample }))
}

/// The events that a subscription selects, newest first.
struct Found {
    checked: u64,
    matched: Vec<EventSummary>,
}

async fn find(api: &Api, wanted: &Subscription) -> Result<Found, Problem> {
    let mut found = Found { checked: 0, matched: Vec::new() };
    let needs_data = wanted.conditions.iter().any(|(name, _)| name.starts_with(Subscription::DATA));
    // The engine's own events are selected only by patterns that name them.
    let own = wanted.events.iter().any(|pattern| pattern.to_string().starts_with("innesco."));
    let without_data: Subscription = Subscription {
        events: Vec::new(),
        conditions: wanted.conditions.iter().filter(|(name, _)| !name.starts_with(Subscription::DATA)).cloned().collect(),
    };
    let (mut cursor, mut reads) = (None, 0);
    for _ in 0..CHECKED_MAX / PAGE {
        let filter = EventFilter { without_own: !own, ..EventFilter::default() };
        let page = api.store.events(filter, PageRequest { cursor, limit: PAGE }).await?;
        for summary in page.items {
            let event = &summary.event;
            let is_of_type = wanted.events.iter().any(|pattern| pattern.matches(&event.new.event_type));
            let mut is_wanted = is_of_type && without_data.conditions_hold(&Facts::new(&event.new));
            if is_wanted && needs_data {
                if reads == DATA_READ_MAX {
                    return Ok(found);
                }
                is_wanted = summary.bytes <= DATA_BYTES_MAX && {
                    reads += 1;
                    let whole = api.store.event(event.id, StoryPlace::default()).await?.event;
                    wanted.conditions_hold(&Facts::new(&whole.new))
                };
            }
            found.checked += 1;
            if is_wanted {
                found.matched.push(summary);
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Writes the body of one webhook.
async fn sample(
    api: &Api,
    summary: &EventSummary,
    envelope: Envelope,
    format: Format,
) -> Result<Option<MatchSampleView>, Problem> {
    let tag = api.store.tag();
    let event = api.store.event(summary.event.id, StoryPlace::default()).await?.event;
    let Ok(rendered) = envelope::render(&event, tag, envelope, format) else { return Ok(None) };
    Ok(Some(MatchSampleView {
        event: event.id.text(tag),
        r#type: event.new.event_type.to_string(),
        content_type: rendered.content_type.to_string(),
        body: String::from_utf8(rendered.body.to_vec()).ok(),
    }))
}
