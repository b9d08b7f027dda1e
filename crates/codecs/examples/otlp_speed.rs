//! What decoding OTLP costs, a row, beside prost's decoding of the same bytes into structs:
//! `cargo run --release -p weir-codecs --example otlp_speed`. With the name of a stream it decodes
//! only that, from protobuf, over and over: for a profiler.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]

use std::hint::black_box;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use weir_base::Timestamp;
use weir_codecs::RowContext;
use weir_codecs::otlp::{Encoding, Signal, decode};

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ROWS: u64 = 1000;
const NOW: u64 = 1_700_000_000_000_000_000;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(text: impl Into<String>) -> Value {
    Value::StringValue(text.into())
}

/// Five attributes, as an HTTP server's instrumentation has them.
fn attributes(n: u64) -> Vec<KeyValue> {
    vec![
        attribute("http.route", text(format!("/api/orders/{}", n % 40))),
        attribute("http.request.method", text(if n.is_multiple_of(3) { "POST" } else { "GET" })),
        attribute("http.response.status_code", Value::IntValue(if n.is_multiple_of(50) { 500 } else { 200 })),
        attribute("client.address", text(format!("10.1.{}.{}", n % 251, n % 13))),
        attribute("sampled", Value::BoolValue(n.is_multiple_of(2))),
    ]
}

fn resource() -> Option<Resource> {
    let attributes = vec![
        attribute("service.name", text("checkout")),
        attribute("service.version", text("2.14.0")),
        attribute("deployment.environment.name", text("production")),
        attribute("host.name", text("node-17")),
    ];
    Some(Resource { attributes, ..Resource::default() })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "http.server".to_owned(), version: "1.2.0".to_owned(), ..Default::default() })
}

fn logs() -> ExportLogsServiceRequest {
    let record = |n: u64| LogRecord {
        time_unix_nano: NOW + n * 1_000_000,
        observed_time_unix_nano: NOW + n * 1_000_000 + 500,
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        body: Some(AnyValue {
            value: Some(text(format!("order {} accepted in {} ms by worker {}", n, n % 90, n % 8))),
        }),
        attributes: attributes(n),
        trace_id: (n + 1).to_be_bytes().repeat(2),
        span_id: (n + 1).to_be_bytes().to_vec(),
        flags: 1,
        ..LogRecord::default()
    };
    let scope_logs =
        vec![ScopeLogs { scope: scope(), log_records: (0..ROWS).map(record).collect(), ..Default::default() }];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: resource(), scope_logs, ..Default::default() }],
    }
}

fn spans() -> ExportTraceServiceRequest {
    let span = |n: u64| Span {
        trace_id: (n + 1).to_be_bytes().repeat(2),
        span_id: (n + 1).to_be_bytes().to_vec(),
        parent_span_id: (n + 7).to_be_bytes().to_vec(),
        name: format!("GET /api/orders/{}", n % 40),
        kind: 2,
        start_time_unix_nano: NOW + n * 1_000_000,
        end_time_unix_nano: NOW + n * 1_000_000 + 12_345_678,
        attributes: attributes(n),
        flags: 0x101,
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { scope: scope(), spans: (0..ROWS).map(span).collect(), ..Default::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: resource(), scope_spans, ..Default::default() }],
    }
}

fn metrics() -> ExportMetricsServiceRequest {
    let point = |n: u64| NumberDataPoint {
        attributes: attributes(n),
        start_time_unix_nano: NOW,
        time_unix_nano: NOW + n,
        value: Some(number_data_point::Value::AsDouble(n as f64 / 7.0)),
        ..NumberDataPoint::default()
    };
    let metric = |n: u64| Metric {
        name: format!("http.server.active_requests.{n}"),
        unit: "{request}".to_owned(),
        description: "requests in flight".to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: (n * 50..n * 50 + 50).map(point).collect() })),
        ..Metric::default()
    };
    let metrics = (0..ROWS / 50).map(metric).collect();
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..Default::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource: resource(), scope_metrics, ..Default::default() }],
    }
}

/// CPU time of this thread so far: other work on the machine disturbs it little.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// The best of several turns, in nanoseconds of CPU a row.
fn measure(mut work: impl FnMut()) -> f64 {
    const REQUESTS: u32 = 60;
    let turn = |work: &mut dyn FnMut()| {
        let begun = cpu_ns();
        (0..REQUESTS).for_each(|_| work());
        (cpu_ns() - begun) / f64::from(REQUESTS) / ROWS as f64
    };
    (0..25).map(|_| turn(&mut work)).fold(f64::INFINITY, f64::min)
}

fn compare<M: Message + Default + serde::Serialize>(signal: Signal, message: &M) {
    let body = message.encode_to_vec();
    let text = serde_json::to_vec(message).unwrap();
    let context = RowContext {
        tenant: "acme",
        received_at: Timestamp(NOW as i64),
        client_ip: None,
        user_agent: None,
        rows_max: 100_000,
        row_bytes_max: 1 << 20,
        value_bytes_max: 1 << 20,
        decoded_bytes_max: 64 << 20,
    };
    if let Some(only) = std::env::args().nth(1) {
        for _ in 0..if only == signal.stream() { 20_000 } else { 0 } {
            black_box(decode(signal, Encoding::Protobuf, black_box(&body), &context).unwrap());
        }
        return;
    }
    let ours = measure(|| {
        black_box(decode(signal, Encoding::Protobuf, black_box(&body), &context).unwrap());
    });
    let json = measure(|| {
        black_box(decode(signal, Encoding::Json, black_box(&text), &context).unwrap());
    });
    let prost = measure(|| {
        black_box(M::decode(black_box(body.as_slice())).unwrap());
    });
    println!(
        "{:8} {:4} B a row: {ours:5.0} ns to columns; prost to structs {prost:5.0} ns; JSON ({} B) to columns {json:5.0} ns",
        signal.stream(),
        body.len() as u64 / ROWS,
        text.len() as u64 / ROWS,
    );
}

fn main() {
    compare(Signal::Logs, &logs());
    compare(Signal::Traces, &spans());
    compare(Signal::Metrics, &metrics());
}
