//! Requests from web pages of other sites (the Fetch standard's CORS protocol).
//!
//! Keys come in headers or bodies and never in cookies, so that a page can do no more here than any
//! program with the same key, and credentials are never allowed. A tenant may still say which sites
//! use its keys; a preflight carries no key, so it is answered for everybody, and the tenant's list
//! is applied to the request itself.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use weir_base::ErrorKind;

use crate::problem::Problem;

/// The code of the refusal in [`check`]; replies with it are not shown to the page.
pub const ORIGIN_NOT_ALLOWED: &str = "origin_not_allowed";

/// Browsers ask again after this many seconds; none believes more than a day, Chromium two hours.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("7200");
/// Longer lists of requested headers are not echoed.
const REQUESTED_HEADERS_BYTES_MAX: usize = 1024;

/// Whether pages of other sites may use a path at all: what sends rows and what reads them. What
/// manages tenants and the server is for programs and for Weir's own pages.
fn is_open(path: &str) -> bool {
    !path.starts_with("/api/v1/tenants") && path != "/metrics"
}

/// The answer to a preflight, if the request is one.
pub fn preflight<B, R: Default>(request: &Request<B>) -> Option<Response<R>> {
    let headers = request.headers();
    let is_preflight = request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return None;
    }
    let mut response = Response::new(R::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let reply = response.headers_mut();
    reply.append(VARY, HeaderValue::from_static("origin, access-control-request-headers"));
    if !is_open(request.uri().path()) {
        return Some(response);
    }
    if let Some(origin) = headers.get(ORIGIN) {
        reply.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    reply.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    // Whatever the page asks for: SDKs add headers of their own, and none of them is harmful here.
    if let Some(requested) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)
        && requested.len() <= REQUESTED_HEADERS_BYTES_MAX
    {
        reply.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
    reply.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    Some(response)
}

/// Lets the page that sent a request see its reply. `is_refused` for what [`check`] refused.
pub fn expose(request_origin: Option<&HeaderValue>, path: &str, is_refused: bool, reply: &mut HeaderMap) {
    let Some(origin) = request_origin else { return };
    // The answer to a preflight says so already.
    let is_said = |value: &HeaderValue| value.as_bytes().starts_with(b"origin");
    if !reply.get_all(VARY).iter().any(is_said) {
        reply.append(VARY, HeaderValue::from_static("origin"));
    }
    if is_refused || !is_open(path) {
        return;
    }
    reply.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    reply.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
}

/// Refuses a request from a page of a site that is not among the tenant's. Requests without
/// `Origin` are not from a page, or from one of this server.
pub fn check(allowed_origins: &[String], headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let text = String::from_utf8_lossy(origin.as_bytes());
    if is_allowed(allowed_origins, &text) || is_own(&text, headers) {
        return Ok(());
    }
    let shown: String = text.chars().take(200).collect();
    Err(Problem::new(ErrorKind::Forbidden, format!("the site {shown} is not among those this tenant allows"))
        .code(ORIGIN_NOT_ALLOWED)
        .pointer("Origin")
        .hint("add it to allowed_origins in the tenant's settings"))
}

/// Whether the tenant allows `origin`. An empty list allows every site: the key alone decides then.
fn is_allowed(allowed_origins: &[String], origin: &str) -> bool {
    allowed_origins.is_empty() || allowed_origins.iter().any(|allowed| matches(allowed, origin))
}

fn matches(allowed: &str, origin: &str) -> bool {
    if allowed == "*" || allowed.eq_ignore_ascii_case(origin) {
        return true;
    }
    // `https://*.shop.example`: the same scheme, at least one label more, the same rest.
    let Some((scheme, domain)) = allowed.split_once("*.") else { return false };
    let (Some(head), Some(tail)) = (origin.get(..scheme.len()), origin.get(scheme.len()..)) else { return false };
    if !head.eq_ignore_ascii_case(scheme) || tail.len() <= domain.len() + 1 {
        return false;
    }
    let cut = tail.len() - domain.len();
    tail.get(cut..).is_some_and(|end| end.eq_ignore_ascii_case(domain))
        && tail.as_bytes()[cut - 1] == b'.'
        && tail.bytes().take(cut - 1).all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

/// Whether the page came from this server itself. The scheme is not compared: a proxy may have
/// taken the encryption off.
fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let authority = origin.parse::<Uri>().ok().and_then(|uri| uri.into_parts().authority);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    matches!((authority, host), (Some(authority), Some(host)) if authority.as_str().eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests;
