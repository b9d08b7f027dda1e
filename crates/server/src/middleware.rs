//! What surrounds every handler: a request id, a span for the log, an end that never is a hanging
//! connection, and headers every reply has.
//!
//! From the outside in: request id, trace context, span; CORS; the catching of panics; the handler.
//! Then back: problems get the request id and are logged once, problems of gRPC calls become trailers,
//! the end of the request is reported to whoever counts, long replies are compressed.

mod scope;
mod trace;

use std::convert::Infallible;
use std::future::ready;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;
use tracing::{Instrument, Span, field};
use weir_api::problem::MEDIA_TYPE;
use weir_base::error::LogLevel;
use weir_base::{Clock, random};

use crate::problem::Problem;
use crate::work::panic_message;
use crate::{cors, grpc};

use scope::RequestScope;
pub(crate) use scope::spawned;
pub use scope::{WithRequest, record_tenant, request_fields};
pub use trace::TraceContext;

/// The header with the id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the client's own if it sent one, else made here. An extension of every
/// request, a header of every reply, a field of every log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

/// Longer ids are replaced by one of ours.
const REQUEST_ID_BYTES_MAX: usize = 128;

impl RequestId {
    /// The client's id, if it is one that can stand in logs, else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|text| is_sane(text));
        Self(given.map_or_else(
            || {
                let mut buffer = [0; uuid::fmt::Simple::LENGTH];
                Arc::from(&*uuid::Uuid::from_u128(random::unique()).simple().encode_lower(&mut buffer))
            },
            Into::into,
        ))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_sane(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'='))
}

/// A request that has been answered; its body may still be on its way.
#[derive(Clone, Debug)]
pub struct RequestEnd<'a> {
    /// The route as declared, so that there are few of them: `/api/v1/tenants/{id}`. Empty where
    /// none matched.
    pub route: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The status of the reply. gRPC calls have one of 200 whatever came of them.
    pub status: StatusCode,
    /// From the headers of the request to those of the reply.
    pub elapsed: Duration,
    /// Why it failed, if it did.
    pub problem: Option<&'a Problem>,
    /// Whether the handler panicked.
    pub panicked: bool,
}

/// Told of the end of every request. Must be quick.
pub trait Observer: Send + Sync {
    /// A request has been answered.
    fn request_ended(&self, end: &RequestEnd<'_>);
}

/// What the surroundings need.
#[derive(Clone)]
pub struct Surroundings {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
}

/// Surrounds all of a listener's routes.
pub fn around(routes: Router, surroundings: Surroundings) -> Router {
    routes.layer(Surround(Arc::new(surroundings)))
}

/// The layer of [`surround`]. Written out: axum's `from_fn` costs a request four allocations more.
#[derive(Clone)]
struct Surround(Arc<Surroundings>);

impl<S> Layer<S> for Surround {
    type Service = Surrounded<S>;

    fn layer(&self, inner: S) -> Surrounded<S> {
        Surrounded { inner, surroundings: Arc::clone(&self.0) }
    }
}

/// A service with its surroundings.
#[derive(Clone)]
struct Surrounded<S> {
    inner: S,
    surroundings: Arc<Surroundings>,
}

impl<S> Service<Request> for Surrounded<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that is ready goes along, its copy stays.
        let copy = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, copy);
        Box::pin(surround(Arc::clone(&self.surroundings), request, inner))
    }
}

async fn surround<S>(surroundings: Arc<Surroundings>, mut request: Request, inner: S) -> Result<Response, Infallible>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let begun = surroundings.clock.monotonic();
    let id = RequestId::of(request.headers());
    let trace = TraceContext::of(request.headers());
    let scope = RequestScope::of(&request, &id, trace);
    let span = span(&scope, &id, trace);
    if let Some(trace) = trace {
        request.extensions_mut().insert(trace);
    }
    request.extensions_mut().insert(id.clone());
    let asked = Asked::of(&request);
    let answer = async {
        let (response, panicked) = answer(request, inner).await?;
        let response = finish(response, &id, &asked, panicked, &surroundings, begun);
        if Compressible.should_compress(&response) { compress(response, asked.encodings).await } else { Ok(response) }
    };
    scope.around(answer.instrument(span)).await
}

/// The request as a span, for those who export Weir's traces; without them it is disabled and free.
fn span(scope: &RequestScope, id: &RequestId, trace: Option<TraceContext>) -> Span {
    let span = tracing::info_span!(
        "request",
        request_id = id.as_str(),
        tenant = field::Empty,
        trace_id = field::Empty,
        parent_id = field::Empty,
        method = scope.method(),
        path = scope.path(),
    );
    if let Some(trace) = trace
        && !span.is_disabled()
    {
        span.record("trace_id", field::display(&trace));
        span.record("parent_id", trace.parent_text());
    }
    span
}

/// The beginning of a text, for the log: what clients send has any length.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// What is remembered of a request for its end.
struct Asked {
    method: Method,
    /// Only of requests from other sites' pages, as nobody else asks for it.
    path: Box<str>,
    route: Option<MatchedPath>,
    origin: Option<HeaderValue>,
    /// Its `Accept-Encoding`.
    encodings: Vec<HeaderValue>,
    is_grpc: bool,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let origin = request.headers().get(ORIGIN).cloned();
        Self {
            method: request.method().clone(),
            path: origin.as_ref().map_or_else(Box::default, |_| request.uri().path().into()),
            route: request.extensions().get().cloned(),
            origin,
            encodings: request.headers().get_all(ACCEPT_ENCODING).iter().cloned().collect(),
            is_grpc: request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers()),
        }
    }
}

