//! Traces: every event continues the trace that it came with. If a collector is set (`otel.endpoint`), the engine exports spans
//! with their true times: `accept`, `run`, `attempt`.
//!
//! Without a collector no span is built and no clock is read. With a collector, spans wait in a bounded queue, and a dedicated
//! thread exports them in batches. If the collector is slow or unreachable, spans are lost, but never an event. Spans have names,
//! ids and outcomes, but no payload.

use std::{
    borrow::Cow,
    fmt,
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _},
};
use url::Url;

use crate::{
    clock,
    domain::{
        delivery::Attempt,
        event::{Event, NewEvent},
        id::{DeliveryId, EndpointId, EventId, Tag},
        run::RunOutcome,
        trace::{self, TraceParent},
    },
};

/// Maximum number of waiting spans; further spans are dropped.
const WAITING_MAX: usize = 8_192;
/// How long spans wait to be exported together.
const GATHER: Duration = Duration::from_secs(1);
/// Maximum time that the collector may take for each batch, including the last batch at shutdown.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of bytes read of the collector's answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The collector cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent to otel.endpoint {place}: {reason}")]
pub struct BadCollector {
    place: String,
    reason: String,
}

/// Exports spans, if a collector is set. Cheap to share.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Exporting>>);

struct Exporting {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// One run, for a span.
pub struct Ran<'a> {
    pub event: &'a Event,
    pub round: u32,
    pub plugin: &'a str,
    pub endpoint: Option<EndpointId>,
    pub tries: u32,
    pub outcome: RunOutcome,
}

/// One attempt, for a span.
pub struct Attempted<'a> {
    pub event: &'a Event,
    pub delivery: DeliveryId,
    pub endpoint: &'a str,
    /// Counted from 1.
    pub n: u32,
    pub attempt: &'a Attempt,
}

