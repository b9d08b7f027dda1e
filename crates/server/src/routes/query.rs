//! `POST /api/v1/query`: SQL over the caller's own tables, streamed in the format `Accept` asks
//! for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, TRAILER};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Frame;
use weir_api::query as api;
use weir_base::{ErrorKind, Kinded, TenantId};
use weir_meta::limits::Limits;
use weir_sql::output::{Format, encode};
use weir_sql::{QueryLimits, QueryRequest, QueryResult, QueryStats, SqlError};

use super::JsonBody;
use crate::app::App;
use crate::auth::Caller;
use crate::problem::{Problem, Result};

/// The most bytes of rows in one answer, counted in memory.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// The trailer of an answer that was cut at the most rows the tenant may have; formats without statistics of their own
/// have no other place for it.
const TRUNCATED: &str = "x-weir-truncated";

/// The trailer of a JSON answer that an error has ended: the object is whole, with `error` in it, and programs that pass
/// it on should not have to read all of it to know.
const FAILED: &str = "x-weir-error";

/// The header with the most rows an answer has.
const ROWS_MAX: HeaderName = HeaderName::from_static("x-weir-rows-max");

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
    let rows_max = limits.rows;
    let request = QueryRequest { sql: request.sql, params: request.params, limits };
    let begin = |result: QueryResult| {
        let stats: Box<dyn Fn() -> QueryStats + Send + Sync> = Box::new(result.stats_handle());
        encode(result, format).map(|bytes| (Box::pin(bytes), stats))
    };
    match app.engine.query(&tenant, request).await.and_then(begin) {
        Ok((bytes, stats)) => {
            let answer = Answer { bytes, app, tenant, begun, stats, outcome: None, is_over: false };
            let mut response = Response::new(Body::new(answer));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            headers.insert(TRAILER, HeaderValue::from_static("x-weir-truncated, x-weir-error"));
            if rows_max != ROWS_UNLIMITED {
                headers.insert(ROWS_MAX, HeaderValue::from(rows_max));
            }
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
    /// Its last byte is out. Who compresses it asks again after its end.
    is_over: bool,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = SqlError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, SqlError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        match ready!(self.bytes.as_mut().poll_next(context)) {
            Some(Ok(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(error)) => {
                self.is_over = true;
                let code = error.kind().code();
                self.outcome = Some(code);
                tracing::info!(tenant = %self.tenant, code, %error, "an answer breaks off");
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.is_over = true;
                let stats = (self.stats)();
                self.outcome = Some(stats.failed.unwrap_or("ok"));
                let cut = stats.truncated.then_some((TRUNCATED, "true"));
                let failed = stats.failed.map(|code| (FAILED, code));
                let trailer = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
                let trailers: HeaderMap = cut.into_iter().chain(failed).map(trailer).collect();
                Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
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
    let mut problem = Problem::new(error.kind(), error.to_string());
    if let Some((name, value)) = error.limit() {
        problem = problem.limit(name, value, None);
    }
    match error.position() {
        Some(position) => problem.pointer(format!("line {} column {}", position.line, position.column)),
        None => problem,
    }
}

fn format(headers: &HeaderMap) -> Result<Format> {
    let mut wanted = String::new();
    // Of those liked alike the first one counts (RFC 9110, section 12.5.1).
    let mut best: Option<(f32, Format)> = None;
    for value in headers.get_all(ACCEPT) {
        for media_type in value.to_str().unwrap_or_default().split(',') {
            let mut parts = media_type.split(';');
            let essence = parts.next().unwrap_or_default();
            let (mut weight, mut all_numbers) = (1.0_f32, false);
            for part in parts {
                match part.trim().split_once('=') {
                    Some(("q", value)) => weight = value.parse().unwrap_or(weight),
                    Some(("numbers", "all")) => all_numbers = true,
                    _ => {}
                }
            }
            let format = Format::of_media_type(essence);
            match if all_numbers && format == Some(Format::Json) { Some(Format::JsonAllNumbers) } else { format } {
                Some(format) if weight > best.map_or(0.0, |(best, _)| best) => best = Some((weight, format)),
                Some(_) => {}
                None => wanted = essence.trim().chars().take(80).collect(),
            }
        }
    }
    if let Some((_, format)) = best {
        return Ok(format);
    }
    if wanted.is_empty() && headers.get(ACCEPT).is_none_or(|value| value.is_empty()) {
        return Ok(Format::Json);
    }
    Err(Problem::new(ErrorKind::Input, format!("answers are not written as {wanted}"))
        .status(StatusCode::NOT_ACCEPTABLE)
        .code("not_acceptable")
        .pointer("Accept")
        .hint("application/json, application/x-ndjson, text/csv, application/vnd.apache.arrow.stream or application/vnd.apache.parquet"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_limit_that_was_met_is_named() {
        let body = |error: &SqlError| serde_json::to_value(problem(error).body(None)).unwrap();
        let memory = "query_memory_bytes_max";
        for (error, status, name, value) in [
            (SqlError::Busy { limit: 4 }, 429, "queries_concurrent_max", 4),
            (SqlError::MemoryHeld { bytes: 1 << 20 }, 429, memory, 1 << 20),
            (SqlError::Memory { bytes: 1 << 20 }, 413, memory, 1 << 20),
            (SqlError::ConstantsTooLarge { bytes: 7 }, 413, memory, 7),
            (SqlError::ResultTooLarge { function: "repeat".to_owned(), bytes: 7 }, 413, memory, 7),
        ] {
            let body = body(&error);
            assert_eq!(body["status"], status);
            // Who tries again with the same query where it never has room would do so for ever.
            assert_eq!(problem(&error).retry_delay().is_some(), status == 429, "{error}");
            assert_eq!((&body["limit"]["name"], &body["limit"]["value"]), (&name.into(), &value.into()), "{error}");
        }
        assert!(body(&SqlError::Cancelled).get("limit").is_none_or(serde_json::Value::is_null));
    }

    #[test]
    fn the_format_liked_best_is_given() {
        let of = |accept: &[&str]| {
            let values = accept.iter().map(|value| (ACCEPT, HeaderValue::from_str(value).unwrap()));
            format(&values.collect()).map_err(|problem| problem.reply(None).status().as_u16())
        };
        for (accept, expected) in [
            (&[][..], Ok(Format::Json)),
            (&["text/csv"], Ok(Format::Csv)),
            (&["text/csv;q=0.5, application/x-ndjson"], Ok(Format::NdJson)),
            (&["application/json;q=0, text/csv; q=0.1"], Ok(Format::Csv)),
            (&["text/html", "application/vnd.apache.parquet"], Ok(Format::Parquet)),
            (&["text/html, */*;q=0.1"], Ok(Format::Json)),
            (&["text/csv, application/json"], Ok(Format::Csv)),
            (&["application/json; numbers=all"], Ok(Format::JsonAllNumbers)),
            (&["application/json;numbers=all;q=0.1, text/csv;numbers=all"], Ok(Format::Csv)),
            (&["text/html"], Err(406)),
            (&["application/json;q=0"], Err(406)),
        ] {
            assert_eq!(of(accept), expected, "{accept:?}");
        }
    }
}
