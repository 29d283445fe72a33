//! The HTTP API. Handlers take typed input, call one thing and turn it into a view; rules are lower down. It meets the work only in
//! the store.

mod auth;
mod body;
mod connections;
mod deliveries;
mod endpoints;
mod error;
mod events;
mod health;
mod intake;
mod keys;
mod metrics;
mod page;
mod plugins;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{Method, Uri},
    middleware,
    routing::{delete, get, post},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    auth::{Keys, hash_key, new_key},
    body::BodyRoom,
    connections::{ConnectionLimits, serve},
    error::Problem,
    health::LastProbe,
    metrics::{Access, LastLoad},
};
use crate::{catalog::Catalog, news::Feed, outbound::Outbound, store::Store, traces::Traces};

/// What handlers work with.
pub struct Api {
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub outbound: Arc<Outbound>,
    pub feed: Feed,
    pub traces: Traces,
    pub keys: Keys,
    /// Bytes of one request's body.
    pub body_bytes_max: usize,
    /// For one body to arrive whole.
    pub body_time_max: Duration,
    pub body_room: BodyRoom,
    pub last_probe: LastProbe,
    pub last_load: LastLoad,
    /// Cancelled once the engine has been told to stop.
    pub stopping: CancellationToken,
}

/// Every address of the engine.
pub fn router(api: Arc<Api>) -> Router {
    crate::metrics::meters().expect_refusals(error::CODES);
    let guarded = Router::new()
        .route("/v1/events", get(events::list))
        .route("/v1/events/{event}", get(events::show))
        .route("/v1/events/{event}/replay", post(events::replay))
        .route("/v1/endpoints", get(endpoints::list).post(endpoints::create))
        .route("/v1/endpoints/{endpoint}", get(endpoints::show).patch(endpoints::change).delete(endpoints::remove))
        .route("/v1/endpoints/{endpoint}/rotate-secret", post(endpoints::rotate))
        .route("/v1/endpoints/{endpoint}/pause", post(endpoints::pause))
        .route("/v1/endpoints/{endpoint}/resume", post(endpoints::resume))
        .route("/v1/deliveries", get(deliveries::list))
        .route("/v1/deliveries/{delivery}", get(deliveries::show))
        .route("/v1/deliveries/{delivery}/retry", post(deliveries::retry))
        .route("/v1/deliveries/{delivery}/cancel", post(deliveries::cancel))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugins/{plugin}", get(plugins::show))
        .route("/v1/plugins/{plugin}/config", get(plugins::config).put(plugins::set_config))
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/rekey", post(keys::rekey))
        .route("/v1/keys/{key}", delete(keys::revoke))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), auth::guard));
    Router::new()
        .merge(guarded)
        .route("/v1/events", post(events::accept))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::figures))
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

async fn nothing_there(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {:?}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::method_not_allowed(format!("{:?} does not take {method}", uri.path()))
}