impl Traces {
    /// Exports spans to the collector at `endpoint`, with `client`. If the endpoint has no path, the path of OTLP is used.
    pub fn to(endpoint: &Url, client: reqwest::Client) -> Result<Self, BadCollector> {
        let mut address = endpoint.clone();
        if address.path() == "/" {
            address.set_path("/v1/traces");
        }
        let carrier = Carrier {
            client,
            place: endpoint.host_str().unwrap_or_default().to_owned(),
            runtime: tokio::runtime::Handle::current(),
            failing: AtomicBool::new(false),
        };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(carrier)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(address)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| BadCollector {
                place: endpoint.host_str().unwrap_or_default().to_owned(),
                reason: error.to_string(),
            })?;
        let version = env!("CARGO_PKG_VERSION");
        let resource = Resource::builder_empty()
            .with_service_name("innesco")
            .with_attribute(KeyValue::new("service.version", version))
            .build();
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut exporter, &resource);
        let batches = BatchConfigBuilder::default().with_max_queue_size(WAITING_MAX).with_scheduled_delay(GATHER).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let scope = InstrumentationScope::builder("innesco").with_version(version).build();
        Ok(Self(Some(Arc::new(Exporting { processor, scope }))))
    }

    /// Returns the start time of a possible span. Reads the clock only if spans are exported.
    pub fn begin(&self) -> Option<SystemTime> {
        self.0.as_ref().map(|_| clock::system())
    }

    /// Returns the trace that an event came with, for [`Self::accepted`].
    pub fn brought(&self, event: &NewEvent) -> Option<TraceParent> {
        self.0.as_ref().and_then(|_| TraceParent::of(event))
    }

    /// Records the acceptance of an event.
    pub fn accepted(&self, tag: Tag, began: Option<SystemTime>, event: EventId, event_type: &str, brought: Option<TraceParent>) {
        let (Some(exporting), Some(began)) = (&self.0, began) else { return };
        let here = brought.map_or_else(|| TraceParent::begin(tag, event), |parent| parent.at(trace::accept_span(tag, event)));
        exporting.queue(Span {
            name: "accept",
            kind: SpanKind::Server,
            here,
            parent: brought.map(|parent| parent.span),
            remote: true,
            began,
            ended: clock::system(),
            attributes: vec![
                KeyValue::new("innesco.event", event.text(tag)),
                KeyValue::new("innesco.event_type", event_type.to_owned()),
            ],
            status: Status::Unset,
        });
    }

    /// Records the end of a run. The events that the run emitted continue the trace from the run.
    pub fn ran<'a>(
        &self,
        tag: Tag,
        time: Option<(SystemTime, SystemTime)>,
        ran: &Ran<'_>,
        emitted: impl IntoIterator<Item = &'a mut NewEvent>,
    ) {
        let (Some(exporting), Some((began, ended))) = (&self.0, time) else { return };
        let parent = under(tag, ran.event);
        let here = parent.at(trace::run_span(tag, ran.event.id, ran.round, ran.plugin, ran.endpoint, ran.tries));
        for event in emitted {
            lead(event, ran.event, here);
        }
        exporting.queue(Span {
            name: "run",
            kind: SpanKind::Internal,
            here,
            parent: has_parent(ran.event).then_some(parent.span),
            remote: false,
            began,
            ended,
            attributes: vec![
                KeyValue::new("innesco.event", ran.event.id.text(tag)),
                KeyValue::new("innesco.event_type", ran.event.new.event_type.to_string()),
                KeyValue::new("innesco.plugin", ran.plugin.to_owned()),
                KeyValue::new("innesco.outcome", ran.outcome.as_str()),
                KeyValue::new("innesco.tries", i64::from(ran.tries)),
            ],
            status: match ran.outcome {
                RunOutcome::Ok => Status::Unset,
                // Leaves out the plugin's message, which may contain data of the event.
                outcome => Status::error(outcome.as_str()),
            },
        });
    }

    /// Records the end of an attempt.
    pub fn attempted(&self, tag: Tag, attempted: &Attempted<'_>) {
        let Some(exporting) = &self.0 else { return };
        let Attempted { event, delivery, endpoint, n, attempt } = *attempted;
        let parent = under(tag, event);
        let began = UNIX_EPOCH + Duration::from_millis(attempt.at.millis().unsigned_abs());
        let mut attributes = vec![
            KeyValue::new("innesco.event", event.id.text(tag)),
            KeyValue::new("innesco.event_type", event.new.event_type.to_string()),
            KeyValue::new("innesco.delivery", delivery.text(tag)),
            KeyValue::new("innesco.endpoint", endpoint.to_owned()),
            KeyValue::new("innesco.attempt", i64::from(n)),
            KeyValue::new("innesco.outcome", attempt.outcome.as_str()),
        ];
        attributes.extend(attempt.outcome.status().map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
        exporting.queue(Span {
            name: "attempt",
            kind: SpanKind::Client,
            here: parent.at(trace::attempt_span(tag, delivery, n)),
            parent: has_parent(event).then_some(parent.span),
            remote: false,
            began,
            ended: began + attempt.latency,
            attributes,
            status: if attempt.outcome.is_success() { Status::Unset } else { Status::error(attempt.outcome.to_string()) },
        });
    }

    /// Adds the trace of the event to the request of an attempt. If the event has no trace, a trace is started only if there is a
    /// collector.
    pub fn continue_trace(&self, tag: Tag, event: &Event, delivery: DeliveryId, n: u32, headers: &mut HeaderMap) {
        let parent = match TraceParent::of(&event.new) {
            Some(parent) => parent,
            None if self.0.is_some() => TraceParent::begin(tag, event.id),
            None => return,
        };
        let here = parent.at(trace::attempt_span(tag, delivery, n)).to_string();
        headers.insert(trace::TRACEPARENT, HeaderValue::try_from(here).expect("hexadecimal digits are a header value"));
        match event.new.attributes.get(trace::TRACESTATE).and_then(trace::trace_state).map(HeaderValue::try_from) {
            Some(Ok(state)) => headers.insert(trace::TRACESTATE, state),
            // The state of another trace must not be sent with this one.
            _ => headers.remove(trace::TRACESTATE),
        };
    }

    /// Exports the waiting spans. Blocks for at most the collector's timeout.
    pub fn finish(&self) {
        if let Some(exporting) = &self.0
            && let Err(error) = exporting.processor.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "last traces did not reach the collector");
        }
    }
}

