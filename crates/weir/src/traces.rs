//! Weir's own traces, sent by OTLP over HTTP to `telemetry.traces_endpoint`.
//!
//! One span a request, named by its route's path, in the client's trace if it sent a `traceparent`.
//! Spans that cannot be sent are dropped and counted in a log line: traces must never slow what
//! they watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span, status};
use prost::Message;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;
use weir_base::random;
use weir_base::shutdown::Shutdown;
use weir_base::{Clock, Timestamp};

/// The most spans that wait to be sent; later ones are dropped.
const SPANS_MAX: usize = 10_000;
/// The most spans of one request to the collector.
const BATCH_SPANS_MAX: usize = 512;
/// How often spans are sent.
const SEND_INTERVAL: Duration = Duration::from_secs(1);
/// How long the collector may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of the span around each request, as the server's middleware makes it.
const REQUEST_SPAN: &str = "request";

/// Finished spans on their way to the collector.
#[derive(Debug)]
pub(crate) struct SpanBuffer {
    clock: Arc<dyn Clock>,
    spans: parking_lot::Mutex<VecDeque<Span>>,
    dropped: AtomicU64,
}

impl SpanBuffer {
    /// An empty buffer.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, spans: parking_lot::Mutex::default(), dropped: AtomicU64::new(0) })
    }

    fn push(&self, span: Span) {
        let mut spans = self.spans.lock();
        if spans.len() < SPANS_MAX {
            spans.push_back(span);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Vec<Span> {
        let mut spans = self.spans.lock();
        let count = spans.len().min(BATCH_SPANS_MAX);
        spans.drain(..count).collect()
    }
}

/// The layer that fills a [`SpanBuffer`].
#[derive(Debug)]
pub(crate) struct TraceLayer(pub(crate) Arc<SpanBuffer>);

struct Open {
    begun: Timestamp,
    fields: Vec<(&'static str, String)>,
    failed: bool,
}

#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != REQUEST_SPAN {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            let open = Open { begun: self.0.clock.now(), fields: fields.0, failed: false };
            span.extensions_mut().insert(open);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            let mut fields = Fields::default();
            values.record(&mut fields);
            open.fields.append(&mut fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(open) = span.extensions_mut().get_mut::<Open>() {
                open.failed = true;
            }
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let open = context.span(&id).and_then(|span| span.extensions_mut().remove::<Open>());
        if let Some(open) = open {
            self.0.push(finished(open, self.0.clock.now()));
        }
    }
}

fn finished(open: Open, now: Timestamp) -> Span {
    let field = |name: &str| open.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    let given = field("trace_id").and_then(hex::<16>);
    let nanos = |time: Timestamp| u64::try_from(time.0).unwrap_or(0);
    Span {
        trace_id: given.unwrap_or_else(random::bytes).to_vec(),
        span_id: random::bytes::<8>().to_vec(),
        parent_span_id: field("parent_id").and_then(hex::<8>).map(Vec::from).unwrap_or_default(),
        name: format!("{} {}", field("method").unwrap_or_default(), field("path").unwrap_or_default()),
        kind: span::SpanKind::Server.into(),
        start_time_unix_nano: nanos(open.begun),
        end_time_unix_nano: nanos(now),
        attributes: open
            .fields
            .iter()
            .filter(|(name, _)| !matches!(*name, "trace_id" | "parent_id"))
            .map(|(name, value)| text(name, value))
            .collect(),
        status: open.failed.then(|| Status { code: status::StatusCode::Error.into(), ..Status::default() }),
        ..Span::default()
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Sends what is in `buffer` until the shutdown has begun, then what is left, once.
pub(crate) async fn export(buffer: Arc<SpanBuffer>, endpoint: String, shutdown: Shutdown) {
    let client = match crate::client::connector(None) {
        Ok(connector) => Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector),
        Err(error) => {
            tracing::error!(%error, "own traces are not sent");
            return;
        }
    };
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let mut healthy = true;
    loop {
        let ending = tokio::select! {
            () = tokio::time::sleep(SEND_INTERVAL) => false,
            () = shutdown.begun() => true,
        };
        loop {
            let spans = buffer.take();
            if spans.is_empty() {
                break;
            }
            let count = spans.len() as u64;
            let sent = send(&client, &url, spans).await;
            if let Err(error) = &sent {
                buffer.dropped.fetch_add(count, Ordering::Relaxed);
                // Once, not every second.
                if healthy {
                    tracing::warn!(url, error = format!("{error:#}"), "own traces are not taken, and are dropped");
                }
            }
            if healthy != sent.is_ok() {
                healthy = sent.is_ok();
                let dropped = buffer.dropped.load(Ordering::Relaxed);
                if healthy {
                    tracing::info!(url, dropped, "own traces are taken again");
                }
            }
        }
        if ending {
            return;
        }
    }
}

type HttpClient = Client<hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>, Full<Bytes>>;

async fn send(client: &HttpClient, url: &str, spans: Vec<Span>) -> anyhow::Result<()> {
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "weir"), text("service.version", env!("CARGO_PKG_VERSION"))],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "weir".to_owned(), ..InstrumentationScope::default() }),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(request.encode_to_vec())))
        .context("building the request")?;
    let response = tokio::time::timeout(SEND_TIMEOUT, client.request(request)).await.context("no answer in time")??;
    let status = response.status();
    // Read to its end, within bounds, so that the connection can be used again.
    let _ = Limited::new(response.into_body(), 64 << 10).collect().await;
    anyhow::ensure!(status.is_success(), "the collector answered {status}");
    Ok(())
}
