//! Requests of every protocol with the same rows in them.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::json;

/// A way to send rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Ingest,
    Segment,
    OtlpHttpLogs,
    OtlpGrpcLogs,
    OtlpGrpcSpans,
}

impl Protocol {
    pub(crate) const ALL: [Self; 5] =
        [Self::Ingest, Self::Segment, Self::OtlpHttpLogs, Self::OtlpGrpcLogs, Self::OtlpGrpcSpans];

    /// The table its rows are found in.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Ingest | Self::Segment => "events",
            Self::OtlpHttpLogs | Self::OtlpGrpcLogs => "logs",
            Self::OtlpGrpcSpans => "spans",
        }
    }

    /// A short name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Segment => "segment",
            Self::OtlpHttpLogs => "otlp_http",
            Self::OtlpGrpcLogs => "otlp_grpc",
            Self::OtlpGrpcSpans => "otlp_grpc_spans",
        }
    }
}

/// Rows `first..first + n_rows` of a producer.
pub(crate) struct Rows<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) producer: &'a str,
    pub(crate) first: u64,
    pub(crate) n_rows: u64,
    pub(crate) time_ns: u64,
}

/// The checksum a row carries: over everything that identifies it and its payload.
pub(crate) fn checksum(tenant: &str, producer: &str, seq: u64, payload: &str) -> u32 {
    weir_base::crc::crc32c(format!("{tenant}\n{producer}\n{seq}\n{payload}").as_bytes())
}

/// The payload of a row: its length varies, so that batches differ.
pub(crate) fn payload(producer: &str, seq: u64) -> String {
    format!("row {seq} of {producer} ").repeat(1 + usize::try_from(seq % 7).unwrap_or(0))
}

/// A UUID that the same row gets every time it is sent.
fn id(rows: &Rows<'_>, seq: u64) -> String {
    let half = |salt: &str| weir_base::crc::crc32c(format!("{salt} {} {}", rows.tenant, rows.producer).as_bytes());
    format!("{:08x}-{:04x}-4000-8000-{seq:012x}", half("a"), half("b") & 0xffff)
}

/// The body of a request.
pub(crate) fn encode(protocol: Protocol, rows: &Rows<'_>) -> Bytes {
    match protocol {
        Protocol::Ingest => ingest(rows),
        Protocol::Segment => segment(rows),
        Protocol::OtlpHttpLogs | Protocol::OtlpGrpcLogs => logs(rows),
        Protocol::OtlpGrpcSpans => spans(rows),
    }
}

fn ingest(rows: &Rows<'_>) -> Bytes {
    let events: Vec<_> = sequence(rows)
        .map(|(seq, payload, crc)| {
            json!({
                "id": id(rows, seq),
                "type": "custom",
                "name": "crash",
                "timestamp": rows.time_ns / 1_000_000,
                "properties": { "producer": rows.producer, "seq": seq, "crc": crc, "payload": payload },
            })
        })
        .collect();
    json!({ "events": events }).to_string().into()
}

fn segment(rows: &Rows<'_>) -> Bytes {
    let batch: Vec<_> = sequence(rows)
        .map(|(seq, payload, crc)| {
            json!({
                "type": "track",
                "event": "crash",
                "userId": rows.producer,
                "messageId": id(rows, seq),
                "properties": { "producer": rows.producer, "seq": seq, "crc": crc, "payload": payload },
            })
        })
        .collect();
    json!({ "batch": batch }).to_string().into()
}

fn logs(rows: &Rows<'_>) -> Bytes {
    let records = sequence(rows).map(|(seq, payload, crc)| LogRecord {
        time_unix_nano: rows.time_ns + seq,
        severity_number: 9,
        body: Some(AnyValue { value: Some(Value::StringValue(payload.clone())) }),
        attributes: attributes(rows.producer, seq, crc, payload),
        ..LogRecord::default()
    });
    let scope = ScopeLogs { log_records: records.collect(), ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec().into()
}

fn spans(rows: &Rows<'_>) -> Bytes {
    let spans = sequence(rows).map(|(seq, payload, crc)| Span {
        trace_id: u128::from(seq + 1).to_be_bytes().to_vec(),
        span_id: (seq + 1).to_be_bytes().to_vec(),
        name: "crash".to_owned(),
        kind: 1,
        start_time_unix_nano: rows.time_ns + seq,
        end_time_unix_nano: rows.time_ns + seq + 1000,
        attributes: attributes(rows.producer, seq, crc, payload),
        ..Span::default()
    });
    let scope = ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec().into()
}

fn sequence<'a>(rows: &'a Rows<'_>) -> impl Iterator<Item = (u64, String, u32)> + 'a {
    (rows.first..rows.first + rows.n_rows).map(|seq| {
        let payload = payload(rows.producer, seq);
        let crc = checksum(rows.tenant, rows.producer, seq, &payload);
        (seq, payload, crc)
    })
}

fn attributes(producer: &str, seq: u64, crc: u32, payload: String) -> Vec<KeyValue> {
    let integer = |number: u64| Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX));
    let values = [
        ("producer", Value::StringValue(producer.to_owned())),
        ("seq", integer(seq)),
        ("crc", integer(u64::from(crc))),
        ("payload", Value::StringValue(payload)),
    ];
    let pair = |(key, value): (&str, Value)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    values.map(pair).into()
}
