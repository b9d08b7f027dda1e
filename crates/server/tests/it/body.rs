//! Request bodies: limits, pace, decompression, and memory that comes back.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::{HeaderMap, Request};
use http_body_util::StreamBody;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use weir_server::net::NetOptions;
use weir_server::net::body::{BodyLimits, BodyOptions, BodyReader};
use weir_server::problem::Problem;
use weir_server::work::Workers;

use crate::harness::{Running, exchange, http1_over, http2_over, post, read_to_end, start, text, until};

const LIMITS: BodyLimits = BodyLimits { body_bytes_max: 1 << 20, decoded_bytes_max: 4 << 20 };
const SHORT: Duration = Duration::from_millis(150);

/// A server whose `/count` answers with the number of decoded bytes, and whose `/hold` keeps the
/// body until told.
struct Bodies {
    running: Running,
    reader: Arc<BodyReader>,
    held: Arc<AtomicUsize>,
    release: Arc<Notify>,
}

async fn bodies(options: BodyOptions) -> Bodies {
    let reader = BodyReader::new(options, Workers::new());
    let held = Arc::new(AtomicUsize::new(0));
    let release = Arc::new(Notify::new());
    let count = {
        let reader = Arc::clone(&reader);
        move |headers: HeaderMap, body: Body| async move {
            let body = reader.read(&headers, body, LIMITS).await?;
            Ok::<_, Problem>(format!("{} {}", body.encoded_bytes, body.bytes.len()))
        }
    };
    let hold = {
        let (reader, held, release) = (Arc::clone(&reader), Arc::clone(&held), Arc::clone(&release));
        move |headers: HeaderMap, body: Body| async move {
            let body = reader.read(&headers, body, LIMITS).await?;
            held.fetch_add(1, Ordering::SeqCst);
            release.notified().await;
            Ok::<_, Problem>(body.bytes.len().to_string())
        }
    };
    let router = Router::new().route("/count", on_post(count)).route("/hold", on_post(hold));
    Bodies { running: start(NetOptions::default(), router).await, reader, held, release }
}

impl Bodies {
    async fn post(&self, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> (u16, String) {
        let mut request = post("/count", body);
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let mut client = http1_over(self.running.connect().await).await;
        let response = client.send_request(request).await.unwrap();
        (response.status().as_u16(), text(response).await)
    }

    async fn all_released(&self) {
        until("every reservation is given back", || self.reader.budget().in_use() == 0).await;
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Text that compresses about as telemetry does.
fn telemetry(bytes: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut n: u64 = 1;
    while text.len() < bytes {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(&format!("{{\"type\":\"pageview\",\"url\":\"https://shop.example/{}\"}},", n >> 40));
    }
    text.truncate(bytes);
    text.into_bytes()
}

#[tokio::test]
async fn every_encoding_is_undone() {
    let bodies = bodies(BodyOptions::default()).await;
    for size in [0, 10, 100_000, 1 << 20] {
        let plain = telemetry(size);
        assert_eq!(bodies.post(&[], plain.clone()).await, (200, format!("{size} {size}")));
        let zipped = gzip(&plain);
        let expected = (200, format!("{} {size}", zipped.len()));
        assert_eq!(bodies.post(&[("content-encoding", "gzip")], zipped).await, expected);
        let zipped = zstd::encode_all(plain.as_slice(), 3).unwrap();
        let expected = (200, format!("{} {size}", zipped.len()));
        assert_eq!(bodies.post(&[("content-encoding", "zstd")], zipped).await, expected);
    }
    bodies.all_released().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let bodies = bodies(BodyOptions::default()).await;
    // Declared: refused before a byte of it is read.
    let head = format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 2 << 20);
    let reply = exchange(bodies.running.connect().await, head.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 413 ") && reply.contains("\"name\":\"body_bytes_max\""), "{reply}");
    assert!(reply.contains("\"value\":1048576,\"current\":2097152"), "{reply}");
    // Not declared: refused when it has come.
    let mut client = {
        let socket = bodies.running.connect().await;
        let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let pieces = stream::iter(
        (0..40).map(|_| Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::from(vec![b' '; 65536])))),
    );
    let request = Request::post("/count").header("host", "x").body(StreamBody::new(pieces)).unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status().as_u16(), 413);
    bodies.all_released().await;
}

/// A client that only reads once it has sent everything, as most do.
#[tokio::test]
async fn early_replies_reach_clients_that_send_everything_first() {
    let bodies = bodies(BodyOptions::default()).await;
    for path in ["/count", "/nowhere"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 16 << 20);
        let mut socket = bodies.running.connect().await;
        socket.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..16 {
            socket.write_all(&vec![b' '; 1 << 20]).await.unwrap();
        }
        let mut reply = [0; 12];
        socket.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, if path == "/count" { b"HTTP/1.1 413" } else { b"HTTP/1.1 404" });
    }
    // A client that waits for a go-ahead gets its answer instead, at once.
    let head = "POST /count HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 16777216\r\n\r\n";
    let reply = exchange(bodies.running.connect().await, head.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
}

