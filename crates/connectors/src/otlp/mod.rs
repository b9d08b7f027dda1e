//! The sink `otlp`: rows with the columns of `logs`, `spans` or `metrics` to whoever speaks OTLP, by gRPC or HTTP.
//!
//! The protocol knows no transactions, so a sender that dies does not know what has arrived. Weir's own receivers take
//! a request with an `idempotency-key` once. So the rows of an epoch are cut into requests, and these are durable beside
//! the checkpoints before the epoch is decided (`outgoing`); they are sent once it is, under keys that whoever
//! sends them again repeats. What an answer means is decided in `answer`, by the tables of the OTLP specification.
//!
//! Deliberately absent: queues and retries of its own. The engine waits, tries again and opens the circuit.

mod answer;
mod client;
mod outgoing;
mod sink;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_base::ErrorKind;
use weir_base::quantity::{ByteSize, Span};
use weir_codecs::otlp::{Signal, encode};
use weir_component::checkpoint::CheckpointStore;
use weir_component::sink::{Delivery, Opening, PlannedSink, Sink, SinkError};
use weir_component::spec::{About, Access, Fault, PlanContext, SinkSpec, Stability};

use crate::config;
use client::Transport;

/// The entry of the table.
pub const SPEC: SinkSpec = SinkSpec {
    about: About {
        name: "otlp",
        summary: "Sends logs, spans or metrics by OTLP, to another Weir or any other receiver.",
        stability: Stability::Preview,
        access: Access { connects: true, files: false, credentials: true, terminal: false },
        example: "endpoint: \"https://collector:4317\"\nsignal: logs\nheaders: { x-team: shop }\n",
        schema: || schemars::schema_for!(OtlpSinkConfig),
    },
    delivery: Delivery::AtLeastOnce,
    plan,
};

/// Sends rows by OTLP. They have the columns of the stream `logs`, `spans` or `metrics`, as many of them as there are;
/// `service_name` becomes `service.name` of the resource, and columns the stream does not have become attributes. A row of
/// metrics needs a `name` and a `value`; without a `type` it is a gauge.
///
/// OTLP is at least once by nature. To a Weir it is exactly once: rows are kept beside the checkpoint and sent when it is
/// made, under an `idempotency-key` that is the same whenever a request is sent again, by this process or after `kill -9`
/// by the next; Weir stores a key once (for 24 hours, unless it is configured otherwise). Receivers that do not know such keys may
/// get the requests of one checkpoint twice after a failure. With `delivery: at_least_once` rows are sent as soon as a
/// request is full, and after a failure those since the last checkpoint once more.
///
/// What a receiver refuses for good becomes dead letters with its message, which can be run again; where it refuses some
/// rows of a request and does not say which, as many letters say so and have no row. A request that is too large is
/// halved. What it asks to be sent later is, not before the time it names. An address or a credential that is wrong
/// stops the pipeline.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpSinkConfig {
    /// The address of the receiver: `http://HOST:PORT`, or `https://` for TLS. With `protocol: http` the path of the
    /// signal (`/v1/logs`, `/v1/traces`, `/v1/metrics`) is added, unless there is one.
    pub endpoint: String,
    /// What the rows are.
    pub signal: OtlpSignal,
    /// How they are sent. Default: `grpc`.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// Headers of every request (of gRPC: metadata), such as `authorization`. Write secrets as `${env:NAME}` or
    /// `${file:PATH}`, so that they are not in the document.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What is trusted and shown by TLS.
    pub tls: Option<OtlpTls>,
    /// How requests are compressed. Default: `gzip`.
    #[serde(default)]
    pub compression: OtlpCompression,
    /// When rows are sent, and with that what becomes of them after a failure. Default: `idempotent`.
    #[serde(default)]
    pub delivery: OtlpDelivery,
    /// The most rows of a request. Default: 2000.
    #[serde(default = "request_rows_max")]
    pub request_rows_max: usize,
    /// The most bytes of a request before it is compressed, as far as can be told beforehand. Default: 2MiB.
    #[serde(default = "request_bytes_max")]
    pub request_bytes_max: ByteSize,
    /// How many requests may be under way at once. Default: 4.
    #[serde(default = "requests_max")]
    pub requests_max: usize,
    /// How long an answer may take, connecting included. Default: 30s.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