async fn answer<S>(request: Request, mut inner: S) -> Result<(Response, bool), Infallible>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    if let Some(preflight) = cors::preflight(&request) {
        return Ok((preflight, false));
    }
    let handled = async move { inner.call(request).await };
    match AssertUnwindSafe(handled).catch_unwind().await {
        Ok(response) => Ok((response?, false)),
        Err(panic) => {
            let cause = format!("the handler panicked: {}", panic_message(&*panic));
            Ok((Problem::internal(cause).reply(None), true))
        }
    }
}

fn finish(
    mut response: Response,
    id: &RequestId,
    asked: &Asked,
    panicked: bool,
    surroundings: &Surroundings,
    begun: Duration,
) -> Response {
    let problem = response.extensions_mut().remove::<Arc<Problem>>();
    if let Some(problem) = &problem {
        log(problem, response.status());
        if asked.is_grpc {
            response = grpc::Status::from(&**problem).reply();
        } else if response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE) {
            response = with_request_id(response, problem, id);
        }
        // Else the handler's protocol has words of its own for errors.
        response.extensions_mut().remove::<Arc<Problem>>();
    }
    let elapsed = surroundings.clock.monotonic().saturating_sub(begun);
    surroundings.observer.request_ended(&RequestEnd {
        route: asked.route.as_ref().map_or("", MatchedPath::as_str),
        method: &asked.method,
        status: response.status(),
        elapsed,
        problem: problem.as_deref(),
        panicked,
    });
    tracing::debug!(status = response.status().as_u16(), elapsed_us = elapsed.as_micros() as u64, "answered");
    let is_refused = problem.as_ref().is_some_and(|problem| problem.code_text() == cors::ORIGIN_NOT_ALLOWED);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    cors::expose(asked.origin.as_ref(), &asked.path, is_refused, headers);
    if !asked.is_grpc {
        secure(headers);
    }
    response
}

/// The same reply with the request id in its body. Headers that others have added, such as `Allow`,
/// stay.
fn with_request_id(response: Response, problem: &Problem, id: &RequestId) -> Response {
    let mut reply = problem.reply(Some(id.as_str()));
    *reply.status_mut() = response.status();
    for (name, value) in response.headers() {
        if name != CONTENT_LENGTH && name != CONTENT_TYPE && !reply.headers().contains_key(name) {
            reply.headers_mut().append(name, value.clone());
        }
    }
    reply
}

fn log(problem: &Problem, status: StatusCode) {
    let (code, status, detail) = (problem.code_text(), status.as_u16(), problem.message());
    let cause = problem.cause_text().unwrap_or_default();
    match problem.kind().log_level() {
        LogLevel::Debug => tracing::debug!(code, status, detail, cause, "request failed"),
        LogLevel::Info => tracing::info!(code, status, detail, cause, "request failed"),
        LogLevel::Warn => tracing::warn!(code, status, detail, cause, "request failed"),
        LogLevel::Error => tracing::error!(code, status, detail, cause, "request failed"),
    }
}

/// Replies are data: a browser must not take them for anything else, show them inside other pages,
/// or keep them. Routes that serve pages set their own.
fn secure(headers: &mut HeaderMap) {
    const DEFAULTS: [(HeaderName, HeaderValue); 4] = [
        (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
        (
            HeaderName::from_static("content-security-policy"),
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        ),
        (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(value);
    }
}

/// The response as the client can read it shorter. As a layer around every route, which tower-http has
/// it for, it would wrap the bodies of all replies, and nearly all are too short to gain by it.
async fn compress(response: Response, encodings: Vec<HeaderValue>) -> Result<Response, Infallible> {
    let mut request = http::Request::new(());
    for encoding in encodings {
        request.headers_mut().append(ACCEPT_ENCODING, encoding);
    }
    let mut response = Some(response);
    let answer = service_fn(move |_| ready(Ok::<_, Infallible>(response.take().unwrap_or_default())));
    let layer = CompressionLayer::new().gzip(true).zstd(true).compress_when(Compressible);
    Ok(layer.layer(answer).oneshot(request).await?.map(Body::new))
}

/// Text of some length. Not what is compressed already (Parquet), not streams whose reader waits
/// for every line (server-sent events), not gRPC.
#[derive(Clone, Copy, Debug)]
struct Compressible;

/// Below this, compression saves no packet.
const COMPRESS_BYTES_MIN: u64 = 1024;

impl Predicate for Compressible {
    fn should_compress<B: http_body::Body>(&self, response: &http::Response<B>) -> bool {
        is_compressible(response.headers())
            && response.body().size_hint().exact().is_none_or(|bytes| bytes >= COMPRESS_BYTES_MIN)
    }
}

fn is_compressible(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    match essence {
        "text/event-stream" => false,
        "application/json"
        | "application/problem+json"
        | "application/x-ndjson"
        | "application/javascript"
        | "image/svg+xml"
        | "application/vnd.apache.arrow.stream" => true,
        _ => essence.starts_with("text/"),
    }
}

#[cfg(test)]
mod tests;
