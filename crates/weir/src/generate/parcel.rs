//! Rows packed for the wire: request bodies of the three protocols, each with what its reply has
//! to say.

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use std::io::Write;

use super::services::{SERVICES, attribute, int_attribute};
use super::shop::{ShopTraffic, WebEvent};
use weir_base::Timestamp;

/// Events in one request, as a browser library batches them at most.
const EVENTS_MAX: usize = 100;

/// Spans or log records in one request: the batch size of the OpenTelemetry SDKs.
const EXPORT_MAX: usize = 512;

/// What kind of telemetry a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Signal {
    Logs,
    Traces,
    Metrics,
}

impl Signal {
    pub(super) const fn http_path(self) -> &'static str {
        match self {
            Self::Logs => "/v1/logs",
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    pub(super) const fn grpc_path(self) -> &'static str {
        match self {
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }
}

/// How a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    Ingest,
    OtlpHttp(Signal),
    OtlpGrpc(Signal),
}

/// One request with its expectations.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    /// Index of the tenant.
    pub(super) target: usize,
    pub(super) protocol: Protocol,
    /// The body; for gRPC with its frame, for OTLP over HTTP gzipped.
    pub(super) body: Bytes,
    pub(super) rows: u64,
    /// How many of them the server has to refuse.
    pub(super) broken: u64,
}

/// Packs what a shop has to send.
pub(super) fn pack(target: usize, traffic: &mut ShopTraffic) -> Vec<Parcel> {
    let mut parcels = Vec::new();
    for events in std::mem::take(&mut traffic.events).chunks(EVENTS_MAX) {
        parcels.push(ingest(target, events));
    }
    for service in 0..SERVICES.len() {
        for spans in chunks(std::mem::take(&mut traffic.backend.spans[service])) {
            parcels.push(traces(target, service, spans));
        }
        for records in chunks(std::mem::take(&mut traffic.backend.logs[service])) {
            parcels.push(logs(target, service, records));
        }
    }
    parcels
}

/// Packs the metrics since the last time.
pub(super) fn pack_metrics(target: usize, traffic: &mut ShopTraffic, now: Timestamp) -> Vec<Parcel> {
    let exports = traffic.backend.measures.export(now);
    exports.into_iter().map(|(service, metrics, rows)| metrics_parcel(target, service, metrics, rows)).collect()
}

fn chunks<T>(mut rows: Vec<T>) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    while rows.len() > EXPORT_MAX {
        let rest = rows.split_off(EXPORT_MAX);
        chunks.push(std::mem::replace(&mut rows, rest));
    }
    if !rows.is_empty() {
        chunks.push(rows);
    }
    chunks
}

fn ingest(target: usize, events: &[WebEvent]) -> Parcel {
    let mut body = BytesMut::with_capacity(events.iter().map(|event| event.json.len() + 1).sum::<usize>() + 16);
    body.put_slice(b"{\"events\":[");
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            body.put_u8(b',');
        }
        body.put_slice(event.json.as_bytes());
    }
    body.put_slice(b"]}");
    let broken = events.iter().filter(|event| event.is_broken).count() as u64;
    Parcel { target, protocol: Protocol::Ingest, body: body.freeze(), rows: events.len() as u64, broken }
}

fn resource(service: usize) -> Option<Resource> {
    let service = &SERVICES[service];
    let attributes = vec![
        attribute("service.name", service.name),
        attribute("service.namespace", "shop"),
        attribute("service.version", service.version),
        attribute("service.instance.id", format!("{}-6f9c7d-1", service.name)),
        attribute("telemetry.sdk.language", service.language),
        attribute("deployment.environment.name", "production"),
        int_attribute("process.pid", 1),
    ];
    Some(Resource { attributes, ..Resource::default() })
}

fn scope(service: usize) -> Option<InstrumentationScope> {
    let name = format!("shop.{}", SERVICES[service].name);
    Some(InstrumentationScope { name, version: "1.0.0".to_owned(), ..InstrumentationScope::default() })
}

fn traces(target: usize, service: usize, spans: Vec<Span>) -> Parcel {
    let rows = spans.len() as u64;
    let scope_spans = vec![ScopeSpans { scope: scope(service), spans, ..ScopeSpans::default() }];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: resource(service), scope_spans, ..ResourceSpans::default() }],
    };
    export(target, service, Signal::Traces, &request, rows)
}

fn logs(target: usize, service: usize, log_records: Vec<LogRecord>) -> Parcel {
    let rows = log_records.len() as u64;
    let scope_logs = vec![ScopeLogs { scope: scope(service), log_records, ..ScopeLogs::default() }];
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: resource(service), scope_logs, ..ResourceLogs::default() }],
    };
    export(target, service, Signal::Logs, &request, rows)
}

fn metrics_parcel(target: usize, service: usize, metrics: Vec<Metric>, rows: u64) -> Parcel {
    let scope_metrics = vec![ScopeMetrics { scope: scope(service), metrics, ..ScopeMetrics::default() }];
    let resource = resource(service);
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
    };
    export(target, service, Signal::Metrics, &request, rows)
}

fn export(target: usize, service: usize, signal: Signal, request: &impl Message, rows: u64) -> Parcel {
    let (protocol, body) = if SERVICES[service].uses_grpc {
        (Protocol::OtlpGrpc(signal), frame(request))
    } else {
        (Protocol::OtlpHttp(signal), gzip(&request.encode_to_vec()))
    };
    Parcel { target, protocol, body, rows, broken: 0 }
}

/// A gRPC message: a flag (0, not compressed), its length, and the message.
fn frame(request: &impl Message) -> Bytes {
    let length = request.encoded_len();
    let mut body = BytesMut::with_capacity(length + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    body.put_slice(&request.encode_to_vec());
    body.freeze()
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4 + 64), Compression::fast());
    // Writing into memory does not fail.
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map(Bytes::from).unwrap_or_default()
}
