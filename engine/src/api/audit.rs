//! The audit trail. A change through an audited route is recorded before it is made, and its status is added afterwards. So every
//! change has an entry, and an entry without a status means that the engine stopped in between. A change runs in a separate task,
//! so its entry is completed even if the caller disconnects. Bodies and secrets are not recorded. Published events are not recorded
//! either, because the store has the events themselves.
//!
//! Only a limited number of calls that changed nothing is recorded per key and action, so repeated calls cannot fill the disk or
//! the trail.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api, endpoints,
    error::Problem,
    page::{Limit, Paging, Query, instant},
    sources,
};
use crate::{
    clock,
    domain::{
        id::{AuditId, KeyId, Tag},
        time::Timestamp,
    },
    store::{AuditEntry, AuditFilter, KeyRow, NewAudit},
    wire::{AuditView, PageView},
};

/// Maximum number of characters of a target that are recorded. Ids and names are shorter.
const TARGET_CHARS_MAX: usize = 200;

/// The target of a change that creates something; the handler sets it.
#[derive(Clone)]
pub struct Target(pub String);

/// The names of the members that a change sets; the handler sets them.
#[derive(Clone)]
pub struct Members(pub Vec<String>);

/// Marks a successful answer to a call that changed nothing, because the requested state already existed.
#[derive(Clone)]
pub struct Unchanged;

/// Maximum number of entries for calls that changed nothing, per key and action within [`REFUSALS_SPAN`]. Ten entries show what a
/// caller tried. A key that never stops calling creates 88,000 rows per action and year.
const REFUSALS_MAX: u32 = 10;
const REFUSALS_SPAN: Duration = Duration::from_secs(3600);

/// Counts entries of calls that changed nothing.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<(KeyId, String), Span>>);

/// Number of entries for one key and action since an instant of the steady clock.
struct Span {
    since: Timestamp,
    kept: u32,
}

impl Refusals {
    /// Returns whether one more entry may be recorded.
    fn has_room(&self, key: KeyId, action: &str, now: Timestamp) -> bool {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Expired spans are removed, so the table has at most one entry per action of each recently active key.
        spans.retain(|_, span| now.since(span.since) < REFUSALS_SPAN);
        let span = spans.entry((key, action.to_owned())).or_insert(Span { since: now, kept: 0 });
        span.kept += 1;
        span.kept <= REFUSALS_MAX
    }
}

/// Records a change, runs it, and records its result. A change that has started is completed, even if the caller disconnects.
pub async fn record(api: Arc<Api>, key: &KeyRow, route: &str, request: Request, next: Next) -> Result<Response, Problem> {
    let entry = NewAudit {
        at: clock::wall(),
        key: key.new.name.clone(),
        action: action(request.method(), route),
        target: target(route, request.uri().path()).map(|typed| name(&api, route, typed)),
    };
    let key = key.id;
    let change = async move {
        let action = entry.action.clone();
        let id = api.store.begin_audit(entry).await?;
        let made = tokio::spawn(next.run(request)).await;
        let mut response = made.unwrap_or_else(|_| {
            Problem::internal("the change failed; see the log of the engine. The audit trail has an entry without a result")
                .into_response()
        });
        let target = response.extensions_mut().remove::<Target>().map(|Target(text)| shortened(&text));
        let members = response.extensions_mut().remove::<Members>().map(|Members(names)| names);
        let changed_nothing = response.status().is_client_error() || response.extensions_mut().remove::<Unchanged>().is_some();
        let noted = if changed_nothing && !api.refusals.has_room(key, &action, clock::steady()) {
            api.store.withdraw_audit(id).await
        } else {
            api.store.finish_audit(id, response.status().as_u16(), target, members).await
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "audit entry has no result: it could not be written");
        }
        Ok(response)
    };
    tokio::spawn(change).await.unwrap_or_else(|_| Err(Problem::internal("the change failed; see the log of the engine")))
}

/// Returns the action, such as `endpoint.update`, from the method and the matched route.
fn action(method: &Method, route: &str) -> String {
    let mut words = route.split('/').filter(|word| !word.is_empty()).skip(1);
    let noun = singular(words.next().unwrap_or_default());
    let rest: Vec<&str> = words.filter(|word| !word.starts_with('{')).collect();
    let verb = match *method {
        Method::POST => "create",
        Method::DELETE => "delete",
        _ => "update",
    };
    match rest.as_slice() {
        [] => format!("{noun}.{verb}"),
        // The route ends in a verb, such as `pause`.
        [word] if *method == Method::POST => format!("{noun}.{word}"),
        more => format!("{noun}.{}.{verb}", more.join(".")),
    }
}

fn singular(word: &str) -> String {
    match word.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => word.strip_suffix('s').unwrap_or(word).to_owned(),
    }
}

/// Returns the parts of the path that stand for the parameters of the route. Parameters are in braces.
fn target(route: &str, path: &str) -> Option<String> {
    let places = route.split('/').zip(path.split('/'));
    let named: Vec<&str> = places.filter(|(word, _)| word.starts_with('{')).map(|(_, text)| text).collect();
    (!named.is_empty()).then(|| shortened(&named.join("/")))
}

