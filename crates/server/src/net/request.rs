//! The body of a request, taken back from the handler if it did not read it.
//!
//! A reply before the end of the request (a key refused, a body too large) is only seen by HTTP/1
//! clients that stop sending in order to read it, and few do: the socket is closed with bytes
//! unread, the client's kernel sees a reset and throws the reply away. So what is left of a body is
//! read and dropped, within bounds, before the reply is sent.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::EXPECT;
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::timeout;

/// The most that is read in vain.
const UNREAD_BYTES_MAX: usize = 32 << 20;
/// The longest it is read in vain.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(3);
/// The longest a client may send nothing meanwhile: it is waiting for the reply, then.
const UNREAD_IDLE_MAX: Duration = Duration::from_millis(500);

/// A body that is lent to the handler.
#[derive(Debug)]
struct LentBody(Arc<Mutex<Option<Incoming>>>);

/// What can be taken back of it; none where there is no need to.
#[derive(Debug)]
pub(super) struct Unread(Option<Arc<Mutex<Option<Incoming>>>>);

/// The request for the handler, and what is kept for its end.
pub(super) fn lend(request: Request<Incoming>) -> (Request<Body>, Unread) {
    // A stream of HTTP/2 ends by itself, and its client reads replies whenever they come. A client
    // that waits for a go-ahead before it sends has sent nothing yet.
    let is_needed = request.version() < Version::HTTP_2
        && !request.body().is_end_stream()
        && !request.headers().contains_key(EXPECT);
    if !is_needed {
        return (request.map(Body::new), Unread(None));
    }
    let (parts, body) = request.into_parts();
    let lent = Arc::new(Mutex::new(Some(body)));
    let request = Request::from_parts(parts, Body::new(LentBody(Arc::clone(&lent))));
    (request, Unread(Some(lent)))
}

impl Unread {
    /// Reads the rest of the body and drops it. Nothing while the handler still has it.
    pub(super) async fn drain(self) {
        let Some(Ok(lent)) = self.0.map(Arc::try_unwrap) else { return };
        let Some(mut body) = lent.into_inner() else { return };
        let draining = async {
            let mut n_bytes = 0;
            loop {
                let next = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
                let Ok(Some(Ok(frame))) = timeout(UNREAD_IDLE_MAX, next).await else { return };
                n_bytes += frame.data_ref().map_or(0, Bytes::len);
                if n_bytes > UNREAD_BYTES_MAX {
                    return;
                }
            }
        };
        let _ = timeout(UNREAD_TIME_MAX, draining).await;
    }
}

impl HttpBody for LentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut lent = self.0.lock();
        let Some(body) = lent.as_mut() else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(context);
        if matches!(&frame, Poll::Ready(None | Some(Err(_)))) {
            *lent = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
