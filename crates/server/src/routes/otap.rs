//! OTAP, the Arrow form of OpenTelemetry: streams over gRPC, and single batches over HTTP.
//!
//! A stream is answered with a `BatchStatus` for every batch, once its rows are durable. A batch
//! that is refused leaves the stream open as long as the decoder has read it, because the sender
//! goes on where it thinks the decoder is; otherwise the stream ends with the same status, and the
//! sender begins anew with its schemas.
//!
//! A key is checked with every batch, and while a stream is quiet.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use http::StatusCode;
use http::request::Parts;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use weir_base::ErrorKind;
use weir_base::error::grpc as code;
use weir_codecs::otap::{self, Stream, response};
use weir_codecs::otlp::{Encoding, Signal};

use super::otlp::{encoded, encoding, refusal, refused_rows};
use super::receive::{Sender, Source, body_limits, read, with_durability};
use crate::app::App;
use crate::auth::Caller;
use crate::grpc::{self, Messages, Replies, Status};
use crate::ingest::Outcome;
use crate::net::body::RequestBody;
use crate::problem::{Problem, Result};

/// How often a quiet stream looks whether its key still holds. Revocation must be effective within
/// a second.
const KEY_CHECK_INTERVAL: Duration = Duration::from_millis(900);
/// What is reserved for a batch, in times of its bytes: dictionaries and compressed buffers make
/// few bytes into many rows. The decoder itself never takes more than its limits.
const COLUMNS_PER_BODY: usize = 15;

/// OTAP over HTTP: path, summary and handler of each signal.
pub(crate) fn http_handlers() -> [(&'static str, &'static str, MethodRouter<Arc<App>>); 3] {
    [
        ("/v1/otap/logs", "Send logs by OTAP", post(|app, request| over_http(app, Signal::Logs, request))),
        ("/v1/otap/traces", "Send traces by OTAP", post(|app, request| over_http(app, Signal::Traces, request))),
        ("/v1/otap/metrics", "Send metrics by OTAP", post(|app, request| over_http(app, Signal::Metrics, request))),
    ]
}

/// OTAP over gRPC.
pub(crate) fn grpc_routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/opentelemetry.proto.experimental.arrow.v1.ArrowLogsService/ArrowLogs",
            post(|app, request| over_grpc(app, Signal::Logs, request)),
        )
        .route(
            "/opentelemetry.proto.experimental.arrow.v1.ArrowTracesService/ArrowTraces",
            post(|app, request| over_grpc(app, Signal::Traces, request)),
        )
        .route(
            "/opentelemetry.proto.experimental.arrow.v1.ArrowMetricsService/ArrowMetrics",
            post(|app, request| over_grpc(app, Signal::Metrics, request)),
        )
}

fn source(name: &'static str, signal: Signal) -> Source {
    Source { name, stream: signal.stream() }
}

async fn over_http(State(app): State<Arc<App>>, signal: Signal, request: Request) -> Response {
    match receive_http(&app, signal, request).await {
        Ok((batch_id, outcome)) => {
            let body = response::batch_status(batch_id, code::OK, &refused_rows(&outcome));
            with_durability(encoded(StatusCode::OK, Encoding::Protobuf, body), &outcome)
        }
        Err(problem) => refusal(Encoding::Protobuf, problem),
    }
}

async fn receive_http(app: &Arc<App>, signal: Signal, request: Request) -> Result<(i64, Outcome)> {
    let (parts, body) = request.into_parts();
    let sender = Sender::of(app, &parts, source("otap_http", signal))?;
    let caller = sender.caller(app, &parts.headers, None)?;
    if !matches!(encoding(&parts.headers), Ok(Encoding::Protobuf)) {
        return Err(Problem::new(ErrorKind::Input, "this route takes application/x-protobuf")
            .status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .code("unsupported_media_type")
            .pointer("Content-Type"));
    }
    let body = read(app, &caller, &parts.headers, body).await?;
    let batch_id = otap::batch_id(&body.bytes);
    let incoming = sender.with_body(app, caller, body)?.expanding(COLUMNS_PER_BODY);
    let outcome = incoming.decode_and_store(app, move |body, context| otap::decode(signal, body, context)).await?;
    Ok((batch_id, outcome))
}

