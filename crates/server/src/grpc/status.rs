//! How a call ended: the gRPC status code, for machines `google.rpc.Status` with details.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use super::{ACCEPTED_ENCODINGS, GRPC_ACCEPT_ENCODING, MEDIA_TYPE};
use crate::problem::Problem;

/// The end of a call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The gRPC status code.
    pub code: u8,
    /// What was wrong, for people.
    pub message: String,
    /// When the call may succeed. OTLP clients repeat RESOURCE_EXHAUSTED only if this is given.
    pub retry_delay: Option<Duration>,
    /// The stable code of the problem, and the limit with its value, for machines.
    pub reason: Option<(String, Option<(String, u64)>)>,
}

/// The specification: everything outside of space to `~`, and `%`, is percent-encoded.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');
/// Longer messages are cut: trailers have limits in every client.
const MESSAGE_BYTES_MAX: usize = 2048;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

impl Status {
    /// A status without details.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_delay: None, reason: None }
    }

    /// The trailers of a call that went well.
    pub fn ok_trailers() -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        trailers
    }

    /// The trailers of this end.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(3);
        trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(self.code)));
        if let Ok(message) = HeaderValue::try_from(utf8_percent_encode(self.cut_message(), MESSAGE).to_string()) {
            trailers.insert(GRPC_MESSAGE, message);
        }
        if (self.retry_delay.is_some() || self.reason.is_some())
            && let Ok(details) = HeaderValue::try_from(STANDARD_NO_PAD.encode(self.encode()))
        {
            trailers.insert(GRPC_STATUS_DETAILS, details);
        }
        trailers
    }

    /// The reply of a call that failed before it had anything to say: trailers only, as headers.
    pub fn reply(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::OK;
        *response.headers_mut() = self.trailers();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        response.headers_mut().insert(GRPC_ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
        response
    }

    /// As `google.rpc.Status` in protobuf: the details of a gRPC call, and the body of a failed
    /// OTLP request over HTTP.
    pub fn encode(&self) -> Vec<u8> {
        let mut status = Vec::with_capacity(64 + self.message.len());
        put_varint_field(&mut status, 1, u64::from(self.code));
        put_bytes_field(&mut status, 2, self.cut_message().as_bytes());
        if let Some((reason, limit)) = &self.reason {
            let mut info = Vec::new();
            put_bytes_field(&mut info, 1, reason.to_ascii_uppercase().as_bytes());
            put_bytes_field(&mut info, 2, b"weir");
            if let Some((name, value)) = limit {
                put_entry(&mut info, "limit", name);
                put_entry(&mut info, "value", &value.to_string());
            }
            put_any(&mut status, "type.googleapis.com/google.rpc.ErrorInfo", &info);
        }
        if let Some(delay) = self.retry_delay {
            let mut duration = Vec::new();
            put_varint_field(&mut duration, 1, delay.as_secs());
            put_varint_field(&mut duration, 2, u64::from(delay.subsec_nanos()));
            let mut info = Vec::new();
            put_bytes_field(&mut info, 1, &duration);
            put_any(&mut status, "type.googleapis.com/google.rpc.RetryInfo", &info);
        }
        status
    }

    /// As `google.rpc.Status` in JSON: the body of a failed OTLP request that came as JSON.
    pub fn json(&self) -> Value {
        json!({ "code": self.code, "message": self.cut_message() })
    }

    fn cut_message(&self) -> &str {
        let mut end = self.message.len().min(MESSAGE_BYTES_MAX);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        &self.message[..end]
    }
}

impl From<&Problem> for Status {
    fn from(problem: &Problem) -> Self {
        let limit = problem.limit_passed().map(|limit| (limit.name.to_string(), limit.value));
        Self {
            code: problem.kind().grpc_status(),
            message: problem.message(),
            retry_delay: problem.retry_delay(),
            reason: Some((problem.code_text().to_owned(), limit)),
        }
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        Self::from(&problem)
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn put_varint_field(bytes: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        put_varint(bytes, field << 3);
        put_varint(bytes, value);
    }
}

fn put_bytes_field(bytes: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(bytes, field << 3 | 2);
    put_varint(bytes, value.len() as u64);
    bytes.extend_from_slice(value);
}

fn put_any(status: &mut Vec<u8>, url: &str, value: &[u8]) {
    let mut any = Vec::with_capacity(url.len() + value.len() + 8);
    put_bytes_field(&mut any, 1, url.as_bytes());
    put_bytes_field(&mut any, 2, value);
    put_bytes_field(status, 3, &any);
}

fn put_entry(info: &mut Vec<u8>, key: &str, value: &str) {
    let mut entry = Vec::new();
    put_bytes_field(&mut entry, 1, key.as_bytes());
    put_bytes_field(&mut entry, 2, value.as_bytes());
    put_bytes_field(info, 3, &entry);
}
