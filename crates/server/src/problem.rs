//! Errors as replies: any error with a kind becomes `application/problem+json`, one shape for every
//! route, also for unknown routes, wrong methods and panics.
//!
//! A [`Problem`] travels as an ordinary reply with itself as an extension. The outermost middleware
//! takes it from there, adds the request id that only it knows, and logs it once, at the level of
//! its kind. gRPC answers are made from the same value, see [`crate::grpc::Status`].

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::de::DeserializeOwned;
use weir_api::problem::{LimitPassed, MEDIA_TYPE, Problem as ProblemBody, ProblemPlace};
use weir_base::error::chain;
use weir_base::{Diagnostic, ErrorKind, Kinded};
use weir_codecs::DecodeError;
use weir_meta::MetaError;

use crate::admission::AdmissionError;
use crate::auth::AuthError;
use crate::ingest::IngestError;
use crate::net::body::BodyError;

/// The result of a handler.
pub type Result<T> = std::result::Result<T, Problem>;

/// A failed request, on its way to becoming a reply.
#[derive(Clone, Debug)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    code: Cow<'static, str>,
    status: StatusCode,
    detail: String,
    pointer: Option<String>,
    hint: Option<String>,
    limit: Option<LimitPassed>,
    errors: Vec<ProblemPlace>,
    retry_after: Option<Duration>,
    close: bool,
    cause: Option<String>,
}

/// What a client is told to wait where nothing better is known.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// What a client is told to wait while the disk is full.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(10);

impl Problem {
    /// A problem of `kind`, with the code and status of that kind.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let retry_after = match kind {
            ErrorKind::Limit | ErrorKind::Transient => Some(RETRY_AFTER_DEFAULT),
            ErrorKind::Full => Some(RETRY_AFTER_FULL),
            _ => None,
        };
        Self(Box::new(Inner {
            kind,
            code: Cow::Borrowed(kind.code()),
            status: StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            detail: detail.into(),
            pointer: None,
            hint: None,
            limit: None,
            errors: Vec::new(),
            retry_after,
            close: false,
            cause: None,
        }))
    }

    /// A bug. The client learns nothing but the request id; `cause` goes to the log.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, INTERNAL_DETAIL).cause(cause)
    }

    /// Many problems in one document, all reported at once.
    pub fn diagnostics(kind: ErrorKind, detail: impl Into<String>, diagnostics: &[Diagnostic]) -> Self {
        let mut problem = Self::new(kind, detail);
        problem.0.errors = diagnostics
            .iter()
            .map(|diagnostic| ProblemPlace {
                pointer: diagnostic.place.clone(),
                detail: diagnostic.message.clone(),
                hint: (!diagnostic.hint.is_empty()).then(|| diagnostic.hint.clone()),
            })
            .collect();
        problem
    }

    /// With a code of its own instead of the kind's.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.0.code = Cow::Borrowed(code);
        self
    }

    /// With a status of its own instead of the kind's, where HTTP has a better word.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// With the place of the problem: a JSON pointer, a header, `byte N`.
    #[must_use]
    pub fn pointer(mut self, pointer: impl Into<String>) -> Self {
        self.0.pointer = Some(pointer.into());
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// With the limit that was passed.
    #[must_use]
    pub fn limit(mut self, name: impl Into<Cow<'static, str>>, value: u64, current: Option<u64>) -> Self {
        self.0.limit = Some(LimitPassed { name: name.into(), value, current });
        self
    }

    /// With the time after which the request may succeed.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// With the connection closed after the reply, because the rest of the request is not read.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// With a cause for the log; clients never see it.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Waiting does not help.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.0.retry_after = None;
        self
    }

    /// As OTLP over HTTP has it: its clients repeat a request only after 429, 502, 503 or 504, and
    /// drop the data otherwise. So a full disk and a request that arrived too slowly become 503.
    #[must_use]
    pub fn for_otlp(mut self) -> Self {
        if self.0.kind == ErrorKind::Full || self.0.status == StatusCode::REQUEST_TIMEOUT {
            self.0.status = StatusCode::SERVICE_UNAVAILABLE;
            self.0.retry_after.get_or_insert(RETRY_AFTER_DEFAULT);
        }
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable code.
    pub fn code_text(&self) -> &str {
        &self.0.code
    }

    /// The HTTP status.
    pub fn http_status(&self) -> StatusCode {
        self.0.status
    }

    /// What was wrong, with the hint behind it, as one line.
    pub fn message(&self) -> String {
        match &self.0.hint {
            Some(hint) => format!("{}; {hint}", self.0.detail),
            None => self.0.detail.clone(),
        }
    }

    /// When the request may succeed.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The limit that was passed.
    pub fn limit_passed(&self) -> Option<&LimitPassed> {
        self.0.limit.as_ref()
    }

    /// What the log is told beyond the reply.
    pub fn cause_text(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The JSON of the reply.
    pub fn body(&self, request_id: Option<&str>) -> ProblemBody {
        let inner = &self.0;
        ProblemBody {
            r#type: format!("urn:weir:problem:{}", inner.code),
            title: inner.status.canonical_reason().unwrap_or("Client Closed Request").to_owned(),
            status: inner.status.as_u16(),
            code: inner.code.clone(),
            detail: inner.detail.clone(),
            pointer: inner.pointer.clone(),
            hint: inner.hint.clone(),
            limit: inner.limit.clone(),
            errors: inner.errors.clone(),
            retry_after: inner.retry_after.map(whole_seconds),
            request_id: request_id.map(str::to_owned),
        }
    }

    /// The reply.
    pub fn reply(&self, request_id: Option<&str>) -> Response {
        let body = serde_json::to_vec(&self.body(request_id)).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(retry_after) = self.0.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(retry_after)));
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            // Not `Basic`: browsers would open their own dialogue over somebody's web site.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"weir\""));
        }
        if self.0.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(Arc::new(self.clone()));
        response
    }
}

