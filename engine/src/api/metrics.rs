//! `/metrics`: counters and gauges of the engine, as Prometheus text.
//!
//! The route is open like `/healthz`, unless the setting `metrics` requires a key. The metrics contain counts and the names of
//! plugins, endpoints and sources, but no payload.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderValue, Request, header, uri::Authority},
    response::{IntoResponse as _, Response},
};
use tokio::sync::Mutex;
use url::Url;

use super::{Api, inbound::Peer};
use crate::{
    catalog::PluginState,
    clock,
    domain::{endpoint::EndpointState, plugin::Halt, time::Timestamp},
    metrics::{NodeReading, Readings, meters},
    store::{Error, Load, Node, Store},
};

/// Minimum age of a reading before the store is read again, because counting rows costs time.
const FRESH: Duration = Duration::from_secs(5);
/// Minimum pause before the next reading of the store, as a multiple of the time that the last reading took. So counting uses at
/// most a twentieth of one core.
const REST: u32 = 20;

/// Who may read the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Open,
    Key,
}

/// The last reading of the store's load.
pub struct LastLoad {
    access: Access,
    started: Instant,
    load: Mutex<Option<(Instant, Arc<Said>)>>,
}

/// The store's queues and nodes.
#[derive(Default)]
pub struct Said {
    pub load: Load,
    nodes: Vec<NodeReading>,
}

/// Returns the load of the store, now or shortly before.
pub async fn load(api: &Api) -> Arc<Said> {
    let mut last = api.last_load.load.lock().await;
    current_load(api, &mut last).await
}

impl Said {
    async fn by(store: &dyn Store) -> Result<Self, Error> {
        let (load, nodes) = (store.load().await?, store.nodes().await?);
        let now = clock::wall();
        Ok(Self { load, nodes: nodes.into_iter().map(|node| reading(node, now)).collect() })
    }
}

fn reading(node: Node, now: Timestamp) -> NodeReading {
    NodeReading {
        name: node.name,
        role: node.role,
        leases: node.leases,
        oldest: node.holds_since.map_or(Duration::ZERO, |since| now.since(since)),
        silent: now.since(node.seen_at),
    }
}

impl LastLoad {
    pub fn new(access: Access) -> Self {
        Self { access, started: Instant::now(), load: Mutex::default() }
    }

    pub const fn access(&self) -> Access {
        self.access
    }
}

/// Read the metrics, as Prometheus text.
///
/// The route is open like `/healthz`, unless the setting `metrics` is `key`. Then it needs a key. A key of the role `metrics` can
/// read only this route.
#[utoipa::path(
    get, path = "/metrics", operation_id = "read_metrics", tag = "engine",
    responses((
        status = 200, description = "Every metric with its meaning.", body = String, content_type = "text/plain",
        example = json!("# TYPE innesco_events_duplicate_total counter\ninnesco_events_duplicate_total 0\n"),
    )),
)]
pub async fn figures(State(api): State<Arc<Api>>) -> Response {
    // Because of the lock, only one request at a time updates and writes the metrics.
    let mut last = api.last_load.load.lock().await;
    let said = current_load(&api, &mut last).await;
    let load = &said.load;
    let text = meters().render(&Readings {
        stages: &load.stages,
        queues: &load.queues,
        file_bytes: &load.file_bytes,
        plugins: &plugins(&api),
        endpoints: &endpoints(&api),
        nodes: &said.nodes,
        plugins_behind: api.catalog.plugins_behind() as u64,
        queued_bytes: load.queued_bytes,
        disk_bytes: load.disk_bytes,
        disk_free_bytes: load.disk_free_bytes,
        uptime: api.last_load.started.elapsed(),
    });
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// Returns whether a foreign web page may have sent the request through a browser on this machine (DNS rebinding): the caller is
/// this machine, and the named host is neither an address nor a name of the engine. Such a request needs a key. Requests from
/// other machines are not checked, because their networks may have other names for the host.
pub fn may_be_rebound<B>(request: &Request<B>, external_url: Option<&Url>) -> bool {
    let is_local = request.extensions().get::<Peer>().is_some_and(|peer| peer.0.to_canonical().is_loopback());
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let Some(host) = host.filter(|_| is_local) else { return false };
    let host = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
    let is_ours = host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok()
        || external_url.and_then(Url::host_str).is_some_and(|ours| ours.eq_ignore_ascii_case(&host));
    !is_ours
}

/// Returns the load of the store, now or shortly before. If the store does not answer, the metrics of the store keep their last
/// values.
async fn current_load(api: &Api, last: &mut Option<(Instant, Arc<Said>)>) -> Arc<Said> {
    if let Some((good_until, said)) = last
        && Instant::now() < *good_until
    {
        return Arc::clone(said);
    }
    let began = Instant::now();
    match Said::by(&*api.store).await {
        Ok(said) => {
            let said = Arc::new(said);
            *last = Some((Instant::now() + FRESH.max(began.elapsed() * REST), Arc::clone(&said)));
            said
        }
        Err(error) => {
            tracing::warn!(%error, "store load could not be read; metrics keep their last values");
            last.as_ref().map(|(_, said)| Arc::clone(said)).unwrap_or_default()
        }
    }
}

fn plugins(api: &Api) -> [(&'static str, u64); 6] {
    let table = api.catalog.plugins();
    let loaded = table.iter().filter(|entry| matches!(entry.state, PluginState::Serving(_))).count();
    let halted =
        |halt| table.iter().filter(|entry| matches!(entry.state, PluginState::Serving(_)) && entry.row.halt == halt).count();
    let refused = table.iter().filter(|entry| entry.refused.is_some()).count();
    let all = table.iter().count();
    [
        ("serving", halted(None) as u64),
        ("disabled", halted(Some(Halt::Disabled)) as u64),
        ("held", halted(Some(Halt::Held)) as u64),
        ("refused", refused as u64),
        ("not-loadable", (all - loaded) as u64),
        ("broken", table.broken().count() as u64),
    ]
}

fn endpoints(api: &Api) -> [(&'static str, u64); 3] {
    let mut counts = [("active", 0), ("paused", 0), ("disabled", 0)];
    for endpoint in api.catalog.endpoints().iter() {
        let place = match endpoint.new.state {
            EndpointState::Active => 0,
            EndpointState::Paused => 1,
            EndpointState::Disabled(_) => 2,
        };
        counts[place].1 += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_dns_rebinding() {
        let external = Url::parse("https://hooks.example.com/").unwrap();
        for (peer, host, rebound) in [
            ("127.0.0.1", "localhost:8080", false),
            ("127.0.0.1", "127.0.0.1:8080", false),
            ("::1", "[::1]:8080", false),
            ("127.0.0.1", "innesco.localhost", false),
            ("127.0.0.1", "Hooks.Example.com", false),
            ("127.0.0.1", "evil.example:8080", true),
            ("::ffff:127.0.0.1", "evil.example:8080", true),
            ("::1", "localhost.evil.example", true),
            ("10.1.2.3", "innesco.monitoring.svc:8080", false),
        ] {
            let mut request = Request::builder().header(header::HOST, host).body(()).unwrap();
            request.extensions_mut().insert(Peer(peer.parse().unwrap()));
            assert_eq!(may_be_rebound(&request, Some(&external)), rebound, "{host} from {peer}");
        }
    }
}
