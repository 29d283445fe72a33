//! The table of roles and routes. The guard of the routes, the OpenAPI document, the manual and the tests all read this table.
//!
//! What must stay true: a route without a row is not served ([`guard`](super::auth::guard) refuses it), and a test below reports
//! it.

use std::{collections::HashMap, fmt::Write as _, sync::LazyLock};

use axum::http::Method;

use crate::domain::key::Role::{self, Admin, Metrics, Operate, Publish, Read, Subscribe};

/// How much of a route's answer a role sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Whole,
    /// Everything except the parts that are credentials: the address of a source, the path and the query of a URL.
    WithoutSecrets,
    /// Only what the same key created.
    Own,
}

/// Which callers may use a route.
#[derive(Clone, Copy, Debug)]
pub enum Callers {
    /// Every caller, without a key.
    Anyone,
    /// Senders that their source verifies.
    Senders,
    /// Keys with one of these roles. Errors suggest the first role, which has the fewest other rights.
    Keys(&'static [(Role, Sight)]),
    /// Keys with one of these roles if the setting `metrics` is `key`; every caller if it is `open`.
    Figures(&'static [(Role, Sight)]),
}

impl Callers {
    /// Returns the allowed roles; empty if no key is needed.
    pub const fn roles(self) -> &'static [(Role, Sight)] {
        match self {
            Self::Anyone | Self::Senders => &[],
            Self::Keys(roles) | Self::Figures(roles) => roles,
        }
    }
}

/// Routes that belong together, and who may use them.
pub struct Row {
    /// What callers can do with these routes, in words.
    pub what: &'static str,
    pub callers: Callers,
    /// Methods and paths as in the OpenAPI document. `ANY` means every method.
    pub routes: &'static [&'static str],
    /// Whether changes through these routes are recorded in the audit trail. Published events are not recorded there, because the
    /// store has the events themselves.
    pub is_audited: bool,
}