const INTERNAL_DETAIL: &str = "something failed inside weir; its log has the details under this request id";

/// Rounded up: a client that comes back too early is only refused again.
fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.reply(None)
    }
}

impl<E: Kinded + 'static> From<E> for Problem {
    fn from(error: E) -> Self {
        from_error(error.kind(), &error)
    }
}

fn from_error(kind: ErrorKind, error: &(dyn Error + 'static)) -> Problem {
    if let Some(decode) = error.downcast_ref::<DecodeError>() {
        return from_decode_error(decode);
    }
    let problem = plain(kind, error);
    if let Some(body) = error.downcast_ref::<BodyError>() {
        return body.describe(problem);
    }
    if let Some(auth) = error.downcast_ref::<AuthError>() {
        return auth.describe(problem);
    }
    if let Some(admission) = error.downcast_ref::<AdmissionError>() {
        return admission.describe(problem);
    }
    if let Some(ingest) = error.downcast_ref::<IngestError>() {
        return ingest.describe(problem);
    }
    if let Some(MetaError::Limit { name, value, current }) = error.downcast_ref::<MetaError>() {
        // Of things that are there until somebody removes one.
        return problem
            .limit(*name, *value, Some(*current))
            .hint("remove what is not needed, or raise the tenant's limit")
            .lasting();
    }
    problem
}

fn plain(kind: ErrorKind, error: &(dyn Error + 'static)) -> Problem {
    match kind {
        ErrorKind::Internal => Problem::internal(chain(error)),
        // What the user wrote is wrong: every cause helps to find it.
        ErrorKind::Config | ErrorKind::Input | ErrorKind::Rejected | ErrorKind::TooLarge => {
            Problem::new(kind, chain(error))
        }
        // The error says what was attempted, and not what was in the way.
        ErrorKind::Full => Problem::new(kind, format!("{error}: no space is left on the server's disk"))
            .hint("nothing of the request was stored; the server goes on by itself once there is space")
            .cause(chain(error)),
        // Causes may name paths and machines, which are nobody's business outside.
        _ => Problem::new(kind, error.to_string()).cause(chain(error)),
    }
}

fn from_decode_error(error: &DecodeError) -> Problem {
    let problem = Problem::new(error.kind(), error.to_string());
    match error {
        DecodeError::Malformed { place, .. } if !place.is_empty() => problem.pointer(place.clone()),
        DecodeError::Malformed { .. } => problem,
        DecodeError::TooLarge { limit, value, actual } => problem.limit(*limit, *value, Some(*actual)),
        DecodeError::WrongTenant => problem.code("wrong_tenant"),
        DecodeError::Unsupported { .. } => problem.code("unsupported"),
    }
}

/// The reply where no route matches.
pub async fn route_not_found(uri: Uri) -> Problem {
    Problem::new(ErrorKind::NotFound, format!("there is nothing at {}", cut(uri.path())))
        .hint("GET /api/openapi.json lists what there is")
}

/// The reply where a route exists and the method does not.
pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(ErrorKind::Input, format!("{} does not take {}", cut(uri.path()), cut(method.as_str())))
        .status(StatusCode::METHOD_NOT_ALLOWED)
        .code("method_not_allowed")
        .hint("the Allow header lists the methods it takes")
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Reads a request body that is JSON of the shape `T`.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        // serde_json ends its messages with the place; it is a field of its own here.
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let detail = text.strip_suffix(&place).unwrap_or(&text).to_owned();
        Problem::new(ErrorKind::Input, format!("the body is not what this route takes: {detail}")).pointer(format!(
            "line {} column {}",
            error.line(),
            error.column()
        ))
    })
}

#[cfg(test)]
mod tests;
