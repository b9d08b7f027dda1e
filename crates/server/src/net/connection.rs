//! One connection, from its socket to its end: TLS, HTTP/1 or HTTP/2, and its deadlines.
//!
//! hyper's own header timeout also runs between requests, so it cannot be both short against slow
//! senders and long for clients that keep connections. The deadlines are therefore kept here, from
//! what [`WatchedIo`] and the requests report.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::CONNECTION;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;
use weir_base::ErrorKind;

use super::io::{Stream, WatchedIo};
use super::reply::{WatchedBody, WeakReply};
use super::request;
use super::slots::{Place, Slot};
use super::tls::Tls;
use super::{NetOptions, Peer};
use crate::grpc;
use crate::problem::Problem;

/// What every connection of a listener shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: NetOptions,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) router: Router,
    pub(super) listener: &'static str,
    /// No new requests.
    pub(super) draining: CancellationToken,
    /// Nothing any more.
    pub(super) aborted: CancellationToken,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

/// Bytes a peer may send without making a request of them, beyond its headers: frames that control
/// HTTP/2 are small, and a flood of them is not.
const QUIET_BYTES_MAX: u64 = 1 << 20;

/// How long a connection that was told to end may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// What happens on a connection, as far as its deadlines need to know.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    protocol: AtomicU8,
    preface_bytes: AtomicUsize,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    idle_since_ms: AtomicU64,
    /// When the first byte of a request's head arrived, plus one; 0 while there is none.
    head_since_ms: AtomicU64,
    quiet_bytes: AtomicU64,
    resets: Mutex<Resets>,
    replies: Mutex<Vec<WeakReply>>,
}

/// Requests that the peer abandoned in the current window of time.
#[derive(Debug)]
struct Resets {
    since: Instant,
    count: u32,
}

const RESET_WINDOW: Duration = Duration::from_secs(10);

/// What is to be done with a connection, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// Let it end.
    Goodbye,
    /// End it.
    Close(&'static str),
}

