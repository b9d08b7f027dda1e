//! OTAP through the whole server: streams and single batches of a real producer, and what ends them.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request};
use http_body_util::channel::Sender;
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_codecs::otap::response::batch_status;

use crate::harness::PATIENCE;
use crate::whole::{Reply, Whole, send_to, start};

const LOGS: &str = "/opentelemetry.proto.experimental.arrow.v1.ArrowLogsService/ArrowLogs";

/// A batch of a stream as the OpenTelemetry project's own library sends it, in OTAP or as the same
/// request in OTLP.
fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../codecs/tests/data/otap");
    std::fs::read(folder.join(name)).unwrap()
}

/// A streaming call, one message at a time.
struct Call {
    sender: Sender<Bytes>,
    body: Incoming,
    rest: BytesMut,
}

impl Call {
    async fn begin(server: &Whole, method: &str, key: &str) -> Self {
        let io = TokioIo::new(TcpStream::connect(&server.otlp_grpc).await.unwrap());
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let (sender, body) = Channel::<Bytes, Infallible>::new(8);
        let request = Request::post(format!("http://{}{method}", server.otlp_grpc))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // It names the call, and must not make its second batch a repetition of the first.
            .header("idempotency-key", "the call")
            .header("authorization", format!("Bearer {key}"))
            .body(body)
            .unwrap();
        let response = timeout(PATIENCE, client.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        Self { sender, body: response.into_body(), rest: BytesMut::new() }
    }

    async fn send(&mut self, message: &[u8]) {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        self.sender.send(Frame::data(frame.into())).await.unwrap();
    }

    /// The next message.
    async fn reply(&mut self) -> Vec<u8> {
        loop {
            if let Some((prefix, message)) = self.rest.split_first_chunk::<5>() {
                let length = prefix[4] as usize | (prefix[3] as usize) << 8;
                if message.len() >= length {
                    return self.rest.split_to(5 + length)[5..].to_vec();
                }
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.unwrap().unwrap().unwrap();
            let data = frame.into_data().unwrap_or_else(|frame| panic!("the call has ended: {frame:?}"));
            self.rest.extend(data);
        }
    }

    /// The status the call ends with.
    async fn end(mut self) -> (u8, HeaderMap) {
        let frame = timeout(PATIENCE, self.body.frame()).await.unwrap().unwrap().unwrap();
        let trailers = frame.into_trailers().unwrap_or_else(|frame| panic!("another message: {frame:?}"));
        (trailers["grpc-status"].to_str().unwrap().parse().unwrap(), trailers)
    }
}

async fn post(server: &Whole, path: &str, key: &str, media_type: &str, body: Vec<u8>) -> Reply {
    let request = Request::post(path)
        .header("content-type", media_type)
        .header("authorization", format!("Bearer {key}"))
        .body(Full::new(body.into()))
        .unwrap();
    send_to(&server.http, request).await
}

/// The code of a `BatchStatus`.
fn batch_code(mut status: &[u8]) -> u8 {
    // The id, of one byte in these tests.
    if let [0x08, _, rest @ ..] = status {
        status = rest;
    }
    if let [0x10, code, ..] = status { *code } else { 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_store_what_otlp_stores() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let (arrow, plain) = (server.tenant_with_key("arrow").await, server.tenant_with_key("plain").await);
    let signals = [
        ("logs", "logs", "ArrowLogs", "select body, severity_number, service_name, observed_time, trace_id from logs"),
        ("traces", "spans", "ArrowTraces", "select trace_id, name, kind, duration_ns, status_code from spans"),
        ("metrics", "metrics", "ArrowMetrics", "select name, unit, type, series, value, count, sum from metrics"),
    ];
    for (signal, stream, method, sql) in signals {
        let method = format!("/opentelemetry.proto.experimental.arrow.v1.{method}Service/{method}");
        let mut call = Call::begin(&server, &method, &arrow).await;
        for n in 0..3 {
            let (otap, otlp) = (fixture(&format!("{signal}-0-{n}.otap")), fixture(&format!("{signal}-0-{n}.otlp")));
            call.send(&otap).await;
            let status = call.reply().await;
            assert_eq!(batch_code(&status), 0, "{status:?}");
            post(&server, &format!("/v1/{signal}"), &plain, "application/x-protobuf", otlp).await.expect(200);
        }
        drop(call.sender);
        let sorted = async |key: &str, sql: &str| {
            let rows = server.query(key, sql).await;
            let mut rows: Vec<String> = rows.as_array().unwrap().iter().map(ToString::to_string).collect();
            rows.sort();
            rows
        };
        let count = format!("select count(*) from {stream}");
        let expected = sorted(&plain, &count).await;
        assert_ne!(expected, ["[0]"], "{signal}");
        assert_eq!(sorted(&arrow, &count).await, expected, "{signal}");
        assert_eq!(sorted(&arrow, sql).await, sorted(&plain, sql).await, "{signal}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_read_ends_its_stream() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let mut call = Call::begin(&server, LOGS, &key).await;
    // BatchArrowRecords { batch_id: 5, arrow_payloads: [{ type: LOGS, record: eight bytes }] }
    let mut bomb = vec![0x08, 5, 0x12, 12, 0x10, 30, 0x1a, 8];
    bomb.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    call.send(&bomb).await;
    let status = call.reply().await;
    assert_eq!((status[1], batch_code(&status)), (5, 3), "{}", String::from_utf8_lossy(&status));
    let (code, trailers) = call.end().await;
    assert_eq!(code, 3);
    assert!(trailers["grpc-message"].to_str().unwrap().contains("arrow_metadata_bytes_max"), "{trailers:?}");
    assert_eq!(server.query(&key, "select count(*) from logs").await, json!([[0]]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_need_a_key_that_holds() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server.tenant("shop", json!({})).await;
    let asks_only = server.key("shop", &["query"]).await;
    assert_eq!(Call::begin(&server, LOGS, "").await.end().await.0, 16);
    assert_eq!(Call::begin(&server, LOGS, &asks_only).await.end().await.0, 7);
    let doomed = server.key("shop", &["ingest"]).await;
    let mut call = Call::begin(&server, LOGS, &doomed).await;
    call.send(&fixture("logs-0-0.otap")).await;
    assert_eq!(batch_code(&call.reply().await), 0);
    let id = doomed.split('_').nth(2).unwrap().to_owned();
    server.call(Method::DELETE, &format!("/api/v1/tenants/shop/keys/{id}"), &server.admin, None).await.expect(204);
    let ended = timeout(Duration::from_secs(1), call.end()).await.expect("revocation is effective within a second");
    assert_eq!(ended.0, 16);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_batches_over_http() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let protobuf = "application/x-protobuf";
    let reply = post(&server, "/v1/otap/logs", &key, protobuf, fixture("logs-0-0.otap")).await.expect(200);
    assert_eq!(reply.headers["content-type"], protobuf);
    assert_eq!(batch_code(&reply.body), 0);
    assert_ne!(server.query(&key, "select count(*) from logs").await, json!([[0]]));
    post(&server, "/v1/otap/logs", &key, "application/json", fixture("logs-0-0.otap")).await.expect(415);
    post(&server, "/v1/otap/traces", &key, protobuf, fixture("logs-0-0.otap")).await.expect(400);
    post(&server, "/v1/otap/logs", "", protobuf, fixture("logs-0-0.otap")).await.expect(401);
    let reply = post(&server, "/v1/otap/metrics", &key, protobuf, batch_status(9, 0, "")).await.expect(200);
    assert_eq!(reply.body[..], [0x08, 9], "a batch of nothing is stored at once");
    server.stop().await;
}
