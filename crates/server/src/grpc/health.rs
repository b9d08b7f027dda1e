//! The standard health service, `grpc.health.v1.Health`, for load balancers and orchestrators.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::Request;
use weir_base::error::grpc as code;

use super::{Messages, Status, unary};
use crate::net::body::{BodyLimits, BodyReader};

/// The path of the method that [`check`] answers.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

const LIMITS: BodyLimits = BodyLimits { body_bytes_max: 1024, decoded_bytes_max: 1024 };

/// `HealthCheckResponse { status: SERVING }`.
const SERVING: &[u8] = &[0x08, 1];
/// `HealthCheckResponse { status: NOT_SERVING }`.
const NOT_SERVING: &[u8] = &[0x08, 2];

/// Answers whether the named service serves: `None` for a service that does not exist, and `""`
/// asks about the server as a whole.
pub async fn check(
    reader: &Arc<BodyReader>,
    request: Request<Body>,
    is_serving: impl FnOnce(&str) -> Option<bool>,
) -> Response {
    unary(request, |parts, body| async move {
        let message = Messages::new(reader, &parts.headers, body, LIMITS)?.only().await?;
        let service = service_name(&message.bytes)
            .ok_or_else(|| Status::new(code::INVALID_ARGUMENT, "not a HealthCheckRequest"))?;
        match is_serving(service) {
            Some(true) => Ok(Bytes::from_static(SERVING)),
            Some(false) => Ok(Bytes::from_static(NOT_SERVING)),
            None => Err(Status::new(code::NOT_FOUND, "there is no such service")),
        }
    })
    .await
}

/// `HealthCheckRequest { string service = 1; }`, whose length fits one byte under [`LIMITS`] or
/// two.
fn service_name(message: &[u8]) -> Option<&str> {
    match message {
        [] => Some(""),
        [0x0a, length @ 0..=0x7f, name @ ..] if name.len() == usize::from(*length) => std::str::from_utf8(name).ok(),
        [0x0a, low @ 0x80..=0xff, high @ 0..=0x7f, name @ ..]
            if name.len() == usize::from(low & 0x7f) | usize::from(*high) << 7 =>
        {
            std::str::from_utf8(name).ok()
        }
        _ => None,
    }
}