/// What rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtlpSignal {
    /// Log records, with the columns of `logs`.
    Logs,
    /// Spans, with the columns of `spans`.
    Spans,
    /// Metric data points, with the columns of `metrics`.
    Metrics,
}

impl From<OtlpSignal> for Signal {
    fn from(signal: OtlpSignal) -> Self {
        match signal {
            OtlpSignal::Logs => Self::Logs,
            OtlpSignal::Spans => Self::Traces,
            OtlpSignal::Metrics => Self::Metrics,
        }
    }
}

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// gRPC, over HTTP/2.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1, or HTTP/2 where TLS agrees on it.
    Http,
}

/// How requests are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtlpCompression {
    /// Not at all.
    None,
    /// Gzip, which every receiver takes.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

/// When rows are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpDelivery {
    /// When their checkpoint is made, under keys that are the same when they are sent again: once, if the receiver knows
    /// them, as Weir does.
    #[default]
    Idempotent,
    /// As soon as a request is full, and at every checkpoint.
    AtLeastOnce,
}

/// What is trusted and shown. Certificates and keys are PEM; write them as `${file:PATH}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpTls {
    /// The authorities to trust. Default: those that browsers trust.
    pub ca: Option<String>,
    /// The certificate of this client, for receivers that want one.
    pub certificate: Option<String>,
    /// The key of that certificate.
    pub key: Option<String>,
}

const fn request_rows_max() -> usize {
    2000
}

const fn request_bytes_max() -> ByteSize {
    ByteSize(2 << 20)
}

const fn requests_max() -> usize {
    4
}

const fn timeout() -> Span {
    Span(Duration::from_secs(30))
}

/// Where rows go, and how.
#[derive(Clone, Debug)]
struct Settings {
    uri: Uri,
    signal: Signal,
    protocol: OtlpProtocol,
    headers: HeaderMap,
    transport: Transport,
    compression: OtlpCompression,
    delivery: OtlpDelivery,
    request_rows_max: usize,
    request_bytes_max: usize,
    requests_max: usize,
    timeout: Duration,
}

/// Rows are worth a request of their own after so long: as often as the SDKs of OpenTelemetry send them.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Headers that say what a request is; nobody else may.
const OWN_HEADERS: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "idempotency-key",
    "te",
    "transfer-encoding",
    "user-agent",
];

fn plan(config: &Json, _: &[String], _: &PlanContext) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    Ok(Arc::new(Plan { settings: Arc::new(make(config)?) }))
}