/// A span that is not yet in the exporter's format.
struct Span {
    name: &'static str,
    kind: SpanKind,
    here: TraceParent,
    parent: Option<trace::SpanId>,
    /// Whether the parent is a span of another system.
    remote: bool,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Exporting {
    /// Queues a span, or drops it if its trace is not sampled or the queue is full.
    fn queue(&self, span: Span) {
        let flags = if span.here.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let (trace_id, span_id) = (TraceId::from_bytes(span.here.trace), SpanId::from_bytes(span.here.span));
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(trace_id, span_id, flags, false, TraceState::default()),
            parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: span.remote && span.parent.is_some(),
            span_kind: span.kind,
            name: Cow::Borrowed(span.name),
            start_time: span.began,
            end_time: span.ended.max(span.began),
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// Returns the parent of an event's spans: the acceptance of the event, or the run that emitted the event.
fn under(tag: Tag, event: &Event) -> TraceParent {
    match TraceParent::of(&event.new) {
        None => TraceParent::begin(tag, event.id),
        Some(parent) if event.new.cause.is_some() => parent,
        Some(parent) => parent.at(trace::accept_span(tag, event.id)),
    }
}

/// Returns whether the spans of an event have a parent. An operational event was never accepted from a caller, so its first span
/// may start a trace.
fn has_parent(event: &Event) -> bool {
    !event.new.event_type.is_ours() || TraceParent::of(&event.new).is_some()
}

/// Makes an emitted event continue the trace from the run that emitted it, if the event inherited its trace. If the plugin put
/// the event into another trace, the event stays there.
fn lead(emitted: &mut NewEvent, cause: &Event, run: TraceParent) {
    let (own, inherited) = (emitted.attributes.get(trace::TRACEPARENT), cause.new.attributes.get(trace::TRACEPARENT));
    if own != inherited {
        return;
    }
    let attributes = Arc::make_mut(&mut emitted.attributes);
    match attributes.0.iter_mut().find(|(name, _)| name == trace::TRACEPARENT) {
        Some((_, value)) => *value = run.to_string(),
        None => trace::adopt(attributes, &run.to_string(), None),
    }
}

/// The connection to the collector. The operator chose its address, so neither guard nor proxy is used.
struct Carrier {
    client: reqwest::Client,
    place: String,
    /// The runtime that sends the requests. It is needed because batches come from a thread that has no runtime.
    runtime: tokio::runtime::Handle,
    failing: AtomicBool,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("place", &self.place).finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Carrier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let sent = self.runtime.spawn(exchange(self.client.clone(), request)).await?;
        let trouble = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status().as_u16())),
            // Leaves out the URL, which may contain a key.
            Err(error) => Some(if error.is_timeout() { "it does not answer".into() } else { "it cannot be reached".into() }),
        };
        // Logged only when the state changes, so that even a long outage writes only two lines.
        let failed_before = self.failing.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(trouble) if !failed_before => {
                tracing::warn!(collector = %self.place, trouble, "traces do not reach their collector; until they do they are dropped");
            }
            None if failed_before => tracing::info!(collector = %self.place, "traces reach their collector again"),
            _ => {}
        }
        Ok(sent.map_err(reqwest::Error::without_url)?)
    }
}

async fn exchange(client: reqwest::Client, request: reqwest::Request) -> Result<Response<Bytes>, reqwest::Error> {
    let mut answer = client.execute(request).await?;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        let room = ANSWER_BYTES_MAX - body.len();
        body.extend_from_slice(&part[..part.len().min(room)]);
        if body.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}

/// Reads `otel.endpoint`: an http or https URL, or nothing.
pub fn parse_endpoint(text: &str) -> Option<Option<Url>> {
    if text.is_empty() {
        return Some(None);
    }
    let url = Url::from_str(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(Some(url))
}
