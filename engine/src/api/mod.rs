//! The HTTP API. Handlers take typed input, make one call and turn the result into a view. Rules are in lower modules. The API
//! passes work to the workers only through the store.

pub mod access;
pub(crate) mod answers;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod comparisons;
mod connections;
pub(crate) mod deliveries;
pub(crate) mod endpoints;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod heavy;
pub mod inbound;
mod intake;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod metrics;
pub(crate) mod nodes;
pub mod openapi;
pub(crate) mod page;
mod patch;
pub(crate) mod path;
pub(crate) mod plugins;
pub(crate) mod runs;
mod sent;
pub(crate) mod sources;
pub(crate) mod stats;
pub(crate) mod stream;
pub(crate) mod subscriptions;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{Method, Uri},
    middleware,
    routing::{MethodFilter, on},
};
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::answers::AnswerRoom;
pub use self::{
    audit::Refusals,
    auth::{SignedIn, Subscribers},
    body::BodyRoom,
    connections::{ConnectionLimits, serve},
    error::Problem,
    health::LastProbe,
    heavy::Heavy,
    inbound::{ForwardedHeader, Inbound, Proxies, watch::Watches},
    intake::one_event,
    metrics::{Access, LastLoad},
    stream::Streams,
};
use crate::{
    catalog::{Catalog, Keys, Sources},
    news::Feed,
    outbound::Outbound,
    sandbox::Limits,
    store::{Accept, Store},
    traces::Traces,
};

/// The shared parts that handlers use.
pub struct Api {
    /// Takes new events.
    pub acceptor: Arc<dyn Accept + Send + Sync>,
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub outbound: Arc<Outbound>,
    pub feed: Feed,
    pub traces: Traces,
    pub keys: Arc<Keys>,
    pub sources: Arc<Sources>,
    pub inbound: Inbound,
    pub subscribers: Subscribers,
    pub refusals: Refusals,
    /// Limits of one run of a plugin.
    pub run_limits: Limits,
    /// Maximum size of a request's body, in bytes.
    pub body_bytes_max: usize,
    /// Maximum time for a body to arrive.
    pub body_time_max: Duration,
    pub body_room: BodyRoom,
    pub heavy: Heavy,
    pub streams: Streams,
    pub last_probe: LastProbe,
    pub last_load: LastLoad,
    /// Cancelled when the engine begins to stop.
    pub stopping: CancellationToken,
}

/// Routes with their handlers and their part of the OpenAPI document.
type Addresses = OpenApiRouter<Arc<Api>>;

/// Every route of an engine that serves its API. Each handler declares its method and path in `#[utoipa::path]`.
/// [`access::TABLE`] declares the allowed roles; a route without a row there is not served.
fn all() -> Addresses {
    Addresses::default()
        .routes(routes!(events::list, events::accept))
        .routes(routes!(events::show))
        .routes(routes!(events::data))
        .routes(routes!(events::replay))
        .routes(routes!(events::cancel))
        .routes(routes!(events::why::explain))
        .routes(routes!(jobs::replay_events))
        .routes(routes!(runs::list))
        .routes(routes!(jobs::retry_runs))
        .routes(routes!(comparisons::create))
        .routes(routes!(comparisons::list))
        .routes(routes!(comparisons::show))
        .routes(routes!(comparisons::cancel))
        .routes(routes!(runs::show))
        .routes(routes!(runs::record))
        .routes(routes!(runs::limits))
        .routes(routes!(runs::retry))
        .routes(routes!(runs::cancel))
        .routes(routes!(endpoints::list, endpoints::create))
        .routes(routes!(endpoints::show, endpoints::change, endpoints::remove))
        .routes(routes!(endpoints::rotate))
        .routes(routes!(endpoints::preview::preview))
        .routes(routes!(endpoints::test_send::send))
        .routes(routes!(endpoints::pause))
        .routes(routes!(endpoints::resume))
        .routes(routes!(endpoints::disable))
        .routes(routes!(sources::list, sources::create))
        .routes(routes!(sources::show, sources::change, sources::remove))
        .routes(routes!(sources::rotate))
        .routes(routes!(sources::rotate_address))
        .routes(routes!(subscriptions::list, subscriptions::create))
        .routes(routes!(subscriptions::samples))
        .routes(routes!(subscriptions::show, subscriptions::remove))
        .routes(routes!(deliveries::list))
        .routes(routes!(jobs::count_retries, jobs::retry_deliveries))
        .routes(routes!(deliveries::show))
        .routes(routes!(deliveries::body))
        .routes(routes!(deliveries::retry))
        .routes(routes!(deliveries::cancel))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::show, plugins::versions::push, plugins::versions::remove))
        .routes(routes!(plugins::versions::list))
        .routes(routes!(plugins::versions::discard))
        .routes(routes!(plugins::versions::promote))
        .routes(routes!(plugins::versions::rollback))
        .routes(routes!(plugins::versions::disable))
        .routes(routes!(plugins::versions::enable))
        .routes(routes!(plugins::config, plugins::set_config))
        .routes(routes!(plugins::state, plugins::clear_state))
        .routes(routes!(plugins::state_keys))
        .routes(routes!(plugins::state_value, plugins::delete_state_value))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::cancel))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::rekey))
        .routes(routes!(keys::revoke))
        .routes(routes!(stats::read))
        .routes(routes!(nodes::list))
        .routes(routes!(audit::list))
        // The routes below need no such limit: their answers are short, are the same bytes for every caller, or are limited
        // elsewhere.
        .route_layer(middleware::from_fn_with_state(AnswerRoom::default(), answers::bound))
        .routes(routes!(stream::follow))
        .routes(routes!(inbound::receive))
        // The OpenAPI document shows only `POST`. Each source decides which of these other methods it accepts.
        .route("/in/{source}", on(OTHER_METHODS, inbound::receive))
        .routes(routes!(openapi::show))
        .merge(about_the_process())
}

/// Methods of third parties besides `POST`.
const OTHER_METHODS: MethodFilter = MethodFilter::GET
    .or(MethodFilter::HEAD)
    .or(MethodFilter::PUT)
    .or(MethodFilter::PATCH)
    .or(MethodFilter::DELETE)
    .or(MethodFilter::OPTIONS);

/// Routes about the process, served by every process.
fn about_the_process() -> Addresses {
    Addresses::default().routes(routes!(health::alive)).routes(routes!(health::ready)).routes(routes!(metrics::figures))
}

/// Returns all routes, or only those about the process if the engine does not serve its API.
pub fn router(api: Arc<Api>, takes_calls: bool) -> Router {
    crate::metrics::meters().expect_refusals(Problem::KINDS.iter().map(|kind| kind.code), inbound::REASONS.into_iter());
    let addresses = if takes_calls { all() } else { about_the_process() };
    let guard = middleware::from_fn_with_state(Arc::clone(&api), auth::guard);
    let (router, _) = addresses.route_layer(guard).split_for_parts();
    router.fallback(nothing_there).method_not_allowed_fallback(wrong_method).with_state(api)
}

async fn nothing_there(uri: Uri) -> Problem {
    Problem::not_found(format!("no route at {:?}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    does_not_take(&method, &uri)
}

fn does_not_take(method: &Method, uri: &Uri) -> Problem {
    Problem::method_not_allowed(format!("{:?} does not allow {method}", uri.path()))
}

/// Returns a duration in milliseconds, which is its form in the API's answers.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
