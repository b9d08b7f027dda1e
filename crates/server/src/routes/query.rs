//! `POST /api/v1/query`: SQL over the caller's own tables, streamed in the format `Accept` asks
//! for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use weir_api::query as api;
use weir_base::{ErrorKind, Kinded, TenantId};
use weir_meta::limits::Limits;
use weir_sql::output::{Format, encode};
use weir_sql::{QueryLimits, QueryRequest, QueryStats, SqlError};

use super::JsonBody;
use crate::app::App;
use crate::auth::Caller;
use crate::problem::{Problem, Result};

/// The most bytes of rows in one answer, counted in memory.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Rows of an answer where the tenant has no limit: more than there will ever be.
const ROWS_UNLIMITED: usize = 1 << 48;

/// `POST /api/v1/query`.
pub(crate) async fn query(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(request): JsonBody<api::QueryRequest>,
) -> Result<Response> {
    caller.require_query()?;
    let format = format(&headers)?;
    let begun = app.clock.monotonic();
    let tenant = caller.tenant.id.clone();
    let limits = query_limits(&caller.tenant.limits, app.config.queries.time_max.0);
    let request = QueryRequest { sql: request.sql, params: request.params, limits };
    match app.engine.query(&tenant, request).await {
        Ok(result) => {
            let stats = Box::new(result.stats_handle());
            let answer = Answer { bytes: Box::pin(encode(result, format)), app, tenant, begun, stats, outcome: None };
            let mut response = Response::new(Body::from_stream(answer));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            Ok(response)
        }
        Err(error) => {
            let took = app.clock.monotonic().saturating_sub(begun);
            app.telemetry.queried(&tenant, error.kind().code(), took, 0);
            Err(problem(&error))
        }
    }
}

/// An answer on its way out, counted when it ends, however it ends.
struct Answer {
    bytes: Pin<Box<dyn Stream<Item = std::result::Result<Bytes, SqlError>> + Send>>,
    app: Arc<App>,
    tenant: TenantId,
    begun: Duration,
    stats: Box<dyn Fn() -> QueryStats + Send + Sync>,
    outcome: Option<&'static str>,
}

impl Stream for Answer {
    type Item = std::result::Result<Bytes, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.bytes.as_mut().poll_next(context);
        match &polled {
            Poll::Ready(None) => self.outcome = self.outcome.or(Some("ok")),
            Poll::Ready(Some(Err(error))) => self.outcome = Some(error.kind().code()),
            _ => {}
        }
        polled
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let took = self.app.clock.monotonic().saturating_sub(self.begun);
        let outcome = self.outcome.unwrap_or(ErrorKind::Cancelled.code());
        self.app.telemetry.queried(&self.tenant, outcome, took, (self.stats)().rows);
    }
}

/// What one query of a tenant may use.
pub(crate) fn query_limits(limits: &Limits, time_max: Duration) -> QueryLimits {
    let bounded = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    QueryLimits {
        memory_bytes: limits.query_memory_bytes_max.as_usize(),
        time: limits.query_time_max.0.min(time_max),
        rows: if limits.query_rows_max == 0 { ROWS_UNLIMITED } else { bounded(limits.query_rows_max) },
        bytes: ANSWER_BYTES_MAX,
        concurrent: bounded(limits.queries_concurrent_max),
    }
}

/// The problem of a query, with the place in its text.
pub(crate) fn problem(error: &SqlError) -> Problem {
    let problem = Problem::new(error.kind(), error.to_string());
    match error.position() {
        Some(position) => problem.pointer(format!("line {} column {}", position.line, position.column)),
        None => problem,
    }
}

fn format(headers: &HeaderMap) -> Result<Format> {
    let mut wanted = String::new();
    for value in headers.get_all(ACCEPT) {
        for media_type in value.to_str().unwrap_or_default().split(',') {
            let essence = media_type.split(';').next().unwrap_or_default();
            if let Some(format) = Format::of_media_type(essence) {
                return Ok(format);
            }
            wanted = essence.trim().chars().take(80).collect();
        }
    }
    if wanted.is_empty() {
        return Ok(Format::Json);
    }
    Err(Problem::new(ErrorKind::Input, format!("answers are not written as {wanted}"))
        .status(StatusCode::NOT_ACCEPTABLE)
        .code("not_acceptable")
        .pointer("Accept")
        .hint("application/json, application/x-ndjson, text/csv, application/vnd.apache.arrow.stream or application/vnd.apache.parquet"))
}