/// Returns the name of the endpoint or source, even if the caller used its id, so that one search word finds all its entries.
/// Returns other targets as they are.
fn name(api: &Api, route: &str, typed: String) -> String {
    let found = match route.split('/').nth(2) {
        Some("endpoints") => endpoints::find(api, &typed).ok().map(|endpoint| endpoint.new.name.to_string()),
        Some("sources") => sources::find(api, &typed).ok().map(|source| source.new.name.to_string()),
        _ => None,
    };
    found.unwrap_or(typed)
}

fn shortened(text: &str) -> String {
    text.chars().take(TARGET_CHARS_MAX).collect()
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only changes by the key with this name.
    pub key: Option<String>,
    /// Only changes with this action, such as `endpoint.update`.
    pub action: Option<String>,
    /// Only changes at this time or later.
    #[param(value_type = Option<Timestamp>)]
    pub since: Option<String>,
    /// Only changes before this time.
    #[param(value_type = Option<Timestamp>)]
    pub until: Option<String>,
    /// Maximum number of entries.
    #[param(value_type = Option<Limit>)]
    pub limit: Option<String>,
    /// The `next` of the previous page.
    #[param(value_type = Option<AuditId>)]
    pub cursor: Option<String>,
}

/// List the audit trail, newest first.
#[utoipa::path(
    get, path = "/v1/audit", operation_id = "list_audit", tag = "audit", params(Filter),
    responses((status = 200, description = "One page.", body = PageView<AuditView>)),
)]
pub async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Result<Json<PageView<AuditView>>, Problem> {
    let tag = api.store.tag();
    let paging =
        Paging::new(filter.limit.as_deref(), filter.cursor.as_deref(), |text| AuditId::parse(text, tag).map(AuditId::as_i64))?;
    let filter = AuditFilter {
        since: instant("since", filter.since.as_deref())?,
        until: instant("until", filter.until.as_deref())?,
        key: filter.key,
        action: filter.action,
    };
    let page = api.store.audit(filter, paging.request).await?;
    Ok(Json(PageView {
        items: page.items.iter().map(|entry| AuditView::new(entry, tag)).collect(),
        next: page.next.map(|id| AuditId::from_i64(id).text(tag)),
    }))
}

impl AuditView {
    pub fn new(entry: &AuditEntry, tag: Tag) -> Self {
        Self {
            id: entry.id.text(tag),
            at: entry.new.at.to_string(),
            key: entry.new.key.clone(),
            action: entry.new.action.clone(),
            target: entry.new.target.clone(),
            status: entry.status,
            members: entry.members.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_few_entries_without_change_per_key_and_action() {
        let (refusals, key, other) = (Refusals::default(), KeyId::from_i64(1), KeyId::from_i64(2));
        let at = |seconds: u64| Timestamp::from_millis(0).plus(Duration::from_secs(seconds));
        let kept = |key, action, at| (0..1000).filter(|_| refusals.has_room(key, action, at)).count();
        assert_eq!(kept(key, "endpoint.update", at(0)), 10);
        assert_eq!(kept(key, "endpoint.delete", at(1)), 10, "another action");
        assert_eq!(kept(other, "endpoint.update", at(1)), 10, "another key");
        assert_eq!(kept(key, "endpoint.update", at(3599)), 0);
        assert_eq!(kept(key, "endpoint.update", at(3600)), 10, "an hour later");
        assert_eq!(kept(key, "endpoint.update", at(3 * 3600)), 10);
        assert_eq!(refusals.0.lock().unwrap().len(), 1, "expired spans are removed");
    }

    #[test]
    fn names_actions_by_noun_and_verb() {
        let cases = [
            (Method::POST, "/v1/endpoints", "endpoint.create"),
            (Method::PATCH, "/v1/endpoints/{endpoint}", "endpoint.update"),
            (Method::DELETE, "/v1/endpoints/{endpoint}", "endpoint.delete"),
            (Method::POST, "/v1/endpoints/{endpoint}/rotate-secret", "endpoint.rotate-secret"),
            (Method::POST, "/v1/deliveries/{delivery}/retry", "delivery.retry"),
            (Method::POST, "/v1/deliveries/retry", "delivery.retry"),
            (Method::POST, "/v1/events/{event}/replay", "event.replay"),
            (Method::POST, "/v1/events/{event}/cancel", "event.cancel"),
            (Method::PUT, "/v1/plugins/{plugin}", "plugin.update"),
            (Method::PUT, "/v1/plugins/{plugin}/config", "plugin.config.update"),
            (Method::POST, "/v1/jobs/{job}/cancel", "job.cancel"),
            (Method::DELETE, "/v1/keys/{key_id}", "key.delete"),
            (Method::POST, "/v1/subscriptions", "subscription.create"),
        ];
        for (method, route, expected) in cases {
            assert_eq!(action(&method, route), expected, "{method} {route}");
        }
    }

    #[test]
    fn reads_targets_from_the_path() {
        assert_eq!(target("/v1/endpoints/{endpoint}/pause", "/v1/endpoints/crm/pause").as_deref(), Some("crm"));
        assert_eq!(target("/v1/endpoints", "/v1/endpoints"), None);
        let long = "x".repeat(1_000);
        assert_eq!(target("/v1/keys/{key_id}", &format!("/v1/keys/{long}")).unwrap().len(), TARGET_CHARS_MAX);
    }
}