const fn row(what: &'static str, callers: Callers, routes: &'static [&'static str]) -> Row {
    let is_audited = matches!(callers, Callers::Keys(_));
    Row { what, callers, routes, is_audited }
}

const SENDING: Callers = Callers::Keys(&[(Publish, Sight::Whole), (Admin, Sight::Whole)]);
const READING: Callers = Callers::Keys(&[(Read, Sight::Whole), (Operate, Sight::Whole), (Admin, Sight::Whole)]);
const READING_ADDRESSES: Callers =
    Callers::Keys(&[(Read, Sight::WithoutSecrets), (Operate, Sight::Whole), (Admin, Sight::Whole)]);
const READING_SUBSCRIPTIONS: Callers =
    Callers::Keys(&[(Subscribe, Sight::Own), (Read, Sight::WithoutSecrets), (Operate, Sight::Whole), (Admin, Sight::Whole)]);
const SAMPLING: Callers =
    Callers::Keys(&[(Subscribe, Sight::Whole), (Read, Sight::Whole), (Operate, Sight::Whole), (Admin, Sight::Whole)]);
const SUBSCRIBING: Callers = Callers::Keys(&[(Subscribe, Sight::Own), (Operate, Sight::Whole), (Admin, Sight::Whole)]);
const OPERATING: Callers = Callers::Keys(&[(Operate, Sight::Whole), (Admin, Sight::Whole)]);
const ADMINISTERING: Callers = Callers::Keys(&[(Admin, Sight::Whole)]);
const FIGURES: Callers =
    Callers::Figures(&[(Metrics, Sight::Whole), (Read, Sight::Whole), (Operate, Sight::Whole), (Admin, Sight::Whole)]);

/// Every route of the engine.
pub const TABLE: &[Row] = &[
    Row { is_audited: false, ..row("send events", SENDING, &["POST /v1/events"]) },
    row(
        "read events, runs, deliveries, jobs, plugins, statistics and nodes",
        READING,
        &[
            "GET /v1/events",
            "GET /v1/events/{event}",
            "GET /v1/events/{event}/data",
            "GET /v1/events/{event}/why",
            "GET /v1/runs",
            "GET /v1/runs/{run}",
            "GET /v1/limits",
            "GET /v1/deliveries",
            "GET /v1/deliveries/retry",
            "GET /v1/jobs",
            "GET /v1/jobs/{job}",
            "GET /v1/plugins",
            "GET /v1/plugins/{plugin}",
            "GET /v1/plugins/{plugin}/state",
            "GET /v1/plugins/{plugin}/versions",
            "GET /v1/stats",
            "GET /v1/nodes",
            "GET /v1/stream",
        ],
    ),
    Row { is_audited: false, ..row("preview what an endpoint would receive", READING, &["POST /v1/events/match"]) },
    row(
        "read endpoints and sources",
        READING_ADDRESSES,
        &["GET /v1/endpoints", "GET /v1/endpoints/{endpoint}", "GET /v1/sources", "GET /v1/sources/{source}"],
    ),
    row(
        "read a delivery with its requests",
        READING_ADDRESSES,
        &["GET /v1/deliveries/{delivery}", "GET /v1/deliveries/{delivery}/body"],
    ),
    row("read subscriptions", READING_SUBSCRIPTIONS, &["GET /v1/subscriptions", "GET /v1/subscriptions/{subscription}"]),
    row("read samples for subscriptions", SAMPLING, &["GET /v1/subscriptions/samples"]),
    row("subscribe and unsubscribe", SUBSCRIBING, &["POST /v1/subscriptions", "DELETE /v1/subscriptions/{subscription}"]),
    row(
        "replay and cancel events, retry and cancel runs and deliveries, cancel jobs",
        OPERATING,
        &[
            "POST /v1/events/replay",
            "POST /v1/events/{event}/replay",
            "POST /v1/events/{event}/cancel",
            "POST /v1/runs/retry",
            "POST /v1/runs/{run}/retry",
            "POST /v1/runs/{run}/cancel",
            "POST /v1/deliveries/retry",
            "POST /v1/deliveries/{delivery}/retry",
            "POST /v1/deliveries/{delivery}/cancel",
            "POST /v1/jobs/{job}/cancel",
        ],
    ),
    row(
        "create, change, test, pause and delete endpoints",
        OPERATING,
        &[
            "POST /v1/endpoints",
            "PATCH /v1/endpoints/{endpoint}",
            "DELETE /v1/endpoints/{endpoint}",
            "POST /v1/endpoints/{endpoint}/rotate-secret",
            "POST /v1/endpoints/{endpoint}/test",
            "POST /v1/endpoints/{endpoint}/pause",
            "POST /v1/endpoints/{endpoint}/resume",
            "POST /v1/endpoints/{endpoint}/disable",
        ],
    ),
    row(
        "create, change and delete sources",
        OPERATING,
        &[
            "POST /v1/sources",
            "PATCH /v1/sources/{source}",
            "DELETE /v1/sources/{source}",
            "POST /v1/sources/{source}/rotate-secret",
            "POST /v1/sources/{source}/rotate-address",
        ],
    ),
    row(
        "push, promote, roll back, discard, disable and remove plugins",
        ADMINISTERING,
        &[
            "PUT /v1/plugins/{plugin}",
            "DELETE /v1/plugins/{plugin}",
            "DELETE /v1/plugins/{plugin}/versions/{version}",
            "POST /v1/plugins/{plugin}/promote",
            "POST /v1/plugins/{plugin}/rollback",
            "POST /v1/plugins/{plugin}/disable",
            "POST /v1/plugins/{plugin}/enable",
        ],
    ),
    row(
        "read and change the settings of plugins, read and delete their state",
        ADMINISTERING,
        &[
            "GET /v1/plugins/{plugin}/config",
            "PUT /v1/plugins/{plugin}/config",
            "GET /v1/plugins/{plugin}/state/keys",
            "GET /v1/plugins/{plugin}/state/value",
            "DELETE /v1/plugins/{plugin}/state/value",
            "DELETE /v1/plugins/{plugin}/state",
        ],
    ),
    row("read records of runs, with what plugins read", ADMINISTERING, &["GET /v1/runs/{run}/record"]),
    row(
        "compare versions of plugins",
        ADMINISTERING,
        &[
            "POST /v1/plugins/{plugin}/compare",
            "GET /v1/comparisons",
            "GET /v1/comparisons/{comparison}",
            "POST /v1/comparisons/{comparison}/cancel",
        ],
    ),
    row(
        "manage keys and the master key",
        ADMINISTERING,
        &["GET /v1/keys", "POST /v1/keys", "DELETE /v1/keys/{key_id}", "POST /v1/keys/rekey"],
    ),
    row("read the audit trail", ADMINISTERING, &["GET /v1/audit"]),
    row("read the metrics, if `metrics = \"key\"`", FIGURES, &["GET /metrics"]),
    row("read health and the API's document", Callers::Anyone, &["GET /healthz", "GET /readyz", "GET /openapi.json"]),
    row("send webhooks to a source, as its preset requires", Callers::Senders, &["ANY /in/{source}"]),
];

/// Every method of a route.
const ANY: &str = "ANY";

type Methods = Vec<(&'static str, &'static Row)>;

static BY_PATH: LazyLock<HashMap<&str, Methods>> = LazyLock::new(|| {
    let mut by_path: HashMap<&str, Methods> = HashMap::new();
    for row in TABLE {
        for route in row.routes {
            let (method, path) = route.split_once(' ').expect("a route is a method and a path");
            by_path.entry(path).or_default().push((method, row));
        }
    }
    by_path
});

/// Returns the row of a route. `path` is the path in the router, with the names of parameters in braces.
pub fn of(method: &Method, path: &str) -> Option<&'static Row> {
    // The router answers HEAD with the handler of GET.
    let method = if *method == Method::HEAD { Method::GET.as_str() } else { method.as_str() };
    let methods = BY_PATH.get(path)?;
    methods.iter().find(|(known, _)| *known == method || *known == ANY).map(|(_, row)| *row)
}