async fn over_grpc(State(app): State<Arc<App>>, signal: Signal, request: Request) -> Response {
    grpc::stream(request, move |parts, body, replies| async move {
        Session::begin(app, signal, parts)?.run(body, replies).await
    })
}

/// One stream.
struct Session {
    app: Arc<App>,
    parts: Parts,
    sender: Sender,
    caller: Caller,
    stream: Arc<Mutex<Stream>>,
}

impl Session {
    fn begin(app: Arc<App>, signal: Signal, parts: Parts) -> std::result::Result<Self, Status> {
        let sender = Sender::of(&app, &parts, source("otap_grpc", signal))?;
        let caller = sender.caller(&app, &parts.headers, None)?;
        Ok(Self { app, parts, sender, caller, stream: Arc::new(Mutex::new(Stream::new(signal))) })
    }

    async fn run(mut self, body: Body, replies: Replies) -> std::result::Result<(), Status> {
        let limits = body_limits(&self.caller.tenant.limits);
        let mut messages = Messages::new(&self.app.bodies, &self.parts.headers, body, limits)?;
        let mut dictionaries = self.app.bodies.budget().empty();
        while let Some(message) = self.next(&mut messages).await? {
            let batch_id = otap::batch_id(&message.bytes);
            let before = self.stream.lock().batches();
            let received = self.receive(message).await;
            let (is_read, bytes) = {
                let stream = self.stream.lock();
                (stream.batches() > before, stream.bytes())
            };
            match received {
                Ok(outcome) => {
                    replies.send(&response::batch_status(batch_id, code::OK, &refused_rows(&outcome))).await?;
                }
                Err(problem) => {
                    let status = Status::from(problem.for_otlp());
                    let told = response::batch_status(batch_id, batch_code(status.code), &status.message);
                    replies.send(&told).await?;
                    if !is_read {
                        return Err(status);
                    }
                }
            }
            dictionaries.grow_to(bytes).await.map_err(Problem::from)?;
        }
        Ok(())
    }

    /// The next message; ends the stream when the key does not hold any more or the server stops.
    async fn next(&self, messages: &mut Messages) -> std::result::Result<Option<RequestBody>, Status> {
        // Kept while the key is looked at: what has come of a message must not be lost.
        let mut next = pin!(messages.next());
        let mut key_check = interval(KEY_CHECK_INTERVAL);
        key_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = &mut next => return message,
                _ = key_check.tick() => {
                    if !self.caller.still_holds(&self.app.meta) {
                        return Err(Status::new(code::UNAUTHENTICATED, "the key was revoked or has expired"));
                    }
                }
                () = self.app.shutdown.begun() => {
                    return Err(Status::new(code::UNAVAILABLE, "the server stops"));
                }
            }
        }
    }

    /// Decodes one batch and makes its rows durable.
    async fn receive(&mut self, message: RequestBody) -> Result<Outcome> {
        let sender = self.sender.of_message(&self.app);
        // Anew for each batch: the tenant's limits may have changed.
        self.caller = sender.caller(&self.app, &self.parts.headers, None)?;
        let incoming = sender.with_body(&self.app, self.caller.clone(), message)?.expanding(COLUMNS_PER_BODY);
        let stream = Arc::clone(&self.stream);
        incoming.decode_and_store(&self.app, move |body, context| stream.lock().decode(body, context)).await
    }
}

/// The code of a `BatchStatus`, which has fewer than gRPC.
fn batch_code(status: u8) -> u8 {
    match status {
        code::CANCELLED
        | code::INVALID_ARGUMENT
        | code::DEADLINE_EXCEEDED
        | code::PERMISSION_DENIED
        | code::RESOURCE_EXHAUSTED
        | code::UNAVAILABLE
        | code::UNAUTHENTICATED => status,
        _ => code::INTERNAL,
    }
}
