//! Delivers parcels: sends, reads the reply word for word, and tries again while the server asks
//! for it, with the same ids and the same idempotency key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use weir_api::ingest::IngestReply;
use weir_base::error::grpc;
use weir_base::secret::Secret;
use weir_base::{Clock, shutdown::Shutdown};

use super::parcel::{Parcel, Protocol, Signal};

/// Replies are small; whatever is longer is not one of ours.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// How long one try may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a parcel is tried while the simulator runs: a server being restarted must not cost rows.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long after the simulator was told to stop, or its time was up.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(10);

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// What became of a parcel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) stored: u64,
    pub(super) deduplicated: u64,
    pub(super) rejected: u64,
    /// What is wrong with the reply, or why there is none.
    pub(super) complaint: Option<String>,
    /// How often it was sent again.
    pub(super) retries: u64,
    /// How long the try that was answered took.
    pub(super) took: Duration,
}

/// One reply, before it is compared with what was sent.
enum Reply {
    Counts {
        received: u64,
        stored: u64,
        deduplicated: u64,
        rejected: u64,
    },
    /// Not now: why, and when the server wants to hear from us again.
    Later {
        why: String,
        after: Option<Duration>,
    },
    Refused(String),
}

#[derive(Debug)]
struct Target {
    tenant: String,
    authorization: Secret<String>,
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A way to the server for all tenants.
#[derive(Debug)]
pub(super) struct Courier {
    http: HttpClient,
    grpc: HttpClient,
    ingest: Uri,
    otlp_http: String,
    otlp_grpc: String,
    targets: Vec<Target>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
}

fn address(base: &str, path: &str) -> anyhow::Result<Uri> {
    format!("{}{path}", base.trim_end_matches('/')).parse().with_context(|| format!("`{base}` is no address"))
}

impl Courier {
    pub(super) fn new(
        options: &super::GenerateOptions,
        ca_file: Option<&Path>,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let connector = crate::client::connector(ca_file)?;
        let mut builder = Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        // So that what is no address is found before anything is sent.
        for base in [&options.otlp_http_url, &options.otlp_grpc_url] {
            address(base, Signal::Traces.grpc_path())?;
        }
        Ok(Self {
            http: builder.build(connector.clone()),
            grpc: builder.http2_only(true).build(connector),
            ingest: address(&options.http_url, "/ingest")?,
            otlp_http: options.otlp_http_url.clone(),
            otlp_grpc: options.otlp_grpc_url.clone(),
            targets: options
                .targets
                .iter()
                .map(|target| Target {
                    tenant: target.tenant.clone(),
                    authorization: Secret::new(format!("Bearer {}", target.key)),
                })
                .collect(),
            clock,
            shutdown,
        })
    }

