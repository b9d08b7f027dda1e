//! The server's side of gRPC on plain hyper bodies: framing, compression, status, deadlines.
//!
//! Why not tonic: OTLP bodies are decoded straight from the wire by our own decoder, so that all
//! that is left of gRPC is a five-byte prefix and trailers; tonic would add its own limits, its
//! own decompression and a code generator beside those Weir has already.
//!
//! Routing is axum's: a method is `POST /package.Service/Method` on the gRPC listener. A handler
//! calls [`unary`] or [`stream`] with what it does, and reads messages with [`Messages`].
//!
//! Invariant: no message is buffered before its declared length is within the limit, and none is
//! decompressed but through the server's bounded reader.

mod call;
pub mod health;
mod messages;
mod status;

#[cfg(test)]
mod tests;

pub use call::{Replies, stream, unary, unimplemented};
pub use messages::Messages;
pub use status::Status;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The media type of gRPC; `+proto` may follow.
pub const MEDIA_TYPE: &str = "application/grpc";

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const ACCEPTED_ENCODINGS: HeaderValue = HeaderValue::from_static("identity,deflate,gzip,zstd");

/// Whether a request is gRPC with protobuf messages.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else { return false };
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence == b"application/grpc" || essence == b"application/grpc+proto"
}