fn make(config: &Json) -> Result<Settings, Vec<Fault>> {
    let config: OtlpSinkConfig = config::parse(config)?;
    let mut faults = Vec::new();
    let signal = Signal::from(config.signal);
    let uri = address(&config.endpoint, config.protocol, signal);
    let uri = uri.map_err(|fault| faults.push(fault)).unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let place = format!("/headers/{}", config::escaped(name));
        match (HeaderName::try_from(name.to_ascii_lowercase()), HeaderValue::from_str(value)) {
            (Ok(name), _) if OWN_HEADERS.contains(&name.as_str()) => {
                faults.push(Fault::new(&place, format!("`{name}` is set by the sink itself"), "leave it out"));
            }
            (Ok(name), Ok(mut value)) => {
                // Not to be seen in what is written for developers.
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            (Err(_), _) => faults.push(Fault::new(&place, format!("`{name}` is not the name of a header"), "")),
            (_, Err(_)) => faults.push(Fault::new(&place, "the value has characters no header may have", "")),
        }
    }
    let is_secure = uri.scheme_str() == Some("https");
    if config.tls.is_some() && !is_secure {
        faults.push(Fault::new(
            "/tls",
            "the endpoint is not reached by TLS",
            "write it with `https://`, or leave `tls` out",
        ));
    }
    let transport = Transport::new(config.tls.as_ref(), config.protocol, &mut faults);
    let mut within = |pointer: &str, value: u64, least: u64, most: u64| {
        if !(least..=most).contains(&value) {
            faults.push(Fault::new(pointer, format!("{value} is not between {least} and {most}"), ""));
        }
    };
    within("/request_rows_max", config.request_rows_max as u64, 1, 100_000);
    within("/request_bytes_max", config.request_bytes_max.0, 4 << 10, 256 << 20);
    within("/requests_max", config.requests_max as u64, 1, 64);
    if config.timeout.0.is_zero() || config.timeout.0 > Duration::from_mins(10) {
        faults.push(Fault::new("/timeout", format!("{} is not between 1ms and 10m", config.timeout), ""));
    }
    match transport {
        Some(transport) if faults.is_empty() => Ok(Settings {
            uri,
            signal,
            protocol: config.protocol,
            headers,
            transport,
            compression: config.compression,
            delivery: config.delivery,
            request_rows_max: config.request_rows_max,
            request_bytes_max: config.request_bytes_max.as_usize(),
            requests_max: config.requests_max,
            timeout: config.timeout.0,
        }),
        _ => Err(faults),
    }
}

/// Where requests go.
fn address(endpoint: &str, protocol: OtlpProtocol, signal: Signal) -> Result<Uri, Fault> {
    let wrong = |message: &str| {
        let hint = "such as `http://127.0.0.1:4317`, or `https://collector.example:4318` with `protocol: http`";
        Fault::new("/endpoint", format!("`{endpoint}` {message}"), hint)
    };
    let uri: Uri = endpoint.trim().parse().map_err(|_| wrong("is not an address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(wrong("does not begin with http:// or https:// and a host"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
        return Err(wrong("has a user or a query in it, which belong into `headers`"));
    }
    let path = match (protocol, uri.path().trim_end_matches('/')) {
        (OtlpProtocol::Http, "") => match signal {
            Signal::Logs => "/v1/logs",
            Signal::Traces => "/v1/traces",
            Signal::Metrics => "/v1/metrics",
        },
        (OtlpProtocol::Http, path) => path,
        (OtlpProtocol::Grpc, "") => match signal {
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        },
        (OtlpProtocol::Grpc, _) => return Err(wrong("has a path, and gRPC has paths of its own")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| wrong("is not an address"))?);
    Uri::from_parts(parts).map_err(|_| wrong("is not an address"))
}

struct Plan {
    settings: Arc<Settings>,
}

#[async_trait]
impl PlannedSink for Plan {
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    async fn open(&self, _: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Err(SinkError::new(ErrorKind::Internal, "there is no place for rows that are to be sent"))
    }

    async fn open_with(
        &self,
        schema: SchemaRef,
        opened: Opening,
        kept: Arc<dyn CheckpointStore>,
    ) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(sink::open(Arc::clone(&self.settings), schema, opened, kept).await?))
    }

    fn describe(&self) -> String {
        let Settings { uri, signal, protocol, .. } = self.settings.as_ref();
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let how = match protocol {
            OtlpProtocol::Grpc => "gRPC",
            OtlpProtocol::Http => "HTTP",
        };
        format!("sends {} to {host} by OTLP over {how}", signal.stream())
    }

    fn check(&self, schema: &SchemaRef) -> Vec<Fault> {
        let misfits = encode::misfits(self.settings.signal, schema);
        let fault = |(column, what): (String, String)| {
            let hint = "cast it, or give it another name: it becomes an attribute then";
            Fault::new("", format!("the column `{column}` is {what}"), hint)
        };
        misfits.into_iter().map(fault).collect()
    }

    fn commit_interval(&self) -> Option<Duration> {
        Some(COMMIT_INTERVAL)
    }

    fn keeps_rows(&self) -> bool {
        self.settings.delivery == OtlpDelivery::Idempotent
    }
}

#[cfg(test)]
mod tests;