impl Activity {
    fn new() -> Arc<Self> {
        let start = Instant::now();
        Arc::new(Self {
            start,
            protocol: AtomicU8::new(UNKNOWN),
            preface_bytes: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(0),
            head_since_ms: AtomicU64::new(0),
            quiet_bytes: AtomicU64::new(0),
            resets: Mutex::new(Resets { since: start, count: 0 }),
            replies: Mutex::new(Vec::new()),
        })
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// The peer has sent `bytes`.
    pub(super) fn bytes_read(&self, bytes: &[u8]) {
        if self.protocol.load(Ordering::Relaxed) == UNKNOWN {
            self.recognise(bytes);
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 || bytes.is_empty() {
            return;
        }
        self.quiet_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.head_since_ms.load(Ordering::Relaxed) == 0 {
            self.head_since_ms.store(self.elapsed_ms() + 1, Ordering::Relaxed);
        }
    }

    fn recognise(&self, bytes: &[u8]) {
        let seen = self.preface_bytes.load(Ordering::Relaxed);
        let rest = &PREFACE[seen..];
        let compared = rest.len().min(bytes.len());
        if rest[..compared] != bytes[..compared] {
            self.protocol.store(HTTP1, Ordering::Relaxed);
        } else if compared == rest.len() {
            self.protocol.store(HTTP2, Ordering::Relaxed);
        }
        self.preface_bytes.store(seen + compared, Ordering::Relaxed);
    }

    fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_since_ms.store(0, Ordering::Relaxed);
        self.quiet_bytes.store(0, Ordering::Relaxed);
        RequestGuard { activity: Arc::clone(self), completed: false }
    }

    fn watch_reply(&self, reply: WeakReply) {
        let mut replies = self.replies.lock();
        if replies.len() >= 32 {
            replies.retain(|reply| reply.strong_count() > 0);
        }
        replies.push(reply);
    }

    fn count_reset(&self) {
        let mut resets = self.resets.lock();
        if resets.since.elapsed() >= RESET_WINDOW {
            *resets = Resets { since: Instant::now(), count: 0 };
        }
        resets.count += 1;
    }

    fn verdict(&self, options: &NetOptions) -> Verdict {
        let now = Instant::now();
        let http2 = self.protocol.load(Ordering::Relaxed) == HTTP2;
        if self.resets.lock().count > options.resets_max {
            return Verdict::Close("too many abandoned requests");
        }
        if self.in_flight.load(Ordering::Acquire) > 0 {
            if http2 && self.end_stuck_replies(now, options.write_timeout) {
                return Verdict::Close("the peer takes none of its replies");
            }
            return Verdict::Wait(now + if http2 { options.write_timeout / 2 } else { options.idle_timeout });
        }
        if self.quiet_bytes.load(Ordering::Relaxed) > QUIET_BYTES_MAX + u64::from(options.header_bytes_max) {
            return Verdict::Close("bytes without requests");
        }
        let mut deadline = self.at(self.idle_since_ms.load(Ordering::Relaxed)) + options.idle_timeout;
        let mut verdict = Verdict::Goodbye;
        let head_since = match self.head_since_ms.load(Ordering::Relaxed) {
            _ if http2 => None,
            0 if self.requests.load(Ordering::Relaxed) > 0 => None,
            0 => Some(self.start),
            since => Some(self.at(since - 1)),
        };
        if let Some(head_deadline) = head_since.map(|since| since + options.header_timeout)
            && head_deadline < deadline
        {
            deadline = head_deadline;
            verdict = Verdict::Close("the request's headers took too long");
        }
        if deadline <= now { verdict } else { Verdict::Wait(deadline) }
    }

    /// Ends the replies the peer does not take. Whether nothing but such replies is left.
    fn end_stuck_replies(&self, now: Instant, write_timeout: Duration) -> bool {
        let Some(before) = now.checked_sub(write_timeout) else { return false };
        let mut n_alive = 0;
        let mut n_stuck = 0;
        self.replies.lock().retain(|reply| {
            let Some(reply) = reply.upgrade() else { return false };
            n_alive += 1;
            n_stuck += usize::from(reply.lock().drop_if_stuck(before));
            true
        });
        n_stuck > 0 && n_stuck == n_alive && n_alive >= self.in_flight.load(Ordering::Acquire)
    }
}

/// A request being answered: from its headers to the last byte of its reply.
#[derive(Debug)]
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    completed: bool,
}

