//! gRPC, as a client that only knows HTTP/2 sees it.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use weir_base::ErrorKind;
use weir_server::grpc::{self, Messages, Status, health};
use weir_server::net::NetOptions;
use weir_server::net::body::{BodyLimits, BodyOptions, BodyReader};
use weir_server::problem::Problem;
use weir_server::work::Workers;

use crate::harness::{PATIENCE, Running, exchange, http1_over, post, start, until};

const LIMITS: BodyLimits = BodyLimits { body_bytes_max: 100_000, decoded_bytes_max: 1 << 20 };

struct Calls {
    running: Running,
    reader: Arc<BodyReader>,
    alive: Arc<AtomicUsize>,
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Methods: `Reverse` answers with the bytes backwards, `Fail` and `Limit` with errors, `Panic` and
/// `Sleep` do so, `Each` streams back the length of each message.
async fn calls() -> Calls {
    let options = BodyOptions { idle_timeout: Duration::from_millis(300), ..BodyOptions::default() };
    let reader = BodyReader::new(options, Workers::new());
    let alive = Arc::new(AtomicUsize::new(0));
    let reverse = {
        let reader = Arc::clone(&reader);
        move |request: Request<Body>| async move {
            grpc::unary(request, |parts, body| async move {
                let message = Messages::new(&reader, &parts.headers, body, LIMITS)?.only().await?;
                Ok(message.bytes.iter().rev().copied().collect::<Bytes>())
            })
            .await
        }
    };
    let sleep = {
        let alive = Arc::clone(&alive);
        move |request: Request<Body>| async move {
            grpc::unary(request, |_, _| async move {
                alive.fetch_add(1, Ordering::SeqCst);
                let _alive = Alive(alive);
                std::future::pending().await
            })
            .await
        }
    };
    let each = {
        let reader = Arc::clone(&reader);
        let alive = Arc::clone(&alive);
        move |request: Request<Body>| async move {
            grpc::stream(request, |parts, body, replies| async move {
                alive.fetch_add(1, Ordering::SeqCst);
                let _alive = Alive(alive);
                let mut messages = Messages::new(&reader, &parts.headers, body, LIMITS)?;
                while let Some(message) = messages.next().await? {
                    if &message.bytes[..] == b"stop" {
                        return Err(Status::new(10, "stopped"));
                    }
                    replies.send(message.bytes.len().to_string().as_bytes()).await?;
                }
                Ok(())
            })
        }
    };
    let fail = |request: Request<Body>| async {
        grpc::unary(request, |_, _| async { Err(Status::from(Problem::new(ErrorKind::Forbidden, "no"))) }).await
    };
    let limit = |request: Request<Body>| async {
        grpc::unary(request, |_, _| async { Err(Status::from(Problem::new(ErrorKind::Limit, "wait"))) }).await
    };
    #[allow(unreachable_code, reason = "the panic is the point")]
    let panic = |request: Request<Body>| async {
        grpc::unary(request, |_, _| async { panic!("a test panics on purpose") }).await
    };
    let check = {
        let reader = Arc::clone(&reader);
        move |request: Request<Body>| async move {
            health::check(&reader, request, |service| match service {
                "" => Some(true),
                "down" => Some(false),
                _ => None,
            })
            .await
        }
    };
    let router = Router::new()
        .route("/test.Test/Reverse", on_post(reverse))
        .route("/test.Test/Sleep", on_post(sleep))
        .route("/test.Test/Each", on_post(each))
        .route("/test.Test/Fail", on_post(fail))
        .route("/test.Test/Limit", on_post(limit))
        .route("/test.Test/Panic", on_post(panic))
        .route(health::CHECK, on_post(check))
        .fallback(grpc::unimplemented);
    Calls { running: start(NetOptions::default(), router).await, reader, alive }
}

type Client = http2::SendRequest<BoxBody<Bytes, Infallible>>;

async fn client(running: &Running) -> Client {
    let io = TokioIo::new(running.connect().await);
    let (client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    client
}

fn request(
    method: &str,
    headers: &[(&'static str, &str)],
    body: BoxBody<Bytes, Infallible>,
) -> Request<BoxBody<Bytes, Infallible>> {
    let mut request = Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![flag];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame
}

/// The end of a call: status, all bytes of the reply, and the trailers (or headers) that had it.
async fn ended(response: Response<Incoming>) -> (u8, Bytes, HeaderMap) {
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity,deflate,gzip,zstd");
    let headers = response.headers().clone();
    let collected = timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap();
    let trailers = collected.trailers().cloned().unwrap_or(headers);
    (trailers["grpc-status"].to_str().unwrap().parse().unwrap(), collected.to_bytes(), trailers)
}

impl Calls {
    async fn call(&self, method: &str, headers: &[(&'static str, &str)], body: Vec<u8>) -> (u8, Bytes, HeaderMap) {
        let body = Full::new(Bytes::from(body)).boxed();
        let response = client(&self.running).await.send_request(request(method, headers, body)).await.unwrap();
        ended(response).await
    }
}

#[tokio::test]
async fn a_unary_call_works_in_every_encoding() {
    let calls = calls().await;
    let reverse = "/test.Test/Reverse";
    let (status, reply, _) = calls.call(reverse, &[], framed(0, b"abc")).await;
    assert_eq!((status, &reply[..]), (0, &framed(0, b"cba")[..]));
    let (status, reply, _) = calls.call(reverse, &[], framed(0, b"")).await;
    assert_eq!((status, &reply[..]), (0, &framed(0, b"")[..]));
    let large = b"0123456789".repeat(5000);
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(&large).unwrap();
    let zipped = zipped.finish().unwrap();
    let (status, reply, _) = calls.call(reverse, &[("grpc-encoding", "gzip")], framed(1, &zipped)).await;
    assert_eq!((status, reply.len()), (0, large.len() + 5));
    let zipped = zstd::encode_all(large.as_slice(), 1).unwrap();
    let (status, reply, _) = calls.call(reverse, &[("grpc-encoding", "zstd")], framed(1, &zipped)).await;
    assert_eq!((status, reply.len()), (0, large.len() + 5));
    // With an encoding named, a message may still be plain.
    let (status, reply, _) = calls.call(reverse, &[("grpc-encoding", "gzip")], framed(0, b"abc")).await;
    assert_eq!((status, &reply[5..]), (0, &b"cba"[..]));
    until("all is given back", || calls.reader.budget().in_use() == 0).await;
}

#[tokio::test]
async fn errors_come_as_trailers() {
    let calls = calls().await;
    for (method, headers, body, status, message) in [
        ("/test.Test/Fail", &[][..], framed(0, b""), 7, "no"),
        ("/test.Test/Limit", &[], framed(0, b""), 8, "wait"),
        ("/test.Test/Missing", &[], framed(0, b""), 12, "there is no method /test.Test/Missing"),
        ("/test.Test/Reverse", &[], vec![], 3, "the call has no message"),
        ("/test.Test/Reverse", &[], vec![0, 0], 3, "the call ends in the middle of a message"),
        ("/test.Test/Reverse", &[], framed(0, b"abc")[..6].to_vec(), 3, "the call ends in the middle of a message"),
        ("/test.Test/Reverse", &[], framed(9, b"abc"), 3, "the flag of a message is 9"),
        (
            "/test.Test/Reverse",
            &[],
            [framed(0, b"a"), framed(0, b"b")].concat(),
            3,
            "the call has more than one message",
        ),
        ("/test.Test/Reverse", &[], framed(1, b"abc"), 13, "a message is compressed and grpc-encoding names nothing"),
        (
            "/test.Test/Reverse",
            &[("grpc-encoding", "snappy")],
            framed(1, b"abc"),
            12,
            "grpc-encoding is not supported; send identity, gzip or zstd",
        ),
        ("/test.Test/Reverse", &[("grpc-encoding", "gzip")], framed(1, b"abc"), 3, "the body cannot be decompressed"),
        ("/test.Test/Sleep", &[("grpc-timeout", "50m")], framed(0, b""), 4, "the deadline of the call has passed"),
    ] {
        let (got, reply, trailers) = calls.call(method, headers, body).await;
        assert_eq!((got, reply.len()), (status, 0), "{method} {message}");
        let text = trailers["grpc-message"].to_str().unwrap();
        assert!(text.starts_with(message), "{text}");
        // Clients repeat RESOURCE_EXHAUSTED only when told when.
        assert!(trailers.contains_key("grpc-status-details-bin") || status != 8, "{method}");
    }
    // A declared length over the limit is refused at once, whatever follows.
    let mut huge = vec![0];
    huge.extend(100_001_u32.to_be_bytes());
    let (status, _, trailers) = calls.call("/test.Test/Reverse", &[], huge).await;
    assert_eq!(status, 3);
    assert!(trailers["grpc-message"].to_str().unwrap().contains("100000 bytes"), "{trailers:?}");
    let (status, _, trailers) = calls.call("/test.Test/Panic", &[], framed(0, b"")).await;
    assert_eq!(status, 13);
    assert!(!trailers["grpc-message"].to_str().unwrap().contains("purpose"));
    until("the sleeper is gone", || calls.alive.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn what_is_not_grpc_is_answered_in_http() {
    let calls = calls().await;
    let mut http1 = http1_over(calls.running.connect().await).await;
    let response = http1.send_request(post("/test.Test/Reverse", "abc")).await.unwrap();
    assert_eq!(response.status().as_u16(), 505);
    let reply =
        exchange(calls.running.connect().await, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 505 "), "{reply}");
    let body = Full::new(Bytes::from_static(b"{}")).boxed();
    let request = request("/test.Test/Reverse", &[("content-type", "application/json")], body);
    let response = client(&calls.running).await.send_request(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 415);
}

#[tokio::test]
async fn a_stream_is_answered_message_by_message() {
    let calls = calls().await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(8);
    let mut client = client(&calls.running).await;
    let response = client.send_request(request("/test.Test/Each", &[], body.boxed())).await.unwrap();
    let mut body = response.into_body();
    let mut reply = async || {
        let mut bytes = BytesMut::new();
        while bytes.len() < 5 || bytes.len() < 5 + bytes[4] as usize {
            bytes.extend(timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap());
        }
        bytes.split_off(5)
    };
    for (pause, length) in [(0, 3), (0, 0), (400, 70_000)] {
        // Silence between messages is no error, though it is longer than a body may pause.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for piece in framed(0, &vec![b'x'; length]).chunks(10_000) {
            sender.send(Frame::data(Bytes::copy_from_slice(piece))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(reply().await, length.to_string().as_bytes());
    }
    for piece in framed(0, b"stop").chunks(3) {
        sender.send(Frame::data(Bytes::copy_from_slice(piece))).await.unwrap();
    }
    let trailers = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"10".parse().unwrap(), &"stopped".parse().unwrap())
    );
    until("the handler has ended", || calls.alive.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_client() {
    let calls = calls().await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(8);
    let mut client = client(&calls.running).await;
    let response = client.send_request(request("/test.Test/Each", &[], body.boxed())).await.unwrap();
    sender.send(Frame::data(Bytes::from(framed(0, b"abc")))).await.unwrap();
    until("the handler runs", || calls.alive.load(Ordering::SeqCst) == 1).await;
    drop((sender, response, client));
    until("the handler is gone", || calls.alive.load(Ordering::SeqCst) == 0).await;
    until("all is given back", || calls.reader.budget().in_use() == 0).await;
}

#[tokio::test]
async fn a_message_that_stops_half_way_is_given_up() {
    let calls = calls().await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(8);
    let mut client = client(&calls.running).await;
    let call = client.send_request(request("/test.Test/Reverse", &[], body.boxed()));
    sender.send(Frame::data(Bytes::from(framed(0, b"abcdef")[..7].to_vec()))).await.unwrap();
    let (status, _, _) = ended(timeout(PATIENCE, call).await.unwrap().unwrap()).await;
    assert_eq!(status, 4);
    drop(sender);
}

#[tokio::test]
async fn health_is_answered() {
    let calls = calls().await;
    for (body, status, reply) in [
        (&b""[..], 0, &[0x08, 1][..]),
        (b"\x0a\x04down", 0, &[0x08, 2]),
        (b"\x0a\x05other", 5, &[]),
        (b"\x0a\x09down", 3, &[]),
        (b"\xff", 3, &[]),
    ] {
        let (got, bytes, _) = calls.call(health::CHECK, &[], framed(0, body)).await;
        assert_eq!((got, bytes.get(5..).unwrap_or_default()), (status, reply));
    }
}
