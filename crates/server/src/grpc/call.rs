//! One call: what must hold before its handler runs, its deadline, and its reply.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::timeout;
use weir_base::ErrorKind;
use weir_base::error::grpc as code;

use super::{ACCEPTED_ENCODINGS, GRPC_ACCEPT_ENCODING, MEDIA_TYPE, Status, is_grpc};
use crate::problem::Problem;
use crate::work::panic_message;

/// Answers a call of one message with one message. The handler reads it with
/// [`super::Messages::only`], after it has seen who is asking.
pub async fn unary<H, F>(request: Request<Body>, handler: H) -> Response
where
    H: FnOnce(Parts, Body) -> F,
    F: Future<Output = Result<Bytes, Status>>,
{
    let (parts, body) = match accept(request) {
        Ok(accepted) => accepted,
        Err(response) => return *response,
    };
    match within(deadline(&parts.headers), handler(parts, body)).await {
        Ok(message) => reply(Body::new(OneMessage { message: Some(frame(&message)), is_over: false })),
        Err(status) => status.reply(),
    }
}

/// Answers a call with any number of messages. The handler runs while the client takes the
/// replies, and is dropped when the client goes away.
pub fn stream<H, F>(request: Request<Body>, handler: H) -> Response
where
    H: FnOnce(Parts, Body, Replies) -> F,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (parts, body) = match accept(request) {
        Ok(accepted) => accepted,
        Err(response) => return *response,
    };
    // One message: who does not take its replies does not get further either.
    let (sender, receiver) = mpsc::channel(1);
    let limit = deadline(&parts.headers);
    let handler = within(limit, handler(parts, body, Replies(sender)));
    reply(Body::new(ManyMessages { handler: Some(Box::pin(handler)), receiver, ended: None }))
}

/// The answer to methods that do not exist.
pub async fn unimplemented(request: Request<Body>) -> Response {
    match accept(request) {
        Ok((parts, _)) => {
            let path: String = parts.uri.path().chars().take(200).collect();
            Status::new(code::UNIMPLEMENTED, format!("there is no method {path}")).reply()
        }
        Err(response) => *response,
    }
}

/// Sends the replies of a streaming call.
#[derive(Clone, Debug)]
pub struct Replies(mpsc::Sender<Bytes>);

impl Replies {
    /// Sends one message, once the client has taken the one before.
    pub async fn send(&self, message: &[u8]) -> Result<(), Status> {
        let sent = self.0.send(frame(message)).await;
        sent.map_err(|_| Status::new(code::CANCELLED, "the call was cancelled"))
    }
}

/// What is not gRPC at all is answered in plain HTTP, as the specification asks.
fn accept(request: Request<Body>) -> Result<(Parts, Body), Box<Response>> {
    let (parts, body) = request.into_parts();
    let refused = |status: StatusCode, code, detail: &str| {
        Box::new(Problem::new(ErrorKind::Input, detail).status(status).code(code).reply(None))
    };
    if parts.version != Version::HTTP_2 {
        let detail = "this port speaks gRPC, which needs HTTP/2";
        return Err(refused(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "http_version", detail));
    }
    if parts.method != Method::POST {
        let detail = "this port speaks gRPC, which needs POST";
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail));
    }
    if !is_grpc(&parts.headers) {
        let detail =
            "this port speaks gRPC: Content-Type must be application/grpc; OTLP over HTTP has a port of its own";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    Ok((parts, body))
}

/// Runs a handler within the client's deadline; a panic in it is the end of this call only.
async fn within<T>(limit: Option<Duration>, handler: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let caught = AssertUnwindSafe(handler).catch_unwind();
    let ended = match limit {
        None => caught.await,
        Some(limit) => match timeout(limit, caught).await {
            Ok(ended) => ended,
            Err(_) => return Err(Status::new(code::DEADLINE_EXCEEDED, "the deadline of the call has passed")),
        },
    };
    ended.unwrap_or_else(|panic| {
        tracing::error!(panic = %panic_message(&*panic), "a gRPC handler panicked");
        Err(Status::from(Problem::internal("")))
    })
}

/// The client's deadline: up to eight digits and a unit. One that cannot be read is none.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn reply(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(GRPC_ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
    response
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    // Replies are small: acknowledgements.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// One message and the trailers of success.
struct OneMessage {
    message: Option<Bytes>,
    is_over: bool,
}

impl HttpBody for OneMessage {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        self.is_over = true;
        Poll::Ready(Some(Ok(Frame::trailers(Status::ok_trailers()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

type Handler = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// What a handler sends, and then how it ended.
struct ManyMessages {
    handler: Option<Handler>,
    receiver: mpsc::Receiver<Bytes>,
    ended: Option<HeaderMap>,
}

impl HttpBody for ManyMessages {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(handler) = &mut self.handler
            && let Poll::Ready(ended) = handler.as_mut().poll(context)
        {
            self.handler = None;
            self.ended = Some(match ended {
                Ok(()) => Status::ok_trailers(),
                Err(status) => status.trailers(),
            });
        }
        // Only after the handler has run: what it has sent just now can go out just now.
        match self.receiver.poll_recv(context) {
            Poll::Ready(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Poll::Pending if self.handler.is_some() => return Poll::Pending,
            // All senders are gone, or the handler has ended and left one somewhere.
            _ => {}
        }
        match self.ended.take() {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None if self.handler.is_some() => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.handler.is_none() && self.ended.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
