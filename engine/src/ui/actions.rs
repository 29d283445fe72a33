//! The changes that the API offers, and where the dashboard makes each of them. [`Ui::act`](super::Ui::act) makes only these.
//!
//! What must stay true: every route of the API that changes something has a row here. A test compares this table with the API's.

use axum::http::Method;

/// Where the dashboard makes a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// The dashboard makes the change with a form that posts to this path of the dashboard.
    At(&'static str),
    /// The dashboard does not make the change, for this reason.
    Nowhere(&'static str),
}

use Made::{At, Nowhere};

/// Routes of the API, written as in the API's table of roles. Each has the place where the dashboard makes the change.
pub const ACTIONS: &[(&str, Made)] = &[
    ("POST /v1/events", At("/events/send")),
    ("POST /v1/events/match", At("/endpoints/new")),
    ("POST /v1/events/replay", At("/settings/jobs/replay")),
    ("POST /v1/events/{event}/replay", At("/events/{event}/replay")),
    ("POST /v1/events/{event}/cancel", At("/events/{event}/cancel")),
    ("POST /v1/runs/retry", At("/runs/retry")),
    ("POST /v1/runs/{run}/retry", At("/runs/{run}/retry")),
    ("POST /v1/runs/{run}/cancel", At("/plugins/{plugin}/runs/{run}/cancel")),
    ("POST /v1/deliveries/retry", At("/deliveries/retry")),
    ("POST /v1/deliveries/{delivery}/retry", At("/deliveries/{delivery}/retry")),
    ("POST /v1/deliveries/{delivery}/cancel", At("/deliveries/{delivery}/cancel")),
    ("POST /v1/jobs/{job}/cancel", At("/jobs/{job}/cancel")),
    ("POST /v1/endpoints", At("/endpoints/new")),
    ("PATCH /v1/endpoints/{endpoint}", At("/endpoints/{endpoint}/edit")),
    ("DELETE /v1/endpoints/{endpoint}", At("/endpoints/{endpoint}/delete")),
    ("POST /v1/endpoints/{endpoint}/rotate-secret", At("/endpoints/{endpoint}/rotate")),
    ("POST /v1/endpoints/{endpoint}/test", At("/endpoints/{endpoint}/test")),
    ("POST /v1/endpoints/{endpoint}/pause", At("/endpoints/{endpoint}/pause")),
    ("POST /v1/endpoints/{endpoint}/resume", At("/endpoints/{endpoint}/resume")),
    ("POST /v1/endpoints/{endpoint}/disable", At("/endpoints/{endpoint}/disable")),
    ("POST /v1/subscriptions", Nowhere("a program subscribes its own address; a person creates an endpoint")),
    ("DELETE /v1/subscriptions/{subscription}", Nowhere("a subscription is an endpoint, which a person deletes on its page")),
    ("POST /v1/sources", At("/sources/new")),
    ("PATCH /v1/sources/{source}", At("/sources/{source}/edit")),
    ("DELETE /v1/sources/{source}", At("/sources/{source}/delete")),
    ("POST /v1/sources/{source}/rotate-secret", At("/sources/{source}/rotate-secret")),
    ("POST /v1/sources/{source}/rotate-address", At("/sources/{source}/rotate-address")),
    ("PUT /v1/plugins/{plugin}", At("/plugins/upload")),
    ("DELETE /v1/plugins/{plugin}", At("/plugins/{plugin}/remove")),
    ("DELETE /v1/plugins/{plugin}/versions/{version}", At("/plugins/{plugin}/discard")),
    ("POST /v1/plugins/{plugin}/promote", At("/plugins/{plugin}/promote")),
    ("POST /v1/plugins/{plugin}/rollback", At("/plugins/{plugin}/rollback")),
    ("POST /v1/plugins/{plugin}/disable", At("/plugins/{plugin}/disable")),
    ("POST /v1/plugins/{plugin}/enable", At("/plugins/{plugin}/enable")),
    ("PUT /v1/plugins/{plugin}/config", At("/plugins/{plugin}/settings")),
    ("DELETE /v1/plugins/{plugin}/state/value", At("/plugins/{plugin}/state/delete")),
    ("DELETE /v1/plugins/{plugin}/state", At("/plugins/{plugin}/state/clear")),
    ("POST /v1/plugins/{plugin}/compare", At("/plugins/{plugin}/compare")),
    ("POST /v1/comparisons/{comparison}/cancel", At("/plugins/{plugin}/compare/{comparison}/cancel")),
    ("POST /v1/keys", At("/settings/keys")),
    ("DELETE /v1/keys/{key_id}", At("/settings/keys/{key}/revoke")),
    ("POST /v1/keys/rekey", At("/settings/keys/rekey")),
];

/// Returns whether the dashboard makes the change of this request.
pub fn is_made(method: &Method, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |route: &str| {
        let (known, pattern) = route.split_once(' ').unwrap_or_default();
        let same = |one: &str, other: &str| one == other || one.starts_with('{') && !other.is_empty();
        known == method.as_str()
            && pattern.split('/').count() == path.split('/').count()
            && pattern.split('/').zip(path.split('/')).all(|(one, other)| same(one, other))
    };
    ACTIONS.iter().any(|(route, made)| matches!(made, At(_)) && fits(route))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{api::access::TABLE, ui::texts};

    #[test]
    fn every_change_of_the_api_is_in_the_dashboard_or_has_a_reason() {
        let all = TABLE.iter().flat_map(|row| row.routes).copied();
        let changes: BTreeSet<&str> = all.filter(|route| !route.starts_with("GET ") && !route.starts_with("ANY ")).collect();
        let listed: BTreeSet<&str> = ACTIONS.iter().map(|(route, _)| *route).collect();
        assert_eq!(changes, listed, "the API's changes, and those of the dashboard");
        assert_eq!(listed.len(), ACTIONS.len(), "each once");
    }

    #[test]
    fn every_place_is_a_form_of_the_dashboard() {
        let sources = texts::tests::sources();
        for (route, made) in ACTIONS {
            let At(path) = made else { continue };
            let is_route = |text: &str| {
                text.split(".route(").skip(1).any(|rest| {
                    let rest = rest.trim_start();
                    rest.strip_prefix(&format!("\"{path}\"")).is_some_and(|rest| {
                        rest.split(".route(").next().is_some_and(|rest| rest.contains("post("))
                            || rest.trim_start_matches(',').trim_start().starts_with("post(")
                    })
                })
            };
            assert!(sources.iter().any(|(_, text)| is_route(text)), "{route}: no form posts to {path}");
        }
    }

    #[test]
    fn buttons_ask_the_role_of_each_change() {
        let sources = texts::tests::sources();
        let is_asked = |route: &str| {
            let names = |name: &str| {
                sources.iter().any(|(file, text)| !file.ends_with("actions.rs") && text.contains(&format!("\"{name}\"")))
            };
            // The routes of one row of the API's table have the same roles.
            TABLE.iter().find(|row| row.routes.contains(&route)).is_some_and(|row| row.routes.iter().any(|route| names(route)))
        };
        for (route, _) in ACTIONS.iter().filter(|(_, made)| matches!(made, At(_))) {
            assert!(is_asked(route), "no page asks for the role of {route}");
        }
    }

    #[test]
    fn a_request_is_found_by_its_path() {
        for (method, path, expected) in [
            (Method::POST, "/v1/runs/run_1/retry", true),
            (Method::POST, "/v1/runs/retry", true),
            (Method::DELETE, "/v1/plugins/x?force=true", true),
            (Method::PUT, "/v1/plugins/x?candidate=true", true),
            (Method::DELETE, "/v1/plugins/x/state/value?key=a", true),
            (Method::POST, "/v1/events", true),
            (Method::POST, "/v1/subscriptions", false),
            (Method::POST, "/v1/plugins//promote", false),
            (Method::POST, "/v1/nothing", false),
        ] {
            assert_eq!(is_made(&method, path), expected, "{method} {path}");
        }
    }
}