#[tokio::test]
async fn bombs_are_refused_and_leave_nothing_behind() {
    let bodies = bodies(BodyOptions::default()).await;
    let zeros = vec![0; 32 << 20];
    let gzip_bomb = gzip(&zeros);
    let zstd_bomb = zstd::encode_all(zeros.as_slice(), 1).unwrap();
    for (encoding, bomb) in [("gzip", &gzip_bomb), ("zstd", &zstd_bomb)] {
        let (status, reply) = bodies.post(&[("content-encoding", encoding)], bomb.clone()).await;
        let problem: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!(status, 413, "{reply}");
        assert!(problem["limit"]["name"].is_string(), "{reply}");
    }
    // Two layers, an unknown encoding, and bytes that are not what they say.
    for (headers, code) in [
        (&[("content-encoding", "gzip, gzip")][..], "unsupported_encoding"),
        (&[("content-encoding", "gzip"), ("content-encoding", "gzip")], "unsupported_encoding"),
        (&[("content-encoding", "br")], "unsupported_encoding"),
        (&[("content-encoding", "gzip")], "malformed_encoding"),
        (&[("content-encoding", "zstd")], "malformed_encoding"),
    ] {
        let (status, reply) = bodies.post(headers, "neither").await;
        assert_eq!(status, 400, "{reply}");
        assert!(reply.contains(&format!("\"code\":\"{code}\"")), "{headers:?} {reply}");
    }
    bodies.all_released().await;
}

#[tokio::test]
async fn slow_bodies_are_given_up() {
    let options = BodyOptions { idle_timeout: SHORT, ..BodyOptions::default() };
    let bodies = bodies(options).await;
    let head = "POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
    // Nothing.
    let reply = exchange(bodies.running.connect().await, head.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("\"code\":\"body_timeout\""), "{reply}");
    // Something every now and then, but less than 1 KiB a second.
    let mut socket = bodies.running.connect().await;
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut pace = tokio::time::interval(SHORT / 10);
    let mut reply = [0; 12];
    loop {
        tokio::select! {
            read = socket.read_exact(&mut reply) => {
                read.unwrap();
                break;
            }
            _ = pace.tick() => {}
        }
        let _ = socket.write_all(b"x").await;
    }
    assert_eq!(&reply, b"HTTP/1.1 408");
    bodies.all_released().await;
}

#[tokio::test]
async fn what_is_in_flight_is_bounded() {
    let options = BodyOptions {
        in_flight_bytes_max: 1 << 20,
        in_flight_wait: Duration::from_millis(10),
        ..BodyOptions::default()
    };
    let bodies = bodies(options).await;
    let mut client = http2_over(bodies.running.connect().await).await;
    let held = tokio::spawn({
        let request = client.send_request(post("http://localhost/hold", vec![b' '; 900_000]));
        async move { text(request.await.unwrap()).await }
    });
    until("one body is held", || bodies.held.load(Ordering::SeqCst) == 1).await;
    let (status, reply) = bodies.post(&[], vec![b' '; 500_000]).await;
    assert_eq!(status, 429, "{reply}");
    let problem: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(
        (&problem["limit"]["name"], &problem["limit"]["value"]),
        (&"decoded_bytes_in_flight_max".into(), &(1 << 20).into())
    );
    assert_eq!(problem["retry_after"], 1);
    // Small ones pass, and large ones do again once the first is done.
    assert_eq!(bodies.post(&[], "small").await.0, 200);
    bodies.release.notify_one();
    assert_eq!(held.await.unwrap(), "900000");
    bodies.all_released().await;
    assert_eq!(bodies.post(&[], vec![b' '; 500_000]).await.0, 200);
    bodies.all_released().await;
}

#[tokio::test]
async fn senders_that_go_away_leave_nothing_behind() {
    let bodies = bodies(BodyOptions::default()).await;
    let mut socket = bodies.running.connect().await;
    socket.write_all(b"POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n").await.unwrap();
    socket.write_all(&vec![b' '; 200_000]).await.unwrap();
    until("part of the body has come", || bodies.reader.budget().in_use() >= 200_000).await;
    drop(socket);
    bodies.all_released().await;
    // Also a body that was read in full, whose sender leaves before the handler is done.
    let mut client = http2_over(bodies.running.connect().await).await;
    let request = tokio::spawn(client.send_request(post("http://localhost/hold", vec![b' '; 300_000])));
    until("the body is held", || bodies.held.load(Ordering::SeqCst) == 1).await;
    assert!(bodies.reader.budget().in_use() >= 300_000);
    request.abort();
    bodies.all_released().await;
    let mut rest = bodies.running.connect().await;
    rest.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rest).await, "");
}

#[tokio::test]
async fn malformed_chunks_are_answered_while_the_sender_is_there() {
    let bodies = bodies(BodyOptions::default()).await;
    for chunks in ["zz\r\nabc\r\n", "3\r\nabcdef\r\n", "fffffffffffffffff\r\n"] {
        let request = format!("POST /count HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let reply = exchange(bodies.running.connect().await, request.as_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{chunks:?}: {reply}");
        assert!(reply.contains("malformed_chunks"), "{chunks:?}: {reply}");
    }
    bodies.running.stop().await;
}
