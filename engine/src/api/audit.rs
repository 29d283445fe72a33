//! The audit trail: every change that comes in over a guarded route is noted before it is made, and completed with what was
//! answered. Neither bodies nor secrets are noted. Published events are not: they are the data.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api,
    auth::Caller,
    error::Problem,
    page::{Limit, Paging, Query, instant},
    view::{AuditView, PageView},
};
use crate::{
    clock,
    domain::{id::AuditId, time::Timestamp},
    store::{AuditFilter, NewAudit},
};

/// Characters of a target that are kept; ids and names are shorter.
const TARGET_CHARS_MAX: usize = 200;

/// What a change turned out to be about, told by the handler of one that makes something new.
#[derive(Clone)]
pub struct Target(pub String);

/// Notes a change, lets it be made, and notes what came of it. A change that has begun is made to its end, also when the caller
/// has left meanwhile.
pub async fn record(
    State(api): State<Arc<Api>>,
    Extension(Caller(key)): Extension<Caller>,
    route: MatchedPath,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if request.method().is_safe() {
        return Ok(next.run(request).await);
    }
    let entry = NewAudit {
        at: clock::wall(),
        key: key.new.name.clone(),
        action: action(request.method(), route.as_str()),
        target: target(route.as_str(), request.uri().path()),
    };
    let change = async move {
        let id = api.store.begin_audit(entry).await?;
        let made = tokio::spawn(next.run(request)).await;
        let mut response = made.unwrap_or_else(|_| {
            Problem::internal("the change broke off; the log of the engine says why, and the audit trail that it was begun")
                .into_response()
        });
        let target = response.extensions_mut().remove::<Target>().map(|Target(text)| shortened(&text));
        if let Err(error) = api.store.finish_audit(id, response.status().as_u16(), target).await {
            tracing::warn!(%error, "what came of a change is missing in the audit trail");
        }
        Ok(response)
    };
    tokio::spawn(change).await.unwrap_or_else(|_| Err(Problem::internal("the change broke off; the log of the engine says why")))
}

/// `endpoint.update`, from the method and the route that matched.
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
        // An address of its own for a verb of its own.
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

/// What stands in a path where its route has a name in braces.
fn target(route: &str, path: &str) -> Option<String> {
    let places = route.split('/').zip(path.split('/'));
    let named: Vec<&str> = places.filter(|(word, _)| word.starts_with('{')).map(|(_, text)| text).collect();
    (!named.is_empty()).then(|| shortened(&named.join("/")))
}

fn shortened(text: &str) -> String {
    text.chars().take(TARGET_CHARS_MAX).collect()
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// By the key of exactly this name.
    key: Option<String>,
    /// Of exactly this kind, such as `endpoint.update`.
    action: Option<String>,
    /// Made at this time or later.
    #[param(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Made before this time.
    #[param(value_type = Option<Timestamp>)]
    until: Option<String>,
    /// How many at most.
    #[param(value_type = Option<Limit>)]
    limit: Option<String>,
    /// The `next` of the page before.
    #[param(value_type = Option<AuditId>)]
    cursor: Option<String>,
}

/// List who changed what, newest first.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_say_what_is_done_to_what() {
        let cases = [
            (Method::POST, "/v1/endpoints", "endpoint.create"),
            (Method::PATCH, "/v1/endpoints/{endpoint}", "endpoint.update"),
            (Method::DELETE, "/v1/endpoints/{endpoint}", "endpoint.delete"),
            (Method::POST, "/v1/endpoints/{endpoint}/rotate-secret", "endpoint.rotate-secret"),
            (Method::POST, "/v1/deliveries/{delivery}/retry", "delivery.retry"),
            (Method::POST, "/v1/deliveries/retry", "delivery.retry"),
            (Method::POST, "/v1/events/{event}/replay", "event.replay"),
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
    fn targets_stand_in_the_path() {
        assert_eq!(target("/v1/endpoints/{endpoint}/pause", "/v1/endpoints/crm/pause").as_deref(), Some("crm"));
        assert_eq!(target("/v1/endpoints", "/v1/endpoints"), None);
        let long = "x".repeat(1_000);
        assert_eq!(target("/v1/keys/{key_id}", &format!("/v1/keys/{long}")).unwrap().len(), TARGET_CHARS_MAX);
    }
}