    /// Delivers a parcel under that idempotency key, however often it takes.
    pub(super) async fn deliver(&self, parcel: Parcel, idempotency_key: &str) -> Receipt {
        let begun = self.clock.monotonic();
        let mut pause = PAUSE_FIRST;
        let mut retries = 0;
        let mut ending_since = None;
        loop {
            let sent = self.clock.monotonic();
            let reply = match tokio::time::timeout(TRY_TIMEOUT, self.send(&parcel, idempotency_key)).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(error)) => Reply::Later { why: format!("{error:#}"), after: None },
                Err(_) => Reply::Later { why: format!("no answer within {} s", TRY_TIMEOUT.as_secs()), after: None },
            };
            let now = self.clock.monotonic();
            let took = now.saturating_sub(sent);
            let (why, after) = match reply {
                Reply::Counts { received, stored, deduplicated, rejected } => {
                    let complaint = complain(&parcel, received, stored, deduplicated, rejected);
                    let complaint = complaint.map(|what| self.about(&parcel, &what));
                    return Receipt { stored, deduplicated, rejected, complaint, retries, took };
                }
                Reply::Refused(why) => {
                    return Receipt { complaint: Some(self.about(&parcel, &why)), retries, took, ..Receipt::default() };
                }
                Reply::Later { why, after } => (why, after),
            };
            if self.shutdown.has_begun() {
                ending_since.get_or_insert(now);
            }
            let is_hopeless = now.saturating_sub(begun) > PATIENCE
                || ending_since.is_some_and(|since| now.saturating_sub(since) > PATIENCE_AT_THE_END);
            if is_hopeless {
                let complaint = Some(self.about(&parcel, &format!("given up after {retries} retries: {why}")));
                return Receipt { complaint, retries, took, ..Receipt::default() };
            }
            retries += 1;
            tokio::time::sleep(after.unwrap_or(pause).min(RETRY_AFTER_MAX)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn about(&self, parcel: &Parcel, what: &str) -> String {
        let tenant = self.targets.get(parcel.target).map_or("?", |target| target.tenant.as_str());
        format!("{:?} of tenant {tenant}, {} rows: {what}", parcel.protocol, parcel.rows)
    }

    async fn send(&self, parcel: &Parcel, idempotency_key: &str) -> anyhow::Result<Reply> {
        let target = self.targets.get(parcel.target).context("no such tenant")?;
        let mut request = Request::builder()
            .method(Method::POST)
            .header(header::AUTHORIZATION, target.authorization.expose())
            .header(header::USER_AGENT, concat!("weir-generate/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", idempotency_key);
        request = match parcel.protocol {
            Protocol::Ingest => request.uri(self.ingest.clone()).header(header::CONTENT_TYPE, "application/json"),
            Protocol::OtlpHttp(signal) => request
                .uri(address(&self.otlp_http, signal.http_path())?)
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .header(header::CONTENT_ENCODING, "gzip"),
            Protocol::OtlpGrpc(signal) => request
                .uri(address(&self.otlp_grpc, signal.grpc_path())?)
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers"),
        };
        let request = request.body(Full::new(parcel.body.clone()))?;
        let client = if matches!(parcel.protocol, Protocol::OtlpGrpc(_)) { &self.grpc } else { &self.http };
        let response = client.request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, REPLY_BYTES_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        let trailers = body.trailers().cloned();
        let bytes = body.to_bytes();
        Ok(match parcel.protocol {
            Protocol::Ingest => read_ingest(head.status, &head.headers, &bytes),
            Protocol::OtlpHttp(signal) => read_otlp_http(head.status, &head.headers, &bytes, signal, parcel.rows),
            Protocol::OtlpGrpc(signal) => {
                read_grpc(head.status, &head.headers, trailers.as_ref(), &bytes, signal, parcel.rows)
            }
        })
    }
}

/// What is wrong with the counts of a reply.
fn complain(parcel: &Parcel, received: u64, stored: u64, deduplicated: u64, rejected: u64) -> Option<String> {
    if received != parcel.rows || stored + deduplicated + rejected != received {
        return Some(format!(
            "the reply counts {received} received, {stored} stored, {deduplicated} deduplicated, {rejected} rejected"
        ));
    }
    // Broken events have ids as well; a repeated one may be found bad or known.
    if rejected > parcel.broken || (deduplicated == 0 && rejected != parcel.broken) {
        return Some(format!("{rejected} rows were rejected where {} were broken", parcel.broken));
    }
    None
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What a refusal says of itself, cut to what fits a line.
fn excerpt(status: impl std::fmt::Display, bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(300).collect();
    format!("answered {status}: {text}")
}

fn no_success(status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Reply {
    let why = excerpt(status.as_u16(), bytes);
    match status.as_u16() {
        // 507 passes as soon as there is space again.
        408 | 429 | 502 | 503 | 504 | 507 => Reply::Later { why, after: retry_after(headers) },
        _ => Reply::Refused(why),
    }
}

fn read_ingest(status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Reply {
    // 422 says that every row is bad, with the same body.
    if status != StatusCode::OK && status != StatusCode::UNPROCESSABLE_ENTITY {
        return no_success(status, headers, bytes);
    }
    match serde_json::from_slice::<IngestReply>(bytes) {
        Ok(reply) => Reply::Counts {
            received: reply.received,
            stored: reply.stored,
            deduplicated: reply.deduplicated,
            rejected: reply.rejected,
        },
        Err(error) => Reply::Refused(format!("the reply cannot be read: {error}: {}", excerpt(status, bytes))),
    }
}

/// Rows an export's reply says were refused, and why; an error if it is no such reply.
fn rejected_rows(signal: Signal, message: &[u8]) -> Result<(u64, String), prost::DecodeError> {
    let (rows, why) = match signal {
        Signal::Logs => ExportLogsServiceResponse::decode(message)?
            .partial_success
            .map_or((0, String::new()), |partial| (partial.rejected_log_records, partial.error_message)),
        Signal::Traces => ExportTraceServiceResponse::decode(message)?
            .partial_success
            .map_or((0, String::new()), |partial| (partial.rejected_spans, partial.error_message)),
        Signal::Metrics => ExportMetricsServiceResponse::decode(message)?
            .partial_success
            .map_or((0, String::new()), |partial| (partial.rejected_data_points, partial.error_message)),
    };
    Ok((u64::try_from(rows).unwrap_or(u64::MAX), why))
}

fn read_export(signal: Signal, message: &[u8], rows: u64) -> Reply {
    match rejected_rows(signal, message) {
        Ok((0, _)) => Reply::Counts { received: rows, stored: rows, deduplicated: 0, rejected: 0 },
        Ok((rejected, why)) if rejected > rows => {
            Reply::Refused(format!("{rejected} of {rows} rows were rejected: {why}"))
        }
        Ok((rejected, _)) => Reply::Counts { received: rows, stored: rows - rejected, deduplicated: 0, rejected },
        Err(error) => Reply::Refused(format!("the reply cannot be read: {error}")),
    }
}

fn read_otlp_http(status: StatusCode, headers: &HeaderMap, bytes: &[u8], signal: Signal, rows: u64) -> Reply {
    if status != StatusCode::OK {
        return no_success(status, headers, bytes);
    }
    read_export(signal, bytes, rows)
}

fn read_grpc(
    status: StatusCode,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
    bytes: &[u8],
    signal: Signal,
    rows: u64,
) -> Reply {
    if status != StatusCode::OK {
        return no_success(status, headers, bytes);
    }
    // A reply without a message has its trailers in the header.
    let ending = trailers.filter(|trailers| trailers.contains_key("grpc-status")).unwrap_or(headers);
    let text = |name: &str| ending.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Ok(code) = text("grpc-status").parse::<u8>() else {
        return Reply::Refused("the reply has no grpc-status".to_owned());
    };
    if code != grpc::OK {
        let why = format!("answered gRPC status {code}: {}", text("grpc-message"));
        // Those the OTLP specification lists as retryable.
        const ABORTED: u8 = 10;
        const OUT_OF_RANGE: u8 = 11;
        return match code {
            grpc::CANCELLED
            | grpc::DEADLINE_EXCEEDED
            | grpc::RESOURCE_EXHAUSTED
            | ABORTED
            | OUT_OF_RANGE
            | grpc::UNAVAILABLE => Reply::Later { why, after: retry_after(ending) },
            _ => Reply::Refused(why),
        };
    }
    match bytes.split_at_checked(5) {
        Some(([0, length @ ..], message))
            if length.iter().fold(0, |total, byte| (total << 8) | usize::from(*byte)) == message.len() =>
        {
            read_export(signal, message, rows)
        }
        _ => Reply::Refused("the reply is not one uncompressed message".to_owned()),
    }
}
