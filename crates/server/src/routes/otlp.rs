//! OTLP, over HTTP and gRPC. The protocol decides the words here: which codes make a client try
//! again, how refused rows are told, and that errors come in the encoding of the request.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use weir_base::ErrorKind;
use weir_codecs::otlp::{self, Encoding, Signal, response};

use super::receive::{Incoming, Sender, Source, body_limits, with_durability};
use crate::app::App;
use crate::grpc::{self, Messages, Status};
use crate::ingest::Outcome;
use crate::problem::{Problem, Result};

/// OTLP over HTTP: path, summary and handler of each signal.
pub(crate) fn http_handlers() -> [(&'static str, &'static str, MethodRouter<Arc<App>>); 3] {
    [
        ("/v1/logs", "Send logs by OTLP", post(|app, request| over_http(app, Signal::Logs, request))),
        ("/v1/traces", "Send traces by OTLP", post(|app, request| over_http(app, Signal::Traces, request))),
        ("/v1/metrics", "Send metrics by OTLP", post(|app, request| over_http(app, Signal::Metrics, request))),
    ]
}

/// OTLP over gRPC, and the health service its clients may ask first.
pub(crate) fn grpc_routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            post(|app, request| over_grpc(app, Signal::Logs, request)),
        )
        .route(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            post(|app, request| over_grpc(app, Signal::Traces, request)),
        )
        .route(
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            post(|app, request| over_grpc(app, Signal::Metrics, request)),
        )
}

fn source(name: &'static str, signal: Signal) -> Source {
    Source { name, stream: signal.stream() }
}

async fn over_http(State(app): State<Arc<App>>, signal: Signal, request: Request) -> Response {
    let encoding = match encoding(request.headers()) {
        Ok(encoding) => encoding,
        Err(problem) => return refusal(Encoding::Json, problem),
    };
    match receive_http(&app, signal, encoding, request).await {
        Ok(outcome) => {
            let body = export_reply(signal, encoding, &outcome);
            with_durability(encoded(StatusCode::OK, encoding, body), &outcome)
        }
        Err(problem) => refusal(encoding, problem),
    }
}

async fn receive_http(app: &Arc<App>, signal: Signal, encoding: Encoding, request: Request) -> Result<Outcome> {
    let incoming = Incoming::receive(app, request, source("otlp_http", signal), None).await?;
    incoming.decode_and_store(app, move |body, context| otlp::decode(signal, encoding, body, context)).await
}

async fn over_grpc(State(app): State<Arc<App>>, signal: Signal, request: Request) -> Response {
    grpc::unary(request, |parts, body: Body| async move {
        let sender = Sender::of(&app, &parts, source("otlp_grpc", signal))?;
        let caller = sender.caller(&app, &parts.headers, None)?;
        let limits = body_limits(&caller.tenant.limits);
        let message = Messages::new(&app.bodies, &parts.headers, body, limits)?.only().await?;
        let incoming = sender.with_body(&app, caller, message)?;
        let outcome = incoming
            .decode_and_store(&app, move |body, context| otlp::decode(signal, Encoding::Protobuf, body, context))
            .await?;
        Ok::<_, Status>(Bytes::from(export_reply(signal, Encoding::Protobuf, &outcome)))
    })
    .await
}

/// The reply to a request that was taken, with `partial_success` if rows were refused.
fn export_reply(signal: Signal, encoding: Encoding, outcome: &Outcome) -> Vec<u8> {
    response::export(signal, encoding, outcome.rejects.len() as u64, &refused_rows(outcome))
}

/// What is told of refused rows; empty if there are none.
pub(super) fn refused_rows(outcome: &Outcome) -> String {
    let rejected = outcome.rejects.len();
    outcome.rejects.first().map_or_else(String::new, |first| {
        let place = if first.field.is_empty() { String::new() } else { format!(" at {}", first.field) };
        format!(
            "{rejected} of {} rows were refused and are in the table _rejected; the first is row {}: {}{place}",
            outcome.received, first.index, first.message
        )
    })
}

pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding> {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    match essence.as_slice() {
        b"application/x-protobuf" | b"application/protobuf" => Ok(Encoding::Protobuf),
        b"application/json" => Ok(Encoding::Json),
        _ => Err(Problem::new(ErrorKind::Input, "this route takes application/x-protobuf and application/json")
            .status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .code("unsupported_media_type")
            .pointer("Content-Type")),
    }
}

pub(super) fn encoded(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let media_type = match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A failed request: a `google.rpc.Status` in the encoding of the request.
pub(super) fn refusal(encoding: Encoding, problem: Problem) -> Response {
    let problem = problem.for_otlp();
    let status = problem.http_status();
    let retry = problem.retry_delay();
    let body = response::status(encoding, problem.kind().grpc_status(), &problem.message(), retry);
    let shown = problem.reply(None);
    let mut response = encoded(status, encoding, body);
    if let Some(retry_after) = shown.headers().get(RETRY_AFTER) {
        response.headers_mut().insert(RETRY_AFTER, retry_after.clone());
    }
    // The middleware logs and counts by this.
    *response.extensions_mut() = shown.extensions().clone();
    response
}