/// Returns how much of a route's answer a role sees; `None` if the role may not use it. The route is written as in the table.
pub fn sight(role: Role, route: &str) -> Option<Sight> {
    let row = TABLE.iter().find(|row| row.routes.contains(&route))?;
    row.callers.roles().iter().find(|(able, _)| *able == role).map(|(_, sight)| *sight)
}

/// Formats the table for the manual.
pub fn manual() -> String {
    let mut text = String::from("| a key may |");
    for role in Role::ALL {
        write!(text, " `{}` |", role.as_str()).expect("writing to a String cannot fail");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(Role::ALL.len()));
    for row in TABLE.iter().filter(|row| !row.callers.roles().is_empty()) {
        write!(text, "\n| {} |", row.what).expect("writing to a String cannot fail");
        for role in Role::ALL {
            let sight = row.callers.roles().iter().find(|(able, _)| *able == role).map(|(_, sight)| *sight);
            text.push_str(match sight {
                None => " |",
                Some(Sight::Whole) => " yes |",
                Some(Sight::WithoutSecrets) => " without secrets |",
                Some(Sight::Own) => " its own |",
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// Returns every operation of the OpenAPI document, as `METHOD path`.
    fn operations() -> BTreeSet<String> {
        let document: Value = serde_json::from_str(crate::api::openapi::text()).expect("the document is JSON");
        let paths = document["paths"].as_object().expect("paths");
        let of = |(path, item): (&String, &Value)| {
            let methods: Vec<_> = item.as_object().expect("operations").keys().map(|method| method.to_uppercase()).collect();
            methods.into_iter().map(|method| format!("{method} {path}")).collect::<Vec<_>>()
        };
        paths.iter().flat_map(of).collect()
    }

    #[test]
    fn every_route_has_one_row_and_every_row_a_route() {
        let routes: Vec<&str> = TABLE.iter().flat_map(|row| row.routes).copied().collect();
        let known: BTreeSet<String> = routes.iter().map(|route| (*route).to_owned()).collect();
        assert_eq!(known.len(), routes.len(), "a route is in two rows");
        // If a route accepts any method, the document lists only the usual method.
        let known: BTreeSet<String> = known.iter().map(|route| route.replace(ANY, "POST")).collect();
        assert_eq!(known, operations(), "left: the table in api/access.rs; right: what the router serves");
    }

    #[test]
    fn finds_a_route_by_exact_method_and_path() {
        let what = |method: Method, path: &str| of(&method, path).map(|row| row.what);
        assert_eq!(what(Method::GET, "/v1/keys"), Some("manage keys and the master key"));
        assert_eq!(what(Method::HEAD, "/v1/audit"), Some("read the audit trail"));
        assert_eq!(what(Method::DELETE, "/in/{source}"), Some("send webhooks to a source, as its preset requires"));
        for (method, path) in
            [(Method::PUT, "/v1/keys"), (Method::OPTIONS, "/v1/keys"), (Method::GET, "/v1/keys/"), (Method::GET, "/x")]
        {
            assert_eq!(what(method.clone(), path), None, "{method} {path}");
        }
    }

    #[test]
    fn an_admin_may_do_everything_and_only_admins_manage_keys() {
        for row in TABLE {
            let roles = row.callers.roles();
            if !roles.is_empty() {
                assert_eq!(roles.last(), Some(&(Admin, Sight::Whole)), "{}", row.what);
            }
            let names: BTreeSet<_> = roles.iter().map(|(role, _)| role.as_str()).collect();
            assert_eq!(names.len(), roles.len(), "{}", row.what);
        }
        for route in ["POST /v1/keys", "POST /v1/keys/rekey", "GET /v1/audit", "GET /v1/plugins/{plugin}/config"] {
            let (method, path) = route.split_once(' ').unwrap();
            let roles = of(&method.parse().unwrap(), path).unwrap().callers.roles();
            assert_eq!(roles.len(), 1, "{route}");
        }
    }

    #[test]
    fn the_manual_shows_this_table() {
        let manual_page = include_str!("../../../docs/operations.md");
        assert!(manual_page.contains(&manual()), "docs/operations.md, \"Roles\", must have this table:\n\n{}", manual());
    }
}