impl RequestGuard {
    /// The reply has been handed over in full.
    pub(super) fn complete(&mut self) {
        self.completed = true;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if !self.completed && self.activity.protocol.load(Ordering::Relaxed) == HTTP2 {
            self.activity.count_reset();
        }
        self.activity.idle_since_ms.store(self.activity.elapsed_ms(), Ordering::Relaxed);
        self.activity.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(socket: TcpStream, mut peer: Peer, slot: Slot, shared: Arc<Shared>) {
    // Replies are written in one piece; waiting to fill a packet would only delay them.
    let _ = socket.set_nodelay(true);
    let stream = match &shared.tls {
        None => Stream::Plain(socket),
        Some(tls) => {
            peer.tls = true;
            let handshake = timeout(shared.options.handshake_timeout, tls.accept(socket));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = shared.draining.cancelled() => return,
            };
            match shaken {
                Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                Ok(Err(error)) => return debug!(peer = %peer.address, %error, "TLS handshake failed"),
                Err(_) => return debug!(peer = %peer.address, "TLS handshake took too long"),
            }
        }
    };
    let activity = Activity::new();
    let place = slot.place;
    let io = TokioIo::new(WatchedIo::new(stream, Arc::clone(&activity), shared.options.write_timeout, slot));
    let service = {
        let activity = Arc::clone(&activity);
        let shared = Arc::clone(&shared);
        service_fn(move |request: Request<Incoming>| answer(request, peer, place, &activity, &shared))
    };
    let builder = http(&shared.options);
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut timer = pin!(sleep_until(Instant::now() + shared.options.header_timeout));
    let mut draining = pin!(shared.draining.cancelled());
    let mut aborted = pin!(shared.aborted.cancelled());
    let mut ending: Option<Instant> = None;
    let mut told_to_drain = false;
    let ended = poll_fn(|context| {
        loop {
            if !told_to_drain && draining.as_mut().poll(context).is_ready() {
                told_to_drain = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(result) = connection.as_mut().poll(context) {
                return Poll::Ready(result.err().map(|error| error.to_string()));
            }
            if aborted.as_mut().poll(context).is_ready() {
                return Poll::Ready(Some("the server stops".to_owned()));
            }
            let next = match activity.verdict(&shared.options) {
                Verdict::Close(reason) => return Poll::Ready(Some(reason.to_owned())),
                Verdict::Goodbye => match ending {
                    Some(deadline) if deadline <= Instant::now() => return Poll::Ready(None),
                    Some(deadline) => deadline,
                    None => {
                        let deadline = Instant::now() + GOODBYE;
                        ending = Some(deadline);
                        connection.as_mut().graceful_shutdown();
                        continue;
                    }
                },
                Verdict::Wait(next) => next,
            };
            // A timer that fires early only looks again, which is cheaper than to move it with
            // every request.
            if timer.is_elapsed() || next < timer.deadline() {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    if let Some(reason) = ended {
        debug!(peer = %peer.address, reason, "connection ended");
    }
}

fn http(options: &NetOptions) -> Builder<TokioExecutor> {
    let header_bytes_max = options.header_bytes_max as usize;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The deadlines are ours, see above.
        .header_read_timeout(None)
        // The smallest buffer hyper takes is 8 KiB, and so is the smallest limit that can be configured.
        .max_buf_size(header_bytes_max.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.ping_interval)
        .keep_alive_timeout(options.ping_interval)
        .max_concurrent_streams(options.streams_max)
        .max_header_list_size(options.header_bytes_max)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .max_send_buf_size(256 * 1024)
        // Bodies are read at once and bounded by their own budget: windows that let one request of
        // a few MiB arrive without waiting for round trips.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20);
    builder
}

fn answer(
    request: Request<Incoming>,
    peer: Peer,
    place: Place,
    activity: &Arc<Activity>,
    shared: &Shared,
) -> impl Future<Output = Result<http::Response<WatchedBody>, Infallible>> + Send + use<> {
    let guard = activity.begin_request();
    let activity = Arc::clone(activity);
    let (mut request, unread) = request::lend(request);
    request.extensions_mut().insert(peer);
    let router = shared.router.clone();
    let per_address_max = shared.options.connections_per_address_max;
    async move {
        let http2 = request.version() == http::Version::HTTP_2;
        let refusal = match place {
            Place::Ordinary => None,
            Place::Reserve if request.uri().path().starts_with("/health") => None,
            Place::Reserve => Some(overloaded()),
            Place::Crowded => Some(crowded(per_address_max)),
        };
        let is_refused = refusal.is_some();
        let mut response = match refusal {
            Some(problem) => refuse(&request, &problem),
            None => router.oneshot(request).await?,
        };
        // Who is too slow, or one too many, is not waited for.
        if !is_refused && response.status() != StatusCode::REQUEST_TIMEOUT {
            unread.drain().await;
        }
        if http2 {
            // HTTP/2 has no such header.
            response.headers_mut().remove(CONNECTION);
        }
        Ok(response.map(|body| {
            let body = WatchedBody::new(body, guard);
            if http2 {
                activity.watch_reply(body.watch());
            }
            body
        }))
    }
}

/// The reply to everything but health probes while there are too many connections.
fn overloaded() -> Problem {
    Problem::new(ErrorKind::Transient, "the server has as many connections as it may have")
        .code("connections_max")
        .retry_after(Duration::from_secs(2))
        .close()
}

/// The reply to everything on a connection that is one too many of its address.
fn crowded(max: usize) -> Problem {
    Problem::new(ErrorKind::Limit, "this address has as many connections as it may have")
        .limit("connections_per_address_max", max as u64, None)
        .hint("keep connections and send more on each; HTTP/2 takes many requests at a time")
        .retry_after(Duration::from_secs(2))
        .close()
}

fn refuse(request: &Request<Body>, problem: &Problem) -> axum::response::Response {
    if grpc::is_grpc(request.headers()) { grpc::Status::from(problem).reply() } else { problem.reply(None) }
}
