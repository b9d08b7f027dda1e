//! Whose request a log line belongs to, or whose pipeline ([`weir_engine::Whose`]).
//!
//! Every line written while a request is answered names it. A [`tracing`] span would do that too, but
//! costs each request some microseconds of copying and formatting for lines that are hardly ever
//! written; this scope costs nothing until one is. Spans are made besides where somebody exports them.

use std::cell::OnceCell;
use std::fmt;

use axum::extract::MatchedPath;
use http::Method;
use tokio::task::JoinHandle;
use tokio::task::futures::TaskLocalFuture;
use tracing::{Event, Instrument, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use weir_base::TenantId;

use super::{RequestId, TraceContext, cut};

/// The longest method and path that stand in log lines: what clients send has any length.
const METHOD_BYTES_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 256;

tokio::task_local! {
    static SCOPE: RequestScope;
}

/// What log lines say of the request they belong to.
#[derive(Clone, Debug)]
pub(super) struct RequestScope {
    id: RequestId,
    tenant: OnceCell<TenantId>,
    trace: Option<TraceContext>,
    method: Method,
    path: Path,
}

/// The route, where one matched: an address may hold a key (`/v1/projects/{write_key}/settings`).
#[derive(Clone, Debug)]
enum Path {
    Route(MatchedPath),
    Unknown(Box<str>),
}

impl RequestScope {
    /// The scope of a request.
    pub(super) fn of(request: &axum::extract::Request, id: &RequestId, trace: Option<TraceContext>) -> Self {
        let path = match request.extensions().get::<MatchedPath>() {
            Some(route) => Path::Route(route.clone()),
            None => Path::Unknown(cut(request.uri().path(), PATH_BYTES_MAX).into()),
        };
        Self { id: id.clone(), tenant: OnceCell::new(), trace, method: request.method().clone(), path }
    }

    /// Runs `work` in this scope.
    pub(super) fn around<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        SCOPE.scope(self, work)
    }

    /// As the method stands in log lines.
    pub(super) fn method(&self) -> &str {
        cut(self.method.as_str(), METHOD_BYTES_MAX)
    }

    /// As the path stands in log lines.
    pub(super) fn path(&self) -> &str {
        match &self.path {
            Path::Route(route) => route.as_str(),
            Path::Unknown(path) => path,
        }
    }

    fn each(&self, mut give: impl FnMut(&'static str, &str)) {
        give("request_id", self.id.as_str());
        if let Some(tenant) = self.tenant.get() {
            give("tenant", tenant.as_str());
        }
        if let Some(trace) = &self.trace {
            give("trace_id", &trace.to_string());
            give("parent_id", &trace.parent_text());
        }
        give("method", self.method());
        give("path", self.path());
    }
}

/// Names the tenant in every later log line of the current request.
pub fn record_tenant(tenant: &TenantId) {
    // Outside of a request there is nothing to name it in; the first tenant stays.
    let _ = SCOPE.try_with(|scope| scope.tenant.set(tenant.clone()));
    tracing::Span::current().record("tenant", tenant.as_str());
}

/// Runs `work` by itself, in the scope of the current request, to its end: also if the client goes away, and the request with it.
pub(crate) fn spawned<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let span = tracing::Span::current();
    match SCOPE.try_with(Clone::clone) {
        Ok(scope) => tokio::spawn(scope.around(work).instrument(span)),
        Err(_) => tokio::spawn(work.instrument(span)),
    }
}

/// Gives names and values of what the current request or pipeline adds to log lines; nothing outside of both.
pub fn request_fields(mut give: impl FnMut(&'static str, &str)) {
    weir_engine::pipeline_fields(&mut give);
    let _ = SCOPE.try_with(|scope| scope.each(give));
}

/// Log lines as `inner` formats them, with the current request's fields at their end.
#[derive(Debug)]
pub struct WithRequest<E> {
    inner: E,
    is_json: bool,
}

impl<E> WithRequest<E> {
    /// Around a format of lines of text, which has to know by itself whether it may use colours.
    pub fn text(inner: E) -> Self {
        Self { inner, is_json: false }
    }

    /// Around a format of lines that are JSON objects.
    pub fn json(inner: E) -> Self {
        Self { inner, is_json: true }
    }
}

impl<S, N, E> FormatEvent<S, N> for WithRequest<E>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    E: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        line.truncate(line.trim_end_matches('\n').len());
        if self.is_json {
            add_to_object(&mut line);
        } else {
            // What the line says itself stands, and its text may say anything.
            let own = event.metadata().fields();
            request_fields(|name, value| {
                if own.field(name).is_none() {
                    line.extend([" ", name, "=", &quoted(value)]);
                }
            });
        }
        writeln!(writer, "{line}")
    }
}

/// Adds the request's fields to an object that is not empty. A field of the line's own stays what it is.
fn add_to_object(line: &mut String) {
    if !line.ends_with('}') {
        return;
    }
    line.pop();
    let own = line.len();
    request_fields(|name, value| {
        let name = format!("\"{name}\":");
        if !line[..own].contains(&name) {
            line.extend([",", &name, &serde_json::Value::from(value).to_string()]);
        }
    });
    line.push('}');
}

/// A value in a line of text: paths may hold anything.
fn quoted(value: &str) -> String {
    let is_plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    if is_plain { value.to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests;
