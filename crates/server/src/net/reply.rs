//! The body of a reply, watched: when a request is really over, and whether its reply moves.
//!
//! A peer of HTTP/2 can stop one stream (by granting it no window) while the connection goes on, so
//! that nothing is seen at the socket. What such a reply holds, perhaps a running query, is dropped
//! after the write timeout.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::RequestGuard;

/// A reply's body as hyper sees it.
#[derive(Debug)]
pub(super) struct WatchedBody(Arc<Mutex<Reply>>);

/// For the connection, to end replies that do not move.
pub(super) type WeakReply = Weak<Mutex<Reply>>;

#[derive(Debug)]
pub(super) struct Reply {
    body: Option<Body>,
    /// Since when the peer could have taken more; none while it is the handler that waits.
    offered_since: Option<Instant>,
    guard: RequestGuard,
}

#[derive(Debug, thiserror::Error)]
#[error("the peer did not take the reply in time")]
struct NotTaken;

impl WatchedBody {
    pub(super) fn new(body: Body, guard: RequestGuard) -> Self {
        Self(Arc::new(Mutex::new(Reply { body: Some(body), offered_since: Some(Instant::now()), guard })))
    }

    pub(super) fn watch(&self) -> WeakReply {
        Arc::downgrade(&self.0)
    }
}

impl Reply {
    /// Drops the body if the peer has not taken any of it since `before`. Whether it is dropped now.
    pub(super) fn drop_if_stuck(&mut self, before: Instant) -> bool {
        if self.offered_since.is_some_and(|since| since <= before) {
            self.body = None;
        }
        self.body.is_none()
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let mut reply = self.0.lock();
        let Some(body) = &mut reply.body else {
            return Poll::Ready(Some(Err(Box::new(NotTaken))));
        };
        let frame = Pin::new(&mut *body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(_))) => {
                if body.is_end_stream() {
                    reply.guard.complete();
                }
                reply.offered_since = Some(Instant::now());
            }
            Poll::Ready(_) => reply.guard.complete(),
            Poll::Pending => reply.offered_since = None,
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        let mut reply = self.0.lock();
        let ended = reply.body.as_ref().is_some_and(HttpBody::is_end_stream);
        if ended {
            reply.guard.complete();
        }
        ended
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}
